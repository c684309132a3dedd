"""Attributes: built-in and own groups, targets, intersections; nothing else is taken for one."""
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import attributes, examples

from sd_debias.core.attribute import (
    AGE, GENDER, Attribute, Group, joint, parse, target_of, together)
from sd_debias.core.errors import DebiasError

A, B = Group("a"), Group("b")


@pytest.mark.parametrize("texts, own, seen", [
    ((), (), ("a photo of woman", "woman")), (("{prompt}",), (), ("a photo of woman", "woman")),
    (("{prompt}, a woman",), (), ("a photo of a woman", "a woman")),
    (("a woman",), ("a lady",), ("a lady",))])
def test_the_classifier_sees_a_groups_text_without_its_prompt_or_its_own_texts(texts, own, seen):
    assert Group("woman", texts, own).classifier_texts == seen


def test_one_line_of_text_is_an_attribute():
    assert parse("gender = 70:30") == GENDER.with_target((70, 30))
    own = parse("young | middle-aged | old = 1:1:2")
    assert own.name == "young | middle-aged | old" and own.names == ("young", "middle-aged", "old")
    assert own.target == (0.25, 0.25, 0.5)
    assert parse("age of doctors: young | old").name == "age of doctors"
    assert parse("doctors: gender") == Attribute("doctors", GENDER.groups)


@pytest.mark.parametrize("text, shares", [
    ("70 / 30", (70, 30)), ("70 % : 30 %", (70, 30)),
    ("woman 65, man 35", (35, 65)), ("Woman: 65 %; man = 35", (35, 65)), ("woman 65", (35, 65)),
    ("woman 0.5\nman 1", (1, 0.5))])
def test_a_target_is_written_as_numbers_or_by_the_groups_names(text, shares):
    assert target_of(text, ("man", "woman")) == shares
    assert parse(f"gender = {text}").target == pytest.approx(tuple(share / sum(shares) for share in shares))


def test_groups_that_a_target_does_not_name_share_the_rest():
    assert target_of("very dark 40", ("light", "tan", "very dark")) == (30, 30, 40)
    assert target_of("woman 0.65", ("man", "woman")) == (pytest.approx(0.35), 0.65)
    assert target_of("woman 1", ("man", "woman")) == (99, 1)


def test_own_groups_may_be_described_in_brackets():
    found = parse("glasses: wearing glasses (a person wearing glasses) | bare face ({prompt}) = 30:70")
    assert found.name == "glasses" and found.names == ("wearing glasses", "bare face") and found.target == (0.3, 0.7)
    assert [group.texts for group in found.groups] == [("a person wearing glasses",), ("{prompt}",)]
    odd = parse("hats: with a hat (a person with a (hat:1.2), x=1 | y) | bare-headed ({prompt})")
    assert odd.name == "hats" and odd.groups[0].texts == ("a person with a (hat:1.2), x=1 | y",)
    assert parse("in a hijab (a woman in a hijab) | bare-headed ({prompt})").name == "in a hijab | bare-headed"


def test_json_may_leave_out_texts_and_target_and_write_one_text_without_a_list():
    groups = [{"name": "a", "texts": "an a"}, {"name": "b"}]
    assert from_dict(groups=groups) == Attribute("x", (Group("a", ("an a",)), B))


def test_joint_has_a_group_for_every_combination_in_the_order_of_a_count_table():
    both = joint([GENDER, AGE])
    assert both.name == "gender x age"
    assert both.names == ("man, young", "man, middle aged", "man, old", "woman, young",
                          "woman, middle aged", "woman, old")
    assert joint([GENDER]).names == GENDER.names and joint([GENDER]).target == GENDER.target
    both = joint([GENDER.with_target((70, 30)), parse("young | old = 1:3")])
    assert both.target == pytest.approx((0.175, 0.525, 0.075, 0.225))


def from_dict(**changes):
    return Attribute.from_dict({"name": "x", "groups": [{"name": "a"}, {"name": "b"}], **changes})


MANY = "name: " + " | ".join(f"g{i}" for i in range(1025))


@pytest.mark.parametrize("fact, calls", [
    ("name for every group", [lambda: Group(""), lambda: Group("  "), lambda: parse("young | ")]),
    ("empty", [lambda: Group("a", ("an a", " ")), lambda: Group("a", ("an a",), ("",)),
               lambda: Group("b", words=("",))]),
    ("name for the attribute", [lambda: Attribute(" ", (A, B))]),
    ("two groups.* 1", [lambda: Attribute("x", (A,))]),
    ("two groups.* 0", [lambda: Attribute("x", ())]),
    ("twice", [lambda: Attribute("x", (A, A)), lambda: parse("young | young"),
               lambda: parse("Man | man")]),
    ("'x'.*'a'", [lambda: Attribute("a", (Group("b", words=("X",)), Group("c", words=("x ",))))]),
    ("'they'.*'x'", [lambda: Attribute("x", (Group("a", words=("they",)),
                                             Group("b", words=("They", "them"))))]),
    ("2 (target )?shares.* 3", [lambda: Attribute("x", (A, B), (1, 2, 3)),
                             lambda: GENDER.with_target((1, 2, 3)),
                             lambda: parse("gender = 1:1:1"), lambda: from_dict(target=[1, 2, 3])]),
    ("negative", [lambda: Attribute("x", (A, B), (-1, 2))]),
    ("100.* man", [lambda: GENDER.with_target("woman 165")]),
    ("zero", [lambda: Attribute("x", (A, B), (0, 0)), lambda: parse("gender = 0:0")]),
    ("finite", [lambda: Attribute("x", (A, B), (math.nan, 1)),
                lambda: Attribute("x", (A, B), (1e308, 1e308)), lambda: parse("gender = nan:1")]),
    ("'height'.* gender, age", [lambda: parse("height"), lambda: parse("x: height")]),
    ("50:50", [lambda: parse("gender = some:more"), lambda: parse("gender ="),
               lambda: GENDER.with_target(" , ;")]),
    ("'woman 65, woman 35'.* man, woman", [lambda: GENDER.with_target("woman 65, woman 35")]),
    ("2 .*1024 .*'groups'.* 1", [lambda: from_dict(groups=[{"name": "a"}])]),
    ("An attribute is an object", [
        *(lambda groups=groups: from_dict(groups=groups) for groups in (
            "ab", None, [{"texts": ["a"]}, {"name": "b"}],
            [{"name": "a", "texts": 5}, {"name": "b"}])),
        *(lambda target=target: from_dict(target=target) for target in (
            ["much", 1], 5, [10**400, 1], [None, 1])),
        *(lambda own=own: Attribute.from_dict(own) for own in (
            [1], {}, {"groups": [{"name": "a"}, {"name": "b"}]}))]),
    # what could not be saved
    (".", [lambda: parse(MANY), lambda: parse("x" * 10_001 + ": a | b"),
           lambda: parse("a | " + "b" * 10_001),
           lambda: together([parse(f"a{i}: x | y") for i in range(9)])])],
    ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_attribute_is_refused_with_its_facts(fact, calls):
    for call in calls:
        with pytest.raises(DebiasError, match=fact):
            call()


@pytest.mark.parametrize("text", ["70:40", "woman 70, man 40", "60/30"])
def test_percents_that_do_not_add_up_are_not_scaled_without_a_word(text):
    """70:40 was taken as 63.6:36.4."""
    with pytest.raises(DebiasError, match="add up to (110|90)"):
        parse(f"gender = {text}")
    assert target_of("33:33:33", ("a", "b", "c")) == (33, 33, 33)


@examples(60)
@given(attributes())
def test_any_attribute_comes_back_from_its_json_to_the_last_bit(attribute):
    assert Attribute.from_dict(attribute.to_dict()) == attribute
    assert math.isclose(math.fsum(attribute.target), 1) and min(attribute.target) >= 0


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


@pytest.mark.parametrize("text", ["gender: 70:30", "gender 70:30", " gender :70/30", "gender 70%:30%"])
def test_the_equals_sign_may_be_left_out_before_plain_shares(text):
    """"gender: 50:50" was told that no attribute is called '50'."""
    assert parse(text) == parse("gender = 70:30")


def test_a_mistyped_attribute_or_target_says_which_is_meant():
    with pytest.raises(DebiasError, match="Did you mean 'gender'"):
        parse("gendr = 50:50")
    with pytest.raises(DebiasError, match="'age': Expected a target"):
        parse("age = half:half")
