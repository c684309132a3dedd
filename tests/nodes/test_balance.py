"""Debias Balance: attributes with shares, in ComfyUI's sampling."""
import pytest
import torch

from sd_debias.core.errors import DebiasError
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for


@pytest.fixture
def balance(demo, call):
    from sd_debias.nodes.balance import DebiasBalance

    def balance(attributes, prompt, **inputs):
        return call(DebiasBalance, model=demo[0], clip=demo[1], attributes=attributes, text=prompt, **inputs)[0]
    return balance


def test_each_picture_is_its_group_s_own_text_and_four_of_eight_are_women(demo, balance, sample):
    prompt = "a photo of a doctor"
    made = sample(balance("gender = 50:50", prompt), seed=4, batch=8, steps=2)
    drawn = entry_for(balanced("gender"), prompt)[0].steerings[0].draws(range(4, 12))
    assert sorted(drawn) == [1] * 4 + [2] * 4
    texts = [sample(demo[0], positive=sample.encode(f"{prompt}, {text}"), seed=4, batch=8, steps=2)
             for text in ("a man", "a woman")]
    for place, group in enumerate(drawn):
        assert torch.allclose(made[place], texts[group - 1][place], atol=1e-4)


def test_it_says_what_a_calibration_would_do_better_and_hands_the_attributes_on(demo, call, sample, said):
    from sd_debias.nodes.balance import DebiasBalance
    model, attributes = call(DebiasBalance, model=demo[0], clip=demo[1], attributes="gender = 60:40", text="a doctor")
    sample(model, seed=4, batch=2, steps=2)
    assert "calibrate (about 190 images)" in said[-1][0] and attributes[0].target == (0.6, 0.4)


def test_of_several_attributes_each_is_counted_by_itself(balance, sample, said):
    """It said "2 to man, olive, 1 to woman, tan, 1 to woman, fair"."""
    sample(balance("gender\nage = 1:1:2", "a doctor"), seed=4, batch=8, steps=2)
    text = said[-1][0]
    assert "4 to man, 4 to woman; " in text or "4 to woman, 4 to man; " in text
    assert text.count("to old") == text.count("to young") == 1


def test_a_prompt_that_shows_nobody_is_left_alone_and_the_weather_is_not(demo, balance, sample, said):
    plain = sample(demo[0], seed=4, batch=2, steps=2)
    assert torch.equal(sample(balance("gender", "a red car"), seed=4, batch=2, steps=2), plain)
    assert "no word for a person" in said[-1][0]
    assert not torch.equal(sample(balance("weather", "a red car"), seed=4, batch=2, steps=2), plain)


def test_without_an_attribute_or_a_text_it_says_what_to_do(balance, sample):
    with pytest.raises(DebiasError, match="gender = 50:50"):
        balance("  ", "a doctor")
    with pytest.raises(DebiasError, match="'text'"):
        sample(balance("gender", ""), steps=2)
