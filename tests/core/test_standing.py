"""How a calibration stands, in plain values and sentences."""
import json

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.round import AUDIT, HELD_OUT, ROUND, Round
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.standing import in_percent, standings
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS

NONE, SENT = Steering.none(2), Steering((0.0, 0.0), (0.6, 0.0, 0.4))
LATE = 10 ** 6


def standing(rounds, plan=None):
    plan = plan or Plan(100, rounds=2, held_out=100)
    found, = standings(Calibration("a doctor", [GENDER], METHODS["default"], plan, rounds))
    return found


def of(kind, steering, men, n=100, first=0):
    """So many of n images are labelled as men."""
    seeds = tuple(range(first, first + n))
    labels = [option - 1 for option in steering.draws(seeds)]
    alone = [i for i, label in enumerate(labels) if label < 0]
    more = men - labels.count(0)
    for number, i in enumerate(alone):
        labels[i] = int(number >= more)
    if labels.count(0) != men:  # more than are left alone: steered ones that did not obey
        labels = [0] * men + [1] * (n - men)
    return Round(kind, (steering,), seeds, [labels])


AUDITED = of(AUDIT, NONE, 80)


def test_percents_have_the_sum_100():
    assert in_percent((1 / 3, 1 / 3, 1 / 3)) == "34 / 33 / 33" and in_percent((0.345, 0.655)) in ("34 / 66", "35 / 65")
    assert in_percent((0.0, 1.0)) == "0 / 100" and in_percent((0.125,) * 8).count("13") == 4


def test_an_audit_that_nothing_followed_says_what_it_shows_and_not_what_was():
    found = standing([of(AUDIT, NONE, 71)], Plan(100, rounds=0, held_out=0))
    assert found.text == "Target 50 / 50. Shows 71 / 29."
    assert found.now is None and found.was.images == 100
    before = standing([])
    assert before.text == "Target 50 / 50." and before.was is None
    begun = standing([AUDITED, Round(ROUND, (SENT,), tuple(range(100, 200)))])
    assert begun.now is None and begun.was.words() == "80 / 20"


def test_a_finished_calibration_says_how_it_ended():
    met = [AUDITED, of(ROUND, SENT, 50, first=100), of(HELD_OUT, SENT, 48, first=LATE)]
    assert standing(met).text == "Target 50 / 50. Was 80 / 20. Now 48 / 52: on target."
    found = standing([AUDITED, of(ROUND, SENT, 75, first=100), of(ROUND, SENT, 75, first=200),
                      of(HELD_OUT, SENT, 75, first=LATE)])
    said = "Target 50 / 50. Was 80 / 20. Now 75 / 25: off target in the verification."
    assert found.text == said
    assert json.loads(json.dumps(found.to_dict()))["now"]["shares"] == [0.75, 0.25]


def test_one_number_is_the_result_and_a_small_verification_is_no_second_one():
    """"Now 50 / 50: on target. The verification's 20 images showed 40 / 60" read as a failure."""
    found = standing([AUDITED, of(ROUND, SENT, 50, first=100), of(HELD_OUT, SENT, 8, 20, LATE)],
                     Plan(100, rounds=1, held_out=20, within=0.2))
    assert found.text.endswith(": on target.") and found.now.images == 200


def test_a_verification_of_five_pictures_knows_nothing():
    """A plan of five images a round said "Now 80 / 20: on target"."""
    rounds = [of(AUDIT, NONE, 4, 5), of(ROUND, SENT, 3, 5, 100), of(HELD_OUT, SENT, 3, 5, LATE)]
    assert "on target" not in standing(rounds, Plan(5, rounds=1, held_out=5)).text
