"""Debias Demo Model: the embedded model as ComfyUI's own MODEL, CLIP and VAE."""
from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy_api.latest import io

from ..demo_model.model import FOLDER, Ratio
from .types import TOOLS

WIDTHS, TEXT_WIDTH = (64, 96, 96), 56
UNET = dict(
    image_size=8, in_channels=4, out_channels=4, model_channels=WIDTHS[0], num_res_blocks=[1, 1, 1],
    channel_mult=[Ratio(width, WIDTHS[0]) for width in WIDTHS], transformer_depth=[1, 1, 0],
    transformer_depth_middle=1, transformer_depth_output=[1, 1, 1, 1, 0, 0], context_dim=TEXT_WIDTH,
    use_spatial_transformer=True, use_linear_in_transformer=False, adm_in_channels=None, use_temporal_attention=False,
    legacy=False)
VAE = dict(double_z=True, z_channels=4, resolution=64, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 2, 2],
           num_res_blocks=1, attn_resolutions=[], dropout=0.0)
TEXT = dict(vocab_size=49408, max_position_embeddings=77, hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3, num_attention_heads=7, hidden_act="quick_gelu", projection_dim=TEXT_WIDTH,
            eos_token_id=49407)


class DemoUNet(comfy.supported_models.SD15):
    """The layout of Stable Diffusion 1, in miniature."""
    unet_config = dict(UNET)
    unet_extra_config = dict(num_heads=4, num_head_channels=-1)  # diffusers' attention_head_dim counts heads


def load():
    """(MODEL, CLIP, VAE) of the demo model, float32 everywhere: it is small, and so it matches diffusers."""
    management = comfy.model_management

    def weights(path):
        return comfy.utils.load_torch_file(str(FOLDER / path), safe_load=True)

    config = DemoUNet(UNET)
    config.set_inference_dtype(torch.float32, None)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    unet = {names[key]: value for key, value in weights("unet/diffusion_pytorch_model.safetensors").items()}
    network = config.get_model(unet, "", device=management.unet_offload_device())
    network.debias_side = VAE["resolution"]  # in pixels: at others' 512 an image would take minutes
    network.load_model_weights(unet, "")
    model = comfy.model_patcher.ModelPatcher(network, load_device=management.get_torch_device(),
                                             offload_device=management.unet_offload_device())

    clip = comfy.sd.CLIP(config.clip_target(), model_options={"clip_l_model_config": TEXT, "dtype": torch.float32})
    # transformers 5 saves a text encoder without the prefix that its earlier versions, and ComfyUI, give it.
    clip.load_sd({f"text_model.{key.removeprefix('text_model.')}": value
                  for key, value in weights("text_encoder/model.safetensors").items()})
    vae = comfy.sd.VAE(weights("vae/diffusion_pytorch_model.safetensors"), dtype=torch.float32,
                       config={"params": {"ddconfig": VAE, "embed_dim": 4}})
    return model, clip, vae


class DebiasDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasDemoModel", display_name="Debias Demo Model", category=TOOLS,
            description="The small model that comes with sd-debias. It draws people at work at 64x64 pixels, takes "
                        "seconds on a CPU, and is biased on purpose. Use 8 steps, CFG 2, sampler euler, scheduler "
                        "simple, and prompts such as \"a photo of a doctor\".",
            inputs=[],
            outputs=[io.Model.Output(tooltip="The denoiser."), io.Clip.Output(tooltip="The text encoder."),
                     io.Vae.Output(tooltip="The autoencoder.")])

    @classmethod
    def execute(cls):
        return io.NodeOutput(*load())
