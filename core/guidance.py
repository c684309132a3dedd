"""The Safe Latent Diffusion rule (Schramowski et al. 2022, arXiv 2211.05105), on noise predictions of any sampler.

Inside the bracket of classifier-free guidance the rule only shifts the conditional prediction, eps_cond' = eps_cond -
gamma, so a host needs nothing but gamma. Predictions are [B, C, ...] (images or video) in eps units: (x - x0) / sigma,
which is the noise for eps- and v-models and the velocity for flow models.
"""
from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SafeLatentGuidance:
    """Settings of the rule; each default is the plainest choice, the presets are the SLD authors'.

    scale           saturates: from about 200 up nearly every element is guided fully, so strength lives in the weights
    threshold       an element is guided only where eps_cond - eps_unsafe < threshold (signed); None guides all
    momentum_scale  share of the accumulated momentum that is added, 0 to 0.7
    momentum_beta   decay of the momentum, 0 to 1
    start, end      window of the schedule, as shares: before start (the warm-up) and from end on nothing is applied
    """
    scale: float = 1000.0
    threshold: float | None = None
    momentum_scale: float = 0.0
    momentum_beta: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        numbers = (self.scale, self.momentum_scale, self.momentum_beta, self.start, self.end, self.threshold or 0.0)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"Guidance settings must be finite numbers, but {self} came.")
        if self.scale < 0 or not 0 <= self.momentum_beta <= 1 or not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"Expected scale >= 0, momentum_beta in [0, 1] and 0 <= start <= end <= 1, but {self} "
                             f"came.")

    def active(self, progress: float) -> bool:
        """Is gamma applied at this share of the schedule?"""
        return self.scale > 0 and self.start <= progress < self.end

    def needs_unsafe(self, progress: float) -> bool:
        """Must eps_unsafe be evaluated? Inside the window, and during the warm-up where momentum builds up."""
        return self.active(progress) or (self.scale > 0 and self.momentum_scale > 0 and progress < self.start)


# Warm-up is a share of the authors' 50 steps.
PRESETS = {
    "weak": SafeLatentGuidance(200, 0.0, 0.0, 0.0, start=15 / 50),
    "medium": SafeLatentGuidance(1000, 0.01, 0.3, 0.4, start=10 / 50),
    "strong": SafeLatentGuidance(2000, 0.025, 0.5, 0.7, start=7 / 50),
    "max": SafeLatentGuidance(5000, 1.0, 0.5, 0.7, start=0.0),
}


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
        Raises ValueError where the three shapes differ.
        """
        if not eps_cond.shape == eps_uncond.shape == eps_unsafe.shape:
            raise ValueError(f"Expected three predictions of one shape, but {list(eps_cond.shape)} (cond), "
                             f"{list(eps_uncond.shape)} (uncond) and {list(eps_unsafe.shape)} (unsafe) came.")
        s = self.settings
        cond, uncond, unsafe = eps_cond.float(), eps_uncond.float(), eps_unsafe.float()
        if self.momentum is None or progress < self.progress:
            self.momentum = torch.zeros_like(cond)

        difference = cond - unsafe
        mu = (difference.abs() * s.scale).clamp(max=1.0)
        if s.threshold is not None:
            mu = torch.where(difference >= s.threshold, 0.0, mu)
        gamma = mu * (unsafe - uncond) + s.momentum_scale * self.momentum
        # Image by image: one picture's overflow must not take guidance from the others of its batch.
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
