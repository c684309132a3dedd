"""Judges as the page offers and loads them: the host's own CLIP, folders, the hub's cache, a download."""
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from webui_hosts import ours, refused

from sd_debias.core.attribute import AGE, GENDER


@pytest.fixture
def modules(a_double, monkeypatch, tmp_path):
    """(classifiers, host_clip) over a double."""
    found = ours("classifiers"), ours("host_clip")
    monkeypatch.setattr(found[1], "cached", lambda: ["openai/clip-vit-base-patch32"])
    monkeypatch.setattr(found[1], "file", lambda: tmp_path / "ViT-L-14.pt")
    return found


class TinyClip(torch.nn.Module):
    """Of OpenAI's form: an image's brightness, and a text's length."""

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens):
        return torch.stack([tokens.float().sum(1), torch.ones(len(tokens))], 1)

    def encode_image(self, pixels):
        return torch.stack([pixels.mean((1, 2, 3)), torch.ones(len(pixels))], 1)


class Interrogator:
    clip_model = clip_preprocess = None
    loads = 0

    def load_clip_model(self):
        self.loads += 1
        return TinyClip(), lambda picture: torch.from_numpy(np.asarray(picture)).permute(2, 0, 1).float() / 255


def test_the_list_offers_folders_the_host_s_own_the_cache_and_the_demo(modules, tmp_path):
    classifiers, host_clip = modules
    for name in ("mine", "group/other", ".download1"):
        (tmp_path / "classifiers" / name).mkdir(parents=True)
        (tmp_path / "classifiers" / name / "config.json").write_text("{}")
    assert classifiers.choices() == ["", "group/other", "mine", "openai/clip-vit-base-patch32", "demo"]
    host_clip.file().write_bytes(b"")
    assert "host" in classifiers.choices()


def test_the_interrogator_s_clip_judges_and_is_loaded_once(modules, monkeypatch):
    classifiers, host_clip = modules
    host_clip.file().write_bytes(b"")
    interrogator = Interrogator()
    monkeypatch.setattr(sys.modules["modules.shared"], "interrogator", interrogator, raising=False)
    monkeypatch.setitem(sys.modules, "clip", types.SimpleNamespace(
        tokenize=lambda texts, truncate: torch.tensor([[len(text)] for text in texts])))
    models = {}
    (gender,), fidelity = classifiers.load("host", [GENDER], models=models)
    classifiers.load("host; gender=host", [AGE, GENDER], models=models)
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    p = gender([dark, bright])
    assert interrogator.loads == 1 and p.shape == (2, 2) and np.allclose(p.sum(1), 1) and not np.allclose(p[0], p[1])
    assert gender.name == "CLIP ViT-L/14 of the interrogator" and len(fidelity([dark], "a text")) == 1
    # By the embeddings themselves: cosines times the model's own scale. A dark image's is (0, 1).
    groups = [sum(np.array([len(text), 1]) / np.hypot(len(text), 1) for text in group.classifier_texts)
              for group in GENDER.groups]
    scores = np.exp([np.exp(2.0) * group[1] / np.linalg.norm(group) for group in groups])
    assert np.allclose(p[0], scores / scores.sum(), atol=1e-4)


def test_without_its_file_the_host_s_clip_is_not_fetched_unasked(modules, monkeypatch):
    interrogator = Interrogator()
    for one, facts in ((None, "interrogator"), (interrogator, "ViT-L-14.pt.*890 MB.*'Interrogate")):
        monkeypatch.setattr(sys.modules["modules.shared"], "interrogator", one, raising=False)
        with refused(facts):
            modules[0].load("host", [GENDER])
    assert interrogator.loads == 0


def test_a_model_is_on_the_host_s_device_only_while_it_judges(modules, monkeypatch):
    host_clip, model, places = modules[1], torch.nn.Linear(1, 1), []
    monkeypatch.setattr(model, "to", lambda where: places.append(str(where)))
    devices = sys.modules["modules.devices"]
    monkeypatch.setattr(devices, "torch_gc", lambda: places.append("freed"), raising=False)
    with host_clip.lent(model):
        pass
    assert places == [] and not host_clip.half()  # on the CPU nothing is moved
    monkeypatch.setattr(devices, "device", torch.device("cuda"))
    with pytest.raises(RuntimeError), host_clip.lent(model):
        places.append("judged")
        raise RuntimeError
    assert places == ["cuda", "judged", "cpu", "freed"] and host_clip.half()
    monkeypatch.setattr(sys.modules["modules.shared"].cmd_opts, "no_half", True, raising=False)
    assert not host_clip.half()


def test_a_download_is_whole_or_not_there(modules, monkeypatch, tmp_path):
    host_clip, folder = modules[1], tmp_path / "classifiers"

    def fetch(name, local_dir, allow_patterns):
        assert name == "openai/clip-vit-large-patch14" and not any("bin" in pattern for pattern in allow_patterns)
        (Path(local_dir) / "config.json").write_text("{}")
        if broken:
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=fetch))
    broken = True
    with refused("no route"):
        host_clip.download(folder)
    assert list(folder.iterdir()) == []
    broken = False
    assert host_clip.download(folder) == "clip-vit-large-patch14"
    assert [path.name for path in folder.iterdir()] == ["clip-vit-large-patch14"]
    with refused("'clip-vit-large-patch14'.*models/classifiers"):
        host_clip.download(folder)


def test_forge_s_patcher_gets_a_model_whose_device_it_may_set(modules, monkeypatch):
    """Forge Neo's sets `device`, which a transformers model does not let it do."""
    host_clip, loaded = modules[1], []

    class Patcher:
        def __init__(self, model, load_device, offload_device):
            model.device = offload_device
            self.model = model

    class Fixed(torch.nn.Module):
        device = property(lambda self: torch.device("cpu"))

    management = types.SimpleNamespace(get_torch_device=lambda: torch.device("cuda"), load_models_gpu=loaded.append)
    monkeypatch.setitem(sys.modules, "backend", types.SimpleNamespace(memory_management=management))
    monkeypatch.setitem(sys.modules, "backend.patcher", types.ModuleType("backend.patcher"))
    monkeypatch.setitem(sys.modules, "backend.patcher.base", types.SimpleNamespace(ModelPatcher=Patcher))
    monkeypatch.setattr(sys.modules["modules.devices"], "device", torch.device("cuda"))
    model = Fixed()
    for _ in range(2):
        with host_clip.lent(model):
            pass
    assert len(loaded) == 2 and loaded[0] == loaded[1] and loaded[0][0].model.model is model
