"""The host of the tests: a real ComfyUI where COMFYUI_PATH names a checkout, else its double."""
import asyncio
import importlib.util
import inspect
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


host, given, *_ = (_beside(name) for name in (
    "host", "given", "workflows", "tiny_dits", "tiny_encoders", "tiny_ggufs"))


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
    known = folder_paths.folder_names_and_paths
    # The installable fork's are views, which setting a folder would change.
    before = {kind: (list(paths), set(own)) for kind, (paths, own) in known.items()}
    changed = []

    def set_folder(kind, path, suffixes):
        changed.append(kind)
        known[kind] = ([str(path)], suffixes)
    yield set_folder
    for kind in set(changed):
        if kind in before:
            known[kind] = before[kind]
        else:
            del known[kind]


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
    monkeypatch.setattr(
        messages, "say", lambda node, text, warning=False, **shown: found.append((text, warning)))
    return found


@pytest.fixture
def call(demo, said):
    """call("DebiasApply", **inputs) -> the node's outputs; with a graph, as its node `own`.

    Where they are not given, `model`, `clip` and `vae` are the demo model's."""
    from sd_debias.nodes import Debias
    known = {node.__name__: node for node in asyncio.run(Debias().get_node_list())}

    def call(kind, graph=None, own=None, /, **inputs):
        taken = inspect.signature(known[kind].execute).parameters
        parts = {part: made for part, made in zip(("model", "clip", "vae"), demo) if part in taken}
        hidden = types.SimpleNamespace(unique_id=own, prompt=graph, extra_pnginfo=None)
        with torch.inference_mode():
            node = type(kind, (known[kind],), {"hidden": hidden})
            return node.execute(**parts | inputs).args
    return call


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
    """Samples with the demo's settings: sample(model, ...) -> latents as the model has them."""
    import comfy.sample
    import comfy.samplers
    _, clip, _ = demo

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def run(model, positive=given.PROMPT, negative="", seed=0, batch=2, cfg=2.0, sampler="euler",
            steps=4, noise=None, sigmas=None, guider=None):
        positive, negative = (encode(c) if isinstance(c, str) else c for c in (positive, negative))
        if sigmas is None:
            whole = model.get_model_object("model_sampling").sigmas
            sigmas = torch.cat([whole[torch.linspace(999, 99, steps).long()], torch.zeros(1)])
        latent = torch.zeros(batch, 4, 8, 8)
        noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
        solver = comfy.samplers.sampler_object(sampler)
        more = dict(disable_pbar=True, seed=seed)
        with torch.inference_mode():
            if guider is None:
                return comfy.sample.sample_custom(
                    model, noise, cfg, solver, sigmas, positive, negative, latent, **more)
            made = guider(model)
            made.set_conds(positive)
            return made.sample(noise, latent, solver, sigmas, **more)
    run.encode = encode
    return run
