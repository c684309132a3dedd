"""A1111 and Forge: their doubles, and the real ones through their API. A profile on disk says what is to be done."""
from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts_case import DEFAULT, IMAGES, NEGATIVE, SEEDS, TESTS, Case, Refused, load, words
from standin_gpu import CUDA
from torch.utils._pytree import tree_map_only

double, real, settings = (load("webui", name, f"webui_{name}") for name in ("double", "real", "settings"))
SHIM = TESTS.parent / "scripts" / "sd_debias.py"
NONE = "no such encoder"
NO_REFERENCE = "no reference: the host alone builds this network"
CLIP = {"a": {"short": None}, "b": {"73": None, "74": None}}
FORMS = {
    "A1111 double": {**CLIP, "c": {"xl": None}, "d": NONE, "e": NONE,
                     "f": {"ids": Refused("by the part's name", "t5xxl_ids")}},
    "Forge double": {**CLIP, "c": {"xl": None}, "d": {"t5": None, "t5-longer": None, "list": None}, "e": NONE,
        "f": {"ids": Refused("by the part's name", "t5xxl_ids")}},
    "A1111": {**CLIP, "c": {"sdxl": None}, "d": NONE, "e": NONE, "f": "no such model"},
    "Forge": {**CLIP, "c": "no small model of this kind", "d": "no small model of this kind", "e": NONE,
              "f": "no such model"},
    "Forge Neo": {**CLIP, "c": "no small model of this kind", "d": {"zimage": None}, "e": NONE, "f": "no such model"}}


def forms(host: str) -> dict:
    return FORMS[host]


def served(host: str):
    return real.running(host.split()[0].upper(), TESTS.parent)


def versions(host: str) -> str:
    if "double" in host:
        return f"torch {torch.__version__}"
    running = served(host)
    place = running.place / ("CHANGELOG.md" if host == "A1111" else "modules_forge/forge_version.py")
    packages = subprocess.run([running.python, "-c", "import torch; print('torch', torch.__version__)"],
                              capture_output=True, text=True, check=True).stdout.strip()
    return f"{host} {re.search(r'[0-9.]+[0-9]', place.read_text('utf-8')).group()}, {packages}"


@contextmanager
def case(host: str, form: str, variant: str, folders):
    prompt = words(int(variant) if form == "b" else 12 if variant == "t5-longer" else 5)
    if "double" not in host:
        yield Served(served(host), prompt, variant)
        return
    made = double.Double(folders.mktemp("webui"), forge="Forge" in host, xl=form in "cf")
    made.profiles = Path(made.modules["modules.paths"].models_path) / "debias_profiles"
    if form in "df":
        made.shared.sd_model.get_learned_conditioning = ENCODERS[variant.partition("-")[0]]
    with made.installed():
        made.load(SHIM)
        yield Doubled(made, prompt)


def stop() -> None:
    real.stop()


# --- encoders of other forms, as Forge's families have them ---

def tokens_of(text: str, least: int = 0) -> torch.Tensor:
    known = re.findall(r"\w+", text)
    return torch.stack([double.word(each) for each in [*known, "</s>", *["<pad>"] * (least - len(known) - 1)]])


def t5(texts, least: int = 10) -> dict:
    """Filled up to a least length, longer texts as they are; those of one call are stacked."""
    return dict(crossattn=torch.stack([tokens_of(text, least) for text in texts]),
                vector=torch.stack([double.word(text, double.POOLED + 2) for text in texts]))


def listed(texts) -> list:
    """Each text by itself, as Forge Neo's encoders of variable length give them."""
    return [tokens_of(text) for text in texts]


def with_ids(texts) -> dict:
    """A further part that is another for every text."""
    return {**t5(texts, 16), "t5xxl_ids": torch.tensor([[len(text)] for text in texts])}


ENCODERS = dict(t5=t5, list=listed, ids=with_ids)


def in_dtype(function, dtype):
    """A host's function whose tensors come in another dtype."""
    def cast(*args):
        return tree_map_only(torch.Tensor, lambda part: part.to(dtype) if part.is_floating_point() else part,
                             function(*args))
    return cast


class WebUI(Case):
    steps = 6

    def __init__(self, host, prompt: str):
        self.host, self.prompt = host, prompt

    def has_uncond(self, cfg):
        return cfg != 1 or not self.host.forge

    def post(self, prompt, steering, method, cfg, strength, more):
        """The host's answer. Raises ValueError where an infotext says that the package failed."""
        request = settings.payload(prompt=prompt, negative_prompt=NEGATIVE, seed=SEEDS[0], batch_size=IMAGES,
                                   cfg_scale=cfg, steps=self.steps, **more)
        if steering is not None:
            guidance = {name: value for name, value in asdict(method.guidance).items() if value is not None}
            settings.save_profile(self.host.profiles, "contracts", method.direction, method.context,
                                  steering.to_dict(), guidance, prompts=(prompt,))
            request |= settings.debias(name="contracts", strength=strength)
        answer = self.host.post("txt2img", request)
        failed = settings.keys(answer.infotexts[0]).get("Debias failed")
        if failed:
            raise ValueError(failed)
        return answer


class Doubled(WebUI):
    rounding, sigmas = 1e-4, double.SIGMAS

    @contextmanager
    def on_card(self, card, dtype):
        host, model, euler = self.host, self.host.shared.sd_model, double.euler
        held = model.get_learned_conditioning, model.model.diffusion_model.forward
        call = double.Denoiser.__call__

        def stepped(denoiser, *args):
            card.begin(denoiser.step)
            return call(denoiser, *args)

        def sampled(*args):
            x = euler(*args)
            card.begin(None)
            return x

        host.dtype = dtype
        model.get_learned_conditioning = in_dtype(held[0], dtype)
        if card is None:
            model.model.diffusion_model.forward = in_dtype(held[1], dtype)
        try:
            if card is None:
                yield
                return
            host.device = host.modules["modules.devices"].device = CUDA
            model.get_learned_conditioning = card.kernel(in_dtype(held[0], dtype))
            model.model.diffusion_model.forward = card.kernel(in_dtype(held[1], dtype))
            double.Denoiser.__call__, double.euler = stepped, sampled
            with card:
                yield
        finally:
            model.get_learned_conditioning, model.model.diffusion_model.forward = held
            double.Denoiser.__call__, double.euler = call, euler
            host.device = host.modules["modules.devices"].device = Case.device
            host.dtype = Case.dtype

    def pictures(self, prompt, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        seen, pictured = [], double.pictured
        double.pictured = lambda x: seen.append(x) or pictured(x)
        try:
            self.post(prompt, steering, method, cfg, strength, {})
        finally:
            double.pictured = pictured
        self.evaluations = self.host.denoisers[-1].evaluations
        return seen[0].cpu()

    def encode(self, text):
        texts = double.SdConditioning([text], width=64, height=64)
        found = self.host.shared.sd_model.get_learned_conditioning(texts)
        if isinstance(found, list):
            found, = found
            return dict(crossattn=found[None])
        return dict(found) if isinstance(found, dict) else dict(crossattn=found)

    def noise(self):
        return double.noise(SEEDS, 64, 64) * self.sigmas[0]

    def eps(self, x, step, text):
        return (x - double.predicted(x, text)) / self.sigmas[step]


class Served(WebUI):
    """A real web UI, whose images have 256 levels. The demo model of diffusers, given its schedule, is the reference.
    """
    rounding, felt = 2.1 / 255, 4 / 255

    def on_card(self, card, dtype):
        pytest.skip("a real web UI is on the device that it starts with")

    def __init__(self, host, prompt: str, variant: str):
        super().__init__(host, prompt)
        self.more = dict(override_settings=dict(sd_model_checkpoint="sd-debias-test", CLIP_stop_at_last_layers=1))
        if variant == "sdxl":
            self.reference, self.more = NO_REFERENCE, host.sdxl("sd-debias-xl")
            return
        if variant == "zimage":
            self.reference, self.more = NO_REFERENCE, host.zimage()
            return
        from diffusers import EulerDiscreteScheduler

        from sd_debias.diffusers_host import workbench
        self.pipe = workbench.demo().pipe
        self.comma, = self.pipe.tokenizer(",", add_special_tokens=False).input_ids
        self.pipe.scheduler = EulerDiscreteScheduler.from_config(self.pipe.scheduler.config, steps_offset=0,
                                                                 timestep_spacing="linspace")
        self.pipe.scheduler.set_timesteps(self.steps)
        self.sigmas, self.times = self.pipe.scheduler.sigmas.tolist(), self.pipe.scheduler.timesteps
        if host.forge:  # which takes the nearest of the model's own
            self.times = self.times.round()

    def pictures(self, prompt, steering=None, method=DEFAULT, cfg=3.0, strength=1.0):
        answer = self.post(prompt, steering, method, cfg, strength, self.more)
        return torch.from_numpy(np.stack(real.arrays(answer))).float() / 255

    @torch.no_grad()
    def encode(self, text):
        """A chunk that its words fill ends behind its last comma, where that is near."""
        tokenizer, chunks = self.pipe.tokenizer, [[]]
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            if len(chunks[-1]) == 75:
                full = chunks.pop()
                at = max((i + 1 for i, each in enumerate(full) if each == self.comma), default=0)
                chunks += [full[:at], full[at:]] if 75 - at < 20 and token != self.comma else [full, []]
            chunks[-1].append(token)
        return dict(crossattn=torch.cat([self.pipe.text_encoder(torch.tensor([[
            tokenizer.bos_token_id, *chunk, *[tokenizer.eos_token_id] * (76 - len(chunk))]]))[0] for chunk in chunks],
            dim=1))

    def noise(self):
        return double.noise(SEEDS, 64, 64) * self.sigmas[0]

    @torch.no_grad()
    def eps(self, x, step, text):
        scaled = x / (self.sigmas[step] ** 2 + 1) ** 0.5
        return self.pipe.unet(scaled, self.times[step][None], text["crossattn"]).sample

    @torch.no_grad()
    def finish(self, x):
        pixels = (self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        return (pixels * 255).floor().permute(0, 2, 3, 1) / 255
