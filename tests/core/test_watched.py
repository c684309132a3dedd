"""What a profile does to attributes that were not calibrated, by the pictures of its calibration."""
import json

import numpy as np
import pytest

from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE_3, SKIN_TONE_5, parse
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.calibration.watched import others, side_effects, words
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Profile
from sd_debias.core.report.page import report_page


def test_what_overlaps_with_a_calibrated_attribute_is_not_watched():
    assert others([GENDER]) == [SKIN_TONE_3, AGE] and others([SKIN_TONE_5]) == [GENDER, AGE]
    assert others([parse("sexes: man | child")]) == [SKIN_TONE_3, AGE] and others([GENDER, SKIN_TONE_3, AGE]) == []


def calibrated(dark_among_women, method="default", plan=None, unsure=False):
    """Men are pictures of 0, women of 1; 80 % are men, pushes are obeyed. Women are dark as often as told, men half."""
    chance = np.random.default_rng(1)
    c = Calibration("a photo of a doctor", [GENDER], METHODS[method], plan or Plan(200, rounds=3, held_out=200))

    def woman(row):
        if method == "shift":
            return chance.random() < 1 / (1 + 4 * np.exp(float(row[1] - row[0])))
        return row.argmin() == 1 if row.any() else chance.random() < 0.2

    def generate(weights, seeds):
        return [np.array([[[int(woman(row)) * 10] * 3, [255] * 3]], np.uint8) for row in weights]

    def classify(images):
        return [np.eye(2)[[int(image[0, 0, 0]) // 10 for image in images]]]

    def watch(images):
        dark = [chance.random() < (dark_among_women if image[0, 0, 0] else 0.5) for image in images]
        p = np.eye(3)[[2 if one else 0 for one in dark]]
        return {"skin_tone_3": np.zeros_like(p) if unsure else p}

    for _ in c.run(generate, classify, watch=watch):
        pass
    return c


@pytest.mark.parametrize("method, plan", [("default", None), ("shift", Plan(400, rounds=3, held_out=400))])
def test_a_tone_that_moves_with_the_gender_is_seen(method, plan):
    effect, = side_effects(calibrated(1.0, method, plan))
    assert effect["attribute"] == "skin_tone_3" and effect["moved"]
    # From 20 to 50 % women, who all are dark, and half of the men: .60 to .75.
    low, high = effect["change"][2]
    assert low < 0.15 < high and high - low < 0.25 and abs(effect["after"][2] - 0.75) < 0.1
    said = words(effect)
    assert said.startswith("skin_tone_3, not calibrated: light ") and said.endswith("more than chance")


def test_gender_by_other_words_is_no_further_attribute():
    """Beside a user's own "male | female" the report showed `gender` as a side effect."""
    assert "gender" not in [a.name for a in others([parse("male | female")])]
    assert "gender" in [a.name for a in others([parse("with a hat | bare-headed")])]


def test_where_nothing_moves_nothing_is_said_to_move():
    assert not any(side_effects(calibrated(0.5))[0]["moved"] for _ in range(2))


def test_nothing_is_said_of_pictures_that_nobody_could_judge_or_of_too_few():
    assert side_effects(calibrated(0.9, unsure=True)) == []
    assert side_effects(calibrated(0.9, plan=Plan(8, rounds=1, held_out=0))) == []


def test_it_stands_in_the_profile_and_its_report_and_is_resumed(tmp_path):
    c = calibrated(0.9)
    c.save(tmp_path / "state.json")
    assert Calibration.load(tmp_path / "state.json").rounds == c.rounds
    profile = profile_of("doctor", [c], {}, "a test")
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again.entries[0].side_effects == tuple(side_effects(c)) and again == profile
    assert "What else the profile moves" in report_page(profile)
    c.rounds[0].watched.clear()  # a state of an earlier version goes on and is watched from there
    assert side_effects(c)[0]["images"][0] > 0
