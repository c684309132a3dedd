"""What a profile's setting calls the model and the text encoder."""
from __future__ import annotations

from pathlib import PurePath

from ..core.profile import Profile

NAMES = ("ckpt_name", "unet_name", "model_path", "model_name")
FAMILIES = ("sdxlrefiner", "sdxl", "sd3", "sd2", "sd1")  # of text encoders, as their classes' names begin


def encoder_name(clip) -> str:
    """The text encoder's family, e.g. "SD1ClipModel"."""
    return type(getattr(clip, "cond_stage_model", clip)).__name__


def encoder_for(profile: Profile, clip) -> str:
    """The text encoder's name, or the profile's name for the same one: other hosts call it "sd1".

    Raises ValueError for an encoder of another family: a profile's weights mean something else there.
    """
    here, calibrated = encoder_name(clip), str(profile.setting.get("text_encoder") or "")
    ours, theirs = (next((f for f in FAMILIES if name.lower().startswith(f)), None) for name in (here, calibrated))
    if ours and theirs and ours != theirs:
        raise ValueError(f"The profile '{profile.name}' was calibrated with the text encoder {calibrated}, but this "
                         f"CLIP is {here}. Load a model of that family, or calibrate on this one.")
    return calibrated if ours and ours == theirs else here


def model_name(prompt: dict | None, node: str | None) -> str | None:
    """File name of the model at a node's `model` input, found by walking the graph up to its loader; else None."""
    seen = set()
    while prompt and node in prompt and node not in seen:
        seen.add(node)
        inputs = prompt[node].get("inputs", {})
        if prompt[node].get("class_type") == "DebiasDemoModel":
            return "demo"
        for name in NAMES:
            if isinstance(inputs.get(name), str):
                return PurePath(inputs[name].replace("\\", "/")).name
        link = inputs.get("model")
        node = link[0] if isinstance(link, list) else None
    return None
