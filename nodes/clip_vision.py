"""Zero-shot classification with the CLIP-vision models that ComfyUI has, and the text tower that belongs to them."""
from __future__ import annotations

from typing import Any, Sequence

import folder_paths
import numpy as np
import torch
from torch import Tensor

from ..core.errors import DebiasError, quoted
from ..core.judge.clip import ClipModel

VISION, TEXT = "clip_vision", "text_encoders"
WITH = " with "
LOGIT_SCALE = 100.0  # of CLIP's models, for files that leave it out
SUFFIX = ".safetensors"


def pairs() -> list[str]:
    """What can be chosen: a vision file with its own text tower, alone, or any one with each CLIP text encoder."""
    texts = [name for name in _names(TEXT) if "clip" in name.lower()]
    return [f"{vision}{WITH}{text}" for vision in _names(VISION) for text in (vision, *texts)]


def _names(kind: str) -> list[str]:
    known = folder_paths.folder_names_and_paths
    return [name for name in folder_paths.get_filename_list(kind) if name.endswith(SUFFIX)] if kind in known else []


class VisionClip(ClipModel):
    """A file of models/clip_vision, and the text tower in the same file or in one of models/text_encoders, loaded and
    managed by ComfyUI. Raises DebiasError where the two do not belong together."""

    def __init__(self, chosen: str):
        import comfy.clip_vision
        import comfy.sd
        import comfy.utils
        vision, _, text = chosen.partition(WITH)
        one = comfy.utils.load_torch_file(_path(VISION, vision), safe_load=True)
        other = one if text == vision else comfy.utils.load_torch_file(_path(TEXT, text), safe_load=True)
        if not any(key.endswith("text_projection.weight") or key == "text_projection" for key in other):
            raise DebiasError(
                f"Expected a text tower with its projection in {quoted(text)}, got none, so images cannot be "
                f"compared with texts. Put the whole CLIP model that {quoted(vision)} comes from (for ViT-L/14: "
                f"model{SUFFIX} of openai/clip-vit-large-patch14) into models/clip_vision, press R, and choose the "
                "entry that names it alone.")
        if "visual_projection.weight" not in one:
            raise DebiasError(f"{quoted(vision)} has no projection into the space of texts, so its images cannot be "
                              f"compared with texts. Put a whole CLIP model, e.g. model{SUFFIX} of "
                              "openai/clip-vit-large-patch14, into models/clip_vision, and press R.")
        self.vision = comfy.clip_vision.load_clipvision_from_sd(dict(one))
        self.text = comfy.sd.load_text_encoder_state_dicts(
            [{key: value for key, value in other.items() if key.startswith("text_")}],
            clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)
        encoder = self.text.cond_stage_model
        tower = getattr(encoder, getattr(encoder, "clip", ""), encoder)
        if hasattr(tower, "options_default"):  # Stable Diffusion 1 wants what stands before the projection
            *before, _ = tower.options_default
            tower.options_default = (*before, True)
        widths = one["visual_projection.weight"].shape[0], self.text_features(["a"]).shape[-1]
        if widths[0] != widths[1]:
            raise DebiasError(f"{quoted(vision)} and {quoted(text)} are of different CLIP models: their embeddings are "
                              f"{widths[0]} and {widths[1]} wide. Choose the text encoder of the same model.")
        self.model, self.name = None, vision if text == vision else chosen
        learned = one.get("logit_scale", other.get("logit_scale"))
        self._scale = LOGIT_SCALE if learned is None else float(learned.float().exp())
        self.begin()

    @property
    def scale(self) -> float:
        return self._scale

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self.text.encode_from_tokens(self.text.tokenize(text), return_pooled=True)[1]
                          for text in texts])

    def image_features(self, arrays: Sequence[np.ndarray]) -> Any:
        return torch.cat([self.vision.encode_image(torch.from_numpy(array.copy())[None].float() / 255)["image_embeds"]
                          for array in arrays])


def _path(kind: str, name: str) -> str:
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        raise DebiasError(f"There is no {quoted(name)} in models/{kind}. Press R, and choose another.")
    return str(path)
