"""A prompt that nobody calibrated: how far it lies from calibrated ones, and weights predicted from theirs.

While a picture is still noise, the prediction for a prompt c is a mean over all that c may show: a mixture of the
predictions for c's groups, eps(x, c) = sum_i p_i eps(x, c_i). Solved for p in the first steps it tells, before there is
a picture, about how often the model shows each group. What draw probabilities such shares call for is learned from the
calibrated prompts, by ridge regression. Our own design; benchmarks/uncalibrated.py measures it.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.method.methods import EARLY, IN_CONTEXT, Method
from .hook import GuidedDenoiser, hooked
from .encode import encode, encode_all, encoding_of
from ..core.profile.file import Entry, Profile
from ..core.method.safe_latent import SafeLatentGuidance
from ..core.method.draw import Steering

FIRST_STEPS = EARLY.end  # share of the schedule in which pictures are still noise enough
PER_GROUP = 2            # calibrated prompts that a prediction needs, for each group


# --- distance --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Distance:
    """Of a prompt from the calibrated ones: 1 - cosine of text embeddings, each the mean over its tokens.

    nearest   the calibrated prompt that is nearest
    distance  to it
    usual     the largest distance of a calibrated prompt to its own nearest; None where there is but one
    """
    nearest: str
    distance: float
    usual: float | None

    @property
    def too_far(self) -> bool | None:
        """None where a single calibrated prompt cannot tell what is far."""
        return None if self.usual is None else self.distance > self.usual

    def __str__(self) -> str:
        place = f"{self.distance:.3f} (1 - cosine) from the nearest calibrated prompt, '{self.nearest}'"
        if self.too_far is None:
            return f"its text lies {place}; one calibrated prompt cannot tell whether that is far"
        if self.too_far:
            return (f"its text is too far from anything calibrated: it lies {place}, and each of these at most "
                    f"{self.usual:.3f} from its own nearest")
        return f"its text lies {place}, no farther than these from their own nearest ({self.usual:.3f} at most)"


def distance(pipe, calibrated: Sequence[str], prompt: str) -> Distance:
    """How far a prompt lies from the calibrated ones, to the pipeline's own text encoder."""
    means = encode(pipe, [*calibrated, prompt])["prompt_embeds"].float().mean(1)
    means = torch.nn.functional.normalize(means, dim=1)
    between = (1 - means @ means.T).cpu().numpy()
    np.fill_diagonal(between, np.inf)
    own = between[-1, :-1]
    usual = float(between[:-1, :-1].min(1).max()) if len(calibrated) > 1 else None
    return Distance(calibrated[int(own.argmin())], max(float(own.min()), 0.0), usual)


# --- shares in the first steps ---------------------------------------------------------------------------------------

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


def on_simplex(gram: np.ndarray, product: np.ndarray, steps: int = 3000) -> np.ndarray:
    """The shares p, not negative and with sum 1, that minimise p G p / 2 - h p: projected gradient steps from even."""
    p, largest = np.full(len(product), 1 / len(product)), np.linalg.eigvalsh(gram)[-1]
    if largest <= 0:
        return p
    for _ in range(steps):
        v = p - (gram @ p - product) / largest
        ordered = np.sort(v)[::-1]
        excess = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
        p = np.maximum(v - excess[ordered > excess][-1], 0)  # Duchi et al. 2008, figure 1
    return p


# --- prediction ------------------------------------------------------------------------------------------------------

def kernel_ridge(gram: np.ndarray, row: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge regression of y [m, k] around its mean, at a place whose kernel with the m known ones is row [m]; gram
    [m, m] is theirs. The penalty is the one with the least leave-one-out error, which has a closed form."""
    mean, best = y.mean(0), None
    for penalty in np.geomspace(1e-2, 1e4, 25):
        inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
        dual = inverse @ (y - mean)
        error = np.square(dual / np.diag(inverse)[:, None]).mean()
        if best is None or error < best[0]:
            best = error, dual
    return mean + row @ best[1]


def predicted_steering(shares: np.ndarray, known: np.ndarray, steerings: Sequence[Steering]) -> Steering:
    """Draw probabilities for a prompt with these first shares [n], from those of m calibrated ones, known [m, n]."""
    alone = (1.0,) + (0.0,) * len(shares)
    y = np.array([s.probabilities or alone for s in steerings])
    spread = known.std(0) + 1e-9
    known, x = (known - known.mean(0)) / spread, (shares - known.mean(0)) / spread
    q = np.maximum(kernel_ridge(known @ known.T, known @ x, y), 0)
    strengths = [s.strength for s in steerings if s.probabilities] or [1.0]
    return Steering((0.0,) * len(shares), tuple((q / q.sum()).tolist()), float(np.mean(strengths)))


def predicted(profile: Profile, prompt: str, shares_of: Callable[[str], Sequence[np.ndarray]]) -> Entry:
    """An entry for a prompt that the profile was not calibrated for; `shares_of` gives a prompt's `first_shares`.

    Raises DebiasError for a profile that shifts, and where it has fewer than `PER_GROUP` calibrated prompts a group.
    """
    needed = PER_GROUP * max(len(a.groups) for a in profile.attributes)
    if profile.method.spend != "draw":
        raise DebiasError(f"Weights are predicted for profiles that draw, but '{profile.name}' shifts. Calibrate this "
                          f"prompt instead.")
    if len(profile.entries) < needed:
        raise DebiasError(f"To predict weights, a profile of {needed // PER_GROUP} groups needs {needed} calibrated "
                          f"prompts, but '{profile.name}' has {len(profile.entries)}. Calibrate more, or this prompt.")
    own, *known = (shares_of(text) for text in (prompt, *(e.prompt for e in profile.entries)))
    steerings = tuple(predicted_steering(own[i], np.array([shares[i] for shares in known]),
                                         [e.steerings[i] for e in profile.entries])
                      for i in range(len(profile.attributes)))
    return Entry(prompt, steerings, warnings=(f"this prompt was not calibrated; its weights are predicted from "
                                              f"{len(known)} calibrated prompts",))
