"""Conditioning: a text's parts as a host's encoders give them, each with its own length, shifted and mixed by weights.

A part is a tensor [1, ...]: token embeddings [1, L, D] (or [1, layers, L, D]), a pooled vector [1, P], or a mask of
whole numbers [1, L]. Texts have different lengths, and none is lengthened with other tokens: encoders of variable
length read filler as text, and so does a model that discards masks. Two rules replace it:

- Where the anchor has no token of its own, beyond its end, the mean of the attribute's groups stands for it. So a push
  of full strength is still exactly the group's own text.
- Where a group's text ends before the anchor does, it changes nothing there.

A text whose weights are all zero comes back as it is.
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import reduce
from typing import Mapping, Sequence

import torch
from torch import Tensor

from ..attribute import Attribute
from ..errors import DebiasError, quoted
from .direction import mix, shift_prompt
from .methods import ALONE

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Encoded:
    """What a direction needs of the text encoders, each by the part's name.

    prompt  the prompt's parts, [1, ...], in the model's dtype
    groups  each g_i, the mean over the group's texts, all attributes side by side: float32 [n, 1, ...], or n tensors
            [1, ...] where their lengths differ
    empty   the empty text's parts, of hosts whose conditionings may lack some of them
    """
    prompt: Parts
    groups: dict[str, Tensor | tuple[Tensor, ...]]
    empty: Parts = field(default_factory=dict)


def shape(parts: Parts) -> tuple:
    """The same for texts that can be evaluated together."""
    return tuple((name, tuple(part.shape)) for name, part in sorted(parts.items()))


def together(tensors: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """One tensor [n, ...] of n equal shapes, else the n tensors."""
    same = len({tensor.shape for tensor in tensors}) == 1
    return torch.stack(list(tensors)) if same else tuple(tensors)


def check_groups(groups: Mapping[str, Tensor | Sequence[Tensor]], attributes: Sequence[Attribute]) -> None:
    """Raises DebiasError where groups of one attribute have the same parts, so that nothing could steer."""
    at = 0
    for attribute in attributes:
        own, at = range(at, at + len(attribute.groups)), at + len(attribute.groups)
        if any(all(torch.equal(part[i], part[j]) for part in groups.values()) for i in own for j in own if j < i):
            raise DebiasError(f"Some groups of {quoted(attribute.name)} read the same to this model: their texts may "
                              "lie beyond its longest prompt. Shorten the prompt, describe the groups differently, "
                              f"or use the context '{ALONE}'.")


def check_unmixed(prompt: Mapping[str, object], groups: Sequence[Mapping[str, object]]) -> None:
    """What a host's conditioning holds beside the parts that weights mix. Raises DebiasError where some of it differs
    between the prompt and a group's text: the images would be of neither."""
    for own in groups:
        for name in sorted({*prompt, *own}):
            if not _alike(prompt.get(name), own.get(name)):
                raise DebiasError("This model's texts have a part that differs between the prompt and the groups and "
                                  f"that cannot be mixed: {quoted(name)}. Give each image its group's own text "
                                  "instead.")


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and (isinstance(one, dict) or one == other)


def length(part: Tensor) -> int:
    """Tokens of a part; 0 of one that has none, such as a pooled vector."""
    return part.shape[-2] if part.ndim > 2 else part.shape[-1] if not part.is_floating_point() else 0


def mean(texts: Sequence[Tensor]) -> Tensor:
    """Mean of a part over several texts, float32 [1, ...], of the longest one's length: at each token, over the texts
    that reach there. Of masks, what any of them has."""
    if not texts[0].is_floating_point():
        return union(texts)
    if len({text.shape for text in texts}) == 1:
        return torch.stack([text.float() for text in texts]).mean(0)
    longest = max(map(length, texts))
    total = reduce(torch.add, (_longer(text.float(), longest) for text in texts))
    reaching = reduce(torch.add, (_longer(torch.ones_like(text[..., :1], dtype=torch.float32), longest)
                                  for text in texts))
    return total / reaching


def shifted(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> Parts:
    """The `prompt` direction for every part, [B, ...]: the shifts of all attributes, each from its own anchor.

    Raises ValueError where the texts have different lengths: see `shifted_rows`.
    """
    sizes = [len(attribute.groups) for attribute in attributes]
    result = {}
    for name, c in encoded.prompt.items():
        groups = encoded.groups[name]
        if not isinstance(groups, Tensor):
            raise ValueError("These texts have different lengths: shift them one by one.")
        total = c.float()
        for attribute, g, a in zip(attributes, groups.split(sizes), weights.split(sizes, dim=1)):
            total = shift_prompt(total, g, a, c if in_context(attribute, context) else g.mean(0))
        result[name] = total.to(c.dtype)
    return result


def in_context(attribute: Attribute, context: str) -> bool:
    """Do the groups' texts hold the prompt, so that the prompt is what they differ from?"""
    texts = [text for group in attribute.groups for text in group.texts]
    return "{prompt}" in context or all("{prompt}" in text for text in texts)


def shifted_rows(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> list[Parts]:
    """The `prompt` direction image by image: B dicts of parts [1, ...], each with the length that its own text has.

    weights [B, n]. An image without weights has the prompt's own parts.
    """
    made: dict[tuple, Parts] = {}
    for row in weights:
        key = tuple(row.tolist())
        if key not in made:
            made[key] = _shifted(encoded, attributes, row[None], context) if row.any() else dict(encoded.prompt)
    return [made[tuple(row.tolist())] for row in weights]


def _shifted(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> Parts:
    sizes, result = [len(attribute.groups) for attribute in attributes], {}
    for name, c in encoded.prompt.items():
        own = _split(encoded.groups[name], sizes)
        if not c.is_floating_point():
            used = [g for gs, a in zip(own, weights.split(sizes, dim=1)) for g, w in zip(gs, a[0]) if w]
            result[name] = union([c, *used]).to(c.dtype)
            continue
        anchor = total = c.float()
        for attribute, gs, a in zip(attributes, own, weights.split(sizes, dim=1)):
            if not a.any():
                continue
            tail = _tail(anchor, gs, a[0])
            if tail is not None:
                _warn_of_lengths(a[0])
            anchor, total = torch.cat([anchor, tail], dim=-2) if tail is not None else anchor, \
                torch.cat([total, tail], dim=-2) if tail is not None else total
            g = torch.stack([_fitted(one.to(anchor.device), anchor) for one in gs])
            total = shift_prompt(total, g, a, anchor if in_context(attribute, context) else g.mean(0))
        result[name] = total.to(c.dtype)
    return result


def effect(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str, tokens: str) -> dict:
    """What the `prompt` direction does to a prompt's text, in the words of a pass's summary; `tokens` names the part of
    its tokens. `magnitude` is the mean |c' - c| of the guided images, `acted` whether anything changed."""
    guided, c = int(weights.any(1).sum()), encoded.prompt[tokens].float()
    moved = [row for row, a in zip(shifted_rows(encoded, attributes, weights, context), weights, strict=True)
             if a.any()]
    change = sum((row[tokens][..., :length(c), :].float() - c).abs().mean().item() for row in moved) / max(guided, 1)
    acted = any(part.shape != row[name].shape or (row[name].float() - part.float()).abs().mean() >
                1e-6 * part.float().abs().mean() for row in moved for name, part in encoded.prompt.items())
    return dict(acted=acted, magnitude=change, steps=0, skipped=0, guided_images=guided, extra_evaluations=0)


def mixed_rows(anchors: Sequence[Parts], encoded: Encoded, weights: Tensor) -> list[Parts | None]:
    """The `embedding` direction u = e + sum_i a_i (g_i - e) image by image: B dicts of parts [1, ...].

    anchors are the B images' unconditional parts [1, ...], weights [B, n]. None for an image without weights, which
    needs no direction. Raises DebiasError where parts do not fit.
    """
    rows: list[Parts | None] = []
    for e, row in zip(anchors, weights, strict=True):
        if not row.any():
            rows.append(None)
            continue
        made = {}
        for name, part in e.items():
            gs = _split(encoded.groups[name], [weights.shape[1]])[0]
            if not part.is_floating_point():
                made[name] = union([part, *(g for g, w in zip(gs, row) if w)]).to(part.dtype)
                continue
            tail = _tail(part, gs, row)
            if tail is not None:
                _warn_of_lengths(row)
            anchor = part if tail is None else torch.cat([part, tail.to(part)], dim=-2)
            made[name] = mix(anchor, torch.stack([_fitted(g.to(part.device), anchor) for g in gs]), row[None])
        rows.append(made)
    return rows


def _warn_of_lengths(weights: Tensor) -> None:
    if any(abs(w) not in (0.0, 1.0) for w in weights.tolist()):
        warnings.warn("The texts of this model differ in length, so any weight adds all words of a group, and a push "
                      "barely grows with its weight. Draws are exact.")


def apart(rows: Sequence[Parts | None]) -> list[tuple[list[int], Parts]]:
    """What is evaluated together: (images whose texts have the same shapes, parts [B, ...] for the whole batch).

    In the places of other images stands the text of the first of these: their predictions are not used. Images whose
    row is None belong to none.
    """
    found: dict[tuple, dict[int, Parts]] = {}
    for i, row in enumerate(rows):
        if row is not None:
            found.setdefault(shape(row), {})[i] = row
    result = []
    for at in found.values():
        first = next(iter(at.values()))
        result.append((list(at), {name: torch.cat([at.get(i, first)[name] for i in range(len(rows))])
                                  for name in first}))
    return result


def _split(groups: Tensor | Sequence[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    every, at, result = list(groups), 0, []
    for size in sizes:
        result.append(every[at:at + size])
        at += size
    return result


def _tail(anchor: Tensor, groups: Sequence[Tensor], weights: Tensor) -> Tensor | None:
    """What stands for the anchor beyond its end, as far as the groups with a weight reach; None where none does."""
    longest = max(length(g) for g, w in zip(groups, weights) if w)
    if longest <= length(anchor):
        return None
    tail = mean(groups)[..., length(anchor):longest, :]
    return tail.to(anchor.device).expand(*anchor.shape[:-2], *tail.shape[-2:])


def _fitted(group: Tensor, anchor: Tensor) -> Tensor:
    """A group of the anchor's length: cut, or going on as the anchor does, so that it changes nothing there."""
    missing = length(anchor) - length(group)
    if missing > 0:
        rest = anchor[:1, ..., length(group):, :].float()
        return torch.cat([group, rest.expand(*group.shape[:-2], *rest.shape[-2:])], dim=-2)
    return group[..., :length(anchor), :] if missing < 0 else group


def _longer(part: Tensor, tokens: int) -> Tensor:
    """With zeros behind."""
    return torch.nn.functional.pad(part, (0, 0, 0, tokens - length(part)))


def union(masks: Sequence[Tensor]) -> Tensor:
    """What any mask [1, L] has, of the longest one's length."""
    longest = max(mask.shape[-1] for mask in masks)
    return torch.stack([torch.nn.functional.pad(mask, (0, longest - mask.shape[-1])) for mask in masks]).amax(0)
