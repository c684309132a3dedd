"""What a soak makes of its samples; docs/reliability.md has the figures of long runs."""
import numpy as np
import pytest
import soak_watch
from scipy import stats


def test_a_slope_and_its_interval_are_those_of_least_squares_where_samples_are_independent():
    x = np.arange(40)
    y = 2.0 * x + np.where(x % 2, 1.0, -1.0)  # neighbours differ, so that all samples count
    fit = stats.linregress(x, y)
    off = stats.t.ppf(0.975, 38) * fit.stderr
    assert soak_watch.trend(x, y) == pytest.approx((fit.slope, fit.slope - off, fit.slope + off))


def test_an_interval_of_memory_that_stays_where_it_was_holds_the_truth():
    """Samples that resemble their neighbours: that of independent ones holds it in half of these runs."""
    chance, held = np.random.default_rng(0), 0
    for _ in range(200):
        noise = np.zeros(200)
        for i in range(1, 200):
            noise[i] = 0.7 * noise[i - 1] + chance.normal()
        _, low, high = soak_watch.trend(np.arange(200), 0.01 * np.arange(200) + noise)
        held += low <= 0.01 <= high
    assert held >= 180  # 190 are expected; 176 has a chance of one in a thousand


@pytest.mark.parametrize("values, found", [
    ([5, 7, 5, 6, 5, 7], False), ([5, 6, 7, 8, 9, 10], True), ([9, 9, 8, 8, 7, 7], False)])
def test_handles_leak_where_they_only_go_up(values, found):
    assert soak_watch.leaked(values) == found


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_a_servers_garbage_is_no_leak_but_what_stays_ends_a_soak(leak):
    watch = soak_watch.Watch(0, int)
    watch.at = list(range(0, 600, 5))
    watch.seen = {"memory": [leak * at + 0.5 * (at % 90) for at in watch.at],
                  **dict.fromkeys(soak_watch.HANDLES, [3] * len(watch.at))}
    found = watch.found(100, 30)
    assert found["memory"]["floor"] == pytest.approx(100 * leak, abs=2)
    soak_watch.check(found, dict(memory=30.0), "runs")
    if leak:
        with pytest.raises(soak_watch.Different, match="10 .*runs"):
            soak_watch.check(found, dict(memory=10.0), "runs")
