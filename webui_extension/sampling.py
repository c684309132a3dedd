"""One pass of a sampler: what is guided, how far it has come, and what was done. The hosts call it at every step.

A pass is the sampling of one batch: txt2img, img2img, the hires pass. Each has a fresh state, so momentum, counts and
texts of one cannot be seen in another.
"""
from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ..core.errors import DebiasError
from ..core.method.conditioning import Encoded, Parts, apart, length, shifted_rows
from ..core.method.step import Evaluate, Steps, Text, place
from .conditioning import TOKENS, encode, mark_of, mixed, moved, parts_of, with_parts, with_rows
from .profiles import said


class Pass:
    """State of one pass over B images.

    owner  the processing object; a pass never acts for another one, such as a copy
    guide  what is applied (guide.py)
    size   of the images in pixels, width and height: SDXL encodes it with the text
    first  share of the schedule at which the pass begins: 1 minus the denoising strength of img2img and a hires pass
    """

    def __init__(self, owner, guide, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int],
                 first: float = 0.0):
        self.owner, self.guide, self.size, self.first = owner, guide, size, first
        self.prompts, self.seeds = list(prompts), [int(seed) for seed in seeds]
        self.weights = guide.rows(prompts, seeds)
        self.inside = Steps(guide.method, self.weights, has_uncond=True)
        self.parts: list[list[tuple[int, float]]] = []  # (row, weight) of every image's AND parts
        self.guided: dict[int, int] = {}  # image: which of its AND parts is guided
        self.schedules: dict[int, list[tuple[int, str]]] = {}  # image: (last step, text) of that part
        self.step, self.progress, self.sampled = 0, 0.0, False
        self.steps = 0  # in which anything was changed
        self.without_uncond = 0  # steps left alone because the host did not evaluate the negative prompt
        self.error: str | None = None
        self.cause: Exception | None = None  # of it
        self.frames = 1
        self._model: object = None
        self._encoded: dict[str, Encoded] = {}
        self._shifts: dict[tuple[int, str], Parts] = {}
        # Read once a pass: in every step a GPU would wait.
        self.mark = 0  # tokens before the text
        self._marked = False
        self._filled: dict[str, dict] = {}
        self._mask: Tensor | None = None  # which images are guided
        self.longer: dict[int, Parts] = {}  # in this step, images whose text is longer than the batch's own

    # --- what the hosts' hooks call ---

    def prepare(self, conditioning, schedules: Sequence[Sequence[Sequence[tuple[int, str]]]], model) -> None:
        """Find the rows to guide, and encode their texts.

        conditioning is the host's MulticondLearnedConditioning; schedules, for every image and AND part, its
        [(last step, text)].
        """
        batch = conditioning.batch[:len(self.seeds)] if of_frames() else conditioning.batch  # a row for every frame
        if not len(batch) == len(self.seeds) == len(self.prompts) == len(schedules):
            raise DebiasError(f"Expected {len(batch)} seeds and prompts for as many images, got {len(self.seeds)} and "
                              f"{len(self.prompts)}.")
        self.frames = len(conditioning.batch) // max(len(batch), 1)
        row = 0
        for image, parts in enumerate(batch):
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
        self.step, self.sampled, self.progress = step, True, place(step, total_steps or 1, self.first)

    @property
    def active(self) -> bool:
        return not self.error and bool(self.guided)

    @property
    def shifts(self) -> bool:
        """Does it shift the prompt? Else predictions are guided."""
        return self.guide.method.direction == "prompt"

    def shifted(self, conditioning, model):
        """The `prompt` direction: this step's conditioning of all rows with the guided ones moved.

        A text that is longer than the batch's own does not lengthen those of other rows: it stays as it is here, and is
        evaluated apart (`longer`).
        """
        self.longer = {}
        if not self.guide.method.guidance.active(self.progress):
            return conditioning
        parts, rows = self._parts_of(conditioning), sum(map(len, self.parts))
        if self.frames > 1 and len(parts[TOKENS]) == rows * self.frames:  # the host evaluates the first one's
            shifted = self.shifted(with_rows(conditioning, range(rows)), model)
            return with_rows(shifted, [*range(rows)] * self.frames)
        if len(parts[TOKENS]) != rows:
            raise DebiasError(f"Expected {rows} rows of text, got {len(parts[TOKENS])}: another extension has changed "
                              "their number.")
        made = {}
        for image, part in self.guided.items():
            row, text = self.parts[image][part][0], self._text(image)
            own = {name: value[row:row + 1] for name, value in parts.items()}
            made[row] = image, moved(own, self.encoded(text, model), self._shift(image, text, model),
                                     self._filled.setdefault(text, {}))
        tokens = parts[TOKENS].shape[1]
        lengths = {own[TOKENS].shape[1] for _, own in made.values()}
        self.steps += 1
        if len(made) == rows and len(lengths) == 1:  # all rows move, and stay of one length
            return with_parts(conditioning, {name: torch.cat([made[row][1][name] for row in range(rows)])
                                             for name in parts}, self.mark)
        changed = {name: value.clone() for name, value in parts.items()}
        for row, (image, own) in made.items():
            if own[TOKENS].shape[1] > tokens:
                self.longer[image] = own
            else:
                for name, value in own.items():
                    changed[name][row] = value[0]
        return with_parts(conditioning, changed, self.mark)

    def evaluated_apart(self, conditioning) -> list[tuple[list[int], object]]:
        """(images, conditioning [B, ...] in the form of the one that came) of texts longer than the batch's own."""
        return [(images, with_parts(conditioning, parts, self.mark))
                for images, parts in apart([self.longer.get(image) for image in range(len(self.seeds))])]

    @property
    def may_be_longer(self) -> bool:
        """Can a group's text be longer than the prompt's own?"""
        return any(length(group) > length(encoded.prompt[TOKENS])
                   for encoded in self._encoded.values() for group in encoded.groups[TOKENS])

    def without_negative(self) -> None:
        """The host evaluates no negative prompt in this pass."""
        if self.inside.has_uncond:
            self.inside = Steps(self.guide.method, self.weights, has_uncond=False)

    def further(self, text: Text, base, model) -> list[tuple[list[int], object]]:
        """The conditionings of the further text, [B, ...] in the form of `base`, with the guided images that they are
        for: texts of different lengths are evaluated apart.

        `base` is the prompt's text, one row an image, where the prompt is the baseline (core/method/step.py) or there
        is no negative prompt, else the negative prompt's.
        """
        attributes, context = self.guide.attributes, self.guide.method.context

        def made(image: int) -> Parts:
            row = {name: part[image:image + 1] for name, part in own.items()}
            encoded = self.encoded(self._text(image), model)
            if not text.moved:
                return mixed(row, encoded, text.weights[image])
            to, = shifted_rows(encoded, attributes, text.weights[image:image + 1], context)
            return moved(row, encoded, to, self._filled.setdefault(self._text(image), {}))

        own = self._parts_of(base)
        rows = [made(image) if image in text.images and image in self.guided else None
                for image in range(len(self.seeds))]
        return [(at, with_parts(base, parts, self.mark)) for at, parts in apart(rows)]

    def _parts_of(self, conditioning) -> Parts:
        if not self._marked:
            self.mark, self._marked = mark_of(conditioning), True
        return parts_of(conditioning, self.mark)

    def gamma(self, evaluate: Evaluate) -> Tensor | None:
        """gamma [B, C, ...] of this step (`Steps.guide`), zero for images left alone; None where there is none."""
        gamma = self.inside.guide(self.step, self.progress, evaluate)
        self.steps = self.inside.run.steps
        if gamma is None:
            return None
        if self._mask is None or self._mask.device != gamma.device:
            self._mask = torch.tensor([image in self.guided for image in range(len(self.seeds))], device=gamma.device)
        return torch.where(self._mask.view(-1, *(1,) * (gamma.ndim - 1)), gamma, 0.0)

    def fail(self, error: Exception) -> None:
        """Stop guiding, and say why: hosts swallow exceptions of their hooks, and an image would claim too much."""
        first = self.error is None
        self.error = self.error or said(error)
        from modules import errors
        errors.report(f"sd-debias: {self.error}", exc_info=not isinstance(error, DebiasError))
        if first:
            self.owner.comment(f"Debias failed: {self.error}")
            self.cause = error.with_traceback(None)  # with its frames, which hold this, all of a failed step would stay

    # --- what was done ---

    def info(self, image: int) -> dict:
        """What happened to one image, as `Profile.metadata` takes it."""
        if not self.weights[image].any():
            return dict(acted=False)
        if not self.sampled and not self.error:
            return dict(acted=False, reason="the sampling ended before its first step")
        if image not in self.guided:
            return dict(acted=False, reason="" if self.error else "no part of the prompt has a weight above 0")
        if self.shifts:
            changed = any(parts[name].shape != c.shape or not torch.equal(parts[name], c)
                          for (i, text), parts in self._shifts.items() if i == image and text in self._encoded
                          for name, c in self._encoded[text].prompt.items())
            reason = None if self.steps else "no step lies in the guidance window"
            return dict(acted=bool(self.steps) and changed, steps=self.steps, skipped=0, reason=reason)
        done = self.inside.run.summary()
        reason = None
        if not done["steps"] and self.without_uncond:
            reason = "the host did not evaluate the negative prompt in any step of the guidance window"
        return dict(acted=done["acted"], steps=done["steps"], skipped=done["skipped"], reason=reason)

    # --- texts ---

    def encoded(self, text: str, model):
        """A text and its groups; encoded anew where the refiner has put another model in place."""
        if self._model is not model:
            self._model, self._encoded, self._shifts = model, {}, {}
        if text not in self._encoded:
            self._encoded[text] = encode(model, text, self.guide.attributes, self.guide.method.context, *self.size,
                                         self.guide.behind(text))
        return self._encoded[text]

    def _text(self, image: int) -> str:
        """The scheduled text of an image's guided part, as the host chooses it."""
        schedule = self.schedules[image]
        return next((text for end, text in schedule if self.step <= end), schedule[0][1])

    def _shift(self, image: int, text: str, model) -> Parts:
        """c' of an image's text, made once."""
        if (image, text) not in self._shifts:
            self._shifts[image, text], = shifted_rows(self.encoded(text, model), self.guide.attributes,
                                                      self.weights[image:image + 1], self.guide.method.context)
        return self._shifts[image, text]


def of_frames() -> bool:
    """Is a batch one video? Forge Neo takes the batch size of Wan as its number of frames."""
    try:
        from backend.args import dynamic_args
    except ImportError:  # other hosts have none
        return False
    return bool(getattr(dynamic_args, "wan", False))
