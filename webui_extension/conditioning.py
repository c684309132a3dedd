"""Texts as A1111 and Forge encode them, shifted and mixed with weights.

A conditioning of N texts is a tensor [N, L, D], or, for SDXL, a dict of `crossattn` [N, L, D] and `vector` [N, V]: the
pooled text followed by the picture's size.
"""
from __future__ import annotations

import copy
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.method.direction import group_texts, mix
from ..core.errors import DebiasError
from ..core.method.conditioning import Encoded, shifted

TOKENS, POOLED = "crossattn", "vector"


def parts_of(conditioning) -> dict[str, Tensor]:
    """A conditioning's tensors by name, without a mark. Raises DebiasError for one that is not known."""
    if isinstance(conditioning, Tensor):
        return {TOKENS: conditioning[:, int(marked(conditioning)):]}
    if isinstance(conditioning, dict) and isinstance(conditioning.get(TOKENS), Tensor):
        parts = {name: conditioning[name] for name in (TOKENS, POOLED) if isinstance(conditioning.get(name), Tensor)}
        return {**parts, TOKENS: parts[TOKENS][:, int(marked(conditioning)):]}
    raise DebiasError(f"Expected a text conditioning as a tensor or a dict with '{TOKENS}', but a "
                      f"{type(conditioning).__name__} came. This model's texts cannot be shifted.")


def with_parts(conditioning, parts: dict[str, Tensor]):
    """A copy of a conditioning with other tensors; what else it holds stays, and so does its mark."""
    tokens = torch.cat([tokens_of(conditioning)[:, :int(marked(conditioning))], parts[TOKENS]], dim=1)
    if isinstance(conditioning, Tensor):
        return tokens
    result = copy.copy(conditioning)
    result.update({**parts, TOKENS: tokens})
    return result


def with_rows(conditioning, rows: Tensor):
    """A conditioning's texts by their rows."""
    if isinstance(conditioning, Tensor):
        return conditioning[rows]
    result = copy.copy(conditioning)
    result.update({name: part[rows] for name, part in conditioning.items()})
    return result


def marked(conditioning) -> bool:
    """Does one value stand before the text? ControlNet tells prompt and negative prompt apart by such a token."""
    first = tokens_of(conditioning)[:, 0]
    return bool((first == first[:, :1]).all())


def tokens_of(conditioning) -> Tensor:
    return conditioning if isinstance(conditioning, Tensor) else conditioning[TOKENS]


def encode(model, text: str, attributes: Sequence[Attribute], context: str, width: int, height: int) -> Encoded:
    """A prompt, the empty text and each group's mean, encoded by the host's model in one call, so of one length.

    Sizes are the picture's in pixels; SDXL encodes them with the text.
    """
    from modules import devices
    from modules.prompt_parser import SdConditioning
    described = [group_texts(group.texts, text, context) for attribute in attributes for group in attribute.groups]
    texts = [text, "", *(one for group in described for one in group)]
    with torch.no_grad(), devices.autocast():
        parts = parts_of(model.get_learned_conditioning(SdConditioning(texts, width=width, height=height)))
    at = [len(group) for group in described]
    groups = {name: torch.stack([own.float().mean(0, keepdim=True) for own in part[2:].split(at)])
              for name, part in parts.items()}
    return Encoded({name: part[:1] for name, part in parts.items()}, {name: part[1:2] for name, part in parts.items()},
                   groups)


def deltas(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> dict[str, Tensor]:
    """c' - c of the `prompt` direction by part, float32 [B, ...], for weights [B, n]."""
    moved = shifted(encoded, attributes, weights, context)
    return {name: torch.where(_fixed(name, encoded), 0.0, moved[name].float() - c.float())
            for name, c in encoded.prompt.items()}


def shift(conditioning, changes: dict[int, dict[str, Tensor]], empty: dict[str, Tensor]):
    """A copy of a conditioning with some rows moved: {row: {part: change [1, ...]}}.

    Where a change is longer than the text, all rows are filled up with the empty text, as the host does with long
    prompts. Raises DebiasError where it comes from another text encoder.
    """
    moved = {name: part.clone() for name, part in parts_of(conditioning).items()}
    for row, change in changes.items():
        for name, delta in change.items():
            check_width(moved[name], delta)
            if name == TOKENS:
                moved[name] = lengthened(moved[name], delta.shape[1], empty[name])
                delta = torch.nn.functional.pad(delta, (0, 0, 0, moved[name].shape[1] - delta.shape[1]))
            moved[name][row] = (moved[name][row].float() + delta[0].to(moved[name].device)).to(moved[name].dtype)
    return with_parts(conditioning, moved)


def mixed(anchor: dict[str, Tensor], encoded: Encoded, weights: Tensor) -> dict[str, Tensor]:
    """The `embedding` direction u = e + sum a_i (g_i - e) by part, [B, ...]; anchor [B, ...], weights [B, n]."""
    result = {}
    for name, e in anchor.items():
        groups = encoded.groups[name].to(e.device)
        check_width(e, groups)
        if name == TOKENS:
            e = lengthened(e, groups.shape[2], encoded.empty[name])
            groups = torch.stack([lengthened(g, e.shape[1], encoded.empty[name]) for g in groups])
        u = mix(e, groups, weights)
        result[name] = torch.where(_fixed(name, encoded).to(e.device), e, u)
    return result


def of_group(anchor: dict[str, Tensor], encoded: Encoded, group: int) -> dict[str, Tensor]:
    """One group's text in place of the anchor's, [B, ...]."""
    alone = torch.zeros(len(anchor[TOKENS]), len(encoded.groups[TOKENS]))
    alone[:, group] = 1
    return mixed(anchor, encoded, alone)


def lengthened(tokens: Tensor, length: int, empty: Tensor) -> Tensor:
    """Tokens [B, L, D] filled up to a length with those of the empty text [1, L', D]."""
    missing = length - tokens.shape[1]
    if missing <= 0:
        return tokens
    filler = empty.repeat(1, -(-missing // empty.shape[1]), 1)[:, :missing].to(tokens)
    return torch.cat([tokens, filler.expand(len(tokens), -1, -1)], dim=1)


def check_width(one: Tensor, other: Tensor) -> None:
    if one.shape[-1] != other.shape[-1]:
        raise DebiasError(f"Texts of width {one.shape[-1]} and {other.shape[-1]} met: the conditioning is not this "
                          f"model's own. Is another extension replacing it?")


def _fixed(name: str, encoded: Encoded) -> Tensor:
    """Entries that no text changes: the picture's size behind the pooled text."""
    if name != POOLED:
        return torch.zeros((), dtype=torch.bool)
    texts = torch.cat([encoded.prompt[name].float(), encoded.groups[name].flatten(0, 1)])
    return (texts == encoded.empty[name].float()).all(0)
