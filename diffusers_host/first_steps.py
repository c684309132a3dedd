"""What the predictions of a diffusers pipeline's first steps, and its text encoder, say of a prompt.

core/calibration/first_steps.py says what shares and distances mean and what is made of them.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.calibration.first_steps import LOOKING, Distance, FirstSteps, nearest
from ..core.method.methods import IN_CONTEXT
from ..core.profile.prompts import subject_of
from .encode import encode, encode_all, encoding_of
from .families import fixed, without_fixed
from .hook import GuidedDenoiser, hooked


def distance(pipe, calibrated: Sequence[str], prompt: str) -> Distance:
    """How far a prompt lies from the calibrated ones, to the pipeline's own text encoder."""
    means = encode(pipe, [*calibrated, prompt])["prompt_embeds"].float().mean(1)
    return nearest(means.cpu().numpy(), calibrated)


class _Enough(Exception):
    """The first steps are taken."""


class _Onlooker(GuidedDenoiser):
    """Evaluates all groups beside a prompt for `seen`, changes nothing, and ends the pipeline's call behind them."""
    seen: FirstSteps

    def __call__(self, *args, **kwargs):
        if self.passes and self.pipe.scheduler.timesteps is self.timesteps:
            call = dict(zip(self.parameters, args), **kwargs)
            if self.passes[-1].idle(self._index(call) / len(self.times)):
                raise _Enough
        return super().__call__(*args, **kwargs)

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_extra: Tensor) -> Tensor:
        self.seen.add(progress, eps_cond, eps_extra.reshape(len(eps_cond), self.weights.shape[1], *eps_cond.shape[1:]))
        return torch.zeros_like(eps_cond)


def first_shares(pipe, prompt: str, attributes: Sequence[Attribute], seeds: Sequence[int], *, batch_size: int = 4,
                 negative_prompt: str | None = None, **call) -> list[np.ndarray]:
    """`FirstSteps.shares` of a prompt, for noise of these seeds. `call` goes to the pipeline (num_inference_steps,
    guidance_scale ...). Raises DebiasError as `generate.guided` besides."""
    rows, seen = sum(len(a.groups) for a in attributes), FirstSteps(attributes)
    at_once = max(1, 2 * batch_size // (2 + rows))  # about as many rows as the pipeline has itself
    call = {**fixed(pipe), **without_fixed(pipe, call)}
    encoded = encode_all(pipe, prompt, attributes, IN_CONTEXT, subject=subject_of(prompt), **encoding_of(call))

    if negative_prompt is not None:
        call["negative_prompt"] = negative_prompt
    for start in range(0, len(seeds), at_once):
        batch = [int(seed) for seed in seeds[start:start + at_once]]
        with hooked(pipe, attributes, seen.weights(len(batch)), encoded, LOOKING, _Onlooker) as onlooker:
            onlooker.seen = seen
            try:
                pipe(prompt=[prompt] * len(batch), generator=[torch.Generator("cpu").manual_seed(s) for s in batch],
                     output_type="latent", **{name: [value] * len(batch) if name == "negative_prompt" else value
                                              for name, value in call.items()})
            except _Enough:
                pipe.maybe_free_model_hooks()
    return seen.shares(prompt)
