"""What a bias card says in words."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..attribute import AGE, GENDER, SKIN_TONE, SKIN_TONE_3, Attribute
from ..calibration.loop import ON_TARGET
from ..calibration.standing import Shares
from ..errors import short
from .chart import kl_words, percent
from .figures import Figures

WORDS = {**{a: b for a, b in zip(GENDER.names, ("men", "women"))},
         **{tone: f"{tone} skin" for tone in (*SKIN_TONE.names, *SKIN_TONE_3.names)},
         **{age: f"{age} people" for age in AGE.names}}


def headline(f: Figures) -> str:
    """What an attribute's figures say, in one sentence for a person who knows nothing of statistics."""
    if f.before is None:
        return f"No prompt was measured for {spaced(f.attribute.name)}."
    k, rows = f.largest, sorted(f.rows, key=lambda row: row.was.shares[f.largest])
    says = f"this model shows {people_of(f.attribute, k)} in {percent(f.before.shares[k])} of the images"
    if len(rows) == 1:
        low, high = rows[0].was.intervals[k]
        return f"Asked for \"{brief(rows[0].label)}\", {says} (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
    what = "prompts" if any(row.label == short(row.prompt) for row in rows) else "subjects"
    return (f"Asked for {len(rows)} {what}, {says}: from {percent(rows[0].was.shares[k])} ({brief(rows[0].label)}) to "
            f"{percent(rows[-1].was.shares[k])} ({brief(rows[-1].label)}).")


def second_line(f: Figures) -> str:
    """How far that is from the target, and what the profile does to it."""
    if f.before is None:
        return ""
    k, n = f.largest, f.before.prompts
    beyond = n - f.before.within
    said = f"Target: {target_words(f.attribute)}. " + (
        ("Chance explains the distance from it." if not beyond else "Chance does not explain the distance from it.")
        if n == 1 else f"In {beyond} of {n} prompts the shares are farther from it than chance explains.")
    if f.after is None:
        return said
    ended = [row.verdict for row in f.rows if row.now and row.verdict]
    good = sum(verdict == ON_TARGET for verdict in ended)
    return f"{said} With the profile it shows {people_of(f.attribute, k)} in {percent(f.after.shares[k])}" + (
        f", and {good} of {len(ended)} prompts are on target." if len(ended) > 1 else
        f": {ended[0]}." if ended else ".")


def people_of(a: Attribute, k: int) -> str:
    """A group in a sentence: "men", "dark skin", and any other one in quotes."""
    known = any(set(a.names) <= set(b.names) for b in (GENDER, SKIN_TONE, SKIN_TONE_3, AGE))
    return WORDS[a.names[k]] if known else f'"{brief(a.names[k])}"'


def brief(text: str) -> str:
    """As much of a user's text as a sentence can bear."""
    text = short(text).strip()
    return text if len(text) <= 60 else f"{text[:57].rstrip()}..."


def target_words(a: Attribute) -> str:
    if np.allclose(a.target, 1 / len(a.groups), atol=1e-3):
        return f"even shares, {percent(a.target[0])} each"
    return ", ".join(f"{short(name)} {percent(share)}" for name, share in zip(a.names, a.target))


def share_words(shares: Shares, k: int) -> str:
    low, high = shares.intervals[k]
    return f"{percent(shares.shares[k])} [{100 * low:.0f}, {100 * high:.0f}]"


def spaced(name: str) -> str:
    return short(name.replace("_", " "))


def range_words(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def time_words(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes" if seconds >= 90 else \
        f"{seconds:.0f} seconds"


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def kl_or_nothing(value: float) -> str:
    return "" if math.isnan(value) else kl_words(value)


def unbroken(words: str) -> str:
    return words.replace(" %", "\N{NO-BREAK SPACE}%")


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
