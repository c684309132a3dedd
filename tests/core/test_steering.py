"""What a seed draws, and the rows of weights that follow."""
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, shares

from sd_debias.core.method.draw import NETS, Steering, of_batch, point, rows

EVEN = Steering((0.0, 0.0), (0.0, 0.5, 0.5), push=2.0)
SEEDS = (*range(12), 20, 99, 100, 101, 12345, 999_999, 1_000_000, 2**31 - 1, 2**32, 2**53, 2**64 - 1)
DRAWS = [[0, 2, 1, 0, 1, 0, 0, 2, 1, 3, 1, 0, 0, 2, 1, 3, 0, 0, 3, 1, 0, 3, 0],
         [2, 0, 1, 0, 0, 1, 1, 3, 1, 0, 2, 0, 1, 0, 1, 3, 2, 0, 0, 3, 3, 0, 0],
         [0, 2, 3, 1, 0, 1, 2, 0, 1, 3, 1, 0, 0, 2, 2, 0, 3, 1, 1, 0, 0, 1, 0]]


def test_what_each_seed_draws_is_pinned():
    """A change would change every user's images."""
    for seed, points in ((99, [0.845194, 0.346683, 0.830918]),
                         (2**64 - 1, [0.282486, 0.143972, 0.240357])):
        assert [round(point(seed, stream), 6) for stream in range(3)] == points
    three = Steering((0.0, 0.0, 0.0), (0.4, 0.3, 0.2, 0.1))
    assert [three.draws(SEEDS, stream) for stream in range(3)] == DRAWS


@pytest.mark.parametrize("seed", [0, 1, 7, 1000, 123456789, 2**53 - 1, 2**64 - 1])
def test_a_batch_of_eight_is_four_and_four_whatever_its_seed(seed):
    seeds = of_batch(seed, 8)
    assert seeds[0] == seed  # the first image is that of a batch of one
    for stream in range(len(NETS)):
        assert Counter(EVEN.draws(seeds, stream)) == {1: 4, 2: 4}
        assert Counter(EVEN.draws(seeds[:4], stream)) == {1: 2, 2: 2}
    for first, second in itertools.combinations(range(4), 2):
        both = zip(EVEN.draws(seeds, first), EVEN.draws(seeds, second))
        assert set(Counter(both).values()) == {2} and len(set(NETS)) == len(NETS)


@pytest.mark.parametrize("start", [
    0, 1, 7, 42, 1000, 123456789, 2**32 - 5, 2**53 - 4, 2**63 - 3, 2**64 - 10])
def test_consecutive_seeds_keep_close_to_their_chances(start):
    counts = Counter(EVEN.draws(range(start, start + 10)))
    assert abs(counts[1] - 5) <= start % 2 and counts[1] + counts[2] == 10
    chances = (0.3, 0.1, 0.2, 0.4)
    for stream in (0, 1):
        counts = Counter(Steering((0.0,) * 3, chances).draws(range(start, start + 100), stream))
        for option, chance in enumerate(chances):
            assert abs(counts[option] - 100 * chance) <= 5  # by chance alone they stray by about 4


@pytest.mark.parametrize("stream", [0, 1, 2])
@pytest.mark.parametrize("step", [2, 3, 4, 5, 8, 10, 64, 100, 1000, 10**6])
def test_seeds_in_steps_meet_all_chances_alike(step, stream):
    chances = (0.4, 0.0, 0.6)
    counts = Counter(Steering((0.0, 0.0), chances).draws(range(0, 1000 * step, step), stream))
    assert counts[2] == pytest.approx(600, abs=75)  # two seeds of a sixteen may go one way: 1.4 times chance's 15.5


@examples(40)
@given(st.integers(2, 4).flatmap(lambda n: shares(n + 1)), st.integers(-2**40, 2**53),
       st.integers(0, 7))
def test_a_seed_draws_the_same_in_any_batch_and_as_often_as_is_likely(q, first, stream):
    steering, seeds = Steering((0.0,) * (len(q) - 1), tuple(q)), range(first, first + 400)
    draws = steering.draws(seeds, stream)
    assert np.bincount(draws, minlength=len(q)) / 400 == pytest.approx(q, abs=0.1)
    assert draws[100:110] == steering.draws(seeds[100:110], stream)
    assert draws[::-1] == steering.draws(np.array(seeds)[::-1], stream)
    assert torch.equal(steering.rows(seeds)[5:7], steering.rows(seeds[5:7]))


@pytest.mark.parametrize("streams", [(0, 1), (1, 2), (0, 4)])
@pytest.mark.parametrize("chances", [(0.0, 0.5, 0.5), (0.2, 0.5, 0.3)])
def test_two_attributes_are_drawn_independently(streams, chances):
    steering = Steering((0.0, 0.0), chances)
    counts = Counter(zip(*(steering.draws(range(500, 3500), stream) for stream in streams)))
    for i, one in enumerate(chances):
        for j, other in enumerate(chances):
            assert counts[i, j] == pytest.approx(3000 * one * other, abs=60)  # by chance alone 24


def test_an_option_without_a_chance_is_never_drawn():
    seeds = [*range(2000), 2**64 - 1, 2**63 - 1]
    assert set(EVEN.draws(seeds)) == {1, 2}
    assert set(Steering((0.0, 0.0), (0.0, 1.0, 0.0)).draws(seeds)) == {1}


def test_a_shift_gives_every_image_the_same_weights_and_draws_nothing():
    steering = Steering((1.5, -0.5))
    a = steering.rows([3, 4, 5])
    assert a.dtype == torch.float32 and a.tolist() == [[1.5, -0.5]] * 3
    assert steering.draws(range(3)) == [0, 0, 0]


def test_a_drawn_image_is_pushed_toward_its_group_and_the_others_keep_the_shift():
    steering = Steering((0.5, 0.0, -0.5), (0.25, 0.25, 0.25, 0.25), push=2.0)
    seeds = range(4)
    for row, option in zip(steering.rows(seeds).tolist(), steering.draws(seeds)):
        expected = [0.5, 0.0, -0.5]
        if option:
            expected[option - 1] -= 2.0
        assert row == expected


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 3.0])
def test_strength_scales_shift_and_push_alike_and_none_is_no_guidance_at_any(strength):
    for steering in (EVEN, Steering((1.0, -2.0)), Steering((0.5, -1.0), (0.2, 0.4, 0.4), push=2.0)):
        assert torch.equal(steering.rows(range(20), strength), steering.rows(range(20)) * strength)
    assert torch.equal(Steering.none(3).rows(range(6), strength), torch.zeros(6, 3))


def test_several_attributes_stand_side_by_side_each_with_its_own_stream():
    shift = Steering((1.0, 2.0, 3.0))
    a = rows([EVEN, shift, EVEN], range(12), strength=0.5)
    assert a.shape == (12, 7)
    assert torch.equal(a[:, :2], EVEN.rows(range(12), 0.5, stream=0))
    assert torch.equal(a[:, 2:5], shift.rows(range(12), 0.5))
    assert torch.equal(a[:, 5:], EVEN.rows(range(12), 0.5, stream=2))


@pytest.mark.parametrize("call, message", [
    *((lambda given=given: Steering(*given), "finite") for given in (
        [(math.nan, 0.0)], [(math.inf, 0.0)], [(0.0, 0.0), (), math.inf],
        [(0.0, 0.0), (math.nan, 0.5, 0.5)])),
    (lambda: Steering((0.0, 0.0), (0.5, 0.5)), "Expected 3 probabilities .* got 2"),
    (lambda: Steering((0.0, 0.0), (-0.5, 1.0, 0.5)), "0 or more"),
    (lambda: Steering((0.0, 0.0), (0.5, 0.5, 0.5)), "sum to 1"),
    (lambda: EVEN.draws([1], stream=len(NETS)), "at most 8 attributes"),
    (lambda: rows([EVEN] * 9, [1]), "at most 8 attributes")])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
