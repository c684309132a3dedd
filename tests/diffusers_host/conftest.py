"""What several tests of the command line and of Ray set up."""
import os
from functools import cache
from pathlib import Path

import pytest
from sd_debias.demo_model import model
from sd_debias.diffusers_host import workbench
from sd_debias.diffusers_host.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def one_demo_model():
    """Commands of a module share the loaded model: loading takes as long as their few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "load_pipeline", cache(workbench.load_pipeline))
        patch.setattr(model, "clip", cache(model.clip))
        yield


@pytest.fixture
def refused(capsys):
    """f(arguments, *facts): the command ends with 2 and one line that holds these facts."""
    def refuse(arguments, *facts):
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in "".join(lines)
        assert len(lines) == 1 or lines[0].startswith("usage: ")
        assert all(fact in lines[-1] for fact in facts), (facts, lines[-1])
    return refuse


@pytest.fixture(scope="module")
def environment_of_ray(tmp_path_factory):
    """Ray's processes, and commands, find this checkout as the package `sd_debias`."""
    place = tmp_path_factory.mktemp("package") / "sd_debias"
    place.mkdir()
    for part in ("core", "demo_model", "diffusers_host", "profiles"):
        (place / part).symlink_to(ROOT / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place.parent), str(Path(__file__).parent)]))
        for name, value in dict(RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1",
                                OMP_WAIT_POLICY="PASSIVE").items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
