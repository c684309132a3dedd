"""How much a calibration measures: the numbers, and how every host asks for them.

The command line's options, the ComfyUI node's inputs, the web UI's fields and its API are all made from `FIELDS`, so
that one number has one default, one range and one meaning everywhere.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from numbers import Integral, Real
from statistics import NormalDist
from typing import Any, Mapping, Sequence

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from ..method.methods import Choice, Method
from ..schema import MOST_IMAGES, TOGETHER


@dataclass(frozen=True)
class Field:
    """One number of a plan, as a host asks for it.

    default, low, high  what a form begins with, and its range
    usual  where a slider ends
    step   of a slider or arrow
    label  a few words beside the field
    help   what a person needs to choose the number
    """
    default: float
    low: float
    high: float
    usual: float
    step: float
    label: str
    help: str


FIELDS = {
    "images": Field(100, 1, MOST_IMAGES, 1000, 1, "Images a round", (
        "Images of the audit and of each round. With fewer than 100, a deviation of 10 points is hard to tell from "
        "chance.")),
    "rounds": Field(4, 0, 1000, 20, 1, "Rounds at most", "Maximum number of rounds after the audit."),
    "held_out": Field(200, 0, MOST_IMAGES, 2000, 1, "Images of the verification", (
        "Images of the final verification, with new seeds. 0 skips it.")),
    "tolerance": Field(0.0, 0.0, 100.0, 1.0, 0.001, "Tolerance, KL in nats (0: until chance explains the rest)", (
        "Stop when KL, in nats, falls below this. 0: stop at the noise floor.")),
    "confidence": Field(0.0, 0.0, 1.0, 1.0, 0.05, "Leave out images classified less surely than", (
        "Ignore images whose top probability is below this.")),
    "within": Field(0.0, 0.0, 50.0, 20.0, 0.5, "Margin in points (0: the tolerance counts)", (
        "Stop when every share lies within this many points of its target with 95 % certainty. 0: stop by the "
        "tolerance instead.")),
    "batch_size": Field(4, 1, 4096, 64, 1, "Batch size", "Images generated at once."),
}


CERTAINTY = 0.95  # with which a plan's margin must hold
LOOKED = 0.96     # and at a look, since a calibration that is looked at after every round ends on a lucky one


def enough(groups: int, attributes: int = 1) -> float:
    """Certainty at which an attribute's shares are known well enough. Attributes divide the error, since all of them
    are to be right; the more groups, the sooner one of many looks finds them right by chance (docs/coverage.md)."""
    return 1 - (1 - LOOKED) / (math.sqrt(groups - 1) * attributes)


NUMBERS = ("images", "rounds", "held_out", "tolerance", "within")  # those of the plan "custom"


def seeds_of(prompt: str) -> int:
    """The first seed of a prompt's own block: prompts that share seeds share noise, so their shares would err alike."""
    return TOGETHER * int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest(), "big")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    images      images of the audit and of each round
    round_images  images of each round, if not the same number
    rounds      maximum number of rounds after the audit
    held_out    images of the final verification
    tolerance   stop when KL in nats falls below this; None: the noise floor
    batch_size  images that the host generates at once
    within      margin in shares, e.g. .05, in which every share must lie with 95 % certainty, by all images so far;
                None: the tolerance counts instead
    seed        of the first image
    confidence  images whose top probability is below this (0 to 1) are left out as unsure
    more        how many more images a draw may steer than it must, so that fewer tell the shares: 0 none, 1 all images
    """
    images: int = int(FIELDS["images"].default)
    rounds: int = int(FIELDS["rounds"].default)
    held_out: int = int(FIELDS["held_out"].default)
    tolerance: float | None = None
    batch_size: int = int(FIELDS["batch_size"].default)
    seed: int = 0
    confidence: float = FIELDS["confidence"].default
    within: float | None = None
    round_images: int | None = None
    more: float = 0.0

    def __post_init__(self) -> None:
        whole = (self.images, self.rounds, self.held_out, self.batch_size, self.seed, self.step)
        numbers = (*whole, self.confidence, self.more, *(n for n in (self.tolerance, self.within) if n is not None))
        if not all(isinstance(n, Integral) for n in whole) or not all(
                isinstance(n, Real) and not isinstance(n, bool) for n in numbers):
            raise DebiasError("Expected numbers for a plan, and whole ones for images, rounds and seeds, got "
                              f"{self._words}.")
        if min(self.images, self.step, self.batch_size) < 1 or self.rounds < 0 or self.held_out < 0:
            raise DebiasError("Expected at least 1 image per round and per batch, and no negative number, got "
                              f"{self._words}.")
        if max(self.images + self.rounds * self.step, self.held_out, self.batch_size) > MOST_IMAGES:
            raise DebiasError(f"A calibration may use {MOST_IMAGES:,} images, and as many to verify, but the plan asks "
                              f"for more: {self._words}.")
        if not abs(self.seed) <= 2**64:
            raise DebiasError(f"Expected a seed of at most 64 bits, got {short(self.seed)}.")
        if not 0 <= self.confidence <= 1:
            raise DebiasError(f"Expected a confidence from 0 to 1, got {short(self.confidence)}.")
        if not 0 <= self.more <= 1:
            raise DebiasError(f"Expected from 0 to 1 more steered images, got {short(self.more)}.")
        if self.within is not None and not 0 < self.within <= 0.5:
            # Whole numbers have no end: a long one cannot be formatted as a float.
            got = f"{100 * self.within:g}" if abs(self.within) < 1e24 else short(self.within)
            raise DebiasError("Expected a margin above 0 and at most 50 points (0.5), e.g. 5 points (0.05), got "
                              f"{got} points.")
        if self.within is not None and self.tolerance is not None:
            raise DebiasError("Expected a margin in points or a tolerance in nats, got both. Give one.")
        if self.tolerance is not None and not 0 < self.tolerance <= 1e6:
            raise DebiasError(f"Expected a tolerance above 0, as KL in nats, e.g. 0.01, got {short(self.tolerance)}.")

    @property
    def _words(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in vars(self).items()
                         if value is not None)

    @property
    def step(self) -> int:
        """Images of a round."""
        return self.images if self.round_images is None else self.round_images

    @property
    def most_images(self) -> int:
        """Images if every round is needed and the first verification holds."""
        return self.images + self.rounds * self.step + self.held_out

    def about_images(self, attributes: Sequence[Attribute]) -> int:
        """Estimated images of a typical prompt, before anything is measured.

        Of a margin m: (z / m)^2 t (1 - t) would show a share t of images that are left alone so surely, z of all
        groups together; about the .45th part is enough where pushes are obeyed, and less where more is pushed
        (docs/coverage.md).
        """
        if self.within is None:
            return self.images + min(self.rounds, 2) * self.step + self.held_out
        needed = self._needed(attributes)
        return int(round(min(max(needed, self.images + self.step) + self.held_out, self.most_images), -1))

    def scarce(self, attribute: Attribute) -> bool:
        """Does it end before a typical prompt is known to within its margin? Then it is to learn what pushes do, which
        takes fewer images than what the model shows by itself."""
        return self.within is not None and self._needed([attribute]) > self.images + self.rounds * self.step

    def _needed(self, attributes: Sequence[Attribute]) -> float:
        """Images of a typical prompt until its shares are known to within the margin."""
        assert self.within is not None
        sure = [enough(len(a.groups), len(attributes)) for a in attributes]
        return (1 - 0.8 * self.more) * max(0.45 * t * (1 - t) * (NormalDist().inv_cdf((1 + s) / 2) / self.within) ** 2
                   for a, s in zip(attributes, sure) for t in a.target)


@dataclass(frozen=True)
class Sure:
    """A usual plan by how sure its user wants to be: numbers of `Plan`, and `most`, images before the verification.
    `short` is meant for draws; a shift takes as many images as normal."""
    within: float
    audit: int
    draw_round: int
    shift_round: int
    most: int
    held_out: int
    more: float = 0.0


SURE = {"quick": Sure(0.10, 30, 10, 30, 240, 20),
        "short": Sure(0.05, 30, 10, 50, 800, 20, more=0.5),
        "normal": Sure(0.05, 50, 10, 50, 800, 20),
        "sure": Sure(0.03, 100, 20, 100, 2000, 60)}
CUSTOM = "custom"
HOW_SURE = Choice((*SURE, CUSTOM), "How sure", (
    "How near to its target each share must be, with 95 % certainty: quick 10 points, short and normal 5, sure 3. The "
    "nearer, the more images it takes. short takes about two thirds of those of normal and steers more of the later "
    "ones: from 80:20 to 50:50 about 65 % instead of 40 %. custom: your own numbers of images and rounds, and your own "
    "tolerance."))


def estimate(plan: Plan, attributes: Sequence[Attribute], prompts: int = 1) -> str:
    """How many images a calibration takes, in words. How long is known once this model has made some in this setting.
    """
    about, most = prompts * plan.about_images(attributes), prompts * plan.most_images
    images = f"About {about:,} images" + (f", at most {most:,}" if most > about else "")
    return f"{images}; the time is shown after the first images."


def beyond_balance(attributes: Sequence[Attribute]) -> str:
    """What a calibration would do better than the balance of these attributes, in words."""
    about = planned("normal", Method()).about_images(attributes)
    return (f"These images change more than they must: calibrate (about {about:,} images) to change fewer, and to "
            "know the shares")


def duration(seconds: float) -> str:
    """In words, rounded up."""
    if seconds > 90:
        return f"{math.ceil(seconds / 60)} minutes"
    return "1 second" if seconds <= 1 else f"{math.ceil(seconds)} seconds"


def unused(sure: str, numbers: Mapping[str, float]) -> str:
    """What to tell a user whose form holds changed numbers beside a usual plan; "" where none is changed."""
    changed = [name for name in NUMBERS if name in numbers and (numbers[name] or 0) != FIELDS[name].default]
    return "" if sure == CUSTOM or not changed else (
        f"How sure is '{sure}', which sets its own numbers, so yours are not used: {', '.join(changed)}. Choose "
        f"'{CUSTOM}' to use them.")


def planned(sure: str, method: Method, **numbers: Any) -> Plan:
    """The plan that a form asks for: one of `SURE`, or `CUSTOM` with its `NUMBERS`, as `FIELDS` has them: tolerance 0
    is none, and within is in points. batch_size, seed and confidence are of both. Raises DebiasError for a name that is
    not known.
    """
    if sure == CUSTOM:
        numbers = {**numbers, "tolerance": numbers.get("tolerance") or None,
                   "within": (numbers.get("within") or 0) / 100 or None}
        return Plan(**{name: int(number) if name in ("images", "rounds", "held_out") else number
                       for name, number in numbers.items()})
    if sure not in SURE:
        raise DebiasError(f"Expected how sure to be one of {', '.join((*SURE, CUSTOM))}, got {quoted(sure)}.")
    usual = SURE[sure]
    step = usual.draw_round if method.spend == "draw" else usual.shift_round
    others = {name: numbers[name] for name in ("batch_size", "seed", "confidence") if name in numbers}
    return Plan(usual.audit, (usual.most - usual.audit) // step, usual.held_out, within=usual.within,
                round_images=step, more=usual.more if method.spend == "draw" else 0.0, **others)
