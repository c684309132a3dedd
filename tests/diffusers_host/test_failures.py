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

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.methods import DIRECTIONS, Method
from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.cli.main import main

QUICK = ["--prompt", "a photo of a judge", "--images", "8", "--rounds", "1", "--held-out", "8", "--batch-size", "4",
         "--tolerance", "0.000001", "--steps", "3"]
PLACES = dict(text=(transformers.CLIPTextModel, "forward"), sampling=(UNet2DConditionModel, "forward"),
              decode=(AutoencoderKL, "decode"), judge=(transformers.CLIPModel, "get_image_features"))
SMALLER = "Memory ran out. Use a smaller --batch-size, --width or --height, or --dtype float16."


def memory_ran_out():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fails(monkeypatch):
    """fails(what, batch, error): what raises in a batch, in sampling from the second step on, and never again."""
    batches, armed, due, generate = [], [], [], workbench.Workbench.generate

    def plan(what, batch, error=memory_ran_out):
        due.append(batch)
        place, name = PLACES[what]
        own, calls = getattr(place, name), []

        @functools.wraps(own)
        def call(*args, **kwargs):
            if armed and (calls or what != "sampling"):
                armed.clear()
                raise error()
            calls.extend(armed)  # from now on it is no first step
            return own(*args, **kwargs)

        def counted(self, *args, **kwargs):
            if due == [len(batches)]:
                armed.append(due.pop())
            batches.append(args[1])
            return generate(self, *args, **kwargs)

        monkeypatch.setattr(place, name, call)
        monkeypatch.setattr(workbench.Workbench, "generate", counted)

    plan.batches = batches
    return plan


def measured(out):
    """The labels of audit and verification with their pictures, and the profile's entry, as they were written."""
    page, (entry,) = (out / "labels.html").read_text("utf-8"), json.loads((out / "profile.json").read_text())["entries"]
    rounds = [{**each, "seconds": None} for each in entry["rounds"]]
    return json.loads(page.split('"data">')[1].split("</script>")[0])["sections"], {**entry, "cost": None,
                                                                                   "rounds": rounds}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed calibration measures: two batches of the audit, of a round, and of the verification."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(["calibrate", *QUICK, "--out", str(out)]) == 0
    return measured(out)


@pytest.mark.parametrize("what, batch, error, first, last, code", [
    *((*at, memory_ran_out, "Memory ran out", SMALLER, 2)
      for at in (("text", 0), ("sampling", 3), ("decode", 1), ("judge", 5))),
    ("sampling", 2, KeyboardInterrupt, "Interrupted", "", 130),
    ("judge", 4, lambda: MemoryError(), "Memory ran out", SMALLER, 2),
    ("decode", 2, lambda: KeyError("scale"), "An error ended it (KeyError: 'scale')", "This is a bug.", 1)])
def test_a_calibration_that_fails_anywhere_says_so_and_goes_on_label_by_label(whole, tmp_path, capsys, fails, what,
                                                                              batch, error, first, last, code):
    command = ["calibrate", *QUICK, "--out", str(tmp_path)]
    fails(what, batch, error)
    assert main(command) == code
    said = capsys.readouterr().err
    assert f"{first}. What was measured is kept, {4 * batch} images: run the same command again to continue" in said
    assert last in said and (("Traceback" in said) == (code == 1))
    assert not (tmp_path / "profile.json").exists()
    assert (tmp_path / "profile (unfinished).json").exists() == (batch >= 2)
    fails.batches.clear()
    assert main(command) == 0
    assert len(fails.batches) == 6 - batch and measured(tmp_path) == whole


@pytest.mark.parametrize("command", ["audit", "check"])
def test_an_audit_and_a_check_that_memory_runs_out_in_say_so(tmp_path, capsys, fails, command):
    fails("judge", 1)
    few = ["--count", "8", "--batch-size", "4", "--steps", "3", "--out", str(tmp_path)]
    assert main([command, *QUICK[:2], *few]) == 2
    said = capsys.readouterr().err
    assert SMALLER in said and "Traceback" not in said and not list(tmp_path.glob("*.json"))
    assert ("Memory ran out after 4 of 8 images." if command == "audit" else
            "Memory ran out. A check cannot be continued: run the same command again.") in said


def test_a_folder_whose_judge_runs_out_of_memory_is_continued(tmp_path, capsys, monkeypatch, fails):
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{i}.png")
    command = ["audit", "--images", str(folder), "--classifier", "demo", "--batch-size", "2"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    own, calls = transformers.CLIPModel.get_image_features, []

    def third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise memory_ran_out()
        return own(*args, **kwargs)

    monkeypatch.setattr(transformers.CLIPModel, "get_image_features", third)
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "4 of 8 pictures are labelled, and kept: run the same command again to continue." in said and SMALLER in said
    assert main([*command, "--out", str(out)]) == 0 and len(calls) == 5
    for name in ("labels.csv", "audit.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("what", ["text", "sampling", "decode"])
def test_a_guided_generation_that_memory_runs_out_in_leaves_nothing_behind(fails, direction, what):
    bench = workbench.demo(steps=4)
    guided = dict(attributes=[GENDER], method=Method(direction), weights=torch.tensor([0.0, -1.0]))
    asked = "a photo of a judge", [1, 2]
    plain, pushed = bench.generate(*asked)[0], bench.generate(*asked, **guided)[0]
    assert not np.array_equal(plain, pushed)
    fails(what, 0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        bench.generate(*asked, **guided)
    assert "forward" not in vars(bench.pipe.unet)
    assert np.array_equal(bench.generate(*asked)[0], plain)
    assert np.array_equal(bench.generate(*asked, **guided)[0], pushed)


def test_pictures_made_before_memory_ran_out_stay_and_say_what_was_done_to_them_alone(tmp_path, capsys, fails):
    assert main(["calibrate", *QUICK, "--out", str(tmp_path / "judge")]) == 0
    command = ["generate", "--model", "demo", *QUICK[:2], "--count", "4", "--batch-size", "2", "--steps", "3",
               "--seed", "7", "--profile", str(tmp_path / "judge" / "profile.json"), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    fails("sampling", 1)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "half")]) == 2
    assert SMALLER in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "half").iterdir())
    assert names == ["7.png", "8.png"]
    assert main([*command, str(tmp_path / "half")]) == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "half" / path.name).read_bytes() == path.read_bytes()
