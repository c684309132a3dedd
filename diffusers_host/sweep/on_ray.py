"""A sweep's engine on a Ray cluster: actors, one a GPU or share of one, each with the model and its judges.

Labels come back, not images. Ray starts a dead actor again, elsewhere where its node is gone; the
driver gives what it was at work on to whoever is free.
"""
from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.errors import DebiasError, short
from ...core.version import VERSION
from .driver import Answer, answer
from .worker import Opened, Task, Worker

RESTARTS = 3    # of an actor
SECONDS = 10.0  # of a task: long beside its way, short beside a night


def ray_module() -> Any:
    """Ray. Raises DebiasError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError as error:
        raise DebiasError(f"--ray needs Ray ({error}). Install it: pip install \"sd-debias[ray]\".") from error
    return ray


def connect(address: str | None, **options: Any) -> Any:
    """Ray, connected: to a cluster ("auto": the one of this machine), or begun here. Raises DebiasError."""
    ray = ray_module()
    if not ray.is_initialized():
        try:
            with _signals_kept():
                # Messages of workers are the driver's to say.
                ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:  # which is what Ray raises where it does not start in time
            raise DebiasError(f"No Ray cluster answers at {short(address or 'this machine')}: "
                              f"{short(str(error).splitlines()[0] if str(error) else type(error).__name__)} Start one "
                              "with 'ray start --head', or pass --ray local to start one on this machine only."
                              + _token_hint()) from error
    return ray


def _token_hint() -> str:
    """Ray from 2.60 on begins clusters that ask for a token, but shows it to them only where RAY_AUTH_MODE says so."""
    return "" if os.environ.get("RAY_AUTH_MODE") else (
        " If the cluster asks for a token ('ray start' says so), set RAY_AUTH_MODE=token.")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ctrl-C waits until Ray has begun, which takes it badly; SIGTERM, which Ray takes for itself, is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for first in came[:1]:
        signal.raise_signal(first)


class SweepActor:
    """What runs on the cluster."""

    def __init__(self, name: str, open_worker: Opened, version: str):
        from filelock import FileLock
        self.name, self.error = name, ""
        self.worker: Worker | None = None
        if version != VERSION:
            self.error = f"sd-debias {VERSION} is installed there, but the driver has {version}"
            return
        lock = Path(tempfile.gettempdir()) / f"sd-debias-open-{getattr(os, 'getuid', int)()}.lock"
        try:
            # One actor of a node after the other: the first reads the model's files, which the others
            # find in memory.
            with FileLock(str(lock)):
                self.worker = open_worker()
        except DebiasError as error:
            self.error = str(error)
        except Exception as error:  # whatever a model or a driver raises
            self.error = f"{type(error).__name__}: {error}"

    def facts(self) -> Answer:
        found = None if self.worker is None else self.worker.facts
        return Answer(self.name, found=found, error=self.error)

    def advance(self, task: Task) -> Answer:
        if self.worker is None:
            return Answer(self.name, task.job, error=self.error)
        return answer(self.worker, self.name, task)

    def __repr__(self) -> str:
        return self.name  # the dashboard and Ray's logs show it


class OnRay:
    """Actors on a Ray cluster.

    workers  how many; 0: one a GPU of the cluster, or, where it has none, one a CPU core
    cpus, gpus  that each of them takes; gpus may be a share, such as 0.5; None: 1 where the cluster
                has GPUs

    Raises DebiasError where the cluster cannot hold a single one.
    """
    seconds = SECONDS

    def __init__(self, name: str, open_worker: Opened, workers: int = 0, cpus: float = 1.0,
                 gpus: float | None = None):
        self._ray = ray = ray_module()
        there = ray.cluster_resources()
        gpus = (1.0 if there.get("GPU") else 0.0) if gpus is None else gpus
        fit = int(min(there.get("GPU", 0) / gpus if gpus else float("inf"),
                      there.get("CPU", 0) / cpus if cpus else float("inf"), 1_000_000))
        count = workers or fit
        if not count:
            raise DebiasError(f"The Ray cluster has {there.get('CPU', 0):g} CPU cores and "
                              f"{there.get('GPU', 0):g} GPUs, too few for one worker with {cpus:g} and "
                              f"{gpus:g}. Ask for less with --worker-cpus and --worker-gpus.")
        kind = ray.remote(SweepActor)
        self._actors = {}
        self._asked: dict[Any, tuple[str, int | None]] = {}  # worker and job, by what Ray promised
        for own in (f"{name} {number}" for number in range(1, count + 1)):
            self._actors[own] = kind.options(
                num_cpus=cpus, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=-1,
                name=f"{own} {os.urandom(3).hex()}").remote(own, open_worker, VERSION)
            self._greet(own)

    def _greet(self, worker: str) -> None:
        """Ask an actor for its facts, which it answers once it is open."""
        self._asked[self._actors[worker].facts.remote()] = worker, None

    def workers(self) -> int:
        return len(self._actors)

    def free(self) -> list[str]:
        busy = {worker for worker, _ in self._asked.values()}
        return [own for own in self._actors if own not in busy]

    def give(self, worker: str, task: Task) -> None:
        work = self._actors[worker].advance.options(name=task.prompt[:60], max_task_retries=0)
        self._asked[work.remote(task)] = worker, task.job

    def answers(self, seconds: float) -> list[Answer]:
        if not self._asked:
            return []
        done, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        return [self._answer(promise) for promise in done]

    def _answer(self, promise: Any) -> Answer:
        worker, job = self._asked.pop(promise)
        try:
            return self._ray.get(promise)
        except self._ray.exceptions.RayActorError as error:
            if job is not None and worker in self._actors:
                self._greet(worker)  # Ray may start it again
                return Answer(worker, job, error=_words(error), lost=True)
            return Answer(worker, error=_words(error), lost=True)
        except self._ray.exceptions.RayError as error:
            return Answer(worker, job, error=_words(error))

    def retire(self, worker: str) -> None:
        actor = self._actors.pop(worker, None)
        self._asked = {promise: own for promise, own in self._asked.items() if own[0] != worker}
        if actor is not None:
            self._ray.kill(actor)

    def close(self) -> None:
        for worker in list(self._actors):
            self.retire(worker)


def _words(error: BaseException) -> str:
    return short((str(error).strip() or type(error).__name__).splitlines()[0])
