"""Guidance inside the sampling of Forge and reForge, through their patcher.

A clone of the UNet's patcher gets one function behind classifier-free guidance, for this pass alone: the host puts its
own patcher back before every pass. Predictions are x_0 throughout.
"""
from __future__ import annotations

from typing import Sequence

import torch

from .conditioning import GUIDANCE, POOLED, TOKENS, chosen, with_rows
from .sampling import Pass


def attach(state: Pass, p) -> None:
    """Hook guidance into the pass that starts now."""
    unet = p.sd_model.forge_objects.unet.clone()
    seen = {}

    # Plain functions: the patcher deep-copies its options, and with them any object that holds a state.
    def remember(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
        seen["cond_scale"] = cond_scale
        return model, x, timestep, uncond, cond, cond_scale, model_options, seed

    def after(args):
        if not state.active:
            return args["denoised"]
        try:
            act = longer if state.shifts else guided
            return act(state, args, float(args.get("cond_scale", seen.get("cond_scale", p.cfg_scale))))
        except Exception as error:
            state.fail(error)
            return args["denoised"]

    if hasattr(unet, "add_conditioning_modifier"):
        unet.add_conditioning_modifier(remember)
    unet.set_model_sampler_post_cfg_function(after, disable_cfg1_optimization=True)
    p.sd_model.forge_objects.unet = unet


def guided(state: Pass, args: dict, cond_scale: float):
    """The guided x_0: denoised - cond_scale gamma / k, with k = -1 / sigma."""
    denoised, x, sigma = args["denoised"], args["input"], args["sigma"]
    if state.inside.idle(state.progress):
        return denoised
    if not args["uncond"]:
        return _without_uncond(state, args)
    from modules import shared
    k = -1 / sigma.float().view(-1, *(1,) * (x.ndim - 1))
    cond, uncond = k * args["cond_denoised"].float(), k * args["uncond_denoised"].float()

    def evaluate(text):
        if text is None:
            return None
        if not text.moved:
            own = _text(args["uncond"][0], len(x))
            return cond, uncond, _predicted(args, k, state.further(text, own, shared.sd_model))
        base, further = cond.clone(), {}
        for part in sorted(set(state.guided.values())):  # of AND parts, the guided one is the baseline
            images = [i for i, guided in state.guided.items() if guided == part]
            prompt = _text(args["cond"][part], len(x))
            own = cond if len(args["cond"]) == 1 else _predicted(args, k, [(images, prompt)])
            for image in images:
                base[image] = own[image]
            further.update(_predicted(args, k, [([i for i in at if i in images], moved) for at, moved in
                                                state.further(text, prompt, shared.sd_model)]))
        return base, uncond, further

    gamma = state.gamma(evaluate)
    return denoised if gamma is None else (denoised.float() - cond_scale * gamma / k).to(denoised.dtype)


def _predicted(args: dict, k: torch.Tensor, texts) -> dict[int, torch.Tensor]:
    """Predictions in eps units by image, of texts with the images that they are for."""
    return {image: k[image] * found.float() for images, text in texts if images
            for image, found in _evaluate(args, text, args["input"], args["sigma"], images).items()}


def _without_uncond(state: Pass, args: dict):
    """At CFG 1 the host has no negative prompt: the prompt is the baseline (core/method/step.py)."""
    from modules import shared
    denoised, x, sigma = args["denoised"], args["input"], args["sigma"]
    if len(args["cond"]) > 1:
        state.without_uncond += 1  # whose parts have no baseline of their own
        return denoised
    k = -1 / sigma.float().view(-1, *(1,) * (x.ndim - 1))
    state.without_negative()
    gamma = state.gamma(lambda text: text and (
        k * args["cond_denoised"].float(), None,
        _predicted(args, k, state.further(text, _text(args["cond"][0], len(x)), shared.sd_model))))
    return denoised if gamma is None else (denoised.float() - gamma / k).to(denoised.dtype)


def longer(state: Pass, args: dict, cond_scale: float):
    """The x_0 with predictions for texts longer than the batch's own: classifier-free guidance is linear in each part's
    prediction, so the change is cond_scale times the part's weight times what the longer text changes."""
    denoised, x, sigma = args["denoised"].clone(), args["input"], args["sigma"]
    for images, text in state.evaluated_apart(_text(args["cond"][0], len(x))):
        for image, prediction in _evaluate(args, text, x, sigma, images).items():
            part, weights = state.guided[image], [weight for _, weight in state.parts[image]]
            before = args["cond_denoised"] if len(weights) == 1 else \
                _evaluate(args, _text(args["cond"][part], len(x)), x, sigma, [image])
            change = prediction.float() - before[image].float()
            denoised[image] = (denoised[image].float() + cond_scale * weights[part] * change).to(denoised.dtype)
    return denoised


def _text(condition: dict, images: int):
    """A compiled conditioning's text, as the host's encoders give it, a row an image; of a video the first one."""
    tokens, pooled = condition["cross_attn"][:images], condition.get("pooled_output")
    if pooled is None:
        return tokens
    guidance = condition.get("model_conds", {}).get(GUIDANCE)  # Flux's distilled one, read beside the text
    told = {} if guidance is None else {GUIDANCE: guidance.cond[:images]}
    return {TOKENS: tokens, POOLED: pooled[:images], **told}


def _evaluate(args: dict, text, x: torch.Tensor, sigma: torch.Tensor, images: Sequence[int]
              ) -> dict[int, torch.Tensor]:
    """x_0 for another text [B, ...] of some images, by image, with the ControlNets and image conditioning of the
    prompt's own. Where these, or patches, may tell images by their places in the batch, all are evaluated."""
    try:
        from backend.sampling.condition import compile_conditions
        from backend.sampling.sampling_function import calc_cond_uncond_batch
    except ImportError:  # reForge
        from ldm_patched.modules.samplers import calc_cond_uncond_batch
        from modules_forge.forge_sampler import cond_from_a1111_to_patched_ldm as compile_conditions
    own, options = args["cond"][0], args["model_options"].get("transformer_options", {})
    tied = own.get("control") is not None or "c_concat" in own.get("model_conds", {}) or any(
        options.get(name) for name in ("patches", "patches_replace"))
    rows = list(range(len(x))) if tied else list(images)
    if len(rows) < len(x):
        text, x, sigma = with_rows(text, rows), chosen(x, rows), chosen(sigma, rows)
    (condition,) = compile_conditions(text)
    if own.get("control") is not None:
        condition["control"] = own["control"]
    if "c_concat" in own.get("model_conds", {}):
        condition["model_conds"]["c_concat"] = own["model_conds"]["c_concat"]
    found = calc_cond_uncond_batch(args["model"], [condition], None, x, sigma, args["model_options"])[0]
    return {row: prediction for row, prediction in zip(rows, found) if row in images}
