"""Directions: group conditionings mixed with weights (He et al. 2024, u = sum a_i g_i; anchoring it is ours).

c is the prompt's conditioning, e the unconditional one (the empty or negative prompt), g_i group i's, a_i its weight:
positive pushes away from the group, negative toward it. The same functions mix text embeddings [B, L, D] and pooled
embeddings [B, D]. Sums run in float32 and come back in the anchor's dtype.
"""
from __future__ import annotations

import re
from typing import Sequence

import torch
from torch import Tensor

from ..errors import DebiasError, short
from .methods import IN_CONTEXT


def group_texts(texts: Sequence[str], prompt: str, context: str = IN_CONTEXT, subject: str = "") -> list[str]:
    """A group's description texts for one prompt.

    `context` places a text that does not itself hold `{prompt}`: `IN_CONTEXT` ("a photo of a doctor, a woman") or
    `ALONE` ("a woman"). Where a subject stands in the prompt, `IN_CONTEXT` is behind it: "portrait of a (doctor:1.2),
    a woman, bokeh".
    """
    end = _behind(prompt, subject) if context == IN_CONTEXT and subject else len(prompt)

    def placed(text: str) -> str:
        if "{prompt}" in text:
            return text.replace("{prompt}", prompt)
        if end < len(prompt):
            return f"{prompt[:end]}, {text}{prompt[end:]}"
        return context.replace("{group}", text).replace("{prompt}", prompt)

    return [placed(text) for text in texts]


def _behind(prompt: str, subject: str) -> int:
    """The place behind a subject, and behind the weight and brackets that close there; the prompt's end where the
    subject does not stand in it."""
    text = re.sub(r"<\w+:[^<>]*>|\bembedding:[\w./\\-]+", lambda tag: "\n" * len(tag[0]), prompt)  # a tag says nothing
    found = re.search(rf"(?<![\w-]){re.escape(subject)}(?![\w-])(?:\s*:\s*-?[\d.]+)?[)\]}}]*", text, re.IGNORECASE)
    return found.end() if found else len(prompt)


def weighted_sum(groups: Tensor, weights: Tensor) -> Tensor:
    """sum_i a_i g_i, float32 [B, ...]. groups [n, B or 1, ...], weights [B, n]."""
    columns = _like(weights.float(), groups[0]).T.reshape(len(groups), -1, *(1,) * (groups.ndim - 2))
    if len(weights) == 1:
        columns = columns.reshape(-1)
    return sum(a * g.float() for a, g in zip(columns, groups))


def mix(anchor: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """u = e + sum_i a_i (g_i - e): the unsafe direction, anchored at the unconditional e so that a = 0 is no guidance.

    With sum a_i = 1 it is the paper's u = sum a_i g_i: the `embedding` direction. anchor [B or 1, ...], groups
    [n, B or 1, ...], weights [B, n]; returns [B, ...]. Raises DebiasError for weights that are not finite, or where
    anything does not fit.
    """
    check_weights(anchor, groups, weights)
    # (1 - sum a_i) e + sum a_i g_i: the same, but exact in floating point where sum a_i is 0 or 1.
    total = _total(anchor, weights)
    return ((1 - total) * anchor.float() + weighted_sum(groups, weights)).to(anchor.dtype)


def shift_prompt(prompt: Tensor, groups: Tensor, weights: Tensor, anchor: Tensor) -> Tensor:
    """c' = c - sum_i a_i (g_i - anchor): the `prompt` direction, which needs no further model evaluation.

    `anchor` is c itself where the groups stand in the prompt's own context, so that one weight of -1 gives exactly that
    group's prompt; else it is the groups' mean. a = 0 returns c. Shapes and errors as in `mix`.
    """
    check_weights(anchor, groups, weights)
    total = _total(anchor, weights)
    return (prompt.float() + total * anchor.float() - weighted_sum(groups, weights)).to(prompt.dtype)


def check_weights(anchor: Tensor, groups: Tensor, weights: Tensor) -> None:
    """Raises DebiasError for weights that are not finite, or where anything does not fit; shapes as in `mix`."""
    if weights.ndim != 2 or weights.shape[1] != len(groups):
        raise DebiasError(f"Expected weights [B, n] with n = {len(groups)} groups, got {list(weights.shape)}.")
    if groups.shape[2:] != anchor.shape[1:]:
        raise DebiasError(f"Group conditionings {list(groups.shape[2:])} and the prompt's {list(anchor.shape[1:])} "
                          f"differ in shape: was the profile made for another text encoder?")
    if not torch.isfinite(weights).all():
        raise DebiasError(f"Expected finite weights, got {short(weights.tolist())}. Calibrate again, or leave them "
                          "out.")


def _total(anchor: Tensor, weights: Tensor) -> Tensor:
    """sum_i a_i as [B, 1, ...]."""
    total = weights.float().sum(1)
    return total[0] if len(total) == 1 else _like(total, anchor).reshape(-1, *(1,) * (anchor.ndim - 1))


def _like(weights: Tensor, tensor: Tensor) -> Tensor:
    """Weights where a tensor is. Of one row they stay: single numbers join a GPU's tensors without a copy."""
    return weights if len(weights) == 1 else weights.to(tensor.device, non_blocking=True)
