"""Which command of the command line takes which options."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...core.calibration.plan import NUMBERS

RARE = ("config", "width", "height", "negative_prompt", "device", "dtype", "batch_size", "seed")
JUDGES = ("labels", "look", "detector", "confidence")
METHOD = ("method", "direction", "spend", "rule")


@dataclass(frozen=True)
class Use:
    """A command's options.

    basic    those that its help shows; more: those that --help-all shows too
    changed  what of an option is other than in the table (options.py)
    unset    the same of what happens without it, for an option without a default here
    argument what stands behind the command without a flag: its name, and its help
    """
    example: str
    basic: tuple[str, ...]
    more: tuple[str, ...] = ()
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)
    unset: dict[str, str] = field(default_factory=dict)
    argument: tuple[str, str] | None = None


OPTIONAL = dict(required=False, unset="none; nothing is written")
USES = {
    "audit": Use(
        "sd-debias audit --prompt 'a photo of a doctor' --attribute gender",
        ("prompt", "folder", "model", "allow_download", "attribute", "judge", "count", "steps", "cfg", "out"),
        ("before", "after", *RARE, *JUDGES, "check", "corrections", "overwrite"),
        {"prompt": dict(required=False, unset="none; required without --folder"), "out": OPTIONAL,
         "judge": dict(unset="the demo model's own; other models and --folder need one")}),
    "check": Use(
        "sd-debias check --model MODEL --judge CLIP --out check",
        ("prompt", "model", "allow_download", "attribute", "judge", "count", "steps", "cfg", "out"),
        (*RARE, *JUDGES, "corrections", "overwrite"),
        {"prompt": dict(help="prompt to which each group's text is added", required=False,
                        unset="a photo of a person; for the demo model: a photo of a doctor"), "out": OPTIONAL,
         "count": dict(help="images of each group", unset=50)}),
    "calibrate": Use(
        "sd-debias calibrate --prompt 'a photo of a doctor' --attribute 'gender = 60:40' --sure quick --out doctor",
        ("prompt", "model", "allow_download", "attribute", "judge", "sure", "steps", "cfg", "out", "overwrite"),
        (*RARE, *JUDGES, "check", "name", *NUMBERS, *METHOD),
        {"prompt": dict(help="prompt to calibrate; several are calibrated one by one")}),
    "sweep": Use(
        "sd-debias sweep --prompts demo-20 --out sweep",
        ("prompts", "model", "allow_download", "attribute", "judge", "audit", "sure", "out", "status", "ray"),
        ("template", "set", "steps", "cfg", *RARE, *JUDGES, "check", *NUMBERS, *METHOD, "name", "workers",
         "worker_cpus", "worker_gpus", "show", "pictures", "overwrite"),
        {"model": dict(several=True, default=None, unset="demo"),
         "out": dict(help="folder of the sweep; the same command with the same folder continues it", required=False,
                     unset="none; required without --status"),
         "overwrite": dict(help="replace results that you edited, and files that no sweep wrote")}),
    "card": Use(
        "sd-debias card sweep/demo --out card", ("out", "overwrite"),
        argument=("card", "one or two bias cards: files card.json, or the folders that hold them")),
    "generate": Use(
        "sd-debias generate --prompt 'a photo of a doctor' --attribute gender --count 8 --out images",
        ("prompt", "attribute", "profile", "model", "allow_download", "count", "steps", "cfg", "seed", "out"),
        ("strength", "others", *(name for name in RARE if name != "seed"), "overwrite"),
        {"attribute": dict(help="balance this at once, without a calibration: gender, 'age = 1:1:2', 'weather', groups "
                                "of your own", unset="none"),
         "count": dict(help="number of images", default=1), "prompt": dict(once=True)}),
    "report": Use(
        "sd-debias report --profile demo-gender --out report",
        ("profile", "model", "allow_download", "prompt", "judge", "out", "overwrite"),
        ("count", "others", "steps", "cfg", *RARE, "labels", "look", "detector"),
        {"profile": dict(required=True),
         "prompt": dict(help="also measure this prompt, which was not calibrated, without and with the profile",
                        required=False, unset="none"),
         "judge": dict(unset="the demo model's own; other models need one to measure a --prompt"),
         "count": dict(help="images of each such --prompt without the profile, and as many with it", unset=200)},
        {"model": "none; the report shows no images"}),
    "doctor": Use(
        "sd-debias doctor --model MODEL",
        ("model", "allow_download", "prompt", "attribute", "judge", "steps", "cfg", "direction"),
        (*RARE, "labels", "look", "detector"),
        {"prompt": dict(help="prompt to try", several=False, required=False, unset="a photo of a doctor"),
         "judge": dict(unset="the demo model's own; other models are examined without one"),
         "direction": dict(default="prompt")}),
    "demo": Use("sd-debias demo", ("attribute", "out", "overwrite"), ("device", "dtype", "batch_size", "seed"),
                {"out": dict(required=False, default="demo_output")}),
}
