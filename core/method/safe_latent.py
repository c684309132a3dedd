"""Settings of the Safe Latent Diffusion rule (Schramowski et al. 2022, arXiv 2211.05105); guidance.py applies it."""
from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import DebiasError, quoted

ANCHORS = ("empty", "prompt")


@dataclass(frozen=True)
class SafeLatentGuidance:
    """Settings of the SLD rule. Defaults are the simplest choice; the presets are those of the SLD authors.

    scale           saturates: from about 200 up nearly every element is guided fully, so strength lives in the weights
    threshold       an element is guided only where eps_cond - eps_unsafe < threshold (signed); None guides all
    momentum_scale  share of the accumulated momentum that is added, 0 to 0.7
    momentum_beta   decay of the momentum, 0 to 1
    start, end      window of the schedule, as shares: before start (the warm-up) and from end on nothing is applied
    linear          the text is evaluated at weights of one length (largest |a_i|), and the difference that it makes is
                    scaled up to theirs: a push grows with its weights instead of saturating. Ours
    length          that length: the shorter, the more of the prompt's own stays in the text. Ours
    anchor          one of ANCHORS. "empty": the unsafe text stands around the empty or negative prompt, and gamma is
                    eps_unsafe - eps_uncond, as the rule has it. "prompt": it is the prompt, moved by the weights, and
                    gamma is eps_unsafe - eps_cond: what the groups change *in this image*, so that a strong push keeps
                    what else the prompt says. Ours
    toward          with the anchor "prompt": the text that is evaluated is the prompt moved the other way, to where the
                    weights lead, and gamma is what is taken from it, eps_cond - eps_toward. To first order the same;
                    but a text that says a group is one that the model knows, and one that says "away from it" is not:
                    pushes are obeyed far more often (docs/windows.md). Ours
    """
    scale: float = 1000.0
    threshold: float | None = None
    momentum_scale: float = 0.0
    momentum_beta: float = 0.0
    start: float = 0.0
    end: float = 1.0
    linear: bool = False
    anchor: str = "empty"
    toward: bool = False
    length: float = 1.0

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            raise DebiasError(f"Expected anchor to be one of {', '.join(ANCHORS)}, got {quoted(self.anchor)}.")
        if self.anchor == "prompt" and self.threshold is not None:
            raise DebiasError("The anchor 'prompt' has no threshold: it would compare gamma with itself. Leave the "
                              "threshold out, or use the anchor 'empty'.")
        if self.toward and self.anchor != "prompt":
            raise DebiasError("'toward' moves the prompt, so it needs the anchor 'prompt', got "
                              f"{quoted(self.anchor)}. Change one of them.")
        numbers = (self.scale, self.momentum_scale, self.momentum_beta, self.start, self.end, self.threshold or 0.0,
                   self.length)
        if not all(math.isfinite(number) for number in numbers):
            raise DebiasError(f"Expected finite guidance settings, got {self}.")
        if not 0.01 <= self.length <= 10:
            raise DebiasError(f"Expected a length from 0.01 to 10, got {self.length:g}.")
        if self.length != 1 and not self.linear:
            raise DebiasError(f"A length ({self.length:g}) is that of the text under 'linear', which is off. Turn it "
                              "on, or leave the length out.")
        if self.scale < 0 or not 0 <= self.momentum_beta <= 1 or not 0 <= self.start <= self.end <= 1:
            raise DebiasError(f"Expected scale >= 0, momentum_beta in [0, 1] and 0 <= start <= end <= 1, got {self}.")

    @property
    def whole(self) -> bool:
        """Is the window the whole schedule?"""
        return self.start == 0 and self.end == 1

    @property
    def window(self) -> SafeLatentGuidance:
        """These settings with nothing but their window."""
        return SafeLatentGuidance(start=self.start, end=self.end)

    def active(self, progress: float) -> bool:
        """Is gamma applied at this share of the schedule?"""
        return self.scale > 0 and self.start <= progress < self.end

    def needs_unsafe(self, progress: float) -> bool:
        """Must eps_unsafe be evaluated? Inside the window, and during the warm-up where momentum builds up."""
        return self.active(progress) or (self.scale > 0 and self.momentum_scale > 0 and progress < self.start)

