"""What calibration by the default plan achieves on the embedded demo model, whose bias is known: all twenty occupations.

    python benchmarks/effect.py                     # everything: about an hour on two cores, resumable
    python benchmarks/effect.py --only gender       # one case
    python benchmarks/effect.py --occupations doctor judge --only gender

Every case calibrates each occupation by itself as a user does who changes nothing (plan "normal"). Its weights are then
tested once, on images of seeds that no decision has used. Results are added to rows/effect.json.gz in the folder `--out` as
they come, and a run goes on where that file ends; effect.md is its tables.
"""
from __future__ import annotations

import time
from dataclasses import asdict, replace

import harness
import numpy as np
from demo_training import artwork, captions
from harness import HELD_OUT, TEST_SEED

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.round import Round
from sd_debias.core.calibration.plan import planned, seeds_of
from sd_debias.core.method.methods import METHODS

METHOD = METHODS["default"]
PLAN = planned("normal", METHOD, batch_size=50)
BLOCK = 40_000_000
CASES = {
    "gender": [GENDER],
    "tone": [SKIN_TONE_5],
    "both": [GENDER, SKIN_TONE_5],
    "gender 70:30": [GENDER.with_target((70, 30))],
}


def jobs(options) -> list[dict]:
    """Every case and occupation that was asked for."""
    return [dict(case=case, plan="normal", occupation=subject)
            for subject in artwork.OCCUPATIONS for case in CASES if options.only in (None, case)]


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its test."""
    attributes, prompt = CASES[job["case"]], captions.prompt(job["occupation"])
    first = seeds_of(prompt)  # with shared noise, occupations err alike
    calibration = Calibration(prompt, attributes, METHOD, replace(PLAN, seed=first))
    started = time.perf_counter()
    for _ in harness.bench.run(calibration):
        pass
    seconds, seeds = time.perf_counter() - started, harness.fresh(prompt, block=BLOCK)
    plain = harness.bench.generate(prompt, seeds)[0]
    images = harness.bench.generate(prompt, seeds, attributes, calibration.steerings, METHOD)[0]
    before = harness.measured(plain, prompt, attributes, seeds, compared=False)
    after = harness.measured(images, prompt, attributes, seeds)
    labels = [harness.bench.classifier(a)(images).argmax(1).tolist() for a in attributes]
    test = Round("held-out", calibration.steerings, seeds, labels)
    found = dict(
        test_seed=seeds[0], stop=calibration.ending, images=sum(r.done for r in calibration.rounds), seconds=round(seconds, 1),
        steerings=[asdict(steering) for steering in calibration.steerings],
        fidelity=dict(before=before["fidelity"], after=after["fidelity"]),
        distance=after["distance"], regrouped=after["regrouped"],
        attributes={a.name: dict(target=list(a.target), before=before["attributes"][a.name],
                                 after=after["attributes"][a.name], drawn_floor95=calibration.floor(i, test))
                    for i, a in enumerate(attributes)})
    kl = ", ".join(f"{name} {m['before']['kl']:.3f} -> {m['after']['kl']:.4f}"
                   for name, m in found["attributes"].items())
    return found, f"KL {kl}, {found['images']} images, {seconds:.0f} s"


def tables(results: list[dict]) -> str:
    """Markdown: a row a case and attribute."""
    text = [f"""# What calibration achieves on the demo model

Made by `python benchmarks/effect.py` on {harness.machine()}. Each occupation is calibrated by itself by the default plan: rounds until every share lies within {100 * PLAN.within:g} points of its
target with 95 % certainty, then one verification. "Before" and "after" are measured once, without and with the weights, on the same N = {HELD_OUT} images of an occupation's own
seeds, which no decision has used ({TEST_SEED + BLOCK:,} behind the first of the calibration); so many show a share to 5 points themselves. "Floor": the 95 % point of the KL that a fair
profile with these draws shows on so many images, by simulation. "Images" are all of a calibration. Fidelity is the share of images that show the prompt's occupation.

{harness.on_faces("calibrate")}

On the demo model:

| case | occupations | attribute | mean KL before | mean KL after | largest | below the floor | KL <= 0.02 | farthest share from its target: mean, most, points | images: mean, most | in another group | fidelity before -> after | largest fall |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""]
    for case in [case for case in CASES if any(r["case"] == case for r in results)]:
        rows = [r for r in results if r["case"] == case]
        before, after = (np.array([r["fidelity"][key] for r in rows]) for key in ("before", "after"))
        for name in rows[0]["attributes"]:
            measured = [r["attributes"][name] for r in rows]
            kl = np.array([m["after"]["kl"] for m in measured])
            farthest = [100 * np.abs(np.subtract(m["after"]["shares"], m["target"])).max() for m in measured]
            fair = sum(m["after"]["kl"] <= m["drawn_floor95"] for m in measured)
            text.append(f"| {case} | {len(rows)} | {name} | {np.mean([m['before']['kl'] for m in measured]):.3f} "
                        f"| {kl.mean():.4f} | {kl.max():.4f} | {fair} of {len(rows)} "
                        f"| {(kl <= 0.02).sum()} of {len(rows)} | {np.mean(farthest):.1f}, {max(farthest):.1f} "
                        f"| {np.mean([r['images'] for r in rows]):.0f}, {max(r['images'] for r in rows)} "
                        f"| {np.mean([r['regrouped'] for r in rows]):.0%} | {before.mean():.4f} -> {after.mean():.4f} "
                        f"| {(before - after).max():.4f} |")
    text.append("\nEvery occupation's shares, intervals and costs: `zcat docs/rows/effect.json.gz`.")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", choices=tuple(CASES), help="one case")
    options = parser.parse_args()
    harness.run("effect", jobs(options), measure, tables, options)


if __name__ == "__main__":
    main()
