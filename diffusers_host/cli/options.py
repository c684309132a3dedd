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
from ..sweep.address import Address, address

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
    if name == "sweep":
        _refuse_idle_in_sweeps(options, refuse)
    if name in ("audit", "check") and not options.out:
        refuse(("overwrite", "parquet"), "without --out: nothing is written")
    if name == "audit" and not options.images:
        refuse(("ray",), "without --images: many prompts on a cluster are a sweep")
    if name == "audit" and options.ray is None:
        refuse(("worker_gpus",), "without --ray")
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
    if getattr(options, "model", None) in ("demo", ["demo"]) or name == "sweep" and not options.model and \
            not options.workflow and not options.status:
        refuse(("config", "allow_download"), "with the demo model, which comes with the package")
    if (getattr(options, "width", None) is None) != (getattr(options, "height", None) is None):
        raise DebiasError("--width and --height belong together, but one of them came alone. Give both, or neither "
                          "for the model's own size.")


def _refuse_idle_in_sweeps(options: argparse.Namespace, refuse: Callable) -> None:
    if options.status:
        said = vars(options).keys() - {"command", "status", "json", "debug", "indent", "confidence", "method", "show"}
        refuse(sorted(said), "with --status, which only reads a sweep's folder")
        return
    for name in ("prompts", "out"):
        if not getattr(options, name):
            raise DebiasError(f"A sweep needs --{name}, but none came. For example: sd-debias sweep --prompts demo-20 "
                              "--out sweep.")
    if options.ray is None:
        refuse(("workers", "worker_gpus"), "without --ray")
    if options.via:
        refuse(("ray", "config", "allow_download", "device", "dtype", "labels", "pictures"),
               "with --via, whose servers have models and devices of their own, and keep no pictures")
    else:
        refuse(("workflow", "sampler"), "without --via")
    if options.workflow:
        refuse(("model", "classifier", "look", "detector", "steps", "cfg", "width", "height", "negative_prompt",
                "sampler"), "with --workflow, which says it")
    if options.set:
        refuse(("attribute",), "with --set, which names the attributes")
    if options.ray is None:
        refuse(("worker_cpus",), "without --ray")
    if options.audit:
        refuse(("sure", *NUMBERS, "direction", "spend", "rule", "name"), "with --audit, which calibrates nothing")
        if options.method != "default":
            refuse(("method",), "with --audit, which calibrates nothing")
    elif options.look == "people":
        raise DebiasError("A calibration counts one label a picture, so --look people needs --audit. Calibrate with "
                          "--look largest-face.")
    if options.shard:
        refuse(("name", "parquet", "overwrite"), "with --shard: give it to 'sd-debias merge'")
    if options.images:
        refuse(("count",), "with --images, which says the same")


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


def _shard(text: str) -> tuple[int, int]:
    number, slash, shards = text.partition("/")
    if not slash or not number.isdecimal() or not shards.isdecimal() or not 1 <= int(number) <= int(shards) <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a part and how many there are, such as 1/4, got {short(text)}")
    return int(number), int(shards)


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


def _address(text: str) -> Address:
    try:
        return address(text)
    except DebiasError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
        setting(sub)

    def several(sub):
        sub.add_argument("--model", type=_text, action="append", help="'demo', a diffusers folder, a .safetensors "
                         "checkpoint, or a hub id (with --allow-download); repeat the option for several; default: "
                         "demo")
        setting(sub)

    def setting(sub):
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

    def calibrated(sub):
        sub.add_argument("--sure", choices=HOW_SURE.values, help=f"{HOW_SURE.help.replace('%', '%%')} Default: normal; "
                         f"{CUSTOM} where one of the numbers below is given.")
        planned(sub, *NUMBERS, custom=True)
        for name, choice in CHOICES.items():
            sub.add_argument(f"--{name}", choices=choice.values, default="default" if name == "method" else None,
                             help=choice.help.replace("%", "%%"))

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
    sub.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="with --images: label them on a Ray cluster "
                     "(pip install \"sd-debias[ray]\"), whose nodes all see the folder; without an address, on one "
                     "that is begun on this machine")
    sub.add_argument("--worker-gpus", type=_number(0, 64), help="with --ray: GPUs of each worker, such as 0.5; "
                     "default: 1 where there are GPUs")
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
    calibrated(sub)

    sub = command("sweep")
    sub.set_defaults(indent=None)  # with --json, an event a line
    several(sub)
    judges(sub)
    attributes(sub)
    sub.add_argument("--set", type=_text, action="append", help="attributes that are measured and calibrated together, "
                     "with ' + ' between them, such as 'gender + skin_tone_3'; repeat the option for further sets")
    checked(sub)
    planned(sub, "confidence")
    sub.add_argument("--prompts", type=_text, metavar="FILE|SUITE", help="a file with a prompt a line, or a CSV with "
                     "prompt, or subject and template, and targets and states; or a suite: winobias-36, equisteer-8, "
                     "occupations-150, explicit, demo-20")
    sub.add_argument("--template", type=_text, help="for subjects without a prompt, such as 'a portrait of a "
                     "{subject}'; default: a photo of a {subject}")
    sub.add_argument("--audit", action="store_true", help="measure only, calibrate nothing")
    sub.add_argument("--count", type=_COUNT, help="images of each audit; default: 100 with --audit, else as --sure has "
                     "it")
    calibrated(sub)
    sub.add_argument("--out", type=_text, help="folder of the sweep; the same command and folder continue it")
    sub.add_argument("--name", type=_text, help="name of the profile; default: the folder's name")
    sub.add_argument("--shard", type=_shard, metavar="I/N", help="do part I of N only, in a job array; then merge")
    sub.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="work on a Ray cluster (pip install "
                     "\"sd-debias[ray]\"); without an address, on one that is begun on this machine")
    sub.add_argument("--via", type=_address, action="append", metavar="URL", help="let a running ComfyUI, or A1111 or "
                     "Forge with --api, that has this package do the work: http://127.0.0.1:8188, or "
                     "http://user:password@host:7860; repeat the option for several")
    sub.add_argument("--workflow", type=_text, metavar="FILE", help="with --via of ComfyUI: a workflow with one Debias "
                     "Calibrate, saved by Workflow > Export (API); it says model, judge and settings")
    sub.add_argument("--sampler", type=_text, help="with --via of a web UI: the sampler's name there")
    sub.add_argument("--workers", type=_whole(1, 100_000), help="with --ray: how many; default: one a GPU, or, without "
                     "GPUs, one a CPU core")
    sub.add_argument("--worker-gpus", type=_number(0, 64), help="with --ray: GPUs of each worker, such as 0.5; "
                     "default: 1 where there are GPUs")
    sub.add_argument("--worker-cpus", type=_number(0.001, 1024), help="with --ray: CPU cores of each "
                     "worker; default: 1")
    sub.add_argument("--show", type=_whole(0, 16), default=0, help="of so many pictures of each audit and verification "
                     "bring a thumbnail home, for the bias card; default: 0")
    sub.add_argument("--pictures", type=_text, metavar="FOLDER", help="keep every picture, in this folder of the "
                     "machine that made it; default: none is kept")
    sub.add_argument("--parquet", action="store_true", help="write the labels as labels.parquet too (needs pyarrow)")
    sub.add_argument("--overwrite", action="store_true", help="replace results that were edited since, or are not a "
                     "sweep's")
    sub.add_argument("--status", type=_text, metavar="DIR", help="say how far the sweep of this folder is, and do "
                     "nothing else")

    sub = command("merge")
    sub.add_argument("folder", type=_text, nargs="+", help="folders of parts of one sweep")
    sub.add_argument("--out", type=_text, help="folder to write to; default: the first one")
    sub.add_argument("--name", type=_text, help="name of the profile; default: the folder's name")
    sub.add_argument("--parquet", action="store_true", help="write the labels as labels.parquet too (needs pyarrow)")
    sub.add_argument("--overwrite", action="store_true", help="replace results that were edited since, or are not a "
                     "sweep's")

    sub = command("card")
    sub.add_argument("card", type=_text, nargs="+", help="one or two cards: files card.json of sweeps, or their "
                     "folders")
    out(sub)

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
