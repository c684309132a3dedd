"""Profiles as files: the user's in models/debias_profiles, shipped ones, and those of a folder from the settings."""
from __future__ import annotations

import re
from pathlib import Path

from ..core.errors import DebiasError, out_of_memory, placeless, quoted, said_as
from ..core.files import safe_name
from ..core.profile.balance import NAME, balanced
from ..core.profile.file import SHIPPED, SUFFIX, Profile
from ..core.profile.words import described as described  # the accordion shows it
from .arguments import BALANCE, NONE, Arguments

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
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            if not any("\ud800" <= letter <= "\udfff" for letter in path.stem):  # no page can show such a name
                found.setdefault(path.stem, path)
    return found


def names() -> list[str]:
    """What the dropdown offers."""
    return [BALANCE, NONE, *sorted(files(), key=str.casefold)]


def new_name(name: str) -> str:
    """A name for a new profile, as `safe_name`. Raises DebiasError for the one that chooses none in the list."""
    if name in (NONE, BALANCE):
        raise DebiasError(f"{quoted(name)} chooses no profile in the list, so none can have this name. Choose another, "
                          "e.g. 'doctor-gender'.")
    return safe_name(name)


def chosen(arguments: Arguments) -> Profile:
    """The profile that the accordion names, or the balance of its attributes. Raises DebiasError."""
    if arguments.profile != BALANCE:
        return load(arguments.profile)
    if not arguments.attributes.strip():
        raise DebiasError("Expected an attribute to balance, got none. Write one, e.g. gender = 50:50.")
    return balanced(arguments.attributes, wildcards=wildcards())


def wildcards() -> list[Path]:
    """Folders with the wildcard files of other extensions."""
    from modules import paths
    root = Path(paths.data_path)
    return [*sorted(root.glob("extensions/*/wildcards")), root / "wildcards"]


def load(name: str) -> Profile:
    """Raises DebiasError where no profile is chosen, it is not there, or it cannot be used."""
    if not name or name == NONE:
        raise DebiasError("No profile is chosen. Choose one, or make one with 'Debias: audit and calibrate' in the "
                          "Script dropdown.")
    path = files().get(safe_name(name))
    if path is None:
        raise DebiasError(f"There is no profile {quoted(name)} in {place(save_folder())}. Refresh the list and choose "
                          "another, or calibrate first.")
    try:
        with said_as(path, place):
            return Profile.load(path)
    except OSError as error:
        raise DebiasError(f"The profile {quoted(name)} cannot be read: {error.strerror or error}.") from error


def place(path: Path) -> str:
    """A path as users know it, from the host's folder on: whoever asks over the API must not learn where that lies."""
    for root in _roots():
        if Path(path).is_relative_to(root):
            return Path(path).relative_to(root).as_posix()
    return Path(path).name


def said(error: Exception) -> str:
    """An error's text in one line. That of a bug may name anything, so the folders of this machine are left out; a
    `DebiasError` names none but what the user wrote, which must come back as it came."""
    text = str(error) or type(error).__name__
    if out_of_memory(error):
        return "Memory ran out. Use smaller images, or a smaller batch size."
    if not isinstance(error, DebiasError):
        for root in _roots():
            for form in (str(root), repr(str(root))[1:-1]):  # messages of Windows double each backslash
                text = re.sub(rf"{re.escape(form)}[\\/]+", "", text).replace(form, ".")
        text = placeless(text)
    return " ".join(text.split())


def _roots() -> list[Path]:
    """The host's folders, the innermost first."""
    from modules import paths
    named = [Path(getattr(paths, name)) for name in ("models_path", "data_path", "script_path") if hasattr(paths, name)]
    found = [*(folder.parent if folder.name.lower() == "models" else folder for folder in named), SHIPPED.parent]
    return sorted({form for root in found for form in (root, root.resolve())}, key=lambda root: -len(str(root)))


def name_of(hash_start: str, name: str) -> str:
    """The dropdown's name of a profile that an infotext names: the file of this content, else of this name."""
    if name == NAME and not files().get(NAME):
        return BALANCE
    found = files()
    for candidate in sorted(found, key=lambda stem: stem != name):
        try:
            if hash_start and Profile.load(found[candidate]).hash.startswith(hash_start):
                return candidate
        except (DebiasError, OSError):
            continue
    return name
