"""The unit of a sweep's work, the same on every engine: (prompt, seeds, weights) -> labels.

A unit is a run of whole batches of one round of one prompt's calibration. Batches begin at fixed places of their round
and a picture depends on its own seed alone, so that neither the size of a unit, nor who makes it, when, or how often,
changes a label.
"""
from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from ..attribute import Attribute
from ..calibration.labelled import thumbnail
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, HELD_OUT, Round
from ..calibration.plan import Plan
from .runner import Host, Measuring
from .unfinished import png
from ..files import safe_name, write_atomic
from ..judge import LEFT_OUT
from ..method.draw import Steering
from ..method.methods import Method
from ..schema import MOST_GROUPS, MOST_IMAGES
from ..version import VERSION

JPEG = re.compile(r"/9j/(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")  # in base64
MEASURED = ("labels", "fidelity", "not_finite", "one_colour", "watched", "faces", "people")


@dataclass(frozen=True)
class Unit:
    """What a worker is asked for; plain values, so that it travels as it is.

    job, round  whose it is: the prompt's number and the round's
    variant     which of the sweep's attribute sets
    steerings   as `Steering.to_dict`, one an attribute
    seeds       (first, number) of the pictures
    begin       place of its first picture in the round
    rounds      does the prompt's calibration go on after the audit? Then the model is asked whether it can be guided
    """
    job: int
    prompt: str
    variant: int
    round: int
    kind: str
    steerings: tuple
    seeds: tuple[int, int]
    begin: int
    rounds: bool

    @property
    def weights(self) -> str:
        """What tells its weights from others, 8 hexadecimal digits."""
        return weights_of([Steering.from_dict(dict(s)) for s in self.steerings])


def weights_of(steerings: Sequence[Steering]) -> str:
    plain = json.dumps([s.to_dict() for s in steerings], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Recipe:
    """What all units of a sweep share.

    variants  sets of attributes that are measured together
    show      of so many pictures of each audit and verification a thumbnail comes back
    pictures  folder on the worker's machine, where every picture is kept; None: none is
    """
    variants: tuple[tuple[Attribute, ...], ...]
    method: Method
    plan: Plan
    show: int = 0
    pictures: str | None = None


class Worker:
    """Makes and labels a unit's pictures with a host, which has the model and its judges."""

    def __init__(self, host: Host, recipe: Recipe):
        self.host, self.recipe = host, recipe
        self._measuring: tuple[tuple, Measuring] | None = None
        self.facts = facts(host, recipe)

    def measure(self, unit: Unit) -> dict:
        """{"batches": what each batch shows, "seconds", "evaluations", "facts": digest}, plain values.

        Raises DebiasError where the prompt cannot be measured so; OSError where a picture cannot be kept.
        """
        started, before = time.perf_counter(), self.host.evaluations
        steerings = tuple(Steering.from_dict(dict(s)) for s in unit.steerings)
        first, count = unit.seeds
        batches, each = [], self.recipe.plan.batch_size
        for start in range(first, first + count, each):
            seeds = range(start, min(start + each, first + count))
            thumbs: dict[str, str] = {}

            def see(images: Sequence, seeds: range = seeds, thumbs: dict = thumbs) -> None:
                for seed, image in zip(seeds, images, strict=True):
                    if image is not None and unit.kind in (AUDIT, HELD_OUT) and \
                            unit.begin + seed - first < self.recipe.show:
                        thumbs[str(seed)] = base64.b64encode(thumbnail(_array(image))).decode()
                    if image is not None and self.recipe.pictures is not None:
                        self._keep(unit, seed, image)

            found = self._of(unit).batch(Round(unit.kind, steerings, tuple(seeds)), list(seeds), see)
            batches.append(plain(found) | ({"thumbs": thumbs} if thumbs else {}))
        after, self.facts = self.host.evaluations, facts(self.host, self.recipe)  # some hosts know only now
        return dict(batches=batches, seconds=time.perf_counter() - started, facts=digest(self.facts),
                    evaluations=None if before is None or after is None else after - before)

    def _of(self, unit: Unit) -> Measuring:
        key = unit.prompt, unit.variant, unit.rounds
        if self._measuring is None or self._measuring[0] != key:
            plan = self.recipe.plan if unit.rounds else audit_of(self.recipe.plan)
            state = Calibration(self.host.known(unit.prompt), self.recipe.variants[unit.variant], self.recipe.method,
                                plan)
            self._measuring = key, Measuring(self.host, state, unit.prompt)
        return self._measuring[1]

    def _keep(self, unit: Unit, seed: int, image: object) -> None:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(_array(image))
        folder = Path(self.recipe.pictures or "") / safe_name(str(self.facts["model"])[:100] or "model") / str(unit.job)
        write_atomic(folder / f"{unit.round} {unit.kind} {seed}.png", png(picture))


def audit_of(plan: Plan) -> Plan:
    """The plan of an audit with the same pictures."""
    return Plan(plan.images, rounds=0, held_out=0, batch_size=plan.batch_size, seed=plan.seed,
                confidence=plan.confidence)


def facts(host: Host, recipe: Recipe) -> dict:
    """What decides a worker's labels: workers, and an earlier run of the same sweep, must agree in it."""
    names: list[list[str]] = []
    for variant in recipe.variants:
        classifiers, _ = host.judges(variant)
        names.append([getattr(classify, "name", type(classify).__name__) for classify in classifiers])
    return dict(software=VERSION, model=str(host.setting.get("model") or "model"), setting=dict(host.setting),
                fingerprint=digest(host.fingerprint()), classifiers=names)


def digest(value: object) -> str:
    """What tells plain values from others, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def plain(batch: Round) -> dict:
    """What a batch shows, without what is empty."""
    return {"first": batch.seeds[0], "count": len(batch.seeds),
            **{name: value for name, value in asdict(batch).items() if name in MEASURED and value}}


def fragment(found: dict, kind: str, steerings: tuple[Steering, ...]) -> Round:
    """A batch as `Calibration.add` takes it, of what `plain` gave."""
    seeds = tuple(range(found["first"], found["first"] + found["count"]))
    known = {f.name: found[f.name] for f in fields(Round) if f.name in MEASURED and f.name in found}
    return Round(kind, steerings, seeds, **known)


def fits(found: object, groups: Sequence[int]) -> bool:
    """Can this be a batch of attributes with so many groups? Journals may be damaged, and servers answer anything."""
    if not isinstance(found, dict) or not all(type(found.get(name)) is int for name in ("first", "count")):
        return False
    count, own = found["count"], found.get("labels")
    people, faces, watched = found.get("people", []), found.get("faces", []), found.get("watched", {})
    if not 0 < count <= MOST_IMAGES or not isinstance(own, list) or len(own) != len(groups):
        return False
    return all(_labels(labels, count, n) for labels, n in zip(own, groups)) \
        and isinstance(watched, dict) and all(_labels(labels, count, MOST_GROUPS) for labels in watched.values()) \
        and isinstance(faces, list) and len(faces) in (0, count) and all(type(n) is int and n >= 0 for n in faces) \
        and isinstance(people, list) and len(people) in (0, len(groups)) and all(
            isinstance(each, list) and len(each) == count and all(_labels(labels, None, n) for labels in each)
            for each, n in zip(people, groups)) \
        and all(type(found.get(name, 0)) is int and 0 <= found.get(name, 0) <= count
                for name in ("not_finite", "one_colour")) \
        and isinstance(found.get("fidelity", []), list) and len(found.get("fidelity", [])) <= count and all(
            type(score) in (int, float) and abs(score) < 1e6 for score in found.get("fidelity", [])) \
        and isinstance(found.get("thumbs", {}), dict) and all(
            re.fullmatch(r"-?\d{1,20}", seed) and isinstance(jpeg, str) and JPEG.fullmatch(jpeg)
            for seed, jpeg in found.get("thumbs", {}).items())


def answers(found: object, unit: Unit, groups: Sequence[int]) -> bool:
    """Is this what `Worker.measure` may give for a unit? Its batches follow each other from its first picture to its
    last."""
    if not isinstance(found, dict) or not isinstance(batches := found.get("batches"), list):
        return False
    seconds, evaluations = found.get("seconds"), found.get("evaluations")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9 or \
            not isinstance(evaluations, (int, type(None))):
        return False
    first, count = unit.seeds
    for batch in batches:
        if not fits(batch, groups) or batch["first"] != first:
            return False
        first += batch["count"]
    return first == unit.seeds[0] + count


def _labels(found: object, count: int | None, groups: int) -> bool:
    return isinstance(found, list) and count in (None, len(found)) and all(
        type(label) is int and min(LEFT_OUT) <= label < groups for label in found)


def blank(found: Sequence[dict]) -> bool:
    """Is not one picture of these batches finite?"""
    return bool(found) and all(batch.get("not_finite", 0) == batch["count"] for batch in found)


def _array(image: object) -> np.ndarray:
    return np.asarray(image, dtype=np.uint8)


Opened = Callable[[], Worker]  # how an engine opens a worker where it is to work; may be pickled
