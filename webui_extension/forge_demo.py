"""Lets Forge and Forge Neo load the demo model, whose parts are smaller than those of the models that they know.

The host finds out from a checkpoint's weights which model it is. Of a checkpoint that `demo_model/export.py` wrote, the
YAML beside it says so, for that one load; every other checkpoint is loaded as without this extension.
"""
from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from ..demo_model.export import UNET
from ..demo_model.model import Ratio

OWN = "sd_debias_own"  # on our loader: the host's


def register() -> None:
    """Called each time that the host loads the shim; does nothing on hosts that are not Forge."""
    from modules import sd_models
    host = getattr(sd_models, "forge_loader", None)
    if host is None:
        return
    host = getattr(host, OWN, host)

    def load(path, *args, **kwargs):
        described = settings(path)
        return host(path, *args, **kwargs) if described is None else small(host, described, path, *args, **kwargs)

    setattr(load, OWN, host)
    sd_models.forge_loader = load


def settings(path) -> dict | None:
    """What the YAML beside a checkpoint says, if it is the demo model's."""
    try:
        params = json.loads(Path(path).with_suffix(".yaml").read_text("utf-8"))["model"]["params"]
        return params if params["unet_config"]["target"] == UNET else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def small(host, params: dict, path, *args, **kwargs):
    """Load a checkpoint as Stable Diffusion 1 of the sizes that its YAML names."""
    import huggingface_guess
    from backend import loader
    from huggingface_guess import model_list
    unet, vae = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    widths, layers = unet["widths"], unet["num_res_blocks"]
    attends = [int(2 ** i in unet["attention_resolutions"]) for i in range(len(widths))]
    sizes = dict(
        in_channels=unet["in_channels"], out_channels=unet["out_channels"], model_channels=widths[0],
        num_res_blocks=[layers] * len(widths), channel_mult=[Ratio(width, widths[0]) for width in widths],
        num_heads=unet["num_heads"], num_head_channels=-1, use_spatial_transformer=True,
        transformer_depth=[depth for depth in attends for _ in range(layers)],
        transformer_depth_output=[depth for depth in attends for _ in range(layers + 1)], transformer_depth_middle=1,
        context_dim=unet["context_dim"], use_linear_in_transformer=False)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        shutil.copytree(Path(loader.__file__).parent / "huggingface" / "runwayml" / "stable-diffusion-v1-5", repository,
                        dirs_exist_ok=True)
        text = Path(path).with_name(f"{Path(path).stem}-text")
        shutil.copy(text / "config.json", repository / "text_encoder" / "config.json")
        decoder = repository / "vae" / "config.json"
        decoder.write_text(json.dumps(dict(
            json.loads(decoder.read_text("utf-8")), layers_per_block=vae["num_res_blocks"],
            block_out_channels=[vae["ch"] * factor for factor in vae["ch_mult"]],
            scaling_factor=params["scale_factor"])), "utf-8")

        def guess(weights):
            found = model_list.SD15(sizes)
            found.unet_config["num_heads"] = unet["num_heads"]
            found.huggingface_repo, found.unet_key_prefix = str(repository), ["model.diffusion_model."]
            return found

        own, huggingface_guess.guess = huggingface_guess.guess, guess
        try:
            return host(path, *args, **kwargs)
        finally:
            huggingface_guess.guess = own
