"""Attributes, whatever their groups: they come back as they were written, and nothing else is taken for one."""
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import NAMES, PHRASE, attributes, examples

from sd_debias.core.attribute import Attribute, joint, parse, target_of
from sd_debias.core.errors import DebiasError


@examples(60)
@given(attributes())
def test_any_attribute_comes_back_from_its_json_to_the_last_bit(attribute):
    assert Attribute.from_dict(attribute.to_dict()) == attribute
    assert math.isclose(math.fsum(attribute.target), 1) and min(attribute.target) >= 0


@examples(60)
@given(NAMES, PHRASE, st.data())
def test_own_groups_come_back_from_the_line_that_says_them(names, name, data):
    ratio = data.draw(st.lists(st.integers(0, 100), min_size=len(names), max_size=len(names)).filter(any))
    found = parse(f"{name}: {' | '.join(names)} = {':'.join(map(str, ratio))}")
    assert (found.name, found.names) == (name, tuple(names))
    assert found.target == pytest.approx([part / sum(ratio) for part in ratio])


@examples(60)
@given(NAMES, st.data())
def test_a_target_by_names_is_that_in_their_order(names, data):
    ratio = data.draw(st.lists(st.integers(1, 100), min_size=len(names), max_size=len(names)))
    order = data.draw(st.permutations(range(len(names))))
    typed = [name.upper() if name.upper().casefold() == name.casefold() else name for name in names]
    said = ", ".join(f"{typed[i]}: {ratio[i]} %" for i in order)
    assert target_of(said, names) == tuple(ratio) == target_of(" : ".join(map(str, ratio)), names)


@examples(150)
@given(st.text("ab|=:,()1 0.%{}prompt-e\n", max_size=40))
def test_any_text_is_an_attribute_with_shares_or_refused_in_one_sentence(text):
    try:
        found = parse(text)
    except DebiasError as error:
        assert str(error).isprintable() and 20 < len(str(error)) < 1500
        return
    assert len(found.groups) >= 2 and math.isclose(math.fsum(found.target), 1)
    assert Attribute.from_dict(found.to_dict()) == found


@examples(20)
@given(st.lists(attributes(), min_size=1, max_size=2))
def test_intersections_have_the_product_of_the_targets(own):
    own = [a for a in own if len(a.groups) < 5 and not any(", " in name for name in a.names)] or [parse("gender")]
    try:
        found = joint(own)
    except DebiasError:  # two combinations read the same
        return
    assert len(found.groups) == math.prod(len(a.groups) for a in own)
    first = sum(found.target[:len(found.groups) // len(own[0].groups)])
    assert math.isclose(first, own[0].target[0], abs_tol=1e-9)


def test_groups_whose_names_differ_in_case_or_spaces_alone_are_one_group_twice():
    with pytest.raises(DebiasError, match="names a group twice"):
        parse("Man | man")
