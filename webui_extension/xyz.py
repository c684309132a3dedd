"""Axes of the X/Y/Z plot: profile, strength, direction, start, end."""
from __future__ import annotations

import os

from ..core.method.methods import AS_CALIBRATED, DIRECTIONS
from . import profiles
from .arguments import NONE
from .script import OVERRIDES

PREFIX = "[Debias] "


def register() -> None:
    """Add the axes once; after "Reload UI" the plot's module is a new one."""
    from modules import scripts
    module = next((data.module for data in scripts.scripts_data if os.path.basename(data.path) == "xyz_grid.py"), None)
    if module is None or any(option.label.startswith(PREFIX) for option in module.axis_options):
        return
    option = module.AxisOption
    module.axis_options.extend([
        option(f"{PREFIX}Profile", str, setter("profile"), choices=profiles.names),
        option(f"{PREFIX}Strength", float, setter("strength")),
        option(f"{PREFIX}Direction", str, setter("direction"), choices=lambda: [AS_CALIBRATED, *DIRECTIONS]),
        option(f"{PREFIX}Start", float, setter("start")),
        option(f"{PREFIX}End", float, setter("end"))])


def setter(name: str):
    """Sets one argument on the processing object, over the accordion's. A profile also switches it on, "None" off."""
    def apply(p, value, _values):
        changes = {name: value}
        if name == "profile":
            changes["enabled"] = value != NONE
        # Cells are copies of one object: each needs a mapping of its own.
        setattr(p, OVERRIDES, {**(getattr(p, OVERRIDES, None) or {}), **changes})
    return apply
