"""Texts as A1111 and Forge encode them, shifted and mixed with weights.

A conditioning of N texts is a tensor [N, L, D], or, for SDXL, a dict of `crossattn` [N, L, D] and `vector` [N, V]: the
pooled text followed by the image's size.
"""
from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.method.direction import group_texts
from ..core.errors import DebiasError
from ..core.method.conditioning import Encoded, Parts, check_groups, check_unmixed, mean, mixed_rows, together

TOKENS, POOLED, GUIDANCE = "crossattn", "vector", "guidance"


def parts_of(conditioning, mark: int = 0) -> Parts:
    """A conditioning's tensors by name, without the `mark` tokens before the text. Raises DebiasError for one that is
    not known."""
    if isinstance(conditioning, Tensor):
        return {TOKENS: conditioning[:, mark:]}
    if isinstance(conditioning, dict) and isinstance(conditioning.get(TOKENS), Tensor):
        parts = {name: conditioning[name] for name in (TOKENS, POOLED) if isinstance(conditioning.get(name), Tensor)}
        return {**parts, TOKENS: parts[TOKENS][:, mark:]}
    raise DebiasError(f"Expected a text conditioning as a tensor or a dict with '{TOKENS}', got a "
                      f"{type(conditioning).__name__}. This model's texts cannot be shifted.")


def with_parts(conditioning, parts: Parts, mark: int = 0):
    """A copy of a conditioning with other tensors; what else it holds stays, and so does its mark."""
    tokens = torch.cat([tokens_of(conditioning)[:, :mark], parts[TOKENS]], dim=1)
    if isinstance(conditioning, Tensor):
        return tokens
    result = copy.copy(conditioning)
    result.update({**parts, TOKENS: tokens})
    return result


def with_rows(conditioning, rows: Sequence[int]):
    """A conditioning's texts by their rows."""
    if isinstance(conditioning, Tensor):
        return chosen(conditioning, rows)
    result = copy.copy(conditioning)
    result.update({name: chosen(part, rows) for name, part in conditioning.items()})
    return result


def chosen(part: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a tensor by their numbers; a list as an index would be copied to the GPU."""
    return torch.stack([part[row] for row in rows])


def mark_of(conditioning) -> int:
    """How many tokens stand before the text: ControlNet tells prompt and negative prompt apart by a token of one value.
    It reads the text, so ask once a pass: a GPU waits."""
    first = tokens_of(conditioning)[:, 0]
    return int((first == first[:, :1]).all())


def tokens_of(conditioning) -> Tensor:
    return conditioning if isinstance(conditioning, Tensor) else conditioning[TOKENS]


def encode(model, text: str, attributes: Sequence[Attribute], context: str, width: int, height: int,
           subject: str = "") -> Encoded:
    """A prompt, the empty text and each group's mean, encoded by the host's model, each with its own length.

    Raises DebiasError where groups read alike. Sizes are the image's in pixels; SDXL encodes them with the text.
    """
    from modules import devices
    from modules.prompt_parser import SdConditioning

    def alone(one: str):
        """Texts of one call would be lengthened to the longest, or could not be stacked. Forge Neo's language models
        give a list of texts as long as they are, [T, D] each."""
        found = model.get_learned_conditioning(SdConditioning([one], width=width, height=height))
        return found[0][None] if isinstance(found, list) and isinstance(found[0], torch.Tensor) else found

    described = [group_texts(group.texts, text, context, subject)
                 for attribute in attributes for group in attribute.groups]
    with torch.no_grad(), devices.autocast(), references(model):
        empty, own, groups = alone(""), alone(text), [[alone(one) for one in texts] for texts in described]
    check_unmixed(_others(own), [_others(one) for texts in groups for one in texts])
    prompt, parts = parts_of(own), [list(map(parts_of, texts)) for texts in groups]
    made = {name: together([mean([one[name] for one in texts]) for texts in parts]) for name in prompt}
    check_groups(made, attributes)
    return Encoded(prompt, made, parts_of(empty))


@contextmanager
def references(model):
    """Forge Neo's edit models hand reference images to the sampler while a prompt is encoded, and take the page's own
    out of the model: what the host's prompt has left is put back."""
    try:
        from backend.args import dynamic_args
    except ImportError:  # other hosts have none
        yield
        return
    kept, own = list(getattr(dynamic_args, "ref_latents", ())), getattr(model, "ini_latent", None)
    try:
        yield
    finally:
        if hasattr(dynamic_args, "ref_latents"):
            dynamic_args.ref_latents = kept
        if own is not None:
            model.ini_latent = own


def _others(conditioning) -> dict:
    """What a conditioning holds beside the parts that are mixed."""
    found = conditioning if isinstance(conditioning, dict) else {}
    return {name: value for name, value in found.items() if name not in (TOKENS, POOLED)}


def moved(row: Parts, encoded: Encoded, shifted: Parts, known: dict | None = None) -> Parts:
    """A row of the host's text, moved as its prompt was, c' - c; parts [1, ...].

    Tokens that the prompt lacks come behind its own, in the place of what the host has filled a shorter text up with.
    `known` keeps whether it has, which is read once: a GPU waits. Raises DebiasError where the row comes from another
    text encoder.
    """
    result, known = {}, {} if known is None else known
    for name, part in row.items():
        c, to = encoded.prompt[name].to(part.device), shifted[name].to(part.device)
        check_width(part, to)
        if name != TOKENS:
            change = torch.where(_fixed(name, encoded).to(part.device), 0.0, to.float() - c.float())
            result[name] = (part.float() + change).to(part.dtype)
            continue
        own = min(c.shape[1], part.shape[1])
        head = (part[:, :own].float() + (to[:, :own].float() - c[:, :own].float())).to(part.dtype)
        behind = part[:, max(own, to.shape[1]):]
        if own == c.shape[1] and to.shape[1] != own and _filled(part, own, known):
            behind = to[:, -1:].to(part).expand(-1, behind.shape[1], -1)  # hosts lengthen a text with its last token
        result[name] = torch.cat([head, to[:, c.shape[1]:].to(part), behind], dim=1)
    return result


def _filled(part: Tensor, own: int, known: dict) -> bool:
    """Does the text's last token stand in all places behind its `own` ones?"""
    key = part.shape[1], own
    if key not in known:
        known[key] = bool((part[:, own:] == part[:, own - 1:own]).all())
    return known[key]


def mixed(anchor: Parts, encoded: Encoded, weights: Tensor) -> Parts:
    """The `embedding` direction u = e + sum a_i (g_i - e) by part; anchor [1, ...], weights [n], not all zero."""
    for name, e in anchor.items():
        check_width(e, encoded.empty[name])
    made, = mixed_rows([anchor], encoded, weights[None])
    return {name: torch.where(_fixed(name, encoded).to(part.device), anchor[name], part) if name == POOLED else part
            for name, part in made.items()}


def check_width(one: Tensor, other: Tensor) -> None:
    if one.shape[-1] != other.shape[-1]:
        raise DebiasError(f"Expected texts of width {other.shape[-1]}, got width {one.shape[-1]}: the conditioning is "
                          "not this model's own. Does another extension replace it? Switch that off.")


def _fixed(name: str, encoded: Encoded) -> Tensor:
    """Entries that no text changes: the image's size behind the pooled text."""
    if name != POOLED:
        return torch.zeros((), dtype=torch.bool)
    texts = torch.cat([encoded.prompt[name].float(), *(group.to(encoded.prompt[name].device)
                                                       for group in encoded.groups[name])])
    return (texts == encoded.empty[name].float()).all(0)
