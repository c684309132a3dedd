"""Iterative Distribution Alignment on draw probabilities; our own design.

An image that is pushed toward group j comes out as group i with probability M_ji; one left alone with M_0i, the audit's
shares. Outcomes are q M: linear, so the probabilities q that meet the target are solved from the measured M at once,
and every further round only measures M better. Of all q that meet it, the one that leaves most images alone wins.
"""
from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from ...statistics import kl_divergence, reachable, shares, wilson
from ...method.draw import Steering
from . import Measurement

# That the shares under a steering lie within the plan's margin, less the certainty needed: from 0 on it is sure.
Certainty = Callable[[Steering], float]


class Draw:
    """Solves q; raises the push's strength where the pushed groups come out too seldom to reach the target."""

    # Prior: the share of pushed images that come out as their group, and its weight in images a group. It expects less
    # than is usual, or a calibration would end on a lucky run of obeyed pushes (docs/coverage.md).
    OBEDIENCE, PRIOR_IMAGES = 0.7, 5
    ELSEWHERE_IMAGES = 16    # the same, at most, where other prompts of a list have shown what their pushes do
    STRONGER = 1.5           # factor on the strength when the target is out of reach
    LARGEST = 4.0            # bound on the strength, in units
    ENOUGH = 20              # pushed images that tell whether a margin is out of reach
    NEARER = 0.02            # so much nearer to the target an answer must be that is worth its pushes
    OWN = 20                 # pushed images of a prompt, of all groups as they are drawn, that show if pushes work
    PARTS = 21               # answers that are tried between the least push and that of all images
    REACHED = 1e-3           # KL under which q M counts as meeting the target

    def __init__(self, target: Sequence[float], unit: float = 1.0, within: float | None = None,
                 more: float = 1.0):
        """`within`, a margin in shares: rounds are spread over the options by what is known least, not as the answer
        is, and the push grows only where the margin is out of reach. `more`: how far an answer that is to be sure
        may go from as few steered images as that takes (0) to all (1)."""
        self.target = reachable(target)
        self.unit, self.within, self.more = unit, within, more
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self.elsewhere: dict[float, np.ndarray] = {}  # by strength: counts [n, n] of other prompts' pushed images

    def propose(self, history: Sequence[Measurement], certainty: Certainty | None = None) -> Steering:
        """With `certainty`, a round is spread for the answer that is sure, as `answer` has it."""
        pushed = [m for m in history if m.steering.probabilities]
        strength = pushed[-1].steering.push if pushed else self.unit
        q = self._solved(history, strength)
        if pushed and self._too_weak(history, strength, q) and strength < self.LARGEST * self.unit:
            strength = min(strength * self.STRONGER, self.LARGEST * self.unit)
            q = self._solved(history, strength)
        if self.within is not None and certainty is None:
            q = self._least_known(history, strength, q)
        elif certainty is not None:
            wanted = self._surer(history, strength, q, certainty, most=True)
            pushes = all_pushed(self.matrix(history, strength), self.target)
            due = self.OWN * pushes + 2 * (pushes > 0) - self._seen(history, strength)  # 2 more, since draws scatter
            q = self._least_known(history, strength, wanted, np.clip(due, 0, None))
        return Steering((0.0,) * len(self.target), tuple(q.tolist()), strength)

    def answer(self, history: Sequence[Measurement], certainty: Certainty | None = None) -> Steering:
        """Probabilities from all that was measured, at the strength of the last push. With `certainty`, which tells how
        sure it is that shares lie within the margin, as many images are pushed as it takes to be sure.

        A round that left every image alone is no answer by its own few images: M's first row has those of all rounds.
        """
        none = Steering.none(len(self.target))
        pushed = [m for m in history if m.steering.probabilities]
        if not pushed:
            return none
        strength = pushed[-1].steering.push
        q = self._solved(history, strength)
        if certainty is not None:
            q = self._surer(history, strength, q, certainty)
        return Steering(none.weights, tuple(q.tolist()), strength) if q[0] < 1 else none

    def _surer(self, history: Sequence[Measurement], strength: float, q: np.ndarray, certainty: Certainty,
               most: bool = False) -> np.ndarray:
        """The q that leaves most images alone of those that are sure; where none is, q itself, or with `most` the
        surest.

        An image that is pushed comes out as its group nearly always, so its outcome is known from few, while the share
        of those that are left alone takes hundreds. Between q and the chances that leave no image alone, all meet the
        target, and the more is pushed, the less the unknown share weighs. Every push that is used must have been seen
        to work on this prompt: the prior alone, which expects that, makes no answer sure.
        """
        matrix = self.matrix(history, strength)
        pushes = all_pushed(matrix, self.target)
        if not most and np.any(self._seen(history, strength) < self.OWN * pushes):
            return q
        missed, own = (float(kl_divergence(chances @ matrix, self.target)) for chances in (pushes, q))
        if missed > max(self.REACHED, own):
            return q
        tried = [_simplex((1 - part) * q + part * pushes) for part in np.linspace(0, self.more, self.PARTS)]
        sure = []
        for mixed in tried:
            sure.append(certainty(Steering((0.0,) * len(self.target), tuple(mixed.tolist()), strength)))
            if sure[-1] >= 0:
                return mixed
        return tried[int(np.argmax(sure))] if most else q


    def _seen(self, history: Sequence[Measurement], strength: float) -> np.ndarray:
        """Images [n + 1] of the prompt's own, by option, of rounds with this push."""
        return np.sum([np.zeros(len(self.target) + 1), *(
            m.outcomes.sum(1) for m in history if m.steering.probabilities and m.steering.push == strength)], axis=0)

    def _too_weak(self, history: Sequence[Measurement], strength: float, q: np.ndarray) -> bool:
        """Does the nearest q M miss the target, or, of a plan with a margin, the margin on enough pushed images?"""
        comes = q @ self.matrix(history, strength)
        if self.within is None:
            return float(kl_divergence(comes, self.target)) > self.REACHED
        pushed = sum(m.outcomes[1:].sum() for m in history if m.steering.probabilities and m.steering.push == strength)
        return pushed >= self.ENOUGH and np.abs(comes - self.target).max() > self.within

    def at_its_limit(self, history: Sequence[Measurement]) -> bool:
        return any(m.steering.probabilities and m.steering.push >= self.LARGEST * self.unit for m in history)

    def useless(self, history: Sequence[Measurement]) -> list[tuple[int, int, int]]:
        """(group, images that show it, images pushed to it) of groups that show too seldom by themselves and that the
        strongest push so far does not bring, on enough images; none where the answer is nearer to the target all the
        same."""
        pushed = [m for m in history if m.steering.probabilities]
        if not pushed:
            return []
        strongest = max(m.steering.push for m in pushed)
        counts = np.sum([m.outcomes for m in pushed if m.steering.push == strongest], axis=0)
        alone = shares(np.sum([m.outcomes[0] for m in history], axis=0) + 1e-9)
        margin, found = self.within or 0.05, []
        for i, target in enumerate(self.target):
            shown, images = int(counts[i + 1, i]), int(counts[i + 1].sum())
            if images >= self.ENOUGH and alone[i] < target - margin:
                low, high = wilson(shown, images)
                if low <= alone[i] and high < target:
                    found.append((i, shown, images))
        if not found:
            return []
        matrix = self.matrix(history, pushed[-1].steering.push)
        for i, _, _ in found:
            matrix[i + 1] = matrix[0]
        reached = least_push(matrix, self.target) @ matrix
        off, own = (np.abs(share - self.target).max() for share in (reached, matrix[0]))
        return found if off > own - self.NEARER else []

    def _solved(self, history: Sequence[Measurement], strength: float) -> np.ndarray:
        """q [n + 1]."""
        matrix = self.matrix(history, strength)
        if self._last is None or not np.array_equal(self._last[0], matrix):  # a round asks several times
            self._last = matrix, least_push(matrix, self.target)
        return self._last[1].copy()

    def _least_known(self, history: Sequence[Measurement], strength: float, q: np.ndarray,
                     due: np.ndarray | None = None) -> np.ndarray:
        """Chances of the options for a round of images that make q M known best: as many of each option, earlier ones
        included, as its part of the standard deviation is large (Neyman 1934). `due`: images of options that come
        before that."""
        counts = self._counts(history, strength)
        known, m = counts.sum(1), counts / counts.sum(1, keepdims=True)
        wanted = q * np.sqrt((m * (1 - m)).sum(1))
        newest = max(history[-1].counts.sum(), 1)  # about as many will come
        short = np.clip(wanted / wanted.sum() * (known.sum() + newest) - known, 0, None)
        q = short / short.sum() if short.sum() else q
        if due is not None and due.any():
            q = due / due.sum() if due.sum() >= newest else (due + (newest - due.sum()) * q) / newest
        return _simplex(q)

    def outcomes(self, history: Sequence[Measurement], steering: Steering, draws: int = 2000) -> np.ndarray:
        """q M with every row of M drawn from its Dirichlet posterior."""
        counts, chance = self._counts(history, steering.push), np.random.default_rng(0)
        q = steering.probabilities or (1.0,) + (0.0,) * len(self.target)
        rows = np.stack([chance.dirichlet(row, draws) for row in counts])  # [n + 1, draws, n]
        return np.tensordot(np.asarray(q), rows, axes=1)

    def matrix(self, history: Sequence[Measurement], strength: float) -> np.ndarray:
        """M [n + 1, n]: posterior means of the outcomes by option."""
        counts = self._counts(history, strength)
        return counts / counts.sum(1, keepdims=True)

    def _counts(self, history: Sequence[Measurement], strength: float) -> np.ndarray:
        """Dirichlet counts [n + 1, n] of the outcomes by option, priors included; unpushed images of every round in row
        0."""
        n = len(self.target)
        counts = np.zeros((n + 1, n))
        for measured in history:
            counts[0] += measured.outcomes[0]
            if measured.steering.probabilities and measured.steering.push == strength:
                counts[1:] += measured.outcomes[1:]
        alone = (counts[0] + 0.5) / (counts[0] + 0.5).sum()
        prior = self.PRIOR_IMAGES * (self.OBEDIENCE * np.eye(n) + (1 - self.OBEDIENCE) * alone)
        prior = prior + self.elsewhere.get(strength, 0)
        worth = prior.sum(1, keepdims=True)
        prior = prior * np.minimum(worth, self.ELSEWHERE_IMAGES) / worth
        return np.vstack([counts[0] + 0.5, counts[1:] + prior])

    def learn_from(self, histories: Sequence[Sequence[Measurement]]) -> None:
        """Take what pushes did to other prompts as a prior of what they do to this one, of little weight."""
        n = len(self.target)
        self.elsewhere = {}
        for measured in (m for history in histories for m in history if m.steering.probabilities):
            strength = measured.steering.push
            self.elsewhere[strength] = self.elsewhere.get(strength, np.zeros((n, n))) + measured.outcomes[1:]


def least_push(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """q [n + 1] on the simplex with the largest q_0 whose outcomes q M are the target: a linear programme. Where none
    reaches it, the `nearest`.

    matrix M [n + 1, n], target t [n]
    """
    from scipy.optimize import linprog
    gain = np.eye(len(matrix))[0]
    found = linprog(-gain, A_eq=np.vstack([matrix.T, np.ones(len(matrix))]), b_eq=[*target, 1.0], method="highs")
    return _simplex(found.x) if found.success else nearest(matrix, target)


def all_pushed(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """q [n + 1] that leaves no image alone and meets the target, or is nearest to it."""
    return np.concatenate([[0.0], least_push(matrix[1:], target)])


def nearest(matrix: np.ndarray, target: np.ndarray, steps: int = 1000) -> np.ndarray:
    """q [n + 1] on the simplex with the least KL(t || q M): the mixture's EM solution (Dempster et al. 1977)."""
    q = np.full(len(matrix), 1 / len(matrix))
    for _ in range(steps):
        q = q * (matrix @ (target / np.maximum(q @ matrix, 1e-12)))
    return _simplex(q)


def _simplex(q: np.ndarray) -> np.ndarray:
    """Rounded, so that what is 0 up to rounding is 0, whatever the machine."""
    q = np.round(np.clip(q, 0, None), 9)
    return q / q.sum()
