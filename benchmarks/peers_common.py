"""What peers of `peers.py` share: each image's group, what they may learn from, images of texts of their own."""
from __future__ import annotations

from typing import Callable, Sequence

import harness
import numpy as np
import torch

from demo_training import captions
from sd_debias.core.attribute import Attribute
from sd_debias.core.method.draw import Steering
from sd_debias.demo_model.subjects import OCCUPATIONS as DRAWN
from sd_debias.demo_model.subjects import article
from sd_debias.diffusers_host.encode import encode

OCCUPATIONS = ("doctor", "teacher", "mechanic", "farmer")  # that peers are tested on
OTHERS = tuple(name for name in DRAWN if name not in OCCUPATIONS)  # that they may learn from
FRAMES = tuple(dict.fromkeys(captions.FRAMES))  # "a photo of {}" and three others
BATCH = 50


def drawn(attribute: Attribute, seeds: Sequence[int]) -> np.ndarray:
    """A group for each seed by the target's shares: the same for every method that sends each image to one."""
    return np.array(Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target)).draws(seeds)) - 1


def text(frame: str, occupation: str, *groups: str) -> str:
    """An occupation in a frame with groups' texts behind it: "a portrait of a cook, a man"."""
    return ", ".join([frame.format(article(occupation)), *groups])


def pictures(seeds: Sequence[int], call: Callable[[np.ndarray], dict]) -> np.ndarray:
    """An image for each seed at the bench's setting; `call` gives the pipeline's texts for seeds at some places."""
    pipe, s, made = harness.bench.pipe, harness.bench.setting, []
    for first in range(0, len(seeds), BATCH):
        part = np.arange(first, min(first + BATCH, len(seeds)))
        made.append(pipe(**call(part), num_inference_steps=s["steps"], guidance_scale=s["cfg"], output_type="np",
                         generator=[torch.Generator("cpu").manual_seed(int(seeds[i])) for i in part]).images)
    return (np.concatenate(made) * 255).round().astype(np.uint8)


def embedded(texts: Sequence[str]) -> tuple[torch.Tensor, np.ndarray]:
    """Texts' embeddings [T, L, D], and the place of each text's end."""
    pipe = harness.bench.pipe
    return (encode(pipe, list(texts))["prompt_embeds"],
            np.array([len(ids) - 1 for ids in pipe.tokenizer(list(texts)).input_ids]))
