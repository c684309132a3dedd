"""What the predictions of a diffusers pipeline's first steps, and its text encoder, say of a prompt.

core/calibration/first_steps.py says what shares and distances mean and what is made of them.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.calibration.first_steps import Distance, nearest, on_simplex
from ..core.errors import DebiasError, quoted
from ..core.method.methods import EARLY, IN_CONTEXT, Method
from ..core.method.safe_latent import SafeLatentGuidance
from .encode import encode, encode_all, encoding_of
from .hook import GuidedDenoiser, hooked

FIRST_STEPS = EARLY.end  # share of the schedule in which pictures are still noise enough


def distance(pipe, calibrated: Sequence[str], prompt: str) -> Distance:
    """How far a prompt lies from the calibrated ones, to the pipeline's own text encoder."""
    means = encode(pipe, [*calibrated, prompt])["prompt_embeds"].float().mean(1)
    return nearest(means.cpu().numpy(), calibrated)


class _Onlooker(GuidedDenoiser):
    """Evaluates all groups beside a prompt, and changes nothing. By attribute and step, the Gram matrix G [n, n] of
    the groups' predictions and their products h [n] with the prompt's, all from the groups' mean."""

    def __init__(self, *args):
        super().__init__(*args)
        self.found: list[dict[float, tuple[Tensor, Tensor]]] = [{} for _ in self.attributes]

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_extra: Tensor) -> Tensor:
        prompt = eps_cond.flatten(1)[:, None]
        groups = eps_extra.flatten(1).reshape(len(prompt), self.weights.shape[1], -1)
        for found, own in zip(self.found, groups.split([len(a.groups) for a in self.attributes], dim=1)):
            mean = own.mean(1, keepdim=True)
            own, other = own - mean, prompt - mean
            gram, product = found.get(progress, (0.0, 0.0))
            found[progress] = gram + (own @ own.mT).sum(0), product + (own @ other.mT).sum(0)[:, 0]
        return torch.zeros_like(eps_cond)


def first_shares(pipe, prompt: str, attributes: Sequence[Attribute], seeds: Sequence[int], *, batch_size: int = 4,
                 negative_prompt: str | None = None, **call) -> list[np.ndarray]:
    """Shares [n] of each attribute's groups as the predictions of the first steps show them, for noise of these seeds.

    `call` goes to the pipeline (num_inference_steps, guidance_scale ...). An estimate with an error of its own: some
    points for two groups, more where groups look alike. Raises DebiasError as `generate.guided`,
    for a call that begins too late, and for predictions that are not finite.
    """
    rows, found = sum(len(a.groups) for a in attributes), []
    at_once = max(1, 2 * batch_size // (2 + rows))  # about as many rows as the pipeline has itself
    encoded = encode_all(pipe, prompt, attributes, IN_CONTEXT, **encoding_of(call))
    method = Method("prediction", IN_CONTEXT, guidance=SafeLatentGuidance(end=FIRST_STEPS))

    def enough(pipe, step, timestep, tensors):
        pipe._interrupt = step + 1 >= FIRST_STEPS * pipe.num_timesteps
        return tensors

    if negative_prompt is not None:
        call["negative_prompt"] = negative_prompt
    for start in range(0, len(seeds), at_once):
        batch = [int(seed) for seed in seeds[start:start + at_once]]
        with hooked(pipe, attributes, torch.ones(len(batch), rows), encoded, method, _Onlooker) as onlooker:
            pipe(prompt=[prompt] * len(batch), generator=[torch.Generator("cpu").manual_seed(s) for s in batch],
                 output_type="latent", callback_on_step_end=enough,
                 **{name: [value] * len(batch) if name == "negative_prompt" else value for name, value in call.items()})
            pipe._interrupt = False
        found.append(onlooker.found)
    if not found or not found[0][0]:
        raise DebiasError(f"No step of this pipeline's call lies in the first {FIRST_STEPS:.0%} of the schedule, where "
                          f"shares are read. Begin from noise (text-to-image, or strength 1), with a seed or more.")
    shares = []
    for parts in zip(*found):
        steps = [[sum(part[step][i] for part in parts).cpu().double().numpy() for i in (0, 1)] for step in parts[0]]
        if not all(np.isfinite(part).all() for step in steps for part in step):
            raise DebiasError(f"The model's predictions for {quoted(prompt)} are not finite, so no shares can be "
                              "read off them. Use another precision, e.g. bfloat16 or float32.")
        shares.append(np.mean([on_simplex(*step) for step in steps], axis=0))
    return shares
