"""Uncalibrated prompts: distance, shares in the first steps, predicted weights."""
from dataclasses import replace

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.calibration.first_steps import kept, kernel_ridge, on_simplex, predicted, predicted_steering
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Entry, Profile
from sd_debias.core.profile.lookup import entry_for
from sd_debias.core.profile.words import metadata
from sd_debias.core.method.draw import Steering
from sd_debias.diffusers_host.first_steps import distance, first_shares
from sd_debias.diffusers_host.workbench import demo

FAMILIES = dict(sd=tiny_pipelines.sd, sdxl=tiny_pipelines.sdxl, sd3=tiny_pipelines.sd3, flux=tiny_pipelines.flux)


@pytest.fixture(scope="module")
def bench():
    return demo()


@pytest.fixture(scope="module")
def profile(bench):
    """Of one prompt, with few pictures."""
    calibration = bench.calibrate("a photo of a judge", [GENDER], plan=Plan(20, 1, 20, batch_size=20))
    return profile_of("judge", [calibration], bench.setting, "demo")


# --- distance --------------------------------------------------------------------------------------------------------

def test_a_calibrated_prompt_lies_at_no_distance(bench):
    found = distance(bench.pipe, ["a photo of a judge", "a photo of a pilot"], "a photo of a pilot")
    assert found.nearest == "a photo of a pilot" and found.distance == pytest.approx(0, abs=1e-5)
    assert found.too_far is False and "is like the calibrated" in str(found)


def test_a_prompt_farther_than_the_calibrated_ones_from_each_other_is_too_far(bench):
    found = distance(bench.pipe, ["a photo of a doctor", "a photo of a pilot"], "two people on a beach")
    assert found.too_far and found.distance > found.usual > 0
    assert "is unlike the calibrated" in str(found) and found.nearest in str(found)


def test_one_calibrated_prompt_cannot_tell_what_is_far(bench):
    found = distance(bench.pipe, ["a photo of a judge"], "two people on a beach")
    assert found.too_far is None and "cannot be compared" in str(found)


# --- shares ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shares", [[0.7, 0.3], [1.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5]])
def test_a_mixture_s_shares_are_solved(shares):
    groups = np.random.default_rng(0).normal(size=(len(shares), 50))
    assert np.allclose(on_simplex(groups @ groups.T, groups @ (np.array(shares) @ groups)), shares, atol=1e-4)


def test_a_prompt_outside_of_the_mixture_gets_its_nearest_shares():
    groups = np.eye(3)
    found = on_simplex(groups @ groups.T, groups @ np.array([2.0, 0.5, -1.0]))
    assert np.allclose(found, [1.0, 0.0, 0.0], atol=1e-6)


def test_groups_that_look_alike_get_even_shares():
    assert on_simplex(np.zeros((4, 4)), np.zeros(4)).tolist() == [0.25] * 4


def test_the_demo_model_s_first_steps_tell_who_is_shown_most(bench):
    options = dict(batch_size=50, num_inference_steps=8, guidance_scale=2.0)
    (firefighter,), (singer,) = (first_shares(bench.pipe, f"a photo of a {subject}", [GENDER], range(16), **options)
                                 for subject in ("firefighter", "singer"))  # 91 and 18 % men in whole pictures
    assert firefighter[0] > 0.65 and singer[0] < 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_looked_at_and_is_left_as_it_was(family):
    pipe = FAMILIES[family]()
    pipe.set_progress_bar_config(disable=True)
    call = dict(height=16, width=16, num_inference_steps=4, **({"max_sequence_length": 32} if family == "flux" else {}))

    def plain():
        return pipe("doctor", generator=torch.Generator().manual_seed(0), output_type="np", **call).images

    before = plain()
    short = Attribute("tone", tuple(Group(letter, (letter,)) for letter in "abcde"))  # the encoder reads 16 letters
    gender, tone = first_shares(pipe, "doctor", [GENDER, short], range(3), batch_size=8, **call)
    assert gender.shape == (2,) and tone.shape == (5,)
    assert min(gender.min(), tone.min()) >= 0 and gender.sum() == pytest.approx(1) and tone.sum() == pytest.approx(1)
    assert np.array_equal(before, plain())


def test_a_call_that_begins_late_has_no_first_steps():
    pipe = tiny_pipelines.img2img()
    with pytest.raises(ValueError, match="Expected a sampling step in the first 35%"):
        first_shares(pipe, "a doctor", [GENDER], range(2), strength=0.5, num_inference_steps=4,
                     image=Image.fromarray(np.zeros((16, 16, 3), np.uint8)))


def test_predictions_that_overflow_are_refused():
    pipe, call = tiny_pipelines.sd(), dict(height=16, width=16, num_inference_steps=3)
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        first_shares(pipe, "a doctor", [GENDER], range(2), **call)


def test_an_empty_negative_prompt_is_one():
    pipe = tiny_pipelines.sd()
    call = dict(height=16, width=16, num_inference_steps=3)
    found = [first_shares(pipe, "a doctor", [GENDER], range(2), negative_prompt=text, **call) for text in ("", None)]
    assert np.allclose(*found)


def test_the_batch_does_not_change_the_shares():
    pipe = tiny_pipelines.sd()
    call = dict(height=16, width=16, num_inference_steps=3)
    found = [first_shares(pipe, "a doctor", [GENDER], range(4), batch_size=size, **call)[0] for size in (1, 16)]
    assert np.allclose(*found, atol=1e-3)


# --- prediction ------------------------------------------------------------------------------------------------------

def test_ridge_finds_a_linear_relation():
    x = np.random.default_rng(0).normal(size=(12, 2))
    y = x @ np.array([[1.0, 0.0], [0.0, -2.0]]) + 3
    x = x - x.mean(0)
    assert np.allclose(kernel_ridge(x @ x.T, x @ x[4], y), y[4], atol=0.02)


def test_draws_are_predicted_from_those_of_like_prompts():
    known = np.array([[p, 1 - p] for p in np.linspace(0.5, 0.9, 9)])
    steerings = [Steering((0.0, 0.0), (0.5 / p, 0.0, 1 - 0.5 / p)) for p, _ in known]
    steerings[0] = Steering.none(2)  # the audit met the target
    found = predicted_steering(np.array([0.7, 0.3]), known, steerings)
    assert found.probabilities == pytest.approx((0.71, 0.0, 0.29), abs=0.05) and sum(found.probabilities) == \
        pytest.approx(1)


def test_predicted_weights_follow_the_shares_and_are_not_called_calibrated(bench, profile):
    subjects = {"doctor": 0.8, "pilot": 0.9, "teacher": 0.6, "cook": 0.7, "judge": 1.0}
    entries = tuple(Entry(f"a photo of a {subject}", (Steering((0.0, 0.0), (0.5 / p, 0.0, 1 - 0.5 / p)),))
                    for subject, p in subjects.items())
    made = Profile.from_dict(profile.to_dict())
    shares = {"a photo of a singer": 0.75, **{entry.prompt: p for entry, p in zip(entries, subjects.values())}}
    entry = predicted(replace(made, entries=entries), "a photo of a singer",
                      lambda prompt: [np.array([shares[prompt], 1 - shares[prompt]])])
    assert "predicted from 5 calibrated prompts" in entry.warnings[0]
    assert entry.steerings[0].probabilities == pytest.approx((0.67, 0.0, 0.33), abs=0.03)
    found = replace(made, predicted=(entry,))
    assert entry_for(found, "A photo of a singer") == (entry, False) and entry_for(found, "a photo of a judge")[1]
    assert "predicted" in metadata(found, "a photo of a singer", dict(acted=True))["Debias prompt"]
    assert found.hash == made.hash


def test_the_workbench_reads_calibrated_prompts_once(bench, profile, monkeypatch):
    read = []

    def spy(pipe, prompt, *args, **options):
        read.append(prompt)
        return [np.array([0.8, 0.2])]

    monkeypatch.setattr("sd_debias.diffusers_host.first_steps.first_shares", spy)
    prompts = [f"a photo of a {subject}" for subject in ("doctor", "pilot", "teacher", "cook")]
    entries = tuple(Entry(prompt, (Steering((0.0, 0.0), (0.5, 0.0, 0.5)),)) for prompt in prompts)
    asked = replace(profile, entries=entries)
    for prompt in ("a photo of a singer", "a photo of a guard"):
        asked = bench.predicted(asked, prompt)
        assert entry_for(asked, prompt)[0].steerings[0].probabilities == pytest.approx((0.5, 0.0, 0.5))
    assert sorted(read) == sorted([*prompts, "a photo of a singer", "a photo of a guard"])


def test_a_prediction_is_refused_with_few_calibrated_prompts_and_for_shifts(profile):
    def shares_of(prompt):
        raise AssertionError("must refuse before it looks")

    with pytest.raises(ValueError, match="needs 4 calibrated prompts, but 'judge' has 1"):
        predicted(profile, "a photo of a singer", shares_of)
    with pytest.raises(ValueError, match="shifts"):
        predicted(replace(profile, method=METHODS["shift"]), "a photo of a singer", shares_of)


def test_a_file_that_cannot_be_read_is_written_anew(tmp_path):
    path = tmp_path / "shares.json"
    for broken in ("", "[1]", '{"a": 3}', '{"a": [["x"]]}'):
        path.write_text(broken)
        assert np.allclose(kept(path, lambda text: [np.array([0.25, 0.75])])("b")[0], [0.25, 0.75])
        assert np.allclose(kept(path, None)("b")[0], [0.25, 0.75])


def test_what_cannot_be_kept_is_said_and_read_once_all_the_same(tmp_path):
    read = []
    known = kept(tmp_path / "file" / "shares.json", lambda text: read.append(text) or [np.array([0.25, 0.75])])
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert np.allclose(known("a")[0], [0.25, 0.75]) and np.allclose(known("a")[0], [0.25, 0.75])
    assert read == ["a"]
