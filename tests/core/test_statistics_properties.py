"""Statistics of shares, whatever is counted."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import counts, examples, shares

from sd_debias.core.statistics import (
    corrected_shares, deviation_ratio, g_test, kl_divergence, summarise, total_variation, wilson)

GROUPS = st.integers(2, 6)


@examples(80)
@given(GROUPS.flatmap(lambda n: st.tuples(counts(n), shares(n))))
def test_shares_and_their_intervals_are_of_the_counts(given):
    own, target = given
    found = summarise(own, target)
    assert sum(found.shares) == pytest.approx(1) and found.n == sum(own)
    for share, count, (low, high) in zip(found.shares, own, found.intervals, strict=True):
        assert share == pytest.approx(count / sum(own)) and -1e-12 <= low <= share + 1e-12 <= high + 2e-12 <= 1 + 3e-12
    assert found.kl_interval[0] <= found.kl <= found.kl_interval[1] and 0 <= found.kl_floor_mean <= found.kl_floor95
    assert 0 <= found.total_variation <= 1 and -1e-12 <= found.deviation_ratio <= 1 + 1e-12


@examples(80)
@given(GROUPS.flatmap(lambda n: st.tuples(shares(n), shares(n))))
def test_a_divergence_is_zero_of_equal_shares_alone(given):
    p, t = map(np.array, given)
    found, apart = kl_divergence(p, t), total_variation(p, t)
    assert found >= 2 * apart ** 2 - 1e-12  # Pinsker
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12) and total_variation(p, p) == 0
    assert total_variation(t, p) == pytest.approx(apart) == pytest.approx(np.abs(p - t).sum() / 2)


@examples(40)
@given(GROUPS.flatmap(lambda n: st.tuples(counts(n), shares(n), st.permutations(range(n)))))
def test_the_order_of_groups_changes_the_order_of_results_alone(given):
    own, target, order = given
    found, moved = summarise(own, target), summarise([own[i] for i in order], [target[i] for i in order])
    assert moved.shares == pytest.approx([found.shares[i] for i in order])
    assert np.allclose(moved.intervals, [found.intervals[i] for i in order])
    assert (moved.kl, moved.total_variation) == pytest.approx((found.kl, found.total_variation))
    assert moved.deviation_ratio == pytest.approx(found.deviation_ratio)
    assert g_test([own[i] for i in order], [target[i] for i in order]) == pytest.approx(g_test(own, target))


@examples(60)
@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.99))
def test_an_interval_narrows_with_images_and_widens_with_its_level(given, level):
    k, n = given
    low, high = wilson(k, n, level)
    more, wider = wilson(10 * k, 10 * n, level), wilson(k, n, (1 + level) / 2)
    assert 0 <= low <= k / n <= high <= 1
    assert more[1] - more[0] < high - low < wider[1] - wider[0]
    assert wilson(n - k, n, level) == pytest.approx((1 - high, 1 - low))


@examples(12)
@given(st.tuples(counts(2, 60), st.integers(0, 10), st.integers(0, 10)))
def test_shares_that_are_corrected_by_a_check_are_shares(given):
    own, wrong, other = given
    found, intervals = corrected_shares(own, [[40, wrong], [other, 40]], draws=400)
    assert sum(found) == pytest.approx(1, abs=1e-6) and min(found) >= 0
    assert all(0 <= low <= high <= 1 for low, high in intervals)


@examples(40)
@given(GROUPS.flatmap(shares))
def test_the_largest_distance_from_even_shares_is_none_of_even_ones_and_one_of_one_group(p):
    n = len(p)
    assert 0 <= deviation_ratio(p) < 1 and deviation_ratio([1 / n] * n) == pytest.approx(0, abs=1e-12)
    assert deviation_ratio([1.0] + [0.0] * (n - 1)) == pytest.approx(1)
