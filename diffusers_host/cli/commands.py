"""The command line: sd-debias audit | calibrate | generate | report | demo | export."""
from __future__ import annotations

import io
import json
import re
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence

from ...core.attribute import Attribute, parse, together
from ...core.calibration.plan import Plan
from ...core.errors import DebiasError, quoted, short
from ...core.files import exclusive, fingerprint, read_json, safe_name, write_atomic
from ...core.method.methods import METHODS, Method, named

if TYPE_CHECKING:  # they load torch, which takes seconds
    from ...core.calibration.loop import Calibration, Round
    from ...core.profile.file import Entry, Profile

SHEET = 16  # pictures of a before/after sheet
DEMO_PROMPT = "a photo of a doctor"
OUTPUTS = ("report.html", "before.png", "after.png", "summary.json")  # of a calibration, beside profile and charts


class Stopped(Exception):
    """Ctrl-C or SIGTERM, with the words that say how to go on."""


# --- commands --------------------------------------------------------------------------------------------------------

def audit(options) -> dict:
    """Measure which groups a model's pictures show; changes nothing."""
    from ...core.calibration.loop import Calibration
    attributes = _attributes(options)
    _keep(options, "audit.json", *(f"audit-{i + 1}.png" for i in range(len(options.prompt))))
    bench, reports = _bench(options, attributes), []
    for prompt in options.prompt:
        plan = Plan(options.count, rounds=0, held_out=0, batch_size=bench.batch_size, seed=options.seed or 0,
                    confidence=options.confidence)
        calibration = Calibration(prompt, attributes, METHODS["default"], plan)
        _progress(calibration, bench.run(calibration), options)
        shares = {a.name: calibration.audit.distribution(i, a.target).to_dict() | {"groups": list(a.names)}
                  for i, a in enumerate(attributes)}
        reports.append(dict(prompt=prompt, attributes=shares, fidelity=calibration.audit.mean_fidelity,
                            not_finite=calibration.audit.not_finite, one_colour=calibration.audit.one_colour))
        _say(options, _table(prompt, attributes, calibration.audit))
        if calibration.audit.broken:
            warnings.warn(f"{quoted(prompt)}: {calibration.audit.broken}; they show nobody and are counted as unsure.")
    result = dict(setting=bench.setting, audits=reports)
    if options.out:
        seeds = range(options.seed or 0, (options.seed or 0) + min(SHEET, options.count))
        files = {f"audit-{i}.png": _png(_sheet(bench, prompt, seeds)) for i, prompt in enumerate(options.prompt, 1)}
        files["audit.json"] = json.dumps(result, indent=2)
        for name, data in files.items():
            write_atomic(Path(options.out) / name, data)
    return result


def calibrate(options) -> dict:
    """Find the weights for a model and its prompts, verify them, and write profile, report and pictures."""
    attributes = _attributes(options)
    method = named(options.method, direction=options.direction, spend=options.spend, rule=options.rule)
    _keep(options)
    bench = _bench(options, attributes)
    plan = Plan(options.images, options.rounds, options.held_out, options.tolerance or None, bench.batch_size,
                options.seed or 0, options.confidence)
    return _calibrate(bench, options.prompt, attributes, method, plan, options)


def demo(options) -> dict:
    """The whole job on the embedded demo model: audit, calibrate, verify, before and after."""
    attributes = _attributes(options)
    options.model, options.name = "demo", "demo"
    _keep(options)
    bench = _bench(options, attributes)
    plan = Plan(images=200, held_out=400, batch_size=bench.batch_size, seed=options.seed or 0)
    return _calibrate(bench, [DEMO_PROMPT], attributes, METHODS["default"], plan, options)


def _calibrate(bench, prompts: list[str], attributes: tuple[Attribute, ...], method: Method, plan: Plan,
               options) -> dict:
    out, started = Path(options.out), time.perf_counter()
    target, name = out / "profile.json", safe_name(options.name or out.resolve().name)
    if len({" ".join(prompt.casefold().split()) for prompt in prompts}) < len(prompts):
        raise DebiasError("A prompt came twice. Give each --prompt once.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(target):
            calibrations, result = _measured(bench, prompts, attributes, method, plan, name, target, started, options)
    except KeyboardInterrupt as interrupted:
        raise Stopped("What was measured is kept: run the same command again to continue.") from interrupted
    for c in calibrations:
        _say(options, _table(c.prompt, attributes, c.audit, c.held_out) + f"\n  {c.stop}\n")
        for warning in c.warnings:
            print(f"Warning: {quoted(c.prompt)}: {warning}", file=sys.stderr)
    _say(options, f"Profile: {target.resolve()}\nReport:  {(out / 'report.html').resolve()}")
    return result


def _measured(bench, prompts: list[str], attributes: tuple[Attribute, ...], method: Method, plan: Plan, name: str,
              target: Path, started: float, options) -> tuple[list[Calibration], dict]:
    """Every prompt's calibration, with all its files written: the profile last, then the states are removed.

    So a state that is there says that the work is not done, however it was ended.
    """
    from ...core.report import page as report
    from ...core.calibration.loop import Calibration
    from ...core.report.chart import contact_sheet
    from ...core.profile.file import Profile
    out, evaluations = target.parent, []
    states = [out / f"unfinished-{number}.json" for number in range(1, len(prompts) + 1)]
    judges = ", ".join(_name(bench.classifier(a)) for a in attributes)
    made_with = dict(setting=bench.setting, classifier=judges, classifier_files=bench.judged_by)
    begun = [_resumed(state, Calibration(prompt, attributes, method, plan, made_with=made_with))
             for prompt, state in zip(prompts, states, strict=True)]
    charts = [f"{kind}-{suffix}.png" for kind in ("shares", "kl") for suffix in _suffixes(attributes, len(prompts))]
    saved = any(begun) and target.exists() and not options.overwrite
    if saved:
        _check_saved(target, [c for c in begun if c])
        if not all(begun) or all((out / name).exists() for name in (*OUTPUTS, *charts)):
            return _ended_before(target, [c for c in begun if c], states, options)
    if not any(begun):
        _keep(options, target.name, *OUTPUTS, *charts)
    calibrations = [c or Calibration(prompt, attributes, method, plan, made_with=made_with)
                    for prompt, c in zip(prompts, begun, strict=True)]
    for calibration, state, resumed in zip(calibrations, states, begun, strict=True):
        if resumed:
            _say(options, f"Continuing after {sum(r.done for r in calibration.rounds)} images.")
        before = bench.evaluations
        _progress(calibration, bench.run(calibration, state), options)
        evaluations.append(None if resumed else bench.evaluations - before)
    profile = Profile.load(target) if saved else \
        Profile.from_calibrations(name, calibrations, bench.setting, judges, evaluations)
    before, after, seeds = {}, {}, {}
    for c in calibrations:
        seeds[c.prompt] = list((c.held_out or c.audit).seeds[:SHEET])
        before[c.prompt] = _pictures(bench.generate(c.prompt, seeds[c.prompt])[0])
        after[c.prompt] = _pictures(bench.apply(profile, c.prompt, seeds[c.prompt])[0])
    result = {**report.summary(profile), "seconds": round(time.perf_counter() - started, 1)}
    files = {"report.html": report.page(profile, before, after, seeds), **_charts(calibrations),
             **{f"{part}.png": _png(contact_sheet([image for p in prompts for image in images[p]]))
                for part, images in (("before", before), ("after", after))},
             "summary.json": json.dumps(result, indent=2, allow_nan=False)}
    for file, data in files.items():
        write_atomic(out / file, data)
    if not saved:
        profile.save(target, overwrite=True)
    for state in states:
        state.unlink(missing_ok=True)
    return calibrations, result


def _check_saved(target: Path, begun: list[Calibration]) -> None:
    """Raises DebiasError where the profile that is there is not that of the calibration whose states lie beside it."""
    from ...core.profile.file import Profile
    if not all(c.finished for c in begun) or not Profile.load(target).holds(begun):
        raise DebiasError(f"{quoted(target)} exists already, and is not of the unfinished calibration beside it. "
                          f"Choose another --out, or add --overwrite to replace it.")


def _ended_before(target: Path, begun: list[Calibration], states: list[Path], options) -> tuple[list, dict]:
    """What is left of a run that was ended after all of its files were written: its states are removed."""
    from ...core.profile.file import Profile
    from ...core.report import page as report
    for state in states:
        state.unlink(missing_ok=True)
    _say(options, "This calibration was complete already; nothing was measured again.")
    summary = target.parent / "summary.json"
    return begun, read_json(summary) if summary.exists() else report.summary(Profile.load(target))


def generate(options) -> dict:
    """Generate pictures (saved as SEED.png), with or without a profile."""
    from ...core.judge import one_colour
    from ..encode import encode_all
    from ...core.profile.file import Profile, located
    if len(options.prompt) > 1:
        raise DebiasError(f"generate takes one --prompt, but {len(options.prompt)} came. Run it once for each.")
    profile = Profile.load(located(options.profile)) if options.profile else None
    bench = _bench(options)
    strength = 1.0 if options.strength is None else options.strength
    prompt, out, encoded = options.prompt[0], Path(options.out), None
    if profile:
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        profile = _for_prompt(bench, profile, prompt, options)
        if strength:
            encoded = encode_all(bench.pipe, prompt, profile.attributes, profile.method.context)
    written, not_finite, uniform, started = [], [], [], time.perf_counter()
    first = options.seed or 0
    for start in range(first, first + options.count, bench.batch_size):
        batch = range(start, min(start + bench.batch_size, first + options.count))
        images, info = (bench.apply(profile, prompt, batch, strength, encoded) if profile
                        else bench.generate(prompt, batch))
        for i, (image, seed, row) in enumerate(zip(_pictures(images), batch, info["weights"], strict=True)):
            notes = {}
            if profile:
                notes = profile.metadata(prompt, dict(info, acted=info["acted"] and any(row)), strength, seed)
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
    from ...core.profile.file import Profile, located
    from ...core.report.page import write_report
    profile, others = Profile.load(located(options.profile)), []
    pages = {"before": {}, "after": {}, "seeds": {}}
    _keep(options, "report.html")
    if options.model:
        bench = _bench(options, profile.attributes if options.prompt else ())
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        for prompt in options.prompt or ():
            profile = _for_prompt(bench, profile, prompt, options)
        others = [_carried_over(bench, profile, prompt, options) for prompt in options.prompt or ()]
        seeds = list(range(options.seed or 0, (options.seed or 0) + SHEET))
        for entry in (*profile.entries, *others):
            pages["before"][entry.prompt] = _pictures(bench.generate(entry.prompt, seeds)[0])
            pages["after"][entry.prompt] = _pictures(bench.apply(profile, entry.prompt, seeds)[0])
            pages["seeds"][entry.prompt] = seeds
    page = write_report(options.out, profile, pages["before"], pages["after"], pages["seeds"], others)
    _say(options, f"Report: {page.resolve()}")
    return dict(report=str(page))


def _for_prompt(bench, profile: Profile, prompt: str, options) -> Profile:
    """The profile, with predicted weights for a prompt that was not calibrated where they are asked for; says what is
    used for such a prompt, and where it lies too far from those calibrated."""
    from ..first_steps import distance
    if profile.entry(prompt)[1]:
        if options.predict:
            warnings.warn(f"{quoted(prompt)} is calibrated, so --predict does nothing.")
        return profile
    if options.predict:
        _say(options, f"Reading the first steps of {quoted(prompt)} and of {len(profile.entries)} calibrated prompts")
        profile = bench.predicted(profile, prompt)
    warnings.warn(f"{quoted(prompt)}: {profile.entry(prompt)[0].warnings[0]}.")
    away = distance(bench.pipe, [entry.prompt for entry in profile.entries], prompt)
    if away.too_far:
        warnings.warn(f"{quoted(prompt)}: {away}.")
    return profile


def _carried_over(bench, profile: Profile, prompt: str, options) -> Entry:
    """What the profile does to a prompt that it was not calibrated for."""
    from ...core.profile.file import Entry
    from ..first_steps import distance
    found, before, count = None, bench.evaluations, options.count or 200
    for found in bench.carried_over(profile, prompt, count, options.seed or 0):
        done = sum(r.done for r in found.rounds)
        if not options.json:
            print(f"\r{quoted(prompt)}: {done} of {2 * count} pictures", end="", file=sys.stderr, flush=True)
    _say(options, "\n" + _table(prompt, profile.attributes, found.audit, found.held_out, "with the profile"))
    entry = Entry.from_calibration(found, bench.evaluations - before)
    away = distance(bench.pipe, [known.prompt for known in profile.entries], prompt)
    far = () if away.too_far is False else (str(away),)
    said = (*profile.entry(prompt)[0].warnings, *far, *entry.warnings)
    if entry.warnings:
        said += ("the profile does not carry over to this prompt: calibrate it",)
    return replace(entry, warnings=said, stop="nothing was calibrated for this prompt")


def export(options) -> dict:
    """Write the demo model as a checkpoint for another host."""
    from ...demo_model.export import export
    path = export(options.out, options.name, overwrite=options.overwrite)
    _say(options, f"Checkpoint: {path}")
    return dict(checkpoint=str(path))


COMMANDS = {function.__name__: function for function in (audit, calibrate, generate, report, demo, export)}


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
    given["judged_by"] = " ".join(str(fingerprint(text.rpartition("=")[2])) for text in judges)
    if options.model == "demo":
        clip, classifiers = _classifiers(options, attributes, device)
        if clip is not None:  # instead of the demo's own
            classifiers = {a.name: clip.classifier(a) for a in attributes} | classifiers
        return demo(device, dtype, classifiers=classifiers, **given)
    if attributes and not options.classifier:
        raise DebiasError("A CLIP model measures whom the pictures show: give its folder with --classifier, e.g. a "
                          "copy of openai/clip-vit-large-patch14 with safetensors weights.")
    # Whoever generates pictures keeps the model's safety checker; pictures that it blacks out cannot be counted.
    pipe = load_pipeline(options.model, device, dtype, options.allow_download, options.config,
                         safety_checker=options.command is generate)
    clip, classifiers = _classifiers(options, attributes, device)
    return Workbench(pipe, clip, classifiers=classifiers, model=Path(options.model).name,
                     model_hash=model_hash(options.model), **given)


def _classifiers(options, attributes: Sequence[Attribute], device: str):
    """CLIP, where its folder is given, and classifiers of single attributes by name: 'skin_tone=ita', 'age=FOLDER'."""
    from ...core.judge.clip import ClipModel
    from ...core.judge.image_classifier import ImageClassifier
    from ...core.judge.skin_tone import SkinTone
    clip, single, known = None, {}, {attribute.name: attribute for attribute in attributes}
    where = dict(device=device, allow_download=getattr(options, "allow_download", False))
    labels: dict[str, str] = {}
    for text in getattr(options, "labels", None) or ():
        name, file = _assigned(text, known, "--labels")
        if name in labels:
            raise DebiasError(f"Two --labels came for the attribute {quoted(name)}. Give one.")
        labels[name] = file
    for text in getattr(options, "classifier", None) or ():
        name, equals, source = text.partition("=")
        if not equals or name not in known and Path(text).exists():
            if clip is not None:
                raise DebiasError("Two --classifier folders came for all attributes. Give one, and others as "
                                  "ATTRIBUTE=FOLDER.")
            clip = ClipModel(text, **where)
            continue
        name, source = _assigned(text, known, "--classifier")
        if name in single:
            raise DebiasError(f"Two classifiers came for the attribute {quoted(name)}. Give one.")
        if name in labels and source != "ita":
            single[name] = ImageClassifier(source, known[name], read_json(labels.pop(name)), **where)
        elif source == "ita":
            from ...demo_model.subjects import ITA_CUTOFFS
            drawn = options.model == "demo" and len(known[name].groups) == len(ITA_CUTOFFS) + 1
            single[name] = SkinTone(known[name], cutoffs=ITA_CUTOFFS if drawn else None)
        else:
            single[name] = ClipModel(source, **where).classifier(known[name])
    for name in labels:
        raise DebiasError(f"--labels of {quoted(name)} does nothing without an image classifier: give its folder with "
                          f"--classifier {name}=FOLDER.")
    return clip, single


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


def _resumed(path: Path, fresh: Calibration) -> Calibration | None:
    """The unfinished calibration in `path`, where there is one. Raises DebiasError where it is not the one asked for.

    What an earlier version did not write down is not compared.
    """
    from ...core.calibration.loop import Calibration
    if not path.exists():
        return None
    state = Calibration.load(path)
    differs = [name for name in ("prompt", "attributes", "method", "plan")
               if getattr(state, name) != getattr(fresh, name)]
    differs += [name for name, value in state.made_with.items()
                if name in fresh.made_with and not _same_facts(value, fresh.made_with[name])]
    if differs:
        raise DebiasError(f"{quoted(path)} holds an unfinished calibration with other options "
                          f"({differs[0].replace('_', ' ')}). Delete it, or choose another --out.")
    return state


def _same_facts(one, other) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(one[name] == other[name] for name in one.keys() & other.keys())
    return one == other


def _progress(calibration: Calibration, rounds: Iterator[Round], options) -> None:
    """One bar over all images, with images/s and the longest time left, and a line for each round."""
    from tqdm import tqdm

    from ...core.calibration.loop import HELD_OUT, round_names
    plan, done = calibration.plan, sum(r.done for r in calibration.rounds)
    with tqdm(total=plan.most_images, initial=done, unit="image", disable=options.json) as bar:
        for r in rounds:
            name = round_names([each.kind for each in calibration.rounds])[-1]
            bar.set_description(name.rjust(8), refresh=False)
            begun = sum(len(each.seeds) for each in calibration.rounds)
            bar.total = begun if r.kind == HELD_OUT else max(bar.total, begun + plan.held_out)
            bar.update(sum(each.done for each in calibration.rounds) - bar.n)
            if r.complete and not options.json:
                bar.write(f"{name.rjust(8)}: " + "; ".join(
                    f"{a.name} {' / '.join(f'{share:.0%}' for share in d.shares)}, KL {d.kl:.4f}"
                    for a, d in ((a, r.distribution(i, a.target)) for i, a in enumerate(calibration.attributes))))


def _table(prompt: str, attributes: Sequence[Attribute], before: Round, after: Round | None = None,
           name_after: str = "after, held-out seeds") -> str:
    """Shares with 95 % intervals as text."""
    lines = [f"\n{prompt}"]
    for i, attribute in enumerate(attributes):
        for name, measured in (("audit" if after is None else "before", before), (name_after, after)):
            if measured:
                lines.append("  " + measured.distribution(i, attribute.target).line(f"{attribute.name}, {name}",
                                                                                    attribute.names))
    return "\n".join(lines)


def _suffixes(attributes: Sequence[Attribute], prompts: int) -> list[str]:
    """Ends of the charts' file names, one a prompt and attribute, each of its own: "gender", or "gender-1" ..."""
    found: list[str] = []
    for number in range(1, prompts + 1):
        for a in attributes:
            plain = re.sub(r"[^\w-]+", "-", a.name)[:80] + (f"-{number}" if prompts > 1 else "")
            taken = {name.casefold() for name in found}
            tries = (plain if k == 1 else f"{plain}_{k}" for k in range(1, len(attributes) * prompts + 2))
            found.append(next(name for name in tries if name.casefold() not in taken))
    return found


def _charts(calibrations: list[Calibration]) -> dict[str, bytes]:
    """Charts of every prompt and attribute by file name."""
    from ...core.calibration.loop import round_names
    from ...core.report.chart import chart_kl, chart_shares
    charts, suffixes = {}, iter(_suffixes(calibrations[0].attributes, len(calibrations)))
    for c in calibrations:
        for i, a in enumerate(c.attributes):
            suffix = next(suffixes)
            before, after = c.audit.distribution(i, a.target), c.held_out and c.held_out.distribution(i, a.target)
            charts[f"shares-{suffix}.png"] = _png(chart_shares(a.names, before, after, c.prompt))
            rounds = [(name, r.distribution(i, a.target))
                      for name, r in zip(round_names([r.kind for r in c.rounds]), c.rounds, strict=True)]
            charts[f"kl-{suffix}.png"] = _png(chart_kl(rounds, c.prompt))
    return charts


def _sheet(bench, prompt: str, seeds):
    from ...core.report.chart import contact_sheet
    return contact_sheet(_pictures(bench.generate(prompt, list(seeds))[0]))


def _pictures(images):
    from ..workbench import pictures
    return pictures(images)


def _name(classifier) -> str:
    return getattr(classifier, "name", type(classifier).__name__)


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
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)  # said now rather than after the work
    for file in files:
        if options.out and (path := Path(options.out) / file).exists() and not options.overwrite:
            raise DebiasError(f"{quoted(path)} exists already. Choose another --out, or add --overwrite to replace it.")


def _say(options, text: str) -> None:
    if not options.json:
        print(text, flush=True)

