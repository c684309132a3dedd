"""ComfyUI and its double: the demo model for CLIP's texts, and for other forms a small network that has them."""
from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import subprocess
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from contracts_case import ATTRIBUTES, DEFAULT, NEGATIVE, SEEDS, STEPS, Case, Refused, load, words
from standin_gpu import CUDA

FORMS = {
    "a": {"demo": None}, "b": {"73": None, "74": None}, "c": {"pooled": None}, "d": {"discarded": None},
    "e": {"honoured": None}, "f": {"ids": Refused("by the part's name", r"cannot be mixed: 't5xxl_ids'")}}
WIDTH, POOLED = 24, 12


def forms(host: str) -> dict:
    return FORMS


def versions(host: str) -> str:
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    if "double" in host:
        return packages
    place = Path(os.environ["COMFYUI_PATH"])
    version = importlib.import_module("comfyui_version").__version__
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=place, capture_output=True, text=True).stdout
    return f"ComfyUI {version}{f' ({commit.strip()})' if (place / '.git').exists() else ''}, {packages}"


@contextmanager
def case(host: str, form: str, variant: str, folders):
    start = load("nodes", "host", "nodes_host").start
    start(folders)
    if form in "ab":
        from sd_debias.nodes.demo_model import load as demo
        model, clip, _ = demo()
        yield Sampled(model, clip, words(5 if form == "a" else int(variant)))
    else:
        yield Sampled(toy(form), Clip(form), words(5))


def word(text: str, width: int) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))


class Clip:
    """A text encoder of variable length: a token a word, which knows of the words around it. Where the model honours
    masks, texts are filled up to an even length."""

    def __init__(self, form: str):
        self.form = form

    def tokenize(self, text):
        return text.replace(",", " ,").split()

    def encode_from_tokens(self, tokens, **_):
        known = [*tokens, "</s>"]
        filler = ["<pad>"] * (len(known) % 2) if self.form == "e" else []
        own = torch.stack([word(each, WIDTH) for each in [*known, *filler]])[None]
        parts = dict(cond=own + 0.3 * own[:, :len(known)].mean(1, keepdim=True),
                     pooled_output=sum(word(each, POOLED) for each in known)[None] / len(known) ** 0.5)
        if self.form in "de":
            parts["attention_mask"] = torch.tensor([[1] * len(known) + [0] * len(filler)])
        if self.form == "f":
            parts["t5xxl_ids"] = torch.tensor([[zlib.crc32(each.encode()) for each in known]])
        return parts

    def encode_from_tokens_scheduled(self, tokens):
        parts = self.encode_from_tokens(tokens)
        return [[parts.pop("cond"), parts]]


class Network(torch.nn.Module):
    """Every pixel attends to the tokens; the pooled vector moves them all."""
    dtype = torch.float32

    def __init__(self, form: str):
        super().__init__()
        self.form = form
        random = torch.Generator().manual_seed(0)
        self.query, self.key, self.value, self.pooled, self.place = (
            torch.randn(shape, generator=random) for shape in ((4, WIDTH), (WIDTH, WIDTH), (WIDTH, 4), (POOLED, 4),
                                                               (64, WIDTH)))

    def forward(self, x, timestep, context, y=None, attention_mask=None, **_):
        query = x.flatten(2).transpose(1, 2) @ self.query + self.place + timestep.view(-1, 1, 1) / 1000
        scores = query @ (context @ self.key).transpose(1, 2) / WIDTH
        if attention_mask is not None and self.form == "e":
            scores = scores.masked_fill(attention_mask[:, None] == 0, -math.inf)
        out = scores.softmax(-1) @ context @ self.value / 4
        if y is not None:
            out = out + (y @ self.pooled)[:, None] / 4
        return 0.3 * x + torch.tanh(out).transpose(1, 2).reshape(x.shape)


def toy(form: str):
    """A MODEL of the host with that network, of Stable Diffusion 1's noise."""
    from sd_debias.nodes.demo_model import load as demo
    given, network = demo()[0], Network(form)
    if load("nodes", "host", "nodes_host").REAL:
        import comfy.conds
        import comfy.model_base
        import comfy.model_patcher
        from comfy.supported_models import SD15

        class Model(comfy.model_base.BaseModel):
            def encode_adm(self, pooled_output=None, **_):
                return pooled_output

            def extra_conds(self, **kwargs):
                out = super().extra_conds(**kwargs)
                if form == "e":
                    out["attention_mask"] = comfy.conds.CONDRegular(kwargs["attention_mask"])
                return out

        config = SD15(dict(disable_unet_model_creation=True))
        config.set_inference_dtype(torch.float32, None)
        made = Model(config, device=torch.device("cpu"))
        made.diffusion_model = network
        return comfy.model_patcher.ModelPatcher(made, load_device=torch.device("cpu"),
                                                offload_device=torch.device("cpu"))

    def denoise(x, sigma, cross_attn, pooled_output=None, attention_mask=None):
        times = torch.stack([given.model_sampling.timestep(s) for s in sigma])
        sigma = sigma.view(-1, 1, 1, 1)
        return x - sigma * network(x / (sigma ** 2 + 1) ** 0.5, times, cross_attn, pooled_output, attention_mask)

    denoise.parts = ("cross_attn", "pooled_output", "attention_mask")
    return type(given)(denoise, given.model_sampling)


class Sampled(Case):
    rounding = 5e-4

    def __init__(self, model, clip, prompt: str):
        self.model, self.clip, self.prompt = model, clip, prompt
        self._count()
        self.sigmas, self.card = self._schedule(STEPS), None

    def _schedule(self, steps):
        sampling = self.model.get_model_object("model_sampling")
        return [*sampling.sigmas[torch.linspace(999, 99, steps).long()].tolist(), 0.0]

    @contextmanager
    def on_card(self, card, dtype):
        """The double's alone: a real ComfyUI chooses its device as it starts."""
        if load("nodes", "host", "nodes_host").REAL:
            pytest.skip("a real ComfyUI is on the device that it starts with")
        held, self.sigmas, self.dtype = (self.model, self.sigmas), self._schedule(2 * STEPS), dtype
        try:
            if card is None:
                yield
                return
            self.model = self.model.clone()
            self.model.model, self.model.load_device, self.card = card.kernel(self.model.model), CUDA, card
            self.model.model.parts = getattr(held[0].model, "parts", ("cross_attn",))
            card.begin(0)
            with card:
                yield
        finally:
            (self.model, self.sigmas), self.card, self.dtype = held, None, Case.dtype

    def _stepped(self, step, x0, x, total):
        if self.card is not None:
            self.card.begin(None if step == total - 1 else step + 1)

    def pictures(self, prompt, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        import comfy.sample
        import comfy.samplers

        from sd_debias.nodes.conditioning import encode_all
        from sd_debias.nodes.guidance import GuidedSampling
        model = self.model
        with torch.inference_mode():
            if steering is not None:
                guide = GuidedSampling(encode_all(self.clip, prompt, ATTRIBUTES, method.context), ATTRIBUTES, method,
                              lambda seed, images: steering.rows(range(seed, seed + images), strength))
                model = guide.patch(model)
            positive, negative = (self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
                                  for text in (prompt, NEGATIVE))
            self.rows.clear()
            pictures = comfy.sample.sample_custom(
                model, self._noise().to(self.dtype), cfg, comfy.samplers.sampler_object("euler"),
                torch.tensor(self.sigmas), positive, negative, torch.zeros(len(SEEDS), 4, 8, 8),
                callback=self._stepped, disable_pbar=True, seed=SEEDS[0])
        self.evaluations = sum(self.rows)
        return pictures

    def _count(self):
        """Rows of the network's calls."""
        inner, self.rows = self.model.model, []
        if hasattr(inner, "diffusion_model"):
            inner.diffusion_model.register_forward_pre_hook(lambda _, args: self.rows.append(len(args[0])))
            return

        def counting(x, *args, **kwargs):
            self.rows.append(len(x))
            return inner(x, *args, **kwargs)
        counting.parts = getattr(inner, "parts", ("cross_attn",))
        self.model.model = counting

    def _noise(self):
        return torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])

    def encode(self, text):
        parts = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True, return_dict=True)
        return {name: part.clone() for name, part in parts.items() if name in ("cond", "pooled_output",
                                                                               "attention_mask")}

    def noise(self):
        return self._noise() * (1 + self.sigmas[0] ** 2) ** 0.5

    @torch.no_grad()
    def eps(self, x, step, text):
        text, sigma = {**text, "cross_attn": text["cond"]}, torch.tensor([self.sigmas[step]])
        inner = self.model.model
        if hasattr(inner, "diffusion_model"):
            more = dict(y=inner.encode_adm(pooled_output=text["pooled_output"]), attention_mask=text.get(
                "attention_mask"))
            denoised = inner.apply_model(x, sigma, c_crossattn=text["cross_attn"], **{
                name: part for name, part in more.items() if part is not None})
        else:
            denoised = inner(x, sigma, **{name: text[name] for name in getattr(inner, "parts", ("cross_attn",))
                                          if name in text})
        return (x - denoised) / self.sigmas[step]

    def finish(self, x):
        return x / 0.18215
