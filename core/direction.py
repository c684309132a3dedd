"""Directions: group conditionings mixed with weights (He et al. 2024, u = sum a_i g_i; anchoring it is ours).

c is the prompt's conditioning, e the unconditional one (the empty or negative prompt), g_i group i's, a_i its weight:
positive pushes away from the group, negative toward it. The same functions mix text embeddings [B, L, D], pooled
embeddings [B, D] and noise predictions [B, C, ...]. Sums run in float32 and come back in the anchor's dtype.
"""
from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

DIRECTIONS = ("prompt", "embedding", "prediction")
IN_CONTEXT = "{prompt}, {group}"
ALONE = "{group}"


def group_texts(texts: Sequence[str], prompt: str, context: str = IN_CONTEXT) -> list[str]:
    """A group's description texts for one prompt.

    `context` places a text that does not itself hold `{prompt}`: `IN_CONTEXT` ("a photo of a doctor, a woman") or
    `ALONE` ("a woman").
    """
    placed = (text if "{prompt}" in text else context.replace("{group}", text) for text in texts)
    return [text.replace("{prompt}", prompt) for text in placed]


def weighted_sum(anchor: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """sum_i a_i (g_i - anchor), float32 [B, ...].

    anchor [B or 1, ...], groups [n, B or 1, ...], weights [B, n]. Raises ValueError for weights that are not finite or
    do not fit the groups.
    """
    if weights.ndim != 2 or weights.shape[1] != groups.shape[0]:
        raise ValueError(f"Expected weights [B, n] with n = {groups.shape[0]} groups, but {list(weights.shape)} came.")
    if groups.shape[2:] != anchor.shape[1:]:
        raise ValueError(f"Group conditionings {list(groups.shape[2:])} and the prompt's {list(anchor.shape[1:])} differ "
                         f"in shape: was the profile made for another text encoder?")
    if not torch.isfinite(weights).all():
        raise ValueError(f"Weights must be finite, but {weights.tolist()} came. Calibrate again or use another profile.")
    a = weights.T.float().reshape(weights.shape[1], -1, *(1,) * (groups.ndim - 2)).to(groups.device)
    return (a * (groups.float() - anchor.float())).sum(0)


def mix(anchor: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """u = e + sum_i a_i (g_i - e): the unsafe direction, anchored at the unconditional e so that a = 0 is no guidance.

    With sum a_i = 1 it is the paper's u = sum a_i g_i. On text embeddings this is the `embedding` direction, on noise
    predictions the `prediction` direction. Shapes as in `weighted_sum`; returns [B, ...].
    """
    return (anchor.float() + weighted_sum(anchor, groups, weights)).to(anchor.dtype)


def shift_prompt(prompt: Tensor, groups: Tensor, weights: Tensor, anchor: Tensor) -> Tensor:
    """c' = c - sum_i a_i (g_i - anchor): the `prompt` direction, which needs no further model evaluation.

    `anchor` is c itself where the groups stand in the prompt's own context (so that one weight of -1 gives that group's
    prompt), else the groups' mean. a = 0 returns c bit for bit.
    """
    return (prompt.float() - weighted_sum(anchor, groups, weights)).to(prompt.dtype)
