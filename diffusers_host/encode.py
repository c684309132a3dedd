"""Texts as a diffusers pipeline encodes them."""
from __future__ import annotations

import inspect
from typing import Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method.conditioning import Encoded, check_groups
from ..core.method.direction import group_texts

# What encode_prompt returns, by (does it do classifier-free guidance, does the pipeline take pooled texts, length).
_LAYOUTS = {
    (True, False, 2): ("prompt_embeds", "negative_prompt_embeds"),  # Stable Diffusion 1 and 2
    (True, True, 4): ("prompt_embeds", "negative_prompt_embeds",    # Stable Diffusion XL and 3
                      "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    (False, True, 3): ("prompt_embeds", "pooled_prompt_embeds", "text_ids"),  # Flux
}
# Settings of a pipeline's call that change how it encodes text.
_ENCODING = ("clip_skip", "max_sequence_length")


def encode(pipe, texts: Sequence[str], unconditional: bool = False, **settings) -> dict[str, Tensor]:
    """Embeddings of T texts as the pipeline itself makes them: `prompt_embeds` [T, L, D] and, in SDXL, SD 3 and Flux,
    `pooled_prompt_embeds` [T, P].

    With `unconditional` they are what the pipeline sets against the texts without a negative prompt: the empty prompt,
    or zeros. `settings`: clip_skip, max_sequence_length, lora_scale. Raises DebiasError for an encode_prompt not known.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    known = inspect.signature(pipe.encode_prompt).parameters if hasattr(pipe, "encode_prompt") else {}
    refusal = DebiasError(f"Cannot encode texts with {type(pipe).__name__}: only pipelines whose encode_prompt works "
                          f"like that of Stable Diffusion 1 to 3, SDXL or Flux are known. Use one of these.")
    if not known or "prompt_embeds" not in accepted or any("prompt" in name and "mask" in name for name in accepted):
        raise refusal
    cfg = "do_classifier_free_guidance" in known
    texts = [""] * len(texts) if unconditional and not cfg else list(texts)
    arguments = dict(prompt=texts, device=pipe._execution_device, num_images_per_prompt=1, prompt_2=None, prompt_3=None,
                     do_classifier_free_guidance=unconditional, **settings)
    with torch.no_grad():
        returned = pipe.encode_prompt(**{name: value for name, value in arguments.items() if name in known})
    layout = _LAYOUTS.get((cfg, "pooled_prompt_embeds" in accepted, len(returned)))
    if layout is None or not isinstance(returned[0], Tensor):
        raise refusal
    parts = dict(zip(layout, returned))
    prefix = "negative_" if cfg and unconditional else ""
    return {name: parts[prefix + name] for name in ("prompt_embeds", "pooled_prompt_embeds") if name in parts}


def encoding_of(call: dict) -> dict:
    """Those arguments of a pipeline's call that change how texts are encoded, as `encode` takes them."""
    encoding = {name: call[name] for name in _ENCODING if call.get(name) is not None}
    for lora in ("cross_attention_kwargs", "joint_attention_kwargs"):
        if "scale" in (call.get(lora) or {}):
            encoding["lora_scale"] = call[lora]["scale"]
    return encoding


def encode_all(pipe, prompt: str, attributes: Sequence[Attribute], context: str, *, subject: str = "", **settings
               ) -> Encoded:
    """Encodes the prompt, the empty one and all group texts. Raises DebiasError where groups of one attribute read
    alike, and where the texts have different lengths.
    """
    groups = [group for attribute in attributes for group in attribute.groups]
    texts = [group_texts(group.texts, prompt, context, subject) for group in groups]
    embedded = encode(pipe, [text for group in texts for text in group], **settings)
    own = encode(pipe, [prompt], **settings)
    tokens = own["prompt_embeds"].shape[1], embedded["prompt_embeds"].shape[1]
    if tokens[0] != tokens[1]:
        raise DebiasError(f"{type(pipe).__name__} encodes the prompt as {tokens[0]} tokens and the groups' texts as "
                          f"{tokens[1]}, and in diffusers texts of different lengths cannot be mixed. Use a prompt of "
                          f"another length.")
    means = {name: torch.stack([part.float().mean(0, keepdim=True) for part in parts.split([len(t) for t in texts])])
             for name, parts in embedded.items()}
    check_groups(means["prompt_embeds"], attributes)
    return Encoded(own, encode(pipe, [prompt], unconditional=True, **settings), means)
