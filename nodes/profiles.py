"""Profiles as files: Debias Load Profile."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..core.errors import DebiasError, placed, quoted, said_as
from ..core.files import read_text
from ..core.profile.file import SHIPPED, SUFFIX, Profile
from ..core.profile.words import described
from . import messages
from .types import APPLY, Profiles

FOLDER = "debias_profiles"
IN_OUTPUT = " (in output)"


def register() -> None:
    """Make the folder known to ComfyUI, beside what extra_model_paths.yaml may have said of it."""
    known = folder_paths.folder_names_and_paths
    paths, suffixes = known[FOLDER] if FOLDER in known else ([], set())
    own = os.path.join(folder_paths.models_dir, FOLDER)
    known[FOLDER] = ([*paths, *([] if own in paths else [own])], {*suffixes, SUFFIX})


def shipped() -> dict[str, Path]:
    """The profiles that come with sd-debias, by file name; ComfyUI saves nothing into their folder."""
    return {path.name: path for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))}


def names() -> list[str]:
    """What the dropdown offers: the user's profiles, those that calibrations left in output, then the shipped ones."""
    own = folder_paths.get_filename_list(FOLDER)
    return [*own, *(f"{folder}{IN_OUTPUT}" for folder in calibrated()),
            *(name for name in shipped() if name not in own)]


def calibrated() -> list[str]:
    """The folders of output/debias that hold a profile."""
    root = Path(folder_paths.get_output_directory()) / "debias"
    return sorted(path.parent.name for path in root.glob("*/profile.json"))


def save_folder() -> Path:
    """Where new profiles go: the first folder."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


class DebiasLoadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasLoadProfile", display_name="Debias Load Profile", category=APPLY,
            description="Loads a calibrated profile, and shows its measured shares and its setting on the node.",
            inputs=[io.Combo.Input("profile", options=names(), tooltip=(
                "One that a calibration left in output/debias, a .json file in models/debias_profiles, or one that "
                "comes with sd-debias. Press R after adding files."))],
            outputs=[Profiles.Output(display_name="profile", tooltip=(
                         "The profile, for Debias Apply, Text Encode and Report.")),
                     io.String.Output(display_name="description", tooltip=(
                         "What the profile balances, what was measured, and in which setting."))],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def fingerprint_inputs(cls, profile):
        with said_as(path := _path(profile), messages.place):
            return hashlib.sha256(read_text(path).encode()).hexdigest()

    @classmethod
    def execute(cls, profile):
        path = _path(profile)
        with messages.collected() as warned, said_as(path, messages.place):
            loaded = Profile.load(path)
        text = "\n".join([*(placed(warning, path, messages.place) for warning in warned), described(loaded)])
        messages.say(cls.hidden.unique_id, text, warning=bool(warned))
        return io.NodeOutput(loaded, text)


def _path(name: str) -> Path:
    path = folder_paths.get_full_path(FOLDER, name) or shipped().get(name)
    if name.endswith(IN_OUTPUT) and name.removesuffix(IN_OUTPUT) in calibrated():
        path = Path(folder_paths.get_output_directory()) / "debias" / name.removesuffix(IN_OUTPUT) / "profile.json"
    if path is None:
        raise DebiasError(f"There is no profile {quoted(name)} in {messages.place(save_folder())}. Calibrate one, or "
                          "press R and choose another.")
    return Path(path)
