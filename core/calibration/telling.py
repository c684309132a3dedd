"""Can the judge tell a group from the others on this model? Our own rule.

Images that are fully pushed to a group have its text in their prompt, so most of them must be labelled as that group.
Where they are not, the judge cannot see the group or the model cannot draw it, and no share of it means anything.
`tests/core/test_telling.py` simulates how often a judge that can tell is suspected: in fewer than 1 of 100.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import beta

from ..errors import quoted, short

CERTAINTY = 0.95
HALF = 0.5        # of the pushed images must be labelled as their group
LARGEST = 0.7     # a group of a larger share without guidance need not beat it: pushes can barely add to that
PROOF = 20        # images that are pushed to a group where too few are to tell
MOST = 60         # and so many at most


@dataclass(frozen=True)
class Told:
    """What images pushed to one group were labelled as.

    right, made  so many of the labelled ones as the group itself, and how many there are
    unguided     the group's share without guidance, 0 to 1
    wordless     has the group no words of its own? Then nothing is steered to it
    """
    group: str
    right: int
    made: int
    unguided: float = 0.0
    wordless: bool = False

    @property
    def known(self) -> bool:
        """Is the lower 95 % bound of the right rate (Jeffreys) above a half, and above the unguided share?"""
        low = beta.ppf(1 - CERTAINTY, self.right + 0.5, self.made - self.right + 0.5)
        return self.made > 0 and bool(low > max(HALF, min(self.unguided, LARGEST)))

    @property
    def doubt(self) -> str:
        """In words, for a group that is not known."""
        return (f"only {self.right} of {self.made} images steered to {quoted(short(self.group))} are labelled as it"
                if self.made else f"no image was steered to {quoted(short(self.group))}")


def doubts(told: Sequence[Told]) -> str:
    """Why shares of an attribute mean nothing, in one sentence's words; "" where the judge tells every group of which
    images were made."""
    pushed = [own for own in told if own.made and not own.wordless]
    found = [own.doubt for own in pushed if not own.known]
    return f"the judge cannot tell, or the model cannot show: {'; '.join(found)}" if found else ""


def wanted(told: Sequence[Told]) -> list[int]:
    """Groups, by their place, to which more images must be pushed before it is known whether the judge tells them:
    all of them where none was pushed."""
    steered = [(i, own) for i, own in enumerate(told) if not own.wordless]
    none = not any(own.made for _, own in steered)
    return [i for i, own in steered if (none or own.made) and not own.known and own.made < MOST]
