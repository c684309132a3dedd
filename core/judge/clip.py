"""Zero-shot classification with CLIP (Radford et al. 2021) and its relatives, such as SigLIP (Zhai et al. 2023)."""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribute import Attribute
from ..errors import DebiasError, quoted
from . import Pictures, digest, pictures
from .pretrained import load, load_image_processor, load_model, load_tokenizer, preprocess


class ClipModel:
    """A model that embeds images and texts in one space; loaded once, it serves any number of attributes.

    source          folder of a transformers CLIP, SigLIP or similar model, or its id in the local cache
    device, dtype   where and in which precision it runs
    allow_download  fetch an id that is not in the cache; off, no network is used
    batch_size      images embedded at once; lower it where memory is short
    tokenizer       folder of the tokenizer where it is not the source

    `lent(model)` is a context in which a host puts the model on its device while it is used; by default it lies where
    it was loaded. Raises DebiasError for folders without safetensors weights or without a text tower, and where loading
    fails.
    """

    def __init__(self, source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
                 allow_download: bool = False, batch_size: int = 64, tokenizer: str | Path | None = None):
        self.name = Path(source).name
        config = load("AutoConfig", source, allow_download)
        for tower in ("text", "vision"):
            if not hasattr(config, f"{tower}_config"):
                raise DebiasError("Zero-shot classification needs a model with a text and a vision tower, such as "
                                  f"CLIP or SigLIP, but {quoted(source)} ({config.model_type}) has no {tower} tower.")
        self.model: Any = load_model("AutoModel", source, device, dtype, allow_download)
        if not hasattr(self.model, "logit_scale"):
            raise DebiasError(f"Zero-shot classification needs a model that compares images with texts, such as CLIP "
                              f"or SigLIP, but {quoted(source)} holds a {type(self.model).__name__}.")
        self.tokenizer = load_tokenizer(tokenizer or source, allow_download)
        self.processor = load_image_processor(source, allow_download)
        self.begin(batch_size)

    @staticmethod
    def lent(model: Any) -> AbstractContextManager:
        return nullcontext()

    def begin(self, batch_size: int = 64) -> None:
        """The common part of every constructor."""
        self.batch_size = batch_size
        self._last = (b"", torch.empty(0))

    @property
    def scale(self) -> float:
        """The factor on cosines before the softmax: 1 / temperature, as the model learned it."""
        return self.model.logit_scale.float().exp().item()

    def classifier(self, attribute: Attribute) -> ZeroShotClip:
        """A judge of `attribute` that shares this model."""
        return ZeroShotClip(self, attribute)

    def similarity(self, images: Pictures, prompt: str) -> np.ndarray:
        """Cosine between each image and the prompt, float32 [N] in [-1, 1]: how well images match it.

        Compare it only within one model. Words beyond the model's text length (77 tokens in CLIP) are not seen.
        """
        return (self.embed_images(images) @ self.embed_texts([prompt])[0]).numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings of texts, float32 [T, D] on the CPU."""
        with self.lent(self.model):
            return self._unit(self.text_features(texts))

    def text_features(self, texts: Sequence[str]) -> Any:
        """Features of texts as the model gives them."""
        config = self.model.config
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                                max_length=config.text_config.max_position_embeddings)
        if config.model_type.startswith("siglip"):
            tokens.pop("attention_mask", None)  # it was trained on padded texts without a mask
        return self.model.get_text_features(**tokens.to(self.model.device))

    def image_features(self, arrays: Sequence[np.ndarray]) -> Any:
        """Features of images as the model gives them."""
        return self.model.get_image_features(**preprocess(self.processor, arrays, self.model))

    @torch.inference_mode()
    def embed_images(self, images: Pictures) -> Tensor:
        """Unit embeddings of images, float32 [N, D] on the CPU.

        The last batch is remembered by content: several attributes and the fidelity of the same images cost one pass.
        """
        arrays = pictures(images)
        if not arrays:
            return torch.empty(0, self.embed_texts(["a"]).shape[1])
        key = digest(arrays)
        if key != self._last[0]:
            batches = [arrays[i:i + self.batch_size] for i in range(0, len(arrays), self.batch_size)]
            with self.lent(self.model):
                self._last = (key, torch.cat([self._unit(self.image_features(batch)) for batch in batches]))
        return self._last[1]

    def _unit(self, output: Any) -> Tensor:
        # transformers 5 wraps the features that earlier versions return as a tensor.
        features = (output if isinstance(output, Tensor) else output.pooler_output).float().cpu()
        if not torch.isfinite(features).all():
            raise DebiasError(f"{quoted(self.name)} gave embeddings that are not finite in {self.model.dtype}. "
                              f"Load it in float32.")
        return torch.nn.functional.normalize(features, dim=-1)


class ZeroShotClip:
    """Compares images with the `classifier_texts` of each group.

    The unit embeddings of a group's texts are averaged and made unit again (Radford et al. 2021, section 3.1.4), and
    softmax(scale * cosine), with the model's own scale, runs over the groups.
    """

    def __init__(self, model: ClipModel, attribute: Attribute):
        self.model, self.attribute = model, attribute
        self.name, self.scale = f"CLIP {model.name}", model.scale
        self.groups = torch.stack([torch.nn.functional.normalize(model.embed_texts(group.classifier_texts).mean(0),
                                                                 dim=0) for group in attribute.groups])
        if torch.nn.functional.pdist(self.groups).min() < 1e-5:
            raise DebiasError(f"{quoted(model.name)} cannot tell two groups of {quoted(attribute.name)} apart by "
                              "their texts. Give them different judge texts, short enough for the model, and "
                              "check its tokenizer.")

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities float32 [N, n]; no image is left out."""
        return (self.scale * self.model.embed_images(images) @ self.groups.T).softmax(-1).numpy()
