"""Infotext that is pasted back into the accordion."""
from __future__ import annotations

import math
from typing import Mapping

from . import profiles
from ..core.errors import short
from .arguments import Arguments


def pasted(name: str, parameters: Mapping):
    """One argument's value from pasted infotext, as a plain value; None leaves the field as it is.

    An image that was made with a profile, be it that its draw left it alone, switches it on; any other one off.
    """
    enabled = "Debias profile" in parameters
    if name == "enabled":
        return enabled
    if not enabled:
        return None
    if name == "profile":
        return profiles.name_of(parameters.get("Debias hash", ""), parameters["Debias profile"])
    if name == "attributes" and "Debias attributes" not in parameters:
        return None  # the box is hidden then, and keeps what the user wrote
    default = getattr(Arguments(), name)
    text = parameters.get(f"Debias {name}")
    value = default if text is None else _read(text, default)
    if value is None:
        from modules import errors
        errors.report(f"sd-debias: the pasted text says 'Debias {name}: {short(text)}', which is no value of it, so "
                      f"{default} is taken.")
    return default if value is None else value


def _read(text: str, default: bool | float | str) -> bool | float | str | None:
    """A text as a value of the default's type; None where it is none."""
    if isinstance(default, bool):
        return {"True": True, "False": False}.get(text)
    if isinstance(default, str):
        return text
    try:
        return number if math.isfinite(number := float(text)) else None
    except ValueError:
        return None
