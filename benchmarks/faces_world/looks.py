"""Crowds of the second world: what judges of faces see where an image shows several, and what a panel of two leaves out."""
from __future__ import annotations

import random
from pathlib import Path

import harness
import numpy as np
from PIL import Image

from faces_world import build, faces
from sd_debias.core.attribute import GENDER
from sd_debias.core.distribution import Distribution, summarise_people
from sd_debias.core.judge import DISAGREED, labels
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.judge.panel import Panel

CROWDS = 400  # of one to four faces each, which did not teach the judge
SIDE, SIZES = 480, (136, 222)  # of a crowd and of its faces, in pixels
MARGIN = .4  # of a face's box: these faces fill their frames

Shown = list[tuple[int, float, float]]  # the faces of a crowd: number, and middle in pixels


def crowd(chance: random.Random, pictures: np.ndarray) -> tuple[np.ndarray, Shown]:
    """An image of one to four faces on a plain ground, each in a quarter of its own."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(chance.randrange(60, 200) for _ in range(3)))
    corners, shown = chance.sample([(0, 0), (0, 1), (1, 0), (1, 1)], chance.randint(1, 4)), []
    for number, corner in zip(chance.sample(range(len(pictures)), len(corners)), corners, strict=True):
        size = chance.randint(*SIZES)
        x, y = (SIDE // 2 * at + chance.randint(0, SIDE // 2 - size) for at in corner)
        image.paste(Image.fromarray(pictures[number]).resize((size, size), Image.Resampling.BICUBIC), (x, y))
        shown.append((number, x + size / 2, y + size / 2))
    return np.asarray(image), shown


def matched(boxes, shown: Shown) -> list[int]:
    """The face that each box is of."""
    return [min(shown, key=lambda own: (own[1] - x - w / 2) ** 2 + (own[2] - y - h / 2) ** 2)[0] for x, y, w, h in boxes]


def resized(images) -> np.ndarray:
    """As large as the world's own."""
    return np.stack([np.asarray(Image.fromarray(own).resize((64, 64))) for own in images])


def outside(images) -> np.ndarray:
    """The judge of the labels, for gender."""
    man = faces.judged(resized(images))[:, 0]
    return np.stack([man, 1 - man], 1)


def looked(work: Path) -> dict:
    """What is found and labelled in crowds, against the labels that the same faces get alone, in frames of their own. The
    first half checks the judge, the second is audited with that check and without."""
    pictures, known = build.drawn(work)["pictures"][:build.JUDGED], harness.bench.classifier(GENDER)

    def judge(images) -> np.ndarray:
        return known(resized(images))

    chance, alone, search = random.Random(44), judge(pictures).argmax(1), Faces("dlib")
    images, shown = zip(*(crowd(chance, pictures) for _ in range(CROWDS)), strict=True)
    people, largest = (OfFaces(judge, search, look, MARGIN) for look in ("people", "largest face"))
    of = [[int(alone[number]) for number in matched(boxes, own)] for boxes, own in zip(people.boxes(images), shown, strict=True)]
    seen = [p.argmax(1).tolist() for p in people.people(images)]
    first = [(one[0], int(p.argmax())) for one, p in zip(of, largest(images), strict=True) if one]
    half = CROWDS // 2
    check = Check.of(GENDER, [group for own in of[:half] for group in own], [group for own in seen[:half] for group in own])
    rows = np.array([np.bincount(own, minlength=2) for own in seen[half:] if own])

    def men(d: Distribution) -> list[float]:
        shares, intervals = (d.shares, d.intervals) if d.corrected is None else (d.corrected, d.corrected_intervals)
        return [shares[0], *intervals[0]]

    every = [(a, b) for one, other in zip(of, seen, strict=True) for a, b in zip(one, other, strict=True)]
    both = labels(Panel([judge, outside])(list(pictures)))
    return dict(
        faces=[len(every), sum(map(len, shown))], images=[sum(len(a) == len(b) for a, b in zip(of, shown, strict=True)), CROWDS],
        people=[int(sum(a == b for a, b in every)), len(every)], largest=[int(sum(a == b for a, b in first)), len(first)],
        men=men(summarise_people(rows, GENDER.target)),
        checked=men(summarise_people(rows, GENDER.target, confusion=check.counts)),
        true=float(np.mean([group == 0 for own in of[half:] for group in own])),
        panel=[int((both == DISAGREED).sum()), len(both)])


def said(found: dict) -> str:
    """The page's paragraph."""
    def of(name: str) -> str:
        return f"{found[name][0]:,} of {found[name][1]:,}"

    def men(name: str) -> str:
        share, low, high = (f"{100 * value:.0f}" for value in found[name])
        return f"{share} % [{low}, {high}]"

    return f"""**Crowds.** {CROWDS} images were put together of one to four of the first table's faces. dlib's detector found {of("faces")} faces, and every one in {of("images")} images. Cut out of them, {of("people")}
faces got the label that they get in frames of their own, by `--look people`, and {of("largest")} by `--look largest-face`: this judge knows whole frames. Of the second half's persons it labels {men("men")} as
men, where {100 * found["true"]:.0f} % get that label alone; corrected by a check on the first half, it is {men("checked")}. A panel of both judges leaves out {of("panel")} faces, about which they disagree."""
