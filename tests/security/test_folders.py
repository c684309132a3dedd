"""Nothing is read or written outside its folder: not by a name, and not by a link in a folder that somebody sent."""
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_profile import calibrated

from sd_debias.core.attribute import GENDER
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.study.unfinished import Unfinished
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import inside
from sd_debias.core.profile.file import located
from sd_debias.diffusers_host.cli import commands as cli
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.cli.sweeping import _place
from sd_debias.diffusers_host.sweep.folder import SweepFolder
from sd_debias.diffusers_host.sweep.prompts import read_prompts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")
SWEEP = ["sweep", "--count", "6", "--batch-size", "6", "--steps", "1", "--audit"]


@pytest.fixture
def secret(tmp_path):
    """A file of the user's, which no folder that is sent may reach."""
    file = tmp_path / "home" / "secret.jsonl"
    file.parent.mkdir()
    file.write_text('{"secret": 1}\n')
    return file


def test_a_link_may_be_the_folder_but_not_lead_out_of_it(tmp_path, secret):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    (folder / "own").symlink_to(folder / "a")
    assert inside(link, link / "a") and inside(folder, folder / "own") and inside(folder, folder / "new" / "b")
    (folder / "out").symlink_to(secret.parent)
    for path in (folder / "out", folder / "out" / "x", folder / ".." / "home", secret):
        with pytest.raises(DebiasError, match="leads out of it"):
            inside(folder, path)


# --- sweeps ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A sweep whose states are gone."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "prompts.txt").write_text("a photo of a doctor\n")
    prompts = str(folder / "prompts.txt")
    assert main([*SWEEP, "--prompts", prompts, "--out", str(folder / "sweep")]) == 0
    shutil.rmtree(folder / "sweep" / "prompts")
    return folder


@pytest.fixture
def sweep(tmp_path, begun):
    """A sweep that was begun, as somebody sent it."""
    folder = shutil.copytree(begun / "sweep", tmp_path / "sweep")
    return folder, [*SWEEP, "--prompts", str(begun / "prompts.txt"), "--out", str(folder)]


@pytest.mark.parametrize("name", ["prompts", "facts.json"])
def test_states_and_facts_of_a_sweep_that_are_links_are_not_written_to(
        sweep, secret, capsys, name):
    folder, command = sweep
    place = folder / name
    place.unlink(missing_ok=True)
    place.symlink_to(secret if "." in name else secret.parent)
    assert main(command) == 2 and "leads out of it" in capsys.readouterr().err
    assert [file.name for file in secret.parent.iterdir()] == ["secret.jsonl"]
    assert secret.read_text() == '{"secret": 1}\n'


def place_of(root, model):
    """Where the results of a sweep's model go."""
    request = SimpleNamespace(models=(model,))
    return _place(SimpleNamespace(name="profile"), SimpleNamespace(root=root, request=request), 0)[0]


@pytest.mark.parametrize("model", ["../../x", "/etc/passwd", "..", ".", "a\\..\\b", "~/x", "", "a/../../b", "a/../x\0"])
def test_a_models_name_is_a_folder_of_the_sweep(tmp_path, model):
    place = place_of(tmp_path, model)
    assert place.resolve().parent == tmp_path.resolve() and place.name not in ("", ".", "..")


def test_what_is_a_link_in_a_sweep_is_neither_read_nor_written(tmp_path, secret):
    """Results in the place of a model's folder, the sweep's own file."""
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "demo").symlink_to(secret.parent)
    (sent / "sweep.json").symlink_to(secret)
    for use in (lambda: place_of(sent, "demo"), lambda: SweepFolder(sent)):
        with pytest.raises(DebiasError, match="leads out of it"):
            use()


@pytest.mark.parametrize("suite", ["../sources", "../../sweep/suites/demo-20", "sources.json", "/etc/hostname\0"])
def test_a_suite_is_known_by_its_name_alone(tmp_path, monkeypatch, suite):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DebiasError, ValueError)):
        read_prompts(suite)


@pytest.mark.parametrize("name", ["../demo_model/weights/model_index", "sub/demo-gender"])
def test_a_profile_that_comes_with_the_package_is_known_by_its_name_alone(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DebiasError, match="There is no profile"):
        located(name)
    assert not any(located(folder).is_file() for folder in ("..", "."))


# --- calibrations ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["", ".json"])
def test_unfinished_work_that_is_a_link_is_neither_read_nor_written(tmp_path, secret, ending):
    own = Unfinished(tmp_path / "unfinished", "p", "facts")
    own.path.parent.mkdir()
    own.path.with_suffix(ending).symlink_to(secret.parent if not ending else secret)
    with pytest.raises(DebiasError, match="leads out of it"):
        again = Unfinished(tmp_path / "unfinished", "p", "facts")
        again.keep(calibrated().rounds[:1], [0], [np.zeros((8, 8, 3), np.uint8)])
    assert [file.name for file in secret.parent.iterdir()] == ["secret.jsonl"]


@pytest.mark.parametrize("name", ["../x", "a\0b"])
def test_a_profiles_name_is_a_file_of_its_folder(tmp_path, monkeypatch, capsys, name):
    bench = SimpleNamespace(batch_size=4, setting={})
    monkeypatch.setattr(cli, "bench_of", lambda *_: bench)
    assert main(["calibrate", "--prompt", "x", "--out", str(tmp_path / "out"), "--name", name]) == 2
    assert "1 to 120" in capsys.readouterr().err
    assert not [file for file in tmp_path.rglob("*.json")]


# --- images --------------------------------------------------------------------------------------------------------

def test_a_picture_that_is_a_link_out_of_its_folder_is_not_labelled_nor_shown_and_is_named(tmp_path, secret):
    folder, seen = tmp_path / "pictures", []
    folder.mkdir()
    for file in (folder / "a.png", secret.parent / "private.png"):
        Image.effect_noise((8, 8), 50).save(file)
    (folder / "b.png").symlink_to(folder / "a.png")
    (folder / "c.png").symlink_to(secret.parent / "private.png")

    def judge(images):
        seen.extend(images)
        return np.tile(np.array([1, 0], np.float32), (len(images), 1))

    audit = FolderAudit(folder, [GENDER], [judge])
    labelled = audit.run()
    assert [key.split()[0] for key in labelled.keys] == ["a.png", "b.png"] and len(seen) == 2
    assert audit.unreadable == ["c.png: it is a link that leads out of the folder"]
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    with pytest.raises(DebiasError, match="holds no images"):
        FolderAudit(folder, [GENDER], [judge])
    assert json.dumps(labelled.table()).count("private") == 0
