"""A judge that cannot tell the groups of a model certifies nothing."""
import numpy as np
import pytest

from sd_debias.core.attribute import GENDER, parse
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.stop import NOT_KNOWN, Stop
from sd_debias.core.calibration.round import HELD_OUT, PROOF
from sd_debias.core.calibration.plan import Plan, planned
from sd_debias.core.calibration.standing import standings
from sd_debias.core.calibration.telling import MOST, PROOF as EACH, Told, doubts, wanted
from sd_debias.core.judge.blank import sure_of_nothing
from sd_debias.core.method.methods import METHODS

DEFAULT = METHODS["default"]


class World:
    """Images of a model whose first group has this share; a push is labelled right so often."""

    def __init__(self, share, right, seed=0):
        self.share, self.right, self.chance = share, right, np.random.default_rng(seed)

    def images(self, weights, seeds):
        return [int(row.argmin()) if row.any() else -1 for row in weights.numpy()]

    def classify(self, images):
        luck = self.chance.random(len(images))
        shown = [int(u > self.share) if pushed < 0 else pushed if u < self.right else 1 - pushed
                 for pushed, u in zip(images, luck)]
        return [np.eye(2, dtype=np.float32)[shown]]


def calibrated(world, attribute=GENDER, plan=None):
    plan = plan or planned("quick", DEFAULT, batch_size=10)
    c = Calibration("a photo of a doctor", [attribute], DEFAULT, plan)
    for _ in c.run(world.images, world.classify):
        pass
    return c


@pytest.mark.slow
def test_a_share_of_labels_that_mean_nothing_is_not_on_target():
    """The demo model's emoji show no age: 4 of 10 images steered to "an old person" are old, and
    60:40 was "on target, 95% certain"."""
    age = parse("age: young (a young person) | old (an old person) = 60:40")
    found = [calibrated(World(0.7, 0.4, seed), age) for seed in range(20)]
    assert sum(c.verdict(0) == "on target" for c in found) <= 1, "of 300 seeds, 6 were lucky"
    c = next(c for c in found if c.verdict(0).startswith(NOT_KNOWN))
    assert c.finished and c.stop is Stop.UNTOLD and c.ending.startswith(NOT_KNOWN)
    said, = standings(c)
    assert "on target" not in said.text and "'old'" in said.text
    assert any("'old'" in warning for warning in c.warnings)


def test_where_the_audit_meets_the_target_pictures_are_steered_to_prove_the_judge():
    plan = Plan(200, rounds=2, held_out=200)  # without a margin the audit itself may end it
    c = calibrated(World(0.5, 0.97), plan=plan)
    proof = [r for r in c.rounds if r.kind == PROOF]
    assert c.verdict(0) == "on target" and [len(r.seeds) for r in proof] == [2 * EACH]
    assert not any(s.probabilities for s in c.steerings), "what proves the judge is no weight"
    blind = calibrated(World(0.5, 0.5), plan=plan)
    assert blind.verdict(0).startswith(NOT_KNOWN) and blind.rounds[-1].kind == HELD_OUT


@pytest.mark.parametrize("right", [0.85, 0.9, 0.97])
@pytest.mark.parametrize("begun", [3, 10, 25])
def test_a_judge_that_can_tell_is_suspected_in_fewer_than_1_of_100_calibrations(right, begun):
    chance, runs, alarms = np.random.default_rng(0), 4000, 0
    for _ in range(runs):
        made, hits = begun, chance.binomial(begun, right)
        while wanted([Told("old", hits, made, 0.3)]):
            made, hits = made + EACH, hits + chance.binomial(EACH, right)
        alarms += bool(doubts([Told("old", hits, made, 0.3)]))
    assert alarms / runs < 0.01


def test_a_judge_that_guesses_is_found():
    chance = np.random.default_rng(0)
    found = [bool(doubts([Told("old", chance.binomial(MOST, 0.4), MOST, 0.3)])) for _ in range(2000)]
    assert np.mean(found) > 0.99


def test_a_judge_that_is_sure_of_a_group_where_nobody_is_shown_is_named():
    """The demo's judge labels grey images "woman 100 %"."""
    def certain(images):
        return np.tile(np.array([0.01, 0.99], np.float32), (len(images), 1))

    def unsure(images):
        return np.tile(np.array([0.4, 0.6], np.float32), (len(images), 1))

    assert "'woman'" in sure_of_nothing(certain, GENDER) and not sure_of_nothing(unsure, GENDER)
