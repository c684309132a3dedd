"""Edits by instruction ("a photo of a doctor"), balanced by `applied`: what they make is the group's own text."""
import diffusers
import numpy as np
import pytest
import tiny_llm
import tiny_pipelines
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image

from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for
from sd_debias.diffusers_host.applied import applied
from sd_debias.diffusers_host.generate import generate

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
SIZE = dict(height=16, width=16)
SEEDS = [4, 5, 6]  # two groups among them
EDITS = {
    "kontext": (lambda: diffusers.FluxKontextPipeline(**tiny_pipelines.flux().components),
                SIZE | dict(max_sequence_length=32, max_area=256, _auto_resize=False)),
    "klein": (tiny_llm.flux2_klein, SIZE | dict(max_sequence_length=128)),
    "flux2": (tiny_llm.flux2, SIZE | dict(max_sequence_length=320)),
    "qwen": (lambda: tiny_llm.qwen_image_edit(diffusers.QwenImageEditPipeline), dict(true_cfg_scale=4.0)),
    "qwen plus": (lambda: tiny_llm.qwen_image_edit(diffusers.QwenImageEditPlusPipeline), dict(true_cfg_scale=4.0)),
}


@pytest.fixture(params=EDITS)
def edit(request, monkeypatch):
    """(the pipeline, its call); Qwen's would first scale the photo to a megapixel."""
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (16, 16, None))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda area, ratio: (16, 16))
    make, call = EDITS[request.param]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe, dict(call, image=PHOTO, num_inference_steps=2, output_type="np")


def generators(seeds=SEEDS):
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def by_hand(pipe, call, text, seed):
    negative = dict(negative_prompt="blurry") if "true_cfg_scale" in call else {}
    return pipe(prompt=text, generator=generators([seed]), **call, **negative).images[0]


def test_each_edited_image_is_its_groups_own_text_and_shows_the_photo(edit):
    pipe, call = edit
    negative = dict(negative_prompt="blurry") if "true_cfg_scale" in call else {}
    profile, prompt = balanced("gender"), "a doctor"
    entry = entry_for(profile, prompt)[0]
    drawn = entry.steerings[0].draws(SEEDS)
    texts = {1: f"{prompt}, a man", 2: f"{prompt}, a woman"}
    expected = np.stack([by_hand(pipe, call, texts[group], seed) for seed, group in zip(SEEDS, drawn)])
    with applied(pipe, profile):
        made = pipe(prompt=prompt, num_images_per_prompt=3, generator=generators(), **call, **negative).images
    white = call | dict(image=Image.new("RGB", (64, 64), "white"))
    by_photo = np.abs(by_hand(pipe, white, texts[drawn[0]], SEEDS[0]) - expected[0]).max()
    by_text = np.abs(by_hand(pipe, call, texts[3 - drawn[0]], SEEDS[0]) - expected[0]).max()
    assert sorted(set(drawn)) == [1, 2] and np.abs(made - expected).max() < min(by_photo, by_text) / 10
    pixels, info = generate(pipe, prompt, SEEDS, attributes=profile.attributes, steerings=entry.steerings,
                            **{name: value for name, value in call.items() if name != "output_type"}, **negative)
    assert info["acted"] and np.abs(pixels / 255 - expected).max() < 1 / 255


def test_an_edit_whose_words_name_a_group_is_left_alone_bit_by_bit(edit):
    pipe, call = edit
    plain = pipe(prompt="a woman", generator=generators([3]), **call).images
    with applied(pipe, balanced("gender")):
        assert (pipe(prompt="a woman", generator=generators([3]), **call).images == plain).all()
