"""A prompt that nobody calibrated: how far it lies from calibrated ones, and weights predicted from theirs.

While a picture is still noise, the prediction for a prompt c is a mean over all that c may show: a mixture of the
predictions for c's groups, eps(x, c) = sum_i p_i eps(x, c_i). Solved for p in the first steps it tells, before there is
a picture, about how often the model shows each group. What draw probabilities such shares call for is learned from the
calibrated prompts, by ridge regression. Our own design; benchmarks/uncalibrated.py measures it.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from ..errors import DebiasError
from ..method.draw import Steering
from ..profile.file import Entry, Profile

PER_GROUP = 2  # calibrated prompts that a prediction needs, for each group


@dataclass(frozen=True)
class Distance:
    """Of a prompt from the calibrated ones: 1 - cosine of text embeddings, each the mean over its tokens.

    nearest   the calibrated prompt that is nearest
    distance  to it
    usual     the largest distance of a calibrated prompt to its own nearest; None where there is but one
    """
    nearest: str
    distance: float
    usual: float | None

    @property
    def too_far(self) -> bool | None:
        """None where a single calibrated prompt cannot tell what is far."""
        return None if self.usual is None else self.distance > self.usual

    def __str__(self) -> str:
        place = f"{self.distance:.3f} (1 - cosine) from the nearest calibrated prompt, '{self.nearest}'"
        if self.too_far is None:
            return f"its text lies {place}; one calibrated prompt cannot tell whether that is far"
        if self.too_far:
            return (f"its text is too far from anything calibrated: it lies {place}, and each of these at most "
                    f"{self.usual:.3f} from its own nearest")
        return f"its text lies {place}, no farther than these from their own nearest ({self.usual:.3f} at most)"


def nearest(means: np.ndarray, calibrated: Sequence[str]) -> Distance:
    """Of the last of the texts [m + 1, d] from the m calibrated ones; each is the mean of its tokens' embeddings."""
    means = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    between = 1 - means @ means.T
    np.fill_diagonal(between, np.inf)
    own = between[-1, :-1]
    usual = float(between[:-1, :-1].min(1).max()) if len(calibrated) > 1 else None
    return Distance(calibrated[int(own.argmin())], max(float(own.min()), 0.0), usual)


def on_simplex(gram: np.ndarray, product: np.ndarray, steps: int = 3000) -> np.ndarray:
    """The shares p, not negative and with sum 1, that minimise p G p / 2 - h p: projected gradient steps from even."""
    p, largest = np.full(len(product), 1 / len(product)), np.linalg.eigvalsh(gram)[-1]
    if largest <= 0:
        return p
    for _ in range(steps):
        v = p - (gram @ p - product) / largest
        ordered = np.sort(v)[::-1]
        excess = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
        p = np.maximum(v - excess[ordered > excess][-1], 0)  # Duchi et al. 2008, figure 1
    return p


def kernel_ridge(gram: np.ndarray, row: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge regression of y [m, k] around its mean, at a place whose kernel with the m known ones is row [m]; gram
    [m, m] is theirs. The penalty is the one with the least leave-one-out error, which has a closed form."""
    mean, best = y.mean(0), (np.inf, np.zeros_like(y))
    for penalty in np.geomspace(1e-2, 1e4, 25):
        inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
        dual = inverse @ (y - mean)
        error = np.square(dual / np.diag(inverse)[:, None]).mean()
        if error < best[0]:
            best = error, dual
    return mean + row @ best[1]


def predicted_steering(shares: np.ndarray, known: np.ndarray, steerings: Sequence[Steering]) -> Steering:
    """Draw probabilities for a prompt with these first shares [n], from those of m calibrated ones, known [m, n]."""
    alone = (1.0,) + (0.0,) * len(shares)
    y = np.array([s.probabilities or alone for s in steerings])
    spread = known.std(0) + 1e-9
    known, x = (known - known.mean(0)) / spread, (shares - known.mean(0)) / spread
    q = np.maximum(kernel_ridge(known @ known.T, known @ x, y), 0)
    strengths = [s.push for s in steerings if s.probabilities] or [1.0]
    return Steering((0.0,) * len(shares), tuple((q / q.sum()).tolist()), float(np.mean(strengths)))


def predicted(profile: Profile, prompt: str, shares_of: Callable[[str], Sequence[np.ndarray]]) -> Entry:
    """An entry for a prompt that the profile was not calibrated for; `shares_of` gives a prompt's `first_shares`.

    Raises DebiasError for a profile that shifts, and where it has fewer than `PER_GROUP` calibrated prompts a group.
    """
    needed = PER_GROUP * max(len(a.groups) for a in profile.attributes)
    if profile.method.spend != "draw":
        raise DebiasError(f"Weights are predicted for profiles that draw, but '{profile.name}' shifts. Calibrate this "
                          f"prompt instead.")
    if len(profile.entries) < needed:
        raise DebiasError(f"To predict weights, a profile of {needed // PER_GROUP} groups needs {needed} calibrated "
                          f"prompts, but '{profile.name}' has {len(profile.entries)}. Calibrate more, or this prompt.")
    own, *known = (shares_of(text) for text in (prompt, *(e.prompt for e in profile.entries)))
    steerings = tuple(predicted_steering(own[i], np.array([shares[i] for shares in known]),
                                         [e.steerings[i] for e in profile.entries])
                      for i in range(len(profile.attributes)))
    return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; its weights are predicted from "
                                              f"{len(known)} calibrated prompts",))
