"""Guidance inside a diffusers pipeline: in front of its denoiser, `pipe.unet` or `pipe.transformer`.

`embedding` sends further rows through the denoiser, and takes gamma off its conditional prediction. Sampler,
guidance rule, ControlNets and LoRAs stay the pipeline's own.
"""
from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import Encoded, Parts, mixed_rows, shape, shifted, shifted_rows
from ..core.method.direction import mix
from ..core.method.methods import Method
from ..core.method.step import Steps, Text
from .call import KEPT, rows_of, texts_in, with_texts
from .families import family_of

# Lists of a T2I-Adapter's residuals: a U-Net takes them out, one a block.
_EMPTIED = ("down_intrablock_additional_residuals", "down_block_additional_residuals")
_CACHES = ("pyramid_attention_broadcast", "faster_cache")  # of diffusers, that do not tell one text from another
_TIMES = ("timestep", "timesteps", "t")


def eps_units(scheduler) -> list[float]:
    """k for each of the scheduler's timesteps, so that k (output_1 - output_2) is a difference in eps units.

    With x = alpha x_0 + sigma eps: eps-prediction 1, v-prediction alpha, x_0-prediction -alpha / sigma, flow 1 (its eps
    is the velocity). Raises DebiasError for a prediction type that is not known.
    """
    # PNDM, which many folders of Stable Diffusion name, has no timesteps before its first run.
    times = np.zeros(0) if scheduler.timesteps is None else scheduler.timesteps.cpu().double().numpy()
    flow = "flow_prediction" if "FlowMatch" in type(scheduler).__name__ else None
    kind = scheduler.config.get("prediction_type", flow)
    if kind in ("epsilon", "flow_prediction") and "sigma_data" not in scheduler.config:
        return [1.0] * len(times)
    if kind not in ("v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise DebiasError(f"Cannot convert predictions of {type(scheduler).__name__} with prediction type "
                          f"{quoted(kind)}. Use a scheduler of Stable Diffusion or a flow-matching one, or the "
                          "direction 'prompt'.")
    cumprod = scheduler.alphas_cumprod.cpu().double().numpy()
    # Karras and other spacings put timesteps between the trained ones. A terminal alpha of 0 must not divide.
    at = np.interp(times, np.arange(len(cumprod)), cumprod)
    alpha, sigma = np.sqrt(at).clip(1e-4), np.sqrt(1 - at).clip(1e-4)
    return (alpha if kind == "v_prediction" else -alpha / sigma).tolist()


class GuidedDenoiser:
    """A denoiser's forward with the direction's rows, and gamma taken off its conditional prediction.

    The batch of a pipeline is [uncond, cond], of one [cond, uncond], or, without classifier-free guidance, [cond];
    core/method/step.py says what the baseline is. A row is added for each image with a weight other than 0. It copies
    the baseline's row (ControlNet residuals, sizes, masks) in everything but the text, in calls of their own of at most
    as many rows as the pipeline's: these need barely any memory beyond its own.
    """

    def __init__(self, pipe, forward, parameters: Sequence[str], attributes: Sequence[Attribute], weights: Tensor,
                 encoded: Encoded, method: Method):
        self.pipe, self.forward, self.parameters = pipe, forward, parameters
        self.attributes, self.context, self.family = attributes, method.context, family_of(pipe)
        self.images = len(weights)
        self.guided = weights.any(1).nonzero().flatten()
        self.weights = weights[self.guided]
        self.encoded, self.direction, self.method = encoded, method.direction, method
        self.passes: list[Steps] = []
        self.extra_evaluations = 0
        self.timesteps: Any = None
        self.text: Any = None  # of the first call of a step
        self.mixed_for: Any = None
        self.mixed: list[tuple] = []
        self.indices: Any = None

    def __call__(self, *args, **kwargs):
        call = dict(zip(self.parameters, args), **kwargs)
        rows = len(call[self.parameters[0]])
        if self.pipe.scheduler.timesteps is not self.timesteps:
            self._begin(rows > self.images)
        index = self._index(call)
        progress = index / len(self.times)
        steps = self.passes[-1]
        if not self._is_ours(call, rows) or steps.idle(progress):
            return self.forward(**call)

        k = self.units[index]
        output: Any = None
        prediction: Any = None

        def evaluate(text: Text | None):
            nonlocal output, prediction
            at, copies = self._rows_on(call[self.parameters[0]][0].device)
            output = self.forward(**({**call, **{name: list(call[name]) for name in _EMPTIED if call.get(name)}}
                                     if text else call))
            # Copied before the next call: where a graph is captured, that takes the same memory again.
            prediction = self._sample(output, call).clone()
            if text is None:
                return None
            extra = prediction.new_empty(len(copies), *prediction.shape[1:])
            for number, (places, parts) in enumerate(self._texts_of(text, call, rows)):
                extra[places] = self._further(call, rows, places, parts, number)
            self.extra_evaluations += len(copies)
            further = dict(zip(text.images, k * extra.float(), strict=True))
            return k * prediction[self.cond + at].float(), k * prediction[self.uncond + at].float(), further

        gamma = steps.guide(self.steps.index(self.times[index]), progress, evaluate)
        at = self.cond + self.indices[0]
        prediction[at] = (prediction[at].float() - gamma / k).to(prediction.dtype)
        if isinstance(output, tuple):
            return (prediction, *output[1:])
        output.sample = prediction
        return output

    def _further(self, call: dict, rows: int, places: Tensor, texts, number: int) -> Tensor:
        """Predictions of further rows."""
        own = rows_of(call, rows, self.indices[1][places])
        own = self.family.with_texts(own, texts) if self.family else with_texts(own, texts)
        with self._cache(number):
            return self._sample(self.forward(**own), own)

    def _cache(self, name: object) -> AbstractContextManager:
        """Where diffusers caches what changes little from step to step, it must not take it from another text."""
        module, _ = _denoiser(self.pipe)
        return module.cache_context(f"debias {name}") if hasattr(module, "cache_context") else nullcontext()

    def _sample(self, output, call: dict) -> Tensor:
        """The predictions [B, ...] of a call's images."""
        prediction = torch.stack(output[0]) if isinstance(output[0], list) else output[0]
        return prediction[:, -call[self.parameters[0]].shape[1]:] if self.family and self.family.texted else prediction

    def _begin(self, has_uncond: bool):
        """A pipeline sets its timesteps anew in every call, so a new tensor of them is a new run."""
        self.timesteps = self.pipe.scheduler.timesteps
        self.times = self.timesteps.tolist()
        self.steps = list(dict.fromkeys(self.times))  # samplers of second order have most of them twice
        self.units = eps_units(self.pipe.scheduler)
        if self.family and self.family.negated:
            self.units = [-k for k in self.units]
        first, second = (0, self.images) if has_uncond else (0, 0)
        self.cond, self.uncond = (first, second) if self.family and self.family.ahead else (second, first)
        self.passes.append(Steps(self.method, self.weights, has_uncond))
        self.text = self.mixed_for = self.indices = None

    def _rows_on(self, device) -> tuple[Tensor, Tensor]:
        """Guided images, and the rows that the further ones copy. Moved once a run: a copy to the device in every step
        would make it wait."""
        if self.indices is None:
            base = self.cond if self.passes[-1].prompt_is_baseline else self.uncond
            self.indices = self.guided.to(device), (self.guided + base).to(device)
        return self.indices

    def _index(self, call: dict) -> int:
        """Place in the schedule; a second-order sampler's repeated timestep keeps its first one."""
        timestep = next(call[name] for name in _TIMES if name in call)
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
        # Some pipelines give the denoiser a thousandth of it. Where both fit, it is the first step: schedulers of
        # flows, whose times these are, count from the second on.
        _, place = min((abs(now - unit * time) / max(unit * abs(time), 1e-9), i)
                       for i, time in enumerate(self.times) for unit in (1.0, 1e-3))
        return place

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
        return self._is_first(call) or bool(cfg)

    def _is_first(self, call: dict) -> bool:
        """Flux and others evaluate a negative prompt in a call of its own, after the prompt's."""
        text = self._tokens(call)
        if self.text is None:
            self.text = text
        return text is self.text

    def _tokens(self, call: dict) -> Tensor:
        """Of a call's texts, or of its first one: the same tensor in all steps."""
        text = call[self.family.inside[self.family.tokens] if self.family else "encoder_hidden_states"]
        return text[0] if isinstance(text, list) else text

    def _texts_of(self, text: Text, call: dict, rows: int) -> list[tuple]:
        """The further rows' texts with their places, in calls of the denoiser by length; made once a run."""
        tokens, copies = self._tokens(call), self.indices[1]
        if tokens is self.mixed_for:
            return self.mixed
        if self.family:
            lengths: dict[tuple, dict[int, Parts]] = {}
            for place, own in enumerate(self._mixed_texts(text, call)):
                on_device = {name: part.to(copies.device) for name, part in own.items()}
                lengths.setdefault(shape(own), {})[place] = on_device
            made: list[tuple] = [
                (torch.tensor(list(found), device=copies.device)[i:i + rows], list(found.values())[i:i + rows])
                for found in lengths.values() for i in range(0, len(found), rows)]
        else:
            texts = {name: self._mixed(text, name, part).to(part) for name, part in texts_in(call).items()}
            made = [(some, {name: part[some] for name, part in texts.items()})
                    for some in torch.arange(len(copies), device=copies.device).split(rows)]
        self.mixed_for, self.mixed = tokens, made
        return made

    def _mixed_texts(self, text: Text, call: dict) -> Sequence[Parts]:
        """The further text of each guided image, of a family."""
        family, encoded = self.family, self.encoded
        assert family is not None
        texts = family.texts(call)
        _check_length(encoded.prompt[family.tokens], texts[self.cond][family.tokens])
        if text.moved:
            return shifted_rows(encoded, self.attributes, text.weights, self.context)
        return mixed_rows([texts[self.uncond + image] for image in self.guided.tolist()], encoded, text.weights)

    def _mixed(self, text: Text, name: str, part: Tensor) -> Tensor:
        """A part of the further text of each guided image, where all texts are of one length."""
        prompt, own = self.encoded.prompt[name], part[self.indices[1]]
        _check_length(prompt, part)
        if not text.moved:
            return mix(own, self.encoded.groups[name].to(part.device), text.weights)
        change = shifted(self.encoded, self.attributes, text.weights, self.context)[name].float() - prompt.float()
        return (own.float() + change.to(part.device)).to(part.dtype)


class WindowedPrompt(GuidedDenoiser):
    """The `prompt` direction, where the text that the pipeline was given is not that of every step. It was given the
    shifted text, and outside the window the prompt's own stands in its place; a pipeline that takes texts alone was
    given the prompt, and inside the window the shifted text stands in its place. `shifted` holds the places of the
    schedule at which the shifted text was evaluated."""

    def __init__(self, *args):
        super().__init__(*args)
        self.shifted: set[int] = set()
        self.given_shifted = not (self.family and self.family.texts_only)
        self.pushed = [] if self.given_shifted else shifted_rows(self.encoded, self.attributes, self.weights,
                                                                 self.context)

    def __call__(self, *args, **kwargs):
        call = dict(zip(self.parameters, args), **kwargs)
        rows = len(call[self.parameters[0]])
        if self.pipe.scheduler.timesteps is not self.timesteps:
            self.timesteps, self.text = self.pipe.scheduler.timesteps, None
            self.times = self.timesteps.tolist()
        index = self._index(call)
        if self._is_ours(call, rows):
            call = {**call, **{name: None for name in KEPT if name in call}}
            active = self.method.guidance.active(index / len(self.times))
            if active:
                self.shifted.add(index)
            if active != self.given_shifted:
                call = self._exchanged(call, rows)
            with self._cache("shifted") if active else nullcontext():
                return self.forward(**call)
        return self.forward(**call)

    def _is_ours(self, call: dict, rows: int) -> bool:
        """Without an added row it does not matter where the negative prompt is: a call of its own comes second."""
        return super()._is_ours(call, rows) if rows != self.images else self._is_first(call)

    def _exchanged(self, call: dict, rows: int) -> dict:
        """The call with the prompt in place of the shifted texts, or with these in place of the prompt."""
        if self.family is None:
            return with_texts(call, {name: self._own(name, text) for name, text in texts_in(call).items()})
        texts = self.family.texts(call)
        first = 0 if self.family.ahead else rows - self.images
        if self.given_shifted:  # images that are left alone too
            texts[first:first + self.images] = [self.encoded.prompt] * self.images
        else:
            tokens = self.family.tokens
            _check_length(self.encoded.prompt[tokens], texts[first][tokens])
            for image, text in zip(self.guided.tolist(), self.pushed):
                texts[first + image] = {name: part.to(texts[first][name]) for name, part in text.items()}
        return self.family.with_texts(call, texts)

    def _own(self, name: str, text: Tensor) -> Tensor:
        rows = text.clone()
        # Those of images that are left alone hold it already.
        rows[len(text) - self.images + self.guided.to(text.device)] = self.encoded.prompt[name].to(text)
        return rows


def _check_length(prompt: Tensor, text: Tensor) -> None:
    if prompt.shape[1:] != text.shape[1:]:
        raise DebiasError(f"The prompt was encoded as {list(prompt.shape[1:])}, but the pipeline evaluates "
                          f"{list(text.shape[1:])}. Encode it with the call's own max_sequence_length.")


def check(pipe) -> None:
    """Raises DebiasError where the direction `embedding` cannot act on this pipeline: where its denoiser
    or its scheduler is not of a kind that is known, or its cache takes one text for another."""
    module, _ = _denoiser(pipe)
    eps_units(pipe.scheduler)
    cached = [name for name in caches(module) if name.startswith(_CACHES)]
    if cached:
        raise DebiasError("Expected a pipeline whose cache tells one text from another, got "
                          f"{', '.join(cached)}. Call disable_cache() on its transformer, use "
                          "FirstBlockCacheConfig instead, or the method 'default'.")


def caches(module: torch.nn.Module) -> list[str]:
    """The caches of diffusers that are on in a denoiser."""
    hooks = (getattr(getattr(part, "_diffusers_hook", None), "hooks", ()) for part in module.modules())
    return sorted({name for names in hooks for name in names
                   if any(kind in name for kind in ("cache", "fbc", "broadcast"))})


def check_guider(pipe) -> None:
    """`check` of a modular pipeline: the directions inside sampling act through its guider."""
    if getattr(pipe, "guider", None) is None:
        raise DebiasError(f"{type(pipe).__name__} has no guider, so it takes only the direction 'prompt'. Use the "
                          "method 'default', or 'shift'.")
    eps_units(pipe.scheduler)


def _denoiser(pipe) -> tuple[Any, list[str]]:
    """The pipeline's denoiser and its arguments' names. Raises DebiasError for one that is not known."""
    module = getattr(pipe, "unet", getattr(pipe, "transformer", None))
    network = getattr(module, "_orig_mod", module)
    parameters = list(inspect.signature(type(network).forward).parameters)[1:] if network is not None else []
    if family_of(pipe) is None and not {"timestep", "encoder_hidden_states"} <= {*parameters}:
        raise DebiasError(f"Cannot guide {type(pipe).__name__}: expected pipe.unet or pipe.transformer with timestep "
                          f"and encoder_hidden_states among its arguments. Use the direction 'prompt'.")
    return module, parameters


@contextmanager
def hooked(pipe, attributes: Sequence[Attribute], weights: Tensor, encoded: Encoded, method: Method,
           kind: type[GuidedDenoiser] = GuidedDenoiser) -> Iterator[GuidedDenoiser]:
    """Puts a GuidedDenoiser in front of the pipeline's denoiser, outside torch.compile and offloading hooks."""
    module, parameters = _denoiser(pipe)

    def make(forward) -> GuidedDenoiser:
        if isinstance(forward, GuidedDenoiser):
            raise DebiasError("This pipeline is guided already. Give all attributes to one call instead of nesting "
                              "two.")
        return kind(pipe, forward, parameters, attributes, weights, encoded, method)

    with in_front(module, make) as hook:
        yield hook


@contextmanager
def in_front(module: torch.nn.Module, make: Callable[[Callable], Callable]) -> Iterator[Any]:
    """make(forward) in the place of a module's forward."""
    # A module compiled in place calls its compiled form, any other its forward. Instance attributes come first.
    entry = "_compiled_call_impl" if getattr(module, "_compiled_call_impl", None) is not None else "forward"
    own = module.__dict__.get(entry)
    front = make(getattr(module, entry))
    module.__dict__[entry] = front
    try:
        yield front
    finally:
        if module.__dict__.get(entry) is front:  # offloading may have put another in its place meanwhile
            if own is None:
                del module.__dict__[entry]
            else:
                module.__dict__[entry] = own
