"""A judge's check: what it says, how shares are corrected by it, and how often the intervals are right."""
import json

import numpy as np
import pytest

from sd_debias.core.attribute import AGE, GENDER, Attribute, Group
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.distribution import summarise, summarise_people
from sd_debias.core.statistics import confusion_counts, corrected_shares, through, uncorrupted, wilson
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check, check_same
from sd_debias.core.method.draw import rows
from sd_debias.core.method.methods import METHODS
from hypothesis import given
from hypothesis import strategies as st
from properties import counts as drawn_counts
from properties import examples

NAMES = GENDER.names


def gender(counts, **facts):
    return Check("gender", NAMES, counts, facts.pop("left_out", (0, 0)), **facts)


def calibration(attribute, plan=None, checks=()):
    return Calibration("a photo of a doctor", [attribute], METHODS["default"], plan or Plan(),
                       checks=list(checks))


def test_pictures_are_counted_by_what_they_show_and_how_they_are_labelled():
    shown = [0, 0, 0, 1, 1, 1, 1, -1, -1]
    seen = [0, 1, -2, 1, 1, 0, -1, 0, -1]
    found = Check.of(GENDER, shown, seen, judge="a judge", by="hand")
    assert found.counts == ((1, 1), (1, 2)) and found.left_out == (1, 1)
    assert (found.attribute, found.groups, found.judge, found.by) == ("gender", NAMES, "a judge", "hand")
    with pytest.raises(DebiasError, match="'woman'.*'gender'"):  # of which no image was labelled
        Check.of(GENDER, [0, 0, 1, 1], [0, 1, -1, -3])


@examples(60)
@given(drawn_counts(2), drawn_counts(2), st.integers(0, 50))
def test_a_check_is_read_back_as_it_was_written_and_says_shares_that_are_shares(man, woman, more):
    found = gender((tuple(man), tuple(woman)), judge="a judge", prompts=("a man", "a woman"),
                   obeyed=((9, 9 + more), (10, 10)), by="hand", left_out=(0, 3))
    assert Check.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for (share, low, high), row in zip(found.right, found.counts, strict=True):
        assert 0 <= low <= share <= high <= 1 and share in np.array(row) / sum(row)


@pytest.mark.parametrize("change", [
    dict(counts=[[9, 1]]), dict(counts=[[9, 1], [0, 0]]), dict(counts=[[9, -1], [2, 8]]),
    dict(left_out=[0]),
    dict(groups=["man", "man"]), dict(attribute=" "), dict(counts="many"), dict(by="a guess"),
    dict(obeyed=[[9, 10], [11, 10]])])
def test_a_damaged_check_is_refused(change):
    with pytest.raises(DebiasError):
        Check.from_dict({**gender(((9, 1), (2, 8))).to_dict(), **change})


def test_the_lines_say_how_often_a_group_is_labelled_right_and_what_it_is_taken_for():
    first, second = gender(((46, 4), (0, 30)), left_out=(2, 0)).lines
    low, high = (100 * edge for edge in wilson(46, 50))
    for line, facts in ((first, ("man: 92 %", f"[{low:.0f}, {high:.0f}]", "50", "8 % as woman",
                                 "2 left out")),
                        (second, ("woman: 100 %", "[89, 100]", "30"))):
        assert all(fact in line for fact in facts), line
    assert "left out" not in second


def test_a_group_labelled_right_or_shown_less_often_than_90_percent_is_warned_of():
    assert gender(((45, 5), (5, 45))).warnings == []
    warning, = gender(((44, 6), (5, 45)), judge="a judge").warnings
    by_hand, = gender(((44, 6), (5, 45)), by="hand").warnings
    assert "88 %" in warning and "'man'" in warning and "a judge; or the model" in warning
    assert "88 %" in by_hand and "'man'" in by_hand and "model" not in by_hand
    warning, = gender(((50, 0), (0, 50)), obeyed=((44, 50), (50, 50))).warnings
    assert "'man' in 88 %" in warning and "'woman'" not in warning


@pytest.mark.parametrize("counts", [((25, 25), (25, 25)), ((30, 20), (31, 19)), ((500, 0), (500, 0))])
def test_a_judge_that_tells_nothing_apart_is_warned_of_and_corrects_nothing(counts):
    check, said = gender(counts), "the groups.* apart"
    assert not check.usable
    assert any("the groups of 'gender' apart" in warning for warning in check.warnings)
    for use in (lambda: check.fits(GENDER), lambda: calibration(GENDER, checks=[check]),
                lambda: corrected_shares([50, 50], check.counts)):
        with pytest.raises(DebiasError, match=said):
            use()


def test_a_check_of_another_attribute_or_of_groups_in_another_order_is_refused():
    check = gender(((9, 1), (2, 8)))
    check.fits(GENDER.with_target((70, 30)))
    turned = Attribute("gender", tuple(map(Group, NAMES[::-1])))
    for other in (AGE, turned, Attribute("sex", GENDER.groups)):
        for use in (check.fits, lambda attribute: calibration(attribute, checks=[check])):
            with pytest.raises(DebiasError, match="'gender'"):
                use(other)


def test_a_check_of_another_judge_is_refused():
    check = gender(((9, 1), (2, 8)), judge="a judge")
    check_same([check], [None])
    with pytest.raises(DebiasError, match="'a judge'.*'Check'"):
        check_same([check], [check])


@pytest.mark.parametrize("counts", [[[1, 2]], [[1]], [1, 2], [[1, -1], [0, 2]], [[1, np.nan], [0, 2]],
                                    [[0, 0], [1, 2]]])
def test_what_is_no_square_of_counts_is_refused(counts):
    with pytest.raises(DebiasError):
        confusion_counts(counts)


def test_shares_seen_through_a_judge_are_corrected_to_what_they_were():
    check = [[700, 200, 100], [50, 900, 50], [100, 100, 800]]
    true = np.array([0.6, 0.3, 0.1])
    seen, c = through(true, check), confusion_counts(check)
    np.testing.assert_allclose(seen, true @ (c / c.sum(1, keepdims=True)))
    best, edges = corrected_shares(seen * 1e6, check)
    np.testing.assert_allclose(best, true, atol=1e-9)
    assert (edges[:, 0] < true).all() and (true < edges[:, 1]).all()


def test_shares_that_no_true_ones_explain_are_put_on_the_edge_and_inside_their_interval():
    best, edges = corrected_shares([100, 0], ((80, 20), (20, 80)))
    np.testing.assert_allclose(best, [1, 0], atol=1e-6)
    assert (edges[:, 0] <= best).all() and (best <= edges[:, 1]).all()


def test_draws_of_shares_are_corrected_one_by_one():
    measured = np.random.default_rng(0).dirichlet((60, 40), 500)
    found = uncorrupted(measured, ((90_000, 10_000), (10_000, 90_000)))
    np.testing.assert_allclose(found[:, 0], (measured[:, 0] - 0.1) / 0.8, atol=0.01)
    np.testing.assert_allclose(found.sum(1), 1)
    with pytest.raises(DebiasError, match="does not tell the groups apart"):
        uncorrupted(measured, ((1e9, 1e9), (1e9, 1e9)))


def test_a_model_on_target_has_no_distance_though_its_judge_errs():
    check = [[900, 100], [300, 700]]
    seen = np.round(10_000 * through((0.5, 0.5), check)).astype(int)
    found, blind = summarise(seen, (0.5, 0.5), confusion=check), summarise(seen, (0.5, 0.5))
    assert found.kl < 1e-6 and found.total_variation < 1e-3 and found.kl_interval[0] == 0
    assert blind.kl > 0.01 and blind.total_variation > 0.09 and blind.corrected is None
    assert found.corrected == pytest.approx((0.5, 0.5), abs=1e-3) and found.target == (0.5, 0.5)
    assert "corrected" in found.line("gender", NAMES) and "man 50.0%" in found.line("gender", NAMES)


def covered(true, wrong, runs, check=50, pictures=200, draws=300):
    """How often each corrected share's interval holds the true one; a judge errs, to any group."""
    true, n = np.asarray(true, float), len(true)
    matrix = (1 - wrong) * np.eye(n) + wrong / (n - 1) * (1 - np.eye(n))
    chance, hit = np.random.default_rng(7), np.zeros(n)
    for seed in range(runs):
        seen = np.stack([chance.multinomial(check, row) for row in matrix])
        labels = chance.multinomial(pictures, true @ matrix)
        _, edges = corrected_shares(labels, seen, draws=draws, seed=seed)
        hit += (edges[:, 0] <= true) & (true <= edges[:, 1])
    return hit / runs


@pytest.mark.parametrize("shares, wrong, runs", [
    ((0.6, 0.4), 0.1, 100), *(pytest.param(*cell, marks=pytest.mark.slow) for cell in (
        ((0.6, 0.4), 0.3, 200), ((0.5, 0.3, 0.2), 0.2, 150),
        ((0.3, 0.25, 0.2, 0.15, 0.1), 0.3, 400)))])
def test_intervals_of_corrected_shares_hold_the_true_ones(shares, wrong, runs):
    found = covered(shares, wrong, runs)  # 400 know one group's to about 1 %
    assert found.mean() >= 0.93 and found.min() >= 0.91


@pytest.mark.slow
def test_intervals_of_corrected_shares_hold_the_true_ones_of_a_model_that_shows_mostly_one_of_five_groups():
    assert covered((0.9, 0.025, 0.025, 0.025, 0.025), 0.3, runs=100)[0] >= 0.9


def crowd(chance, pictures, shares, alike):
    """Persons [N, K] of images of 1 to 5 persons, each of whom is with chance `alike` like the image's first."""
    n = len(shares)
    first, others = chance.choice(n, pictures, p=shares), chance.choice(n, (pictures, 5), p=shares)
    who = np.where(chance.random((pictures, 5)) < alike, first[:, None], others)
    there = np.arange(5) < chance.integers(1, 6, pictures)[:, None]
    return np.stack([((who == k) & there).sum(1) for k in range(n)], 1)


@pytest.mark.parametrize("alike, shares", [(0.0, (0.7, 0.3)), (0.9, (0.5, 0.3, 0.2))])
def test_intervals_of_persons_hold_the_true_shares_however_alike_those_of_one_picture_are(alike, shares):
    runs, chance, worth = 300, np.random.default_rng(3), []
    hit, naive = np.zeros(len(shares)), np.zeros(len(shares))
    for _ in range(runs):
        people = crowd(chance, 400, shares, alike)
        found = summarise_people(people, shares)
        assert found.pictures == 400 and found.counts == tuple(people.sum(0)) and found.n == people.sum()
        for held, edges in ((hit, np.transpose(found.intervals)),
                            (naive, wilson(people.sum(0), people.sum()))):
            held += (edges[0] <= shares) & (shares <= edges[1])
        worth.append(found.effective / found.n)
    assert (hit / runs).mean() >= 0.93
    if alike:
        # Alike persons of images of m persons: n / (1 + 0.81 (E[m^2] / E[m] - 1)).
        assert (naive / runs).max() < 0.85
        assert np.mean(worth) == pytest.approx(1 / (1 + 0.81 * (11 / 3 - 1)), rel=0.05)
    else:
        assert 0.95 < np.mean(worth) <= 1


def test_one_person_a_picture_counts_as_pictures_do_and_pictures_of_nobody_do_not_count():
    people = np.repeat(np.eye(2, dtype=int), (70, 30), 0)
    found = summarise_people([*people, *np.zeros((9, 2), int)], (0.5, 0.5), 4)
    plain = summarise([70, 30], (0.5, 0.5), 4)
    assert (found.n, found.pictures, found.unsure, found.counts) == (100, 100, 4, (70, 30))
    assert found.effective == pytest.approx(99, abs=0.01)  # N / (N - 1)
    np.testing.assert_allclose(found.intervals, plain.intervals, atol=0.002)
    assert found.kl == pytest.approx(plain.kl) and "100 persons in 100 images" in found.line("gender", NAMES)


def test_alike_persons_of_a_picture_count_as_one_and_never_as_surer_than_their_pictures():
    found = summarise_people(np.repeat(5 * np.eye(2, dtype=int), (30, 20), 0), (0.5, 0.5))
    assert found.n == 250 and found.effective == pytest.approx(49, abs=0.01)
    check, people = [[900, 100], [300, 700]], np.repeat(4 * np.eye(2, dtype=int), (60, 40), 0)
    found = summarise_people(people, (0.5, 0.5), confusion=check)
    plain = summarise([60, 40], (0.5, 0.5), confusion=check)
    assert found.corrected == pytest.approx(plain.corrected, abs=1e-6) and found.kl == pytest.approx(plain.kl)
    np.testing.assert_allclose(found.corrected_intervals, plain.corrected_intervals, atol=0.02)


@pytest.mark.parametrize("people", [[1, 2], [[1, -1]], [[0.5, 1]], [[0, 0], [0, 0]], np.zeros((0, 2))])
def test_what_is_no_count_of_persons_is_refused(people):
    with pytest.raises(DebiasError):
        summarise_people(people, (0.5, 0.5))


class Room:
    """Images are (truth, seen): 85 % men where nothing is pushed, and a judge who mistakes a share of each group."""

    def __init__(self, wrong, seed=0):
        self.wrong, self.seed = np.asarray(wrong), seed

    def truth(self, weights, seeds):
        luck = np.array([np.random.default_rng([self.seed, seed]).logistic() for seed in seeds])
        push = weights[:, 0].numpy() - weights[:, 1].numpy()
        return (np.log(0.85 / 0.15) - 4 * push <= luck).astype(int)

    def generate(self, weights, seeds):
        group = self.truth(weights, seeds)
        errs = np.array([np.random.default_rng([self.seed, 1, seed]).random() for seed in seeds]) < self.wrong[group]
        return list(zip(group, np.where(errs, 1 - group, group)))

    def classify(self, images):
        return [np.eye(2)[[seen for _, seen in images]]]

    def checked(self, pictures=1000):
        return gender(tuple(tuple(round(pictures * (self.wrong[i] if i != j else 1 - self.wrong[i])) for j in range(2))
                            for i in range(2)))

    def calibrated(self, target, plan, *checks, **options):
        c = calibration(GENDER.with_target(target), plan, checks)
        list(c.run(self.generate, self.classify, **options))
        return c


def women(wrong, target, checked, seeds=2, **plan):
    """True share of women that calibrations end at, one of each seed, and the calibrations."""
    plan = Plan(**{**dict(images=150, rounds=8, round_images=100, held_out=0, batch_size=150,
                          within=0.05), **plan})
    rooms = [Room(wrong, seed) for seed in range(seeds)]
    made = [room.calibrated(target, plan, *[room.checked()] * checked) for room in rooms]
    fresh = list(range(5_000_000, 5_003_000))
    return np.array([room.truth(rows(c.steerings, fresh), fresh).mean() for room,
                     c in zip(rooms, made)]), made


@pytest.mark.parametrize("man, woman, target", [
    (0.1, 0.1, (0.25, 0.75)), (0.3, 0.3, (0.25, 0.75)), (0.0, 0.3, (0.5, 0.5))])
def test_a_calibration_by_a_judge_that_errs_ends_on_target_by_the_truth_with_a_check_and_not_without(
        man, woman, target):
    """The judge takes these shares of men and women for the other."""
    wanted, right = target[1], 1 - man - woman
    with_check, made = women((man, woman), target, True)
    without, blind = women((man, woman), target, False)
    assert np.abs(with_check - wanted).max() < 0.08 and abs(with_check.mean() - wanted) < 0.04
    # The judge sees the target where so many are women, or all of them.
    assert without.mean() == pytest.approx(min((wanted - man) / right, 0.97), abs=0.04)
    assert without.mean() > wanted + max(man, woman) / 4
    seen = man + right * wanted
    for c in made:
        assert c.aims[0] == pytest.approx((1 - seen, seen), abs=2e-3)
        low, high = c.expected(0).intervals[1]
        assert low - 0.02 < wanted < high + 0.02
        assert c.expected(0).shares[1] == pytest.approx(wanted, abs=0.05)


def test_a_small_check_makes_a_calibration_less_sure_and_never_surer():
    room, plan = Room((0.1, 0.1)), Plan(images=400, rounds=0, held_out=0, batch_size=400,
                                        within=0.05)
    sure = [room.calibrated((85, 15), plan, *checks).expected(0)
            for checks in ([], [room.checked(10_000)], [room.checked(20)])]
    widths = [high - low for low, high in (e.intervals[0] for e in sure)]
    assert widths[0] < widths[1] < 0.8 * widths[2] and widths[1] == pytest.approx(widths[0] / 0.8, rel=0.1)
    assert sure[2].certainty < sure[1].certainty


def test_a_calibration_with_a_check_is_saved_and_goes_on_with_it(tmp_path):
    room = Room((0.1, 0.2))
    c = room.calibrated((50, 50), Plan(50, 1, 0, batch_size=50), room.checked(100),
                        save_to=tmp_path / "state.json")
    again = Calibration.load(tmp_path / "state.json")
    assert again.checks == c.checks and again.aims == c.aims and again.rounds == c.rounds
