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
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from .attribute import Attribute
from .calibrate import Calibration, Round
from .files import safe_name, write_atomic
from .guidance import SafeLatentGuidance
from .method import Method
from .steering import Steering

SCHEMA = "1.0"
SOFTWARE = "sd-debias 0.1.0"
SUFFIX = ".json"
# Families of text encoders, as names of them begin: ComfyUI's are of classes, such as SD1ClipModel.
FAMILIES = ("sdxlrefiner", "sdxl", "sd3", "sd2", "sd1")
SHIPPED = Path(__file__).resolve().parent.parent / "profiles"  # those that come with the package; never written to


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
        """A calibration's result. Raises ValueError where its audit is not complete."""
        return cls.from_dict(_entry(calibration, evaluations), calibration.attributes)

    @classmethod
    def from_dict(cls, data: dict, attributes: Sequence[Attribute]) -> Entry:
        """Read the JSON form; all but `prompt` and `steerings` may be left out. Raises ValueError."""
        known = _known(cls, data)
        for key in ("before", "after", "rounds", "warnings"):
            known[key] = None if known.get(key) is None else tuple(known[key])
        known["steerings"] = tuple(_steering(s) for s in data["steerings"])
        entry = cls(**{key: value for key, value in known.items() if value is not None})
        if not isinstance(entry.prompt, str):
            raise ValueError(f"A prompt is text, but {entry.prompt!r:.200} came.")
        groups = [len(a.groups) for a in attributes]
        if [len(s.weights) for s in entry.steerings] != groups:
            raise ValueError(f"The entry '{entry.prompt}' needs {groups} weights for {[a.name for a in attributes]}, "
                             f"but {[len(s.weights) for s in entry.steerings]} came.")
        history = [r["attributes"] for r in entry.rounds]
        for measured in (entry.before, entry.after, *history):
            if measured is not None and [len(m["counts"]) for m in measured] != groups:
                raise ValueError(f"The entry '{entry.prompt}' needs counts of {groups} groups, but other ones came.")
        return entry


@dataclass(frozen=True)
class Profile:
    """A profile as it was read or made; `document` is its JSON, with every field that this version does not know.

    setting  plain values by name: model, model_hash, sampler, scheduler, steps, cfg, width, height, negative_prompt ...
    edited   the file was changed by hand since it was saved: its hash does not fit
    predicted  entries for prompts that were not calibrated (`core.uncalibrated`); they are not saved
    """
    name: str
    method: Method
    attributes: tuple[Attribute, ...]
    entries: tuple[Entry, ...]
    setting: dict
    classifier: str
    software: str
    created: str
    edited: bool
    document: dict = field(repr=False)
    predicted: tuple[Entry, ...] = ()

    @classmethod
    def from_calibrations(cls, name: str, calibrations: Sequence[Calibration], setting: Mapping, classifier: str,
                          evaluations: Sequence[int | None] | None = None) -> Profile:
        """Profile of one calibration or more, of different prompts but the same attributes and method.

        classifier describes what labelled the images; evaluations are those of the model, counted by the host, one
        number a calibration. Raises ValueError for calibrations that do not fit together or whose audit is not
        complete, and for a name that is no file name.
        """
        if not calibrations:
            raise ValueError("A profile needs a calibration, but none came.")
        evaluations = (None,) * len(calibrations) if evaluations is None else evaluations
        if len(evaluations) != len(calibrations):
            raise ValueError(f"Expected evaluations of {len(calibrations)} calibrations, but {len(evaluations)} came.")
        first = calibrations[0]
        for c in calibrations:
            if (c.attributes, c.method) != (first.attributes, first.method):
                raise ValueError(f"The prompts of a profile share attributes and method, but those of '{c.prompt}' "
                                 f"differ from those of '{first.prompt}'. Save them as two profiles.")
        return cls.from_dict({
            "schema": SCHEMA, "name": name, "software": SOFTWARE,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "method": first.method.to_dict(), "attributes": [a.to_dict() for a in first.attributes],
            "setting": dict(setting), "classifier": classifier,
            "entries": [_entry(c, count) for c, count in zip(calibrations, evaluations)]})

    @classmethod
    def from_dict(cls, document: dict) -> Profile:
        """Read the JSON form. Raises ValueError with one sentence that says what is wrong."""
        if not isinstance(document, dict) or "schema" not in document or "entries" not in document:
            raise ValueError("This is JSON, but not a profile of sd-debias: it has no 'schema' and 'entries'.")
        version = re.fullmatch(r"(\d+)\.(\d+)", str(document["schema"]))
        if not version:
            raise ValueError(f"A profile's schema is a version, e.g. '{SCHEMA}', but '{document['schema']}' came.")
        if version[1] != SCHEMA.split(".")[0]:
            raise ValueError(f"This profile has schema {document['schema']}, but this version of sd-debias reads "
                             f"{SCHEMA.split('.')[0]}.x. Update sd-debias, or calibrate again.")
        try:
            setting = dict(document.get("setting") or {})
            odd = [key for key, value in setting.items() if not isinstance(value, (str, int, float, bool, type(None)))]
            if odd:
                raise ValueError(f"A setting holds plain values (text, numbers, true, false), but {odd} are not.")
            attributes = tuple(Attribute.from_dict(a) for a in document["attributes"])
            entries = tuple(Entry.from_dict(e, attributes) for e in document["entries"])
            own = _hash(document)
            profile = cls(safe_name(document["name"]), _method(document["method"]), attributes, entries, setting,
                          str(document.get("classifier", "")), str(document.get("software", "")),
                          str(document.get("created", "")), document.get("hash", own) != own, copy.deepcopy(document))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"This profile lacks a field or has a wrong one ({type(error).__name__}: {error}). "
                             "Restore the file, or calibrate again.") from error
        if not entries or not attributes:
            raise ValueError("A profile needs an attribute and an entry, but one of them is empty. Calibrate again.")
        if len({_same(e.prompt) for e in entries}) < len(entries):
            raise ValueError(f"A profile has one entry a prompt, but these came: {[e.prompt for e in entries]}.")
        return profile

    def to_dict(self) -> dict:
        """JSON form with its content hash; unknown fields are kept."""
        return {**self.document, "hash": self.hash}

    @property
    def hash(self) -> str:
        """SHA-256 over the content without the hash itself, 64 hexadecimal digits."""
        return _hash(self.document)

    def save(self, place: str | Path, overwrite: bool = False) -> Path:
        """Write atomically to a folder, under the profile's name, or to a path that ends in .json; returns the path.

        Raises ValueError where the file exists, unless `overwrite`; OSError where it cannot be written.
        """
        path = Path(place)
        if path.suffix.lower() != SUFFIX or path.is_dir():
            path = path / (safe_name(self.name) + SUFFIX)
        if path.exists() and not overwrite:
            raise ValueError(f"'{path}' exists already. Choose another name, or allow overwriting.")
        return write_atomic(path, _readable(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile; warns where it was edited by hand. Raises ValueError where it is none, OSError."""
        try:
            document = json.loads(Path(path).read_text("utf-8-sig"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{path}' is not readable JSON ({str(error):.200}): it may be cut off or damaged. "
                             f"Restore it, or calibrate again.") from error
        try:
            profile = cls.from_dict(document)
        except ValueError as error:
            raise ValueError(f"'{path}' cannot be used. {error}") from error
        if profile.edited:
            warnings.warn(f"'{path}' was edited since it was saved: its figures need not be those of its weights.")
        return profile

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
        return [f"{key.replace('_', ' ')}: calibrated at {self.setting[key]}, used at {setting[key]}"
                for key in shared if not _equal(self.setting[key], setting[key])]

    def check_encoder(self, here: str) -> None:
        """Raises ValueError for a model whose text encoder is of another family: there the weights mean something else.
        """
        calibrated = str(self.setting.get("text_encoder") or "")
        if _family(here) and _family(calibrated) and _family(here) != _family(calibrated):
            raise ValueError(f"The profile '{self.name}' was calibrated with the text encoder {calibrated}, but this "
                             f"model has {here}. Load a model of that family, or calibrate on this one.")

    def metadata(self, prompt: str, info: Mapping, strength: float = 1.0, seed: int | None = None) -> dict[str, str]:
        """What an image's metadata says, under keys that begin with "Debias".

        info is what guidance did (`GuidanceRun.summary`; at least `acted`, and `reason` where the host knows one);
        where it did not act, that alone is said. With a seed, the reason may be this image's own draw.
        """
        entry, exact = self.entry(prompt)
        if not info.get("acted"):
            return {"Debias": f"not applied ({info.get('reason') or self._idle(entry, info, strength, seed)})"}
        keys = {"Debias profile": self.name, "Debias hash": self.hash[:12],
                "Debias weights": "; ".join(_words(a, s) for a, s in zip(self.attributes, entry.steerings))}
        if strength != 1:
            keys["Debias strength"] = f"{strength:g}"
        if not exact:
            keys["Debias prompt"] = entry.warnings[0]
        if info.get("skipped"):
            keys["Debias skipped"] = f"{info['skipped']} of {info.get('steps', '?')} steps (NaN or infinite)"
        return keys

    def _idle(self, entry: Entry, info: Mapping, strength: float, seed: int | None) -> str:
        """Why guidance did not act, as far as it can be told from outside."""
        if strength == 0:
            return "the strength is 0"
        if not any(any(s.weights) or (s.probabilities and s.probabilities[0] < 1) for s in entry.steerings):
            return "the calibration found nothing to correct"
        if seed is not None and not any(s.rows([seed], stream=i).any() for i, s in enumerate(entry.steerings)):
            return "by its seed this image is left alone"
        if info.get("steps") == 0 and self.method.direction != "prompt":
            return "no step lies in the guidance window"
        if info.get("skipped") and info["skipped"] == info.get("steps"):
            return "every prediction was NaN or infinite"
        return "guidance changed nothing"


def described(profile: Profile) -> str:
    """A profile in a few lines: what it balances, what was measured, and in which setting."""
    lines = [f"{profile.name} ({profile.hash[:12]}): {', '.join(a.name for a in profile.attributes)} by direction "
             f"'{profile.method.direction}', {profile.method.spend}"]
    for entry in profile.entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = ([f"{share:.0%}" for share in measured[i]["shares"]] if measured else ["not verified"]
                             for measured in (entry.before, entry.after))
            lines.append(f"{entry.prompt}: {' / '.join(attribute.names)}: {' / '.join(before)} -> {' / '.join(after)}")
        lines += [f"Warning: {warning}" for warning in entry.warnings]
    setting = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in profile.setting.items()
                        if value not in (None, "") and key != "model_hash")
    return "\n".join([*lines, f"Calibrated with {setting}; labels by {profile.classifier}"])


def _entry(calibration: Calibration, evaluations: int | None) -> dict:
    """JSON form of one calibration's result. Raises ValueError where its audit is not complete."""
    if not calibration.rounds or not calibration.audit.complete:
        raise ValueError(f"The audit of '{calibration.prompt}' is not complete. Continue its calibration first.")
    attributes, verified = calibration.attributes, calibration.held_out
    complete = [r for r in calibration.rounds if r.complete]

    def measured(r: Round) -> list[dict]:
        return [r.distribution(i, a.target).to_dict() for i, a in enumerate(attributes)]

    return {
        "prompt": calibration.prompt,
        "steerings": [_steering_dict(s) for s in calibration.steerings],
        "before": measured(calibration.audit), "after": measured(verified) if verified else None,
        "fidelity": {"before": calibration.audit.mean_fidelity, "after": verified.mean_fidelity if verified else None},
        "rounds": [{"kind": r.kind, "images": r.done, "fidelity": r.mean_fidelity, "seconds": round(r.seconds, 1),
                    "attributes": [{**{key: m[key] for key in ("counts", "unsure", "kl", "kl_floor95")},
                                    "steering": _steering_dict(s)} for m, s in zip(measured(r), r.steerings)]}
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


def _steering(data: dict) -> Steering:
    return Steering(tuple(data["weights"]), tuple(data.get("probabilities", ())), data.get("strength", 1.0))


def _steering_dict(s: Steering) -> dict:
    return {"weights": list(s.weights), "probabilities": list(s.probabilities), "strength": s.strength}


def _method(data: dict) -> Method:
    known = _known(Method, data)
    return Method.from_dict({**known, "guidance": _known(SafeLatentGuidance, known.get("guidance", {}))})


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


def _equal(one, other) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return _same(str(one)) == _same(str(other))


def _hash(document: Mapping) -> str:
    content = {key: value for key, value in document.items() if key != "hash"}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(document: Mapping) -> str:
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ValueError("A profile's numbers must be finite, but NaN or infinity came. Calibrate again.") from error


def _readable(document: dict) -> str:
    """Indented, with every list of numbers on one line. A line break cannot stand inside a JSON string."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n[^\[\]{}\"]*\n *\]", lambda m: re.sub(r"\n *", " ", m[0]).replace("[ ", "[").replace(" ]", "]"),
                  text) + "\n"


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")
