"""Statistics of shares: against scipy, by simulation, and whatever is counted."""
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import counts, examples
from properties import shares as drawn_shares
from scipy import stats

from sd_debias.core.errors import DebiasError
from sd_debias.core.distribution import summarise
from sd_debias.core.statistics import (
    correct_confusion, deviation_ratio, dirichlet_interval, g_test, kl_divergence, noise_floor, shares,
    smoothed, total_variation, wilson)

EVEN = (0.5, 0.5)
CONFUSION = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])


def random_shares(groups, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(groups))


def test_a_divergence_agrees_with_scipy_and_is_infinite_in_a_group_that_should_have_none():
    for groups in (2, 24):
        p, t = random_shares(groups, 1), random_shares(groups, 2)
        assert kl_divergence(p, t) == pytest.approx(stats.entropy(p, t), rel=1e-10)
    assert kl_divergence([1.0, 0.0], EVEN) == pytest.approx(math.log(2)), "who never appears"
    assert kl_divergence(EVEN, [1.0, 0.0]) == math.inf


def test_distances_of_several_sets_of_images_are_those_of_each():
    p, t = np.stack([random_shares(3, seed) for seed in range(4)]), random_shares(3, 9)
    for distance in (kl_divergence, total_variation):
        assert distance(p, t).tolist() == [distance(row, t) for row in p]
    assert deviation_ratio(p).tolist() == [deviation_ratio(row) for row in p]
    assert total_variation([0.7, 0.3], EVEN) == pytest.approx(0.2)
    for p, ratio in (([0.5, 0.5], 0), ([1, 0, 0], 1), ([0.7, 0.3], 0.4), ([0.5, 0.5, 0], 0.5)):
        assert deviation_ratio(p) == pytest.approx(ratio)


@pytest.mark.parametrize("groups, level", [(2, 0.95), (3, 0.5), (6, 0.999), (200, 0.9)])
def test_noise_floor_agrees_with_scipy(groups, level):
    mean, quantile = noise_floor(groups, 100, level)
    assert mean == (groups - 1) / 200
    assert quantile == pytest.approx(stats.chi2(groups - 1).ppf(level) / 200, rel=1e-9)
    assert noise_floor(1, 100) == (0, 0)


@pytest.mark.parametrize("counts, target", [
    ((55, 45), EVEN), ((90, 10), (0.7, 0.3)), ((0, 20), EVEN), ((500, 1), EVEN), ((10, 0, 5, 12), (0.25,) * 4)])
def test_g_test_agrees_with_scipy(counts, target):
    g, p = g_test(counts, target)
    expected = stats.power_divergence(counts, np.multiply(target, sum(counts)), lambda_="log-likelihood")
    assert g == pytest.approx(expected.statistic, rel=1e-10)
    assert p == pytest.approx(expected.pvalue, rel=1e-8)


def test_g_test_does_not_count_a_group_with_target_zero():
    assert g_test([60, 40, 0], [0.5, 0.5, 0.0]) == pytest.approx(g_test([60, 40], EVEN))
    assert g_test([60, 40, 1], [0.5, 0.5, 0.0]) == (math.inf, 0)


@pytest.mark.parametrize("k, n, level", [
    (0, 10, 0.8), (10, 10, 0.95), (1, 3, 0.99), (50, 100, 0.95), (997, 1000, 0.8)])
def test_wilson_agrees_with_scipy_and_has_exact_ends(k, n, level):
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = wilson([0, 4, 10], 10)
    assert low[0] == 0 and high[2] == 1
    assert (low[1], high[1]) == wilson(4, 10)


def test_dirichlet_interval_of_a_share_is_that_of_a_beta_distribution():
    expected = stats.beta(70.5, 31).ppf([0.025, 0.975])  # (70 + 1/2, 20 + 10 + 2/2)
    interval = dirichlet_interval([70, 20, 10], lambda p: p[:, 0], draws=40_000)
    assert interval == pytest.approx(tuple(expected), abs=3e-3)


def test_summary_holds_what_the_single_functions_give():
    d = summarise([70, 30], EVEN, unsure=4)
    assert (d.n, d.unsure, d.counts, d.shares, d.target) == (100, 4, (70, 30), (0.7, 0.3), EVEN)
    assert d.intervals == (wilson(70, 100), wilson(30, 100))
    assert d.kl == kl_divergence(d.shares, EVEN)
    assert (d.kl_floor_mean, d.kl_floor95) == noise_floor(2, 100)
    assert (d.total_variation, d.deviation_ratio) == (pytest.approx(0.2), pytest.approx(0.4))


@examples(80)
@given(st.integers(2, 6).flatmap(lambda n: st.tuples(
    counts(n), drawn_shares(n), st.permutations(range(n)))))
def test_shares_and_intervals_are_of_the_counts_and_follow_the_order_of_groups(given):
    own, target, order = given
    found = summarise(own, target)
    assert sum(found.shares) == pytest.approx(1) and found.n == sum(own)
    for share, count, (low, high) in zip(found.shares, own, found.intervals, strict=True):
        assert share == pytest.approx(count / sum(own))
        assert -1e-12 <= low <= share + 1e-12 <= high + 2e-12 <= 1 + 3e-12
    assert found.kl_interval[0] <= found.kl <= found.kl_interval[1]
    assert 0 <= found.kl_floor_mean <= found.kl_floor95
    moved = summarise([own[i] for i in order], [target[i] for i in order])
    assert moved.shares == pytest.approx([found.shares[i] for i in order])
    assert np.allclose(moved.intervals, [found.intervals[i] for i in order])
    assert (moved.kl, moved.total_variation) == pytest.approx((found.kl, found.total_variation))
    assert moved.deviation_ratio == pytest.approx(found.deviation_ratio)
    turned = g_test([own[i] for i in order], [target[i] for i in order])
    assert turned == pytest.approx(g_test(own, target))


def test_images_in_a_group_that_nobody_should_be_in_are_a_large_but_finite_divergence():
    d = summarise(np.array([70, 30]), [1.0, 0.0])
    assert 1 < d.kl < 2 and d.kl_interval[0] < d.kl < d.kl_interval[1] < 5
    assert json.loads(json.dumps(d.to_dict(), allow_nan=False)) == d.to_dict()
    stray = summarise([99, 1], [1.0, 0.0])
    assert 0 < stray.kl < stray.kl_floor95, "one label is within chance"


def test_a_line_says_whether_chance_explains_the_distance():
    assert "farther from the target than chance explains" in summarise([70, 30], EVEN).line("x", ("a", "b"))
    assert "chance can explain the distance" in summarise([52, 48], EVEN).line("x", ("a", "b"))


@pytest.mark.parametrize("counts, target", [((50, 50), EVEN), ((54, 46), EVEN), ((17, 16, 17), (1 / 3,) * 3)])
def test_the_divergence_interval_starts_at_zero_where_the_target_is_within_noise(counts, target):
    d = summarise(counts, target)
    assert d.kl <= d.kl_floor95
    assert d.kl_interval[0] == 0 and d.kl_interval[1] > d.kl_floor_mean
    assert summarise([70, 30], EVEN).kl_interval[0] > 0.01, "the bias is plain"


def test_the_divergence_lies_in_its_interval_even_of_many_groups():
    few = np.random.default_rng(0).multinomial(60, random_shares(36, 0))
    seen = [112, 88] * 18  # just seen: nearly every draw is farther away
    for own in (few, seen):
        d = summarise(own, [1 / 36] * 36)
        assert d.kl_interval[0] <= d.kl <= d.kl_interval[1]
    assert g_test(seen, d.target)[1] < 0.05 and d.kl_interval[0] > 0


def test_a_fair_models_divergence_interval_holds_zero_in_95_percent_of_runs():
    counts = np.random.default_rng(0).multinomial(200, [1 / 6] * 6, size=600)
    lows = [summarise(row, [1 / 6] * 6).kl_interval[0] for row in counts]
    assert np.mean(np.equal(lows, 0)) == pytest.approx(0.95, abs=0.03)


def test_a_group_in_which_nobody_is_changes_barely_anything():
    with_it, without = summarise([60, 40, 0], [0.5, 0.5, 0.0]), summarise([60, 40], EVEN)
    assert with_it.kl == pytest.approx(without.kl, abs=0.0011)
    assert with_it.total_variation == pytest.approx(without.total_variation)
    assert with_it.kl_floor95 == noise_floor(3, 100)[1]
    never = summarise([40, 0], EVEN)
    assert never.intervals[1][0] == 0 and 0 < never.intervals[1][1] < 0.1
    assert all(math.isfinite(edge) for edge in never.kl_interval)


NAN, KL = math.nan, lambda p: kl_divergence(p, EVEN)


@pytest.mark.parametrize("fact, function, given", [
    *(("No image", function, given) for function, given in (
        (shares, [[0, 0]]), (shares, [[[1, 2], [0, 0]]]), (smoothed, [[0, 0]]),
        (noise_floor, [2, 0]), (wilson, [0, 0]), (dirichlet_interval, [[0, 0], KL]),
        (g_test, [[0, 0], EVEN]), (correct_confusion, [[0, 0], np.eye(2)]),
        (summarise, [[0, 0], EVEN, 9]))),
    ("0 or more", shares, [[3, -1]]), ("finite", shares, [[3, NAN]]),
    ("finite", shares, [[3, math.inf]]), ("group", shares, [3]), ("group", shares, [[]]),
    ("alpha", smoothed, [[1, 2], -0.5]), ("alpha", smoothed, [[1, 2], NAN]),
    ("Target shares.* 1", kl_divergence, [EVEN, [50, 50]]),
    ("finite", kl_divergence, [[NAN, 1], EVEN]), ("2 groups.* 1", kl_divergence, [EVEN, [1.0]]),
    ("two groups", deviation_ratio, [[1.0]]),
    ("one group", noise_floor, [0, 10]), ("level", noise_floor, [2, 10, 95]),
    *(("between 0 and n", wilson, [k, 4]) for k in (5, -1, NAN)), ("level", wilson, [1, 4, 1.0]),
    ("one set", dirichlet_interval, [[[1, 2]], KL]),
    ("draw", dirichlet_interval, [[1, 2], KL, dict(draws=0)]),
    ("2 groups", g_test, [[1, 2], [1.0]]),
    (r"\[2, 2\]", correct_confusion, [[1, 2], CONFUSION]),
    ("all 0", correct_confusion, [[1, 2], [[1, 0], [0, 0]]]),
    ("shares or counts", correct_confusion, [[1, 2], [[1, 0], [-1, 2]]]),
    ("apart", correct_confusion, [[1, 2], [[0.5, 0.5], [0.5, 0.5]]]),
    ("whole", summarise, [[1, 2], EVEN, -1]), ("3 groups.* 2", summarise, [[1, 2, 3], EVEN]),
    (" 1", summarise, [[1, 2], [0.5, 0.6]]), ("one set", summarise, [[[1, 2]], EVEN])
    ])
def test_what_cannot_be_counted_is_refused_with_its_facts(fact, function, given):
    named = given[-1] if isinstance(given[-1], dict) else {}
    with pytest.raises(DebiasError, match=fact):
        function(*given[:len(given) - len(named)], **named)
