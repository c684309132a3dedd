"""Iterative Distribution Alignment on shift weights: generate, measure the shares, correct the weights, repeat.

He et al. 2024 name the algorithm and show that one or two iterations suffice; their update rule is not public. This
one is our own. It keeps the weights' sum at zero, so that no push away from people in general builds up.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np

from ...statistics import g_test, reachable, smoothed
from ...method.draw import Steering
from . import Measurement, nearest
from .response import SLOPES, Response, fit


ENOUGH = 200  # pushed images that tell whether pushes do anything
UNLIKELY = 0.01  # of a round beside the fit to all of them


class Shift:
    """IDA's solver of one shift for all images: the weights at which the response that all rounds measured meets the
    target (response.py)."""

    def __init__(self, target: Sequence[float], slope: float = SLOPES["prompt"], largest: float = 4.0):
        """`slope` is what is expected of the response at first, `largest` the bound on any weight."""
        self.target, self.slope, self.largest = np.asarray(target, float), slope, largest
        self.log_target = np.log(reachable(target))

    def propose(self, history: Sequence[Measurement]) -> Steering:
        last = np.asarray(history[-1].steering.weights)
        step = self._response(history).weights(self.log_target, last)
        return self._bounded(step - step.mean())

    def _bounded(self, a: np.ndarray) -> Steering:
        return Steering(tuple((a * min(1, self.largest / max(np.abs(a).max(), 1e-9))).tolist()))

    def answer(self, history: Sequence[Measurement]) -> Steering:
        """The safest weights by the fit to all rounds: the nearest round owes part of its nearness to luck. Unless
        chance does not explain what the nearest round or the last one showed beside the fit, which then does not
        hold: then the nearest round's."""
        near = nearest(history, self.target)
        if len(history) > 1:
            response = self._response(history)
            if all(g_test(m.counts, response.expected(m.steering.weights))[1] > UNLIKELY for m in (near, history[-1])
                   if m.counts.sum()):
                start = response.weights(self.log_target, np.asarray(history[-1].steering.weights))
                return self._bounded(response.safest(self.log_target, start))
        return near.steering

    def outcomes(self, history: Sequence[Measurement], steering: Steering) -> np.ndarray:
        """By the response that all rounds measured."""
        return self._response(history).shares(steering.weights)

    def at_its_limit(self, history: Sequence[Measurement]) -> bool:
        """Were the largest weights tried twice, or do pushed images show whom those of the audit show, as far as chance
        can tell (G-test, on enough of them)?"""
        if sum(max(map(abs, m.steering.weights)) > 0.999 * self.largest for m in history) > 1:
            return True
        pushed = sum((m.counts for m in history if any(m.steering.weights)), np.zeros(len(self.target)))
        return pushed.sum() >= ENOUGH and g_test(pushed, smoothed(history[0].counts))[1] > 0.05

    def _response(self, history: Sequence[Measurement]) -> Response:
        return fit([m.steering.weights for m in history], [m.counts for m in history], self.slope)
