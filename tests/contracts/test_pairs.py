"""The covering array of the contracts."""
from itertools import product

from contracts_pairs import covering, pairs

CHOICES = dict(direction=("prompt", "embedding"), dtype=(32, 16, "b16"), cfg=(3.0, 1.0))
CASES = [("A1111", "a", "short"), ("A1111", "b", "73"), ("diffusers", "a", "sd"), ("diffusers", "c", "flux")]


def test_every_host_form_and_choice_meets_every_other_in_far_fewer_tests_than_the_product():
    found = covering(CASES, CHOICES, 1)
    every = set().union(*(pairs(case, row) for case in CASES for row in product(*CHOICES.values())))
    assert set().union(*(pairs(*each) for each in found)) == every
    assert {case for case, _ in found} == set(CASES)
    assert len(found) == len(set(found)) <= 12 < len(CASES) * 12 / 3
    assert covering(CASES, {}, 1) == [(case, ()) for case in CASES]
