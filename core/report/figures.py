"""What a bias card says in figures: its form, and of every attribute the prompts, ranked, and the means."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..attribute import Attribute, together
from ..calibration.standing import Shares, of_shares
from ..distribution import Distribution
from ..statistics import deviation_ratio
from ..statistics import shares as shares_of
from ..errors import DebiasError, quoted, short
from ..files import read_json
from ..judge.check import Check
from ..profile.file import same_prompt
from ..schema import (
    ATTRIBUTE, CHECK, COUNT, ENTRY, MEASURED, METHOD, SECONDS, TEXT, _list, _object, _or_null, _whole, check)

FORM = "sd-debias card 1"

# What _entry gives (core/calibration/result.py), with every field of a Distribution that has no default.
_MEASURED = {**MEASURED, "required": [f.name for f in fields(Distribution) if f.default is MISSING]}
_ENTRY = {**ENTRY, "required": ["before"], "properties": {
    **ENTRY["properties"], "before": _list(_MEASURED), "after": _or_null(_list(_MEASURED))}}
_PICTURES = _list({"type": "string", "maxLength": 8 << 20,  # JPEGs alone: these are the first letters of their base64
                   "pattern": r"\A/9j/(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z"}, maxItems=1000)
_ROW = _object("prompt", prompt=TEXT, subject=_or_null(TEXT), entry=_or_null(_ENTRY), error=_or_null(TEXT),
               pictures=_or_null(_object(before=_PICTURES, after=_PICTURES, seeds=_list(_whole(-2**65, 2**65)),
                                         changed=_list({"type": "boolean"}))))
_EXPLICIT = _object(
    "prompt states shown", prompt=TEXT, states={"type": "object", "additionalProperties": TEXT},
    shown={"type": "object", "additionalProperties": _list(COUNT, minItems=2, maxItems=2)})
_SET = _object(
    "attributes rows", attributes=_list(ATTRIBUTE, minItems=1, maxItems=8), method=_or_null(METHOD), plan=TEXT,
    checks=_or_null(_list(_or_null(CHECK), maxItems=8)), rows=_list(_ROW, maxItems=10_000),
    explicit=_or_null(_list(_EXPLICIT, maxItems=10_000)))
CARD = _object(
    "form model setting classifier sets cost", form=TEXT, software=TEXT, created=TEXT, model=TEXT, classifier=TEXT,
    setting={"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    sets=_list(_SET, minItems=1, maxItems=10_000),
    cost=_object(images=COUNT, seconds=SECONDS, evaluations=_or_null(_whole(0, 10**15))))
MOST_GROUPS = 8  # that a chart tells apart
AGAIN = "Restore the file, or make the card again."


def read_card(path: str | Path) -> dict:
    """A card from its JSON file. Raises DebiasError for what is no card, or a damaged one; OSError."""
    try:
        return check_card(read_json(path))
    except DebiasError as error:
        raise DebiasError(f"{quoted(path)} cannot be used. {error}") from error


def check_card(data: Any) -> dict:
    """The card itself, where it is one. Raises DebiasError for other JSON, another form, a field that is missing or
    wrong, and figures that contradict each other."""
    if not isinstance(data, dict) or not str(data.get("form", "")).startswith("sd-debias card "):
        raise DebiasError(f"Expected a bias card, JSON with the form {quoted(FORM)}, got other JSON. Name a file that "
                          "'sd-debias card' wrote.")
    if data["form"] != FORM:
        raise DebiasError(f"This card has the form {quoted(data['form'])}, but this version of sd-debias reads "
                          f"{quoted(FORM)}. Update sd-debias, or make the card again.")
    check(data, CARD, "This card", AGAIN)
    for own in data["sets"]:
        wrong = next(_contradictions(own), None)
        if wrong:
            raise DebiasError(f"This card contradicts itself: {wrong}. {AGAIN}")
    return data


def _contradictions(own: Mapping) -> Iterator[str]:
    """What one field of a set says against another."""
    attributes = _attributes(own)
    seen = Counter(same_prompt(row["prompt"]) for row in own["rows"])
    yield from (f"the prompt {quoted(prompt)} comes twice in a set" for prompt, times in seen.items() if times > 1)
    checks = [Check.from_dict(c) if c else None for c in own.get("checks") or ()]
    for found, a in zip(checks, attributes):
        if found and (found.attribute, found.groups) != (a.name, a.names):
            yield f"the check of {quoted(found.attribute)} is in the place of that of {quoted(a.name)}"
    for row in own["rows"]:
        entry, prompt = row.get("entry"), quoted(row["prompt"])
        if entry is None:
            continue
        if entry.get("verdicts") and len(entry["verdicts"]) != len(attributes):
            yield f"{prompt} has {len(entry['verdicts'])} verdicts of {len(attributes)} attributes"
        for when in ("before", "after"):
            measured = entry.get(when)
            if measured is not None and len(measured) != len(attributes):
                yield f"{prompt} has figures of {len(measured)} attributes, not of {len(attributes)}"
            for m, a in zip(measured or (), attributes):
                if not _fits(m, a):
                    yield f"counts, shares and target of {quoted(a.name)} do not fit each other for {prompt}"
        if entry.get("expected") is not None and [(len(e["shares"]), len(e["intervals"])) for e in
                                                  entry["expected"]] != [(len(a.groups),) * 2 for a in attributes]:
            yield f"{prompt} has expected shares of other groups"
        for effect in entry.get("side_effects") or ():
            if {len(effect[key]) for key in ("before", "after", "change")} != {len(effect["groups"])}:
                yield f"{prompt} has a side effect on {quoted(effect['attribute'])} of other groups"
    names = {a.name: a.names for a in attributes}
    for e in own.get("explicit") or ():
        if any(e["states"].get(name) not in names.get(name, ()) or k > n for name, (k, n) in e["shown"].items()):
            yield f"what {quoted(e['prompt'])} states and shows does not fit"


def _fits(m: Mapping, a: Attribute) -> bool:
    groups = {len(a.groups)} | {len(m[key]) for key in ("counts", "shares", "target", "intervals")} | {
        len(m[key]) for key in ("corrected", "corrected_intervals") if m.get(key) is not None}
    return (len(groups) == 1 and 0 < sum(m["counts"]) == m["n"]
            and np.allclose(np.array(m["counts"]) / m["n"], m["shares"], atol=1e-6)
            and np.allclose(m["target"], a.target, atol=1e-6))


def _attributes(own: Mapping) -> tuple[Attribute, ...]:
    return together([Attribute.from_dict(a) for a in own["attributes"]])


@dataclass(frozen=True)
class Row:
    """One prompt and one attribute.

    label   its subject, or the prompt where it has none, or where several share it
    was     shares of the model as it is, corrected where the judge was checked, with 95 % intervals
    now     those with the profile: by every image, where the calibration had a margin, else by the verification; None
            for an audit
    before  what the audit measured
    after   what the verification measured on fresh seeds; None: not verified
    floors  KL that a model on target stays below in 95 of 100 cases: of the audit, and of the verification
    verdict how its calibration ended; "" for an audit
    """
    prompt: str
    label: str
    was: Shares
    now: Shares | None
    before: Distribution
    after: Distribution | None
    floors: tuple[float, float]
    verdict: str = ""

    @property
    def within(self) -> bool:
        """Is the model as it is within chance of the target?"""
        return self.before.kl <= self.floors[0]


@dataclass(frozen=True)
class Means:
    """An attribute over its prompts, each of which counts the same.

    prompts           so many
    shares            [n] mean share of each group
    verified          prompts whose figures below were measured: before, all; with the profile, those that were verified
                      on fresh seeds. Where there are none, the means are NaN
    within            those whose KL is below the floor that a model on target stays below in 95 of 100 cases
    deviation_median, deviation_mean  of each prompt's deviation ratio, 0 to 1
    deviation_chance  its mean for a model on target, by chance at these numbers of images
    kl_mean           in nats
    kl_chance         mean KL of a model on target
    """
    prompts: int
    shares: tuple[float, ...]
    verified: int
    within: int
    deviation_median: float
    deviation_mean: float
    deviation_chance: float
    kl_mean: float
    kl_chance: float


@dataclass(frozen=True)
class Figures:
    """One attribute of one set; `rows` are its measured prompts, those farthest from the target by KL first."""
    at: tuple[int, int]  # the set's place, and the attribute's in it
    attribute: Attribute
    rows: tuple[Row, ...]

    @cached_property
    def before(self) -> Means | None:
        """Of the model as it is; None where no prompt was measured."""
        return _means([(row.was, row.before, row.floors[0]) for row in self.rows])

    @cached_property
    def after(self) -> Means | None:
        """With the profile; None for an audit."""
        return _means([(row.now, row.after, row.floors[1]) for row in self.rows if row.now])

    @property
    def largest(self) -> int:
        """The group that the model as it is shows most, by its mean share."""
        return int(np.argmax(self.before.shares)) if self.before else 0

    @cached_property
    def order(self) -> list[int]:
        """Groups that charts and tables show, as `shown_groups` puts them."""
        return shown_groups(self.before.shares) if self.before else []

    def ranked(self) -> list[Row]:
        """As charts list them: by the share of the largest group, the largest first."""
        return sorted(self.rows, key=lambda row: -row.was.shares[self.largest])


@dataclass(frozen=True)
class Comparison:
    """An attribute of two cards, over the prompts that both measured, in the same order.

    only    labels of prompts that the first card alone has measured, and the second
    """
    first: Figures
    second: Figures
    only: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        return list(zip(self.first.rows, self.second.rows, strict=True))

    @property
    def differ(self) -> int:
        """Prompts whose share of the first card's largest group differs more than chance explains."""
        k = self.first.largest
        return sum(not low <= 0 <= high for low, high in (difference(a.was, b.was, k) for a, b in self.pairs))


def figures(card: Mapping) -> list[Figures]:
    """The figures of every attribute of every set, of a card that `check_card` has read."""
    return [Figures((s, i), a, tuple(sorted(_rows(own, i), key=lambda row: (-row.before.kl, row.label))))
            for s, own in enumerate(card["sets"]) for i, a in enumerate(_attributes(own))]


def compare(first: Mapping, second: Mapping) -> list[Comparison]:
    """Two cards, paired attribute by attribute (of the same target first), and prompt by prompt."""
    left, found = figures(second), []
    for a in figures(first):
        same = [b for b in left if (b.attribute.name, b.attribute.names) == (a.attribute.name, a.attribute.names)]
        if same:
            b = next((b for b in same if np.allclose(b.attribute.target, a.attribute.target)), same[0])
            left.remove(b)
            found.append(_paired(a, b))
    return found


def difference(a: Shares, b: Shares, k: int) -> tuple[float, float]:
    """95 % interval of how much larger the share of group k is in b (Newcombe 1998, method 10)."""
    (low_a, high_a), (low_b, high_b) = a.intervals[k], b.intervals[k]
    p, q = a.shares[k], b.shares[k]
    return q - p - math.hypot(q - low_b, high_a - p), q - p + math.hypot(high_b - q, p - low_a)


def _paired(a: Figures, b: Figures) -> Comparison:
    own = [{same_prompt(row.prompt): row for row in found.rows} for found in (a, b)]
    both = [key for key in own[0] if key in own[1]]
    alone = [tuple(row.label for key, row in mine.items() if key not in theirs)
             for mine, theirs in (own, reversed(own))]
    return Comparison(replace(a, rows=tuple(own[0][key] for key in both)),
                      replace(b, rows=tuple(own[1][key] for key in both)), (alone[0], alone[1]))


def _rows(own: Mapping, i: int) -> Iterator[Row]:
    labels = _labels(own)
    for row in own["rows"]:
        entry = row.get("entry")
        if entry is None:
            continue
        before = _distribution(entry["before"][i])
        measured = entry["after"][i] if entry.get("after") else None
        after = measured and _distribution(measured)
        expected = entry["expected"][i] if own.get("method") and entry.get("expected") else None
        now = Shares(tuple(expected["shares"]), tuple(map(tuple, expected["intervals"])), expected["images"]) \
            if expected else of_shares(after) if after else None
        drawn = measured and measured.get("drawn_floor95")  # draws are spread evenly, which leaves less to chance
        yield Row(row["prompt"], labels[row["prompt"]], of_shares(before), now, before, after,
                  (before.kl_floor95, min(after.kl_floor95, math.inf if drawn is None else drawn) if after
                   else math.inf), (entry.get("verdicts") or [""] * (i + 1))[i])


def _labels(own: Mapping) -> dict[str, str]:
    """What each prompt is called in lists."""
    subjects = Counter(row.get("subject") for row in own["rows"])
    return {row["prompt"]: short(row["subject"] if row.get("subject") and subjects[row["subject"]] == 1
                                 else row["prompt"]) for row in own["rows"]}


def _distribution(m: Mapping) -> Distribution:
    def value(x: Any) -> Any:
        return tuple(map(value, x)) if isinstance(x, list) else math.inf if x is None else x

    return Distribution(**{f.name: value(m[f.name]) for f in fields(Distribution) if f.name in m})


def shown_groups(mean: Sequence[float]) -> list[int]:
    """Groups that a chart tells apart, by their mean shares: the largest first, the others as they were declared."""
    most = len(mean) if len(mean) <= MOST_GROUPS else MOST_GROUPS - 1
    first, *others = np.argsort(-np.asarray(mean), kind="stable")[:most].tolist()
    return [first, *sorted(others)]


def _means(found: Sequence[tuple[Shares | None, Distribution | None, float]]) -> Means | None:
    shown, verified = [shares.shares for shares, _, _ in found if shares], [(d, floor) for _, d, floor in found if d]
    if not shown:
        return None
    ratios = [float(deviation_ratio(of_shares(d).shares)) for d, _ in verified] or [math.nan]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else math.nan

    return Means(
        len(shown), tuple(np.mean(shown, 0).tolist()), len(verified), sum(d.kl <= floor for d, floor in verified),
        float(np.median(ratios)), mean(ratios),
        mean([_chance(round(d.effective or d.n), d.target) for d, _ in verified]),
        mean([d.kl for d, _ in verified]), mean([d.kl_floor_mean for d, _ in verified]))


@lru_cache(maxsize=1024)
def _chance(n: int, target: tuple[float, ...]) -> float:
    """The deviation ratio that a model on target shows on n images, in the mean of 1000 trials."""
    drawn = np.random.default_rng(0).multinomial(max(n, 1), np.array(target) / sum(target), 1000)
    return float(np.mean(deviation_ratio(shares_of(drawn))))
