"""The diffusers host, with random tiny pipelines. Its CLIP takes 16 tokens, so a prompt of 12 stands for one of 73."""
from __future__ import annotations

from contextlib import contextmanager
from copy import copy, deepcopy
from functools import wraps
from types import SimpleNamespace

import diffusers
import tiny_llm
import tiny_masked
import tiny_pipelines
import tiny_several
import torch
import transformers
from contracts_case import ATTRIBUTES, DEFAULT, IMAGES, NEGATIVE, SEEDS, STEPS, Case, Refused
from standin_gpu import CUDA
from transformers import GlmConfig, GlmModel

from sd_debias.diffusers_host.encode import encode
from sd_debias.diffusers_host.families import FAMILIES
from sd_debias.diffusers_host.generate import guided

FORMS = {
    "a": {"sd": None, "sd2": None},
    "b": dict.fromkeys(("73", "74"), Refused("the encoder cuts the groups' words off",
                                             "Some groups of 'gender' read the same to this model")),
    "c": dict.fromkeys(("sdxl", "sd3", "flux")),
    "d": {"cogview4": None, "cogview4-longer": Refused("texts of unequal length in one call",
                                                       "Make them with `generate`, or in a call for each length")},
    "e": dict.fromkeys(("pixart", "chroma", "krea")),
    "f": "each image gets its group's own text"}



def forms(host: str) -> dict:
    return FORMS


def versions(host: str) -> str:
    return f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"


@contextmanager
def case(host: str, form: str, variant: str, folders):
    if form == "b":  # a letter is a token, and 14 fit beside the start and the end
        yield Pipeline(tiny_pipelines.sd(), "a" * (int(variant) - 61))
    elif variant == "sd2":
        yield Pipeline(tiny_pipelines.sd(prediction_type="v_prediction"), "a doctor")
    elif variant == "pixart":
        yield Pipeline(tiny_masked.pixart_sigma(), "a doctor")
    elif variant == "chroma":
        yield Pipeline(tiny_llm.PIPELINES["ChromaPipeline"](), "a doctor")
    elif variant == "krea":
        yield Pipeline(tiny_several.krea(), "a doctor")
    elif form == "d":
        yield Pipeline(cogview4(), "a doctor at" if "longer" in variant else "a d")
    else:
        yield Pipeline(getattr(tiny_pipelines, variant)(), "a doctor")


def cogview4():
    """Its texts are filled up to a multiple of 16 tokens, and what is filled up is read as text."""
    torch.manual_seed(0)
    tokenizer, width = copy(tiny_pipelines.t5_tokenizer()), tiny_pipelines.WIDTH
    tokenizer.padding_side = "left"
    encoder = GlmModel(GlmConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1)).eval()
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        text_embed_dim=width, time_embed_dim=8, condition_dim=4, sample_size=8)
    transformer.patch_embed.text_proj.weight.data.mul_(8)
    pipe = diffusers.CogView4Pipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=tiny_pipelines._vae(),
        transformer=tiny_pipelines._lively(transformer), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    return tiny_pipelines._quiet(pipe)


class Pipeline(Case):
    rounding, has_gpu = 1e-4, True

    def __init__(self, pipe, prompt: str):
        self.pipe, self.prompt = pipe, prompt
        self.family = type(pipe).__name__
        if self.family.startswith("StableDiffusion") and "3" not in self.family:
            self.pipe.scheduler = tiny_pipelines.scheduler(diffusers.EulerDiscreteScheduler,
                                                           prediction_type=pipe.scheduler.config.prediction_type,
                                                           timestep_spacing="linspace")
        self.call = dict(height=16, width=16, num_inference_steps=STEPS)
        self.encoding = {}
        if self.family == "CogView4Pipeline":
            self.apart = True
        elif self.family in ("ChromaPipeline", "Krea2Pipeline"):
            # Its prompt is encoded once, not once an image: some machines round a batch of texts otherwise.
            self.alone_rounding = 2e-6
            self.apart, self.encoding = True, dict(max_sequence_length=48)
            self.call.update(self.encoding)
        if self.family == "PixArtSigmaPipeline":
            self.reference = "compared in tests/diffusers_host/test_families.py"
            self.call.update(tiny_masked.CALLS[self.family], num_inference_steps=STEPS)
            self.encoding = dict(max_sequence_length=self.call.get("max_sequence_length", 300), clean_caption=False)
        if self.family == "FluxPipeline":  # no CFG: its guidance is a number that the model is told
            self.cfgs, self.encoding, self.call["max_sequence_length"] = (1.0,), dict(max_sequence_length=32), 32

    @contextmanager
    def on_card(self, card, dtype):
        held, self.dtype = (self.pipe, self.call), dtype
        self.pipe = deepcopy(self.pipe).to(card if card == "cuda" else "cpu", dtype)
        self.call = dict(self.call, num_inference_steps=2 * STEPS)
        scheduler = self.pipe.scheduler
        step = scheduler.step

        def stepped(*args, **kwargs):
            card.begin(None if card.step == 2 * STEPS - 1 else card.step + 1)
            return step(*args, **kwargs)
        try:
            if card in (None, "cuda"):
                self.device = torch.device(card or "cpu")
                yield
                return
            scheduler.step, self.device = stepped, CUDA
            for part in self.pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    card.put(part)
            card.begin(0)
            with card:
                yield
        finally:
            (self.pipe, self.call), self.device, self.dtype = held, Case.device, Case.dtype

    def pictures(self, prompt, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        denoiser = getattr(self.pipe, "unet", None) or getattr(self.pipe, "transformer", None)
        flux = self.family == "FluxPipeline"
        scale = 3.5 if flux else cfg - 1 if self.family == "Krea2Pipeline" else cfg  # Krea counts from 0
        call = dict(self.call, latents=self._latents(), output_type="latent", guidance_scale=scale)
        negative = None if flux else NEGATIVE
        if steering is None:
            own = dict(prompt=[prompt] * IMAGES, **({} if flux else dict(negative_prompt=[negative] * IMAGES)))
            with self._counted(denoiser):
                return self.pipe(**dict(call, **own)).images
        with self._counted(denoiser):  # before guidance, which evaluates further rows by itself
            with guided(self.pipe, prompt, ATTRIBUTES, steering.rows(SEEDS, strength), method,
                        negative_prompt=negative, **self.encoding) as guide:
                return self.pipe(**dict(guide.call, **call)).images

    @contextmanager
    def _counted(self, denoiser):
        rows, inner = [], denoiser.forward

        @wraps(inner)
        def forward(*args, **kwargs):
            first = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
            rows.append(len(first))
            return inner(*args, **kwargs)
        denoiser.forward = forward
        try:
            yield
        finally:
            del denoiser.forward
        self.evaluations, self.sigmas = sum(rows), self.pipe.scheduler.sigmas.tolist()

    def _latents(self):
        shape = {"FluxPipeline": (16, 16), "ChromaPipeline": (16, 16),
                 "Krea2Pipeline": (16, 64)}.get(self.family, (4, 8, 8))
        made = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
        return torch.stack(made).to(self.device, self.dtype)

    def encode(self, text):
        if self.family in FAMILIES:
            return FAMILIES[self.family].encode(self.pipe, text, **self.encoding)
        return encode(self.pipe, [text], **self.encoding)

    def noise(self):
        return self._latents() * getattr(self.pipe.scheduler, "init_noise_sigma", 1.0)

    @torch.no_grad()
    def eps(self, x, step, text):
        parts, pipe = SimpleNamespace(**text), self.pipe
        t, sigma = pipe.scheduler.timesteps[step][None], self.sigmas[step]
        if self.family.startswith("StableDiffusion") and "3" not in self.family:
            scaled, more = x / (sigma ** 2 + 1) ** 0.5, {}
            if hasattr(parts, "pooled_prompt_embeds"):
                more = dict(added_cond_kwargs=dict(text_embeds=parts.pooled_prompt_embeds,
                                                   time_ids=torch.tensor([[16.0, 16, 0, 0, 16, 16]])))
            found = pipe.unet(scaled, t, encoder_hidden_states=parts.prompt_embeds, **more).sample
            if pipe.scheduler.config.prediction_type == "epsilon":
                return found
            return (sigma * scaled + found) / (sigma ** 2 + 1) ** 0.5  # of v = alpha eps - sigma x_0
        more = {}
        if self.family == "Krea2Pipeline":
            return pipe.transformer(
                hidden_states=x, timestep=t / 1000, encoder_hidden_states=parts.prompt_embeds.movedim(2, 1),
                position_ids=pipe.prepare_position_ids(parts.prompt_embeds.shape[2], 4, 4, "cpu"),
                encoder_attention_mask=parts.prompt_embeds_mask).sample
        if self.family == "ChromaPipeline":
            ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
            mask = torch.cat([parts.prompt_attention_mask, torch.ones(1, 16)], 1)
            t, more = t / 1000, dict(img_ids=ids, txt_ids=torch.zeros(parts.prompt_embeds.shape[1], 3),
                                     attention_mask=mask)
        elif self.family == "CogView4Pipeline":
            size = torch.tensor([[16.0, 16.0]])
            more = dict(original_size=size, target_size=size, crop_coords=torch.zeros(1, 2))
        elif self.family == "FluxPipeline":
            ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
            t, more = t / 1000, dict(img_ids=ids, txt_ids=torch.zeros(parts.prompt_embeds.shape[1], 3),
                                     guidance=torch.tensor([3.5]))
        if hasattr(parts, "pooled_prompt_embeds"):
            more["pooled_projections"] = parts.pooled_prompt_embeds
        return pipe.transformer(hidden_states=x, timestep=t, encoder_hidden_states=parts.prompt_embeds, **more).sample
