"""Names of the model and the text encoder in a profile's setting."""
from __future__ import annotations

from pathlib import PurePath

from .graph import inputs_of, is_link

NAMES = ("ckpt_name", "unet_name", "model_path", "model_name")


def encoder_name(clip) -> str:
    """The text encoder's family, e.g. "SD1ClipModel"."""
    return type(getattr(clip, "cond_stage_model", clip)).__name__


def model_name(prompt: dict | None, node: str | None) -> str | None:
    """File name of the model at a node's `model` input, found by walking the graph up to its loader; else None."""
    seen = set()
    while prompt and node is not None and node in prompt and node not in seen:
        seen.add(node)
        inputs, at = inputs_of(prompt, node), prompt[node]
        if isinstance(at, dict) and at.get("class_type") == "DebiasDemoModel":
            return "demo"
        for name in NAMES:
            if isinstance(inputs.get(name), str):
                return PurePath(inputs[name].replace("\\", "/")).name
        link = inputs.get("model")
        node = link[0] if is_link(link) else None
    return None
