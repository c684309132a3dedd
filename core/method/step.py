"""A sampler's step under the `embedding` direction: what is evaluated beside the prompt, when, what comes of it.

The same for every host, which gives one function, evaluate(text): `Steps.guide` asks it for the predictions of the
step's own texts and of a further one, and returns gamma, which the host takes off the conditional prediction. The
`prompt` direction needs none of this.

Baseline. Where the guidance is anchored at the prompt, or without classifier-free guidance, the prompt's prediction is
the baseline, and the further text is the prompt, moved by the weights. No threshold holds there, for gamma and what it
compares would be one difference. Else the baseline is the unconditional prediction.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, NamedTuple

import torch
from torch import Tensor

from .guidance import GuidanceRun
from .methods import Method

# Steps to one evaluation without classifier-free guidance: an added row doubles a step there. In between gamma is
# repeated. Measured by benchmarks/windows.py.
EVERY = 2


class Text(NamedTuple):
    """The further text to evaluate, for some images of the batch.

    moved    is it the prompt, moved by `weights` in its context, as in the direction `prompt`? Else it is the negative
             prompt's text e, mixed with the groups' by `weights`, u = e + sum a_i (g_i - e)
    images   places in the batch
    weights  [B, n], zero for other images
    """
    moved: bool
    images: tuple[int, ...]
    weights: Tensor


# Of a step's own texts and of the further one, in eps units: (cond [B, C, ...], uncond [B, C, ...] or None where the
# host evaluates no negative prompt, the further text's [C, ...] by image). Without a further text it is not read.
Evaluate = Callable[[Text | None], "tuple[Tensor, Tensor | None, Mapping[int, Tensor]] | None"]


def place(step: int, steps: int, first: float = 0.0) -> float:
    """Share of the whole schedule at a step of a pass, 0 to 1. step counts from 0; a pass that begins later, such as a
    second pass of denoising strength s, begins at `first` = 1 - s and covers the rest."""
    return min(first + (1 - first) * step / max(steps, 1), 1 - 1e-6)


class Steps:
    """One pass of a sampler over B images.

    method      its guidance, whose window the pass keeps
    weights     a [B, n]; an image whose weights are zero is left alone
    has_uncond  does the pass evaluate an unconditional prediction (classifier-free guidance)?
    """

    def __init__(self, method: Method, weights: Tensor, has_uncond: bool):
        self.weights, self.has_uncond = weights, has_uncond
        self.prompt_is_baseline = method.guidance.anchor == "prompt" or not has_uncond
        self.run = GuidanceRun(replace(method.guidance, threshold=None) if self.prompt_is_baseline
                               else method.guidance)
        # An image's weights are so many times its text's, and the difference that the text makes counts as often.
        self.lengths: Tensor | None = None
        linear, toward = method.guidance.linear, method.guidance.toward
        if linear or toward:
            lengths = weights.abs().amax(1).clamp(min=1e-12) / method.guidance.length if linear else \
                torch.ones_like(weights[:, 0])
            self.lengths = -lengths if toward else lengths
        self.evaluated = -EVERY  # the last step that was; none before the first
        # Moved once to where predictions are: a copy in every step would make a GPU wait.
        self._mask: Tensor | None = None  # which images are guided
        self._lengths: Tensor | None = None

    @property
    def text(self) -> Text:
        """What is evaluated beside a step's own texts. Its weights are a; of the guidance's length where gamma is
        `linear`, and turned round where it is evaluated `toward`."""
        weights = self.weights if self.lengths is None else self.weights / self.lengths[:, None]
        guided = tuple(self.weights.any(1).nonzero().flatten().tolist())
        return Text(self.prompt_is_baseline, guided, -weights if self.prompt_is_baseline else weights)

    def guide(self, step: int, progress: float, evaluate: Evaluate) -> Tensor | None:
        """gamma [B, C, ...] of a step, counted from 0, at a share of the schedule; None where there is nothing to do.
        `evaluate` is called once, with the further text where this step needs it."""
        idle = self.idle(progress)
        if idle or self.repeats(step, progress):
            evaluate(None)
            return None if idle else self.again()
        predicted = evaluate(self.text)
        assert predicted is not None
        cond, uncond, further = predicted
        base = cond if self.prompt_is_baseline or uncond is None else uncond
        unsafe = torch.stack([further.get(image, rest) for image, rest in enumerate(base)])
        return self.gamma(step, progress, cond, base, unsafe)

    def idle(self, progress: float) -> bool:
        """Is nothing to be done at this share of the schedule?"""
        return not self.run.settings.needs_unsafe(progress)

    def repeats(self, step: int, progress: float) -> bool:
        """Does this step, counted from 0, repeat the gamma of the last one that was evaluated?"""
        return not self.has_uncond and 0 < step - self.evaluated < EVERY and self.run.settings.active(progress)

    def again(self) -> Tensor:
        """The last gamma once more."""
        return self._guided(self.run.again())

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_unsafe: Tensor) -> Tensor:
        """gamma [B, C, ...] float32 in eps units, zero for images that are left alone.

        The three are predictions [B, C, ...] in eps units: for the prompt, for the baseline, and for the further text.
        An offset common to all cancels.
        """
        if self.lengths is not None:
            if self._lengths is None or self._lengths.device != eps_unsafe.device:
                self._lengths = self.lengths.to(eps_unsafe.device)
            length = self._lengths.view(-1, *(1,) * (eps_unsafe.ndim - 1))
            eps_unsafe = eps_uncond.float() + length * (eps_unsafe.float() - eps_uncond.float())
        gamma = self.run.step(eps_cond, eps_uncond, eps_unsafe, progress)
        if self.run.settings.active(progress):
            self.evaluated = step
        return self._guided(gamma)

    def _guided(self, gamma: Tensor) -> Tensor:
        # The mix of no weights is the anchor up to rounding only.
        if self._mask is None or self._mask.device != gamma.device:
            self._mask = self.weights.any(1).to(gamma.device)
        return torch.where(self._mask.view(-1, *(1,) * (gamma.ndim - 1)), gamma, 0.0)
