"""The driver of a sweep: one runner a prompt, and an engine that does their units. It never waits for one prompt."""
from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...core.errors import DebiasError, short
from .engine import Answer, Engine
from .job import Job
from ...core.study.unit import Unit, answers, blank, digest

SECONDS = 10.0   # that a unit should take: long beside its way, short beside a night
STRIKES = 3      # units in a row at which a worker failed, after which it is given nothing more
TRIES = 5        # of one unit, by several workers; 2 where there is one
SLOW = 10.0      # times as long as units usually take: then somebody else tries too
PATIENCE = 60.0  # seconds, at least, before that

Key = tuple[int, int, int]  # job, round, first seed


@dataclass
class _AtWork:
    unit: Unit
    since: float
    workers: set[str] = field(default_factory=set)


class Driver:
    """Runs all jobs of one model to their end.

    record  is given every measured unit's line, before it counts
    ended   is called with each job that is finished
    say     is called after every answer
    facts   what workers must agree in; None: the first worker says it

    Raises DebiasError where no worker is left.
    """

    def __init__(self, jobs: Sequence[Job], engine: Engine, *, record: Callable[[Unit, dict, str], None],
                 ended: Callable[[Job], None] = lambda job: None, say: Callable[[], None] = lambda: None,
                 learn_facts: Callable[[dict], None] = lambda facts: None, facts: dict | None = None,
                 warn: Callable[[str], None] = lambda text: None):
        self.jobs, self.engine, self.facts = {job.number: job for job in jobs}, engine, facts
        self._record, self._ended, self._say, self._learn, self._warn = record, ended, say, learn_facts, warn
        self._learners: dict[int, list[Job]] = defaultdict(list)
        for job in jobs:
            for teacher in job.teachers:
                self._learners[teacher.number].append(job)
        self._openable = deque(job for job in jobs if not job.finished and job.taught)
        self._ready: deque[Job] = deque()
        self._closed: set[int] = set()
        self._gone: set[str] = set()
        self._again: deque[tuple[Unit, frozenset[str], float]] = deque()  # and since when
        self._at_work: dict[Key, _AtWork] = {}
        self._tries: dict[Key, int] = defaultdict(int)
        self._strikes: dict[str, set[Key]] = defaultdict(set)
        self._doubts: dict[Key, tuple[str, str]] = {}  # units that one worker says cannot be made: who, and why
        self._batch_seconds: float | None = None
        self._unit_seconds: float | None = None
        self._trouble = ""

    def run(self) -> None:
        """Return when every job is finished. After an interruption, all answers so far are recorded."""
        while True:
            self._give()
            if not self._at_work and not self._again and not self._ready and not self._openable:
                return
            for answer in self.engine.answers(5.0):
                self._take(answer)
            due = self._at_work or self._again or self._ready or self._openable
            if due and not self.engine.workers():
                raise DebiasError(f"No worker is left. {self._trouble or 'All were lost.'} What was measured is kept: "
                                  "run the same command again to continue.")
            self._say()

    # --- giving ------------------------------------------------------------------------------------------------------

    def _give(self) -> None:
        for unit, avoid, since in [self._again.popleft() for _ in range(len(self._again))]:
            nobody_else = self.engine.workers() <= 1 or time.monotonic() - since > PATIENCE  # who may never open
            if self.engine.free(avoid):
                self._hand(unit, avoid)
            elif nobody_else and self.engine.free():
                self._hand(unit, frozenset())
            else:
                self._again.append((unit, avoid, since))
        while self.engine.free():
            unit = self._next()
            if unit is None:
                self._double()
                return
            self._hand(unit, frozenset())

    def _next(self) -> Unit | None:
        """The next unit that is due; jobs that were begun come before new ones."""
        while self._ready or self._openable:
            if not self._ready:
                self._ready.append(self._openable.popleft())
                self._ready[0].learn()
            job = self._ready[0]
            unit = job.due(self._size(job))
            if unit is not None:
                return unit
            self._ready.popleft()
            if job.finished and job.number not in self._closed:
                self._closed.add(job.number)
                self._close(job)
        return None

    def _size(self, job: Job) -> int:
        """Batches per unit: enough for some seconds of work, and few enough that every worker gets one."""
        most = 1 if not self._batch_seconds else max(1, int(SECONDS / self._batch_seconds))
        return min(most, max(1, math.ceil(job.left() * len(self._ready) / max(self.engine.workers(), 1))))

    def _hand(self, unit: Unit, avoid: frozenset[str]) -> None:
        worker = self.engine.give(unit, avoid)
        self._at_work.setdefault(_key(unit), _AtWork(unit, time.monotonic())).workers.add(worker)

    def _double(self) -> None:
        """If nothing is due and a worker is free, give out units again that take much too long."""
        limit = max(PATIENCE, SLOW * (self._unit_seconds or 0))
        for own in self._at_work.values():
            avoid = frozenset(own.workers)
            if len(avoid) == 1 and time.monotonic() - own.since > limit and self.engine.free(avoid):
                self._hand(own.unit, avoid)

    # --- taking ------------------------------------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        if answer.lost:
            self._lose(answer.worker, answer.error)
        elif answer.unit is None:
            self._greet(answer)
        elif answer.found is not None:
            self._count(answer.worker, answer.unit, answer.found)
        else:
            self._fail(answer)

    def _greet(self, answer: Answer) -> None:
        if answer.found is None:
            self._retire(answer.worker, f"{answer.worker} could not be started: {answer.error}")
        elif self.facts is None:
            self.facts = answer.found
            self._learn(answer.found)
        elif digest(answer.found) != digest(self.facts):
            self._retire(answer.worker, f"{answer.worker} is refused: {difference(self.facts, answer.found)}")

    def _count(self, worker: str, unit: Unit, found: dict) -> None:
        if not answers(found, unit, [len(a.groups) for a in self.jobs[unit.job].calibration.attributes]):
            self._fail(Answer(worker, unit, error="its answer does not fit the request"))
            return
        if found["facts"] != digest(self.facts):
            self._retire(worker, f"{worker} is refused: its model, version or judge has changed.")
            return
        key = _key(unit)
        if blank(found["batches"]) and self._doubtful(worker, unit, "no picture is finite"):
            return
        if key in self._doubts and not blank(found["batches"]):
            before, why = self._doubts[key]
            self._retire(before, f"{before} failed, but {worker} did not: {short(why)}. Check its machine.")
        self._doubts.pop(key, None)
        self._strikes.pop(worker, None)
        batches = len(found["batches"])
        self._batch_seconds = _smooth(self._batch_seconds, found["seconds"] / batches)
        self._unit_seconds = _smooth(self._unit_seconds, found["seconds"])
        self._record(unit, found, worker)
        job = self.jobs[unit.job]
        for batch in found["batches"]:
            job.remember(unit.round, unit.weights, batch, found["seconds"] / batches)
        self._at_work.pop(key, None)
        self._tries.pop(key, None)
        self._wake(job)

    def _fail(self, answer: Answer) -> None:
        unit, worker = answer.unit, answer.worker
        assert unit is not None
        key, known = _key(unit), _key(unit) in self._at_work  # else another one has made it meanwhile
        if answer.wrong:
            if known and not self._doubtful(worker, unit, answer.error):
                self._give_up(unit, answer.error)
            return
        self._strikes[worker].add(key)
        self._trouble = f"The last error was: {short(answer.error)}."
        if known:
            self._drop(worker, unit)
            self._try_again(unit, worker, answer.error)
        if len(self._strikes[worker]) >= STRIKES:
            self._retire(worker, f"{worker} gets no more work after {STRIKES} errors in a row: {short(answer.error)}.")

    def _doubtful(self, worker: str, unit: Unit, why: str) -> bool:
        """If another worker can try the unit, let it decide whether the prompt or this worker is at fault, and
        return True."""
        key = _key(unit)
        if key in self._doubts or self.engine.workers() <= 1:
            return False
        self._doubts[key] = worker, why
        self._drop(worker, unit)
        self._repeat(unit, frozenset({worker}))
        return True

    def _try_again(self, unit: Unit, worker: str, why: str) -> None:
        """Let another worker try, or give the prompt up; the next run of the command tries anew."""
        self._tries[_key(unit)] += 1
        tries = self._tries[_key(unit)]
        if tries >= TRIES or tries >= 2 and self.engine.workers() <= 1:
            self._give_up(unit, f"its pictures could not be generated in {tries} tries: {short(why)}")
        else:
            self._repeat(unit, frozenset({worker}))

    def _give_up(self, unit: Unit, why: str) -> None:
        job = self.jobs[unit.job]
        job.error = why
        for own in [own.unit for own in self._at_work.values() if own.unit.job == unit.job]:
            del self._at_work[_key(own)]
        self._again = deque(pair for pair in self._again if pair[0].job != unit.job)
        self._wake(job)

    def _wake(self, job: Job) -> None:
        if job not in self._ready:
            self._ready.appendleft(job)

    def _repeat(self, unit: Unit, avoid: frozenset[str]) -> None:
        if _key(unit) not in self._at_work:
            self._again.append((unit, avoid, time.monotonic()))

    def _drop(self, worker: str, unit: Unit) -> None:
        """Record that this worker no longer works on the unit."""
        own = self._at_work.get(_key(unit))
        if own is not None:
            own.workers.discard(worker)
            if not own.workers:
                self._at_work.pop(_key(unit), None)

    def _retire(self, worker: str, why: str) -> None:
        if worker in self._gone:
            return
        self._gone.add(worker)
        self._trouble = why
        self._warn(why)
        self.engine.retire(worker)
        self._forget(worker, why)

    def _lose(self, worker: str, why: str) -> None:
        self._trouble = f"{worker} was lost: {why}"
        self._warn(self._trouble)
        self._forget(worker, why)

    def _forget(self, worker: str, why: str) -> None:
        """Give a lost worker's units to others; a picture may have caused the loss."""
        for own in [own for own in self._at_work.values() if worker in own.workers]:
            self._drop(worker, own.unit)
            if not own.workers:
                self._try_again(own.unit, worker, why)

    def _close(self, job: Job) -> None:
        self._ended(job)
        taught = [learner for learner in self._learners.pop(job.number, []) if learner.taught and not learner.finished]
        self._openable.extendleft(reversed(taught))


def _key(unit: Unit) -> Key:
    return unit.job, unit.round, unit.seeds[0]


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else 0.8 * before + 0.2 * now


def difference(facts: dict, other: dict) -> str:
    """The difference between two workers, in words."""
    for name in ("software", "model", "setting", "classifiers"):
        if facts.get(name) != other.get(name):
            what = {"software": "version of sd-debias", "model": "model", "setting": "setting",
                    "classifiers": "classifiers"}[name]
            return f"its {what} is {short(other.get(name))}, but this sweep's is {short(facts.get(name))}."
    return ("its model files, judges, precision, device, libraries, settings page or extensions differ from this "
            "sweep's.")
