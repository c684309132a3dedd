"""What is shared names no folder of its maker's machine."""
import json
import os
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image
from test_profile import calibrated, made

from sd_debias.core.attribute import GENDER
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.study import runner
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.errors import DebiasError, placed, placeless
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.words import described
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep.result import card_of
from sd_debias.diffusers_host.sweep.folder import Request
from sd_debias.diffusers_host.sweep.job import Job, Wanted
from sd_debias.core.method.methods import METHODS
from sd_debias.core.report.page import card_markdown, card_page

HOME = str(Path.home())


@pytest.mark.parametrize("text, expected", [
    ("[Errno 2] No such file: '/srv/alice/pics/x.png'", "[Errno 2] No such file: 'x.png'"),
    (f"{HOME}/pics/x.png is gone", "~/pics/x.png is gone"), (r"C:\Users\al\x.bin gone", "x.bin gone"),
    (r"\\server\share\f.txt", "f.txt"),
    (r"[Errno 2] No such file: 'C:\\Users\\al\\x y.bin'", "[Errno 2] No such file: 'x y.bin'"),
    (r"'\\\\server\\share\\f.txt'", "'f.txt'"),
    ("see https://a.example/b/c, and/or 60/40 in ~/x/y or models/x/y",) * 2])
def test_of_a_place_the_name_is_left(text, expected):
    assert placeless(text) == expected


def test_a_users_name_of_windows_is_left_out_however_it_is_quoted(monkeypatch):
    home = PureWindowsPath(r"C:\Users\Al Smith")
    monkeypatch.setattr(Path, "home", lambda: home)
    for form in (str(home / "x.bin"), repr(str(home / "x.bin")), f"{home}/x.bin"):
        assert "Smith" not in placeless(f"[Errno 2] No such file: {form}")


def test_a_message_about_a_file_says_its_place_as_the_host_knows_it(tmp_path):
    path = tmp_path / "models" / f"{'x' * 250}.json"
    for form in (f"'{path}' is damaged", f"'{path.with_name('.x.lock')}' is a link"):
        said = placed(form, path, lambda own: f"models/{own.name[:5]}")
        assert str(tmp_path) not in said, said


def texts(folder):
    """All that the files of a folder say, images' metadata among them."""
    found = {}
    for file in sorted(folder.rglob("*.*")):
        found[file.name] = file.read_bytes().decode("utf-8", "replace")
        if file.suffix == ".png" and file.stem != "broken":
            with Image.open(file) as picture:
                found[f"{file.name}, metadata"] = json.dumps(picture.info, default=str)
    return found


@pytest.mark.slow
def test_no_file_that_a_command_writes_names_a_folder_of_this_machine(tmp_path):
    """Profile, report, labels, table, card and images; a sweep's own state names models as they were given."""
    out, prompts = tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text("a photo of a doctor\n")

    def run(command, folder, *options):
        assert main([command, *map(str, options), "--out", str(out / folder)]) == 0
    prompt = ["--prompt", "a photo of a doctor"]
    few = ["--batch-size", "4", "--steps", "2", "--count", "4"]
    run("calibrate", "c", *prompt, *few, "--rounds", 1, "--held-out", 4)
    run("audit", "a", *prompt, *few)
    run("generate", "g", *prompt, *few, "--profile", out / "c" / "profile.json")
    (out / "g" / "broken.png").write_bytes(b"no picture")
    run("audit", "f", "--folder", out / "g", "--judge", "demo")
    run("sweep", "s", *few, "--audit", "--prompts", prompts)
    found = texts(out)
    assert {"profile.json", "report.html", "labels.csv", "labels.html", "card.html", "card.md", "card.json",
            "audit.json", "0.png, metadata"} <= found.keys()
    assert "broken.png" in found["audit.json"]
    for name, text in found.items():
        assert str(tmp_path) not in text and HOME + os.sep not in text, name


def test_a_picture_that_cannot_be_read_is_named_without_its_folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    for name in ("b.png", "c.png"):
        (folder / name).write_bytes(b"no picture")
    audit = FolderAudit(folder, [GENDER], [lambda images: np.tile(np.array([1, 0], np.float32), (len(images), 1))])
    (folder / "c.png").unlink()
    labelled = audit.run()
    said = json.dumps([labelled.table(), audit.unreadable])
    assert "b.png" in said and "c.png" in said and str(tmp_path) not in said


def test_why_a_prompt_failed_stands_on_the_card_without_a_folder():
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{HOME}/models/x.safetensors' in /srv/a/b.py"
    plan = Plan(4, rounds=0, held_out=0, batch_size=4)
    request = Request(("m",), (Wanted("p", 0),), ((GENDER,),), METHODS["default"], plan)
    job = Job(0, request.wanted[0], (GENDER,), METHODS["default"], plan)
    job.error = error
    card = card_of(request, [job], dict(model="m", setting={}, classifiers=[["x"]]))
    for text in (json.dumps(card), card_page([card]), card_markdown(card)):
        assert HOME not in text and "/srv/a" not in text
    assert "x.safetensors" in json.dumps(card)


def test_a_profile_that_cannot_be_read_over_a_network_is_named_as_the_host_knows_it(tmp_path):
    """Also where something else stands in the place of its lock."""
    class Host(runner.Host):
        setting = {}

        def fingerprint(self):
            return "facts"

        def known(self, prompt):
            return prompt

        def place(self, path):
            return f"models/{Path(path).name}"

    path = tmp_path / "p.json"
    (tmp_path / ".p.json.lock").mkdir()
    places = runner.Places(path, path, tmp_path / "reports" / "p", tmp_path / "unfinished", tmp_path / "best.json")
    with pytest.raises(DebiasError) as caught:
        runner.calibrate(Host(), ["a"], [GENDER], METHODS["default"], Plan(4), "p", places)
    assert str(tmp_path) not in str(caught.value) and ".p.json.lock" in str(caught.value)


def test_a_profile_in_words_says_the_names_of_models_alone(tmp_path):
    profile = made(calibrated())
    profile.save(tmp_path / "p.json")
    assert str(tmp_path) not in described(Profile.load(tmp_path / "p.json"))
