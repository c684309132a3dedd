"""What the contracts ask of a host with one form of text, and the reference that core gives for it."""
from __future__ import annotations

import importlib.util
import sys
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from standin_gpu import Card
from torch import Tensor

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.conditioning import Encoded, Parts, mean, mixed_rows, shifted_rows, together
from sd_debias.core.method.direction import group_texts
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import Method
from sd_debias.core.method.step import Steps, Text, place

TESTS = Path(__file__).resolve().parent.parent
NEGATIVE, STEPS, IMAGES = "blurry", 3, 3
ATTRIBUTES, DEFAULT = (GENDER,), Method()
# Every draw of the second group pushes toward it at full strength; the first three seeds that draw (woman, none, man).
PUSH = Steering((0.0, 0.0), (0.34, 0.33, 0.33), 1.0)
FIRST = next(seed for seed in range(1000) if PUSH.draws(range(seed, seed + IMAGES)) == [2, 0, 1])
SEEDS = list(range(FIRST, FIRST + IMAGES))
PUSHED, ALONE = {0: "a woman", 2: "a man"}, 1


class Refused(NamedTuple):
    """short is what a cell of the table says; sentence, a pattern, what the host says."""
    short: str
    sentence: str


def load(folder: str, name: str, alias: str):
    """tests/<folder>/<name>.py as the module `alias`, once."""
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, TESTS / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[alias] = module
        spec.loader.exec_module(module)
    return sys.modules[alias]


def words(tokens: int) -> str:
    """A prompt of so many words, each one token of CLIP."""
    return "a photo of a doctor" + " very" * (tokens - 5)


class Case:
    """A host with one form of text. Images are [3, ...] of SEEDS: latents, or pixels from 0 to 1.

    rounding     largest deviation, as a share of the largest value, that is a matter of rounding
    alone_rounding  the same of images that are left alone
    felt         what a push moves an image by at the least, ten times that where it is None
    cfgs         with and without classifier-free guidance
    refused      where the host refuses this form, else None
    apart        has the negative prompt a call of its own? Inside sampling it is then as without guidance
    reference    None, or why core's reference cannot be computed here
    evaluations  rows that the denoiser evaluated in the last call; None where nobody can count them
    sigmas       of the last call's steps, and the end
    device, dtype  of latents
    """
    device, dtype = torch.device("cpu"), torch.float32
    has_gpu = False  # can `on_card` take "cuda", this machine's card?
    prompt, cfgs, rounding, refused, apart, reference = words(5), (3.0, 1.0), 1e-5, None, False, None
    alone_rounding = 0.0
    evaluations: int | None = None
    felt: float | None = None
    sigmas: list[float] = []

    def pictures(self, prompt: str, steering: Steering | None = None, method: Method = DEFAULT, cfg: float = 3.0,
                 strength: float = 1.0) -> Tensor:
        """Without a steering: as if the package were not there. Raises ValueError for what is refused."""
        raise NotImplementedError

    def on_card(self, card: Card | str | None, dtype: torch.dtype) -> AbstractContextManager:
        """Within it, images are made on a stand-in for a GPU; with `card` None in this dtype on the CPU, and with
        "cuda" on this machine's card."""
        raise NotImplementedError

    @cache  # noqa: B019 - a case lives as long as its tests
    def plain(self, cfg: float = 3.0) -> tuple[Tensor, int | None]:
        """The images without the package, and what was evaluated."""
        return self.pictures(self.prompt, cfg=cfg), self.evaluations

    def encode(self, text: str) -> Parts:
        """A text's parts as the host encodes it alone."""
        raise NotImplementedError

    def has_uncond(self, cfg: float) -> bool:
        """Does the host evaluate the negative prompt?"""
        return cfg != 1

    def noise(self) -> Tensor:
        """What the sampler starts from."""
        raise NotImplementedError

    def eps(self, x: Tensor, step: int, text: Parts) -> Tensor:
        """The model's prediction for one image and text, in eps units."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """The image of the sampler's last x."""
        return x


@cache
def plain_reference(case: Case, cfg: float) -> Tensor:
    return reference(case, DEFAULT, torch.zeros(IMAGES, 2), cfg)


def reference(case: Case, method: Method, a: Tensor, cfg: float) -> Tensor:
    """The images by core alone: Euler's sampler, image by image, so that no text meets another's length."""
    prompt = case.encode(case.prompt)
    texts = [[case.encode(text) for text in group_texts(group.texts, case.prompt, method.context)]
             for group in GENDER.groups]
    groups = {name: together([mean([text[name] for text in own]) for own in texts]) for name in prompt}
    encoded, prompts = Encoded(prompt, groups), [prompt] * len(a)
    has_uncond = case.has_uncond(cfg)
    beside = has_uncond and not case.apart  # is the negative prompt's prediction there when the prompt's is?
    negatives = [case.encode(NEGATIVE)] * len(a) if has_uncond else prompts
    steps = Steps(method, a, beside) if method.direction != "prompt" else None
    if not steps:
        prompts = shifted_rows(encoded, ATTRIBUTES, a, method.context)

    def texts_of(text: Text) -> list[Parts]:
        """Of all images; those that it is not for have their own."""
        if text.moved:
            return shifted_rows(encoded, ATTRIBUTES, text.weights, method.context)
        return [row or own for row, own in zip(mixed_rows(negatives, encoded, text.weights), negatives)]

    x = case.noise()
    for i, (sigma, later) in enumerate(zip(case.sigmas, case.sigmas[1:])):
        def eps(texts, x=x, i=i):
            return torch.cat([case.eps(x[j:j + 1], i, text) for j, text in enumerate(texts)])

        progress = place(i, len(case.sigmas) - 1)
        cond = eps(prompts if method.guidance.active(progress) else [prompt] * len(a))
        uncond = eps(negatives) if has_uncond else cond
        gamma = steps and steps.guide(i, progress, lambda text, cond=cond, uncond=uncond, eps=eps: text and (
            cond, uncond if beside else None, dict(enumerate(eps(texts_of(text))))))
        guided = cond if gamma is None else cond - gamma
        x = x + (uncond + cfg * (guided - uncond) if has_uncond else guided) * (later - sigma)
    return case.finish(x)
