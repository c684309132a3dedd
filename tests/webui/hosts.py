"""The hosts of these tests: doubles with the extension, real ones, and which case runs on which."""
from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace

import pytest
import webui_double as double
from webui_real import arrays, running
from webui_settings import debias, keys, payload, save_profile

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "scripts" / "sd_debias.py"
# The shim without what makes Python import the package anew.
AGAIN = SimpleNamespace(name=SHIM.name, read_text=lambda encoding: dedent(
    SHIM.read_text(encoding).rpartition("else:\n")[2]))
DOUBLES = {"a1111": {}, "forge": dict(forge=True), "a1111-xl": dict(xl=True),
           "forge-xl": dict(forge=True, xl=True)}
PAIRS = [("a1111", "forge-xl"), ("forge", "a1111-xl")]  # of doubles that differ in everything
REAL = {"real-a1111": "A1111", "real-forge": "FORGE", "real-reforge": "REFORGE"}
_modules: dict[str, ModuleType] = {}  # of the host, which the package's modules hold
_package: dict[str, ModuleType] = {}


def real(name: str, *more):
    return pytest.param(name, *more, marks=[pytest.mark.webui, pytest.mark.slow])


def server(name: str):
    """A real host, started once; skips the test where none is named."""
    if not os.environ.get(f"{REAL[name]}_PATH"):
        pytest.skip(f"{REAL[name]}_PATH names no installation")
    return running(REAL[name], ROOT)


def on_hosts(names: str, values, pairs=PAIRS, each: int = 2):
    """Parametrises `host` and further names: the real hosts meet all values, each value meets
    `each` of the doubles in turn. So any two of kind of host, kind of model and value meet."""
    flat = [name for pair in pairs for name in pair]
    rows = []
    for i, value in enumerate(values):
        doubles = pairs[i % len(pairs)] if each == 2 else [flat[i % len(flat)]]
        own = value if "," in names else [value]
        rows += [pytest.param(name, *own) for name in doubles]
        rows += [real(name, *own) for name in REAL]
    return pytest.mark.parametrize(f"host, {names}", rows, indirect=["host"])


@contextmanager
def doubled(folder, *others, **kind):
    """A new double with the extension, and others behind it. The package is imported once for all
    tests, since that takes longer than most of them; the host's modules, which it holds, get the
    new double's content."""
    made = double.Double(folder, **kind)
    made.profiles = folder / "debias_profiles"
    for name, module in made.modules.items():
        if _modules.setdefault(name, module) is not module:
            vars(_modules[name]).clear()
            vars(_modules[name]).update(vars(module))
        made.modules[name] = _modules[name]
        if name.startswith("modules."):
            setattr(_modules["modules"], name.split(".")[1], _modules[name])
    made.shared, made.gradio = _modules["modules.shared"], _modules["gradio"]
    with made.installed():
        if _package:
            for name in _own():
                del sys.modules[name]
            sys.modules.update(_package)
        made.load(AGAIN if _package else SHIM, *others)
        _package.update(_package or _own())
        try:
            yield made
        finally:
            if sys.modules.get("sd_debias") is _package["sd_debias"]:
                _package.update(_own())  # what was imported meanwhile


def _own() -> dict[str, ModuleType]:
    return {name: own for name, own in sys.modules.items() if name.split(".")[0] == "sd_debias"}


def ours(name: str) -> ModuleType:
    """A module of the extension as the double loaded it."""
    return sys.modules[f"sd_debias.webui_extension.{name}"]


def core(name: str) -> ModuleType:
    return sys.modules[f"sd_debias.core.{name}"]


def refused(facts: str):
    """As pytest.raises, of the error of the package that the double loaded."""
    return pytest.raises(core("errors").DebiasError, match=facts)


def generate(host, tab: str = "txt2img", **changes):
    """(pictures, what their infotexts say)"""
    result = host.post(tab, payload(**changes))
    return arrays(result), [keys(text) for text in result.infotexts]


def steered(host, page=None, tab: str = "txt2img", given=None, **profile):
    """(pictures without and with a profile that is saved first, what the infotexts of the latter say)"""
    save_profile(host.profiles, **profile)
    plain, _ = generate(host, tab, **(page or {}))
    guided, said = generate(host, tab, **(page or {}), **debias(**(given or {})))
    return plain, guided, said
