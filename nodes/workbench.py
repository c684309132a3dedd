"""Makes the images of a calibration with ComfyUI's own sampling.

Every image is made alone of its seed: its noise is that of a batch of one, so KSampler with batch size 1 and the same
seed makes the same image later (samplers that add noise at every step do so for calibration batches of one only).
"""
from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import comfy.sample
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.study.host import Host
from ..core.study.progress import Progress
from ..core.calibration.standing import standings
from ..core.study.unfinished import SHOWN
from ..core.files import fingerprint
from ..core.method.draw import check_steered
from ..core.method.methods import Method
from ..core.report.chart import contact_sheet
from . import messages
from .judge import Judge
from .conditioning import encode_all
from .graph import inputs_of, is_link
from .guidance import GuidedSampling, downscale
from .images import pictures, to_pil
from .model_name import encoder_name, model_name

PREVIEW = 512  # pixels
SLOW = 2.0  # seconds after which a batch says its step
INTERRUPTION = "InterruptProcessingException"
MADE = ("model", "clip", "vae", "judge")  # inputs that cannot be compared by value


class Cancelled(Exception):
    """Stands for what Cancel raises in a host that does not say: nothing ever raises this."""


def interruption() -> type[BaseException]:
    """What Cancel raises. ComfyUI and its forks keep it in different modules."""
    modules = (sys.modules.get(name) for name in ("comfy.model_management", "comfy.interruption"))
    return next((vars(module)[INTERRUPTION] for module in modules if INTERRUPTION in vars(module or object)), Cancelled)


@dataclass
class Workbench(Host):
    """A model with its settings and a judge: the host of a calibration.

    graph  what makes the model, text encoder, VAE and judge: `behind` the node
    """
    model: object
    clip: object
    vae: Any
    judge: Judge
    setting: dict
    graph: list = field(default_factory=list)
    node: str | None = None
    evaluations: int = 0
    again = "queue again"
    anew = "switch on 'again'"
    prepared: tuple | None = None
    acted: bool = False  # did guidance change anything in the last call?
    judged: dict = field(default_factory=dict)
    shown: float = 0.0  # when progress was, by the clock of `time.monotonic`

    def __post_init__(self):
        self.interruption, self.bar, self.progress = interruption(), None, None

    def judges(self, attributes: Sequence[Attribute]):
        if self.progress is None and not self.judged:
            messages.say(self.node, "Loading the judge")
        for attribute in attributes:
            if attribute not in self.judged:
                self.judged[attribute] = self.judge.of(attribute)
        return [self.judged[attribute] for attribute in attributes], self.judge.fidelity

    def fingerprint(self) -> object:
        return [self.setting, self.graph]

    def place(self, path: Path) -> str:
        return messages.place(path)

    def say(self, progress: Progress) -> None:
        self.progress = progress
        self._show()
        if self.bar is None:
            total = progress.total * self.setting["steps"]
            self.bar = comfy.utils.ProgressBar(total, node_id=self.node)
        self._advance(0)

    def ended(self, page) -> None:
        """The bar at its end, with the last preview, which frontends go on to show: before and after."""
        if self.bar is not None:
            whole = self.progress.total * self.setting["steps"]
            self.bar.update_absolute(whole, whole, ("JPEG", page, 2 * PREVIEW))

    def _advance(self, steps: int, preview=None) -> None:
        """The bar, `steps` of one image further than what is measured."""
        if self.bar is not None:
            each = self.setting["steps"]
            # The preview goes by place: forks name it differently.
            self.bar.update_absolute(self.progress.done * each + steps, self.progress.total * each, preview)

    def _stepped(self, step: int, total: int, each: int) -> None:
        """A step of a batch. A slow batch is seen to go on: the first one of a large model takes a minute."""
        self._advance(step * each // total)
        if self.progress and time.monotonic() - self.shown > SLOW:
            self._show(f"step {step} of {total}")

    def _show(self, *more: str) -> None:
        self.shown, progress = time.monotonic(), self.progress
        messages.say(self.node, "\n".join(filter(None, [self.note, progress.text, *more])), done=progress.done,
                     total=progress.total, shares=[s.to_dict() for s in standings(progress.calibration)])

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> Sequence:
        each = len(seeds) * self.setting["steps"]
        images = self.generate(prompt, attributes, method, weights, seeds,
                               lambda step, x0, x, total: self._stepped(step + 1, total, each))
        self._advance(each, ("JPEG", contact_sheet(to_pil(images[:SHOWN]), columns=4), PREVIEW))
        return pictures(images)

    def generate(self, prompt: str, attributes: Sequence[Attribute], method: Method, weights: Tensor,
                 seeds: Sequence[int], callback=None) -> Tensor:
        """IMAGE [N, H, W, 3], one a seed, guided by weights [N, n]. Raises DebiasError where guidance did nothing."""
        asked = (prompt, tuple(attributes), method)
        if self.prepared is None or self.prepared[0] != asked:
            self.prepared = (asked, self._prepare(*asked))
        model, positive, negative = self.prepared[1]
        self.weights, self.acted = weights, False
        s, samples = self.setting, sampled(model, self.setting, seeds, positive, negative, callback, self.vae)
        self.evaluations += len(seeds) * s["steps"] * (2 if s["cfg"] > 1 else 1)
        check_steered(weights, self.acted)
        images = self.vae.decode(samples)
        return images.reshape(-1, *images.shape[-3:])

    def _prepare(self, prompt: str, attributes: tuple[Attribute, ...], method: Method):
        """Texts encoded and the model patched once a prompt: (model, positive, negative)."""
        def count(summary, facts):
            self.evaluations += summary["extra_evaluations"]
            self.acted = summary["acted"]

        guide = GuidedSampling(encode_all(self.clip, prompt, attributes, method.context), attributes, method,
                      lambda *_: self.weights, count)
        return guide.patch(self.model), *conditioned(self.clip, prompt, self.setting["negative_prompt"])


def conditioned(clip, *texts: str) -> list:
    """ComfyUI's conditionings of texts."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


def sampled(model, setting: dict, seeds: Sequence[int], positive, negative, callback=None, vae=None) -> Tensor:
    """Latents, one a seed, sampled as KSampler does with these settings; without an autoencoder they may be of another
    size, where this host's models do not tell theirs."""
    s, ratio = setting, downscale(model, vae) or 8
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, s["height"] // ratio, s["width"] // ratio))
    noise = torch.cat([comfy.sample.prepare_noise(latent, seed) for seed in seeds])
    return comfy.sample.sample(
        model, noise, s["steps"], s["cfg"], s["sampler"], s["scheduler"], positive, negative,
        latent.repeat(len(seeds), *(1,) * (latent.ndim - 1)), denoise=1.0, callback=callback, disable_pbar=True,
        seed=seeds[0])


def states() -> Path:
    """The folder of unfinished calibrations."""
    return Path(folder_paths.get_user_directory()) / "debias"


def setting_of(prompt: dict | None, node: str | None, clip, sampler_name: str, scheduler: str, steps: int, cfg: float,
               width: int, height: int, negative: str = "") -> dict:
    """What a node's images are made with, as profiles keep it."""
    return dict(host="ComfyUI", model=model_name(prompt, node), text_encoder=encoder_name(clip), sampler=sampler_name,
                scheduler=scheduler, steps=steps, cfg=cfg, width=width, height=height, negative_prompt=negative)


def behind(prompt: dict | None, node: str | None) -> list:
    """The loaders, LoRAs and so on that make those inputs of the node that are no values, with the files that they
    name: one that was replaced under the same name is another one. Nothing else of the graph counts."""
    prompt = prompt or {}
    inputs = inputs_of(prompt, node or "")
    links = [(key, inputs[key]) for key in MADE if is_link(inputs.get(key))]
    return [(key, output, messages.making(prompt, str(source)), files_of(prompt, str(source)))
            for key, (source, output) in links]


def files_of(prompt: dict, node: str) -> list:
    """(text, fingerprint) of every text in a node's inputs, and in those of all that leads to it, that names a
    file or folder in ComfyUI's model folders."""
    texts = {text for at in messages.upstream(prompt, [node]) for text in inputs_of(prompt, at).values()
             if isinstance(text, str) and 0 < len(text) < 256 and text.isprintable()}
    relative = [text for text in texts
                if not Path(text).is_absolute() and not {".", ".."} & {*re.split(r"[\\/]", text)}]
    roots = {root for kind in list(folder_paths.folder_names_and_paths) for root in folder_paths.get_folder_paths(kind)}
    return sorted((text, digest) for text in relative for root in sorted(map(str, roots))
                  if (digest := fingerprint(Path(root) / text)))
