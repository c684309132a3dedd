"""Audits and calibrations with what the page says, and what the page then shows."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Sequence

from PIL import Image

from ..core.attribute import Attribute
from ..core.calibration import runner
from ..core.calibration.outcome import Outcome
from ..core.calibration.plan import planned
from ..core.files import safe_name
from ..core.method.methods import Method
from ..core.profile.file import SUFFIX, Profile
from . import profiles
from .workbench import Workbench


REPORT = "/sd-debias/report/"  # the address of a report, before its name
OPEN = "Open the report: "     # javascript/debias.js makes a link of what follows


@dataclass
class Result:
    """What a script shows: text; sheets and charts, then pictures; the same as plain values; the profile, where one was
    made.

    seeds     of the pictures, which are the last images
    complete  False where it was interrupted
    """
    text: str
    images: list[Image.Image]
    summary: list[dict]
    profile: Profile | None = None
    seeds: list[int] = field(default_factory=list)
    complete: bool = True

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        sheets = list(filter(None, [outcome.before_after()]))
        after = [sheet for _, sheet in outcome.sheets if sheet]
        pictures = [picture for sheet in after for picture in sheet.pictures]
        return cls(outcome.text, [*sheets, *outcome.charts().values(), *pictures], outcome.figures(), outcome.profile,
                   [seed for sheet in after for seed in sheet.seeds], outcome.complete)


def audit(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: str | None, count: int,
          confidence: float = 0.0, hires: bool = False, say: Callable[[str], None] = lambda text: None,
          cancelled: Callable[[], bool] = lambda: False) -> Result:
    """Shares of the pictures that the page makes; nothing is changed. Raises DebiasError."""
    bench = Workbench(p, classifier, hires, say, cancelled)
    return Result.of(runner.audit(bench, prompts, attributes, count, p.batch_size, p.seed, confidence))


def calibrate(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: str | None, method: Method,
              name: str, sure: str, numbers: dict, overwrite: bool = False, hires: bool = False,
              say: Callable[[str], None] = lambda text: None, cancelled: Callable[[], bool] = lambda: False,
              note: str = "") -> Result:
    """As `runner.calibrate`, with one profile in the user's folder. Raises DebiasError.

    sure, numbers: the plan, as `planned` takes them; note: what is said from the first picture on
    """
    folder = profiles.save_folder()
    target = folder / (safe_name(name) + SUFFIX)
    places = runner.Places(profile=target, lock=target, folder=folder / "reports" / name, states=folder / "unfinished",
                           best=folder / f"{name} (unfinished){SUFFIX}", overwrite=overwrite)
    bench = Workbench(p, classifier, hires, say, cancelled)
    bench.note = note
    outcome = runner.calibrate(bench, prompts, attributes, method, planned(
        sure, method, **numbers, batch_size=p.batch_size, seed=p.seed), name, places)
    if outcome.report is not None:
        outcome.notes += [f"{OPEN}{REPORT}{name}", "The profile is in the list of the accordion 'Debias'."]
    return Result.of(outcome)


def prompts_of(p, listed: str | None) -> list[str]:
    """Prompts of a text box, one a line, else the page's own."""
    lines = [line.strip() for line in (listed or "").splitlines() if line.strip()]
    return lines or [p.prompt if isinstance(p.prompt, str) else p.prompt[0]]
