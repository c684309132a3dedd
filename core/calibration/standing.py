"""How a calibration or an audit stands: each attribute's shares before and now, beside their target."""
from __future__ import annotations

from dataclasses import dataclass

from .loop import Calibration
from .round import HELD_OUT, PROOF, Round
from ..distribution import Distribution


@dataclass(frozen=True)
class Shares:
    """Shares [n], their 95 % intervals [n, 2], and how many images they are of."""
    shares: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    images: int

    def words(self) -> str:
        """In percent, "71 / 29", in the order of the groups; the sum is 100."""
        return in_percent(self.shares)


@dataclass(frozen=True)
class Standing:
    """Of one attribute of one prompt.

    was      without guidance; None before an image was classified
    now      with the weights so far: by every image of a plan with a margin, else of the last round; None for a model's
             audit. Of images that somebody brought, as they are
    verdict  how a finished calibration ended, "on target" or what is amiss; "" before that, and for an audit
    """
    prompt: str
    attribute: str
    groups: tuple[str, ...]
    target: tuple[float, ...]
    was: Shares | None
    now: Shares | None
    verdict: str = ""

    @property
    def text(self) -> str:
        """In a sentence or two: "Target 50 / 50. Was 71 / 29. Now 48 / 52: on target."; of an audit "Shows 71 / 29"."""
        parts, only = [f"Target {in_percent(self.target)}"], self.was or self.now
        if self.was and self.now:
            parts += [f"Was {self.was.words()}",
                      f"Now {self.now.words()}" + (f": {self.verdict}" if self.verdict else "")]
        elif only:
            parts.append(f"Shows {only.words()}")
        return ". ".join(parts) + "."

    def to_dict(self) -> dict:
        """As plain values, for pages."""
        def plain(shares: Shares | None) -> dict | None:
            return None if shares is None else dict(
                shares=list(shares.shares), intervals=[list(edges) for edges in shares.intervals], images=shares.images)

        return dict(prompt=self.prompt, attribute=self.attribute, groups=list(self.groups), target=list(self.target),
                    was=plain(self.was), now=plain(self.now), verdict=self.verdict, text=self.text)


def standings(c: Calibration) -> list[Standing]:
    """Of every attribute of a calibration or an audit, at any time."""
    return [_standing(c, i) for i in range(len(c.attributes))]


def of_shares(d: Distribution) -> Shares:
    """Corrected ones, where the judge was checked."""
    if d.corrected is not None and d.corrected_intervals is not None:
        return Shares(d.corrected, d.corrected_intervals, d.n)
    return Shares(d.shares, d.intervals, d.n)


def in_percent(shares: tuple[float, ...]) -> str:
    """Whole percents with the sum 100: those are rounded up whose parts are the largest."""
    whole = [int(100 * share + 1e-9) for share in shares]
    largest = sorted(range(len(shares)), key=lambda i: whole[i] - 100 * shares[i])
    for i in largest[:round(100 * sum(shares)) - sum(whole)]:
        whole[i] += 1
    return " / ".join(map(str, whole))


def _standing(c: Calibration, i: int) -> Standing:
    a = c.attributes[i]

    def seen(r: Round) -> Shares:
        return of_shares(c.distribution(r, i))

    labelled = [r for r in c.rounds if r.done and any(label >= 0 for label in r.labels[i])]
    labelled = [r for r in labelled if r.kind != PROOF]
    tried, now = [r for r in labelled if r.complete and r.kind != HELD_OUT], None
    if c.plan.rounds and tried:
        if c.plan.within is None:
            now = seen(labelled[-1]) if len(labelled) > 1 else None
        elif len(tried) > 1 or c.stop is not None:
            found = c.expected(i)
            now = Shares(found.shares, found.intervals, sum(r.done for r in tried))
    was = seen(labelled[0]) if labelled else None
    return Standing(c.prompt, a.name, a.names, a.target, was, now, c.verdict(i) if c.plan.rounds else "")
