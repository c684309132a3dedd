"""Guidance inside the sampling of AUTOMATIC1111's webui, and what Forge shares with it.

Two callbacks of the classifier-free guidance denoiser are used, nothing is patched. The first sees the texts of a step:
the `prompt` direction moves them there, on both hosts. The second, which Forge does not call, sees the predictions: the
direction is evaluated in a further call, and gamma is taken off the conditional rows in place.
"""
from __future__ import annotations

import weakref
from typing import Sequence

import torch
from torch import Tensor

from ..core.errors import DebiasError
from .conditioning import chosen, tokens_of, with_rows
from .run import CURRENT
from .sampling import Pass

STATE = "sd_debias_pass"  # on the first callback's params: the pass that the second one is for
# Of the evaluation that runs: the second callback is not told which one calls it. The host holds its params until that
# ends; where the model fails in between, nothing of it stays here.
_params: weakref.ref | None = None


def register() -> None:
    """Called by the shim each time that the host loads it."""
    from modules import script_callbacks
    script_callbacks.on_cfg_denoiser(before)
    script_callbacks.on_cfg_denoised(after)


def is_forge(p) -> bool:
    return hasattr(p.sd_model, "forge_objects")


def before(params) -> None:
    """The host is about to evaluate a step."""
    global _params
    _params = None
    p = getattr(getattr(params, "denoiser", None), "p", None)
    state = getattr(p, CURRENT, None)
    if state is None or state.owner is not p or not state.active:
        return
    try:
        state.at(params.denoiser.step, params.denoiser.total_steps)
        if state.shifts:
            from modules import shared
            params.text_cond = state.shifted(params.text_cond, shared.sd_model)
        if not is_forge(p) and (state.longer or not state.shifts):
            setattr(params, STATE, state)
            _params = weakref.ref(params)
    except Exception as error:
        state.fail(error)


def after(params) -> None:
    """The host has evaluated a step; its rows are the AND parts of image 0, 1, ..., then the unconditional ones."""
    global _params
    step, _params = _params and _params(), None
    state = getattr(step, STATE, None)
    if state is None or not state.active:
        return
    try:
        act = longer if state.shifts else guide
        act(state, step, params.x, params.inner_model)
    except Exception as error:
        state.fail(error)


def longer(state: Pass, step, x_out: Tensor, inner_model) -> None:
    """Put the predictions for texts longer than the batch's own in place of the host's, which knows the prompt's."""
    places = _places(state, step.x)
    for images, text in state.evaluated_apart(step.text_uncond):
        for image, prediction in _evaluate(step, text, images, len(state.seeds), inner_model, state.mark).items():
            x_out[places[image][state.guided[image]][0]] = prediction.to(x_out.dtype)


def guide(state: Pass, step, x_out: Tensor, inner_model) -> None:
    """Take gamma off the conditional rows of x_out, in place.

    step holds the evaluation's inputs (CFGDenoiserParams). k (x_out - x_out') is a difference in eps units: samplers of
    k-diffusion give x_0, whose k is -1 / sigma, the others eps.
    """
    from modules import shared
    if state.inside.idle(state.progress):
        return
    b, places = len(state.seeds), _places(state, step.x)
    uncond = x_out[-b:].float()
    if _may_skip(state.owner) and torch.equal(chosen(x_out, [parts[0][0] for parts in places]), x_out[-b:]):
        state.without_uncond += 1  # the host skips the negative prompt in this step and repeats the prompt instead
        return
    k = (torch.ones_like(step.sigma) if hasattr(step.denoiser, "alphas") else -1 / step.sigma)[-b:]
    k = k.float().view(-1, *(1,) * (x_out.ndim - 1))
    if state.inside.prompt_is_baseline:  # of AND parts, the guided one is the baseline
        rows = [parts[state.guided.get(image, 0)][0] for image, parts in enumerate(places)]
        base, cond = with_rows(step.text_cond, rows), chosen(x_out, rows).float()
    else:
        base, cond = step.text_uncond, torch.stack([u + sum(w * (x_out[row].float() - u) for row, w in parts)
                                                    for u, parts in zip(uncond, places, strict=True)])

    def evaluate(text):
        return k * cond, k * uncond, {
            image: k[image] * prediction
            for images, further in (state.further(text, base, shared.sd_model) if text else ())
            for image, prediction in _evaluate(step, further, images, b, inner_model, state.mark).items()}

    gamma = state.gamma(evaluate)
    if gamma is None:
        return
    for image_of, part in state.guided.items():
        row, weight = places[image_of][part]
        shift = gamma[image_of] / k[image_of] / weight  # classifier-free guidance multiplies a part by its weight
        x_out[row] = (x_out[row].float() - shift).to(x_out.dtype)


def _may_skip(p) -> bool:
    """Can the host leave the negative prompt out of a step ("NGMS", "skip early CFG")? Only then is it worth to compare
    predictions, for which a GPU waits."""
    from modules import shared
    return any(getattr(place, name, 0) for place, name in (
        (p, "s_min_uncond"), (shared.opts, "s_min_uncond"), (shared.opts, "skip_early_cond")))


def _places(state: Pass, x: Tensor) -> list[list[tuple[int, float]]]:
    """(row, weight) of every image's AND parts in this evaluation.

    Other extensions may sort the rows while they are evaluated, as regional-prompter does. A row has its image's x.
    """
    b, owners = len(state.seeds), [image for image, parts in enumerate(state.parts) for _ in parts]
    if b == 1 or len(owners) == b or torch.equal(x[:len(owners)], x[-b:][owners]):
        return state.parts
    found = [[row for row in range(len(owners)) if torch.equal(x[row], own)] for own in x[-b:]]
    if [len(rows) for rows in found] != [len(parts) for parts in state.parts]:
        raise DebiasError("The rows of an evaluation are not those of its images: another extension has changed them.")
    return [[(row, weight) for row, (_, weight) in zip(rows, parts, strict=True)]
            for rows, parts in zip(found, state.parts, strict=True)]


def _evaluate(step, text, images: Sequence[int], b: int, inner_model, mark: int) -> dict[int, Tensor]:
    """The model's output for other texts [b, ...] of some of the step's images, float32, by image.

    ControlNet, which marks the text, keeps hints for all rows of one evaluation: there all are evaluated.
    """
    from modules import shared
    rows = list(images)
    if mark:
        whole = getattr(shared.opts, "batch_cond_uncond", True) and (
            tokens_of(step.text_cond).shape[1] == tokens_of(step.text_uncond).shape[1])
        rows = [row % b for row in range(len(step.x) if whole else b)]
    x, sigma, image = (chosen(part[-b:], rows) for part in (step.x, step.sigma, step.image_cond))
    found = inner_model(x, sigma, cond=_condition(with_rows(text, rows), image)).float()
    return {row: prediction for row, prediction in zip(rows[:b], found) if row in images}


def _condition(text, image: Tensor) -> dict:
    """The model's conditioning in the host's own form."""
    from modules import shared
    if shared.sd_model.model.conditioning_key == "crossattn-adm":
        return {"c_crossattn": [text], "c_adm": image}
    if isinstance(text, dict):
        return {**text, "c_concat": [image]}
    return {"c_crossattn": [text], "c_concat": [image]}
