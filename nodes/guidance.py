"""Guidance inside ComfyUI's sampling.

One OUTER_SAMPLE wrapper sits on the model. For every pass of a sampler it makes the state of that pass: the `prompt`
direction moves the positive conditioning, `embedding` lets a further one ride in the model call that holds the positive
one and takes gamma off its prediction. ComfyUI's CFG rule, and whatever else is installed, then works on that.
Nothing is kept on the model, and what a pass puts on its guider goes with it, also where it fails: passes, clones and
the next run cannot see each other.
"""
from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method.step import Steps, Text
from ..core.method.methods import Method
from ..core.method.safe_latent import SafeLatentGuidance
from ..core.method.conditioning import Encoded
from . import conditioning
from .messages import collected
from .progress import KEY, Progress, further, told

POSITIVE, NEGATIVE = "positive", "negative"
PROFILE = "debias_profile"  # on a conditioning of Debias Text Encode: the hash of the profile that shifted it


@dataclass(frozen=True)
class GuidedSampling:
    """The wrapper.

    encoded  the prompt and its groups, or what makes them, asked after `weights` and where these are not zero
    weights  f(seed, images) -> a [B, n] for a pass with this seed
    done     f(summary, facts): called after a pass; summary as the diffusers host's `GuidedCall.summary`, with `reason`
             where nothing was done; facts are `facts_of` the pass
    profile  hash of the profile, to notice conditionings that it has shifted already
    regions  f(positive, seed, images) -> texts with their weights, one an entry, where entries have texts and draws of
             their own; empty: one text for all
    """
    encoded: Encoded | Callable[[], Encoded]
    attributes: tuple[Attribute, ...]
    method: Method
    weights: Callable[[int, int], Tensor]
    done: Callable[[dict, dict], None] = lambda summary, facts: None
    profile: str = ""
    regions: Callable[[Sequence[dict], int, int], conditioning.Texts] = lambda positive, seed, images: ()

    def patch(self, model):
        """A clone of the model with this wrapper."""
        from comfy.patcher_extension import WrappersMP
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self)
        return model

    def __call__(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        if not len(noise):
            raise DebiasError("The latent batch is empty. Set its batch size to 1 or more.")
        seed = kwargs.get("seed", args[3] if len(args) > 3 else None) or 0
        facts = facts_of(guider, noise, sampler, sigmas, seed)
        texts = self.regions(guider.conds.get(POSITIVE) or (), seed, len(noise))
        weights = torch.cat([own for _, own in texts], 1) if texts else self.weights(seed, len(noise))
        own = callable(self.encoded) and weights.any() and not texts
        guide = replace(self, encoded=self.encoded()) if own else self
        progress = Progress(sigmas, guider.model_patcher.get_model_object("model_sampling"), further(sampler))
        args, kwargs = told(progress.ended, args, kwargs)
        with as_it_was(guider):
            record = guide._begin(guider, weights, progress, texts)
            output = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        with collected() as warned:
            summary = record()
        self.done({**summary, "direction": self.method.direction, "weights": weights.tolist(), "warnings": warned},
                  facts)
        return output

    def _begin(self, guider, weights: Tensor, progress: Progress, texts: conditioning.Texts) -> Callable[[], dict]:
        """Prepare a pass; returns what tells, after it, what was done."""
        positive = guider.conds.get(POSITIVE)
        if not weights.any():
            return lambda: nothing()
        if not positive:
            return lambda: nothing("this guider has no positive conditioning")
        if self.profile and any(entry.get(PROFILE) == self.profile for entry in positive):
            return lambda: nothing("Debias Text Encode has applied this profile to the prompt already")
        conditioning.check_width(positive, texts[0][0] if texts else self.encoded)
        if self.method.direction == "prompt":
            own = list(texts) or [(self.encoded, weights)]
            made = conditioning.shift(positive, own if texts else own * len(positive), self.attributes,
                                      self.method.context)
            shifted = Shifted(guider, *made, len(weights), self.method.guidance, progress)
            return lambda: shifted.summary(conditioning.effect(own, self.attributes, self.method.context))
        from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
        step = Pass(self, guider, weights, progress)
        progress.count(guider)
        for kind, wrapper in ((WrappersMP.CALC_COND_BATCH, step), (WrappersMP.APPLY_MODEL, step.apply_model)):
            add_wrapper_with_key(kind, KEY, wrapper, guider.model_options, is_model_options=True)
        return step.summary


@contextmanager
def as_it_was(guider) -> Iterator[None]:
    """Gives a guider its conditionings and wrappers back. Another wrapper may sample once more with it, as after memory
    ran out: it would be guided twice."""
    conds, options = guider.conds, guider.model_options
    guider.conds, guider.model_options = dict(conds), _copied(options)
    try:
        yield
    finally:
        guider.conds, guider.model_options = conds, options


def _copied(options: dict) -> dict:
    """A copy of model options with lists and dicts of their own, as the host copies them for every run."""
    return {key: _copied(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
            for key, value in options.items()}


class Shifted:
    """The `prompt` direction's texts. Where there is more to do than to put them in the prompt's place, it is a
    CALC_COND_BATCH wrapper: outside a window the prompt's own text is evaluated; and texts that are longer than others
    of their batch are evaluated by length, their images' predictions taking the place of those of the batch."""

    def __init__(self, guider, shifted: conditioning.Entries, longer: conditioning.Apart, images: int,
                 window: SafeLatentGuidance, progress: Progress):
        self.guider, self.images, self.window, self.evaluations = guider, images, window, 0
        self.progress = progress
        self.steps: set[int] = set()
        # In the guider's conditionings the host prepares them with its own.
        self.name = POSITIVE if window.whole else f"{KEY} {len(guider.conds)}"
        guider.conds[self.name] = shifted
        self.names = {f"{KEY} {len(guider.conds) + i}": at for i, (at, _) in enumerate(longer)}
        guider.conds.update(zip(self.names, (entries for _, entries in longer)))
        if not window.whole:
            progress.count(guider)
        if longer or not window.whole:
            from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
            add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self, guider.model_options, is_model_options=True)

    def __call__(self, executor, model, conds, x, timestep, *args, **kwargs):
        held, own = self.guider.conds, self.guider.conds.get(POSITIVE)
        at = _place(conds, own)
        if at is None or len(x) != self.images or not self.window.active(self.progress(timestep)):
            return executor(model, conds, x, timestep, *args, **kwargs)
        self.steps.add(self.progress.step(timestep))
        texts = list(conds)
        texts[at] = held[POSITIVE] = held[self.name]  # other wrappers, of a further profile too, find it there
        try:
            outs = list(executor(model, texts, x, timestep, *args, **kwargs))
            for name, images in self.names.items():
                out, = executor(model, [held[name]], x, timestep, *args, **kwargs)
                outs[at] = outs[at].index_copy(0, torch.tensor(images, device=out.device), out[images])
                self.evaluations += len(x)
        finally:
            held[POSITIVE] = own
        return outs

    def summary(self, effect: dict) -> dict:
        """What was done; effect is that of the texts."""
        found = dict(effect, extra_evaluations=self.evaluations)
        if self.window.whole:
            return found
        outside = {} if self.steps else dict(acted=False, reason="no step lies in the guidance window")
        return found | dict(steps=len(self.steps)) | outside


class Pass:
    """State of one pass, as a CALC_COND_BATCH wrapper."""

    def __init__(self, guide: GuidedSampling, guider, weights: Tensor, progress: Progress):
        self.guider, self.direction, self.weights = guider, guide.method.direction, weights
        self.progress, self.evaluations = progress, 0
        self.added: tuple[int, int] | None = None  # in a model call with them: the first one's place, and their kind
        positive, negative = guider.conds[POSITIVE], guider.conds.get(NEGATIVE)
        # At CFG 1 a guider does not evaluate its negative, unless a patch of the model asks for it.
        alone = not negative or (math.isclose(getattr(guider, "cfg", None) or 0.0, 1.0)
                                 and not guider.model_options.get("disable_cfg1_optimization", False))
        self.steps = Steps(guide.method, weights, not alone)
        # The further text's entries, with the images that they are for: texts of other lengths are evaluated apart.
        # They differ from the baseline in nothing but the text: else gamma would hold the rest too.
        text = self.steps.text
        if text.moved:
            entries, made = conditioning.shift(positive, [(guide.encoded, text.weights)] * len(positive),
                                               guide.attributes, guide.method.context)
            own = [i for i in text.images if not any(i in at for at, _ in made)]
            made = [*([(own, entries)] if own else []), *made]
        else:
            made = conditioning.mixed(negative, guide.encoded, text.weights)
        self.images = [[i for i in at if i in text.images] for at, _ in made]
        # In the guider's conditionings the host prepares them with its own. Passes may be stacked.
        self.names, self.alone = [f"{KEY} {len(guider.conds) + i}" for i in range(len(made))], alone
        guider.conds.update(zip(self.names, (entries for _, entries in made)))
        # Where other images are left alone: images as an index, and what is evaluated for them alone, with its numbers.
        self.few: list[tuple[Tensor, list[int], list[conditioning.Entries]]] = []

    def __call__(self, executor, model, conds, x, timestep, model_options, *args, **kwargs):
        held = self.guider.conds
        at, base = _place(conds, held.get(POSITIVE)), _place(conds, held.get(NEGATIVE))
        progress = self.progress(timestep)
        # A positive conditioning by itself is another method's further evaluation, such as PAG's.
        ours = at is not None and len(conds) > 1 and (base is not None or self.alone)
        if not ours or len(x) != len(self.weights):
            return executor(model, conds, x, timestep, model_options, *args, **kwargs)
        sigma = timestep.float().reshape(-1, *(1,) * (x.ndim - 1))
        outs: Sequence[Tensor] = ()

        def eps(denoised: Tensor) -> Tensor:
            return (x.float() - denoised.float()) / sigma

        def evaluate(text: Text | None):
            nonlocal outs
            if text is None:
                outs = executor(model, conds, x, timestep, model_options, *args, **kwargs)
                return None
            kind = at if self.steps.prompt_is_baseline else base
            outs, extra = self._evaluate(executor, model, conds, at, kind, x, timestep, model_options, *args, **kwargs)
            further = {image: prediction[image] for images, prediction in zip(self.images, map(eps, extra), strict=True)
                       for image in images}
            # A pass around this one has taken gamma off already, which the baseline does not know.
            cond = outs.plain if self.steps.prompt_is_baseline else outs[at]
            return eps(cond), None if base is None else eps(outs[base]), further

        gamma = self.steps.guide(self.progress.step(timestep), progress, evaluate)
        if gamma is None:
            return outs
        outs = Predictions(outs, getattr(outs, "plain", outs[at]))
        outs[at] = (outs[at].float() + sigma * gamma).to(outs[at].dtype)
        return outs

    def _evaluate(self, executor, model, conds, at: int, kind: int, x, timestep, model_options, *args,
                  **kwargs) -> tuple[Predictions, list[Tensor]]:
        """Predictions of the conditionings, the positive one at `at`, and of the added ones.

        Where no image is left alone, all in one model call. Where there are more than two conditionings, patches index
        them all by their place, and there is none for added ones: these get a call of their own, as where only some
        images need them.
        """
        own, added, given = len(conds), [self.guider.conds[name] for name in self.names], (model_options, *args)
        if not self.few and self._separable(added, x, model_options):
            self._separate(added, x.device)
        self.added = own, kind
        try:
            self.evaluations += sum(len(rows) * len(at) for rows, at, _ in self.few) or len(added) * len(x)
            if self.few:
                outs, extra = executor(model, conds, x, timestep, *given, **kwargs), [x] * len(added)
                for rows, places, cut in self.few:
                    found = executor(model, [*[None] * own, *cut], x[rows], timestep[rows], *given, **kwargs)[own:]
                    for place, out in zip(places, found, strict=True):
                        extra[place] = torch.zeros_like(x).index_copy(0, rows, out.to(x.dtype))
            elif own <= 2:
                outs = executor(model, [*conds, *added], x, timestep, *given, **kwargs)
                extra = outs[own:]
            else:
                outs = executor(model, conds, x, timestep, *given, **kwargs)
                extra = executor(model, [*[None] * own, *added], x, timestep, *given, **kwargs)[own:]
        finally:
            self.added = None
        return Predictions(outs[:own], getattr(outs, "plain", outs[at])), extra

    def _separate(self, added: Sequence[conditioning.Entries], device) -> None:
        places: dict[tuple[int, ...], list[int]] = {}
        for place, images in enumerate(self.images):
            places.setdefault(tuple(images), []).append(place)
        self.few = [(torch.tensor(images, device=device), at, [conditioning.of_rows(added[i], images) for i in at])
                    for images, at in places.items() if images]

    def _separable(self, added: Sequence[conditioning.Entries], x, model_options: dict) -> bool:
        """Are some images left alone, and can the others be evaluated without them? Not where something else of the
        graph may tell images by their places in the batch."""
        options = model_options.get("transformer_options", {})
        tied = any(entry.get(name) is not None for entries in added for entry in entries
                   for name in ("control", "gligen", "hooks"))
        every = all(len(images) == len(x) for images in self.images)
        return (not every and isinstance(x, Tensor) and not tied and not any(
            options.get(name) for name in ("patches", "patches_replace", "easycache")) and not model_options.get(
            "context_handler") and "model_function_wrapper" not in model_options)

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs):
        """An APPLY_MODEL wrapper: patches that treat rows by kind treat added ones as the baseline of the direction."""
        if self.added is not None:
            kinds = Kinds(transformer_options["cond_or_uncond"], *self.added)
            transformer_options = {**transformer_options, "cond_or_uncond": kinds}
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)

    def summary(self) -> dict:
        reason = None if self.evaluations else (
            "this guider never evaluated the positive conditioning together with another one, or no step lies in the "
            "guidance window")
        done, guided = self.steps.run.summary(), int(self.weights.any(1).sum())
        done["magnitude"] *= len(self.weights) / guided  # the mean over the guided images
        return dict(done, guided_images=guided, extra_evaluations=self.evaluations,
                    **({"reason": reason} if reason else {}))


class Predictions(list):
    """Of a model call's conditionings; `plain` is the positive's as the model gave it, before passes took gamma off. A
    pass around another one would else take back what that has done, where the prompt is its baseline."""

    def __init__(self, outs: Sequence[Tensor], plain: Tensor):
        super().__init__(outs)
        self.plain = plain


class Kinds(list):
    """`cond_or_uncond` of a model call: each row's kind, 0 conditional and 1 not. Rows from `first` on are of `kind`.

    IP-Adapter and others index a pair by it, attention couples ask whether it is 1. A patch that looks rows up by their
    kind, such as SAG, finds the guider's own.
    """

    def __init__(self, rows: Sequence[int], first: int, kind: int):
        super().__init__(kind if row >= first else row for row in rows)
        self.own = [row if row < first else None for row in rows]

    def index(self, kind, *place):
        return (self.own if kind in self.own else list(self)).index(kind, *place)


def facts_of(guider, noise: Tensor, sampler, sigmas: Tensor, seed: int) -> dict:
    """What a pass is known to run with, by the names of a profile's setting; and its seed, and a cache of steps."""
    facts = dict(seed=seed, steps=len(sigmas) - 1, cfg=getattr(guider, "cfg", None), sampler=sampler_name(sampler))
    cache = guider.model_patcher.model_options.get("transformer_options", {}).get("easycache")
    if cache is not None:  # ComfyUI's EasyCache and LazyCache
        facts["cache"] = type(cache).__name__.removesuffix("Holder")
    ratio = downscale(guider.model_patcher) or (8 if noise.shape[1] in (4, 16) else None)
    if ratio and noise.ndim >= 4:  # of videos the frames stand before
        facts.update(width=noise.shape[-1] * ratio, height=noise.shape[-2] * ratio)
    return facts


def downscale(model, vae=None) -> int | None:
    """Pixels of an image's side to one of its latent's, as the model or the autoencoder says; None where none does."""
    told = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", None) or \
        getattr(vae, "downscale_ratio", None)
    told = told[-1] if isinstance(told, (tuple, list)) else told
    return told if isinstance(told, int) else None


def sampler_name(sampler) -> str:
    """What the sampler is called in KSampler's list."""
    if getattr(sampler, "inpaint_options", {}).get("random"):
        return "ddim"  # Euler by another name
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_function").replace("unipc", "uni_pc")


def _place(conds: Sequence, wanted) -> int | None:
    """Where a call holds this very list of entries."""
    return next((i for i, cond in enumerate(conds) if cond is not None and cond is wanted), None)


def nothing(reason: str | None = None) -> dict:
    return dict(acted=False, guided_images=0, steps=0, skipped=0, magnitude=0.0, extra_evaluations=0,
                **({"reason": reason} if reason else {}))
