"""The demo model as a checkpoint in the original layout; that it computes the same is shown on the real host."""
from __future__ import annotations

import json

import pytest
from safetensors import safe_open
from sd_debias.diffusers_host.cli.main import main
from sd_debias.demo_model.export import export, unet_name, vae_name
from sd_debias.demo_model.model import FOLDER


def test_every_weight_is_there_once_under_its_original_name(tmp_path):
    path = export(tmp_path / "Stable-diffusion", "small")
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
    settings = json.loads((tmp_path / "Stable-diffusion" / "small.yaml").read_text())["model"]["params"]
    assert settings["cond_stage_config"]["params"]["version"] == str(tmp_path / "Stable-diffusion" / "small-text")
    assert (tmp_path / "Stable-diffusion" / "small-text" / "vocab.json").exists()


@pytest.mark.parametrize("key, expected", [
    ("down_blocks.0.resnets.1.norm1.weight", "input_blocks.2.0.in_layers.0.weight"),
    ("down_blocks.1.downsamplers.0.conv.bias", "input_blocks.6.0.op.bias"),
    ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
    ("up_blocks.1.attentions.2.proj_in.weight", "output_blocks.5.1.proj_in.weight"),
    ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
    ("mid_block.resnets.1.conv2.bias", "middle_block.2.out_layers.3.bias")])
def test_names_of_stable_diffusion_1s_unet(key, expected):
    config = dict(layers_per_block=2, up_block_types=["UpBlock2D", *["CrossAttnUpBlock2D"] * 3])
    assert unet_name(key, config) == expected


def test_the_decoders_levels_are_counted_from_the_picture():
    assert vae_name("decoder.up_blocks.0.resnets.1.norm1.weight", 4) == "decoder.up.3.block.1.norm1.weight"
    assert vae_name("encoder.down_blocks.0.downsamplers.0.conv.bias", 4) == "encoder.down.0.downsample.conv.bias"


def test_the_command_line_writes_it(tmp_path, capsys):
    assert main(["export", "--for", "a1111", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == str(tmp_path / "demo.safetensors")
    assert main(["export", "--for", "a1111", "--out", str(tmp_path)]) == 0
    assert "64x64 pixels, 8 steps" in capsys.readouterr().out
    assert main(["export", "--for", "a1111", "--out", str(tmp_path), "--name", "a/b"]) == 2
