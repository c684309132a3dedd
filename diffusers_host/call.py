"""The arguments of a denoiser's call: its texts, and rows of it."""
from __future__ import annotations

import inspect

import torch
from torch import Tensor

# Tensors of a denoiser's call whose first dimension is not the batch, and lists with an item for each of its
# rows.
_NOT_ROWS = ("img_ids", "txt_ids", "position_ids", "visual_rope_pos", "text_rope_pos", "ip_adapter_masks",
             "image_rotary_emb")
_LISTS = ("x", "img_shapes")
KEPT = ("kv_cache", "kv_cache_mode")  # what a denoiser keeps of a text from step to step


def is_modular(pipe) -> bool:
    """Is it one of the modular pipelines, whose call takes what its blocks ask for?"""
    return hasattr(pipe, "blocks") and hasattr(pipe.blocks, "input_names")


def defaults(pipe) -> dict:
    """The arguments of a pipeline's call with their defaults."""
    if is_modular(pipe):
        return {own.name: own.default for own in pipe.blocks.inputs if own.name}
    return {name: own.default for name, own in inspect.signature(type(pipe).__call__).parameters.items()}


def per_prompt(pipe) -> str:
    """The argument for how many images a prompt gets."""
    taken = defaults(pipe)
    return next((name for name in ("num_images_per_prompt", "num_videos_per_prompt") if name in taken),
                "num_images_per_prompt")


def texts_in(call: dict) -> dict[str, Tensor]:
    """Where a denoiser's call holds the text: tokens and, in SDXL (added), SD 3 and Flux, a pooled vector."""
    pooled = call.get("pooled_projections")
    if pooled is None:
        pooled = (call.get("added_cond_kwargs") or {}).get("text_embeds")
    texts = dict(prompt_embeds=call["encoder_hidden_states"], pooled_prompt_embeds=pooled)
    return {name: text for name, text in texts.items() if text is not None}


def with_texts(call: dict, texts: dict[str, Tensor]) -> dict:
    """The call with other texts, as `texts_in` names them."""
    call, pooled = {**call, "encoder_hidden_states": texts["prompt_embeds"]}, texts.get("pooled_prompt_embeds")
    if pooled is None:
        return call
    if call.get("pooled_projections") is not None:
        return {**call, "pooled_projections": pooled}
    return {**call, "added_cond_kwargs": {**call["added_cond_kwargs"], "text_embeds": pooled}}


def rows_of(value, rows: int, copies: Tensor):
    """A denoiser's arguments for copies of the named rows, wherever a tensor has the batch's size, and without what the
    denoiser kept of a text."""
    if isinstance(value, Tensor):
        return value[copies] if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: item if name in _NOT_ROWS else None if name in KEPT else
                items_of(item, rows, copies) if name in _LISTS else rows_of(item, rows, copies)
                for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rows_of(item, rows, copies) for item in value)
    return value


def items_of(items: list, rows: int, copies: Tensor) -> list:
    """As `rows_of`, of a list: latents [C, 1, H, W], or what is the same for all images of a call."""
    if isinstance(items[0], Tensor):
        return list(rows_of(torch.stack(items), rows, copies))
    return items[:1] * len(copies)
