"""One round of a calibration: how its images were steered, and what they were classified as."""
from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Sequence

import numpy as np

from ..judge import DISAGREED, NO_FACE, UNSURE
from ..method.draw import Steering
from ..distribution import Distribution, summarise, summarise_people

AUDIT, ROUND, PROOF, HELD_OUT = "audit", "round", "proof", "held-out"


@dataclass
class Round:
    """One round's images: how they were steered and what they were classified as.

    labels      one list an attribute: the group's index, or below 0 why the image is left out (`judge.LEFT_OUT`)
    faces       how many faces each image shows; empty if no faces were sought
    people      where every person counts, one list an attribute: of each image the labels of its persons,
                from left to right
    fidelity    one number per valid image: how well it matches its prompt, as scored by the host
    not_finite  images with NaN or infinite pixels
    one_colour  images whose pixels are all equal, which no working model makes
    watched     labels of attributes that are not calibrated, by name; see core/calibration/watched.py
    """
    kind: str
    steerings: tuple[Steering, ...]
    seeds: tuple[int, ...]
    labels: list[list[int]] = field(default_factory=list)
    fidelity: list[float] = field(default_factory=list)
    seconds: float = 0.0
    not_finite: int = 0
    one_colour: int = 0
    watched: dict[str, list[int]] = field(default_factory=dict)
    faces: list[int] = field(default_factory=list)
    people: list[list[list[int]]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Images measured so far."""
        return len(self.labels[0]) if self.labels else 0

    @property
    def complete(self) -> bool:
        return self.done == len(self.seeds)

    @property
    def mean_fidelity(self) -> float | None:
        return float(np.mean(self.fidelity)) if self.fidelity else None

    def extend(self, batch: Round) -> None:
        """Add what was measured of the next images, `batch.seeds`."""
        for name, own in batch.watched.items():
            before = self.watched.get(name, [])  # a batch in which nothing is shown has none
            self.watched[name] = [*before, *[UNSURE] * (self.done - len(before)), *own]
        self.faces = [*self.faces, *batch.faces]
        people = batch.people or [[[] for _ in batch.seeds] for _ in self.people]
        self.people = [[*before, *[[]] * (self.done - len(before)), *own]
                       for before, own in zip(self.people or [[] for _ in people], people, strict=True)]
        self.labels = [[*before, *own] for before, own in zip(self.labels or [[] for _ in batch.labels], batch.labels,
                                                              strict=True)]
        self.fidelity = [*self.fidelity, *batch.fidelity]
        self.not_finite += batch.not_finite
        self.one_colour += batch.one_colour

    def outcomes(self, attribute: int, groups: int) -> np.ndarray:
        """Counts [n + 1, n] of one attribute: by drawn option, the group measured. Unsure images are left out."""
        table = np.zeros((groups + 1, groups), int)
        drawn = self.steerings[attribute].draws(self.seeds[:self.done], attribute)
        labels = np.asarray(self.labels[attribute], int)
        np.add.at(table, (np.asarray(drawn, int)[labels >= 0], labels[labels >= 0]), 1)
        return table

    @property
    def broken(self) -> str:
        """How many images are broken (not finite, or of one colour), in words; empty if none is."""
        found = [f"{count} {words}" for count, words in (
            (self.not_finite, "are not finite (NaN or infinite)"),
            (self.one_colour, "are of one colour throughout, often black")) if count]
        return f"of {self.done} images, {' and '.join(found)}" if found else ""

    def distribution(self, attribute: int, target: Sequence[float],
                     confusion: Sequence[Sequence[int]] | None = None) -> Distribution:
        """Shares of one attribute with their statistics; `confusion` as in `summarise`. Raises DebiasError where no
        image could be classified."""
        if self.people:
            own = [np.asarray(image, int) for image in self.people[attribute]]
            counts = [np.bincount(image[image >= 0], minlength=len(target)) for image in own]
            return summarise_people(np.stack(counts), target, sum(int((image < 0).sum()) for image in own),
                                    confusion=confusion)
        labels = np.asarray(self.labels[attribute], int)
        return summarise(np.bincount(labels[labels >= 0], minlength=len(target)), target, int((labels < 0).sum()),
                         confusion=confusion)

    def positions(self, attribute: int, groups: int) -> dict:
        """Where every person counts: of the images with the commonest number of persons above one, how many `images`
        there are, and `counts` [P, n], the labels by position from the left. Empty where no image shows several."""
        several = [image for image in self.people[attribute] if len(image) > 1] if self.people else []
        if not several:
            return {}
        persons = Counter(sorted(map(len, several))).most_common(1)[0][0]
        labels = np.array([image for image in several if len(image) == persons])
        return dict(images=len(labels), counts=[np.bincount(own[own >= 0], minlength=groups).tolist()
                                                for own in labels.T])

    def position_line(self, attribute: int, name: str, groups: Sequence[str]) -> list[str]:
        """`positions` in a line; none where there are none."""
        found = self.positions(attribute, len(groups))
        each = "; ".join(", ".join(f"{count} {group}" for group, count in zip(groups, own, strict=True))
                         for own in found.get("counts", ()))
        return [f"{name} from left to right, in {found['images']} images with {len(found['counts'])} persons: "
                f"{each}"] if found else []

    def shows(self, attribute: int) -> bool:
        """Was any image classified?"""
        people = self.people[attribute] if self.people else ()
        return any(label >= 0 for label in self.labels[attribute] if not self.people) or any(
            label >= 0 for image in people for label in image)

    @property
    def left_out(self) -> str:
        """How many images show no face and how many show several persons, in words; "" if none is known."""
        none = max((sum(label == NO_FACE for label in own) for own in self.labels), default=0)
        several = sum(count > 1 for count in self.faces)
        differ, agree = max(((sum(label == DISAGREED for label in own), sum(label >= 0 for label in own))
                             for own in self.labels), default=(0, 0))
        share = f" (they agree on {100 * agree / (agree + differ):.0f} % of those that both label)" if differ else ""
        found = [f"{count} {words}" for count, words in (
            (none, "show no face"), (several, "show several people"),
            (differ, f"are left out because the judges disagree{share}")) if count]
        return f"of {self.done} images, {', '.join(found)}" if found else ""

    @classmethod
    def from_dict(cls, data: dict) -> Round:
        steerings = tuple(Steering.from_dict(s) for s in data["steerings"])
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        return cls(**{**known, "steerings": steerings, "seeds": tuple(map(int, data["seeds"]))})


@dataclass(frozen=True)
class Persons:
    """Who is in a batch of images: how many faces each shows [N], and, where every person counts, one list an
    attribute of each image's probabilities [F, n]."""
    faces: Sequence[int]
    people: Sequence[Sequence[np.ndarray]] | None = None


def round_names(kinds: Sequence[str]) -> list[str]:
    """Names of a calibration's rounds by their kinds: audit, round 1, ..., held-out."""
    tried = itertools.count(1)
    return [f"round {next(tried)}" if kind == ROUND else kind for kind in kinds]
