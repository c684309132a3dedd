"""The public API, and that core stands without any host."""
import ast
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import house
import numpy as np
import pytest

import sd_debias.core as core
from sd_debias.core.attribute import parse
from sd_debias.core.calibration import solver
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.method.methods import named
from sd_debias.core.profile.file import Profile
import pkgutil
import types

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"diffusers", "accelerate", "comfy", "comfy_api", "comfy_execution", "folder_paths", "modules", "gradio",
         "fastapi", "backend", "ldm_patched"}
PROGRAM = """
import importlib, sys, types
sys.path_hooks, package = list(sys.path_hooks), types.ModuleType("sd_debias")
package.__path__ = [sys.argv[1]]
sys.modules["sd_debias"] = package
for host in sys.argv[2].split(","):
    sys.modules[host] = None  # importing it fails
for name in sys.argv[3].split(","):
    importlib.import_module(name)
import sd_debias.core as core
print(len([getattr(core, name) for name in core.__all__]))
"""


def test_core_imports_where_there_is_no_diffusers_and_no_host():
    modules = [".".join(("sd_debias", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
               for path in (ROOT / "core").rglob("*.py")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT), ",".join(HOSTS), ",".join(modules)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) == len(core.__all__), done.stderr


def test_arrows_point_one_way():
    """core knows no other room, and hosts know none of each other."""
    rooms = {"core": {"core"}, "demo_model": {"core", "demo_model"}, "nodes": {"core", "demo_model", "nodes"},
             "webui_extension": {"core", "demo_model", "webui_extension"},
             "diffusers_host": {"core", "demo_model", "diffusers_host"}}
    for room, known in rooms.items():
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level:
                    folder = path.relative_to(ROOT).parts[:-1]
                    target = (*folder[:len(folder) - node.level + 1], *(node.module or "").split("."))
                    assert target[0] in known, f"{path.relative_to(ROOT)} imports {'.'.join(target)}"


def test_no_room_of_core_leads_back_to_itself():
    found = house.arrows()
    assert house.circles(found) == [] and len(found) >= 6
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_example_of_an_own_solver_calibrates_and_is_named(tmp_path):
    own = runpy.run_path(str(ROOT / "examples" / "own_solver.py"))["Halving"]
    rule = solver.register("halving", lambda attribute, method, seed: own(attribute, method, seed))
    light = parse("light: dark | bright")
    method, chance = named("shift", rule=rule), np.random.default_rng(0)

    def generate(weights, seeds):
        bright = chance.random(len(seeds)) < 1 / (1 + np.exp(1.5 - 3 * (weights[:, 0] - weights[:, 1]).numpy()))
        return [np.array([[[20, 20, 20], [60, 60, 60]]] if not one else [[[200, 200, 200], [250, 250, 250]]], np.uint8)
                for one in bright]

    c = Calibration("a room", [light], method, Plan(100, 6, 100, batch_size=50))

    def judge(images):
        bright = np.array([image.mean() > 128 for image in images], float)
        return np.stack([1 - bright, bright], axis=1)

    for _ in c.run(generate, lambda images: [judge(images)], save_to=tmp_path / "state.json"):
        pass
    assert c.audit.distribution(0, light.target).kl > 0.1 > 0.02 > c.held_out.distribution(0, light.target).kl
    profile = profile_of("room", [c], {}, "brightness")
    assert Profile.load(profile.save(tmp_path)).method.rule == "own:halving"
    assert Calibration.load(tmp_path / "state.json").steerings == c.steerings
    solver._own.pop("own:halving")
    assert Profile.load(tmp_path / "room.json").entries[0].steerings == c.steerings
    with pytest.raises(ValueError, match="'own:halving', which is not registered here"):
        Calibration.load(tmp_path / "state.json")


def test_every_public_name_is_there_and_none_is_hidden_by_a_package_of_the_same_name():
    for name in core.__all__:
        thing = getattr(core, name)
        assert thing is not None and (not callable(thing) or thing.__doc__), name
    for module in pkgutil.walk_packages(core.__path__, "sd_debias.core."):
        importlib.import_module(module.name)
    assert not [name for name in dir(core) if isinstance(getattr(core, name), types.ModuleType)]
