"""Infotexts, written and pasted: what an image says comes back, and anything else ends nothing."""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from webui_hosts import generate, on_hosts, ours
from webui_real import arrays
from webui_settings import DRAW, EVEN, PROMPT, debias, keys, payload, same, save_profile

from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.words import metadata

FOUR = dict(seed=20, batch_size=4)


def check_comes_again(host, batch, infotext):
    """The infotext of one of its images brings a batch again, bit by bit and word by word."""
    prompt = infotext.splitlines()[0]
    again = host.post("txt2img", payload(**FOUR, prompt=prompt, infotext=infotext))
    assert same(arrays(batch), arrays(again)) and again.infotexts == batch.infotexts


@on_hosts("prompt, given, alone", [
    (PROMPT, dict(strength=0.8), 2), ("a photo of a lawyer", dict(others="draw"), 0),
    ("a photo of a lawyer", dict(others="leave alone"), 4)])
def test_a_pasted_picture_that_was_left_alone_keeps_the_extension_on_and_its_batch_comes_again(
        host, prompt, given, alone):
    save_profile(host.profiles, steering=DRAW, spend="draw")
    batch = host.post("txt2img", payload(**FOUR, prompt=prompt, **debias(**given)))
    said = [keys(text) for text in batch.infotexts]
    assert ["Debias" in each for each in said].count(True) == alone
    assert all(each["Debias profile"] == "test" and each["Debias hash"] for each in said)
    assert ("Debias others" in said[0]) == (given.get("others") == "draw")
    check_comes_again(host, batch, max(batch.infotexts, key=lambda text: "Debias" in keys(text)))


def test_an_infotext_says_in_plain_words_what_was_done(a_double):
    """It said "push 1"; infotexts that do still bring their batch again."""
    save_profile(a_double.profiles, steering={**DRAW, "strength": 1.5})
    made = a_double.post("txt2img", payload(**FOUR, **debias()))
    said = next(text for text in made.infotexts if "Debias weights" in keys(text))
    weights = "50 % left alone, 50 % steered to woman, 1.5 times as strongly as usual"
    assert keys(said)["Debias weights"] == f"gender: {weights}"
    check_comes_again(a_double, made, said.replace(weights, "50 % alone, 50 % woman, push 1"))


def test_a_pasted_hash_finds_a_renamed_profile(a_double):
    save_profile(a_double.profiles)
    made = a_double.post("txt2img", payload(**debias()))
    (a_double.profiles / "test.json").rename(a_double.profiles / "renamed.json")
    assert same(arrays(made), generate(a_double, infotext=made.infotexts[0])[0])


def test_what_a_picture_s_infotext_says_is_found_once_and_is_nothing_before_the_sampling(
        a_double, monkeypatch):
    """A GPU waited 54 times for it: hosts ask for every key, for every image and the grid. A1111
    and Forge write params.txt before: it said that nothing was guided."""
    save_profile(a_double.profiles)
    asked, told = [], ours("run").Run._metadata
    monkeypatch.setattr(ours("run").Run, "_metadata", lambda run, p, place: (
        asked.append(place) or told(run, p, place)))
    generate(a_double, batch_size=2, n_iter=2, **debias())
    assert [asked.count(place) for place in (1, 2, 3)] == [1, 1, 1]
    assert keys(a_double.params_txt) == {}


def test_the_infotext_of_a_grid_says_how_many_of_its_images_were_steered(a_double):
    """Hosts write it below a batch. It was that of one image: "left alone by its draw", beside
    seven that were not."""
    def grid(q, **changes):
        save_profile(a_double.profiles, steering=DRAW | dict(probabilities=[1 - q, 0.0, q]))
        _, said = generate(a_double, batch_size=2, n_iter=2, seed=20, **{**debias(), **changes})
        return keys(a_double.grid_txt), said

    said, images = grid(0.5)
    steered = [one for one in images if "Debias" not in one]
    assert len(steered) == 2 and said == {"Debias": "2 of 4 images steered", **steered[0]}
    for q in (1.0, 0.0):
        said, images = grid(q)
        assert said == images[0] == images[3] and ("Debias weights" in said) == (q == 1.0)
    assert "'gone'" in grid(0.5, **debias(name="gone"))[0]["Debias failed"]
    assert grid(0.5, alwayson_scripts={})[0] == {}


def test_pictures_that_differ_by_their_variation_seeds_draw_by_these(a_double):
    """With Extra, the draw went by the main seed: eight different images were all sent alike."""
    save_profile(a_double.profiles, steering=DRAW)
    varied, plain = (["Debias sent to" in each for each in generate(a_double, **page, **debias())[1]]
                     for page in (dict(FOUR, seed=5, subseed=20, subseed_strength=0.5), FOUR))
    assert sum(varied) == 2 and varied == plain, "as main seeds of these numbers"


def test_a_batch_with_a_random_seed_is_four_and_four(host):
    """A seed of -1 could come out odd, and a batch of eight five and three."""
    save_profile(host.profiles, steering=EVEN)
    for _ in range(4):
        said = generate(host, seed=-1, batch_size=4, n_iter=2, **debias())[1]
        assert Counter(each["Debias sent to"] for each in said) == {"woman": 4, "man": 4}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ODD = TEXTS | st.sampled_from([
    "", " ", "nan", "-inf", "1e999", "9" * 400, "true", "None", "\0", "1,5", "0x10", "\u0661", "{}", '"'])
NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters='/\\:*?"<>|'), max_size=28).map(
    lambda name: f"a{name}z")
VALUES = st.fixed_dictionaries(dict(
    **{name: st.floats(low, high).map(lambda number: float(f"{number:g}"))  # as an infotext writes it
       for name, low, high in (("strength", 0.01, 10), ("start", 0, 0.5), ("end", 0.5, 1))}, hires=st.booleans(),
    direction=st.sampled_from(["as calibrated", "embedding"]),
    others=st.sampled_from(["leave alone", "draw"])))


@pytest.mark.slow
@examples(60)
@given(NAMES, TEXTS, VALUES, st.booleans())
def test_what_a_picture_says_comes_back_whatever_the_names_and_prompts(
        a_double, name, prompt, values, acted):
    arguments = ours("arguments").Arguments(True, name, **values)
    groups = [dict(name=prompt[:9].strip() or "x"), dict(name="wo, man: 5")]
    profile = Profile.from_dict(dict(
        schema="1.0", name=name, method={}, attributes=[dict(name='a, b: "c"', groups=groups)],
        entries=[dict(prompt=prompt, steerings=[dict(weights=[0.5, -0.5])])]))
    done = dict(acted=acted, steps=3, skipped=1)
    told = {**metadata(profile, prompt, done, arguments.strength, 5), **arguments.changed()}
    made = SimpleNamespace(seeds=[5], prompts=["x"], steps=20, sampler_name="Euler",
                           extra_generation_params=told)
    said = keys(a_double.infotext(made, 0))
    assert said == {key: str(value) for key, value in told.items()}
    own = {field: value for field, value in asdict(arguments).items() if field != "attributes"}
    assert {field: ours("pasting").pasted(field, said) for field in own} == own


@pytest.mark.slow
@examples(80)
@given(st.dictionaries(st.sampled_from([f"Debias {name}" for name in (
    "strength", "direction", "start", "end", "hires", "others", "hash", "prompt", "weights")]), ODD), ODD)
def test_a_hostile_infotext_gives_values_of_the_right_kind_and_ends_nothing(
        a_double, parameters, name):
    defaults, pasted = asdict(ours("arguments").Arguments()), ours("pasting").pasted
    assert not any(pasted(field, parameters) for field in defaults), "no profile is named"
    for field, default in defaults.items():
        value = pasted(field, {"Debias attributes": "age", **parameters, "Debias profile": name})
        assert type(value) is type(default)
        assert not isinstance(value, float) or math.isfinite(value)


def test_a_pasted_number_that_is_none_is_told_and_the_box_of_what_is_balanced_stays(a_double):
    pasted = ours("pasting").pasted
    assert pasted("strength", {"Debias profile": "x", "Debias strength": "much"}) == 1.0
    said, = a_double.reported
    assert "'Debias strength: much'" in said and "1.0" in said
    assert pasted("attributes", {"Debias profile": "x"}) is None
    own = {"Debias profile": "balance", "Debias attributes": "age"}
    assert pasted("attributes", own) == "age"
