"""Profiles as files: the user's in models/debias_profiles, shipped ones, and those of a folder from the settings."""
from __future__ import annotations

from pathlib import Path

from ..core.files import safe_name
from ..core.profile import SHIPPED, SUFFIX, Profile
from ..core.profile import described as described  # the accordion shows it
from .arguments import NONE

FOLDER = "debias_profiles"


def save_folder() -> Path:
    """Where new profiles go."""
    from modules import paths
    return Path(paths.models_path) / FOLDER


def folders() -> list[Path]:
    """Where profiles are looked for; the first that has a name wins."""
    from modules import shared
    extra = str(getattr(shared.opts, "sd_debias_folder", "") or "").strip()
    return [save_folder(), *([Path(extra).expanduser()] if extra else []), SHIPPED]


def files() -> dict[str, Path]:
    """Every profile's file by its name in the dropdown."""
    found = {}
    for folder in folders():
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            found.setdefault(path.stem, path)
    return found


def names() -> list[str]:
    """What the dropdown offers."""
    return [NONE, *sorted(files(), key=str.casefold)]


def load(name: str) -> Profile:
    """Raises ValueError where no profile is chosen, it is not there, or it cannot be used."""
    if not name or name == NONE:
        raise ValueError("No profile is chosen. Choose one, or make one with 'Debias: calibrate (IDA)' in the Script "
                         "dropdown.")
    path = files().get(safe_name(name))
    if path is None:
        raise ValueError(f"There is no profile '{name}' in {save_folder()}. Refresh the list and choose another, or "
                         f"calibrate first.")
    try:
        return Profile.load(path)
    except OSError as error:
        raise ValueError(f"The profile '{name}' cannot be read: {error.strerror or error}.") from error


def store(profile: Profile, overwrite: bool) -> Path:
    """Write a profile to the user's folder. Raises ValueError where that is not possible."""
    try:
        return profile.save(save_folder(), overwrite)
    except OSError as error:
        raise ValueError(f"The profile '{profile.name}' could not be written to {save_folder()}: "
                         f"{error.strerror or error}. Free some space, or check the folder's permissions.") from error


def name_of(hash_start: str, name: str) -> str:
    """The dropdown's name of a profile that an infotext names: the file of this content, else of this name."""
    found = files()
    for candidate in sorted(found, key=lambda stem: stem != name):
        try:
            if hash_start and Profile.load(found[candidate]).hash.startswith(hash_start):
                return candidate
        except (ValueError, OSError):
            continue
    return name
