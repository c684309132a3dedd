"""install.py, pyproject.toml and the root's __init__.py: what hosts, pip and the README rely on."""
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"torch", "numpy", "transformers", "protobuf", "diffusers"}


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def install():
    return load(ROOT / "install.py", "install_under_test")


@pytest.fixture
def pip(install, monkeypatch):
    """Records what would be run; nothing is."""
    calls, done = [], SimpleNamespace(returncode=0, stdout="")

    def run(command, **kwargs):
        calls.append([*map(str, command)])
        return done

    monkeypatch.setattr(install.subprocess, "run", run)
    return calls


@pytest.fixture
def lacking(install, monkeypatch):
    """lacking(names): this Python lacks these modules."""
    def lack(*names):
        found = lambda name: None if name in names else object()  # noqa: E731
        monkeypatch.setattr(install.importlib.util, "find_spec", found)
    return lack


def raised(error):
    raise error


def one_line(text):
    assert len(text.splitlines()) == 1, text
    return text


# What a host runs


def test_a_host_that_has_everything_hears_nothing_and_nothing_heavy_is_imported():
    command = [sys.executable, "-X", "importtime", str(ROOT / "install.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert done.returncode == 0 and done.stdout == ""
    assert all(line.startswith("import time:") for line in lines)
    assert "pathlib" in imported
    assert not imported & {"torch", "numpy", "transformers", "safetensors", "PIL", "scipy", "pip", "sd_debias", "core"}


def test_a_small_package_that_is_missing_is_installed_alone(install, pip, lacking, capsys):
    lacking("PIL", "scipy")
    assert install.main([]) == 0
    (command,) = pip
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-2:] == ["Pillow", "scipy"] and "--no-deps" in command
    assert capsys.readouterr().err == ""


def test_what_the_host_owns_is_never_installed_even_where_everything_is_absent(
        install, pip, lacking, capsys):
    lacking("torch")
    assert install.main([]) == 0 and pip == []
    capsys.readouterr()
    lacking("torch", "numpy", "transformers", *install.SMALL)
    assert install.main([]) == 0
    (command,) = pip
    assert not {re.split(r"[<>=!~\[]", part)[0].lower() for part in command} & FORBIDDEN
    assert "--no-deps" in command and "--upgrade" not in command
    said = one_line(capsys.readouterr().err)
    assert said.startswith("sd-debias: this Python lacks torch, numpy, transformers")


def test_an_error_while_looking_does_not_fail_the_host(install, monkeypatch, capsys):
    damaged = ValueError("torch.__spec__\nis None")
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: raised(damaged))
    assert install.main([]) == 0
    assert one_line(capsys.readouterr().err)


@pytest.mark.parametrize("outcome, said", [
    (lambda: SimpleNamespace(returncode=1, stdout="Looking\nERROR: No distribution found\n"),
     "No distribution found"),
    (lambda: raised(subprocess.TimeoutExpired("pip", 1)), "timed out")])
def test_a_pip_that_fails_or_hangs_does_not_hold_up_the_host(
        install, lacking, monkeypatch, capsys, outcome, said):
    lacking("scipy")
    monkeypatch.setattr(install.subprocess, "run", lambda command, timeout, **kwargs: outcome())
    assert install.main([]) == 0
    assert said in one_line(capsys.readouterr().err)


def test_an_old_python_gets_one_sentence(install, monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 1, "final", 0))
    for arguments, code in ([], 0), (["demo"], 1):
        assert install.main(arguments) == code
        assert "3.10 or newer" in one_line(capsys.readouterr().err)


# Commands of a person


def test_an_unknown_argument_is_refused_in_one_sentence():
    done = subprocess.run([sys.executable, str(ROOT / "install.py"), "dmeo"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "got 'dmeo'" in one_line(done.stderr)


@pytest.fixture
def checkout(install, monkeypatch, tmp_path):
    """install.py at work in a folder of its own; making the environment and pip are recorded, not done."""
    log = []

    def run(command, **kwargs):
        log.append("venv")
        python = install.program("python")
        python.parent.mkdir(parents=True)
        python.touch()
        return SimpleNamespace(returncode=0)

    for name in ("pyproject.toml", "tested-versions.txt"):
        shutil.copy(ROOT / name, tmp_path)
    places = dict(ROOT=".", VENV=".venv", STAMP=".venv/stamp.txt", TESTED="tested-versions.txt")
    for name, place in places.items():
        monkeypatch.setattr(install, name, tmp_path / place)
    monkeypatch.setattr(install.subprocess, "run", run)
    monkeypatch.setattr(install, "pip_install", lambda *arguments: log.append(arguments[-1]))
    return SimpleNamespace(install=install, path=tmp_path, log=log)


def test_an_environment_is_made_once_and_only_what_is_new_is_added(checkout, monkeypatch):
    install = checkout.install
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(install, "pip_install", lambda *_: raised(OSError("no network")))
        install.prepare("demo")
    for extra in ("demo", "demo", "test", "test", "demo"):  # the interrupted one goes on
        install.prepare(extra)
    assert checkout.log == ["venv", ".", ".[test]"]
    with install.TESTED.open("a") as file:
        file.write("numpy==2.0.0\n")
    install.prepare("test")
    assert checkout.log == ["venv", ".", ".[test]", ".[test]"], "changed versions"


@pytest.mark.parametrize("change", ["python", "place", "deleted"])
def test_an_environment_that_can_no_longer_run_is_made_again(checkout, monkeypatch, change):
    install = checkout.install
    install.prepare("demo")
    if change == "python":
        monkeypatch.setattr(install.sys, "version_info", (3, 99))
    elif change == "place":
        install.STAMP.write_text(install.STAMP.read_text().replace(str(checkout.path), "elsewhere"))
    else:
        install.program("python").unlink()
    install.prepare("demo")
    assert checkout.log == ["venv", "."] * 2


def test_somebody_elses_environment_is_left_alone(checkout, capsys):
    theirs = checkout.path / ".venv" / "theirs.txt"
    theirs.parent.mkdir()
    theirs.touch()
    assert checkout.install.main(["demo"]) == 1
    assert "was not made by install.py" in one_line(capsys.readouterr().err)
    assert theirs.exists() and checkout.log == []


@pytest.mark.parametrize("given, ran", [
    (["demo"], ["demo", "--out", "{path}/demo_output", "--overwrite"]),
    (["demo", "--out", "mine"], ["demo", "--out", "mine"]),  # nothing of the user's is overwritten
    (["test", "-k", "a name"], ["-k", "a name"])])
def test_a_command_runs_in_the_environment_with_its_arguments_and_its_exit_status_is_passed_on(
        checkout, monkeypatch, given, ran):
    started, process = [], checkout.install.subprocess
    monkeypatch.setattr(process, "call", lambda command, **_: started.extend(command) or 7)
    assert checkout.install.main(given) == 7
    assert started[0].startswith(str(checkout.path))
    assert started[-len(ran):] == [text.format(path=checkout.path) for text in ran]


def test_what_runs_in_the_environment_is_not_led_out_of_it(install, monkeypatch):
    for name in ("PYTHONPATH", "PIP_TARGET", "PIP_USER", "PIP_CERT"):
        monkeypatch.setenv(name, "outside")
    environment = install.environment()
    assert "PYTHONPATH" not in environment and "PIP_TARGET" not in environment
    assert environment["PIP_USER"] == "0" and environment["PYTHONNOUSERSITE"] == "1"
    assert environment["PIP_CERT"] == "outside"


# What pip and the hosts read


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(python):
    lines = (ROOT / "tested-versions.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in listed if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert len({pin.name.lower() for pin in here}) == len(here)
    return {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in here}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.14"])
def test_every_requirement_has_one_tested_version_in_its_range(pyproject, python):
    project = pyproject["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    required = [Requirement(text) for listed in lists for text in listed]
    versions = pins(python)
    for requirement in required:
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement
    assert set(versions) == {requirement.name.lower() for requirement in required} - {project["name"]}


def test_every_package_of_the_checkout_is_installed(pyproject):
    folders = ("core", "demo_model", "diffusers_host", "nodes", "webui_extension")
    found = {path.parent.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("__init__.py")}
    names = {".".join(("sd_debias", *path.parts)) for path in found}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == {"sd_debias", "sd_debias.profiles"} | names


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_no_install_py(tmp_path):
    left_out = shutil.ignore_patterns(".*", "docs", "benchmarks", "tests", "build")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
               "--wheel-dir", str(tmp_path), str(tmp_path / "checkout")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel, = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"sd_debias/core/calibration/loop.py", "sd_debias/core/report/page.html", "sd_debias/core/py.typed",
            "sd_debias/profiles/demo-gender.json", "sd_debias/demo_model/weights/unet/config.json"} <= names
    assert not [name for name in names if name.endswith("install.py")]


def test_what_install_py_asks_for_is_what_pyproject_says(install, pyproject):
    names = {Requirement(text).name for text in pyproject["project"]["dependencies"]}
    command_line = {"diffusers", "accelerate", "typer", "rich"}  # which no host gets
    assert names == {*install.HOST_OWNS, *install.SMALL.values(), *command_line}
    assert "test" in pyproject["project"]["optional-dependencies"]
    assert not (ROOT / "requirements.txt").exists(), "ComfyUI-Manager would install it"


@pytest.mark.parametrize("name", ["sd_debias", "__init__"])
def test_the_roots_init_needs_no_host_when_pip_or_pytest_imports_it(name, monkeypatch):
    for host in ("comfy", "comfy_api", "nodes", "modules"):
        monkeypatch.setitem(sys.modules, host, None)
    monkeypatch.delitem(sys.modules, "comfy_api.latest", raising=False)  # another test's double
    module = load(ROOT / "__init__.py", name)
    assert not {"NODE_CLASS_MAPPINGS", "comfy_entrypoint"} & {*vars(module)}


@pytest.mark.parametrize("fork", [False, True])
def test_comfyui_finds_what_it_looks_for_in_the_roots_init_and_its_fork_logs_no_error(monkeypatch, fork):
    name = str(ROOT).replace(".", "_x_")  # ComfyUI's way to name a pack
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", SimpleNamespace())  # ComfyUI has loaded it by then
    monkeypatch.setitem(sys.modules, f"{name}.nodes", SimpleNamespace(comfy_entrypoint="ours"))
    if fork:
        monkeypatch.setitem(sys.modules, "comfy.nodes.vanilla_node_importing", SimpleNamespace())
    spec.loader.exec_module(module)
    assert getattr(module, "NODE_CLASS_MAPPINGS", None) == ({} if fork else None)
    assert module.comfy_entrypoint == "ours" and (ROOT / module.WEB_DIRECTORY / "docs").is_dir()
