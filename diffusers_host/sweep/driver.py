"""The driver of a sweep: gives prompts to workers, a few batches at a time, and keeps what comes back."""
from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.errors import DebiasError, short
from .job import Job
from .worker import Opened, Task, Worker, digest

if TYPE_CHECKING:
    from .on_ray import OnRay

STRIKES = 3  # errors in a row, not all at one place, after which a worker is given nothing more
TRIES = 3    # of one task, if possible by several workers
PATIENCE = 60.0  # seconds that a failed task waits for a worker that is not open yet


@dataclass(frozen=True)
class Answer:
    """The result of a task or, without a job, of opening a worker.

    found  as `Worker.advance` gives it; of a worker that is open now, its facts
    error  what went wrong, in words
    lost   the worker is gone, for whatever reason; it says so when it is opened again
    wrong  the prompt cannot be measured so: the worker is not at fault
    """
    worker: str
    job: int | None = None
    found: dict | None = None
    error: str = ""
    lost: bool = False
    wrong: bool = False


class Here:
    """A pool of one worker, in this process; `OnRay` is another one. Ctrl-C passes through between images.

    seconds  that a task should take; 0: every batch is kept at once
    """
    name, seconds = "this process", 0.0

    def __init__(self, open_worker: Opened):
        self._open, self._retired = open_worker, False
        self._worker: Worker | None = None
        self._task: Task | None = None

    def workers(self) -> int:
        """Number of workers, with those that are opened still."""
        return 0 if self._retired else 1

    def free(self) -> list[str]:
        """The open workers that do nothing."""
        return [self.name] if self._worker and not self._task and not self._retired else []

    def give(self, worker: str, task: Task) -> None:
        self._task = task

    def answers(self, seconds: float) -> list[Answer]:
        """The answers so far; waits at most this long for the first."""
        if self._worker is None:
            self._worker = self._open()
            return [Answer(self.name, found=self._worker.facts)]
        task, self._task = self._task, None
        return [] if task is None else [answer(self._worker, self.name, task)]

    def retire(self, worker: str) -> None:
        """Let go of a worker, and forget what it is at work on."""
        self._retired = True

    def close(self) -> None:
        self._worker = None


def answer(worker: Worker, name: str, task: Task) -> Answer:
    """A worker's answer to a task, its mistakes included."""
    try:
        return Answer(name, task.job, worker.advance(task))
    except DebiasError as error:
        return Answer(name, task.job, error=str(error), wrong=True)
    except Exception as error:  # whatever a model, a driver or a disk raises: somebody else may fare better
        return Answer(name, task.job, error=f"{type(error).__name__}: {error}")


class Driver:
    """Advances all jobs of one model to their end.

    keep   is given each job whose state has changed, and how many images are new
    facts  in which workers must agree; None: the first worker says it, and `learn` is told
    say    is called after every answer; warn with what a user should know

    Raises DebiasError where no worker is left.
    """

    def __init__(self, jobs: Sequence[Job], pool: Here | OnRay, *, keep: Callable[[Job, int], None],
                 facts: dict | None = None, learn: Callable[[dict], None] = lambda facts: None,
                 say: Callable[[], None] = lambda: None, warn: Callable[[str], None] = lambda text: None):
        self.jobs, self.pool, self.facts = {job.number: job for job in jobs}, pool, facts
        self._keep, self._learn, self._say, self._warn = keep, learn, say, warn
        self._waiting = deque(job for job in jobs if not job.finished)
        self._busy: dict[str, Job] = {}
        self._open: set[str] = set()
        self._strikes: dict[str, list[tuple[int, int]]] = defaultdict(list)  # prompt and images before
        self._trouble = ""

    def run(self) -> None:
        while self._waiting or self._busy:
            for worker in self.pool.free():
                if (job := self._next(worker)) is not None:
                    self._waiting.remove(job)
                    self._busy[worker] = job
                    self.pool.give(worker, job.task(self.pool.seconds))
            for found in self.pool.answers(5.0):
                self._take(found)
            if (self._waiting or self._busy) and not self.pool.workers():
                raise DebiasError(f"No worker is left. {self._trouble or 'All were lost.'} What was measured "
                                  "is kept: run the same command again to continue.")
            self._say()

    def _next(self, worker: str) -> Job | None:
        """The first job that is due; one at which this worker failed only where nobody else can try,
        or is about to: a worker that waits for its place may never get it."""
        coming, now = self.pool.workers() > len(self._open), time.monotonic()
        return next((job for job in self._waiting if job.taught and (
            worker not in job.failed or self._open <= set(job.failed)
            and (not coming or now - job.failed_at > PATIENCE))), None)

    def _take(self, found: Answer) -> None:
        job = self._busy.pop(found.worker, None)
        if found.lost:
            self._open.discard(found.worker)
        if found.job is None:
            self._greet(found)
        elif job is not None and found.found is None:
            self._fail(found, job)
        elif job is not None and found.found is not None:
            self._count(found.worker, job, found.found)

    def _greet(self, found: Answer) -> None:
        if found.found is None:
            self._retire(found.worker, f"{found.worker} could not be started: {found.error}")
            return
        if self.facts is None:
            self.facts = found.found
            self._learn(found.found)
        if digest(found.found) != digest(self.facts):
            self._retire(found.worker, f"{found.worker} is refused: {difference(self.facts, found.found)}")
        else:
            self._open.add(found.worker)

    def _count(self, worker: str, job: Job, found: dict) -> None:
        if found["facts"] != digest(self.facts):
            self._waiting.appendleft(job)
            self._retire(worker, f"{worker} is refused: its model, version or judge has changed.")
            return
        self._strikes.pop(worker, None)
        for other, why in job.failed.items():
            self._strike(other, job, why)  # not the prompt is at fault, if it could be measured here
        job.take(found)
        job.failed, job.tries = {}, 0
        self._keep(job, found["images"])
        if not job.finished:
            self._waiting.appendleft(job)  # what was begun is finished first

    def _fail(self, found: Answer, job: Job) -> None:
        """Let another worker try; give the prompt up where nobody can measure it."""
        worker = found.worker
        job.failed[worker], job.tries, job.failed_at = found.error, job.tries + 1, time.monotonic()
        if job.tries >= TRIES or found.wrong and self.pool.workers() <= len(job.failed):
            job.error = found.error if found.wrong else \
                f"its images could not be generated in {job.tries} tries: {short(found.error)}"
            self._keep(job, 0)
        else:
            self._waiting.append(job)
        if not found.wrong:
            self._strike(worker, job, found.error)

    def _strike(self, worker: str, job: Job, why: str) -> None:
        own = self._strikes[worker]
        own.append((job.number, job.images))
        if worker in self._open and len(own) >= STRIKES and len(set(own)) > 1:
            self._retire(worker, f"{worker} gets no more work after {STRIKES} errors: {short(why)}")

    def _retire(self, worker: str, why: str) -> None:
        self._open.discard(worker)
        self._trouble = why
        self._warn(why)
        self.pool.retire(worker)
        if (job := self._busy.pop(worker, None)) is not None:
            self._waiting.appendleft(job)


def difference(facts: dict, other: dict) -> str:
    """The difference between two workers, in words."""
    names = dict(software="version of sd-debias", model="model", setting="setting", classifiers="judges")
    for name, words in names.items():
        if facts.get(name) != other.get(name):
            return f"its {words} is {short(other.get(name))}, but this sweep's is {short(facts.get(name))}."
    return "its model files, judges, precision, device or libraries differ from this sweep's."
