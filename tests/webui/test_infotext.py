"""Infotexts that are pasted: what a picture says comes back, and anything else ends nothing."""
from __future__ import annotations

import math
import re
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from webui_settings import PROMPT, debias, keys, payload, save_profile

hypothesis = pytest.importorskip("hypothesis", reason="comes with the extra 'test', not with a host")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from properties import examples  # noqa: E402

from sd_debias.core.errors import DebiasError  # noqa: E402
from sd_debias.core.files import safe_name  # noqa: E402
from sd_debias.core.profile.file import Profile  # noqa: E402
from sd_debias.core.profile.words import metadata  # noqa: E402


def ours(name: str):
    """A module of the extension as the double loaded it."""
    return next(module for key, module in sys.modules.items() if re.fullmatch(
        rf"sd_debias\w*\.webui_extension\.{name}", key))


def safe(name: str) -> bool:
    try:
        return bool(safe_name(name))
    except DebiasError:
        return False


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
def numbers(low: float, high: float):
    """Numbers as an infotext writes them."""
    return st.floats(low, high).map(lambda number: float(f"{number:g}"))


VALUES = st.fixed_dictionaries(dict(
    strength=numbers(0.01, 10), start=numbers(0, 0.5), end=numbers(0.5, 1), hires=st.booleans(),
    direction=st.sampled_from(["as calibrated", "embedding", "prediction"]),
    others=st.sampled_from(["leave alone", "draw"])))


@examples(60)
@given(TEXTS.filter(safe), TEXTS, VALUES, st.booleans())
def test_what_a_picture_says_comes_back_whatever_the_names_and_prompts(a_double, name, prompt, values, acted):
    arguments = ours("arguments").Arguments(True, name, **values)
    profile = Profile.from_dict(dict(
        schema="1.0", name=name, method={}, entries=[dict(prompt=prompt, steerings=[dict(weights=[0.5, -0.5])])],
        attributes=[dict(name="a, b: \"c\"", groups=[dict(name=prompt[:9].strip() or "x"), dict(name="wo, man: 5")])]))
    told = metadata(profile, prompt, dict(acted=acted, steps=3, skipped=1), arguments.strength, 5)
    made = SimpleNamespace(seeds=[5], prompts=["x"], steps=20, sampler_name="Euler",
                           extra_generation_params={**told, **arguments.changed()})
    said = keys(a_double.infotext(made, 0))
    assert said == {key: str(value) for key, value in {**told, **arguments.changed()}.items()}
    pasted = ours("pasting").pasted
    assert {field: pasted(field, said) for field in asdict(arguments)} == asdict(arguments)


def test_the_infotext_of_a_grid_says_how_many_of_its_images_were_steered(a_double):
    """Hosts write it below a batch. It was that of one image: "left alone by its draw", beside seven that were not."""
    def grid(q, **changes):
        save_profile(a_double.profiles, steering=dict(weights=[0, 0], probabilities=[1 - q, 0.0, q], strength=1.0))
        result = a_double.post("txt2img", payload(batch_size=2, n_iter=2, seed=20, **{**debias(), **changes}))
        return keys(a_double.grid_txt), [keys(text) for text in result.infotexts]

    said, images = grid(0.5)
    steered = [one for one in images if "Debias" not in one]
    assert len(steered) == 2 and said == {"Debias": "2 of 4 images steered", **steered[0]}
    said, images = grid(1.0)
    assert said == images[0] == images[3] and "Debias weights" in said
    said, images = grid(0.0)
    assert said == images[0] and "Debias weights" not in said
    assert "no profile" in grid(0.5, **debias(name="gone"))[0]["Debias failed"]
    assert grid(0.5, alwayson_scripts={})[0] == {}


ODD = st.sampled_from([
    "", " ", "nan", "-inf", "1e999", "9" * 400, "true", "None", "\0", "1,5", "0x10", "\u0661", "{}", '"'])


@examples(80)
@given(st.dictionaries(st.sampled_from([f"Debias {name}" for name in (
    "strength", "direction", "start", "end", "hires", "others", "hash", "prompt", "weights")]), ODD | TEXTS),
    ODD | TEXTS)
def test_a_hostile_infotext_gives_values_of_the_right_kind_and_ends_nothing(a_double, parameters, name):
    defaults, pasted = asdict(ours("arguments").Arguments()), ours("pasting").pasted
    assert not any(pasted(field, parameters) for field in defaults), "no profile is named"
    for field, default in defaults.items():
        value = pasted(field, {**parameters, "Debias profile": name})
        assert type(value) is type(default) and (not isinstance(value, float) or math.isfinite(value))


def test_a_pasted_number_that_is_none_is_told_in_the_log_and_its_default_taken(a_double):
    pasted = ours("pasting").pasted
    assert pasted("strength", {"Debias profile": "x", "Debias strength": "much"}) == 1.0
    said, = a_double.reported
    assert "'Debias strength: much'" in said and "1.0 is taken" in said


def test_the_words_that_choose_nothing_in_the_lists_are_no_names(a_double):
    save_profile(a_double.profiles)
    with pytest.raises(ValueError, match="chooses no profile"):
        ours("profiles").new_name("None")
    with pytest.raises(ValueError, match="chooses no check"):
        ours("checks").new_name("none")
    arguments = [["gender"], "", "", 20, 2, 20, 0.0, 0.0, "default", *["as the method says"] * 3, "", "None", False, False]
    with pytest.raises(ValueError, match="chooses no profile"):
        a_double.post("txt2img", dict(prompt=PROMPT, script_name="Debias: calibrate (IDA)", script_args=arguments))
    assert not (a_double.profiles / "None.json").exists()


@pytest.mark.parametrize("strength", [10**400, -10**400, math.nan, math.inf, True, "1"])
def test_a_number_without_end_over_the_api_is_refused_in_a_sentence(a_double, strength):
    with pytest.raises(ValueError, match="Expected strength to be a finite number"):
        ours("arguments").Arguments.read([True, "x", strength])
