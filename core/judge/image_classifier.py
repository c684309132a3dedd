"""Any transformers image classifier (ViT, ConvNeXt, Swin ...) whose labels are mapped to the groups of an attribute."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from . import Pictures, pictures
from .known_labels import FACE_MARGIN, known_labels
from .pretrained import load_image_processor, load_model, preprocess


class ImageClassifier:
    """A trained image classifier, used for one attribute.

    source          folder of a model for AutoModelForImageClassification, or its id in the local cache
    groups          {model label: group name}; several labels may map to one group ("0-2" and "3-9" to "young"). None:
                    what `known_labels` makes of the model's labels
    min_mass        the labels mapped must hold this share of the probability, else the image is left out, in [0, 1]
    allow_download  fetch an id that is not in the cache; off, no network is used
    batch_size      images classified at once; lower it where memory is short

    Labels left unmapped are dropped and the others scaled to sum to 1. Raises DebiasError for a label or group that is
    not there, a group without a label, a folder without safetensors weights, and where loading fails.
    """

    margin = FACE_MARGIN

    def __init__(self, source: str | Path, attribute: Attribute, groups: Mapping[str, str] | None = None, *,
                 min_mass: float = 0.5, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
                 allow_download: bool = False, batch_size: int = 64):
        if not 0 <= min_mass <= 1:
            raise DebiasError(f"Expected min_mass, a share of the probability, from 0 to 1, got {min_mass}.")
        if groups is not None:
            _check_map(groups, attribute)
        self.model: Any = load_model("AutoModelForImageClassification", source, device, dtype, allow_download)
        config: Any = self.model.config
        if config.problem_type == "multi_label_classification":
            raise DebiasError(f"{quoted(source)} answers yes or no for each label, so its answers don't add up. "
                              "Use a judge that chooses one label.")
        known = [config.id2label[i] for i in range(config.num_labels)]
        if groups is None:
            groups = known_labels(known, attribute)
            if not set(attribute.names) <= set(groups.values()):
                raise DebiasError(f"The labels of {quoted(source)} are {short(', '.join(known))}, and which of them "
                                  f"belong to the groups of {quoted(attribute.name)}, "
                                  f"{short(', '.join(attribute.names))}, is not known. Map them: "
                                  "{\"label\": \"group\"}.")
        strange = sorted(set(groups) - set(known))
        if strange:
            raise DebiasError(f"{quoted(source)} has no label {quoted(strange[0])}. Its labels: "
                              f"{short(', '.join(known))}.")
        self.processor = load_image_processor(source, allow_download)
        self.attribute, self.min_mass, self.batch_size = attribute, min_mass, batch_size
        self.name = f"judge {Path(source).name}"
        self.to_group = torch.tensor([[float(groups.get(label) == name) for name in attribute.names]
                                      for label in known])

    @torch.inference_mode()
    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities float32 [N, n]; zeros where the mapped labels hold less than `min_mass`."""
        arrays = pictures(images)
        rows = [torch.empty(0, len(self.attribute.groups))]
        for start in range(0, len(arrays), self.batch_size):
            inputs = preprocess(self.processor, arrays[start:start + self.batch_size], self.model)
            rows.append(self.model(**inputs).logits.float().cpu().softmax(-1) @ self.to_group)
        p = torch.cat(rows)
        if not torch.isfinite(p).all():
            raise DebiasError(f"{quoted(self.name)} gave numbers that are not finite in {self.model.dtype}. "
                              f"Load it in float32.")
        mass = p.sum(-1, keepdim=True)
        return torch.where((mass > 0) & (mass >= self.min_mass), p / mass.clamp_min(1e-12), 0.0).numpy()


def _check_map(groups: Mapping[str, str], attribute: Attribute) -> None:
    """Raises DebiasError for what is no map of labels to an attribute's groups, or leaves one of them out."""
    if not isinstance(groups, Mapping) or not groups or not all(
            isinstance(text, str) for pair in groups.items() for text in pair):
        raise DebiasError(f"Expected a map of labels to groups, such as {{\"label\": \"group\"}}, got {short(groups)}.")
    unknown = sorted(set(groups.values()) - set(attribute.names))
    if unknown:
        raise DebiasError(f"Attribute {quoted(attribute.name)} has no group {quoted(unknown[0])}. Its groups: "
                          f"{short(', '.join(attribute.names))}.")
    unmapped = [name for name in attribute.names if name not in groups.values()]
    if unmapped:
        raise DebiasError(f"No label is mapped to group {quoted(unmapped[0])} of {quoted(attribute.name)}, so it "
                          "would never be seen. Map a label to every group.")
