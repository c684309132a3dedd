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

import time
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from . import solver, telling
from .plan import CERTAINTY, Plan, enough
from ..attribute import Attribute
from ..judge.check import Check, counts_of
from .solver.draw import Draw
from ..statistics import (
    confusion_counts, drawn_floor, fair_outcomes, reachable, through, uncorrupted)
from ..errors import quoted, short
from ..method.methods import Method
from .record import Expected, Record
from .stop import NOT_KNOWN, Stop, words
from .warned import warned
from .round import AUDIT, HELD_OUT, PROOF, ROUND, Persons, Round
from ..method.draw import Steering, rows

# Held-out seeds start this far from the calibration's: no number of rounds reaches them.
HELD_OUT_OFFSET = 1_000_000
PROOF_OFFSET = 500_000  # and so far those of images that prove the judge
ON_TARGET, NOT_FINISHED = "on target", "not finished"
TOO_FEW = 0.1  # half a width of a verification's 95 % intervals above which it tells nothing
HOPELESS = 0.01   # with less, after the largest push, the margin is out of reach


class Calibration(Record):
    """The calibration of one prompt. `run` advances it, `rounds` holds what was measured.

    `stop` is why it ended, `ending` the same in words.
    `warnings` lists what a user should know: a fidelity that fell, images left out, a target out of reach.
    """

    def __init__(self, prompt: str, attributes: Sequence[Attribute], method: Method, plan: Plan,
                 rounds: Sequence[Round] = (), checks: Sequence[Check | None] = ()):
        """checks: of the judges, one an attribute; with one, shares are corrected by it, and what is aimed at is
        what a model on target shows through that judge. Raises DebiasError for one of another attribute."""
        super().__init__(prompt, attributes, method, plan, rounds, checks)
        self.aims = [a.target if (c := counts_of(self.checks, i)) is None else tuple(through(a.target, c).tolist())
                     for i, a in enumerate(self.attributes)]
        self.solvers = [solver.make(method, a if a.target == aim else a.with_target(aim), plan.seed + i,
                                    plan.within and plan.within * self._gain(i), plan.more or 1.0)
                        for i, (a, aim) in enumerate(zip(self.attributes, self.aims, strict=True))]
        self._answers: tuple[int, list[Expected]] | None = None  # and of how many images
        self._solved: tuple[int, tuple[Steering, ...]] | None = None

    def _gain(self, attribute: int) -> float:
        """How much of a change of the true shares the judge shows, at least: C's smallest singular value."""
        counts = counts_of(self.checks, attribute)
        if counts is None:
            return 1.0
        c = confusion_counts(counts)
        return min(float(np.linalg.svd(c / c.sum(1, keepdims=True), compute_uv=False)[-1]), 1.0)

    def run(self, generate: Callable[[Tensor, list[int]], Sequence], classify: Callable[[Sequence], list[np.ndarray]],
            fidelity: Callable[[Sequence], Sequence[float]] | None = None, save_to: str | Path | None = None,
            watch: Callable[[Sequence], dict[str, np.ndarray]] | None = None,
            look: Callable[[Sequence], Persons] | None = None) -> Iterator[Round]:
        """Yield the current round after each batch of images; the state is saved before each yield. `watch` gives
        probabilities of attributes that are not calibrated, by name; `look` who is in the images, where faces are
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

    @property
    def _unproven(self) -> list[list[int]]:
        """Of each attribute, the groups to which images must still be pushed before its judge is known to tell them.
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

    def _answer(self, attribute: int, least: bool = False) -> Steering:
        """What a solver found; where all images of a plan with a margin are used, or the plan has it so, and unless it
        is to be the least, with as many pushes as it takes to be sure."""
        own, history = self.solvers[attribute], self.history(attribute)
        if type(own) is Draw and (self._spent or self.plan.more) and not least:
            return own.answer(history, self._certainty_of(attribute))
        return own.answer(history)

    def _certainty_of(self, attribute: int) -> Callable[[Steering], float]:
        return lambda steering: self._expected(attribute, steering).certainty - self.needed(attribute)

    @property
    def _spent(self) -> bool:
        """Has a plan with a margin no round left?"""
        tried = self._tried
        return self.plan.within is not None and len(tried) > max(self.plan.rounds, 1) and tried[-1].complete

    @property
    def stop(self) -> Stop | None:
        """Why no further round is tried; None while one is due."""
        tried, plan, places = self._tried, self.plan, range(len(self.attributes))
        if not tried or not tried[-1].complete:
            return None
        if self._succeeded:
            if not any(self._unproven) and any(map(self.doubts, places)):
                return Stop.UNTOLD
            return Stop.UNCHANGED if len(tried) == 1 else Stop.REACHED if plan.within is None else Stop.SURE
        if plan.within is not None and len(tried) > 1:
            if any(self.checks) and all(self._sure(i) or self._all_but_the_check(i) for i in places):
                return Stop.CHECKED
            lost = [i for i in places if self.hopeless(i)]
            if lost and all(i in lost or self._sure(i) for i in places):
                return Stop.OUT_OF_REACH
        return Stop.USED_UP if len(tried) - 1 >= plan.rounds else None

    @property
    def ending(self) -> str:
        """`stop` in words; "" while a round is due."""
        return words(self)

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
        return all(self.reached(i, last) for i in range(len(self.attributes)))

    @property
    def least_steerings(self) -> list[Steering]:
        """The answer by every image, where the plan's own steers more because few were measured."""
        return [self._answer(i, least=True) if (self._spent or self.plan.more) and s.probabilities else s
                for i, s in enumerate(self.steerings)]

    def _sure(self, attribute: int) -> bool:
        """Is an attribute known well enough?"""
        return self.certainty(attribute) >= self.needed(attribute)

    def needed(self, attribute: int) -> float:
        """The certainty at which an attribute is known well enough, so that all of them are, together."""
        return enough(len(self.attributes[attribute].groups), len(self.attributes))

    def _all_but_the_check(self, attribute: int) -> bool:
        """Would it be known well enough if the judge's check were exact? Then further images tell nothing."""
        counts = counts_of(self.checks, attribute)
        if counts is None or self.plan.within is None:
            return False
        exact = 1e6 * np.asarray(counts, float)
        drawn = uncorrupted(self.solvers[attribute].outcomes(self.history(attribute), self.steerings[attribute]), exact)
        near = np.abs(drawn - np.asarray(self.attributes[attribute].target)) <= self.plan.within
        return float(near.all(1).mean()) >= self.needed(attribute)

    def hopeless(self, attribute: int) -> bool:
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
        if self.held_out is not None and not self.reached(attribute, self.held_out):
            return "off target in the verification"
        if self.plan.within is None and self.held_out is None:
            return "not verified"
        if self.plan.within is None:
            return f"{NOT_KNOWN}, the verification has too few images" if self._few(attribute) else ON_TARGET
        if self._sure(attribute):
            return ON_TARGET
        return "out of reach" if self.hopeless(attribute) else f"not sure within {100 * self.plan.within:g} points"

    def _few(self, attribute: int) -> bool:
        """Does the verification show too few images to tell shares that are far from the target?"""
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
    def widest(self) -> float:
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
            needed = (needed ** 3 * (done * (self.widest / self.plan.within) ** 2) ** rounds) ** (1 / (3 + rounds))
        return round(min(max(needed, begun, done + self.plan.step), most)) + due - done

    @property
    def finished(self) -> bool:
        """Is nothing left to measure?"""
        return self.stop is not None and not any(self._unproven) and (
            not self.plan.held_out or self.held_out is not None)

    @property
    def _proof_images(self) -> int:
        return telling.PROOF * max(map(len, self._unproven))

    def reached(self, attribute: int, r: Round) -> bool:
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
        seen = [own for own in self.rounds if own.complete and own.kind != PROOF]
        before = [m for m, own in zip(self.history(attribute), seen) if own is not r]  # it does not judge itself
        matrix = fair_outcomes(solved.matrix(before, steering.push), steering.probabilities, reachable(target))
        return drawn_floor(matrix, drawn, target)

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
        """Every image has the own text of one of these groups, whatever the method."""
        n = len(attribute.groups)
        q = (0.0, *(float(i in groups) / len(groups) for i in range(n))) if groups else ()
        return Steering((0.0,) * n, q, 1.0)

    def _proposed(self, attribute: int) -> Steering:
        """What the next round tries."""
        own, history = self.solvers[attribute], self.history(attribute)
        if type(own) is Draw and (self.plan.more or self.plan.scarce(self.attributes[attribute])):
            return own.propose(history, self._certainty_of(attribute))
        return own.propose(history)

    @property
    def warnings(self) -> list[str]:
        """What a user should know, in sentences."""
        return warned(self)
