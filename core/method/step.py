"""A sampler's step under the directions inside sampling: what is evaluated beside the prompt, when, what comes of it.

The same for every host, which gives one function, evaluate(texts): `Steps.guide` asks it for the predictions of the
step's own texts and of further ones, and returns gamma, which the host takes off the conditional prediction. The
`prompt` direction needs none of this.

Baseline. Where the guidance is anchored at the prompt, the prompt's prediction is the baseline of both directions,
which costs no row; no threshold holds, for gamma and what it compares would be one difference. Anchored at the empty
prompt, it is the unconditional prediction of classifier-free guidance. Without that, `embedding` takes the prompt's
own, and its unsafe text is the prompt, shifted; `prediction` evaluates the empty prompt too.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor

from .direction import check_weights, mix_checked
from .guidance import GuidanceRun
from .methods import Method

# Steps to one evaluation without classifier-free guidance where the prompt is the baseline: an added row doubles a step
# there. In between gamma is repeated. Measured by benchmarks/windows.py.
EVERY = 2


MOVED, MIXED, GROUP, EMPTY = "moved", "mixed", "group", "empty"


class Text(NamedTuple):
    """A further text to evaluate, for some images of the batch.

    kind     MOVED: the prompt, moved by `weights` in its context, as in the direction `prompt`; MIXED: the negative
             prompt's text e, mixed with the groups' by `weights`, u = e + sum a_i (g_i - e); GROUP: one group's own
             text; EMPTY: the empty text
    images   places in the batch
    weights  [B, n], zero for other images
    group    of all attributes side by side
    """
    kind: str
    images: tuple[int, ...]
    weights: Tensor | None = None
    group: int | None = None


# Of a step's own texts and of further ones, in eps units: (cond [B, C, ...], uncond [B, C, ...] or None where the host
# evaluates no negative prompt, by further text the images' [C, ...]). Without further texts nothing is read of it.
Evaluate = Callable[[Sequence[Text]], "tuple[Tensor, Tensor | None, Sequence[Mapping[int, Tensor]]] | None"]


def place(step: int, steps: int, first: float = 0.0) -> float:
    """Share of the whole schedule at a step of a pass, 0 to 1. step counts from 0; a pass that begins later, such as a
    second pass of denoising strength s, begins at `first` = 1 - s and covers the rest."""
    return min(first + (1 - first) * step / max(steps, 1), 1 - 1e-6)


class Steps:
    """One pass of a sampler over B images.

    method      its direction, `embedding` or `prediction`, and its window
    weights     a [B, n]; an image whose weights are zero is left alone
    has_uncond  does the pass evaluate an unconditional prediction (classifier-free guidance)?
    """

    def __init__(self, method: Method, weights: Tensor, has_uncond: bool):
        self.direction, self.weights, self.has_uncond = method.direction, weights, has_uncond
        self.prompt_is_baseline = method.guidance.anchor == "prompt" or (
            self.direction == "embedding" and not has_uncond)
        self.run = GuidanceRun(replace(method.guidance, threshold=None) if self.prompt_is_baseline
                               else method.guidance)
        # An image's weights are so many times its text's, and the difference that the text makes counts as often.
        self.lengths: Tensor | None = None
        linear, toward = method.guidance.linear, method.guidance.toward
        if self.direction == "embedding" and (linear or toward):
            lengths = weights.abs().amax(1).clamp(min=1e-12) / method.guidance.length if linear else \
                torch.ones_like(weights[:, 0])
            self.lengths = -lengths if toward else lengths
        self.evaluated = -EVERY  # the last step that was; none before the first
        # Moved once to where predictions are: a copy in every step would make a GPU wait.
        self._mask: Tensor | None = None  # which images are guided
        self._of_groups: Tensor | None = None  # the weights of `groups`
        self._lengths: Tensor | None = None

    @property
    def groups(self) -> list[int]:
        """Groups, of all attributes side by side, that the `prediction` direction evaluates: those with a weight."""
        return self.weights.any(0).nonzero().flatten().tolist()

    @property
    def evaluates_empty(self) -> bool:
        """Is the empty prompt evaluated, as the baseline of the `prediction` direction?"""
        return not (self.has_uncond or self.prompt_is_baseline)

    @property
    def text_weights(self) -> Tensor:
        """a [B, n] of the `embedding` direction's text: the weights; of the guidance's length where gamma is `linear`,
        and turned round where it is evaluated `toward`."""
        return self.weights if self.lengths is None else self.weights / self.lengths[:, None]

    @property
    def texts(self) -> list[Text]:
        """What is evaluated beside a step's own texts: of `embedding` one text, of `prediction` one for each of
        `groups`, and last the empty one where it is the baseline."""
        def needed(weights: Tensor) -> tuple[int, ...]:
            return tuple(weights.flatten(1).any(1).nonzero().flatten().tolist())

        guided = needed(self.weights)
        if self.direction == "embedding":
            return [Text(MOVED, guided, -self.text_weights) if self.prompt_is_baseline else
                    Text(MIXED, guided, self.text_weights)]
        found = []
        for group in self.groups:
            weighed = self.weights[:, group] != 0
            push = torch.zeros_like(self.weights)
            push[:, group] = -weighed.to(push.dtype)
            images = needed(weighed[:, None])
            found.append(Text(MOVED, images, push) if self.prompt_is_baseline else Text(GROUP, images, None, group))
        return found + [Text(EMPTY, guided)] * self.evaluates_empty

    def guide(self, step: int, progress: float, evaluate: Evaluate) -> Tensor | None:
        """gamma [B, C, ...] of a step, counted from 0, at a share of the schedule; None where there is nothing to do.
        `evaluate` is called once, with the further texts that this step needs; where it needs none, without any."""
        idle = self.idle(progress)
        if idle or self.repeats(step, progress):
            evaluate(())
            return None if idle else self.again()
        predicted = evaluate(self.texts)
        assert predicted is not None
        cond, uncond, further = predicted
        *found, last = further
        if self.prompt_is_baseline:
            base = cond
        elif uncond is not None and self.has_uncond:
            base = uncond
        else:
            base = _whole(last, cond)
        full = [_whole(each, base) for each in (found if self.evaluates_empty else further)]
        unsafe = full[0] if self.direction == "embedding" else self.unsafe(base, full)
        return self.gamma(step, progress, cond, base, unsafe)

    def idle(self, progress: float) -> bool:
        """Is nothing to be done at this share of the schedule?"""
        return not self.run.settings.needs_unsafe(progress)

    def repeats(self, step: int, progress: float) -> bool:
        """Does this step, counted from 0, repeat the gamma of the last one that was evaluated?"""
        return (self.prompt_is_baseline and not self.has_uncond and 0 < step - self.evaluated < EVERY
                and self.run.settings.active(progress))

    def again(self) -> Tensor:
        """The last gamma once more."""
        return self._guided(self.run.again())

    def unsafe(self, eps_base: Tensor, eps_groups: Sequence[Tensor]) -> Tensor:
        """The `prediction` direction [B, C, ...]: the predictions of `groups`, each [B, C, ...], mixed around the
        baseline's."""
        groups = torch.stack(list(eps_groups))
        if self._of_groups is None or self._of_groups.device != eps_base.device:
            own = self.weights[:, self.groups]
            check_weights(eps_base, groups, own)
            self._of_groups = own.to(eps_base.device)
        return mix_checked(eps_base, groups, self._of_groups)

    def gamma(self, step: int, progress: float, eps_cond: Tensor, eps_uncond: Tensor, eps_unsafe: Tensor) -> Tensor:
        """gamma [B, C, ...] float32 in eps units, zero for images that are left alone.

        The three are predictions [B, C, ...] in eps units: for the prompt, for the baseline, and for the unsafe text
        (`embedding`) or of `unsafe` (`prediction`). An offset common to all cancels.
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


def _whole(by_image: Mapping[int, Tensor], rest: Tensor) -> Tensor:
    """Predictions [B, C, ...] of all images: the others' are those of `rest`."""
    return torch.stack([by_image[i] if i in by_image else own for i, own in enumerate(rest)])
