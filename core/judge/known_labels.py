"""Which labels of public image classifiers belong to which group of the built-in attributes.

Labels are read by what they say, not by the model's name, since hundreds of models share a few sets of labels: those of
FairFace (Karkkainen and Joo 2021: "0-2" ... "more than 70", "Male", "Female", seven races) and of UTKFace, and plain
words. A group of another attribute takes the label of its own name ("East Asian" of "race: East Asian | White | ...").
"""
from __future__ import annotations

import re
from collections.abc import Sequence

from ..attribute import AGE, Attribute

FACE_MARGIN = 0.25  # of the faces that FairFace cuts for its models, and those that follow it
WORDS = {"man": ("man", "men", "male", "m"), "woman": ("woman", "women", "female", "f"),
         "young": ("young", "youth", "young adult"),
         "middle aged": ("middle aged", "middle", "middle age", "adult"), "old": ("old", "elderly", "senior")}
AGES = ((30, "young"), (60, "middle aged"))  # below this many years


def known_labels(labels: Sequence[str], attribute: Attribute) -> dict[str, str]:
    """{label: group} for an image classifier's labels, as far as they are known. May lack groups: `ImageClassifier`
    refuses that and says which."""
    found = {}
    for label in labels:
        group = _group(label, attribute)
        if group is not None:
            found[label] = group
    return found


def _group(label: str, attribute: Attribute) -> str | None:
    said = _plain(label)
    for name in attribute.names:
        if said == _plain(name) or said in WORDS.get(_plain(name), ()):
            return name
    if set(attribute.names) == set(AGE.names) and (years := _years(label)) is not None:
        return next((name for limit, name in AGES if years < limit), "old")
    return None


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", text.casefold())).strip()


def _years(label: str) -> float | None:
    """The middle of a range of years, "20-29", "(25-32)", "more than 70", "60+", "age 34"; None for other words."""
    numbers = [int(n) for n in re.findall(r"\d+", label)]
    if len(numbers) == 1 and re.search(r"(?i)more than|over|\+", label) and numbers[0] < AGES[-1][0]:
        return None  # without an end it is of several groups
    words = (r"(?:ages?|aged|more than|over|from|years?)?\W*\d+\s*(?:(?:-|\u2013|,|to|_)\s*\d+)?\s*"
             r"(?:\+|years?|y)?\W*(?:old)?")
    if not 1 <= len(numbers) <= 2 or not re.fullmatch(rf"(?i)\W*{words}\W*", label):
        return None
    return sum(numbers) / len(numbers)


