"""Debias Report: a profile's report in ComfyUI's output folder."""
from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from typing import Sequence

import folder_paths
from comfy_api.latest import io, ui
from PIL import Image

from ..core.report.chart import contact_sheet
from ..core.errors import DebiasError
from ..core.files import safe_name, writing
from ..core.profile.file import Profile
from ..core.report.page import write_report
from ..core.report.sheet import WITH, WITHOUT, Sheet
from . import messages
from .images import to_pil, to_tensor
from .types import CATEGORY, Profiles


def folder() -> Path:
    """Where the folders of calibrations and reports are."""
    return Path(folder_paths.get_output_directory()) / "debias"


def new_folder(name: str) -> Path:
    """One that is not there yet, `name` or else `name_2`, `name_3` ...: as with ComfyUI's images, nothing is replaced.

    Raises DebiasError for a name that is no file name.
    """
    numbered = (f"{name}_{number}" for number in count(2))
    return next(new for own in chain([safe_name(name)], numbered) if not (new := folder() / own).exists())


def write(profile: Profile, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Path:
    """Writes the report to a new folder; pictures come prompt by prompt, equally many of each. Raises DebiasError where
    that cannot be.
    """
    prompts, own = [entry.prompt for entry in profile.entries], new_folder(profile.name)
    for pictures in (before, after):
        if len(pictures) % len(prompts):
            raise DebiasError(f"Expected equally many pictures of each of the {len(prompts)} prompts of "
                              f"'{profile.name}', prompt by prompt, but {len(pictures)} came.")

    def of(i: int, what: str, pictures: Sequence[Image.Image]) -> list[Sheet]:
        each = len(pictures) // len(prompts)
        return [Sheet(what, pictures[i * each:(i + 1) * each])] if each else []

    sheets = {prompt: [*of(i, WITHOUT, before), *of(i, WITH, after)] for i, prompt in enumerate(prompts)}
    with writing("The report", messages.place(own)):
        return write_report(own, profile, sheets)


def before_after(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Image.Image:
    """Two contact sheets side by side: before left, after right."""
    sheets = [contact_sheet(pictures, columns=4) for pictures in (before, after) if pictures]
    gap = 32
    page = Image.new("RGB", (sum(s.width for s in sheets) + gap * (len(sheets) - 1), max(s.height for s in sheets)),
                     "white")
    left = 0
    for sheet in sheets:
        page.paste(sheet, (left, 0))
        left += sheet.width + gap
    return page


class DebiasReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasReport", display_name="Debias Report", category=CATEGORY, is_output_node=True,
            description="Writes a profile's report, one HTML file, to a new folder output/debias/<profile>/, numbered "
                        "where there is one already, and shows pictures before and after side by side.",
            inputs=[Profiles.Input("profile", tooltip="From Debias Calibrate or Debias Load Profile."),
                    io.Image.Input("before", optional=True, tooltip=(
                        "Pictures without the profile, prompt by prompt where there are several.")),
                    io.Image.Input("after", optional=True, tooltip=(
                        "Pictures of the same seeds with it, in the same order."))],
            outputs=[io.String.Output(display_name="path", tooltip="The report's file."),
                     io.Image.Output(display_name="sheet", tooltip="Before, left, and after, right.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, profile, before=None, after=None):
        pictures = [[] if images is None else to_pil(images) for images in (before, after)]
        path = write(profile, *pictures)
        messages.say(cls.hidden.unique_id, f"Report: {messages.place(path)}")
        if not any(pictures):
            blank = to_tensor(Image.new("RGB", (64, 64), "white"))
            return io.NodeOutput(str(path), blank)
        sheet = to_tensor(before_after(*pictures))
        return io.NodeOutput(str(path), sheet, ui=ui.PreviewImage(sheet, cls=cls))
