"""Random pipelines of the families whose text encoder is a language model, and Chroma: small enough for a test.

As in tiny_pipelines, a token is a letter and weights are drawn large, so that texts visibly steer the predictions.
"""
from functools import cache

import diffusers
import numpy as np
import torch
from tiny_pipelines import (  # noqa: F401
    CALLS, PIPELINES, WIDTH, _flow, _keen, _lively, _quiet, _t5, _vae, family, t5_tokenizer,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Mistral3Config, Mistral3ForConditionalGeneration, Mistral3Model, PreTrainedTokenizerFast,
    ProcessorMixin, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config,
    Qwen3ForCausalLM, Qwen3Model, Qwen3VLConfig, Qwen3VLForConditionalGeneration,
)

HEADS = dict(num_attention_heads=2, attention_head_dim=16)
ROPE = dict(axes_dims_rope=(4, 4, 8))

# Qwen's template; a message's content is a text or, as Flux2 and Qwen-Image 2.1 write it, a list of such parts.
CHAT = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}{%- for part in message.content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}
{%- endif -%}"""


@cache
def llm_tokenizer() -> PreTrainedTokenizerFast:
    """A stand-in for a language model's tokenizer: one token a letter, none added, a chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|image_pad|>"]
    words = [*special, "<unk>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2],
                                   unk_token="<unk>", chat_template=CHAT, model_max_length=1024)


class TextProcessor(ProcessorMixin):
    """Stands in for Qwen3-VL's processor, whose part for videos wants torchvision."""
    image_token = "<|image_pad|>"  # with one, a single text too gives a list of token lists

    def __init__(self, tokenizer=None, **kwargs):
        super().__init__(tokenizer, **kwargs)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)


def _decoder(layers=2, **config):
    """A language model's settings, its weights so large that every letter changes what follows."""
    return dict(vocab_size=len(llm_tokenizer()), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=layers,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.3,
                pad_token_id=llm_tokenizer().pad_token_id, bos_token_id=None,
                eos_token_id=llm_tokenizer().eos_token_id, **config)


def _qwen3(kind=Qwen3Model, layers=2):
    return _lively(kind(Qwen3Config(**_decoder(layers))))


def _qwen_vl(kind, config, image_token_id=151655, **vision):
    """Qwen's models of text and images; without an image, the part that sees is unused."""
    text = _decoder(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2]))
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH, **vision)
    return _lively(kind(config(text_config=text, vision_config=vision, image_token_id=image_token_id)))


def _qwen25_vl():
    return _qwen_vl(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, fullatt_block_indexes=[0])


def _mistral3(kind, layers=2):
    vision = dict(model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                  num_attention_heads=2)
    return _lively(kind(Mistral3Config(text_config=dict(model_type="mistral", **_decoder(layers)),
                                       vision_config=vision)))


def _flux2_vae():
    """It halves the image once, and its latents' 2x2 patches are what is denoised."""
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, sample_size=16,
        up_block_types=("UpDecoderBlock2D",) * 2).eval()


def _flux_like(kind, **config):
    """A transformer of Flux's form: one block of two streams, one of a single stream."""
    return _keen(kind(**{**dict(patch_size=1, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH), **HEADS,
                         **ROPE, **config}))


@family("ChromaPipeline", guidance_scale=4.0, max_sequence_length=24)
def chroma():
    transformer = _flux_like(
        diffusers.ChromaTransformer2DModel, in_channels=16, approximator_num_channels=16,
        approximator_hidden_dim=16, approximator_layers=1)
    return diffusers.ChromaPipeline(
        transformer=transformer, scheduler=_flow(), vae=_vae(shift_factor=0.0),
        text_encoder=_t5(), tokenizer=t5_tokenizer())


@family("ErnieImagePipeline", guidance_scale=4.0)
def ernie_image():
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=WIDTH, num_attention_heads=2, num_layers=1, ffn_hidden_size=37, in_channels=16, out_channels=16,
        text_in_dim=WIDTH, rope_axes_dim=(4, 4, 8))
    for module in (transformer.adaLN_modulation[-1], transformer.final_linear):
        torch.nn.init.normal_(module.weight, std=0.3)  # fresh ones answer zero
    return diffusers.ErnieImagePipeline(
        transformer=_keen(transformer), scheduler=_flow(), vae=_flux2_vae(),
        text_encoder=_mistral3(Mistral3Model), tokenizer=llm_tokenizer())


def _flux2_transformer(guidance_embeds):
    """Flux2 reads three of its encoder's layers at once."""
    return _flux_like(
        diffusers.Flux2Transformer2DModel, in_channels=16, axes_dims_rope=(4, 4, 4, 4),
        joint_attention_dim=3 * WIDTH, guidance_embeds=guidance_embeds)


# Its own system message is long.
@family("Flux2Pipeline", guidance_scale=4.0, max_sequence_length=320)
def flux2():
    """Its encoder has 30 layers, thin ones: the pipeline reads the 10th, 20th and 30th."""
    return diffusers.Flux2Pipeline(
        transformer=_flux2_transformer(True), scheduler=_flow(), vae=_flux2_vae(),
        text_encoder=_mistral3(Mistral3ForConditionalGeneration, layers=30), tokenizer=llm_tokenizer())


@family("Flux2KleinPipeline", guidance_scale=4.0, max_sequence_length=128)
def flux2_klein():
    """Its encoder has 27 layers, thin ones: the pipeline reads the 9th, 18th and 27th."""
    return diffusers.Flux2KleinPipeline(
        transformer=_flux2_transformer(False), scheduler=_flow(), vae=_flux2_vae(),
        text_encoder=_qwen3(Qwen3ForCausalLM, layers=27), tokenizer=llm_tokenizer())


# A language model would rewrite the prompt first: a random one writes nonsense.
@family("LongCatImagePipeline", guidance_scale=4.0, enable_prompt_rewrite=False)
def longcat_image():
    """Its pipeline counts on 16 channels of latents, whatever the autoencoder."""
    return diffusers.LongCatImagePipeline(
        transformer=_flux_like(diffusers.LongCatImageTransformer2DModel, in_channels=64),
        scheduler=_flow(), vae=_vae(channels=16, shift_factor=0.0), text_encoder=_qwen25_vl(),
        tokenizer=llm_tokenizer(), text_processor=None)


@family("OvisImagePipeline", guidance_scale=4.0, max_sequence_length=256)
def ovis_image():
    transformer = _flux_like(diffusers.OvisImageTransformer2DModel, in_channels=16, out_channels=16)
    return diffusers.OvisImagePipeline(
        transformer=transformer, scheduler=_flow(), vae=_vae(shift_factor=0.0),
        text_encoder=_qwen3(), tokenizer=llm_tokenizer())


# Without a negative prompt these two go unguided; the newer one repeats none for a batch.
@family("QwenImagePipeline", true_cfg_scale=4.0, negative_prompt="")
def qwen_image():
    return _qwen_image(diffusers.QwenImagePipeline)


def _qwen_image(kind, encoder=None, **more):
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=WIDTH,
        **HEADS, **ROPE)
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    return kind(transformer=_keen(transformer), scheduler=_flow(), vae=vae, text_encoder=encoder or _qwen25_vl(),
                tokenizer=llm_tokenizer(), **more)


class ImageProcessor(TextProcessor):
    """Stands in for Qwen2.5-VL's processor: an image is one token, its pixels four patches."""

    def __call__(self, text, images=None, padding=True, return_tensors="pt"):
        found = self.tokenizer(text, padding=padding, return_tensors=return_tensors)
        images = [] if images is None else images if isinstance(images, list) else [images]
        assert found["input_ids"].eq(self.image_token_id).sum() == len(images), "each image stands in one text"
        small = [torch.tensor(np.asarray(image.resize((28, 28))) / 255).float().flatten() for image in images]
        found["pixel_values"] = torch.cat([pixels.view(4, -1).repeat(1, 2) for pixels in small])
        found["image_grid_thw"] = torch.tensor([[1, 2, 2]] * len(images))
        return found


def qwen_image_edit(kind):
    """Qwen-Image-Edit, whose encoder looks at the image as well; `kind` one of its pipelines."""
    torch.manual_seed(0)
    token = llm_tokenizer().convert_tokens_to_ids("<|image_pad|>")
    encoder = _qwen_vl(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, fullatt_block_indexes=[0],
                       image_token_id=token)
    return _quiet(_qwen_image(kind, encoder, processor=ImageProcessor(llm_tokenizer(), chat_template=CHAT)))


@family("QwenImage21Pipeline", pixels=64, true_cfg_scale=4.0, negative_prompt=["", ""])
def qwen_image_21():
    """Its pipeline counts on a sixteenth of the image's height and width, so four halvings."""
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, context_in_dim=WIDTH, **HEADS, **ROPE)
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4).eval()
    return diffusers.QwenImage21Pipeline(
        transformer=_keen(transformer), scheduler=_flow(), vae=vae,
        text_encoder=_qwen_vl(Qwen3VLForConditionalGeneration, Qwen3VLConfig, deepstack_visual_indexes=[0]),
        processor=TextProcessor(llm_tokenizer(), chat_template=CHAT))


@family("ZImagePipeline", guidance_scale=4.0, max_sequence_length=128)
def z_image():
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=WIDTH, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=WIDTH, axes_dims=[4, 4, 8])
    return diffusers.ZImagePipeline(
        transformer=_keen(transformer), scheduler=_flow(), vae=_vae(shift_factor=0.0),
        text_encoder=_qwen3(), tokenizer=llm_tokenizer())
