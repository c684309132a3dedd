"""How one attribute's calibrated weights are spent on a batch of images.

`shift` gives every image the same weights (the paper's way): borderline images flip. `draw` sends each image toward one
group, or leaves it alone, with calibrated probabilities. Both are rows of one weight matrix a [B, n].
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from ..errors import DebiasError, short
from ..schema import LARGEST_WEIGHT, TOGETHER

# Where the places of sixteen stand, in sixteenths, per attribute: digital (t, 4, 8)-nets in base 2 (Niederreiter 1987).
# Each is even in aligned runs of 2, 4, 8 and 16; of the first four, any two are even together in aligned runs of 8.
NETS = ("08c4e62a3bf7d519", "084ce6a25d19b3f7", "08c42ae65d917fb3", "084c6e2a3b7f5d19",
        "08c4a26e915d3bf7", "084ca2e691d53b7f", "08c46ea2f73b915d", "084c2a6ed591f7b3")
MOST_STRENGTH = 10.0
FELT = 1e-2  # weights below it may well change nothing


@dataclass(frozen=True)
class Steering:
    """Weights of one attribute with n groups.

    weights        a, the shift of every image, n numbers; positive pushes away from the group
    probabilities  chances of (no push, group 1, ..., group n) for a draw, n + 1 numbers that sum to 1; empty: no draw
    push           s of a push: a drawn image gets a_j - s for its group j
    """
    weights: tuple[float, ...]
    probabilities: tuple[float, ...] = ()
    push: float = 1.0

    def __post_init__(self) -> None:
        numbers = (*self.weights, *self.probabilities, self.push)
        if not all(math.isfinite(number) for number in numbers):
            raise DebiasError(f"Expected finite weights, got {short(numbers)}. Calibrate again.")
        if max(map(abs, self.weights), default=0) > LARGEST_WEIGHT or not 0 <= self.push <= LARGEST_WEIGHT:
            raise DebiasError(f"Expected weights within {LARGEST_WEIGHT:g} of 0 and a push from 0 to "
                              f"{LARGEST_WEIGHT:g}, got {short(self.weights)} and {self.push:g}. Calibrate again.")
        if self.probabilities and len(self.probabilities) != len(self.weights) + 1:
            raise DebiasError(f"Expected {len(self.weights) + 1} probabilities (no push, then one per group), got "
                              f"{len(self.probabilities)}.")
        if self.probabilities and (min(self.probabilities) < 0 or abs(math.fsum(self.probabilities) - 1) > 1e-3):
            raise DebiasError(f"Expected probabilities of 0 or more that sum to 1, got {short(self.probabilities)}.")

    @classmethod
    def none(cls, n: int) -> Steering:
        """A steering without guidance."""
        return cls((0.0,) * n)

    @classmethod
    def from_dict(cls, data: dict) -> Steering:
        """Read the JSON form; `probabilities` and `strength` may be left out. Raises DebiasError."""
        return cls(tuple(data["weights"]), tuple(data.get("probabilities") or ()), data.get("strength", 1.0))

    def to_dict(self) -> dict:
        """JSON form."""
        return {"weights": list(self.weights), "probabilities": list(self.probabilities), "strength": self.push}

    @property
    def mode(self) -> str:
        return "draw" if self.probabilities else "shift"

    def draws(self, seeds: Sequence[int], stream: int = 0) -> list[int]:
        """Each image's drawn option, 0 (no push) or a group's number from 1; all 0 where nothing is drawn.

        An image's draw depends on its own seed alone. Consecutive seeds are stratified: eight images at 50:50, the
        first seed even, are four and four. `stream` keeps several attributes independent.
        """
        if not self.probabilities:
            return [0] * len(seeds)
        if not 0 <= stream < len(NETS):
            raise DebiasError(f"Expected at most {len(NETS)} attributes together, got number {stream + 1}.")
        edges = torch.tensor(self.probabilities, dtype=torch.float64).cumsum(0)[:-1]
        points = torch.tensor([point(int(seed), stream) for seed in seeds], dtype=torch.float64)
        return torch.bucketize(points, edges, right=True).tolist()

    def rows(self, seeds: Sequence[int], strength: float = 1.0, stream: int = 0) -> Tensor:
        """a [B, n], float32, for images of these seeds; `strength` scales all of it, 0 is no guidance."""
        a = torch.tensor(self.weights, dtype=torch.float32).repeat(len(seeds), 1)
        for row, option in zip(a, self.draws(seeds, stream)):
            if option:
                row[option - 1] -= self.push
        return a * strength


def check_strength(strength: float) -> float:
    """A user's strength of guidance: 1 as calibrated, 0 none, 10 at most. Raises DebiasError."""
    if not 0 <= strength <= MOST_STRENGTH:
        raise DebiasError(f"Expected a strength from 0 (no guidance) to {MOST_STRENGTH:g}, with 1 as calibrated, got "
                          f"{short(strength)}.")
    return strength


def check_steered(weights: Tensor, acted: bool) -> None:
    """Raises DebiasError where images were to be steered by weights [B, n] and their host did nothing: a calibration
    on such images would measure chance alone."""
    if not acted and bool((weights.abs() > FELT).any()):
        raise DebiasError("These images were to be steered, but guidance changed nothing in them, so there is "
                          "nothing to calibrate. Either the groups' texts mean the same to this model, or no "
                          "sampling step lies in the method's window (choose the direction 'prompt' for a single "
                          "step), or something in the host keeps the guidance from being called.")


def rows(steerings: Sequence[Steering], seeds: Sequence[int], strength: float = 1.0) -> Tensor:
    """Weights of several attributes side by side: [B, n_1 + n_2 + ...]."""
    return torch.cat([s.rows(seeds, strength, stream) for stream, s in enumerate(steerings)], dim=1)


def of_batch(seed: int, images: int) -> list[int]:
    """The seeds that decide the images of a batch whose noise has one seed: image i has seed XOR i, so that a batch
    of eight at 50:50 is four and four whatever its seed, and the first image is that of a batch of one."""
    return [seed ^ i for i in range(images)]


def point(seed: int, stream: int) -> float:
    """Where a seed stands in [0, 1): its place in its sixteen by the attribute's net, all sixteen shifted digit by
    digit (XOR) by their number's hash, so that seeds in steps of any size meet all chances alike."""
    sixteen, place = divmod(seed, TOGETHER)
    hashed = hashlib.blake2b(f"{sixteen} {stream}".encode(), digest_size=6).digest()
    return (int(NETS[stream][place], 16) << 44 ^ int.from_bytes(hashed, "big")) / 2**48
