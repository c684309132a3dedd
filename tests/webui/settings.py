"""Payloads and profiles that several tests share."""
from __future__ import annotations

import json
import re

import numpy as np

PROMPT = "a photo of a doctor"
DIRECTIONS = ["prompt", "embedding"]
SCRIPT = "Debias: audit and calibrate"
CALIBRATE = dict(work="calibrate", sure="custom", images=20, rounds=2, held_out=20, name="doctor")
# Of the seeds 20 to 23 it leaves two alone.
DRAW = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)
EVEN = dict(weights=[0, 0], probabilities=[0.0, 0.5, 0.5], strength=1.0)


def payload(**changes) -> dict:
    return {**dict(prompt=PROMPT, negative_prompt="blurry", seed=5, steps=6, sampler_name="Euler", cfg_scale=3.0,
                   width=64, height=64, batch_size=1), **changes}


def debias(name: str = "test", **given) -> dict:
    """alwayson_scripts with Debias on, but for what is given."""
    values = dict(enabled=True, profile=name, strength=1.0, direction="as calibrated", start=0.0, end=1.0,
                  hires=True, others="leave alone") | given
    return {"alwayson_scripts": {"Debias": {"args": list(values.values())}}}


def save_profile(folder, name: str = "test", direction: str = "prompt", context: str = "{prompt}, {group}",
                 steering: dict | None = None, guidance: dict | None = None, setting: dict | None = None,
                 groups=("man", "woman"), prompts=(PROMPT,), spend: str = "shift", **more) -> None:
    """A profile as a calibration could have left it: a push of every image toward the second group."""
    from sd_debias.core.profile.file import Profile
    steering = steering or dict(weights=[0.0, *[-1.0] * (len(groups) - 1)])
    document = dict(
        schema="1.0", name=name, setting=setting or {}, classifier="none",
        method=dict(direction=direction, context=context, spend=spend, guidance=guidance or {}),
        attributes=[dict(name="gender", groups=[dict(name=group, texts=[f"a {group}"]) for group in groups])],
        entries=[dict(prompt=prompt, steerings=[steering]) for prompt in prompts], **more)
    folder.mkdir(parents=True, exist_ok=True)
    Profile.from_dict(document).save(folder, overwrite=True)


def same(one, other) -> bool:
    """Bit-identical images."""
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def apart(one, other) -> int:
    """Largest difference of any value, 0 to 255."""
    return max(int(np.abs(a - b).max()) for a, b in zip(one, other))


def keys(text: str) -> dict:
    """What an infotext says under keys that begin with Debias."""
    found = re.findall(r'(Debias[\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text.splitlines()[-1])
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found}


def brightness(images):
    """A judge: dark images are the first group, most of them by themselves."""
    first = np.array([array.mean() < 128.45 for array in map(np.asarray, images)], np.float32)
    return np.stack([first, 1 - first], axis=1)


def calibrate(host, page=None, **changes):
    """page holds what is not at the script, such as init_images."""
    return script(host, {**CALIBRATE, **changes}, **(page or {}))


def audit(host, count=10, page=None, **fields):
    return script(host, dict(work="audit", count=count, **fields), **(page or {}))


def script(host, fields, **page):
    """Fields of the script by name, as a request has them."""
    return host.post("txt2img", payload(**{"batch_size": 5, **page}, script_name=SCRIPT, script_args=[fields]))
