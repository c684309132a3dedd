"""What a profile is for: which of its entries a prompt gets, and what is otherwise than where it was calibrated."""
from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Mapping, Sequence

import numpy as np

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from ..files import MODEL_FILES
from ..method.draw import Steering
from .file import Entry, Profile, same_prompt
from ..prompts.named import named, of_persons
from ..prompts.people import people, shown, stands
from ..prompts.syntax import ALONE, OTHERS, bare, with_another

# Families of text encoders, as names of them begin: ComfyUI's are of classes, such as SD1ClipModel.
FAMILIES = ("sdxlrefiner", "sdxl", "sd3", "sd2", "sd1")
OWN, CARRIED, OTHER = "own", "carried over", "other"  # how an entry is found for a prompt


def entry_for(profile: Profile, prompt: str, negative: str = "", first: str = "") -> tuple[Entry, bool]:
    """(the entry for a prompt, whether it is the prompt's own calibration). If it is not, its `warnings` say what it
    is. `first` is the prompt of the pass whose images are drawn again: whom these show was decided by it, so its entry
    counts, except on what the new prompt names.

    1. An attribute whose group the prompt names itself is left alone, whatever follows (named.py), and so is one whose
       group the negative prompt names; words that were calibrated with do not count.
    2. The same prompt, without a host's syntax: its entry.
    3. An entry whose subject the prompt shows: that entry, carried over; of several, the one that stands first.
    4. Any other prompt: what `profile.others` says, one of `OTHERS`. A profile without entries, which balances
       attributes and was not calibrated, draws. Attributes of persons are left alone where no person is shown.
    """
    entry, kind = _found(profile, first or prompt)
    steerings, said = list(entry.steerings), []
    names = _names(profile, prompt, entry, kind)
    if first and first != prompt:
        names = [[*own, *others] for own, others in zip(names, _names(profile, first, entry, kind), strict=True)]
    for i, words in enumerate(names):
        if words:
            steerings[i] = Steering.none(len(profile.attributes[i].groups))
            said.append(f"the prompt itself says {', '.join(map(quoted, words))}, so "
                        f"{short(profile.attributes[i].name)} is left alone")
        elif words := _refused(profile, profile.attributes[i], negative):
            steerings[i] = Steering.none(len(profile.attributes[i].groups))
            said.append(f"the negative prompt says {', '.join(map(quoted, words))}, so "
                        f"{short(profile.attributes[i].name)} is left alone")
    if not said:
        return entry, kind == OWN
    if len(said) == len(steerings) and kind != OWN:
        entry = replace(entry, warnings=(), left_alone=())  # nothing of what is found for it is used
    return replace(entry, steerings=tuple(steerings), warnings=(*entry.warnings, *said),
                   left_alone=(*entry.left_alone, *said)), kind == OWN


def _names(profile: Profile, prompt: str, entry: Entry, kind: str) -> list[list[str]]:
    """The words of each attribute by which a prompt names its groups, and the calibrated prompt does not."""
    about = entry.about if kind != OTHER else ""
    calibrated = entry.prompt if kind == OWN else entry.carried_from
    return [[word for word in named(attribute, prompt, about)
             if word not in named(attribute, calibrated, about)] for attribute in profile.attributes]


def _refused(profile: Profile, attribute: Attribute, negative: str) -> list[str]:
    """The words of a negative prompt that name a group, and that the calibration's did not have."""
    if not negative.strip():
        return []
    known = named(attribute, str(profile.setting.get("negative_prompt") or ""))
    return [word for word in named(attribute, negative) if word not in known]


def _found(profile: Profile, prompt: str) -> tuple[Entry, str]:
    """`entry_for`, but for what the prompt names itself; and how it was found."""
    for spelling in (same_prompt, bare):
        known = profile.places.get(f"{spelling.__name__} {spelling(prompt)}")
        if known is not None:
            return profile.entries[known], OWN
    text = bare(prompt)
    may = [i for word in {person.word for person in people(prompt)} for i in profile.by_person.get(word, ())]
    may += [i for i in profile.by_person.get("", ()) if profile.subjects[i] in text]
    standing = sorted((at, i) for i in set(may) if (at := stands(prompt, profile.subjects[i])) >= 0)
    if standing:
        entries = [profile.entries[i] for _, i in standing]
        first, subjects = entries[0], list(dict.fromkeys(bare(e.about) for e in entries))
        several = ""
        if with_another(prompt, first.about):
            several = "; if the prompt shows two persons, one label per image cannot balance both"
        if len(subjects) > 1:
            several = (f"; of the subjects {', '.join(map(quoted, subjects))}, the first is used; one label per image "
                       "cannot balance several persons")
        elif len(entries) > 1:
            several += f"; {len(entries)} calibrated prompts have this subject, and the first is used"
        said = (f"carried over from {quoted(first.prompt)}, whose subject {quoted(first.about)} this prompt "
                f"shows{several}",)
        return replace(first, prompt=prompt, subject=first.about, carried_from=first.prompt, warnings=said), CARRIED
    if profile.others == ALONE and profile.entries:
        nothing = tuple(Steering.none(len(a.groups)) for a in profile.attributes)
        why = ("this prompt was not calibrated, so it is left alone",)
        return Entry(prompt, nothing, warnings=why, left_alone=why), OTHER
    return _any_prompt(profile, prompt), OTHER


def with_others(profile: Profile, others: str) -> Profile:
    """The profile with another choice for prompts that no entry is for. Raises DebiasError."""
    if others not in OTHERS:
        raise DebiasError(f"Expected other prompts to be one of {', '.join(OTHERS)}, got {quoted(others)}.")
    return replace(profile, others=others)


def _any_prompt(profile: Profile, prompt: str) -> Entry:
    """Nobody knows how biased the prompt is; but where images are drawn, sending each of them to a group drawn from the
    target needs no such knowledge. Shifts are the mean of all entries'."""
    found = [[e.steerings[i] for e in profile.entries] for i in range(len(profile.attributes))]
    alone = _nobody(profile, prompt)
    if profile.method.spend == "draw":
        steerings = tuple(_every_image(a, own, profile.method.unit) for a, own in zip(profile.attributes, found))
        used = "every image is steered to a group drawn from the target"
    else:
        steerings = tuple(map(_mean, found))
        several = f"{len(profile.entries)} calibrated prompts"
        used = f"the average of {several if len(profile.entries) > 1 else 'the one calibrated prompt'} is used"
    steerings = tuple(Steering.none(len(a.groups)) if why else s
                      for a, why, s in zip(profile.attributes, alone, steerings))
    said = tuple(dict.fromkeys(filter(None, alone)))
    if all(alone) or not profile.entries:
        return Entry(prompt, steerings, warnings=said, left_alone=said)
    return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; {used}", *said), left_alone=said)


def _nobody(profile: Profile, prompt: str) -> list[str]:
    """Of each attribute, why a prompt gives no reason to steer it; "" where it does."""
    seen = shown(prompt)
    if seen and not seen[0].named:
        return [""] * len(profile.attributes)
    why = "the prompt names somebody" if seen else "no word for a person was found in the prompt"
    return [f"{why}, so {short(a.name)} is left alone" if of_persons(a) else "" for a in profile.attributes]


def differences(profile: Profile, setting: Mapping) -> list[str]:
    """One sentence per field of the setting that is known for both and differs.

    How much a difference matters is measured in docs/robustness.md.
    """
    shared = [key for key in profile.setting if setting.get(key) is not None and profile.setting[key] is not None]
    if _of_folder(setting) != _of_folder(profile.setting):
        shared = [key for key in shared if key != "model_hash"]  # of other files, be it the same model
    if "sampler" in shared and _sampler(setting["sampler"]) == _sampler(profile.setting["sampler"]):
        shared = [key for key in shared if key != "sampler"]  # hosts name one sampler differently
    if "model_hash" in shared and _equal(profile.setting["model_hash"], setting["model_hash"]):
        shared = [key for key in shared if key != "model"]  # a renamed file is the same model
    if "text_encoder" in shared and _family(setting["text_encoder"]) == _family(profile.setting["text_encoder"]) != "":
        shared = [key for key in shared if key != "text_encoder"]  # hosts name one encoder differently
    return [f"{short(key).replace('_', ' ')}: calibrated {_at(profile.setting[key])}, used {_at(setting[key])}"
            for key in shared if not _equal(profile.setting[key], setting[key])]


def _sampler(name: object) -> str:
    """A sampler's name without what diffusers adds to it: its DDIMScheduler is DDIM elsewhere."""
    return re.sub(r"(discrete)?scheduler$", "", str(name).strip().lower())


def _of_folder(setting: Mapping) -> bool:
    """Is the model's hash that of a diffusers folder? It is of its parts' files, which no checkpoint is."""
    return str(setting.get("sampler", "")).endswith("Scheduler") and \
        not str(setting.get("model", "")).lower().endswith(MODEL_FILES)


def _at(value: object) -> str:
    return f"at {short(value)}" if str(value).strip() else "without one"


def check_encoder(profile: Profile, here: str) -> None:
    """Raises DebiasError for a model whose text encoder is of another family: there weights mean something else.
    """
    calibrated = str(profile.setting.get("text_encoder") or "")
    if _family(here) and _family(calibrated) and _family(here) != _family(calibrated):
        raise DebiasError(f"The profile {quoted(profile.name)} was calibrated with the text encoder "
                          f"{short(calibrated)}, but this model has {here}. Load a model of that family, or "
                          "calibrate on this one.")


def _every_image(attribute: Attribute, found: Sequence[Steering], unit: float) -> Steering:
    """Each image is pushed to a group drawn from the target, as strongly as the calibrated prompts needed."""
    strengths = [s.push for s in found if s.probabilities] or [unit]
    return Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target), float(np.mean(strengths)))


def _mean(steerings: Sequence[Steering]) -> Steering:
    return Steering(tuple(np.mean([s.weights for s in steerings], axis=0).tolist()))


def _family(encoder: str) -> str:
    """Family of a text encoder's name, "" where it is not known."""
    return next((family for family in FAMILIES if str(encoder).lower().startswith(family)), "")


def _equal(one: object, other: object) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return same_prompt(str(one)) == same_prompt(str(other))
