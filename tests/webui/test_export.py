"""The demo model as a checkpoint in the original layout; that it computes the same is shown on the real host."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from webui_hosts import ours
from sd_debias.demo_model.export import export
from sd_debias.demo_model.model import FOLDER


def test_every_weight_is_there_once_under_its_original_name(tmp_path):
    path = export(tmp_path, "small")
    parts = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
    with safe_open(path, "pt") as written:
        found = set(written.keys())
    for part, prefix in parts.items():
        file = next((FOLDER / part).glob("*.safetensors"))
        with safe_open(file, "pt") as source:
            assert len(source.keys()) == sum(key.startswith(prefix) for key in found), part
    assert {"model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.middle_block.1.proj_in.weight",
            "model.diffusion_model.output_blocks.1.1.conv.weight",
            "model.diffusion_model.output_blocks.3.2.conv.weight",
            "first_stage_model.decoder.up.3.upsample.conv.weight", "first_stage_model.encoder.mid.attn_1.q.weight",
            "cond_stage_model.transformer.text_model.final_layer_norm.weight"} <= found
    settings = json.loads((tmp_path / "small.yaml").read_text())["model"]["params"]
    assert settings["cond_stage_config"]["params"]["version"] == str(tmp_path / "small-text")
    assert (tmp_path / "small-text" / "vocab.json").exists()


def test_a_button_writes_it_where_the_host_finds_checkpoints(a_double):
    module, listed = ours("demo_model"), []
    sys.modules["modules.sd_models"].list_models = lambda: listed.append(1)
    assert "64x64 pixels" in module.write() and listed == [1]
    folder = Path(sys.modules["modules.paths"].models_path) / "Stable-diffusion"
    assert (folder / f"{module.NAME}.safetensors").is_file()
    described = folder / f"{module.NAME}.yaml"
    described.write_text("as written where the host was before")
    assert "64x64" in module.write() and "before" not in described.read_text()


def test_forge_loads_it_by_its_yaml_and_every_other_checkpoint_as_before(a_double, tmp_path, monkeypatch):
    module, models, loaded = ours("forge_demo"), sys.modules["modules.sd_models"], []
    models.forge_loader = lambda path, **more: loaded.append(path)
    monkeypatch.setattr(module, "small", lambda host, params, path: loaded.append(params["scale_factor"]))
    module.register()
    module.register()  # again at every "Reload UI"
    (tmp_path / "b.yaml").write_text("model: {}")
    for path in (export(tmp_path, "a"), tmp_path / "b.safetensors", tmp_path / "c.safetensors"):
        models.forge_loader(path)
    assert loaded == [pytest.approx(0.18215), tmp_path / "b.safetensors", tmp_path / "c.safetensors"]
