"""What fails in the middle of a command: memory that runs out, Ctrl-C, a library's error. One sentence says so, what
was measured is kept, and the same command goes on label by label.
"""
import functools
import json

import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.cli.main import main

pytestmark = pytest.mark.usefixtures("one_demo_model")
JUDGE = "a photo of a judge"
QUICK = ["calibrate", "--prompt", JUDGE, "--count", "8", "--rounds", "1", "--held-out", "8",
         "--batch-size", "4", "--tolerance", "0.000001", "--steps", "3"]
PLACES = dict(text=(transformers.CLIPTextModel, "forward"), sampling=(UNet2DConditionModel, "forward"),
              decode=(AutoencoderKL, "decode"), judge=(transformers.CLIPModel, "get_image_features"))
SMALLER = "Memory ran out", "--batch-size", "--width", "--height", "--dtype float16"


def memory_ran_out():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fails(monkeypatch):
    """fails(what, batch, error): what raises in a batch, in sampling from the second step on, and never again."""
    batches, generate = [], workbench.Workbench.generate
    due, calls = [], []

    def plan(what, batch, error=memory_ran_out):
        due.append(batch)
        place, name = PLACES[what]
        own = getattr(place, name)

        @functools.wraps(own)
        def call(*args, **kwargs):
            if due == [len(batches) - 1]:
                calls.append(what)
                if len(calls) > (what == "sampling"):
                    due.clear()
                    raise error()
            return own(*args, **kwargs)

        def counted(self, *args, **kwargs):
            batches.append(args[1])
            return generate(self, *args, **kwargs)

        monkeypatch.setattr(place, name, call)
        monkeypatch.setattr(workbench.Workbench, "generate", counted)

    plan.batches = batches
    return plan


def entry_of(out):
    entry, = json.loads((out / "profile.json").read_text())["entries"]
    return entry


def measured(out):
    """The labels of audit and verification with their images, and the profile's entry, as they were written."""
    page, entry = (out / "labels.html").read_text("utf-8"), entry_of(out)
    rounds = [{**each, "seconds": None} for each in entry["rounds"]]
    sections = json.loads(page.split('"data">')[1].split("</script>")[0])["sections"]
    return sections, {**entry, "cost": None, "rounds": rounds}


@pytest.fixture(scope="module")
def whole(one_demo_model, tmp_path_factory):
    """An undisturbed calibration: two batches of the audit, of a round, and of the verification."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert main([*QUICK, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("what, batch, error, facts, code", [
    ("sampling", 3, memory_ran_out, SMALLER, 2),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("text", 0, memory_ran_out, SMALLER, 2),
        ("decode", 1, lambda: KeyError("scale"), ["KeyError: 'scale'", "This is a bug"], 1),
        ("sampling", 2, KeyboardInterrupt, ["Interrupted"], 130),
        ("judge", 5, MemoryError, SMALLER, 2)))])
def test_a_calibration_that_fails_anywhere_says_so_and_goes_on_label_by_label(
        whole, tmp_path, capsys, fails, what, batch, error, facts, code):
    command = [*QUICK, "--out", str(tmp_path)]
    fails(what, batch, error)
    assert main(command) == code
    said = capsys.readouterr().err
    assert all(fact in said for fact in (*facts, f"{4 * batch} images", "same command again"))
    assert ("Traceback" in said) == (code == 1)
    assert not (tmp_path / "profile.json").exists()
    assert (tmp_path / "profile (unfinished).json").exists() == (batch >= 2)
    fails.batches.clear()
    assert main(command) == 0
    assert (f"Continuing after {4 * batch} images" in capsys.readouterr().out) == (batch > 0)
    assert len(fails.batches) == 6 - batch + 1 and measured(tmp_path) == measured(whole)
    cost = entry_of(tmp_path)["cost"]  # evaluations before the failure were not counted
    assert cost["images"] == 24 and (cost["evaluations"] is None) == (batch > 0)


@pytest.mark.parametrize("command, error, facts, code", [
    ("audit", memory_ran_out, [*SMALLER, "4 of 8 images"], 2),
    ("check", memory_ran_out, [*SMALLER, "run the same command again"], 2),
    ("check", KeyboardInterrupt, ["cannot be continued", "run the same command again"], 130)])
def test_an_audit_and_a_check_that_end_early(tmp_path, capsys, fails, command, error, facts, code):
    fails("judge", 1, error)
    few = ["--count", "8", "--batch-size", "4", "--steps", "2", "--out", str(tmp_path)]
    assert main([command, "--prompt", JUDGE, *few]) == code
    said = capsys.readouterr().err
    assert [fact for fact in facts if fact not in said] == []
    assert "Traceback" not in said and not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("error, facts, code", [
    (memory_ran_out, SMALLER, 2), (KeyboardInterrupt, ["Interrupted"], 130)])
def test_an_audit_of_a_folder_that_ends_early_is_continued(
        tmp_path, capsys, monkeypatch, error, facts, code):
    out = tmp_path / "out"
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    command = ["audit", "--folder", str(tmp_path), "--judge", "demo", "--batch-size", "2"]
    own, calls = transformers.CLIPModel.get_image_features, []

    def third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error()
        return own(*args, **kwargs)

    monkeypatch.setattr(transformers.CLIPModel, "get_image_features", third)
    for place, kept in ([], "With --out"), (["--out", str(out)], "run the same command again"):
        calls.clear()
        assert main([*command, *place]) == code
        said = capsys.readouterr().err
        assert [fact for fact in (*facts, "4 of 8 images", kept) if fact not in said] == []
    assert [path.name for path in out.iterdir()] == ["unfinished.json"]
    assert main([*command, "--out", str(out)]) == 0 and len(calls) == 5
    assert {path.name for path in out.iterdir()} == {"audit.json", "labels.csv", "labels.html"}
    assert json.loads((out / "audit.json").read_text())["images"] == 8


def test_pictures_made_before_memory_ran_out_stay(whole, tmp_path, capsys, fails):
    command = ["generate", "--prompt", JUDGE, "--count", "4", "--batch-size", "2", "--steps", "3",
               "--seed", "7", "--profile", str(whole / "profile.json"), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    fails("sampling", 1)
    assert main([*command, str(tmp_path / "half")]) == 2
    assert SMALLER[0] in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == ["7.png", "8.png"]
    assert main([*command, str(tmp_path / "half")]) == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "half" / path.name).read_bytes() == path.read_bytes()
