"""Audits and calibrations with what the page says, and what the page then shows."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Sequence

from PIL import Image

from ..core.attribute import Attribute
from ..core.study.checking import check_judges
from ..core.calibration.labelled import corrected, given_back
from ..core.study import runner
from ..core.study.outcome import LABELS, Outcome
from ..core.calibration.plan import planned
from ..core.errors import DebiasError, out_of_memory
from ..core.files import write_atomic, writing
from ..core.method.methods import Method
from ..core.profile.file import SUFFIX, Profile
from . import checks, profiles
from .classifiers import Named
from .workbench import Interrupted, Workbench


REPORT = "/sd-debias/report/"  # the address of a report, before its name
OPEN = "Open the report: "     # javascript/debias.js makes a link of what follows
LOOK_AT = "Look at the pictures and their labels: "  # and of this
AUDIT, CHECK = "(last audit)", "(last check)"  # folders of reports, which no profile of that name has


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


def audit(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: Named | str | None, count: int,
          confidence: float = 0.0, hires: bool = False, say: Callable[[str], None] = lambda text: None,
          check: str | None = None, corrections: object = None) -> Result:
    """Shares of the pictures that the page makes; nothing is changed. `check` names one of the classifier,
    `corrections` are labels set by hand, as a file's text or its content. Raises DebiasError."""
    by_hand = given_back(corrections)
    bench = Workbench(p, classifier, hires, say)
    outcome = runner.audit(bench, prompts, attributes, count, p.batch_size, p.seed, confidence,
                           checks.load(check, attributes))
    raised(outcome)
    return _looked_at(outcome, "Audit", AUDIT, by_hand)


def raised(outcome: Outcome) -> None:
    """Raises the error that ended the work early; that memory ran out is a DebiasError, which says what is kept."""
    if outcome.complete or isinstance(outcome.stopped, Interrupted):
        return
    if out_of_memory(outcome.stopped):
        # Notes say it where something is kept; they may also be of the judge alone.
        why = [] if any(outcome.why in note for note in outcome.notes) else [
            f"{outcome.why}. Use smaller pictures, or a smaller batch size."]
        raise DebiasError(" ".join([*why, *outcome.notes])) from outcome.taken()
    raise outcome.taken()


def check(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: Named | str | None, count: int,
          confidence: float, name: str, corrections: object = None, say: Callable[[str], None] = lambda text: None
          ) -> Result:
    """Check the classifier with the page's settings, and save the check under a name. Raises DebiasError."""
    checks.new_name(name)  # said before the first picture
    by_hand = given_back(corrections)
    bench = Workbench(p, classifier, False, say)
    found, outcome = check_judges(bench, prompts, attributes, count, p.batch_size, p.seed, confidence, by_hand)
    raised(outcome)
    result = _looked_at(outcome, "Check of the classifier", CHECK, None)
    if found:
        checks.store(name, found)
        warnings = [warning for own in found for warning in own.warnings]
        result.text = "\n".join([*(line for own in found for line in (f"{own.attribute}, by {own.judge}:", *(
            f"  {line}" for line in own.lines))), *(f"Warning: {warning}" for warning in warnings), *outcome.notes,
            f"The check '{name}' is in the list under Advanced: choose it for an audit or a calibration."])
        result.summary = [own.to_dict() for own in found]
    return result


def _looked_at(outcome: Outcome, title: str, name: str, by_hand: dict | None) -> Result:
    """The result, and its page of pictures and labels, which takes the place of the last one of its kind."""
    if outcome.complete and outcome.labelled:
        folder = profiles.save_folder() / "reports" / name
        with writing("The page of pictures and labels", profiles.place(folder)):
            write_atomic(folder / LABELS, outcome.look(title, "paste it into the script's field 'Corrections'"))
        if by_hand is not None:
            outcome.notes.append(corrected(outcome.labelled, by_hand))
        outcome.notes.append(f"{LOOK_AT}{REPORT}{name}/{LABELS}")
    return Result.of(outcome)


def calibrate(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: Named | str | None,
              method: Method, name: str, sure: str, numbers: dict, overwrite: bool = False, hires: bool = False,
              say: Callable[[str], None] = lambda text: None, note: str = "", check: str | None = None) -> Result:
    """As `runner.calibrate`, with one profile in the user's folder. Raises DebiasError.

    sure, numbers: the plan, as `planned` takes them; note: what is said from the first picture on
    """
    folder = profiles.save_folder()
    target = folder / (profiles.new_name(name) + SUFFIX)
    places = runner.Places(profile=target, lock=target, folder=folder / "reports" / name, states=folder / "unfinished",
                           best=folder / f"{name} (unfinished){SUFFIX}", overwrite=overwrite,
                           earlier=folder / "reports" / f"{name} (earlier)")
    bench = Workbench(p, classifier, hires, say, prompts=prompts)
    bench.note = note
    outcome = runner.calibrate(bench, prompts, attributes, method, planned(
        sure, method, **numbers, batch_size=p.batch_size, seed=p.seed), name, places, checks.load(check, attributes))
    raised(outcome)
    if outcome.report is not None:
        outcome.notes += [f"{OPEN}{REPORT}{name}", "The profile is in the list of the accordion 'Debias'."]
    return Result.of(outcome)


def prompts_of(p, listed: str | None) -> list[str]:
    """Prompts of a text box, one a line, else the page's own."""
    lines = [line.strip() for line in (listed or "").splitlines() if line.strip()]
    return lines or [p.prompt if isinstance(p.prompt, str) else p.prompt[0]]
