"""What a profile does to attributes that were not calibrated, by the images of its calibration."""
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


def calibrated(dark_among_women, method="default", images=200, unsure=False):
    """80 % are men, pushes are obeyed. Women are dark as often as told, men half."""
    chance = np.random.default_rng(1)
    plan = Plan(images, rounds=3 if images > 8 else 1, held_out=images if images > 8 else 0)
    c = Calibration("a photo of a doctor", [GENDER], METHODS[method], plan)

    def woman(row):
        if method == "shift":
            return chance.random() < 1 / (1 + 4 * np.exp(float(row[1] - row[0])))
        return row.argmin() == 1 if row.any() else chance.random() < 0.2

    def watch(images):
        p = np.eye(3)[[2 * int(chance.random() < (dark_among_women if one else 0.5))
                       for one in images]]
        return {"skin_tone_3": np.zeros_like(p) if unsure else p}

    list(c.run(lambda weights, seeds: [int(woman(row)) for row in weights],
               lambda images: [np.eye(2)[images]], watch=watch))
    return c


@pytest.mark.parametrize("method, images", [("default", 200), ("shift", 400)])
def test_a_tone_that_moves_with_the_gender_is_seen(method, images):
    effect, = side_effects(calibrated(1.0, method, images))
    assert effect["attribute"] == "skin_tone_3" and effect["moved"]
    # From 20 to 50 % women, who all are dark, and half of the men: .60 to .75.
    low, high = effect["change"][2]
    assert low > 0 and abs((low + high) / 2 - 0.15) < 0.66 * (high - low)  # of 99 %
    assert high - low < 0.25 and abs(effect["after"][2] - 0.75) < 0.1
    said = words(effect)
    assert said.startswith("skin_tone_3, not calibrated: light ")
    assert said.endswith("more than chance")


def test_gender_by_other_words_is_no_further_attribute():
    """Beside a user's own "male | female" the report showed `gender` as a side effect."""
    assert "gender" not in [a.name for a in others([parse("male | female")])]


def test_nothing_is_said_to_move_where_nothing_moves_or_nobody_could_judge():
    assert not side_effects(calibrated(0.5))[0]["moved"]
    assert side_effects(calibrated(0.9, unsure=True)) == []
    assert side_effects(calibrated(0.9, images=8)) == []


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
