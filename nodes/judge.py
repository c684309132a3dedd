"""Debias Judge: decides which group each image shows.

Its models are transformers folders in models/classifiers, safetensors only, or CLIP vision models of ComfyUI. They are
managed by ComfyUI like any model: loaded to the device when needed, evicted when memory is short.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import comfy.model_management as management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io

from ..core.attribute import Attribute
from ..core.judge import Classifier, name_of
from ..core.judge.check import Check, of_each
from ..core.judge.faces import Faces
from ..core.judge.named import COLOUR, PHOTO, Judges, Trained, open_model
from ..core.judge.pretrained import Managed
from ..core.looks import AUTO, DETECTOR, LOOK, PICTURE
from ..core.errors import DebiasError, quoted
from ..core.files import below
from .clip_vision import WITH, VisionClip, pairs
from .types import JUDGES, JudgeType

FOLDER = "classifiers"
CHOOSE = "choose a judge"
DEMO = "demo (for the demo model alone)"
TONE = "skin tone by colour"


@dataclass(frozen=True)
class Judge:
    """A judge as nodes hand it on.

    of        f(attribute) -> core judge. Raises DebiasError for an attribute that it cannot judge
    fidelity  f(images, prompt) -> [N], how well images show their prompt; None: not measured
    checks    what Debias Check Judge found of it
    """
    of: Callable[[Attribute], Classifier]
    fidelity: Callable | None = None
    checks: tuple[Check, ...] = ()


def checks_of(judge: Judge, attributes: Sequence[Attribute]) -> list[Check | None]:
    """As `of_each`. Another pack's judge may know of no checks."""
    return of_each(getattr(judge, "checks", ()), attributes)


def managed(model: torch.nn.Module) -> Callable[[], None]:
    """Puts a model under ComfyUI's memory management; returns what brings it to the device before it is used."""
    patcher = comfy.model_patcher.ModelPatcher(Managed(model), load_device=management.get_torch_device(),
                                               offload_device=management.text_encoder_offload_device())
    return lambda: management.load_models_gpu([patcher], force_full_load=True)


def after(load: Callable[[], None], classify: Classifier) -> Classifier:
    """The judge with its model brought to the device before each use."""
    def loaded(images: Any) -> Any:
        load()
        return classify(images)

    vars(loaded).update(name=name_of(classify), **{
        own: getattr(classify, own) for own in ("margin",) if hasattr(classify, own)})
    return loaded


class Loaded:
    """A model that judges, brought to its device before each use."""

    def __init__(self, model, fidelity: Callable | None = None):
        self.model, self.load = model, managed(model.model)
        self._fidelity = fidelity or model.similarity

    def classifier(self, attribute: Attribute) -> Classifier:
        self.load()
        return after(self.load, self.model.classifier(attribute))

    def similarity(self, images, prompt):
        self.load()
        return self._fidelity(images, prompt)


class ManagedTrained(Trained):
    def classifier(self, attribute, labels=None):
        classify = super().classifier(attribute, labels)
        return after(managed(classify.model), classify)


def opened(source: str):
    """The model of a name in the list. Raises DebiasError where it cannot be loaded."""
    if source == DEMO:
        from ..demo_model.model import clip, occupation_right
        model = clip()
        return Loaded(model, occupation_right(model))
    if WITH in source:
        return VisionClip(source)  # ComfyUI brings it to its device by itself
    model = open_model(_path(source))
    return ManagedTrained(model.source) if isinstance(model, Trained) else Loaded(model)


def judge_of(judge: str, look: str = PICTURE, detector: str = AUTO, lines: str = "", labels: str = "") -> Judge:
    """The judge that the node's inputs describe. Raises DebiasError."""
    groups, single = mapping(labels), [line.strip() for line in lines.splitlines() if line.strip()]
    general = {TONE: COLOUR, CHOOSE: ""}.get(judge, judge)
    if not general and not single:
        raise DebiasError("No judge is chosen. Choose one in Debias Judge: a CLIP model from models/clip_vision or "
                          "models/classifiers judges every attribute.")
    sources: dict[str, list[str]] = {}
    for line in single:
        name, equals, source = (part.strip() for part in line.partition("="))
        if not equals or not name or not source:
            raise DebiasError(f"Expected one more judge per line, as 'age=FOLDER', got {quoted(line)}.")
        sources.setdefault(name, []).append(source)
    from ..demo_model.model import tones
    models: dict[str, object] = {}
    faces = Faces(detector) if look != PICTURE else AUTO

    def once(source: str):
        if source not in models:
            models[source] = opened(source)
        return models[source]

    def of(attribute: Attribute) -> Classifier:
        fits = bool(groups) and set(groups.values()) <= set(attribute.names)
        own = sources.get(attribute.name) or ([general] if general and (fits or general == COLOUR) else [])
        named = [f"{attribute.name}={source}" for source in own] or [general] * bool(general)
        maps = {attribute.name: groups} if fits and own else {}
        return Judges(named, [attribute], once, tones if general == DEMO else None, maps, look, faces).of(attribute)

    if general and general not in (COLOUR, PHOTO):
        once(general)  # what is wrong with it is said now
    fidelity = getattr(models.get(general), "similarity", None)
    return Judge(of, fidelity)


def folders() -> list[str]:
    """Model folders in models/classifiers: those with a config.json."""
    found = {path.parent.relative_to(root).as_posix() for root in folder_paths.get_folder_paths(FOLDER)
             for path in Path(root).glob("**/config.json") if path.parent != Path(root)}
    return sorted(found)


def _path(folder: str) -> Path:
    for root in folder_paths.get_folder_paths(FOLDER):
        path = below(root, folder)
        if path is not None and os.path.isfile(path / "config.json"):
            return path
    raise DebiasError(f"There is no model folder {quoted(folder)} in models/classifiers. Put a transformers folder "
                      "there (config.json, *.safetensors, preprocessor and tokenizer files) and press R.")


class DebiasJudge(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasJudge", display_name="Debias Judge", category=JUDGES,
            description="Decides which group each image shows: CLIP or SigLIP (every attribute), a trained image "
                        "judge, a model that answers questions, or skin tone by colour.",
            inputs=[
                io.Combo.Input("judge", options=[CHOOSE, *pairs(), *folders(), TONE, DEMO], default=CHOOSE, tooltip=(
                    "A file in models/clip_vision with its text tower, or a transformers folder in models/classifiers; "
                    "safetensors only. To get one, put model.safetensors of openai/clip-vit-large-patch14 into "
                    "models/clip_vision; it holds both towers, so choose the entry that names it alone.")),
                io.Combo.Input("look", options=list(LOOK.values), default=PICTURE, tooltip=LOOK.help),
                io.Combo.Input("detector", options=list(DETECTOR.values), default=AUTO, tooltip=DETECTOR.help),
                io.String.Input("further", multiline=True, default="", placeholder="age=FOLDER\nskin_tone_5=ita",
                                tooltip=(
                    "Judges of single attributes, one per line: attribute=FOLDER, attribute=ita (skin tone by colour) "
                    "or attribute=photo. Two lines of one attribute are a panel: an image counts only where both "
                    "agree.")),
                io.String.Input("labels", multiline=True, default="", placeholder="0-2 = young\nmore than 70 = old",
                                tooltip="For a trained image classifier with unknown labels, one per line: label = "
                                        "group. Labels that you leave out are not counted.")],
            outputs=[JudgeType.Output(display_name="judge", tooltip="For Debias Audit, Check and Calibrate.")])

    @classmethod
    def execute(cls, judge, look=PICTURE, detector=AUTO, further="", labels=""):
        return io.NodeOutput(judge_of(judge, look, detector, further, labels))


def mapping(text: str) -> dict[str, str]:
    """{label: group} of lines "label = group". Raises DebiasError."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        label, equals, group = line.rpartition("=")
        if not equals or not label.strip() or not group.strip():
            raise DebiasError(f"Expected one label per line, as 'label = group', got {quoted(line)}.")
        found[label.strip()] = group.strip()
    return found
