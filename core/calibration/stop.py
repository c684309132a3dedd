"""Why a calibration tries no further round, and the sentences that say it."""
from __future__ import annotations

from enum import Enum, auto
from math import ceil
from typing import TYPE_CHECKING

from ..statistics import named_shares, shares
from . import solver
from .plan import CERTAINTY

if TYPE_CHECKING:
    from .loop import Calibration

NOT_KNOWN = "not known"


class Stop(Enum):
    """Why no further round is due.

    UNCHANGED     the audit meets the target
    SURE          every share lies within the plan's margin, as surely as asked for
    REACHED       a round meets the target; of a plan without a margin
    UNTOLD        one of these three, but the judge or the model cannot show a group
    CHECKED       the rest of what is not known is the judge's check's
    OUT_OF_REACH  no push brings a share within the margin
    USED_UP       the plan has no images left
    """
    UNCHANGED = auto()
    SURE = auto()
    REACHED = auto()
    UNTOLD = auto()
    CHECKED = auto()
    OUT_OF_REACH = auto()
    USED_UP = auto()


def words(c: Calibration) -> str:
    """Why a calibration ended; "" before it has."""
    if c.stop is None:
        return ""
    if c.stop is Stop.UNTOLD:
        unclear = [f"{a.name}: {said}" for i, a in enumerate(c.attributes) if (said := c.doubts(i))]
        return f"{NOT_KNOWN}; {'; '.join(unclear)}"
    return _why(c, c.stop) + _steered_more(c)


def _why(c: Calibration, stop: Stop) -> str:
    plan = c.plan
    if stop is Stop.UNCHANGED:
        return "the audit already meets the target; nothing to correct"
    if stop is Stop.SURE:
        return f"sure enough: within {100 * (plan.within or 0):g} points of the target, {CERTAINTY:.0%} certain"
    if stop is Stop.REACHED:
        return "target reached; the remaining difference is within sampling noise" if plan.tolerance is None else \
            f"target reached: KL is at most {plan.tolerance:g}"
    if stop is Stop.CHECKED:
        return ("as sure as the judge's check allows: a share may still be up to "
                f"{ceil(100 * c.widest)} points off target; check the judge on more images")
    if stop is Stop.OUT_OF_REACH:
        return "out of reach: " + "; ".join(
            f"steering {a.name} gives about {named_shares(a.names, c.expected(i).shares)}, but the target is "
            f"{named_shares(a.names, a.target)}" for i, a in enumerate(c.attributes) if c.hopeless(i))
    if plan.within is None:
        nearest = [solver.nearest(c.history(i), aim).counts for i, aim in enumerate(c.aims)]
        return f"all {plan.rounds} rounds used; the nearest shares that were seen: " + "; ".join(
            f"{a.name}, {named_shares(a.names, shares(counts).tolist())}"
            for a, counts in zip(c.attributes, nearest) if counts.any())
    used = f"not sure enough: the plan's {plan.most_images - plan.held_out} images are used up"
    if c.widest > plan.within:
        return f"{used}, and a share may still be up to {ceil(100 * c.widest)} points off target"
    return f"{used} at a certainty of {min(map(c.certainty, range(len(c.attributes)))):.1%}"


def _steered_more(c: Calibration) -> str:
    """How many images are steered because few were measured; "" where no more than needed."""
    found = []
    for attribute, steering, least in zip(c.attributes, c.steerings, c.least_steerings):
        most, fewer = (round(100 * (1 - s.probabilities[0])) if s.probabilities else 0 for s in (steering, least))
        if most > fewer + 2:  # less may be what other prompts of a list have told since
            found.append(f"{most} % of the images are steered ({attribute.name}); after a longer calibration, "
                         f"about {fewer} % would do")
    return "; " + " and ".join(found) if found else ""
