"""Both solvers on synthetic dose-response curves, whose answer is known."""
import numpy as np
import pytest
import torch
from hypothesis import given as given_by
from hypothesis import strategies as st
from properties import examples, shares

from sd_debias.core.attribute import GENDER, SKIN_TONE, SKIN_TONE_5
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import planned
from sd_debias.core.calibration.round import PROOF
from sd_debias.core.calibration.solver import Measurement, make
from sd_debias.core.calibration.solver.draw import least_push
from sd_debias.core.calibration.solver.response import SLOPES, fit
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.core.statistics import kl_divergence

SIX = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
NONE = Steering.none(2)
DRAW, SHIFT = Method(), Method(spend="shift")


class Model:
    """A model that answers weights: log-odds fall with slope S, a drawn push is obeyed with a given probability."""

    def __init__(self, shares, slope=1.5, obedience=0.85, seed=0):
        self.shares, self.slope, self.obedience = np.asarray(shares, float), slope, obedience
        self.rng = np.random.default_rng(seed)

    def rows(self, steering: Steering) -> np.ndarray:
        """Outcome probabilities [n + 1, n] by drawn option."""
        alone = self.shares * np.exp(-self.slope * np.asarray(steering.weights))
        alone = alone / alone.sum()
        hit = self.obedience ** (1 / steering.push)
        return np.vstack([alone, hit * np.eye(len(alone)) + (1 - hit) * alone])

    def expected(self, steering: Steering) -> np.ndarray:
        q = np.array(steering.probabilities or (1,) + (0,) * len(self.shares))
        return q @ self.rows(steering)

    def measure(self, steering: Steering, images: int) -> Measurement:
        drawn = np.bincount(steering.draws(range(images)), minlength=len(self.shares) + 1)
        outcomes = [self.rng.multinomial(n, p) for n, p in zip(drawn, self.rows(steering))]
        return Measurement(steering, np.array(outcomes))


def solve(model, solver, images=300, rounds=4):
    history = [model.measure(Steering.none(len(model.shares)), images)]
    for _ in range(rounds):
        history.append(model.measure(solver.propose(history), images))
    return solver.answer(history), history


BOTH = pytest.mark.parametrize("method", [DRAW, SHIFT], ids=["draw", "shift"])


@BOTH
@pytest.mark.parametrize("men, target", [
    (0.6, (50, 50)), (0.85, (50, 50)), (0.98, (50, 50)), (0.1, (50, 50)), (0.9, (70, 30))])
def test_two_groups_reach_their_target(method, men, target):
    attribute, off = GENDER.with_target(target), []
    for seed in range(3 if men != 0.9 else 6):
        model = Model([men, 1 - men], seed=seed)
        answer, _ = solve(model, make(method, attribute))
        off.append(abs(model.expected(answer)[0] - attribute.target[0]))
    assert max(off) < 0.07 and (target == (50, 50) or np.mean(off) < 0.02)


@BOTH
def test_six_groups_come_near_the_target(method):
    model = Model(SIX)
    before, after = (kl_divergence(found, SKIN_TONE.target) for found in (
        SIX, model.expected(solve(model, make(method, SKIN_TONE))[0])))
    assert after < 0.02 < before


def test_the_fit_recovers_a_known_response():
    matrix, b = np.array([[2.0, 0.8, -0.5], [0.6, 2.2, 0.7], [-0.6, 0.5, 1.8]]), np.array([0.5, 0.0, -0.5])
    weights = np.random.default_rng(0).normal(size=(30, 3))
    weights[0] = 0
    shares = np.exp(b - weights @ matrix.T)
    found = fit(weights, 1e6 * shares / shares.sum(1, keepdims=True), slope=1.0)
    centre = np.eye(3) - 1 / 3
    assert np.allclose(found.b, b, atol=0.02) and np.allclose(centre @ found.matrix, centre @ matrix, atol=0.02)
    assert not found.guessed


class Neighbours(Model):
    """Groups in an order, such as skin tones: who is pushed away from one comes out as its neighbours. A trial on the
    demo model gave this matrix, with texts alone."""
    MATRIX = np.array([[4.98, -.34, -.8, -2.23, -1.6], [2.2, 4.93, -.25, -3.21, -3.67], [-.32, -.12, 1.35, .46, -1.38],
                       [-3.49, -1.66, 1.3, 3.44, .42], [-3.37, -2.81, -1.6, 1.54, 6.23]])

    def rows(self, steering):
        shares = self.shares * np.exp(-self.MATRIX @ np.asarray(steering.weights))
        return np.tile(shares / shares.sum(), (6, 1))


@pytest.mark.slow
def test_five_groups_that_answer_for_each_other_are_not_thrown_to_one_end():
    """One slope for all threw them from [.52 .15 .14 .12 .07] to [0 0 0 .03 .97] in the first round."""
    target, first, last = np.full(5, 0.2), [], []
    for seed in range(5):
        model = Neighbours([0.52, 0.15, 0.14, 0.12, 0.07], seed=seed)
        answer, history = solve(model, make(Method(spend="shift"), SKIN_TONE_5), rounds=5)
        first.append(kl_divergence(model.expected(history[1].steering), target))
        last.append(kl_divergence(model.expected(answer), target))
    assert max(first) < kl_divergence(model.shares, target) and np.median(last) < 0.02


@pytest.mark.parametrize("direction", SLOPES)
def test_the_first_round_overrules_the_prior(direction):
    """Whatever the direction's prior, a third or thrice of it is learned."""
    for factor in (0.3, 3.0):
        model = Model([0.85, 0.15], slope=factor * SLOPES[direction])
        method = Method(direction, spend="shift", guidance=SafeLatentGuidance(linear=direction == "embedding"))
        answer, _ = solve(model, make(method, GENDER))
        assert abs(model.expected(answer)[0] - 0.5) < 0.08


@BOTH
@pytest.mark.parametrize("counts", [[80, 20], [100, 0]])
def test_solvers_work_in_the_inference_mode_of_hosts_and_where_a_group_never_appears(
        method, counts):
    history = [Measurement(NONE, np.array([counts, [0, 0], [0, 0]]))]
    with torch.inference_mode():
        proposal = make(method, GENDER).propose(history)
    assert proposal != NONE
    assert np.isfinite([*proposal.weights, *proposal.probabilities]).all()


@examples(60)
@given_by(st.integers(2, 5).flatmap(
    lambda n: st.tuples(shares(n), shares(n), st.floats(0.5, 1))))
def test_draw_meets_a_target_within_reach_and_no_group_is_drawn_below_zero(given):
    alone, target, obedience = map(np.array, given)
    pushed = obedience * np.eye(len(alone)) + (1 - obedience) * alone
    matrix = np.vstack([alone, pushed])
    q = least_push(matrix, target)
    assert q.sum() == pytest.approx(1, abs=1e-6) and q.min() >= 0
    assert Steering((0.0,) * len(alone), tuple(q)).mode == "draw"
    # Every image sent to a drawn group meets the target where that is no negative chance.
    if ((target - (1 - obedience) * alone) / obedience).min() >= 0:
        assert q @ matrix == pytest.approx(target, abs=2e-3)


@examples(60)
@given_by(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_of_two_groups_no_picture_is_changed_that_need_not_be(share, wanted):
    """Only the group that shows too seldom is drawn, and no more often than it lacks."""
    q = least_push(np.array([[share, 1 - share], [1, 0], [0, 1]]), np.array([wanted, 1 - wanted]))
    lacks, other = (1, 2) if wanted > share else (2, 1)
    needed = (wanted - share) / (1 - share) if wanted > share else (share - wanted) / share
    assert q[lacks] == pytest.approx(needed, abs=1e-3) and q[other] == pytest.approx(0, abs=1e-3)


def test_draw_gets_the_nearest_shares_where_the_target_is_out_of_reach():
    q = least_push(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]), np.array([0.5, 0.5]))
    assert q == pytest.approx([0, 0, 1], abs=1e-6)


def shifted(*rounds):
    return [Measurement(Steering((w, -w)), np.array([counts, [0, 0], [0, 0]])) for w, counts in rounds]


def test_a_solver_whose_pushes_turn_round_keeps_its_best_round_but_none_that_was_lucky():
    history = shifted((0.0, [80, 20]), (0.3, [55, 45]), (3.0, [90, 10]))
    assert make(SHIFT, GENDER).answer(history).weights == (0.3, -0.3)
    history = shifted((0.0, [78, 22]), (0.46, [51, 49]), (0.46, [37, 63]), (0.43, [52, 48]),
                      (0.42, [40, 60]), (0.4, [36, 64]))
    found, _ = make(SHIFT, GENDER).answer(history).weights
    assert 0.3 < found < 0.4  # not .46, where 51 % happened to be shown


def test_weights_of_shift_sum_to_zero_and_stay_bounded():
    history = [Measurement(Steering.none(6), np.array([[1000, 0, 0, 0, 0, 0]] + [[0] * 6] * 6))]
    weights = make(SHIFT, SKIN_TONE).propose(history).weights
    assert abs(sum(weights)) < 1e-6 and max(map(abs, weights)) <= 4


def test_policy_gradient_improves_with_many_rounds_and_is_reproducible():
    method = Method(spend="shift", rule="policy_gradient")
    model = Model([0.85, 0.15])
    answer, history = solve(model, make(method, GENDER), images=100, rounds=120)
    assert abs(model.expected(answer)[0] - 0.5) < 0.12
    assert make(method, GENDER).answer(history) == answer


@pytest.mark.parametrize("method", [DRAW, SHIFT, Method(spend="shift", rule="policy_gradient")])
def test_a_target_share_of_zero_does_not_end_in_no_guidance(method):
    model = Model((0.78, 0.22), obedience=0.95)
    rounds = 79 if method.rule == "policy_gradient" else 3
    answer, _ = solve(model, make(method, GENDER.with_target((0, 1))), rounds=rounds)
    assert model.expected(answer)[1] > 0.6


def calibrated(model, method, attribute=GENDER, sure="normal"):
    """A whole calibration by a usual plan; an image is the number of its group."""
    groups = len(model.shares)

    def generate(weights, seeds):
        pictures = []
        proof = calibration.rounds[-1].kind == PROOF  # each image has a group's own text
        for row in weights.numpy():
            steering = Steering(tuple(row.tolist()))
            if row.any() and (method.spend == "draw" or proof):
                sent = tuple(np.eye(groups + 1)[row.argmin() + 1])
                steering = Steering((0.0, 0.0), sent, float(-row.min()))
            pictures.append(int(model.rng.choice(groups, p=model.expected(steering))))
        return pictures

    calibration = Calibration("a photo of a doctor", [attribute], method,
                              planned(sure, method, batch_size=10))
    list(calibration.run(generate, lambda images: [np.eye(groups)[images]]))
    return calibration


LINEAR = Method("embedding", spend="shift", guidance=SafeLatentGuidance(linear=True))


@pytest.mark.slow
@pytest.mark.parametrize("method, men, most, runs", [
    pytest.param(Method(), 0.6, 380, 30, marks=pytest.mark.slow), (Method(), 0.8, 220, 20),
    pytest.param(Method(), 0.95, 130, 30, marks=pytest.mark.slow),
    pytest.param(LINEAR, 0.8, 600, 20, marks=pytest.mark.slow), (LINEAR, 0.8, 600, 3)],
    ids=["draw from 60:40", "from 80:20", "from 95:5", "shift from 80:20", "a few"])
def test_what_is_called_sure_holds_and_costs_few_pictures(method, men, most, runs):
    """Of 30 calibrations at least 26 are within the margin: 95 % would be 28 or 29. `most` are
    images in the mean, those of the verification included."""
    models = [Model([men, 1 - men], slope=1.0, obedience=0.98, seed=seed) for seed in range(runs)]
    found = [calibrated(model, method) for model in models]
    assert all(c.ending.startswith("sure enough") for c in found)
    assert np.mean([sum(r.done for r in c.rounds) for c in found]) <= most
    held = sum(abs(model.expected(c.steerings[0])[0] - 0.5) <= 0.05
               for model, c in zip(models, found))
    assert held >= int(0.87 * runs)


@pytest.mark.slow
def test_a_short_calibration_takes_fewer_pictures_and_steers_more():
    models = [Model([0.8, 0.2], slope=1.0, obedience=0.98, seed=seed) for seed in range(10)]
    found = [calibrated(model, Method(), sure="short") for model in models]
    assert np.mean([sum(r.done for r in c.rounds) for c in found]) <= 150
    assert np.mean([c.steerings[0].probabilities[0] for c in found]) < 0.45, "of the fewest, 0.6"
    for model, c in zip(models, found):
        assert c.ending.startswith("sure enough")
        assert abs(model.expected(c.steerings[0])[0] - 0.5) <= 0.05


def test_a_short_calibration_steers_nothing_where_the_target_is_met():
    c = calibrated(Model([0.5, 0.5], slope=1.0, obedience=0.98), Method(), sure="short")
    assert c.ending.startswith(("the audit already", "sure enough"))
    left = c.steerings[0].probabilities
    assert not left or left[0] > 0.45


def test_rounds_of_a_margin_measure_what_is_known_least():
    """Of 80:20 most of what is not known is the share of images that are left alone."""
    history = [Measurement(NONE, np.array([[80, 20], [0, 0], [0, 0]]))]
    solver, plain = make(DRAW, GENDER, within=0.05), make(DRAW, GENDER)
    history.append(Measurement(solver.propose(history), np.array([[0, 0], [0, 0], [1, 59]])))
    asked = solver.propose(history)
    assert asked.probabilities[0] > 0.9 > plain.propose(history).probabilities[0]
    assert solver.answer(history) == plain.answer(history)


def test_pushes_of_earlier_prompts_of_a_list_count_a_little():
    history = [Measurement(Steering.none(2), np.array([[80, 20], [0, 0], [0, 0]]))]
    solver, pushed = make(Method(), GENDER, within=0.05), Steering((0.0, 0.0), (0.6, 0.0, 0.4))
    before = solver.matrix(history, 1.0)
    solver.learn_from([[*history, Measurement(pushed, np.array([[0, 0], [0, 0], [30, 70]]))]] * 2)
    after = solver.matrix(history, 1.0)
    assert before[2, 1] == pytest.approx(0.761, abs=0.001) and after[2, 1] == pytest.approx(0.703, abs=0.01)
    assert (before[:2] == after[:2]).all() and solver._counts(history, 1.0).sum(1).tolist() == [101, 5, 16]
    assert (solver.matrix(history, 1.5) == before).all()  # of another strength nothing is known


def test_the_push_of_a_margin_grows_only_where_the_margin_is_out_of_reach():
    """By ten images and a cautious prior, 5:95 seemed out of reach of a push that 97 % obey."""
    attribute = GENDER.with_target((5, 95))
    models = [Model((0.8, 0.2), obedience=0.97, seed=seed) for seed in range(4)]
    found = [calibrated(model, Method(), attribute=attribute) for model in models]
    assert {c.steerings[0].push for c in found} == {1.0}
    weak = calibrated(Model((0.8, 0.2), obedience=0.6, seed=1), Method(), attribute=attribute)
    assert weak.steerings[0].push > 1
