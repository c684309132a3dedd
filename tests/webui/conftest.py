"""Doubles of the hosts always, real ones where A1111_PATH, FORGE_PATH or REFORGE_PATH name one."""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def _load(name: str):
    """A file beside this one, as a module that the test files can import."""
    alias = f"webui_{name}"
    if alias not in sys.modules:  # other folders' tests use some as well
        file = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(alias, file)
        sys.modules[alias] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[alias]


double, real, settings, hosts = map(_load, ("double", "real", "settings", "hosts"))


@pytest.fixture(params=[*hosts.DOUBLES, *map(hosts.real, hosts.REAL)])
def host(request, tmp_path):
    """A host with the extension loaded and a folder for profiles."""
    if request.param in hosts.DOUBLES:
        with hosts.doubled(tmp_path, **hosts.DOUBLES[request.param]) as made:
            yield made
    else:
        yield hosts.server(request.param)


@pytest.fixture(params=hosts.REAL)
def server(request):
    """Each of the real hosts."""
    return hosts.server(request.param)


@pytest.fixture
def a1111():
    """The real A1111."""
    return hosts.server("real-a1111")


@pytest.fixture
def start():
    """Starts servers with options of their own: start("A1111", "--nowebui")."""
    started = []

    def start(name: str, *options: str):
        if not os.environ.get(f"{name}_PATH"):
            pytest.skip(f"{name}_PATH names no installation")
        started.append(real.Server(name, hosts.ROOT, list(options)))
        return started[-1]
    yield start
    for server in started:
        server.stop()


@pytest.fixture
def a_double(request, tmp_path):
    """A double alone, for what only a host in the same process can show; A1111's by itself."""
    with hosts.doubled(tmp_path, **getattr(request, "param", {})) as made:
        yield made


@pytest.fixture
def bench(a_double, monkeypatch):
    """A double whose images are judged by their brightness."""
    monkeypatch.setattr(hosts.ours("classifiers"), "load", lambda text, attributes, *_: (
        [settings.brightness] * len(attributes), None))
    return a_double


def pytest_sessionfinish():
    real.stop()
