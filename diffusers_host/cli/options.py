"""The command line's options. It loads no model code, so that `sd-debias --help` answers at once."""
from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from ...core.calibration.plan import CUSTOM, FIELDS, HOW_SURE, NUMBERS, Field
from ...core.errors import DebiasError, short
from ...core.looks import DETECTORS, LOOKS
from ...core.method.methods import CHOICES
from ...core.prompts.syntax import OTHERS
from ...core.schema import MOST_IMAGES
from ...core.version import VERSION

MOST_SEED = 2**62


def parsed(commands: dict[str, Callable], arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of one command, with `command` the function itself. Raises DebiasError for texts that are no UTF-8
    and for options that would do nothing; SystemExit as argparse does."""
    parser = _parser(commands)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        raise SystemExit(0)
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
                raise DebiasError(f"{_flag(name)} is no text in UTF-8 ({short(text)}). Type it again, or set your "
                                  f"terminal to UTF-8.")
    _refuse_idle(options)
    return options


def given(options: argparse.Namespace, *names: str) -> list[str]:
    """The flags of the named options that the user set."""
    return ["--count" if name == "images" else _flag(name) for name in names
            if (value := getattr(options, name, None)) is not None and value is not False]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


MODEL = ("config", "allow_download", "device", "dtype", "steps", "cfg", "width", "height", "negative_prompt",
         "batch_size", "seed")
JUDGES = ("classifier", "labels", "look", "detector")


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raises DebiasError for options that the others leave without effect."""
    def refuse(names: Sequence[str], needs: str) -> None:
        found = given(options, *names)
        if found:
            raise DebiasError(f"{' and '.join(found)} {'do' if len(found) > 1 else 'does'} nothing {needs}.")

    name = options.command.__name__
    if name == "report" and not options.model:
        refuse((*MODEL, *JUDGES, "count", "others", "prompt"),
               "without a model that generates pictures: name one with --model")
    if name == "report" and not options.prompt:
        refuse((*JUDGES, "count", "others"), "without a further --prompt to measure: name one")
    if name == "generate" and not options.profile:
        refuse(("others",), "without a --profile: name one")
        if not options.attribute:
            refuse(("strength",), "without something to balance: add --attribute gender")
    if name == "doctor" and not options.classifier and options.model != "demo":
        refuse(("labels",), "without a --classifier to read: name its folder")
    if name == "sweep":
        _refuse_idle_in_sweeps(options, refuse)
    if name in ("audit", "check") and not options.out:
        refuse(("overwrite",), "without --out: nothing is written")
    if name == "audit" and options.folder:
        refuse(("prompt", "count", "config", "dtype", "steps", "cfg", "width", "height",
                "negative_prompt", "seed"), "with --folder, since no pictures are generated")
        if options.model != "demo":
            raise DebiasError("--model does nothing with --folder, since no pictures are generated. Leave one of them "
                              "out.")
    if name == "audit" and not options.folder and not options.prompt:
        raise DebiasError("Expected a --prompt to generate pictures of, or a folder of pictures with --folder, got "
                          "neither. Give one.")
    if (getattr(options, "look", None) or "picture") == "picture":
        refuse(("detector",), "while judges look at pictures: add --look largest-face or --look people")
    if getattr(options, "model", None) in ("demo", ["demo"]) or name == "sweep" and not options.model and \
            not options.status:
        refuse(("config",), "with the demo model, which comes with the package")
        if not getattr(options, "classifier", None):
            refuse(("allow_download",), "with the demo model and its own judge, which come with the package")
    if (getattr(options, "width", None) is None) != (getattr(options, "height", None) is None):
        raise DebiasError("--width and --height belong together: expected both, got one. Give both, or neither for "
                          "the model's own size.")


def _refuse_idle_in_sweeps(options: argparse.Namespace, refuse: Callable) -> None:
    if options.status:
        said = vars(options).keys() - {"command", "status", "json", "debug", "indent", "confidence", "method", "show"}
        refuse(sorted(said), "with --status, which only reads a sweep's folder")
        return
    for name in ("prompts", "out"):
        if not getattr(options, name):
            raise DebiasError(f"Expected --{name} for a sweep, got none. For example: sd-debias sweep --prompts "
                              "demo-20 --out sweep.")
    if options.ray is None:
        refuse(("workers", "worker_gpus"), "without --ray")
    if options.set:
        refuse(("attribute",), "with --set, which names the attributes")
    if options.ray is None:
        refuse(("worker_cpus",), "without --ray")
    if options.audit:
        refuse(("sure", *(name for name in NUMBERS if name != "images"), "direction", "spend", "rule", "name"),
               "with --audit, which calibrates nothing")
        if options.method != "default":
            refuse(("method",), "with --audit, which calibrates nothing")
    elif options.look == "people":
        raise DebiasError("A calibration counts one label per picture, so --look people needs --audit. Calibrate with "
                          "--look largest-face.")


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes: called, it reads and checks an option's text; as a text, it is the range that
    the option's help names.

    step  the option takes whole multiples of this; 0: any number
    """
    low: float
    high: float
    step: int = 1

    def __call__(self, text: str) -> float:
        try:
            value = int(text) if self.step else float(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or self.step and value % self.step:
            raise argparse.ArgumentTypeError(f"expected a {'whole ' if self.step else ''}number from {self}, got "
                                             f"{short(text)}")
        return value

    def __str__(self) -> str:
        return f"{_shown(self.low)} to {_shown(self.high)}{f', a multiple of {self.step}' if self.step > 1 else ''}"


def _shown(number: float) -> str:
    """1,000,000, 0.001 or -2^62."""
    if isinstance(number, int):
        return f"{number:,}" if abs(number) < 2**53 else f"{'-' * (number < 0)}2^{abs(number).bit_length() - 1}"
    return f"{number:g}"


def _option(parser: argparse.ArgumentParser, flag: str, about: str, default: Any = None, unset: object = None,
            **given: Any) -> None:
    """Add an option that takes a value. Its help ends with its range and with what happens without it.

    default  what argparse sets
    unset    what is used where argparse sets nothing, in words
    """
    kind = given.pop("type", None if "choices" in given else _text)
    notes = [str(kind)] if isinstance(kind, Range) else []
    notes.append("required" if given.get("required") else f"default: {default if unset is None else unset}")
    parser.add_argument(flag, type=kind, default=default, **given,
                        help=f"{about.rstrip('.')} ({'; '.join(notes)})".replace("%", "%%"))


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a text, got an empty one: is a variable of your script not set?")
    return text


_COUNT = Range(1, MOST_IMAGES)
_SIZE = Range(8, 16384, 8)
_GPUS = Range(0, 64, step=0)
_SEVERAL = "; repeat the option for several"


def _parser(commands: dict[str, Callable]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sd-debias", description="See how biased a text-to-image model is for a prompt, calibrate it once, and "
        "generate with the calibrated weights.")
    parser.add_argument("--version", action="version", version=f"sd-debias {VERSION}")
    subparsers = parser.add_subparsers(required=True, metavar=" | ".join(commands))

    def command(name: str) -> argparse.ArgumentParser:
        function = commands[name]
        about = function.__doc__.split("\n\n")[0]
        sub = subparsers.add_parser(name, help=about, description=about)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
        sub.add_argument("--debug", action="store_true", help="after an error, print its traceback too")
        return sub

    def device(sub):
        _option(sub, "--device", "cuda, cpu, mps or another device of PyTorch", unset="cuda where there is one, else "
                "cpu")
        _option(sub, "--dtype", "precision of the model", unset="float16 on cuda, else float32",
                choices=("float32", "float16", "bfloat16"))
        _option(sub, "--batch-size", "images generated at once", unset="50 for the demo model, else 4",
                type=Range(1, 4096))
        _option(sub, "--seed", "seed of the first image", unset=0, type=Range(-MOST_SEED, MOST_SEED))

    source = "'demo', a diffusers folder, a .safetensors checkpoint, or a hub id (with --allow-download)"

    def model(sub, default: str | None, unset: str | None = None):
        _option(sub, "--model", source, default, unset)
        setting(sub)

    def setting(sub, elsewhere: str = ""):
        _option(sub, "--config", "diffusers folder of the same family, to load a checkpoint without a download",
                unset="none")
        sub.add_argument("--allow-download", action="store_true", help="allow hub ids to be downloaded")
        device(sub)
        _option(sub, "--steps", "sampling steps", unset=f"8 for the demo model, else 30{elsewhere}",
                type=Range(1, 10_000))
        _option(sub, "--cfg", "guidance scale", unset=f"2 for the demo model, else 7.5{elsewhere}",
                type=Range(0, 100, step=0))
        for side, other in (("width", "height"), ("height", "width")):
            _option(sub, f"--{side}", f"{side} of the images in pixels; needs --{other}", unset="the model's own",
                    type=_SIZE)
        _option(sub, "--negative-prompt", "what the images should not show", unset="none", type=str)

    def judges(sub, unset: str = "the demo model's own; other models need one"):
        _option(sub, "--classifier", "folder of the CLIP or SigLIP model that judges the pictures, or of a model that "
                "answers questions about pictures. For one attribute only: ATTRIBUTE=FOLDER, 'skin_tone=ita' (by "
                "colour) or 'gender=photo' (needs sd-debias[photo]). Two for one attribute are a panel: a picture "
                "counts only where both agree", unset=unset, action="append")
        _option(sub, "--labels", "says that the classifier of this attribute is an image classifier, and names a JSON "
                "file with the group of each of its labels: {\"label\": \"group\"}. Not needed for known labels, such "
                "as \"Male\" and \"20-29\"", unset="none", action="append", metavar="ATTRIBUTE=FILE")
        _option(sub, "--look", "what the classifier looks at: the whole picture; the largest-face of each picture; or "
                "people: every face, with intervals for persons (audits only)", unset="picture",
                choices=[look.replace(" ", "-") for look in LOOKS])
        _option(sub, "--detector", f"what finds faces: {', '.join(DETECTORS)}, the .onnx file of YuNet, or auto, which "
                "is the first of them that is installed", unset="auto")

    def attributes(sub):
        _option(sub, "--attribute", "gender, skin_tone, skin_tone_5, skin_tone_3, age, groups of your own such as "
                f"'young | old = 1:1', or a .json file{_SEVERAL}", unset="gender", action="append", type=str)

    def measured(sub, unset: str = "the demo model's own; other models need one"):
        model(sub, "demo")
        judges(sub, unset)
        attributes(sub)
        confidence(sub)

    def confidence(sub):
        asked = FIELDS["confidence"]
        _option(sub, "--confidence", asked.help, f"{asked.default:g}", type=_range(asked))

    def calibrated(sub):
        _option(sub, "--sure", HOW_SURE.help, unset=f"normal; {CUSTOM} if you give one of the numbers below",
                choices=HOW_SURE.values)
        for name in NUMBERS:
            asked = FIELDS[name]
            flag = "--count" if name == "images" else _flag(name)
            _option(sub, flag, asked.help, dest=name, type=_range(asked),
                    unset=f"as --sure says; {asked.default:g} with --sure {CUSTOM}")
        for name, choice in CHOICES.items():
            _option(sub, f"--{name}", choice.help, choices=choice.values,
                    **dict(default="default") if name == "method" else dict(unset="as --method says"))

    def checked(sub):
        _option(sub, "--check", "check of the classifier on this model, as 'sd-debias check' writes it; corrects the "
                f"shares{_SEVERAL}", unset="none; shares are not corrected", action="append", metavar="FILE")

    def by_hand(sub):
        _option(sub, "--corrections", "labels of the same pictures that you corrected on the page labels.html",
                unset="none", metavar="FILE")

    def out(sub, default: str | None = None, **given):
        _option(sub, "--out", "folder to write to", default, **given or dict(required=default is None))
        sub.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")

    def on_ray(sub, about: str):
        _option(sub, "--ray", f"{about} on a Ray cluster (needs sd-debias[ray]). Without ADDRESS, on one that is "
                "started on this machine", unset="no cluster", nargs="?", const="", metavar="ADDRESS", type=str)
        _option(sub, "--worker-gpus", "with --ray: GPUs of each worker, such as 0.5",
                unset="1 if the cluster has GPUs, else 0", type=_GPUS)

    def results(sub):
        _option(sub, "--name", "name of the profile", unset="the folder's name")

    def of_a_sweep(sub):
        sub.add_argument("--overwrite", action="store_true", help="replace results that you edited, and files that no "
                         "sweep wrote")

    nothing = dict(unset="none; nothing is written")
    sub = command("audit")
    measured(sub, "the demo model's own; other models and --folder need one")
    out(sub, **nothing)
    _option(sub, "--prompt", f"prompt to generate pictures of{_SEVERAL}", unset="none; required without --folder",
            action="append", type=_text)
    _option(sub, "--folder", "audit the pictures in this folder instead of generated ones", unset="none",
            metavar="FOLDER")
    _option(sub, "--count", "images per prompt", unset=FIELDS["images"].default, type=_COUNT)
    checked(sub)
    by_hand(sub)

    sub = command("check")
    measured(sub)
    out(sub, **nothing)
    _option(sub, "--prompt", f"prompt to which each group's text is added{_SEVERAL}",
            unset="a photo of a person; for the demo model: a photo of a doctor", action="append", type=_text)
    _option(sub, "--count", "images of each group", unset=50, type=_COUNT)
    by_hand(sub)

    sub = command("calibrate")
    measured(sub)
    out(sub)
    checked(sub)
    _option(sub, "--prompt", "prompt to calibrate; repeat the option for several, which are calibrated one by one",
            action="append", required=True, type=_text)
    results(sub)
    calibrated(sub)

    sub = command("sweep")
    sub.set_defaults(indent=None)  # with --json, an event a line
    _option(sub, "--model", f"{source}{_SEVERAL}", unset="demo", action="append")
    setting(sub)
    judges(sub)
    attributes(sub)
    _option(sub, "--set", "attributes that are measured and calibrated together, such as 'gender + skin_tone_3'; "
            "repeat the option for further sets", unset="one set, of every --attribute", action="append")
    checked(sub)
    confidence(sub)
    _option(sub, "--prompts", "a text file with one prompt per line; a CSV file with the column prompt, or subject and "
            "template, and optionally targets and states; or a suite: winobias-36, equisteer-8, occupations-150, "
            "explicit, demo-20", unset="none; required without --status", metavar="FILE|SUITE")
    _option(sub, "--template", "for subjects without a prompt, such as 'a portrait of a {subject}'",
            unset="a photo of a {subject}")
    sub.add_argument("--audit", action="store_true", help="only measure; calibrate nothing")
    calibrated(sub)
    _option(sub, "--out", "folder of the sweep; the same command with the same folder continues it",
            unset="none; required without --status")
    results(sub)
    on_ray(sub, "work")
    _option(sub, "--worker-cpus", "with --ray: CPU cores of each worker", unset=1, type=Range(0.001, 1024, step=0))
    _option(sub, "--workers", "with --ray: number of workers", unset="one per GPU, or per CPU core without GPUs",
            type=Range(1, 100_000))
    _option(sub, "--show", "thumbnails of each audit and verification that the bias card shows", 0,
            type=Range(0, 16))
    _option(sub, "--pictures", "keep every picture in this folder, on the machine that generates it",
            unset="none; no picture is kept", metavar="FOLDER")
    of_a_sweep(sub)
    _option(sub, "--status", "print the progress of the sweep in this folder, and do nothing else", unset="none",
            metavar="DIR")

    sub = command("card")
    sub.add_argument("card", type=_text, nargs="+", help="one or two bias cards: files card.json, or the folders that "
                     "hold them")
    out(sub)

    def other_prompts(sub) -> None:
        _option(sub, "--others", "what to do with a prompt that was not calibrated. (A calibrated prompt is also found "
                "in other spellings, and by its subject in longer prompts.) leave-alone: nothing. draw: steer each "
                "image to a randomly drawn group",
                unset="leave-alone", choices=[name.replace(" ", "-") for name in OTHERS])

    profile = "a profile's file, or the name of one that comes with the package, such as demo-gender"
    sub = command("generate")
    model(sub, "demo")
    out(sub)
    _option(sub, "--prompt", "prompt to generate pictures of", action="append", required=True, type=_text)
    _option(sub, "--attribute", "balance this at once, without a calibration: gender, 'age = 1:1:2', "
            f"'weather', groups of your own{_SEVERAL}", unset="none", action="append", type=_text)
    _option(sub, "--profile", profile, unset="none; pictures without guidance")
    _option(sub, "--strength", "strength of the guidance; 0 is none, 1 is as calibrated", unset=1,
            type=Range(0, 10, step=0))
    _option(sub, "--count", "number of images", 1, type=_COUNT)
    other_prompts(sub)

    sub = command("report")
    model(sub, None, "none; the report shows no pictures")
    judges(sub, "the demo model's own; other models need one to measure a --prompt")
    out(sub)
    _option(sub, "--profile", profile, required=True)
    _option(sub, "--prompt", "also measure this prompt, which was not calibrated, without and with the profile"
            f"{_SEVERAL}", unset="none", action="append", type=_text)
    _option(sub, "--count", "images of each such --prompt without the profile, and as many with it", unset=200,
            type=_COUNT)
    other_prompts(sub)

    sub = command("doctor")
    model(sub, "demo")
    judges(sub, "the demo model's own; other models are examined without one")
    attributes(sub)
    _option(sub, "--prompt", "prompt to try", unset="a photo of a doctor", type=_text)
    _option(sub, "--direction", CHOICES["direction"].help, "prompt", choices=CHOICES["direction"].values)

    sub = command("demo")
    attributes(sub)
    device(sub)
    out(sub, "demo_output")
    return parser


def _range(asked: Field) -> Range:
    return Range(asked.low, asked.high, int(isinstance(asked.default, int)))
