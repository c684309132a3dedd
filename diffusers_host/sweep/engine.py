"""Engines do a sweep's units: this process, other processes, a cluster, or servers. A driver sees no difference."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from ...core.errors import DebiasError
from ...core.study.unit import Opened, Unit, Worker


@dataclass(frozen=True)
class Answer:
    """The result of a unit or, without a unit, of starting a worker.

    found  as `Worker.measure` gives it; of a worker that is open now, its facts
    error  what went wrong, in words
    lost   the worker is gone, for whatever reason, and its other units too
    wrong  the prompt or the model cannot be measured so, whoever tries: no other worker needs to
    """
    worker: str
    unit: Unit | None
    found: dict | None = None
    error: str = ""
    lost: bool = False
    wrong: bool = False


class Engine(Protocol):
    """Workers by name, each with at most so many units at once."""

    def workers(self) -> int:
        """Number of workers, with those that are starting."""
        ...

    def free(self, avoid: frozenset[str] = frozenset()) -> int:
        """Number of units that can be given out now, not counting the workers to avoid."""
        ...

    def give(self, unit: Unit, avoid: frozenset[str] = frozenset()) -> str:
        """Give a unit to a worker; returns the worker's name."""
        ...

    def answers(self, seconds: float) -> list[Answer]:
        """The answers so far; waits at most this long for the first."""
        ...

    def retire(self, worker: str) -> None:
        """Give this worker no more work, and forget its current unit."""
        ...

    def close(self) -> None:
        """Let go of all workers."""
        ...


class Here:
    """One worker in this process. Ctrl-C passes through between pictures, as in a single calibration."""
    name = "this process"

    def __init__(self, open_worker: Opened):
        self._open, self._worker, self._todo = open_worker, None, deque()  # type: ignore[var-annotated]
        self._retired = False

    def workers(self) -> int:
        return 0 if self._retired else 1

    def free(self, avoid: frozenset[str] = frozenset()) -> int:
        return 0 if self._retired or self._todo or self._worker is None or self.name in avoid else 1

    def give(self, unit: Unit, avoid: frozenset[str] = frozenset()) -> str:
        self._todo.append(unit)
        return self.name

    def answers(self, seconds: float) -> list[Answer]:
        if self._worker is None:
            self._worker = self._open()
            return [Answer(self.name, None, self._worker.facts)]
        return [answer(self._worker, self.name, self._todo.popleft())] if self._todo else []

    def retire(self, worker: str) -> None:
        self._retired = True

    def close(self) -> None:
        self._worker = None


def answer(worker: Worker, name: str, unit: Unit) -> Answer:
    """A worker's answer to a unit, its mistakes included."""
    try:
        return Answer(name, unit, worker.measure(unit))
    except DebiasError as error:
        return Answer(name, unit, error=str(error), wrong=True)
    except Exception as error:  # whatever a model, a driver or a disk raises: somebody else may fare better
        return Answer(name, unit, error=f"{type(error).__name__}: {error}")
