"""What a profile is for: which of its entries a prompt gets, and what is otherwise than where it was calibrated."""
from __future__ import annotations

import math
from typing import Mapping, Sequence

import numpy as np

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from ..method.draw import Steering
from .file import Entry, Profile, same_prompt

# Families of text encoders, as names of them begin: ComfyUI's are of classes, such as SD1ClipModel.
FAMILIES = ("sdxlrefiner", "sdxl", "sd3", "sd2", "sd1")


def entry_for(profile: Profile, prompt: str) -> tuple[Entry, bool]:
    """(entry, True) of a calibrated prompt, white space and case aside; else (an entry for any prompt, False).

    That is a predicted one, where there is one. Else nobody knows how biased the prompt is; but where images are
    drawn, sending each of them to a group drawn from the target needs no such knowledge
    (benchmarks/uncalibrated.py). Shifts are the mean of all entries'. The entry's `warnings` says which.
    """
    for entry in profile.entries:
        if same_prompt(entry.prompt) == same_prompt(prompt):
            return entry, True
    for entry in profile.predicted:
        if same_prompt(entry.prompt) == same_prompt(prompt):
            return entry, False
    found = [[e.steerings[i] for e in profile.entries] for i in range(len(profile.attributes))]
    if profile.method.spend == "draw":
        steerings = tuple(_every_image(a, own, profile.method.unit) for a, own in zip(profile.attributes, found))
        used = "every image is sent to a group drawn from the target"
    else:
        steerings = tuple(map(_mean, found))
        several = f"{len(profile.entries)} calibrated prompts"
        used = f"the average of {several if len(profile.entries) > 1 else 'the one calibrated prompt'} is used"
    return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; {used}",)), False


def differences(profile: Profile, setting: Mapping) -> list[str]:
    """One sentence for each field of the setting that is known on both sides and differs.

    How much a difference matters is measured in docs/robustness.md.
    """
    shared = [key for key in profile.setting if setting.get(key) is not None and profile.setting[key] is not None]
    if "model_hash" in shared and _equal(profile.setting["model_hash"], setting["model_hash"]):
        shared = [key for key in shared if key != "model"]  # a renamed file is the same model
    if "text_encoder" in shared and _family(setting["text_encoder"]) == _family(profile.setting["text_encoder"]) != "":
        shared = [key for key in shared if key != "text_encoder"]  # hosts name one encoder differently
    return [f"{short(key).replace('_', ' ')}: calibrated at {short(profile.setting[key])}, used at "
            f"{short(setting[key])}" for key in shared if not _equal(profile.setting[key], setting[key])]


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
