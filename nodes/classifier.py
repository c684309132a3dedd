"""Debias Classifier nodes: what tells which group a picture shows.

CLIP and trained classifiers are transformers folders in models/classifiers, safetensors only. They are managed by
ComfyUI like any model: loaded to the device when needed, evicted when memory is short.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Sequence

import comfy.model_management as management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io

from ..core.attribute import Attribute
from ..core.judge import Classifier
from ..core.judge.check import Check
from ..core.judge.clip import ClipModel
from ..core.judge.faces import Faces
from ..core.judge.image_classifier import ImageClassifier
from ..core.judge.named import at_faces
from ..core.judge.panel import Panel
from ..core.judge.pretrained import Managed
from ..core.judge.questions import AskingModel
from ..core.judge.skin_tone import FACES, SkinTone
from ..core.looks import AUTO, DETECTOR, LARGEST, LOOK, PICTURE
from ..core.errors import DebiasError, quoted
from ..core.files import below
from .clip_vision import WITH, VisionClip, pairs
from .types import CATEGORY, Classifiers

FOLDER = "classifiers"
DEMO = "demo (comes with sd-debias)"
PHOTOGRAPHS, DRAWINGS = "photographs", "drawings of the demo model"


@dataclass(frozen=True)
class Judge:
    """A classifier as nodes hand it on.

    of        f(attribute) -> core classifier. Raises DebiasError for an attribute that it cannot judge
    fidelity  f(images, prompt) -> [N], how well pictures show their prompt; None: not measured
    checks    what Debias Check Classifier found of it
    """
    of: Callable[[Attribute], Classifier]
    fidelity: Callable | None = None
    checks: tuple[Check, ...] = ()


def checks_of(judge: Judge, attributes: Sequence[Attribute]) -> list[Check | None]:
    """The last check of each attribute, None where there is none. Another pack's judge may know of no checks."""
    found = {check.attribute: check for check in getattr(judge, "checks", ())}
    return [found.get(attribute.name) for attribute in attributes] if found else []


def managed(model: torch.nn.Module) -> Callable[[], None]:
    """Puts a model under ComfyUI's memory management; returns what brings it to the device before it is used."""
    patcher = comfy.model_patcher.ModelPatcher(Managed(model), load_device=management.get_torch_device(),
                                               offload_device=management.text_encoder_offload_device())
    return lambda: management.load_models_gpu([patcher], force_full_load=True)


def after(load: Callable[[], None], classify: Classifier) -> Classifier:
    """The classifier with its model brought to the device before each use."""
    def loaded(images):
        load()
        return classify(images)

    loaded.name = getattr(classify, "name", type(classify).__name__)
    if hasattr(classify, "margin"):
        loaded.margin = classify.margin
    return loaded


def clip_judge(folder: str) -> Judge:
    """CLIP in a folder, or the demo's. Raises DebiasError where it is no CLIP."""
    if folder == DEMO:
        from ..demo_model.model import clip as demo_clip
        from ..demo_model.model import occupation_right
        clip = demo_clip()
        fidelity = occupation_right(clip)
    elif WITH in folder:
        clip = VisionClip(folder)  # ComfyUI brings it to its device by itself
        return Judge(clip.classifier, clip.similarity)
    else:
        clip = ClipModel(_path(folder))
        fidelity = clip.similarity
    load = managed(clip.model)

    def of(attribute):
        load()
        return after(load, clip.classifier(attribute))

    def faithful(images, prompt):
        load()
        return fidelity(images, prompt)

    return Judge(of, faithful)


def with_attribute(others: Judge | None, matches: Callable[[Attribute], bool], of: Callable[[Attribute], Classifier],
                   what: str) -> Judge:
    """A judge of the attributes that match; the others' judge has the rest, and the fidelity."""
    def choose(attribute):
        if matches(attribute):
            return of(attribute)
        if others is None:
            raise DebiasError(f"{what} cannot judge {quoted(attribute.name)}. Wire a classifier for it, e.g. CLIP, "
                              "into 'others'.")
        return others.of(attribute)

    return Judge(choose) if others is None else replace(others, of=choose)


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


class DebiasClipClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasClipClassifier", display_name="Debias Classifier (CLIP)", category=CATEGORY,
            description="CLIP or SigLIP, zero-shot: compares pictures with each group's description. It judges every "
                        "attribute, and measures how well pictures match their prompt.",
            inputs=[io.Combo.Input("model", options=[DEMO, *folders(), *pairs()], default=DEMO, tooltip=(
                "A transformers folder in models/classifiers with a text and a vision tower, or a file in "
                "models/clip_vision with its text tower; safetensors only. To get one, put model.safetensors of "
                "openai/clip-vit-large-patch14 into models/clip_vision; it holds both towers, so choose the entry "
                "that names it alone. The demo's classifier knows only the demo's drawings."))],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, model):
        return io.NodeOutput(clip_judge(model))


class DebiasSkinToneClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasSkinToneClassifier", display_name="Debias Classifier (skin tone)", category=CATEGORY,
            description="Skin tone by colour (individual typology angle), without a neural network. It measures the "
                        "light as well as the skin, so its shares are rough on photographs.",
            inputs=[
                io.Combo.Input("faces", options=list(FACES), default="auto", tooltip=(
                    "auto: the largest face if a detector finds one, else the whole picture. only: pictures without a "
                    "face are left out. off: always the whole picture.")),
                io.Combo.Input("cutoffs", options=[PHOTOGRAPHS, DRAWINGS], default=PHOTOGRAPHS, tooltip=(
                    "The angles that separate the tones. The demo's drawings use a palette of their own, so they have "
                    "their own angles for five tones.")),
                Classifiers.Input("others", optional=True, tooltip=(
                    "Classifier for all attributes whose name does not begin with skin_tone."))],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, faces="auto", cutoffs=PHOTOGRAPHS, others=None):
        from ..demo_model.subjects import ITA_CUTOFFS
        angles = ITA_CUTOFFS if cutoffs == DRAWINGS else None
        return io.NodeOutput(with_attribute(others, lambda a: a.name.startswith("skin_tone"),
                                            lambda a: SkinTone(a, faces=faces, cutoffs=angles), "Skin tone by colour"))


class DebiasImageClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasImageClassifier", display_name="Debias Classifier (trained)", category=CATEGORY,
            description="Any image classifier of transformers. Its labels are mapped to the groups of one attribute.",
            inputs=[
                io.Combo.Input("model", options=folders(), tooltip=(
                    "A transformers folder in models/classifiers, safetensors only.")),
                io.String.Input("attribute", default="age", tooltip="Name of the attribute that it judges."),
                io.String.Input("labels", multiline=True, default="", placeholder="0-2 = young\nmore than 70 = old",
                                tooltip="The model's labels, one per line: label = group. Labels that you leave out "
                                        "are not counted. Empty: the known labels, such as Male and 20-29."),
                Classifiers.Input("others", optional=True, tooltip="Classifier for all other attributes.")],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, model, attribute, labels="", others=None):
        folder, groups = _path(model), mapping(labels)

        def of(found):
            classify = ImageClassifier(folder, found, groups or None)
            return after(managed(classify.model), classify)

        return io.NodeOutput(with_attribute(others, lambda a: a.name == attribute.strip(), of, f"'{model}'"))


class DebiasAskClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasAskClassifier", display_name="Debias Classifier (questions)", category=CATEGORY,
            description="A model that answers questions about pictures, such as BLIP-VQA or SmolVLM. For each group "
                        "it is asked whether the picture shows it. If no answer is yes, the picture is left out.",
            inputs=[io.Combo.Input("model", options=folders(), tooltip=(
                "A transformers folder in models/classifiers, safetensors only."))],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, model):
        asking = AskingModel(_path(model))
        load = managed(asking.model)

        def faithful(images, prompt):
            load()
            return asking.similarity(images, prompt)

        return io.NodeOutput(Judge(lambda attribute: after(load, asking.classifier(attribute)), faithful))


class DebiasLookAtFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasLookAtFaces", display_name="Debias Look At Faces", category=CATEGORY,
            description="Lets a classifier look at faces instead of whole pictures, and counts the pictures without a "
                        "face and those with several people.",
            inputs=[
                Classifiers.Input("classifier", tooltip="The classifier that will look at faces."),
                io.Combo.Input("look", options=list(LOOK.values), default=LARGEST, tooltip=LOOK.help),
                io.Combo.Input("detector", options=list(DETECTOR.values), default=AUTO, tooltip=DETECTOR.help)],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, classifier, look=LARGEST, detector=AUTO):
        if look == PICTURE:
            return io.NodeOutput(classifier)
        faces = Faces(detector)
        return io.NodeOutput(replace(
            classifier, of=lambda a: at_faces(classifier.of(a), faces, look), checks=()))  # those are of another judge


class DebiasPanel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasPanel", display_name="Debias Panel", category=CATEGORY,
            description="Combines two classifiers: a picture counts only if both agree. The others are left out, and "
                        "their number is shown.",
            inputs=[Classifiers.Input("classifier", tooltip="The first classifier. It also measures fidelity to the "
                                                            "prompt."),
                    Classifiers.Input("second", tooltip="The second classifier, preferably of another kind.")],
            outputs=[Classifiers.Output(display_name="classifier", tooltip="For Debias Audit and Debias Calibrate.")])

    @classmethod
    def execute(cls, classifier, second):
        return io.NodeOutput(replace(
            classifier, of=lambda a: Panel([classifier.of(a), second.of(a)]), checks=()))


def mapping(text: str) -> dict[str, str]:
    """{label: group} of lines "label = group". Raises DebiasError."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        label, equals, group = line.rpartition("=")
        if not equals or not label.strip() or not group.strip():
            raise DebiasError(f"Expected one label per line, as 'label = group', got {quoted(line)}.")
        found[label.strip()] = group.strip()
    return found
