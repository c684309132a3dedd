"""Errors that a user can correct, and how their messages quote user input."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

QUOTED = 200  # characters of anything that a message quotes
# Of absolute paths, the folders: on Windows, and elsewhere; an address's are left alone.
# Messages of Windows double each backslash.
FOLDERS = re.compile(
    r"""(?<![\w.~:/\\])(?:[A-Za-z]:[\\/]{1,2}|/|\\{2,4})(?:[^\s'"\\/:]+[\\/]{1,2})+(?=[^\s'"\\/:])""")


class DebiasError(ValueError):
    """A mistake that the user can correct. Its text says what was expected, what was given, and what to do.

    Hosts show that text alone. Any other exception is a bug and keeps its traceback.
    """


def out_of_memory(error: BaseException | None) -> bool:
    """Did memory run out? torch has a class of its own for that on CUDA; for other devices it says it in words."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words))


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


def placed(text: str, path: Path, place: Callable[[Path], str]) -> str:
    """A message about a file, with its place as a host's users know it: over a network, nobody must learn where that
    lies."""
    for own in (path, path.parent) if path.is_absolute() and len(path.parts) > 2 else (path,):
        # It may be cut off, or quoted as Python does it.
        for form in (str(own), short(own), repr(str(own))[1:-1]):
            text = text.replace(form, place(own))
    return text


@contextmanager
def said_as(path: Path, place: Callable[[Path], str]) -> Iterator[None]:
    """Mistakes in a file or folder are said with its place as a host's users know it."""
    try:
        yield
    except DebiasError as error:
        raise DebiasError(placed(str(error), path, place)) from error


def placeless(text: str) -> str:
    """A text without the folders of this machine: of absolute paths in it, the names alone are left. For what is
    shared."""
    home = str(Path.home())
    return FOLDERS.sub("", text.replace(home, "~").replace(repr(home)[1:-1], "~"))
