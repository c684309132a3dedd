"""Attributes: what is to be balanced, as the user declares it.

An attribute ("gender") has groups ("man", "woman") and a target share for each. A group is described twice: by the
texts that make its direction (He et al. 2024, the g_i of u = sum a_i g_i) and by the texts that a zero-shot classifier
compares images with. A judge's label is a measurement of an image, not a person's identity.
"""
from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Sequence

from .errors import DebiasError, quoted, short
from .files import read_json
from .schema import ATTRIBUTE, check

FIRST = ("gender", "age", "skin_tone", "skin_tone_5", "skin_tone_3")  # of the library, as it is listed
LIBRARY = Path(__file__).parent / "attributes"  # those that come with the package, one in each file

MOST_TEXT = 100_000  # characters of an attribute or a target in one line
PERCENTS = 80, 125  # a sum between these is of shares in percent, and of no ratio
ROUNDED = 1.5       # that percents may be off 100, as 33:33:33 is
MOST_PART = 1000  # of one group's part of a target
PLAIN = re.compile(r"(\w+)(?:\s*:\s*|\s+)([\d.]+%?(?:\s*[:/]\s*[\d.]+%?)+)")  # "gender: 50:50", "gender 50:50"
MOST_TOGETHER = 8  # attributes; a draw has as many independent streams


@dataclass(frozen=True)
class Group:
    """One group of an attribute.

    texts             descriptions whose mean embedding is the group's g_i; may contain `{prompt}`
    classifier_texts  captions for zero-shot classification, averaged; if empty: the texts and "a photo of" them
    words             words by which a prompt names the group itself, so that the attribute is left alone there; None:
                      those of core/prompts/named.py. Empty: nothing names it
    """
    name: str
    texts: tuple[str, ...] = ()
    classifier_texts: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DebiasError("Expected a name for every group, got an empty one. Name every group, e.g. 'man | "
                              "woman'.")
        texts = self.texts or (self.name,)
        if not all(text.strip() for text in (*texts, *self.classifier_texts)):
            raise DebiasError(f"Group {quoted(self.name)} has an empty text. Describe it, e.g. 'a woman', or leave "
                              f"texts out.")
        if self.words is not None:
            if not all(word.strip() for word in self.words):
                raise DebiasError(f"Expected words that name the group {quoted(self.name)}, got an empty one. Leave "
                                  "it out.")
            object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "texts", tuple(texts))
        plain = (text.replace("{prompt}", "").strip(" ,") or self.name for text in texts)
        captions = tuple(caption for text in plain for caption in (f"a photo of {text}", text))
        object.__setattr__(self, "classifier_texts", tuple(self.classifier_texts) or captions)

    @property
    def wordless(self) -> bool:
        """Is it described by the prompt alone, so that sending an image to it changes nothing?"""
        return all(text.strip() == "{prompt}" for text in self.texts)


@dataclass(frozen=True)
class Attribute:
    """Groups, each with a target share. Without a target, shares are even; targets are scaled to sum to 1."""
    name: str
    groups: tuple[Group, ...]
    target: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not self.name.strip():
            raise DebiasError("Expected a name for the attribute, got an empty one. Name it, e.g. 'gender'.")
        if len(names) < 2:
            raise DebiasError(f"Attribute {quoted(self.name)} needs two groups or more, got {len(names)}: "
                              f"{short(names)}. Add a group.")
        if len({" ".join(name.casefold().split()) for name in names}) < len(names):  # as targets name them
            raise DebiasError(f"Attribute {quoted(self.name)} names a group twice: {short(names)}. Give every group "
                              f"its own name.")
        words = [word for group in self.groups for word in {w.casefold().strip() for w in group.words or ()}]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise DebiasError(f"The word {quoted(twice[0])} names two groups of {quoted(self.name)}. Keep it for one "
                              "of them.")
        target = self.target or (1.0,) * len(names)
        if len(target) != len(names):
            raise DebiasError(f"Attribute {quoted(self.name)} needs {len(names)} target shares, one per group, got "
                              f"{len(target)}: {_ratio(target)}. Give one number per group.")
        total = sum(target)
        if not all(share >= 0 for share in target) or not 0 < total < math.inf:
            raise DebiasError(f"Target shares of {quoted(self.name)} must be finite, not negative, and not all zero, "
                              f"got {_ratio(target)}. Change them, e.g. to 50:50.")
        object.__setattr__(self, "groups", tuple(self.groups))
        # Shares that sum to 1 stay as they are: dividing again would move their last bit at every save and load.
        scale = 1 if math.isclose(total, 1, rel_tol=1e-12) else total
        object.__setattr__(self, "target", tuple(share / scale for share in target))
        check(self.to_dict(), ATTRIBUTE, f"The attribute {quoted(self.name)}", "Shorten it.")  # else it could not load

    @property
    def names(self) -> tuple[str, ...]:
        """Group names in order."""
        return tuple(group.name for group in self.groups)

    def with_target(self, target: Sequence[float] | str) -> Attribute:
        """The same groups with other target shares: ratios, such as 70, 30, or words, as `target_of` reads them."""
        if not isinstance(target, str):
            return replace(self, target=tuple(target))
        try:
            return replace(self, target=target_of(target, self.names))
        except DebiasError as error:  # of several attributes, the one that is meant
            raise DebiasError(f"{quoted(self.name)}: {error}") from error

    def to_dict(self) -> dict:
        """JSON form, read back by `from_dict`."""
        groups = [dict(name=group.name, texts=list(group.texts), classifier_texts=list(group.classifier_texts),
                       **({} if group.words is None else dict(words=list(group.words)))) for group in self.groups]
        return dict(name=self.name, groups=groups, target=list(self.target))

    @classmethod
    def from_dict(cls, data: dict) -> Attribute:
        """Read the JSON form; `texts`, `classifier_texts` and `target` may be left out. Raises DebiasError."""
        check(data, ATTRIBUTE, "An attribute is an object with 'name' and 'groups' (a list of objects with 'name'), "
              "and this one", "Correct it.")
        groups = (Group(g["name"], _texts(g, "texts"), _texts(g, "classifier_texts"),
                        None if g.get("words") is None else tuple(g["words"])) for g in data["groups"])
        return cls(data["name"], tuple(groups), tuple(float(share) for share in data.get("target") or ()))


def _texts(group: dict, key: str) -> tuple[str, ...]:
    value = group.get(key) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def together(attributes: Sequence[Attribute]) -> tuple[Attribute, ...]:
    """Check attributes that are measured and calibrated together. Raises DebiasError for none, for more than eight,
    and for two with the same name."""
    attributes = tuple(attributes)
    names = [attribute.name for attribute in attributes]
    if not attributes:
        raise DebiasError("Expected an attribute to measure, got none. Choose one, e.g. gender.")
    if len(attributes) > MOST_TOGETHER:
        raise DebiasError(f"Expected at most {MOST_TOGETHER} attributes together, got {len(attributes)}: "
                          f"{short(names)}. Calibrate them in two profiles.")
    if len({" ".join(name.casefold().split()) for name in names}) < len(names):
        raise DebiasError(f"Two attributes have the same name: {short(names)}. Name one of them differently, e.g. "
                          f"'years: young | old'.")
    return attributes


def target_of(text: str, names: Sequence[str]) -> tuple[float, ...]:
    """Target shares of groups of these names, from words: in their order, "70:30" or "70 / 30", or by name, "woman 65,
    man 35"; groups that are not named then share what is left of 100 (of 1, for "woman 0.65") evenly. Raises
    DebiasError."""
    if len(text) > MOST_TEXT:
        raise DebiasError(f"Expected a target of at most {MOST_TEXT:,} characters, got {len(text):,}. Shorten it.")
    shares = _numbers(re.split(r"[:/,]", text))
    if shares is not None:
        if len(shares) != len(names):
            raise DebiasError(f"Expected {len(names)} shares, of {short(', '.join(names))}, got {len(shares)}: "
                              f"{quoted(text.strip())}. Give one for each.")
        return _adding_up(shares, text)
    known, found = {" ".join(name.casefold().split()): name for name in names}, {}
    for part in filter(str.strip, re.split(r"[,;\n]", text)):
        part = " ".join(part.split())
        named = re.fullmatch(r"(.*?) ?[:=]? ?(\d+(?:\.\d*)?|\.\d+) ?%?", part) if len(part) <= MOST_PART else None
        name = known.get(" ".join(named[1].casefold().split())) if named else None
        if named is None or name is None or name in found:
            raise DebiasError("Expected a target as one number per group in their order, e.g. "
                              f"{':'.join(['50'] * len(names))}, or groups with their shares, e.g. "
                              f"{quoted(names[-1] + ' 65')}, each once, got {quoted(text.strip())}. The groups are "
                              f"{short(', '.join(names))}.")
        found[name] = float(named[2])
    if not found:
        raise DebiasError(f"Expected a target as one number per group, e.g. {':'.join(['50'] * len(names))}, or "
                          f"groups with their shares, e.g. {quoted(names[-1] + ' 65')}, got {quoted(text.strip())}.")
    whole = 1 if sum(found.values()) <= 1 and any(0 < share < 1 for share in found.values()) else 100
    rest, missing = whole - sum(found.values()), [name for name in names if name not in found]
    if missing and rest < 0:
        raise DebiasError(f"The shares in {quoted(text.strip())} add up to more than 100, so nothing is left for "
                          f"{short(', '.join(missing))}. Lower them, or name all groups.")
    return _adding_up(tuple(found.get(name, rest / max(len(missing), 1)) for name in names), text)


def _ratio(shares: Sequence[float]) -> str:
    return short(":".join(f"{share:g}" for share in shares))


def _adding_up(shares: tuple[float, ...], text: str) -> tuple[float, ...]:
    """Shares that are nearly percents must add up to 100. Raises DebiasError."""
    total = sum(shares)
    if PERCENTS[0] <= total <= PERCENTS[1] and abs(total - 100) > ROUNDED:
        raise DebiasError(f"The shares {quoted(text.strip())} add up to {total:g}. Write shares that add up to 100, or "
                          "a ratio of small numbers, such as 7:4.")
    return shares


def _numbers(parts: Sequence[str]) -> tuple[float, ...] | None:
    try:
        return tuple(float(part.strip().removesuffix("%")) for part in parts)
    except ValueError:
        return None


def parse(text: str) -> Attribute:
    """Attribute from one line.

    "gender"                             a built-in one
    "gender = 70:30"                     a built-in one with another target, as `target_of` reads it, such as
                                         "gender = woman 65, man 35"; "doctors: gender" also renames it; before plain
                                         numbers "=" may be left out, or be ":"
    "young | middle-aged | old = 1:1:1"  own groups; "age of doctors: young | old" also names the attribute
    "with a hat (a person with a hat) | bare-headed ({prompt})"   own groups with descriptions; `{prompt}` alone is the
                                         prompt itself, of a group that has no words of its own

    Raises DebiasError for an unknown name, fewer than two groups, or a target that does not fit.
    """
    if len(text) > MOST_TEXT:
        raise DebiasError(f"Expected an attribute of at most {MOST_TEXT:,} characters, got {len(text):,}. Shorten it.")
    if (plain := PLAIN.fullmatch(text.strip())) and plain[1] in BUILT_IN:
        return BUILT_IN[plain[1]].with_target(plain[2])
    # What stands in brackets is text, whatever it holds.
    hidden = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", lambda found: "\0" * len(found[0]), text)
    end = hidden.find("=") if "=" in hidden else len(text)
    equals, ratio, start = "=" in hidden, text[end + 1:], hidden.rfind(":", 0, end) + 1
    name, listed = text[:max(start - 1, 0)], hidden[start:end]
    edges = [0, *(at + 1 for at, letter in enumerate(listed) if letter == "|"), len(listed) + 1]
    groups = [text[start + low:start + high - 1].strip() for low, high in zip(edges, edges[1:])]
    if len(groups) == 1:
        known = BUILT_IN.get(groups[0])
        if known is None:
            near = get_close_matches(groups[0].casefold(), BUILT_IN, 1)
            meant = f" Did you mean {quoted(near[0])}?" if near else ""
            raise DebiasError(f"No attribute is called {quoted(groups[0])}.{meant} Known: {', '.join(BUILT_IN)}; or "
                              "list own groups, e.g. 'young | middle-aged | old'.")
        found = replace(known, name=name.strip() or known.name)
    else:
        own = tuple(Group(part[1], (part[2],)) if part else Group(group)  # "(adult)" alone is a part of a name
                    for group in groups for part in [_described(group)])
        found = Attribute(name.strip() or " | ".join(group.name for group in own), own)
    return found.with_target(ratio) if equals else found


def _described(group: str) -> re.Match | None:
    """A group's name and its description in brackets, which holds a space or the prompt."""
    part = re.fullmatch(r"(.*?\S)\s+\((.*)\)", group) if group.endswith(")") else None
    return part if part and (" " in part[2] or "{prompt}" in part[2]) else None


def joint(attributes: Sequence[Attribute]) -> Attribute:
    """Combine attributes into one: a group for every combination, with every combination of their texts, and the
    product of the single targets as its target."""
    if not attributes:
        raise DebiasError("Expected one attribute or more to combine, got none.")
    combinations = list(itertools.product(*(attribute.groups for attribute in attributes)))
    groups = tuple(Group(", ".join(g.name for g in combination),
                         tuple(map(_joined, itertools.product(*(g.texts for g in combination)))),
                         tuple(map(", ".join, itertools.product(*(g.classifier_texts for g in combination)))))
                   for combination in combinations)
    target = tuple(math.prod(shares) for shares in itertools.product(*(a.target for a in attributes)))
    return Attribute(" x ".join(attribute.name for attribute in attributes), groups, target)


def _joined(texts: Sequence[str]) -> str:
    # The prompt is said once, however many of the texts hold it.
    before, prompt, after = ", ".join(texts).partition("{prompt}")
    return before + prompt + after.replace("{prompt}, ", "").replace("{prompt}", "")


def _library() -> dict[str, Attribute]:
    found = {path.stem: Attribute.from_dict(read_json(path)) for path in sorted(LIBRARY.glob("*.json"))}
    return {name: found[name] for name in (*FIRST, *(name for name in found if name not in FIRST))}


BUILT_IN = _library()
GENDER, AGE = BUILT_IN["gender"], BUILT_IN["age"]
# Fitzpatrick's six types in everyday words, from I to VI; the five-group form merges I and II, as Unicode's emoji do.
SKIN_TONE, SKIN_TONE_5, SKIN_TONE_3 = (BUILT_IN[name] for name in ("skin_tone", "skin_tone_5", "skin_tone_3"))
