"""Texts as ComfyUI's CLIP objects encode them, shifted and mixed with weights.

A conditioning is ComfyUI's list of [embedding, options]. Its text lies in the embedding [1 or B, L, D] and, by model,
in further float tensors of the options (`pooled_output` [1, P] ...); all are mixed alike, by name ("cond" for the
embedding). Images of a batch whose texts have different lengths are evaluated apart: nothing is lengthened.
"""
from __future__ import annotations

import uuid
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method import conditioning as core
from ..core.method.conditioning import Encoded, Parts, mixed_rows, shifted_rows
from ..core.method.direction import group_texts

EMBEDDING = "cond"
MASK = "attention_mask"  # and one for each further encoder, as attention_mask_mt5xl


def encode(clip, text: str) -> tuple[Parts, dict]:
    """One text's parts by name, and what else the encoder says of it, which cannot be mixed.

    Raises DebiasError where no text encoder is wired or it gives no embedding.
    """
    if clip is None:
        raise DebiasError("The CLIP input holds no text encoder. Wire the CLIP output of the checkpoint's loader, or "
                          "load a text encoder for this model.")
    output = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True, return_dict=True)
    parts = {name: value for name, value in output.items() if isinstance(value, Tensor) and (
        name.startswith(MASK) or _mixes(name) and value.is_floating_point() and value.ndim > 1)}
    if parts.get(EMBEDDING) is None or parts[EMBEDDING].ndim != 3:
        raise DebiasError("This CLIP gives no embedding [1, tokens, width] of a text, so no direction can be made with "
                          "it. Use the text encoder of a text-to-image model.")
    return parts, {name: value for name, value in output.items() if name not in parts and value is not None}


def encode_all(clip, prompt: str, attributes: Sequence[Attribute], context: str, subject: str = "") -> Encoded:
    """The prompt, the empty text and each group's mean, each of its own length.

    Raises DebiasError where two groups of an attribute read the same to this text encoder, and where a part of the
    conditioning differs between the texts and cannot be mixed.
    """
    described = [group_texts(group.texts, prompt, context, subject)
                 for attribute in attributes for group in attribute.groups]
    of_prompt, fixed = encode(clip, prompt)
    found = [[encode(clip, text) for text in texts] for texts in described]
    # A part that one text has and another lacks cannot be mixed either.
    core.check_unmixed({**fixed, **dict.fromkeys(of_prompt, True)}, [
        {**others, **dict.fromkeys(parts, True)} for texts in found for parts, others in texts])
    groups = {name: core.together([core.mean([parts[name] for parts, _ in texts]) for texts in found])
              for name in of_prompt}
    core.check_groups(groups, attributes)
    return Encoded(of_prompt, groups, encode(clip, "")[0])


def _mixes(name: str) -> bool:
    """Is a part of this name a text's, which weights mix? (conditioning_llama3, conditioning_mt5xl ...)"""
    return name in (EMBEDDING, "pooled_output") or name.startswith("conditioning_")


def effect(texts: Texts, attributes: Sequence[Attribute], context: str) -> dict:
    """What the `prompt` direction does to different texts."""
    found = [core.effect(encoded, attributes, weights, context, EMBEDDING) for encoded, weights in texts]
    acted = [own for own in found if own["acted"]] or found[:1]
    return dict(acted[0], magnitude=sum(own["magnitude"] for own in acted) / len(acted),
                guided_images=int(torch.cat([weights for _, weights in texts], 1).any(1).sum()))


Entries = list[dict]
Apart = list[tuple[list[int], Entries]]  # images, and the conditioning that is theirs, made for the whole batch


Texts = Sequence[tuple[Encoded, Tensor]]  # of each entry of a conditioning, with its images' weights [B, n]


def in_region(entry: dict) -> bool:
    """Does an entry count in a part of the image alone?"""
    return entry.get("mask") is not None or entry.get("area") is not None


def shift(positive: Sequence[dict], texts: Texts, attributes: Sequence[Attribute], context: str
          ) -> tuple[Entries, Apart]:
    """The `prompt` direction: (copies of a conditioning's entries, one text an image, moved by c' - c; what must be
    evaluated apart, for images whose texts are longer than those of others in the batch).

    Entries are as guiders hold them, with the embedding under `cross_attn`. Raises DebiasError where the embedding is
    another text encoder's.
    """
    images = len(texts[0][1])
    rows = [[_moved(own, encoded.prompt, row) if a.any() else own for own, row, a in
             zip(_by_image(entry, images), shifted_rows(encoded, attributes, weights, context), weights, strict=True)]
            for entry, (encoded, weights) in zip(positive, texts, strict=True)]
    groups = apart(positive, rows)
    if len(groups) == 1:
        return groups[0][1], []
    # Images whose text has the entry's own length stay in its batch; the others' places hold the prompt's own text.
    own = [_by_image(entry, images) for entry in positive]
    kept = [[row if _shapes(row) == _shapes(plain) else plain for row, plain in zip(made, plains, strict=True)]
            for made, plains in zip(rows, own, strict=True)]
    stay = {i for i in range(images) if all(_shapes(made[i]) == _shapes(plains[i])
                                                  for made, plains in zip(rows, own, strict=True))}
    return apart(positive, kept)[0][1], [(at, entries) for at, entries in groups if not stay.issuperset(at)]


def mixed(entries: Sequence[dict], encoded: Encoded, weights: Tensor) -> Apart:
    """The `embedding` direction u: copies of a baseline's entries with u = e + sum a_i (g_i - e) in place of their text
    e, so that no weight is no guidance. A text of another width, or none, counts as the empty one.
    """
    rows = []
    for entry in entries:
        anchors = [{name: _own(row.get(name), empty) for name, empty in encoded.empty.items()}
                   for row in _by_image(entry, len(weights))]
        rows.append(mixed_rows(anchors, encoded, weights))
    return apart(entries, rows)


def _own(part: Tensor | None, empty: Tensor) -> Tensor:
    if part is None or part.ndim != empty.ndim:
        return empty
    return part if not part.is_floating_point() or part.shape[-1] == empty.shape[-1] else empty


def apart(entries: Sequence[dict], rows: Sequence[Sequence[Parts | None]]) -> Apart:
    """Images whose texts have the same shapes in every entry, with the entries for them.

    rows holds, for every entry, each image's parts, or None for an image that needs none. The texts of the other images
    of the batch stand in their places with those of the first: their predictions are not used.
    """
    found: dict[tuple, list[int]] = {}
    of_image = {i: [row for made in rows if (row := made[i]) is not None] for i in range(len(rows[0]))}
    for i, own in of_image.items():
        if own:
            found.setdefault(tuple(map(_shapes, own)), []).append(i)
    return [(at, [_replaced(entry, {name: _of_batch([of_image[i if i in at else at[0]][k][name] for i in of_image])
                                    for name in of_image[at[0]][k]}) for k, entry in enumerate(entries)])
            for at in found.values()]


def _of_batch(parts: Sequence[Tensor]) -> Tensor:
    """A part of every image, [B, ...]; of masks one, [1, L], whose tokens models count."""
    return torch.cat(list(parts)) if parts[0].is_floating_point() else parts[0]


def of_rows(entries: Sequence[dict], images: Sequence[int]) -> Entries:
    """Copies of the entries for some images of their batch, by place. What has fewer rows than the batch stands for
    them in turn, as hosts repeat it."""
    def rows(value):
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
            return value
        return value[torch.tensor([i % len(value) for i in images], device=value.device)]

    def prepared(cond):  # one of comfy.conds
        value = [rows(each) for each in cond.cond] if isinstance(cond.cond, list) else rows(cond.cond)
        return cond if value is cond.cond else cond._copy_with(value)

    return [{**{name: rows(value) for name, value in entry.items()}, "uuid": uuid.uuid4(),
             **({"model_conds": {name: prepared(cond) for name, cond in entry["model_conds"].items()}}
                if "model_conds" in entry else {})} for entry in entries]


def texts_of(entry: dict) -> Parts:
    """The text of a guider's conditioning entry by part, and its mask; images and areas are none of the text's."""
    named = {EMBEDDING: entry.get("cross_attn"), MASK: entry.get(MASK),
             **{name: value for name, value in entry.items()
                if (name.startswith(MASK) or _mixes(name)) and name != EMBEDDING}}
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


def _shapes(parts: Parts) -> tuple:
    """Of parts, and what masks hold: models take one for all images of a batch."""
    return tuple((name, part.shape, None if part.is_floating_point() else tuple(part.flatten().tolist()))
                 for name, part in sorted(parts.items()))


def _by_image(entry: dict, images: int) -> list[Parts]:
    """An entry's text for each image of a batch; fewer texts than images repeat, as in the host."""
    texts = texts_of(entry)
    return [{name: part[i % len(part)][None] for name, part in texts.items()} for i in range(images)]


def _moved(own: Parts, prompt: Parts, shifted: Parts) -> Parts:
    """A text of the conditioning, moved as the prompt was: tokens that the prompt lacks come behind its own, before
    what another node has joined to it."""
    result = dict(own)
    for name, part in own.items():
        if name not in shifted:
            continue
        c, moved, tokens = prompt[name], shifted[name].to(part.device), core.length(prompt[name])
        if name.startswith(MASK):
            result[name] = moved if part.shape == c.shape else part
        elif tokens == 0:
            result[name] = (part.float() + (moved.float() - c.to(part.device).float())).to(part.dtype)
        else:
            common = min(tokens, core.length(part))
            delta = moved[..., :common, :].float() - c[..., :common, :].to(part.device).float()
            head = (part[..., :common, :].float() + delta).to(part.dtype)
            result[name] = torch.cat([head, moved[..., tokens:, :].to(part), part[..., common:, :]], dim=-2)
    return result


def _replaced(entry: dict, parts: Parts) -> dict:
    """A copy with other text; areas, masks, ControlNets, timestep ranges and hooks stay the entry's."""
    copy = {**entry, "uuid": uuid.uuid4()}
    if EMBEDDING in parts:
        mask, length = parts.get(MASK, entry.get(MASK)), parts[EMBEDDING].shape[1]
        if isinstance(mask, Tensor) and mask.shape[-1] != length:
            mask = torch.nn.functional.pad(mask, (0, max(0, length - mask.shape[-1])), value=1)[..., :length]
        parts = {**parts, **({MASK: mask} if isinstance(mask, Tensor) else {})}
    return {**copy, **{"cross_attn" if name == EMBEDDING else name: part for name, part in parts.items()}}
