"""What a calibration or an audit gives: words, figures, charts and sheets, and the files that they are written to."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

from PIL import Image

from ..attribute import Attribute
from ..distribution import Distribution
from ..calibration.labelled import Labelled, left_out
from ..profile.file import Profile
from ..report.chart import contact_sheet
from ..report.look import look_page
from ..report.page import report_page
from ..report.prompt_chart import share_chart
from ..report.summary import summary
from ..calibration.loop import Calibration
from ..calibration.round import HELD_OUT, PROOF, Round
from ..report.sheet import Sheet, side_by_side
from ..calibration.standing import standings
from .unfinished import png
from ..calibration.watched import side_effects, words

AFTER, DETAILS = "after, on fresh seeds", "Details:"
LABELS = "labels.html"  # beside the report: its images with their labels
CORRECT_AND_AUDIT = "to count them, audit the same prompt and seeds; a calibration does not use them"


@dataclass
class Outcome:
    """What a runner leaves, complete or not.

    calibrations  of every prompt that was begun; an audit's have a round
    sheets        (before, after) of each of them
    profile, path, report  what was saved, and where; None for an audit, or where no audit was complete
    stopped       what ended it early, None where it is complete: the user's interruption, or an error of the host
    why           the same in words
    notes         further lines: where files are, what was kept
    labelled      the images of audits and verifications with their labels
    """
    calibrations: list[Calibration] = field(default_factory=list)
    sheets: list[tuple[Sheet | None, Sheet | None]] = field(default_factory=list)
    profile: Profile | None = None
    path: Path | None = None
    report: Path | None = None
    stopped: BaseException | None = None
    why: str = ""
    notes: list[str] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)

    def look(self, title: str, back: str) -> str:
        """The page of images and labels; `back` as in `look_page`."""
        return look_page(title, self.labelled, back)

    def taken(self) -> BaseException:
        """What ended it, to be raised, and kept here no longer: its frames hold this outcome and the model, and all of
        them would stay until Python next looks for what holds itself. Raises ValueError for a complete one."""
        if self.stopped is None:
            raise ValueError("Nothing ended this outcome early.")
        stopped, self.stopped = self.stopped, None
        return stopped

    @property
    def complete(self) -> bool:
        return self.stopped is None

    @property
    def measured(self) -> list[Calibration]:
        """Those whose shares are known: an image of the audit was classified."""
        return [c for c in self.calibrations if c.rounds and c.audit.done
                and all(c.audit.shows(i) for i in range(len(c.attributes)))]

    @property
    def warnings(self) -> list[str]:
        return [f"{c.prompt}: {warning}" for c in self.measured for warning in _warnings(c)]

    @property
    def text(self) -> str:
        """All in a few lines for each prompt: target, shares before and now, why it ended, warnings; then the notes,
        and in detail the shares with 95 % intervals and KL."""
        said = [line for c in self.measured for line in [c.prompt, *(
            f"  {s.attribute} ({' / '.join(s.groups)}): {s.text}" for s in standings(c)), *_ending(c, self.why)]]
        details = [line for c in self.measured for line in
                   [*([c.prompt] if len(self.measured) > 1 else []), *_details(c, AFTER)]]
        return "\n".join([*said, *self.notes, *([DETAILS, *details] if details else [])])

    def figures(self) -> list[dict]:
        """Shares before and after as plain values, one entry a prompt."""
        return [dict(prompt=c.prompt, before=_shares(c, c.audit), after=_shares(c, c.held_out), stop=c.ending or None,
                     warnings=_warnings(c)) for c in self.measured]

    def charts(self) -> dict[str, Image.Image]:
        """By file name, the shares of every prompt and attribute."""
        charts, names = {}, iter(chart_names([c.attributes for c in self.measured]))
        for c in self.measured:
            for a, s in zip(c.attributes, standings(c), strict=True):
                assert s.was is not None  # it is among those whose audit was classified
                charts[f"shares-{next(names)}.png"] = share_chart(a, s.was, s.now, c.prompt)
        return charts

    def contact_sheets(self) -> dict[str, Image.Image]:
        """before and after, of all prompts together; without what was not measured."""
        both = {name: [picture for pair in self.sheets if (sheet := pair[at]) for picture in sheet.pictures]
                for at, name in enumerate(("before", "after"))}
        return {name: contact_sheet(pictures) for name, pictures in both.items() if pictures}

    def before_after(self) -> Image.Image | None:
        """Images before and after, side by side, with what they are and their shares above; a row a prompt. None
        where nobody kept images."""
        several = len(self.sheets) > 1
        rows = []
        for c, pair in zip(self.calibrations, self.sheets):
            found = standings(c) if c.rounds else []
            shown = [[shares.words() for s in found if (shares := getattr(s, at))] for at in ("was", "now")]
            prompt = [c.prompt] if several else []
            rows.append([(": ".join([*prompt, sheet.what, *filter(None, [", ".join(said)])]),
                          sheet.pictures[:8 if several else None]) for sheet, said in zip(pair, shown) if sheet])
        return side_by_side(rows) if any(rows) else None

    def page(self) -> str:
        """The report's HTML. Raises ValueError without a profile."""
        if self.profile is None:
            raise ValueError("A report needs a profile.")
        sheets = {c.prompt: [sheet for sheet in pair if sheet] for c, pair in zip(self.calibrations, self.sheets)}
        return report_page(self.profile, sheets, labels=LABELS, left_out=left_out(self.labelled))

    def files(self, seconds: float) -> dict[str, bytes]:
        """A calibration's files by name: report, sheets, charts and the figures for machines."""
        assert self.profile is not None
        figures = {**summary(self.profile), "seconds": round(seconds, 1)}
        pictures = {**{f"{name}.png": sheet for name, sheet in self.contact_sheets().items()}, **self.charts()}
        return {"report.html": self.page().encode(), LABELS: self.look(self.profile.name, CORRECT_AND_AUDIT).encode(),
                **{name: png(picture) for name, picture in pictures.items()},
                "summary.json": json.dumps(figures, indent=2, allow_nan=False).encode()}


def file_names(attributes: Sequence[Attribute], prompts: int) -> list[str]:
    """The names of a calibration's `files`."""
    charts = [f"shares-{name}.png" for name in chart_names([attributes] * prompts)]
    return ["report.html", LABELS, "before.png", "after.png", "summary.json", *charts]


def chart_names(attributes: Sequence[Sequence[Attribute]]) -> list[str]:
    """Middles of the charts' file names, one a prompt and attribute, each of its own: "gender", or "gender-1" ..."""
    found: list[str] = []
    for number, own in enumerate(attributes, 1):
        for a in own:
            plain = re.sub(r"[^\w-]+", "-", a.name)[:80] + (f"-{number}" if len(attributes) > 1 else "")
            taken = {name.casefold() for name in found}
            tries = (plain if k == 1 else f"{plain}_{k}" for k in range(1, sum(map(len, attributes)) + 2))
            found.append(next(name for name in tries if name.casefold() not in taken))
    return found


def lines(c: Calibration, after: str = AFTER) -> list[str]:
    """A prompt's result: shares with 95 % intervals and, of a calibration, why it ended; warnings."""
    return [c.prompt, *_details(c, after), *_ending(c, "Interrupted")]


def _details(c: Calibration, after: str) -> list[str]:
    found = []
    for i, attribute in enumerate(c.attributes):
        for name, r in (("before" if c.held_out else "audit", c.audit), (after, c.held_out)):
            if r is not None:
                found.append("  " + c.distribution(r, i).line(f"{attribute.name}, {name}", attribute.names))
                found += [f"  {line}" for line in r.position_line(i, attribute.name, attribute.names)]
        if c.plan.within is not None and c.audit.complete and c.plan.rounds:
            images = sum(r.done for r in c.rounds if r.complete and r.kind not in (HELD_OUT, PROOF))
            found.append(f"  {attribute.name}, by all {images} images: {c.expected(i).line(attribute.names)}")
    return [*found, *(f"  {words(effect)}" for effect in side_effects(c))]


def _ending(c: Calibration, why: str) -> list[str]:
    """Why it ended, where that is to be said, and warnings; `why` it ended early."""
    found = []
    if c.plan.rounds:
        found.append(f"  {c.ending or 'stopped before its end'}")
    elif not c.audit.complete:
        found.append(f"  {why} after {c.audit.done} of {len(c.audit.seeds)} images.")
    return [*found, *(f"  Warning: {warning}" for warning in _warnings(c))]


def _warnings(c: Calibration) -> list[str]:
    """Of a calibration its own; an audit changes nothing, but may have met images that show nobody."""
    if c.plan.rounds or c.plan.held_out:
        return c.warnings
    return [*([f"{c.audit.broken}; these count as unsure"] if c.audit.broken else []),
            *filter(None, [c.audit.left_out]),
            *(warning for own in c.checks if own is not None for warning in own.warnings)]


def _shares(c: Calibration, r: Round | None) -> dict | None:
    return None if r is None else {a.name: measured(r, i, a, c.distribution(r, i)) for i, a in enumerate(c.attributes)}


def measured(r: Round, i: int, attribute: Attribute, d: Distribution) -> dict:
    """An attribute's figures as plain values; `positions` where images show several persons, each with a label."""
    positions = r.positions(i, len(attribute.groups))
    return {**d.to_dict(), "groups": list(attribute.names), **({"positions": positions} if positions else {})}
