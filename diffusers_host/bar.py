"""A bar over all images of a command or a call, on the error stream."""
from __future__ import annotations

import sys
import time
from typing import Any, TextIO

LINE_EVERY = 30.0  # seconds between two lines of progress in a log


class Bar:
    """Images done of how many, how fast, and the time left; with `lines`, one for each round of a calibration too."""

    def __init__(self, quiet: bool, unit: str = "images", lines: bool = True):
        self.quiet, self.unit, self.lines = quiet, unit, lines and not quiet
        self.bar: Any = None
        self.told = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, progress) -> None:
        """A calibration's progress."""
        if self.bar is None and self.lines and progress.done:
            print(f"Continuing after {progress.done} images.", flush=True)
        self.update(progress.done, progress.total, progress.name)
        if self.lines and progress.current and progress.current.complete:
            self.line(f"{progress.name.rjust(8)}: {'; '.join(filter(None, [*progress.shares, progress.left]))}")

    def update(self, done: int, total: int, what: str = "") -> None:
        if self.quiet:
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(self.unit),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=Console(stderr=True),
                redirect_stdout=False, redirect_stderr=False)
            self.task, self.first = self.bar.add_task(what.rjust(8), completed=done, total=total, rate=""), done
            self.bar.start()
        took = self.bar.tasks[0].elapsed or 0.0
        rate = f"{(done - self.first) / took:.1f}/s" if took > 0 and done > self.first else ""
        self.bar.update(self.task, completed=done, total=total, description=what.rjust(8), rate=rate)
        if not self.bar.console.is_terminal and time.monotonic() - self.told > LINE_EVERY:
            self.told = time.monotonic()  # a log shows no bar
            print(" ".join(filter(None, [what, f"{done} of {total} {self.unit}", rate])), file=sys.stderr, flush=True)

    def line(self, text: str, file: TextIO | None = None) -> None:
        """Above the bar where both are on a terminal, else on the output, or a file."""
        if self.bar is not None and sys.stdout.isatty():
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=file, flush=True)
