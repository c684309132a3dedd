"""How far an audit or a calibration is, in words."""
from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Sequence

from ..calibration.loop import Calibration
from ..calibration.plan import duration
from ..calibration.round import HELD_OUT, PROOF, ROUND, Round, round_names
from ..calibration.standing import in_percent
from ..statistics import named_shares


@dataclass(frozen=True)
class Progress:
    """The progress of the work.

    current       the round that is measured; None before the first image of a prompt
    done, most    images of all prompts so far, and the largest number expected
    seconds       that those took which are done
    about         images still to come
    """
    calibration: Calibration
    current: Round | None
    prompts: int
    done: int
    most: int
    seconds: float = 0.0
    about: int = 0

    @property
    def total(self) -> int:
        """Estimated total number of images."""
        return self.done + self.about

    @property
    def left(self) -> str:
        """What is still to come, how long it takes at the speed so far, and the maximum left; "" if nothing is left."""
        most = self.most - self.done
        if most <= 0:
            return ""
        time = f", {duration(self.about * self.seconds / self.done)}" if self.done and self.seconds else ""
        return f"about {self.about:,} images more{time}" + (f"; at most {most:,}" if most > self.about else "")

    @property
    def name(self) -> str:
        """The round's, as in charts: audit, round 1, ..., held-out."""
        names = round_names([r.kind for r in self.calibration.rounds])
        return names[-1] if names else "audit"

    @property
    def title(self) -> str:
        kind, rounds = self.current and self.current.kind, self.calibration.plan.rounds
        if kind == ROUND and self.calibration.plan.within is not None:
            return self.name
        return f"{self.name} of at most {rounds}" if kind == ROUND else \
            {HELD_OUT: "verification on fresh seeds", PROOF: "proof that the judge can tell"}.get(kind or "", "audit")

    @property
    def shares(self) -> list[str]:
        """One line for each attribute of which an image was classified."""
        c = self.calibration
        if c.plan.within is not None and self.current and self.current.kind == ROUND and self.current.complete:
            return [f"{a.name}, with the weights so far: {c.expected(i).line(a.names)}; sought within "
                    f"{100 * c.plan.within:g} points of {named_shares(a.names, a.target)}"
                    for i, a in enumerate(c.attributes)]
        return [f"{a.name}: {', '.join(f'{group} {share:.0%}' for group, share in zip(a.names, d.shares))}; "
                f"KL {d.kl:.4f}" for i, a in enumerate(self.calibration.attributes)
                if self.current and self.current.labels and self.current.shows(i)
                for d in [self.calibration.distribution(self.current, i)]]

    @property
    def text(self) -> str:
        """A few lines: the prompt, where there are several; the round; the shares so far; what is left."""
        return "\n".join([*self._head, *self.shares, *filter(None, [self.left])])

    @property
    def line(self) -> str:
        """The same in one line for a place that cuts long ones, of about a hundred letters."""
        head = [textwrap.shorten(part, 40, placeholder="...") for part in self._head]
        return "; ".join([*head, *filter(None, [self.left.partition(";")[0]]), *self._brief])

    @property
    def _brief(self) -> list[str]:
        """Shares in whole percents: those of the weights so far, where they are sought, else the round's."""
        c, r = self.calibration, self.current
        if r is None:
            return []
        if c.plan.within is not None and r.kind == ROUND and r.complete:
            return [f"{a.name} {in_percent(c.expected(i).shares)}" for i, a in enumerate(c.attributes)]
        return [f"{a.name} {in_percent(c.distribution(r, i).shares)}" for i, a in enumerate(c.attributes)
                if r.labels and r.shows(i)]

    @property
    def _head(self) -> list[str]:
        prompt = [self.calibration.prompt] if self.prompts > 1 else []
        return prompt if self.current is None else [
            *prompt, f"{self.title}: {self.current.done} of {len(self.current.seeds)} images"]


def progress_of(calibrations: Sequence[Calibration], number: int, current: Round | None) -> Progress:
    calibration, most = calibrations[number], 0
    about = sum(c.about_left for c in calibrations[number:])
    for at, c in enumerate(calibrations):
        begun = sum(len(r.seeds) for r in c.rounds)
        over = at < number or bool(c.rounds) and c.rounds[-1].kind == HELD_OUT
        most += begun if over else max(c.plan.most_images, begun + c.plan.held_out)
    rounds = [r for c in calibrations for r in c.rounds]
    return Progress(calibration, current, len(calibrations), sum(r.done for r in rounds), most,
                    sum(r.seconds for r in rounds), about)
