"""Debias Report: a profile's report in ComfyUI's output folder."""
from __future__ import annotations

from itertools import chain, count, takewhile
from pathlib import Path
from typing import Iterator, Sequence

import folder_paths
from comfy_api.latest import io, ui
from PIL import Image

from ..core.errors import DebiasError
from ..core.files import safe_name, write_atomic, writing
from ..core.profile.file import Profile
from ..core.report.page import report_page
from ..core.report.sheet import WITH, WITHOUT, Sheet, side_by_side
from . import messages
from .images import to_pil, to_tensor
from .panel import address, kept
from .types import CALIBRATE, Profiles


def folder() -> Path:
    """Where the folders of calibrations and reports are."""
    return Path(folder_paths.get_output_directory()) / "debias"


def new_folder(name: str) -> Path:
    """One that is not there yet, `name` or else `name_2`, `name_3` ...: as with ComfyUI's images, nothing is replaced.

    Raises DebiasError for a name that is no file name.
    """
    return next(own for own in _folders(name) if not own.exists())


def results(name: str) -> list[tuple[Path, Path]]:
    """(profile, folder) of the results of this name that are there."""
    return [(own / "profile.json", own) for own in takewhile(Path.exists, _folders(name))]


def folder_of(profile: Profile) -> Path:
    """That of this very profile, such as its calibration's; else a new one. Raises DebiasError as `new_folder`."""
    def holds(own: Path) -> bool:
        try:
            return Profile.load(own / "profile.json").hash == profile.hash
        except (DebiasError, OSError):
            return False

    return next(own for own in _folders(profile.name) if not own.exists() or holds(own))


def _folders(name: str) -> Iterator[Path]:
    return (folder() / own for own in chain([safe_name(name)], (f"{name}_{number}" for number in count(2))))


def write(profile: Profile, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Path:
    """Writes the report beside the profile, as report.html, report_2.html ...; images come prompt by prompt, equally
    many of each. Raises DebiasError where that cannot be.
    """
    prompts, own = [entry.prompt for entry in profile.entries], folder_of(profile)
    for pictures in (before, after):
        if len(pictures) % len(prompts):
            raise DebiasError(f"Expected equally many images of each of the {len(prompts)} prompts of "
                              f"'{profile.name}', prompt by prompt, got {len(pictures)}.")

    def of(i: int, what: str, pictures: Sequence[Image.Image]) -> list[Sheet]:
        each = len(pictures) // len(prompts)
        return [Sheet(what, pictures[i * each:(i + 1) * each])] if each else []

    sheets = {prompt: [*of(i, WITHOUT, before), *of(i, WITH, after)] for i, prompt in enumerate(prompts)}
    names = chain(["report.html"], (f"report_{number}.html" for number in count(2)))
    name = next(name for name in names if not (own / name).exists())
    with writing("The report", messages.place(own)):
        if not (own / "profile.json").exists():
            profile.save(own / "profile.json")
        return write_atomic(own / name, report_page(profile, sheets))


class DebiasReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasReport", display_name="Debias Report", category=CALIBRATE, is_output_node=True,
            description="Writes a profile's report with these images as one HTML file to output/debias/<profile>/, "
                        "and shows the images before and after side by side. If a report exists, the new one gets a "
                        "number. Debias Calibrate also writes a report.",
            inputs=[Profiles.Input("profile", tooltip="From Debias Calibrate or Debias Load Profile."),
                    io.Image.Input("before", optional=True, tooltip=(
                        "Images without the profile. With several prompts: all images of the first, then of the "
                        "next.")),
                    io.Image.Input("after", optional=True, tooltip=(
                        "Images with the profile, of the same seeds in the same order."))],
            outputs=[io.String.Output(display_name="path", tooltip="The report's file."),
                     io.Image.Output(display_name="sheet", tooltip="Images before (left) and after (right).")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, profile, before=None, after=None):
        pictures = [[] if images is None else to_pil(images) for images in (before, after)]
        path = write(profile, *pictures)
        said, shown = f"Report: {messages.place(path)}", dict(report=address(path))
        messages.say(cls.hidden.unique_id, said, **shown)
        if not any(pictures):
            blank = to_tensor(Image.new("RGB", (64, 64), "white"))
            return io.NodeOutput(str(path), blank, ui=kept(said, **shown))
        sheet = to_tensor(side_by_side([list(zip((WITHOUT, WITH), pictures))]))
        return io.NodeOutput(str(path), sheet, ui=kept(said, images=ui.PreviewImage(sheet, cls=cls), **shown))
