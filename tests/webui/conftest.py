"""Hosts for the contract tests: doubles always, real ones where A1111_PATH, FORGE_PATH or REFORGE_PATH name one."""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def _load(name: str):
    """A file beside this one, as a module that the test files can import."""
    if name in sys.modules:  # other folders' tests use it as well
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name.removeprefix('webui_')}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


double, real, settings = _load("webui_double"), _load("webui_real"), _load("webui_settings")

DOUBLES = {"a1111": {}, "forge": dict(forge=True), "a1111-xl": dict(xl=True), "forge-xl": dict(forge=True, xl=True)}
REAL = {"real-a1111": "A1111", "real-forge": "FORGE", "real-reforge": "REFORGE"}


def _server(name: str):
    """A real host, started once; skips the test where none is named."""
    if not os.environ.get(f"{REAL[name]}_PATH"):
        pytest.skip(f"{REAL[name]}_PATH names no installation")
    return real.running(REAL[name], ROOT)


@pytest.fixture(params=[*DOUBLES, *(pytest.param(name, marks=[pytest.mark.webui, pytest.mark.slow]) for name in REAL)])
def host(request, tmp_path):
    """A host with the extension loaded and a folder for profiles."""
    if request.param in DOUBLES:
        made = double.Double(tmp_path, **DOUBLES[request.param])
        made.profiles = tmp_path / "debias_profiles"
        with made.installed():
            made.load(ROOT / "scripts" / "sd_debias.py")
            yield made
        return
    yield _server(request.param)


@pytest.fixture(params=REAL)
def server(request):
    """Each of the real hosts."""
    return _server(request.param)


@pytest.fixture
def a1111():
    """The real A1111."""
    return _server("real-a1111")


@pytest.fixture
def start():
    """Starts servers with options of their own: start("A1111", "--api-auth", "me:secret")."""
    started = []

    def start(name: str, *options: str, authorization: str | None = None):
        if not os.environ.get(f"{name}_PATH"):
            pytest.skip(f"{name}_PATH names no installation")
        started.append(real.Server(name, ROOT, list(options), authorization))
        return started[-1]
    yield start
    for server in started:
        server.stop()


@pytest.fixture
def a_double(tmp_path):
    """A1111's double alone, for what only a host in the same process can show."""
    made = double.Double(tmp_path)
    made.profiles = tmp_path / "debias_profiles"
    with made.installed():
        made.load(ROOT / "scripts" / "sd_debias.py")
        yield made


@pytest.fixture
def bench(a_double, monkeypatch):
    """A double whose pictures are judged by their brightness: dark ones are the first group, nine of ten by themselves.
    """
    module = sys.modules["sd_debias.webui_extension.classifiers"]

    def classify(images):
        first = np.array([array.mean() < 128.45 for array in map(np.asarray, images)], np.float32)
        return np.stack([first, 1 - first], axis=1)

    monkeypatch.setattr(module, "load", lambda text, attributes, by_name=False, models=None: (
        [classify] * len(attributes), None))
    return a_double


def pytest_sessionfinish():
    real.stop()
