"""A tiny model of SDXL's kind for A1111: two text encoders, a pooled embedding and sizes. Its weights are random.

    python sdxl.py STABLE_DIFFUSION_WEBUI NAME TEXT

is run by the host's own Python, whose packages alone build such a model. It writes NAME.safetensors and NAME.yaml to
the host's models; TEXT is a folder with the first text encoder's settings and tokenizer.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

SECOND, POOLED, SIZES = "ViT-B-32", 512, 3 * 2 * 256  # a small encoder that open_clip knows, and its widths


def settings(text: Path) -> dict:
    """What the YAML says; JSON is YAML."""
    sgm = "sgm.modules.diffusionmodules"
    width = json.loads((text / "config.json").read_text("utf-8"))["hidden_size"]
    encoders = [
        ("FrozenCLIPEmbedder", "txt", dict(version=str(text), layer="hidden", layer_idx=2)),
        ("FrozenOpenCLIPEmbedder2", "txt", dict(arch=SECOND, version="", freeze=True, layer="penultimate",
                                                always_return_pooled=True, legacy=False)),
        *(("ConcatTimestepEmbedderND", key, dict(outdim=256))
          for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"))]
    return dict(model=dict(target="sgm.models.diffusion.DiffusionEngine", params=dict(
        scale_factor=0.13025, disable_first_stage_autocast=True,
        denoiser_config=dict(target=f"{sgm}.denoiser.DiscreteDenoiser", params=dict(
            num_idx=1000, weighting_config=dict(target=f"{sgm}.denoiser_weighting.EpsWeighting"),
            scaling_config=dict(target=f"{sgm}.denoiser_scaling.EpsScaling"),
            discretization_config=dict(target=f"{sgm}.discretizer.LegacyDDPMDiscretization"))),
        network_config=dict(target=f"{sgm}.openaimodel.UNetModel", params=dict(
            adm_in_channels=POOLED + SIZES, num_classes="sequential", use_checkpoint=False, in_channels=4,
            out_channels=4, model_channels=32, attention_resolutions=[2, 1], num_res_blocks=1,
            channel_mult=[1, 2], num_head_channels=32, use_spatial_transformer=True, use_linear_in_transformer=True,
            transformer_depth=[1, 1], context_dim=width + POOLED, spatial_transformer_attn_type="softmax")),
        conditioner_config=dict(target="sgm.modules.GeneralConditioner", params=dict(emb_models=[
            dict(is_trainable=False, input_key=key, target=f"sgm.modules.encoders.modules.{name}", params=params)
            for name, key, params in encoders])),
        first_stage_config=dict(target="sgm.models.autoencoder.AutoencoderKL", params=dict(
            embed_dim=4, monitor="", lossconfig=dict(target="torch.nn.Identity"), ddconfig=dict(
                attn_type="vanilla", double_z=True, z_channels=4, resolution=64, in_channels=3, out_ch=3, ch=32,
                ch_mult=[1, 1, 1, 1], num_res_blocks=1, attn_resolutions=[], dropout=0.0))))))


def write(host: Path, name: str, text: Path) -> None:
    sys.path[:0] = [str(host / "repositories" / "generative-models")]
    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from sgm.util import instantiate_from_config
    from transformers import CLIPTextConfig, CLIPTextModel

    CLIPTextModel.from_pretrained = lambda folder: CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
    torch.manual_seed(0)
    described = settings(text)
    model = instantiate_from_config(OmegaConf.create(described)["model"])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and not weight.any():  # layers that training starts at zero, where no text would act
                weight.normal_(std=weight[0].numel() ** -0.5)
    models = host / "models" / "Stable-diffusion"
    (models / f"{name}.yaml").write_text(json.dumps(described, indent=2), "utf-8")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, models / f"{name}.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
