import json
import math
import random

import pytest

from sd_debias.core.attribute import AGE, BUILT_IN, GENDER, SKIN_TONE, Attribute, Group, joint, parse, target_of

A, B = Group("a"), Group("b")


# Built-ins

def test_built_ins_are_found_by_their_name():
    assert set(BUILT_IN) == {"gender", "skin_tone", "skin_tone_5", "skin_tone_3", "age"}
    assert all(parse(name) == BUILT_IN[name] and BUILT_IN[name].name == name for name in BUILT_IN)


@pytest.mark.parametrize("name, groups", [("gender", 2), ("skin_tone", 6), ("skin_tone_5", 5), ("skin_tone_3", 3),
                                          ("age", 3)])
def test_built_ins_aim_at_uniform_shares(name, groups):
    assert BUILT_IN[name].target == pytest.approx((1 / groups,) * groups)
    assert len(BUILT_IN[name].names) == groups


def test_built_in_texts_read_as_captions():
    assert GENDER.groups[1] == Group("woman", ("a woman",), ("a photo of a woman", "a woman"))
    assert SKIN_TONE.groups[-1].texts == ("a person with very dark skin",)
    assert SKIN_TONE.names == ("pale", "fair", "olive", "tan", "brown", "very dark")
    assert BUILT_IN["skin_tone_5"].names == SKIN_TONE.names[1:]


# Groups and targets

def test_a_group_without_texts_is_described_by_its_name():
    assert Group("young") == Group("young", ("young",), ("a photo of young", "young"))


def test_the_classifier_sees_a_text_without_its_prompt():
    assert Group("woman", ("{prompt}, a woman",)).classifier_texts == ("a photo of a woman", "a woman")
    assert Group("woman", ("{prompt}",)).classifier_texts == ("a photo of woman", "woman")


def test_own_classifier_texts_are_kept():
    assert Group("woman", ("a woman",), ("a photo of a lady",)).classifier_texts == ("a photo of a lady",)


def test_target_ratios_are_normalised():
    assert Attribute("x", (A, B), (70, 30)).target == pytest.approx((0.7, 0.3))
    assert GENDER.with_target((1, 3)).target == (0.25, 0.75)
    assert GENDER.target == (0.5, 0.5)


def test_one_group_may_be_all_that_is_wanted():
    assert Attribute("x", (A, B), (1, 0)).target == (1, 0)


# One line of text

def test_text_with_another_target():
    assert parse("gender = 70:30") == GENDER.with_target((70, 30))
    assert parse(" gender=0.7 : 0.3 ").target == pytest.approx((0.7, 0.3))


def test_text_with_own_groups():
    attribute = parse("young | middle-aged | old = 1:1:2")
    assert attribute.names == ("young", "middle-aged", "old")
    assert attribute.name == "young | middle-aged | old"
    assert attribute.target == (0.25, 0.25, 0.5)


def test_text_with_a_name():
    assert parse("age of doctors: young | old").name == "age of doctors"
    assert parse("doctors: gender") == Attribute("doctors", GENDER.groups)
    assert parse("doctors: gender = 1:3").target == (0.25, 0.75)


# JSON

@pytest.mark.parametrize("attribute", [*BUILT_IN.values(), parse("a | b = 1:2"), joint([GENDER, AGE]),
                                       Attribute("x", (Group("a", ("{prompt}, a", "an a"), ("one a",)), B), (1, 0))])
def test_json_comes_back_the_same(attribute):
    data = json.loads(json.dumps(attribute.to_dict()))
    assert Attribute.from_dict(data) == attribute
    assert json.dumps(Attribute.from_dict(data).to_dict()) == json.dumps(attribute.to_dict())


def test_any_target_comes_back_to_the_last_bit():
    rng = random.Random(0)
    for _ in range(1000):
        groups = tuple(Group(str(i)) for i in range(rng.randint(2, 7)))
        attribute = Attribute("x", groups, tuple(rng.randint(1, 100) for _ in groups))
        assert Attribute.from_dict(attribute.to_dict()) == attribute


def test_json_may_leave_out_texts_and_target_and_write_one_text_without_a_list():
    attribute = Attribute.from_dict({"name": "x", "groups": [{"name": "a", "texts": "an a"}, {"name": "b"}]})
    assert attribute == Attribute("x", (Group("a", ("an a",)), B))


# Intersections

def test_joint_has_a_group_for_every_combination_in_the_order_of_a_count_table():
    both = joint([GENDER, AGE])
    assert both.name == "gender x age"
    assert both.names == ("man, young", "man, middle aged", "man, old", "woman, young", "woman, middle aged",
                          "woman, old")
    assert both.groups[0].texts == ("a man, a young person",)


def test_joint_target_is_the_product_of_the_single_ones():
    both = joint([GENDER.with_target((70, 30)), parse("young | old = 1:3")])
    assert both.target == pytest.approx((0.175, 0.525, 0.075, 0.225))
    assert math.fsum(both.target) == pytest.approx(1)


def test_joint_says_the_prompt_once():
    first = Attribute("x", (Group("a", ("{prompt}, an a",)), B))
    second = Attribute("y", (Group("c", ("{prompt}, a c",)), Group("d")))
    assert [group.texts[0] for group in joint([first, second]).groups] == [
        "{prompt}, an a, a c", "{prompt}, an a, d", "b, {prompt}, a c", "b, d"]


def test_joint_of_one_attribute_has_its_groups():
    assert joint([GENDER]).names == GENDER.names and joint([GENDER]).target == GENDER.target


# Refusals

def from_dict(**changes):
    return Attribute.from_dict({"name": "x", "groups": [{"name": "a"}, {"name": "b"}], **changes})


@pytest.mark.parametrize("call, message", [
    (lambda: Group(""), "a name for every group"),
    (lambda: Group("  "), "a name for every group"),
    (lambda: Group("a", ("an a", " ")), "empty text"),
    (lambda: Group("a", ("an a",), ("",)), "empty text"),
    (lambda: Attribute(" ", (A, B)), "a name for the attribute"),
    (lambda: Attribute("x", (A,)), "two groups or more, got 1"),
    (lambda: Attribute("x", ()), "two groups or more, got 0"),
    (lambda: Attribute("x", (A, A)), "names a group twice"),
    (lambda: Attribute("x", (A, B), (1, 2, 3)), "needs 2 target shares, one per group, got 3"),
    (lambda: Attribute("x", (A, B), (0, 0)), "not all zero"),
    (lambda: Attribute("x", (A, B), (-1, 2)), "not negative"),
    (lambda: Attribute("x", (A, B), (math.nan, 1)), "finite"),
    (lambda: Attribute("x", (A, B), (math.inf, 1)), "finite"),
    (lambda: Attribute("x", (A, B), (math.inf, -math.inf)), "finite"),
    (lambda: Attribute("x", (A, B), (1e308, 1e308)), "finite"),
    (lambda: GENDER.with_target((1, 2, 3)), "needs 2 target shares, one per group, got 3"),
    (lambda: parse(""), "No attribute is called ''"),
    (lambda: parse("height"), "No attribute is called 'height'. Known: gender, skin_tone"),
    (lambda: parse("x: height"), "No attribute is called 'height'"),
    (lambda: parse("young | "), "a name for every group"),
    (lambda: parse("young | young"), "names a group twice"),
    (lambda: parse("gender = 1:1:1"), "needs 2 target shares, one per group, got 3"),
    (lambda: parse("gender = some:more"), "one number per group in their order, e.g. 50:50, or groups"),
    (lambda: parse("gender ="), "Expected a target as one number per group, e.g. 50:50"),
    (lambda: GENDER.with_target(" , ;"), "Expected a target as one number per group, e.g. 50:50"),
    (lambda: GENDER.with_target("woman 65, woman 35"), "each once, got 'woman 65, woman 35'. The groups are man"),
    (lambda: GENDER.with_target("woman 65, child 35"), "got 'woman 65, child 35'. The groups are man, woman"),
    (lambda: GENDER.with_target("woman 165"), "more than 100, so nothing is left for man"),
    (lambda: parse("gender = nan:1"), "finite"),
    (lambda: parse("gender = 0:0"), "not all zero"),
    (lambda: from_dict(groups=[{"name": "a"}]), "at least 2 and at most 1024 items in 'groups', got 1"),
    (lambda: from_dict(groups="ab"), "An attribute is an object"),
    (lambda: from_dict(groups=None), "An attribute is an object"),
    (lambda: from_dict(groups=[{"texts": ["a"]}, {"name": "b"}]), "An attribute is an object"),
    (lambda: from_dict(groups=[{"name": "a", "texts": 5}, {"name": "b"}]), "An attribute is an object"),
    (lambda: Attribute.from_dict([1]), "An attribute is an object"),
    (lambda: Attribute.from_dict({}), "An attribute is an object"),
    (lambda: Attribute.from_dict({"groups": [{"name": "a"}, {"name": "b"}]}), "An attribute is an object"),
    (lambda: from_dict(target=["much", 1]), "An attribute is an object"),
    (lambda: from_dict(target=5), "An attribute is an object"),
    (lambda: from_dict(target=[10**400, 1]), "An attribute is an object"),
    (lambda: from_dict(target=[None, 1]), "An attribute is an object"),
    (lambda: from_dict(target=[1, 2, 3]), "needs 2 target shares, one per group, got 3"),
    (lambda: joint([]), "one attribute or more"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("text, shares", [
    ("70:30", (70, 30)), ("70 / 30", (70, 30)), ("70, 30", (70, 30)), ("70 % : 30 %", (70, 30)),
    ("woman 65, man 35", (35, 65)), ("Woman: 65 %; man = 35", (35, 65)), ("woman 65", (35, 65)),
    ("woman 0.5\nman 1", (1, 0.5))])
def test_a_target_is_written_as_numbers_or_by_the_groups_names(text, shares):
    assert target_of(text, ("man", "woman")) == shares
    assert parse(f"gender = {text}").target == pytest.approx(tuple(share / sum(shares) for share in shares))


def test_own_groups_may_be_described_in_brackets():
    found = parse("glasses: wearing glasses (a person wearing glasses) | bare face ({prompt}) = 30:70")
    assert found.name == "glasses" and found.names == ("wearing glasses", "bare face") and found.target == (0.3, 0.7)
    assert [group.texts for group in found.groups] == [("a person wearing glasses",), ("{prompt}",)]
    assert parse("person (adult) | child").groups[0].texts == ("person (adult)",)
    odd = parse("hats: with a hat (a person with a (hat:1.2), x=1 | y) | bare-headed ({prompt})")
    assert odd.name == "hats" and odd.groups[0].texts == ("a person with a (hat:1.2), x=1 | y",)
    assert parse("in a hijab (a woman in a hijab) | bare-headed ({prompt})").name == "in a hijab | bare-headed"


def test_groups_that_a_target_does_not_name_share_the_rest():
    assert target_of("very dark 40", ("light", "tan", "very dark")) == (30, 30, 40)
    assert target_of("woman 0.65", ("man", "woman")) == (pytest.approx(0.35), 0.65)
    assert target_of("woman 1", ("man", "woman")) == (99, 1)
