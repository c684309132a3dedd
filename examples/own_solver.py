"""A solver of your own: it turns the rounds so far into the weights of the next round.

    python examples/own_solver.py

A solver keeps no state of its own, so that a calibration can continue from its rounds alone. `history` begins with
the audit; a measurement has the round's `steering` and its `counts` [groups].
"""
import numpy as np

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.solver import best, register
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import named
from sd_debias.diffusers_host.workbench import demo


class Halving:
    """Two groups: push away from the larger one, half as far each round."""

    def __init__(self, attribute, method, seed):
        self.target = np.asarray(attribute.target)

    def propose(self, history):
        last = history[-1]
        step = 0.5 ** len(history) * np.sign(last.counts / last.counts.sum() - self.target)
        return Steering(tuple(np.asarray(last.steering.weights) + step))

    def answer(self, history):
        return best(history, self.target)

    def outcomes(self, history, steering):
        """Shares [draws, groups] with a steering, as far as they are known: how sure a plan with a margin is."""
        own = sum((m.counts for m in history if m.steering == steering), np.zeros(len(self.target)))
        return np.random.default_rng(0).dirichlet(own + 0.5, 2000)

    def at_its_limit(self, history):
        return False


def main() -> str:
    rule = register("halving", lambda attribute, method, seed: Halving(attribute, method, seed))
    plan = Plan(24, rounds=2, held_out=0, batch_size=24, tolerance=1e-6)
    c = demo().calibrate("a photo of a doctor", "gender", named("shift", rule=rule), plan, progress=False)
    rounds = [tuple(round(float(w), 2) for w in r.steerings[0].weights) for r in c.rounds]
    return f"{rule}: weights of {' and '.join(GENDER.names)} by round: {rounds}"


if __name__ == "__main__":
    print(main())
