"""Solvers: from the rounds measured so far to the weights of the next one.

A solver is a pure function of the history, so that a calibration resumes from its recorded rounds alone:

    propose(history) -> Steering    what the next round should try
    answer(history)  -> Steering    what to keep
    outcomes(history, steering)     shares [draws, n] under a steering, drawn from their posterior: how sure that is
    at_its_limit(history) -> bool   can weights push no further than they did?
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Protocol, Sequence

import numpy as np

from ...attribute import Attribute
from ...statistics import kl_divergence, reachable, shares
from ...errors import DebiasError, quoted
from ...method.methods import OWN, OWN_RULE, Method
from ...method.draw import Steering


@dataclass(frozen=True)
class Measurement:
    """What one round measured for one attribute with n groups.

    outcomes  counts [n + 1, n]: by the option an image drew (0: no push), the group it was classified as
    """
    steering: Steering
    outcomes: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return self.outcomes.sum(0)

    def kl(self, target: Sequence[float] | np.ndarray) -> float:
        """KL(p || t) in nats, t as `reachable`; infinite where nothing was classified: such a round is never the best.
        """
        return float(kl_divergence(shares(self.counts), reachable(target))) if self.counts.sum() else float("inf")


class Solver(Protocol):
    """The interface; `history` begins with the audit, whose steering is no guidance."""

    def propose(self, history: Sequence[Measurement]) -> Steering: ...

    def answer(self, history: Sequence[Measurement]) -> Steering: ...

    def outcomes(self, history: Sequence[Measurement], steering: Steering) -> np.ndarray: ...

    def at_its_limit(self, history: Sequence[Measurement]) -> bool: ...


def nearest(history: Sequence[Measurement], target: Sequence[float] | np.ndarray) -> Measurement:
    """The round nearest to the target; of equally near ones, the first."""
    return min(history, key=lambda measured: measured.kl(target))


def best(history: Sequence[Measurement], target: Sequence[float] | np.ndarray) -> Steering:
    """The weights of the round nearest to the target."""
    return nearest(history, target).steering


Factory = Callable[[Attribute, Method, int], Solver]  # of an attribute, the method, and the first image's seed
_own: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> str:
    """Make a solver of one's own known; returns "own:NAME", the rule that a method, a state and a profile name it by.

    Applying a profile needs no solver; continuing a calibration does. Raises DebiasError for a name that cannot be one.
    """
    rule = OWN + name
    if not re.fullmatch(OWN_RULE, rule):
        raise DebiasError("Expected a solver's name of up to 60 letters, digits, '_', '.' and '-', got "
                          f"{quoted(name)}.")
    _own[rule] = factory
    return rule


def make(method: Method, attribute: Attribute, seed: int = 0, within: float | None = None,
         more: float = 1.0) -> Solver:
    """The solver that a method names, for one attribute; `seed` is that of the policy gradient; `within` the plan's
    margin, so that rounds are for what is known least; `more` how many more images a draw may steer than it must."""
    from .draw import Draw
    from .policy_gradient import PolicyGradient
    from .response import SLOPES, TOWARD
    from .shift import Shift
    if method.rule.startswith(OWN):
        if method.rule not in _own:
            raise DebiasError(f"The weights are solved by {quoted(method.rule)}, which is not registered here. Import "
                              f"the module that registers it, or choose another rule.")
        return _own[method.rule](attribute, method, seed)
    if method.rule == "policy_gradient":
        return PolicyGradient(attribute.target, method.unit, seed=seed)
    if method.spend == "draw":
        return Draw(attribute.target, method.unit, within, more)
    # Directions that saturate or turn round are not pushed beyond what was seen to obey.
    slope = TOWARD if method.guidance.toward else SLOPES[method.direction]
    return Shift(attribute.target, slope, 8.0 if method.guidance.linear else 4.0)
