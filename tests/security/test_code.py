"""Nothing that somebody sent makes code run: no pickle, no code that comes with a model, no name that is imported."""
import ast
import contextlib
import json
import shutil
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import EpsImagePlugin, Image
from test_profile import calibrated, made

from sd_debias.core.study.folder import opened
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.pretrained import load
from sd_debias.core.profile.file import Profile
from sd_debias.demo_model.model import FOLDER
from sd_debias.diffusers_host.model_folder import check_no_code
from sd_debias.diffusers_host.workbench import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(file for part in ("core", "nodes", "webui_extension", "diffusers_host", "demo_model", "scripts")
             for file in sorted((ROOT / part).rglob("*.py"))), ROOT / "__init__.py"]
RUNS = {"eval", "exec", "compile", "__import__", "import_module", "importlib.import_module", "os.system", "os.popen",
        "runpy.run_path", "runpy.run_module"}
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
# Names that a programmer wrote: the lazy names of the public package, Ray's own module, the host's module for a shim.
IMPORTS = {"core/__init__.py": {"import_module"}}


def nodes():
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            yield file.relative_to(ROOT).as_posix(), node


def words_of(node):
    """The modules that it imports, or the function that it calls."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return {ast.unparse(node.func)} if isinstance(node, ast.Call) else set()


def test_no_source_unpickles_evaluates_or_imports_by_a_name():
    unsafe = RUNS | UNPICKLES | {"subprocess"}
    found = [f"{name} in line {node.lineno} of {file}" for file, node in nodes()
             for name in words_of(node) & unsafe - IMPORTS.get(file, set())]
    assert not found


def test_every_loader_is_told_to_read_weights_alone():
    for file, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        where, name = f"{file}, line {node.lineno}", ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
        if name.endswith("load_torch_file"):
            assert given.get("safe_load") == "True", where
        assert given.get("trust_remote_code", "False") == "False", where
        if name.endswith(".from_pretrained"):
            assert {"trust_remote_code", "use_safetensors"} & given.keys(), where


# --- models ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def model(tmp_path):
    """The demo model's folder, as somebody sent it, and what its code would leave behind."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("classifier"))
    return folder


def code(mark):
    return (f"open({str(mark)!r}, 'w').close()\nfrom diffusers import DDIMScheduler, StableDiffusionPipeline\n"
            "class Own(StableDiffusionPipeline): pass\nclass Noise(DDIMScheduler): pass\n")


def changed(folder, **parts):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))


FOREIGN = {
    "a pipeline of its own": lambda f: (f / "own.py", dict(_class_name=["own", "Own"])),
    "what diffusers takes for one": lambda f: (f / "None.py", {}),
    "a part of its own": lambda f: (f / "scheduler" / "noise.py", dict(scheduler=["noise", "Noise"])),
    "a part in a known name": lambda f: (f / "scheduler" / "diffusers.py", {}),
    "another package": lambda f: (f.parent / "somebodys_package.py", dict(scheduler=["somebodys_package", "Noise"])),
    "a module that is installed": lambda f: (f / "unused.py", dict(scheduler=["antigravity", "Noise"])),
    "a module of the package for pipelines": lambda f: (f / "unused.py", dict(scheduler=["sys", "Noise"])),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_model_that_needs_code_of_its_own_is_refused_wherever_it_lies_and_its_code_does_not_run(
        model, how, monkeypatch):
    """A folder, a checkpoint's configuration, a model of the hub. Versions of diffusers before 0.42
    ran it without a word."""
    file, parts = FOREIGN[how](model)
    mark, checkpoint = model.parent / "it ran", model.parent / "checkpoint.safetensors"
    file.write_text(code(mark))
    changed(model, **parts)
    checkpoint.write_bytes(b"{}")
    monkeypatch.syspath_prepend(str(model.parent))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", lambda *_, **__: str(model))
    for use in (lambda: check_no_code(model), lambda: load_pipeline(str(model)),
                lambda: load_pipeline(str(checkpoint), config=str(model)),
                lambda: load_pipeline("somebody/model", allow_download=True)):
        with pytest.raises(DebiasError, match="without running code that comes with it"):
            use()
    assert not mark.exists() and not {"somebodys_package", "antigravity"} & set(sys.modules)


def test_a_part_whose_class_is_named_by_its_own_files_is_refused(model):
    changed(model, text_encoder=["transformers", "AutoModel"])
    check_no_code(model)
    config = model / "text_encoder" / "config.json"
    mapped = {"auto_map": {"AutoModel": "somebody/code--own.Own"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | mapped))
    with pytest.raises(DebiasError, match="text_encoder"):
        check_no_code(model)


class Runs:
    """What leaves a file behind where it is unpickled."""
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("name", ["model.ckpt", "model.sft", "model"])
def test_a_checkpoint_that_is_no_safetensors_is_refused_by_any_name(tmp_path, name):
    torch.save(Runs(tmp_path / "it ran"), tmp_path / name)
    with pytest.raises(DebiasError, match="safetensors"):
        load_pipeline(str(tmp_path / name))
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("file", ["adapter_config.json", "vocab.bin", "vocab.pkl"])
def test_a_classifiers_folder_that_would_be_unpickled_is_refused(tmp_path, file):
    folder = shutil.copytree(FOLDER / "classifier", tmp_path / "classifier")
    load("AutoConfig", folder)
    torch.save(Runs(tmp_path / "it ran"), folder / file)
    with pytest.raises(DebiasError, match=file):
        load("AutoConfig", folder)
    assert not (tmp_path / "it ran").exists()


def test_a_pickle_beside_safetensors_and_an_adapter_of_a_part_are_not_read(model, tmp_path):
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Runs(tmp_path / "it ran"), model / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DebiasError, match="could not be loaded"):
        load_pipeline(str(model))
    assert not (tmp_path / "it ran").exists()
    (model / "text_encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(DebiasError, match="adapter_config.json"):
        check_no_code(model)


# --- profiles, states, images --------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", ["own:os.system", "own:antigravity:Solver",
                                  "antigravity:Solver", "own:../x"])
def test_a_solver_that_a_profile_or_a_state_names_is_never_imported(tmp_path, rule):
    """Only who calls `register` in Python makes one known."""
    document, path = made(calibrated()).to_dict(), tmp_path / "state.json"
    calibrated(rounds=0, held_out=0).save(path)
    saved = json.loads(path.read_text())
    document["method"]["rule"] = saved["method"]["rule"] = rule
    path.write_text(json.dumps(saved))
    for use in (lambda: Profile.from_dict(document), lambda: Calibration.load(path).next_round()):
        with contextlib.suppress(DebiasError):
            use()
    assert "antigravity" not in sys.modules


def test_a_picture_that_another_program_would_draw_is_not_opened_by_the_name_of_a_png(tmp_path, monkeypatch):
    """Pillow knows PostScript by its first letters, and lets Ghostscript run it."""
    ran, picture = [], tmp_path / "picture.png"

    def run(*given, **more):
        ran.append(given)
        return Image.new("RGB", (8, 8)).im
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 moveto\n%%EOF\n")
    Image.open(picture).load()
    assert ran.pop(), "Pillow alone would"
    found = opened(picture)
    assert found.image is None and "cannot be read" in found.note and not ran
