"""Random pipelines of every family, small enough for a test: a few channels, 16 tokens, 8x8 latents.

Weights are drawn large, so that text visibly steers the predictions.
"""
import json
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
    PreTrainedTokenizerFast, T5Config, T5EncoderModel,
)

TOKENS = 16
WIDTH = 32
# Of the families that a tiny_*.py names: what makes one, and keyword arguments of a small call with
# classifier-free guidance wherever there is some.
PIPELINES, CALLS = {}, {}


def family(name, pixels=16, **call):
    """Names the function below it, which makes a pipeline: always the same one, and quiet."""
    def named(build):
        @wraps(build)
        def fresh():
            torch.manual_seed(0)
            return _quiet(build())
        PIPELINES[name] = fresh
        CALLS[name] = dict(height=pixels, width=pixels, num_inference_steps=2, **call)
        return fresh
    return named


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer whose vocabulary is single bytes."""
    letters = [*map(chr, range(ord("!"), ord("~") + 1)), *(chr(256 + byte) for byte in range(33))]
    words = [*letters, *(letter + "</w>" for letter in letters), "an", "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\na n\n")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(dict(
            tokenizer_class="CLIPTokenizer", model_max_length=TOKENS, bos_token="<|startoftext|>",
            eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>")))
        return CLIPTokenizer.from_pretrained(folder)


@cache
def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A stand-in for T5's tokenizer: one token a letter."""
    letters = ["<pad>", "</s>", "<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                   model_max_length=TOKENS)


def _lively(module: torch.nn.Module) -> torch.nn.Module:
    """Texts reach the prediction only weakly with usual initial values; wider cross-attention makes them matter."""
    for name, parameter in module.named_parameters():
        if any(part in name for part in ("to_k", "to_v", "add_k", "add_v", "token_embedding", "text_embedder")):
            parameter.data.mul_(4)
    return module.eval().requires_grad_(False)


def _keen(transformer: torch.nn.Module, times: float = 3.0) -> torch.nn.Module:
    """Templates and padding drown a short text; with larger keys attention picks single letters out."""
    for name, parameter in transformer.named_parameters():
        if "norm_k." in name or "norm_added_k." in name:
            start = 0.0 if parameter.any() else 1.0  # from which the norm counts its weights
            parameter.data.add_(start).mul_(times).sub_(start)
    return _lively(transformer)


def _clip(projection=False, width=WIDTH):
    config = CLIPTextConfig(vocab_size=len(clip_tokenizer()), hidden_size=width, intermediate_size=37,
                            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TOKENS,
                            bos_token_id=clip_tokenizer().bos_token_id, eos_token_id=clip_tokenizer().eos_token_id,
                            pad_token_id=clip_tokenizer().pad_token_id, projection_dim=width)
    return _lively((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def _t5(tokenizer=None, kind=T5EncoderModel, config=T5Config):
    made = kind(config(vocab_size=len(tokenizer or t5_tokenizer()), d_model=WIDTH, d_kv=8, d_ff=37,
                       num_layers=1, num_heads=4))
    return made.eval().requires_grad_(False)


def _vae(channels=4, blocks=2, **config):
    """All blocks but one halve an image."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks, layers_per_block=1, norm_num_groups=4,
        latent_channels=channels, down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks, sample_size=4 * 2 ** blocks, **config).eval()


def _unet(**config):
    return _lively(diffusers.UNet2DConditionModel(**{**dict(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4, cross_attention_dim=WIDTH), **config}))


def scheduler(kind=diffusers.DDIMScheduler, **config):
    """Stable Diffusion's noise schedule; `kind` any scheduler of diffusers."""
    if kind is diffusers.DDIMScheduler:
        config = dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)
    return kind(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config)


def _flow(shift=3.0, **config):
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **config)


def _quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sd_parts(**unet):
    return dict(vae=_vae(), text_encoder=_clip(), tokenizer=clip_tokenizer(), unet=_unet(**unet), scheduler=scheduler(),
                safety_checker=None, feature_extractor=None)


def sd(kind=diffusers.StableDiffusionPipeline, prediction_type="epsilon", seed=0, **unet):
    """Stable Diffusion 1, or 2 with `prediction_type="v_prediction"`."""
    torch.manual_seed(seed)
    parts = _sd_parts(**unet)
    parts["scheduler"] = scheduler(prediction_type=prediction_type)
    return _quiet(kind(**parts, requires_safety_checker=False))


def img2img():
    return sd(diffusers.StableDiffusionImg2ImgPipeline)


def inpaint():
    return sd(diffusers.StableDiffusionInpaintPipeline, in_channels=9)


def controlnet():
    torch.manual_seed(0)
    parts = _sd_parts()
    control = diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_channels=3,
                                                  conditioning_embedding_out_channels=(4, 4))
    for module in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(module.weight, std=0.3)  # a fresh ControlNet adds nothing
    return _quiet(diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=control.eval(), requires_safety_checker=False))


def sdxl():
    torch.manual_seed(0)
    unet = _unet(cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=6 * 8 + WIDTH)
    return _quiet(diffusers.StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=_clip(), text_encoder_2=_clip(projection=True), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=unet, scheduler=scheduler(), add_watermarker=False))


def sd3():
    """Stable Diffusion 3 without its T5, as many run it."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=8)
    return _quiet(diffusers.StableDiffusion3Pipeline(
        transformer=_lively(transformer), scheduler=_flow(shift=3.0),
        vae=_vae(shift_factor=0.0), text_encoder=_clip(projection=True), text_encoder_2=_clip(projection=True),
        text_encoder_3=None, tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), tokenizer_3=None))


def flux():
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True)
    return _quiet(diffusers.FluxPipeline(
        transformer=_lively(transformer), scheduler=_flow(shift=3.0),
        vae=_vae(shift_factor=0.0), text_encoder=_clip(), tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=t5_tokenizer()))
