"""Draw probabilities, whatever a model shows and however well it obeys."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, shares

from sd_debias.core.calibration.solver.draw import least_push
from sd_debias.core.method.draw import Steering


def obeying(alone: list[float], obedience: float) -> np.ndarray:
    """M of a model that shows the pushed group so often, and the others as it does by itself."""
    n, alone = len(alone), np.array(alone)
    pushed = obedience * np.eye(n) + (1 - obedience) * np.tile(alone, (n, 1))
    return np.vstack([alone, pushed])


MODELS = st.integers(2, 5).flatmap(lambda n: st.tuples(shares(n), shares(n), st.floats(0.5, 1)))


@examples(60)
@given(MODELS)
def test_probabilities_sum_to_one_and_no_group_is_drawn_below_zero(given):
    alone, target, obedience = given
    q = least_push(obeying(alone, obedience), np.array(target))
    assert q.sum() == pytest.approx(1, abs=1e-6) and q.min() >= 0
    assert Steering((0.0,) * len(alone), tuple(q)).mode == "draw"


@examples(60)
@given(MODELS)
def test_a_target_within_reach_is_met_in_expectation(given):
    alone, target, obedience = given
    matrix = obeying(alone, obedience)
    q = least_push(matrix, np.array(target))
    # Every image sent to a drawn group, (t - (1 - o) a) / o, meets the target where that is no negative chance.
    sent = (np.array(target) - (1 - obedience) * np.array(alone)) / obedience
    if sent.min() >= 0:
        assert q @ matrix == pytest.approx(target, abs=2e-3)


@examples(60)
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_of_two_groups_no_picture_is_changed_that_need_not_be(share, wanted):
    """Only the group that shows too seldom is drawn, and no more often than it lacks."""
    matrix = obeying([share, 1 - share], 1.0)
    q = least_push(matrix, np.array([wanted, 1 - wanted]))
    lacks, other = (1, 2) if wanted > share else (2, 1)
    needed = (wanted - share) / (1 - share) if wanted > share else (share - wanted) / share
    assert q[lacks] == pytest.approx(needed, abs=1e-3) and q[other] == pytest.approx(0, abs=1e-3)


@examples(40)
@given(st.integers(2, 4).flatmap(lambda n: shares(n + 1)), st.integers(-2**40, 2**53), st.integers(0, 7))
def test_draws_come_as_often_as_they_are_likely_wherever_the_seeds_begin(q, first, stream):
    n, images = len(q) - 1, 400
    draws = Steering((0.0,) * n, tuple(q)).draws(range(first, first + images), stream)
    found = np.bincount(draws, minlength=n + 1) / images
    assert found == pytest.approx(q, abs=0.1) and len(found) == n + 1
    assert draws[100:110] == Steering((0.0,) * n, tuple(q)).draws(range(first + 100, first + 110), stream)
