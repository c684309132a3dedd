"""A sweep's worker: one model and its judges, which advance one prompt's calibration by a few batches.

A state goes in and a state comes out, as plain values. An image depends on its own seed alone, so
that neither the worker, nor the moment, nor the number of batches at once changes a label.
"""
from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.attribute import Attribute
from ...core.calibration.labelled import thumbnail
from ...core.calibration.loop import Calibration
from ...core.calibration.plan import Plan
from ...core.calibration.round import AUDIT, HELD_OUT, Round
from ...core.errors import DebiasError
from ...core.files import safe_name, write_atomic
from ...core.judge import name_of
from ...core.method.draw import rows
from ...core.method.methods import Method
from ...core.study.host import Host, Measuring
from ...core.study.unfinished import png
from ...core.version import VERSION


@dataclass(frozen=True)
class Recipe:
    """What a worker needs beside its model.

    variants  the sets of attributes
    show      thumbnails that come back of each audit and verification
    images  folder in which it keeps all images, on its own machine; None keeps none
    """
    variants: tuple[tuple[Attribute, ...], ...]
    method: Method
    plan: Plan
    show: int = 0
    pictures: str | None = None


@dataclass(frozen=True)
class Task:
    """A prompt's state, and how long to work on it; plain values.

    state    as `Calibration.to_dict`
    taught   states of the prompts that it learns from
    seconds  after which the next batch is left to the next task
    """
    job: int
    prompt: str
    variant: int
    state: dict
    taught: tuple[dict, ...] = ()
    seconds: float = 0.0


class Worker:
    def __init__(self, host: Host, recipe: Recipe):
        self.host, self.recipe, self.facts = host, recipe, facts(host, recipe)
        self._last: tuple[int, dict, Measuring] | None = None  # what the last task left, in memory

    def advance(self, task: Task) -> dict:
        """{"state", "thumbs", "images", "evaluations", "facts": digest}, of at least one
        batch. thumbs are {"before" or "after": {seed: JPEG in base64}}: of the audit and, once the prompt
        is finished, of those of its seeds that the weights steer.

        Raises DebiasError where the prompt cannot be measured; OSError where an image cannot be
        kept.
        """
        started, before = time.perf_counter(), self.host.evaluations
        measuring, self._last = self._measuring(task), None  # what fails on its way is begun anew
        calibration = measuring.calibration
        thumbs: dict[str, dict[str, str]] = {}
        images = broken = 0
        while (current := calibration.next_round()) is not None:
            first, began = current.done, time.perf_counter()
            seeds = current.seeds[first:first + calibration.plan.batch_size]
            batch = measuring.batch(current, list(seeds), partial(self._see, task, calibration, thumbs, seeds))
            current.seconds += time.perf_counter() - began
            calibration.add(batch)
            images, broken = images + len(seeds), broken + batch.not_finite
            if time.perf_counter() - started >= task.seconds:
                break
        if images and images == broken:
            raise DebiasError("Not one of its images is finite (NaN or infinite). Does the model or its VAE "
                              "overflow in half precision? Try float32 or bfloat16.")
        if calibration.finished and calibration.plan.rounds:
            self._pair(measuring, thumbs)
        after, self.facts = self.host.evaluations, facts(self.host, self.recipe)  # some know only now
        state = calibration.to_dict()
        self._last = task.job, state, measuring
        return dict(state=state, thumbs=thumbs, images=images, facts=digest(self.facts),
                    evaluations=None if before is None or after is None else after - before)

    def _measuring(self, task: Task) -> Measuring:
        """The prompt's work as the task has it; what the last task left need not be read again."""
        if self._last is not None and self._last[:2] == (task.job, task.state):
            return self._last[2]
        calibration = Calibration.from_dict(task.state)
        calibration.learn_from([Calibration.from_dict(state) for state in task.taught])
        return Measuring(self.host, calibration, task.prompt)

    def _see(self, task: Task, calibration: Calibration, thumbs: dict, seeds: Sequence[int],
             images: Sequence) -> None:
        number, current = len(calibration.rounds) - 1, calibration.rounds[-1]
        for seed, image in zip(seeds, images, strict=True):
            if image is None:
                continue
            if current.kind == AUDIT and seed - current.seeds[0] < self.recipe.show:
                thumbs.setdefault("before", {})[str(seed)] = _jpeg(image)
            if self.recipe.pictures is not None:
                self._keep(task, number, current, seed, image)

    def _pair(self, measuring: Measuring, thumbs: dict) -> None:
        c, each = measuring.calibration, measuring.calibration.plan.batch_size
        first = list(c.audit.seeds[:self.recipe.show])
        acts = rows(c.steerings, first).any(1).tolist() if first else []
        steered = [seed for seed, act in zip(first, acts) if act]
        for start in range(0, len(steered), each):
            seeds = steered[start:start + each]
            images = measuring.render(rows(c.steerings, seeds), seeds, HELD_OUT)
            thumbs.setdefault("after", {}).update(
                {str(seed): _jpeg(image) for seed, image in zip(seeds, images) if image is not None})

    def _keep(self, task: Task, number: int, current: Round, seed: int, image: object) -> None:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        model = safe_name(str(self.facts["model"])[:100] or "model")
        folder = Path(self.recipe.pictures or "") / model / str(task.job)
        write_atomic(folder / f"{number} {current.kind} {seed}.png", png(picture))


def _jpeg(image: object) -> str:
    return base64.b64encode(thumbnail(np.asarray(image, dtype=np.uint8))).decode()


Opened = Callable[[], Worker]  # opens a worker where it is to work; may be pickled


def facts(host: Host, recipe: Recipe) -> dict:
    """What decides a worker's labels: all workers, and earlier runs of the same sweep, agree in it."""
    names = [list(map(name_of, host.judges(variant)[0])) for variant in recipe.variants]
    return dict(software=VERSION, model=str(host.setting.get("model") or "model"),
                setting=dict(host.setting), fingerprint=digest(host.fingerprint()), classifiers=names)


def digest(value: object) -> str:
    """What tells plain values from others, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
