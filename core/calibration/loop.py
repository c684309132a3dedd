"""Calibration: generate, classify, solve, repeat; then verify on seeds that no round has used.

A plan with a margin stops when all images so far say that every share of the answer lies within it, and verifies once.
A plan without one stops when a round cannot be told from the target. Its verification has more images than a round:
where it finds a deviation, and a round is left, its images join those that the weights are solved from, and fresh seeds
verify anew. That is repeated until it passes: its last look is no test, and warnings say so.

The loop knows neither model nor host. It is driven by two callables of the host,

    generate(weights, seeds) -> images      weights [B, n_1 + n_2 + ...], float32, one row an image; an image that is
                                            not finite is None. In a round of the kind `proof`, -1 stands for the
                                            group's own text, whatever the method
    classify(images) -> [probabilities]     one array [B, n] an attribute; rows as core/judge says

Images that are not finite, and those of one colour throughout, show nobody: they are unsure, and the calibration says
how many there were. It may be stopped after any batch: its rounds are its whole state.
"""
from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from . import solver, telling
from .plan import CERTAINTY, Plan, enough
from ..attribute import Attribute, together
from ..judge import NO_FACE, UNSURE, labels, one_colour
from ..judge.check import Check, counts_of
from .solver.draw import Draw
from ..statistics import (
    NO_IMAGES, Distribution, confusion_counts, drawn_floor, fair_outcomes, named_shares, reachable, shares, through,
    uncorrupted)
from ..errors import DebiasError, quoted, short
from ..files import read_json, write_atomic, writing
from ..method.methods import Method
from .round import AUDIT, HELD_OUT, PROOF, ROUND, Persons, Round, round_names
from ..schema import CALIBRATION, TEXT, check
from ..method.draw import Steering, rows

# Held-out seeds start this far from the calibration's: no number of rounds reaches them.
HELD_OUT_OFFSET = 1_000_000
PROOF_OFFSET = 500_000  # and so far those of pictures that prove the judge
ON_TARGET, NOT_KNOWN, NOT_FINISHED = "on target", "not known", "not finished"
TOO_FEW = 0.1  # half a width of a verification's 95 % intervals above which it tells nothing
HOPELESS = 0.01   # with less, after the largest push, the margin is out of reach


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


class Calibration:
    """The calibration of one prompt. `run` advances it, `rounds` holds what was measured, `stop` says why it ended.

    `warnings` lists what a user should know: a fidelity that fell, images left out, a target out of reach.
    """

    def __init__(self, prompt: str, attributes: Sequence[Attribute], method: Method, plan: Plan,
                 rounds: Sequence[Round] = (), checks: Sequence[Check | None] = ()):
        """checks: of the classifiers, one an attribute; with one, shares are corrected by it, and what is aimed at is
        what a model on target shows through that classifier. Raises DebiasError for one of another attribute."""
        check(prompt, TEXT, "The prompt", "Shorten it.")
        self.prompt, self.attributes, self.method, self.plan = prompt, together(attributes), method, plan
        self.rounds, self.checks = list(rounds), tuple(checks)
        for attribute, own in zip(self.attributes, self.checks):
            if own is not None:
                own.fits(attribute)
        self.aims = [a.target if (c := counts_of(self.checks, i)) is None else tuple(through(a.target, c).tolist())
                     for i, a in enumerate(self.attributes)]
        self.solvers = [solver.make(method, a if a.target == aim else a.with_target(aim), plan.seed + i,
                                    plan.within and plan.within * self._gain(i))
                        for i, (a, aim) in enumerate(zip(self.attributes, self.aims, strict=True))]
        self._answers: tuple[int, list[Expected]] | None = None  # and of how many images
        self._solved: tuple[int, tuple[Steering, ...]] | None = None
        self._measured: dict[tuple[int, int], solver.Measurement] = {}  # of complete rounds, by round and attribute

    def _gain(self, attribute: int) -> float:
        """How much of a change of the true shares the classifier shows, at least: C's smallest singular value."""
        counts = counts_of(self.checks, attribute)
        if counts is None:
            return 1.0
        c = confusion_counts(counts)
        return min(float(np.linalg.svd(c / c.sum(1, keepdims=True), compute_uv=False)[-1]), 1.0)

    def distribution(self, r: Round, attribute: int) -> Distribution:
        """A round's shares of an attribute, corrected where the classifier was checked."""
        return r.distribution(attribute, self.attributes[attribute].target, counts_of(self.checks, attribute))

    def run(self, generate: Callable[[Tensor, list[int]], Sequence], classify: Callable[[Sequence], list[np.ndarray]],
            fidelity: Callable[[Sequence], Sequence[float]] | None = None, save_to: str | Path | None = None,
            watch: Callable[[Sequence], dict[str, np.ndarray]] | None = None,
            look: Callable[[Sequence], Persons] | None = None) -> Iterator[Round]:
        """Yield the current round after each batch of images; the state is saved before each yield. `watch` gives
        probabilities of attributes that are not calibrated, by name; `look` who is in the pictures, where faces are
        sought.

        Raises DebiasError where no image of a round can be classified.
        """
        while (current := self.next_round()) is not None:
            started = time.perf_counter() - current.seconds
            while not current.complete:
                seeds = list(current.seeds[current.done:current.done + self.plan.batch_size])
                images = generate(rows(current.steerings, seeds), seeds)
                self.add(self.measured(current, images, seeds, classify, fidelity, watch, look))
                current.seconds = time.perf_counter() - started
                if save_to is not None:
                    self.save(save_to)
                yield current

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
        labelled too, for audits of given pictures."""
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
                              f"{quoted(self.prompt)}. Let the classifier look at whole pictures, or use another "
                              "detector.")
        if not current.shows(attribute):
            raise DebiasError(f"No image can be counted: {current.broken}. Does the model or its VAE overflow in half "
                              "precision? Try float32 or bfloat16." if current.broken else NO_IMAGES)

    def history(self, attribute: int) -> list[solver.Measurement]:
        """The rounds that a solver sees: the complete ones. With a margin, the verification is excluded, since it is
        a test."""
        n, tested = len(self.attributes[attribute].groups), self.plan.within is not None
        for number, r in enumerate(self.rounds):
            if r.complete and (number, attribute) not in self._measured:  # asked for many times a round
                self._measured[number, attribute] = solver.Measurement(r.steerings[attribute],
                                                                       r.outcomes(attribute, n))
        return [self._measured[number, attribute] for number, r in enumerate(self.rounds)
                if r.complete and r.kind != PROOF and not (tested and r.kind == HELD_OUT)]

    def told(self, attribute: int) -> list[telling.Told]:
        """Of each group: how many pictures that were fully pushed to it are labelled as it. A check of the judge stands
        in for them where it has more pictures."""
        names = self.attributes[attribute].names
        rows, counts = np.zeros((len(names),) * 2, int), counts_of(self.checks, attribute)
        # A full push of the default method is the group's own text, as every picture of a proof has it.
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
    def _unproven(self) -> list[list[int]]:
        """Of each attribute, the groups to which pictures must still be pushed before its judge is known to tell them.
        """
        if not self._succeeded:
            return [[] for _ in self.attributes]
        return [telling.wanted(self.told(i)) for i in range(len(self.attributes))]

    def learn_from(self, others: Sequence[Calibration]) -> None:
        """Use the effect of pushes on other prompts, with the same attributes and method, as a weak prior."""
        for i, own in enumerate(self.solvers):
            if isinstance(own, Draw):
                own.learn_from([other.history(i) for other in others])
        self._answers = self._solved = None

    @property
    def steerings(self) -> tuple[Steering, ...]:
        """The weights so far: the verified ones, else the solvers' best. An attribute on which pushes have no effect
        is left alone."""
        if self.rounds and self.rounds[-1].kind == HELD_OUT:
            return self.rounds[-1].steerings
        none = tuple(Steering.none(len(a.groups)) for a in self.attributes)
        if not self.history(0):
            return none
        images = self._images
        if self._solved is None or self._solved[0] != images:
            self._solved = images, tuple(none[i] if self.useless(i) else self._answer(i)
                                         for i in range(len(self.solvers)))
        return self._solved[1]

    @property
    def _images(self) -> int:
        """Images of all complete rounds, by which answers are kept: they are asked for many times a round."""
        return sum(r.done for r in self.rounds if r.complete and r.kind != PROOF)

    @property
    def _tried(self) -> list[Round]:
        """The audit and the rounds that try weights."""
        return [r for r in self.rounds if r.kind in (AUDIT, ROUND)]

    def _answer(self, attribute: int, least: bool = False) -> Steering:
        """What a solver found; where all images of a plan with a margin are used, and unless it is to be the least,
        with as many pushes as it takes to be sure."""
        own, history = self.solvers[attribute], self.history(attribute)
        if type(own) is Draw and self._spent and not least:
            return own.answer(history, self._certainty_of(attribute))
        return own.answer(history)

    def _certainty_of(self, attribute: int) -> Callable[[Steering], float]:
        return lambda steering: self._expected(attribute, steering).certainty

    @property
    def _spent(self) -> bool:
        """Has a plan with a margin no round left?"""
        tried = self._tried
        return self.plan.within is not None and len(tried) > max(self.plan.rounds, 1) and tried[-1].complete

    @property
    def stop(self) -> str | None:
        """Why no further round is tried, in words; None while one is due."""
        why = self._why
        if self._succeeded and not any(self._unproven):
            unclear = [f"{a.name}: {said}" for i, a in enumerate(self.attributes) if (said := self.doubts(i))]
            if unclear:
                return f"{NOT_KNOWN}; {'; '.join(unclear)}"
        return why and why + self._pushed_more

    @property
    def _why(self) -> str | None:
        """`stop` without what is said of steering more."""
        tried = self._tried
        if not tried or not tried[-1].complete:
            return None
        if self._succeeded and len(tried) == 1:
            return "the audit already meets the target; nothing to correct"
        if self._succeeded:
            within, tolerance = self.plan.within, self.plan.tolerance
            if within is not None:
                return f"sure enough: within {100 * within:g} points of the target, {CERTAINTY:.0%} certain"
            return "target reached; the remaining difference is within sampling noise" if tolerance is None else \
                f"target reached: KL is at most {tolerance:g}"
        if self.plan.within is not None and len(tried) > 1 and any(self.checks):
            if all(self._sure(i) or self._all_but_the_check(i) for i in range(len(self.attributes))):
                return ("as sure as the classifier's check allows: a share may still be up to "
                        f"{ceil(100 * self._widest)} points off target; check the classifier on more pictures")
        if self.plan.within is not None and len(tried) > 1:
            lost = [i for i in range(len(self.attributes)) if self._hopeless(i)]
            if lost and all(i in lost or self._sure(i) for i in range(len(self.attributes))):
                return "out of reach: " + "; ".join(
                    f"steering {a.name} gives about {named_shares(a.names, self.expected(i).shares)}, but the target "
                    f"is {named_shares(a.names, a.target)}" for i, a in enumerate(self.attributes) if i in lost)
        if len(tried) - 1 >= self.plan.rounds and self.plan.within is not None:
            used = self.plan.most_images - self.plan.held_out
            return (f"not sure enough: the plan's {used} images are used up, and a share may still be up to "
                    f"{ceil(100 * self._widest)} points off target" if self._widest > self.plan.within else
                    f"not sure enough: the plan's {used} images are used up at a certainty of "
                    f"{min(map(self.certainty, range(len(self.attributes)))):.1%}")
        if len(tried) - 1 >= self.plan.rounds:
            nearest = [solver.nearest(self.history(i), aim).counts for i, aim in enumerate(self.aims)]
            return f"all {self.plan.rounds} rounds used; the nearest shares that were seen: " + "; ".join(
                f"{a.name}, {named_shares(a.names, shares(counts).tolist())}"
                for a, counts in zip(self.attributes, nearest) if counts.any())
        return None

    @property
    def _succeeded(self) -> bool:
        """Do the shares that were measured say that the target is met, if the judge can tell?"""
        tried = self._tried
        if not self.plan.rounds or not tried or not tried[-1].complete:
            return False
        if self.method.rule == "policy_gradient" and len(tried) > 1:
            return False
        if self.plan.within is not None:
            return all(map(self._sure, range(len(self.attributes))))
        last = self.rounds[-1] if self.rounds[-1].complete and self.rounds[-1].kind == HELD_OUT else tried[-1]
        return all(self._reached(i, last) for i in range(len(self.attributes)))

    @property
    def _pushed_more(self) -> str:
        """How many images are steered because few were measured, in words; "" where no more than needed."""
        found = []
        for i, (attribute, steering) in enumerate(zip(self.attributes, self.steerings)):
            least = self._answer(i, least=True) if self._spent and steering.probabilities else steering
            more, fewer = (round(100 * (1 - s.probabilities[0])) if s.probabilities else 0 for s in (steering, least))
            if more > fewer + 2:  # less may be what other prompts of a list have told since
                found.append(f"{more} % of the images are steered ({attribute.name}); after a longer calibration, "
                             f"about {fewer} % would do")
        return "; " + " and ".join(found) if found else ""

    def _sure(self, attribute: int) -> bool:
        """Is an attribute known well enough?"""
        return self.certainty(attribute) >= self._needed(attribute)

    def _needed(self, attribute: int) -> float:
        return enough(len(self.attributes[attribute].groups))

    def _all_but_the_check(self, attribute: int) -> bool:
        """Would it be known well enough if the classifier's check were exact? Then further pictures tell nothing."""
        counts = counts_of(self.checks, attribute)
        if counts is None or self.plan.within is None:
            return False
        exact = 1e6 * np.asarray(counts, float)
        drawn = uncorrupted(self.solvers[attribute].outcomes(self.history(attribute), self.steerings[attribute]), exact)
        near = np.abs(drawn - np.asarray(self.attributes[attribute].target)) <= self.plan.within
        return float(near.all(1).mean()) >= self._needed(attribute)

    def _hopeless(self, attribute: int) -> bool:
        """Can no push bring an attribute's shares within the margin?"""
        return self.expected(attribute).certainty < HOPELESS and self.solvers[attribute].at_its_limit(
            self.history(attribute))

    def useless(self, attribute: int) -> str:
        """Which pushes of an attribute do nothing, in words; "" where none is known to."""
        solved, names = self.solvers[attribute], self.attributes[attribute].names
        found = solved.useless(self.history(attribute)) if isinstance(solved, Draw) else []
        does = "; ".join(f"steering to {quoted(names[i])} has no effect: {shown} of {images} steered images show it"
                         for i, shown, images in found)
        return does and (f"{does}. Describe the group differently, or use a model that can draw it; "
                         f"{short(self.attributes[attribute].name)} is left alone")

    def verdict(self, attribute: int) -> str:
        """How the calibration ended for an attribute, in words: `ON_TARGET` if it succeeded; "" before its end."""
        if not self.finished:
            return ""
        if self._succeeded and (said := self.doubts(attribute)):
            return f"{NOT_KNOWN}, since {said}"
        if self.held_out is not None and not self._reached(attribute, self.held_out):
            return "off target in the verification"
        if self.plan.within is None and self.held_out is None:
            return "not verified"
        if self.plan.within is None:
            return f"{NOT_KNOWN}, the verification has too few pictures" if self._few(attribute) else ON_TARGET
        if self._sure(attribute):
            return ON_TARGET
        return "out of reach" if self._hopeless(attribute) else f"not sure within {100 * self.plan.within:g} points"

    def _few(self, attribute: int) -> bool:
        """Does the verification show too few pictures to tell shares that are far from the target?"""
        assert self.held_out is not None
        intervals = self.distribution(self.held_out, attribute).intervals
        return max(high - low for low, high in intervals) / 2 > TOO_FEW

    def certainty(self, attribute: int) -> float:
        """Posterior probability, by every image so far, that each share of the answer lies within the plan's margin
        of its target. Raises ValueError for a plan without a margin."""
        if self.plan.within is None:
            raise ValueError("This plan has no margin.")
        return self.expected(attribute).certainty

    def expected(self, attribute: int) -> Expected:
        """The estimated shares of an attribute with these weights, from every image that the solver sees."""
        images = self._images
        if self._answers is None or self._answers[0] != images:
            self._answers = images, [self._expected(i, s) for i, s in enumerate(self.steerings)]
        return self._answers[1][attribute]

    def _expected(self, attribute: int, steering: Steering) -> Expected:
        target = np.asarray(self.attributes[attribute].target)
        drawn = self.solvers[attribute].outcomes(self.history(attribute), steering)
        counts = counts_of(self.checks, attribute)
        drawn = drawn if counts is None else uncorrupted(drawn, counts)
        low, high = np.quantile(drawn, ((1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2), axis=0)
        near = np.abs(drawn - target) <= (1 if self.plan.within is None else self.plan.within)
        return Expected(tuple(drawn.mean(0).tolist()), tuple(zip(low.tolist(), high.tolist())),
                        float(near.all(1).mean()))

    @property
    def _widest(self) -> float:
        """How far from its target a share may be, with 95 % certainty."""
        return max(abs(edge - t) for i, a in enumerate(self.attributes)
                   for t, edges in zip(a.target, self.expected(i).intervals) for edge in edges)

    @property
    def about_left(self) -> int:
        """Estimated number of images still to come, with the verification.

        Of a margin m: intervals shrink with the root of the number of images, so n (w / m)^2 are needed where n gave
        half a width w. The first rounds know w badly, so the plan's own number counts as three of them.
        """
        if self.finished:
            return 0
        verifying = bool(self.rounds) and self.rounds[-1].kind == HELD_OUT and not self.rounds[-1].complete
        if verifying:
            return len(self.rounds[-1].seeds) - self.rounds[-1].done
        due, tried = self.plan.held_out, self._tried
        if self.rounds and self.rounds[-1].kind == PROOF and not self.rounds[-1].complete:
            return due + len(self.rounds[-1].seeds) - self.rounds[-1].done
        begun, done = sum(len(r.seeds) for r in tried), sum(r.done for r in tried)
        if not self.rounds or not self.rounds[0].complete:
            return max(self.plan.about_images(self.attributes), begun) - done
        if self.stop is not None:
            return begun - done + due + self._proof_images
        most = max(self.plan.most_images - self.plan.held_out, begun)
        if self.plan.within is None:
            return most + due - done
        needed = float(self.plan.about_images(self.attributes) - self.plan.held_out)
        if len(self.rounds) > 1:
            rounds = len(tried) - 1
            needed = (needed ** 3 * (done * (self._widest / self.plan.within) ** 2) ** rounds) ** (1 / (3 + rounds))
        return round(min(max(needed, begun, done + self.plan.step), most)) + due - done

    @property
    def finished(self) -> bool:
        """Is nothing left to measure?"""
        return self.stop is not None and not any(self._unproven) and (
            not self.plan.held_out or self.held_out is not None)

    @property
    def _proof_images(self) -> int:
        return telling.PROOF * max(map(len, self._unproven))

    def _reached(self, attribute: int, r: Round) -> bool:
        """Is KL below what a fair model shows by chance, so that a correction would chase noise? Or the user's
        tolerance."""
        d = self.distribution(r, attribute)
        return d.kl <= (self.floor(attribute, r) if self.plan.tolerance is None else self.plan.tolerance)

    def floor(self, attribute: int, r: Round) -> float:
        """KL that a round of a perfectly fair model stays below in 95 of 100 cases: by the chi-square distribution, or,
        of images that drew a group, by simulation of those draws."""
        target, solved = self.aims[attribute], self.solvers[attribute]
        steering, labels = r.steerings[attribute], r.labels[attribute]
        if not steering.probabilities or not isinstance(solved, Draw):
            return self.distribution(r, attribute).kl_floor95
        drawn = [o for o, label in zip(steering.draws(r.seeds[:r.done], attribute), labels, strict=True) if label >= 0]
        before = [m for m, own in zip(self.history(attribute), self.rounds) if own is not r]  # it does not judge itself
        matrix = fair_outcomes(solved.matrix(before, steering.push), steering.probabilities, reachable(target))
        return drawn_floor(matrix, drawn, target)

    def _labels(self, probabilities: np.ndarray, attribute: Attribute, images: int) -> np.ndarray:
        if np.shape(probabilities) != (images, len(attribute.groups)):
            raise DebiasError(f"The classifier of {quoted(attribute.name)} must return [{images}, "
                              f"{len(attribute.groups)}] probabilities, got {list(np.shape(probabilities))}.")
        return labels(probabilities, self.plan.confidence)

    def next_round(self) -> Round | None:
        """The round that is due, begun where it is not; None where nothing is left to measure."""
        if self.rounds and not self.rounds[-1].complete:
            return self.rounds[-1]
        plan, verified = self.plan, sum(r.kind == HELD_OUT for r in self.rounds)
        number = len(self._tried)
        if self.stop is None:
            if number == 0:
                steerings = tuple(Steering.none(len(a.groups)) for a in self.attributes)
            else:
                steerings = tuple(map(self._proposed, range(len(self.solvers))))
            # Shifted images keep the audit's seeds once, so that only what the weights change is seen to change.
            # Draws need none of that: images left alone would only be made a second time.
            block = 0 if number == 1 and self.method.spend == "shift" else number
            first = plan.seed + (plan.images + (block - 1) * plan.step if block else 0)
            kind, count = (ROUND, plan.step) if number else (AUDIT, plan.images)
        elif any(groups := self._unproven):
            first = plan.seed + PROOF_OFFSET + sum(len(r.seeds) for r in self.rounds if r.kind == PROOF)
            steerings, kind, count = tuple(map(self._pushes_to, groups, self.attributes)), PROOF, self._proof_images
        elif plan.held_out and self.rounds[-1].kind != HELD_OUT:
            first = plan.seed + HELD_OUT_OFFSET + verified * plan.held_out
            steerings, kind, count = self.steerings, HELD_OUT, plan.held_out
        else:
            return None
        self.rounds.append(Round(kind, steerings, tuple(range(first, first + count))))
        return self.rounds[-1]

    def _pushes_to(self, groups: Sequence[int], attribute: Attribute) -> Steering:
        """Every picture has the own text of one of these groups, whatever the method."""
        n = len(attribute.groups)
        q = (0.0, *(float(i in groups) / len(groups) for i in range(n))) if groups else ()
        return Steering((0.0,) * n, q, 1.0)

    def _proposed(self, attribute: int) -> Steering:
        """What the next round tries."""
        own, history = self.solvers[attribute], self.history(attribute)
        if type(own) is Draw and self.plan.scarce(self.attributes[attribute]):
            return own.propose(history, self._certainty_of(attribute))
        return own.propose(history)

    @property
    def audit(self) -> Round:
        return self.rounds[0]

    @property
    def held_out(self) -> Round | None:
        """The verification, once complete."""
        last = self.rounds[-1] if self.rounds else None
        return last if last is not None and last.kind == HELD_OUT and last.complete else None

    @property
    def warnings(self) -> list[str]:
        found, last = [f"{name}: {r.broken}" for name, r in zip(round_names([r.kind for r in self.rounds]), self.rounds)
                       if r.broken], self.held_out
        found += [said for i, s in enumerate(self.steerings) if not s.probabilities and (said := self.useless(i))]
        found += [f"{name}: {r.left_out}" for name, r in zip(round_names([r.kind for r in self.rounds]), self.rounds)
                  if r.kind in (AUDIT, HELD_OUT) and r.left_out]
        found += [warning for own in self.checks if own is not None for warning in own.warnings]
        found += [f"{a.name}: {said}" for i, a in enumerate(self.attributes) if (said := self.doubts(i))]
        if last is None:
            return [*found, "not verified: no images on held-out seeds"]
        looks = sum(r.kind == HELD_OUT for r in self.rounds)
        if looks > 1:
            found.append(f"the verification was repeated, {looks} times, until it passed or no round was left, so its "
                         "figures look better than those of an independent test")
        before, after = self.audit.mean_fidelity, last.mean_fidelity
        if before is not None and after is not None:
            chance = 2 * np.std(last.fidelity) / len(last.seeds) ** 0.5
            if after < before - max(0.02 * abs(before), chance):
                found.append(f"fidelity to the prompt fell from {before:.3f} to {after:.3f}: lower the strength")
        for i, attribute in enumerate(self.attributes):
            if self.plan.within is not None and self.plan.rounds and self.certainty(i) < CERTAINTY:
                found.append(f"{attribute.name} is within {100 * self.plan.within:g} points of its target with "
                             f"{self.certainty(i):.0%} certainty only")
            d = self.distribution(last, i)
            if d.unsure > 0.1 * (d.n + d.unsure):
                found.append(f"{d.unsure} of {d.n + d.unsure} images could not be classified by {attribute.name}")
            if not self._reached(i, last):
                found.append(f"{attribute.name} does not meet its target: KL {d.kl:.4f}, noise floor "
                             f"{self.floor(i, last):.4f}")
        return found

    def to_dict(self) -> dict:
        """The state, as plain values."""
        return dict(prompt=self.prompt, attributes=[a.to_dict() for a in self.attributes],
                    method=self.method.to_dict(), plan=asdict(self.plan),
                    **({"checks": [own and own.to_dict() for own in self.checks]} if any(self.checks) else {}),
                    rounds=[{**asdict(r), "seeds": list(r.seeds), "steerings": [s.to_dict() for s in r.steerings]}
                            for r in self.rounds])

    @classmethod
    def from_dict(cls, data: object) -> Calibration:
        """The calibration of a state. Raises DebiasError for what is none."""
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
    def load(cls, path: str | Path) -> Calibration:
        """Read a saved state. Raises DebiasError where the file is not one."""
        try:
            return cls.from_dict(read_json(path))
        except DebiasError as error:
            raise DebiasError(f"{quoted(path)} is not the state of a calibration: {error} Delete it to start "
                              f"anew.") from error

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
                raise DebiasError(f"its round {number} counts a picture twice: a seed stands there again.")
            if any(len(own) != r.done or any(label >= n for image in own for label in image)
                   for own, n in zip(r.people, groups)) or len(r.people) not in (0, len(groups)):
                raise DebiasError(f"its round {number} holds people that do not fit its attributes and images.")
            if r.complete and not all(r.shows(i) for i in range(len(r.labels))):
                raise DebiasError(f"in its round {number} no image was classified.")
