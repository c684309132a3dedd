"""Which prompts a profile is for: what a prompt names itself, spellings, subjects, and everything else."""
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from wordings_texts import JOBS, WITHOUT_PERSONS, explicit

from sd_debias.core.attribute import (
    AGE, GENDER, SKIN_TONE, SKIN_TONE_3, SKIN_TONE_5, Attribute, Group, joint, parse)
from sd_debias.core.method.draw import Steering
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import entry_for, with_others
from sd_debias.core.prompts.named import named
from sd_debias.core.prompts.syntax import OTHERS, bare, subject_of

SENT = Steering((0.0, 0.0), (0.4, 0.0, 0.6))
TONES = Steering((0.0,) * 5, (0.5, 0.1, 0.1, 0.1, 0.1, 0.1))
NONE, NO_TONE = Steering.none(2), Steering.none(5)


def profile(*prompts, attributes=(GENDER,), steerings=(SENT,), **entry):
    return Profile.from_dict(dict(
        schema="1.0", name="test", method={}, attributes=[a.to_dict() for a in attributes],
        entries=[dict(prompt=prompt, steerings=[s.to_dict() for s in steerings], **entry) for prompt in prompts]))


DOCTOR = profile("a photo of a doctor")
BOTH = profile(*(f"a photo of a {job}" for job in JOBS), attributes=(GENDER, SKIN_TONE_5),
               steerings=(SENT, TONES))


SPELLINGS = st.sampled_from([
    lambda word: word, str.upper, str.title, lambda word: f"({word})", lambda word: f"(({word}))",
    lambda word: f"({word}:1.2)", lambda word: f"[{word}]", lambda word: f"{word} <lora:style_2:0.8>",
    lambda word: f"<hypernet:x:1> {word}", lambda word: f"  {word}\n", lambda word: f"({word}: 0.85)"])

WORDS = st.sampled_from("a the of in photo red old-town BREAK , , doctor doctors nurse and portrait (x:1.2) <lora:a:1> "
                        "black castle king. ! 医生 wo-man woman's".split())


@st.composite
def spelt(draw):
    """A prompt with emphasis, weights, tags, case, white space and final punctuation of any kind."""
    words = [draw(SPELLINGS)(word) for word in "a photo of a doctor".split(" ")]
    text = draw(st.sampled_from([" ", "  ", "\n", "\t "])).join(words)
    before = st.sampled_from(["", " ", "<lora:a:1> "])
    after = st.sampled_from(["", ".", ",", " ...", "!", ", "])
    return f"{draw(before)}{text}{draw(after)}"


@examples(150)
@given(spelt())
def test_spelling_does_not_change_what_a_prompt_gets(prompt):
    entry, own = entry_for(DOCTOR, prompt)
    assert own and entry == DOCTOR.entries[0], bare(prompt)


@pytest.mark.parametrize("prompt", [
    "a photo of a (((doctor)))", "a photo of a {doctor}", "a photo of a doctor, embedding:nice/one",
    "a photo of a doctor BREAK", "a photo of a doctor,, ,",
    "<lora:a:1><hypernet:b:0.5> a photo of a doctor AND"])
def test_signs_of_a_host_do_not_change_what_a_prompt_gets(prompt):
    assert entry_for(DOCTOR, prompt) == (DOCTOR.entries[0], True)


@examples(100)
@given(st.lists(WORDS, max_size=8), st.sampled_from(OTHERS))
def test_any_prompt_gets_one_entry_and_the_same_one_again(words, others):
    prompt, own_profile = " ".join(words), with_others(DOCTOR, others)
    entry, own = entry_for(own_profile, prompt)
    assert entry_for(own_profile, prompt) == (entry, own)
    assert entry_for(own_profile, f" {prompt.upper()} ")[0].steerings == entry.steerings
    assert own or entry.warnings or not prompt.strip(), "what is not its own calibration is said"


@pytest.mark.parametrize("prompt", [
    "portrait of a doctor", "a photo of a doctor, masterpiece, 8k", "cinematic portrait of a (doctor:1.3), bokeh, 85mm",
    "(a photo of a doctor:1.2), masterpiece", "doctor", "the Doctor, oil painting",
    "a tired doctor in a hospital at night", "two physicians"])
def test_a_prompt_with_the_subject_gets_the_entry_carried_over_and_says_so(prompt):
    entry, known = entry_for(DOCTOR, prompt)
    assert not known and entry.steerings == (SENT,)
    assert entry.behind() == "doctor" and DOCTOR.entries[0].behind() == entry.behind(0.5) == ""
    said, = entry.warnings
    assert said == "carried over from 'a photo of a doctor', whose subject 'doctor' this prompt shows"


@pytest.mark.parametrize("prompt", ["two nurses", "a photo of a nurse", "a nurse beside the doctor's car"])
def test_any_other_prompt_is_left_alone_unless_the_user_chose_otherwise(prompt):
    entry, known = entry_for(DOCTOR, prompt)
    assert not known and entry.steerings == (NONE,)
    assert entry.warnings == ("this prompt was not calibrated, so it is left alone",)


def test_several_subjects_are_said_and_the_first_counts():
    entry, _ = entry_for(BOTH, "a judge beside a pilot")
    assert entry.warnings[0].startswith("carried over from 'a photo of a judge'")
    assert "of the subjects 'judge', 'pilot', the first is used; one label per image cannot" in entry.warnings[0]


def test_a_subject_can_be_edited_and_taken_away():
    own = profile("a photo of a doctor", subject="surgeon")
    assert "subject" not in DOCTOR.to_dict()["entries"][0]
    assert own.to_dict()["entries"][0]["subject"] == "surgeon"
    assert Profile.from_dict(own.to_dict()) == own and entry_for(own, "a photo of a doctor")[1]


@pytest.mark.parametrize("calibrated, subject, prompt, steering", [
    ("a photo of a doctor", "surgeon", "a surgeon at work", SENT),
    ("a photo of a doctor", "surgeon", "a doctor at work", NONE),
    # what the calibrated prompt says too does not count as naming
    ("a photo of a fireman", None, "a photo of a fireman", SENT),
    ("a photo of a fireman", None, "a photo of a fireman, a woman", NONE),
    # tags and possessives carry nothing over
    ("a photo of a doctor", None, "a photo of a doctor's office, empty", NONE),
    ("masterpiece, best quality, doctor", None, "masterpiece, a cat on a sofa", NONE),
    # a script without spaces
    ("\u533b\u751f", None, "\u4e00\u4e2a\u533b\u751f\u5728\u533b\u9662", SENT)])
def test_a_prompt_with_a_subject_gets_its_weights_and_another_is_left_alone(
        calibrated, subject, prompt, steering):
    own = profile(calibrated, **{} if subject is None else {"subject": subject})
    assert entry_for(own, prompt)[0].steerings == (steering,)


@pytest.mark.parametrize("prompt, subject", [
    ("a photo of a doctor", "doctor"), ("A photo of an (office worker:1.2), 8k", "office worker"), ("doctor", "doctor"),
    ("cinematic portrait photo of the old judge wearing a robe", "old judge"), ("a photo", ""), ("", ""),
    ("close-up shot of a nurse in a hospital", "nurse"), ("a painter, oil painting", "painter"),
    ("masterpiece, best quality, doctor", ""), ("RAW photo, a doctor, 8k", ""), ("score_9, score_8_up, a doctor", ""),
    ("masterpiece, portrait of a doctor, bokeh", "doctor"), ("office worker", "office worker")])
def test_the_subject_is_read_off_the_prompt(prompt, subject):
    assert subject_of(prompt) == subject


def test_two_calibrated_prompts_of_one_subject_are_said():
    two = profile("a photo of a doctor", "a painting of a doctor")
    assert entry_for(two, "a doctor, rain")[0].warnings[0].endswith(
        "2 calibrated prompts have this subject, and the first is used")


def test_a_profile_of_ten_thousand_prompts_is_looked_up_by_an_index(monkeypatch):
    """A look-up took 27 seconds: every entry's subject was searched for by a pattern of its own."""
    many = replace(DOCTOR, document={}, entries=tuple(
        replace(DOCTOR.entries[0], prompt=f"a photo of a worker{i}") for i in range(10_000)))
    searched, search = [], re.search
    entry_for(many, "the sea")  # the index is made
    monkeypatch.setattr(re, "search", lambda *given: searched.append(given) or search(*given))
    assert entry_for(many, "a photo of a (worker77:1.2)") == (many.entries[77], True)
    entry, known = entry_for(many, "portrait of a black worker9999, bokeh")
    assert entry.carried_from == "a photo of a worker9999" and not known
    assert len(searched) < 100


def test_whoever_names_a_group_is_left_alone_on_that_attribute_and_the_other_is_not():
    """Over 200 prompts, positive and negative wording."""
    cases = list(explicit())
    assert len(cases) >= 200
    for prompt, (named_gender, named_tone) in cases:
        entry, _ = entry_for(BOTH, prompt)
        (gender, tone), warnings = entry.steerings, entry.warnings
        assert (gender == NONE) == named_gender and (tone == Steering.none(5)) == named_tone, prompt
        assert sum("left alone" in warning for warning in warnings) == named_gender + named_tone
        assert any("carried over" in warning for warning in warnings) != (named_gender and named_tone), prompt


def test_a_prompt_without_a_person_gets_none():
    """As every image of it is made without guidance, not one changes."""
    assert len(WITHOUT_PERSONS) >= 50
    for prompt in (*WITHOUT_PERSONS, "a lavender field", "a transparent aquamarine"):  # vender, parent, marine
        entry, known = entry_for(BOTH, prompt)
        assert not known and entry.steerings == (NONE, NO_TONE), prompt


@pytest.mark.parametrize("attribute, prompt, words", [
    (GENDER, "a doctor in Manhattan, womanly manners", []), (GENDER, "a man-made lake", []),
    (GENDER, "Eine Frau als \u00c4rztin", ["frau", "\u00e4rztin"]), (GENDER, "her hat", ["her"]),
    (GENDER, "\u4e00\u4f4d\u5973\u533b\u751f", ["\u5973"]), (SKIN_TONE, "a doctor in a white coat", []),
    (SKIN_TONE_3, "a white man", ["white"]), (SKIN_TONE_5, "a tan jacket", []),
    (SKIN_TONE_5, "dark hair, fair skin", ["fair skin"]), (AGE, "an old person", ["old"]),
    (AGE, "a middle-aged cook", ["middle-aged"]), (AGE, "an old photo of a doctor", []),
    (AGE, "a doctor in an old town, baby blue scrubs", []), (GENDER, "1girl, doctor", ["1girl"]),
    (GENDER, "a female_doctor", ["female"]), (GENDER, "a female-doctor", ["female-doctor"]),
    (GENDER, "two waitresses and nuns", ["waitresses", "nuns"]), (GENDER, "a cowboy hat on a king size bed", []),
    (GENDER, "a man's hat", []), (SKIN_TONE_5, "a chef in a Chinese restaurant", []),
    (SKIN_TONE_5, "a black and white man", []), (SKIN_TONE_5, "a tanned young woman", ["tanned"]),
    (parse("male | female"), "a woman doctor", ["woman"]), (joint([GENDER, SKIN_TONE_5]), "a female judge", ["female"]),
    (parse("young | middle-aged"), "a middle-aged cook", ["middle-aged"]),
    (parse("glasses | no glasses"), "a cook with glasses", ["glasses"])])
def test_words_that_name_a_group(attribute, prompt, words):
    assert named(attribute, prompt) == words


def test_own_words_of_a_group_are_kept_in_its_profile_and_count_alone():
    own = Attribute("gender", (Group("man", words=("bloke",)), Group("woman", words=())))
    assert named(own, "a bloke") == ["bloke"] and named(own, "a man and a woman") == []
    assert Attribute.from_dict(own.to_dict()) == own and "words" not in GENDER.to_dict()["groups"][0]


@pytest.mark.parametrize("prompt, tone", [
    ("a Black doctor", NO_TONE), ("an african judge", NO_TONE),
    ("portrait of a pale young student", NO_TONE), ("a doctor in a black coat", TONES)])
def test_words_before_a_subject_of_the_profile_name_its_tone(prompt, tone):
    assert entry_for(BOTH, prompt)[0].steerings == (SENT, tone)


@pytest.mark.parametrize("prompt, name, steered", [
    *((prompt, "gender", True) for prompt in (
        "a portrait of a Medieval Knight, highly detailed", "photo of a French Baker, warm light",
        "photo of a High Court Judge smiling", "office worker with ants on the desk", "a dog photographer at work")),
    *((prompt, "gender", False) for prompt in (
        "Harry Potter flying over a castle", "sherlock holmes in the rain", "an owl professor with glasses",
        "close-up of the long white beard of a wizard", "the moustache of a chef, macro photo")),
    ("a guy, line art", "age", True), ("camper tightening the guy lines of a tent", "gender", True),
    ("an old film director", "age", False), ("bartender stirring an old fashioned", "age", True),
    *((prompt, "age", False) for prompt in (
        "a 70-year-old farmer", "20yo dancer", "aged 60, a carpenter", "a nurse in her late thirties", "two tweens")),
    *((prompt, "gender", False) for prompt in ("a milkman", "an heiress", "a rubber band", "rihanna as a judge",
                                                   "a cat, sleeping on a sofa", "a fox looking at viewer",
                                                   "doctor poster", "a giant octopus")),
    *((prompt, "gender", True) for prompt in ("a freshman", "a human", "a window washer", "singing karaoke",
                                                  "poster of a doctor", "a hand holding a phone")),
    ("a Congolese teacher", "skin_tone", False), ("a french horn player", "skin_tone", True)])
def test_names_animals_idioms_and_what_belongs_to_whom(prompt, name, steered):
    """Trades in capitals were taken for names, and words anywhere in a prompt for idioms; a 70-year-old was given
    another age, and a milkman another gender."""
    entry, _ = entry_for(balanced(name), prompt)
    assert bool(entry.steerings[0].probabilities) == steered
