"""Uncalibrated prompts: their distance from calibrated ones, and weights predicted from theirs.

While a picture is still noise, the prediction for a prompt c is a mean over all that c may show: a mixture of the
predictions for c's groups, eps(x, c) = sum_i p_i eps(x, c_i). Solved for p in the first steps it tells, before there is
a picture, about how often the model shows each group. What draw probabilities such shares call for is learned from the
calibrated prompts, by ridge regression. Our own design; benchmarks/uncalibrated.py measures it.
"""
from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..attribute import Attribute
from ..errors import DebiasError, quoted
from ..files import read_json, write_atomic
from ..method.draw import Steering
from ..method.methods import IN_CONTEXT, Method
from ..method.safe_latent import SafeLatentGuidance
from ..method.step import Steps
from ..profile.file import Entry, Profile
from ..profile.lookup import is_other
from ..profile.prompts import PREDICT, bare

PER_GROUP = 2  # calibrated prompts that a prediction needs, for each group
SEEDS = range(32)  # whose noise the first steps begin from
LOOKING = Method("prediction", IN_CONTEXT, guidance=SafeLatentGuidance(end=0.35))  # what is evaluated


@dataclass(frozen=True)
class Distance:
    """Distance of a prompt from the calibrated ones: 1 - cosine of text embeddings, each the mean over its tokens.

    nearest   the calibrated prompt that is nearest
    distance  to it
    usual     the largest distance of a calibrated prompt to its own nearest; None where there is but one
    """
    nearest: str
    distance: float
    usual: float | None

    @property
    def too_far(self) -> bool | None:
        """Is the distance above `usual`? None if there is only one calibrated prompt."""
        return None if self.usual is None else self.distance > self.usual

    def __str__(self) -> str:
        place = f"distance {self.distance:.3f} from '{self.nearest}'"
        if self.too_far is None:
            return f"This prompt cannot be compared: there is only one calibrated prompt ({place})."
        return (f"This prompt is {'unlike' if self.too_far else 'like'} the calibrated ones ({place}, limit "
                f"{self.usual:.3f}).")


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


class FirstSteps:
    """What the first steps of a prompt's pictures show: of every attribute and step the Gram matrix G [n, n] of its
    groups' predictions, and their products h [n] with the prompt's, all from the groups' mean.

    A host samples with the method `LOOKING`, weights of 1 for every group, and `steps` in the place of
    `core.method.step.Steps`; it may stop where `enough` says so. No picture is changed.
    """

    def __init__(self, attributes: Sequence[Attribute]):
        self.attributes = tuple(attributes)
        self.found: list[dict[float, tuple[Tensor, Tensor]]] = [{} for _ in self.attributes]

    def weights(self, images: int) -> Tensor:
        return torch.ones(images, sum(len(a.groups) for a in self.attributes))

    def steps(self, method: Method, weights: Tensor, has_uncond: bool) -> Steps:
        return _Onlooker(self, method, weights, has_uncond)

    @staticmethod
    def enough(steps: int, total: int) -> bool:
        """Need no step be taken after these, of a schedule's total?"""
        return steps >= LOOKING.guidance.end * total

    def add(self, progress: float, eps_cond: Tensor, eps_groups: Tensor) -> None:
        """Predictions at a share of the schedule: of the prompt [B, ...] and of all groups [B, n, ...]."""
        prompt, groups = eps_cond.float().flatten(1)[:, None], eps_groups.float().flatten(2)
        for found, own in zip(self.found, groups.split([len(a.groups) for a in self.attributes], dim=1)):
            mean = own.mean(1, keepdim=True)
            own, other = own - mean, prompt - mean
            gram, product = found.get(progress, (0.0, 0.0))
            found[progress] = gram + (own @ own.mT).sum(0), product + (own @ other.mT).sum(0)[:, 0]

    def shares(self, prompt: str) -> list[np.ndarray]:
        """Shares [n] of each attribute's groups, the mean over the steps. An estimate with an error of its own: some
        points for two groups, more where groups look alike. Raises DebiasError where nothing was seen, and for
        predictions that are not finite."""
        if not all(self.found):
            raise DebiasError(f"Expected a sampling step in the first {LOOKING.guidance.end:.0%} of the schedule that "
                              "evaluates the prompt by itself, got none, so no shares can be read. Begin from noise "
                              "(text-to-image, or strength 1), with one seed or more.")
        steps = [[(gram.cpu().double().numpy(), product.cpu().double().numpy()) for gram, product in found.values()]
                 for found in self.found]
        if not all(np.isfinite(part).all() for found in steps for step in found for part in step):
            raise DebiasError(f"The model's predictions for {quoted(prompt)} are not finite, so no shares can be "
                              "read off them. Use another precision, e.g. bfloat16 or float32.")
        return [np.mean([on_simplex(*step) for step in found], axis=0) for found in steps]


class _Onlooker(Steps):
    """Sees the predictions of all groups, and changes nothing."""

    def __init__(self, seen: FirstSteps, method: Method, weights: Tensor, has_uncond: bool):
        super().__init__(method, weights, has_uncond)
        self.seen = seen
        self._groups: Tensor = torch.empty(0)

    def unsafe(self, eps_uncond: Tensor, eps_groups: Sequence[Tensor]) -> Tensor:
        self._groups = torch.stack(list(eps_groups), dim=1)
        return eps_uncond

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_unsafe: Tensor) -> Tensor:
        self.seen.add(progress, eps_cond, self._groups)
        return torch.zeros_like(eps_cond, dtype=torch.float32)


def cost(profile: Profile, prompts: int = 1, images: int = len(SEEDS)) -> int:
    """About how many finished pictures of two evaluations a step (classifier-free guidance) the first steps of some
    prompts cost as much as."""
    groups = sum(len(a.groups) for a in profile.attributes)
    return math.ceil(prompts * images * LOOKING.guidance.end * (2 + groups) / 2)


def with_predicted(profile: Profile, prompt: str, shares_of: Callable[[str], Sequence[np.ndarray]]) -> Profile:
    """The profile with predicted weights for a prompt, where `profile.others` asks for them, no entry is for the prompt
    and none were predicted for it before. Raises DebiasError as `predicted`."""
    if (profile.others != PREDICT or not is_other(profile, prompt)
            or any(bare(entry.prompt) == bare(prompt) for entry in profile.predicted)):
        return profile
    return replace(profile, predicted=(*profile.predicted, predicted(profile, prompt, shares_of)))


def kept(path: Path, shares_of: Callable[[str], Sequence[np.ndarray]]) -> Callable[[str], Sequence[np.ndarray]]:
    """`shares_of`, which asks for a prompt once: what was found is kept in a file. Its name must tell everything that
    shares depend on beside the prompt. A file that cannot be read is written anew."""
    def known(prompt: str) -> Sequence[np.ndarray]:
        try:
            found: dict[str, Sequence[np.ndarray]] = {
                text: [_shares(part) for part in shares] for text, shares in read_json(path).items()}
        except (DebiasError, OSError, AttributeError, TypeError, ValueError, ArithmeticError):
            found = {}
        if prompt not in found:
            found[prompt] = read[prompt] if prompt in read else shares_of(prompt)
            read[prompt] = found[prompt]
            try:
                write_atomic(path, json.dumps({text: [part.tolist() for part in shares]
                                               for text, shares in found.items()}))
            except OSError as error:
                warnings.warn(f"What the first steps show could not be kept ({error.strerror or error}), so it will be "
                              "read anew.")
        return found[prompt]

    read: dict[str, Sequence[np.ndarray]] = {}
    return known


def _shares(part: object) -> np.ndarray:
    """Shares that were kept. Raises ValueError for what are none."""
    found = np.array(part, float)
    if found.ndim != 1 or not (found >= 0).all() or not math.isclose(found.sum(), 1, abs_tol=1e-3):
        raise ValueError
    return found


def predicted(profile: Profile, prompt: str, shares_of: Callable[[str], Sequence[np.ndarray]]) -> Entry:
    """An entry for a prompt that the profile was not calibrated for; `shares_of` gives a prompt's `first_shares`.

    Raises DebiasError for a profile that shifts, and where it has fewer than `PER_GROUP` calibrated prompts a group.
    """
    needed = PER_GROUP * max(len(a.groups) for a in profile.attributes)
    if profile.method.spend != "draw":
        raise DebiasError(f"Weights can be predicted only for profiles that draw, but '{profile.name}' shifts. "
                          "Calibrate this prompt instead.")
    if len(profile.entries) < needed:
        raise DebiasError(f"To predict weights, a profile of {needed // PER_GROUP} groups needs {needed} calibrated "
                          f"prompts, but '{profile.name}' has {len(profile.entries)}. Calibrate more prompts, or "
                          "calibrate this prompt.")
    *known, own = (shares_of(text) for text in (*(e.prompt for e in profile.entries), prompt))
    steerings = tuple(predicted_steering(own[i], np.array([shares[i] for shares in known]),
                                         [e.steerings[i] for e in profile.entries])
                      for i in range(len(profile.attributes)))
    return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; its weights are predicted from "
                                              f"{len(known)} calibrated prompts",))
