"""Texts as a diffusers pipeline encodes them."""
from __future__ import annotations

import inspect
from typing import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method.conditioning import Encoded, check_groups, check_unmixed, mean, together
from ..core.method.direction import group_texts
from .families import Family, WholeTexts, family_of, looks_at_image

# What encode_prompt returns, by (does it do classifier-free guidance, does the pipeline take pooled texts, length).
_LAYOUTS = {
    (True, False, 2): ("prompt_embeds", "negative_prompt_embeds"),  # Stable Diffusion 1 and 2
    (True, True, 4): ("prompt_embeds", "negative_prompt_embeds",    # Stable Diffusion XL and 3
                      "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    (False, True, 3): ("prompt_embeds", "pooled_prompt_embeds", "text_ids"),  # Flux
}
# Settings of a pipeline's call that change how it encodes text.
_ENCODING = ("clip_skip", "max_sequence_length", "clean_caption", "complex_human_instruction", "system_prompt")


def encode(pipe, texts: Sequence[str], **settings) -> dict[str, Tensor]:
    """Embeddings of T texts as the pipeline itself makes them: `prompt_embeds` [T, L, D] and, in SDXL, SD 3 and Flux,
    `pooled_prompt_embeds` [T, P].

    `settings`: clip_skip, max_sequence_length, lora_scale. Raises DebiasError for an encode_prompt not known.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    known = inspect.signature(pipe.encode_prompt).parameters if hasattr(pipe, "encode_prompt") else {}
    refusal = DebiasError(f"This needs texts of one length, as Stable Diffusion 1 to 3, SDXL and Flux encode them, but "
                          f"{type(pipe).__name__} does not. Use one of these, or the direction 'prompt'.")
    if not known or "prompt_embeds" not in accepted or any("prompt" in name and "mask" in name for name in accepted):
        raise refusal
    cfg = "do_classifier_free_guidance" in known
    arguments = dict(prompt=list(texts), device=pipe._execution_device, num_images_per_prompt=1,
                     prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, **settings)
    with torch.no_grad():
        returned = pipe.encode_prompt(**{name: value for name, value in arguments.items() if name in known})
    layout = _LAYOUTS.get((cfg, "pooled_prompt_embeds" in accepted, len(returned)))
    if layout is None or not isinstance(returned[0], Tensor):
        raise refusal
    parts = dict(zip(layout, returned))
    return {name: parts[name] for name in ("prompt_embeds", "pooled_prompt_embeds") if name in parts}


_known: WeakKeyDictionary = WeakKeyDictionary()  # pipelines: are their texts of one length?


def of_one_length(pipe) -> bool:
    """Does the pipeline encode all texts with the same length, as Stable Diffusion 1 to 3, SDXL and Flux do?"""
    if pipe not in _known:
        try:
            _known[pipe] = family_of(pipe) is None and not looks_at_image(pipe) and len({
                encode(pipe, [text])["prompt_embeds"].shape[1] for text in ("a", "a photo of a doctor, a woman")}) == 1
        except (DebiasError, TypeError):  # its encode_prompt may need more than is known here
            _known[pipe] = False
    return _known[pipe]


def encoding_of(call: dict) -> dict:
    """Those arguments of a pipeline's call that change how texts are encoded, as `encode` takes them."""
    encoding = {name: call[name] for name in _ENCODING if name in call}
    for lora in ("cross_attention_kwargs", "joint_attention_kwargs"):
        if "scale" in (call.get(lora) or {}):
            encoding["lora_scale"] = call[lora]["scale"]
    return encoding


def encode_all(pipe, prompt: str, attributes: Sequence[Attribute], context: str, *, subject: str = "", **settings
               ) -> Encoded | WholeTexts:
    """Encodes the prompt and all group texts; `WholeTexts` for a pipeline whose texts are not known.
    Raises DebiasError where groups of one attribute read alike.
    """
    groups = [group for attribute in attributes for group in attribute.groups]
    texts = [group_texts(group.texts, prompt, context, subject) for group in groups]
    family = family_of(pipe)
    if family is not None:
        return _by_family(pipe, family, prompt, texts, attributes, **settings)
    if not of_one_length(pipe):
        return WholeTexts(prompt, tuple(attributes), context, subject)
    embedded = encode(pipe, [text for group in texts for text in group], **settings)
    own = encode(pipe, [prompt], **settings)
    means = {name: torch.stack([part.float().mean(0, keepdim=True) for part in parts.split([len(t) for t in texts])])
             for name, parts in embedded.items()}
    check_groups(means, attributes)
    return Encoded(own, means)


def _by_family(pipe, family: Family, prompt: str, texts: Sequence[Sequence[str]], attributes: Sequence[Attribute],
               **settings) -> Encoded:
    """Each text alone, with its own length."""
    own = family.encode(pipe, prompt, **settings)
    found = [[family.encode(pipe, text, **settings) for text in group] for group in texts]
    lacking = [{name: None for name in own if name not in one} for group in found for one in group]
    check_unmixed({}, [part for part in lacking if part])
    groups = {name: together([mean([one[name] for one in group]) for group in found]) for name in own}
    check_groups(groups, attributes)
    return Encoded(own, groups)
