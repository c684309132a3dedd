"""What a sweep has measured: one line a unit, in files that only grow. A sweep's whole state can be made from them."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import DebiasError, quoted

FSYNC = 1.0  # seconds; a machine that loses power loses no more


class Journal:
    """The lines that this process adds; others' stand in files of their own, and all of them count.

    A line that a killed process left unfinished is closed off, and `lines` leaves it out.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")
        if self._file.tell():
            with open(path, "rb") as before:
                before.seek(-1, os.SEEK_END)
                if before.read(1) != b"\n":
                    self._file.write(b"\n")
        self._synced = 0.0

    def add(self, line: dict) -> None:
        """Write a line at once. Raises OSError."""
        self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > FSYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, without those that are cut off. Raises DebiasError for a file that is none."""
    bad = good = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                bad += 1
                continue
            good += 1
            yield line
    if bad > 1 and not good:
        raise DebiasError(f"{quoted(path)} is not a journal of a sweep: none of its lines can be read. Remove it.")
