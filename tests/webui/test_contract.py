"""What the accordion promises, on doubles of the hosts and on the real ones."""
from __future__ import annotations

import json

import pytest
from PIL import Image
from webui_real import arrays
from webui_settings import DIRECTIONS, PROMPT, apart, debias, keys, payload, same, save_profile

ROUNDING = 2  # of 255: batches are evaluated in another order of sums
DRAW = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)


def generate(host, **changes):
    result = host.post("txt2img", payload(**changes))
    return arrays(result), result.infotexts


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_profile_changes_the_picture_and_the_infotext_says_how(host, direction, sampler):
    save_profile(host.profiles, direction=direction)
    plain, _ = generate(host, sampler_name=sampler)
    guided, texts = generate(host, sampler_name=sampler, **debias())
    assert apart(plain, guided) > 8
    said = keys(texts[0])
    assert said["Debias profile"] == "test" and said["Debias weights"] == "gender: man 0, woman -1"
    assert len(said["Debias hash"]) == 12 and "Debias failed" not in said and "Debias" not in said


def test_off_and_strength_0_are_bit_identical_to_a_generation_without(host):
    save_profile(host.profiles, direction="embedding")
    plain, texts = generate(host)
    off, off_texts = generate(host, **debias(enabled=False))
    zero, zero_texts = generate(host, **debias(strength=0.0))
    assert same(plain, off) and same(plain, zero)
    assert keys(texts[0]) == keys(off_texts[0]) == {}
    said = keys(zero_texts[0])
    assert said["Debias"] == "not applied (the strength is 0)" and said["Debias strength"] == "0"
    assert "Debias weights" not in said


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_batch_is_its_singles(host, direction):
    draw = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)
    save_profile(host.profiles, direction=direction, steering=draw)
    batch, texts = generate(host, batch_size=2, n_iter=2, seed=20, **debias())
    singles = [generate(host, seed=20 + i, **debias()) for i in range(4)]
    assert apart(batch, [pictures[0] for pictures, _ in singles]) <= ROUNDING
    assert [keys(text) for text in texts] == [keys(own[0]) for _, own in singles]
    reasons = [keys(text).get("Debias") for text in texts]
    assert sorted(map(str, reasons)) == ["None"] * 2 + ["left alone by its draw"] * 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_and_parts_of_a_batch_keep_their_weights(host, direction):
    prompt = "a photo of a doctor :0.7 AND a red room :0.4 AND noise :-0.3"
    save_profile(host.profiles, direction=direction, prompts=(prompt,))
    batch, texts = generate(host, prompt=prompt, batch_size=2, **debias())
    singles = [generate(host, prompt=prompt, seed=5 + i, **debias())[0][0] for i in range(2)]
    assert apart(batch, singles) <= ROUNDING and apart(batch, generate(host, prompt=prompt, batch_size=2)[0]) > 2
    assert "Debias weights" in keys(texts[1])


@pytest.mark.parametrize("prompt, cfg_scale", [
    ("a photo of a doctor", 3.0), ("a photo of a doctor", 1.0), ("a photo of a doctor" + " very" * 69, 3.0),
    ("a red room :0.5 AND a photo of a doctor :0.7", 3.0)])
def test_a_push_by_predictions_around_the_prompt_is_the_one_by_the_group_s_text(host, prompt, cfg_scale):
    request = dict(prompt=prompt, cfg_scale=cfg_scale, batch_size=2)
    save_profile(host.profiles, direction="prediction", guidance=dict(anchor="prompt"), prompts=(prompt,))
    predictions, texts = generate(host, **request, **debias())
    save_profile(host.profiles, direction="embedding", guidance=dict(anchor="prompt", toward=True), prompts=(prompt,))
    assert "Debias weights" in keys(texts[0]) and apart(predictions, generate(host, **request)[0]) > 2
    assert apart(predictions, generate(host, **request, **debias())[0]) <= ROUNDING


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_image_left_alone_is_bit_identical_to_none(host, direction):
    save_profile(host.profiles, direction=direction, steering=dict(weights=[0, 0], probabilities=[1.0, 0.0, 0.0]))
    assert same(generate(host)[0], generate(host, **debias())[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("prompt", [
    "a photo of a doctor AND a red room :0.5", "[a photo:a drawing:0.5] of a doctor", "(a doctor:1.2), photo",
    "a doctor, " + "very " * 80 + "busy", "a doctor, " + "busy, " * 37])
def test_prompt_syntax(host, direction, prompt):
    save_profile(host.profiles, direction=direction, prompts=(prompt,))
    plain, _ = generate(host, prompt=prompt)
    guided, texts = generate(host, prompt=prompt, **debias())
    assert apart(plain, guided) > 2, texts
    assert "Debias weights" in keys(texts[0]) and "Debias prompt" not in keys(texts[0])


@pytest.mark.parametrize("words", [60, 73, 74])
def test_texts_of_a_batch_that_differ_in_length_do_not_lengthen_each_other(host, words):
    """A chunk of the text holds 75 tokens: with 73 or 74 the groups' words open a second one."""
    prompt = "a photo of a doctor" + " very" * (words - 5)
    draw = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)
    save_profile(host.profiles, steering=draw, prompts=(prompt,))
    batch = dict(batch_size=4, seed=20)
    plain, _ = generate(host, prompt=prompt, **batch)
    own, _ = generate(host, prompt=f"{prompt}, a woman", **batch)
    guided, texts = generate(host, prompt=prompt, **batch, **debias())
    alone = [keys(text).get("Debias") == "left alone by its draw" for text in texts]
    assert sum(alone) == 2 and all("Debias failed" not in keys(text) for text in texts)
    for i, left in enumerate(alone):
        assert (apart(plain[i:i + 1], guided[i:i + 1]) == 0) == left
        assert left or apart(own[i:i + 1], guided[i:i + 1]) <= ROUNDING


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_long_negative_prompt(host, direction):
    save_profile(host.profiles, direction=direction)
    long = dict(negative_prompt="blurry, " * 90)
    plain, _ = generate(host, **long)
    guided, texts = generate(host, **long, **debias())
    assert apart(plain, guided) > 2 and "Debias weights" in keys(texts[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_hires_pass(host, direction):
    save_profile(host.profiles, direction=direction)
    hires = dict(enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.7, hr_cfg=3.0)
    plain, _ = generate(host, **hires)
    guided, texts = generate(host, **hires, **debias())
    first_only, first_texts = generate(host, **hires, **debias(hires=False))
    assert apart(plain, guided) > 8 and apart(guided, first_only) > 2 and apart(plain, first_only) > 0
    assert "Debias hires" not in keys(texts[0]) and keys(first_texts[0])["Debias hires"] == "False"
    assert same(guided, generate(host, **hires, **debias())[0])


def test_a_hires_prompt_of_its_own_is_looked_up_by_its_own_words(host):
    """It names a man, so the second pass is left alone."""
    save_profile(host.profiles)
    hires = dict(enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.7, hr_cfg=3.0)
    own = dict(hires, hr_prompt="a photo of a doctor, a man")
    first_only = generate(host, **own, **debias(hires=False))[0]
    assert same(generate(host, **own, **debias())[0], first_only)
    assert not same(generate(host, **hires, **debias())[0], generate(host, **hires, **debias(hires=False))[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_img2img_and_inpainting(host, direction):
    save_profile(host.profiles, direction=direction)
    start = Image.new("RGB", (64, 64), "gray")
    changes = dict(init_images=[start], denoising_strength=0.9)
    for more in ({}, dict(mask=Image.new("L", (64, 64), 255), inpainting_fill=1, inpaint_full_res=False)):
        plain = host.post("img2img", payload(**changes, **more))
        guided = host.post("img2img", payload(**changes, **more, **debias()))
        assert apart(arrays(plain), arrays(guided)) > 2
        assert "Debias weights" in keys(guided.infotexts[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cfg_1(host, direction):
    """Without a negative prompt the prompt is the baseline, or the empty text."""
    draw = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)
    save_profile(host.profiles, direction=direction, steering=draw)
    batch = dict(cfg_scale=1, batch_size=4, seed=20)
    plain, _ = generate(host, **batch)
    guided, texts = generate(host, **batch, **debias())
    alone = [keys(text).get("Debias") == "left alone by its draw" for text in texts]
    assert sum(alone) == 2 and all(("Debias weights" in keys(text)) != left for text, left in zip(texts, alone))
    assert [apart(plain[i:i + 1], guided[i:i + 1]) == 0 for i in range(4)] == alone


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_steps_without_negative_prompt_are_left_alone_and_counted(host, direction):
    if host.forge:
        pytest.skip("Forge evaluates the negative prompt in every step")
    save_profile(host.profiles, direction=direction)
    skipping = dict(s_min_uncond=20.0)  # as a setting, the host would keep it after this generation
    plain, _ = generate(host, **skipping)
    guided, texts = generate(host, **skipping, **debias())
    assert apart(plain, guided) > 2
    said = keys(texts[0]).get("Debias without negative")
    assert said is None if direction == "prompt" else said.startswith("3 steps")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_window_limits_guidance(host, direction):
    save_profile(host.profiles, direction=direction)
    whole, _ = generate(host, **debias())
    part, texts = generate(host, **debias(start=0.5, end=0.9))
    none, none_texts = generate(host, **debias(start=0.5, end=0.5))
    assert apart(whole, part) > 0 and same(none, generate(host)[0])
    assert keys(texts[0])["Debias start"] == "0.5" and keys(texts[0])["Debias end"] == "0.9"
    said = keys(none_texts[0])
    assert said["Debias"] == "not applied (no step lies in the guidance window)" and "Debias weights" not in said


def test_replaying_the_infotext_gives_the_same_picture(host):
    save_profile(host.profiles, direction="prompt")
    first, texts = generate(host, **debias(strength=0.8, direction="embedding", start=0.1, hires=False))
    again, again_texts = generate(host, infotext=texts[0])
    assert same(first, again) and keys(texts[0]) == keys(again_texts[0])
    assert keys(texts[0])["Debias strength"] == "0.8" and keys(texts[0])["Debias direction"] == "embedding"


def test_replaying_a_plain_infotext_switches_it_off(host):
    save_profile(host.profiles)
    first, texts = generate(host)
    assert same(first, generate(host, infotext=texts[0], **debias(enabled=None))[0])


def test_metadata_names_another_prompt_and_setting(host):
    save_profile(host.profiles, setting=dict(steps=30, cfg=3.0))
    plain, _ = generate(host, prompt="a photo of a nurse")
    pictures, texts = generate(host, prompt="a photo of a nurse", **debias())
    assert same(plain, pictures)
    assert keys(texts[0])["Debias"] == "not applied (this prompt was not calibrated, so it is left alone)"
    pictures, texts = generate(host, prompt="a photo of a nurse", **debias(others="draw"))
    said = keys(texts[0])
    assert not same(plain, pictures) and said["Debias others"] == "draw"
    assert "was not calibrated" in said["Debias prompt"]
    assert said["Debias setting"] == "steps: calibrated at 30, used at 6"


@pytest.mark.parametrize("args", [
    [], [True], [True, "test"], [True, "test", 1.0, "as calibrated", 0.0, 1.0, True, "draw", 7, 8]])
def test_api_with_few_and_many_arguments(host, args):
    save_profile(host.profiles)
    plain, _ = generate(host)
    pictures, texts = generate(host, **debias(*args) if args else {"alwayson_scripts": {"Debias": {"args": []}}})
    said = keys(texts[0])
    if not args:
        assert same(plain, pictures) and said == {}
    elif len(args) == 1:
        assert same(plain, pictures) and said["Debias failed"].startswith("No profile is chosen")
    else:
        assert not same(plain, pictures) and "Debias weights" in said


@pytest.mark.parametrize("given, expected", [
    (dict(name="absent"), "There is no profile 'absent'"), (dict(name="../test"), "without slashes"),
    (dict(name="corrupt"), "is not readable JSON"), (dict(name="foreign"), "not a profile of sd-debias"),
    (dict(name="sd3"), "calibrated with the text encoder SD3ClipModel, but this model has sd"),
    (dict(strength="a lot"), "Expected strength to be a finite number, got 'a lot'"),
    (dict(enabled="yes"), "Expected enabled to be true or false"), (dict(name=7), "Expected profile to be a text"),
    (dict(start=0.9, end=0.1), "0 <= start <= end <= 1"), (dict(start=-1.0), "0 <= start <= end <= 1"),
    (dict(direction="sideways"), "Expected direction to be")])
def test_bad_input_is_named_and_the_picture_is_not_claimed_debiased(host, given, expected):
    save_profile(host.profiles)
    (host.profiles / "corrupt.json").write_text('{"schema": "1.0", "entr')
    (host.profiles / "foreign.json").write_text(json.dumps({"a": 1}))
    save_profile(host.profiles, "sd3", setting=dict(text_encoder="SD3ClipModel"))
    pictures, texts = generate(host, **debias(**given))
    said = keys(texts[0])
    assert list(said) == ["Debias failed"] and expected in said["Debias failed"]
    assert same(pictures, generate(host)[0])


def test_three_groups_and_two_prompts_in_one_batch(host):
    save_profile(host.profiles, direction="embedding", groups=("man", "woman", "person"), prompts=(PROMPT, "a nurse"))
    _, texts = generate(host, **debias())
    assert keys(texts[0])["Debias weights"] == "gender: man 0, woman -1, person -1"


def test_the_doctor_says_that_guidance_works_and_leaves_nothing_behind(host):
    plain, _ = generate(host)
    result = host.post("txt2img", payload(script_name="Debias: doctor", script_args=["a photo of a nurse", "prompt"]))
    text = result.infotexts[0] if result.infotexts else result.info
    assert "Guidance works on this model." in text and "NO  " not in text, text
    assert "of the group's own text, 'a photo of a nurse, a" in text
    assert same(plain, generate(host)[0])
