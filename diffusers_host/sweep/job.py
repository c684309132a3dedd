"""One prompt of a sweep: its calibration or audit, and what it learns from."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...core.attribute import Attribute
from ...core.calibration.loop import Calibration
from ...core.calibration.plan import Plan, seeds_of
from ...core.errors import DebiasError
from ...core.judge.check import Check
from ...core.method.methods import Method
from .worker import Task

# What pushes did to earlier prompts counts a little for later ones, so that those cost less. Of every
# eight prompts the first two teach the other six: whoever works on them, and in whatever order they
# end, the same ones teach the same ones.
GROUP, TEACHERS = 8, 2


@dataclass(frozen=True)
class Wanted:
    """A prompt that a sweep measures.

    variant  which of the sweep's sets of attributes
    states   groups that the prompt states itself, by attribute: it is audited only, to see whether
             the model obeys
    """
    prompt: str
    variant: int
    subject: str | None = None
    states: dict[str, str] = field(default_factory=dict)


class Job:
    """The calibration or audit of one prompt on one model.

    teachers     jobs that are finished first: what pushes did there counts a little here
    thumbs       JPEG thumbnails in base64, "before" and "after", by seed
    evaluations  of the model; None where nobody counted
    failed       why workers could not measure it, by worker
    error        why nothing can be measured; None where all is well
    """

    def __init__(self, number: int, wanted: Wanted, attributes: Sequence[Attribute], method: Method,
                 plan: Plan, checks: Sequence[Check | None] = ()):
        self.number, self.wanted = number, wanted
        plan = replace(plan, seed=plan.seed + seeds_of(wanted.prompt))
        own = audit_of(plan) if wanted.states else plan
        self.calibration = Calibration(wanted.prompt, attributes, method, own, checks=checks)
        self.teachers: list[Job] = []
        self.thumbs: dict[str, dict[str, str]] = {}
        self.evaluations: int | None = 0
        self.failed: dict[str, str] = {}
        self.tries, self.failed_at = 0, 0.0
        self.error: str | None = None

    @property
    def finished(self) -> bool:
        return self.error is not None or self.calibration.finished

    @property
    def taught(self) -> bool:
        """Are its teachers finished?"""
        return all(teacher.finished for teacher in self.teachers)

    @property
    def images(self) -> int:
        """How many are measured."""
        return sum(r.done for r in self.calibration.rounds)

    def learn(self) -> None:
        self.calibration.learn_from([teacher.calibration for teacher in self.teachers])

    def task(self, seconds: float) -> Task:
        """What a worker is asked for."""
        taught = tuple(teacher.calibration.to_dict() for teacher in self.teachers)
        return Task(self.number, self.wanted.prompt, self.wanted.variant, self.calibration.to_dict(),
                    taught, seconds)

    def take(self, found: dict) -> None:
        """Take over what a worker gave back, or what an earlier run kept. Raises DebiasError for
        another prompt's, and for what is no state."""
        state, mine = Calibration.from_dict(found["state"]), self.calibration
        if (state.prompt, state.attributes, state.method, state.plan, state.checks) != (
                mine.prompt, mine.attributes, mine.method, mine.plan, mine.checks):
            raise DebiasError("It is the state of another calibration.")
        self.calibration = state
        self.learn()
        for when, own in found["thumbs"].items():
            self.thumbs[when] = self.thumbs.get(when, {}) | own
        more = found["evaluations"]
        known = self.evaluations is not None and more is not None
        self.evaluations = self.evaluations + more if known else None

    def to_dict(self) -> dict:
        """What the sweep's folder keeps, as `take` reads it."""
        return dict(state=self.calibration.to_dict(), thumbs=self.thumbs, evaluations=self.evaluations)


def audit_of(plan: Plan) -> Plan:
    """The plan of an audit with the same images."""
    return Plan(plan.images, rounds=0, held_out=0, batch_size=plan.batch_size, seed=plan.seed,
                confidence=plan.confidence)


def groups(wanted: Sequence[Wanted], method: Method, plan: Plan) -> list[list[int]]:
    """Places of the prompts by groups of one set of attributes; those that neither teach nor learn stand alone."""
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
