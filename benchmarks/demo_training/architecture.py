"""The networks of the demo model: Stable Diffusion 1's layout in small, and a small CLIP that judges its pictures.

Every choice that looks odd is the layout's: channels are multiples of 32 (GroupNorm), the autoencoder has four levels
(factor 8), latents have four channels and the scale 0.18215, and the vocabulary is CLIP's 49,408 tokens of 77. So the
same weights load in diffusers, ComfyUI and AUTOMATIC1111.
"""
from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

SCALING_FACTOR = 0.18215
TEXT_WIDTH = 56
TOKEN_IDS = dict(bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)

_TEXT = dict(vocab_size=49408, max_position_embeddings=77, hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH,
             num_hidden_layers=3, num_attention_heads=7, hidden_act="quick_gelu", projection_dim=TEXT_WIDTH,
             **TOKEN_IDS)


def autoencoder() -> AutoencoderKL:
    """KL autoencoder, 64x64 RGB <-> 4x8x8 latents."""
    channels = (32, 32, 64, 64)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=32, sample_size=64, scaling_factor=SCALING_FACTOR)


def unet() -> UNet2DConditionModel:
    """Noise predictor on 4x8x8 latents with cross-attention to the text."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 96, 96), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4, cross_attention_dim=TEXT_WIDTH, norm_num_groups=32)


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(**_TEXT))


def clip() -> CLIPModel:
    """Small CLIP: the text encoder's layout beside a 64x64 vision transformer with 8x8 patches."""
    vision = dict(image_size=64, patch_size=8, hidden_size=96, intermediate_size=384, num_hidden_layers=4,
                  num_attention_heads=4, hidden_act="quick_gelu", projection_dim=TEXT_WIDTH)
    return CLIPModel(CLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=TEXT_WIDTH))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule, sampled from the last timestep to a sigma of 0, as hosts do.

    The usual "leading" spacing starts eight steps at t = 876, where the signal is strong enough to be missed: groups
    far from the mean then appear too seldom.
    """
    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         clip_sample=False, set_alpha_to_one=True, steps_offset=1, timestep_spacing="trailing",
                         prediction_type="epsilon")
