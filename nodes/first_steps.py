"""What the first steps of a prompt's pictures show, sampled by ComfyUI: to predict weights of new prompts.

core/calibration/first_steps.py says what is read and what is made of it.
"""
from __future__ import annotations

import hashlib
import json
from typing import Sequence

import comfy.samplers
import comfy.utils
import numpy as np

from ..core.calibration.first_steps import LOOKING, SEEDS, FirstSteps, cost, kept, with_predicted
from ..core.errors import quoted
from ..core.profile.file import Profile
from ..core.profile.prompts import subject_of
from ..core.version import VERSION
from . import messages
from .conditioning import encode_all
from .guidance import GuidedSampling
from .workbench import conditioned, sampled, states

AT_ONCE = 4  # pictures of a batch
STEPS, CFG, SIDE, SAMPLER, SCHEDULER = 20, 5.0, 512, "euler", "normal"  # where a profile's setting does not say


class _Enough(Exception):
    """The first steps are taken."""


def predict(profile: Profile, prompt: str, model, clip, making: Sequence, node: str | None) -> Profile:
    """`with_predicted`, read off a model that is sampled in the profile's own setting.

    making tells the model and its text encoder from others. What is read is kept in the user's folder. Raises
    DebiasError.
    """
    setting = setting_of(profile, model)
    told = json.dumps([VERSION, profile.hash, setting, list(making)], sort_keys=True, default=str)
    bar, read = comfy.utils.ProgressBar(len(profile.entries) + 1, node_id=node), []

    def shares_of(text: str) -> list[np.ndarray]:
        at = f"text {len(read) + 1} of {len(profile.entries) + 1}"
        messages.say(node, f"Reading the first steps of {quoted(text)}, to predict weights for {quoted(prompt)}: {at}. "
                           f"This takes as long as about {cost(profile)} images per text. What was read is kept, also "
                           "after Cancel")
        return first_shares(model, clip, text, profile.attributes, setting)

    def counted(text: str) -> Sequence[np.ndarray]:
        found = known(text)
        read.append(text)
        bar.update_absolute(len(read))
        return found

    path = states() / f"first_steps_{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    known = kept(path, shares_of) if making else shares_of  # where nothing tells the model, nothing is kept
    return with_predicted(profile, prompt, counted)


def setting_of(profile: Profile, model) -> dict:
    """What the first steps are sampled with: the profile's setting, as far as this host has it. A profile without a
    size was calibrated at the model's own."""
    s, side = profile.setting, getattr(model.model, "debias_side", SIDE)
    sampler, scheduler = s.get("sampler"), s.get("scheduler")
    return dict(steps=s.get("steps") or STEPS, cfg=CFG if s.get("cfg") is None else s["cfg"],
                sampler=sampler if sampler in comfy.samplers.SAMPLER_NAMES else SAMPLER,
                scheduler=scheduler if scheduler in comfy.samplers.SCHEDULER_NAMES else SCHEDULER,
                width=s.get("width") or side, height=s.get("height") or side,
                negative_prompt=s.get("negative_prompt") or "")


def first_shares(model, clip, prompt: str, attributes: Sequence, setting: dict) -> list[np.ndarray]:
    """`FirstSteps.shares` of a prompt."""
    seen, seeds = FirstSteps(attributes), list(SEEDS)
    encoded = encode_all(clip, prompt, attributes, LOOKING.context, subject_of(prompt))
    guide = GuidedSampling(encoded, tuple(attributes), LOOKING, lambda seed, images: seen.weights(images),
                           steps=seen.steps)
    model, texts = guide.patch(model), conditioned(clip, prompt, setting["negative_prompt"])

    def enough(step: int, x0, x, total: int) -> None:
        if seen.enough(step + 1, total):
            raise _Enough

    for start in range(0, len(seeds), AT_ONCE):
        try:
            sampled(model, setting, seeds[start:start + AT_ONCE], *texts, enough)
        except _Enough:
            pass
    return seen.shares(prompt)
