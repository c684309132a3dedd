"""Weights that are predicted from the first steps, in ComfyUI."""
from dataclasses import replace

import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.first_steps import on_simplex
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.direction import group_texts
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Entry, Profile

PROMPT, SEEDS = "a photo of a singer", range(3)
CALIBRATED = [f"a photo of a {subject}" for subject in ("doctor", "pilot", "teacher", "cook")]
SETTING = dict(steps=2, cfg=3.0, sampler="euler", scheduler="normal", width=64, height=64, negative_prompt="")


@pytest.fixture
def profile():
    entries = tuple(Entry(prompt, (Steering((0.0, 0.0), (0.5, 0.0, 0.5)),)) for prompt in CALIBRATED)
    return Profile("four", METHODS["default"], (GENDER,), entries, dict(SETTING, sampler="DPM++ 2M"), "a test", "", "")


@pytest.fixture
def few(monkeypatch):
    """Fewer pictures than a user's."""
    from sd_debias.nodes import first_steps
    monkeypatch.setattr(first_steps, "SEEDS", SEEDS)
    return first_steps


@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_shares_are_those_of_the_texts_evaluated_one_by_one(demo, sample, few, cfg):
    import comfy.sample
    model, clip, _ = demo

    def x0(text):
        """The prediction [B, ...] of the first step for a text by itself."""
        seen, noise = [], torch.cat([comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), seed) for seed in SEEDS])
        with torch.inference_mode():
            comfy.sample.sample(model, noise, 2, 1.0, "euler", "normal", sample.encode(text), sample.encode(""),
                                torch.zeros(len(SEEDS), 4, 8, 8), denoise=1.0, disable_pbar=True, seed=0,
                                callback=lambda step, x0, x, total: seen.append(x0.clone()))
        return seen[0].flatten(1).double()

    groups = torch.stack([torch.stack([x0(text) for text in group_texts(group.texts, PROMPT)]).mean(0)
                          for group in GENDER.groups if len(group.texts) == 1], dim=1)
    mean = groups.mean(1, keepdim=True)
    own, other = groups - mean, x0(PROMPT)[:, None] - mean
    expected = on_simplex((own @ own.mT).sum(0).numpy(), (own @ other.mT).sum(0)[:, 0].numpy())
    with torch.inference_mode():
        found, = few.first_shares(model, clip, PROMPT, [GENDER], {**SETTING, "cfg": cfg})
    assert found == pytest.approx(expected, abs=2e-3) and 0 < min(expected)


def test_a_new_prompt_gets_predicted_weights_and_reads_calibrated_prompts_once(demo, call, said, few, profile,
                                                                               monkeypatch):
    from sd_debias.nodes.apply import DebiasApply
    read, shares_of = [], few.first_shares
    monkeypatch.setattr(few, "first_shares", lambda *a: read.append(a[2]) or shares_of(*a))

    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "one.safetensors"}}
    graph = {"1": {"class_type": "DebiasApply", "inputs": {"model": ["2", 0], "clip": ["2", 1]}}, "2": loader}

    def apply(text, graph=graph):
        return call(DebiasApply, model=demo[0], clip=demo[1], profile=profile, text=text, other_prompts="predict",
                    graph=graph, own="1")[0]

    apply(CALIBRATED[0])
    assert read == []  # it has its own weights
    apply(PROMPT)
    assert read == [*CALIBRATED, PROMPT]
    assert any(f"Reading the first steps of '{PROMPT}'" in text and "about 23 images" in text for text, _ in said)
    apply("a photo of a guard")
    apply(PROMPT)  # another node, or the host started again
    assert read == [*CALIBRATED, PROMPT, "a photo of a guard"]
    apply(PROMPT, {**graph, "2": {**loader, "inputs": {"ckpt_name": "another.safetensors"}}})
    assert read[6:] == [*CALIBRATED, PROMPT], "another model shows others"
    apply(PROMPT, {})
    assert read[11:] == [*CALIBRATED, PROMPT], "nothing tells the model, so nothing is taken from a file"


def test_what_was_predicted_is_said_and_acts(demo, call, said, few, profile, sample):
    from sd_debias.nodes.apply import DebiasApply
    patched, = call(DebiasApply, model=demo[0], clip=demo[1], profile=profile, text=PROMPT, other_prompts="predict")
    plain, guided = sample(demo[0], PROMPT, batch=8), sample(patched, PROMPT, batch=8)
    moved = (plain - guided).abs().flatten(1).amax(1) > 1e-3
    assert 0 < moved.sum() < 8  # half of the pictures, as of all calibrated prompts
    assert any("its weights are predicted from 4 calibrated prompts" in text for text, warning in said if warning)


def test_too_few_calibrated_prompts_are_refused_before_anything_is_sampled(demo, call, few, profile, monkeypatch):
    from sd_debias.nodes.apply import DebiasApply
    monkeypatch.setattr(few, "first_shares", None)
    one = replace(profile, entries=profile.entries[:1])
    with pytest.raises(DebiasError, match="needs 4 calibrated prompts, but 'four' has 1"):
        call(DebiasApply, model=demo[0], clip=demo[1], profile=one, text=PROMPT, other_prompts="predict")


def test_debias_text_encode_predicts_what_debias_apply_predicts(demo, call, said, few, profile, sample):
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.text_encode import DebiasTextEncode
    model, clip, _ = demo
    asked = dict(profile=profile, text=PROMPT, other_prompts="predict")
    shifted, = call(DebiasTextEncode, clip=clip, model=model, seed=0, batch_size=8, **asked)
    assert any("its weights are predicted from 4 calibrated prompts" in text for text, _ in said)
    patched, = call(DebiasApply, model=model, clip=clip, **asked)
    plain, guided = sample(model, PROMPT, batch=8), sample(patched, PROMPT, batch=8)
    by_text = sample(model, shifted, batch=8)
    assert (by_text - guided).abs().max() < 1e-4 < (by_text - plain).abs().max()


def test_predict_without_a_model_is_refused_only_where_it_is_needed(call, demo, few, profile):
    from sd_debias.nodes.text_encode import DebiasTextEncode
    asked = dict(clip=demo[1], profile=profile, other_prompts="predict")
    with pytest.raises(DebiasError, match="no model is wired. Wire the model to 'model'"):
        call(DebiasTextEncode, text=PROMPT, **asked)
    assert call(DebiasTextEncode, text=CALIBRATED[0], **asked)[0]


def test_a_text_that_is_known_only_as_the_sampler_runs_is_read_there(demo, said, few, profile, sample):
    from sd_debias.core.profile.lookup import with_others
    from sd_debias.nodes.apply import Application
    from sd_debias.nodes.guidance import GuidedSampling
    model, clip, _ = demo
    asked = with_others(profile, "predict")
    applied = Application(model, clip, asked, asked.method, 1.0, CALIBRATED[0], {}, None, {})
    guide = GuidedSampling(applied.encoded, asked.attributes, asked.method, applied.weights, applied.done)
    patched = guide.patch(model)
    applied.text = PROMPT
    plain, guided = sample(model, PROMPT, batch=8), sample(patched, PROMPT, batch=8)
    assert 0 < ((plain - guided).abs().flatten(1).amax(1) > 1e-3).sum() < 8
    assert any("its weights are predicted from 4 calibrated prompts" in text for text, warning in said if warning)


def test_a_profile_without_a_size_is_read_at_the_models_own_and_not_at_512_for_minutes(demo, few, profile):
    import dataclasses
    import types
    sizeless = dataclasses.replace(profile, setting={**profile.setting, "width": None, "height": None})
    small = types.SimpleNamespace(model=types.SimpleNamespace(debias_side=64))
    other = types.SimpleNamespace(model=types.SimpleNamespace())
    assert [few.setting_of(sizeless, model)["width"] for model in (small, other)] == [64, few.SIDE]
    sized = dataclasses.replace(profile, setting={**profile.setting, "width": 96, "height": 128})
    assert (few.setting_of(sized, small)["width"], few.setting_of(sized, small)["height"]) == (96, 128)
