"""The demo model as one checkpoint in the layout of the original Stable Diffusion code, for web UIs: NAME.safetensors,
the YAML that describes it, and a folder with its tokenizer and text settings. Its widths are
no whole multiples of the first, which that code's settings cannot say, so the YAML names a small function of this
package: the extension must be installed where the checkpoint is loaded.
"""
from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file, save

from ..core.errors import DebiasError, quoted
from ..core.files import safe_name, write_atomic
from .model import FOLDER

UNET = "sd_debias.webui_extension.demo_model.unet"
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json")

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_UNET_ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
              "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def export(folder: str | Path, name: str = "demo", weights: str | Path = FOLDER, overwrite: bool = False) -> Path:
    """Write the checkpoint and what belongs to it; returns its path.

    Raises DebiasError for a text that cannot be a file's name, and for files of that name with other content, unless
    `overwrite`.
    """
    folder, weights = Path(folder).resolve(), Path(weights)
    text = folder / f"{safe_name(name)}-text"
    files = {text / file: (weights / "tokenizer" / file).read_bytes() for file in TOKENIZER}
    files[text / "config.json"] = (weights / "text_encoder" / "config.json").read_bytes()
    files[folder / f"{name}.yaml"] = _settings(weights, text).encode()
    files[folder / f"{name}.safetensors"] = save(state_dict(weights), {"format": "pt"})
    for path, data in files.items():
        if path.exists() and not overwrite and (not path.is_file() or path.read_bytes() != data):
            raise DebiasError(f"{quoted(path)} exists already and is another file. Choose another name, or allow "
                              f"overwriting.")
    for path, data in files.items():
        write_atomic(path, data)
    return folder / f"{name}.safetensors"


def state_dict(weights: Path) -> dict:
    """Every weight of a diffusers folder of Stable Diffusion 1's layout under its original name."""
    config = _config(weights, "unet")
    unet, vae = (load_file(weights / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vae"))
    text = load_file(weights / "text_encoder" / "model.safetensors")
    levels = len(_config(weights, "vae")["block_out_channels"])
    renamed = {f"model.diffusion_model.{unet_name(key, config)}": value for key, value in unet.items()}
    for key, value in vae.items():
        name = vae_name(key, levels)
        # Attention there is made of 1x1 convolutions.
        linear = ".attn_1." in name and name.endswith(".weight") and value.ndim == 2
        renamed[f"first_stage_model.{name}"] = value[:, :, None, None] if linear else value
    # transformers 5 saves a text encoder without the prefix that its earlier versions give it.
    renamed.update({f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
                    for key, value in text.items()})
    return {key: value.contiguous() for key, value in renamed.items()}


def unet_name(key: str, config: dict) -> str:
    """A UNet parameter's original name."""
    for new, old in _UNET_ENDS.items():
        if key.startswith(new + "."):
            return old + key[len(new):]
    layers = config["layers_per_block"]
    if key.startswith("mid_block."):
        kind, number, rest = _parts(r"mid_block\.(\w+?)\.(\d+)\.(.+)", key)
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_inner(kind, rest)}"
    side, at, kind, count, rest = _parts(r"(down|up)_blocks\.(\d+)\.(\w+?)\.(\d+)\.(.+)", key)
    level, place = int(at), int(count)
    if side == "down":
        block = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else place)
        return f"input_blocks.{block}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    block = level * (layers + 1) + (layers if kind == "upsamplers" else place)
    attends = "CrossAttn" in config["up_block_types"][level]
    inside = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attends}[kind]
    return f"output_blocks.{block}.{inside}.{_inner(kind, rest)}"


def _parts(pattern: str, key: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, key)
    if found is None:
        raise ValueError(f"{key} is not a parameter of this kind of UNet.")
    return found.groups()


def vae_name(key: str, levels: int) -> str:
    """An autoencoder parameter's original name; its decoder's levels are counted from the image's side."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)",
                 lambda m: f"mid.attn_1.{_VAE_ATTENTION[m[1]]}", key)
    key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", key).replace("down_blocks.", "down.")
    return re.sub(r"\.(down|up)samplers\.0", r".\1sample", key.replace(".resnets.", ".block."))


def _inner(kind: str, rest: str) -> str:
    if kind == "downsamplers":
        return rest.replace("conv.", "op.")
    if kind == "resnets":
        module, _, parameter = rest.partition(".")
        return f"{_RESNET[module]}.{parameter}"
    return rest


def _settings(weights: Path, text: Path) -> str:
    """The YAML; JSON is YAML."""
    unet, vae, noise = (_config(weights, part) for part in ("unet", "vae", "scheduler"))
    width = vae["block_out_channels"][0]
    unet_settings = dict(
        image_size=unet["sample_size"], in_channels=unet["in_channels"], out_channels=unet["out_channels"],
        widths=unet["block_out_channels"], num_res_blocks=unet["layers_per_block"],
        attention_resolutions=[2 ** i for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind],
        num_heads=unet["attention_head_dim"],  # which counts heads in this layout
        use_spatial_transformer=True, transformer_depth=1, context_dim=unet["cross_attention_dim"],
        use_checkpoint=False, legacy=False)
    vae_settings = dict(
        double_z=True, z_channels=vae["latent_channels"], resolution=vae["sample_size"], in_channels=vae["in_channels"],
        out_ch=vae["out_channels"], ch=width, ch_mult=[c // width for c in vae["block_out_channels"]],
        num_res_blocks=vae["layers_per_block"], attn_resolutions=[], dropout=0.0)
    params = dict(
        linear_start=noise["beta_start"], linear_end=noise["beta_end"], timesteps=noise["num_train_timesteps"],
        num_timesteps_cond=1, log_every_t=200, first_stage_key="jpg", cond_stage_key="txt",
        image_size=unet["sample_size"], channels=unet["in_channels"], cond_stage_trainable=False,
        conditioning_key="crossattn", scale_factor=vae["scaling_factor"], use_ema=False,
        unet_config=dict(target=UNET, params=unet_settings),
        first_stage_config=dict(target="ldm.models.autoencoder.AutoencoderKL", params=dict(
            embed_dim=vae["latent_channels"], ddconfig=vae_settings, lossconfig=dict(target="torch.nn.Identity"))),
        cond_stage_config=dict(target="ldm.modules.encoders.modules.FrozenCLIPEmbedder", params=dict(
            version=str(text))))
    return json.dumps(dict(model=dict(target="ldm.models.diffusion.ddpm.LatentDiffusion", params=params)), indent=2)


def _config(weights: Path, part: str) -> dict:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return json.loads((weights / part / name).read_text("utf-8"))
