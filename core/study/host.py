"""A host makes images and labels them; here is how those of one prompt are asked for."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator, Protocol, Sequence

import numpy as np
import torch
from torch import Tensor

from ..attribute import Attribute
from ..calibration.loop import Calibration
from ..calibration.round import HELD_OUT, PROOF, Persons, Round
from ..calibration.watched import others
from ..errors import DebiasError
from ..judge import Classifier
from ..method.draw import Steering, rows
from ..method.methods import METHODS, Method
from .progress import Progress
from .unfinished import AFTER, BEFORE, Unfinished, steers

Fidelity = Callable[[Sequence, str], Sequence[float]]  # f(images, prompt): how well each image shows its prompt


class Host(Protocol):
    """Base class of hosts: everything that a calibration needs from one.

    setting       what images are made with, as profiles keep it; final once an image was made
    evaluations   of the model so far; None where the host does not count
    interruption  what is raised where the user stops the work
    again         what the user does to continue, in words
    note          message to show from the first image on, beside the progress
    """
    setting: dict
    evaluations: int | None = None
    interruption: type[BaseException] | tuple[type[BaseException], ...] = KeyboardInterrupt
    again: str = "start it again with the same settings"
    anew: str = "allow overwriting"  # how to measure again what is done
    note: str = ""

    def check(self, attributes: Sequence[Attribute], method: Method) -> None:
        """Raises DebiasError where this model cannot be guided by the method; asked before the first image."""

    def judges(self, attributes: Sequence[Attribute]) -> tuple[Sequence[Classifier], Fidelity | None]:
        """A judge for each attribute, and the function that measures fidelity to the prompt, or None."""
        ...

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> Sequence:
        """An image for each seed, uint8 [H, W, 3] or PIL; None for one that is not finite. weights [B, n].

        Raises DebiasError where weights are not zero and guidance did nothing; `interruption`.
        """
        ...

    def fingerprint(self) -> object:
        """Everything that determines an image or a label, but for prompt and runner's arguments, as plain values."""
        return self.setting

    def known(self, prompt: str) -> str:
        """The prompt without syntax that only the host reads, such as <lora:x:0.8>."""
        return prompt

    def place(self, path: Path) -> str:
        """A path as users know it."""
        return str(path)

    def say(self, progress: Progress) -> None:
        """Show the progress."""


def seen_by(classifiers: Sequence[Classifier]) -> Callable[[Sequence], Persons] | None:
    """What tells who is in images, of judges that look for faces; None where none does."""
    looking = next((classify for classify in classifiers if hasattr(classify, "faces")), None)
    if looking is None:
        return None
    people = all(hasattr(classify, "people") for classify in classifiers)
    return lambda images: Persons(
        looking.faces(images),
        [classify.people(images) for classify in classifiers] if people else None)  # type: ignore[attr-defined]


def boxes_in(images: Sequence, classifiers: Sequence[Classifier]) -> list[Sequence]:
    """The faces (x, y, width, height) that are labelled in each image, by the first judge that looks for them;
    none where none does, and of an image that is None."""
    looking = next((found for classify in classifiers if (found := getattr(classify, "boxes", None))), None)
    shown = [image for image in images if image is not None]
    found = iter(looking(shown) if looking is not None and shown else [()] * len(shown))
    return [() if image is None else next(found) for image in images]


def advance(host: Host, calibration: Calibration, prompt: str | None = None, work: Unfinished | None = None
            ) -> Iterator[Round]:
    """Run one prompt's calibration, yielding as `Calibration.run`; `prompt` as the host is to read it."""
    bench, work = Measuring(host, calibration, prompt), work or Unfinished(None)

    def render(weights: Tensor, seeds: list[int]) -> Sequence:
        images = bench.render(weights, seeds, calibration.rounds[-1].kind)
        work.keep(calibration.rounds, seeds, images, lambda images: boxes_in(images, bench.classifiers))
        return images

    rounds = calibration.run(render, bench.classify, bench.fidelity, work.path, bench.watch, bench.look)
    return _with_pairs(rounds, bench, work)


def _with_pairs(rounds: Iterator[Round], bench: Measuring, work: Unfinished) -> Iterator[Round]:
    yield from rounds
    if steers(bench.calibration):
        _pair(bench, work)


def _pair(bench: Measuring, work: Unfinished) -> None:
    """Make the audit's first images again with the weights, which shows what the profile changes, and
    that it changes nothing else. They are not counted. Images that somebody deleted are made anew."""
    c = bench.calibration
    none = [Steering.none(len(a.groups)) for a in c.attributes]
    for when, steerings, seeds in ((BEFORE, none, work.lost(c)), (AFTER, c.steerings, work.without_pair(c.steerings))):
        for start in range(0, len(seeds), c.plan.batch_size):
            part = seeds[start:start + c.plan.batch_size]
            work.keep_pictures(when, part, bench.render(rows(steerings, part), part, HELD_OUT))


class Measuring:
    """Makes and judges the images of one calibration or audit on a host; `prompt` as the host is to read it.

    Raises DebiasError where the host's model cannot be guided so, or its judges do not fit.
    """

    def __init__(self, host: Host, calibration: Calibration, prompt: str | None = None):
        attributes, method = calibration.attributes, calibration.method
        self.host, self.calibration = host, calibration
        self.prompt = calibration.prompt if prompt is None else prompt
        self.classifiers, fidelity = host.judges(attributes)
        if calibration.plan.rounds:
            host.check(attributes, method)
        if calibration.plan.rounds or calibration.plan.held_out:
            if any(hasattr(classify, "people") for classify in self.classifiers):
                raise DebiasError("A calibration counts one label per image, but this judge looks at people, "
                                  "which is every face. Let it look at the largest face, and audit people afterwards.")
        self.fidelity = None if fidelity is None else lambda images: fidelity(images, calibration.prompt)
        self.look, self._beside = seen_by(self.classifiers), watched(host, attributes)
        # To a group without words of its own nothing is steered: its images are those that are left alone.
        self._idle = torch.tensor([group.wordless and (method.direction == "prompt" or method.guidance.anchor ==
                                                       "prompt") for a in attributes for group in a.groups])

    def render(self, weights: Tensor, seeds: Sequence[int], kind: str) -> Sequence:
        """Images of a round of this kind; those that prove the judge have a group's own text, which is what the
        default method's push is."""
        method = METHODS["default"] if kind == PROOF else self.calibration.method
        return self.host.render(self.prompt, seeds, weights.masked_fill(self._idle, 0.0), self.calibration.attributes,
                                method)

    def classify(self, images: Sequence) -> list[np.ndarray]:
        return [classify(images) for classify in self.classifiers]

    def watch(self, images: Sequence) -> dict[str, np.ndarray]:
        return {name: p for name, (classify, groups) in self._beside.items()
                if np.shape(p := classify(images)) == (len(images), groups)}

    def batch(self, current: Round, seeds: Sequence[int], see: Callable[[Sequence], None] = lambda images: None
              ) -> Round:
        """Make a batch of a round's images and tell what they show; `see` is given them."""
        images = self.render(rows(current.steerings, seeds), seeds, current.kind)
        see(images)
        return self.calibration.measured(current, images, seeds, self.classify, self.fidelity, self.watch, self.look)


def watched(host: Host, attributes: Sequence[Attribute]) -> dict[str, tuple[Classifier, int]]:
    """(classifier, number of groups) of each built-in attribute that is not calibrated and that the judges know."""
    found = {}
    for attribute in others(attributes):
        try:
            (classify,), _ = host.judges([attribute])
            found[attribute.name] = classify, len(attribute.groups)
        except DebiasError:
            continue  # a judge of the calibrated attributes alone
    return found
