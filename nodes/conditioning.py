"""Texts as ComfyUI's CLIP objects encode them, shifted and mixed with weights.

A conditioning is ComfyUI's list of [embedding, options]. Its text lies in the embedding [1 or B, L, D] and, by model,
in further float tensors of the options (`pooled_output` [1, P] ...); all are mixed alike, by name ("cond" for the
embedding).
"""
from __future__ import annotations

import uuid
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.method.direction import group_texts, mix
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import Encoded, shifted

EMBEDDING = "cond"
NAMES = (EMBEDDING, "pooled_output", "conditioning_llama3")
MASK = "attention_mask"


def encode(clip, text: str) -> dict[str, Tensor]:
    """One text's parts by name. Raises DebiasError where no text encoder is wired or it gives no embedding."""
    if clip is None:
        raise DebiasError("The CLIP input holds no text encoder. Wire the CLIP output of the checkpoint's loader, or "
                          "load a text encoder for this model.")
    output = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True, return_dict=True)
    parts = {name: value for name, value in output.items()
             if name in NAMES and isinstance(value, Tensor) and value.is_floating_point()}
    if parts.get(EMBEDDING) is None or parts[EMBEDDING].ndim != 3:
        raise DebiasError("This CLIP gives no embedding [1, tokens, width] of a text, so no direction can be made with "
                          "it. Use the text encoder of a text-to-image model.")
    return parts


def encode_all(clip, prompt: str, attributes: Sequence[Attribute], context: str) -> Encoded:
    """The prompt, the empty text and each group's mean, all of one length.

    Raises DebiasError where two groups of an attribute read the same to this text encoder.
    """
    empty = encode(clip, "")
    at, texts = [], []
    for group in (group for attribute in attributes for group in attribute.groups):
        descriptions = group_texts(group.texts, prompt, context)
        at.append(len(descriptions))
        texts += [encode(clip, text) for text in descriptions]
    parts = [encode(clip, prompt), empty, *texts]
    length = max(part[EMBEDDING].shape[1] for part in parts)
    of_prompt, of_empty, *of_texts = [lengthened(part, length, empty) for part in parts]
    names = [name for name in of_prompt if all(name in part for part in of_texts)]
    groups = {name: torch.stack([torch.stack([part[name].float() for part in own]).mean(0)
                                 for own in _split(of_texts, at)]) for name in names}
    for attribute, own in zip(attributes, groups[EMBEDDING].split([len(a.groups) for a in attributes])):
        if len(torch.unique(own.flatten(1), dim=0)) < len(own):
            raise DebiasError(f"Some groups of {quoted(attribute.name)} read the same to this text encoder: their "
                              "texts may lie beyond its longest prompt. Shorten the prompt, or describe the groups "
                              "differently.")
    return Encoded({name: of_prompt[name] for name in names}, {name: of_empty[name] for name in names}, groups)


def deltas(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> dict[str, Tensor]:
    """c' - c of the `prompt` direction by part, float32 [B, ...]; rows of zero weights are zero exactly."""
    moved = shifted(encoded, attributes, weights, context)
    return {name: moved[name].float() - c.float() for name, c in encoded.prompt.items()}


def effect(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> dict:
    """What the `prompt` direction does, as `core.pipeline.Guide.summary` says it."""
    guided = int(weights.any(1).sum())
    moved = deltas(encoded, attributes, weights, context)[EMBEDDING]
    change = moved.abs().mean().item() * len(moved) / max(guided, 1)  # the mean over the guided images
    acted = change > 1e-6 * encoded.prompt[EMBEDDING].abs().mean().item()
    return dict(acted=acted, magnitude=change, steps=0, skipped=0, guided_images=guided, extra_evaluations=0)


def shift(positive: Sequence[dict], encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor,
          context: str) -> list[dict]:
    """The `prompt` direction: copies of a conditioning's entries, one embedding an image, moved by c' - c.

    Entries are as guiders hold them, with the embedding under `cross_attn`. Raises DebiasError where the embedding is
    another text encoder's.
    """
    moved = deltas(encoded, attributes, weights, context)
    return [_replaced(entry, {name: _add(value, moved[name], name, encoded)
                              for name, value in texts_of(entry).items() if name in moved}) for entry in positive]


def mixed(entries: Sequence[dict], encoded: Encoded, weights: Tensor) -> list[dict]:
    """The `embedding` direction u: copies of a baseline's entries with u = e + sum a_i (g_i - e) in place of their text
    e, so that no weight is no guidance. A text of another width, or none, counts as the empty one.
    """
    copies = []
    for entry in entries:
        texts, parts = texts_of(entry), {}
        for name, g in encoded.groups.items():
            e = texts.get(name, encoded.empty[name])
            if e.shape[2:] != encoded.empty[name].shape[2:]:
                e = encoded.empty[name]
            parts[name] = mix(*_together(name, _for_images(e, len(weights)), g, encoded.empty), weights)
        copies += replaced([entry], parts)
    return copies


def replaced(entries: Sequence[dict], parts: dict[str, Tensor]) -> list[dict]:
    """Copies of the entries with other text; areas, masks, ControlNets, timestep ranges and hooks stay theirs."""
    return [_replaced(entry, {name: part for name, part in parts.items() if name in texts_of(entry)})
            for entry in entries]


def texts_of(entry: dict) -> dict[str, Tensor]:
    """The text of a guider's conditioning entry by part."""
    named = {EMBEDDING: entry.get("cross_attn"), **{name: entry.get(name) for name in NAMES[1:]}}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def check_width(positive: Sequence[dict], encoded: Encoded) -> None:
    """Raises DebiasError where a conditioning holds no text, or another text encoder's."""
    expected = encoded.prompt[EMBEDDING].shape[-1]
    for entry in positive:
        embedding = entry.get("cross_attn")
        if not isinstance(embedding, Tensor) or embedding.ndim != 3:
            raise DebiasError("The positive conditioning holds no text embedding, and directions are made of text. Use "
                              "Debias Apply with a text-to-image model.")
        if embedding.shape[-1] != expected:
            raise DebiasError(f"The positive conditioning has width {embedding.shape[-1]}, but the CLIP given to "
                              f"sd-debias makes width {expected}. Wire the CLIP of the same checkpoint.")


def lengthened(part: dict[str, Tensor], length: int, empty: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text's parts with the embedding filled up to `length` tokens with those of the empty text."""
    return {**part, EMBEDDING: _fill(part[EMBEDDING], length, empty[EMBEDDING])}


def _fill(embedding: Tensor, length: int, filler: Tensor) -> Tensor:
    missing = length - embedding.shape[1]
    if missing <= 0:
        return embedding
    tail = filler.repeat(1, -(-missing // filler.shape[1]), 1)[:, -missing:].to(embedding)
    return torch.cat([embedding, tail.expand(len(embedding), -1, -1)], dim=1)


def _add(value: Tensor, delta: Tensor, name: str, encoded: Encoded) -> Tensor:
    if name == EMBEDDING:
        value = _fill(value, delta.shape[1], encoded.empty[EMBEDDING])
        delta = torch.nn.functional.pad(delta, (0, 0, 0, value.shape[1] - delta.shape[1]))
    value = _for_images(value, len(delta))
    return (value.float() + delta.to(value.device)).to(value.dtype)


def _for_images(value: Tensor, images: int) -> Tensor:
    """A text [B, ...] for a batch: one for fewer or more images than are made repeats its own, as the host does."""
    if len(value) in (1, images):
        return value
    return value.repeat(-(-images // len(value)), *(1,) * (value.ndim - 1))[:images]


def _together(name: str, anchor: Tensor, groups: Tensor, empty: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Anchor and groups of one length."""
    groups = groups.to(anchor.device)
    if name != EMBEDDING:
        return anchor, groups
    length = max(anchor.shape[1], groups.shape[2])
    filled = torch.stack([_fill(g, length, empty[EMBEDDING].float()) for g in groups])
    return _fill(anchor, length, empty[EMBEDDING]), filled


def _replaced(entry: dict, parts: dict[str, Tensor]) -> dict:
    copy = {**entry, "uuid": uuid.uuid4()}
    if EMBEDDING in parts:
        mask, length = entry.get(MASK), parts[EMBEDDING].shape[1]
        if isinstance(mask, Tensor) and mask.shape[-1] != length:
            copy[MASK] = torch.nn.functional.pad(mask, (0, max(0, length - mask.shape[-1])), value=1)[..., :length]
    return {**copy, **{"cross_attn" if name == EMBEDDING else name: part for name, part in parts.items()}}


def _split(items: list, sizes: Sequence[int]):
    at = 0
    for size in sizes:
        yield items[at:at + size]
        at += size
