"""Guidance inside a diffusers pipeline: in front of its denoiser, `pipe.unet` or `pipe.transformer`.

`embedding` and `prediction` send further rows through the denoiser with the pipeline's own and take gamma off its
conditional prediction. Sampler, guidance rule, ControlNets and LoRAs stay the pipeline's own.
"""
from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import Encoded, mixed_rows, shifted, shifted_rows
from ..core.method.direction import mix
from ..core.method.methods import Method
from ..core.method.step import Steps
from .families import family_of

# Tensors of a denoiser's call whose first dimension is not the batch.
_NOT_ROWS = ("img_ids", "txt_ids", "ip_adapter_masks", "image_rotary_emb")


def eps_units(scheduler) -> list[float]:
    """k for each of the scheduler's timesteps, so that k (output_1 - output_2) is a difference in eps units.

    With x = alpha x_0 + sigma eps: eps-prediction 1, v-prediction alpha, x_0-prediction -alpha / sigma, flow 1 (its eps
    is the velocity). Raises DebiasError for a prediction type that is not known.
    """
    flow = "flow_prediction" if "FlowMatch" in type(scheduler).__name__ else None
    kind = scheduler.config.get("prediction_type", flow)
    if kind in ("epsilon", "flow_prediction") and "sigma_data" not in scheduler.config:
        return [1.0] * len(scheduler.timesteps)
    if kind not in ("v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise DebiasError(f"Cannot convert predictions of {type(scheduler).__name__} with prediction type "
                          f"{quoted(kind)}. Use a scheduler of Stable Diffusion or a flow-matching one, or the "
                          "direction 'prompt'.")
    cumprod = scheduler.alphas_cumprod.cpu().double().numpy()
    # Karras and other spacings put timesteps between the trained ones. A terminal alpha of 0 must not divide.
    at = np.interp(scheduler.timesteps.cpu().double().numpy(), np.arange(len(cumprod)), cumprod)
    alpha, sigma = np.sqrt(at).clip(1e-4), np.sqrt(1 - at).clip(1e-4)
    return (alpha if kind == "v_prediction" else -alpha / sigma).tolist()


class GuidedDenoiser:
    """A denoiser's forward with the direction's rows in the same call, and gamma taken off its conditional prediction.

    The batch of a pipeline is [uncond, cond] or, without classifier-free guidance, [cond]; core/method/step.py says
    what the baseline is. Rows are added for images with a weight other than 0 only, and, in the `prediction` direction,
    for their groups with a weight other than 0. They copy the baseline's rows (ControlNet residuals, sizes, masks) in
    everything but the text.
    """

    def __init__(self, pipe, forward, parameters: Sequence[str], attributes: Sequence[Attribute], weights: Tensor,
                 encoded: Encoded, method: Method):
        self.pipe, self.forward, self.parameters = pipe, forward, parameters
        self.attributes, self.context, self.family = attributes, method.context, family_of(pipe)
        self.images = len(weights)
        self.guided = weights.any(1).nonzero().flatten()
        self.weights = weights[self.guided]
        self.image_of, self.group_of = self.weights.nonzero(as_tuple=True)
        self.encoded, self.direction, self.method = encoded, method.direction, method
        self.passes: list[Steps] = []
        self.extra_evaluations = 0
        self.timesteps = None

    def __call__(self, *args, **kwargs):
        call = dict(zip(self.parameters, args), **kwargs)
        sample = call[self.parameters[0]]
        if self.pipe.scheduler.timesteps is not self.timesteps:
            self._begin(len(sample) > self.images)
        index = self._index(call["timestep"])
        progress = index / len(self.times)
        steps = self.passes[-1]
        if not self._is_ours(call, len(sample)) or steps.idle(progress):
            return self.forward(**call)

        first_cond, k = len(sample) - self.images, self.units[index]
        step = self.steps.index(self.times[index])
        if steps.repeats(step, progress):
            output, gamma = self.forward(**call), steps.again()
        else:
            output, gamma = self._evaluate(call, len(sample), first_cond, k, step, progress)

        at = first_cond + self.indices[0]
        prediction = output[0][:len(sample)].clone()
        prediction[at] = (prediction[at].float() - gamma / k).to(prediction.dtype)
        if isinstance(output, tuple):
            return (prediction, *output[1:])
        output.sample = prediction
        return output

    def _evaluate(self, call: dict, rows: int, first_cond: int, k: float, step: int, progress: float) -> tuple:
        """The denoiser's output with the direction's rows, and gamma."""
        at, _, _, copies = self._rows_on(call[self.parameters[0]].device, first_cond)
        output = self.forward(**self._with_text(_with_rows(call, rows, copies), call, rows, copies))
        self.extra_evaluations += len(copies)
        prediction, extra = output[0][:rows], output[0][rows:]
        cond, uncond = prediction[first_cond + at], prediction[at]
        if self.passes[-1].prompt_is_baseline:
            uncond = cond
        elif not first_cond:
            uncond, extra = extra[:len(at)], extra[len(at):]
        return output, self.gamma(step, progress, k * cond.float(), k * uncond.float(), k * extra.float())

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_extra: Tensor) -> Tensor:
        """What is taken off the conditional predictions of the guided images, in eps units."""
        eps_unsafe = eps_extra
        if self.direction == "prediction":  # rows of groups that an image does not need are not evaluated
            _, image_of, group_of, _ = self.indices
            eps_groups = eps_uncond.repeat(self.weights.shape[1], *(1,) * eps_uncond.ndim)
            eps_groups[group_of, image_of] = eps_extra
            eps_unsafe = mix(eps_uncond, eps_groups, self.weights)
        return self.passes[-1].gamma(step, progress, eps_cond, eps_uncond, eps_unsafe)

    def _begin(self, has_uncond: bool):
        """A pipeline sets its timesteps anew in every call, so a new tensor of them is a new run."""
        self.timesteps = self.pipe.scheduler.timesteps
        self.times = self.timesteps.tolist()
        self.steps = list(dict.fromkeys(self.times))  # samplers of second order have most of them twice
        self.units = eps_units(self.pipe.scheduler)
        self.passes.append(Steps(self.method, self.weights, has_uncond))
        self.text = self.mixed_for = self.indices = None

    def _rows_on(self, device, first_cond: int) -> tuple[Tensor, ...]:
        """Guided images; image and group of each row of the `prediction` direction; the rows that the added ones copy.
        Moved once a run: a copy to the device in every step would make it wait."""
        if self.indices is None:
            at, image_of, group_of = (index.to(device) for index in (self.guided, self.image_of, self.group_of))
            copies = first_cond + at if self.passes[-1].prompt_is_baseline else at
            if self.direction == "prediction":
                copies = at[image_of] if first_cond else torch.cat([at, at[image_of]])
            self.indices = at, image_of, group_of, copies
        return self.indices

    def _index(self, timestep) -> int:
        """Place in the schedule; a second-order sampler's repeated timestep keeps its first one."""
        scheduler = self.pipe.scheduler
        index = getattr(scheduler, "step_index", None)
        if index is None:
            index = getattr(scheduler, "begin_index", None)
        if index is None:  # DDIM and its like keep no count, and no sampler has one before its first step
            index = self._place(torch.as_tensor(timestep))
        return self.times.index(self.times[index])

    def _place(self, timestep: Tensor) -> int:
        """The timestep's place among the scheduler's. A view of them tells by where it lies: reading its value would
        make a GPU wait in every step."""
        all_of_them = self.timesteps
        if timestep.untyped_storage().data_ptr() == all_of_them.untyped_storage().data_ptr():
            return (timestep.storage_offset() - all_of_them.storage_offset()) // all_of_them.stride(0)
        now = float(timestep.flatten()[0])
        return min(range(len(self.times)), key=lambda i: abs(self.times[i] - now))

    def _is_ours(self, call: dict, rows: int) -> bool:
        """Does this call hold the conditional rows? Raises DebiasError where its rows do not fit the weights."""
        if call.get("skip_layers") is not None:  # SD 3's skip-layer guidance is a further pass of the same step
            return False
        cfg = getattr(self.pipe, "do_classifier_free_guidance", rows == 2 * self.images) and not (
            self.family and self.family.apart)
        expected = self.images * (2 if cfg else 1)
        if rows != expected:
            raise DebiasError(f"Expected {expected} rows per step for {self.images} rows of weights, but the pipeline "
                              f"evaluates {rows}. Generate as many images in a call as there are rows of weights; a "
                              "pipeline with guidance of another kind needs the direction 'prompt'.")
        # Flux and others evaluate a negative prompt in a call of its own, after the prompt's.
        text = call.get("encoder_hidden_states")
        if self.text is None:
            self.text = text
        return bool(cfg) or text is self.text

    def _with_text(self, extended: dict, call: dict, rows: int, copies: Tensor) -> dict:
        """The extended call with the direction's text in its added rows."""
        texts = self._texts(call)
        if texts["prompt_embeds"] is not self.mixed_for:
            self.mixed_for = texts["prompt_embeds"]
            self.mixed = self._mixed_parts(texts, copies) if self.family else \
                {name: self._mixed(name, text, rows, copies) for name, text in texts.items()}
        joined = {name: torch.cat([text, self.mixed[name].to(text)]) for name, text in texts.items()}
        return self._with_texts_of(extended, joined)

    def _texts(self, call: dict) -> dict[str, Tensor]:
        if self.family is None:
            return _texts(call)
        return {name: call[argument] for name, argument in self.family.inside.items()}

    def _with_texts_of(self, call: dict, texts: dict[str, Tensor]) -> dict:
        if self.family is None:
            return _with_texts(call, texts)
        return {**call, **{self.family.inside[name]: text for name, text in texts.items()}}

    def _mixed_parts(self, texts: dict[str, Tensor], copies: Tensor) -> dict[str, Tensor]:
        """The direction's texts of a family, masks among them."""
        steps, at, prompt = self.passes[-1], self.indices[0], self.encoded.prompt
        for name, text in texts.items():
            empty = [] if self.direction == "embedding" or steps.has_uncond else [self.encoded.empty[name]]
            shapes = {prompt[name].shape[1:], text.shape[1:],
                      *(part.shape[1:] for part in (*self.encoded.groups[name], *empty))}
            if len(shapes) > 1:
                raise DebiasError(f"Inside sampling all texts must have one length, but those of "
                                  f"{type(self.pipe).__name__} have {', '.join(str(s[0]) for s in sorted(shapes))} "
                                  f"tokens. Use the direction 'prompt'.")
        if self.direction == "prediction":
            own = [{name: list(self.encoded.groups[name])[g] for name in texts} for g in self.group_of.tolist()]
            rows = own if steps.has_uncond else [self.encoded.empty] * len(at) + own
        elif steps.prompt_is_baseline:
            rows = shifted_rows(self.encoded, self.attributes, -steps.text_weights, self.context)
        else:
            anchors = [{name: text[copy][None] for name, text in texts.items()} for copy in copies.tolist()]
            rows = mixed_rows(anchors, self.encoded, steps.text_weights)
        return {name: torch.cat([row[name].to(text.device) for row in rows]) for name, text in texts.items()}

    def _mixed(self, name: str, text: Tensor, rows: int, copies: Tensor) -> Tensor:
        groups, steps, at = self.encoded.groups[name].to(text.device), self.passes[-1], self.indices[0]
        weights = steps.text_weights
        if self.direction == "embedding" and not steps.prompt_is_baseline:
            return mix(text[copies], groups, weights)
        if self.direction == "embedding":
            prompt = self.encoded.prompt[name]
            if prompt.shape[1:] != text.shape[1:]:
                raise DebiasError(f"The prompt was encoded as {list(prompt.shape[1:])}, but the pipeline evaluates "
                                  f"{list(text.shape[1:])}. Encode it with the call's own max_sequence_length.")
            change = shifted(self.encoded, self.attributes, -weights, self.context)[name].float() - prompt.float()
            return (text[copies].float() + change.to(text.device)).to(text.dtype)
        chosen = groups[self.group_of, 0].to(text.dtype)
        empty = self.encoded.empty[name].to(text).expand(len(at), *text.shape[1:])
        return chosen if steps.has_uncond else torch.cat([empty, chosen])


class WindowedPrompt(GuidedDenoiser):
    """The `prompt` direction in a window: the pipeline was given the shifted text, and outside the window the prompt's
    own stands in its place. `shifted` holds the places of the schedule at which it was evaluated."""

    def __init__(self, *args):
        super().__init__(*args)
        self.shifted: set[int] = set()

    def __call__(self, *args, **kwargs):
        call = dict(zip(self.parameters, args), **kwargs)
        rows = len(call[self.parameters[0]])
        if self.pipe.scheduler.timesteps is not self.timesteps:
            self.timesteps, self.text = self.pipe.scheduler.timesteps, None
            self.times = self.timesteps.tolist()
        index = self._index(call["timestep"])
        if self._is_ours(call, rows):
            if self.method.guidance.active(index / len(self.times)):
                self.shifted.add(index)
            else:
                call = self._with_texts_of(call, {name: self._own(name, text)
                                                  for name, text in self._texts(call).items()})
        return self.forward(**call)

    def _is_ours(self, call: dict, rows: int) -> bool:
        """Without an added row it does not matter where the negative prompt is: a call of its own comes second."""
        if rows != self.images:
            return super()._is_ours(call, rows)
        text = call.get("encoder_hidden_states")
        if self.text is None:
            self.text = text
        return text is self.text

    def _own(self, name: str, text: Tensor) -> Tensor:
        prompt, rows = self.encoded.prompt[name].to(text), text.clone()
        if prompt.shape[1:] != text.shape[1:]:
            raise DebiasError("To guide in only a part of the steps, the prompt and its groups' texts must have one "
                              f"length, but these have {prompt.shape[1]} and {text.shape[1]} tokens. Guide in all "
                              "steps.")
        rows[len(text) - self.images + self.guided.to(text.device)] = prompt  # the others hold it already
        return rows


def _texts(call: dict) -> dict[str, Tensor]:
    """Where a denoiser's call holds the text: tokens and, in SDXL (added), SD 3 and Flux, a pooled vector."""
    pooled = call.get("pooled_projections")
    if pooled is None:
        pooled = (call.get("added_cond_kwargs") or {}).get("text_embeds")
    texts = dict(prompt_embeds=call["encoder_hidden_states"], pooled_prompt_embeds=pooled)
    return {name: text for name, text in texts.items() if text is not None}


def _with_texts(call: dict, texts: dict[str, Tensor]) -> dict:
    """The call with other texts, as `_texts` names them."""
    call, pooled = {**call, "encoder_hidden_states": texts["prompt_embeds"]}, texts.get("pooled_prompt_embeds")
    if pooled is None:
        return call
    if call.get("pooled_projections") is not None:
        return {**call, "pooled_projections": pooled}
    return {**call, "added_cond_kwargs": {**call["added_cond_kwargs"], "text_embeds": pooled}}


def _with_rows(value, rows: int, copies: Tensor):
    """A denoiser's arguments with further rows, copies of the named ones, wherever a tensor has the batch's size."""
    if isinstance(value, Tensor):
        return torch.cat([value, value[copies]]) if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: item if name in _NOT_ROWS else _with_rows(item, rows, copies) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_rows(item, rows, copies) for item in value)
    return value


def check(pipe) -> None:
    """Raises DebiasError where the directions `embedding` and `prediction` cannot act on this pipeline: where its
    denoiser or its scheduler is not of a kind that is known."""
    _denoiser(pipe)
    eps_units(pipe.scheduler)


def _denoiser(pipe) -> tuple[torch.nn.Module, list[str]]:
    """The pipeline's denoiser and its arguments' names. Raises DebiasError for one that is not known."""
    module = getattr(pipe, "unet", getattr(pipe, "transformer", None))
    network = getattr(module, "_orig_mod", module)
    parameters = list(inspect.signature(type(network).forward).parameters)[1:] if network is not None else []
    if "timestep" not in parameters or "encoder_hidden_states" not in parameters:
        raise DebiasError(f"Cannot guide {type(pipe).__name__}: expected pipe.unet or pipe.transformer with timestep "
                          f"and encoder_hidden_states among its arguments. Use the direction 'prompt'.")
    return module, parameters


@contextmanager
def hooked(pipe, attributes: Sequence[Attribute], weights: Tensor, encoded: Encoded, method: Method,
           kind: type[GuidedDenoiser] = GuidedDenoiser) -> Iterator[GuidedDenoiser]:
    """Puts a GuidedDenoiser in front of the pipeline's denoiser, outside torch.compile and offloading hooks."""
    module, parameters = _denoiser(pipe)
    # A module compiled in place calls its compiled form, any other its forward. Instance attributes come first.
    entry = "_compiled_call_impl" if getattr(module, "_compiled_call_impl", None) is not None else "forward"
    own = module.__dict__.get(entry)
    if isinstance(own, GuidedDenoiser):
        raise DebiasError("This pipeline is guided already. Give all attributes to one call instead of nesting two.")
    hook = kind(pipe, getattr(module, entry), parameters, attributes, weights, encoded, method)
    module.__dict__[entry] = hook
    try:
        yield hook
    finally:
        if module.__dict__.get(entry) is hook:  # offloading may have put another in its place meanwhile
            if own is None:
                del module.__dict__[entry]
            else:
                module.__dict__[entry] = own
