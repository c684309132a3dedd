"""A profile on a pipeline whose call stays its own: `pipe("a photo of a doctor")` is balanced.

    balance(pipe, "gender", "age = 1:1:2")          # until disable(pipe)
    with applied(pipe, profile):
        images = pipe("a photo of a doctor", num_images_per_prompt=8).images
"""
from __future__ import annotations

import functools
import inspect
import random
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
import torch

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method import draw
from ..core.method.draw import check_strength
from ..core.profile.balance import balanced
from ..core.profile.file import Profile, located
from ..core.profile.lookup import entry_for
from .call import defaults, is_modular, per_prompt
from .encode import encode_all, encoding_of
from .families import looks_at_image
from .generate import calls, guided


def balance(pipe, *attributes: Attribute | str | Sequence[Attribute | str]) -> Any:
    """Balance every image of a pipeline, without a judge or a calibration: attributes as `balance.listed`
    reads them. Returns the pipeline; `disable(pipe)` ends it. Raises DebiasError."""
    each = [one for own in attributes for one in ([own] if isinstance(own, (Attribute, str)) else own)]
    return enable(pipe, balanced(*each))


def enable(pipe, profile: Profile | str | Path, strength: float = 1.0) -> Any:
    """Guide a pipeline's calls by a profile, its file or name, in the place of any before it. Returns the
    pipeline.

    An image's seed is its generator's: of one generator for several images, image i counts as seed XOR i; without a
    generator, seeds are random. Several prompts are called one after another. Arguments, callbacks, results and
    exceptions stay the pipeline's own. Raises DebiasError for a strength that is none and, when called, without a text.
    """
    check_strength(strength)
    if hasattr(profile, "profile"):  # a DebiasGuidance
        profile, strength = profile.profile, strength * profile.strength
    given = profile if isinstance(profile, Profile) else Profile.load(located(str(profile)))
    original = getattr(type(pipe), "_sd_debias_original", type(pipe))
    if not callable(pipe) or not {"prompt", "generator"} <= set(defaults(pipe)):
        raise DebiasError("Expected a diffusers pipeline that is called with a prompt and a generator, got a "
                          f"{original.__name__}. Use a text-to-image pipeline.")
    disable(pipe)
    if is_modular(pipe) and getattr(pipe, "guider", None) is not None:
        from .guider import DebiasGuidance  # of newer versions of diffusers
        pipe.guider = DebiasGuidance(given, strength, pipe.guider)

    @functools.wraps(original.__call__)
    def call(self, *args, **kwargs):
        return _called(self, original, given, strength, args, kwargs)

    pipe.__class__ = type(original.__name__, (original,), {
        "__call__": call, "__module__": original.__module__, "_sd_debias_original": original})
    return pipe


def disable(pipe) -> Any:
    """The pipeline without a profile, as it was before."""
    pipe.__class__ = getattr(type(pipe), "_sd_debias_original", type(pipe))
    guider = getattr(pipe, "guider", None)
    if guider is not None and hasattr(guider, "profile"):
        pipe.guider = guider.guider
    return pipe


@contextmanager
def applied(pipe, profile: Profile | str | Path, strength: float = 1.0) -> Iterator[Any]:
    """`enable` inside a context; before and after an exception, too, the pipeline is what it was."""
    before, guider = type(pipe), getattr(pipe, "guider", None)
    try:
        yield enable(pipe, profile, strength)
    finally:
        pipe.__class__ = before
        if guider is not None:
            pipe.guider = guider


def _called(pipe, original, profile: Profile, strength: float, args, kwargs):
    given = inspect.signature(original.__call__).bind(pipe, *args, **kwargs).arguments
    given.pop(next(iter(given)))  # the pipeline itself
    given |= given.pop("kwargs", {})
    state = given.get("state")  # a modular pipeline goes on from one
    held = {**getattr(state, "values", {}), **given}
    prompt, negative = held.get("prompt"), held.get("negative_prompt")
    if prompt is None:
        raise DebiasError("Expected a prompt as text, got embeddings: its words decide what is steered. Give the "
                          "prompt, or call disable(pipe) first.")
    prompts, each = [prompt] if isinstance(prompt, str) else list(prompt), held.get(per_prompt(pipe)) or 1
    negatives = [negative] * len(prompts) if negative is None or isinstance(negative, str) else list(negative)
    seeds = _seeds(held.get("generator"), len(prompts) * each)
    steerings = [entry_for(profile, text, no or "")[0] for text, no in zip(prompts, negatives, strict=True)]
    rows = [draw.rows(entry.steerings, seeds[i * each:(i + 1) * each], strength) for i, entry in enumerate(steerings)]
    if is_modular(pipe):
        from .guider import run_modular
        subjects = [entry.behind(strength) for entry in steerings]
        return run_modular(pipe, original.__call__, profile.attributes, profile.method, prompts, rows, subjects,
                           given)[0]
    if not any(row.any() for row in rows):
        return original.__call__(pipe, **given)
    outputs, by_name = [], given.get("return_dict", True)
    for i, (text, no) in enumerate(zip(prompts, negatives)):
        own = dict(given, prompt=text, negative_prompt=no) if "negative_prompt" in given else dict(given, prompt=text)
        if isinstance(own.get("generator"), list):
            own["generator"] = generators = own["generator"][i * each:(i + 1) * each]
        if not rows[i].any():
            outputs.append(original.__call__(pipe, **own))
            continue
        for name in ("prompt", "negative_prompt", per_prompt(pipe)):
            own.pop(name, None)
        encoded = encode_all(pipe, text, profile.attributes, profile.method.context, **encoding_of(own),
                             subject=steerings[i].behind(strength))
        # Where the encoder looks at an edit's image, each text gets a call of its own.
        together = [[*range(each)]]
        if looks_at_image(pipe):
            together = calls(pipe, encoded, profile.attributes, rows[i], profile.method, each)
        made = []
        for places in together:
            if isinstance(own.get("generator"), list):
                own = own | dict(generator=[generators[place] for place in places])
            with guided(pipe, text, profile.attributes, rows[i][places], profile.method, negative_prompt=no,
                        encoded=encoded, **encoding_of(own)) as guide:
                made.append(original.__call__(pipe, **(own | guide.call)))
        order = np.argsort(np.concatenate(together))
        outputs.append(made[0] if len(made) == 1 else _joined(made, by_name, order))
    return _joined(outputs, by_name)


def _seeds(generator, count: int) -> list[int]:
    if isinstance(generator, Sequence):
        return [int(one.initial_seed()) for one in generator]
    first = random.SystemRandom().randrange(2**32) if generator is None else int(generator.initial_seed())
    return draw.of_batch(first, count)


def _joined(outputs: list, by_name: bool, order: np.ndarray | None = None):
    """The outputs of several calls as one, its images in another `order` where one is given."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if not by_name:
        return tuple(_together([output[i] for output in outputs], order) for i in range(len(first)))
    names = [one.name for one in fields(first)]
    return type(first)(**{name: _together([getattr(output, name) for output in outputs], order) for name in names})


def _together(parts: list, order: np.ndarray | None):
    if isinstance(parts[0], (list, tuple)):
        items = [one for part in parts for one in part]
        return items if order is None else [items[place] for place in order]
    if not isinstance(parts[0], (torch.Tensor, np.ndarray)):
        return parts[0]
    joined = torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)
    return joined if order is None else joined[order]
