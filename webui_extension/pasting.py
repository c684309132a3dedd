"""Infotext that is pasted back into the accordion."""
from __future__ import annotations

from typing import Mapping

from . import profiles
from ..core.profile.prompts import DRAW
from .arguments import Arguments


def pasted(name: str, parameters: Mapping):
    """One argument's value from pasted infotext, as a plain value; None leaves the field as it is.

    A picture that was made with a profile, be it that its draw left it alone, switches it on; any other one off.
    """
    enabled = "Debias profile" in parameters
    if name == "enabled":
        return enabled
    if not enabled:
        return None
    if name == "profile":
        return profiles.name_of(parameters.get("Debias hash", ""), parameters["Debias profile"])
    default = getattr(Arguments(), name)
    text = parameters.get(f"Debias {name}")
    if text is None and name == "others" and "was not calibrated; " in parameters.get("Debias prompt", ""):
        return DRAW  # as earlier versions did unasked
    if text is None:
        return default
    return text == "True" if isinstance(default, bool) else type(default)(text)
