"""The command line's options: one table of them, and which command takes which. It loads no model code, so that
`sd-debias --help` answers at once."""
from __future__ import annotations

import inspect
import math
import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Annotated, Any, Callable, Literal, Sequence

import typer

from ...core.calibration.plan import CUSTOM, FIELDS, HOW_SURE, NUMBERS
from ...core.errors import DebiasError, short
from ...core.looks import DETECTORS, LOOKS
from ...core.method.methods import CHOICES
from ...core.prompts.syntax import OTHERS
from ...core.schema import MOST_IMAGES
from ...core.version import VERSION
from .uses import USES, Use

MOST_SEED = 2**62
HELP_ALL = "--help-all"
UsageError = typer.BadParameter.__base__  # of every mistake that typer finds
MODEL, JUDGE, WHAT, PLAN, WORK, FILES = ("Model", "Judge", "What is measured", "How sure", "Where it runs", "Files")


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes: called, it reads and checks an option's text; as a text, it is the range that
    the option's help names.

    step  the option takes whole multiples of this; 0: any number
    """
    low: float
    high: float
    step: int = 1
    __name__ = "number"  # typer asks every reader for one

    def __call__(self, text: str) -> float:
        try:
            value = int(text) if self.step else float(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or self.step and value % self.step:
            raise typer.BadParameter(f"expected a {'whole ' if self.step else ''}number from {self}, got {short(text)}")
        return value

    def __str__(self) -> str:
        return f"{_shown(self.low)} to {_shown(self.high)}{f', a multiple of {self.step}' if self.step > 1 else ''}"


def _shown(number: float) -> str:
    """1,000,000, 0.001 or -2^62."""
    if isinstance(number, int):
        return f"{number:,}" if abs(number) < 2**53 else f"{'-' * (number < 0)}2^{abs(number).bit_length() - 1}"
    return f"{number:g}"


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    help     what it is for; its range and what happens without it are added
    group    under which heading it stands
    kind     str, bool, a `Range`, or the values to choose from
    default  what the option is where it is not given
    unset    what is used where it is None, in words
    several  may it be repeated?
    flag     where it is not the name
    empty    may the text be empty?
    """
    help: str
    group: str = MODEL
    kind: Any = str
    default: Any = None
    unset: object = "none"
    several: bool = False
    required: bool = False
    flag: str = ""
    metavar: str | None = None
    empty: bool = False
    once: bool = False  # of one that other commands repeat

    @property
    def about(self) -> str:
        """Its help, which ends with its range and with what happens without it."""
        if self.kind is bool:
            return self.help
        notes = [str(self.kind)] if isinstance(self.kind, Range) else []
        notes += [" | ".join(self.kind)] if isinstance(self.kind, tuple) and len(self.kind) > 4 else []
        if not self.required:  # of which typer says so
            notes.append(f"default: {self.default if self.default is not None else self.unset}")
        again = "; repeat the option for several" if self.several and not self.once else ""
        return self.help.rstrip(".") + again + (f" ({'; '.join(notes)})" if notes else "")

    def parameter(self, name: str, hidden: bool) -> inspect.Parameter:
        """As typer reads it from a function's signature."""
        given: dict[str, Any] = dict(help=self.about.replace("[", "\\["), rich_help_panel=self.group, hidden=hidden,
                                     show_default=False, show_choices=False)
        kind: Any = self.kind
        if isinstance(self.kind, tuple):
            kind, given["metavar"] = Literal[self.kind], "|".join(self.kind) if len(self.kind) < 5 else "CHOICE"
        elif isinstance(self.kind, Range):
            kind, given["parser"], given["metavar"] = float, self.kind, "NUMBER"
        elif self.kind is str:
            given["metavar"], given["callback"] = self.metavar or "TEXT", None if self.empty else _not_empty
        kind = list[kind] if self.several else kind
        default = inspect.Parameter.empty if self.required else False if self.kind is bool else self.default
        note = typer.Option(self.flag or flag_of(name), **given)
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[
            kind if self.required or self.kind is bool else kind | None, note])


def _not_empty(value: Any) -> Any:
    if any(isinstance(text, str) and not text.strip() for text in (value if isinstance(value, list) else [value])):
        raise typer.BadParameter("expected a text, got an empty one: is a variable of your script not set?")
    return value


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number(name: str, **other: Any) -> Option:
    """An option of a calibration's plan, as every host has it."""
    asked = FIELDS[name]
    kind = Range(asked.low, asked.high, int(isinstance(asked.default, int)))
    return Option(**{"help": asked.help, "group": PLAN, "kind": kind,
                     "unset": f"as --sure says; {asked.default:g} with --sure {CUSTOM}", **other})


OWN_JUDGE = "the demo model's own; other models need one"
COUNT = Range(1, MOST_IMAGES)
OPTIONS: dict[str, Option] = {
    "prompt": Option("prompt to generate images of", WHAT, several=True, required=True),
    "prompts": Option("a text file with one prompt per line; a CSV file with the column prompt, or subject and "
                      "template, and optionally targets and states; or a suite: winobias-36, equisteer-8, "
                      "occupations-150, explicit, demo-20", WHAT,
                      unset="none; required without --status", metavar="FILE|SUITE"),
    "template": Option("for subjects without a prompt, such as 'a portrait of a {subject}'", WHAT,
                       unset="a photo of a {subject}"),
    "folder": Option("audit the images in this folder instead of generated ones", WHAT, metavar="FOLDER"),
    "before": Option("audit a pass, such as a detailer: the images before it", WHAT, metavar="FOLDER"),
    "after": Option("the same images after the pass, under the same file names", WHAT, metavar="FOLDER"),
    "attribute": Option("gender, skin_tone, skin_tone_5, skin_tone_3, age, groups of your own such as "
                        "'young | old = 1:1', or a .json file", WHAT, unset="gender", several=True),
    "set": Option("attributes that are measured and calibrated together, such as 'gender + skin_tone_3'", WHAT,
                  unset="one set, of every --attribute", several=True),
    "profile": Option("a profile's file, or the name of one that comes with the package, such as demo-gender", WHAT,
                      unset="none; images without guidance"),
    "count": Option("images per prompt", WHAT, COUNT, unset=FIELDS["images"].default),
    "strength": Option("strength of the guidance; 0 is none, 1 is as calibrated", WHAT, Range(0, 10, 0), unset=1),
    "others": Option("what to do with a prompt that was not calibrated. (A calibrated prompt is also found in other "
                     "spellings, and by its subject in longer prompts.) leave-alone: nothing. draw: steer each image "
                     "to a randomly drawn group", WHAT, tuple(name.replace(" ", "-") for name in OTHERS),
                     unset="leave-alone"),
    "audit": Option("only measure; calibrate nothing", WHAT, bool),
    "model": Option("'demo', a diffusers folder, a .safetensors checkpoint, or a hub id (with --allow-download)",
                    default="demo"),
    "config": Option("diffusers folder of the same family, to load a checkpoint without a download"),
    "allow_download": Option("allow hub ids to be downloaded", kind=bool),
    "steps": Option("sampling steps", kind=Range(1, 10_000), unset="8 for the demo model, else 30"),
    "cfg": Option("guidance scale", kind=Range(0, 100, 0), unset="2 for the demo model, else 7.5"),
    "width": Option("width of the images in pixels; needs --height", kind=Range(8, 16384, 8), unset="the model's own"),
    "height": Option("height of the images in pixels; needs --width", kind=Range(8, 16384, 8), unset="the model's own"),
    "negative_prompt": Option("what the images should not show", empty=True),
    "device": Option("cuda, cpu, mps or another device of PyTorch", unset="cuda where there is one, else cpu"),
    "dtype": Option("precision of the model", kind=("float32", "float16", "bfloat16"),
                    unset="float16 on cuda, else float32"),
    "batch_size": Option("images generated at once", kind=Range(1, 4096), unset="50 for the demo model, else 4"),
    "seed": Option("seed of the first image", kind=Range(-MOST_SEED, MOST_SEED), unset=0),
    "judge": Option("folder of the CLIP or SigLIP model that judges the images, or of a model that answers "
                         "questions about images. For one attribute only: ATTRIBUTE=FOLDER, 'skin_tone=ita' (by "
                         "colour) or 'gender=photo' (needs sd-debias[photo]). Two for one attribute are a panel: a "
                         "image counts only where both agree", JUDGE, unset=OWN_JUDGE, several=True),
    "labels": Option("says that the judge of this attribute is an image classifier, and names a JSON file with "
                     "the group of each of its labels: {\"label\": \"group\"}. Not needed for known labels, such as "
                     "\"Male\" and \"20-29\"", JUDGE, several=True, metavar="ATTRIBUTE=FILE"),
    "look": Option("what the judge looks at: the whole image; the largest-face of each image; or people: "
                   "every face, with intervals for persons (audits only)", JUDGE,
                   tuple(look.replace(" ", "-") for look in LOOKS), unset="image"),
    "detector": Option(f"what finds faces: {', '.join(DETECTORS)}, the .onnx file of YuNet, or auto, which is the "
                       "first of them that is installed", JUDGE, unset="auto"),
    "check": Option("check of the judge on this model, as 'sd-debias check' writes it; corrects the shares", JUDGE,
                    unset="none; shares are not corrected", several=True, metavar="FILE"),
    "corrections": Option("labels of the same images that you corrected on the page labels.html", JUDGE,
                          metavar="FILE"),
    "confidence": _number("confidence", group=JUDGE, default=FIELDS["confidence"].default),
    "sure": Option(HOW_SURE.help, PLAN, tuple(HOW_SURE.values),
                   unset=f"normal; {CUSTOM} if you give one of the numbers below"),
    **{name: _number(name, flag="--count" if name == "images" else "") for name in NUMBERS},
    "method": Option(CHOICES["method"].help, PLAN, tuple(CHOICES["method"].values), default="default"),
    **{name: Option(choice.help, PLAN, tuple(choice.values), unset="as --method says")
       for name, choice in CHOICES.items() if name != "method"},
    "ray": Option("work on a Ray cluster (needs sd-debias[ray]): its address, or local for one that is started on this "
                  "machine", WORK, unset="no cluster", metavar="ADDRESS|local"),
    "workers": Option("with --ray: number of workers", WORK, Range(1, 100_000),
                      unset="one per GPU, or per CPU core without GPUs"),
    "worker_cpus": Option("with --ray: CPU cores of each worker", WORK, Range(0.001, 1024, 0), unset=1),
    "worker_gpus": Option("with --ray: GPUs of each worker, such as 0.5", WORK, Range(0, 64, 0),
                          unset="1 if the cluster has GPUs, else 0"),
    "out": Option("folder to write to", FILES, required=True),
    "overwrite": Option("replace the files of an earlier run", FILES, bool),
    "name": Option("name of the profile", FILES, unset="the folder's name"),
    "show": Option("images of each prompt on the bias card, as the model is and with the profile", FILES,
                   Range(0, 8), default=0),
    "pictures": Option("keep every image in this folder, on the machine that generates it", FILES, flag="--images",
                       unset="none; no image is kept", metavar="FOLDER"),
    "status": Option("print the progress of the sweep in this folder, and do nothing else", FILES, metavar="DIR"),
    "json": Option("print the result as JSON, and nothing else", FILES, bool),
    "debug": Option("after an error, print its traceback too", FILES, bool),
}


def options_of(use: Use) -> dict[str, Option]:
    """The options that a command takes, by name."""
    changed = {**use.changed, **{name: dict(default=None, unset=text) for name, text in use.unset.items()}}
    return {name: replace(OPTIONS[name], **changed.get(name, {})) for name in (*use.basic, *use.more, "json", "debug")}


def app(commands: dict[str, Callable], done: Callable[[str, dict], None], every: bool = False) -> typer.Typer:
    """The command line; `done` is given a command's name and its options. `every` shows the rarely used ones too."""
    short_help = dict(help_option_names=["-h", "--help"])
    made = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                       context_settings=short_help, help=(
        "See whom a text-to-image model shows for a prompt, balance it at once, calibrate it, and generate with the "
        "result."))

    @made.callback()
    def _(version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False):
        pass

    for name, function in commands.items():
        use = USES[name]
        found = options_of(use)
        parameters = [option.parameter(key, not every and key not in use.basic) for key, option in found.items()]
        if use.argument:
            behind = typer.Argument(help=use.argument[1], callback=_not_empty)
            parameters.insert(0, inspect.Parameter(use.argument[0], inspect.Parameter.KEYWORD_ONLY,
                                                   annotation=Annotated[list[str], behind]))

        def run(command=name, **given):
            done(command, given)

        run.__doc__ = (function.__doc__ or "").split("\n\n")[0]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        hidden = "" if every or len(found) <= len(use.basic) + 2 else f"\n\nAll options: sd-debias {name} {HELP_ALL}"
        made.command(name, context_settings=short_help, epilog=f"Example: {use.example}{hidden}")(run)
    return made


def _version(asked: bool) -> None:
    if asked:
        print(f"sd-debias {VERSION}")
        raise typer.Exit


def parsed(commands: dict[str, Callable], arguments: Sequence[str] | None = None) -> Namespace:
    """The options of one command, with `command` the function itself. Raises DebiasError for an unknown option or
    value, for texts that are no UTF-8 and for options that would do nothing; SystemExit after a help."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for text in given:
        if any("\ud800" <= c <= "\udfff" for c in text):
            at = given.index(text)
            named = given[at - 1] if at and given[at - 1].startswith("--") else "An argument"
            raise DebiasError(f"{named} isn't valid UTF-8 ({short(text)}). Type it again, or set your terminal to "
                              "UTF-8.")
    options, every = Namespace(), HELP_ALL in given
    given = ["--help" if text == HELP_ALL else text for text in given]

    def done(name: str, found: dict) -> None:
        vars(options).update(found, command=commands[name], json=found["json"],
                             **({} if name != "sweep" else {"indent": None}))  # with --json, an event a line

    try:
        app(commands, done, every)(given, standalone_mode=False, prog_name="sd-debias")
    except UsageError as error:  # type: ignore[misc]
        if not given:
            raise SystemExit(0) from None
        name = given[0] if given[0] in commands else ""
        why = " ".join(error.format_message().split()).rstrip(".").replace(" Value error, ", " ")
        whole, see = "" if why.endswith("?") else ".", f"{name} {HELP_ALL}" if name else "--help"
        raise DebiasError(f"{why}{whole} Type sd-debias {see} to see what there is.") from error
    if not vars(options):
        raise SystemExit(0)
    for name, value in list(vars(options).items()):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("--"):  # of a variable that was not set
                raise DebiasError(f"{OPTIONS[name].flag or flag_of(name)} needs a value, got {text}. Give one.")
        if isinstance(value, list) and not value:
            setattr(options, name, None)
    _refuse_idle(options)
    return options


def given(options: Namespace, *names: str) -> list[str]:
    """The flags of the named options that the user set."""
    return [OPTIONS[name].flag or flag_of(name) for name in names
            if (value := getattr(options, name, None)) is not None and value is not False]


PICTURES = ("config", "allow_download", "device", "dtype", "steps", "cfg", "width", "height", "negative_prompt",
            "batch_size", "seed")
JUDGES = ("judge", "labels", "look", "detector")


def _refuse_idle(options: Namespace) -> None:
    """Raises DebiasError for options that the others leave without effect."""
    def refuse(names: Sequence[str], needs: str) -> None:
        found = given(options, *names)
        if found:
            raise DebiasError(f"{' and '.join(found)} {'do' if len(found) > 1 else 'does'} nothing {needs}.")

    name = options.command.__name__
    if name == "report" and not options.model:
        refuse((*PICTURES, *JUDGES, "count", "others", "prompt"),
               "without a model that generates images: name one with --model")
    if name == "report" and not options.prompt:
        refuse((*JUDGES, "count", "others"), "without a further --prompt to measure: name one")
    if name == "generate" and not options.profile:
        refuse(("others",), "without a --profile: name one")
        if not options.attribute:
            refuse(("strength",), "without something to balance: add --attribute gender")
    if name == "doctor" and not options.judge and options.model != "demo":
        refuse(("labels",), "without a --judge to read: name its folder")
    if name == "sweep":
        _refuse_idle_in_sweeps(options, refuse)
    if name in ("audit", "check") and not options.out:
        refuse(("overwrite",), "without --out: nothing is written")
    if name == "audit":
        _refuse_idle_in_audits(options, refuse)
    if (getattr(options, "look", None) or "image") == "image":
        refuse(("detector",), "while judges look at images: add --look largest-face or --look people")
    if getattr(options, "model", None) in ("demo", ["demo"]) or name == "sweep" and not options.model and \
            not options.status:
        refuse(("config",), "with the demo model, which comes with the package")
        if not getattr(options, "judge", None):
            refuse(("allow_download",), "with the demo model and its own judge, which come with the package")
    if (getattr(options, "width", None) is None) != (getattr(options, "height", None) is None):
        raise DebiasError("--width and --height belong together: expected both, got one. Give both, or neither for "
                          "the model's own size.")


def _refuse_idle_in_audits(options: Namespace, refuse: Callable) -> None:
    if bool(options.before) != bool(options.after):
        raise DebiasError("--before and --after belong together: expected both, got one. Give the folders of the "
                          "images before and after the pass.")
    said = [flag_of(name) for name in ("prompt", "folder", "before") if getattr(options, name)]
    if len(said) != 1:
        raise DebiasError("Expected a --prompt to generate images of, a folder of images with --folder, or two "
                          f"with --before and --after, got {' and '.join(said) or 'none'}. Give one.")
    if options.before:
        refuse(("check",), "with --before, since changes are counted as they are labelled")
    if not options.prompt:
        reason = f"with {said[0]}, since no images are generated"
        refuse(("count", "config", "dtype", "steps", "cfg", "width", "height", "negative_prompt", "seed"), reason)
        if options.model != "demo":
            raise DebiasError(f"--model does nothing {reason}. Leave one of them out.")


def _refuse_idle_in_sweeps(options: Namespace, refuse: Callable) -> None:
    if options.status:
        said = vars(options).keys() - {"command", "status", "json", "debug", "indent", "confidence", "method", "show"}
        refuse(sorted(said), "with --status, which only reads a sweep's folder")
        return
    for name in ("prompts", "out"):
        if not getattr(options, name):
            raise DebiasError(f"Expected --{name} for a sweep, got none. For example: sd-debias sweep --prompts "
                              "demo-20 --out sweep.")
    if options.ray is None:
        refuse(("workers", "worker_gpus", "worker_cpus"), "without --ray")
    if options.set:
        refuse(("attribute",), "with --set, which names the attributes")
    if options.audit:
        refuse(("sure", *(name for name in NUMBERS if name != "images"), "direction", "spend", "rule", "name"),
               "with --audit, which calibrates nothing")
        if options.method != "default":
            refuse(("method",), "with --audit, which calibrates nothing")
    elif options.look == "people":
        raise DebiasError("A calibration counts one label per image, so --look people needs --audit. Calibrate with "
                          "--look largest-face.")
