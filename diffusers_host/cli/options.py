"""The command line's options. It loads no model code, so that `sd-debias --help` answers at once."""
from __future__ import annotations

import argparse
import math
from typing import Callable, Sequence

from ...core.calibration.plan import CUSTOM, FIELDS, HOW_SURE, NUMBERS
from ...core.errors import DebiasError, short
from ...core.looks import DETECTORS, LOOKS
from ...core.method.methods import CHOICES
from ...core.profile.prompts import OTHERS, PREDICT
from ...core.schema import MOST_IMAGES
from ...core.version import VERSION

MOST_SEED = 2**62


def parsed(commands: dict[str, Callable], arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of one command, with `command` the function itself. Raises DebiasError for texts that are no UTF-8
    and for options that would do nothing; SystemExit as argparse does."""
    options = _parser(commands).parse_args(arguments)
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
                raise DebiasError(f"{_flag(name)} is no text in UTF-8 ({short(text)}). Type it again, or set your "
                                  f"terminal to UTF-8.")
    _refuse_idle(options)
    return options


def given(options: argparse.Namespace, *names: str) -> list[str]:
    """The flags of those options that the user set."""
    return [_flag(name) for name in names if (value := getattr(options, name, None)) is not None and value is not False]


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
               "without a model to make pictures with: name one with --model")
    if name == "report" and not options.prompt:
        refuse((*JUDGES, "count", "others"), "without a further --prompt to measure: name one")
    if name == "generate" and not options.profile:
        refuse(("strength", "others"), "without a --profile: name one")
    if name == "doctor" and not options.classifier and options.model != "demo":
        refuse(("labels",), "without a --classifier to read: name its folder")
    if name in ("audit", "check") and not options.out:
        refuse(("overwrite", "parquet"), "without --out: nothing is written")
    if name == "audit" and options.images:
        refuse(("prompt", "count", "config", "allow_download", "dtype", "steps", "cfg", "width", "height",
                "negative_prompt", "seed"), "with --images, which are there already")
        if options.model != "demo":
            raise DebiasError("--images are audited as they are, so --model does nothing. Leave one of them out.")
    if name == "audit" and not options.images and not options.prompt:
        raise DebiasError("An audit needs a --prompt to generate pictures of, or --images, a folder of pictures, but "
                          "none came.")
    if (getattr(options, "look", None) or "picture") == "picture":
        refuse(("detector",), "while judges look at pictures: add --look largest-face or --look people")
    if getattr(options, "model", None) == "demo":
        refuse(("config", "allow_download"), "with the demo model, which comes with the package")
    if (getattr(options, "width", None) is None) != (getattr(options, "height", None) is None):
        raise DebiasError("--width and --height belong together, but one of them came alone. Give both, or neither "
                          "for the model's own size.")


def _whole(low: int, high: int, step: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or value % step:
            multiple = f", a multiple of {step}" if step > 1 else ""
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}{multiple}, got "
                                             f"{short(text)}")
        return value
    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {short(text)}")
        return value
    return parse


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a text, got an empty one: is a variable of your script not set?")
    return text


_COUNT = _whole(1, MOST_IMAGES)
_SIZE = _whole(8, 16384, 8)


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
        sub.add_argument("--debug", action="store_true", help="print the traceback of an error too")
        return sub

    def device(sub):
        sub.add_argument("--device", type=_text, help="cuda, cpu, mps; the default is cuda where there is one")
        sub.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on cuda")
        sub.add_argument("--batch-size", type=_whole(1, 4096), help="images at once")
        sub.add_argument("--seed", type=_whole(-MOST_SEED, MOST_SEED), help="seed of the first image; default: 0")

    def model(sub, default: str | None):
        sub.add_argument("--model", type=_text, default=default,
                         help="'demo', a diffusers folder, a .safetensors checkpoint, or "
                         "a hub id (with --allow-download)")
        sub.add_argument("--config", type=_text,
                         help="diffusers folder of the same family, for a checkpoint without download")
        sub.add_argument("--allow-download", action="store_true", help="let hub ids be downloaded")
        device(sub)
        sub.add_argument("--steps", type=_whole(1, 10_000), help="sampling steps")
        sub.add_argument("--cfg", type=_number(0, 100), help="guidance scale")
        sub.add_argument("--width", type=_SIZE, help="in pixels, together with --height")
        sub.add_argument("--height", type=_SIZE, help="in pixels, together with --width")
        sub.add_argument("--negative-prompt")

    def judges(sub):
        sub.add_argument("--classifier", type=_text, action="append", help="CLIP or SigLIP folder that judges the "
                         "pictures, or a model that answers questions on pictures; for one attribute, "
                         "'ATTRIBUTE=FOLDER', 'skin_tone=ita' (by colour) or 'gender=photo' (the extra "
                         "sd-debias[photo]). Two for one attribute are a panel: a picture counts where they agree")
        sub.add_argument("--labels", type=_text, action="append", metavar="ATTRIBUTE=FILE",
                         help="that FOLDER is an image "
                         "classifier, and the JSON file gives each of its labels a group: {\"label\": \"group\"}; not "
                         "needed where they are known, such as \"Male\" and \"20-29\"")
        sub.add_argument("--look", choices=[look.replace(" ", "-") for look in LOOKS], help="what the classifier looks "
                         "at: picture, the default; largest-face, of each picture; people, every face, with intervals "
                         "for persons (audit only)")
        sub.add_argument("--detector", type=_text, help=f"what finds faces: {', '.join(DETECTORS)}, the .onnx file of "
                         "YuNet, or auto, the first one that is installed")

    def attributes(sub):
        sub.add_argument("--attribute", action="append", help="gender (the default), skin_tone, skin_tone_5, "
                         "skin_tone_3, age, own groups as 'young | old = 1:1', or a .json file; repeat the option for "
                         "several")

    def measured(sub):
        model(sub, "demo")
        judges(sub)
        attributes(sub)
        planned(sub, "confidence")

    def planned(sub, *names: str, custom: bool = False):
        for name in names:
            asked = FIELDS[name]
            kind = _whole if isinstance(asked.default, int) else _number
            default = f"{f'With --sure {CUSTOM}; default' if custom else 'Default'}: {asked.default:g}."
            sub.add_argument(f"--{name.replace('_', '-')}", type=kind(asked.low, asked.high),
                             default=None if custom else asked.default,
                             help=f"{asked.help.replace('%', '%%')} {default}")

    def checked(sub):
        sub.add_argument("--check", type=_text, action="append", metavar="FILE", help="a check of the classifier on "
                         "this model, which 'sd-debias check' wrote: shares are corrected by it")

    def by_hand(sub):
        sub.add_argument("--corrections", type=_text, metavar="FILE", help="labels corrected by hand on the page "
                         "labels.html, of the same pictures")
        sub.add_argument("--parquet", action="store_true", help="write the labels as labels.parquet too (needs "
                         "pyarrow)")

    def out(sub, default: str | None = None, required: bool = True):
        sub.add_argument("--out", type=_text, default=default, required=required and default is None,
                         help="folder to write to")
        sub.add_argument("--overwrite", action="store_true", help="replace what is there")

    sub = command("audit")
    measured(sub)
    out(sub, required=False)
    sub.add_argument("--prompt", action="append", help="repeat the option for several")
    sub.add_argument("--images", type=_text, metavar="FOLDER", help="audit the pictures of this folder instead")
    sub.add_argument("--count", type=_COUNT, help=f"images per prompt; default: {FIELDS['images'].default}")
    checked(sub)
    by_hand(sub)

    sub = command("check")
    measured(sub)
    out(sub, required=False)
    sub.add_argument("--prompt", action="append", help="the prompts that the groups' texts are added to; default: a "
                     "photo of a person; repeat the option for several")
    sub.add_argument("--count", type=_COUNT, help="images of each group; default: 50")
    by_hand(sub)

    sub = command("calibrate")
    measured(sub)
    out(sub)
    checked(sub)
    sub.add_argument("--prompt", action="append", required=True,
                     help="repeat the option for several; each is calibrated by itself")
    sub.add_argument("--name", type=_text, help="name of the profile; default: the folder's name")
    sub.add_argument("--sure", choices=HOW_SURE.values, help=f"{HOW_SURE.help.replace('%', '%%')} Default: normal; "
                     f"{CUSTOM} where one of the numbers below is given.")
    planned(sub, *NUMBERS, custom=True)
    for name, choice in CHOICES.items():
        sub.add_argument(f"--{name}", choices=choice.values, default="default" if name == "method" else None,
                         help=choice.help.replace("%", "%%"))

    others = "what a prompt gets that the profile is not for (it is for the calibrated prompts, in other spellings " \
        "too, and for prompts in which their subject stands). leave-alone: nothing, the default. draw: every image " \
        "is sent to a drawn group. predict: weights predicted from those of the calibrated prompts (twice as many as " \
        "groups, at least), which takes as long as 25 to 45 images for each of these prompts"

    def other_prompts(sub) -> None:
        sub.add_argument("--others", choices=[name.replace(" ", "-") for name in OTHERS], default=None, help=others)
        sub.add_argument("--predict", dest="others", action="store_const", const=PREDICT,
                         help="the same as --others predict")

    profile = "a profile's file, or the name of one that comes with the package, such as demo-gender"
    sub = command("generate")
    model(sub, "demo")
    out(sub)
    sub.add_argument("--prompt", action="append", required=True)
    sub.add_argument("--profile", type=_text, help=f"{profile}; without one nothing is guided")
    sub.add_argument("--strength", type=_number(0, 10), help="0 is no guidance, 1 (the default) as calibrated")
    sub.add_argument("--count", type=_COUNT, default=1, help="images to make")
    other_prompts(sub)

    sub = command("report")
    model(sub, None)
    judges(sub)
    out(sub)
    sub.add_argument("--profile", type=_text, required=True, help=profile)
    sub.add_argument("--prompt", action="append", help="also measure this prompt, which was not calibrated, without "
                     "and with the profile; repeat the option for several")
    sub.add_argument("--count", type=_COUNT, help="images to measure it on, each way; default: 200")
    other_prompts(sub)

    sub = command("doctor")
    model(sub, "demo")
    judges(sub)
    attributes(sub)
    sub.add_argument("--prompt", help="the prompt that is tried; default: a photo of a doctor")
    sub.add_argument("--direction", choices=CHOICES["direction"].values, default="prompt",
                     help=CHOICES["direction"].help.replace("%", "%%"))

    sub = command("demo")
    attributes(sub)
    device(sub)
    out(sub, "demo_output")

    sub = command("export")
    sub.add_argument("--for", dest="host", choices=("a1111",), required=True, help="AUTOMATIC1111's webui")
    out(sub)
    sub.add_argument("--name", default="demo", help="name of the checkpoint")
    return parser
