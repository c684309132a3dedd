"""The slow baseline of He et al. 2024: a Gaussian policy over the weights, improved by REINFORCE (Williams 1992).

The paper gives no settings; these are ours. Each round tries one draw of the weights, its reward is -KL(p || t), and
after each generation of rounds the policy's mean follows the gradient, with their mean reward as the baseline.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np

from ...schema import LARGEST_WEIGHT
from ...method.draw import Steering
from . import Measurement


class PolicyGradient:
    """Gaussian policy N(mean, spread^2) over centred weights, in units at which a push is felt."""

    def __init__(self, target: Sequence[float], unit: float = 1.0, *, generation: int = 8, spread: float = 0.5,
                 rate: float = 0.5, seed: int = 0):
        """`generation` rounds an update; `spread` of the policy and the first update's `rate`, both in units."""
        self.target = np.asarray(target, float)
        self.unit, self.generation, self.spread, self.rate, self.seed = unit, generation, spread, rate, seed

    def propose(self, history: Sequence[Measurement]) -> Steering:
        trial = len(history) - 1
        noise = np.random.default_rng((self.seed, trial)).standard_normal(len(self.target))
        return self._steering(self._mean(history) + self.spread * noise)

    def answer(self, history: Sequence[Measurement]) -> Steering:
        """The policy's mean."""
        return self._steering(self._mean(history))

    def outcomes(self, history: Sequence[Measurement], steering: Steering, draws: int = 2000) -> np.ndarray:
        """Dirichlet-1/2, from the rounds of this very steering; of none, as good as nothing is known."""
        own = sum((m.counts for m in history if m.steering == steering), np.zeros(len(self.target)))
        return np.random.default_rng(0).dirichlet(own + 0.5, draws)

    def at_its_limit(self, history: Sequence[Measurement]) -> bool:
        """Its noise always tries further."""
        return False

    def _mean(self, history: Sequence[Measurement]) -> np.ndarray:
        mean = np.zeros(len(self.target))
        trials = list(history[1:])
        for update in range(len(trials) // self.generation):
            batch = trials[update * self.generation:(update + 1) * self.generation]
            a = np.array([m.steering.weights for m in batch]) / self.unit
            reward = np.array([-m.kl(self.target) for m in batch])
            advantage = reward - reward.mean()
            scale = advantage.std() or 1.0
            rate = self.rate / (update + 1) ** 0.5
            mean = mean + rate * ((advantage / scale)[:, None] * (a - mean)).mean(0) / self.spread
        return mean

    def _steering(self, a: np.ndarray) -> Steering:
        return Steering(tuple(np.clip(self.unit * (a - a.mean()), -LARGEST_WEIGHT, LARGEST_WEIGHT).tolist()))
