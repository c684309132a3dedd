"""An extension that gives a real Forge Neo a small Z-Image: the checkpoint sd-debias-tiny-zimage stands for it.

Engine, tokenizer, text encoder, transformer, sampler and VAE are the host's own classes, as for the real Z-Image. Their
weights are random, and there are fewer of them.
"""
from dataclasses import dataclass
from pathlib import Path

import torch
from modules import sd_models

NAME = "sd-debias-tiny-zimage"
WIDTH, HEADS, HEAD = 64, 4, 16  # of the text encoder
DIM = 256  # of the transformer: its steps are embedded in so many numbers


def random(module, wide=()):
    """The host leaves weights as they lie in memory, and loads them. Matrices named in `wide` are larger, so that texts
    are felt."""
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            gain = 4 if any(part in name for part in wide) else 1
            torch.nn.init.normal_(weight, std=gain * weight[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(weight, float(name.endswith("weight")))
    return module.requires_grad_(False)


def zimage():
    from backend import loader, memory_management
    from backend.diffusion_engine.zimage import ZImage
    from backend.nn import lumina, vae
    from backend.nn.llm import llama
    from backend.operations import using_forge_operations
    from huggingface_guess import model_list

    @dataclass
    class Small(llama.Qwen3_4BConfig):
        hidden_size: int = WIDTH
        intermediate_size: int = 2 * WIDTH
        num_hidden_layers: int = 3  # the pipeline reads the last but one
        num_attention_heads: int = HEADS
        num_key_value_heads: int = HEADS
        head_dim = HEAD

    guess = model_list.ZImage(dict(
        image_model="lumina2", patch_size=2, in_channels=16, dim=DIM, cap_feat_dim=WIDTH, n_layers=2,
        n_refiner_layers=1, qk_norm=True, n_heads=8, n_kv_heads=8, axes_dims=[8, 12, 12],
        axes_lens=[1536, 512, 512], rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True,
        time_scale=1000.0, pad_tokens_multiple=32))
    guess.model_type, guess.ztsnr = guess.model_type({}), False
    repository = Path(loader.HF, guess.huggingface_repo)
    torch.manual_seed(0)
    device, own = memory_management.cpu, llama.Qwen3_4BConfig
    config = {name: value for name, value in guess.unet_config.items() if name != "image_model"}
    with using_forge_operations(device=device, dtype=torch.float32):
        llama.Qwen3_4BConfig = Small
        try:
            encoder = random(llama.Qwen3_4B({}))
        finally:
            llama.Qwen3_4BConfig = own
        transformer = random(lumina.NextDiT(**config), wide=("attention.qkv", "cap_embedder"))
        settings = {**vae.IntegratedAutoencoderKL.load_config(repository / "vae"), "layers_per_block": 1,
                    "block_out_channels": [32] * 4}
        decoder = random(vae.IntegratedAutoencoderKL.from_config(settings))
    transformer.config = guess.unet_config
    transformer.storage_dtype = transformer.computation_dtype = torch.float32
    transformer.load_device = memory_management.get_torch_device()
    transformer.initial_device = transformer.offload_device = device
    parts = {name: loader.load_huggingface_component(guess, name, library, kind, str(repository), None)
             for name, library, kind in (("tokenizer", "transformers", "Qwen2Tokenizer"),
                                         ("scheduler", "diffusers", "FlowMatchEulerDiscreteScheduler"))}
    return ZImage(guess, dict(parts, text_encoder=encoder, transformer=transformer, vae=decoder))


_own = sd_models.forge_loader


def load(path, *args, **kwargs):
    return zimage() if Path(path).stem == NAME else _own(path, *args, **kwargs)


sd_models.forge_loader = load
