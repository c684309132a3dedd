"""`import sd_debias as debias`: what a program with a pipeline of its own types."""
import json
import types

import numpy as np
import pytest
import sd_debias as debias

from sd_debias.core.calibration.plan import Plan
from sd_debias.diffusers_host.workbench import demo

PROMPT, HOW = "a photo of a doctor", dict(num_inference_steps=2, guidance_scale=2.0)
PLAN = Plan(8, rounds=1, held_out=4, batch_size=4)


@pytest.fixture(scope="module")
def pipe(one_demo_model):
    return demo().pipe


@pytest.fixture(scope="module")
def profile(pipe):
    return debias.calibrate(pipe, PROMPT, "gender", judge="demo", sure=PLAN, progress=False, **HOW)


def test_the_package_says_what_it_has():
    assert {"balance", "calibrate", "applied", "audit", "load", "Profile"} <= set(dir(debias))
    assert all(getattr(debias, name) for name in debias.__all__) and "balance" in debias.__doc__
    with pytest.raises(AttributeError, match="nothing_of_it"):
        debias.nothing_of_it  # noqa: B018


@pytest.mark.slow
def test_a_calibration_gives_a_profile_that_the_pipeline_is_called_with(pipe, profile):
    plain, kind = pipe(PROMPT, num_images_per_prompt=2, output_type="np", **HOW).images, type(pipe)
    with debias.applied(pipe, profile):
        images = pipe(PROMPT, num_images_per_prompt=8, output_type="np", **HOW).images
    assert len(images) == 8 and type(pipe) is kind and plain.shape[1:] == images.shape[1:]
    assert profile.entries[0].prompt == PROMPT and "Target 50 / 50" in str(profile)
    assert profile.setting["steps"] == 2 and profile.setting["model"]
    assert "profile.json" not in str(profile), "a file that is gone"
    page = profile._repr_html_()
    assert page.startswith("<iframe") and "image/jpeg" in page and "sandbox=" in page


@pytest.mark.slow
def test_a_calibration_into_a_folder_is_not_made_twice(pipe, tmp_path):
    asked = dict(judge="demo", sure=PLAN, progress=False, out=tmp_path, **HOW)
    first = debias.calibrate(pipe, PROMPT, "gender", **asked)
    made = (tmp_path / "profile.json").stat().st_mtime_ns
    assert debias.calibrate(pipe, PROMPT, "gender", **asked).entries == first.entries
    assert (tmp_path / "profile.json").stat().st_mtime_ns == made
    assert debias.load(tmp_path / "profile.json") == debias.load(str(tmp_path / "profile.json"))


def test_an_audit_has_shares_by_group_and_its_pictures(pipe):
    found = debias.audit(pipe, PROMPT, ["gender", "skin_tone_3"], judge="demo", count=4, progress=False, **HOW)
    assert list(found.shares) == ["gender", "skin_tone_3"] and sum(found.shares["gender"].values()) == 1
    low, high = found.intervals["gender"]["man"]
    assert low <= found.shares["gender"]["man"] <= high and "a photo of a doctor" in str(found)
    assert found._repr_html_().count("image/jpeg") == 4


def by_brightness(images):
    bright = np.array([float(np.asarray(image).mean()) for image in images]) > 128
    return np.stack([bright, ~bright], 1).astype(float)


@pytest.mark.parametrize("judge", [by_brightness, {"gender": by_brightness}])
def test_a_function_may_judge(pipe, judge):
    found = debias.audit(pipe, PROMPT, "gender = woman 60, man 40", judge, count=4, progress=False, **HOW)
    assert sum(found.shares["gender"].values()) == 1


@pytest.mark.parametrize("change, facts", [
    (dict(attributes="hair colour"), "hair colour"), (dict(judge="no/such-model"), "no/such-model"),
    (dict(judge={"age": by_brightness}), "gender"), (dict(steps=3), "steps"), (dict(pipe=object()), "object"),
    (dict(prompts=[]), "prompt")])
def test_what_cannot_be_is_a_sentence_and_the_pipeline_stays(pipe, change, facts):
    asked = dict(pipe=pipe, prompts=PROMPT, attributes="gender", judge="demo", count=2, progress=False) | change
    kind = type(pipe)
    with pytest.raises(debias.DebiasError, match=facts):
        debias.audit(**asked)
    assert type(pipe) is kind


def test_something_that_is_no_pipeline_is_refused(profile):
    with pytest.raises(debias.DebiasError, match="text-to-image"):
        debias.enable(types.SimpleNamespace(), profile)


def test_a_list_of_attributes_and_a_profile_s_name_are_taken(pipe):
    assert debias.balance(pipe, ["gender", "age"]) is pipe
    assert debias.enable(pipe, "demo-gender") is pipe  # in its place
    images = pipe(PROMPT, num_images_per_prompt=2, output_type="np", **HOW).images
    assert len(images) == 2 and debias.disable(pipe) is pipe


def test_a_profile_goes_to_the_hub_with_a_card_and_comes_from_its_cache(profile, monkeypatch, tmp_path):
    import huggingface_hub
    sent = {}

    class Hub:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            return f"https://hub/{repo_id}"

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
            sent[path_in_repo] = path_or_fileobj.decode()

    def downloaded(repo, file, local_files_only):
        assert local_files_only, "nothing is downloaded unasked"
        if repo != "me/doctor":
            raise FileNotFoundError(repo)
        (tmp_path / file).write_text(sent[file], "utf-8")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    assert debias.push_to_hub(profile, "me/doctor", token="t") == "https://hub/me/doctor"
    assert "Who appears in the images" in sent["README.md"] and json.loads(sent["profile.json"])
    assert debias.load("me/doctor").entries == profile.entries
    with pytest.raises(debias.DebiasError, match="me/nurse.*allow_download"):
        debias.load("me/nurse")
