"""How far a profile carries: one setting at a time differs from the one that it was calibrated in.

    python benchmarks/robustness.py

It needs the calibrations of `effect.py` (rows/effect.json.gz), and goes on where rows/robustness.json.gz ends.
"""
from __future__ import annotations


import diffusers
import harness
import numpy as np
from harness import kept

from sd_debias.core.attribute import GENDER
from demo_training import captions
from sd_debias.core.method.methods import METHODS
from sd_debias.core.method.draw import Steering

OCCUPATIONS = ("doctor", "teacher", "mechanic", "farmer", "artist", "office worker")
# The changed field of a workbench's setting, or the scheduler; sizes other than 64 the model has never seen.
CHANGES = {
    "as calibrated": {},
    "CFG 1.5": dict(cfg=1.5), "CFG 3": dict(cfg=3.0), "CFG 5": dict(cfg=5.0),
    "5 steps": dict(steps=5), "15 steps": dict(steps=15), "30 steps": dict(steps=30),
    "Euler": dict(scheduler="EulerDiscreteScheduler"), "Euler ancestral": dict(scheduler="EulerAncestralDiscreteScheduler"),
    "DPM++ 2M": dict(scheduler="DPMSolverMultistepScheduler"), "UniPC": dict(scheduler="UniPCMultistepScheduler"),
    "DDIM, leading timesteps": dict(scheduler="DDIMScheduler", timestep_spacing="leading"),
    "72x72 images": dict(width=72, height=72),
    "negative prompt 'blurry'": dict(negative_prompt="blurry"),
    "seeds 2^40 further": dict(further=2**40),
}


def measure(job: dict) -> tuple[dict, str]:
    """A calibrated profile and no profile, both in a changed setting, on the same fresh seeds."""
    results = kept("effect")
    (row,) = [r for r in results if (r["case"], r["method"], r["occupation"]) == ("gender", "default", job["occupation"])]
    (found,) = row["steerings"]
    steering = Steering(tuple(found["weights"]), tuple(found["probabilities"]), found["strength"])
    change = dict(CHANGES[job["change"]])
    seeds = harness.fresh(captions.prompt(job["occupation"]), block=50_000_000 + change.pop("further", 0))
    bench = harness.bench
    setting, scheduler = dict(bench.setting), bench.pipe.scheduler
    if "scheduler" in change:
        bench.pipe.scheduler = getattr(diffusers, change.pop("scheduler")).from_config(
            scheduler.config, **{key: change.pop(key) for key in ("timestep_spacing",) if key in change})
    bench.setting.update(change, sampler=job["change"])
    try:
        arguments = captions.prompt(job["occupation"]), [GENDER], METHODS["default"]
        before = harness.tested(*arguments, [Steering.none(2)], seeds)
        after = harness.tested(*arguments, [steering], seeds)
    finally:
        bench.setting, bench.pipe.scheduler = setting, scheduler
    kl = [part["attributes"]["gender"]["kl"] for part in (before, after)]
    return dict(before=before, after=after), f"KL {kl[0]:.4f} -> {kl[1]:.4f}"


def tables(results: list[dict]) -> str:
    """Markdown: a row a change."""
    results, subjects = harness.whole(results, len(CHANGES))
    text = [f"""# How far a profile carries

Made by `python benchmarks/robustness.py` on {harness.machine()}: {len(subjects)} occupations of the demo model ({', '.join(subjects)}), gender
calibrated at DDIM, 8 steps, CFG 2, and applied where one thing differs; N = {harness.HELD_OUT} seeds each that no calibration has used.
"Drift" is how far the share of men without a profile moves, in points: a profile corrects the bias that it was calibrated on. {harness.FLOOR}

| changed | mean KL without a profile | mean KL with it | largest | below the 95 % floor | mean drift of the unguided share | fidelity with it |
|---|---|---|---|---|---|---|"""]
    plain = {r["occupation"]: r["before"]["attributes"]["gender"]["shares"][0]
             for r in results if r["change"] == "as calibrated"}
    for change in dict.fromkeys(r["change"] for r in results):
        rows = [r for r in results if r["change"] == change]
        before, after = (np.array([r[key]["attributes"]["gender"]["kl"] for r in rows]) for key in ("before", "after"))
        drift = [abs(r["before"]["attributes"]["gender"]["shares"][0] - plain.get(r["occupation"], np.nan)) for r in rows]
        text.append(f"| {change} | {before.mean():.3f} | {after.mean():.4f} | {after.max():.4f} | "
                    f"{sum(harness.below_floor(r['after'], 'gender') for r in rows)} of {len(rows)} | {100 * np.nanmean(drift):.0f} | "
                    f"{np.mean([r['after']['fidelity'] for r in rows]):.3f} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("robustness", [dict(change=change, occupation=subject) for subject in OCCUPATIONS for change in CHANGES],
                measure, tables, harness.parser(__doc__).parse_args())
