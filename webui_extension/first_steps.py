"""What the first steps of a prompt's pictures show, sampled by the web UI: for weights of a prompt that was not
calibrated. core/calibration/first_steps.py says what is read and what is made of it.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.calibration.first_steps import LOOKING, SEEDS, FirstSteps, cost, kept, with_predicted
from ..core.errors import DebiasError, quoted
from ..core.method.methods import Method
from ..core.profile.prompts import subject_of
from ..core.method.step import Steps
from ..core.version import VERSION
from . import profiles
from .guide import NETWORK, ProfileGuidance, plain
from .conditioning import references
from .console import tell
from .page_facts import reading_facts
from .run import Run, setting_of
from .sampling import of_frames

STATE = ("skipped", "job", "job_no", "job_count", "sampling_step", "sampling_steps", "textinfo")  # of the host's job


def with_predictions(p, guide: ProfileGuidance, script) -> ProfileGuidance:
    """The guide with predicted weights for those prompts of the batch that is about to be made that have none.

    script is the accordion's, whose hooks the reading needs. Raises DebiasError.
    """
    prompts = list(p.prompts)
    if getattr(p, "enable_hr", False) and guide.hires:
        prompts += getattr(p, "all_hr_prompts", None) or []
    for prompt in dict.fromkeys(prompts):
        guide = replace(guide, profile=_predicted(p, guide.profile, prompt, script))
    return guide


def _predicted(p, profile, prompt: str, script):
    networks = " ".join(NETWORK.findall(prompt))  # the model of this picture reads the calibrated prompts too
    negative = (getattr(p, "negative_prompts", None) or [p.negative_prompt])[0]
    told = json.dumps([VERSION, profile.hash, setting_of(p), negative, networks, *reading_facts(p)], sort_keys=True,
                      default=str)

    def shares_of(text: str) -> list[np.ndarray]:
        from modules import shared
        said = (f"reading the first steps of {quoted(text)}, to predict weights for {quoted(plain(prompt))}. This "
                f"takes as long as about {cost(profile)} images, once per prompt")
        shared.state.textinfo = f"Debias: {said}"
        tell(said)
        return _first_shares(p, f"{text} {networks}".strip(), negative, profile.attributes, script)

    name = f"first_steps_{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    return with_predicted(profile, plain(prompt), kept(profiles.save_folder() / "unfinished" / name, shares_of))


@dataclass(frozen=True)
class Looking:
    """Guidance that looks and changes nothing; the same interface as `RoundGuidance`.

    stopped  holds an item once the first steps are taken
    """
    attributes: tuple[Attribute, ...]
    seen: FirstSteps
    stopped: list
    method: Method = LOOKING
    hires: bool = False

    def rows(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return self.seen.weights(len(seeds))

    def steps(self, method: Method, weights: Tensor, has_uncond: bool) -> Steps:
        """As the core's, and skips the rest of the pictures once they show enough."""
        steps = self.seen.steps(method, weights, has_uncond)
        idle = steps.idle

        def stop(progress: float) -> bool:
            from modules import shared
            if idle(progress):
                self.stopped.append(progress)
                shared.state.skipped = True
            return idle(progress)

        steps.idle = stop
        return steps

    def behind(self, text: str) -> str:
        return subject_of(text)

    def metadata(self, prompt: str, seed: int, info: dict) -> dict[str, str]:
        return {}

    def warnings(self, prompt: str) -> list[str]:
        return []


def _first_shares(p, prompt: str, negative: str, attributes: tuple[Attribute, ...], script) -> list[np.ndarray]:
    """`FirstSteps.shares` of a prompt, with what the page says of sampler, steps and size. Other extensions' hooks do
    not run, but what A1111's ControlNet has put on the model stays there."""
    from modules import processing, scripts, sd_models, shared

    class Runner(scripts.ScriptRunner):
        """Calls this extension's hook alone."""

        def process_before_every_sampling(self, p, **kwargs):
            script.process_before_every_sampling(p, **kwargs)

    class Reading(processing.StableDiffusionProcessingTxt2Img):
        """Makes no pictures: what was sampled is not decoded."""

        def sample(self, *args, **kwargs):
            super().sample(*args, **kwargs)
            return processing.DecodedSamples([torch.zeros(3, 8, 8)] * len(self.seeds))

    seen, seeds = FirstSteps(attributes), list(SEEDS)
    state = {name: getattr(shared.state, name) for name in STATE if hasattr(shared.state, name)}
    objects, each = getattr(p.sd_model, "forge_objects", None), 1 if of_frames() else p.batch_size
    page = getattr(p.sd_model, "ini_latent", None)  # img2img's picture, for edit models; this is text-to-image
    try:
        for start in range(0, len(seeds), each):
            batch = seeds[start:start + each]
            given = {name: getattr(p, name) for name in ("scheduler", "tiling", "distilled_cfg_scale")
                     if hasattr(p, name)}
            one = Reading(
                sd_model=p.sd_model, prompt=prompt, negative_prompt=negative, seed=batch, sampler_name=p.sampler_name,
                steps=p.steps, cfg_scale=p.cfg_scale, width=p.width, height=p.height, batch_size=len(batch), n_iter=1,
                do_not_save_samples=True, do_not_save_grid=True, **given)
            one.scripts, one.script_args = Runner(), ()
            looking = Looking(attributes, seen, [])
            run = Run(one, looking)
            with references(p.sd_model):
                if page is not None:
                    p.sd_model.ini_latent = None
                processing.process_images(one)
            errors = [current.error for passes in run.passes.values() for current, _ in passes.values()
                      if current.error]
            if errors:
                raise DebiasError(errors[0])
            if shared.state.interrupted or getattr(shared.state, "stopping_generation", False) or (
                    shared.state.skipped and not looking.stopped):
                raise DebiasError("the reading of the first steps was interrupted, so no weights were predicted")
    finally:
        for name, value in state.items():
            setattr(shared.state, name, value)
        if objects is not None:
            p.sd_model.forge_objects = objects
        elif hasattr(sd_models, "apply_token_merging"):  # the host takes it off behind every job
            sd_models.apply_token_merging(p.sd_model, p.get_token_merging_ratio())
    return seen.shares(prompt)
