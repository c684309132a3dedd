"""A judge's check on the user's own model: how it labels images whose prompt states the group.

What comes out of tune is either the judge's error or the model's disobedience; one judge alone cannot tell them apart.
A second one can, or the user's own eyes: labels corrected by hand are the truth.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..attribute import Attribute
from ..statistics import SMALLEST_SINGULAR_VALUE, confusion_counts, wilson
from ..errors import DebiasError, quoted, short
from ..files import read_json
from ..schema import CHECK, check
from . import name_of

GOOD = 0.9  # a judge that is right less often about a group is said loudly
DISOBEYS = 0.9  # a model of whose images fewer show what their prompt states


@dataclass(frozen=True)
class Check:
    """The check of one attribute's judge.

    counts     [n, n] images: by the group that they show (that the prompt stated, or that a hand set right), the
               group that the judge saw
    left_out   [n] of each group, images without a label
    obeyed     [n] pairs (images that show the stated group, images), by hand or by a second judge; None: not known
    judge      its name
    prompts    [n] what stated the groups, an example each
    """
    attribute: str
    groups: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    left_out: tuple[int, ...]
    judge: str = ""
    prompts: tuple[str, ...] = ()
    obeyed: tuple[tuple[int, int], ...] | None = None
    by: str = field(default="prompts")  # what said which group an image shows: prompts, or a hand

    def __post_init__(self) -> None:
        n = len(self.groups)
        if not self.attribute.strip() or len(set(self.groups)) < n or not all(map(str.strip, self.groups)):
            raise DebiasError("Expected a check of an attribute and its groups, each once, got "
                              f"{quoted(self.attribute)} with {short(', '.join(self.groups))}. Make it again.")
        if [len(row) for row in self.counts] != [n] * n or len(self.left_out) != n:
            raise DebiasError(f"The check of {quoted(self.attribute)} needs {n} rows of {n} counts, got another shape.")
        if self.obeyed is not None and len(self.obeyed) != n:
            raise DebiasError(f"The check of {quoted(self.attribute)} covers only {len(self.obeyed)} of its {n} "
                              "groups. Make it again.")
        if any(shown > pictures for shown, pictures in self.obeyed or ()):
            raise DebiasError(f"By the check of {quoted(self.attribute)}, more images obey than were made. Make it "
                              "again.")
        confusion_counts(self.counts)

    @classmethod
    def of(cls, attribute: Attribute, shown: Sequence[int], seen: Sequence[int], **facts: Any) -> Check:
        """From the group that each image shows (below 0: unknown) and the label that the judge gave it (below 0:
        none). Raises DebiasError where no image of a group was labelled."""
        n = len(attribute.groups)
        counts, left_out = np.zeros((n, n), int), np.zeros(n, int)
        for group, label in zip(shown, seen, strict=True):
            if group < 0:
                continue
            if label < 0:
                left_out[group] += 1
            else:
                counts[group, label] += 1
        empty = [attribute.names[i] for i in range(n) if not counts[i].sum()]
        if empty:
            raise DebiasError(f"None of the images of {quoted(empty[0])} was classified by "
                              f"{quoted(attribute.name)}, so the judge cannot be checked. Make more images, or "
                              "use another judge.")
        return cls(attribute.name, attribute.names, tuple(map(tuple, counts.tolist())), tuple(left_out.tolist()),
                   **facts)

    @property
    def right(self) -> list[tuple[float, float, float]]:
        """(share, low, high) of each group's classified images that the judge labels as that group, 95 %."""
        found = []
        for i, row in enumerate(self.counts):
            low, high = wilson(row[i], sum(row))
            found.append((row[i] / sum(row), float(low), float(high)))
        return found

    @property
    def usable(self) -> bool:
        """Can shares be corrected by it?"""
        c = confusion_counts(self.counts)
        return bool(np.linalg.svd(c / c.sum(1, keepdims=True), compute_uv=False)[-1] >= SMALLEST_SINGULAR_VALUE)

    @property
    def lines(self) -> list[str]:
        """The matrix in words: for each group, how often the judge is right, and its wrong labels."""
        found = []
        for i, (name, row, (share, low, high)) in enumerate(zip(self.groups, self.counts, self.right, strict=True)):
            taken = ", ".join(f"{100 * count / sum(row):.0f} % as {short(other)}" for j, (other, count) in
                              enumerate(zip(self.groups, row, strict=True)) if count and j != i)
            left = f"; {self.left_out[i]} left out" if self.left_out[i] else ""
            found.append(f"{short(name)}: {100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {sum(row)} "
                         f"images labelled correctly{f', {taken}' if taken else ''}{left}")
        return found

    @property
    def warnings(self) -> list[str]:
        """Warnings: groups on which the judge is right too rarely, and a model that does not follow its prompt."""
        found = []
        for i, (name, (share, _, _)) in enumerate(zip(self.groups, self.right, strict=True)):
            obeyed = self.obeyed and self.obeyed[i]
            if obeyed and obeyed[1] and obeyed[0] / obeyed[1] < DISOBEYS:
                found.append(f"the model shows {quoted(name)} in {100 * obeyed[0] / obeyed[1]:.0f} % of the images "
                             "whose prompt states it: it does not follow the prompt")
            if share < GOOD:
                either = "" if self.by != "prompts" else ("; or the model does not follow the prompt: look at the "
                                                          "images")
                found.append(f"only {100 * share:.0f} % of the images of {quoted(name)} are labelled correctly by "
                             f"{short(self.judge) or 'the judge'}{either}")
        if not self.usable:
            found.append(f"the judge does not tell the groups of {quoted(self.attribute)} apart, so shares "
                         "cannot be corrected by this check")
        return found

    def to_dict(self) -> dict:
        """JSON form."""
        return dict(attribute=self.attribute, groups=list(self.groups), counts=[list(row) for row in self.counts],
                    left_out=list(self.left_out), judge=self.judge, prompts=list(self.prompts), by=self.by,
                    **({} if self.obeyed is None else dict(obeyed=[list(pair) for pair in self.obeyed])))

    @classmethod
    def from_dict(cls, data: Mapping) -> Check:
        """Read the JSON form. Raises DebiasError."""
        check(data, CHECK, "This check of a judge", "Make it again.")
        pairs = data.get("obeyed")
        return cls(data["attribute"], tuple(data["groups"]), tuple(tuple(map(int, row)) for row in data["counts"]),
                   tuple(map(int, data["left_out"])), data.get("judge", ""), tuple(data.get("prompts") or ()),
                   None if pairs is None else tuple((int(a), int(b)) for a, b in pairs), data.get("by", "prompts"))

    def fits(self, attribute: Attribute) -> None:
        """Raises DebiasError where it is of another attribute, or cannot correct shares."""
        if (self.attribute, self.groups) != (attribute.name, attribute.names):
            raise DebiasError(f"The judge's check is of {quoted(self.attribute)} "
                              f"({short(', '.join(self.groups))}), but {quoted(attribute.name)} "
                              f"({short(', '.join(attribute.names))}) is measured. Check the judge for this "
                              "attribute.")
        if not self.usable:
            raise DebiasError(f"By its check, the judge does not tell the groups of {quoted(attribute.name)} "
                              f"apart. Use another one, or merge the groups that it confuses.")


def check_same(judges: Sequence[Any], checks: Sequence[Check | None]) -> None:
    """Raises DebiasError where a checked judge is not the one that labels the images."""
    for judge, own in zip(judges, checks):
        name = name_of(judge)
        if own is not None and own.judge and own.judge != name:
            raise DebiasError(f"The check of {quoted(own.attribute)} is of {quoted(own.judge)}, but {quoted(name)} "
                              f"labels the images. Check that judge, or leave the check out.")


def read_checks(file: str | Path) -> list[Check]:
    """The checks of judges that a file holds, as {"checks": [...]}. Raises DebiasError."""
    data = read_json(file)
    if not isinstance(data, dict) or not isinstance(data.get("checks"), list):
        raise DebiasError(f"{quoted(file)} is not a check of a judge. Make one with sd-debias check, or the "
                          "script 'Debias: audit and calibrate'.")
    return list(map(Check.from_dict, data["checks"]))


def of_each(checks: Sequence[Check], attributes: Sequence[Attribute]) -> list[Check | None]:
    """The last check of each attribute, None where there is none; [] without any check."""
    found = {check.attribute: check for check in checks}
    return [found.get(attribute.name) for attribute in attributes] if found else []


def counts_of(checks: Sequence[Check | None], at: int) -> tuple[tuple[int, ...], ...] | None:
    """The confusion counts for an attribute's place; None without a check."""
    found = checks[at] if at < len(checks) else None
    return None if found is None else found.counts
