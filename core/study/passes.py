"""Images before and after a pass, such as a detailer or an edit: whose group changed, how often and to whom."""
from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.stats import binomtest

from ..attribute import SKIN_TONE, SKIN_TONE_3, SKIN_TONE_5, Attribute
from ..calibration.labelled import Labelled
from ..errors import DebiasError, quoted, short
from ..report.sheet import side_by_side
from .tone_change import in_words, tone_change

JUDGES_ERR = "A judge can be wrong about either image, so look at the pairs that changed."
SHOWN = 8  # pairs of each change on the sheet


@dataclass(frozen=True)
class Passage:
    """One attribute in pairs of images.

    attribute  with n groups
    counts     int [n, n], pairs that showed group i before and group j after
    left_out   pairs of which an image has no label
    """
    attribute: Attribute
    counts: np.ndarray
    left_out: int

    @property
    def pairs(self) -> int:
        return int(self.counts.sum())

    @property
    def changed(self) -> int:
        return self.pairs - int(np.trace(self.counts))

    def chance(self, group: int) -> float:
        """Probability in [0, 1] of a change of the group's share at least as lopsided if the pass favoured nobody:
        McNemar's exact test (1947), of three and more groups times their number (Bonferroni)."""
        stays = self.counts[group, group]
        lost, gained = int(self.counts[group].sum() - stays), int(self.counts[:, group].sum() - stays)
        n = len(self.counts)
        return min(1.0, (n if n > 2 else 1) * float(binomtest(lost, lost + gained).pvalue)) if lost + gained else 1.0

    @property
    def lines(self) -> list[str]:
        """The finding in words: how many changed and to whom, then each share."""
        names = self.attribute.names
        if not self.pairs:
            return [f"{self.attribute.name}: no pair has a label in both images."]
        moves = sorted(((int(count), i, j) for (i, j), count in np.ndenumerate(self.counts) if i != j and count),
                       key=lambda move: -move[0])
        found = [f"{self.attribute.name}: {self.changed} of {self.pairs} pairs changed their group"
                 + (f" ({100 * self.changed / self.pairs:.0f} %): " if moves else "")
                 + ", ".join(f"{count} {names[i]} to {names[j]}" for count, i, j in moves) + "."]
        before, after = (self.counts.sum(axis) / self.pairs for axis in (1, 0))
        for k, name in enumerate(names[:1] if len(names) == 2 else names):
            p = self.chance(k)
            verdict = "more than chance explains" if p < .05 else "chance can explain it"
            found.append(f"  {name} {100 * before[k]:.0f} % before, {100 * after[k]:.0f} % after: {verdict} "
                         f"(McNemar's exact test, p = {p:.2g}).")
        return [*found, *([f"  {self.left_out} pairs are left out: an image has no label."] if self.left_out else [])]

    def to_dict(self) -> dict:
        return dict(groups=list(self.attribute.names), counts=self.counts.tolist(), left_out=self.left_out,
                    changed=self.changed, p=[self.chance(k) for k in range(len(self.counts))])


@dataclass(frozen=True)
class Pairs:
    """Labelled images before and after a pass, paired. places: (before, after) indices into their keys."""
    before: Labelled
    after: Labelled
    places: Sequence[tuple[int, int]]
    notes: Sequence[str] = ()

    @property
    def passages(self) -> list[Passage]:
        """One an attribute."""
        found = []
        for i, attribute in enumerate(self.before.attributes):
            counts, left_out = np.zeros((len(attribute.groups),) * 2, int), 0
            for a, b in self._labels(i):
                if a < 0 or b < 0:
                    left_out += 1
                else:
                    counts[a, b] += 1
            found.append(Passage(attribute, counts, left_out))
        return found

    @property
    def tones(self) -> list[float]:
        """Where skin tone is measured, how much lighter skin became in each pair that shows it, in degrees of ITA."""
        if not any(a.names in (SKIN_TONE.names, SKIN_TONE_5.names, SKIN_TONE_3.names) for a in self.before.attributes):
            return []
        shown = ((self.before.thumbs.get(self.before.keys[a]), self.after.thumbs.get(self.after.keys[b]))
                 for a, b in self.places)
        opened = ([Image.open(io.BytesIO(one)) for one in pair if one] for pair in shown)
        changes = (tone_change(np.asarray(pair[0]), np.asarray(pair[1].resize(pair[0].size)))
                   for pair in opened if len(pair) == 2)
        return [change for change in changes if change is not None]

    @property
    def lines(self) -> list[str]:
        """The findings in words."""
        tones = self.tones
        return [*(line for passage in self.passages for line in passage.lines), *([in_words(tones)] if tones else []),
                JUDGES_ERR]

    def _labels(self, i: int) -> list[tuple[int, int]]:
        return [(self.before.round.labels[i][a], self.after.round.labels[i][b]) for a, b in self.places]

    def sheet(self) -> Image.Image | None:
        """Pairs that changed, before on the left; a row for each change. None where none did."""
        rows = []
        for i, attribute in enumerate(self.before.attributes):
            labels = self._labels(i)
            for (a, b), count in Counter(labels).most_common():
                if a == b or a < 0 or b < 0:
                    continue
                thumbs = [(self.before.thumbs.get(self.before.keys[x]), self.after.thumbs.get(self.after.keys[y]))
                          for (x, y), own in zip(self.places, labels) if own == (a, b)]
                shown = [(x, y) for x, y in thumbs if x and y][:SHOWN]
                pictures = [[Image.open(io.BytesIO(pair[at])) for pair in shown] for at in (0, 1)]
                rows.append([(f"before: {attribute.names[a]} ({count})", pictures[0]),
                             (f"after: {attribute.names[b]}", pictures[1])])
        return side_by_side(rows) if any(row[0][1] for row in rows) else None


def in_order(before: Labelled, after: Labelled) -> Pairs:
    """The first with the first and so on. Raises DebiasError for another number, and for labels of persons."""
    _check_pictures(before, after)
    if len(before.keys) != len(after.keys):
        raise DebiasError(f"Expected as many images before the pass as after it, got {len(before.keys)} and "
                          f"{len(after.keys)}. Wire the same images into both.")
    return Pairs(before, after, [(at, at) for at in range(len(before.keys))])


def each_from(image: Labelled, after: Labelled) -> Pairs:
    """One image before the pass, and what it made of it with many seeds. Raises DebiasError for labels of persons."""
    _check_pictures(image, after)
    return Pairs(image, after, [(0, at) for at in range(len(after.keys))])


def paired(before: Labelled, after: Labelled) -> Pairs:
    """Pairs by file name, without its ending ("00012.png" and "00012.webp"). Images without a partner are noted.

    Raises DebiasError where no names are shared, where a name stands for several images, and for labels of persons.
    """
    _check_pictures(before, after)
    first, second = _places(before), _places(after)
    shared = [name for name in first if name in second]
    if not shared:
        names = " and ".join(short(", ".join(list(own)[:2])) for own in (first, second))
        raise DebiasError(f"No image of {quoted(before.title)} has the name of one of {quoted(after.title)}, such as "
                          f"{names}. Give each pair the same file name.")
    sides = (before, first.keys() - second.keys()), (after, second.keys() - first.keys())
    notes = [f"{len(alone)} images of {quoted(side.title)} have no partner and are left out: "
             f"{short(', '.join(sorted(alone)))}." for side, alone in sides if alone]
    return Pairs(before, after, [(first[name], second[name]) for name in shared], notes)


def _check_pictures(*sides: Labelled) -> None:
    if any(side.round.people for side in sides):
        raise DebiasError("Which person of one image is which of the other is not known. Have the judge look at "
                          "whole images or the largest face.")


def _places(labelled: Labelled) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, key in enumerate(labelled.keys):
        file = key.rpartition(" ")[0]
        name = file[:file.rindex(".")]
        if name in found:
            raise DebiasError(f"{quoted(labelled.title)} holds several images named {quoted(name)}. Keep one.")
        found[name] = at
    return found
