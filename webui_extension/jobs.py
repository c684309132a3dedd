"""Audits and calibrations of the API: one at a time, in the background, with progress and cancelling."""
from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import Callable

from ..core.errors import DebiasError
from .calibrating import Result
from .profiles import said

KEPT = 20  # finished jobs that can still be asked for


@dataclass
class Job:
    """state: waiting, running, done, failed or cancelled (also by the host's own Interrupt)."""
    kind: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "waiting"
    text: str = ""
    error: str | None = None
    seed: int | None = None
    result: Result | None = None
    cancelled: bool = False

    def say(self, text: str) -> None:
        from modules import shared
        self.text = shared.state.textinfo = text


class Busy(DebiasError):
    """Another job has not ended yet."""


class Jobs:
    def __init__(self):
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()  # for the states of all jobs

    def start(self, kind: str, work: Callable[[Job], Result]) -> Job:
        """Begin a job, or raise Busy."""
        with self._lock:
            busy = next((job for job in self._jobs.values() if job.state in ("waiting", "running")), None)
            if busy:
                raise Busy(f"The {busy.kind} {busy.id} is {busy.state}. Wait until it ends, or cancel it.")
            job = Job(kind)
            self._jobs[job.id] = job
            while len(self._jobs) > KEPT:
                self._jobs.pop(next(iter(self._jobs)))
        threading.Thread(target=self._run, args=(job, work), daemon=True, name=f"sd-debias {kind}").start()
        return job

    def get(self, identity: str) -> Job | None:
        return self._jobs.get(identity)

    def cancel(self, job: Job) -> None:
        """A waiting job ends at once, whatever it waits for; a running one keeps what was measured."""
        from modules import shared
        with self._lock:
            job.cancelled = True
            if job.state == "waiting":
                job.state = "cancelled"
            elif job.state == "running":
                shared.state.interrupt()

    def _run(self, job: Job, work: Callable[[Job], Result]) -> None:
        from modules import call_queue, shared
        with call_queue.queue_lock:
            with self._lock:
                if job.cancelled:
                    return
                # Together: the host's begin forgets an interrupt that came before it.
                try:
                    shared.state.begin(job=f"sd-debias {job.kind}")
                except BaseException:
                    job.state = "failed"
                    raise
                job.state = "running"
            ended = "failed"
            try:
                result = work(job)
                job.result, job.text = result, result.text
                ended = "done" if result.complete else "cancelled"
            except Exception as error:
                job.error = said(error)
                if not isinstance(error, DebiasError):
                    from modules import errors
                    errors.report(f"sd-debias: {job.kind} failed", exc_info=True)
            finally:
                with self._lock:
                    job.state = ended
                shared.state.end()
