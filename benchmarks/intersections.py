"""Intersections: do balanced genders and balanced skin tones leave their combinations skewed?

    python benchmarks/intersections.py

Gender and tone are calibrated one by one at the same time, or as ten joint groups. A run goes on where
rows/intersections.json.gz ends.
"""
from __future__ import annotations

import harness
import numpy as np
from harness import FIRST_SEED, TEST_SEED

from sd_debias.core.attribute import GENDER, SKIN_TONE_5, joint
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from demo_training import captions
from sd_debias.core.method.methods import METHODS

BOTH = joint([GENDER, SKIN_TONE_5])
WAYS = {"nothing": [], "gender alone": [GENDER], "gender and tone": [GENDER, SKIN_TONE_5], "joint groups": [BOTH]}
OCCUPATIONS = ("doctor", "teacher", "farmer", "mechanic", "guard")
TESTED = 1000


def both_at_once(gender, tone):
    """Probabilities of intersections [N, 10] from the two classifiers', which are measured one by one."""
    return lambda images: np.einsum("ni,nj->nij", gender(images), tone(images)).reshape(len(images), -1)


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and the joint shares on fresh seeds."""
    bench, prompt, attributes = harness.bench, captions.prompt(job["occupation"]), WAYS[job["way"]]
    bench.classifiers[BOTH.name] = both_at_once(bench.classifier(GENDER), bench.classifier(SKIN_TONE_5))
    steerings, used = (), 0
    if attributes:
        calibration = Calibration(prompt, attributes, METHODS["default"], Plan(300, 4, 400, None, 60, FIRST_SEED))
        for _ in bench.run(calibration):
            pass
        steerings, used = calibration.steerings, sum(r.done for r in calibration.rounds)
    seeds = range(TEST_SEED, TEST_SEED + TESTED)
    images = bench.generate(prompt, seeds, attributes, steerings, METHODS["default"])[0]
    found = harness.measured(images, prompt, [GENDER, SKIN_TONE_5, BOTH], seeds)
    shares = np.reshape(found["attributes"][BOTH.name]["shares"], (2, 5))
    independent = np.outer(shares.sum(1), shares.sum(0))
    seen = shares > 0
    found["dependence"] = float((shares[seen] * np.log(shares[seen] / independent[seen])).sum())
    return dict(images=used, **found), f"joint KL {found['attributes'][BOTH.name]['kl']:.4f}, {used} pictures"


def tables(results: list[dict]) -> str:
    """Markdown: a row a way and occupation."""
    text = [f"""# Intersections of gender and skin tone

Made by `python benchmarks/intersections.py` on {harness.machine()}; N = {TESTED} pictures of seeds that no calibration has used. "Dependence" is the
mutual information of gender and tone in nats: what balanced shares of each leave skewed in their combinations. {harness.FLOOR}

| occupation | calibrated | KL of gender | of tone | of the ten combinations | its 95 % floor | dependence | smallest, largest share of a combination | pictures to calibrate |
|---|---|---|---|---|---|---|---|---|"""]
    for r in sorted(results, key=lambda r: (OCCUPATIONS.index(r["occupation"]), tuple(WAYS).index(r["way"]))):
        a = r["attributes"]
        text.append(f"| {r['occupation']} | {r['way']} | {a['gender']['kl']:.4f} | {a['skin_tone_5']['kl']:.4f} | {a[BOTH.name]['kl']:.4f} | "
                    f"{a[BOTH.name]['kl_floor95']:.4f} | {r['dependence']:.4f} | {min(a[BOTH.name]['shares']):.3f}, {max(a[BOTH.name]['shares']):.3f} | {r['images']} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("intersections", [dict(occupation=subject, way=way) for subject in OCCUPATIONS for way in WAYS],
                measure, tables, harness.parser(__doc__).parse_args())
