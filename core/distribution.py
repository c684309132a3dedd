"""One attribute's groups over a set of images: shares with intervals, and their distance from a target."""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .errors import DebiasError
from .statistics import (
    checked_level, corrected_shares, deviation_ratio, dirichlet_interval, g_test, kl_divergence, noise_floor, pair,
    reachable, shares, through, total_variation, vector, wilson)


@dataclass(frozen=True)
class Distribution:
    """One attribute's groups over a set of images, measured against a target.

    n                images that could be classified; `unsure` counts the others
    counts, shares   images of every group, and their shares
    target           the share that every group should have
    level            of the intervals
    intervals        Wilson interval (low, high) of every share
    kl               KL(shares||target) in nats, with target shares of at least .001 (`reachable`)
    kl_interval      Dirichlet interval of it; starts at 0 if a G test finds no difference from the target
    kl_floor_mean    KL that a perfectly fair model shows on n images, in the mean
    kl_floor95       ... and in 95 % of all sets of n images at most
    total_variation  share of images that would have to change group
    deviation_ratio  largest distance from uniform, 0 to 1
    corrected, corrected_intervals  shares and intervals of the true groups by the judge's check, where there is one:
                     then all distances are from what a model on target would show through this judge
    images         where persons are counted, how many images they stand in; then `n` and `counts` are of persons
    effective        ... and as how many independent persons they count
    """
    n: int
    unsure: int
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    target: tuple[float, ...]
    level: float
    intervals: tuple[tuple[float, float], ...]
    kl: float
    kl_interval: tuple[float, float]
    kl_floor_mean: float
    kl_floor95: float
    total_variation: float
    deviation_ratio: float
    corrected: tuple[float, ...] | None = None
    corrected_intervals: tuple[tuple[float, float], ...] | None = None
    pictures: int | None = None
    effective: float | None = None

    def line(self, name: str, groups: Sequence[str]) -> str:
        """A line of text: shares with their intervals, and KL with its noise floor. Corrected shares stand alone, with
        the judge's labels as counts: two shares of one group would be two results."""
        shown, edges, how = self.shares, self.intervals, ""
        if self.corrected is not None and self.corrected_intervals is not None:
            labelled = ", ".join(f"{group} {count}" for group, count in zip(groups, self.counts, strict=True))
            shown, edges, how = self.corrected, self.corrected_intervals, (
                f", corrected by the judge's check (it labelled {labelled})")
        listed = ", ".join(f"{group} {share:.1%} [{low:.1%}, {high:.1%}]"
                           for group, share, (low, high) in zip(groups, shown, edges, strict=True))
        what, of = ("images", f"N = {self.n}") if self.pictures is None else (
            "persons", f"N = {self.n} persons in {self.pictures} images")
        unsure = f"; {self.unsure} {what} left out as unsure" if self.unsure else ""
        chance = "farther from the target than chance explains" if self.kl > self.kl_floor95 else \
            "chance can explain the distance from the target"
        return (f"{name} ({of}): {listed}{how}; {chance} (KL {self.kl:.4f}, by chance below "
                f"{self.kl_floor95:.4f}){unsure}")

    def to_dict(self) -> dict:
        """JSON form; what is None is left out."""
        return {key: _plain(value) for key, value in asdict(self).items() if value is not None}


def summarise(counts: ArrayLike, target: ArrayLike, unsure: int = 0, level: float = 0.95,
              confusion: ArrayLike | None = None) -> Distribution:
    """Summarise one attribute: counts [K] of classified images against target shares [K].

    `confusion`, counts [true, measured] of the judge's check: shares are corrected by it, and distances are from t C,
    what a model on target shows through this judge. Raises DebiasError for no classified images, counts that are
    negative or not whole, and a target or a confusion matrix that does not fit.
    """
    counts = vector(counts)
    if not (counts == np.round(counts)).all() or unsure < 0 or unsure != int(unsure):
        raise DebiasError(f"Expected whole numbers of images, none negative, got {counts.tolist()} and {unsure} "
                          "unsure.")
    return _summary(counts, float(counts.sum()), target, unsure, level, confusion)


def summarise_people(people: ArrayLike, target: ArrayLike, unsure: int = 0, level: float = 0.95,
                     confusion: ArrayLike | None = None) -> Distribution:
    """As `summarise`, of persons: people [N, K] are the counts of every image; a row of zeros shows nobody.

    Persons of one image go together, so they count as fewer independent ones: n divided by the design effect of the
    ratio p_k = sum_i y_ik / sum_i m_i, whose variance by linearisation is N / (N - 1) sum_i (y_ik - p_k m_i)^2 /
    (sum_i m_i)^2 (Cochran 1977, section 6.3). Where persons of one image differ more than chance, they still count
    as no more than n. Raises DebiasError as `summarise` does.
    """
    y = np.asarray(people, np.float64)
    if y.ndim != 2 or not (np.isfinite(y) & (y >= 0) & (y == np.round(y))).all():
        raise DebiasError(f"Expected whole numbers of persons [N, K], one row per image, got {list(y.shape)}.")
    y = y[y.sum(1) > 0]
    counts, m, pictures = vector(y.sum(0)), y.sum(1), len(y)
    p = counts / counts.sum()
    independent = (p * (1 - p)).sum() / counts.sum()
    variance = pictures / max(pictures - 1, 1) * ((y - p * m[:, None]) ** 2).sum() / counts.sum() ** 2
    effect = max(variance / independent, 1.0) if independent > 0 else float((m ** 2).sum() / m.sum())
    found = _summary(counts, counts.sum() / effect, target, unsure, level, confusion)
    return replace(found, pictures=pictures, effective=found.n / effect)


def _summary(counts: np.ndarray, effective: float, target: ArrayLike, unsure: int, level: float,
             confusion: ArrayLike | None) -> Distribution:
    """counts [K] with the weight of `effective` independent ones."""
    p, declared = pair(shares(counts), target)
    aim = declared if confusion is None else through(declared, confusion)
    t = reachable(aim) if aim.min() < 1e-3 else aim
    n, kl, weight = int(counts.sum()), float(kl_divergence(p, t)), effective / counts.sum()
    low, high = dirichlet_interval(counts * weight, lambda draws: np.asarray(kl_divergence(draws, t)), level)
    low = 0.0 if g_test(counts * weight, t)[1] > 1 - level else min(low, kl)
    floor_mean, floor95 = noise_floor(len(t), effective)
    corrected, edges = (None, None) if confusion is None else corrected_shares(counts * weight, confusion, level)
    return Distribution(
        n=n, unsure=int(unsure), counts=tuple(int(count) for count in counts), shares=tuple(p.tolist()),
        target=tuple(declared.tolist()), level=checked_level(level),
        intervals=tuple(zip(*(np.asarray(edge).tolist() for edge in wilson(
            np.minimum(counts * weight, effective), effective, level)))),
        kl=kl, kl_interval=(low, max(high, kl)), kl_floor_mean=floor_mean, kl_floor95=floor95,
        total_variation=float(total_variation(p, aim)), deviation_ratio=float(deviation_ratio(p)),
        corrected=None if corrected is None else tuple(corrected.tolist()),
        corrected_intervals=None if edges is None else tuple((float(a), float(b)) for a, b in edges))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
