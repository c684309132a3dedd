"""Does guidance do on this model what it must? A minute's examination, whose text belongs into a bug report.

It asks a host for a few images of one prompt and compares them: nothing here knows how they are made.
"""
from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch

from .attribute import GENDER, Attribute
from .judge import Classifier
from .study.host import Host
from .errors import DebiasError
from .method.direction import group_texts
from .method.methods import METHODS, Method
from .version import VERSION

PROMPT, SEEDS = "a photo of a doctor", (1, 2)
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy")
SEEN = 0.5       # of 255, the mean difference of a push that does something
ROUNDING = 0.05  # of a push's effect: another order of the same sums, also in half precision


@dataclass(frozen=True)
class Finding:
    """One question and its answer; ok is None where nothing is right or wrong."""
    text: str
    ok: bool | None = None

    def __str__(self) -> str:
        return f"{'  ' if self.ok is None else 'ok' if self.ok else 'NO'}  {self.text}"


@dataclass(frozen=True)
class Examination:
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Was nothing found that is wrong?"""
        return all(finding.ok is not False for finding in self.findings)

    @property
    def text(self) -> str:
        verdict = "Guidance works on this model." if self.ok else \
            "Guidance does not work correctly on this model: see the lines with NO."
        return "\n".join([verdict, *map(str, self.findings)])


def examine(host: Host, facts: Sequence[str] = (), method: Method = METHODS["default"], prompt: str = PROMPT,
            attribute: Attribute = GENDER, classify: Classifier | None = None) -> Examination:
    """Twelve images of two seeds: left alone, twice; pushed to each of two groups; one of each, together; and of the
    second group's own text.

    facts     what the host knows of its model and texts, in words
    classify  decides which group the pushed images show; None: not tested

    Never raises DebiasError: what goes wrong is a finding. Raises `host.interruption`.
    """
    found = [Finding(f"sd-debias {VERSION}, Python {platform.python_version()}, {', '.join(_versions())}, "
                     f"{platform.system()} {platform.machine()}"),
             Finding("Setting: " + ", ".join(f"{name} {value}" for name, value in host.setting.items()
                                             if value not in (None, ""))), *map(Finding, facts)]
    try:
        host.check((attribute,), method)
        found += _looked_at(host, method, prompt, attribute, classify)
    except DebiasError as error:
        found.append(Finding(str(error), False))
    return Examination(tuple(found))


def _looked_at(host: Host, method: Method, prompt: str, attribute: Attribute, classify: Classifier | None
               ) -> list[Finding]:
    n = len(attribute.groups)
    nothing = torch.zeros(len(SEEDS), n)

    def made(text: str, weights: torch.Tensor) -> list[np.ndarray]:
        pictures = host.render(text, SEEDS, weights, (attribute,), method)
        if any(picture is None for picture in pictures):
            raise DebiasError("Images are not finite (NaN or infinite). Use another precision, for the VAE too, e.g. "
                              "bfloat16 or float32.")
        return [np.asarray(picture, np.float32) for picture in pictures]

    def pushed(group: int) -> torch.Tensor:
        weights = nothing.clone()
        weights[:, group] = -method.unit
        return weights

    plain, started = made(prompt, nothing), time.perf_counter()  # the first ones may load the model
    again = made(prompt, nothing)
    seconds = (time.perf_counter() - started) / len(SEEDS)
    found = [Finding(f"an image takes about {seconds:.2g} s"),
             Finding(f"the same seeds give the same images (difference {_apart(plain, again):.2g} of 255)",
                     _apart(plain, again) < 1)]
    *_, one, other = range(n)
    first, second = made(prompt, pushed(one)), made(prompt, pushed(other))
    if _apart(plain, first) > _apart(plain, second):  # what the images show already, a push barely changes
        one, other, first, second = other, one, second, first
    effect = _apart(plain, second)
    found.append(Finding(f"steering changes the images (by {_apart(plain, first):.3g} and {effect:.3g} of 255 on "
                         f"average), differently for each group (difference {_apart(first, second):.3g})",
                         _apart(first, second) > SEEN))
    mixed = nothing.clone()
    mixed[1, other] = -method.unit
    both = made(prompt, mixed)
    alone, beside = _apart(both[:1], plain[:1]), _apart(both[1:], second[1:])
    found.append(Finding(f"an image that is left alone stays the same beside a steered one (difference {alone:.2g}), "
                         f"and the steered one is the same as when made alone ({beside:.2g})",
                         max(alone, beside) <= max(ROUNDING * effect, 1)))
    group = attribute.groups[other]
    if method.direction == "prompt" and len(group.texts) == 1:
        text, = group_texts(group.texts, prompt, method.context)
        off = _apart(made(text, nothing), second)
        found.append(Finding(f"steering gives the image of the group's own text, '{text}' (difference {off:.2g}, "
                             f"which is {off / max(effect, 1e-09):.1%} of the effect of "
                             "steering)", off <= max(ROUNDING * effect, 1)))
    if classify is not None:
        shown = [[attribute.names[i] for i in np.asarray(classify([p.astype(np.uint8) for p in pictures])).argmax(1)]
                 for pictures in (plain, first, second)]
        found.append(Finding(f"the judge sees {', '.join(shown[0])} without steering; {', '.join(shown[1])} "
                             f"steered to {attribute.names[one]}; {', '.join(shown[2])} steered to "
                             f"{attribute.names[other]}"))
    return found


def _apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Mean difference of images, of 255."""
    if any(a.shape != b.shape for a, b in zip(one, other)):
        return float("inf")
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(one, other, strict=True)]))


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found
