"""An audit of a folder on a real local Ray cluster, by Ray Data."""
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.audits.folder import Piece
from sd_debias.core.errors import DebiasError
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep.on_ray_data import _check_seen


@pytest.fixture(scope="module")
def cluster(environment_of_ray):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """The command for a folder of pictures, several of each, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(root / f"{number}.png")
    for number in range(15):
        shutil.copy(root / f"{number % 3}.png", root / f"copy {number:02d}.png")
    (root / "broken.png").write_bytes(b"no picture")
    return ["audit", "--folder", str(root), "--classifier", "demo", "--batch-size", "4"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ray is in beta there")
def test_a_cluster_labels_a_folder_as_is_done_here(cluster, audit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sd_debias.diffusers_host.sweep.on_ray_data.TOGETHER", 2)
    assert main([*audit, "--out", str(tmp_path / "here")]) == 0
    assert main([*audit, "--out", str(tmp_path / "ray"), "--ray"]) == 0
    for name in ("labels.csv", "audit.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert len((tmp_path / "ray" / "labels.csv").read_text("utf-8").splitlines()) == 20
    monkeypatch.setattr("sd_debias.diffusers_host.sweep.on_ray_data.VERSION", "999")
    assert main([*audit, "--ray"]) == 2 and "999" in capsys.readouterr().err


def test_a_node_that_does_not_see_the_folder_is_said(tmp_path):
    file = tmp_path / "0.png"
    Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(DebiasError, match="'0.png'"):
        _check_seen(Piece(None, ["0.png gone"], {}, {}), [file])
    _check_seen(Piece(None, ["0.png 12345678"], {}, {}), [file])
