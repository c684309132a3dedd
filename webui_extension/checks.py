"""Checks of judges: files beside the profiles, one a name."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted, said_as, short
from ..core.files import safe_name, write_atomic, writing
from ..core.judge.check import Check, of_each, read_checks
from . import profiles

NONE = "none"


def folder() -> Path:
    return profiles.save_folder() / "checks"


def names() -> list[str]:
    """What the dropdown offers."""
    found = sorted(path.stem for path in folder().glob("*.json")) if folder().is_dir() else []
    return [NONE, *found]


def new_name(name: str) -> str:
    """A name for a new check, as `safe_name`. Raises DebiasError for the one that chooses none in the list."""
    if name == NONE:
        raise DebiasError(f"{quoted(NONE)} chooses no check in the list, so none can have this name. Choose another, "
                          "e.g. 'clip on my model'.")
    return safe_name(name)


def store(name: str, checks: Sequence[Check]) -> Path:
    """Save under a name; an earlier check of that name is replaced, since it is of the same judge and model."""
    path = folder() / f"{new_name(name)}.json"
    with writing("The check", profiles.place(folder())):
        return write_atomic(path, json.dumps(dict(checks=[check.to_dict() for check in checks]), indent=2))


def load(name: str | None, attributes: Sequence[Attribute]) -> list[Check | None]:
    """The check of each attribute under a name; [] for none. Raises DebiasError."""
    if not name or name == NONE:
        return []
    path = folder() / f"{safe_name(name)}.json"
    if not path.is_file():
        raise DebiasError(f"There is no check {quoted(name)} in {profiles.place(folder())}. Make one with the script "
                          "'Debias: audit and calibrate', or choose none.")
    with said_as(path, profiles.place):
        checks = read_checks(path)
    if not any(found := of_each(checks, attributes)):
        known = ", ".join(check.attribute for check in checks)
        raise DebiasError(f"The check {quoted(name)} is for {short(known)}, but none of these is measured. Choose "
                          "another check, or none.")
    return found
