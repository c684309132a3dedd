"""Profiles: what a calibration leaves and every host applies, as one small JSON file that people can read.

A profile holds an entry for each calibrated prompt, the setting in which its weights were found, and what was measured
before and after. Weights are valid for that setting: profile/lookup.py names what a host does otherwise.
"""
from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import warnings
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Mapping, Sequence

from ..attribute import Attribute, together
from ..errors import DebiasError, quoted, short
from ..files import read_json, recover, safe_name, write_atomic
from ..method.methods import Method
from ..schema import ENTRY, PROFILE, check
from ..judge.check import Check
from ..method.draw import Steering
from ..version import VERSION
from ..prompts.people import alike, noun_of
from ..prompts.syntax import ALONE, bare, subject_of

SCHEMA = "1.0"
SOFTWARE = f"sd-debias {VERSION}"
SUFFIX = ".json"
PER_GROUP = ("shares", "target", "intervals", "corrected", "corrected_intervals")  # of a measurement
UNSAVED = ("carried_from",)  # what a lookup says of an entry; a file cannot
SHIPPED = Path(__file__).resolve().parents[2] / "profiles"  # those that come with the package; never written to


def located(text: str) -> Path:
    """The file of a profile that a user names: a path, or the name of one that comes with the package."""
    path, shipped = Path(text).expanduser(), SHIPPED / f"{text}{SUFFIX}"
    if not path.exists() and path.name == text:
        if shipped.is_file():
            return shipped
        known = ", ".join(sorted(one.stem for one in SHIPPED.glob(f"*{SUFFIX}")))
        raise DebiasError(f"There is no profile {quoted(text)} here. Give a profile's file, or one of {known}.")
    if not path.exists() and not recover(path):
        raise DebiasError(f"There is no profile {quoted(text)}. Give a profile's file.")
    return path


@dataclass(frozen=True)
class Entry:
    """One calibrated prompt.

    steerings      one an attribute
    before, after  one `Distribution.to_dict` an attribute: of the audit, and on held-out seeds (None: not verified)
    expected       one an attribute: shares estimated from all images of audit and rounds, with 95 % intervals, and
                   the certainty that each lies within the plan's margin; None without a margin
    side_effects   what the weights do to attributes that were not calibrated, as core/calibration/watched.py gives it;
                   None if none was watched
    told           one an attribute, {right, made}: of each group, how many images were steered to it, and how many of
                   these were labelled as it; None if none was
    subject        words that stand for this prompt in longer ones ("doctor"); None: derived from the prompt; "": none
    carried_from   the calibrated prompt, of an entry for another one that holds its subject; it is not saved
    left_alone     why the prompt, or attributes of it, are left alone
    fidelity       {before, after}: means over the images, None where not measured
    rounds         history: kind, images, fidelity, seconds and, an attribute, counts, unsure, kl, kl_floor95, steering
    verdicts       one an attribute: how it ended, "on target" or what is amiss; None where nothing was calibrated
    stop           why no further round was tried
    cost           {images, evaluations (of the model), seconds}; None where not counted
    """
    prompt: str
    steerings: tuple[Steering, ...]
    before: tuple[dict, ...] | None = None
    after: tuple[dict, ...] | None = None
    fidelity: dict = field(default_factory=dict)
    rounds: tuple[dict, ...] = ()
    stop: str = ""
    warnings: tuple[str, ...] = ()
    cost: dict = field(default_factory=dict)
    expected: tuple[dict, ...] | None = None
    side_effects: tuple[dict, ...] | None = None
    told: tuple[dict, ...] | None = None
    verdicts: tuple[str, ...] | None = None
    subject: str | None = None
    carried_from: str = ""
    left_alone: tuple[str, ...] = ()

    def behind(self, strength: float = 1.0) -> str:
        """The subject behind which groups' words are placed, in a prompt that this entry is carried over to; "": behind
        the prompt. Words in its middle move those behind them to other places, which is no harm where an image gets
        exactly the text of one group: a draw of one attribute at full strength."""
        drawn = len(self.steerings) == 1 and bool(self.steerings[0].probabilities)
        return self.about if self.carried_from and drawn and self.steerings[0].push * strength == 1 else ""

    @property
    def about(self) -> str:
        """The subject: as it was given, else as the prompt says it."""
        return subject_of(self.prompt) if self.subject is None else self.subject

    @classmethod
    def from_dict(cls, data: dict, attributes: Sequence[Attribute]) -> Entry:
        """Read the JSON form; all but `prompt` and `steerings` may be left out. Raises DebiasError."""
        check(data, ENTRY, "This entry")
        known = {key: value for key, value in _known(cls, data).items() if key not in UNSAVED}
        known["steerings"] = tuple(Steering.from_dict(s) for s in data["steerings"])
        for key in ("before", "after", "expected", "side_effects", "told", "verdicts", "rounds", "warnings",
                    "left_alone"):
            known[key] = None if known.get(key) is None else tuple(known[key])
        entry = cls(**{key: value for key, value in known.items() if value is not None})
        groups = [len(a.groups) for a in attributes]
        if [len(s.weights) for s in entry.steerings] != groups:
            came = [len(s.weights) for s in entry.steerings]
            raise DebiasError(f"The entry {quoted(entry.prompt)} needs {groups} weights for "
                              f"{short([a.name for a in attributes])}, got {came}.")
        history = [r["attributes"] for r in entry.rounds]
        for measured in (entry.before, entry.after, *history):
            if measured is not None and [len(m["counts"]) for m in measured] != groups:
                raise DebiasError(f"The entry {quoted(entry.prompt)} needs counts of {groups} groups, got other ones.")
        if entry.expected is not None and [(len(e["shares"]), len(e["intervals"])) for e in entry.expected] != [
                (n, n) for n in groups]:
            raise DebiasError(f"The entry {quoted(entry.prompt)} needs expected shares of {groups} groups, got other "
                              "ones.")
        if entry.told is not None and ([len(t[key]) for t in entry.told for key in ("right", "made")] != [
                n for n in groups for _ in range(2)] or any(r > m for t in entry.told
                                                            for r, m in zip(t["right"], t["made"]))):
            raise DebiasError(f"The entry {quoted(entry.prompt)} tells of steered images what cannot be. Calibrate "
                              "it again.")
        for measured in (entry.before, entry.after, *history):
            if measured is not None and not all(sum(m["counts"]) for m in measured):
                raise DebiasError(f"The entry {quoted(entry.prompt)} counts no image at all. Calibrate it again.")
            if measured is not None and not all(map(_agrees, measured)):
                raise DebiasError(f"The entry {quoted(entry.prompt)} holds figures that contradict its counts. "
                                  "Calibrate it again.")
        if not all(math.isclose(math.fsum(e["shares"]), 1, abs_tol=1e-3) and _ordered(e["intervals"])
                   for e in entry.expected or ()):
            raise DebiasError(f"The entry {quoted(entry.prompt)} expects shares that are none. Calibrate it again.")
        return entry

    def to_dict(self) -> dict:
        """JSON form, read back by `from_dict`."""
        return {"prompt": self.prompt, "steerings": [s.to_dict() for s in self.steerings],
                **{key: _listed(getattr(self, key)) for key in ("before", "after", "fidelity", "rounds", "stop",
                                                                "warnings", "cost")},
                **{key: _listed(given) for key in ("expected", "side_effects", "told", "verdicts")
                   if (given := getattr(self, key)) is not None},
                **({"left_alone": list(self.left_alone)} if self.left_alone else {}),
                **({} if self.subject is None else {"subject": self.subject})}


@dataclass(frozen=True)
class Profile:
    """A profile, read or made. `to_dict` is made from its fields.

    setting  plain values by name: model, model_hash, sampler, scheduler, steps, cfg, width, height, negative_prompt ...
    edited   the file was changed by hand since it was saved: its hash does not fit
    document   JSON that it was read from: its spelling, and every field that this version does not know, are kept
               as far as the fields above still say the same
    others     what is done with a prompt that no entry is for, one of `prompts.OTHERS`; it is not saved
    checks     of the judge on this model, one an attribute, None without one: shares are corrected by them
    """
    name: str
    method: Method
    attributes: tuple[Attribute, ...]
    entries: tuple[Entry, ...]
    setting: dict
    classifier: str
    software: str
    created: str
    edited: bool = False
    document: Mapping = field(default_factory=dict, repr=False, compare=False)
    checks: tuple[Check | None, ...] = ()
    others: str = ALONE

    def __post_init__(self) -> None:
        together(self.attributes)

    @classmethod
    def from_dict(cls, document: dict) -> Profile:
        """Read the JSON form. Raises DebiasError with one sentence that says what is wrong."""
        if not isinstance(document, dict) or "schema" not in document or "entries" not in document:
            raise DebiasError("This is JSON, but not a profile of sd-debias: it has no 'schema' and 'entries'.")
        version = re.fullmatch(r"(\d{1,4})\.\d{1,4}", str(document["schema"])[:99])
        if not version:
            raise DebiasError(f"Expected a version as the profile's schema, e.g. '{SCHEMA}', got "
                              f"{quoted(document['schema'])}.")
        if version[1] != SCHEMA.split(".")[0]:
            raise DebiasError(f"This profile has schema {document['schema']}, but this version of sd-debias reads "
                              f"{SCHEMA.split('.')[0]}.x. Update sd-debias, or calibrate again.")
        check(document, PROFILE, "This profile")
        document, own = copy.deepcopy(document), _hash(document)
        fields = _parsed(document)
        entries = fields["entries"]
        if not entries and fields["method"].spend != "draw":
            raise DebiasError("Expected entries in a profile whose method shifts, got none. Calibrate again.")
        if len({same_prompt(e.prompt) for e in entries}) < len(entries):
            raise DebiasError("Expected one entry per prompt in a profile, got these: "
                              f"{short([e.prompt for e in entries])}.")
        return cls(**fields, edited=document.get("hash", own) != own, document=document)

    def to_dict(self) -> dict:
        """JSON form with its content hash; unknown fields are kept."""
        return {**self._content, "hash": self.hash}

    @cached_property
    def _content(self) -> dict:
        """The JSON form without its hash. What the fields say as the document did keeps the document's spelling."""
        read = _parsed(self.document) if self.document else {}
        made = {"schema": SCHEMA, "name": self.name, "software": self.software, "created": self.created,
                "method": self.method.to_dict(), "attributes": [a.to_dict() for a in self.attributes],
                "setting": dict(self.setting), "classifier": self.classifier,
                **({"checks": [own and own.to_dict() for own in self.checks]} if any(self.checks) else {})}
        changed = {key: value for key, value in made.items()
                   if not self.document or key != "schema" and getattr(self, key) != read[key]}
        content = {**self.document, **changed}
        if not self.document or self.entries != read["entries"]:
            content["entries"] = [_spelled(entry, read, self.document) for entry in self.entries]
        content.pop("hash", None)
        return content

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the content without the hash itself, 64 hexadecimal digits."""
        return _hash(self._content)

    @cached_property
    def places(self) -> dict[str, int]:
        """The entry, by its place, of each of their prompts in two spellings: as it is but for white space and case,
        and without what only a host reads. Of two entries with one spelling the first counts."""
        found: dict[str, int] = {}
        for spelling in (same_prompt, bare):
            for i, entry in enumerate(self.entries):
                found.setdefault(f"{spelling.__name__} {spelling(entry.prompt)}", i)
        return found

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Of each entry, the bare subject of its prompt."""
        return tuple(bare(entry.about) for entry in self.entries)

    @cached_property
    def by_person(self) -> dict[str, list[int]]:
        """Places of the entries by the person that their subject names, singular; "" for subjects that are none."""
        found: dict[str, list[int]] = {}
        for i, subject in enumerate(self.subjects):
            for noun in {noun_of(name) or "" for name in alike(subject)} if subject else ():
                found.setdefault(noun, []).append(i)
        return found

    @property
    def text(self) -> str:
        """The content of its file."""
        return _readable(self.to_dict())

    def save(self, place: str | Path, overwrite: bool = False) -> Path:
        """Write atomically to a folder, under the profile's name, or to a path that ends in .json; returns the path.

        Raises DebiasError where the file exists, unless `overwrite`; OSError where it cannot be written.
        """
        path = Path(place)
        if path.suffix.lower() != SUFFIX or path.is_dir():
            path = path / f"{self.name}{SUFFIX}"
        type(self).from_dict(self._content)  # what would not load is not written
        if path.exists() and not overwrite:
            raise DebiasError(f"{quoted(path)} exists already. Choose another name, or say overwrite=True.")
        return write_atomic(path, self.text)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile; warns where it was edited by hand. Raises DebiasError where it is none, OSError."""
        try:
            profile = cls.from_dict(read_json(path))
        except DebiasError as error:
            raise DebiasError(f"{quoted(path)} cannot be used. {error}") from error
        if profile.edited:
            warnings.warn(f"{quoted(path)} was edited since it was saved: its figures may not belong to its weights.")
        return profile

def _parsed(document: Mapping) -> dict:
    """A profile's fields from its JSON. Raises DebiasError."""
    attributes = together([Attribute.from_dict(a) for a in document["attributes"]])
    name = safe_name(document["name"])
    return dict(name=name, method=Method.from_dict(document["method"]), attributes=attributes,
                entries=tuple(Entry.from_dict(e, attributes) for e in document["entries"]),
                setting=dict(document.get("setting") or {}), classifier=document.get("classifier", ""),
                checks=_checks(document, attributes), software=document.get("software", ""),
                created=document.get("created", ""))


def _checks(document: Mapping, attributes: Sequence[Attribute]) -> tuple[Check | None, ...]:
    found = tuple(own and Check.from_dict(own) for own in document.get("checks") or ())
    for own, attribute in zip(found, attributes):
        if own is not None:
            own.fits(attribute)
    return found


def _spelled(entry: Entry, read: dict, document: Mapping) -> dict:
    """An entry's JSON: the document's own where it still says the same, else with its unknown fields."""
    for known, given in zip(read.get("entries", ()), document.get("entries", ()), strict=True):
        if known == entry:
            return given
        if known.prompt == entry.prompt:
            made = entry.to_dict()
            return {**{key: value for key, value in given.items() if key not in made}, **made}
    return entry.to_dict()


def _agrees(m: Mapping) -> bool:
    """Do the figures of a measurement, as far as it has them, say what its counts say?"""
    counts, known = m["counts"], {key: value for key, value in m.items() if value is not None}
    n = sum(counts)
    return known.get("n", n) == n and all(len(known[key]) == len(counts) for key in PER_GROUP if key in known) \
        and all(math.isclose(share, count / n, abs_tol=1e-3) for share, count in zip(known.get("shares", ()), counts)) \
        and _ordered(known.get("intervals", ())) and _ordered(known.get("corrected_intervals", ()))


def _ordered(intervals: Sequence[Sequence[float]]) -> bool:
    return all(low <= high for low, high in intervals)


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _known(cls: type, data: dict) -> dict:
    """The fields that this version has: a newer minor version may have more."""
    return {f.name: data[f.name] for f in fields(cls) if f.name in data}


def same_prompt(text: str) -> str:
    """What two spellings of one prompt have in common: white space and case aside."""
    return " ".join(text.split()).casefold()


def _hash(document: Mapping) -> str:
    content = {key: value for key, value in document.items() if key != "hash"}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(document: Mapping) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _readable(document: dict) -> str:
    """Indented, with every list of numbers on one line. A line break cannot stand inside a JSON string."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n[^\[\]{}\"]*\n *\]", lambda m: re.sub(r"\n *", " ", m[0]).replace("[ ", "[").replace(" ]", "]"),
                  text) + "\n"
