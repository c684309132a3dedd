"""What was measured of one prompt: the rounds of a calibration or of an audit, and the state that they make."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from . import solver, telling
from .plan import Plan
from .round import AUDIT, HELD_OUT, PROOF, ROUND, Persons, Round
from ..attribute import Attribute, together
from ..errors import DebiasError, quoted
from ..files import read_json, write_atomic, writing
from ..judge import NO_FACE, UNSURE, labels, one_colour
from ..judge.check import Check, counts_of
from ..method.methods import Method
from ..schema import CALIBRATION, TEXT, check
from ..distribution import Distribution
from ..statistics import NO_IMAGES

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Expected:
    """What an answer's shares are by every image so far: posterior means [n], 95 % intervals [n, 2], and the certainty
    that each lies within the plan's margin of its target (1 without a margin)."""
    shares: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    certainty: float

    def line(self, names: Sequence[str]) -> str:
        """In words, with 95 % intervals."""
        return ", ".join(f"{name} {100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
                         for name, share, (low, high) in zip(names, self.shares, self.intervals, strict=True))


class Record:
    """The images of one prompt and their labels, round by round. `rounds` is its whole state.

    checks  of the judges, one an attribute; with one, shares are corrected by it. Raises DebiasError
            for one of another attribute
    """

    def __init__(self, prompt: str, attributes: Sequence[Attribute], method: Method, plan: Plan,
                 rounds: Sequence[Round] = (), checks: Sequence[Check | None] = ()):
        check(prompt, TEXT, "The prompt", "Shorten it.")
        self.prompt, self.attributes, self.method, self.plan = prompt, together(attributes), method, plan
        self.rounds, self.checks = list(rounds), tuple(checks)
        for attribute, own in zip(self.attributes, self.checks):
            if own is not None:
                own.fits(attribute)
        self._measured: dict[tuple[int, int], solver.Measurement] = {}  # of complete rounds and attributes

    def distribution(self, r: Round, attribute: int) -> Distribution:
        """A round's shares of an attribute, corrected where the judge was checked."""
        return r.distribution(attribute, self.attributes[attribute].target, counts_of(self.checks, attribute))

    def add(self, batch: Round) -> None:
        """Add the next images of the current round, as `measured` gives them. Raises DebiasError where the round is
        complete and nobody in it could be classified."""
        current = self.rounds[-1]
        current.extend(batch)
        if current.complete:
            for i in range(len(self.attributes)):
                self._check(current, i)

    def measured(self, current: Round, images: Sequence, seeds: Sequence[int],
                 classify: Callable[[Sequence], list[np.ndarray]],
                 fidelity: Callable[[Sequence], Sequence[float]] | None,
                 watch: Callable[[Sequence], dict[str, np.ndarray]] | None,
                 look: Callable[[Sequence], Persons] | None, count_blank: bool = False) -> Round:
        """The labels of one batch of a round's images, as a round. With `count_blank`, images of one colour are
        labelled too, for audits of given images."""
        if len(images) != len(seeds):
            raise ValueError(f"Expected {len(seeds)} images from generate, one per seed, got {len(images)}.")
        finite = [i for i, image in enumerate(images) if image is not None]
        blank = [i for i in finite if one_colour(images[i])]
        shown = finite if count_blank else [i for i in finite if i not in blank]
        found = [np.full(len(images), UNSURE) for _ in self.attributes]
        batch = Round(current.kind, current.steerings, tuple(seeds), not_finite=len(images) - len(finite),
                      one_colour=len(blank), faces=[0] * len(images) if look is not None else [])
        if shown:
            seen = images if len(shown) == len(images) else [images[i] for i in shown]
            for own, p, attribute in zip(found, classify(seen), self.attributes, strict=True):
                own[shown] = self._labels(p, attribute, len(shown))
            if look is not None:
                self._look(batch, look(seen), shown)
            batch.fidelity = np.asarray(fidelity(seen), float).tolist() if fidelity is not None else []
            for name, p in (watch(seen) if watch else {}).items():
                beside = np.full(len(images), UNSURE)
                beside[shown] = labels(p, self.plan.confidence)
                batch.watched[name] = beside.tolist()
        batch.labels = [own.tolist() for own in found]
        return batch

    def _look(self, batch: Round, persons: Persons, shown: Sequence[int]) -> None:
        """Add who is in those images of a batch that show something."""
        for place, count in zip(shown, persons.faces, strict=True):
            batch.faces[place] = int(count)
        for own in persons.people or ():
            people: list[list[int]] = [[] for _ in batch.seeds]
            for place, p in zip(shown, own, strict=True):
                people[place] = labels(p, self.plan.confidence).tolist() if len(p) else []
            batch.people.append(people)

    def _check(self, current: Round, attribute: int) -> None:
        """Raises DebiasError for a complete round in which nobody could be classified."""
        if all(label == NO_FACE for label in current.labels[attribute]):
            raise DebiasError(f"The detector found no face in any of the {current.done} images of "
                              f"{quoted(self.prompt)}. Let the judge look at whole images, or use another "
                              "detector.")
        if not current.shows(attribute):
            raise DebiasError(f"No image can be counted: {current.broken}. Does the model or its VAE overflow in half "
                              "precision? Try float32 or bfloat16." if current.broken else NO_IMAGES)

    def _labels(self, probabilities: np.ndarray, attribute: Attribute, images: int) -> np.ndarray:
        if np.shape(probabilities) != (images, len(attribute.groups)):
            raise DebiasError(f"The judge of {quoted(attribute.name)} must return [{images}, "
                              f"{len(attribute.groups)}] probabilities, got {list(np.shape(probabilities))}.")
        return labels(probabilities, self.plan.confidence)

    @property
    def audit(self) -> Round:
        return self.rounds[0]

    @property
    def held_out(self) -> Round | None:
        """The verification, once complete."""
        last = self.rounds[-1] if self.rounds else None
        return last if last is not None and last.kind == HELD_OUT and last.complete else None

    def to_dict(self) -> dict:
        """The state, as plain values."""
        return dict(prompt=self.prompt, attributes=[a.to_dict() for a in self.attributes],
                    method=self.method.to_dict(), plan=asdict(self.plan),
                    **({"checks": [own and own.to_dict() for own in self.checks]} if any(self.checks) else {}),
                    rounds=[{**asdict(r), "seeds": list(r.seeds), "steerings": [s.to_dict() for s in r.steerings]}
                            for r in self.rounds])

    @classmethod
    def from_dict(cls: type[R], data: object) -> R:
        """What a state holds. Raises DebiasError for what is none."""
        check(data, CALIBRATION, "This state")
        known: dict = data  # type: ignore[assignment]
        plan = {f.name: known["plan"][f.name] for f in fields(Plan) if f.name in known["plan"]}
        state = cls(known["prompt"], [Attribute.from_dict(a) for a in known["attributes"]],
                    Method.from_dict(known["method"]), Plan(**plan),
                    [Round.from_dict(r) for r in known["rounds"]],
                    [own and Check.from_dict(own) for own in known.get("checks") or ()])
        state.check_rounds()
        return state

    def save(self, path: str | Path) -> None:
        """Write the state atomically; `load` continues from it."""
        with writing("The calibration's state", Path(path).name):
            write_atomic(path, json.dumps(self.to_dict()))

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a saved state. Raises DebiasError where the file is not one."""
        try:
            return cls.from_dict(read_json(path))
        except DebiasError as error:
            raise DebiasError(f"{quoted(path)} is not the state of a calibration: {error} Delete it to start "
                              f"again.") from error

    def check_rounds(self) -> None:
        """Raises DebiasError for rounds that no calibration could have left."""
        groups = [len(a.groups) for a in self.attributes]
        for number, r in enumerate(self.rounds):
            fits = [len(s.weights) for s in r.steerings] == groups and len(r.labels) in (0, len(groups)) \
                and len({len(own) for own in r.labels}) <= 1 and r.done <= len(r.seeds) \
                and all(label < n for own, n in zip(r.labels, groups) for label in own) \
                and len(r.fidelity) <= r.done and len(r.faces) in (0, r.done) and r.not_finite + r.one_colour <= r.done
            if not fits or (number == 0) != (r.kind == AUDIT) or not r.complete and number < len(self.rounds) - 1:
                raise DebiasError(f"its round {number} holds labels that do not fit its attributes and seeds.")
            used = {seed for other in self.rounds[:number] if HELD_OUT in (r.kind, other.kind) for seed in other.seeds}
            if len(set(r.seeds)) < len(r.seeds) or used & set(r.seeds):
                raise DebiasError(f"its round {number} counts an image twice: a seed stands there again.")
            if any(len(own) != r.done or any(label >= n for image in own for label in image)
                   for own, n in zip(r.people, groups)) or len(r.people) not in (0, len(groups)):
                raise DebiasError(f"its round {number} holds people that do not fit its attributes and images.")
            if r.complete and not all(r.shows(i) for i in range(len(r.labels))):
                raise DebiasError(f"in its round {number} no image was classified.")

    def history(self, attribute: int) -> list[solver.Measurement]:
        """The rounds that a solver sees: the complete ones, the verification among them: what it shows joins the
        estimate. Without those that prove a judge."""
        n = len(self.attributes[attribute].groups)
        for number, r in enumerate(self.rounds):
            if r.complete and (number, attribute) not in self._measured:  # asked for many times a round
                self._measured[number, attribute] = solver.Measurement(r.steerings[attribute],
                                                                       r.outcomes(attribute, n))
        return [self._measured[number, attribute] for number, r in enumerate(self.rounds)
                if r.complete and r.kind != PROOF]

    def told(self, attribute: int) -> list[telling.Told]:
        """Of each group: how many images that were fully pushed to it are labelled as it. A check of the judge stands
        in for them where it has more images."""
        names = self.attributes[attribute].names
        rows, counts = np.zeros((len(names),) * 2, int), counts_of(self.checks, attribute)
        # A full push of the default method is the group's own text, as every image of a proof has it.
        whole = self.method.direction == "prompt" and self.method.unit == 1 and self.method.guidance.whole
        for r in self.rounds:
            if r.complete and (r.kind == PROOF or whole and r.kind == ROUND and r.steerings[attribute].push >= 1):
                rows += r.outcomes(attribute, len(names))[1:]
        before = self.audit.outcomes(attribute, len(names))[0]
        found = [rows[i] if counts is None or rows[i].sum() >= sum(counts[i]) else np.asarray(counts[i], int)
                 for i in range(len(names))]
        return [telling.Told(name, int(row[i]), int(row.sum()), float(before[i] / max(before.sum(), 1)), group.wordless)
                for i, (name, row, group) in enumerate(zip(names, found, self.attributes[attribute].groups))]

    def doubts(self, attribute: int) -> str:
        """Why an attribute's shares mean nothing: its judge was not seen to tell its groups; "" where it was."""
        if not self.plan.rounds or not self.rounds or not self.audit.complete:
            return ""
        return telling.doubts(self.told(attribute))

    @property
    def _images(self) -> int:
        """Images of all complete rounds, by which answers are kept: they are asked for many times a round."""
        return sum(r.done for r in self.rounds if r.complete and r.kind != PROOF)

    @property
    def _tried(self) -> list[Round]:
        """The audit and the rounds that try weights."""
        return [r for r in self.rounds if r.kind in (AUDIT, ROUND)]
