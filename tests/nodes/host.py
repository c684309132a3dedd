"""Starts the host of the tests: a real ComfyUI where COMFYUI_PATH names a checkout, else a double of it."""
import importlib.util
import os
import sys
from pathlib import Path

REAL = os.environ.get("COMFYUI_PATH")
_started: list[Path] = []


def start(folders) -> Path:
    """Makes ComfyUI's modules importable, once a session; its folders are temporary ones, below what is returned."""
    if _started:
        return _started[0]
    folder = folders.mktemp("comfyui")
    _started.append(folder)
    if REAL:
        arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(folder)]
        sys.path.insert(0, REAL)
        import comfy.options
        comfy.options.enable_args_parsing()
        import comfy.utils
        comfy.utils.PROGRESS_BAR_ENABLED = False
        sys.argv = arguments
        _flat_names()
    else:
        double = _double()
        double.install(folder)
    from sd_debias.nodes import demo_model, profiles
    profiles.register()
    if not REAL:
        demo_model.load = double.load
    return folder


def _flat_names():
    """Where the host is the installable fork of ComfyUI, its modules get the names that packs import."""
    try:
        from comfy_compatibility.vanilla import prepare_vanilla_environment
    except ImportError:
        return
    from comfy.nodes.package import import_all_nodes_in_workspace
    import_all_nodes_in_workspace()
    prepare_vanilla_environment()


def _double():
    spec = importlib.util.spec_from_file_location("double", Path(__file__).with_name("double.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
