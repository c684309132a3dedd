"""Judges that err, and persons instead of images, where the truth is known: on the demo model and composed images.

1. The check: of a judge that is made worse on purpose (10, 20 and 30 % of its labels are wrong), shares are corrected by
   its check; how often do their intervals hold the true shares?
2. Calibrations with such a judge, with its check and without: whom does the model then show by the true labels? With a
   usual check and plan, and with larger ones.
3. People mode: several persons of the demo model on one canvas; how often do the intervals hold the true shares?
4. How many images an audit of a folder labels in a second.

Truth is the demo's own judge, unspoiled, which is right about its drawings (docs/demo_model.md).
"""
from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from dataclasses import replace
from math import ceil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from judges_page import record
from PIL import Image

from sd_debias.core.attribute import GENDER
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.study.given import labelled_pictures
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import planned
from sd_debias.core.calibration.stop import Stop
from sd_debias.core.distribution import summarise_people
from sd_debias.core.statistics import corrected_shares, wilson
from sd_debias.core.judge import labels
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.looks import PEOPLE
from sd_debias.core.method.methods import METHODS
from sd_debias.diffusers_host.workbench import demo

OCCUPATIONS = ("doctor", "nurse", "mechanic", "teacher")
RATES = (0.1, 0.2, 0.3)
AIM = GENDER.with_target((0.3, 0.7))  # of even shares, a judge that errs alike both ways shows even ones
POOL, AUDIT, CHECK, RUNS, TEST = 1000, 200, 50, 200, 400
# Of calibrations: labels wrong, images of the check a group (0: no check), images at most before the verification.
CALIBRATED = [*((rate, 400, 800) for rate in RATES), (0.2, 0, 800), (0.2, 2000, 2000), (0.3, 3000, 4000)]
SEEDS = dict(pool=90_000_000, check=91_000_000, calibration=92_000_000, test=93_000_000)  # no other command uses these


class Spoiled:
    """A judge of two groups, of whose labels a share is wrong: which ones, the image's content decides."""

    def __init__(self, judge, rate: float):
        self.judge, self.rate, self.name = judge, rate, f"{judge.name}, {rate:.0%} wrong"

    def __call__(self, images):
        p = np.asarray(self.judge(images))
        wrong = [int.from_bytes(hashlib.blake2b(np.asarray(image).tobytes(), digest_size=4).digest()) / 2**32 < self.rate
                 for image in images]
        return np.where(np.array(wrong)[:, None], p[:, ::-1], p).astype(np.float32)


def made(bench, prompt: str, first: int, count: int, profile=None) -> list[np.ndarray]:
    found = []
    for start in range(first, first + count, 50):
        seeds = range(start, min(start + 50, first + count))
        found += list((bench.apply(profile, prompt, seeds) if profile else bench.generate(prompt, seeds))[0])
    return found


def correction(bench, say) -> tuple[dict, dict]:
    """(coverage by rate, a pool's images by occupation)."""
    true = bench.classifier(GENDER)
    pools = {}
    for at, occupation in enumerate(OCCUPATIONS):
        pools[occupation] = made(bench, f"a photo of a {occupation}", SEEDS["pool"] + 10_000 * at, POOL)
        say(f"pool of {occupation}")
    truth = {occupation: labels(true(images)) for occupation, images in pools.items()}
    explicit = {group.name: made(bench, f"a photo of a doctor, {group.texts[0]}", SEEDS["check"] + 1000 * i, 400)
                for i, group in enumerate(GENDER.groups)}
    found, chance = {}, np.random.default_rng(0)
    for rate in RATES:
        judge = Spoiled(true, rate)
        seen = {occupation: labels(judge(images)) for occupation, images in pools.items()}
        stated = [labels(judge(images)) for images in explicit.values()]
        inside = plain = runs = 0
        off = []
        for occupation in OCCUPATIONS:
            share = float(np.mean(truth[occupation] == 1))
            for _ in range(RUNS // len(OCCUPATIONS)):
                drawn = chance.choice(seen[occupation], AUDIT, replace=True)
                check = [chance.choice(own, CHECK, replace=True) for own in stated]
                confusion = [np.bincount(own[own >= 0], minlength=2) for own in check]
                counts = np.bincount(drawn[drawn >= 0], minlength=2)
                best, edges = corrected_shares(counts, confusion)
                low, high = wilson(counts[1], counts.sum())
                inside += edges[1][0] <= share <= edges[1][1]
                plain += low <= share <= high
                off.append(abs(best[1] - share))
                runs += 1
        found[f"{rate:g}"] = dict(runs=runs, inside=int(inside), without_correction=int(plain),
                                  mean_error=float(np.mean(off)))
        say(f"correction at {rate:.0%} wrong: {inside} of {runs}, without correction {plain}")
    return found, pools


def calibrations(bench, say) -> list[dict]:
    """Calibrations to 30:70 with a spoiled judge, as `CALIBRATED` says; the true shares on fresh seeds."""
    from sd_debias.core.calibration.result import profile_of
    true, rows, explicit = bench.classifier(GENDER), [], [[] for _ in GENDER.groups]
    for rate, check, most in CALIBRATED:
        judge = bench.classifiers[GENDER.name] = Spoiled(true, rate)
        for i, (group, pictures) in enumerate(zip(GENDER.groups, explicit)):
            pictures += made(bench, f"a photo of a doctor, {group.texts[0]}", SEEDS["check"] + 10_000 * i + len(pictures),
                             check - len(pictures))
        checks = []
        if check:
            seen = [labels(judge(pictures[:check])) for pictures in explicit]
            checks = [Check.of(GENDER, np.repeat(range(len(seen)), check).tolist(), np.concatenate(seen).tolist(),
                               judge=judge.name)]
        for at, occupation in enumerate(OCCUPATIONS):
            prompt = f"a photo of a {occupation}"
            plan = planned("normal", METHODS["default"], batch_size=50, seed=SEEDS["calibration"] + 10_000 * at)
            plan = replace(plan, rounds=(most - plan.images) // plan.step)
            c = Calibration(prompt, (AIM,), METHODS["default"], plan, checks=checks)
            for _ in bench.run(c):
                pass
            profile = profile_of("judged", [c], bench.setting, "spoiled")
            after = labels(true(made(bench, prompt, SEEDS["test"] + 10_000 * at, TEST, profile)))
            share = float(np.mean(after[after >= 0] == 1))
            rows.append(dict(rate=rate, check=check, most=most, occupation=occupation, woman=share,
                             images=sum(r.done for r in c.rounds),
                             within=ceil(100 * (plan.within if c.stop is Stop.SURE else c.widest))))
            say(f"{occupation}, {rate:.0%} wrong, check of {check}: woman {share:.1%}, {c.ending}")
    bench.classifiers[GENDER.name] = true
    return rows


def people(bench, pools, say) -> dict:
    """Coverage of people mode on canvases of one to four demo persons, alike or not within an image."""
    true = bench.classifier(GENDER)
    persons = [image for images in pools.values() for image in images]
    truth = np.concatenate([labels(true(images)) for images in pools.values()])
    side, chance, found = persons[0].shape[0], np.random.default_rng(1), {}
    by_group = [np.flatnonzero(truth == g) for g in (0, 1)]

    def drawn(alike: float):
        """Persons of one image: with chance `alike` all of the first one's group."""
        first = int(chance.integers(len(persons)))
        group, count = truth[first], int(chance.integers(1, 5))
        return [first, *(int(chance.choice(by_group[group])) if chance.random() < alike else
                         int(chance.integers(len(persons))) for _ in range(count - 1))]

    for name, alike in (("independent", 0.0), ("alike", 0.8)):
        inside = naive = 0
        share = float(np.mean(truth == 1)) if alike == 0 else None
        runs = [[drawn(alike) for _ in range(400)] for _ in range(RUNS)]
        if share is None:  # the mean over very many images
            many = np.concatenate([truth[own] for run in runs for own in run])
            share = float(np.mean(many == 1))
        for run in runs:
            counts = np.stack([np.bincount(truth[own], minlength=2) for own in run])
            d = summarise_people(counts, GENDER.target)
            low, high = wilson(counts[:, 1].sum(), counts.sum())
            inside += d.intervals[1][0] <= share <= d.intervals[1][1]
            naive += low <= share <= high
        found[name] = dict(runs=RUNS, inside=int(inside), as_if_independent=int(naive), share=share)
        say(f"people, {name}: {inside} of {RUNS}, as if independent {naive}")

    # The whole way once: canvases, boxes, cuts, the judge.
    canvases, boxes, known = [], {}, []
    for own in (drawn(0.8) for _ in range(400)):
        canvas = np.full((side, side * 4, 3), 255, np.uint8)
        places = sorted(chance.choice(4, len(own), replace=False).tolist())
        for place, person in zip(places, own):
            canvas[:, place * side:(place + 1) * side] = persons[person]
        boxes[hashlib.blake2b(canvas.tobytes()).digest()] = [(place * side, 0, side, side) for place in places]
        canvases.append(canvas)
        known.append(np.bincount(truth[own], minlength=2))
    judge = OfFaces(true, Faces(lambda rgb: boxes[hashlib.blake2b(rgb.tobytes()).digest()]), PEOPLE, margin=0.0)
    labelled = labelled_pictures(canvases, "canvases", (GENDER,), [judge])
    d = labelled.distribution(0)
    found["whole way"] = dict(persons=d.n, true=np.sum(known, 0).tolist(), counted=list(d.counts),
                              effective=round(d.effective or 0, 1))
    return found


def throughput(bench, pools) -> dict:
    """Images a second of a folder's audit with the demo's CLIP."""
    images = [image for own in pools.values() for image in own[:250]]
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).resize((512, 512)).save(Path(folder) / f"{i:04}.png")
        work = FolderAudit(folder, (GENDER,), [bench.classifier(GENDER)])
        started = time.perf_counter()
        work.run()
        seconds = time.perf_counter() - started
    return dict(images=len(images), pixels=512, a_second=round(len(images) / seconds, 1))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--out", type=Path, help="where judges.json and judges.md are; default: only print")
    options.add_argument("--only", choices=("calibrations", "others"), help="one half of it")
    given = options.parse_args()
    bench, started = demo(), time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {text}", flush=True)

    if given.only != "calibrations":
        corrected, pools = correction(bench, say)
        counted, speed = people(bench, pools, say), throughput(bench, pools)
        say(f"{speed['a_second']} images a second")
        for name, found in (("correction", corrected), ("people", counted), ("throughput", speed)):
            if given.out:
                record(name, found, given.out)
    if given.only != "others":
        rows = calibrations(bench, say)
        if given.out:
            record("calibrations", dict(rows=rows, images=TEST), given.out)


if __name__ == "__main__":
    main()
