"""Guides any diffusers text-to-image pipeline without a copy of it, and generates the images of a calibration.

The `prompt` direction passes shifted prompt embeddings in; the others act inside the denoiser (hook.py). Everything is
undone when the context ends, also after an exception.
"""
from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import Any, Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, short
from ..core.method import draw
from ..core.method.conditioning import Encoded, Parts, effect, shape, shifted, shifted_rows
from ..core.method.methods import METHODS, Method
from .call import is_modular
from .encode import encode, encode_all, encoding_of
from .families import (
    Family, WholeTexts, asked, check_family, check_whole_texts, family_of, fixed, without_fixed,
)
from .hook import WindowedPrompt, check, hooked


class GuidedCall:
    """What `guided` yields.

    call       arguments for the pipeline's call: the prompt once for each image, or its shifted embeddings; and what
               the pipeline must be called with, guided or not, as enable_prompt_rewrite=False: not to be given again
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
           negative_prompt: str | None = None, encoded: Encoded | None = None, **encoding) -> Iterator[GuidedCall]:
    """Guides the pipeline's calls inside the context, B images of one prompt each:

        with guided(pipe, "a photo of a doctor", [GENDER], weights) as guide:
            images = pipe(**guide.call, num_inference_steps=30).images

    weights   [B, n], the groups of all attributes side by side (`draw.rows`). A row of zeros leaves its image as it
              is; where all are zero, or method.guidance.scale is, no text and no prediction is touched.
    encoded   spares encoding the texts again, else `encoding` is the call's clip_skip, max_sequence_length, lora_scale

    Warns where guidance had no effect. Raises DebiasError for weights that do not fit, and for a pipeline or scheduler
    that is not known.
    """
    weights = _checked(weights, attributes, method)
    images = len(weights)
    guide = GuidedCall(method.direction, fixed(pipe) | asked(pipe, [prompt] * images, negative_prompt))
    # A group without words of its own is the prompt: to send an image there changes nothing, and need not be said.
    felt = [not (group.wordless and method.direction == "prompt") for a in attributes for group in a.groups]
    if method.guidance.scale == 0 or not weights[:, felt].any():
        yield guide
        return

    encoded = encoded or encode_all(pipe, prompt, attributes, method.context, **encoding)
    if isinstance(encoded, WholeTexts):
        check_whole_texts(pipe, attributes, method)
        texts = encoded.texts(weights)
        guide.call |= asked(pipe, texts, negative_prompt)
        guide.records = [dict(acted=texts != [prompt] * images, magnitude=0.0, steps=0, skipped=0,
                              guided_images=int(weights.any(1).sum()))]
        yield guide
        reason = "the groups' texts are the prompt."
    else:
        if family_of(pipe) is not None:
            check_family(pipe, method)
        given = pipe, guide, attributes, weights, encoded, method
        reason = yield from (_by_prompt(*given, prompt, negative_prompt, encoding) if method.direction == "prompt"
                             else _inside(*given))
    if not guide.summary()["acted"]:
        warnings.warn(f"Guidance had no effect: {reason}")


def _by_prompt(pipe, guide: GuidedCall, attributes: Sequence[Attribute], weights: Tensor, encoded: Encoded,
               method: Method, prompt: str, negative_prompt: str | None, encoding: dict
               ) -> Generator[GuidedCall, None, str]:
    """`guided` for the direction `prompt`; returns why it had no effect, where it had none."""
    images, family, window = len(weights), family_of(pipe), method.guidance
    texts_only = family is not None and family.texts_only
    if texts_only:
        parts = {}
    elif family is not None:
        negative = family.encode(pipe, negative_prompt or "", **encoding) if family.negative else None
        parts = _of_family(family, encoded, attributes, weights, method, negative)
        if negative is not None:
            guide.call.pop("negative_prompt", None)
    else:
        parts = shifted(encoded, attributes, weights, method.context)
        if not weights.any(1).all():  # as the pipeline itself encodes them, together: else they round otherwise
            own = encode(pipe, [prompt] * images, **encoding)
            alone = ~weights.any(1).to(own["prompt_embeds"].device)
            parts = {name: torch.where(alone.view(-1, *(1,) * (part.ndim - 1)), own[name], part)
                     for name, part in parts.items()}
    done = effect(encoded, attributes, weights, method.context, family.tokens if family else "prompt_embeds")
    guide.records = [done]
    if not texts_only:
        guide.call.update(parts, prompt=None)
    if window.whole and not texts_only:
        yield guide
    else:
        denoiser: Any
        with hooked(pipe, attributes, weights, encoded, method, WindowedPrompt) as denoiser:
            yield guide
        done.update(steps=0 if window.whole else len(denoiser.shifted), acted=done["acted"] and bool(denoiser.shifted))
        if not denoiser.shifted:
            return f"no step fell into the window {(window.start, window.end)}."
    return "the group texts mean the same to this model as the prompt."


def _inside(pipe, guide: GuidedCall, attributes: Sequence[Attribute], weights: Tensor, encoded: Encoded, method: Method
            ) -> Generator[GuidedCall, None, str]:
    """`guided` for the directions inside sampling; returns as `_by_prompt`."""
    check(pipe)
    with hooked(pipe, attributes, weights, encoded, method) as denoiser:
        yield guide
    guided_images = int(weights.any(1).sum())
    guide.records = [dict(steps.run.summary(), guided_images=guided_images) for steps in denoiser.passes]
    guide.extra_evaluations = denoiser.extra_evaluations
    done, window = guide.summary(), (method.guidance.start, method.guidance.end)
    return (f"of {len(denoiser.passes)} calls of the pipeline {done['steps']} steps fell into the window {window}, "
            f"{done['skipped']} of which were skipped.")


def _of_family(family: Family, encoded: Encoded, attributes: Sequence[Attribute], weights: Tensor, method: Method,
               negative: Parts | None) -> dict:
    """Arguments of the pipeline's call for images whose texts are shifted by weights [B, n]."""
    rows = shifted_rows(encoded, attributes, weights, method.context)
    if len(set(map(shape, rows))) > 1:
        raise DebiasError("These images' texts have different lengths. Make them with `generate`, or in a call for "
                          "each length.")
    return family.call(rows, negative)


def calls(pipe, encoded: Encoded | WholeTexts | None, attributes: Sequence[Attribute], weights: Tensor, method: Method,
          batch_size: int) -> list[list[int]]:
    """The places of the images that one call of the pipeline makes: at most a batch and, where texts differ in length,
    of one length. Images that are left alone then have calls of their own, with the prompt itself."""
    keys: Sequence = [()] * len(weights)
    if isinstance(encoded, WholeTexts) and not is_modular(pipe):
        keys = encoded.texts(weights)
    elif encoded is not None and family_of(pipe) is not None and method.direction == "prompt":
        keys = [shape(row) if a.any() else () for row, a in
                zip(shifted_rows(encoded, attributes, weights, method.context), weights)]
    found: dict = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return [places[at:at + batch_size] for places in found.values() for at in range(0, len(places), batch_size)]


def _checked(weights, attributes: Sequence[Attribute], method: Method) -> Tensor:
    weights = torch.as_tensor(weights, dtype=torch.float32).cpu()
    n = sum(len(attribute.groups) for attribute in attributes)
    if weights.ndim != 2 or weights.shape[1] != n or not len(weights):
        raise DebiasError(f"Expected weights [B, n] with n = {n} groups, got {list(weights.shape)}.")
    if not torch.isfinite(weights).all():
        raise DebiasError(f"Expected finite weights, got {short(weights.tolist())}. Calibrate again, or leave them "
                          "out.")
    return weights


def generate(pipe, prompt: str, seeds: Sequence[int], *, attributes: Sequence[Attribute] = (),
             steerings: Sequence[draw.Steering] = (), weights: Tensor | None = None,
             guidance_strength: float = 1.0, method: Method = METHODS["default"], negative_prompt: str | None = None,
             batch_size: int = 4, encoded: Encoded | None = None, **call) -> tuple[np.ndarray, dict]:
    """One image for each seed: uint8 [N, H, W, 3], and what guidance did.

    Weights come from `steerings`, one for each attribute, or as `weights` [N, n] or [n], times `guidance_strength`;
    without attributes nothing is guided. Each image has a generator of its own, seeded on the CPU, so it is the same in
    any batch up to float rounding, where the pipeline itself keeps images apart. `encoded`, of `encode_all`, spares
    further calls of a prompt encoding its texts again. `call` goes to the pipeline (num_inference_steps,
    guidance_scale, image ...). The info is `GuidedCall.summary` with `weights`, the rows used,
    `blocked`, how many images the pipeline's safety checker blacked out, and `broken`, the places of those that are not
    finite and stand as black ones; the last two warn. Raises DebiasError as `guided`, and for missing weights or seeds.
    """
    seeds = [int(seed) for seed in seeds]
    rows = _rows(attributes, steerings, weights, guidance_strength, seeds)
    if batch_size < 1:
        raise DebiasError(f"Expected a batch size of 1 or more, got {batch_size}.")
    call = without_fixed(pipe, call)
    rows = _checked(rows, attributes, method)
    if encoded is None and method.guidance.scale and rows.any():
        encoded = encode_all(pipe, prompt, attributes, method.context, **encoding_of(call))

    made: dict[int, np.ndarray] = {}
    records, blocked = [], 0
    for places in calls(pipe, encoded, attributes, rows, method, batch_size):
        generators = [torch.Generator("cpu").manual_seed(seeds[place]) for place in places]
        if is_modular(pipe):
            from .guider import pictures_of
            own, record = pictures_of(pipe, prompt, attributes, rows[places], method, negative_prompt,
                                      getattr(encoded, "subject", ""), dict(call, generator=generators))
            made.update(zip(places, own, strict=True))
            records.append(record)
            continue
        with guided(pipe, prompt, attributes, rows[places], method, negative_prompt=negative_prompt,
                    encoded=encoded, **encoding_of(call)) as guide:
            output = pipe(**guide.call, generator=generators, output_type="np", **call)
        made.update(zip(places, _pictures(output), strict=True))
        blocked += sum(map(bool, getattr(output, "nsfw_content_detected", None) or ()))
        records.append(guide.summary())

    pixels = np.stack([made[place] for place in range(len(seeds))])
    broken = np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3))).tolist()
    if blocked:
        warnings.warn(f"The pipeline's safety checker blacked out {blocked} of {len(seeds)} images: no count holds.")
    if broken:
        warnings.warn(f"{len(broken)} of {len(seeds)} images are not finite (NaN or infinite). Does the model or its "
                      "VAE overflow in half precision?")
    info = dict(direction=method.direction, **_together(records), blocked=blocked, broken=broken, weights=rows.tolist(),
                extra_evaluations=sum(record["extra_evaluations"] for record in records))
    return (np.nan_to_num(pixels) * 255).round().clip(0, 255).astype(np.uint8), info


def _pictures(output) -> np.ndarray:
    """A pipeline's images [B, H, W, 3], 0 to 1; of a video the first frame."""
    for name in ("images", "image"):
        if hasattr(output, name):
            return getattr(output, name)
    return np.stack([frames[0] for frames in output.frames])


def _rows(attributes, steerings, weights, strength: float, seeds: list[int]) -> Tensor:
    if not seeds:
        raise DebiasError("Expected a seed for each image, got none.")
    if weights is not None and steerings:
        raise DebiasError("Give weights or steerings, but not both.")
    if weights is not None:
        weights = torch.as_tensor(weights, dtype=torch.float32) * strength
        weights = weights.expand(len(seeds), -1) if weights.ndim == 1 else weights
        if len(weights) != len(seeds):
            raise DebiasError(f"Expected weights [n], or a row for each of {len(seeds)} seeds, got "
                              f"{list(weights.shape)}.")
        return weights
    if len(steerings) != len(attributes):
        raise DebiasError(f"Expected a steering for each of {len(attributes)} attributes, got {len(steerings)}. "
                          "Calibrate first, or give weights.")
    return draw.rows(steerings, seeds, strength) if steerings else torch.zeros(len(seeds), 0)
