"""Debias Calibrate: finds a profile's weights by generating, counting and correcting, in one node.

Every image is made alone of its seed: its noise is that of a batch of one, so KSampler with batch size 1 and the same
seed makes the same picture later (samplers that add noise at every step do so for calibration batches of one only).
"""
from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Sequence

import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.attribute import Attribute
from ..core.calibration.loop import HELD_OUT, ROUND, Calibration, Round, round_names
from ..core.calibration.plan import Plan
from ..core.report.chart import chart_kl, chart_shares, contact_sheet
from ..core.judge import Classifier
from ..core.errors import DebiasError, short
from ..core.files import exclusive, fingerprint, safe_name, writing
from ..core.method.methods import DIRECTIONS, EARLY, METHODS, RULES, Method, named
from ..core.profile.file import Profile
from ..core.method.draw import check_steered, rows
from . import messages
from .conditioning import encode_all
from .guidance import KEY, Guide
from .images import pictures, to_pil, to_tensor
from .model_name import encoder_name, model_name
from .profiles import store
from .report import before_after, write
from .types import CATEGORY, Attributes, Classifiers, Profiles, planned

AS_METHOD = "as the method says"
SHOWN = 16  # pictures of each prompt before and after
PREVIEW = 512  # pixels
INTERRUPTION = "InterruptProcessingException"
MADE = ("model", "clip", "vae", "classifier")  # inputs that cannot be compared by value


class Cancelled(Exception):
    """Stands for what Cancel raises in a host that does not say: nothing ever raises this."""


@dataclass
class Studio:
    """Generates the images of a calibration with ComfyUI's own sampling."""
    model: object
    clip: object
    vae: object
    negative: str
    width: int
    height: int
    sampler: str
    scheduler: str
    steps: int
    cfg: float
    evaluations: int = 0
    prepared: tuple | None = None
    acted: bool = False  # did guidance change anything in the last call?

    def generate(self, prompt: str, attributes: Sequence[Attribute], method: Method, weights: Tensor,
                 seeds: Sequence[int], callback=None) -> Tensor:
        """IMAGE [N, H, W, 3], one a seed, guided by weights [N, n]. Raises DebiasError where guidance did nothing."""
        asked = (prompt, tuple(attributes), method)
        if self.prepared is None or self.prepared[0] != asked:
            self.prepared = (asked, self._prepare(*asked))
        model, positive, negative = self.prepared[1]
        self.weights, self.acted = weights, False
        latent = comfy.sample.fix_empty_latent_channels(
            self.model, torch.zeros(1, 4, self.height // 8, self.width // 8))
        noise = torch.cat([comfy.sample.prepare_noise(latent, seed) for seed in seeds])
        samples = comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler, self.scheduler, positive, negative,
            latent.repeat(len(seeds), *(1,) * (latent.ndim - 1)), denoise=1.0, callback=callback, disable_pbar=True,
            seed=seeds[0])
        self.evaluations += len(seeds) * self.steps * (2 if self.cfg > 1 else 1)
        check_steered(weights, self.acted)
        images = self.vae.decode(samples)
        return images.reshape(-1, *images.shape[-3:])

    def _prepare(self, prompt: str, attributes: tuple[Attribute, ...], method: Method):
        """Texts encoded and the model patched once a prompt: (model, positive, negative)."""
        def count(summary, facts):
            self.evaluations += summary["extra_evaluations"]
            self.acted = summary["acted"]

        guide = Guide(encode_all(self.clip, prompt, attributes, method.context), attributes, method,
                      lambda *_: self.weights, count)
        return guide.patch(self.model), *(self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
                                          for text in (prompt, self.negative))


def run(studio: Studio, calibrations: list[Calibration], prompts: Sequence[str], attributes: Sequence[Attribute],
        classifiers: Sequence[Classifier], fidelity: Callable | None, method: Method, plan: Plan,
        state_of: Callable[[str], Path], name: str, node: str | None = None) -> list[int | None]:
    """Every prompt's calibration, added to the list as it begins; returns their evaluations.

    One that was interrupted continues where it stopped: its state is in the file `state_of(prompt)`. What it had cost
    until then is not known, so its evaluations are None.
    """
    messages.say(node, f"up to {plan.most_images * len(prompts):,} images")  # text before the first preview, above it
    bar = comfy.utils.ProgressBar(plan.most_images * studio.steps * len(prompts), node_id=node)
    evaluations = []
    for number, prompt in enumerate(prompts):
        state = state_of(prompt)
        resumed = state.exists()
        calibration = Calibration.load(state) if resumed else Calibration(prompt, attributes, method, plan)
        calibrations.append(calibration)
        before, first = studio.evaluations, number * plan.most_images

        def generate(weights, seeds, prompt=prompt, calibration=calibration, first=first):
            at = (first + sum(r.done for r in calibration.rounds)) * studio.steps

            def callback(step, x0, x, total):
                bar.update_absolute(at + (step + 1) * len(seeds) * studio.steps // total)

            images = studio.generate(prompt, attributes, method, weights, seeds, callback)
            preview = ("JPEG", contact_sheet(to_pil(images[:SHOWN]), columns=4), PREVIEW)
            bar.update_absolute(at + len(seeds) * studio.steps, None, preview)  # by place: forks name it differently
            return pictures(images)

        faithful = fidelity and (lambda images, prompt=prompt: fidelity(images, prompt))
        with locked(name):
            for current in calibration.run(generate, lambda images: [classify(images) for classify in classifiers],
                                           faithful, state):
                messages.say(node, progress(calibration, current, prompts))
        evaluations.append(None if resumed else studio.evaluations - before)
        bar.update_absolute((first + plan.most_images) * studio.steps)
    return evaluations


@contextmanager
def keeping(calibrations: list[Calibration], setting: dict, judges: str, name: str, node: str | None) -> Iterator[None]:
    """On Cancel says what is kept: the state that the next run continues from and, once an audit is complete, a profile
    of the best rounds, "<name> (unfinished)".
    """
    try:
        yield
    except interruption():
        messages.say(node, "Cancelled. " + kept(calibrations, setting, judges, name))
        raise


def kept(calibrations: Sequence[Calibration], setting: dict, judges: str, name: str) -> str:
    """What an interrupted calibration leaves, in words; a profile of its best rounds where there are any."""
    images = sum(r.done for c in calibrations for r in c.rounds)
    audited = [c for c in calibrations if c.rounds and c.audit.complete]
    text = f"{images} images measured so far are kept: queue again to continue."
    if audited:
        profile = Profile.from_calibrations(f"{name} (unfinished)", audited, setting, judges)
        text += f" The best rounds so far: {messages.place(store(profile, overwrite=True))}"
    return text


def progress(calibration: Calibration, current: Round, prompts: Sequence[str]) -> str:
    """The current round in a few lines."""
    name = round_names([r.kind for r in calibration.rounds])[-1]
    title = f"{name} of at most {calibration.plan.rounds}" if current.kind == ROUND else \
        "verification on fresh seeds" if current.kind == HELD_OUT else "audit"
    lines = [calibration.prompt if len(prompts) > 1 else "",
             f"{title}: {current.done} of {len(current.seeds)} images"]
    for i, attribute in enumerate(calibration.attributes):
        if any(label >= 0 for label in current.labels[i]):
            lines.append(current.distribution(i, attribute.target).line(attribute.name, attribute.names))
    return "\n".join(filter(None, lines))


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One calibration of a name at a time. Raises DebiasError where another runs, or the lock cannot be written."""
    with ExitStack() as held:
        with writing("The calibration's state", messages.place(states())):
            held.enter_context(exclusive(states() / name))
        yield


def interruption() -> type[BaseException]:
    """What Cancel raises. ComfyUI and its forks keep it in different modules."""
    modules = (sys.modules.get(name) for name in ("comfy.model_management", "comfy.interruption"))
    return next((vars(module)[INTERRUPTION] for module in modules if INTERRUPTION in vars(module or object)), Cancelled)


def states() -> Path:
    """The folder of unfinished calibrations."""
    return Path(folder_paths.get_user_directory()) / "debias"


def behind(prompt: dict | None, node: str | None) -> list:
    """The loaders, LoRAs and so on that make those inputs of the node that are no values, with the files that they
    name: one that was replaced under the same name is another one. Nothing else of the graph counts."""
    inputs = ((prompt or {}).get(node) or {}).get("inputs") or {}
    links = [(key, inputs[key]) for key in MADE if isinstance(inputs.get(key), list)]
    return [(key, output, messages.making(prompt, str(source)), files_of(prompt, str(source)))
            for key, (source, output) in links]


def files_of(prompt: dict, node: str) -> list:
    """(text, fingerprint) of every text in a node's inputs, and in those of all that leads to it, that names a file or
    folder in ComfyUI's model folders."""
    texts = {text for at in messages.upstream(prompt, [node]).values() for text in (at.get("inputs") or {}).values()
             if isinstance(text, str) and 0 < len(text) < 256 and text.isprintable()}
    relative = [text for text in texts
                if not Path(text).is_absolute() and not {".", ".."} & {*re.split(r"[\\/]", text)}]
    roots = {root for kind in list(folder_paths.folder_names_and_paths) for root in folder_paths.get_folder_paths(kind)}
    return sorted((text, digest) for text in relative for root in sorted(map(str, roots))
                  if (digest := fingerprint(Path(root) / text)))


def state_file(name: str, attributes: Sequence[Attribute], method: Method, plan: Plan, setting: dict, graph: list,
               prompt: str) -> Path:
    """Where this very calibration's state is. Another one has another file: in any value, or in what is `behind` it."""
    asked = json.dumps([prompt, [a.to_dict() for a in attributes], method.to_dict(), asdict(plan), setting, graph],
                       sort_keys=True, default=str)
    return states() / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"


def lines_of(prompts: str) -> list[str]:
    """The prompts, one a line. Raises DebiasError for none, and for one that comes twice."""
    found = [" ".join(line.split()) for line in prompts.splitlines() if line.strip()]
    if not found:
        raise DebiasError("A calibration needs a prompt, but none came. Write one a line, e.g. 'a photo of a doctor'.")
    if len({prompt.casefold() for prompt in found}) < len(found):
        raise DebiasError(f"A prompt came twice: {short(found)}. Write each once.")
    return found


def charts_of(calibrations: Sequence[Calibration]) -> Tensor:
    """IMAGE of the shares before and after, and of KL over the rounds, for every prompt and attribute."""
    charts = []
    for c in calibrations:
        for i, a in enumerate(c.attributes):
            after = c.held_out and c.held_out.distribution(i, a.target)
            charts.append(chart_shares(a.names, c.audit.distribution(i, a.target), after, c.prompt))
            names = round_names([r.kind for r in c.rounds])
            charts.append(chart_kl([(name, r.distribution(i, a.target)) for name, r in zip(names, c.rounds)], c.prompt))
    return to_tensor(*charts)


class DebiasCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasCalibrate", display_name="Debias Calibrate (IDA)", category=CATEGORY, is_output_node=True,
            description="Finds the weights that bring a model's images to the target shares: generates, counts, "
                        "corrects, and verifies the result on seeds that were not used to find it. Cancel keeps what "
                        "was measured; queued again, it continues.",
            inputs=[
                io.Model.Input("model", tooltip=(
                    "The model to calibrate, with its LoRAs and patches, but without Debias Apply.")),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                Attributes.Input("attributes", tooltip="What to balance, and the target: from Debias Attribute."),
                Classifiers.Input("classifier", tooltip="What tells which group a picture shows."),
                io.String.Input("prompts", multiline=True, default="a photo of a doctor", tooltip=(
                    "The prompt to calibrate. Several, one a line, are calibrated one after the other into one "
                    "profile.")),
                io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt."),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of the images in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip=(
                    "Height of the images in pixels.")),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps, as you will use later."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=(
                    "CFG, as you will use later: bias grows with it.")),
                io.Combo.Input("sampler_name", options=list(comfy.samplers.SAMPLER_NAMES), default="euler",
                               tooltip="The sampler, as you will use later."),
                io.Combo.Input("scheduler", options=list(comfy.samplers.SCHEDULER_NAMES), default="normal",
                               tooltip="The scheduler, as you will use later."),
                io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip=(
                    "Seed of the first image; the others follow. Keep it, so that an interrupted calibration "
                    "continues.")),
                *(planned(name) for name in ("images", "rounds", "held_out", "batch_size", "tolerance")),
                io.Combo.Input("method", options=list(METHODS), default="default", tooltip=(
                    "default: every seed draws a group to be steered to, or to be left alone; no extra evaluations. "
                    "shift: all images get the same shift. paper: He et al. 2024, an SLD direction.")),
                io.Combo.Input("direction", options=[AS_METHOD, *DIRECTIONS], default=AS_METHOD, tooltip=(
                    "How the weights steer: prompt costs nothing, embedding one further evaluation a step, prediction "
                    f"one a group; both in the first {100 * EARLY.end:.0f} % of the steps unless the method has a "
                    "window.")),
                io.Combo.Input("rule", options=[AS_METHOD, *RULES], default=AS_METHOD, tooltip=(
                    "How weights of 'shift' and 'paper' are corrected from round to round, or the policy gradient. The "
                    "default method draws and takes no rule.")),
                planned("confidence"),
                io.String.Input("name", default="doctor-gender", tooltip=(
                    "Name of the profile and of its folder in output/debias, which is numbered where there is one "
                    "already."))],
            outputs=[Profiles.Output(display_name="profile", tooltip=(
                         "For Debias Apply, Text Encode, Save Profile and Report.")),
                     io.Image.Output(display_name="charts", tooltip="Shares and KL, before and after."),
                     io.Image.Output(display_name="before", tooltip="Pictures without the profile."),
                     io.Image.Output(display_name="after", tooltip="The same seeds with it."),
                     io.String.Output(display_name="report", tooltip="Path of the HTML report.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, vae, attributes, classifier, prompts, negative, width, height, steps, cfg,
                sampler_name, scheduler, seed, images, rounds, held_out, batch_size, tolerance, method, direction, rule,
                confidence, name):
        node, name, texts = cls.hidden.unique_id, safe_name(name.strip()), lines_of(prompts)
        if KEY in model.wrappers.get("outer_sample", {}):
            raise DebiasError("This model is guided by Debias Apply already, and would be calibrated on top of that. "
                              "Wire the model as it was before Debias Apply.")
        method = named(method, **{key: value for key, value in (("direction", direction), ("rule", rule))
                                  if value != AS_METHOD})
        plan = Plan(images, rounds, held_out, tolerance or None, batch_size, seed, confidence)
        studio = Studio(model, clip, vae, negative, width, height, sampler_name, scheduler, steps, cfg)
        setting = dict(host="ComfyUI", model=model_name(cls.hidden.prompt, node), text_encoder=encoder_name(clip),
                       sampler=sampler_name, scheduler=scheduler, steps=steps, cfg=cfg, width=width, height=height,
                       negative_prompt=negative)
        state_of = partial(state_file, name, attributes, method, plan, setting, behind(cls.hidden.prompt, node))
        classifiers, calibrations = [classifier.of(attribute) for attribute in attributes], []
        judges = ", ".join(c.name for c in classifiers)
        before, after, seeds, shown = [], [], [], []
        with keeping(calibrations, setting, judges, name, node):
            evaluations = run(studio, calibrations, texts, attributes, classifiers, classifier.fidelity, method, plan,
                              state_of, name, node)
            for c in calibrations:
                own = list((c.held_out or c.audit).seeds[:SHOWN])
                shown.append((c.prompt, own, rows(c.steerings, own)))
                for weights, made in ((torch.zeros(len(own), 1), before), (shown[-1][2], after)):
                    for at in range(0, len(own), batch_size):
                        part = slice(at, at + batch_size)
                        made.append(studio.generate(c.prompt, attributes, method, weights[part], own[part]))
                seeds += own
            before, after = torch.cat(before), torch.cat(after)
            profile = Profile.from_calibrations(name, calibrations, setting, judges, evaluations)
            path = write(profile, to_pil(before), to_pil(after), seeds)
            with writing("The profile", messages.place(path.parent)):
                profile.save(path.with_name("profile.json"))
        for prompt, own, weights in shown:
            messages.record({**profile.metadata(prompt, dict(acted=bool(weights.any()))), "Debias output": "after",
                             "Debias calibrated": prompt, "Debias seeds": own, "Debias rows": weights.tolist()})
        for c in calibrations:
            state_of(c.prompt).unlink(missing_ok=True)
        warned = [f"Warning: {c.prompt}: {warning}" for c in calibrations for warning in c.warnings]
        found = [*(result(c) for c in calibrations), *warned, f"Report: {messages.place(path)}"]
        messages.say(node, "\n".join(found), bool(warned))
        sheet = to_tensor(before_after(to_pil(before), to_pil(after)))
        return io.NodeOutput(profile, charts_of(calibrations), before, after, str(path),
                             ui=ui.PreviewImage(sheet, cls=cls))


def result(c: Calibration) -> str:
    """A finished calibration in a few lines."""
    lines = [f"{c.prompt}: {c.stop}"]
    for i, a in enumerate(c.attributes):
        for title, measured in (("before", c.audit), ("after", c.held_out)):
            if measured:
                lines.append(measured.distribution(i, a.target).line(f"{a.name}, {title}", a.names))
    return "\n".join(lines)
