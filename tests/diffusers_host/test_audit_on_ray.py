"""An audit of a folder on a real local Ray cluster, by Ray Data."""
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from sd_debias.core.errors import DebiasError
from sd_debias.diffusers_host.cli.main import main

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="Ray is in beta there")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    place = tmp_path_factory.mktemp("package") / "sd_debias"
    place.mkdir()
    for part in ("core", "demo_model", "diffusers_host", "profiles"):
        (place / part).symlink_to(ROOT / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place.parent), str(Path(__file__).parent)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.shutdown()
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the demo model, several of each, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    assert main(["generate", "--prompt", "a photo of a doctor", "--count", "3", "--steps", "4", "--out",
                 str(root)]) == 0
    for number in range(37):
        shutil.copy(root / f"{number % 3}.png", root / f"copy {number:02d}.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_a_folder_is_labelled_on_a_cluster_as_it_is_here(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sd_debias.diffusers_host.sweep.on_ray_data.TOGETHER", 2)
    command = ["audit", "--images", str(folder), "--classifier", "demo", "--batch-size", "4"]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    assert main([*command, "--out", str(tmp_path / "ray"), "--ray"]) == 0
    for name in ("labels.csv", "audit.json"):
        assert (tmp_path / "ray" / name).read_text("utf-8") == (tmp_path / "here" / name).read_text("utf-8")
    assert len((tmp_path / "ray" / "labels.csv").read_text("utf-8").splitlines()) == 42


def test_a_node_that_does_not_see_the_folder_is_said(folder, tmp_path):
    from sd_debias.core.audits.folder import Piece
    from sd_debias.diffusers_host.sweep.on_ray_data import _check_seen
    file = folder / "0.png"
    with pytest.raises(DebiasError, match="cannot find '0.png'"):
        _check_seen(Piece(None, ["0.png gone"], {}, {}), [file])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    _check_seen(Piece(None, ["a.png 12345678"], {}, {}), [tmp_path / "a.png"])


def test_judges_that_cannot_be_opened_on_the_cluster_are_a_sentence(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sd_debias.diffusers_host.sweep.on_ray_data.VERSION", "999")
    assert main(["audit", "--images", str(folder), "--classifier", "demo", "--ray"]) == 2
    assert "is installed on a node, but the driver has 999" in capsys.readouterr().err
