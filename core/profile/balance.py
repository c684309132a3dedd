"""A profile that needs no calibration: attributes with shares.

Each image of a prompt that leaves an attribute open is steered to a group drawn from the target, by
the image's seed. That balances at once, at no cost; a calibration steers fewer images, and proves it.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from ..attribute import Attribute, Group, parse, together
from ..errors import DebiasError, quoted
from ..method.methods import Method
from ..version import VERSION
from .file import Profile
from ..prompts.syntax import DRAW

NAME = "balance"
MOST_LISTED = 100  # groups of a list; each is encoded once for every prompt
MOST_BYTES = 1_000_000  # of a wildcard file
WILDCARD = re.compile(r"(?:(?P<name>[^:]+):)?\s*__(?P<file>[^_].*?)__\s*")
ITEM = re.compile(r"(?:(?P<before>\d+(?:\.\d+)?)::)?\s*(?P<text>.*?)\s*(?::\s*(?P<after>\d+(?:\.\d+)?)\s*%?)?")


def balanced(*attributes: Attribute | str, wildcards: Sequence[Path] = ()) -> Profile:
    """A profile without entries, from attributes or texts (`listed`).

    Raises DebiasError for none, more than eight, two of one name, and what `listed` refuses.
    """
    found = [one for given in attributes for one in
             ([given] if isinstance(given, Attribute) else listed(given, wildcards))]
    return Profile(NAME, Method(), together(found), (), {}, "", f"sd-debias {VERSION}", "", others=DRAW)


def listed(text: str, wildcards: Sequence[Path] = ()) -> list[Attribute]:
    """Attributes from a text with one a line, each as `attribute.parse` reads it; or as a list:

        hair:
        - curly hair: 2
        - straight hair: 1

    or as the wildcard file of another extension, "hair: __hair/styles__", looked for in the folders
    `wildcards`: a text a line, each with a share behind it or, as "2::curly hair", before it.

    Raises DebiasError.
    """
    found: list[Attribute] = []
    items: list[str] = []
    header = ""
    for line in [*map(str.strip, text.splitlines()), ""]:
        if header and line.startswith("-"):
            items.append(line[1:])
            continue
        if header:
            found.append(_of_items(header, items))
            header, items = "", []
        if line.startswith("-"):
            raise DebiasError(f"Expected a name above the list, got {quoted(line)} alone. Write a line such as 'hair:' "
                              "before it.")
        if wildcard := WILDCARD.fullmatch(line):
            name = (wildcard["name"] or wildcard["file"]).strip()
            found.append(_of_items(name, _read(wildcard["file"].strip(), wildcards).splitlines()))
        elif line.endswith(":"):
            header = line[:-1].strip() or "list"
        elif line and not line.startswith("#"):
            found.append(parse(line))
    return found


def _of_items(name: str, lines: Sequence[str]) -> Attribute:
    shares: dict[str, float] = {}
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        item = ITEM.fullmatch(line)
        if "__" in line or item is None or not item["text"]:
            raise DebiasError(f"Expected a text, or a text and its share, in the list {quoted(name)}, got "
                              f"{quoted(line)}. Lists within lists are not read.")
        shares[item["text"]] = shares.get(item["text"], 0) + float(item["before"] or item["after"] or 1)
    if len(shares) > MOST_LISTED:
        raise DebiasError(f"Expected at most {MOST_LISTED} texts in the list {quoted(name)}, got {len(shares)}. "
                          "Shorten it.")
    return Attribute(name, tuple(map(Group, shares)), tuple(shares.values()))


def _read(name: str, folders: Sequence[Path]) -> str:
    """A wildcard file's text. Only files inside the folders are read."""
    for folder in folders:
        path = (folder / f"{name}.txt").resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            if path.stat().st_size > MOST_BYTES:
                raise DebiasError(f"Expected a wildcard file of at most 1 MB, and {quoted(name)} is larger. Shorten "
                                  "it.")
            return path.read_text("utf-8", errors="replace")
    raise DebiasError(f"There is no wildcard file {quoted(name + '.txt')}. Put it into a folder 'wildcards'.")
