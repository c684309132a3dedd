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

import numpy as np
import pytest
from PIL import Image

from sd_debias.diffusers_host.cli.main import COMMANDS, main
from sd_debias.diffusers_host.cli.options import parsed
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import FIELDS, NUMBERS, Plan
from sd_debias.demo_model.model import CLASSIFIER, FOLDER
from sd_debias.core.files import exclusive
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import entry_for
from sd_debias.diffusers_host.workbench import model_hash

QUICK = ["--prompt", "a photo of a judge", "--images", "40", "--rounds", "1", "--held-out", "40", "--batch-size", "20"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    out = tmp_path_factory.mktemp("judge")
    assert main(["calibrate", *QUICK, "--out", str(out), "--name", "judge"]) == 0
    return out


def test_calibrate_leaves_profile_report_pictures_and_summary(calibrated):
    names = {path.name for path in calibrated.iterdir()}
    assert {"profile.json", "report.html", "before.png", "after.png", "summary.json", "shares-gender.png",
            "kl-gender.png"} <= names
    assert not [name for name in names if "unfinished" in name or name.endswith(".tmp")]
    summary = json.loads((calibrated / "summary.json").read_text())
    assert summary["prompt"] == "a photo of a judge" and summary["groups"] == ["man", "woman"] and summary["n"] == 40
    for key in ("shares", "kl", "fidelity"):
        assert summary[key].keys() == {"before", "after"}


def test_calibrate_never_replaces_a_profile_unasked(calibrated, capsys):
    before = (calibrated / "profile.json").read_bytes()
    assert main(["calibrate", *QUICK, "--out", str(calibrated)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (calibrated / "profile.json").read_bytes() == before


def test_a_prompt_of_any_script_goes_through_a_pipe_of_few_letters(tmp_path, monkeypatch):
    """As a Windows console's or pipe's: it ended a finished audit with a traceback."""
    said = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", said)
    assert main(["audit", "--prompt", "\u533b\u751f", "--count", "4", "--steps", "1", "--out", str(tmp_path)]) == 0
    assert b"\\u533b\\u751f" in said.buffer.getvalue()


def generate(out, *options):
    return main(["generate", "--model", "demo", "--prompt", "a photo of a judge", "--count", "4", "--seed", "7",
                     "--out", str(out), *map(str, options)])


def test_generate_names_pictures_by_seed_and_repeats_them_exactly(tmp_path, calibrated):
    profile = ("--profile", calibrated / "profile.json")
    assert generate(tmp_path / "a", *profile) == generate(tmp_path / "b", *profile, "--batch-size", "4") == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["10.png", "7.png", "8.png", "9.png"]
    for path in (tmp_path / "a").iterdir():
        one, two = (np.asarray(Image.open(p)).astype(int) for p in (path, tmp_path / "b" / path.name))
        assert np.abs(one - two).max() <= 2


def test_strength_zero_is_the_picture_without_a_profile_and_says_so(tmp_path, calibrated):
    generate(tmp_path / "plain")
    generate(tmp_path / "zero", "--profile", calibrated / "profile.json", "--strength", "0")
    for path in (tmp_path / "plain").iterdir():
        zero = Image.open(tmp_path / "zero" / path.name)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(zero))
        assert "Debias: not applied (the strength is 0)" in zero.text["parameters"]
        assert "Debias" not in Image.open(path).text["parameters"]


def test_metadata_claims_guidance_for_exactly_the_pictures_that_were_steered(tmp_path, calibrated):
    generate(tmp_path, "--profile", calibrated / "profile.json", "--count", "16")
    profile = Profile.load(calibrated / "profile.json")
    steering = entry_for(profile, "a photo of a judge")[0].steerings[0]
    for path in tmp_path.iterdir():
        steered = bool(steering.rows([int(path.stem)]).any())
        text = Image.open(path).text["parameters"]
        assert "Debias profile: judge" in text
        assert ("Debias weights: " in text) == steered and ("Debias: left alone by its draw" in text) != steered


def test_another_picture_is_not_overwritten_unasked(tmp_path, capsys):
    assert generate(tmp_path) == 0
    before = (tmp_path / "7.png").read_bytes()
    assert main(["generate", "--prompt", "a photo of a pilot", "--seed", "7", "--out", str(tmp_path)]) == 2
    assert "another picture" in capsys.readouterr().err and (tmp_path / "7.png").read_bytes() == before


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    generate, calls = Workbench.generate, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(self, *arguments, **options)

    monkeypatch.setattr(Workbench, "generate", interrupted)
    command = ["calibrate", *QUICK, "--out", str(tmp_path)]
    assert main(command) == 130
    assert "same command again" in capsys.readouterr().err
    assert Calibration.load(unfinished(tmp_path)).rounds[-1].done == 20
    assert main(command) == 0
    assert "Continuing after 60 images" in capsys.readouterr().out and (tmp_path / "profile.json").exists()
    (entry,) = Profile.load(tmp_path / "profile.json").entries
    assert entry.cost["images"] > 60 and entry.cost["evaluations"] is None  # those before Ctrl-C were not counted


def unfinished(out):
    """The one state in a folder."""
    state, = (out / "unfinished").glob("*.json")
    return state


def interrupted(*_, **__):
    raise KeyboardInterrupt


WRITING = "sd_debias.core.calibration.outcome.Outcome.files"  # made once all is measured


@pytest.mark.parametrize("other", [["--steps", "5"], ["--cfg", "1.5"], ["--classifier", "{clip}"],
                                   ["--attribute", "skin_tone_3"], ["--images", "30"], ["--name", "another"]])
def test_rounds_of_another_setting_or_classifier_are_not_continued(tmp_path, monkeypatch, capsys, other):
    clip = shutil.copytree(CLASSIFIER, tmp_path / "clip")
    shutil.copytree(FOLDER / "tokenizer", clip, dirs_exist_ok=True)
    command = ["calibrate", *QUICK, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(WRITING, interrupted)
        assert main(command) == 130
    kept = unfinished(tmp_path / "out")
    before = kept.read_bytes()
    assert main([*command, *(text.format(clip=clip) for text in other)]) == 0
    said = capsys.readouterr().out
    assert "Continuing" not in said and kept.read_bytes() == before
    assert ("with other settings are kept in" in said) == (other != ["--name", "another"])


def test_ctrl_c_while_files_are_written_loses_nothing(tmp_path, monkeypatch, capsys):
    command = ["calibrate", *QUICK, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(WRITING, interrupted)
        assert main(command) == 130
    assert "same command again" in capsys.readouterr().err and not (tmp_path / "profile.json").exists()
    assert main(command) == 0 and (tmp_path / "profile.json").exists()


def test_ctrl_c_while_the_model_loads_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", interrupted)
    assert main(["audit", "--prompt", "a photo of a judge"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_two_calibrations_do_not_write_the_same_profile(tmp_path, capsys):
    with exclusive(tmp_path / "profile.json"):
        assert main(["calibrate", *QUICK, "--out", str(tmp_path)]) == 2
    assert "Another calibration" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_profile_and_the_measured_rounds(tmp_path, monkeypatch, capsys):
    command = ["calibrate", *QUICK, "--out", str(tmp_path), "--overwrite"]
    (tmp_path / "profile.json").write_text("old")
    replace = os.replace

    def full(source, target):
        if str(target).endswith("profile.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(command) == 2
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "profile.json").read_text() == "old"
    assert Calibration.load(unfinished(tmp_path)).held_out.complete


def test_a_folder_that_may_only_be_read_is_said_before_the_first_picture(tmp_path, monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    opened = os.open

    def read_only(path, flags, *mode, **more):
        if str(path).startswith(str(tmp_path)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *mode, **more)

    def made(*_, **__):
        raise AssertionError("a picture was made")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Workbench, "generate", made)
    assert main(["calibrate", *QUICK, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "Read-only file system. Free some space, or check the folder's permissions" in said


def test_a_clock_that_jumps_changes_no_figure(calibrated, tmp_path, monkeypatch, capsys):
    jumps = itertools.cycle([0.0, 4e9, -4e9, 3600.0, -1.0])
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + next(jumps))
    assert main(["calibrate", *QUICK, "--out", str(tmp_path), "--name", "judge"]) == 0
    said = capsys.readouterr()
    ours, theirs = (json.loads((out / "summary.json").read_text()) for out in (tmp_path, calibrated))
    assert [ours[key] for key in ("shares", "kl", "n")] == [theirs[key] for key in ("shares", "kl", "n")]
    assert not re.search(r"-\d+ (seconds|minutes|hours)", said.out + said.err)


def test_images_that_nobody_can_classify_end_a_calibration_with_a_sentence(tmp_path, monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "classifier", lambda *_: lambda images: np.zeros((len(images), 2), np.float32))
    assert main(["calibrate", *QUICK, "--out", str(tmp_path)]) == 2
    assert "classified" in capsys.readouterr().err


def test_json_prints_one_document_and_nothing_else(capsys):
    assert main(["audit", "--prompt", "a photo of a pilot", "--count", "20", "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["audits"][0]["attributes"]["gender"]
    assert shares["n"] == 20 and sum(shares["counts"]) == 20


def test_skin_tone_can_be_judged_by_colour_and_by_another_clip(capsys):
    from sd_debias.demo_model.model import CLASSIFIER
    audit = ["audit", "--prompt", "a photo of a pilot", "--count", "20", "--json"]
    assert main([*audit, "--attribute", "skin_tone_5", "--classifier", "skin_tone_5=ita"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["audits"][0]["attributes"]["skin_tone_5"]["counts"]) > 0
    assert main([*audit, "--classifier", f"gender={CLASSIFIER}"]) == 2  # a folder without its tokenizer
    assert "tokenizer" in capsys.readouterr().err.lower()


def test_a_clip_that_is_named_judges_the_demo_too(tmp_path):
    from sd_debias.demo_model.model import CLASSIFIER, FOLDER
    other = tmp_path / "other-clip"
    shutil.copytree(CLASSIFIER, other)
    shutil.copytree(FOLDER / "tokenizer", other, dirs_exist_ok=True)
    assert main(["calibrate", *QUICK, "--classifier", str(other), "--out", str(tmp_path / "out")]) == 0
    assert Profile.load(tmp_path / "out" / "profile.json").classifier == "CLIP other-clip"


def test_report_measures_a_prompt_that_nobody_calibrated(tmp_path, calibrated, capsys):
    asked = ["report", "--profile", str(calibrated / "profile.json"), "--out", str(tmp_path), "--count", "40",
             "--batch-size", "20", "--prompt"]
    assert main([*asked, "a photo of a pilot", "--model", "demo", "--others", "draw"]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "a photo of a pilot" in page and "this prompt was not calibrated; every image is steered to a group" in page
    assert "gender, with the profile (N = 40): man 5" in capsys.readouterr().out
    assert main([*asked, "a photo of a pilot"]) == 2
    assert main([*asked, "A photo of a judge", "--model", "demo", "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "name one with --model" in said and "'A photo of a judge' was calibrated" in said


def test_a_prompt_that_the_profile_is_not_for_is_left_alone_and_that_is_said(tmp_path, calibrated, capsys):
    asked = ["--profile", str(calibrated / "profile.json"), "--model", "demo", "--count", "2",
             "--prompt", "two people on a beach"]
    assert main(["report", *asked, "--out", str(tmp_path)]) == 0
    assert "this prompt was not calibrated, so it is left alone" in (tmp_path / "report.html").read_text("utf-8")
    assert main(["generate", *asked, "--out", str(tmp_path / "with")]) == 0
    assert main(["generate", *asked[2:], "--out", str(tmp_path / "without")]) == 0
    for seed in (0, 1):
        made = [np.asarray(Image.open(tmp_path / folder / f"{seed}.png")) for folder in ("with", "without")]
        assert (made[0] == made[1]).all()
    asked[-1] = "portrait of a (judge:1.2), 8k"
    assert main(["generate", *asked, "--out", str(tmp_path / "carried")]) == 0
    assert "whose subject 'judge' is in this prompt" in capsys.readouterr().err
    assert main(["generate", "--prompt", "two people on a beach", "--others", "draw", "--out", str(tmp_path)]) == 2
    assert main(["report", "--profile", asked[1], "--others", "draw", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "--others does nothing without a --profile" in said and "--others does nothing without a model" in said


def test_groups_words_stand_behind_the_subject_of_a_prompt_that_is_too_long_for_the_text_encoder(tmp_path, capsys):
    """Behind the prompt they would be cut off."""
    prompt = "portrait of a mechanic" + ", masterpiece" * 80
    asked = ["generate", "--profile", "demo-gender", "--count", "8", "--batch-size", "8", "--prompt", prompt]
    assert main([*asked, "--out", str(tmp_path)]) == 0
    said = [Image.open(tmp_path / f"{seed}.png").text["parameters"] for seed in range(8)]
    assert any("Debias sent to: woman" in text for text in said)
    assert "whose subject 'mechanic'" in capsys.readouterr().err


def test_report_says_where_a_profile_does_not_carry_over(tmp_path, calibrated):
    document = json.loads((calibrated / "profile.json").read_text())
    man, woman = document["attributes"][0]["groups"]
    man["texts"], woman["texts"] = woman["texts"], man["texts"]
    document["attributes"][0]["target"] = [0.1, 0.9]
    path = tmp_path / "turned.json"
    Profile.from_dict({key: value for key, value in document.items() if key != "hash"}).save(path)
    assert main(["report", "--profile", str(path), "--out", str(tmp_path), "--count", "40", "--batch-size", "20",
                     "--model", "demo", "--prompt", "the sea", "--others", "draw"]) == 0
    assert "does not carry over to this prompt" in (tmp_path / "report.html").read_text("utf-8")


def test_report_is_made_again_from_a_profile_alone(tmp_path, calibrated):
    assert main(["report", "--profile", str(calibrated / "profile.json"), "--out", str(tmp_path)]) == 0
    assert "a photo of a judge" in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_with_pictures_is_not_replaced_unasked(calibrated, capsys):
    page = (calibrated / "report.html").read_bytes()
    command = ["report", "--profile", str(calibrated / "profile.json"), "--out", str(calibrated)]
    assert main(command) == 2 and "add --overwrite" in capsys.readouterr().err
    assert (calibrated / "report.html").read_bytes() == page


@pytest.mark.parametrize("arguments, sentence", [
    (["--attribute", "man | man"], "names a group twice"),
    (["--attribute", "man"], "No attribute is called"),
    (["--attribute", "a | b = 1:x"], "Expected a target as one number per group"),
    (["--model", "no/such/folder", "--classifier", "x"], "No folder or file"),
    (["--model", "model.ckpt", "--classifier", "x"], "is a pickle"),
    (["--model", "."], "--classifier"),
    (["--classifier", "tone=ita"], "one of the attributes gender"),
    (["--classifier", "gender=ita"], "has 2"),
    (["--device", "toaster"], "toaster"),
    (["--model", ".", "--classifier", "x"], "no model_index.json"),
])
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(["audit", "--prompt", "a photo of a judge", "--count", "4", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_a_model_folder_without_a_text_encoder_is_refused(tmp_path, capsys):
    from sd_debias.demo_model.model import FOLDER
    shutil.copytree(FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("classifier"))
    shutil.rmtree(tmp_path / "model" / "text_encoder")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    assert main(["audit", "--prompt", "x", "--model", str(tmp_path / "model"), "--classifier", "x"]) == 2
    assert "no text encoder" in capsys.readouterr().err


def test_another_text_encoder_is_another_model(tmp_path):
    for part in ("unet", "text_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(part.encode())
    first = model_hash(tmp_path)
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"fine-tuned")
    assert model_hash(tmp_path) != first and len(first) == 10
    assert model_hash(tmp_path / "nothing here") is None


def test_a_calibration_measures_as_much_as_on_every_other_host():
    """The ComfyUI node, the web UI and its API take their defaults from `HOW_SURE` and `FIELDS` too."""
    options = parsed(COMMANDS, ["calibrate", "--prompt", "a photo of a doctor", "--out", "x"])
    assert options.sure is None and all(getattr(options, name) is None for name in NUMBERS)
    assert options.confidence == FIELDS["confidence"].default
    assert (FIELDS["images"].default, FIELDS["rounds"].default, FIELDS["held_out"].default) == (
        Plan().images, Plan().rounds, Plan().held_out)


def test_numbers_beside_a_usual_plan_are_refused(capsys):
    assert main(["calibrate", "--prompt", "x", "--out", "x", "--sure", "quick", "--held-out", "5"]) == 2
    assert "--held-out only with --sure custom, got --sure quick" in capsys.readouterr().err


def test_the_doctor_finds_the_demo_model_well_and_answers_with_its_exit_code(capsys, monkeypatch):
    assert main(["doctor", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Guidance works on this model.") and "'prompt', 'embedding' and 'prediction'" in said
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.Workbench.render",
                        lambda self, prompt, seeds, *_: [np.zeros((8, 8, 3), np.uint8)] * len(seeds))
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False and any(line["ok"] is False and "steering changes" in line["text"]
                                        for line in found["findings"])
