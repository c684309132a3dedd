"""Memory and handles of a process over a long run: sampled while it works, and what became of them."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import psutil
from scipy import stats

HANDLES = ("file descriptors", "threads", "temporary files")


def trend(x, y) -> tuple[float, float, float]:
    """Slope of y over x by least squares, and the limits of its 95 % interval.

    Memory stays where it was, so that neighbouring samples resemble each other: their number is reduced by the
    residuals' autocorrelation at lag 1 (Santer et al. 2000, doi:10.1029/1999JD901105), which widens the interval.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    fit = stats.linregress(x, y)
    residuals = y - fit.intercept - fit.slope * x
    squares = float(residuals @ residuals)
    alike = max(0.0, float(residuals[1:] @ residuals[:-1]) / squares) if squares else 0.0
    free = max(len(x) * (1 - alike) / (1 + alike), 3.0) - 2
    error = math.sqrt(squares / free / float(((x - x.mean()) ** 2).sum()))
    off = float(stats.t.ppf(0.975, free)) * error
    return float(fit.slope), float(fit.slope) - off, float(fit.slope) + off


def leaked(values) -> bool:
    """Does a number of handles only go up: is the least of the last third above the most of the first third?"""
    third = max(len(values) // 3, 1)
    return min(values[-third:]) > max(values[:third])


def floor(x, y) -> float:
    """Growth of y over x by what is left when all that is unused has gone: from the least of the first third to that of
    the last. Python frees what holds itself only now and then; until then a server's memory swings by some 40 MB."""
    third = max(len(y) // 3, 1)
    return float((min(y[-third:]) - min(y[:third])) / (np.mean(x[-third:]) - np.mean(x[:third])))


class Different(Exception):
    """The sentence that says what was expected and what came; it ends the soak."""


def folder_of(pid: int, option: str) -> Path:
    """A server's folder: what the option of its command line says, else where it was started."""
    process = psutil.Process(pid)
    words = process.cmdline()
    return Path(words[words.index(option) + 1] if option in words else process.cwd())


def temporary(pid: int, folders: Sequence[Path]) -> int:
    """How many temporary files are left in these folders, and in the one that the process has for such files."""
    own = psutil.Process(pid).environ().get("TMPDIR")
    return sum(1 for folder in folders for _ in folder.rglob("*.tmp")) + (sum(1 for _ in Path(own).iterdir()) if own else 0)


@dataclass
class Watch:
    """A process, by its id.

    left  counts the temporary files that it left
    """
    pid: int
    left: Callable[[], int]
    at: list[int] = field(default_factory=list)  # images or runs that were done
    seen: dict[str, list[float]] = field(default_factory=dict)

    def sample(self, done: int, **more: float) -> None:
        """What the process holds now, and whatever else was counted."""
        process = psutil.Process(self.pid)
        found = {"memory": process.memory_info().rss / 1e6, **more,
                 **dict(zip(HANDLES, (process.num_fds(), process.num_threads(), self.left())))}
        self.at.append(done)
        for name, value in found.items():
            self.seen.setdefault(name, []).append(value)

    def found(self, each: int, warm: int) -> dict:
        """Figures after the first `warm` samples, while caches, pools and the allocator's arenas fill; slopes are of
        `each` images or runs."""
        at, result = np.array(self.at[warm:]) / each, dict(samples=len(self.at) - warm, warm_up=self.at[warm], each=each)
        for name, values in self.seen.items():
            own = values[warm:]
            result[name] = dict(first=round(own[0], 1), last=round(own[-1], 1), least=round(min(own), 1),
                                most=round(max(own), 1))
            if name in HANDLES:
                result[name]["leaked"] = leaked(own)
            else:
                result[name]["slope"] = [round(value, 3) for value in trend(at, own)]
                result[name]["floor"] = round(floor(at, own), 3)
        return result


def check(found: dict, bounds: dict[str, float], of: str) -> None:
    """Raises Different where something grows: of images, which are sampled when garbage has been collected, a slope's
    upper limit is above its bound; of a server's runs, its `floor` is; or handles only go up."""
    for name, bound in bounds.items():
        if of == "runs":
            if (grown := found[name]["floor"]) > bound:
                raise Different(f"Expected the least {name} to grow by at most {bound:g} per {found['each']:,} runs, got "
                                f"{grown:.2f}.")
            continue
        slope, low, high = found[name]["slope"]
        if high > bound:
            raise Different(f"Expected {name} to grow by at most {bound:g} per {found['each']:,} {of}, got {slope:.2f} "
                            f"(95 % interval {low:.2f} to {high:.2f}).")
    for name in HANDLES:
        if found[name]["leaked"]:
            raise Different(f"Expected no more {name} than before, got {found[name]['last']:g} after "
                            f"{found[name]['first']:g}.")
