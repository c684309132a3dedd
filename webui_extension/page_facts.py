"""What of the web UI's page decides images: a calibration continues only where all of it is the same."""
from __future__ import annotations

import hashlib
import re
import sys
from enum import Enum
from typing import Sequence

import numpy as np
from PIL import Image

from ..core.files import fingerprint
from .run import option, setting_of

# What decides images, and is in no profile's setting: of every page, of a hires pass, of img2img.
PAGE = ("negative_prompt", "styles", "tiling", "restore_faces", "refiner_checkpoint", "refiner_switch_at")
HIRES = ("hr_scale", "hr_resize_x", "hr_resize_y", "hr_upscaler", "hr_second_pass_steps", "hr_checkpoint_name",
         "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_cfg", "denoising_strength",
         "firstpass_image")
IMG2IMG = ("init_images", "denoising_strength", "resize_mode", "image_mask", "mask_blur_x", "mask_blur_y", "mask_round",
           "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert",
           "image_cfg_scale", "initial_noise_multiplier")


NETWORK = re.compile(r"<\w+:([^:>]+)")  # <lora:NAME:0.8>


def page_facts(p, hires: bool, prompts: Sequence[str] = ()) -> list:
    """As plain values: the setting with the chosen checkpoint, the page's own fields, the host's settings that
    infotexts name, the files of checkpoint, VAE and the LoRAs that prompts name, and other extensions' arguments, such
    as ControlNet's."""
    names = (*PAGE, *(HIRES if hires else ()), *(IMG2IMG if getattr(p, "init_images", None) else ()))
    texts = [*prompts, *([p.prompt] if isinstance(p.prompt, str) else p.prompt)]
    return [_chosen(p), sorted(map(str, p.override_settings.items())),
            [(name, _value(getattr(p, name, None))) for name in names], _options(p), _files(p), _networks(texts),
            _other_scripts(p)]


def host_facts(p) -> dict[str, object]:
    """What users may change on the page while its images are made, by name: the checkpoint and VAE with their files,
    and the host's settings that decide images. Hosts write a checkpoint's name with its hash once it is loaded."""
    checkpoint, vae = _files(p)
    named = dict(item for item in _options(p) if item[0] != "sd_model_checkpoint")
    match = _match(option(p, "sd_model_checkpoint"))
    return {"The checkpoint": getattr(match, "name_for_extra", None), "The checkpoint's file": checkpoint,
            "The VAE": option(p, "sd_vae"), "The VAE's file": vae, **{f"The setting {name}": value
                                                                     for name, value in named.items()}}


def _match(name: str | None):
    """What the host knows of a checkpoint."""
    from modules import sd_models
    return getattr(sd_models, "get_closet_checkpoint_match", lambda name: None)(name) if name else None


def _chosen(p) -> dict:
    """The setting with the checkpoint that is chosen: the one in memory may be another until the host generates."""
    from modules import shared
    setting = setting_of(p)
    checkpoint = p.override_settings.get("sd_model_checkpoint") or getattr(shared.opts, "sd_model_checkpoint", None)
    return {**setting, "model": checkpoint, "model_hash": None, "text_encoder": None} if checkpoint else setting


def _options(p) -> list:
    """The host's settings that decide images: those that its infotexts name."""
    from modules import shared
    labels = getattr(shared.opts, "data_labels", {})
    return sorted((name, str(option(p, name))) for name, known in labels.items() if getattr(known, "infotext", None))


def _files(p) -> list:
    """What tells the checkpoint and VAE from others put in their place."""
    match, known = _match(option(p, "sd_model_checkpoint")), getattr(sys.modules.get("modules.sd_vae"), "vae_dict", {})
    return [fingerprint(getattr(match, "filename", None)), fingerprint(known.get(option(p, "sd_vae")))]


def _networks(prompts: Sequence[str]) -> list:
    """The LoRAs that prompts name, with what tells their files from others put in their place."""
    host = sys.modules.get("networks")  # of the host's own extension
    known = {**getattr(host, "available_network_aliases", {}), **getattr(host, "available_networks", {})}
    return sorted((name, fingerprint(getattr(known.get(name), "filename", None)))
                  for name in {name for prompt in prompts for name in NETWORK.findall(prompt)})


def _other_scripts(p) -> list:
    """Arguments of the always-on scripts of other extensions; what the host's own ones set is on the page."""
    from modules import scripts
    runner, given, own = getattr(p, "scripts", None), getattr(p, "script_args", None) or (), getattr(
        scripts, "ScriptBuiltinUI", ())
    return [[script.title(), _value(list(given[script.args_from or 0:script.args_to or 0]))]
            for script in getattr(runner, "alwayson_scripts", ())
            if script.title() != "Debias" and not isinstance(script, own or ())]


def _value(value, depth: int = 6):
    """A field of the page as plain values; of an image, its size and a digest of its pixels."""
    if isinstance(value, Image.Image):
        return [value.size, hashlib.sha256(value.convert("RGBA").tobytes()).hexdigest()]
    if isinstance(value, np.ndarray):
        return [value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, (list, tuple)) and depth:
        return [_value(one, depth - 1) for one in value]
    if isinstance(value, dict) and depth:
        return sorted((str(key), _value(one, depth - 1)) for key, one in value.items())
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    # Of any other object, such as ControlNet's unit, what it holds: its text would name a place in memory.
    return [type(value).__name__, _value(getattr(value, "__dict__", {}), depth - 1) if depth else None]
