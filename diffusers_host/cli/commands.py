"""The command line: sd-debias audit | calibrate | check | generate | report | demo | doctor."""
from __future__ import annotations

import json
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Sequence

from ...core.attribute import Attribute
from ...core.calibration.plan import FIELDS, Plan, beyond_balance, planned
from ...core.errors import DebiasError, quoted
from ...core.files import read_json, write_atomic
from ...core.method.methods import METHODS, Method, named
from ..bar import Bar
from .parts import (
    Stopped, attributes_of, bench_of, check_of_each, checks_of, folder_judges, keep, parameters_of, plan_of, say)

if TYPE_CHECKING:  # they load torch, which takes seconds
    from ...core.profile.file import Entry, Profile
    from ...core.report.sheet import Sheet

DEMO_PROMPT = "a photo of a doctor"
LABELS, TABLE, CHECK, CHANGED = "labels.html", "labels.csv", "check.json", "changed.png"


def audit(options) -> dict:
    """Measure which groups the images of a model or of a folder show. Changes nothing."""
    from ...core.calibration.labelled import corrected, read_corrections
    from ...core.study import runner
    from ...core.study.unfinished import png
    attributes, checks = attributes_of(options), checks_of(options)
    corrections = read_corrections(options.corrections) if options.corrections else None
    if options.folder:
        return _audit_folder(options, attributes, checks, corrections)
    if options.before:
        return _audit_pass(options, attributes, checks, corrections)
    keep(options, "audit.json", LABELS, TABLE, *(f"audit-{i + 1}.png" for i in range(len(options.prompt))))
    bench = bench_of(options, attributes)
    with Bar(options.json) as bench.say:
        outcome = runner.audit(bench, options.prompt, attributes, options.count or FIELDS["images"].default,
                               bench.batch_size, options.seed or 0, options.confidence,
                               check_of_each(attributes, checks))
    if corrections is not None and outcome.complete:
        outcome.notes.append(corrected(outcome.labelled, corrections))
    _tell(options, outcome)
    result = dict(setting=bench.setting, audits=[
        dict(prompt=c.prompt, attributes=shares["before"], fidelity=c.audit.mean_fidelity,
             not_finite=c.audit.not_finite, one_colour=c.audit.one_colour)
        for c, shares in zip(outcome.calibrations, outcome.figures())])
    if options.out:
        sheets = [sheet.image() for sheet, _ in outcome.sheets if sheet]
        files = {f"audit-{i}.png": png(sheet) for i, sheet in enumerate(sheets, 1)}
        files["audit.json"] = json.dumps(result, indent=2)
        _write(options, " and ".join(options.prompt), outcome.labelled, files)
    return result


def _labelled_folder(options, folder: str, attributes: tuple[Attribute, ...], checks: list, judges: dict, by: object,
                     state: Path | None):
    """(the folder's images with their labels, the audit): batch by batch; continues where `state` stands."""
    from ...core.study.folder import FolderAudit
    work = FolderAudit(folder, attributes, [judges[a.name] for a in attributes], judged_by=by, state=state,
                       confidence=options.confidence, batch_size=options.batch_size or 32,
                       checks=check_of_each(attributes, checks))
    def left() -> str:
        kept = ", and kept: run the same command again to continue" if state else \
            ". With --out, what is done is kept"
        return f"{work.done} of {len(work.files)} images are labelled{kept}."

    try:
        with Bar(options.json, "images") as bar:
            return work.run(bar.update), work
    except KeyboardInterrupt as stopped:
        raise Stopped(f"\nInterrupted. {left()}") from stopped
    except DebiasError:
        raise
    except Exception:
        print(f"\n{left()}", file=sys.stderr)
        raise


def _audit_folder(options, attributes: tuple[Attribute, ...], checks: list, corrections) -> dict:
    """Label the images of a folder; continues an interrupted audit with --out."""
    from ...core.study.given import warnings_of
    from ...core.study.outcome import measured
    from ...core.calibration.labelled import corrected
    keep(options, "audit.json", LABELS, TABLE)
    state = Path(options.out) / "unfinished.json" if options.out else None
    judges, by = folder_judges(options, attributes)
    labelled, work = _labelled_folder(options, options.folder, attributes, checks, judges, by, state)
    notes = [corrected([labelled], corrections)] if corrections is not None else []
    found = {a.name: labelled.distribution(i) for i, a in enumerate(attributes)}
    lines = [line for i, a in enumerate(attributes) for line in (
        found[a.name].line(a.name, a.names), *labelled.round.position_line(i, a.name, a.names))]
    warnings = warnings_of(labelled, work.unreadable)
    say(options, "\n".join([*lines, *(f"Warning: {warning}" for warning in warnings), *notes]))
    result = dict(folder=Path(options.folder).resolve().name, images=work.done, unreadable=work.unreadable,
                  warnings=warnings, attributes={a.name: measured(labelled.round, i, a, found[a.name])
                                                 for i, a in enumerate(attributes)})
    if options.out:
        _write(options, work.title, [labelled], {"audit.json": json.dumps(result, indent=2)})
        work.forget()
    return result


def _audit_pass(options, attributes: tuple[Attribute, ...], checks: list, corrections) -> dict:
    """Label images before and after a pass, and tell whose group changed."""
    from ...core.calibration.labelled import corrected
    from ...core.study.passes import paired
    from ...core.study.unfinished import png
    keep(options, "audit.json", CHANGED, LABELS, TABLE)
    judges, by = folder_judges(options, attributes)
    works = [_labelled_folder(options, folder, attributes, checks, judges, by,
                              Path(options.out) / f"unfinished-{when}.json" if options.out else None)
             for when, folder in (("before", options.before), ("after", options.after))]
    found = [labelled for labelled, _ in works]
    notes = [corrected(found, corrections)] if corrections is not None else []
    pairs = paired(*found)
    unreadable = [file for _, work in works for file in work.unreadable]
    warnings = [*pairs.notes, *(f"Not read: {file}" for file in unreadable)]
    say(options, "\n".join([*pairs.lines, *(f"Warning: {warning}" for warning in warnings), *notes]))
    result = dict(pairs=len(pairs.places), unreadable=unreadable, warnings=warnings, skin_colour=pairs.tones,
                  attributes={p.attribute.name: p.to_dict() for p in pairs.passages})
    if options.out:
        sheet = pairs.sheet()
        _write(options, "before and after", found, {"audit.json": json.dumps(result, indent=2),
                                                    **({CHANGED: png(sheet)} if sheet else {})})
        for _, work in works:
            work.forget()
    return result


def _write(options, title: str, labelled: Sequence, files: dict, back: str = "sd-debias audit --corrections FILE"
           ) -> None:
    """Write the page of images and labels, the table, and these files."""
    from ...core.calibration.labelled import as_csv
    from ...core.report.look import look_page
    for name, data in {LABELS: look_page(title, labelled, back), TABLE: as_csv(labelled), **files}.items():
        write_atomic(Path(options.out) / name, data)
    say(options, f"Images and labels: {Path(options.out).resolve() / LABELS}")


def check(options) -> dict:
    """Check the judge on this model: how it labels images whose prompt states the group."""
    from ...core.study.checking import COUNT, PROMPT, check_judges, words_of
    from ...core.calibration.labelled import read_corrections
    attributes = attributes_of(options)
    corrections = read_corrections(options.corrections) if options.corrections else None
    keep(options, CHECK, LABELS, TABLE)
    bench = bench_of(options, attributes)
    prompts = options.prompt or [DEMO_PROMPT if options.model == "demo" else PROMPT]
    with Bar(options.json) as bench.say:
        checks, outcome = check_judges(bench, prompts, attributes, options.count or COUNT, bench.batch_size,
                                       options.seed or 0, options.confidence, corrections)
    if not outcome.complete:
        _end(outcome, f"{outcome.why}. A check cannot be continued: run the same command again.")
    say(options, "\n".join(["", *words_of(checks), *outcome.notes]))
    result = dict(checks=[own.to_dict() for own in checks], warnings=[w for own in checks for w in own.warnings])
    if options.out:
        _write(options, "Check of the judge", outcome.labelled, {CHECK: json.dumps(result, indent=2)},
               "sd-debias check --corrections FILE")
        say(options, f"For --check: {Path(options.out).resolve() / CHECK}")
    return result


def calibrate(options) -> dict:
    """Find the weights for a model and its prompts, verify them, and write profile, report and images."""
    attributes = attributes_of(options)
    method = named(options.method, direction=options.direction, spend=options.spend, rule=options.rule)
    keep(options)
    bench = bench_of(options, attributes)
    plan = plan_of(options, method, bench.batch_size)
    return _calibrate(bench, options.prompt, attributes, method, plan, options,
                      check_of_each(attributes, checks_of(options)))


def demo(options) -> dict:
    """Audit, calibrate and verify the embedded demo model, and show images before and after."""
    attributes = attributes_of(options)
    options.model, options.name = "demo", "demo"
    keep(options)
    bench = bench_of(options, attributes)
    plan = planned("normal", METHODS["default"], batch_size=bench.batch_size, seed=options.seed or 0)
    return _calibrate(bench, [DEMO_PROMPT], attributes, METHODS["default"], plan, options)


def _calibrate(bench, prompts: list[str], attributes: tuple[Attribute, ...], method: Method, plan: Plan,
               options, checks: Sequence = ()) -> dict:
    from ...core.study import runner
    out = Path(options.out).resolve()
    places = runner.Places(profile=out / "profile.json", lock=out / "profile.json", folder=out,
                           states=out / "unfinished", best=out / "profile (unfinished).json",
                           overwrite=options.overwrite)
    try:
        with Bar(options.json) as bench.say:
            outcome = runner.calibrate(bench, prompts, attributes, method, plan, options.name or out.name, places,
                                       checks)
    except KeyboardInterrupt as interrupted:  # while files are written
        raise Stopped("What was measured is kept: run the same command again to continue.") from interrupted
    _tell(options, outcome)
    return read_json(out / "summary.json")


def _tell(options, outcome) -> None:
    """Print the result. Raises what ended it early."""
    if not outcome.complete:
        _end(outcome, outcome.text)
    say(options, f"\n{outcome.text}")
    if options.json:
        for warning in outcome.warnings:
            print(f"Warning: {warning}", file=sys.stderr)


def _end(outcome, text: str) -> NoReturn:
    """Raises Stopped where the user interrupted the work; else says what was measured, and raises the error."""
    if isinstance(outcome.stopped, KeyboardInterrupt):
        raise Stopped(text) from outcome.taken()
    print(f"\n{text}", file=sys.stderr)
    raise outcome.taken()


def generate(options) -> dict:
    """Generate images (saved as SEED.png), with or without a profile."""
    from ...core.profile.balance import balanced
    from ...core.profile.file import Profile, located
    from ...core.profile.lookup import differences, entry_for
    from ...core.profile.words import drawn, metadata
    from ...core.study.unfinished import PARAMETERS, png
    from ..workbench import pictures
    if len(options.prompt) > 1:
        raise DebiasError(f"Expected one --prompt for generate, got {len(options.prompt)}. Run it once for each.")
    if options.profile and options.attribute:
        raise DebiasError("--attribute balances without a profile: give --profile or --attribute.")
    profile = Profile.load(located(options.profile)) if options.profile else None
    if options.attribute:
        profile = balanced(*attributes_of(options))
    bench = bench_of(options)
    strength = 1.0 if options.strength is None else options.strength
    prompt, out, encoded = options.prompt[0], Path(options.out), None
    if profile:
        for difference in differences(profile, bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        profile = _for_prompt(bench, profile, prompt, options)
        entry, _ = entry_for(profile, prompt, options.negative_prompt or "")
        if strength and any(any(s.weights) or s.probabilities for s in entry.steerings):
            encoded = bench.encoded(profile, prompt, strength)
    written, not_finite, uniform, first, acted = [], [], [], options.seed or 0, False
    with Bar(options.json) as bar:
        for start in range(first, first + options.count, bench.batch_size):
            batch = range(start, min(start + bench.batch_size, first + options.count))
            images, info = (bench.apply(profile, prompt, batch, strength, encoded) if profile
                            else bench.generate(prompt, batch))
            acted |= bool(profile and info["acted"])
            for i, (image, seed, row) in enumerate(zip(pictures(images), batch, info["weights"], strict=True)):
                notes = {} if profile is None else metadata(
                    profile, prompt, dict(info, acted=info["acted"] and any(row)), strength, seed,
                    bench.setting["negative_prompt"] or "")
                if warning := _warning(image, i in info["broken"]):
                    notes["Warning"] = warning
                image.info[PARAMETERS] = parameters_of(prompt, seed, image.size, bench.setting, notes)
                written.append(_written(out / f"{seed}.png", png(image), options.overwrite))
                not_finite += [written[-1]] if i in info["broken"] else []
                uniform += [written[-1]] if "Warning" in notes and i not in info["broken"] else []
            bar.update(len(written), options.count)
    if uniform:
        warnings.warn(f"{len(uniform)} of {len(written)} images are of one colour throughout. Does the model or its "
                      f"VAE overflow in half precision?")
    say(options, f"\nImages: {out.resolve()}")
    if acted and profile is not None and (sent := drawn(profile, entry, range(first, first + options.count))):
        say(options, f"{profile.name}: {sent}")
    judge = _could_judge(bench, profile, options) if acted and options.attribute and profile is not None else None
    if judge is not None and profile is not None:
        attributes = " ".join(f"--attribute {shlex.quote(text)}" for text in options.attribute)
        say(options, f"{beyond_balance(profile.attributes)}:\n  sd-debias calibrate --model "
                     f"{shlex.quote(options.model)}{judge} --prompt {shlex.quote(prompt)} {attributes} "
                     "--out calibrated")
    return dict(prompt=prompt, profile=profile and profile.name, images=written, not_finite=not_finite,
                one_colour=uniform)


def _warning(image, broken: bool) -> str | None:
    """What the image's metadata say of pixels that no model should give."""
    from ...core.judge import one_colour
    if broken:
        return "the model gave NaN or infinite pixels, shown in black"
    return "all pixels are equal: does the model or its VAE overflow?" if one_colour(image) else None


def _could_judge(bench, profile, options) -> str | None:
    """What a calibration says of its judge; None where the demo model's own cannot tell the groups apart."""
    if options.model != "demo":
        return " --judge CLIP"
    try:
        bench.judges(profile.attributes)
    except DebiasError:
        return None
    return ""


def _written(path: Path, data: bytes, overwrite: bool) -> str:
    """Write an image; raises DebiasError where another one is there."""
    if path.exists() and not overwrite and (not path.is_file() or path.read_bytes() != data):
        raise DebiasError(f"{quoted(path)} exists already and is another image. Choose another --out, or add "
                          "--overwrite.")
    return str(write_atomic(path, data))


def report(options) -> dict:
    """Write a profile's report. With --model, generate images for it; with --prompt, also measure further prompts."""
    from ...core.study.unfinished import SHOWN
    from ...core.profile.file import Profile, located
    from ...core.profile.lookup import differences
    from ...core.report.page import write_report
    from ...core.report.sheet import WITH, WITHOUT, Sheet
    from ..workbench import pictures
    profile, others = Profile.load(located(options.profile)), []
    sheets: dict[str, list[Sheet]] = {}
    keep(options, "report.html")
    if options.model:
        bench = bench_of(options, profile.attributes if options.prompt else ())
        for difference in differences(profile, bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        for prompt in options.prompt or ():
            profile = _for_prompt(bench, profile, prompt, options)
        seeds = list(range(options.seed or 0, (options.seed or 0) + SHOWN))
        with Bar(options.json, "prompts") as bar:
            for done, entry in enumerate(profile.entries):
                bar.update(done, len(profile.entries))
                made = bench.generate(entry.prompt, seeds)[0], bench.apply(profile, entry.prompt, seeds)[0]
                sheets[entry.prompt] = [Sheet(what, pictures(images), seeds)
                                        for what, images in zip((WITHOUT, WITH), made, strict=True)]
            bar.update(len(profile.entries), len(profile.entries))
        for prompt in options.prompt or ():
            entry, sheets[prompt] = _carried_over(bench, profile, prompt, options)
            others.append(entry)
    page = write_report(options.out, profile, sheets, others)
    say(options, f"Report: {page.resolve()}")
    return dict(report=str(page))


def _for_prompt(bench, profile: Profile, prompt: str, options) -> Profile:
    """The profile with the user's choice for other prompts; warns where the prompt has no calibration of its own."""
    from ...core.profile.lookup import entry_for, with_others
    from ...core.prompts.syntax import ALONE
    profile = with_others(profile, (options.others or ALONE).replace("-", " "))
    entry, known = entry_for(profile, prompt, options.negative_prompt or "")
    if entry.warnings and (not known or entry.left_alone):
        warnings.warn(f"{quoted(prompt)}: {'; '.join(entry.warnings)}.")
    return profile


def _carried_over(bench, profile: Profile, prompt: str, options) -> tuple[Entry, list[Sheet]]:
    """Measure an uncalibrated prompt without and with the profile; returns the entry and images of both."""
    from ...core.study.outcome import lines
    from ...core.calibration.result import entry_of
    from ...core.study.unfinished import Unfinished
    from ...core.profile.lookup import entry_for
    before, count, work = bench.evaluations, options.count or 200, Unfinished(None)
    with Bar(options.json) as bar:
        for found in bench.carried_over(profile, prompt, count, options.seed or 0, work):
            bar.update(sum(r.done for r in found.rounds), 2 * count, quoted(prompt))
    say(options, "\n" + "\n".join(lines(found, "with the profile")))
    entry = entry_of(found, bench.evaluations - before)
    said = entry_for(profile, prompt)[0].warnings
    if found.held_out is not None:
        said += entry.warnings
    if found.held_out is not None and entry.warnings:
        said += ("the profile does not carry over to this prompt: calibrate it",)
    sheets = [sheet for sheet in work.sheets(found) if sheet]
    return replace(entry, warnings=said, stop="nothing was calibrated for this prompt"), sheets


def doctor(options) -> dict:
    """Test guidance on a model with a few images. Put what it prints into a bug report."""
    from ...core.doctor import PROMPT, examine
    from ..doctor import facts
    attributes = attributes_of(options)
    if len(attributes) > 1:
        raise DebiasError(f"Expected one attribute for the doctor, got {len(attributes)}. Leave out all but one "
                          "--attribute.")
    method = named("default", direction=options.direction)
    bench = bench_of(options, attributes if options.judge or options.model == "demo" else ())
    prompt = options.prompt or PROMPT
    try:
        known = facts(bench.pipe, prompt, attributes, method)
    except DebiasError:
        known = []  # the examination meets it again and says so
    found = examine(bench, known, method, prompt, attributes[0],
                    bench.judges(attributes)[0][0] if options.judge or options.model == "demo" else None)
    say(options, found.text)
    return dict(ok=found.ok, findings=[dict(ok=finding.ok, text=finding.text) for finding in found.findings])


COMMANDS = {function.__name__: function for function in (audit, calibrate, check, generate, report, demo, doctor)}
