"""The command line: sd-debias audit | calibrate | generate | report | demo | export."""
from __future__ import annotations

import argparse
import io
import json
import re
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Iterator, Sequence

import torch

from .attribute import Attribute, parse
from .calibrate import HELD_OUT, Calibration, Plan, Round, round_names
from .files import exclusive, safe_name, write_atomic
from .method import METHODS, RULES, SPENDS, Method, named
from .profile import Entry, Profile

SHEET = 16  # pictures of a before/after sheet
DEMO_PROMPT = "a photo of a doctor"


class Stopped(Exception):
    """Ctrl-C, with the words that say how to go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after an error, which is one sentence; 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("once")
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    try:
        result = options.command(options)
    except (ValueError, OSError) as error:
        print(f"sd-debias: {error}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError:
        print("sd-debias: The graphics card ran out of memory. Use a smaller --batch-size, --width or --height, or "
              "--dtype float16.", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped) as stopped:
        print(f"\nStopped. {stopped}".rstrip(), file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, indent=2))
    return 0


# --- commands --------------------------------------------------------------------------------------------------------

def audit(options) -> dict:
    """Shares of a model's pictures, nothing changed."""
    attributes = _attributes(options)
    _keep(options, "audit.json")
    bench, reports = _bench(options, attributes), []
    for prompt in options.prompt:
        plan = Plan(options.count, rounds=0, held_out=0, batch_size=bench.batch_size, seed=options.seed,
                    confidence=options.confidence)
        calibration = Calibration(prompt, attributes, METHODS["default"], plan)
        _progress(calibration, bench.run(calibration), options)
        shares = {a.name: calibration.audit.distribution(i, a.target).to_dict() | {"groups": list(a.names)}
                  for i, a in enumerate(attributes)}
        reports.append(dict(prompt=prompt, attributes=shares, fidelity=calibration.audit.mean_fidelity))
        _say(options, _table(prompt, attributes, calibration.audit))
    result = dict(setting=bench.setting, audits=reports)
    if options.out:
        write_atomic(Path(options.out) / "audit.json", json.dumps(result, indent=2))
        for prompt in options.prompt:
            _sheet(bench, prompt, range(options.seed, options.seed + min(SHEET, options.count))).save(
                Path(options.out) / f"audit-{options.prompt.index(prompt) + 1}.png")
    return result


def calibrate(options) -> dict:
    """Find the weights for a model and its prompts, verify them, and write profile, report and pictures."""
    attributes = _attributes(options)
    method = named(options.method, direction=options.direction, spend=options.spend, rule=options.rule)
    bench = _bench(options, attributes)
    plan = Plan(options.images, options.rounds, options.held_out, options.tolerance, bench.batch_size, options.seed,
                options.confidence)
    return _calibrate(bench, options.prompt, attributes, method, plan, options)


def demo(options) -> dict:
    """The whole job on the embedded demo model: audit, calibrate, verify, before and after."""
    attributes = _attributes(options)
    bench = _bench(options, attributes)
    plan = Plan(images=200, held_out=400, batch_size=bench.batch_size, seed=options.seed)
    return _calibrate(bench, options.prompt, attributes, METHODS["default"], plan, options)


def _calibrate(bench, prompts: list[str], attributes: list[Attribute], method: Method, plan: Plan, options) -> dict:
    out, started = Path(options.out), time.perf_counter()
    target, name = out / "profile.json", safe_name(options.name or out.resolve().name)
    if len({" ".join(prompt.casefold().split()) for prompt in prompts}) < len(prompts):
        raise ValueError("A prompt came twice. Give each --prompt once.")
    if target.exists() and not options.overwrite:
        raise ValueError(f"'{target}' exists already. Choose another --out, or add --overwrite to replace it.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(target):
            calibrations, result = _measured(bench, prompts, attributes, method, plan, name, target, options)
    except KeyboardInterrupt:
        raise Stopped("What was measured is kept: run the same command again to continue.") from None
    result["seconds"] = round(time.perf_counter() - started, 1)
    write_atomic(out / "summary.json", json.dumps(result, indent=2))
    for c in calibrations:
        _say(options, _table(c.prompt, attributes, c.audit, c.held_out) + f"\n  {c.stop}\n")
        for warning in c.warnings:
            print(f"Warning: '{c.prompt}': {warning}", file=sys.stderr)
    _say(options, f"Profile: {target.resolve()}\nReport:  {(out / 'report.html').resolve()}")
    return result


def _measured(bench, prompts: list[str], attributes: list[Attribute], method: Method, plan: Plan, name: str,
              target: Path, options) -> tuple[list[Calibration], dict]:
    """Every prompt's calibration, with all its files but the summary written beside the profile `target`."""
    from . import report
    from .chart import contact_sheet
    out, calibrations, evaluations, states = target.parent, [], [], []
    judges = ", ".join(_name(bench.classifier(a)) for a in attributes)
    for number, prompt in enumerate(prompts, 1):
        states.append(out / f"unfinished-{number}.json")
        fresh = Calibration(prompt, attributes, method, plan, made_with=dict(setting=bench.setting, classifier=judges))
        calibration = _resumed(states[-1], fresh, options)
        before, resumed = bench.evaluations, bool(calibration.rounds)
        _progress(calibration, bench.run(calibration, states[-1]), options)
        evaluations.append(None if resumed else bench.evaluations - before)
        calibrations.append(calibration)
    profile = Profile.from_calibrations(name, calibrations, bench.setting, judges, evaluations)
    before, after, seeds = {}, {}, {}
    for c in calibrations:
        seeds[c.prompt] = list((c.held_out or c.audit).seeds[:SHEET])
        before[c.prompt] = _pictures(bench.generate(c.prompt, seeds[c.prompt])[0])
        after[c.prompt] = _pictures(bench.apply(profile, c.prompt, seeds[c.prompt])[0])
    profile.save(target, overwrite=True)
    report.write_report(out, profile, before, after, seeds)
    for part, images in (("before", before), ("after", after)):
        write_atomic(out / f"{part}.png", _png(contact_sheet([image for p in prompts for image in images[p]])))
    for file, chart in _charts(calibrations).items():
        write_atomic(out / file, _png(chart))
    for state in states:
        state.unlink(missing_ok=True)
    return calibrations, report.summary(profile)


def generate(options) -> dict:
    """Pictures named by their seed, with a profile's guidance or without."""
    from .pipeline import encode_all
    bench = _bench(options)
    profile = Profile.load(options.profile) if options.profile else None
    if len(options.prompt) > 1:
        raise ValueError(f"generate takes one --prompt, but {len(options.prompt)} came. Run it once for each.")
    if options.predict and not profile:
        raise ValueError("--predict learns from a --profile: name one, or leave --predict out.")
    prompt, out, encoded = options.prompt[0], Path(options.out), None
    if profile:
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        profile = _for_prompt(bench, profile, prompt, options)
        if options.strength:
            encoded = encode_all(bench.pipe, prompt, profile.attributes, profile.method.context)
    written, started = [], time.perf_counter()
    seeds = list(range(options.seed, options.seed + options.count))
    for start in range(0, len(seeds), bench.batch_size):
        batch = seeds[start:start + bench.batch_size]
        images, info = (bench.apply(profile, prompt, batch, options.strength, encoded) if profile
                        else bench.generate(prompt, batch))
        for image, seed, row in zip(_pictures(images), batch, info["weights"]):
            notes = {}
            if profile:
                own = dict(info, acted=info["acted"] and any(row))
                notes = profile.metadata(prompt, own, options.strength, seed)
            path = out / f"{seed}.png"
            data = _png(image, _parameters(prompt, seed, image.size, bench.setting, notes))
            if path.exists() and path.read_bytes() != data and not options.overwrite:
                raise ValueError(f"'{path}' exists already and is another picture. Choose another --out, or add "
                                 f"--overwrite.")
            written.append(str(write_atomic(path, data)))
        if not options.json:
            print(f"\r{len(written)} of {len(seeds)} pictures, {len(written) / (time.perf_counter() - started):.1f}/s",
                  end="", file=sys.stderr, flush=True)
    _say(options, f"\nPictures: {out.resolve()}")
    return dict(prompt=prompt, profile=profile and profile.name, images=written)


def report(options) -> dict:
    """A profile's report; with --model, before/after pictures are made for it, and further prompts are measured."""
    from .report import write_report
    profile, others = Profile.load(options.profile), []
    pages = {"before": {}, "after": {}, "seeds": {}}
    if options.prompt and not options.model:
        raise ValueError("To measure a further --prompt, pictures are made: name the model with --model.")
    if options.predict and not options.prompt:
        raise ValueError("--predict is for a further --prompt, which was not calibrated: name one, or leave it out.")
    _keep(options, "report.html")
    if options.model:
        bench = _bench(options, profile.attributes if options.prompt else ())
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        for prompt in options.prompt or ():
            profile = _for_prompt(bench, profile, prompt, options)
        others = [_carried_over(bench, profile, prompt, options) for prompt in options.prompt or ()]
        seeds = list(range(options.seed, options.seed + SHEET))
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
    from .uncalibrated import distance
    if profile.entry(prompt)[1]:
        return profile
    if options.predict:
        _say(options, f"Reading the first steps of '{prompt}' and of {len(profile.entries)} calibrated prompts ...")
        profile = bench.predicted(profile, prompt)
    warnings.warn(f"'{prompt}': {profile.entry(prompt)[0].warnings[0]}.")
    away = distance(bench.pipe, [entry.prompt for entry in profile.entries], prompt)
    if away.too_far:
        warnings.warn(f"'{prompt}': {away}.")
    return profile


def _carried_over(bench, profile: Profile, prompt: str, options) -> Entry:
    """What the profile does to a prompt that it was not calibrated for."""
    from .uncalibrated import distance
    found, before = None, bench.evaluations
    for found in bench.carried_over(profile, prompt, options.count, options.seed):
        done = sum(r.done for r in found.rounds)
        if not options.json:
            print(f"\r'{prompt}': {done} of {2 * options.count} pictures", end="", file=sys.stderr, flush=True)
    _say(options, "\n" + _table(prompt, profile.attributes, found.audit, found.held_out, "with the profile"))
    entry = Entry.from_calibration(found, bench.evaluations - before)
    away = distance(bench.pipe, [known.prompt for known in profile.entries], prompt)
    far = () if away.too_far is False else (str(away),)
    said = (*profile.entry(prompt)[0].warnings, *far, *entry.warnings)
    if entry.warnings:
        said += ("the profile does not carry over to this prompt: calibrate it",)
    return replace(entry, warnings=said, stop="nothing was calibrated for this prompt")


def export(options) -> dict:
    """The demo model as a checkpoint for another host."""
    from .demo.export import export
    path = export(options.out, options.name)
    _say(options, f"Checkpoint: {path}")
    return dict(checkpoint=str(path))


# --- parts -----------------------------------------------------------------------------------------------------------

def _bench(options, attributes: Sequence[Attribute] = ()):
    """The model and the attributes' classifiers that the options name."""
    import torch
    from .workbench import Workbench, demo, load_pipeline, model_hash
    _quiet()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float16" if device.startswith("cuda") else "float32"))
    given = {key: getattr(options, key) for key in ("steps", "cfg", "width", "height", "negative_prompt", "batch_size")
             if getattr(options, key) is not None}
    if options.model == "demo":
        clip, classifiers = _classifiers(options, attributes, device)
        if clip is not None:  # instead of the demo's own
            classifiers = {a.name: clip.classifier(a) for a in attributes} | classifiers
        return demo(device, dtype, classifiers=classifiers, **given)
    if attributes and not options.classifier:
        raise ValueError("A CLIP model measures whom the pictures show: give its folder with --classifier, e.g. a copy "
                         "of openai/clip-vit-large-patch14 with safetensors weights.")
    pipe = load_pipeline(options.model, device, dtype, options.allow_download, options.config)
    clip, classifiers = _classifiers(options, attributes, device)
    return Workbench(pipe, clip, classifiers=classifiers, model=Path(options.model).name,
                     model_hash=model_hash(options.model), **given)


def _classifiers(options, attributes: Sequence[Attribute], device: str):
    """CLIP, where its folder is given, and classifiers of single attributes by name: 'skin_tone=ita', 'age=FOLDER'."""
    from .classify.clip import ClipModel
    from .classify.image_classifier import ImageClassifier
    from .classify.skin_tone import SkinTone
    clip, single, known = None, {}, {attribute.name: attribute for attribute in attributes}
    where = dict(device=device, allow_download=options.allow_download)
    labels = dict(_assigned(text, known, "--labels") for text in options.labels or ())
    for text in options.classifier or ():
        name, equals, source = text.partition("=")
        if not attributes:
            break  # nothing is classified
        if not equals or name not in known and Path(text).exists():
            clip = ClipModel(text, **where)
            continue
        name, source = _assigned(text, known, "--classifier")
        if source == "ita":
            from .demo.artwork import ITA_CUTOFFS
            drawn = options.model == "demo" and len(known[name].groups) == len(ITA_CUTOFFS) + 1
            single[name] = SkinTone(known[name], cutoffs=ITA_CUTOFFS if drawn else None)
        elif name in labels:
            single[name] = ImageClassifier(source, known[name], _json(labels[name]), **where)
        else:
            single[name] = ClipModel(source, **where).classifier(known[name])
    return clip, single


def _assigned(text: str, known, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise ValueError(f"Expected {option} as ATTRIBUTE=VALUE with one of the attributes {', '.join(known)}, but "
                         f"'{text}' came.")
    return name, value


def _json(path: str):
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON file: {error}.") from error


def _quiet() -> None:
    """Turns off the libraries' own progress bars and advice, which a user of this command can do nothing with."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _attributes(options) -> list[Attribute]:
    found = []
    for text in options.attribute or ["gender"]:
        if text.endswith(".json"):
            found.append(Attribute.from_dict(_json(text)))
        else:
            found.append(parse(text))
    return found


def _resumed(path: Path, fresh: Calibration, options) -> Calibration:
    """The unfinished calibration in `path` if it is the one asked for, else the fresh one."""
    if not path.exists():
        return fresh
    state = Calibration.load(path)
    for kept in ("prompt", "attributes", "method", "plan", "made_with"):
        if getattr(state, kept) != getattr(fresh, kept):
            raise ValueError(f"'{path}' holds an unfinished calibration with other options ({kept.replace('_', ' ')}). "
                             f"Delete it, or choose another --out.")
    _say(options, f"Continuing after {sum(r.done for r in state.rounds)} images.")
    return state


def _progress(calibration: Calibration, rounds: Iterator[Round], options) -> None:
    """One bar over all images, with images/s and the longest time left, and a line for each round."""
    from tqdm import tqdm
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


def _charts(calibrations: list[Calibration]) -> dict:
    """Charts of every prompt and attribute by file name."""
    from .chart import chart_kl, chart_shares
    charts = {}
    for number, c in enumerate(calibrations, 1):
        for i, a in enumerate(c.attributes):
            suffix = re.sub(r"[^\w-]+", "-", a.name) + (f"-{number}" if len(calibrations) > 1 else "") + ".png"
            before, after = c.audit.distribution(i, a.target), c.held_out and c.held_out.distribution(i, a.target)
            charts[f"shares-{suffix}"] = chart_shares(a.names, before, after, c.prompt)
            rounds = [(name, r.distribution(i, a.target))
                      for name, r in zip(round_names([r.kind for r in c.rounds]), c.rounds)]
            charts[f"kl-{suffix}"] = chart_kl(rounds, c.prompt)
    return charts


def _sheet(bench, prompt: str, seeds):
    from .chart import contact_sheet
    return contact_sheet(_pictures(bench.generate(prompt, list(seeds))[0]))


def _pictures(images):
    from .workbench import pictures
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


def _keep(options, file: str) -> None:
    """Raises ValueError where the command would replace what an earlier one wrote."""
    if options.out and (Path(options.out) / file).exists() and not options.overwrite:
        raise ValueError(f"'{Path(options.out) / file}' exists already. Choose another --out, or add --overwrite to "
                         f"replace it.")


def _say(options, text: str) -> None:
    if not options.json:
        print(text, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but {value} came")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sd-debias", description="See how biased a text-to-image model is for a prompt, calibrate it once, and "
        "generate with the calibrated weights.")
    commands = parser.add_subparsers(required=True, metavar="audit | calibrate | generate | report | demo | export")

    def command(function, model: str | None, out: str | None, attribute: bool = True):
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        sub.add_argument("--model", default=model, help="'demo', a diffusers folder, a .safetensors checkpoint, or "
                         "a hub id (with --allow-download)")
        sub.add_argument("--config", help="diffusers folder of the same family, for a checkpoint without download")
        sub.add_argument("--classifier", action="append", help="CLIP or SigLIP folder that judges the pictures; for "
                         "one attribute, 'skin_tone=ita' (by colour) or 'ATTRIBUTE=FOLDER'")
        sub.add_argument("--labels", action="append", metavar="ATTRIBUTE=FILE", help="that FOLDER is an image "
                         "classifier, and the JSON file gives each of its labels a group: {\"label\": \"group\"}")
        sub.add_argument("--allow-download", action="store_true", help="let hub ids be downloaded")
        sub.add_argument("--device", help="cuda, cpu, mps; the default is cuda where there is one")
        sub.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on cuda")
        sub.add_argument("--steps", type=_positive, help="sampling steps")
        sub.add_argument("--cfg", type=float, help="guidance scale")
        sub.add_argument("--width", type=_positive)
        sub.add_argument("--height", type=_positive)
        sub.add_argument("--negative-prompt")
        sub.add_argument("--batch-size", type=_positive, help="images at once")
        sub.add_argument("--seed", type=int, default=0, help="of the first image")
        sub.add_argument("--out", default=out, required=out is None and function is not audit,
                         help="folder to write to")
        sub.add_argument("--overwrite", action="store_true", help="replace what is there")
        sub.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
        if attribute:
            sub.add_argument("--attribute", action="append", help="gender (the default), skin_tone, skin_tone_5, "
                             "skin_tone_3, age, own groups as 'young | old = 1:1', or a .json file; again for several")
            sub.add_argument("--confidence", type=float, default=0.0, help="leave out images classified less surely")
        return sub

    sub = command(audit, "demo", None)
    sub.add_argument("--prompt", action="append", required=True, help="again for several")
    sub.add_argument("--count", type=_positive, default=100, help="images a prompt")

    sub = command(calibrate, "demo", None)
    sub.add_argument("--prompt", action="append", required=True, help="again for several; each is calibrated by itself")
    sub.add_argument("--name", help="of the profile; default: the folder's name")
    sub.add_argument("--images", type=_positive, default=100, help="images of the audit and of each round")
    sub.add_argument("--rounds", type=int, default=4, help="rounds at most")
    sub.add_argument("--held-out", type=int, default=200, help="images of the verification")
    sub.add_argument("--tolerance", type=float, help="KL to stop at; default: where it cannot be told from chance")
    sub.add_argument("--method", choices=METHODS, default="default")
    sub.add_argument("--direction", choices=("prompt", "embedding", "prediction"))
    sub.add_argument("--spend", choices=SPENDS)
    sub.add_argument("--rule", choices=RULES)

    predict = "a prompt that was not calibrated gets weights predicted from those that were (twice as many as " \
        "groups, at least), instead of every image being sent to a drawn group; that takes as long as 25 to 45 " \
        "images for each of these prompts"
    sub = command(generate, "demo", None, attribute=False)
    sub.add_argument("--prompt", action="append", required=True)
    sub.add_argument("--profile", help="profile.json; without one nothing is guided")
    sub.add_argument("--strength", type=float, default=1.0, help="0 is no guidance, 1 as calibrated")
    sub.add_argument("--count", type=_positive, default=1)
    sub.add_argument("--predict", action="store_true", help=predict)

    sub = command(report, None, None, attribute=False)
    sub.add_argument("--profile", required=True)
    sub.add_argument("--prompt", action="append", help="also measure this prompt, which was not calibrated, without "
                     "and with the profile; again for several")
    sub.add_argument("--count", type=_positive, default=200, help="images to measure it on, each way")
    sub.add_argument("--predict", action="store_true", help=predict)

    sub = command(demo, "demo", "demo_output")
    sub.set_defaults(prompt=[DEMO_PROMPT], name="demo", overwrite=True)

    sub = commands.add_parser("export", help=export.__doc__, description=export.__doc__)
    sub.set_defaults(command=export)
    sub.add_argument("--for", dest="host", choices=("a1111",), required=True, help="AUTOMATIC1111's webui")
    sub.add_argument("--out", required=True, help="folder to write to: the host's models/Stable-diffusion")
    sub.add_argument("--name", default="demo", help="of the checkpoint")
    sub.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
