"""What each setting of the paper's form does: the method `paper` with one of them changed, on gender.

    python benchmarks/settings.py              # half an hour on two cores, resumable
    python benchmarks/settings.py --out docs   # the published ones

Each is calibrated in five rounds of 100 images, then tested on seeds that no calibration has used.
"""
from __future__ import annotations

from dataclasses import replace

import harness
import numpy as np
from demo_training import captions

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan, seeds_of
from sd_debias.core.statistics import noise_floor
from sd_debias.core.method.methods import METHODS, Method
from sld_presets import PRESETS

METHOD = METHODS["paper"]
OCCUPATIONS = ("mechanic", "teacher", "police officer")
TESTED = 200
BLOCK = 90_000_000
PLAN = Plan(images=100, rounds=5, held_out=0, batch_size=50, within=0.02)


def guided(**changes) -> Method:
    return replace(METHOD, guidance=replace(METHOD.guidance, **changes))


IN_WINDOW = dict(start=METHOD.guidance.start, end=METHOD.guidance.end)
AT_EMPTY = dict(anchor="empty", toward=False)  # as SLD's rule has it
SETTINGS = {
    "the method `paper`": METHOD,
    "evaluated away, not toward": guided(toward=False),
    "evaluated away, anchored at the empty prompt": guided(**AT_EMPTY),
    "... and not linear": guided(**AT_EMPTY, linear=False, length=1.0),
    "... with SLD's threshold (medium, 0.01)": guided(**AT_EMPTY, linear=False, length=1.0, threshold=0.01),
    "... with SLD's medium preset, in the same window": replace(METHOD, guidance=replace(PRESETS["medium"], **IN_WINDOW)),
    "not linear": guided(linear=False, length=1.0),
    "text of length 1": guided(length=1.0),
    "momentum (SLD medium, 0.3 and 0.4)": guided(momentum_scale=0.3, momentum_beta=0.4),
    "momentum (SLD strong, 0.5 and 0.7)": guided(momentum_scale=0.5, momentum_beta=0.7),
    "warm-up of 25 %, then all steps": guided(end=1.0),
}


def jobs() -> list[dict]:
    return [dict(setting=name, occupation=subject, method=method.to_dict()) for name, method in SETTINGS.items()
            for subject in OCCUPATIONS]


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its weights on fresh seeds."""
    prompt, method = captions.prompt(job["occupation"]), SETTINGS[job["setting"]]
    calibration = Calibration(prompt, [GENDER], method, replace(PLAN, seed=seeds_of(prompt)))
    for _ in harness.bench.run(calibration):
        pass
    seeds = harness.fresh(prompt, TESTED, BLOCK)
    test = harness.tested(prompt, [GENDER], method, calibration.steerings, seeds)
    plain = harness.bench.generate(prompt, seeds)[0]
    found = dict(test=test, images=sum(r.done for r in calibration.rounds), weights=list(calibration.steerings[0].weights),
                 fidelity_plain=float(np.mean(harness.bench.fidelity(plain, prompt))))
    return found, f"KL {test['attributes'][GENDER.name]['kl']:.4f}, fidelity {test['fidelity']:.3f}"


def tables(results: list[dict]) -> str:
    """Markdown: a row a setting."""
    text = [f"""# Settings of the paper's form

Made by `python benchmarks/settings.py` on {harness.machine()}: the method `paper` with one thing changed, on gender of {', '.join(OCCUPATIONS)} of the
demo model. Every setting has an audit and at most five rounds of {PLAN.images} images, until the shares lie within {100 * PLAN.within:g} points of even ones with
95 % certainty, and is tested once on N = {TESTED} images of seeds that no calibration has used. KL of a perfectly fair model is below {noise_floor(2, TESTED)[1]:.4f}
in 19 of 20 such tests. All settings of an occupation are tested on the same seeds. A row that begins with "..." changes the row above as well. Weights are at most 8 where a push is linear, else 4,
with a text of length 1. "Occupation lost" is the fall of the share of images that show the prompt's occupation, against the same seeds without weights.

| setting | mean KL | largest | below the floor | farthest share from its target, points: by occupation | occupation lost, points: mean, most | distance to the unguided images | images to calibrate |
|---|---|---|---|---|---|---|---|"""]
    for name, method in SETTINGS.items():
        rows = [r for r in results if r["setting"] == name and r["method"] == method.to_dict()]
        rows.sort(key=lambda r: OCCUPATIONS.index(r["occupation"]))
        if rows:
            shown = [r["test"]["attributes"][GENDER.name] for r in rows]
            lost = [100 * (r["fidelity_plain"] - r["test"]["fidelity"]) for r in rows]
            off = ", ".join(f"{100 * np.abs(np.subtract(d['shares'], d['target'])).max():.1f}" for d in shown)
            text.append(f"| {name} | {np.mean([d['kl'] for d in shown]):.4f} | {max(d['kl'] for d in shown):.4f} "
                        f"| {sum(d['kl'] <= d['kl_floor95'] for d in shown)} of {len(rows)} | {off} "
                        f"| {np.mean(lost):.1f}, {max(lost):.1f} | {np.mean([r['test']['distance'] for r in rows]):.3f} "
                        f"| {np.mean([r['images'] for r in rows]):.0f} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("settings", jobs(), measure, tables, harness.parser(__doc__).parse_args())
