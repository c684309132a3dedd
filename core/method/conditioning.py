"""Conditioning: a text's parts, encoded by a host, shifted by weights."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from torch import Tensor

from ..attribute import Attribute
from .direction import shift_prompt


@dataclass(frozen=True)
class Encoded:
    """What a direction needs of the text encoders, each by part (`prompt_embeds`, `pooled_prompt_embeds`).

    prompt, empty  the prompt's embeddings and the unconditional ones, [1, ...], in the model's dtype
    groups         each g_i, the mean over the group's texts, all attributes side by side: float32 [n, 1, ...]
    """
    prompt: dict[str, Tensor]
    empty: dict[str, Tensor]
    groups: dict[str, Tensor]


def shifted(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> dict[str, Tensor]:
    """The `prompt` direction for every part, [B, ...]: the shifts of all attributes, each from its own anchor."""
    sizes = [len(attribute.groups) for attribute in attributes]
    result = {}
    for name, c in encoded.prompt.items():
        total = c.float()
        for attribute, g, a in zip(attributes, encoded.groups[name].split(sizes), weights.split(sizes, dim=1)):
            texts = [text for group in attribute.groups for text in group.texts]
            in_context = "{prompt}" in context or all("{prompt}" in text for text in texts)
            total = shift_prompt(total, g, a, c if in_context else g.mean(0))
        result[name] = total.to(c.dtype)
    return result
