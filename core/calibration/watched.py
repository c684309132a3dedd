"""Attributes that were not calibrated, watched on the same images: side effects of a profile."""
from __future__ import annotations

import math
from collections import defaultdict
from statistics import NormalDist
from typing import TYPE_CHECKING, Sequence

import numpy as np

from ..attribute import AGE, GENDER, SKIN_TONE_3, Attribute
from ..prompts.named import SAME
from ..statistics import shares

if TYPE_CHECKING:
    from .loop import Calibration

WATCHED = (GENDER, SKIN_TONE_3, AGE)
FEWEST = 10  # images before and after; of fewer nothing is said
MOST_KNOWN = 0.95  # nor where draws of this share of the images were not seen


def others(attributes: Sequence[Attribute]) -> list[Attribute]:
    """The built-in attributes that share no group, by whatever word ("male" is "man"), and no beginning of their name
    with the calibrated ones."""
    names = {a.name.split("_")[0] for a in attributes}
    groups = {SAME.get(name.casefold(), name.casefold()) for a in attributes for name in a.names}
    return [a for a in WATCHED if a.name.split("_")[0] not in names and not groups & set(a.names)]


def side_effects(c: Calibration) -> list[dict]:
    """What the weights do to each watched attribute, by all images of a calibration: shares [n] before and after, the
    95 % interval of each change [n, 2], how many images tell it, and whether it is more than chance.

    Of draws, images of every option count: with p_o the shares among n_o images of option o, drawn with probability
    q_o, the change is sum_o q_o (p_o - p_0), and its variance sum_o q_o^2 p_o (1 - p_o) / n_o + (1 - q_0)^2
    p_0 (1 - p_0) / n_0. Otherwise the last round stands for what comes out with the weights.
    """
    found = []
    for attribute in WATCHED:
        counts = _by_option(c, attribute)
        alone = (0,) * len(c.attributes)
        q = {option: _probability(c, option) for option in counts}
        steered = sum(int(counts[option].sum()) for option in q if option != alone)
        total = sum(q.values())
        if alone not in counts or counts[alone].sum() < FEWEST or steered < FEWEST or total < MOST_KNOWN or not any(
                share for option, share in q.items() if option != alone):
            continue
        n0, p0 = counts[alone].sum(), shares(counts[alone])
        change, variance = np.zeros(len(p0)), np.zeros(len(p0))
        for option, share in q.items():
            if option != alone:
                n, p = counts[option].sum(), shares(counts[option])
                change += share / total * (p - p0)
                variance += (share / total) ** 2 * _spread(p, n)
        variance += (1 - q.get(alone, 0.0) / total) ** 2 * _spread(p0, n0)
        half = 1.96 * np.sqrt(variance)
        most = NormalDist().inv_cdf(1 - 0.05 / (2 * len(p0)))
        found.append(dict(
            attribute=attribute.name, groups=list(attribute.names), before=p0.tolist(),
            after=np.clip(p0 + change, 0, 1).tolist(), change=np.stack([change - half, change + half], 1).tolist(),
            images=[int(n0), steered], moved=bool((np.abs(change) > most * np.sqrt(variance)).any())))
    return found


def words(effect: dict) -> str:
    """One of `side_effects` in a line."""
    moves = ", ".join(f"{group} {100 * before:.0f} to {100 * after:.0f} % [{100 * low:+.0f}, {100 * high:+.0f}]"
                      for group, before, after, (low, high) in
                      zip(effect["groups"], effect["before"], effect["after"], effect["change"], strict=True))
    return f"{effect['attribute']}, not calibrated: {moves}{', more than chance' if effect['moved'] else ''}"


def _by_option(c: Calibration, attribute: Attribute) -> dict[tuple[int, ...], np.ndarray]:
    """Counts [n] of the watched attribute by what images drew, one number an attribute; 0: left alone."""
    counts: dict = defaultdict(lambda: np.zeros(len(attribute.groups), int))
    for r in c.rounds:
        if r.kind == "proof":  # which steers to prove the judge, not as the weights do
            continue
        labels, options = r.watched.get(attribute.name, []), []
        if any(any(s.weights) for s in r.steerings):  # a shift: the last round counts as one option
            options += [(1,) * len(c.attributes)] * len(labels) if r.steerings == c.steerings else []
        else:
            options += zip(*(s.draws(r.seeds[:len(labels)], i) for i, s in enumerate(r.steerings)))
        same = [s.push == own.push for s, own in zip(r.steerings, c.steerings, strict=True)]
        for option, label in zip(options, labels):
            if label >= 0 and all(fits or not o for fits, o in zip(same, option)):  # another push does something else
                counts[option][label] += 1
    return counts


def _probability(c: Calibration, option: tuple[int, ...]) -> float:
    """How often the weights draw an option."""
    if any(any(s.weights) for s in c.steerings):
        return float(any(option))
    return math.prod(s.probabilities[o] if s.probabilities else float(o == 0)
                     for s, o in zip(c.steerings, option, strict=True))


def _spread(p: np.ndarray, n: int) -> np.ndarray:
    """Variance of shares among n images, with half an image added to each group, so that none counts as certain."""
    p = (p * n + 0.5) / (n + len(p) / 2)
    return p * (1 - p) / n
