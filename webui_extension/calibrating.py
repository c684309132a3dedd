"""Audits, checks and calibrations with what the page says, as the host's own result: gallery and text."""
from __future__ import annotations

import os
from contextlib import suppress

import numpy as np

from ..core.study.checking import check_judges, words_of
from ..core.study.given import labelled_pictures
from ..core.study.passes import each_from
from ..core.calibration.labelled import corrected, given_back
from ..core.study import runner
from ..core.study.outcome import LABELS, Outcome
from ..core.study.unfinished import PARAMETERS
from ..core.calibration.plan import planned, unused
from ..core.errors import DebiasError, out_of_memory
from ..core.files import write_atomic, writing
from ..core.method.methods import CHOICES, chosen
from ..core.profile.file import SUFFIX
from . import checks, profiles
from .classifiers import Named, attributes_of
from .workbench import Interrupted, Workbench


REPORT = "/sd-debias/report/"  # the address of a report, before its name
OPEN = "Open the report: "     # javascript/debias.js makes a link of what follows
LOOK_AT = "Look at the images and their labels: "  # and of this
AUDIT, CHECK = "(last audit)", "(last check)"  # folders of reports, which no profile of that name has


def audit(p, form):
    """Shares of the images that the page makes; nothing is changed. Raises DebiasError."""
    prompts, attributes, by_hand = _prompts(p, form), attributes_of(form.attributes, form.own), \
        given_back(form.corrections)
    bench = Workbench(p, _judge(form), form.hires)
    outcome = runner.audit(bench, prompts, attributes, int(form.count), p.batch_size, p.seed, form.confidence,
                           checks.load(form.check, attributes))
    raised(outcome)
    _look_at(outcome, "Audit", AUDIT, by_hand)
    if getattr(p, "init_images", None):
        outcome.notes += _changed(bench, p.init_images[0], outcome, form.confidence)
    return _processed(p, outcome, outcome.text)


def _changed(bench: Workbench, image, outcome: Outcome, confidence: float) -> list[str]:
    """Of img2img: whose group the pass changed."""
    try:
        lines: list[str] = []
        for after in outcome.labelled:
            before = labelled_pictures([np.asarray(image.convert("RGB"))], "before", after.attributes,
                                       bench.judges(after.attributes)[0], confidence)
            lines += [*([f"{after.title}:"] if outcome.labelled[1:] else []), *each_from(before, after).lines]
        return lines
    except DebiasError as error:  # of the image that came, not of those that were made
        return [f"Whether the pass changes the group is not known. {error}"]


def raised(outcome: Outcome) -> None:
    """Raises the error that ended the work early; that memory ran out is a DebiasError, which says what is kept."""
    if outcome.complete or isinstance(outcome.stopped, Interrupted):
        return
    if out_of_memory(outcome.stopped):
        # Notes say it where something is kept; they may also be of the judge alone.
        why = [] if any(outcome.why in note for note in outcome.notes) else [
            f"{outcome.why}. Use smaller images, or a smaller batch size."]
        raise DebiasError(" ".join([*why, *outcome.notes])) from outcome.taken()
    raise outcome.taken()


def check(p, form):
    """Check the judge with the page's settings, and save the check under a name. Raises DebiasError."""
    name = checks.new_name(form.name.strip())  # said before the first image
    prompts, attributes, by_hand = _prompts(p, form), attributes_of(form.attributes, form.own), \
        given_back(form.corrections)
    bench = Workbench(p, _judge(form))
    found, outcome = check_judges(bench, prompts, attributes, int(form.count), p.batch_size, p.seed, form.confidence,
                                  by_hand)
    raised(outcome)
    _look_at(outcome, "Check of the judge", CHECK, None)
    if not found:
        return _processed(p, outcome, outcome.text)
    checks.store(name, found)
    return _processed(p, outcome, "\n".join([
        *words_of(found), *outcome.notes,
        f"The check '{name}' is in the list under Advanced: choose it for an audit or a calibration."]))


def _look_at(outcome: Outcome, title: str, name: str, by_hand: dict | None) -> None:
    """Write the page of images and labels, which takes the place of the last one of its kind."""
    if outcome.complete and outcome.labelled:
        folder = profiles.save_folder() / "reports" / name
        with writing("The page of images and labels", profiles.place(folder)):
            write_atomic(folder / LABELS, outcome.look(title, "paste it into the script's field 'Corrections'"))
        if by_hand is not None:
            outcome.notes.append(corrected(outcome.labelled, by_hand))
        outcome.notes.append(f"{LOOK_AT}{REPORT}{name}/{LABELS}")


def calibrate(p, form):
    """As `runner.calibrate`, with one profile in the user's folder. Raises DebiasError."""
    method, note = chosen(form.method, **{name: getattr(form, name) for name in CHOICES if name != "method"}), \
        unused(form.sure, form.numbers)
    prompts, attributes = _prompts(p, form), attributes_of(form.attributes, form.own, form.target)
    folder, name = profiles.save_folder(), profiles.new_name(form.name.strip())
    target = folder / (name + SUFFIX)
    places = runner.Places(profile=target, lock=target, folder=folder / "reports" / name, states=folder / "unfinished",
                           best=folder / f"{name} (unfinished){SUFFIX}", overwrite=form.overwrite,
                           earlier=folder / "reports" / f"{name} (earlier)")
    bench = Workbench(p, _judge(form), form.hires, prompts=prompts)
    bench.note = note
    plan = planned(form.sure, method, **form.numbers, confidence=form.confidence, batch_size=p.batch_size, seed=p.seed)
    outcome = runner.calibrate(bench, prompts, attributes, method, plan, name, places,
                               checks.load(form.check, attributes))
    raised(outcome)
    if outcome.report is not None:
        outcome.notes += [f"{OPEN}{REPORT}{name}", "The profile is in the list of the accordion 'Debias'."]
    return _processed(p, outcome, "\n".join(filter(None, [outcome.text, note])))


def _judge(form) -> Named:
    return Named(form.judge, form.look, form.detector)


def _prompts(p, form) -> list[str]:
    """Those of the text box, one a line, else the page's own."""
    return form.prompts or [p.prompt if isinstance(p.prompt, str) else p.prompt[0]]


def _processed(p, outcome: Outcome, text: str):
    """Sheets and charts first, with the text; then the images, each with its own parameters."""
    from modules import shared
    from modules.processing import Processed

    # Hosts write images that they have not saved, such as sheets, into this folder. Forge Neo makes it in its batch
    # file alone: elsewhere nothing would be shown.
    if folder := getattr(shared.opts, "temp_dir", ""):
        with suppress(OSError):  # the host says so, where it needs it
            os.makedirs(folder, exist_ok=True)
    text = f"{text}\n  first seed {p.seed}"
    images = [*filter(None, [outcome.before_after()]), *outcome.charts().values()]
    texts = [text] * len(images)
    for sheet in (sheet for _, sheet in outcome.sheets if sheet):
        images += sheet.pictures
        texts += [picture.info.get(PARAMETERS) or f"{text}\nSeed: {seed}" for picture, seed in
                  zip(sheet.pictures, sheet.seeds, strict=True)]
    return Processed(p, images, seed=p.seed, info=text, infotexts=texts, index_of_first_image=0)
