"""Modular pipelines of diffusers: the tiny pipelines' parts, and Flux 3 and Anima, which have this form alone."""
from types import SimpleNamespace

import diffusers
import tiny_llm
import tiny_pipelines
import tiny_several
import torch
from diffusers import modular_pipelines as modular
from tiny_llm import HEADS, llm_tokenizer
from tiny_pipelines import WIDTH, _flow, _keen, _lively
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel


def _flux3():
    transformer = diffusers.Flux3Transformer2DModel(
        in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=2 * WIDTH,
        timestep_channels=16, axes_dims_rope=(4, 4, 4, 4), **HEADS)
    encoder = tiny_llm._qwen_vl(Qwen3VLForConditionalGeneration, Qwen3VLConfig, deepstack_visual_indexes=[0])
    return dict(transformer=_keen(transformer), vae=tiny_llm._flux2_vae(), scheduler=_flow(), text_encoder=encoder,
                tokenizer=tiny_llm.TextProcessor(llm_tokenizer(), chat_template=tiny_llm.CHAT))


def _anima():
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, mlp_ratio=2, text_embed_dim=WIDTH, adaln_lora_dim=4,
        max_size=(4, 32, 32), extra_pos_embed_type=None, concat_padding_mask=False, **HEADS)
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=WIDTH, target_dim=WIDTH, model_dim=WIDTH, num_layers=1, num_attention_heads=2,
        target_vocab_size=len(tiny_pipelines.t5_tokenizer()))
    return dict(transformer=_lively(transformer), text_conditioner=_lively(conditioner), scheduler=_flow(),
                text_encoder=tiny_llm._qwen3(), tokenizer=llm_tokenizer(), t5_tokenizer=tiny_pipelines.t5_tokenizer(),
                vae=tiny_llm.qwen_image().vae)


def _krea2():
    """Its blocks read twelve layers of a text encoder that has 35 or more, behind a template of 34 tokens."""
    parts = tiny_several.krea().components
    config = dict(parts["transformer"].config, num_text_layers=12)
    torch.manual_seed(0)
    transformer = diffusers.Krea2Transformer2DModel.from_config(config)
    return dict(parts, transformer=_keen(transformer, 12.0), text_encoder=tiny_several._qwen(
        Qwen3VLModel, Qwen3VLConfig, layers=35))


class _Flux3Blocks(modular.Flux3AutoBlocks):
    """Without the language model that would rewrite the prompt."""
    block_classes = [*modular.Flux3AutoBlocks.block_classes][1:]
    block_names = [*modular.Flux3AutoBlocks.block_names][1:]


def _parts(build):
    return lambda: build().components


# By name: the blocks, what makes their parts, and arguments of a small call.
FAMILIES = {
    "sdxl": (modular.StableDiffusionXLAutoBlocks, _parts(tiny_pipelines.sdxl), {}),
    "sd3": (modular.StableDiffusion3AutoBlocks, _parts(tiny_pipelines.sd3), {}),
    "flux2-klein": (modular.Flux2KleinBaseAutoBlocks, _parts(tiny_llm.flux2_klein), dict(max_sequence_length=128)),
    "flux3": (_Flux3Blocks, _flux3, dict(text_encoder_out_layers=(1, 2))),
    "qwen-image": (modular.QwenImageAutoBlocks, _parts(tiny_llm.qwen_image), {}),
    "z-image": (modular.ZImageAutoBlocks, _parts(tiny_llm.z_image), dict(max_sequence_length=128)),
    "krea2": (modular.Krea2AutoBlocks, _krea2, {}),
    "ernie": (modular.ErnieImageAutoBlocks, _parts(tiny_llm.ernie_image), {}),
    "anima": (modular.AnimaAutoBlocks, _anima, {}),
    "wan": (modular.WanBlocks, _parts(tiny_several.wan), dict(num_frames=1)),
}


modular.wan.encoders.ftfy = SimpleNamespace(fix_text=str)  # which a checkout need not have


def pipeline(name: str, guidance_scale: float = 4.0, distilled: bool = False):
    blocks, build, _ = FAMILIES[name]
    blocks = modular.Flux2KleinAutoBlocks if distilled else blocks
    torch.manual_seed(0)
    pipe, parts = blocks().init_pipeline(), build()
    pipe.update_components(**{part: made for part, made in parts.items() if part in pipe._component_specs})
    if not distilled:
        pipe.guider = pipe.guider.new(guidance_scale=guidance_scale, enabled=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(name: str) -> dict:
    return dict(height=16, width=16, num_inference_steps=2, **FAMILIES[name][2])
