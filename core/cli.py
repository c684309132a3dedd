"""The command line: sd-debias audit | calibrate | generate | report | demo."""
from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from pathlib import Path

from .attribute import Attribute, parse
from .calibrate import HELD_OUT, Calibration, Plan, Round
from .files import exclusive, safe_name, write_atomic
from .method import METHODS, RULES, SPENDS, Method
from .profile import Profile

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
    except (KeyboardInterrupt, Stopped) as stopped:
        print(f"\nStopped. {stopped}".rstrip(), file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, indent=2))
    return 0


# --- commands --------------------------------------------------------------------------------------------------------

def audit(options) -> dict:
    """Shares of a model's pictures, nothing changed."""
    bench, attributes = _bench(options), _attributes(options)
    reports = []
    for prompt in options.prompt:
        plan = Plan(options.count, rounds=0, held_out=0, batch_size=bench.batch_size, seed=options.seed,
                    confidence=options.confidence)
        calibration = Calibration(prompt, attributes, METHODS["default"], plan)
        _progress(bench.run(calibration), options)
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
    bench, attributes, method = _bench(options), _attributes(options), _method(options)
    plan = Plan(options.images, options.rounds, options.held_out, options.tolerance, bench.batch_size, options.seed,
                options.confidence)
    return _calibrate(bench, options.prompt, attributes, method, plan, options)


def demo(options) -> dict:
    """The whole job on the embedded demo model: audit, calibrate, verify, before and after."""
    bench = _bench(options)
    plan = Plan(images=200, held_out=400, batch_size=bench.batch_size, seed=options.seed)
    return _calibrate(bench, options.prompt, _attributes(options), METHODS["default"], plan, options)


def _calibrate(bench, prompts: list[str], attributes: list[Attribute], method: Method, plan: Plan, options) -> dict:
    from . import report
    out, started = Path(options.out), time.perf_counter()
    target, name = out / "profile.json", safe_name(options.name or out.resolve().name)
    if len({" ".join(prompt.lower().split()) for prompt in prompts}) < len(prompts):
        raise ValueError("A prompt came twice. Give each --prompt once.")
    if target.exists() and not options.overwrite:
        raise ValueError(f"'{target}' exists already. Choose another --out, or add --overwrite to replace it.")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(target):
        calibrations, evaluations, states = [], [], []
        for number, prompt in enumerate(prompts, 1):
            states.append(out / f"unfinished-{number}.json")
            calibration = _resumed(states[-1], Calibration(prompt, attributes, method, plan), bench.setting, options)
            before = bench.evaluations
            try:
                _progress(bench.run(calibration, states[-1]), options)
            except KeyboardInterrupt:
                raise Stopped("What was measured is kept: run the same command again to continue.") from None
            evaluations.append(bench.evaluations - before)
            calibrations.append(calibration)
        profile = Profile.from_calibrations(name, calibrations, bench.setting,
                                            ", ".join(_name(bench.classifier(a)) for a in attributes), evaluations)
        sheets = {}
        for c in calibrations:
            seeds = list((c.held_out or c.audit).seeds[:SHEET])
            sheets[c.prompt] = (bench.generate(c.prompt, seeds)[0], bench.apply(profile, c.prompt, seeds)[0], seeds)
        pages = {part: {prompt: list(_pictures(s[i])) if i < 2 else s[i] for prompt, s in sheets.items()}
                 for i, part in enumerate(("before", "after", "seeds"))}
        profile.save(target, overwrite=True)
        page = report.write_report(out, profile, pages["before"], pages["after"], pages["seeds"])
        for part in ("before", "after"):
            images = [image for prompt in prompts for image in pages[part][prompt]]
            write_atomic(out / f"{part}.png", _png(report.contact_sheet(images)))
        for name, chart in _charts(calibrations).items():
            write_atomic(out / name, _png(chart))
        result = dict(report.summary(profile), seconds=round(time.perf_counter() - started, 1))
        write_atomic(out / "summary.json", json.dumps(result, indent=2))
        for state in states:
            state.unlink(missing_ok=True)
    for c in calibrations:
        _say(options, _table(c.prompt, attributes, c.audit, c.held_out) + f"\n  {c.stop}\n")
        for warning in c.warnings:
            print(f"Warning: '{c.prompt}': {warning}", file=sys.stderr)
    _say(options, f"Profile: {target.resolve()}\nReport:  {page.resolve()}")
    return result


def generate(options) -> dict:
    """Pictures named by their seed, with a profile's guidance or without."""
    bench = _bench(options)
    profile = Profile.load(options.profile) if options.profile else None
    if len(options.prompt) > 1:
        raise ValueError(f"generate takes one --prompt, but {len(options.prompt)} came. Run it once for each.")
    prompt, out = options.prompt[0], Path(options.out)
    if profile:
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        if not profile.entry(prompt)[1]:
            warnings.warn(profile.entry(prompt)[0].warnings[0])
    written, started = [], time.perf_counter()
    seeds = list(range(options.seed, options.seed + options.count))
    for start in range(0, len(seeds), bench.batch_size):
        batch = seeds[start:start + bench.batch_size]
        images, info = bench.apply(profile, prompt, batch, options.strength) if profile else bench.generate(prompt, batch)
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
    """A profile's report; with --model, before/after pictures are made for it."""
    from .report import write_report
    profile = Profile.load(options.profile)
    pages = {"before": {}, "after": {}, "seeds": {}}
    if options.model:
        bench = _bench(options)
        for difference in profile.differences(bench.setting):
            warnings.warn(f"This profile was calibrated in another setting: {difference}.")
        seeds = list(range(options.seed, options.seed + SHEET))
        for entry in profile.entries:
            pages["before"][entry.prompt] = _pictures(bench.generate(entry.prompt, seeds)[0])
            pages["after"][entry.prompt] = _pictures(bench.apply(profile, entry.prompt, seeds)[0])
            pages["seeds"][entry.prompt] = seeds
    page = write_report(options.out, profile, pages["before"], pages["after"], pages["seeds"])
    _say(options, f"Report: {page.resolve()}")
    return dict(report=str(page))


# --- parts -----------------------------------------------------------------------------------------------------------

def _bench(options):
    """The model and classifier that the options name."""
    import torch
    from .classify.clip import ClipModel
    from .workbench import Workbench, demo, load_pipeline, model_hash
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float16" if device.startswith("cuda") else "float32"))
    given = {key: getattr(options, key) for key in ("steps", "cfg", "width", "height", "negative_prompt", "batch_size")
             if getattr(options, key) is not None}
    if options.model == "demo":
        return demo(device, dtype, **given)
    if not options.classifier:
        raise ValueError("Which pictures show whom is measured by a CLIP model: give its folder with --classifier, e.g. "
                         "a copy of openai/clip-vit-large-patch14 with safetensors weights.")
    pipe = load_pipeline(options.model, device, dtype, options.allow_download, options.config)
    clip = ClipModel(options.classifier, device=device, allow_download=options.allow_download)
    return Workbench(pipe, clip, model=Path(options.model).name, model_hash=model_hash(options.model), **given)


def _attributes(options) -> list[Attribute]:
    found = []
    for text in options.attribute or ["gender"]:
        if text.endswith(".json"):
            found.append(Attribute.from_dict(json.loads(Path(text).read_text("utf-8"))))
        else:
            found.append(parse(text))
    return found


def _method(options) -> Method:
    method = METHODS[options.method].to_dict()
    for key in ("direction", "spend", "rule"):
        if getattr(options, key):
            method[key] = getattr(options, key)
    return Method.from_dict(method)


def _resumed(path: Path, fresh: Calibration, setting: dict, options) -> Calibration:
    """The unfinished calibration in `path` if it is the one asked for, else the fresh one."""
    if not path.exists():
        return fresh
    state = Calibration.load(path)
    if (state.prompt, state.attributes, state.method, state.plan) != (fresh.prompt, fresh.attributes, fresh.method,
                                                                      fresh.plan):
        raise ValueError(f"'{path}' holds an unfinished calibration with other options. Delete it, or choose another "
                         f"--out.")
    _say(options, f"Continuing after {sum(r.done for r in state.rounds)} images.")
    return state


def _progress(rounds, options) -> None:
    """Draw a bar for each round: images, images/s, time left, shares so far."""
    from tqdm import tqdm
    bar, current = None, None
    for r in rounds:
        if r is not current:
            if bar is not None:
                bar.close()
            current, done = r, 0
            bar = tqdm(total=len(r.seeds), desc=r.kind.rjust(8), unit="image", disable=options.json)
        bar.update(r.done - done)
        done = r.done
    if bar is not None:
        bar.close()


def _table(prompt: str, attributes: list[Attribute], before: Round, after: Round | None = None) -> str:
    """Shares with 95 % intervals as text."""
    lines = [f"\n{prompt}"]
    for i, attribute in enumerate(attributes):
        measured = [(name, r.distribution(i, attribute.target)) for name, r in
                    (("audit" if after is None else "before", before), ("after, held-out seeds", after)) if r]
        for name, d in measured:
            groups = ", ".join(f"{group} {share:.1%} [{low:.1%}, {high:.1%}]" for group, share, (low, high)
                               in zip(attribute.names, d.shares, d.intervals))
            lines.append(f"  {attribute.name}, {name} (N = {d.n}): {groups}")
            unsure = f"; {d.unsure} images left out as unsure" if d.unsure else ""
            lines.append(f"    KL {d.kl:.4f} nats (chance alone stays below {d.kl_floor95:.4f}){unsure}")
    return "\n".join(lines)


def _charts(calibrations: list[Calibration]) -> dict:
    """Charts of every prompt and attribute by file name."""
    from . import report
    charts = {}
    for number, c in enumerate(calibrations, 1):
        for i, a in enumerate(c.attributes):
            suffix = f"{a.name}{f'-{number}' if len(calibrations) > 1 else ''}.png".replace(" | ", "-").replace("/", "-")
            after = c.held_out and c.held_out.distribution(i, a.target)
            charts[f"shares-{suffix}"] = report.chart_shares(a.names, c.audit.distribution(i, a.target), after, c.prompt)
            rounds = [(r.kind if r.kind == HELD_OUT else f"round {n}" if n else "audit", r.distribution(i, a.target))
                      for n, r in enumerate(c.rounds)]
            charts[f"kl-{suffix}"] = report.chart_kl(rounds, c.prompt)
    return charts


def _sheet(bench, prompt: str, seeds):
    from . import report
    return report.contact_sheet(_pictures(bench.generate(prompt, list(seeds))[0]))


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


def _say(options, text: str) -> None:
    if not options.json:
        print(text, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but {value} came")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sd-debias", description="See how biased a text-to-image model is for a prompt, "
                                     "calibrate it once, and generate with the calibrated weights.")
    commands = parser.add_subparsers(required=True, metavar="audit | calibrate | generate | report | demo")

    def command(function, model: str | None, out: str | None, attribute: bool = True):
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        sub.add_argument("--model", default=model, help="'demo', a diffusers folder, a .safetensors checkpoint, or a hub "
                         "id (with --allow-download)")
        sub.add_argument("--config", help="diffusers folder of the same family, for a checkpoint without download")
        sub.add_argument("--classifier", help="CLIP or SigLIP folder that judges the pictures")
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
        sub.add_argument("--out", default=out, required=out is None and function is not audit, help="folder to write to")
        sub.add_argument("--overwrite", action="store_true", help="replace what is there")
        sub.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
        if attribute:
            sub.add_argument("--attribute", action="append", help="gender (the default), skin_tone, skin_tone_5, "
                             "skin_tone_3, age, own groups as 'young | old = 1:1', or a .json file; again for several at once")
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

    sub = command(generate, "demo", None, attribute=False)
    sub.add_argument("--prompt", action="append", required=True)
    sub.add_argument("--profile", help="profile.json; without one nothing is guided")
    sub.add_argument("--strength", type=float, default=1.0, help="0 is no guidance, 1 as calibrated")
    sub.add_argument("--count", type=_positive, default=1)

    sub = command(report, None, None, attribute=False)
    sub.add_argument("--profile", required=True)

    sub = command(demo, "demo", "demo_output")
    sub.set_defaults(prompt=[DEMO_PROMPT], name=None, overwrite=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
