"""Shared by the commands: the model and its judges from the options, attributes, checks, files and output."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.attribute import Attribute, together
from ...core.calibration.plan import CUSTOM, NUMBERS, Plan, planned
from ...core.errors import DebiasError, quoted, short
from ...core.files import fingerprint, read_json
from ...core.method.methods import Method
from .options import given


class Stopped(Exception):
    """Ctrl-C or SIGTERM, with the text that says how to continue."""


def bench_of(options, attributes: Sequence[Attribute] = ()):
    """The model and the attributes' judges that the options name."""
    import torch

    from ..workbench import Workbench, demo, load_pipeline, model_hash, model_name
    quiet()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float16" if device.startswith("cuda") else "float32"))
    names = ("steps", "cfg", "width", "height", "negative_prompt", "batch_size")
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    judges = [*(getattr(options, "judge", None) or ()), *(getattr(options, "labels", None) or ())]
    look: list[str] = [getattr(options, name) for name in ("look", "detector") if getattr(options, name, None)]
    given["judged_by"] = " ".join([*map(_told, judges), *look])
    if options.model == "demo":
        judges, fidelity = judges_of(options, attributes, device, demo=True)
        return demo(device, dtype, classifiers=judges, **given)
    if attributes and not options.judge:
        raise DebiasError("Expected a judge, which decides which group each image shows, got none. Give the "
                          "folder of a CLIP model with --judge, e.g. a copy of openai/clip-vit-large-patch14 "
                          "with safetensors weights.")
    # Whoever generates images keeps the model's safety checker; images that it blacks out cannot be counted.
    pipe = load_pipeline(options.model, device, dtype, options.allow_download, options.config,
                         safety_checker=options.command.__name__ == "generate")
    if not attributes:
        return Workbench(pipe, None, model=model_name(options.model), model_hash=model_hash(options.model), **given)
    judges, fidelity = judges_of(options, attributes, device)
    return Workbench(pipe, None, classifiers=judges, fidelity=fidelity, model=model_name(options.model),
                     model_hash=model_hash(options.model), **given)


def _told(text: str) -> str:
    """A judge or its labels as they were named, a hub's id too, with the fingerprint of a folder or file."""
    return f"{text} {fingerprint(text.rpartition('=')[2])}"


def judges_of(options, attributes: Sequence[Attribute], device: str, demo: bool = False):
    """(a judge for each attribute and each that is watched, by name; what measures fidelity, or None)."""
    from ...core.calibration.watched import others
    from ..workbench import check_device
    from ...core.looks import PICTURE
    from ...core.judge.named import Judges, open_model
    from ...demo_model.model import clip, tones
    check_device(device)
    known = {attribute.name: attribute for attribute in attributes}
    where = dict(device=device, allow_download=getattr(options, "allow_download", False))
    labels: dict[str, str] = {}
    for text in getattr(options, "labels", None) or ():
        name, file = _assigned(text, known, "--labels")
        if name in labels:
            raise DebiasError(f"Expected one --labels for the attribute {quoted(name)}, got two. Leave one out.")
        labels[name] = file
    lines = []
    for text in getattr(options, "judge", None) or ():
        if "=" in text and not Path(text).exists():
            _assigned(text, known, "--judge")
        lines.append(text)

    def opened(source: str):
        return clip(device) if source == "demo" else open_model(source, **where)

    for name in labels:
        if not any(line.startswith(f"{name}=") for line in lines):
            raise DebiasError(f"--labels of {quoted(name)} does nothing without an image classifier: give its folder "
                              f"with --judge {name}=FOLDER.")
    maps = {name: read_json(file) for name, file in labels.items()}
    general = any("=" not in line or Path(line).exists() or line.partition("=")[0] not in known for line in lines)
    lines += ["demo"] if demo and not general else []
    judges = Judges(lines, attributes, opened, tones if demo or "demo" in lines else None, maps,
                    (getattr(options, "look", None) or PICTURE).replace("-", " "),
                    getattr(options, "detector", None) or "auto")
    found = {attribute.name: judges.of(attribute) for attribute in attributes}
    for watched in others(attributes) if judges.general is not None else ():  # side effects are told
        try:
            found.setdefault(watched.name, judges.of(watched))
        except DebiasError:
            continue  # a judge of the attributes asked for alone
    return found, judges.fidelity


def folder_judges(options, attributes: Sequence[Attribute]):
    """(classifiers by attribute, plain values that tell them from others)."""
    import torch
    quiet()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    named = [*(options.judge or ()), *(options.labels or ())]
    if not named:
        raise DebiasError("Expected a judge, which decides which group each image shows, got none. Give the "
                          "folder of a CLIP model with --judge, or --judge gender=photo (needs "
                          "sd-debias[photo]).")
    by = [*map(_told, named), options.look, options.detector]
    return judges_of(options, attributes, device)[0], by


def checks_of(options) -> list:
    """Checks of judges, as `check` writes them, one an attribute."""
    from ...core.judge.check import read_checks
    found = [check for file in options.check or () for check in read_checks(file)]
    twice = next((c.attribute for i, c in enumerate(found) if c.attribute in {b.attribute for b in found[:i]}), None)
    if twice is not None:
        raise DebiasError(f"Expected one --check of {quoted(twice)}, got two. Leave one out.")
    return found


def check_of_each(attributes: Sequence[Attribute], checks: Sequence) -> list:
    """The check of each attribute, or None. Raises DebiasError for checks of attributes that are not measured."""
    from ...core.judge.check import of_each
    strange = sorted({check.attribute for check in checks} - {a.name for a in attributes})
    if strange:
        raise DebiasError(f"Expected checks of attributes that are measured, got one of {quoted(strange[0])}. Leave "
                          "it out, or measure it with --attribute.")
    return of_each(checks, attributes)


def _assigned(text: str, known, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise DebiasError(f"Expected {option} as ATTRIBUTE=VALUE, with one of the attributes "
                          f"{short(', '.join(known))}, got {quoted(text)}.")
    return name, value


def quiet() -> None:
    """Turns off the libraries' own progress bars and advice, which a user of this command can do nothing with."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def attributes_of(options) -> tuple[Attribute, ...]:
    from ...core.profile.balance import listed
    return together([attribute for text in options.attribute or ["gender"] for attribute in (
        [Attribute.from_dict(read_json(text))] if text.endswith(".json") else listed(text, [Path("wildcards")]))])


def parameters_of(prompt: str, seed: int, size: tuple[int, int], setting: dict, notes: dict) -> str:
    """An image's parameters in the form that image browsers and AUTOMATIC1111 read."""
    fields = {"Steps": setting["steps"], "Sampler": setting["sampler"], "CFG scale": setting["cfg"], "Seed": seed,
              "Size": f"{size[0]}x{size[1]}", "Model hash": setting["model_hash"], "Model": setting["model"], **notes}
    negative = f"\nNegative prompt: {setting['negative_prompt']}" if setting["negative_prompt"] else ""
    quoted = (f"{key}: {json.dumps(str(value)) if any(c in str(value) for c in ',:') else value}"
              for key, value in fields.items() if value is not None)
    return f"{prompt}{negative}\n{', '.join(quoted)}"


def keep(options, *files: str) -> None:
    """Make the folder, and raise DebiasError where the command would replace what an earlier one wrote."""
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)  # said now rather than after the work
    for file in files:
        if options.out and (path := Path(options.out) / file).exists() and not options.overwrite:
            raise DebiasError(f"{quoted(path)} exists already. Choose another --out, or add --overwrite to replace it.")


def say(options, text: str) -> None:
    if not options.json:
        print(text, flush=True)


def plan_of(options, method: Method, batch_size: int) -> Plan:
    """The plan that the options name. Raises DebiasError for numbers beside a usual plan."""
    numbers = {name: number for name in NUMBERS if (number := getattr(options, name)) is not None}
    sure = options.sure or (CUSTOM if numbers else "normal")
    if numbers and sure != CUSTOM:
        raise DebiasError(f"Expected {given(options, *numbers)[0]} only with --sure {CUSTOM}, got --sure {sure}, which "
                          "has its own numbers. Leave one of them out.")
    return planned(sure, method, **numbers, batch_size=batch_size, seed=options.seed or 0,
                   confidence=options.confidence)
