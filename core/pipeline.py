"""Guides any diffusers text-to-image pipeline without a copy of it, and generates the images of a calibration.

Only the gap between a pipeline and its denoiser (`pipe.unet` or `pipe.transformer`) is touched: the `prompt` direction
passes shifted prompt embeddings in; `embedding` and `prediction` send further rows through the denoiser with the
pipeline's own and take gamma off its conditional prediction. Sampler, guidance rule, ControlNets and LoRAs stay the
pipeline's own. Everything is undone when the context ends, also after an exception.
"""
from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from . import steering
from .attribute import Attribute
from .direction import group_texts, mix, shift_prompt
from .errors import DebiasError, quoted, short
from .guidance import GuidanceRun
from .method import ALONE, METHODS, Method
from .safe_latent import SafeLatentGuidance

# What encode_prompt returns, by (does it do classifier-free guidance, does the pipeline take pooled texts, length).
_LAYOUTS = {
    (True, False, 2): ("prompt_embeds", "negative_prompt_embeds"),  # Stable Diffusion 1 and 2
    (True, True, 4): ("prompt_embeds", "negative_prompt_embeds",    # Stable Diffusion XL and 3
                      "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    (False, True, 3): ("prompt_embeds", "pooled_prompt_embeds", "text_ids"),  # Flux
}
# Settings of a pipeline's call that change how it encodes text.
_ENCODING = ("clip_skip", "max_sequence_length")
# Tensors of a denoiser's call whose first dimension is not the batch.
_NOT_ROWS = ("img_ids", "txt_ids", "ip_adapter_masks")


# --- text ------------------------------------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class Encoded:
    """What a direction needs of the text encoders, each by part (`prompt_embeds`, `pooled_prompt_embeds`).

    prompt, empty  the prompt's embeddings and the unconditional ones, [1, ...], in the model's dtype
    groups         each g_i, the mean over the group's texts, all attributes side by side: float32 [n, 1, ...]
    """
    prompt: dict[str, Tensor]
    empty: dict[str, Tensor]
    groups: dict[str, Tensor]


def encode_all(pipe, prompt: str, attributes: Sequence[Attribute], context: str, **settings) -> Encoded:
    """Encodes the prompt, the empty one and all group texts. Warns where groups of one attribute come out alike."""
    groups = [group for attribute in attributes for group in attribute.groups]
    texts = [group_texts(group.texts, prompt, context) for group in groups]
    embedded = encode(pipe, [text for group in texts for text in group], **settings)
    means = {name: torch.stack([part.float().mean(0, keepdim=True) for part in parts.split([len(t) for t in texts])])
             for name, parts in embedded.items()}
    at = 0
    for attribute in attributes:
        own = means["prompt_embeds"][at:at + len(attribute.groups)]
        at += len(attribute.groups)
        if len(torch.unique(own.flatten(1), dim=0)) < len(own):
            warnings.warn(f"Some groups of {quoted(attribute.name)} read the same to this model. Their texts may lie "
                          f"beyond its longest prompt: shorten the prompt, or use the context '{ALONE}'.")
    return Encoded(encode(pipe, [prompt], **settings), encode(pipe, [prompt], unconditional=True, **settings), means)


def shifted(encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, context: str) -> dict[str, Tensor]:
    """The `prompt` direction for every part, [B, ...]: the shifts of all attributes, each from its own anchor."""
    sizes = [len(attribute.groups) for attribute in attributes]
    result = {}
    for name, c in encoded.prompt.items():
        total = c.float()
        for attribute, g, a in zip(attributes, encoded.groups[name].split(sizes), weights.split(sizes, dim=1)):
            texts = [text for group in attribute.groups for text in group.texts]
            in_context = "{prompt}" in context or all("{prompt}" in text for text in texts)
            total = shift_prompt(total, g, a, c if in_context else g.mean(0))
        result[name] = total.to(c.dtype)
    return result


# --- denoiser --------------------------------------------------------------------------------------------------------

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

    The batch of a pipeline is [uncond, cond] or, without classifier-free guidance, [cond]. Then the prompt's own
    prediction is the baseline of the `embedding` direction, which costs no row; u is the prompt, shifted, no threshold
    holds, for gamma and what it compares would be one difference, and every second step repeats the last gamma. For the
    `prediction` direction the empty prompt is evaluated as well. Rows are added for images with a weight other than 0
    only, and, in the `prediction` direction, for their groups with a weight other than 0. They copy the unconditional
    rows (ControlNet residuals, sizes, masks) in everything but the text.
    """

    # Steps to one evaluation of `embedding` without classifier-free guidance, where an added row doubles a step; in
    # between gamma is repeated. Measured by benchmarks/windows.py.
    EVERY = 2

    def __init__(self, pipe, forward, parameters: Sequence[str], attributes: Sequence[Attribute], weights: Tensor,
                 encoded: Encoded, method: Method):
        self.pipe, self.forward, self.parameters = pipe, forward, parameters
        self.attributes, self.context = attributes, method.context
        self.images = len(weights)
        self.guided = weights.any(1).nonzero().flatten()
        self.weights = weights[self.guided]
        self.image_of, self.group_of = self.weights.nonzero(as_tuple=True)
        self.encoded, self.direction, self.guidance = encoded, method.direction, method.guidance
        self.runs: list[GuidanceRun] = []
        self.extra_evaluations = 0
        self.timesteps = None

    def __call__(self, *args, **kwargs):
        call = dict(zip(self.parameters, args), **kwargs)
        sample = call[self.parameters[0]]
        if self.pipe.scheduler.timesteps is not self.timesteps:
            self._begin(len(sample) > self.images)
        index = self._index(call["timestep"])
        progress = index / len(self.times)
        if not self._is_ours(call, len(sample)) or not self.guidance.needs_unsafe(progress):
            return self.forward(**call)

        first_cond, k = len(sample) - self.images, self.units[index]
        step = self.steps.index(self.times[index])
        repeated = not first_cond and self.direction == "embedding" and 0 < step - self.evaluated < self.EVERY
        if repeated and self.guidance.active(progress):
            output, gamma = self.forward(**call), self.runs[-1].again()
        else:
            output, gamma = self._evaluate(call, len(sample), first_cond, k, progress)
            self.evaluated = step if self.guidance.active(progress) else self.evaluated

        at = first_cond + self.indices[0]
        prediction = output[0][:len(sample)].clone()
        prediction[at] = (prediction[at].float() - gamma / k).to(prediction.dtype)
        if isinstance(output, tuple):
            return (prediction, *output[1:])
        output.sample = prediction
        return output

    def _evaluate(self, call: dict, rows: int, first_cond: int, k: float, progress: float) -> tuple:
        """The denoiser's output with the direction's rows, and gamma."""
        at, _, _, copies = self._rows_on(call[self.parameters[0]].device, bool(first_cond))
        output = self.forward(**self._with_text(_with_rows(call, rows, copies), call, rows, at))
        self.extra_evaluations += len(copies)
        prediction, extra = output[0][:rows], output[0][rows:]
        cond, uncond = prediction[first_cond + at], prediction[at]
        if self.direction == "prediction" and not first_cond:
            uncond, extra = extra[:len(at)], extra[len(at):]
        return output, self.gamma(k * cond.float(), k * uncond.float(), k * extra.float(), progress)

    def gamma(self, eps_cond: Tensor, eps_uncond: Tensor, eps_extra: Tensor, progress: float) -> Tensor:
        """What is taken off the conditional predictions of the guided images, in eps units."""
        eps_unsafe = eps_extra
        if self.direction == "prediction":
            _, image_of, group_of, _ = self.indices
            eps_groups = eps_uncond.repeat(self.weights.shape[1], *(1,) * eps_uncond.ndim)
            eps_groups[group_of, image_of] = eps_extra
            eps_unsafe = mix(eps_uncond, eps_groups, self.weights)
        return self.runs[-1].step(eps_cond, eps_uncond, eps_unsafe, progress)

    def _begin(self, has_uncond: bool):
        """A pipeline sets its timesteps anew in every call, so a new tensor of them is a new run."""
        self.timesteps = self.pipe.scheduler.timesteps
        self.times = self.timesteps.tolist()
        self.steps = list(dict.fromkeys(self.times))  # samplers of second order have most of them twice
        self.units = eps_units(self.pipe.scheduler)
        prompt_is_baseline = self.direction == "embedding" and not has_uncond
        self.runs.append(GuidanceRun(replace(self.guidance, threshold=None) if prompt_is_baseline else self.guidance))
        self.text = self.mixed_for = self.indices = None
        self.evaluated = -self.EVERY  # the last step that was; none before the first

    def _rows_on(self, device, has_uncond: bool) -> tuple[Tensor, ...]:
        """Guided images; image and group of each row of the `prediction` direction; the rows that the added ones copy.
        Moved once a run: a copy to the device in every step would make it wait."""
        if self.indices is None:
            at, image_of, group_of = (index.to(device) for index in (self.guided, self.image_of, self.group_of))
            copies = at
            if self.direction == "prediction":
                copies = at[image_of] if has_uncond else torch.cat([at, at[image_of]])
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
        cfg = getattr(self.pipe, "do_classifier_free_guidance", rows == 2 * self.images)
        expected = self.images * (2 if cfg else 1)
        if rows != expected:
            raise DebiasError(f"Expected {expected} rows a step for {self.images} rows of weights, but the pipeline "
                              f"evaluates {rows}. Generate as many images in a call as there are rows of weights; a "
                              f"pipeline with guidance of another kind needs the direction 'prompt'.")
        # Flux evaluates a negative prompt in a call of its own, after the prompt's.
        text = call.get("encoder_hidden_states")
        if self.text is None:
            self.text = text
        return bool(cfg) or text is self.text

    def _with_text(self, extended: dict, call: dict, rows: int, at: Tensor) -> dict:
        """The extended call with the direction's text in its added rows."""
        texts = _texts(call)
        if texts["prompt_embeds"] is not self.mixed_for:
            self.mixed_for = texts["prompt_embeds"]
            self.mixed = {name: self._mixed(name, text, rows, at) for name, text in texts.items()}
        joined = {name: torch.cat([text, self.mixed[name]]) for name, text in texts.items()}
        extended["encoder_hidden_states"] = joined.pop("prompt_embeds")
        for pooled in joined.values():
            if extended.get("pooled_projections") is not None:
                extended["pooled_projections"] = pooled
            else:
                extended["added_cond_kwargs"]["text_embeds"] = pooled
        return extended

    def _mixed(self, name: str, text: Tensor, rows: int, at: Tensor) -> Tensor:
        groups, has_uncond = self.encoded.groups[name].to(text.device), rows > self.images
        if self.direction == "embedding" and has_uncond:
            return mix(text[at], groups, self.weights)
        if self.direction == "embedding":
            prompt = self.encoded.prompt[name]
            if prompt.shape[1:] != text.shape[1:]:
                raise DebiasError(f"The prompt was encoded as {list(prompt.shape[1:])}, but the pipeline evaluates "
                                  f"{list(text.shape[1:])}. Encode it with the call's own max_sequence_length.")
            change = shifted(self.encoded, self.attributes, -self.weights, self.context)[name].float() - prompt.float()
            return (text[at].float() + change.to(text.device)).to(text.dtype)
        chosen = groups[self.group_of, 0].to(text.dtype)
        empty = self.encoded.empty[name].to(text).expand(len(at), *text.shape[1:])
        return chosen if has_uncond else torch.cat([empty, chosen])


def _texts(call: dict) -> dict[str, Tensor]:
    """Where a denoiser's call holds the text: tokens and, in SDXL (added), SD 3 and Flux, a pooled vector."""
    pooled = call.get("pooled_projections")
    if pooled is None:
        pooled = (call.get("added_cond_kwargs") or {}).get("text_embeds")
    texts = dict(prompt_embeds=call["encoder_hidden_states"], pooled_prompt_embeds=pooled)
    return {name: text for name, text in texts.items() if text is not None}


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


# --- use -------------------------------------------------------------------------------------------------------------

class Guide:
    """What `guided` yields.

    call       arguments for the pipeline's call: the prompt once for each image, or its shifted embeddings
    summary()  what guidance did, for metadata; complete when the context has ended
    """

    def __init__(self, direction: str, call: dict):
        self.direction, self.call = direction, call
        self.records: list[dict] = []
        self.extra_evaluations = 0

    def summary(self) -> dict:
        """`acted`, whether anything changed; `guided_images`; `steps` guided and `skipped`, in part, for NaN or Inf
        (the `prompt` direction has none); `magnitude`, mean |gamma| in eps units, or mean |c' - c| of the embeddings;
        `extra_evaluations`, rows that the denoiser evaluated on top of the pipeline's own."""
        return dict(direction=self.direction, **_together(self.records), extra_evaluations=self.extra_evaluations)


def _together(records: Sequence[dict]) -> dict:
    acted = [record for record in records if record["acted"]]
    images = sum(record["guided_images"] for record in acted)
    return dict(acted=bool(acted), guided_images=images, steps=max((r["steps"] for r in records), default=0),
                skipped=sum(r["skipped"] for r in records),
                magnitude=sum(r["magnitude"] * r["guided_images"] for r in acted) / max(images, 1))


@contextmanager
def guided(pipe, prompt: str, attributes: Sequence[Attribute], weights: Tensor, method: Method = METHODS["default"], *,
           negative_prompt: str | None = None, encoded: Encoded | None = None, **encoding) -> Iterator[Guide]:
    """Guides the pipeline's calls inside the context, B images of one prompt each:

        with guided(pipe, "a photo of a doctor", [GENDER], weights) as guide:
            images = pipe(**guide.call, num_inference_steps=30).images

    weights   [B, n], the groups of all attributes side by side (`steering.rows`). A row of zeros leaves its image as it
              is; where all are zero, or method.guidance.scale is, nothing is touched.
    encoded   spares encoding the texts again, else `encoding` is the call's clip_skip, max_sequence_length, lora_scale

    The `prompt` direction shifts the prompt for all steps and has no SLD step, so it refuses guidance settings, a
    window above all, rather than ignore them. Warns where guidance had no effect. Raises DebiasError for weights that
    do not fit, and for a pipeline or scheduler that is not known.
    """
    weights = _checked(weights, attributes, method)
    images = len(weights)
    guide = Guide(method.direction, dict(prompt=[prompt] * images))
    if negative_prompt is not None:
        guide.call["negative_prompt"] = [negative_prompt] * images
    if method.guidance.scale == 0 or not weights.any():
        yield guide
        return

    encoded = encoded or encode_all(pipe, prompt, attributes, method.context, **encoding)
    guided_images = int(weights.any(1).sum())
    if method.direction == "prompt":
        parts = shifted(encoded, attributes, weights, method.context)
        c, shift = encoded.prompt["prompt_embeds"].float(), parts["prompt_embeds"].float()
        change, size = (shift - c).abs().mean().item() * len(weights) / guided_images, c.abs().mean().item()
        guide.records = [dict(acted=change > 1e-6 * size, magnitude=change, steps=0, skipped=0,
                              guided_images=guided_images)]
        guide.call.update(parts, prompt=None)
        yield guide
        reason = "the group texts mean the same to this model as the prompt."
    else:
        with hooked(pipe, attributes, weights, encoded, method) as denoiser:
            yield guide
        guide.records = [dict(run.summary(), guided_images=guided_images) for run in denoiser.runs]
        guide.extra_evaluations = denoiser.extra_evaluations
        done, window = guide.summary(), (method.guidance.start, method.guidance.end)
        reason = (f"of {len(denoiser.runs)} calls of the pipeline {done['steps']} steps fell into the window {window}, "
                  f"{done['skipped']} of which were skipped.")
    if not guide.summary()["acted"]:
        warnings.warn(f"Guidance had no effect: {reason}")


def _checked(weights, attributes: Sequence[Attribute], method: Method) -> Tensor:
    weights = torch.as_tensor(weights, dtype=torch.float32).cpu()
    n = sum(len(attribute.groups) for attribute in attributes)
    if weights.ndim != 2 or weights.shape[1] != n or not len(weights):
        raise DebiasError(f"Expected weights [B, n] with n = {n} groups, but {list(weights.shape)} came.")
    if not torch.isfinite(weights).all():
        raise DebiasError(f"Weights must be finite, but {short(weights.tolist())} came. Calibrate again, or drop "
                          f"them.")
    if method.direction == "prompt" and method.guidance.scale and method.guidance != SafeLatentGuidance():
        raise DebiasError(f"The direction 'prompt' shifts the prompt for all steps and takes no guidance settings, but "
                          f"{method.guidance} came. Leave them out, or use 'embedding'.")
    return weights


def generate(pipe, prompt: str, seeds: Sequence[int], *, attributes: Sequence[Attribute] = (),
             steerings: Sequence[steering.Steering] = (), weights: Tensor | None = None,
             guidance_strength: float = 1.0, method: Method = METHODS["default"], negative_prompt: str | None = None,
             batch_size: int = 4, encoded: Encoded | None = None, **call) -> tuple[np.ndarray, dict]:
    """One image for each seed: uint8 [N, H, W, 3], and what guidance did.

    Weights come from `steerings`, one for each attribute, or as `weights` [N, n] or [n], times `guidance_strength`;
    without attributes nothing is guided. Each image has a generator of its own, seeded on the CPU, so it is the same in
    any batch up to float rounding, where the pipeline itself keeps images apart. `encoded`, of `encode_all`, spares
    further calls of a prompt encoding its texts again. `call` goes to the pipeline (num_inference_steps,
    guidance_scale, image ...). The info is `Guide.summary` with `weights`, the rows used,
    `blocked`, how many images the pipeline's safety checker blacked out, and `broken`, the places of those that are not
    finite and stand as black ones; the last two warn. Raises DebiasError as `guided`, and for missing weights or seeds.
    """
    seeds = [int(seed) for seed in seeds]
    rows = _rows(attributes, steerings, weights, guidance_strength, seeds)
    if batch_size < 1:
        raise DebiasError(f"Expected a batch size of 1 or more, but {batch_size} came.")
    rows = _checked(rows, attributes, method)
    if encoded is None and method.guidance.scale and rows.any():
        encoded = encode_all(pipe, prompt, attributes, method.context, **encoding_of(call))

    images, records, blocked = [], [], 0
    for start in range(0, len(seeds), batch_size):
        batch = slice(start, start + batch_size)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[batch]]
        with guided(pipe, prompt, attributes, rows[batch], method, negative_prompt=negative_prompt,
                    encoded=encoded) as guide:
            output = pipe(**guide.call, generator=generators, output_type="np", **call)
        images.append(output.images)
        blocked += sum(map(bool, getattr(output, "nsfw_content_detected", None) or ()))
        records.append(guide.summary())

    pixels = np.concatenate(images)
    broken = np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3))).tolist()
    if blocked:
        warnings.warn(f"The pipeline's safety checker blacked out {blocked} of {len(seeds)} images: no count holds.")
    if broken:
        warnings.warn(f"{len(broken)} of {len(seeds)} images are not finite (NaN or infinite). Does the model or its "
                      "VAE overflow in half precision?")
    info = dict(direction=method.direction, **_together(records), blocked=blocked, broken=broken, weights=rows.tolist(),
                extra_evaluations=sum(record["extra_evaluations"] for record in records))
    return (np.nan_to_num(pixels) * 255).round().clip(0, 255).astype(np.uint8), info


def _rows(attributes, steerings, weights, strength: float, seeds: list[int]) -> Tensor:
    if not seeds:
        raise DebiasError("Expected a seed for each image, but none came.")
    if weights is not None and steerings:
        raise DebiasError("Give weights or steerings, but not both.")
    if weights is not None:
        weights = torch.as_tensor(weights, dtype=torch.float32) * strength
        weights = weights.expand(len(seeds), -1) if weights.ndim == 1 else weights
        if len(weights) != len(seeds):
            raise DebiasError(f"Expected weights [n], or a row for each of {len(seeds)} seeds, but "
                              f"{list(weights.shape)} came.")
        return weights
    if len(steerings) != len(attributes):
        raise DebiasError(f"Expected a steering for each of {len(attributes)} attributes, but {len(steerings)} came. "
                          f"Calibrate first, or give weights.")
    return steering.rows(steerings, seeds, strength) if steerings else torch.zeros(len(seeds), 0)
