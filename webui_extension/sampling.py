"""One pass of a sampler: what is guided, how far it has come, and what was done. The hosts call it at every step.

A pass is the sampling of one batch: txt2img, img2img, the hires pass. Each has a fresh state, so momentum, counts and
texts of one cannot be seen in another.
"""
from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ..core.errors import DebiasError
from ..core.method.step import Steps
from .conditioning import TOKENS, deltas, encode, lengthened, mixed, of_group, parts_of, shift, with_parts
from .profiles import said


class Pass:
    """State of one pass over B images.

    owner  the processing object; a pass never acts for another one, such as a copy
    guide  what is applied (guide.py)
    size   of the pictures in pixels, width and height: SDXL encodes it with the text
    """

    def __init__(self, owner, guide, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int]):
        self.owner, self.guide, self.size = owner, guide, size
        self.prompts, self.seeds = list(prompts), [int(seed) for seed in seeds]
        self.weights = guide.rows(prompts, seeds)
        self.inside = Steps(guide.method, self.weights, has_uncond=True)
        self.parts: list[list[tuple[int, float]]] = []  # (row, weight) of every image's AND parts
        self.guided: dict[int, int] = {}  # image: which of its AND parts is guided
        self.schedules: dict[int, list[tuple[int, str]]] = {}  # image: (last step, text) of that part
        self.step, self.progress = 0, 0.0
        self.steps = 0  # in which anything was changed
        self.without_uncond = 0  # steps left alone because the host did not evaluate the negative prompt
        self.error: str | None = None
        self._model, self._encoded, self._deltas = None, {}, {}

    # --- what the hosts' hooks call ---

    def prepare(self, conditioning, schedules: Sequence[Sequence[Sequence[tuple[int, str]]]], model) -> None:
        """Find the rows to guide, and encode their texts.

        conditioning is the host's MulticondLearnedConditioning; schedules, for every image and AND part, its
        [(last step, text)].
        """
        if not len(conditioning.batch) == len(self.seeds) == len(self.prompts) == len(schedules):
            raise DebiasError(f"Expected {len(conditioning.batch)} seeds and prompts for as many images, but "
                              f"{len(self.seeds)} and {len(self.prompts)} came.")
        row = 0
        for image, parts in enumerate(conditioning.batch):
            self.parts.append([(row + i, float(part.weight)) for i, part in enumerate(parts)])
            row += len(parts)
            # SLD shifts the bracket of classifier-free guidance once, whatever number of parts stands in it.
            positive = [i for i, part in enumerate(parts) if part.weight > 0]
            if positive and self.weights[image].any():
                self.guided[image] = positive[0]
                self.schedules[image] = [(end, text) for end, text in schedules[image][positive[0]]]
        for text in {text for schedule in self.schedules.values() for _, text in schedule}:
            self.encoded(text, model)

    def at(self, step: int, total_steps: int) -> None:
        """A new evaluation. Samplers whose number of evaluations is not known beforehand may go past the total."""
        self.step, self.progress = step, min(step / max(total_steps or 1, 1), 1 - 1e-6)

    @property
    def active(self) -> bool:
        return not self.error and bool(self.guided)

    @property
    def shifts(self) -> bool:
        """Does it shift the prompt? Else predictions are guided."""
        return self.guide.method.direction == "prompt"

    def shifted(self, conditioning, model):
        """The `prompt` direction: this step's conditioning of all rows with the guided ones moved."""
        if not self.guide.method.guidance.active(self.progress):
            return conditioning
        rows = sum(map(len, self.parts))
        if len(parts_of(conditioning)[TOKENS]) != rows:
            raise DebiasError(f"Expected {rows} rows of text, but {len(parts_of(conditioning)[TOKENS])} came: another "
                              f"extension has changed their number.")
        changes, empty = {}, None
        for image, part in self.guided.items():
            text = self._text(image)
            encoded = self.encoded(text, model)
            empty = encoded.empty
            if (image, text) not in self._deltas:
                self._deltas[image, text] = deltas(encoded, self.guide.attributes, self.weights[image:image + 1],
                                                   self.guide.method.context)
            changes[self.parts[image][part][0]] = self._deltas[image, text]
        self.steps += 1
        return shift(conditioning, changes, empty)

    def unsafe(self, uncond, model) -> list:
        """Conditionings to evaluate for the direction, each [B, ...] in the form of `uncond`, the negative prompt's.

        One for `embedding`; for `prediction` one a group that any image needs.
        """
        anchor = parts_of(uncond)
        if self.guide.method.direction == "embedding":
            return [with_parts(uncond, self._by_text(anchor, model, lambda e, encoded, images: mixed(
                e, encoded, self.weights[images])))]
        return [with_parts(uncond, self._by_text(anchor, model, lambda e, encoded, _, g=g: of_group(e, encoded, g)))
                for g in self.inside.groups]

    def gamma(self, eps_cond: Tensor, eps_uncond: Tensor, eps_unsafe: Sequence[Tensor]) -> Tensor:
        """gamma [B, C, ...] from predictions in eps units (a common offset cancels); zero for images left alone."""
        unsafe = eps_unsafe[0] if self.guide.method.direction == "embedding" else \
            self.inside.unsafe(eps_uncond, eps_unsafe)
        gamma = self.inside.gamma(self.step, self.progress, eps_cond, eps_uncond, unsafe)
        guided = torch.tensor([image in self.guided for image in range(len(self.seeds))], device=gamma.device)
        self.steps = self.inside.run.steps
        return torch.where(guided.view(-1, *(1,) * (gamma.ndim - 1)), gamma, 0.0)

    def fail(self, error: Exception) -> None:
        """Stop guiding, and say why: hosts swallow exceptions of their hooks, and a picture would claim too much."""
        if self.error is None:
            self.error = said(error)
            self.owner.comment(f"Debias failed: {self.error}")
        from modules import errors
        errors.report(f"sd-debias: {self.error}", exc_info=not isinstance(error, DebiasError))

    # --- what was done ---

    def info(self, image: int) -> dict:
        """What happened to one image, as `Profile.metadata` takes it."""
        if not self.weights[image].any():
            return dict(acted=False)
        if image not in self.guided:
            return dict(acted=False, reason="" if self.error else "no part of the prompt has a weight above 0")
        if self.shifts:
            moved = any(bool(delta[name].any()) for (i, _), delta in self._deltas.items() if i == image
                        for name in delta)
            reason = None if self.steps else "no step lies in the guidance window"
            return dict(acted=bool(self.steps) and moved, steps=self.steps, skipped=0, reason=reason)
        done = self.inside.run.summary()
        reason = None
        if not done["steps"] and self.without_uncond:
            reason = "the host did not evaluate the negative prompt in any step of the guidance window"
        return dict(acted=done["acted"], steps=done["steps"], skipped=done["skipped"], reason=reason)

    # --- texts ---

    def encoded(self, text: str, model):
        """A text and its groups; encoded anew where the refiner has put another model in place."""
        if self._model is not model:
            self._model, self._encoded, self._deltas = model, {}, {}
        if text not in self._encoded:
            self._encoded[text] = encode(model, text, self.guide.attributes, self.guide.method.context, *self.size)
        return self._encoded[text]

    def _text(self, image: int) -> str:
        """The scheduled text of an image's guided part, as the host chooses it."""
        schedule = self.schedules[image]
        return next((text for end, text in schedule if self.step <= end), schedule[0][1])

    def _by_text(self, anchor: dict[str, Tensor], model, make) -> dict[str, Tensor]:
        """Rows made for all images that share a text at a time, the other rows left as they are, of one length."""
        texts: dict[str, list[int]] = {}
        for image in self.guided:
            texts.setdefault(self._text(image), []).append(image)
        made = {}
        for text, images in texts.items():
            rows = make({name: part[images] for name, part in anchor.items()}, self.encoded(text, model), images)
            made.update({image: {name: part[i] for name, part in rows.items()} for i, image in enumerate(images)})
        length = max(row[TOKENS].shape[0] for row in made.values())
        empty = next(iter(self._encoded.values())).empty[TOKENS]
        result = {name: part.clone() for name, part in anchor.items()}
        result[TOKENS] = lengthened(result[TOKENS], length, empty)
        for image, row in made.items():
            for name, part in row.items():
                result[name][image] = lengthened(part[None], length, empty)[0] if name == TOKENS else part
        return result
