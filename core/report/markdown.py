"""Texts of users in Markdown: neither Markdown nor HTML."""
from __future__ import annotations

import re

# "www." and "http://" alone make a link of what follows, and "$" a formula; "-", "+" and "=" count where a line begins.
MARKUP = re.compile(r"[<>&|`*_\[\]{}#~\\@$^!]|(?<=:)/|(?<!\d)\.(?=\S)|^[-+=]+|^\d+[.)](?=\s|$)")


def literal(text: str) -> str:
    """A text in one line of which Markdown makes nothing: punctuation that can have a meaning becomes a character
    reference, which is never part of markup."""
    return MARKUP.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), " ".join(text.split()))


def literal_lines(text: str) -> str:
    """The same with its lines, as Markdown breaks them."""
    return "  \n".join(map(literal, text.splitlines()))
