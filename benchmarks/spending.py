"""Shift or draw: the ways to spend weights, on prompts from even to 99:1 and on two, five and ten groups.

    python benchmarks/spending.py

Every calibration is tested afterwards on further seeds. A run goes on where rows/spending.json.gz ends.
"""
from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Callable

import harness
import numpy as np
from harness import FIRST_SEED

from sd_debias.core.attribute import GENDER, SKIN_TONE_5, joint
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from demo_training import captions
from sd_debias.core.method.methods import METHODS
from sd_debias.core.method.draw import Steering

BOTH = joint([GENDER, SKIN_TONE_5])
# Attribute, images a round, images of the verification and of the test: more where more groups share them.
ATTRIBUTES = {"gender": (GENDER, 300, 400), "tone": (SKIN_TONE_5, 480, 400), "gender x tone": (BOTH, 800, 800)}
WAYS = ("nothing", "shift", "draw", "draw, every picture")
PROMPTS = [captions.prompt(subject) for subject in ("person", "office worker", "cook", "artist", "teacher", "mechanic")]
# 99:1, which no neutral prompt of the model shows.
PROMPTS.append("a photo of a male doctor")


def both_at_once(gender, tone):
    """Probabilities of intersections [N, 10] from the two classifiers', which are measured one by one."""
    return lambda images: np.einsum("ni,nj->nij", gender(images), tone(images)).reshape(len(images), -1)


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its weights on fresh seeds."""
    bench, prompt = harness.bench, job["prompt"]
    bench.classifiers[BOTH.name] = both_at_once(bench.classifier(GENDER), bench.classifier(SKIN_TONE_5))
    attribute, images, tested = ATTRIBUTES[job["attribute"]]
    method = METHODS["shift" if job["way"] == "shift" else "default"]
    steering, used = Steering.none(len(attribute.groups)), 0
    if job["way"] == "draw, every picture":
        steering = Steering(steering.weights, (0.0, *attribute.target))
    elif job["way"] != "nothing":
        calibration = Calibration(prompt, [attribute], method, Plan(images, 4, tested, None, 60, FIRST_SEED))
        for _ in bench.run(calibration):
            pass
        (steering,), used = calibration.steerings, sum(r.done for r in calibration.rounds)
    test = harness.tested(prompt, [attribute], method, [steering], tested)
    return dict(images=used, test=test), f"KL {test['attributes'][attribute.name]['kl']:.4f}, {used} pictures"


def needless(found: dict, plain: dict, name: str) -> float:
    """Share of pictures that show another group and need not: those beyond the total variation distance between the shares
    without and with guidance, which no method can do without."""
    before, after = (np.array(part["attributes"][name]["shares"]) for part in (plain, found))
    return found["regrouped"] - 0.5 * float(abs(after - before).sum())


def better(one: dict, other: dict, name: str, changed: Callable[[dict], float]) -> bool:
    """Is `one` at least as good: within chance of the target where the other is not, else with no more changed pictures;
    where both miss, no farther from it."""
    reached = [harness.below_floor(found, name) for found in (one, other)]
    if reached[0] != reached[1]:
        return reached[0]
    if reached[0]:
        return changed(one) <= changed(other) + 1e-9
    return one["attributes"][name]["kl"] <= other["attributes"][name]["kl"]


def tables(results: list[dict]) -> str:
    """Markdown: a row an attribute, prompt and way."""
    cases = {}
    for r in results:
        cases.setdefault((r["attribute"], r["prompt"]), {})[r["way"]] = r
    # The order of the jobs, which end as they come; cases that all ways have.
    cases = {(attribute, prompt): cases[attribute, prompt] for attribute in ATTRIBUTES for prompt in PROMPTS
             if set(WAYS) <= set(cases.get((attribute, prompt), ()))}
    rivals, text = ("shift", "draw, every picture"), []
    wins, nearer, reached = Counter(), Counter(), Counter()
    for (attribute, prompt), ways in cases.items():
        name = ATTRIBUTES[attribute][0].name
        tests = {way: ways[way]["test"] for way in WAYS}
        spared = partial(needless, plain=tests["nothing"], name=name)
        for by, changed in (("needless", spared), ("all", lambda found: found["regrouped"])):
            beaten = [way for way in rivals if better(tests["draw"], tests[way], name, changed)]
            wins.update((by, way) for way in [*beaten, *["both"] * (len(beaten) == len(rivals))])
        nearer.update(way for way in rivals if tests["draw"]["distance"] <= tests[way]["distance"])
        reached.update(way for way in WAYS if harness.below_floor(tests[way], name))
        for way, test in tests.items():
            d = test["attributes"][name]
            text.append(f"| {attribute} | {prompt} | {way} | {d['kl']:.4f} | {d['kl_floor95']:.4f} | {100 * test['regrouped']:.0f} % | "
                        f"{100 * abs(needless(test, tests['nothing'], name)):.0f} % | {abs(test['distance']):.3f} | {test['fidelity']:.3f} | "
                        f"{ways[way]['images']} |")
    won = {by: [wins[by, way] for way in (*rivals, "both")] for by in ("needless", "all")}
    return f"""# Shift or draw

Made by `python benchmarks/spending.py` on {harness.machine()}, default direction; tested on seeds that no calibration has used (N = 400, and
800 for ten groups). "Other group": share of pictures that show another group than the unguided picture of the same seed; "needless":
how many of those are more than the change of the shares asks for (their total variation distance); "distance": 1 - cosine of CLIP's
features between the two.

Below the 95 % floor end {', '.join(f'{reached[way]} of {len(cases)} with {way}' for way in WAYS[1:])} (with nothing, {reached["nothing"]}). `draw`, which
calibration chooses, is at least as good as `shift` in {won["needless"][0]} of {len(cases)} cases, as steering every picture to a drawn group in
{won["needless"][1]}, and as both at once in {won["needless"][2]}: it reaches the target where the other does not, or changes no more pictures without need,
or, if both miss it, ends nearer. Counting all changed pictures instead of the needless ones, these are {won["all"][0]}, {won["all"][1]} and
{won["all"][2]}. {harness.FLOOR} Calibrations had rounds of {', '.join(str(images) for _, images, _ in ATTRIBUTES.values())}
pictures for two, five and ten groups, and verifications as large as the tests.

The pictures of `draw` stay nearer to the unguided ones in {nearer['draw, every picture']} of {len(cases)} cases than if every one is steered to a drawn
group, and in {nearer['shift']} than those of `shift`, which moves all of them a little.

| attribute | prompt | way | KL | 95 % floor | other group | needless | distance | fidelity | pictures to calibrate |
|---|---|---|---|---|---|---|---|---|---|
""" + "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("spending", [dict(attribute=attribute, prompt=prompt, way=way)
                             for prompt in PROMPTS for attribute in ATTRIBUTES for way in WAYS],
                measure, tables, harness.parser(__doc__).parse_args())
