"""Judges as a user names them: one line each, a CLIP model for all attributes, or ATTRIBUTE=... for one."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

from ..core.attribute import Attribute, parse, together
from ..core.errors import DebiasError, quoted, said_as, short
from ..core.files import below, fingerprint
from ..core.profile.balance import listed
from ..core.looks import AUTO, DETECTOR, LOOK, PICTURE
from .profiles import place as placed_as
from .profiles import wildcards

DEMO, HOST = "demo", "host"
FOLDER = "classifiers"  # in models/


def attributes_of(built_in: Sequence[str] | str | None, own: str | None, target: str | None = "") -> list[Attribute]:
    """Attributes chosen by name, then own ones, one a line ("young | old = 1:1"); an own one takes the place of a
    chosen one of its name. `target` is that of a single attribute, "woman 65, man 35", or of each one named, one a
    line: "gender: woman 65, man 35". Raises DebiasError.
    """
    chosen = [built_in] if isinstance(built_in, str) else list(built_in or ())
    own_ones = listed(own or "", wildcards())
    names = {attribute.name for attribute in own_ones}
    attributes = [*(a for a in map(parse, chosen) if a.name not in names), *own_ones]
    if not attributes:
        raise DebiasError("Nothing to measure: choose an attribute, or write own groups, e.g. 'young | old = 1:1'.")
    return [_aimed(attribute, str(target or ""), [a.name for a in attributes]) for attribute in together(attributes)]


def _aimed(attribute: Attribute, target: str, names: Sequence[str]) -> Attribute:
    """The attribute with its part of a text box of targets. Raises DebiasError for a line that is no attribute's."""
    lines = [line.strip() for line in re.split(r"[\n;]", target) if line.strip()]
    if len(names) == 1 and not any(line.startswith(f"{names[0]}:") for line in lines):
        return attribute.with_target(", ".join(lines)) if lines else attribute
    for line in lines:
        name = next((name for name in names if line.startswith(f"{name}:")), None)
        if name is None:
            raise DebiasError("Expected each target to begin with its attribute, since there are several, e.g. "
                              f"'{names[0]}: {attribute.names[-1]} 65', got {quoted(line)}.")
        if name == attribute.name:
            attribute = attribute.with_target(line[len(name) + 1:])
    return attribute


def default() -> str:
    """What the settings page says."""
    from modules import shared
    return str(getattr(shared.opts, "sd_debias_classifier", "") or "")


@dataclass(frozen=True)
class Named:
    """A judge as the page names it: the judge's lines, what it looks at, and what finds faces."""
    text: str | None = None
    look: str = PICTURE
    detector: str = AUTO

    @classmethod
    def of(cls, given: Named | str | None) -> Named:
        return given if isinstance(given, Named) else cls(given)

    def checked(self) -> Named:
        """Raises DebiasError for a look or a detector that is none of the choices: over the API no files are named."""
        for value, choice in ((self.look, LOOK), (self.detector, DETECTOR)):
            if value not in choice.values:
                raise DebiasError(f"Expected {choice.label} to be one of {', '.join(choice.values)}, got "
                                  f"{quoted(value)}.")
        return self


def load(named: Named | str | None, attributes: Sequence[Attribute], by_name: bool = False, models: dict | None = None
         ) -> tuple[list[Callable], Callable | None]:
    """(a judge an attribute, fidelity f(images, prompt) -> [N] or None).

    Lines, or parts with semicolons between, as core/judge/named.py reads them: a model is named by its folder in
    models/classifiers, by its id in the hub's cache or by a path; 'host' is the interrogator's CLIP, 'demo' the
    embedded model's own. `by_name` allows nothing but names of that folder, and what the settings page says: requests
    over the API must not probe other folders. `models` keeps what was loaded, by its name, for the next attributes.
    Raises DebiasError where one is missing.
    """
    from modules import devices, shared

    from ..core.judge.named import CLIP, Judges, kind_of, open_model
    from .host_clip import InterrogatorClip, PageClip
    named, own = Named.of(named).checked(), default()
    download = bool(getattr(shared.opts, "sd_debias_download", False))
    models = {} if models is None else models

    def opened(source: str) -> Any:
        if source not in models:
            models[source] = loaded(source)
        return models[source]

    def loaded(source: str) -> Any:
        if source == DEMO:
            from ..demo_model import model as demo
            return demo.clip(devices.device)
        if source == HOST:
            return InterrogatorClip(download)
        place = found(source, not by_name or source in sources(own))
        name = "the settings page's judge" if by_name and place == source else source
        with said_as(Path(place), lambda own: name if str(own) == place else placed_as(own)):
            if kind_of(place, download) == CLIP:
                return PageClip(place, allow_download=download)
            return open_model(place, device=devices.device, allow_download=download)

    judges = Judges(lines_of(named.text or own), attributes, opened, look=named.look, detect=named.detector)
    missing = [a.name for a in attributes if a.name not in judges.single]
    if missing and judges.general is None:
        raise DebiasError(f"Expected a judge for {short(', '.join(missing))}, got none. Put a CLIP model, e.g. a "
                          "copy of openai/clip-vit-large-patch14 with safetensors weights, into models/classifiers, "
                          "and choose it under 'Judge'; the button below it downloads one. The demo model has a "
                          "judge of its own, 'demo'.")
    classifiers = [judges.of(attribute) for attribute in attributes]
    if judges.general == DEMO:
        from ..demo_model import model as demo
        return classifiers, demo.occupation_right(opened(DEMO))
    return classifiers, judges.fidelity


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"[\n;]", text) if line.strip()]


def choices() -> list[str]:
    """What the dropdown offers: the settings page's, folders of models/classifiers, the host's own CLIP where its file
    is there, models of the hub's cache, the demo model's."""
    from . import host_clip
    folders = sorted(path.parent.relative_to(folder()).as_posix() for path in folder().glob("**/config.json")
                     if path.parent != folder() and not path.parent.name.startswith(".")) if folder().is_dir() else []
    host = [HOST] if host_clip.file().is_file() else []
    return list(dict.fromkeys([default(), *folders, *host, *host_clip.cached(), DEMO]))


def sources(text: str) -> list[str]:
    """What lines may name: each as it stands, and what follows its "ATTRIBUTE="."""
    return [part.strip() for line in lines_of(text) for part in (line, line.partition("=")[2]) if part.strip()]


def folder() -> Path:
    """Where judges are found by name."""
    from modules import paths
    return Path(paths.models_path) / FOLDER


def found(source: str, trusted: bool = True) -> str:
    """A model's folder: one in models/classifiers, else, if trusted, what the text itself says. Raises DebiasError."""
    own = below(folder(), source)
    if own is not None and own != folder().resolve() and os.path.isdir(own):
        return str(own)
    if trusted:
        return source
    raise DebiasError(f"There is no judge {quoted(source)} in models/{FOLDER}. Over the API, name a folder "
                      "there, or 'demo', or leave the judge out to use that of the settings page.")


def fingerprints(text: str | None, by_name: bool = False) -> list:
    """Fingerprints of the models that are named; with `by_name`, as in `load`, of no others."""
    models = [source for source in sources(text or default()) if source not in (DEMO, HOST, "ita", "photo")]
    own = sources(default())

    def told(source: str) -> Any:
        try:
            return fingerprint(found(source, not by_name or source in own))
        except DebiasError:
            return None  # `load` refuses it

    return [(source, told(source)) for source in models]
