"""Debias Balance: attributes with shares, without a judge or a calibration."""
from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..core.attribute import BUILT_IN
from ..core.errors import DebiasError
from ..core.profile.balance import balanced
from .apply import applied
from .types import APPLY, Attributes


def wildcards() -> list[Path]:
    """Folders with the wildcard files of other packs."""
    folders = folder_paths.folder_names_and_paths.get("custom_nodes", ((), ()))[0]
    packs = [pack for folder in folders for pack in sorted(Path(folder).glob("*/wildcards"))]
    return [*packs, Path(folder_paths.models_dir).parent / "wildcards"]


class DebiasBalance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasBalance", display_name="Debias Balance", category=APPLY,
            description="Balances the images of every prompt at once, with no judge and no calibration: each image "
                        "gets a group by its seed. A prompt that names a group is left alone on that attribute, and so "
                        "is a prompt without a person on attributes of persons. Put it after LoRA loaders.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It encodes the groups' texts."),
                io.String.Input("attributes", multiline=True, default="gender = 50:50", tooltip=(
                    f"One attribute per line, with shares if they are not even. Choose from {', '.join(BUILT_IN)}. "
                    "Or write your own groups: 'hat: a red hat | a blue hat = 1:2', a list (a line 'hat:', then lines "
                    "'- a red hat: 2'), or a wildcard file: 'hat: __hats__'.")),
                io.String.Input("text", optional=True, force_input=True, tooltip=(
                    "The prompt's text, only where the node cannot find it behind the sampler."))],
            outputs=[io.Model.Output(tooltip="The guided model, for any sampler."),
                     Attributes.Output(display_name="attributes", tooltip="The same, for Debias Calibrate.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, attributes, text=""):
        if not attributes.strip():
            raise DebiasError("Expected an attribute to balance, got none. Write one, e.g. gender = 50:50.")
        profile = balanced(attributes, wildcards=wildcards())
        guided = applied(cls.hidden, model, clip, profile, profile.method, text=text or "")
        return io.NodeOutput(guided, profile.attributes)
