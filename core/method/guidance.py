"""The Safe Latent Diffusion rule (Schramowski et al. 2022, arXiv 2211.05105), on noise predictions of any sampler.

Inside the bracket of classifier-free guidance the rule only shifts the conditional prediction, eps_cond' = eps_cond -
gamma, so a host needs nothing but gamma. Predictions are [B, C, ...] (images or video) in eps units: (x - x0) / sigma,
which is the noise for eps- and v-models and the velocity for flow models.
"""
from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..errors import DebiasError
from .safe_latent import SafeLatentGuidance


class GuidanceRun:
    """State of one pass of a sampler: its momentum, and what guidance did. Make a fresh one for every pass."""

    def __init__(self, settings: SafeLatentGuidance):
        self.settings = settings
        self.momentum: Tensor | None = None
        self.progress = -1.0
        self.steps = 0
        self.last: tuple[Tensor, Tensor] | None = None  # gamma of the last step, and whether it was skipped
        # Sums stay on the device: reading them in a step would make the GPU wait for the host.
        self._skipped: Tensor | int = 0
        self._magnitude: Tensor | float = 0.0

    def step(self, eps_cond: Tensor, eps_uncond: Tensor, eps_unsafe: Tensor, progress: float) -> Tensor:
        """gamma for one evaluation: float32, the predictions' shape; zero outside the window.

        progress is the share of the schedule, 0 at the first step, read from sigma: a sampler that evaluates the same
        sigma twice advances the momentum once. An image whose gamma is not finite goes without it; the step is counted.
        Raises DebiasError where the three shapes differ.
        """
        if not eps_cond.shape == eps_uncond.shape == eps_unsafe.shape:
            raise DebiasError(f"Expected three predictions of one shape, got {list(eps_cond.shape)} (cond), "
                              f"{list(eps_uncond.shape)} (uncond) and {list(eps_unsafe.shape)} (unsafe).")
        s = self.settings
        cond, uncond, unsafe = eps_cond.float(), eps_uncond.float(), eps_unsafe.float()
        if self.momentum is None or progress < self.progress:
            self.momentum = torch.zeros_like(cond)

        difference = cond - unsafe
        mu = (difference.abs() * s.scale).clamp(max=1.0)
        if s.threshold is not None:
            mu = torch.where(difference >= s.threshold, 0.0, mu)
        gamma = mu * (unsafe - uncond) + s.momentum_scale * self.momentum
        # Image by image: one image's overflow must not take guidance from the others of its batch.
        finite = torch.isfinite(gamma).flatten(1).all(1)
        gamma = torch.where(finite.view(-1, *(1,) * (gamma.ndim - 1)), gamma, 0.0)

        if progress != self.progress:
            self.momentum = s.momentum_beta * self.momentum + (1 - s.momentum_beta) * gamma
            self.progress = progress
        if not s.active(progress):
            return torch.zeros_like(gamma)
        self.last = gamma, (~finite.all()).int()
        return self.again()

    def again(self) -> Tensor:
        """gamma of the last step once more, for a step in the window whose predictions are not evaluated."""
        assert self.last is not None  # core/method/step.py repeats no step before the first
        gamma, skipped = self.last
        self.steps += 1
        self._skipped = self._skipped + skipped
        self._magnitude = self._magnitude + gamma.abs().mean()
        return gamma

    def summary(self) -> dict:
        """What happened, for metadata: `steps` guided, `skipped` (in part) for NaN or Inf, mean |gamma| in eps units,
        `acted`. Warns if steps were skipped.
        """
        skipped, total = int(self._skipped), float(self._magnitude)
        if skipped:
            warnings.warn(f"Guidance left out {skipped} of {self.steps} steps whose predictions were NaN or infinite.")
        return dict(steps=self.steps, skipped=skipped, magnitude=total / max(self.steps, 1), acted=total > 0)
