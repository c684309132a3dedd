"""Errors that a user can correct, and how their messages quote user input."""
from __future__ import annotations

from pathlib import PurePath

QUOTED = 200  # characters of anything that a message quotes


class DebiasError(ValueError):
    """A mistake that the user can correct. Its text says what was expected, what was given, and what to do.

    Hosts show that text alone. Any other exception is a bug and keeps its traceback.
    """


def quoted(value: object) -> str:
    """A value in quotes for a message: one line, at most 200 characters, nothing that a terminal or page would obey."""
    return f"'{short(value)}'"


def short(value: object) -> str:
    """A value for a message: one line of printable characters, 200 at most; what is left out becomes "..."."""
    text = str(value) if isinstance(value, (str, PurePath)) else repr(value)
    longer = len(text) > QUOTED
    # Only what is shown is looked at, since a text may be megabytes long.
    text = "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
                   for c in text[:QUOTED])
    return text[:QUOTED - 3] + "..." if longer or len(text) > QUOTED else text
