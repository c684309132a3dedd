"""One prompt of a sweep: which pictures are due, and what came back, in whatever order."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...core.attribute import Attribute
from ...core.calibration.loop import Calibration
from ...core.calibration.round import AUDIT, HELD_OUT
from ...core.calibration.plan import Plan, seeds_of
from ...core.errors import DebiasError
from ...core.judge.check import Check
from ...core.method.methods import Method
from ...core.study.unit import Unit, audit_of, fits, fragment, weights_of

# What pushes did to earlier prompts counts a little for later ones, so that those cost less. Of every eight prompts the
# first two teach the other six: whoever works on them, and in whatever order they end, the same ones teach the same
# ones. Groups share nothing, so that a job array can be given whole groups.
GROUP, TEACHERS = 8, 2


@dataclass(frozen=True)
class Wanted:
    """A prompt that a sweep measures.

    variant  which of the sweep's sets of attributes
    states   groups that the prompt states itself, by attribute: it is audited only, to see whether the model obeys
    """
    prompt: str
    variant: int
    subject: str | None = None
    states: dict[str, str] = field(default_factory=dict)


class Job:
    """The calibration or audit of one prompt on one model.

    teachers  jobs that are finished first: what pushes did there counts a little here
    asked  places of the batches that somebody is at work on, by (round, first seed)
    error  why nothing can be measured; None where all is well
    """

    def __init__(self, number: int, wanted: Wanted, attributes: Sequence[Attribute], method: Method, plan: Plan,
                 checks: Sequence[Check | None] = ()):
        self.number, self.wanted = number, wanted
        plan = replace(plan, seed=plan.seed + seeds_of(wanted.prompt))
        self.calibration = Calibration(wanted.prompt, attributes, method, audit_of(plan) if wanted.states else plan,
                                       checks=checks)
        self.teachers: list[Job] = []
        self.asked: set[tuple[int, int]] = set()
        self.error: str | None = None
        self._done = False
        self.thumbs: dict[str, dict[str, str]] = {AUDIT: {}, HELD_OUT: {}}
        self._came: dict[tuple[int, str, int], tuple[dict, float]] = {}  # by round, weights and first seed

    @property
    def finished(self) -> bool:
        if not self._done:  # asked for very often, and a calibration that is finished stays so
            self._done = self.error is not None or self.calibration.finished
        return self._done

    @property
    def taught(self) -> bool:
        """Are its teachers finished?"""
        return all(teacher.finished for teacher in self.teachers)

    def learn(self) -> None:
        """To be called once, before its first picture."""
        self.calibration.learn_from([teacher.calibration for teacher in self.teachers])

    def replay(self) -> None:
        """Count all that an earlier run measured, before anything is asked for. Teachers first."""
        if self.error is None and self.taught:
            self.learn()
            if not self.finished:
                self._advanced()

    def remember(self, round_number: int, weights: str, batch: dict, seconds: float) -> None:
        """A batch that was measured, now or by an earlier run. Of a doubled one the first counts."""
        if not fits(batch, [len(a.groups) for a in self.calibration.attributes]):
            return  # damaged: it is measured again
        if not self.finished:
            self._came.setdefault((round_number, weights, batch["first"]), (batch, seconds))
        elif round_number < len(rounds := self.calibration.rounds) and "thumbs" in batch:
            self.thumbs[rounds[round_number].kind] |= batch["thumbs"]

    def restore(self, state: Calibration) -> None:
        """The prompt was finished by an earlier run, with this state."""
        mine = self.calibration
        if (state.prompt, state.attributes, state.method, state.plan) == (mine.prompt, mine.attributes, mine.method,
                                                                          mine.plan):
            state.learn_from([teacher.calibration for teacher in self.teachers])
            self.calibration = state if state.finished else mine

    def due(self, most: int) -> Unit | None:
        """At most so many batches that nobody is at work on, which lie side by side; None where there are none."""
        while not self.finished:
            current = self._advanced()
            if current is None:
                return None
            number, each = len(self.calibration.rounds) - 1, self.calibration.plan.batch_size
            weights = weights_of(current.steerings)
            starts: list[int] = []
            for place in range(current.done, len(current.seeds), each):
                seed = current.seeds[place]
                if (number, seed) not in self.asked and (number, weights, seed) not in self._came:
                    starts.append(place)
                    if len(starts) == most:
                        break
                elif starts:
                    break
            if not starts:
                return None
            self.asked |= {(number, current.seeds[place]) for place in starts}
            count = min(starts[-1] + each, len(current.seeds)) - starts[0]
            return Unit(self.number, self.wanted.prompt, self.wanted.variant, number, current.kind,
                        tuple(s.to_dict() for s in current.steerings), (current.seeds[starts[0]], count), starts[0],
                        bool(self.calibration.plan.rounds or self.calibration.plan.held_out))
        return None

    def left(self) -> int:
        """Batches of the current round that nobody is at work on; 1 where that is not known yet."""
        current = self.calibration.rounds[-1] if self.calibration.rounds else None
        if current is None or current.complete:
            return 1
        batches = -(-(len(current.seeds) - current.done) // self.calibration.plan.batch_size)
        return max(batches - len(self.asked), 0)

    def _advanced(self):
        """The current round, with all that came for it added in order; None where the prompt is done."""
        try:
            while (current := self.calibration.next_round()) is not None:
                number, weights = len(self.calibration.rounds) - 1, weights_of(current.steerings)
                while not current.complete:
                    found = self._came.pop((number, weights, current.seeds[current.done]), None)
                    due = min(self.calibration.plan.batch_size, len(current.seeds) - current.done)
                    if found is None or found[0]["count"] != due:
                        return current
                    batch, seconds = found
                    self.asked.discard((number, batch["first"]))
                    current.seconds += seconds
                    if current.kind in self.thumbs:
                        self.thumbs[current.kind] |= batch.get("thumbs", {})
                    self.calibration.add(fragment(batch, current.kind, current.steerings))
        except DebiasError as error:
            self.error = str(error)
        return None


def groups(wanted: Sequence[Wanted], method: Method, plan: Plan) -> list[list[int]]:
    """Places of the prompts by groups of one set of attributes; those that neither teach nor are taught, such as all of
    an audit, stand alone."""
    found: list[list[int]] = []
    open_groups: dict[int, list[int]] = {}
    for place, own in enumerate(wanted):
        if own.states or not plan.rounds or method.spend != "draw":
            found.append([place])
            continue
        group = open_groups.get(own.variant)
        if group is None or len(group) == GROUP:
            group = open_groups[own.variant] = []
            found.append(group)
        group.append(place)
    return found


def assign_teachers(jobs: Sequence[Job], method: Method, plan: Plan) -> None:
    """Let the first of each group teach the others."""
    for group in groups([job.wanted for job in jobs], method, plan):
        for place in group[TEACHERS:]:
            jobs[place].teachers = [jobs[first] for first in group[:TEACHERS]]
