"""Random models of ComfyUI's families, small enough for a test: (MODEL, CLIP), a few channels, 4x4 or 8x8 latents.

All classes are the host's own: networks with what the host's detection finds in a checkpoint, text encoders with their
tokenizers, templates, padding and masks. A family that the host lacks raises ImportError.
"""
import base64
import importlib
import io
import json
from typing import Callable, NamedTuple
from unittest import mock

import torch

WIDTH, VOCABULARY = 32, 997
TWO_HEADS = dict(hidden_size=WIDTH, num_heads=2, axes_dim=[4, 6, 6])
# The heads' dimension is each family's own, 128 or 256, and cannot be set.
LLAMA = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3,
             num_attention_heads=1, num_key_value_heads=1)
OPTIONS = dict(
    dtype=torch.float32,
    t5xxl_model_config=dict(vocab_size=VOCABULARY, d_model=WIDTH, d_ff=64, d_kv=16, num_heads=2, num_layers=2),
    **{f"clip_{name}_model_config": dict(hidden_size=WIDTH, intermediate_size=64, num_attention_heads=2,
                                         num_hidden_layers=3) for name in "lg"},
    **{f"{name}_model_config": LLAMA for name in ("gemma2_2b", "qwen25_3b", "qwen25_7b", "qwen3_4b", "mistral3_24b")})


class Family(NamedTuple):
    """build  makes (MODEL, CLIP) anew, with the same weights each time
    latent  the shape of one empty latent
    cfg     as the family is usually run: 1 where guidance is distilled
    """
    build: Callable
    latent: tuple
    cfg: float


FAMILIES: dict[str, Family] = {}  # by the names of shared/reference/families.md


def family(name, latent, cfg):
    def kept(make):
        def build():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return make()
        FAMILIES[name] = Family(build, latent, cfg)
        return make
    return kept


def comfy(name):
    return importlib.import_module(f"comfy.{name}")


def lively(module):
    """Draws all weights, which the host leaves uninitialized, so large that text visibly steers."""
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if not weight.is_floating_point() or name.endswith("logit_scale"):
            continue
        drawn = torch.empty(weight.shape)  # what weights are stored as cannot always be drawn
        if weight.ndim > 1:
            drawn.normal_(0, (weight.numel() / len(weight)) ** -0.5 * 1.5)
        else:
            drawn.normal_(0, 0.1).add_("bias" not in name)  # gains of norms around 1
        with torch.no_grad():
            weight.copy_(drawn)


STORED = torch.float32  # what a network's weights are stored as; they are computed with in float32


def model_of(name, lively=lively, **config):
    """A MODEL of a class of comfy.supported_models."""
    made, cpu = getattr(comfy("supported_models"), name)(config), torch.device("cpu")
    made.set_inference_dtype(STORED, None if STORED == torch.float32 else torch.float32)
    model = made.get_model({}, "", device=cpu)
    lively(model.diffusion_model)
    return comfy("model_patcher").ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def clip_of(name, found=(), spiece=None, tekken=None, **options):
    """A CLIP as that class makes it of a checkpoint that holds the weights `found`."""
    config = getattr(comfy("supported_models"), name)({"hidden_size": WIDTH})  # Flux 2 asks for it
    target = config.clip_target({f"text_encoders.{name}": torch.zeros(1) for name in found})
    clip = comfy("sd").CLIP(target, model_options={**OPTIONS, **options},
                            tokenizer_data=dict(spiece_model=spiece, tekken_model=tekken))
    lively(clip.cond_stage_model)
    return sharing(clip)


def sharing(clip):
    """The real tokenizers have up to 150000 tokens, which share embeddings here."""
    for module in clip.cond_stage_model.modules():
        if getattr(module, "num_embeddings", None) == VOCABULARY:
            module.register_forward_pre_hook(lambda module, given: (given[0] % VOCABULARY, *given[1:]))
    return clip


def blind():
    """Qwen's tower for images has 600 million weights more, and no images are shown here."""
    return mock.patch.object(comfy("text_encoders.qwen_vl"), "Qwen2VLVisionTransformer",
                             lambda **_: torch.nn.Module())


def spiece():
    """A SentencePiece model as Gemma's tokenizer has it, of single letters: the real one lies in checkpoints."""
    from sentencepiece import SentencePieceTrainer
    written, letters = io.BytesIO(), "".join(map(chr, range(33, 127)))
    SentencePieceTrainer.train(
        sentence_iterator=iter([letters]), model_writer=written, model_type="char", vocab_size=120, pad_id=0, eos_id=1,
        bos_id=2, unk_id=3, character_coverage=1.0, hard_vocab_limit=False, minloglevel=2)
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)


def tekken():
    """Mistral's tokenizer of single bytes, its special tokens where the real one has them."""
    special = [f"<{i}>" for i in range(19)]
    for i, token in {1: "<s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>", 17: "[SYSTEM_PROMPT]",
                     18: "[/SYSTEM_PROMPT]"}.items():
        special[i] = token
    written = json.dumps(dict(
        config=dict(default_vocab_size=256 + len(special)),
        vocab=[dict(rank=i, token_bytes=base64.b64encode(bytes([i])).decode()) for i in range(256)],
        special_tokens=[dict(rank=i, token_str=token) for i, token in enumerate(special)]))
    return torch.frombuffer(bytearray(written.encode()), dtype=torch.uint8)


@family("SDXL", (1, 4, 8, 8), 7.0)
def sdxl():
    return model_of(
        "SDXL", image_size=8, in_channels=4, out_channels=4, model_channels=64, num_res_blocks=[1, 1],
        channel_mult=[1, 1], transformer_depth=[0, 1], transformer_depth_middle=1,
        transformer_depth_output=[0, 0, 1, 1], context_dim=2 * WIDTH, adm_in_channels=WIDTH + 6 * 256,
        num_classes="sequential", use_spatial_transformer=True, use_linear_in_transformer=True,
        use_temporal_attention=False, legacy=False), clip_of("SDXL")


@family("SD3", (1, 16, 8, 8), 4.5)
def sd3():
    depth, context = 2, 4096  # of all texts, whatever its encoders' widths
    return model_of(
        "SD3", in_channels=16, patch_size=2, depth=depth, input_size=None, adm_in_channels=2 * WIDTH, qk_norm="rms",
        num_patches=64, pos_embed_max_size=8, pos_embed_scaling_factor=None, context_embedder_config=dict(
            target="torch.nn.Linear", params=dict(in_features=context, out_features=64 * depth)),
    ), clip_of("SD3", [
        "clip_l.transformer.text_model.final_layer_norm.weight",
        "clip_g.transformer.text_model.final_layer_norm.weight", "t5xxl.transformer.encoder.final_layer_norm.weight",
    ], t5xxl_model_config={**OPTIONS["t5xxl_model_config"], "d_model": context})


def _taken(kind, parameters, **newer):
    """Those that this version of the host knows."""
    known = getattr(comfy(f"ldm.{kind}.model"), parameters).__dataclass_fields__
    return {name: value for name, value in newer.items() if name in known}


@family("Flux 1", (1, 16, 8, 8), 1.0)
def flux1():
    return model_of(
        "Flux", image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=WIDTH,
        context_in_dim=WIDTH, mlp_ratio=2.0, depth=1, depth_single_blocks=1, theta=10000, qkv_bias=True,
        guidance_embed=True, **TWO_HEADS, **_taken("flux", "FluxParams", txt_ids_dims=[])), clip_of("Flux")


def _flux2(texts, found, **tokenizer):
    """In small what the host's detection finds in a checkpoint of Flux 2."""
    return model_of(
        "Flux2", image_model="flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None,
        context_in_dim=3 * WIDTH, hidden_size=WIDTH, num_heads=2, axes_dim=[4, 4, 4, 4], mlp_ratio=3.0, depth=1,
        depth_single_blocks=1, theta=2000, qkv_bias=False, guidance_embed=texts == "mistral3_24b",
        global_modulation=True, mlp_silu_act=True, ops_bias=False, default_ref_method="index", ref_index_scale=10.0,
        txt_ids_dims=[3]), clip_of("Flux2", [f"{texts}.transformer.{name}" for name in found], **tokenizer)


def _three_layers(clip, name):
    """Its texts are three layers' beside each other, in the real encoder three of dozens."""
    encoder = getattr(clip.cond_stage_model, name)
    encoder.layer = [0, 1, 2]
    encoder.options_default = (encoder.layer, *encoder.options_default[1:])


@family("Flux 2 Klein", (1, 128, 4, 4), 1.0)
def klein():
    model, clip = _flux2("qwen3_4b", ["model.norm.weight"])
    _three_layers(clip, "qwen3_4b")
    return model, clip


@family("Flux 2", (1, 128, 4, 4), 1.0)
def flux2():
    model, clip = _flux2("mistral3_24b", [
        "model.norm.weight", "model.layers.39.post_attention_layernorm.weight"], tekken=tekken())
    _three_layers(clip, "mistral3_24b")
    return model, clip


@family("Chroma", (1, 16, 8, 8), 4.0)
def chroma():
    return model_of(
        "Chroma", image_model="chroma", in_channels=64, out_channels=64, patch_size=2, context_in_dim=WIDTH, in_dim=64,
        out_dim=WIDTH, hidden_dim=WIDTH, n_layers=1, mlp_ratio=2.0, depth=1, depth_single_blocks=1, theta=10000,
        qkv_bias=True, **TWO_HEADS, **_taken("chroma", "ChromaParams", txt_ids_dims=[], vec_in_dim=None),
    ), clip_of("Chroma")


@family("Lumina 2", (1, 16, 8, 8), 4.0)
def lumina2():
    return model_of(
        "Lumina2", image_model="lumina2", patch_size=2, in_channels=16, dim=WIDTH, n_layers=1, n_refiner_layers=1,
        n_heads=2, n_kv_heads=1, axes_dims=[4, 6, 6], axes_lens=[300, 512, 512], cap_feat_dim=WIDTH, qk_norm=True,
        multiple_of=32, ffn_dim_multiplier=2.0), clip_of("Lumina2", spiece=spiece())


@family("Z-Image", (1, 16, 8, 8), 1.0)
def z_image():
    return model_of(  # the width of its timestep embedding, 256, cannot be set
        "ZImage", image_model="lumina2", patch_size=2, in_channels=16, dim=256, n_layers=1,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2, axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512], cap_feat_dim=WIDTH, qk_norm=True,
        multiple_of=32, ffn_dim_multiplier=1.0, rope_theta=256.0, z_image_modulation=True, time_scale=1000.0,
        pad_tokens_multiple=32), clip_of("ZImage")


@family("Qwen-Image", (1, 16, 1, 8, 8), 2.5)
def qwen_image():
    with blind():
        clip = clip_of("QwenImage")
    return model_of(
        "QwenImage", image_model="qwen_image", patch_size=2, in_channels=64, out_channels=16, num_layers=2,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6)), clip


@family("OmniGen 2", (1, 16, 8, 8), 5.0)
def omnigen2():
    return model_of(
        "Omnigen2", image_model="omnigen2", patch_size=2, in_channels=16, hidden_size=WIDTH, num_layers=1,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=32, ffn_dim_multiplier=1.0,
        axes_dim_rope=(4, 6, 6), axes_lens=(300, 512, 512), text_feat_dim=WIDTH, timestep_scale=1000.0,
    ), clip_of("Omnigen2")
