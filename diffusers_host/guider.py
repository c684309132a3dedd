"""A guider for the modular pipelines of diffusers, in which each block asks `pipe.guider` what to evaluate.

    debias.enable(pipe, profile)                     # puts one in front of the pipeline's own guider
    debias.enable(pipe, DebiasGuidance.from_pretrained(folder))

`DebiasGuidance` holds the pipeline's own guider (classifier-free guidance, APG, skipped layers ...), which goes on
combining the predictions. A text is what the pipeline itself hands its denoiser for it, recorded from a call that
ends there: so every family is served alike, and a full push is exactly the group's own text, of its own length.
"""
from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from diffusers import guiders
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline import BlockState
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import (
    effect,
)
from ..core.method.draw import check_strength
from ..core.method.methods import Method
from ..core.method.step import Steps, Text
from ..core.profile.file import Profile, located
from .call import per_prompt
from .denoiser_call import (
    Parts, Texts, by_image, denoiser_of, flat_of, fronted, joined, nested, recorder, row_of, rows_of, same, silent,
    tensor_of,
)
from .hook import caches, check_guider, eps_units

NOTHING = dict(acted=False, steps=0, skipped=0, magnitude=0.0, guided_images=0, extra_evaluations=0)
COND, UNCOND, FURTHER = "pred_cond", "pred_uncond", "debias"


class DebiasGuidance(BaseGuidance):
    """Steers a modular pipeline's images by a profile, in front of another guider.

    profile   a Profile, its file or name, or its JSON form; None where a caller gives the weights
    strength  0 to 1 and beyond, as in `enable`
    guider    the guider that combines predictions; None: the one that the pipeline has when it is enabled

    `save_pretrained` and `push_to_hub` write all of it; `enable(pipe, guider)` lets it see the prompt. Raises
    DebiasError where it is asked to guide without having been enabled.
    """
    _input_predictions: Any = [COND, UNCOND]

    def __init__(self, profile: Profile | str | Path | Mapping | None, strength: float = 1.0,
                 guider: BaseGuidance | Mapping | None = None):
        check_strength(strength)
        if isinstance(guider, Mapping):
            kind = getattr(guiders, str(guider.get("_class_name")), None)
            if kind is None:
                raise DebiasError(f"Expected a guider of diffusers, got {quoted(str(guider.get('_class_name')))}.")
            guider = kind.from_config(dict(guider))
        if guider is not None and not isinstance(guider, BaseGuidance):
            raise DebiasError(f"Expected a guider of diffusers, got a {type(guider).__name__}.")
        if isinstance(profile, Mapping):
            profile = Profile.from_dict(dict(profile))
        own: Any = Profile.load(located(str(profile))) if isinstance(profile, (str, Path)) else profile
        self.profile: Profile | None = own
        self.strength = strength
        self.guider: BaseGuidance | None = guider
        self.run: Run | None = None
        config = None if guider is None else {**guider.config, "_class_name": type(guider).__name__}
        self.register_to_config(profile=own and own.to_dict(), strength=strength, guider=config)

    def __getattr__(self, name: str) -> Any:
        """What blocks ask of a guider besides, as its guidance_scale, is the other one's."""
        inner = self.__dict__.get("guider")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(inner, name)

    def new(self, **settings) -> DebiasGuidance:
        """A copy, `settings` being those of the guider behind it."""
        return type(self)(self.profile, self.strength, self._inner.new(**settings))

    @property
    def _inner(self) -> BaseGuidance:
        if self.guider is None:
            raise DebiasError("This DebiasGuidance stands in front of no guider. Call debias.enable(pipe, guider), or "
                              "give it one: DebiasGuidance(profile, guider=pipe.guider).")
        return self.guider

    def enable(self) -> None:
        self._inner.enable()

    def disable(self) -> None:
        self._inner.disable()

    @property
    def is_conditional(self) -> bool:
        return self._inner.is_conditional

    @property
    def num_conditions(self) -> int:
        return self._inner.num_conditions

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        self._inner.set_state(step, num_inference_steps, timestep)
        if self.run is None:
            raise DebiasError("This DebiasGuidance knows no prompt. Call debias.enable(pipe, guider) before the "
                              "pipeline.")
        self.run.begin(step)

    def get_state(self) -> dict[str, Any]:
        return self._inner.get_state()

    def prepare_inputs(self, data) -> list[BlockState]:
        return self._with_further(self._inner.prepare_inputs(data))

    def prepare_inputs_from_block_state(self, data, input_fields) -> list[BlockState]:
        return self._with_further(self._inner.prepare_inputs_from_block_state(data, input_fields))

    def _with_further(self, batches: list[BlockState]) -> list[BlockState]:
        assert self.run is not None
        names = [getattr(batch, self._identifier_key) for batch in batches]
        prompt = batches[names.index(COND)].as_dict()
        # Without a negative prompt, Stable Diffusion 3 sets the prompt against itself.
        names = [COND if name == UNCOND and same(batch.as_dict(), prompt, self._identifier_key) else name
                 for name, batch in zip(names, batches)]
        further = [] if self.run.further(names) is None else [BlockState(**{**prompt, self._identifier_key: FURTHER})]
        self._batches, self._names, self._at = batches, names + [FURTHER] * len(further), 0
        self._further: list[Any] = further
        return batches + further

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        assert self.run is not None
        name = self._names[self._at]
        if name != FURTHER:
            self._inner.prepare_models(denoiser)
        self._front = ExitStack()
        self._front.enter_context(self.run.evaluating(denoiser, name))

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        self._front.close()
        if self._names[self._at] != FURTHER:
            self._inner.cleanup_models(denoiser)
        self._at += 1

    def __call__(self, data: list[Any]) -> Any:
        assert self.run is not None
        own = data[:len(self._batches)]
        by_name = dict(zip(reversed(self._names[:len(own)]), reversed(own)))
        self.run.guide(by_name[COND], by_name.get(UNCOND), *(batch.noise_pred for batch in self._further))
        return self._inner(own)


class Run:
    """One call of a pipeline: B images with weights [B, n] and, image by image, the texts of its prompt."""

    def __init__(self, pipe, attributes: Sequence[Attribute], method: Method, weights: Tensor, texts: list[Texts]):
        self.pipe, self.attributes, self.method, self.weights, self.texts = pipe, attributes, method, weights, texts
        self.inside = method.direction != "prompt"
        self.pushed: list[Parts | None] = [None] * len(weights)
        if not self.inside:
            self.pushed = [own.shifted(attributes, row[None], method.context)[0]
                           for own, row in zip(texts, weights, strict=True)]
        self.steps: Any = None
        self.negative: Any = None  # the denoiser's call for the negative prompt
        self.timesteps: Any = None
        self.made: dict[int, Parts] | None = None  # the further text by image
        self.extra_evaluations, self.shifted = 0, set[int]()

    def begin(self, step: int) -> None:
        scheduler = self.pipe.scheduler
        if scheduler.timesteps is not self.timesteps:
            self.timesteps = scheduler.timesteps
            times = self.timesteps.tolist()
            self.places = [times.index(time) for time in times]  # samplers of second order have most of them twice
            self.count = sorted(set(self.places))
            self.units = eps_units(scheduler) if self.inside else []
            self.steps, self.made = None, None
        counted = (getattr(scheduler, name, None) for name in ("step_index", "begin_index"))
        self.index = self.places[next((index for index in counted if index is not None), step)]

    @property
    def progress(self) -> float:
        return self.index / len(self.places)

    def further(self, names: Sequence[str]) -> Text | None:
        """The further text of this step; `names` are the predictions that the other guider asks for."""
        if not self.inside:
            return None
        if self.steps is None:
            inner = self.pipe.guider.guider
            # Guidance that ends before the last step cannot be the baseline of all.
            whole = UNCOND in names and inner._stop >= 1
            self.steps = Steps(self.method, self.weights, whole)
        idle = self.steps.idle(self.progress) or self.steps.repeats(self.count.index(self.index), self.progress)
        return None if idle else self.steps.text

    @contextmanager
    def evaluating(self, denoiser: torch.nn.Module, name: str) -> Iterator[None]:
        """The denoiser's call for one prediction: its own texts, other ones for some images, or the further text."""
        def asked(call: Parts) -> dict[int, Parts] | None:
            if name == FURTHER:
                return self._of(self.steps.text)
            if name == UNCOND:
                self.negative = call
            if not name.startswith(COND) or self.inside or not self.method.guidance.active(self.progress):
                return None
            self.shifted.add(self.index)
            return {i: text for i, text in enumerate(self.pushed) if text is not None}

        with fronted(denoiser, lambda forward, call: self._evaluated(forward, call, asked(call), name == FURTHER)):
            yield

    def _evaluated(self, forward, call: dict, texts: dict[int, Parts] | None, alone: bool):
        """`texts` by image; of other images the call's own, or, `alone`, nothing."""
        if not texts:
            return forward(**call)
        flat, images = flat_of(call), len(self.weights)
        template = self.texts[0].prompt
        self.extra_evaluations += len(texts) if alone else 0
        rows = dict(texts) if alone else {
            i: texts.get(i) or {name: row_of(flat[name], template[name], i, images) for name in self.texts[0].names}
            for i in range(images)}
        lengths: dict[tuple, list[int]] = {}
        for image, text in rows.items():
            lengths.setdefault(self._key(text, template), []).append(image)
        made: dict[int, Tensor] = {}
        for own in lengths.values():
            parts = {name: part if len(own) == images else rows_of(part, template[name], own, images)
                     for name, part in flat.items()}
            parts.update((name, joined([rows[i][name] for i in own], template[name]))
                         for name in self.texts[0].names)
            output = forward(**nested(parts))[0]
            made.update(zip(own, output, strict=True))
        found = [made[i] for i in sorted(made)]
        return (found if isinstance(output, list) else torch.stack(found),)

    def _key(self, text: Parts, template: Parts) -> tuple:
        """Texts that one call of the denoiser can evaluate."""
        names = self.texts[0].names
        if any(not by_image(template[name]) for name in names):  # positions that all images of a call share
            return (id(text),) if text is not None else ()
        return tuple(tuple(tensor_of(text[name]).shape) for name in names)

    def _of(self, text: Text) -> dict[int, Parts]:
        """The further text, image by image; made once."""
        if self.made is None:
            self.made = {image: self._text(text, image) for image in text.images}
        return self.made

    def _text(self, text: Text, image: int) -> Parts:
        own = self.texts[image]
        if text.moved:
            found, = own.shifted(self.attributes, text.weights[image][None], self.method.context)
            assert found is not None  # its weights are not zero
            return found
        flat = flat_of(self.negative)
        anchor = {**own.prompt, **{name: row_of(flat[name], own.prompt[name], image, len(self.weights))
                                   for name in own.names}}
        return own.mixed(anchor, text.weights[image][None])

    def guide(self, cond: Any, uncond: Any, further: Tensor | None = None) -> None:
        """Takes gamma off the conditional prediction."""
        if self.steps is None:
            return
        k = self.units[self.index]

        def evaluate(text: Text | None):
            if text is None:
                return None
            assert further is not None
            found = dict(zip(text.images, k * further.float(), strict=True))
            negative = None if uncond is None else k * uncond.noise_pred.float()
            return k * cond.noise_pred.float(), negative, found

        gamma = self.steps.guide(self.count.index(self.index), self.progress, evaluate)
        if gamma is not None:
            own = cond.noise_pred
            cond.noise_pred = (own.float() - gamma / k).to(own.dtype)

    def summary(self) -> dict:
        """As `GuidedCall.summary`."""
        guided = int(self.weights.any(1).sum())
        if self.inside:
            done = self.steps.run.summary() if self.steps else NOTHING
            return {**done, "guided_images": guided, "extra_evaluations": self.extra_evaluations,
                    "direction": self.method.direction}
        of = {id(own): own for own in self.texts}
        done = [effect(own.encoded, self.attributes, torch.stack(
            [row for row, text in zip(self.weights, self.texts) if text is own]), self.method.context, own.tokens)
            for own in of.values()]
        whole = self.method.guidance.whole
        magnitude = sum(one["magnitude"] * one["guided_images"] for one in done) / max(guided, 1)
        return dict(acted=any(one["acted"] for one in done) and bool(self.shifted), magnitude=magnitude,
                    steps=0 if whole else len(self.shifted), skipped=0, guided_images=guided, extra_evaluations=0,
                    direction="prompt")


def run_modular(pipe, call: Callable[..., Any], attributes: Sequence[Attribute], method: Method, prompts: Sequence[str],
                weights: Sequence[Tensor], subjects: Sequence[str], given: dict) -> tuple[Any, dict]:
    """A call of a modular pipeline, `given` being its arguments, with weights [images, n] for each prompt: its result,
    and what guidance did."""
    if not any(rows.any() for rows in weights) or not method.guidance.scale:
        with unsteered(pipe):
            return call(pipe, **given), dict(NOTHING, direction=method.direction)
    if getattr(pipe, "transformer_2", None) is not None:
        raise DebiasError(f"{type(pipe).__name__} has two transformers, of which only one would be steered. Use the "
                          "WanPipeline of diffusers for this model.")
    cached = caches(denoiser_of(pipe))
    if cached:
        raise DebiasError(f"The blocks of a {type(pipe).__name__} do not tell its cache ({', '.join(cached)}) one text "
                          "from another. Call disable_cache() on its transformer.")
    record = recorder(pipe, call, given)
    with unsteered(pipe):
        texts = [own for prompt, rows, subject in zip(prompts, weights, subjects, strict=True)
                 for own in [Texts(record, prompt, attributes, method.context, subject)] * len(rows)]
    run = Run(pipe, attributes, method, torch.cat(list(weights)), texts)
    before = getattr(pipe, "guider", None)
    if before is None:
        if run.inside:
            check_guider(pipe)
        with _unguided(run):
            return call(pipe, **given), run.summary()
    front = before if isinstance(before, DebiasGuidance) else DebiasGuidance(None, guider=before)
    front.run = run
    pipe.guider = front
    try:
        return call(pipe, **given), run.summary()
    finally:
        pipe.guider, front.run = before, None


def pictures_of(pipe, prompt: str, attributes: Sequence[Attribute], weights: Tensor, method: Method,
                negative_prompt: str | None, subject: str, given: dict) -> tuple[np.ndarray, dict]:
    """An image for each row of weights [B, n], [B, H, W, 3] from 0 to 1, of a video its first frame; and what guidance
    did."""
    name = next(name for name in ("images", "videos") if name in {own.name for own in pipe.blocks.outputs})
    given = {**given, "prompt": prompt, per_prompt(pipe): len(weights), "output_type": "np", "output": name}
    if negative_prompt is not None:
        given["negative_prompt"] = negative_prompt
    with silent(pipe):
        made, done = run_modular(pipe, type(pipe).__call__, attributes, method, [prompt], [weights], [subject], given)
    return np.asarray(made) if name == "images" else np.stack([video[0] for video in made]), done


@contextmanager
def _unguided(run: Run) -> Iterator[None]:
    """Pipelines without a guider evaluate the prompt alone, once in each step."""
    def evaluated(forward, call: dict):
        run.begin(0)
        if not run.method.guidance.active(run.progress):
            return forward(**call)
        run.shifted.add(run.index)
        return run._evaluated(forward, call, {i: text for i, text in enumerate(run.pushed) if text is not None}, False)

    with fronted(denoiser_of(run.pipe), evaluated):
        yield


@contextmanager
def unsteered(pipe) -> Iterator[None]:
    """The pipeline with its own guider alone."""
    before = getattr(pipe, "guider", None)
    try:
        if isinstance(before, DebiasGuidance):
            pipe.guider = before._inner
        yield
    finally:
        if before is not None:
            pipe.guider = before
