"""Iterative Distribution Alignment on shift weights: generate, measure the shares, correct the weights, repeat.

He et al. 2024 name the algorithm and show that one or two iterations suffice; their update rule is not public. The
three rules here are our own. All keep the weights' sum at zero, so that no push away from people in general builds up.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from ..statistics import reachable, smoothed
from ...method.draw import Steering
from . import Measurement, best


class Ida:
    """IDA with one of three rules; p are a round's shares, t the target, n the number of groups.

    log             a = (b - log t) / S centred, with log p = b - S a fitted to all rounds: the weights at which the
                    measured response meets the target. After the audit alone it is a += step (log p - log t).
    additive        a += unit (p - t), from the last round
    multiplicative  v *= (p / t)^(1/4) on the simplex, a = largest unit (v - 1/n), from the last round
    """

    def __init__(self, target: Sequence[float], rule: str = "log", unit: float = 1.0, largest: float = 4.0):
        """`unit` is the weight at which a push is felt, `largest` the bound on any weight in such units."""
        self.target = np.asarray(target, float)
        self.rule, self.unit, self.largest = rule, unit, largest
        self.log_target = np.log(reachable(target))

    def propose(self, history: Sequence[Measurement]) -> Steering:
        last = np.asarray(history[-1].steering.weights)
        p = smoothed(history[-1].counts)
        if self.rule == "log":
            step = self._fitted(history)
        elif self.rule == "additive":
            step = last + self.unit * (p - self.target)
        else:
            gain, even = self.largest * self.unit, 1 / len(p)
            v = np.clip(last / gain + even, 1e-3, None) * (p / np.exp(self.log_target)) ** 0.25
            step = gain * (v / v.sum() - even)
        step = step - step.mean()
        bound = self.largest * self.unit / max(np.abs(step).max(), self.largest * self.unit)
        return Steering(tuple((step * bound).tolist()))

    def answer(self, history: Sequence[Measurement]) -> Steering:
        """The fit to all rounds where the log rule's last round was its nearest, else the nearest round itself."""
        nearest = best(history, self.target)
        if self.rule == "log" and len(history) > 1 and nearest is history[-1].steering:
            return self.propose(history)
        return nearest

    def _fitted(self, history: Sequence[Measurement]) -> np.ndarray:
        b, slope = fit_response([m.steering.weights for m in history], [m.counts for m in history], 1.5 / self.unit)
        return (b - self.log_target) / slope


def fit_response(weights: Sequence[Sequence[float]], counts: Sequence[np.ndarray],
                 prior_slope: float) -> tuple[np.ndarray, float]:
    """Maximum a posteriori fit of the dose-response p = softmax(b - S a): returns b [n] (centred) and S > 0.

    The prior on S is log-normal around `prior_slope` with a spread of 0.7; Dirichlet-1/2 pseudo-counts keep b finite
    where a group never appeared.
    """
    with torch.inference_mode(False), torch.enable_grad():  # hosts call from within inference mode
        a = torch.tensor(np.array(weights), dtype=torch.float64)
        c = torch.tensor(np.array(counts), dtype=torch.float64) + 0.5 / len(counts)
        first = c[0] / c[0].sum()
        b = (first.log() - first.log().mean()).requires_grad_()
        log_slope = torch.tensor(float(np.log(prior_slope)), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([b, log_slope], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            log_p = torch.log_softmax(b - log_slope.exp() * a, dim=1)
            value = -(c * log_p).sum() + (log_slope - np.log(prior_slope)) ** 2 / (2 * 0.7 ** 2) + b.mean() ** 2
            value.backward()
            return value

        optimizer.step(loss)
    fitted = b.detach().numpy()
    return fitted - fitted.mean(), float(log_slope.detach().exp())
