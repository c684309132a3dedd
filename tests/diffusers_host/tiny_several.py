"""Random pipelines of HiDream, HunyuanImage, Kandinsky 5, Krea 2, Bria, Wan and Cosmos 2, small enough for a test.

The pipelines' own sizes (of the image, of a prompt) are attributes there, and are made small after construction.
"""
from copy import deepcopy

import diffusers
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance
from tiny_pipelines import (
    WIDTH, _clip, _flow, _keen, _lively, _t5, _vae, clip_tokenizer, family, t5_tokenizer,
)
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLModel, UMT5Config, UMT5EncoderModel,
)

LENGTH = 48  # tokens of a prompt; the pipelines' own 128 to 1000 only cost time
POSITIONS = 128  # of CLIP: these pipelines pad to 77 tokens or to their own 128, whatever the tokenizer says
LATENTS = 16  # channels
LANGUAGE_MODEL = dict(
    vocab_size=len(t5_tokenizer()), hidden_size=WIDTH, intermediate_size=37, num_attention_heads=2,
    num_key_value_heads=2, head_dim=WIDTH // 2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
    eos_token_id=1, initializer_range=0.2)  # the usual 0.02 would leave tapped inner layers near 0
ROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3])  # half a head
EYES = dict(depth=1, hidden_size=WIDTH, intermediate_size=37, num_heads=2, out_hidden_size=WIDTH)  # never used


class HarmlessChecker:
    """In place of Cosmos' safety checker, which the pipeline demands and which is a package of its own."""

    def to(self, device):
        return self

    def check_text_safety(self, prompt):
        return True

    def check_video_safety(self, frames):
        return frames


class LetterProcessor(PreTrainedTokenizerFast):
    """In place of Qwen2-VL's processor, which needs torchvision even for texts without images."""

    def __call__(self, text, images=None, videos=None, **options):
        return super().__call__(text, **options)


def _letters(kind=PreTrainedTokenizerFast, ends=True):
    """t5_tokenizer's letters for long prompts, a copy (HiDream changes its tokenizer); `ends`: with </s>."""
    letters = deepcopy(t5_tokenizer().backend_tokenizer)
    if not ends:
        letters.post_processor = None
    return kind(tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                model_max_length=1024)


def _count(tokenizer, template):
    """How many tokens of a chat template come before the prompt: the pipelines' own counts are for Qwen's tokens."""
    return len(tokenizer(template.split("{}")[0]).input_ids)


def _qwen(kind, config, layers):
    return kind(config(text_config=dict(**LANGUAGE_MODEL, num_hidden_layers=layers, rope_parameters=ROPE),
                       vision_config=EYES)).eval().requires_grad_(False)


def _long_clip(projection=False):
    clip = _clip(projection)
    clip.config.max_position_embeddings = POSITIONS
    return _lively(type(clip)(clip.config))


def _video_vae(kind, **config):
    """Wan's VAE and its copies, which halve an image; of one frame they make one frame."""
    return kind(base_dim=4, z_dim=LATENTS, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
                **config).eval()


@family("HiDreamImagePipeline", guidance_scale=3.5, max_sequence_length=LENGTH)
def hidream():
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=LATENTS, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=2 * WIDTH, axes_dims_rope=(4, 4, 8),
        max_resolution=(8, 8), llama_layers=[0, 1])
    llama = LlamaForCausalLM(LlamaConfig(**LANGUAGE_MODEL, num_hidden_layers=2, attn_implementation="eager"))
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=_flow(shift=3.0), vae=_vae(LATENTS, shift_factor=0.0),
        text_encoder=_long_clip(projection=True), tokenizer=clip_tokenizer(),
        text_encoder_2=_long_clip(projection=True), tokenizer_2=clip_tokenizer(), text_encoder_3=_t5(),
        tokenizer_3=_letters(), text_encoder_4=llama.eval().requires_grad_(False), tokenizer_4=_letters(ends=False),
        transformer=_lively(transformer))
    pipe.default_sample_size = 8  # whatever size is asked for, the pipeline scales it to this area
    return pipe


@family("HunyuanImagePipeline")  # its guider has the scale
def hunyuan_image():
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=LATENTS, out_channels=LATENTS, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=(2, 2), text_embed_dim=WIDTH, text_embed_2_dim=WIDTH,
        rope_axes_dim=(8, 8))
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=LATENTS, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=16, scaling_factor=0.75)
    pipe = diffusers.HunyuanImagePipeline(
        scheduler=_flow(shift=5.0), vae=vae.eval(),
        # The text's third last hidden states are used: with 3 layers those after the first one.
        text_encoder=_qwen(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, layers=3),
        tokenizer=_letters(ends=False), text_encoder_2=_t5(), tokenizer_2=_letters(),
        transformer=_lively(transformer), guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5))
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = LENGTH, LENGTH
    pipe.prompt_template_encode_start_idx = _count(pipe.tokenizer, pipe.prompt_template_encode)
    return pipe


@family("Kandinsky5T2IPipeline", guidance_scale=3.5, max_sequence_length=LENGTH)
def kandinsky():
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=LATENTS, out_visual_dim=LATENTS, in_text_dim=WIDTH, in_text_dim2=WIDTH, time_dim=WIDTH,
        model_dim=WIDTH, ff_dim=WIDTH, num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 4, 8))
    for parameter in transformer.parameters():
        if not parameter.any():  # gates, which start closed
            torch.nn.init.normal_(parameter, std=0.2)
    pipe = diffusers.Kandinsky5T2IPipeline(
        transformer=_lively(transformer), vae=_vae(LATENTS),
        text_encoder=_qwen(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, layers=2),
        tokenizer=_letters(LetterProcessor, ends=False), text_encoder_2=_long_clip(), tokenizer_2=clip_tokenizer(),
        scheduler=_flow(shift=5.0))
    pipe.prompt_template_encode_start_idx = _count(pipe.tokenizer, pipe.prompt_template)
    pipe.vae_scale_factor_spatial, pipe.resolutions = 2, [(16, 16)]  # any other size would become one of these
    return pipe


@family("Krea2Pipeline", guidance_scale=3.5, max_sequence_length=LENGTH)
def krea():
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=4 * LATENTS, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=37, timestep_embed_dim=16, text_hidden_dim=WIDTH, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=37, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8))
    pipe = diffusers.Krea2Pipeline(
        scheduler=_flow(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=_video_vae(diffusers.AutoencoderKLQwenImage),
        text_encoder=_qwen(Qwen3VLModel, Qwen3VLConfig, layers=2), tokenizer=_letters(ends=False),
        transformer=_keen(transformer, 5.0), text_encoder_select_layers=(1, 2))
    pipe.prompt_template_encode_start_idx = _count(pipe.tokenizer, pipe.prompt_template_encode_prefix)
    pipe.prompt_template_encode_num_suffix_tokens = _count(pipe.tokenizer, pipe.prompt_template_encode_suffix)
    return pipe


@family("BriaPipeline", guidance_scale=3.5, max_sequence_length=LENGTH)
def bria():
    transformer = diffusers.BriaTransformer2DModel(
        in_channels=4 * LATENTS, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=[4, 4, 8])
    return diffusers.BriaPipeline(
        transformer=_keen(transformer), scheduler=_flow(shift=3.0),
        vae=_vae(LATENTS, shift_factor=0.0), text_encoder=_t5(), tokenizer=_letters())


@family("WanPipeline", guidance_scale=3.5, max_sequence_length=LENGTH, num_frames=1)
def wan():
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=LATENTS, out_channels=LATENTS, text_dim=WIDTH,
        freq_dim=32, ffn_dim=WIDTH, num_layers=2, rope_max_seq_len=32)
    return diffusers.WanPipeline(
        tokenizer=_letters(), text_encoder=_t5(None, UMT5EncoderModel, UMT5Config),
        transformer=_lively(transformer),
        vae=_video_vae(diffusers.AutoencoderKLWan, scale_factor_spatial=2),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))


@family("Cosmos2TextToImagePipeline", guidance_scale=3.5, max_sequence_length=LENGTH)
def cosmos():
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=LATENTS, out_channels=LATENTS, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        mlp_ratio=2, text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), extra_pos_embed_type=None,
        concat_padding_mask=False)  # that mask is nothing but zeros for images, and resizing it takes torchvision
    return diffusers.Cosmos2TextToImagePipeline(
        text_encoder=_t5(), tokenizer=_letters(), transformer=_lively(transformer),
        vae=_video_vae(diffusers.AutoencoderKLWan),
        scheduler=_flow(use_karras_sigmas=True), safety_checker=HarmlessChecker())
