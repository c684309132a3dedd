"""The command line: sd-debias audit | calibrate | check | generate | report | demo | export | doctor."""
from __future__ import annotations

import io
import json
import sys
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from ...core.attribute import Attribute, parse, together
from ...core.calibration.plan import CUSTOM, FIELDS, NUMBERS, Plan, planned
from ...core.errors import DebiasError, quoted, short
from ...core.files import fingerprint, read_json, write_atomic
from ...core.method.methods import METHODS, Method, named

if TYPE_CHECKING:  # they load torch, which takes seconds
    from ...core.profile.file import Entry, Profile
    from ...core.report.sheet import Sheet

DEMO_PROMPT = "a photo of a doctor"
LABELS, TABLE, CHECK = "labels.html", "labels.csv", "check.json"


class Stopped(Exception):
    """Ctrl-C or SIGTERM, with the words that say how to go on."""


# --- commands --------------------------------------------------------------------------------------------------------

def audit(options) -> dict:
    """Measure which groups a model's pictures show, or those of a folder; changes nothing."""
    from ...core.audit.labelled import corrected, read_corrections
    from ...core.calibration import runner
    attributes, checks = _attributes(options), _checks(options)
    corrections = read_corrections(options.corrections) if options.corrections else None
    if options.images:
        return _audit_folder(options, attributes, checks, corrections)
    _keep(options, "audit.json", LABELS, TABLE, *(f"audit-{i + 1}.png" for i in range(len(options.prompt))))
    bench = _bench(options, attributes)
    with _Bar(options) as bench.say:
        outcome = runner.audit(bench, options.prompt, attributes, options.count or FIELDS["images"].default,
                               bench.batch_size, options.seed or 0, options.confidence, _of(attributes, checks))
    if corrections is not None and outcome.complete:
        outcome.notes.append(corrected(outcome.labelled, corrections))
    _tell(options, outcome)
    result = dict(setting=bench.setting, audits=[
        dict(prompt=c.prompt, attributes=shares["before"], fidelity=c.audit.mean_fidelity,
             not_finite=c.audit.not_finite, one_colour=c.audit.one_colour)
        for c, shares in zip(outcome.calibrations, outcome.figures())])
    if options.out:
        sheets = [sheet.image() for sheet, _ in outcome.sheets if sheet]
        files = {f"audit-{i}.png": _png(sheet) for i, sheet in enumerate(sheets, 1)}
        files["audit.json"] = json.dumps(result, indent=2)
        files |= _labelled_files(options, " and ".join(options.prompt), outcome.labelled)
        for name, data in files.items():
            write_atomic(Path(options.out) / name, data)
        _say(options, f"Pictures and labels: {Path(options.out).resolve() / LABELS}")
    return result


def _audit_folder(options, attributes: tuple[Attribute, ...], checks: list, corrections) -> dict:
    """The pictures of a folder, labelled a batch at a time; an interrupted audit with --out is continued."""
    from ...core.audit.folder import FolderAudit
    from ...core.audit.labelled import corrected
    _keep(options, "audit.json", LABELS, TABLE)
    judges, by = _folder_judges(options, attributes)
    state = Path(options.out) / "unfinished.json" if options.out else None
    work = FolderAudit(options.images, attributes, [judges[a.name] for a in attributes], judged_by=by, state=state,
                       confidence=options.confidence, batch_size=options.batch_size or 32,
                       checks=_of(attributes, checks))
    bar = None

    def say(done: int, total: int) -> None:
        nonlocal bar
        if options.json:
            return
        if bar is None:
            from tqdm import tqdm
            bar = tqdm(unit="picture", total=total, initial=done)
        bar.update(done - bar.n)

    try:
        labelled = work.run(say)
    except KeyboardInterrupt as stopped:
        kept = ", and kept: run the same command again to continue" if state else \
            ". With --out, what is done is kept"
        raise Stopped(f"\nInterrupted. {work.done} of {len(work.files)} pictures are labelled{kept}.") from stopped
    finally:
        if bar is not None:
            bar.close()
    notes = [corrected([labelled], corrections)] if corrections is not None else []
    found = {a.name: labelled.distribution(i) for i, a in enumerate(attributes)}
    lines = [found[a.name].line(a.name, a.names) for a in attributes]
    unreadable = [f"{len(work.unreadable)} pictures could not be read: {short('; '.join(work.unreadable))}"
                  ] if work.unreadable else []
    warnings = [*filter(None, [labelled.round.left_out, labelled.round.broken]), *unreadable,
                *(warning for check in checks for warning in check.warnings)]
    _say(options, "\n".join([*lines, *(f"Warning: {warning}" for warning in warnings), *notes]))
    result = dict(folder=str(Path(options.images).resolve()), pictures=work.done, unreadable=work.unreadable,
                  warnings=warnings, attributes={name: {**d.to_dict(), "groups": list(a.names)}
                                                 for (name, d), a in zip(found.items(), attributes, strict=True)})
    if options.out:
        files = {**_labelled_files(options, work.title, [labelled]),
                 "audit.json": json.dumps(result, indent=2)}
        for name, data in files.items():
            write_atomic(Path(options.out) / name, data)
        work.forget()
        _say(options, f"Pictures and labels: {Path(options.out).resolve() / LABELS}")
    return result


def _labelled_files(options, title: str, labelled: Sequence, back: str = "sd-debias audit --corrections FILE"
                    ) -> dict[str, str | bytes]:
    """The page of pictures and labels, and the table."""
    from ...core.audit.labelled import as_csv, as_parquet
    from ...core.report.look import look_page
    files: dict[str, str | bytes] = {LABELS: look_page(title, labelled, back), TABLE: as_csv(labelled)}
    if options.parquet:
        files["labels.parquet"] = as_parquet(labelled)
    return files


def check(options) -> dict:
    """Check the classifier on the model: how it labels pictures whose prompt states the group."""
    from ...core.audit.checking import COUNT, PROMPT, check_judges
    from ...core.audit.labelled import read_corrections
    attributes = _attributes(options)
    corrections = read_corrections(options.corrections) if options.corrections else None
    _keep(options, CHECK, LABELS, TABLE)
    bench = _bench(options, attributes)
    prompts = options.prompt or [DEMO_PROMPT if options.model == "demo" else PROMPT]
    with _Bar(options) as bench.say:
        checks, outcome = check_judges(bench, prompts, attributes, options.count or COUNT, bench.batch_size,
                                       options.seed or 0, options.confidence, corrections)
    if not outcome.complete:
        raise Stopped("Interrupted: a check is made in one go. Run the same command again.") from outcome.stopped
    _say(options, "\n".join(["", *(line for own in checks for line in (f"{own.attribute}, by {own.judge}:", *(
        f"  {line}" for line in own.lines), *(f"  Warning: {warning}" for warning in own.warnings))), *outcome.notes]))
    result = dict(checks=[own.to_dict() for own in checks], warnings=[w for own in checks for w in own.warnings])
    if options.out:
        files = {**_labelled_files(options, "Check of the classifier", outcome.labelled,
                                  "sd-debias check --corrections FILE"),
                 CHECK: json.dumps(result, indent=2)}
        for name, data in files.items():
            write_atomic(Path(options.out) / name, data)
        _say(options, f"For --check: {Path(options.out).resolve() / CHECK}\n"
                      f"Pictures and labels: {Path(options.out).resolve() / LABELS}")
    return result


def calibrate(options) -> dict:
    """Find the weights for a model and its prompts, verify them, and write profile, report and pictures."""
    attributes = _attributes(options)
    method = named(options.method, direction=options.direction, spend=options.spend, rule=options.rule)
    numbers = {name: number for name in NUMBERS if (number := getattr(options, name)) is not None}
    sure = options.sure or (CUSTOM if numbers else "normal")
    if numbers and sure != CUSTOM:
        raise DebiasError(f"--{next(iter(numbers)).replace('_', '-')} is a number of --sure {CUSTOM}, but --sure "
                          f"{sure} came, which has its own. Leave one of them out.")
    _keep(options)
    bench = _bench(options, attributes)
    plan = planned(sure, method, **numbers, batch_size=bench.batch_size, seed=options.seed or 0,
                   confidence=options.confidence)
    return _calibrate(bench, options.prompt, attributes, method, plan, options, _of(attributes, _checks(options)))


def demo(options) -> dict:
    """The whole job on the embedded demo model: audit, calibrate, verify, before and after."""
    attributes = _attributes(options)
    options.model, options.name = "demo", "demo"
    _keep(options)
    bench = _bench(options, attributes)
    plan = planned("normal", METHODS["default"], batch_size=bench.batch_size, seed=options.seed or 0)
    return _calibrate(bench, [DEMO_PROMPT], attributes, METHODS["default"], plan, options)


def _calibrate(bench, prompts: list[str], attributes: tuple[Attribute, ...], method: Method, plan: Plan,
               options, checks: Sequence = ()) -> dict:
    from ...core.calibration import runner
    out = Path(options.out).resolve()
    places = runner.Places(profile=out / "profile.json", lock=out / "profile.json", folder=out,
                           states=out / "unfinished", best=out / "profile (unfinished).json",
                           overwrite=options.overwrite)
    try:
        with _Bar(options) as bench.say:
            outcome = runner.calibrate(bench, prompts, attributes, method, plan, options.name or out.name, places,
                                       checks)
    except KeyboardInterrupt as interrupted:  # while files are written
        raise Stopped("What was measured is kept: run the same command again to continue.") from interrupted
    _tell(options, outcome)
    return read_json(out / "summary.json")


def _tell(options, outcome) -> None:
    """Print what came out. Raises Stopped where it was interrupted."""
    if not outcome.complete:
        raise Stopped(outcome.text) from outcome.stopped
    _say(options, f"\n{outcome.text}")
    if options.json:
        for warning in outcome.warnings:
            print(f"Warning: {warning}", file=sys.stderr)


class _Bar:
    """One bar over all images, with images/s and the longest time left, and a line for each round."""

    def __init__(self, options):
        self.quiet, self.bar = options.json, None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress) -> None:
        if self.quiet:
            return
        if self.bar is None:
            from tqdm import tqdm
            if progress.done:
                print(f"Continuing after {progress.done} images.", flush=True)
            self.bar = tqdm(unit="image", total=progress.total, initial=progress.done)
        self.bar.set_description(progress.name.rjust(8), refresh=False)
        self.bar.total = progress.total
        self.bar.update(progress.done - self.bar.n)
        if progress.current and progress.current.complete:
            self.bar.write(f"{progress.name.rjust(8)}: {'; '.join(filter(None, [*progress.shares, progress.left]))}")


def generate(options) -> dict:
    """Generate pictures (saved as SEED.png), with or without a profile."""
    from ...core.judge import one_colour
    from ...core.profile.file import Profile, located
    from ...core.profile.lookup import differences
    from ...core.profile.words import metadata
    if len(options.prompt) > 1:
        raise DebiasError(f"generate takes one --prompt, but {len(options.prompt)} came. Run it once for each.")
    profile = Profile.load(located(options.profile)) if options.profile else None
    bench = _bench(options)
    strength = 1.0 if options.strength is None else options.strength
    prompt, out, encoded = options.prompt[0], Path(options.out), None
    if profile:
        for difference in differences(profile, bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        profile = _for_prompt(bench, profile, prompt, options)
        if strength:
            encoded = bench.encoded(profile, prompt, strength)
    written, not_finite, uniform, started = [], [], [], time.perf_counter()
    first = options.seed or 0
    for start in range(first, first + options.count, bench.batch_size):
        batch = range(start, min(start + bench.batch_size, first + options.count))
        images, info = (bench.apply(profile, prompt, batch, strength, encoded) if profile
                        else bench.generate(prompt, batch))
        for i, (image, seed, row) in enumerate(zip(_pictures(images), batch, info["weights"], strict=True)):
            notes = {}
            if profile:
                notes = metadata(profile, prompt, dict(info, acted=info["acted"] and any(row)), strength, seed)
            if i in info["broken"]:
                notes["Warning"] = "the model gave NaN or infinite pixels, shown in black"
            elif one_colour(image):
                notes["Warning"] = "all pixels are equal: does the model or its VAE overflow?"
            path = out / f"{seed}.png"
            data = _png(image, _parameters(prompt, seed, image.size, bench.setting, notes))
            if path.exists() and not options.overwrite and (not path.is_file() or path.read_bytes() != data):
                raise DebiasError(f"{quoted(path)} exists already and is another picture. Choose another --out, or add "
                                  f"--overwrite.")
            written.append(str(write_atomic(path, data)))
            not_finite += [written[-1]] if i in info["broken"] else []
            uniform += [written[-1]] if "Warning" in notes and i not in info["broken"] else []
        if not options.json:
            speed = len(written) / (time.perf_counter() - started)
            print(f"\r{len(written)} of {options.count} pictures, {speed:.1f}/s", end="", file=sys.stderr, flush=True)
    if uniform:
        warnings.warn(f"{len(uniform)} of {len(written)} images are of one colour throughout. Does the model or its "
                      f"VAE overflow in half precision?")
    _say(options, f"\nPictures: {out.resolve()}")
    return dict(prompt=prompt, profile=profile and profile.name, images=written, not_finite=not_finite,
                one_colour=uniform)


def report(options) -> dict:
    """A profile's report; with --model, before/after pictures are made for it, and further prompts are measured."""
    from ...core.calibration.unfinished import SHOWN
    from ...core.profile.file import Profile, located
    from ...core.profile.lookup import differences
    from ...core.report.page import write_report
    from ...core.report.sheet import WITH, WITHOUT, Sheet
    profile, others = Profile.load(located(options.profile)), []
    sheets: dict[str, list[Sheet]] = {}
    _keep(options, "report.html")
    if options.model:
        bench = _bench(options, profile.attributes if options.prompt else ())
        for difference in differences(profile, bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        for prompt in options.prompt or ():
            profile = _for_prompt(bench, profile, prompt, options)
        seeds = list(range(options.seed or 0, (options.seed or 0) + SHOWN))
        for entry in profile.entries:
            made = bench.generate(entry.prompt, seeds)[0], bench.apply(profile, entry.prompt, seeds)[0]
            sheets[entry.prompt] = [Sheet(what, _pictures(images), seeds)
                                    for what, images in zip((WITHOUT, WITH), made, strict=True)]
        for prompt in options.prompt or ():
            entry, sheets[prompt] = _carried_over(bench, profile, prompt, options)
            others.append(entry)
    page = write_report(options.out, profile, sheets, others)
    _say(options, f"Report: {page.resolve()}")
    return dict(report=str(page))


def _for_prompt(bench, profile: Profile, prompt: str, options) -> Profile:
    """The profile, with what is asked for prompts that no entry is for; says what is used where this is not the
    prompt's own calibration."""
    from ...core.profile.lookup import entry_for, is_other, with_others
    from ...core.profile.prompts import ALONE, PREDICT
    profile = with_others(profile, (options.others or ALONE).replace("-", " "))
    other = is_other(profile, prompt)
    if profile.others == PREDICT and not other:
        warnings.warn(f"An entry of the profile is for {quoted(prompt)}, or the prompt names its groups itself, so "
                      f"--others predict does nothing.")
    if profile.others == PREDICT and other:
        _say(options, f"Reading the first steps of {quoted(prompt)} and of {len(profile.entries)} calibrated prompts")
        profile = bench.predicted(profile, prompt)
    entry, known = entry_for(profile, prompt)
    if not known or any(warning.endswith("left alone") for warning in entry.warnings):
        warnings.warn(f"{quoted(prompt)}: {'; '.join(entry.warnings)}.")
    return profile


def _carried_over(bench, profile: Profile, prompt: str, options) -> tuple[Entry, list[Sheet]]:
    """What the profile does to a prompt that it was not calibrated for, and pictures of it without and with it."""
    from ...core.calibration.outcome import lines
    from ...core.calibration.result import entry_of
    from ...core.calibration.unfinished import Unfinished
    from ...core.profile.lookup import entry_for
    found, before, count, work = None, bench.evaluations, options.count or 200, Unfinished(None)
    for found in bench.carried_over(profile, prompt, count, options.seed or 0, work):
        done = sum(r.done for r in found.rounds)
        if not options.json:
            print(f"\r{quoted(prompt)}: {done} pictures, {count} each way", end="", file=sys.stderr, flush=True)
    _say(options, "\n" + "\n".join(lines(found, "with the profile")))
    entry = entry_of(found, bench.evaluations - before)
    said = entry_for(profile, prompt)[0].warnings
    if found.held_out is not None:
        said += entry.warnings
    if found.held_out is not None and entry.warnings:
        said += ("the profile does not carry over to this prompt: calibrate it",)
    sheets = [sheet for sheet in work.sheets(found) if sheet]
    return replace(entry, warnings=said, stop="nothing was calibrated for this prompt"), sheets


def export(options) -> dict:
    """Write the demo model as a checkpoint for another host."""
    from ...demo_model.export import export
    path = export(options.out, options.name, overwrite=options.overwrite)
    _say(options, f"Checkpoint: {path}")
    return dict(checkpoint=str(path))


def doctor(options) -> dict:
    """Try guidance on a model with a few pictures; what is printed belongs into a bug report."""
    from ...core.doctor import PROMPT, examine
    from ..doctor import facts
    attributes = _attributes(options)
    if len(attributes) > 1:
        raise DebiasError(f"The doctor tries one attribute, but {len(attributes)} came. Leave out all but one "
                          "--attribute.")
    method = named("default", direction=options.direction)
    bench = _bench(options, attributes if options.classifier or options.model == "demo" else ())
    prompt = options.prompt or PROMPT
    try:
        known = facts(bench.pipe, prompt, attributes, method)
    except DebiasError:
        known = []  # the examination meets it again and says so
    found = examine(bench, known, method, prompt, attributes[0],
                    bench.judges(attributes)[0][0] if options.classifier or options.model == "demo" else None)
    _say(options, found.text)
    return dict(ok=found.ok, findings=[dict(ok=finding.ok, text=finding.text) for finding in found.findings])


COMMANDS = {function.__name__: function for function in (audit, calibrate, check, generate, report, demo, export,
                                                         doctor)}


# --- parts -----------------------------------------------------------------------------------------------------------

def _bench(options, attributes: Sequence[Attribute] = ()):
    """The model and the attributes' classifiers that the options name."""
    import torch

    from ..workbench import Workbench, demo, load_pipeline, model_hash
    _quiet()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float16" if device.startswith("cuda") else "float32"))
    names = ("steps", "cfg", "width", "height", "negative_prompt", "batch_size")
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    judges = [*(getattr(options, "classifier", None) or ()), *(getattr(options, "labels", None) or ())]
    look = [getattr(options, name, None) for name in ("look", "detector") if getattr(options, name, None)]
    given["judged_by"] = " ".join([*(str(fingerprint(text.rpartition("=")[2])) for text in judges), *look])
    if options.model == "demo":
        judges, fidelity = _judges(options, attributes, device, demo=True)
        return demo(device, dtype, classifiers=judges, **given)
    if attributes and not options.classifier:
        raise DebiasError("A CLIP model measures whom the pictures show: give its folder with --classifier, e.g. a "
                          "copy of openai/clip-vit-large-patch14 with safetensors weights.")
    # Whoever generates pictures keeps the model's safety checker; pictures that it blacks out cannot be counted.
    pipe = load_pipeline(options.model, device, dtype, options.allow_download, options.config,
                         safety_checker=options.command is generate)
    if not attributes:
        return Workbench(pipe, None, model=Path(options.model).name, model_hash=model_hash(options.model), **given)
    judges, fidelity = _judges(options, attributes, device)
    return Workbench(pipe, None, classifiers=judges, fidelity=fidelity, model=Path(options.model).name,
                     model_hash=model_hash(options.model), **given)


def _judges(options, attributes: Sequence[Attribute], device: str, demo: bool = False):
    """(a classifier for each attribute and each that is watched, by name; what measures fidelity, or None)."""
    from ...core.calibration.watched import others
    from ..workbench import check_device
    from ...core.looks import PICTURE
    from ...core.judge.named import Judges, open_model
    check_device(device)
    known = {attribute.name: attribute for attribute in attributes}
    where = dict(device=device, allow_download=getattr(options, "allow_download", False))
    labels: dict[str, str] = {}
    for text in getattr(options, "labels", None) or ():
        name, file = _assigned(text, known, "--labels")
        if name in labels:
            raise DebiasError(f"Two --labels came for the attribute {quoted(name)}. Give one.")
        labels[name] = file
    lines = []
    for text in getattr(options, "classifier", None) or ():
        if "=" in text and not Path(text).exists():
            _assigned(text, known, "--classifier")
        lines.append(text)

    def opened(source: str):
        from ...demo_model.model import clip
        return clip(device) if source == "demo" else open_model(source, **where)

    def colour(attribute: Attribute):
        from ...core.judge.skin_tone import SkinTone
        from ...demo_model.subjects import ITA_CUTOFFS
        drawn = options.model == "demo" and len(attribute.groups) == len(ITA_CUTOFFS) + 1
        return SkinTone(attribute, cutoffs=ITA_CUTOFFS if drawn else None)

    for name in labels:
        if not any(line.startswith(f"{name}=") for line in lines):
            raise DebiasError(f"--labels of {quoted(name)} does nothing without an image classifier: give its folder "
                              f"with --classifier {name}=FOLDER.")
    maps = {name: read_json(file) for name, file in labels.items()}
    general = any("=" not in line or Path(line).exists() or line.partition("=")[0] not in known for line in lines)
    judges = Judges([*lines, *(["demo"] if demo and not general else [])], attributes, opened, colour, maps,
                    (getattr(options, "look", None) or PICTURE).replace("-", " "),
                    getattr(options, "detector", None) or "auto")
    found = {attribute.name: judges.of(attribute) for attribute in attributes}
    for watched in others(attributes) if judges.general is not None else ():  # side effects are told
        try:
            found.setdefault(watched.name, judges.of(watched))
        except DebiasError:
            continue  # a judge of the attributes asked for alone
    return found, judges.fidelity


def _folder_judges(options, attributes: Sequence[Attribute]):
    """(classifiers by attribute, plain values that tell them from others)."""
    import torch
    _quiet()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    named = [*(options.classifier or ()), *(options.labels or ())]
    if not named:
        raise DebiasError("A classifier measures whom the pictures show: give a CLIP model's folder with "
                          "--classifier, or --classifier gender=photo, the judge of the extra sd-debias[photo].")
    by = [*named, *(str(fingerprint(text.rpartition("=")[2])) for text in named), options.look, options.detector]
    return _judges(options, attributes, device)[0], by


def _checks(options) -> list:
    """Checks of classifiers, as `check` writes them."""
    from ...core.judge.check import Check
    found = []
    for file in options.check or ():
        data = read_json(file)
        if not isinstance(data, dict) or not isinstance(data.get("checks"), list):
            raise DebiasError(f"{quoted(file)} is no check of a classifier. Make one: sd-debias check.")
        found += [Check.from_dict(own) for own in data["checks"]]
    return found


def _of(attributes: Sequence[Attribute], checks: Sequence) -> list:
    """The check of each attribute, None where none came. Raises DebiasError for those that nothing is measured of."""
    found = {check.attribute: check for check in checks}
    if len(found) < len(checks):
        twice = next(c.attribute for i, c in enumerate(checks) if c.attribute in {b.attribute for b in checks[:i]})
        raise DebiasError(f"Two checks of {quoted(twice)} came. Give one --check for it.")
    strange = sorted(set(found) - {a.name for a in attributes})
    if strange:
        raise DebiasError(f"A check of {quoted(strange[0])} came, which is not measured. Leave it out, or measure it "
                          f"with --attribute.")
    return [found.get(a.name) for a in attributes] if checks else []


def _assigned(text: str, known, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise DebiasError(f"Expected {option} as ATTRIBUTE=VALUE with one of the attributes {short(', '.join(known))}, "
                          f"but {quoted(text)} came.")
    return name, value


def _quiet() -> None:
    """Turns off the libraries' own progress bars and advice, which a user of this command can do nothing with."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _attributes(options) -> tuple[Attribute, ...]:
    return together([Attribute.from_dict(read_json(text)) if text.endswith(".json") else parse(text)
                     for text in options.attribute or ["gender"]])


def _pictures(images):
    from ..workbench import pictures
    return pictures(images)


def _parameters(prompt: str, seed: int, size: tuple[int, int], setting: dict, notes: dict) -> str:
    """An image's parameters in the form that image browsers and AUTOMATIC1111 read."""
    fields = {"Steps": setting["steps"], "Sampler": setting["sampler"], "CFG scale": setting["cfg"], "Seed": seed,
              "Size": f"{size[0]}x{size[1]}", "Model hash": setting["model_hash"], "Model": setting["model"], **notes}
    negative = f"\nNegative prompt: {setting['negative_prompt']}" if setting["negative_prompt"] else ""
    quoted = (f"{key}: {json.dumps(str(value)) if any(c in str(value) for c in ',:') else value}"
              for key, value in fields.items() if value is not None)
    return f"{prompt}{negative}\n{', '.join(quoted)}"


def _png(image, parameters: str | None = None) -> bytes:
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    if parameters is not None:
        info.add_itxt("parameters", parameters)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _keep(options, *files: str) -> None:
    """Make the folder, and raise DebiasError where the command would replace what an earlier one wrote."""
    if getattr(options, "parquet", False) and find_spec("pyarrow") is None:
        raise DebiasError("--parquet needs the package pyarrow, which is not installed. Install it, or leave --parquet "
                          "out: labels.csv is written anyway.")
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)  # said now rather than after the work
    for file in files:
        if options.out and (path := Path(options.out) / file).exists() and not options.overwrite:
            raise DebiasError(f"{quoted(path)} exists already. Choose another --out, or add --overwrite to replace it.")


def _say(options, text: str) -> None:
    if not options.json:
        print(text, flush=True)

