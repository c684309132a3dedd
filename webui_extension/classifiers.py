"""Classifiers as a user names them: one line each, a CLIP folder for all attributes, or ATTRIBUTE=... for one."""
from __future__ import annotations

from typing import Callable, Sequence

from ..core.attribute import Attribute, parse

DEMO = "demo"


def attributes_of(built_in: Sequence[str] | str | None, own: str | None) -> list[Attribute]:
    """Attributes chosen by name, then own ones, one a line ("young | old = 1:1"). Raises ValueError."""
    chosen = [built_in] if isinstance(built_in, str) else list(built_in or ())
    lines = [*chosen, *(line.strip() for line in (own or "").splitlines() if line.strip())]
    attributes = [parse(line) for line in lines]
    if not attributes:
        raise ValueError("Nothing to measure: choose an attribute, or write own groups, e.g. 'young | old = 1:1'.")
    names = [attribute.name for attribute in attributes]
    if len(set(names)) < len(names):
        raise ValueError(f"An attribute came twice: {', '.join(names)}. Name own ones, e.g. 'years: young | old'.")
    return attributes


def default() -> str:
    """What the settings page says."""
    from modules import shared
    return str(getattr(shared.opts, "sd_debias_classifier", "") or "")


def load(text: str | None, attributes: Sequence[Attribute]) -> tuple[list[Callable], Callable | None]:
    """(a classifier an attribute, fidelity f(images, prompt) -> [N] or None).

    Lines: a folder of a CLIP or SigLIP model, or 'demo', the embedded model's own; 'skin_tone=ita', which measures
    colour; 'ATTRIBUTE=FOLDER', a CLIP model for one attribute. Raises ValueError where one is missing.
    """
    from modules import devices, shared

    from ..core.classify.clip import ClipModel
    lines = [line.strip() for line in (text or default()).splitlines() if line.strip()]
    known, single, clip, fidelity = {attribute.name: attribute for attribute in attributes}, {}, None, None
    download = bool(getattr(shared.opts, "sd_debias_download", False))
    for line in lines:
        name, equals, source = (part.strip() for part in line.partition("="))
        if equals and name in known:
            single[name] = _single(known[name], source, devices.cpu if source == "ita" else devices.device, download)
        elif line == DEMO:
            from ..core.demo import model
            clip = model.clip(devices.device)
            fidelity = model.occupation_right(clip)
        else:
            clip = ClipModel(line, device=devices.device, allow_download=download)
            fidelity = clip.similarity
    missing = [name for name in known if name not in single]
    if missing and clip is None:
        raise ValueError(f"Nothing tells groups of {', '.join(missing)} apart. Put the folder of a CLIP model, e.g. a "
                         f"copy of openai/clip-vit-large-patch14 with safetensors weights, into 'Classifier'.")
    return [single.get(name) or clip.classifier(attribute) for name, attribute in known.items()], fidelity


def names(classifiers: Sequence[Callable]) -> str:
    """What profiles say of them."""
    return ", ".join(getattr(one, "name", type(one).__name__) for one in classifiers)


def _single(attribute: Attribute, source: str, device, download: bool) -> Callable:
    if source == "ita":
        from ..core.classify.skin_tone import SkinTone
        return SkinTone(attribute)
    from ..core.classify.clip import ClipModel
    return ClipModel(source, device=device, allow_download=download).classifier(attribute)
