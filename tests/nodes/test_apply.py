"""Debias Apply, Debias Text Encode and Debias Balance, over the real host and its double."""
import math

import pytest
import torch
from nodes_given import DRAWING, PROMPT, ours, profile

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import Method


@pytest.fixture
def use(call):
    """use("apply" or "text encode", profile, **inputs) -> the model or the conditioning."""
    def use(node, applied=None, **inputs):
        inputs = dict(profile=applied or profile()) | inputs
        if node == "apply":
            return call("DebiasApply", **inputs)[0]
        return call("DebiasTextEncode", **dict(text=PROMPT) | inputs)[0]
    return use


def test_strength_0_hands_the_very_model_and_clips_own_text_on(demo, use, sample):
    assert use("apply", strength=0.0) is demo[0]
    found = use("text encode", strength=0.0)
    with torch.inference_mode():
        plain = sample.encode(PROMPT)
    assert torch.equal(found[0][0], plain[0][0]) and found[0][1].keys() == plain[0][1].keys()


def test_image_i_of_a_batch_counts_as_seed_xor_i_in_both_nodes(demo, use, sample):
    model, patched = demo[0], use("apply", profile(DRAWING))

    def changed(seed, batch):
        found, plain = (sample(each, seed=seed, batch=batch, steps=2) for each in (patched, model))
        return ((found - plain).abs().amax((1, 2, 3)) > 1e-3).tolist()

    drawn = list(map(bool, DRAWING.draws([4, 5])))
    assert changed(4, 2) == [*changed(4, 1), *changed(5, 1)] == drawn
    positive = use("text encode", profile(DRAWING), seed=4, batch_size=2)
    assert positive[0][0].shape[0] == 2
    assert torch.allclose(sample(model, positive=positive, seed=4, steps=2),
                          sample(patched, seed=4, steps=2), atol=1e-5)


def test_a_run_says_what_it_did_and_in_which_setting(use, said, sample):
    sample(use("apply", direction="embedding"), cfg=3.0)
    text, warning = said[-1]
    assert warning and "2 of 2 images steered" in text
    assert "cfg: calibrated at 2.0, used at 3.0" in text


OTHER = profile(text_encoder="SDXLClipModel")
SEVERAL = profile(prompts=(PROMPT, "a photo of a nurse"))


@pytest.mark.parametrize("node, applied, inputs, fact", [
    ("apply", None, dict(clip=None), "text encoder"),
    ("apply", SEVERAL, {}, "2 prompts"),
    *((node, OTHER, {}, "SDXLClipModel.* SD1ClipModel") for node in ("apply", "text encode")),
    # What is wired into a widget, the host holds to no range.
    *((node, None, dict(strength=strength), "strength from 0") for node, strength in (
        ("apply", math.nan), ("apply", 1e30), ("text encode", math.inf), ("text encode", -1.0))),
    *(("text encode", None, dict(batch_size=size), "1 to 4096") for size in (0, -1, 2**31, 2**70))])
def test_what_cannot_be_applied_is_refused(use, node, applied, inputs, fact):
    with pytest.raises(DebiasError, match=fact):
        use(node, applied, **inputs)


@pytest.mark.parametrize("node, name, differs", [
    ("apply", "sd1", False), ("text encode", "SD1ClipModel", False),
    ("apply", "OtherClipModel", True), ("text encode", "OtherClipModel", True)])
def test_the_name_of_a_text_encoder_is_compared_by_family(use, said, sample, node, name, differs):
    made = use(node, profile(text_encoder=name))
    if node == "apply":
        sample(made, steps=1)  # it says what differs after the run
    assert (f"text encoder: calibrated at {name}" in said[-1][0]) == differs


# --- text encode --------------------------------------------------------------------------------

def test_both_with_one_profile_is_noticed(demo, use, said, sample):
    one = profile()  # made twice, it would differ in the second of its creation
    patched, positive = use("apply", one), use("text encode", one)
    assert torch.equal(sample(patched, positive=positive), sample(demo[0], positive=positive))
    assert "has applied this profile" in said[-1][0] and said[-1][1]


def test_a_longer_prompt_is_shifted_over_its_own_tokens(demo):
    """A conditioning of two chunks and groups of one: what is not moved stays as it was."""
    entry, context = dict(cross_attn=torch.randn(1, 154, 56)), Method().context
    with torch.inference_mode():
        encoded = ours.conditioning.encode_all(demo[1], PROMPT, (GENDER,), context)
        (found,), apart = ours.conditioning.shift([entry], [(encoded, torch.tensor([[0.0, -1.0], [0.0, 0.0]]))],
                                                  (GENDER,), context)
    moved, own = found["cross_attn"], entry["cross_attn"][0]
    assert moved.shape == (2, 154, 56) and not apart and torch.equal(moved[1], own)
    assert torch.equal(moved[0, 77:], own[77:]) and not torch.equal(moved[0, :77], own[:77])


# --- balance ------------------------------------------------------------------------------------

@pytest.fixture
def balance(call):
    return lambda attributes, prompt: call("DebiasBalance", attributes=attributes, text=prompt)


def test_it_says_what_a_calibration_would_do_better_and_hands_the_attributes_on(
        balance, sample, said):
    model, attributes = balance("gender = 60:40", "a doctor")
    sample(model, seed=4, steps=2)
    assert "calibrate (about 200 images)" in said[-1][0] and attributes[0].target == (0.6, 0.4)


def test_of_several_attributes_each_is_counted_by_itself(balance, sample, said):
    """It said "2 to man, olive, 1 to woman, tan, 1 to woman, fair"."""
    sample(balance("gender\nage = 1:1:2", "a doctor")[0], seed=4, batch=8, steps=2)
    text = said[-1][0]
    assert "4 to man, 4 to woman; " in text or "4 to woman, 4 to man; " in text
    assert text.count("to old") == text.count("to young") == 1


def test_a_prompt_that_shows_nobody_is_left_alone_and_the_weather_is_not(
        demo, balance, sample, said):
    plain, people, weather = (sample(model, seed=4, steps=2) for model in (
        demo[0], balance("gender", "a red car")[0], balance("weather", "a red car")[0]))
    assert torch.equal(people, plain) and not torch.equal(weather, plain)
    assert any("no word for a person" in text for text, _ in said)


def test_without_an_attribute_or_a_text_it_says_what_to_do(balance, sample):
    with pytest.raises(DebiasError, match="gender = 50:50"):
        balance("  ", "a doctor")
    with pytest.raises(DebiasError, match="'text'"):
        sample(balance("gender", "")[0], steps=2)
