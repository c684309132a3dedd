"""The host of the tests: a real ComfyUI where COMFYUI_PATH names a checkout, else its double."""
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from sd_debias.core.attribute import GENDER


def _beside(name):
    """The module <name>.py of this folder as nodes_<name>; other folders' tests load some too."""
    if f"nodes_{name}" not in sys.modules:
        place = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"nodes_{name}", place)
        sys.modules[f"nodes_{name}"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[f"nodes_{name}"]


host, given, _ = (_beside(name) for name in ("host", "given", "workflows"))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("comfyui") and not host.REAL:
            item.add_marker(pytest.mark.skip(reason="COMFYUI_PATH names no ComfyUI checkout"))


@pytest.fixture(scope="session", autouse=True)
def comfyui(tmp_path_factory):
    """Makes ComfyUI's modules importable; its folders are temporary ones."""
    return host.start(tmp_path_factory)


@pytest.fixture
def set_folder(comfyui):
    """set_folder(kind, path, suffixes): ComfyUI's only folder of a kind of files, for one test."""
    import folder_paths
    known, before = folder_paths.folder_names_and_paths, {}

    def set_folder(kind, path, suffixes):
        if kind in known:
            paths, own = known[kind]  # the installable fork's are views, which the next line would change
            before.setdefault(kind, (list(paths), set(own)))
        else:
            before.setdefault(kind, None)
        known[kind] = ([str(path)], suffixes)
    yield set_folder
    for kind, own in before.items():
        if own is None:
            del known[kind]
        else:
            known[kind] = own


@pytest.fixture
def profiles(set_folder, tmp_path):
    """The module of profiles as files, with an empty folder, tmp_path."""
    from sd_debias.nodes import profiles as module
    set_folder(module.FOLDER, tmp_path, {".json"})
    return module


@pytest.fixture(scope="session")
def demo(comfyui):
    """(MODEL, CLIP, VAE) of the demo model."""
    from sd_debias.nodes.demo_model import load
    return load()


@pytest.fixture
def said(monkeypatch):
    """What nodes say: a list of (text, is it a warning)."""
    from sd_debias.nodes import messages
    found = []
    monkeypatch.setattr(messages, "say", lambda node, text, warning=False, **shown: found.append((text, warning)))
    return found


@pytest.fixture
def call(comfyui):
    """Runs a node: call(Node, **inputs) -> its outputs; with a graph, as the node `own` of that prompt."""
    def run(node, graph=None, own=None, **inputs):
        hidden = types.SimpleNamespace(unique_id=own, prompt=graph, extra_pnginfo=None)
        with torch.inference_mode():
            return type(node.__name__, (node,), {"hidden": hidden}).execute(**inputs).args
    return run


@pytest.fixture
def guided(demo):
    """guided(method, weights) -> (the patched demo model, [(summary, facts) of each pass])"""
    from sd_debias.nodes.conditioning import encode_all
    from sd_debias.nodes.guidance import GuidedSampling
    model, clip, _ = demo

    def make(method, weights, base=model, text=given.PROMPT, change=lambda own: own, **more):
        done = []
        with torch.inference_mode():
            encoded = change(encode_all(clip, text, (GENDER,), method.context))
        asked = weights if callable(weights) else lambda *_: torch.as_tensor(weights)
        guide = GuidedSampling(encoded, (GENDER,), method, asked,
                               lambda *did: done.append(did), **more)
        return guide.patch(base), done
    return make


@pytest.fixture
def sample(demo):
    """Samples with the demo's settings: sample(model, ...) -> latents as the model has them, [B, 4, 8, 8]."""
    import comfy.sample
    import comfy.samplers
    _, clip, _ = demo

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def run(model, positive="a photo of a doctor", negative="", seed=0, batch=2, cfg=2.0, sampler="euler", steps=4,
            noise=None, sigmas=None, guider=None):
        positive, negative = (encode(c) if isinstance(c, str) else c for c in (positive, negative))
        sampling = model.get_model_object("model_sampling")
        if sigmas is None:
            sigmas = torch.cat([sampling.sigmas[torch.linspace(999, 99, steps).long()], torch.zeros(1)])
        latent = torch.zeros(batch, 4, 8, 8)
        noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
        solver = comfy.samplers.sampler_object(sampler)
        with torch.inference_mode():
            if guider is None:
                return comfy.sample.sample_custom(model, noise, cfg, solver, sigmas, positive, negative, latent,
                                                  disable_pbar=True, seed=seed)
            made = guider(model)
            made.set_conds(positive)
            return made.sample(noise, latent, solver, sigmas, disable_pbar=True, seed=seed)
    run.encode = encode
    return run
