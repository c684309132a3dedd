"""Profiles as files: Debias Load Profile and Debias Save Profile."""
from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..core.errors import DebiasError, placed, quoted
from ..core.files import read_text, safe_name, writing
from ..core.profile.file import SHIPPED, SUFFIX, Profile
from ..core.profile.words import described
from . import messages
from .panel import kept
from .types import CATEGORY, Profiles

FOLDER = "debias_profiles"


def register() -> None:
    """Make the folder known to ComfyUI, beside what extra_model_paths.yaml may have said of it."""
    known = folder_paths.folder_names_and_paths
    paths, suffixes = known[FOLDER] if FOLDER in known else ([], set())
    own = os.path.join(folder_paths.models_dir, FOLDER)
    known[FOLDER] = ([*paths, *([] if own in paths else [own])], {*suffixes, SUFFIX})


def shipped() -> dict[str, Path]:
    """The profiles that come with sd-debias, by file name. ComfyUI is not told of their folder: nothing is saved there.
    """
    return {path.name: path for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))}


def names() -> list[str]:
    """What the dropdown offers: the user's profiles, then the shipped ones."""
    own = folder_paths.get_filename_list(FOLDER)
    return [*own, *(name for name in shipped() if name not in own)]


def save_folder() -> Path:
    """Where new profiles go: the first folder."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def store(profile: Profile, overwrite: bool) -> Path:
    """Write a profile to ComfyUI's folder. Raises DebiasError where that is not possible."""
    with writing(f"The profile '{profile.name}'", messages.place(save_folder())):
        with messages.called(save_folder() / f"{profile.name}{SUFFIX}"):
            return profile.save(save_folder(), overwrite)


def renamed(profile: Profile, name: str) -> Profile:
    """The profile under another name. Raises DebiasError for one that is no file name."""
    return replace(profile, name=safe_name(name))


class DebiasLoadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasLoadProfile", display_name="Debias Load Profile", category=CATEGORY,
            description="Loads a calibrated profile, and shows its measured shares and its setting on the node.",
            inputs=[io.Combo.Input("profile", options=names(), tooltip=(
                "A .json file in models/debias_profiles, or one that comes with sd-debias. Press R after adding "
                "files; changed files are reloaded automatically."))],
            outputs=[Profiles.Output(display_name="profile", tooltip=(
                         "The profile, for Debias Apply, Text Encode and Report.")),
                     io.String.Output(display_name="description", tooltip=(
                         "What the profile balances, what was measured, and in which setting."))],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def fingerprint_inputs(cls, profile):
        with messages.called(path := _path(profile)):
            return hashlib.sha256(read_text(path).encode()).hexdigest()

    @classmethod
    def execute(cls, profile):
        path = _path(profile)
        with messages.collected() as warned, messages.called(path):
            loaded = Profile.load(path)
        text = "\n".join([*(placed(warning, path, messages.place) for warning in warned), described(loaded)])
        messages.say(cls.hidden.unique_id, text, warning=bool(warned))
        return io.NodeOutput(loaded, text)


class DebiasSaveProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasSaveProfile", display_name="Debias Save Profile", category=CATEGORY, is_output_node=True,
            description="Saves a profile to models/debias_profiles, where Debias Load Profile finds it.",
            inputs=[Profiles.Input("profile", tooltip="The profile, e.g. from Debias Calibrate."),
                    io.String.Input("name", default="", tooltip=(
                        "File name without folder and ending. Empty: the profile's own name.")),
                    io.Boolean.Input("overwrite", default=False, tooltip="Replace a profile of this name.")],
            outputs=[io.String.Output(display_name="path", tooltip="Where the profile was written.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, profile, name="", overwrite=False):
        if name.strip():
            profile = renamed(profile, name.strip())
        path = store(profile, overwrite)
        said = f"Saved: {messages.place(path)}"
        messages.say(cls.hidden.unique_id, said)
        return io.NodeOutput(str(path), ui=kept(said))


def _path(name: str) -> Path:
    path = folder_paths.get_full_path(FOLDER, name) or shipped().get(name)
    if path is None:
        raise DebiasError(f"There is no profile {quoted(name)} in {messages.place(save_folder())}. Save one with "
                          "Debias Save Profile, or press R and choose another.")
    return Path(path)
