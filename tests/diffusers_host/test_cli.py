"""The command line on the embedded demo model, as a user runs it; figures are small so that it is quick."""
import errno
import io
import itertools
import json
import os
import re
import shutil
import sys
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.files import exclusive
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import entry_for
from sd_debias.demo_model.model import CLASSIFIER, FOLDER
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.workbench import Workbench, model_hash

pytestmark = pytest.mark.usefixtures("one_demo_model")
JUDGE = "a photo of a judge"
QUICK = ["calibrate", "--prompt", JUDGE, "--count", "8", "--rounds", "1", "--held-out", "8",
         "--batch-size", "8", "--steps", "2", "--name", "judge"]
AUDIT = ["audit", "--prompt", "a pilot", "--count", "6", "--batch-size", "6", "--steps", "2"]


@pytest.fixture(scope="module")
def calibrated(one_demo_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge")
    assert main([*QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture
def profile(calibrated):
    return ["--profile", str(calibrated / "profile.json")]


@pytest.fixture(scope="module")
def measured(one_demo_model, tmp_path_factory):
    """A calibration whose profile found the disk full: the folder, and what was said."""
    out, replace = tmp_path_factory.mktemp("measured"), os.replace
    (out / "profile.json").write_text("old")

    def full(source, target):
        if str(target).endswith("profile.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as said:
        patch.setattr(os, "replace", full)
        assert main([*QUICK, "--out", str(out), "--overwrite"]) == 2
    return out, said.getvalue()


def unfinished(out):
    """The one state in a folder."""
    state, = (out / "unfinished").glob("*.json")
    return state


def generate(out, *options, prompt=JUDGE):
    return main(["generate", "--model", "demo", "--prompt", prompt, "--count", "6", "--seed", "7",
                 "--steps", "2", "--out", str(out), *map(str, options)])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def said_of(path):
    return Image.open(path).text["parameters"]


# --- calibrate -----------------------------------------------------------------------------------


def test_profile_and_report_are_not_replaced_unasked(calibrated, profile, refused):
    before = {path: path.read_bytes() for path in calibrated.iterdir() if path.is_file()}
    refused([*QUICK, "--count", "9", "--out", calibrated], "profile.json' exists already")
    refused(["report", *profile, "--out", calibrated], "report.html' ", "--overwrite")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_full_disk_leaves_the_old_profile_and_the_measured_rounds(measured):
    out, said = measured
    assert "No space left" in said
    assert (out / "profile.json").read_text() == "old"
    assert Calibration.load(unfinished(out)).held_out.complete


@pytest.mark.parametrize("other", [
    [], *(pytest.param(other, marks=pytest.mark.slow) for other in (
        ["--steps", "1"], ["--cfg", "1.5"], ["--judge", "{clip}"], ["--count", "6"], ["--attribute", "skin_tone_3"],
        ["--name", "another"]))])
def test_rounds_are_continued_and_not_those_of_another_setting_or_classifier(
        measured, tmp_path, capsys, other):
    own = shutil.copytree(measured[0], tmp_path / "own")
    clip = shutil.copytree(CLASSIFIER, tmp_path / "own-clip")
    shutil.copytree(FOLDER / "tokenizer", clip, dirs_exist_ok=True)
    kept = unfinished(own)
    before = kept.read_bytes()
    more = [text.format(clip=clip) for text in other]
    assert main([*QUICK, "--out", str(own), "--overwrite", *more]) == 0
    said = capsys.readouterr().out
    assert ("Continuing after 24 images" in said) == (not other)
    assert (kept.exists() and kept.read_bytes() == before) == bool(other)
    assert (f"kept in {kept.parent}" in said) == (other not in ([], ["--name", "another"]))
    named = Profile.load(own / "profile.json").classifier
    assert (named == "CLIP own-clip") == ("--judge" in other)


def test_what_cannot_be_written_is_said_before_the_first_picture(tmp_path, monkeypatch, refused):
    opened = os.open

    def read_only(path, flags, *mode, **more):
        if str(path).startswith(str(tmp_path)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *mode, **more)

    monkeypatch.setattr(Workbench, "generate", lambda *_, **__: pytest.fail("an image was made"))
    with exclusive(tmp_path / "profile.json"):
        refused([*QUICK, "--out", tmp_path], "Another calibration")
    monkeypatch.setattr(os, "open", read_only)
    refused([*QUICK, "--out", tmp_path], "Read-only file system", "permissions")


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_figure(calibrated, tmp_path, monkeypatch, capsys):
    jumps, clock = itertools.cycle([0.0, 4e9, -4e9, 3600.0, -1.0]), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + next(jumps))
    assert main([*QUICK, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    ours, theirs = (json.loads((out / "summary.json").read_text()) for out in (tmp_path, calibrated))
    assert all(ours[key] == theirs[key] for key in ("shares", "kl", "n"))
    assert not re.search(r"-\d+ (seconds|minutes|hours)", said.out + said.err)


# --- generate ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def steered(calibrated, tmp_path_factory):
    out = tmp_path_factory.mktemp("steered")
    assert generate(out, "--profile", calibrated / "profile.json") == 0
    return out


def test_generate_names_pictures_by_seed_repeats_them_exactly_and_replaces_none_unasked(
        steered, tmp_path, profile, capsys):
    assert generate(tmp_path, *profile, "--batch-size", 4) == 0
    assert {path.name for path in steered.iterdir()} == {f"{seed}.png" for seed in range(7, 13)}
    for path in steered.iterdir():
        assert np.abs(pixels(path) - pixels(tmp_path / path.name)).max() <= 2
    before = (steered / "7.png").read_bytes()
    assert generate(steered, prompt="a photo of a pilot") == 2
    assert "7.png' exists already" in capsys.readouterr().err
    assert (steered / "7.png").read_bytes() == before


def test_metadata_claims_guidance_for_exactly_the_steered_pictures(steered, tmp_path, profile):
    steering = entry_for(Profile.load(profile[1]), JUDGE)[0].steerings[0]
    claimed = set()
    for path in steered.iterdir():
        own = bool(steering.rows([int(path.stem)]).any())
        claimed.add(own)
        assert "Debias profile: judge" in said_of(path)
        assert ("Debias weights: " in said_of(path)) == own
        assert ("Debias: left alone by its draw" in said_of(path)) != own
    assert claimed == {True, False}
    generate(tmp_path / "plain")
    generate(tmp_path / "zero", *profile, "--strength", 0)
    for path in (tmp_path / "plain").iterdir():
        zero = tmp_path / "zero" / path.name
        assert np.array_equal(pixels(path), pixels(zero)) and "Debias" not in said_of(path)
        assert "Debias: not applied (the strength is 0)" in said_of(zero)


def test_in_a_prompt_that_is_too_long_groups_words_stand_behind_the_subject(tmp_path, capsys):
    """Behind the prompt they would be cut off."""
    prompt = "portrait of a mechanic" + ", masterpiece" * 80
    assert generate(tmp_path, "--profile", "demo-gender", prompt=prompt) == 0
    assert any("Debias sent to: woman" in said_of(path) for path in tmp_path.iterdir())
    assert "whose subject 'mechanic'" in capsys.readouterr().err


# --- report --------------------------------------------------------------------------------------

@pytest.mark.slow
def test_report_measures_a_prompt_that_nobody_calibrated(tmp_path, profile, capsys):
    asked = ["report", *profile, "--out", str(tmp_path), "--count", "10", "--batch-size", "10",
             "--prompt"]
    demo = ["--steps", "4", "--model", "demo"]
    assert main([*asked, "a photo of a pilot", *demo, "--others", "draw"]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "this prompt was not calibrated; every image is steered to a group" in page
    assert "a photo of a pilot" in page
    assert "gender, with the profile (N = 10): man 5" in capsys.readouterr().out
    assert main([*asked, "A photo of a judge", *demo, "--overwrite"]) == 2
    assert "'A photo of a judge' was calibrated" in capsys.readouterr().err


def test_a_prompt_that_a_profile_is_not_for_is_left_alone(tmp_path, profile):
    beach = "two people on a beach"
    assert generate(tmp_path / "with", *profile, prompt=beach) == 0
    assert generate(tmp_path / "without", prompt=beach) == 0
    for path in (tmp_path / "with").iterdir():
        assert np.array_equal(pixels(path), pixels(tmp_path / "without" / path.name))
        assert "was not calibrated, so it is left alone" in said_of(path)


@pytest.mark.slow
def test_report_says_where_a_profile_does_not_carry_over(tmp_path, calibrated):
    document = json.loads((calibrated / "profile.json").read_text())
    man, woman = document["attributes"][0]["groups"]
    man["texts"], woman["texts"] = woman["texts"], man["texts"]
    document["attributes"][0]["target"] = [0.1, 0.9]
    del document["hash"]
    path = tmp_path / "turned.json"
    Profile.from_dict(document).save(path)
    assert main(["report", "--profile", str(path), "--out", str(tmp_path), "--count", "20",
                 "--batch-size", "20", "--steps", "4", "--model", "demo", "--prompt", "a lawyer",
                 "--others", "draw"]) == 0
    assert "does not carry over to this prompt" in (tmp_path / "report.html").read_text("utf-8")


# --- audit, doctor, and what all have in common --------------------------------------------------

def test_json_prints_one_document_and_skin_tone_can_be_judged_by_colour(capsys):
    assert main([*AUDIT, "--json", "--attribute", "skin_tone_5", "--judge", "skin_tone_5=ita",
                 "--attribute", "gender"]) == 0
    shares = json.loads(capsys.readouterr().out)["audits"][0]["attributes"]
    assert shares["gender"]["n"] == sum(shares["gender"]["counts"]) == 6
    assert sum(shares["skin_tone_5"]["counts"]) > 0


def test_a_prompt_of_any_script_goes_through_a_pipe_of_few_letters(tmp_path, monkeypatch):
    """As a Windows console's or pipe's: it ended a finished audit with a traceback."""
    said = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", said)
    assert main([*AUDIT, "--prompt", "\u533b\u751f", "--out", str(tmp_path)]) == 0
    assert b"\\u533b\\u751f" in said.buffer.getvalue()


@pytest.mark.parametrize("arguments, facts", [
    ([*AUDIT, "--attribute", "man | man"], ["'man | man'", "twice"]),
    ([*AUDIT, "--attribute", "a | b = 1:x"], ["'1:x'", "a, b"]),
    ([*AUDIT, "--model", "no/folder", "--judge", "x"], ["'no/folder'", "--allow-download"]),
    ([*AUDIT, "--model", "model.ckpt", "--judge", "x"], ["'model.ckpt'", ".safetensors"]),
    ([*AUDIT, "--model", ".", "--judge", "x"], ["'.'", "model_index.json"]),
    ([*AUDIT, "--judge", "gender=ita"], ["'gender'", "2"]),
    ([*AUDIT, "--judge", f"gender={CLASSIFIER}"], ["tokenizer"]),  # a folder without it
    ([*AUDIT, "--device", "toaster"], ["'toaster'"]),
    ([*QUICK, "--out", "x", "--sure", "quick"], ["--count", "--sure custom", "--sure quick"]),
    (["generate", "--prompt", "x", "--others", "draw", "--out", "x"], ["--others", "--profile"]),
    (["report", "--profile", "p", "--others", "draw", "--out", "x"], ["--others", "model"]),
])
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, facts, refused):
    refused(arguments, *facts)


def test_a_model_folder_without_a_text_encoder_is_refused(tmp_path, refused):
    left_out = shutil.ignore_patterns("classifier", "text_encoder")
    own = shutil.copytree(FOLDER, tmp_path / "model", ignore=left_out)
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    refused([*AUDIT, "--model", own, "--judge", "x"], "no text encoder")


def test_another_text_encoder_is_another_model(tmp_path):
    for part in ("unet", "text_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(part.encode())
    first = model_hash(tmp_path)
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"fine-tuned")
    assert model_hash(tmp_path) != first and len(first) == 10


def test_the_doctor_finds_the_demo_model_well_and_answers_with_its_exit_code(capsys, monkeypatch):
    assert main(["doctor", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Guidance works") and "'prompt' and 'embedding'" in said
    black = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(Workbench, "render", lambda self, prompt, seeds, *_: [black] * len(seeds))
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    wrong = [line["text"] for line in found["findings"] if line["ok"] is False]
    assert found["ok"] is False and any("steering changes" in text for text in wrong)


def test_generate_says_who_was_steered_where_and_what_to_type_next(tmp_path, capsys):
    """It told to calibrate with "the same --model, --prompt and --attribute": --out was missing, and the demo's judge
    knows no ages."""
    asked = ["generate", "--prompt", "a photo of a doctor", "--count", "4", "--steps", "1"]
    assert main([*asked, "--attribute", "gender", "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "balance: 2 to man, 2 to woman" in said
    assert "sd-debias calibrate --model demo --prompt 'a photo of a doctor' --attribute gender --out " in said
    assert main([*asked, "--attribute", "age", "--out", str(tmp_path / "b")]) == 0
    assert "sd-debias calibrate" not in capsys.readouterr().out


def test_a_group_without_words_of_its_own_has_no_effect_and_no_warning(tmp_path, capsys):
    """All images fell to it, and it was said that the groups' texts mean the same to this model."""
    assert main(["generate", "--prompt", "a photo of a doctor", "--steps", "1", "--attribute",
                 "mobility: in a wheelchair (a person in a wheelchair) | standing ({prompt}) = 0:100",
                 "--out", str(tmp_path / "a")]) == 0
    assert "no effect" not in capsys.readouterr().err


def test_an_attribute_s_file_balances_too(tmp_path, capsys):
    file = tmp_path / "hat.json"
    file.write_text(json.dumps(dict(name="hat", groups=[dict(name="a red hat"), dict(name="a blue hat")])))
    assert main(["generate", "--prompt", "a photo of a doctor", "--steps", "1", "--count", "2", "--attribute",
                 str(file), "--out", str(tmp_path / "a")]) == 0
    assert "1 to a red hat, 1 to a blue hat" in capsys.readouterr().out
    assert main(["generate", "--prompt", "x", "--profile", str(tmp_path / "none.json"), "--out", str(tmp_path)]) == 2
    assert "There is no profile" in capsys.readouterr().err
