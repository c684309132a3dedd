"""Random pipelines of the families that take text with an attention mask, or one padded text encoder's states.

They are as small as those of tiny_pipelines. Tokenizers make a token of each letter, so that a family's own template
and padding stay what they are.
"""
import diffusers
from tiny_pipelines import CALLS, WIDTH, _flow, _lively, _t5, _vae, family  # noqa: F401
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig, BertModel, Gemma2Config, Gemma2Model, GlmConfig, GlmModel, PreTrainedTokenizerFast,
    UMT5Config, UMT5EncoderModel,
)


def _letters(template: str, **config) -> PreTrainedTokenizerFast:
    """A tokenizer of one token a letter; `template` has the special tokens around a text, `$A`."""
    special = [word for word in template.split() if word != "$A"]
    words = {word: i for i, word in enumerate(["<pad>", "<unk>", *special, "\n", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(word, words[word]) for word in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>",
                                   model_input_names=["input_ids", "attention_mask"], **config)


def _decoder(tokenizer, kind, config):
    """A language model's states. Two layers: some families read the last but one, which should have attended."""
    return kind(config(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1,
                       bos_token_id=2, initializer_range=0.3)).eval()


def _pixart(kind, sample_size):
    tokenizer = _letters("$A </s>")
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=sample_size, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2,
        attention_head_dim=12, cross_attention_dim=24, caption_channels=WIDTH)
    return kind(
        tokenizer=tokenizer, text_encoder=_t5(tokenizer), vae=_vae(),
        transformer=_lively(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02))


# Captions are cleaned only where Beautiful Soup and ftfy are installed.
_PIXART = dict(use_resolution_binning=False, clean_caption=False, guidance_scale=4.0)


@family("PixArtAlphaPipeline", **_PIXART)
def pixart_alpha():
    return _pixart(diffusers.PixArtAlphaPipeline, 128)  # where it is told the image's size too


@family("PixArtSigmaPipeline", **_PIXART)
def pixart_sigma():
    return _pixart(diffusers.PixArtSigmaPipeline, 8)


def _sana(kind, scheduler, **config):
    tokenizer = _letters("<bos> $A")
    blocks = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in dict(
        block_types="ResBlock", block_out_channels=(8,) * 3, layers_per_block=(1,) * 3,
        qkv_multiscales=((),) * 3).items()}
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=12,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=WIDTH,
        **config)
    return kind(tokenizer=tokenizer, text_encoder=_decoder(tokenizer, Gemma2Model, Gemma2Config),
                       vae=diffusers.AutoencoderDC(latent_channels=4, **blocks).eval(),
                       transformer=_lively(transformer),
                       scheduler=scheduler)


# With its own long instruction it would be slow.
_SANA = dict(pixels=32, guidance_scale=4.0, use_resolution_binning=False,
             complex_human_instruction=["User Prompt: "])


@family("SanaPipeline", **_SANA)
def sana():
    return _sana(diffusers.SanaPipeline, diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))


@family("SanaSprintPipeline", **_SANA)  # its guidance is a number it is told
def sana_sprint():
    return _sana(diffusers.SanaSprintPipeline, diffusers.SCMScheduler(), guidance_embeds=True,
                 qk_norm="rms_norm_across_heads")


@family("Lumina2Pipeline", pixels=64, guidance_scale=4.0)
def lumina2():
    tokenizer = _letters("<bos> $A")
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=WIDTH, num_layers=1, num_refiner_layers=1, num_attention_heads=4,
        num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 16, 16), cap_feat_dim=WIDTH)
    return diffusers.Lumina2Pipeline(
        tokenizer=tokenizer, text_encoder=_decoder(tokenizer, Gemma2Model, Gemma2Config),
        vae=_vae(blocks=4, shift_factor=0.0), transformer=_lively(transformer),
        scheduler=_flow(shift=6.0))


# No mask: more padding would drown the text.
@family("AuraFlowPipeline", max_sequence_length=32, guidance_scale=4.0)
def aura_flow():
    tokenizer = _letters("$A </s>")
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=32,
        pos_embed_max_size=64)
    for parameter in transformer.time_step_proj.parameters():
        parameter.data.mul_(4)  # it sets the gates, which are all but shut with usual initial values
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer, text_encoder=_t5(tokenizer, UMT5EncoderModel, UMT5Config), vae=_vae(),
        transformer=_lively(transformer), scheduler=_flow(shift=1.73))


@family("HunyuanDiTPipeline", pixels=64, use_resolution_binning=False, guidance_scale=4.0)
def hunyuan_dit():
    tokenizer, tokenizer_2 = _letters("[CLS] $A [SEP]"), _letters("$A </s>")
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=37,
                                num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=77,
                                initializer_range=0.3))
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8, in_channels=4, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=16,
        hidden_size=32, cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=16)
    return diffusers.HunyuanDiTPipeline(
        vae=_vae(blocks=4), text_encoder=bert.eval(), tokenizer=tokenizer,
        text_encoder_2=_t5(tokenizer_2),
        tokenizer_2=tokenizer_2, transformer=_lively(transformer), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, scheduler=diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear", prediction_type="v_prediction",
            steps_offset=1, clip_sample=False))


@family("CogView4Pipeline", guidance_scale=4.0)
def cogview4():
    tokenizer = _letters("[gMASK] <sop> $A", padding_side="left")
    transformer = diffusers.CogView4Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=16,
        text_embed_dim=WIDTH, time_embed_dim=16, condition_dim=8, rope_axes_dim=(16, 16))
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer, text_encoder=_decoder(tokenizer, GlmModel, GlmConfig), vae=_vae(),
        transformer=_lively(transformer), scheduler=_flow(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"))
