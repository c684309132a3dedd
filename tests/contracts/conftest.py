"""Every host that is there, with every form of text that it can have."""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _load(name: str):
    """A file beside this one, as a module that the others can import: contracts_<name>."""
    alias = f"contracts_{name}"
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, HERE / f"{name}.py")
        sys.modules[alias] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[alias]


_load("case")
table = _load("table")
is_neo = sys.modules["contracts_case"].load("webui", "real", "webui_real").is_neo
FORGE = "Forge Neo" if is_neo(Path(os.environ.get("FORGE_PATH", "."))) else "Forge"
HOSTS = {"diffusers": "diffusers", "diffusers, modular": "modular",
         "ComfyUI" if os.environ.get("COMFYUI_PATH") else "ComfyUI double": "comfyui",
         "A1111 double": "webui", "Forge double": "webui",
         **{FORGE if name == "Forge" else name: "webui" for name in ("A1111", "Forge")
            if os.environ.get(f"{name.upper()}_PATH")}}
# Whose form of text another variant has too, or another host that is quicker.
SLOW = {*(("ComfyUI double", variant) for variant in ("73", "74")),
        *(("diffusers", variant) for variant in ("sd2", "sd3", "chroma", "krea"))}
QUICK = ("z-image", "anima")  # of the modular pipelines
covering = _load("pairs").covering
ADAPTERS = {host: _load(name) for host, name in HOSTS.items()}
RESULTS, RAN = pytest.StashKey(), pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write what tests/contracts found to docs/contracts.md")


def pytest_configure(config):
    config.stash[RESULTS], config.stash[RAN] = [], {}


def pytest_generate_tests(metafunc):
    """A case stays until the tests of the next one: web UIs replace the package by one of their own meanwhile.

    Beside the cases, a test's `varied` choices differ from case to case, so that every pair meets (covering).
    """
    if "case" not in metafunc.fixturenames:
        return
    refusal = metafunc.function.__name__ == "test_refused"
    varied, rows = getattr(metafunc.function, "varied", ({}, 1))
    cases = [(host, form, variant) for host, adapter in ADAPTERS.items()
             for form, variants in adapter.forms(host).items()
             if not isinstance(variants, str) for variant, refused in variants.items() if bool(refused) == refusal]
    metafunc.parametrize(("case", *varied), [
        pytest.param(case, *row, id="-".join([case[0].replace(", ", "-").replace(" ", "-"), *case[1:], *map(str, row)]),
                     marks=[pytest.mark.slow, pytest.mark.webui] if case[0] in ("A1111", FORGE) else
                     [pytest.mark.slow] if case[0] == "diffusers, modular" and case[2] not in QUICK
                     or (case[0], case[2]) in SLOW else [])
        for case, row in covering(cases, varied, rows)],
        indirect=["case"], scope="module")


@pytest.fixture(scope="module")
def case(request, tmp_path_factory):
    host, form, variant = request.param
    with ADAPTERS[host].case(host, form, variant, tmp_path_factory) as made:
        if host not in request.config.stash[RAN]:
            request.config.stash[RAN][host] = ADAPTERS[host].versions(host)
        made.refused = ADAPTERS[host].forms(host)[form][variant]
        yield made


@pytest.fixture
def measured(request):
    """measured(deviation) -> the same, noted for the table."""
    def note(deviation):
        request.node.user_properties.append(("deviation", deviation))
        return deviation
    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    of_case = item.path.parent == HERE and "case" in item.fixturenames
    if of_case and (report.when == "call" or report.outcome != "passed"):
        host, form, variant = item.callspec.params["case"]
        outcome, text = report.outcome, ""
        if outcome == "skipped":
            text = report.longrepr[2].removeprefix("Skipped: ")
        elif outcome == "passed" and item.originalname == "test_refused":
            outcome, text = "refused", item.funcargs["case"].refused.short
        deviation = max((value for _, value in item.user_properties), default=0.0)
        item.config.stash[RESULTS].append(table.Result(host, item.originalname, form, variant, outcome, text,
                                                       deviation))
    return report


def pytest_sessionfinish(session):
    for adapter in set(ADAPTERS.values()):
        getattr(adapter, "stop", lambda: None)()
    if session.config.getoption("write_table", False):
        table.write(session.config.stash[RESULTS], {
            host: (versions, ADAPTERS[host].forms(host)) for host, versions in session.config.stash[RAN].items()})
