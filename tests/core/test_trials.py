"""What users saw go wrong in trials of the first edition, one test each, in the order of their reports."""
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_profile import calibrated, made

from sd_debias.diffusers_host.cli import commands as cli
from sd_debias.diffusers_host.cli.main import COMMANDS, main
from sd_debias.core.report import page as report
from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE_3, parse, together
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.report.chart import chart_kl, chart_shares
from sd_debias.core.judge import one_colour
from sd_debias.demo_model.model import FOLDER
from sd_debias.core.calibration.statistics import summarise
from sd_debias.core.errors import QUOTED, DebiasError, quoted
from sd_debias.core.files import exclusive, fingerprint, read_json, safe_name, write_atomic
from sd_debias.core.method.methods import METHODS, Method, named
from sd_debias.core.profile.file import Profile
from sd_debias.core.calibration.outcome import chart_names
from sd_debias.core.profile.lookup import differences
from sd_debias.core.profile.words import described
from sd_debias.core.method.draw import Steering
from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.workbench import Workbench, load_pipeline
from sd_debias.diffusers_host.workbench import demo as demo_bench

ROOT = Path(__file__).resolve().parents[2]
JUDGE = ["--prompt", "a photo of a judge"]
CLIP = str(FOLDER / "classifier")
QUICK = [*JUDGE, "--images", "10", "--rounds", "1", "--held-out", "10", "--batch-size", "10", "--steps", "2"]


def mistake(capsys, *arguments):
    """The one sentence that a command says of a mistake."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    return said


@pytest.fixture
def bench(monkeypatch):
    """The demo model without its sampling: pictures of noise, or what `bench.broken` makes of them."""
    made = demo_bench()
    made.broken = lambda images: images
    plain = Workbench.generate

    def generate(self, prompt, seeds, attributes=(), steerings=(), method=METHODS["default"], strength=1.0,
                 weights=None, encoded=None):
        images = np.stack([np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8) for seed in seeds])
        acted = weights is not None and bool(weights.any())
        return made.broken(images), dict(acted=acted, broken=[], weights=[[0, 0]] * len(seeds), extra_evaluations=0)

    monkeypatch.setattr(Workbench, "generate", generate)
    made.plain = plain
    return made


# --- wrong figures or pictures ---------------------------------------------------------------------------------------

def test_two_attributes_of_one_name_are_not_judged_by_the_first_ones_classifier(tmp_path, capsys):
    for second in ("gender: child | old person", "gender = 70:30", " Gender : child | old person"):
        said = mistake(capsys, "audit", *JUDGE, "--attribute", "gender", "--attribute", second)
        assert "Two attributes have the same name" in said
    with pytest.raises(DebiasError, match="same name"):
        Calibration("x", [GENDER, replace(AGE, name="gender")], METHODS["default"], Plan())
    document = made(calibrated(attributes=(GENDER, SKIN_TONE_3), bias=(2.0, 1.0))).to_dict()
    document["attributes"][1]["name"] = "gender"
    with pytest.raises(DebiasError, match="same name"):
        Profile.from_dict(document)


def test_one_name_with_other_groups_gets_a_classifier_of_its_own():
    bench = demo_bench()
    one, other = bench.classifier(GENDER), bench.classifier(replace(SKIN_TONE_3, name="gender"))
    assert one is bench.classifier(GENDER.with_target((70, 30))) and one is not other
    assert other(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 3)


def test_a_model_that_gives_nan_is_not_calibrated_on_black_pictures(tmp_path, monkeypatch, capsys):
    from diffusers import AutoencoderKL
    decode = AutoencoderKL.decode

    def nan(self, latents, *arguments, **options):
        image, = decode(self, latents, *arguments, **{**options, "return_dict": False})
        image[::2] = float("nan")
        return (image,)

    monkeypatch.setattr(AutoencoderKL, "decode", nan)
    out = tmp_path / "audit"
    assert main(["audit", *JUDGE, "--count", "10", "--steps", "2", "--out", str(out)]) == 0
    assert "of 10 images, 5 are not finite" in capsys.readouterr().out
    found, = json.loads((out / "audit.json").read_text())["audits"]
    assert found["not_finite"] == found["attributes"]["gender"]["n"] == found["attributes"]["gender"]["unsure"] == 5
    assert main(["generate", *JUDGE, "--count", "2", "--steps", "2", "--out", str(tmp_path), "--json"]) == 0
    broken, good = (Image.open(tmp_path / f"{seed}.png") for seed in range(2))
    assert "Warning: " in broken.text["parameters"] and "NaN" in broken.text["parameters"]
    assert "Warning" not in good.text["parameters"]
    assert json.loads(capsys.readouterr().out)["not_finite"] == [str(tmp_path / "0.png")]
    monkeypatch.setattr(AutoencoderKL, "decode", lambda *a, **o: (nan(*a, **o)[0] * float("nan"),))
    assert "10 are not finite" in mistake(capsys, "calibrate", *QUICK, "--out", tmp_path / "none")
    assert not (tmp_path / "none" / "profile.json").exists()


def test_pictures_of_one_colour_count_as_nobody_and_are_said(bench):
    def black(images):
        images[:3] = 0
        return images

    bench.broken = black
    calibration = Calibration("a photo of a judge", [GENDER], METHODS["default"], Plan(10, 0, 0, batch_size=10))
    assert list(bench.run(calibration))
    assert calibration.audit.one_colour == 3 and calibration.audit.labels[0][:3] == [-1] * 3
    assert any("3 are of one colour throughout" in warning for warning in calibration.warnings)
    assert one_colour(Image.new("RGB", (9, 9), "red")) and one_colour(Image.new("L", (9, 9)))
    assert not one_colour(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    bench.broken = np.zeros_like
    with pytest.raises(DebiasError, match="10 are of one colour"):
        list(bench.run(Calibration("a photo of a judge", [GENDER], METHODS["default"], Plan(10, 0, 0, batch_size=10))))


@pytest.mark.parametrize("arguments, sentence", [
    (["audit", *JUDGE, "--width", "64"], "--width and --height belong together"),
    (["generate", *JUDGE, "--out", "x", "--height", "64"], "--width and --height belong together"),
    (["calibrate", *JUDGE, "--out", "x", "--rule", "policy_gradient"], "has no use for a rule"),
    (["calibrate", *JUDGE, "--out", "x", "--method", "paper", "--spend", "draw", "--rule", "log"], "no use for a rule"),
    (["audit", *JUDGE, "--labels", "gender=labels.json"], "--labels of 'gender' does nothing"),
    (["report", "--profile", "p", "--out", "x", "--steps", "5"], "--steps does nothing without a model"),
    (["report", "--profile", "p", "--out", "x", "--model", "demo", "--count", "5"], "--count does nothing without"),
    (["report", "--profile", "p", "--out", "x", "--seed", "0"], "--seed does nothing without a model"),
    (["generate", *JUDGE, "--out", "x", "--strength", "0"], "--strength does nothing without a --profile"),
    (["audit", *JUDGE, "--overwrite"], "--overwrite does nothing without --out"),
    (["audit", *JUDGE, "--config", "x"], "--config does nothing with the demo model"),
    (["audit", *JUDGE, "--classifier", CLIP, "--classifier", CLIP], "one classifier for all attributes, got two"),
])
def test_an_option_that_would_do_nothing_is_refused(arguments, sentence, capsys):
    assert sentence in mistake(capsys, *arguments)


@pytest.mark.parametrize("arguments", [
    ["generate", *JUDGE, "--out", "x", "--classifier", "y"], ["generate", *JUDGE, "--out", "x", "--labels", "y"],
    ["demo", "--steps", "3"], ["demo", "--confidence", "0.5"],
    ["export", "--for", "a1111", "--out", "x", "--seed", "1"]])
def test_a_command_has_only_the_options_that_it_reads(arguments, capsys):
    assert "unrecognized arguments" in mistake(capsys, *arguments)


def test_a_rule_beside_a_draw_is_refused():
    with pytest.raises(DebiasError, match="no use for a rule"):
        Method(spend="draw", rule="policy_gradient")
    assert named("paper", spend="draw").rule == "log" and named("shift", rule="policy_gradient").spend == "shift"


def test_a_calibration_whose_pictures_were_never_steered_stops_in_its_first_round(bench, monkeypatch):
    generate = Workbench.generate
    monkeypatch.setattr(Workbench, "generate", lambda self, *a, **o: (
        generate(self, *a, **o)[0], dict(acted=False, broken=[], extra_evaluations=0)))
    monkeypatch.setattr(bench, "classifier", lambda attribute: lambda images: np.tile([0.9, 0.1], (len(images), 1)))
    calibration = Calibration("a photo of a judge", [GENDER], METHODS["default"], Plan(20, 3, 20, batch_size=10))
    with pytest.raises(DebiasError, match="guidance changed nothing in them"):
        list(bench.run(calibration))
    assert [r.kind for r in calibration.rounds] == ["audit", "round"] and calibration.rounds[1].done == 0


@pytest.mark.parametrize("steering", [
    dict(weights=[1e30, 0]), dict(weights=[0, -101]), dict(weights=[0, 0], strength=-1),
    dict(weights=[0, 0], probabilities=[0.5, 0.5, 0], strength=1e30)])
def test_a_profile_of_nonsense_weights_makes_no_black_pictures(steering):
    with pytest.raises(DebiasError):
        Steering.from_dict(steering)
    document = made(calibrated()).to_dict()
    document["entries"][0]["steerings"] = [steering]
    with pytest.raises(DebiasError, match=r"entries\[0\]\.steerings\[0\]"):
        Profile.from_dict(document)


@pytest.mark.parametrize("counts", [[-3, 5], [0.5, 2], [0, 0], ["1", 2], [True, 1], [10**30, 1]])
def test_a_profile_of_counts_that_are_none_is_refused(counts):
    document = made(calibrated()).to_dict()
    document["entries"][0]["before"][0]["counts"] = counts
    with pytest.raises(DebiasError):
        Profile.from_dict(document)


@pytest.mark.parametrize("strength", ["-1", "1e30", "nan", "11"])
def test_a_strength_out_of_bounds_is_refused(strength, capsys):
    assert "from 0 to 10" in mistake(capsys, "generate", *JUDGE, "--profile", "demo-gender", "--out", "x",
                                     "--strength", strength)


def test_a_changed_profile_saves_what_it_now_says_and_keeps_unknown_fields(tmp_path):
    document = made(calibrated(), calibrated("a nurse", bias=(-2.0,))).to_dict()
    document["note"] = document["entries"][0]["note"] = document["entries"][1]["note"] = "kept"
    document.pop("hash")
    profile = Profile.from_dict(document)
    first = replace(profile.entries[0], steerings=(Steering((0.5, -0.5)),))
    changed = replace(profile, name="other", entries=(first, profile.entries[1]))
    again = Profile.load(changed.save(tmp_path))
    assert again.name == "other" and again.entries == changed.entries and again.hash == changed.hash != profile.hash
    saved = again.to_dict()
    assert saved["note"] == saved["entries"][0]["note"] == saved["entries"][1]["note"] == "kept"
    assert saved["entries"][1] == document["entries"][1]
    assert replace(profile, entries=profile.entries).hash == profile.hash


def test_generate_keeps_the_models_safety_checker_and_measuring_says_that_it_is_off(monkeypatch, tmp_path):
    from diffusers import StableDiffusionPipeline
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", _with_checker(StableDiffusionPipeline))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pipeline(str(FOLDER), safety_checker=True).safety_checker is not None
    asked = []
    load = workbench.load_pipeline
    monkeypatch.setattr(workbench, "load_pipeline", lambda *a, **o: asked.append(o["safety_checker"]) or load(*a, **o))
    model = [*JUDGE, "--model", str(FOLDER), "--steps", "1", "--width", "64", "--height", "64", "--count", "1"]
    clip = shutil.copytree(FOLDER / "classifier", tmp_path / "clip")
    shutil.copytree(FOLDER / "tokenizer", clip, dirs_exist_ok=True)
    assert main(["generate", *model, "--out", str(tmp_path)]) == main(["audit", *model, "--classifier", str(clip)]) == 0
    assert asked == [True, False]
    with pytest.warns(UserWarning, match="safety checker is switched off"):
        assert load_pipeline(str(FOLDER)).safety_checker is None


def _with_checker(kind):
    load = kind.from_pretrained

    def loaded(*arguments, **options):
        pipe = load(*arguments, **options)
        pipe.safety_checker = torch.nn.Linear(1, 1)
        pipe.safety_checker.dtype, pipe.safety_checker.device = torch.float32, torch.device("cpu")
        pipe.run_safety_checker = lambda image, device, dtype: (image, [False] * len(image))
        return pipe
    return loaded


def test_a_pipeline_that_cannot_be_guided_is_refused_before_the_first_picture(bench, monkeypatch):
    made = []
    generate = Workbench.generate
    monkeypatch.setattr(Workbench, "generate", lambda *a, **o: made.append(1) or generate(*a, **o))
    with monkeypatch.context() as patched:
        patched.delattr(type(bench.pipe), "encode_prompt")
        patched.setattr("sd_debias.diffusers_host.encode._known", {})
        with pytest.raises(DebiasError, match="How StableDiffusionPipeline encodes texts is not known here"):
            list(bench.run(Calibration("x", [GENDER], METHODS["shift"], Plan(10, batch_size=10))))
    bench.pipe.scheduler.register_to_config(prediction_type="odd")
    with pytest.raises(DebiasError, match="Cannot convert predictions"):
        list(bench.run(Calibration("x", [GENDER], named(direction="embedding"), Plan(10, batch_size=10))))
    assert not made


# --- lost or blocked -------------------------------------------------------------------------------------------------

def test_a_target_of_0_to_100_ends_with_all_files(tmp_path):
    out = tmp_path / "out"
    assert main(["calibrate", *QUICK, "--attribute", "gender = 0:100", "--out", str(out)]) == 0
    assert {"profile.json", "report.html", "summary.json", "before.png", "after.png", "kl-gender.png",
            "shares-gender.png"} <= {path.name for path in out.iterdir()}
    alone = summarise([0, 30], [0.0, 1.0])
    chart_kl([("audit", alone), ("held-out", alone)])
    chart_shares(["man", "woman"], alone)


def test_outputs_are_all_made_before_the_first_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("sd_debias.core.calibration.outcome.Outcome.charts", lambda outcome: 1 / 0)
    assert main(["calibrate", *QUICK, "--out", str(tmp_path)]) == 1
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith((".", "unfinished"))]


@pytest.mark.parametrize("prompts, left", [(1, 1), (2, 2), (2, 1)])
def test_killed_after_its_profile_was_saved_the_same_command_ends_well(tmp_path, monkeypatch, capsys, prompts, left):
    command = ["calibrate", *QUICK, *["--prompt", "a photo of a pilot"] * (prompts - 1), "--out", str(tmp_path)]
    unlink, removed = Path.unlink, []

    def killed(path, missing_ok=False):
        if path.parent.name == "unfinished":
            if len(removed) == prompts - left:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        assert main(command) == 130
    assert (tmp_path / "profile.json").exists() and len(list(tmp_path.glob("unfinished/*.json"))) == left
    profile = (tmp_path / "profile.json").read_bytes()
    capsys.readouterr()
    assert main(command) == 0
    assert "complete already" in capsys.readouterr().out and not list(tmp_path.glob("unfinished*"))
    assert (tmp_path / "profile.json").read_bytes() == profile
    assert "exists already" in mistake(capsys, *command)


def test_an_unfinished_calibration_does_not_replace_another_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sd_debias.core.calibration.outcome.Outcome.files", _interrupted)
    command = ["calibrate", *QUICK, "--out", str(tmp_path)]
    assert main(command) == 130
    made(calibrated()).save(tmp_path / "profile.json")
    before = (tmp_path / "profile.json").read_bytes()
    assert "is not of the unfinished calibration" in mistake(capsys, *command)
    assert (tmp_path / "profile.json").read_bytes() == before and list(tmp_path.glob("unfinished*"))


def _interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("file", ["report.html", "before.png", "after.png", "summary.json", "shares-gender.png"])
def test_calibrate_replaces_no_file_unasked(tmp_path, capsys, file):
    (tmp_path / file).write_text("mine")
    assert f"{file}' exists already" in mistake(capsys, "calibrate", *QUICK, "--out", tmp_path)
    assert (tmp_path / file).read_text() == "mine" and len(list(tmp_path.glob("*.json"))) == (file == "summary.json")


def test_audit_replaces_no_sheet_and_demo_no_profile_unasked(tmp_path, capsys):
    (tmp_path / "audit-2.png").write_text("mine")
    assert "audit-2.png' exists already" in mistake(capsys, "audit", *JUDGE, *JUDGE, "--out", tmp_path)
    (tmp_path / "profile.json").write_text("mine")
    assert "profile.json' exists already" in mistake(capsys, "demo", "--out", tmp_path)
    assert (tmp_path / "audit-2.png").read_text() == (tmp_path / "profile.json").read_text() == "mine"


@pytest.mark.parametrize("file", ["demo.safetensors", "demo.yaml"])
def test_export_replaces_no_checkpoint_and_no_yaml_unasked(tmp_path, capsys, file):
    command = ["export", "--for", "a1111", "--out", str(tmp_path)]
    assert main(command) == main(command) == 0, "its own files are the same ones"
    (tmp_path / file).write_bytes(b"mine")
    assert f"{file}' exists already and is another file" in mistake(capsys, *command)
    assert (tmp_path / file).read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0 and (tmp_path / file).read_bytes() != b"mine"


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_a_lock_follows_no_link_empties_no_file_and_waits_for_no_pipe(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / ".a.lock").symlink_to(kept)
    os.mkfifo(tmp_path / ".b.lock")
    (tmp_path / ".c.lock").mkdir()
    for name in "abc":
        with pytest.raises(DebiasError, match="Expected a plain file"), exclusive(tmp_path / name):
            pass
    assert kept.read_text() == "mine"
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DebiasError, match="folder, pipe or device"):
        Profile.load(tmp_path / "pipe.json")


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_temporary_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    program = ("import os, sys, types\n"
               "package = types.ModuleType('sd_debias')\n"
               "package.__path__ = [sys.argv[1]]\n"
               "sys.modules['sd_debias'] = package\n"
               "from pathlib import Path\n"
               "from sd_debias.core import files\n"
               "handle, path = files._temporary(Path(sys.argv[2]))\n"
               "print(path, flush=True)\n"
               "sys.stdin.read()\n")
    target = tmp_path / "a[1].json"
    arguments = [sys.executable, "-c", program, str(ROOT), str(target)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        temporary = Path(writer.stdout.readline().strip())
        write_atomic(target, "new")
        assert temporary.exists()
        writer.kill()
        writer.wait()
    write_atomic(tmp_path / "another", "new")
    assert temporary.exists()
    write_atomic(target, "newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].json", "another"]


# --- unsafe ----------------------------------------------------------------------------------------------------------

HOSTILE = "</td><img src=x onerror=alert(1)><form action=//evil><base href=//evil>"


@pytest.mark.parametrize("field, value", [
    ("kind", HOSTILE), ("images", HOSTILE), ("fidelity", HOSTILE), ("seconds", HOSTILE)])
def test_hostile_html_in_a_shared_profile_does_not_reach_the_report(field, value):
    document = made(calibrated()).to_dict()
    document["entries"][0]["rounds"][0][field] = value
    with pytest.raises(DebiasError, match=rf"rounds\[0\]\.{field}"):
        Profile.from_dict(document)


def test_texts_of_a_profile_are_texts_in_the_report():
    document = made(calibrated(HOSTILE)).to_dict()
    for key in ("classifier", "software", "created"):
        document[key] = HOSTILE
    document["setting"] = {HOSTILE: HOSTILE}
    document["entries"][0].update(stop=HOSTILE, warnings=[HOSTILE])
    document["attributes"][0]["name"] = document["attributes"][0]["groups"][0]["name"] = HOSTILE
    page = report.page(Profile.from_dict(document))
    assert "<img src=x" not in page and "<form" not in page and "<base" not in page and "&lt;img src=x" in page
    assert "form-action 'none'; base-uri 'none'" in page


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_writing_changes_no_other_threads_permissions(tmp_path):
    """Reading the umask by os.umask(0) made files of other threads writable for everybody."""
    umask, ended, modes = os.umask(0o027), threading.Event(), set()

    def other():
        number = 0
        while not ended.is_set():
            path = tmp_path / f"{number}"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
            modes.add(path.stat().st_mode & 0o777)
            path.unlink()
            number += 1

    thread = threading.Thread(target=other)
    thread.start()
    try:
        for _ in range(200):
            write_atomic(tmp_path / "ours", b"x")
    finally:
        ended.set()
        thread.join()
        os.umask(umask)
    assert modes == {0o640} and (tmp_path / "ours").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("plan", [
    dict(held_out=10**12), dict(held_out=1_000_001), dict(confidence=5.0), dict(confidence=-1.0),
    dict(confidence=float("nan")), dict(batch_size=10**9), dict(seed=2**70)])
def test_a_plan_out_of_bounds_is_refused_before_memory_is_taken(plan):
    with pytest.raises(DebiasError):
        Plan(**plan)


@pytest.mark.parametrize("name", ["a\u202eb", "a\ud800", "a\u200bb", "\u533b" * 74, "a\x7f"])
def test_names_that_mislead_or_overflow_are_refused(name):
    with pytest.raises(DebiasError, match="Expected a name of 1 to 120"):
        safe_name(name)
    assert safe_name("\u533b" * 73)


@pytest.mark.parametrize("arguments", [
    ["--count", "1000000001"], ["--count", "1e9"], ["--width", "80000", "--height", "80000"], ["--steps", "100000"],
    ["--width", "65", "--height", "64"], ["--seed", str(2**70)], ["--batch-size", "10000000"]])
def test_numbers_of_the_command_line_are_bounded(arguments, capsys):
    assert "expected a whole number from" in mistake(capsys, "audit", *JUDGE, *arguments)


def test_a_verification_of_a_billion_images_is_refused_at_once(capsys):
    started = time.time()
    assert "expected a whole number" in mistake(capsys, "calibrate", *QUICK, "--held-out", "1000000000", "--out", "x")
    assert time.time() - started < 5


# --- unclear ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, sentence", [
    ("[1, 2]", "Expected a map of labels to groups"), ("{}", "Expected a map of labels to groups"),
    ('{"a": 3}', "Expected a map of labels to groups"), ("[" * 100_000, "not readable JSON")])
def test_labels_that_are_no_mapping_are_refused_with_a_sentence(tmp_path, capsys, content, sentence):
    (tmp_path / "labels.json").write_text(content)
    assert sentence in mistake(capsys, "audit", *JUDGE, "--classifier", f"gender={FOLDER / 'classifier'}",
                               "--labels", f"gender={tmp_path / 'labels.json'}")


@pytest.mark.parametrize("path, value", [
    ("rounds.0.labels.0.0", 7), ("rounds.0.labels.0.0", "x"), ("rounds.0.labels.0", [0] * 500),
    ("rounds.0.labels", [[0], [1]]), ("rounds.0.seeds", ["a"]), ("rounds.0.seconds", None), ("rounds.0.kind", "last"),
    ("rounds.0.steerings.0.weights", [0.0]), ("rounds.0.not_finite", 10**6), ("rounds", {}), ("plan", 5),
    ("plan.images", 0), ("prompt", 3)])
def test_a_state_with_odd_values_is_refused_with_a_sentence(tmp_path, path, value):
    c = calibrated(rounds=0, held_out=0)
    c.save(tmp_path / "state.json")
    document = read_json(tmp_path / "state.json")
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = document
    for step in steps:
        place = place[step]
    place[last] = value
    (tmp_path / "state.json").write_text(json.dumps(document))
    with pytest.raises(DebiasError, match="is not the state of a calibration"):
        Calibration.load(tmp_path / "state.json")


@pytest.mark.parametrize("field, value", [
    ("fidelity", 5), ("fidelity", {"before": "high"}), ("cost", []), ("cost", {"images": "many"}), ("rounds", [5]),
    ("rounds", [{"kind": "audit"}]), ("stop", 3), ("warnings", "none"), ("before", [{"counts": [1, 2], "shares": 5}])])
def test_a_profile_with_a_field_of_a_wrong_type_is_refused_when_it_is_loaded(tmp_path, field, value):
    document = made(calibrated()).to_dict()
    document["entries"][0][field] = value
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(DebiasError, match=rf"entries\[0\]\.{field}"):
        Profile.load(tmp_path / "p.json")


def run(*arguments, **options):
    """The command in a process of its own."""
    program = ("import sys, types\npackage = types.ModuleType('sd_debias')\npackage.__path__ = [sys.argv.pop(1)]\n"
               "sys.modules['sd_debias'] = package\n"
               "from sd_debias.diffusers_host.cli.main import main\nsys.exit(main())")
    return subprocess.run([sys.executable, "-c", program, str(ROOT), *arguments], capture_output=True, timeout=300,
                          **options)


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode there")
def test_a_prompt_that_is_no_utf8_is_refused_with_a_sentence():
    done = run("audit", "--prompt", b"\xff\xfe")
    assert done.returncode == 2 and b"--prompt is no text in UTF-8" in done.stderr and b"Traceback" not in done.stderr


def test_a_model_without_a_tokenizer_is_refused_with_a_sentence(tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    said = mistake(capsys, "audit", *JUDGE, "--model", tmp_path / "model", "--classifier", FOLDER / "classifier")
    assert "tokenizer" in said and len(said.splitlines()) == 1


def test_a_device_that_does_not_compute_is_refused_with_a_sentence(capsys):
    assert "got 'meta', which does not" in mistake(capsys, "audit", *JUDGE, "--device", "meta")


@pytest.mark.parametrize("option", ["--cfg", "--confidence"])
def test_a_number_that_is_none_is_refused(option, capsys):
    assert "expected a number from 0" in mistake(capsys, "audit", *JUDGE, option, "nan")


def test_nine_attributes_are_refused_before_the_audit(capsys):
    nine = [part for i in range(9) for part in ("--attribute", f"a{i}: x | y")]
    assert "at most 8 attributes" in mistake(capsys, "audit", *JUDGE, *nine)
    assert len(together([parse(f"a{i}: x | y") for i in range(8)])) == 8


def test_a_bug_keeps_its_traceback_and_a_mistake_shows_one_only_on_request(monkeypatch, capsys):
    def bug(options):
        raise ValueError("of nobody's making")

    assert "Traceback" not in mistake(capsys, "audit", *JUDGE, "--attribute", "height")
    assert main(["audit", *JUDGE, "--attribute", "height", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setitem(COMMANDS, "audit", bug)
    bug.__name__, bug.__doc__ = "audit", "x"
    assert main(["audit", *JUDGE]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "of nobody's making" in said and "This is a bug" in said


@pytest.mark.parametrize("call", [
    lambda text: parse(text), lambda text: parse(f"gender = {text}"), lambda text: safe_name(text),
    lambda text: Profile.from_dict({"schema": text, "entries": []}),
    pytest.param(lambda text: read_json(Path(text[:99])), marks=pytest.mark.skipif(os.name == "nt", reason="no name")),
    lambda text: named(text), lambda text: Method(direction=text), lambda text: load_pipeline(text)])
def test_messages_quote_at_most_200_characters(call, tmp_path, monkeypatch):
    if os.name != "nt":
        (tmp_path / ("long\n\u202e" * 20)[:99]).write_text("no JSON")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DebiasError) as caught:
        call("long\n\u202e" * 20_000)
    said = str(caught.value)
    assert len(said) < QUOTED + 400 and "\n" not in said and "\u202e" not in said
    assert len(quoted("x" * 10**7)) == QUOTED + 2


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_keeps_the_state_and_says_so(tmp_path):
    program = ("import sys, types\npackage = types.ModuleType('sd_debias')\npackage.__path__ = [sys.argv.pop(1)]\n"
               "sys.modules['sd_debias'] = package\n"
               "from sd_debias.diffusers_host.cli.main import main\nsys.exit(main())")
    command = [sys.executable, "-c", program, str(ROOT), "calibrate", *JUDGE, "--images", "2000", "--batch-size", "10",
               "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not (state := next(tmp_path.glob("unfinished/*.json"), None)) and process.poll() is None:
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "What was measured is kept" in said and "Traceback" not in said
    assert Calibration.load(state).audit.done >= 10


def test_a_prompt_of_a_hundred_thousand_letters_has_its_chart_at_once():
    d, started = summarise([50, 50], [0.5, 0.5]), time.time()
    for text in ("x" * 100_000, "word " * 20_000, "\u533b" * 100_000):
        chart_shares(["man", text], d, title=text)
    assert time.time() - started < 10  # it took minutes


def test_attributes_whose_names_differ_in_signs_have_charts_of_their_own():
    names = chart_names([[parse("a b: x | y"), parse("a-b: x | y"), parse("A b!: x | y")]] * 2)
    assert len({name.casefold() for name in names}) == 6


def test_help_and_version_load_no_torch():
    program = ("import sys, types\npackage = types.ModuleType('sd_debias')\npackage.__path__ = [sys.argv.pop(1)]\n"
               "sys.modules['sd_debias'] = package\n"
               "from sd_debias.diffusers_host.cli.main import main\ncode = main()\n"
               "print(code, sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))")
    for arguments, words in ((["--help"], "audit"), (["calibrate", "--help"], "--rounds"), (["--version"], "debias 0")):
        done = subprocess.run([sys.executable, "-c", program, str(ROOT), *arguments], capture_output=True, text=True)
        assert words in done.stdout and done.stdout.strip().endswith("0 []"), done.stdout + done.stderr


def test_ctrl_c_while_it_imports_is_no_traceback(monkeypatch, capsys):
    import builtins
    imported = builtins.__import__

    def interrupted(name, *arguments, **options):
        if name == "workbench":
            raise KeyboardInterrupt
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert main(["audit", *JUDGE]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_a_profile_that_comes_with_the_package_is_found_by_its_name(tmp_path):
    assert main(["report", "--profile", "demo-gender", "--out", str(tmp_path)]) == 0
    assert "demo-gender" in (tmp_path / "report.html").read_text("utf-8")


# --- what a review of these found ------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [" | ".join(f"g{i} " + "long" * 40 for i in range(2)),
                                  "many: " + " | ".join(f"g{i}" for i in range(70))])
def test_whatever_can_be_calibrated_can_be_saved_and_loaded(tmp_path, text):
    attribute = parse(text)
    profile = made(calibrated(attributes=(attribute,), rounds=1, images=400, held_out=400))
    assert Profile.load(profile.save(tmp_path)).attributes == (attribute,)


@pytest.mark.parametrize("text", ["name: " + " | ".join(f"g{i}" for i in range(1025)), "x" * 10_001 + ": a | b",
                                  "a | " + "b" * 10_001])
def test_what_could_not_be_saved_is_refused_before_the_first_picture(text):
    with pytest.raises(DebiasError):
        parse(text)
    with pytest.raises(DebiasError, match="The prompt"):
        Calibration("x" * 100_001, [GENDER], METHODS["default"], Plan())


def test_a_text_that_no_system_takes_as_a_path_is_no_file():
    for text in ("\u4e00" * 200, "a\0b", "x" * 5000, ""):
        assert fingerprint(text) is None


def test_a_setting_of_a_shared_profile_writes_no_escapes_to_the_terminal():
    profile = replace(made(calibrated()), setting={"steps": "a\nb\x1b[31m" * 400, "sampler": "\x1b[31m"})
    for text in (*differences(profile, {"steps": 30}), *described(profile).splitlines()):
        assert text.isprintable() and len(text) < 800


def test_a_folder_where_a_file_should_be_is_said_and_leaks_nothing(tmp_path, capsys):
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(5):
        said = mistake(capsys, "report", "--profile", tmp_path, "--out", tmp_path / "o")
        assert "is a folder, pipe or device" in said
    assert not before or len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize("arguments", [
    ["generate", *JUDGE, "--out", "x", "--profile", ""], ["audit", *JUDGE, "--out", ""],
    ["audit", *JUDGE, "--model", " "], ["calibrate", *JUDGE, "--out", "", "--name", "x"]])
def test_an_option_that_a_script_left_empty_is_refused(arguments, capsys):
    assert "expected a text, got an empty one" in mistake(capsys, *arguments)


def test_a_killed_calibration_whose_report_was_removed_has_it_again(tmp_path, monkeypatch):
    command = ["calibrate", *QUICK, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("sd_debias.core.calibration.unfinished.Unfinished.remove", _interrupted)
        assert main(command) == 130
    kept = {path.name for path in tmp_path.iterdir()} - {".profile.json.lock", "unfinished"}
    profile = (tmp_path / "profile.json").read_bytes()
    for name in kept - {"profile.json"}:
        (tmp_path / name).unlink()
    assert main(command) == 0
    assert kept <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "profile.json").read_bytes() == profile and not list(tmp_path.glob("unfinished*"))


@pytest.mark.parametrize("name", [
    "\U0001f469\u200d\u2695\ufe0f", "\u067e\u0632\u0634\u06a9\u200c\u0647\u0627", "\u533b" * 70])
def test_names_in_any_script_are_names(tmp_path, name):
    assert safe_name(name) == name
    assert Profile.load(made(calibrated(), name=name).save(tmp_path)).name == name


def test_a_profile_named_by_an_earlier_version_loads():
    document = {**made(calibrated()).to_dict(), "name": "\u533b" * 100}
    assert Profile.from_dict(document).name == "\u533b" * 100


@pytest.mark.parametrize("changes", [
    dict(entries=()), dict(setting={"a": [1]}), dict(setting={"a": float("nan")}), dict(name="../x")])
def test_a_profile_that_would_not_load_is_not_saved(tmp_path, changes):
    with pytest.raises(DebiasError):
        replace(made(calibrated()), **changes).save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DebiasError, match="same name"):
        replace(made(calibrated()), attributes=(GENDER, GENDER))


def test_generate_says_pictures_of_one_colour(tmp_path, monkeypatch, capsys):
    from diffusers import AutoencoderKL
    monkeypatch.setattr(AutoencoderKL, "decode", lambda self, latents, *a, **o: (torch.zeros(len(latents), 3, 64, 64),))
    assert main(["generate", *JUDGE, "--count", "2", "--steps", "1", "--out", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert "2 of 2 images are of one colour" in captured.err
    assert len(json.loads(captured.out)["one_colour"]) == 2
    assert "all pixels are equal" in Image.open(tmp_path / "0.png").text["parameters"]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_pipe_in_the_place_of_a_picture_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "0.png")
    assert "exists already" in mistake(capsys, "generate", *JUDGE, "--steps", "1", "--out", tmp_path)


def test_a_folder_that_cannot_be_made_is_said_before_the_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli, "bench_of", lambda *_: pytest.fail("the model was loaded"))
    for command in ("audit", "calibrate"):
        assert "file" in mistake(capsys, command, *JUDGE, "--out", tmp_path / "file")


def test_labels_that_come_twice_are_refused(capsys):
    assert "one --labels for the attribute" in mistake(
        capsys, "audit", *JUDGE, "--classifier", f"gender={CLIP}", "--labels", "gender=a.json", "--labels",
        "gender=b.json")
