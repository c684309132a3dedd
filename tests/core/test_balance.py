"""Balancing without a calibration, its attributes and lists, and which prompts show a person."""

import pytest
import which_prompts
from properties import examples
from hypothesis import given
from hypothesis import strategies as st

from sd_debias.core.attribute import BUILT_IN
from sd_debias.core.errors import DebiasError
from sd_debias.core.profile.balance import balanced, listed
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import entry_for
from sd_debias.core.prompts.named import named, of_persons
from sd_debias.core.prompts.people import people
from sd_debias.core.profile.words import metadata

PERSONS = {"gender", "skin_tone", "skin_tone_5", "skin_tone_3", "age", "body_type", "hair_color", "hair_length",
           "glasses", "beard", "clothing", "expression"}


def test_at_50_50_four_of_eight_seeds_are_women_and_two_attributes_are_independent():
    gender, age = entry_for(balanced("gender", "age"), "a doctor")[0].steerings
    assert sorted(gender.draws(range(20, 28))) == [1] * 4 + [2] * 4
    both = list(zip(gender.draws(range(6000)), age.draws(range(6000), stream=1)))
    assert all(abs(both.count((g, a)) - 1000) < 60 for g in (1, 2) for a in (1, 2, 3))


def test_a_balance_is_saved_loaded_and_draws_again(tmp_path):
    profile = balanced("gender = 60:40", "weather")
    loaded = Profile.load(profile.save(tmp_path))
    assert loaded.hash == profile.hash and loaded.entries == ()
    for one in (profile, loaded):
        entry, known = entry_for(one, "a nurse at work")
        assert not known and entry.warnings == () and entry.steerings[0].probabilities == (0, 0.6, 0.4)
    said = metadata(loaded, "a nurse at work", dict(acted=True), seed=3)
    assert said["Debias profile"] == "balance" and said["Debias sent to"] and "Debias prompt" not in said


@pytest.mark.parametrize("prompt, negative, open_ones", [
    ("a nurse", "", {"gender", "weather"}), ("a red car", "", {"weather"}), ("a nurse in the rain", "", {"gender"}),
    ("a queen", "", {"weather"}), ("a nurse", "blurry, woman", {"weather"}),
    ("scientist Marie Curie at work", "", {"weather"}), ("una enfermera", "", {"weather"})])
def test_what_a_prompt_says_or_does_not_show_is_left_alone(prompt, negative, open_ones):
    entry, _ = entry_for(balanced("gender", "weather"), prompt, negative)
    assert {name for name, s in zip(("gender", "weather"), entry.steerings) if s.probabilities} == open_ones
    assert len(entry.left_alone) == 2 - len(open_ones)


def test_attributes_of_the_library_are_of_persons_where_they_describe_one_and_their_words_are_found():
    assert {name for name, attribute in BUILT_IN.items() if of_persons(attribute)} == PERSONS
    for attribute in BUILT_IN.values():
        for group in attribute.groups:
            for word in (group.words or ())[:1]:
                about = f"a person, {word}" if of_persons(attribute) else f"a hill, {word}"
                assert word in named(attribute, about), (attribute.name, word)


def test_lists_and_wildcard_files_become_attributes(tmp_path):
    (tmp_path / "hair").mkdir()
    (tmp_path / "hair" / "styles.txt").write_text("# a comment\n2::curly hair\nstraight hair: 1\n\nbraids\n")
    lines = "gender = 60:40\nhat:\n- a red hat: 3\n- a blue hat\n\nhair: __hair/styles__\nday: at noon | at night"
    gender, hat, hair, day = listed(lines, [tmp_path])
    assert gender.target == (0.6, 0.4) and hat.names == ("a red hat", "a blue hat") and hat.target == (0.75, 0.25)
    assert hair.name == "hair" and hair.names == ("curly hair", "straight hair", "braids")
    assert hair.target == (0.5, 0.25, 0.25) and day.groups[1].texts == ("at night",)


@pytest.mark.parametrize("text, fact", [
    ("- a red hat", "a name above"), ("x: __../secret__", "wildcards"), ("x: __absent__", "absent.txt"),
    ("x: __nested__", "Lists within lists"), ("x: __large__", "1 MB"), ("x:\n- one", "two groups"),
    ("x:\n" + "\n".join(f"- hat {i}" for i in range(200)), "100"), ("gender\ngender", "same name"),
    ("gender = a:b", "'a:b'"), ("", "none")])
def test_what_is_no_list_is_one_sentence(tmp_path, text, fact):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.txt").write_text("a\nb")
    (tmp_path / "in" / "nested.txt").write_text("__other__\nb")
    (tmp_path / "in" / "large.txt").write_text("x" * 1_000_001)
    with pytest.raises(DebiasError, match=fact):
        balanced(text, wildcards=[tmp_path / "in"])


def test_no_more_labelled_prompts_are_looked_up_wrongly_than_the_docs_say():
    """docs/which_prompts.md."""
    rows = which_prompts.rows()
    said = (which_prompts.HERE.parent / "docs" / "which_prompts.md").read_text("utf-8")
    wrong = sum(which_prompts.answer(row) != row["expected"] for row in rows)
    assert f"Wrong now: {wrong} of {len(rows):,}." in said


@examples(200)
@given(st.text(max_size=200))
def test_any_text_has_its_persons_in_order(text):
    found = people(text)
    assert [p.at for p in found] == sorted(p.at for p in found) and all(p.first <= p.at < p.last for p in found)
