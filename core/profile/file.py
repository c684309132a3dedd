"""Profiles: what a calibration leaves and every host applies, as one small JSON file that people can read.

A profile holds an entry for each calibrated prompt, the setting in which its weights were found, and what was measured
before and after. Weights are valid for that setting; `differences` names what a host does otherwise.
"""
from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import warnings
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from ..attribute import Attribute, together
from ..calibration.loop import Calibration, Round
from ..calibration.statistics import shares
from ..errors import DebiasError, quoted, short
from ..files import read_json, safe_name, write_atomic
from ..method.methods import Method
from ..schema import ENTRY, PROFILE, check
from ..method.draw import Steering
from ..version import VERSION

SCHEMA = "1.0"
SOFTWARE = f"sd-debias {VERSION}"
SUFFIX = ".json"
LEFT_ALONE = "left alone by its draw"  # what an image's metadata says that no group was drawn for
# Families of text encoders, as names of them begin: ComfyUI's are of classes, such as SD1ClipModel.
FAMILIES = ("sdxlrefiner", "sdxl", "sd3", "sd2", "sd1")
SHIPPED = Path(__file__).resolve().parents[2] / "profiles"  # those that come with the package; never written to


def located(text: str) -> Path:
    """The file of a profile that a user names: a path, or the name of one that comes with the package."""
    path, shipped = Path(text).expanduser(), SHIPPED / f"{text}{SUFFIX}"
    return shipped if not path.exists() and path.name == text and shipped.is_file() else path


@dataclass(frozen=True)
class Entry:
    """One calibrated prompt.

    steerings      one an attribute
    before, after  one `Distribution.to_dict` an attribute: of the audit, and on held-out seeds (None: not verified)
    fidelity       {before, after}: means over the images, None where not measured
    rounds         history: kind, images, fidelity, seconds and, an attribute, counts, unsure, kl, kl_floor95, steering
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

    @classmethod
    def from_calibration(cls, calibration: Calibration, evaluations: int | None = None) -> Entry:
        """A calibration's result. Raises DebiasError where its audit is not complete."""
        return cls.from_dict(_entry(calibration, evaluations), calibration.attributes)

    @classmethod
    def from_dict(cls, data: dict, attributes: Sequence[Attribute]) -> Entry:
        """Read the JSON form; all but `prompt` and `steerings` may be left out. Raises DebiasError."""
        check(data, ENTRY, "This entry")
        known = _known(cls, data)
        known["steerings"] = tuple(Steering.from_dict(s) for s in data["steerings"])
        for key in ("before", "after", "rounds", "warnings"):
            known[key] = None if known.get(key) is None else tuple(known[key])
        entry = cls(**{key: value for key, value in known.items() if value is not None})
        groups = [len(a.groups) for a in attributes]
        if [len(s.weights) for s in entry.steerings] != groups:
            came = [len(s.weights) for s in entry.steerings]
            raise DebiasError(f"The entry {quoted(entry.prompt)} needs {groups} weights for "
                              f"{short([a.name for a in attributes])}, but {came} came.")
        history = [r["attributes"] for r in entry.rounds]
        for measured in (entry.before, entry.after, *history):
            if measured is not None and [len(m["counts"]) for m in measured] != groups:
                raise DebiasError(f"The entry {quoted(entry.prompt)} needs counts of {groups} groups, but other ones "
                                  f"came.")
            if measured is not None and not all(sum(m["counts"]) for m in measured):
                raise DebiasError(f"The entry {quoted(entry.prompt)} counts no image at all. Calibrate it again.")
        return entry

    def to_dict(self) -> dict:
        """JSON form, read back by `from_dict`."""
        return {"prompt": self.prompt, "steerings": [s.to_dict() for s in self.steerings],
                **{key: _listed(getattr(self, key)) for key in ("before", "after", "fidelity", "rounds", "stop",
                                                                "warnings", "cost")}}


@dataclass(frozen=True)
class Profile:
    """A profile as it was read or made. Its fields are what counts: `to_dict` is made from them.

    setting  plain values by name: model, model_hash, sampler, scheduler, steps, cfg, width, height, negative_prompt ...
    edited   the file was changed by hand since it was saved: its hash does not fit
    document   JSON that it was read from: its spelling, and every field that this version does not know, are kept
               as far as the fields above still say the same
    predicted  entries for prompts that were not calibrated (core/calibration/first_steps.py); they are not saved
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
    predicted: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        together(self.attributes)

    @classmethod
    def from_calibrations(cls, name: str, calibrations: Sequence[Calibration], setting: Mapping, classifier: str,
                          evaluations: Sequence[int | None] | None = None) -> Profile:
        """Profile of one calibration or more, of different prompts but the same attributes and method.

        classifier describes what labelled the images; evaluations are those of the model, counted by the host, one
        number a calibration. Raises DebiasError for calibrations that do not fit together or whose audit is not
        complete, and for a name that is no file name.
        """
        if not calibrations:
            raise DebiasError("A profile needs a calibration, but none came.")
        evaluations = (None,) * len(calibrations) if evaluations is None else evaluations
        if len(evaluations) != len(calibrations):
            raise DebiasError(f"Expected evaluations of {len(calibrations)} calibrations, but {len(evaluations)} came.")
        first = calibrations[0]
        for c in calibrations:
            if (c.attributes, c.method) != (first.attributes, first.method):
                raise DebiasError("The prompts of a profile share attributes and method, but those of "
                                  f"{quoted(c.prompt)} differ from those of {quoted(first.prompt)}. Save them as two "
                                  "profiles.")
        return cls.from_dict({
            "schema": SCHEMA, "name": name, "software": SOFTWARE,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "method": first.method.to_dict(), "attributes": [a.to_dict() for a in first.attributes],
            "setting": dict(setting), "classifier": classifier,
            "entries": [_entry(c, count) for c, count in zip(calibrations, evaluations)]})

    @classmethod
    def from_dict(cls, document: dict) -> Profile:
        """Read the JSON form. Raises DebiasError with one sentence that says what is wrong."""
        if not isinstance(document, dict) or "schema" not in document or "entries" not in document:
            raise DebiasError("This is JSON, but not a profile of sd-debias: it has no 'schema' and 'entries'.")
        version = re.fullmatch(r"(\d{1,4})\.\d{1,4}", str(document["schema"])[:99])
        if not version:
            raise DebiasError(f"A profile's schema is a version, e.g. '{SCHEMA}', but {quoted(document['schema'])} "
                              f"came.")
        if version[1] != SCHEMA.split(".")[0]:
            raise DebiasError(f"This profile has schema {document['schema']}, but this version of sd-debias reads "
                              f"{SCHEMA.split('.')[0]}.x. Update sd-debias, or calibrate again.")
        check(document, PROFILE, "This profile")
        document, own = copy.deepcopy(document), _hash(document)
        fields = _parsed(document)
        entries = fields["entries"]
        if len({_same(e.prompt) for e in entries}) < len(entries):
            raise DebiasError(f"A profile has one entry a prompt, but these came: "
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
                "setting": dict(self.setting), "classifier": self.classifier}
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

    def save(self, place: str | Path, overwrite: bool = False) -> Path:
        """Write atomically to a folder, under the profile's name, or to a path that ends in .json; returns the path.

        Raises DebiasError where the file exists, unless `overwrite`; OSError where it cannot be written.
        """
        path = Path(place)
        if path.suffix.lower() != SUFFIX or path.is_dir():
            path = path / f"{self.name}{SUFFIX}"
        type(self).from_dict(self._content)  # what would not load is not written
        if path.exists() and not overwrite:
            raise DebiasError(f"{quoted(path)} exists already. Choose another name, or allow overwriting.")
        return write_atomic(path, _readable(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile; warns where it was edited by hand. Raises DebiasError where it is none, OSError."""
        try:
            profile = cls.from_dict(read_json(path))
        except DebiasError as error:
            raise DebiasError(f"{quoted(path)} cannot be used. {error}") from error
        if profile.edited:
            warnings.warn(f"{quoted(path)} was edited since it was saved: its figures need not be those of its "
                          f"weights.")
        return profile

    def holds(self, calibrations: Sequence[Calibration]) -> bool:
        """Is this what these calibrations give, so that saving them anew would change nothing but the date?"""
        own = {e.prompt: e for e in self.entries}
        results = [Entry.from_calibration(c) for c in calibrations]
        return all((e.prompt in own and replace(own[e.prompt], cost={}) == replace(e, cost={})) for e in results) and \
            all((c.attributes, c.method) == (self.attributes, self.method) for c in calibrations)

    def entry(self, prompt: str) -> tuple[Entry, bool]:
        """(entry, True) of a calibrated prompt, white space and case aside; else (an entry for any prompt, False).

        That is a predicted one, where there is one. Else nobody knows how biased the prompt is; but where images are
        drawn, sending each of them to a group drawn from the target needs no such knowledge
        (benchmarks/uncalibrated.py). Shifts are the mean of all entries'. The entry's `warnings` says which.
        """
        for entry in self.entries:
            if _same(entry.prompt) == _same(prompt):
                return entry, True
        for entry in self.predicted:
            if _same(entry.prompt) == _same(prompt):
                return entry, False
        found = [[e.steerings[i] for e in self.entries] for i in range(len(self.attributes))]
        if self.method.spend == "draw":
            steerings = tuple(_every_image(a, own, self.method.unit) for a, own in zip(self.attributes, found))
            used = "every image is sent to a group drawn from the target"
        else:
            steerings = tuple(map(_mean, found))
            count = f"{len(self.entries)} calibrated prompts" if len(self.entries) > 1 else "the one calibrated prompt"
            used = f"the average of {count} is used"
        return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; {used}",)), False

    def differences(self, setting: Mapping) -> list[str]:
        """One sentence for each field of the setting that is known on both sides and differs.

        How much a difference matters is measured in docs/robustness.md.
        """
        shared = [key for key in self.setting if setting.get(key) is not None and self.setting[key] is not None]
        if "model_hash" in shared and _equal(self.setting["model_hash"], setting["model_hash"]):
            shared = [key for key in shared if key != "model"]  # a renamed file is the same model
        if "text_encoder" in shared and _family(setting["text_encoder"]) == _family(self.setting["text_encoder"]) != "":
            shared = [key for key in shared if key != "text_encoder"]  # hosts name one encoder differently
        return [f"{short(key).replace('_', ' ')}: calibrated at {short(self.setting[key])}, used at "
                f"{short(setting[key])}" for key in shared if not _equal(self.setting[key], setting[key])]

    def check_encoder(self, here: str) -> None:
        """Raises DebiasError for a model whose text encoder is of another family: there weights mean something else.
        """
        calibrated = str(self.setting.get("text_encoder") or "")
        if _family(here) and _family(calibrated) and _family(here) != _family(calibrated):
            raise DebiasError(f"The profile {quoted(self.name)} was calibrated with the text encoder "
                              f"{short(calibrated)}, but this model has {here}. Load a model of that family, or "
                              "calibrate on this one.")

    def metadata(self, prompt: str, info: Mapping, strength: float = 1.0, seed: int | None = None) -> dict[str, str]:
        """What an image's metadata says, under keys that begin with "Debias".

        info is what guidance did (`GuidanceRun.summary`; at least `acted`, and `reason` where the host knows one). The
        profile and its hash are always said, so that the same settings make the same image again; weights only where
        guidance acted, else "Debias" says why it did not. With a seed, that may be this image's own draw.
        """
        entry, exact = self.entry(prompt)
        keys = {"Debias profile": self.name, "Debias hash": self.hash[:12]}
        if info.get("acted"):
            keys["Debias weights"] = "; ".join(_words(a, s) for a, s in zip(self.attributes, entry.steerings))
        else:
            why = info.get("reason") or self._idle(entry, info, strength, seed)
            keys["Debias"] = why if why == LEFT_ALONE else f"not applied ({why})"
        if strength != 1:
            keys["Debias strength"] = f"{strength:g}"
        if info.get("acted") and not exact:
            keys["Debias prompt"] = entry.warnings[0]
        if info.get("acted") and info.get("skipped"):
            keys["Debias skipped"] = f"{info['skipped']} of {info.get('steps', '?')} steps (NaN or infinite)"
        return keys

    def _idle(self, entry: Entry, info: Mapping, strength: float, seed: int | None) -> str:
        """Why guidance did not act, as far as it can be told from outside."""
        if strength == 0:
            return "the strength is 0"
        if not any(any(s.weights) or (s.probabilities and s.probabilities[0] < 1) for s in entry.steerings):
            return "the calibration found nothing to correct"
        if seed is not None and not any(s.rows([seed], stream=i).any() for i, s in enumerate(entry.steerings)):
            return LEFT_ALONE
        if info.get("steps") == 0 and self.method.direction != "prompt":
            return "no step lies in the guidance window"
        if info.get("skipped") and info["skipped"] == info.get("steps"):
            return "every prediction was NaN or infinite"
        return "guidance changed nothing"


def described(profile: Profile) -> str:
    """A profile in a few lines: what it balances, what was measured, and in which setting."""
    names = short(", ".join(a.name for a in profile.attributes))
    method = profile.method
    lines = [f"{profile.name} ({profile.hash[:12]}): {names} by direction '{method.direction}', {method.spend}"]
    for entry in profile.entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = ([f"{share:.0%}" for share in shares(measured[i]["counts"])] if measured else
                             ["not verified"] for measured in (entry.before, entry.after))
            lines.append(f"{short(entry.prompt)}: {short(' / '.join(attribute.names))}: {' / '.join(before)} -> "
                         f"{' / '.join(after)}")
        lines += [f"Warning: {short(warning)}" for warning in entry.warnings]
    setting = ", ".join(f"{short(key.replace('_', ' '))} {short(value)}" for key, value in profile.setting.items()
                        if value not in (None, "") and key != "model_hash")
    return "\n".join([*lines, f"Calibrated with {setting}; labels by {short(profile.classifier)}"])


def _entry(calibration: Calibration, evaluations: int | None) -> dict:
    """JSON form of one calibration's result. Raises DebiasError where its audit is not complete."""
    if not calibration.rounds or not calibration.audit.complete:
        raise DebiasError(f"The audit of {quoted(calibration.prompt)} is not complete. Continue its calibration first.")
    attributes, verified = calibration.attributes, calibration.held_out
    complete = [r for r in calibration.rounds if r.complete]

    def measured(r: Round) -> list[dict]:
        return [r.distribution(i, a.target).to_dict() for i, a in enumerate(attributes)]

    return {
        "prompt": calibration.prompt,
        "steerings": [s.to_dict() for s in calibration.steerings],
        "before": measured(calibration.audit), "after": measured(verified) if verified else None,
        "fidelity": {"before": calibration.audit.mean_fidelity, "after": verified.mean_fidelity if verified else None},
        "rounds": [{"kind": r.kind, "images": r.done, "fidelity": r.mean_fidelity, "seconds": round(r.seconds, 1),
                    **{key: getattr(r, key) for key in ("not_finite", "one_colour") if getattr(r, key)},
                    "attributes": [{**{key: m[key] for key in ("counts", "unsure", "kl", "kl_floor95")},
                                    "steering": s.to_dict()} for m, s in zip(measured(r), r.steerings)]}
                   for r in complete],
        "stop": calibration.stop or "stopped before its end",
        "warnings": calibration.warnings,
        "cost": {"images": sum(r.done for r in calibration.rounds), "evaluations": evaluations,
                 "seconds": round(math.fsum(r.seconds for r in calibration.rounds), 1)}}


def _every_image(attribute: Attribute, found: Sequence[Steering], unit: float) -> Steering:
    """Each image is pushed to a group drawn from the target, as strongly as the calibrated prompts needed."""
    strengths = [s.strength for s in found if s.probabilities] or [unit]
    return Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target), float(np.mean(strengths)))


def _mean(steerings: Sequence[Steering]) -> Steering:
    return Steering(tuple(np.mean([s.weights for s in steerings], axis=0).tolist()))


def _parsed(document: Mapping) -> dict:
    """A profile's fields from its JSON. Raises DebiasError."""
    attributes = together([Attribute.from_dict(a) for a in document["attributes"]])
    name = safe_name(document["name"], most=480)  # earlier versions allowed more bytes
    return dict(name=name, method=Method.from_dict(document["method"]), attributes=attributes,
                entries=tuple(Entry.from_dict(e, attributes) for e in document["entries"]),
                setting=dict(document.get("setting") or {}), classifier=document.get("classifier", ""),
                software=document.get("software", ""), created=document.get("created", ""))


def _spelled(entry: Entry, read: dict, document: Mapping) -> dict:
    """An entry's JSON: the document's own where it still says the same, else with its unknown fields."""
    for known, given in zip(read.get("entries", ()), document.get("entries", ()), strict=True):
        if known == entry:
            return given
        if known.prompt == entry.prompt:
            made = entry.to_dict()
            return {**{key: value for key, value in given.items() if key not in made}, **made}
    return entry.to_dict()


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _known(cls: type, data: dict) -> dict:
    """The fields that this version has: a newer minor version may have more."""
    return {f.name: data[f.name] for f in fields(cls) if f.name in data}


def _words(attribute: Attribute, s: Steering) -> str:
    """A steering in one line, e.g. "gender: man 0.3, woman -0.3" or "gender: 40 % alone, 60 % woman, strength 1"."""
    shift = ", ".join(f"{name} {a:.4g}" for name, a in zip(attribute.names, s.weights))
    if s.probabilities:
        options = zip(("alone", *attribute.names), s.probabilities)
        draw = ", ".join(f"{100 * q:.3g} % {name}" for name, q in options if q >= 5e-4)
        shift = f"{draw}, strength {s.strength:.4g}" + (f", shift {shift}" if any(s.weights) else "")
    return " ".join(f"{attribute.name}: {shift}".split())


def _family(encoder: str) -> str:
    """Family of a text encoder's name, "" where it is not known."""
    return next((family for family in FAMILIES if str(encoder).lower().startswith(family)), "")


def _same(text: str) -> str:
    return " ".join(text.split()).casefold()


def _equal(one: object, other: object) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return _same(str(one)) == _same(str(other))


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
