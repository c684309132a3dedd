"""Tiny models with random weights of families whose conditioning holds more than one text, or latents of five axes.

MODEL is the host's own network of the family and CLIP its own text encoder, both in small, so that what a text is made
of, and of which length, is as in reality. A builder raises ImportError or AttributeError where the host lacks the
family. comfy is imported when a builder is called: without a host this module can be imported too.
"""
import re
import zlib
from contextlib import ExitStack
from functools import partial
from unittest import mock

import torch
from nodes_tiny_dits import blind, comfy, family, model_of

WIDTH = 32
CLIP = dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3, num_attention_heads=2)
BERT = dict(CLIP, num_hidden_layers=2)
LLAMA = dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=1,
             num_key_value_heads=1)
T5 = dict(d_model=WIDTH, d_kv=WIDTH // 2, num_heads=2, d_ff=2 * WIDTH, num_layers=2)


class Words:
    """A token a word, in place of a vocabulary that does not come with the host. Ends with </s>, as T5's do."""
    start, end, known = [], [1], {}

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()

    def __call__(self, text):
        words = re.findall(r"<\|\w+\|>|\n\n|\w+|[^\w\s]", text)
        return {"input_ids": [*self.start, *(self.known.get(word, 1000 + zlib.crc32(word.encode()) % 30000)
                                             for word in words), *self.end]}

    def get_vocab(self):
        return {}


class LlamaWords(Words):
    """With the tokens by which the encoder finds the end of its template."""
    start, end = [128000], []
    known = {"<|start_header_id|>": 128006, "<|end_header_id|>": 128007, "<|eot_id|>": 128009, "\n\n": 271, "user": 882}


def _lively(module: torch.nn.Module, gain: float = 0.5) -> torch.nn.Module:
    """Random weights with which all the parts matter: the host leaves them uninitialised."""
    for name, weight in module.named_parameters():
        random = torch.randn(weight.shape)
        if weight.ndim > 1:
            if not name.endswith(("embeddings.weight", "embedding.weight", "embed_tokens.weight", "shared.weight")):
                random *= gain * weight[0].numel() ** -0.5
            # Most tokens of some families' texts are filler.
            weight.data = random * (8 if "cross_attn" in name else 3 if "attn2" in name else 1)
        else:
            weight.data = 0.1 * random + (0 if name.endswith("bias") else 1)
    return module.eval().requires_grad_(False)


def _model(name: str, gain: float = 0.5, **config):
    return model_of(name, partial(_lively, gain=gain), **config)


def _clip(module: str, tokenizer: str, encoder: str | type, sizes: dict, replaced=()):
    """CLIP of a module of text_encoders; sizes: a transformer's by the name that the host knows it by."""
    texts = comfy(f"text_encoders.{module}")
    target = comfy("supported_models_base").ClipTarget(
        getattr(texts, tokenizer), getattr(texts, encoder) if isinstance(encoder, str) else encoder)
    with ExitStack() as stack:
        stack.enter_context(blind())
        for name, attribute, value in replaced:
            stack.enter_context(mock.patch.object(comfy(f"text_encoders.{name}"), attribute, value))
        clip = comfy("sd").CLIP(target, model_options=dict(
            {f"{name}_model_config": config for name, config in sizes.items()}, dtype=torch.float32),
            tokenizer_data={"mt5xl.spiece_model": None})
    _lively(clip.cond_stage_model)
    return clip


@family("HiDream", (1, 16, 8, 8), 5.0)
def _hidream():
    model = _model("HiDream", image_model="hidream", patch_size=2, in_channels=16, out_channels=16, num_layers=1,
                   num_single_layers=1, attention_head_dim=16, num_attention_heads=2, caption_channels=[WIDTH, WIDTH],
                   text_emb_dim=2 * WIDTH, num_routed_experts=2, num_activated_experts=1, axes_dims_rope=[8, 4, 4],
                   max_resolution=[16, 16], llama_layers=[1, 3])
    return model, _clip("hidream", "HiDreamTokenizer", comfy("text_encoders.hidream").hidream_clip(),
                        dict(clip_l=CLIP, clip_g=CLIP, t5xxl=T5, llama=LLAMA),
                        [("hunyuan_video", "LlamaTokenizerFast", LlamaWords)])


@family("HunyuanDiT", (1, 4, 8, 8), 6.0)
def _hunyuan_dit():
    model = _model("HunyuanDiT", image_model="hydit", depth=2, hidden_size=WIDTH, num_heads=2, text_states_dim=WIDTH,
                   text_states_dim_t5=WIDTH)
    return model, _clip("hydit", "HyditTokenizer", "HyditModel",
                        dict(hydit_clip=BERT, mt5xl=dict(T5, vocab_size=32128)), [("hydit", "SPieceTokenizer", Words)])


def _hunyuan(name: str, **config):
    params = comfy("ldm.hunyuan_video.model").HunyuanVideoParams
    every = dict(dict.fromkeys(params.__dataclass_fields__), context_in_dim=WIDTH, hidden_size=WIDTH, mlp_ratio=2.0,
                 num_heads=2, depth=1, depth_single_blocks=1, theta=256, qkv_bias=True, meanflow=False,
                 use_cond_type_embedding=False, meanflow_sum=False, **config)
    return _model(name, image_model="hunyuan_video", **{key: every[key] for key in params.__dataclass_fields__})


@family("HunyuanImage 2.1", (1, 64, 4, 4), 3.5)
def _hunyuan_image():
    model = _hunyuan("HunyuanImage21", in_channels=64, out_channels=64, vec_in_dim=None, axes_dim=[8, 8],
                     patch_size=[1, 1], guidance_embed=False, byt5=True)
    # The network fixes the width of ByT5, to which the host gives no name.
    return model, _clip("hunyuan_image", "HunyuanImageTokenizer", comfy("text_encoders.hunyuan_image").te(),
                        {"qwen25_7b": LLAMA, "": dict(T5, d_model=1472)})


@family("Hunyuan Video", (1, 16, 1, 8, 8), 1.0)
def _hunyuan_video():
    model = _hunyuan("HunyuanVideo", in_channels=16, out_channels=16, vec_in_dim=WIDTH, axes_dim=[4, 6, 6],
                     patch_size=[1, 2, 2], guidance_embed=True, byt5=False)
    return model, _clip("hunyuan_video", "HunyuanVideoTokenizer",
                        comfy("text_encoders.hunyuan_video").hunyuan_video_clip(), dict(clip_l=CLIP, llama=LLAMA),
                        [("hunyuan_video", "LlamaTokenizerFast", LlamaWords)])


@family("Kandinsky 5", (1, 16, 8, 8), 3.5)
def _kandinsky():
    texts = comfy("text_encoders.kandinsky5")
    model = _model("Kandinsky5Image", image_model="kandinsky5", in_visual_dim=16, out_visual_dim=16, in_text_dim=WIDTH,
                   in_text_dim2=WIDTH, time_dim=WIDTH, model_dim=WIDTH, ff_dim=2 * WIDTH, visual_embed_dim=64,
                   num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6), rope_scale_factor=(1.0, 1.0, 1.0))
    return model, _clip("kandinsky5", "Kandinsky5TokenizerImage", texts.te(), dict(qwen25_7b=LLAMA, clip_l=CLIP))


def _cosmos_network(name: str, kind: str):
    return _model(name, image_model=kind, max_img_h=240, max_img_w=240, max_frames=128, in_channels=16,
                  out_channels=16, patch_spatial=2, patch_temporal=1, model_channels=2 * WIDTH, num_blocks=2,
                  num_heads=2, concat_padding_mask=True, crossattn_emb_channels=WIDTH, pos_emb_cls="rope3d",
                  pos_emb_learnable=True, pos_emb_interpolation="crop", min_fps=1, max_fps=30, use_adaln_lora=True,
                  adaln_lora_dim=WIDTH, extra_per_block_abs_pos_emb=False, rope_t_extrapolation_ratio=1.0,
                  rope_enable_fps_modulation=False)


@family("Anima", (1, 16, 1, 8, 8), 4.0)
def _anima():
    network = comfy("ldm.anima.model")
    # The network fixes its adapter's sizes.
    adapter = partial(network.LLMAdapter, source_dim=WIDTH, target_dim=WIDTH, model_dim=WIDTH, num_layers=1,
                      num_heads=2)
    with mock.patch.object(network, "LLMAdapter", adapter):
        model = _cosmos_network("Anima", "anima")
    return model, _clip("anima", "AnimaTokenizer", comfy("text_encoders.anima").te(), dict(qwen3_06b=LLAMA))


@family("Cosmos 2", (1, 16, 1, 8, 8), 4.0)
def _cosmos():
    model = _cosmos_network("CosmosT2IPredict2", "cosmos_predict2")
    return model, _clip("cosmos", "CosmosT5Tokenizer", comfy("text_encoders.cosmos").te(), dict(t5xxl=T5))


@family("Wan", (1, 16, 1, 8, 8), 5.0)
def _wan():
    model = _model("WAN21_T2V", gain=1.0, image_model="wan2.1", model_type="t2v", in_dim=16, out_dim=16, dim=WIDTH,
                   ffn_dim=2 * WIDTH, text_dim=WIDTH, num_heads=2, num_layers=2)
    return model, _clip("wan", "WanT5Tokenizer", comfy("text_encoders.wan").te(),
                        dict(umt5xxl=dict(T5, vocab_size=32128)), [("wan", "SPieceTokenizer", Words)])


@family("AuraFlow", (1, 4, 8, 8), 3.5)
def _aura_flow():
    model = _model("AuraFlow", gain=1.0, in_channels=4, out_channels=4, dim=WIDTH, n_layers=2, n_double_layers=1,
                   n_heads=2, global_conddim=WIDTH, cond_seq_dim=WIDTH, max_seq=64)
    whole = comfy("text_encoders.t5").T5

    def small(config, *args, **kwargs):  # not every host's class takes sizes
        return whole({**config, **T5}, *args, **kwargs)
    return model, _clip("aura_t5", "AuraT5Tokenizer", "AuraT5Model", {}, [("t5", "T5", small)])


@family("PixArt", (1, 4, 48, 48), 4.5)  # whose positions are made for 64, rounded
def _pixart():
    model = _model("PixArtSigma", image_model="pixart_sigma", hidden_size=WIDTH, depth=2, num_heads=2,
                   caption_channels=WIDTH, micro_condition=False)
    return model, _clip("pixart_t5", "PixArtTokenizer", comfy("text_encoders.pixart_t5").pixart_te(),
                        dict(t5xxl=T5))


@family("SD2", (1, 4, 8, 8), 7.0)
def _sd2():
    model = _model("SD20", image_size=8, in_channels=4, out_channels=4, model_channels=64, num_res_blocks=[1, 1],
                   channel_mult=[1, 1], transformer_depth=[1, 1], transformer_depth_middle=1,
                   transformer_depth_output=[1, 1, 1, 1], context_dim=WIDTH, use_spatial_transformer=True,
                   use_linear_in_transformer=True, adm_in_channels=None, use_temporal_attention=False, legacy=False)
    return model, _clip("sd2_clip", "SD2Tokenizer", "SD2ClipModel", dict(clip_h=CLIP))
