"""Commands and the bench that they work with: what they refuse, keep, and say."""
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_profile import calibrated, made

from sd_debias.core.attribute import GENDER, SKIN_TONE_3, parse
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.errors import QUOTED, DebiasError, quoted
from sd_debias.core.files import read_json, safe_name
from sd_debias.core.method.methods import METHODS, Method, named
from sd_debias.core.profile.file import Profile
from sd_debias.demo_model.model import FOLDER
from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.cli import commands as cli
from sd_debias.diffusers_host.cli.main import COMMANDS, main
from sd_debias.diffusers_host.workbench import Workbench, load_pipeline

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a photo of a judge"
JUDGE = ["--prompt", PROMPT]
CLIP = str(FOLDER / "classifier")
FEW = ["--count", "10", "--rounds", "1", "--held-out", "10", "--batch-size", "10"]
QUICK = ["calibrate", *JUDGE, *FEW, "--steps", "2"]
PROCESS = """
import sys, types
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv.pop(1)]
sys.modules["sd_debias"] = package
from sd_debias.diffusers_host.cli.main import main
code = main()
print(code, sorted({"torch", "numpy", "transformers"} & set(sys.modules)))
sys.exit(code)
"""


def mistake(capsys, *arguments):
    """The one sentence that a command says of a mistake."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    return said


def process(*arguments):
    return subprocess.run([sys.executable, "-c", PROCESS, str(ROOT), *arguments],
                          capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def loaded():
    return workbench.demo()


@pytest.fixture
def ready(loaded, monkeypatch):
    """Every command finds the demo model loaded."""
    def bench_of(options, attributes=()):
        given = {name: value for name in ("steps", "batch_size")
                 if (value := getattr(options, name, None)) is not None}
        return Workbench(loaded.pipe, loaded.clip, model="demo", **given)

    monkeypatch.setattr(cli, "bench_of", bench_of)


@pytest.fixture
def bench(ready, loaded, monkeypatch):
    """The demo model without its sampling: images of noise, or what `bench.broken` makes of them."""
    own = Workbench(loaded.pipe, loaded.clip, model="demo")
    own.broken = lambda images: images

    def generate(self, prompt, seeds, *others, weights=None, **more):
        images = [np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
                  for seed in seeds]
        return own.broken(np.stack(images)), dict(
            acted=weights is not None and bool(weights.any()), broken=[], extra_evaluations=0)

    monkeypatch.setattr(Workbench, "generate", generate)
    return own


def calibration(plan, method=METHODS["default"]):
    return Calibration(PROMPT, [GENDER], method, plan)


# --- refused before the work ---------------------------------------------------------------------

AUDIT, GENERATE = ["audit", *JUDGE], ["generate", *JUDGE, "--out", "x"]
CALIBRATE, REPORT = ["calibrate", *JUDGE, "--out", "x"], ["report", "--profile", "p", "--out", "x"]
NINE = [part for i in range(9) for part in ("--attribute", f"a{i}: x | y")]


@pytest.mark.parametrize("arguments, facts", [
    # options that would do nothing
    ([*AUDIT, "--width", "64"], ["--width", "--height"]),
    ([*GENERATE, "--height", "64"], ["--width", "--height"]),
    ([*CALIBRATE, "--rule", "policy_gradient"], ["rule", "draw"]),
    ([*AUDIT, "--labels", "gender=labels.json"], ["--labels", "'gender'", "--judge"]),
    ([*REPORT, "--steps", "5"], ["--steps"]),
    ([*REPORT, "--model", "demo", "--count", "5"], ["--count"]),
    ([*GENERATE, "--strength", "0"], ["--strength", "--attribute"]),
    ([*AUDIT, "--overwrite"], ["--overwrite", "--out"]), ([*AUDIT, "--config", "x"], ["--config"]),
    ([*AUDIT, "--judge", CLIP, "--judge", CLIP], ["one judge", "two"]),
    # options of other commands
    ([*GENERATE, "--judge", "y"], ["--judge"]),
    (["demo", "--steps", "3"], ["--steps"]),
    # texts that a script left empty
    *(([*own, option, text], [option, "empty"]) for own, option, text in (
        (GENERATE, "--profile", ""), (AUDIT, "--out", ""), (AUDIT, "--model", " "),
        (["calibrate", *JUDGE, "--name", "x"], "--out", ""))),
    # a variable of a script that was not set leaves the next option in its place
    (["calibrate", *JUDGE, "--out", "--overwrite"], ["--out needs a value", "--overwrite"]),
    # attributes and devices
    *(([*AUDIT, "--attribute", "gender", "--attribute", second], ["same name", "gender"])
      for second in ("gender: child | old", "gender = 70:30", " Gender : child | old")),
    ([*AUDIT, *NINE], ["8", "9"]), ([*AUDIT, "--device", "meta"], ["'meta'"])])
def test_what_cannot_be_done_is_refused_with_its_facts(arguments, facts, capsys):
    said = mistake(capsys, *arguments).splitlines()[-1]  # after its usage
    assert [fact for fact in facts if fact not in said] == [], said


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode there")
def test_a_prompt_that_is_no_utf8_is_refused_with_a_sentence():
    done = process("audit", "--prompt", b"\xff\xfe")
    assert done.returncode == 2 and b"--prompt" in done.stderr and b"UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_model_without_a_tokenizer_is_refused_with_a_sentence(tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    said = mistake(capsys, *AUDIT, "--model", tmp_path / "model", "--judge", CLIP)
    assert "tokenizer" in said and len(said.splitlines()) == 1


def test_a_file_where_a_folder_should_be_and_the_reverse_are_said_before_the_work_and_leak_nothing(
        tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli, "bench_of", lambda *_: pytest.fail("the model was loaded"))
    assert "file" in mistake(capsys, "audit", *JUDGE, "--out", tmp_path / "file")
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(5):
        assert "folder" in mistake(capsys, "report", "--profile", tmp_path, "--out", tmp_path / "o")
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 1


def test_help_and_version_load_no_torch():
    for arguments, words in (["-h"], b"audit"), (["--help"], b"audit"), (["calibrate", "--help"], b"--sure"), (
            ["--version"], b"debias 0"):
        done = process(*arguments)
        assert words in done.stdout and done.stdout.strip().endswith(b"0 []"), done


def test_a_bug_keeps_its_traceback_and_a_mistake_shows_one_only_on_request(monkeypatch, capsys):
    def bug(options):
        raise ValueError("of nobody's making")

    assert "Traceback" not in mistake(capsys, *AUDIT, "--attribute", "height")
    assert main([*AUDIT, "--attribute", "height", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setitem(COMMANDS, "audit", bug)
    bug.__name__, bug.__doc__ = "audit", "x"
    assert main(AUDIT) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "of nobody's making" in said and "bug" in said


@pytest.mark.parametrize("call", [
    parse, lambda text: parse(f"gender = {text}"), safe_name, named,
    lambda text: Profile.from_dict({"schema": text, "entries": []}),
    lambda text: Method(direction=text), load_pipeline,
    pytest.param(lambda text: read_json(Path(text[:99])), marks=pytest.mark.skipif(
        os.name == "nt", reason="no name"))])
def test_messages_quote_at_most_200_characters(call, tmp_path, monkeypatch):
    if os.name != "nt":
        (tmp_path / ("long\n\u202e" * 20)[:99]).write_text("no JSON")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DebiasError) as caught:
        call("long\n\u202e" * 20_000)
    said = str(caught.value)
    assert len(said) < QUOTED + 400 and "\n" not in said and "\u202e" not in said
    assert len(quoted("x" * 10**7)) == QUOTED + 2

# --- files ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_target_of_0_to_100_ends_with_all_files(tmp_path, ready):
    assert main([*QUICK, "--attribute", "gender = 0:100", "--out", str(tmp_path)]) == 0
    assert {"profile.json", "report.html", "summary.json", "before.png", "after.png",
            "shares-gender.png"} <= {path.name for path in tmp_path.iterdir()}


def test_outputs_are_all_made_before_the_first_is_written(tmp_path, monkeypatch, bench):
    monkeypatch.setattr("sd_debias.core.study.outcome.Outcome.charts", lambda outcome: 1 / 0)
    assert main([*QUICK, "--out", str(tmp_path)]) == 1
    assert not [path.name for path in tmp_path.iterdir()
                if not path.name.startswith((".", "unfinished"))]


def test_no_command_replaces_a_file_unasked(tmp_path, capsys, bench):
    for file, own in (("report.html", QUICK), ("before.png", QUICK), ("after.png", QUICK),
                      ("summary.json", QUICK), ("shares-gender.png", QUICK),
                      ("audit-2.png", [*AUDIT, *JUDGE]), ("profile.json", ["demo"])):
        out = tmp_path / own[0] / file
        out.mkdir(parents=True)
        (out / file).write_text("mine")
        assert f"{file}' exists" in mistake(capsys, *own, "--out", out)
        assert (out / file).read_text() == "mine"
        assert [path.name for path in out.iterdir() if path.suffix in (".json", ".png")
                and path.name != file] == []


def test_a_profile_that_comes_with_the_package_is_found_by_its_name(tmp_path):
    assert main(["report", "--profile", "demo-gender", "--out", str(tmp_path)]) == 0
    assert "demo-gender" in (tmp_path / "report.html").read_text("utf-8")

# --- stopped, and begun again --------------------------------------------------------------------


def _interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_killed_after_its_profile_was_saved_the_same_command_ends_well(
        tmp_path, monkeypatch, capsys, bench):
    command = [*QUICK, "--prompt", "a pilot", "--out", str(tmp_path)]
    replaced, done = Path.replace, []

    def killed(path, target):
        if path.parent.name == "unfinished":
            if done:  # the first prompt's is put aside, the second's stays
                raise KeyboardInterrupt
            done.append(path)
        return replaced(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        assert main(command) == 130
    assert len(list(tmp_path.glob("unfinished/*.json"))) == 1
    kept = {path.name for path in tmp_path.glob("[!.]*.*")}
    profile = (tmp_path / "profile.json").read_bytes()
    for name in kept - {"profile.json"}:  # what was removed is there again
        (tmp_path / name).unlink()
    capsys.readouterr()
    for _ in range(2):
        assert main(command) == 0 and "complete already" in capsys.readouterr().out
        assert not list(tmp_path.glob("unfinished*"))
        assert kept <= {path.name for path in tmp_path.iterdir()}
        assert (tmp_path / "profile.json").read_bytes() == profile


def test_an_unfinished_calibration_does_not_replace_another_profile(
        tmp_path, monkeypatch, capsys, bench):
    monkeypatch.setattr("sd_debias.core.study.outcome.Outcome.files", _interrupted)
    command = [*QUICK, "--out", str(tmp_path)]
    assert main(command) == 130
    made(calibrated()).save(tmp_path / "profile.json")
    before = (tmp_path / "profile.json").read_bytes()
    assert "profile.json" in mistake(capsys, *command)
    assert (tmp_path / "profile.json").read_bytes() == before and list(tmp_path.glob("unfinished*"))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_keeps_the_state_and_says_so(tmp_path, bench, capsys):
    made = []

    def broken(images):
        made.append(images)
        if len(made) == 2:
            signal.raise_signal(signal.SIGTERM)
        return images

    bench.broken = broken
    before = signal.getsignal(signal.SIGTERM)
    assert main([*QUICK, "--count", "100", "--out", str(tmp_path)]) == 143
    said = capsys.readouterr().err
    assert "kept" in said and "Traceback" not in said and signal.getsignal(signal.SIGTERM) == before
    state, = tmp_path.glob("unfinished/*.json")
    assert Calibration.load(state).audit.done == 10

# --- images that are none ----------------------------------------------------------------------


def test_a_model_that_gives_nan_is_not_calibrated_on_black_pictures(
        tmp_path, monkeypatch, capsys, ready):
    from diffusers import AutoencoderKL
    decode = AutoencoderKL.decode

    def nan(self, latents, *arguments, **options):
        image, = decode(self, latents, *arguments, **{**options, "return_dict": False})
        image[::2] = float("nan")
        return (image,)

    monkeypatch.setattr(AutoencoderKL, "decode", nan)
    out = tmp_path / "audit"
    few = ["--steps", "1", "--out"]
    assert main([*AUDIT, "--count", "4", *few, str(out)]) == 0
    assert "of 4 images, 2 are not finite" in capsys.readouterr().out
    found, = json.loads((out / "audit.json").read_text())["audits"]
    counts = found["attributes"]["gender"]
    assert found["not_finite"] == counts["n"] == counts["unsure"] == 2
    assert main(["generate", *JUDGE, "--count", "2", *few, str(tmp_path), "--json"]) == 0
    broken, good = (Image.open(tmp_path / f"{seed}.png").text["parameters"] for seed in range(2))
    assert "Warning: " in broken and "NaN" in broken and "Warning" not in good
    assert json.loads(capsys.readouterr().out)["not_finite"] == [str(tmp_path / "0.png")]
    monkeypatch.setattr(AutoencoderKL, "decode", lambda *a, **o: (nan(*a, **o)[0] * float("nan"),))
    assert "10 are not finite" in mistake(capsys, *QUICK, "--out", tmp_path / "none")
    assert not (tmp_path / "none" / "profile.json").exists()


def test_generate_says_pictures_of_one_colour(tmp_path, monkeypatch, capsys, ready):
    from diffusers import AutoencoderKL
    monkeypatch.setattr(AutoencoderKL, "decode", lambda self, latents, *_, **__: (
        torch.zeros(len(latents), 3, 64, 64),))
    assert main(["generate", *JUDGE, "--count", "2", "--steps", "1", "--out", str(tmp_path),
                 "--json"]) == 0
    captured = capsys.readouterr()
    assert "2 of 2 images" in captured.err and "one colour" in captured.err
    assert len(json.loads(captured.out)["one_colour"]) == 2
    assert "all pixels are equal" in Image.open(tmp_path / "0.png").text["parameters"]


def test_pictures_of_one_colour_count_as_nobody_and_are_said(bench):
    def black(images):
        images[:3] = 0
        return images

    bench.broken = black
    own = calibration(Plan(10, 0, 0, batch_size=10))
    assert list(bench.run(own))
    assert own.audit.one_colour == 3 and own.audit.labels[0][:3] == [-1] * 3
    assert any("3 are of one colour" in warning for warning in own.warnings)
    bench.broken = np.zeros_like
    with pytest.raises(DebiasError, match="10 .*one colour"):
        list(bench.run(calibration(Plan(10, 0, 0, batch_size=10))))


def test_a_calibration_whose_pictures_were_never_steered_stops_in_its_first_round(
        bench, monkeypatch):
    generate = Workbench.generate
    monkeypatch.setattr(Workbench, "generate", lambda self, *a, **o: (
        generate(self, *a, **o)[0], dict(acted=False, broken=[], extra_evaluations=0)))
    monkeypatch.setattr(bench, "classifier", lambda attribute: (
        lambda images: np.tile([0.9, 0.1], (len(images), 1))))
    own = calibration(Plan(20, 3, 20, batch_size=10))
    with pytest.raises(DebiasError, match="changed nothing"):
        list(bench.run(own))

# --- models and their judges ---------------------------------------------------------------------


def test_one_name_with_other_groups_gets_a_classifier_of_its_own(loaded):
    one = loaded.classifier(GENDER)
    other = loaded.classifier(replace(SKIN_TONE_3, name="gender"))
    assert one is loaded.classifier(GENDER.with_target((70, 30))) and one is not other


def test_a_pipeline_that_cannot_be_guided_is_refused_before_the_first_picture(bench, monkeypatch):
    bench.broken = lambda images: pytest.fail("an image was made")
    odd = copy.deepcopy(bench.pipe.scheduler)
    odd.register_to_config(prediction_type="odd")
    monkeypatch.setattr(bench.pipe, "scheduler", odd)
    with pytest.raises(DebiasError, match="Cannot convert predictions"):
        list(bench.run(calibration(Plan(10, batch_size=10), named(direction="embedding"))))


def test_generate_keeps_the_models_safety_checker_and_measuring_says_that_it_is_off(
        monkeypatch, tmp_path):
    from diffusers import StableDiffusionPipeline
    from_pretrained = StableDiffusionPipeline.from_pretrained

    def with_checker(*arguments, **options):
        pipe = from_pretrained(*arguments, **options)
        pipe.safety_checker = torch.nn.Linear(1, 1)
        pipe.safety_checker.dtype = torch.float32
        pipe.safety_checker.device = torch.device("cpu")
        pipe.run_safety_checker = lambda image, device, dtype: (image, [False] * len(image))
        return pipe

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", with_checker)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pipeline(str(FOLDER), safety_checker=True).safety_checker is not None
    asked, load = [], workbench.load_pipeline
    monkeypatch.setattr(workbench, "load_pipeline", lambda *a, **o: (
        asked.append(o["safety_checker"]) or load(*a, **o)))
    model = [*JUDGE, "--model", str(FOLDER), "--steps", "1", "--width", "64", "--height", "64",
             "--count", "1"]
    clip = shutil.copytree(FOLDER / "classifier", tmp_path / "clip")
    shutil.copytree(FOLDER / "tokenizer", clip, dirs_exist_ok=True)
    assert main(["generate", *model, "--out", str(tmp_path)]) == 0
    assert main(["audit", *model, "--judge", str(clip)]) == 0 and asked == [True, False]
    with pytest.warns(UserWarning, match="safety checker"):
        assert load_pipeline(str(FOLDER)).safety_checker is None
