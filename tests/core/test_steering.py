import math
from collections import Counter

import numpy as np
import pytest
import torch
from sd_debias.core.method.draw import PRIMES, Steering, radical_inverse, rows

EVEN = Steering((0.0, 0.0), (0.0, 0.5, 0.5), push=2.0)
STARTS = (0, 1, 7, 42, 1000, 123456789, 2**32 - 5, 2**53 - 4, 2**63 - 3, 2**64 - 10)


# Radical inverse

def test_radical_inverse_mirrors_the_digits_at_the_point():
    assert [radical_inverse(n, 2) for n in range(8)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
    assert [radical_inverse(n, 3) for n in range(5)] == pytest.approx([0, 1 / 3, 2 / 3, 1 / 9, 4 / 9])


@pytest.mark.parametrize("base", PRIMES)
def test_radical_inverse_stays_below_one_for_the_largest_seeds(base):
    for number in (2**64 - 1, base**60 - 1, base**12 - 1):
        assert 0 <= radical_inverse(number, base) < 1


@pytest.mark.parametrize("base", PRIMES)
def test_radical_inverse_spreads_consecutive_numbers_over_every_stratum(base):
    strata = [int(radical_inverse(number, base) * base + 1e-9) for number in range(100, 100 + base)]
    assert sorted(strata) == list(range(base))


# Draws

@pytest.mark.parametrize("start", STARTS)
def test_ten_consecutive_seeds_at_even_chances_are_five_and_five(start):
    counts = Counter(EVEN.draws(range(start, start + 10)))
    assert abs(counts[1] - 5) <= start % 2 and counts[1] + counts[2] == 10


@pytest.mark.parametrize("stream", [0, 1, 2])
@pytest.mark.parametrize("step", [2, 3, 4, 5, 8, 10, 64, 100, 1000, 10**6])
def test_seeds_in_steps_meet_all_chances_alike(step, stream):
    chances = (0.4, 0.0, 0.6)
    counts = Counter(Steering((0.0, 0.0), chances).draws(range(0, 1000 * step, step), stream))
    assert counts[2] == pytest.approx(600, abs=75)  # five seeds of a ten may go one way: 2.2 times chance's 15.5


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("stream", [0, 1])
def test_a_hundred_consecutive_seeds_keep_close_to_their_chances(start, stream):
    chances = (0.3, 0.1, 0.2, 0.4)
    counts = Counter(Steering((0.0,) * 3, chances).draws(range(start, start + 100), stream))
    for option, chance in enumerate(chances):
        assert abs(counts[option] - 100 * chance) <= 5  # unstratified draws stray by about 4 in standard deviation


def test_the_same_seed_draws_the_same_whatever_the_batch():
    seeds = [5, 99, 12345, 7, 2**40 + 1]
    together = EVEN.draws(seeds)
    assert together == [EVEN.draws([seed])[0] for seed in seeds]
    assert EVEN.draws(seeds[::-1]) == together[::-1]
    assert torch.equal(EVEN.rows(seeds), torch.cat([EVEN.rows([seed]) for seed in seeds]))


def test_seeds_may_come_as_numpy_numbers():
    assert EVEN.draws(np.arange(4, dtype=np.uint64)) == EVEN.draws(range(4))


@pytest.mark.parametrize("streams", [(0, 1), (1, 2), (0, 4)])
def test_two_attributes_are_drawn_independently(streams):
    first, second = (EVEN.draws(range(500, 3500), stream) for stream in streams)
    for count in Counter(zip(first, second)).values():
        assert count == pytest.approx(3000 / 4, abs=60)


def test_two_attributes_with_uneven_chances_are_drawn_independently():
    chances = (0.2, 0.5, 0.3)
    steering = Steering((0.0, 0.0), chances)
    counts = Counter(zip(steering.draws(range(3000), 0), steering.draws(range(3000), 1)))
    for i in range(3):
        for j in range(3):
            assert counts[i, j] == pytest.approx(3000 * chances[i] * chances[j], abs=30)


def test_an_option_without_a_chance_is_never_drawn():
    seeds = [*range(2000), 2**64 - 1, 2**63 - 1]
    assert set(EVEN.draws(seeds)) == {1, 2}
    assert set(Steering((0.0, 0.0), (0.0, 1.0, 0.0)).draws(seeds)) == {1}
    assert set(Steering((0.0, 0.0), (1.0, 0.0, 0.0)).draws(seeds)) == {0}


def test_nothing_is_drawn_without_probabilities():
    assert Steering((1.0, -1.0)).mode == "shift" and EVEN.mode == "draw"
    assert Steering((1.0, -1.0)).draws(range(3)) == [0, 0, 0]


# Rows of weights

def test_a_shift_gives_every_image_the_same_weights():
    a = Steering((1.5, -0.5)).rows([3, 4, 5])
    assert a.dtype == torch.float32 and a.tolist() == [[1.5, -0.5]] * 3


def test_a_drawn_image_is_pushed_toward_its_group_and_the_others_keep_the_shift():
    steering = Steering((0.5, 0.0, -0.5), (0.25, 0.25, 0.25, 0.25), push=2.0)
    seeds = range(4)
    for row, option in zip(steering.rows(seeds).tolist(), steering.draws(seeds)):
        expected = [0.5, 0.0, -0.5]
        if option:
            expected[option - 1] -= 2.0
        assert row == expected
    assert sorted(steering.draws(seeds)) == [0, 1, 2, 3]


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_strength_scales_shift_and_push_alike(strength):
    steering = Steering((0.5, -1.0), (0.2, 0.4, 0.4), push=2.0)
    assert torch.equal(steering.rows(range(20), strength), steering.rows(range(20)) * strength)


@pytest.mark.parametrize("steering", [EVEN, Steering((1.0, -2.0)), Steering.none(2)])
def test_strength_zero_is_no_guidance(steering):
    assert torch.count_nonzero(steering.rows(range(6), strength=0.0)) == 0


def test_none_is_no_guidance_at_any_strength():
    assert torch.count_nonzero(Steering.none(3).rows(range(6), strength=5.0)) == 0
    assert Steering.none(3).rows(range(6)).shape == (6, 3)


def test_several_attributes_stand_side_by_side_each_with_its_own_stream():
    shift = Steering((1.0, 2.0, 3.0))
    a = rows([EVEN, shift, EVEN], range(12), strength=0.5)
    assert a.shape == (12, 7)
    assert torch.equal(a[:, :2], EVEN.rows(range(12), 0.5, stream=0))
    assert torch.equal(a[:, 2:5], shift.rows(range(12), 0.5))
    assert torch.equal(a[:, 5:], EVEN.rows(range(12), 0.5, stream=2))
    assert not torch.equal(a[:, :2], a[:, 5:])


# Refusals

@pytest.mark.parametrize("call, message", [
    (lambda: Steering((math.nan, 0.0)), "finite"),
    (lambda: Steering((math.inf, 0.0)), "finite"),
    (lambda: Steering((0.0, 0.0), push=math.inf), "finite"),
    (lambda: Steering((0.0, 0.0), (math.nan, 0.5, 0.5)), "finite"),
    (lambda: Steering((0.0, 0.0), (0.5, 0.5)), "Expected 3 probabilities .* got 2"),
    (lambda: Steering((0.0, 0.0), (-0.5, 1.0, 0.5)), "0 or more"),
    (lambda: Steering((0.0, 0.0), (0.5, 0.5, 0.5)), "sum to 1"),
    (lambda: EVEN.draws([1], stream=len(PRIMES)), "at most 8 attributes"),
    (lambda: EVEN.draws([1], stream=-1), "at most 8 attributes"),
    (lambda: rows([EVEN] * 9, [1]), "at most 8 attributes"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
