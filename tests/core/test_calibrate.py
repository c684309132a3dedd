"""The calibration loop with a synthetic host: images are one number each, which decides the group they show."""
import itertools

import numpy as np
import pytest

from sd_debias.core.attribute import GENDER, SKIN_TONE_3
from sd_debias.core.calibration.loop import AUDIT, HELD_OUT, HELD_OUT_OFFSET, ROUND, Calibration, round_names
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.method.methods import METHODS, Method

SHIFT = Method(spend="shift")


class Host:
    """Generates an image as its seed's fixed luck and its weights; 85 % men where nothing is pushed."""

    def __init__(self, men=0.85, slope=3.0):
        self.bias, self.slope = np.log(men / (1 - men)), slope
        self.seeds = []

    def generate(self, weights, seeds):
        self.seeds += list(seeds)
        luck = np.array([np.random.default_rng(seed).logistic() for seed in seeds])
        a = weights[:, :2].numpy()
        return self.bias - self.slope * (a[:, 0] - a[:, 1]) > luck

    def classify(self, images):
        images = np.asarray(images)
        return [np.stack([images, ~images], 1).astype(np.float32)]


def run(calibration, host, **options):
    return list(calibration.run(host.generate, host.classify, **options))


def calibration(method=METHODS["default"], **plan):
    plan = Plan(**{**dict(images=200, held_out=400, batch_size=8), **plan})
    return Calibration("a photo of a doctor", [GENDER], method, plan)


@pytest.mark.parametrize("name", ["default", "shift"])
def test_the_target_is_met_on_held_out_seeds(name):
    c = calibration(METHODS[name])
    run(c, Host())
    before, after = (r.distribution(0, GENDER.target) for r in (c.audit, c.held_out))
    assert before.kl > 0.1 and after.kl < 0.01
    assert "target reached" in c.stop and not c.warnings


def test_held_out_seeds_are_used_by_no_round():
    c, host = calibration(), Host()
    run(c, host)
    rounds = [seed for r in c.rounds if r.kind != HELD_OUT for seed in r.seeds]
    assert min(c.held_out.seeds) >= HELD_OUT_OFFSET > max(rounds)


def test_shift_compares_its_first_round_with_the_audit_on_the_same_seeds_and_draw_does_not():
    shift, draw = calibration(SHIFT), calibration()
    run(shift, Host()), run(draw, Host())
    assert shift.rounds[1].seeds == shift.audit.seeds
    assert not set(draw.rounds[1].seeds) & set(draw.audit.seeds)


def test_a_fair_model_is_left_alone_and_said_to_be():
    c = calibration(seed=5000)
    run(c, Host(men=0.5))
    assert [r.kind for r in c.rounds] == [AUDIT, HELD_OUT]
    assert "nothing to correct" in c.stop
    assert c.steerings[0].mode == "shift" and not any(c.steerings[0].weights)


def test_a_verification_that_finds_what_a_small_audit_missed_is_corrected_and_verified_on_fresh_seeds():
    c = calibration(images=20)
    run(c, Host(men=0.62))
    kinds = [r.kind for r in c.rounds]
    assert kinds[:3] == [AUDIT, HELD_OUT, ROUND] and kinds[-1] == HELD_OUT
    first, last = c.rounds[1], c.held_out
    assert not set(first.seeds) & set(last.seeds)
    assert last.distribution(0, GENDER.target).kl < first.distribution(0, GENDER.target).kl
    assert round_names(kinds)[:3] == ["audit", "held-out", "round 1"]


def test_a_failed_verification_after_the_last_round_is_the_end():
    c = calibration(images=20, rounds=0)
    run(c, Host())
    assert [r.kind for r in c.rounds] == [AUDIT, HELD_OUT] and "all 0 rounds used" in c.stop


def test_rounds_end_with_the_plan_and_the_target_missed_is_a_warning():
    c = calibration(rounds=2)
    run(c, Host(slope=0.0))
    assert sum(r.kind == "round" for r in c.rounds) == 2
    assert "all 2 rounds used" in c.stop and any("does not meet its target" in w for w in c.warnings)


def test_a_tolerance_of_the_user_stops_earlier_than_chance_would():
    c = calibration(SHIFT, tolerance=0.5)
    run(c, Host())
    assert [r.kind for r in c.rounds] == [AUDIT, HELD_OUT]


@pytest.mark.parametrize("batches", [1, 30, 60])
def test_stopped_after_any_batch_it_resumes_to_the_same_result(tmp_path, batches):
    whole = calibration()
    run(whole, Host())
    first = calibration()
    list(itertools.islice(first.run(Host().generate, Host().classify, save_to=tmp_path / "s.json"), batches))
    resumed, host = Calibration.load(tmp_path / "s.json"), Host()
    run(resumed, host)
    assert [(r.seeds, r.labels, r.steerings) for r in resumed.rounds] == \
        [(r.seeds, r.labels, r.steerings) for r in whole.rounds]
    assert len(host.seeds) == sum(len(r.seeds) for r in whole.rounds) - batches * 8


def test_two_attributes_are_solved_on_the_same_images():
    class Two(Host):
        def generate(self, weights, seeds):
            gender = super().generate(weights[:, :2], seeds)
            light = np.log([0.7, 0.2, 0.1]) - 4 * weights[:, 2:].numpy()
            tone = [np.random.default_rng(s + 7).choice(3, p=np.exp(l) / np.exp(l).sum()) for s, l in zip(seeds, light)]
            return np.stack([gender, tone], 1)

        def classify(self, images):
            return [*super().classify(images[:, 0].astype(bool)), np.eye(3)[images[:, 1].astype(int)]]

    c = Calibration("a photo of a doctor", [GENDER, SKIN_TONE_3], METHODS["default"], Plan(images=300, held_out=400))
    run(c, Two())
    for i, attribute in enumerate(c.attributes):
        assert c.held_out.distribution(i, attribute.target).kl < 0.02 < c.audit.distribution(i, attribute.target).kl


def test_unsure_images_are_counted_and_reported_never_guessed():
    class Half(Host):
        def classify(self, images):
            p = super().classify(images)[0]
            p[::2] = 0
            return [p]

    c = calibration()
    run(c, Half())
    assert c.audit.distribution(0, GENDER.target).unsure == 100
    assert any("could not be classified" in w for w in c.warnings)


def test_images_that_cannot_be_classified_at_all_end_it_with_a_sentence():
    class Blind(Host):
        def classify(self, images):
            return [np.zeros((len(images), 2))]

    with pytest.raises(ValueError, match="could be classified"):
        run(calibration(), Blind())


def test_a_fall_of_fidelity_is_a_warning():
    c, host = calibration(), Host()
    run(c, host, fidelity=lambda images: np.full(len(images), 0.9 if len(host.seeds) <= 200 else 0.6))
    assert any("fidelity" in w for w in c.warnings)


def test_a_classifier_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[8, 2\] probabilities, but \[8, 3\]"):
        list(calibration().run(Host().generate, lambda images: [np.ones((8, 3))]))


@pytest.mark.parametrize("plan", [dict(images=0), dict(batch_size=0), dict(rounds=-1), dict(tolerance=0.0),
                                  dict(tolerance=float("nan")), dict(images=600_000)])
def test_a_plan_that_makes_no_sense_is_refused(plan):
    with pytest.raises(ValueError):
        Plan(**plan)


def test_no_attribute_is_refused():
    with pytest.raises(ValueError, match="Expected an attribute"):
        Calibration("a doctor", [], SHIFT, Plan())


def test_a_foreign_state_file_is_refused(tmp_path):
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the state of a calibration"):
        Calibration.load(tmp_path / "s.json")


@pytest.mark.parametrize("method", [METHODS["default"], SHIFT], ids=["draw", "shift"])
def test_a_margin_ends_a_calibration_as_soon_as_it_is_sure(method):
    c = calibration(method, images=48, rounds=40, held_out=0, within=0.05)
    run(c, Host())
    assert c.stop == "sure enough: within 5 points of the target, 95% certain" and c.certainty(0) >= 0.95
    assert 96 <= sum(r.done for r in c.rounds) <= 720


def test_a_margin_that_is_not_reached_is_not_claimed():
    c = calibration(images=10, rounds=2, held_out=0, within=0.01)
    run(c, Host())
    assert c.stop.startswith("all 2 rounds used") and c.certainty(0) < 0.95


@pytest.mark.parametrize("plan, said", [
    (dict(within=0.0), "above 0 and at most 50 points"), (dict(within=0.51), "but 51 points came"),
    (dict(within=float("nan")), "above 0 and at most 50 points"), (dict(within=0.05, tolerance=0.01), "Give one")])
def test_a_margin_of_no_use_is_refused(plan, said):
    with pytest.raises(ValueError, match=said):
        Plan(**plan)


@pytest.mark.parametrize("done, most, seconds, left", [
    (0, 400, 0.0, "at most 400 images more"), (100, 400, 50.0, "at most 300 images more, about 3 minutes"),
    (100, 1400, 5.0, "at most 1,300 images more, about 65 seconds"), (400, 400, 100.0, "")])
def test_what_is_left_is_said_at_the_speed_so_far(done, most, seconds, left):
    from sd_debias.core.calibration.runner import Progress
    assert Progress(calibration(), None, 1, done, most, seconds).left == left
