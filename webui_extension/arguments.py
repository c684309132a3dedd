"""The accordion's arguments: one model, from which reading, checking and infotext follow.

The API passes them by place, so new ones are only ever appended.
"""
from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Mapping, Sequence

from ..core.errors import DebiasError, quoted
from ..core.method.methods import AS_CALIBRATED
from ..core.method.draw import check_strength
from ..core.prompts.syntax import ALONE

NONE = "None"  # no profile is chosen
BALANCE = "Balance (no calibration)"  # attributes with shares take a profile's place


@dataclass(frozen=True)
class Arguments:
    """start and end are shares of the schedule, 0 to 1; strength 1 is as calibrated, 0 is no guidance."""
    enabled: bool = False
    profile: str = BALANCE
    strength: float = 1.0
    direction: str = AS_CALIBRATED
    start: float = 0.0
    end: float = 1.0
    hires: bool = True
    others: str = ALONE
    attributes: str = "gender = 50:50"

    @classmethod
    def read(cls, values: Sequence, overrides: Mapping | None = None) -> Arguments:
        """From values by place, missing ones and None being the defaults. Raises DebiasError for anything odd."""
        known = fields(cls)
        if len(values) > len(known):
            raise DebiasError(f"Expected {len(known)} arguments for Debias ({', '.join(f.name for f in known)}), "
                              f"got {len(values)}.")
        given = {f.name: value for f, value in zip(known, values) if value is not None}
        if given.get("enabled", False) is False and not overrides:
            return cls()  # what is switched off cannot be wrong
        given.update(overrides or {})
        arguments = cls(**{name: typed(name, value, getattr(cls, name)) for name, value in given.items()})
        if not 0 <= arguments.start <= arguments.end <= 1:
            raise DebiasError("Expected start and end as shares of the schedule with 0 <= start <= end <= 1, got "
                              f"{arguments.start:g} and {arguments.end:g}.")
        check_strength(arguments.strength)
        return arguments

    def changed(self) -> dict[str, str]:
        """Infotext of what is not the default, beside the profile and its strength."""
        keys = {"direction": self.direction, "start": f"{self.start:g}", "end": f"{self.end:g}", "hires": self.hires,
                "others": self.others}
        defaults = Arguments()
        balances = {"Debias attributes": self.attributes} if self.profile == BALANCE else {}
        return balances | {f"Debias {name}": str(text) for name, text in keys.items()
                if getattr(self, name) != getattr(defaults, name)}


def typed(name: str, value, default, as_text: bool = False):
    """A value of the default's kind; a browser sends numbers `as_text`. Raises DebiasError."""
    kind = type(default)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is list and (isinstance(value, str) or isinstance(value, list) and all(
            isinstance(each, str) for each in value)):
        return value
    if kind in (int, float) and (type(value) in (int, float) or as_text and isinstance(value, str)):
        with suppress(ValueError, OverflowError):
            if abs(number := float(value)) < 1e300:  # neither NaN nor infinite
                return number
    words = {bool: "true or false", str: "a text", list: "a list of texts"}.get(kind, "a finite number")
    raise DebiasError(f"Expected {name} to be {words}, got {quoted(value)}.")
