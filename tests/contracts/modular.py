"""The modular pipelines of diffusers, whose guider is ours: tiny random ones of every family that has a guider."""
from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from functools import wraps

import diffusers
import tiny_modular
import tiny_pipelines
import torch
from contracts_case import ATTRIBUTES, DEFAULT, NEGATIVE, SEEDS, STEPS, Case
from standin_gpu import CUDA, Card

from sd_debias.diffusers_host.guider import run_modular

FORMS = {
    "a": "no such pipeline has a guider", "b": "no such pipeline has a guider",
    "c": dict.fromkeys(("sdxl", "sd3")), "d": dict.fromkeys(("z-image", "flux3", "flux2-klein", "wan")),
    "e": dict.fromkeys(("qwen-image", "krea2", "ernie", "anima")), "f": "every part is the group's own"}


def forms(host: str) -> dict:
    return FORMS


def versions(host: str) -> str:
    return f"diffusers {diffusers.__version__}, torch {torch.__version__}"


@contextmanager
def case(host: str, form: str, variant: str, folders):
    yield Modular(variant)


class Modular(Case):
    """`reference` takes a denoiser's arguments from a plain call, and puts the latents and texts of its own there."""
    rounding, alone_rounding, prompt = 1e-4, 2e-6, "a doctor"
    felt, has_gpu, card = 5e-4, True, None

    def __init__(self, name: str):
        self.name, self.pipe = name, tiny_modular.pipeline(name)
        self.call = dict(tiny_modular.call(name), num_inference_steps=STEPS)
        kind = diffusers.EulerDiscreteScheduler if name == "sdxl" else None
        self.pipe.scheduler = tiny_pipelines.scheduler(kind, timestep_spacing="linspace") if kind else \
            tiny_pipelines._flow()
        self.first = {"sdxl": "sample", "z-image": "x"}.get(name, "hidden_states")
        if name == "qwen-image":  # with CFG its blocks rescale what comes of it
            self.cfgs = (1.0,)
        elif name == "wan":  # whose blocks fail without
            self.cfgs = (3.0,)
        elif name == "sd3":  # whose images move by 2.5e-5 where weights do by 2e-7, float32's own rounding
            self.rounding = 2e-4
        self.calls: dict[str, list[dict]] = {}

    @property
    def denoiser(self):
        return getattr(self.pipe, "transformer", None) or self.pipe.unet

    @contextmanager
    def on_card(self, card, dtype):
        held, self.dtype = (self.pipe, self.call), dtype
        self.pipe = tiny_modular.pipeline(self.name).to(card if card == "cuda" else "cpu", dtype)
        self.pipe.scheduler, self.card = deepcopy(held[0].scheduler), card
        self.call = dict(self.call, num_inference_steps=2 * STEPS)
        try:
            if card in (None, "cuda"):
                self.device = torch.device(card or "cpu")
                yield
                return
            self.device = CUDA
            for part in self.pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    card.put(part)
            card.begin(0)
            with card:
                yield
        finally:
            (self.pipe, self.call), self.device, self.dtype, self.card = held, Case.device, Case.dtype, None

    def pictures(self, prompt, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        return self._run(prompt, SEEDS, steering, method, cfg, strength)[0]

    def _run(self, prompt, seeds, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        """(the sampler's last latents, its first ones, the denoiser's calls)"""
        pipe, calls, samples, rows = self.pipe, [], [], []
        inner, step = self.denoiser.forward, pipe.scheduler.step

        @wraps(inner)
        def forward(*args, **kwargs):
            calls.append(dict(zip(("sample", "timestep"), args), **kwargs))
            rows.append(len(calls[-1][self.first]))
            return inner(*args, **kwargs)

        def stepped(output, time, sample, *args, **kwargs):
            samples.append(sample)
            if isinstance(self.card, Card):
                self.card.begin(None if self.card.step == 2 * STEPS - 1 else self.card.step + 1)
            found = step(output, time, sample, *args, **kwargs)
            samples.append(found[0])
            return found

        several = "num_videos_per_prompt" if self.name == "wan" else "num_images_per_prompt"
        call = dict(self.call, prompt=prompt, negative_prompt=NEGATIVE, output="latents", output_type="np", **{
            several: len(seeds)}, generator=[torch.Generator().manual_seed(seed) for seed in seeds])
        if self.name == "flux2-klein":
            del call["negative_prompt"]
        guider, self.denoiser.forward, pipe.scheduler.step = pipe.guider, forward, stepped
        pipe.guider = guider.new(guidance_scale=cfg - guider.use_original_formulation)
        try:
            if steering is None:
                pipe(**call)
            else:
                run_modular(pipe, type(pipe).__call__, ATTRIBUTES, method, [prompt], [steering.rows(seeds, strength)],
                            [""], call)
        finally:
            pipe.guider = guider
            del self.denoiser.forward, pipe.scheduler.step
        self.evaluations, self.sigmas = sum(rows), pipe.scheduler.sigmas.tolist()
        return samples[-1], samples[0], calls

    def encode(self, text):
        """What of a call differs from text to text."""
        def flat(text):
            if text not in self.calls:
                self.calls[text] = self._run(text, SEEDS[:1])[2][::2]  # of the prompt, of the negative one, and again
            call = self.calls[text][0]
            parts = {**call, **(call.get("added_cond_kwargs") or {})}
            parts = {name: part[0][None] if name == "cap_feats" else part for name, part in parts.items()}
            return {name: part for name, part in parts.items()
                    if isinstance(part, torch.Tensor) and name != self.first}

        own = flat("" if self.name == "flux2-klein" and text == NEGATIVE else text)
        another = flat("x" if len(text) > 20 else "somebody else, who is far away")
        return {name: part for name, part in own.items()
                if part.shape != another[name].shape or not torch.equal(part, another[name])}

    def noise(self):
        return self._run(self.prompt, SEEDS)[1]

    @torch.no_grad()
    def eps(self, x, step, text):
        call, sigma = dict(self.calls[self.prompt][step]), self.sigmas[step]
        for name, part in text.items():
            if name in call:
                call[name] = [part[0]] if isinstance(call[name], list) else part
            else:
                call["added_cond_kwargs"] = dict(call["added_cond_kwargs"], **{name: part})
        call[self.first] = {"sdxl": x / (sigma ** 2 + 1) ** 0.5, "z-image": [x[0][:, None]]}.get(self.name, x)
        found = self.denoiser(**call)[0]
        return -found[0].squeeze(1)[None] if self.name == "z-image" else found[:, :x.shape[1]]
