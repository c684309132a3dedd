"""Debias Doctor: does guidance do on this model what it must?"""
from __future__ import annotations

from comfy_api.latest import io

from ..core.attribute import GENDER
from ..core.doctor import examine
from ..core.errors import DebiasError
from ..core.method.conditioning import length
from ..core.method.direction import group_texts
from ..core.method.methods import DIRECTIONS, named
from . import messages
from .judge import Judge
from .conditioning import encode
from .model_name import encoder_name
from .panel import kept
from .types import TOOLS, JudgeType, sampling
from .workbench import Workbench, setting_of


class DebiasDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasDoctor", display_name="Debias Doctor", category=TOOLS, is_output_node=True,
            description="Tests guidance on this model with a dozen images of two seeds, and says whether it works. "
                        "Put its text into a bug report.",
            inputs=[
                io.Model.Input("model", tooltip="The model to test, with its LoRAs and patches."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                io.String.Input("prompt", default="a photo of a doctor", tooltip="The prompt to test with."),
                io.Combo.Input("direction", options=list(DIRECTIONS), default="prompt", tooltip=(
                    "How the weights steer: prompt shifts the text; embedding acts inside sampling.")),
                *sampling(),
                JudgeType.Input("judge", optional=True, tooltip=(
                    "Decides which group the steered images show. Without one, this test is skipped."))],
            outputs=[io.String.Output(display_name="text", tooltip="The result.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, vae, prompt, direction, width, height, steps, cfg, sampler_name, scheduler,
                judge=None):
        node = cls.hidden.unique_id
        setting = setting_of(cls.hidden.prompt, node, clip, sampler_name, scheduler, steps, cfg, width, height)
        bench = Workbench(model, clip, vae, judge or Judge(of=None), setting, node=node)
        messages.say(node, "Testing guidance with a dozen images")
        found = examine(bench, facts(model, clip, prompt), named("default", direction=direction), prompt,
                        classify=judge and judge.of(GENDER))
        messages.say(node, found.text, warning=not found.ok)
        return io.NodeOutput(found.text, ui=kept(found.text, not found.ok))


def facts(model, clip, prompt: str) -> list[str]:
    """The model's and its text encoder's classes, and the parts of their texts with their lengths, in words."""
    said = [f"{type(model.model).__name__}, {encoder_name(clip)}, latents "
            f"{type(model.get_model_object('latent_format')).__name__}"]
    try:
        parts, fixed = encode(clip, prompt)
        groups = [encode(clip, text)[0] for group in GENDER.groups for text in group_texts(group.texts, prompt)]
    except DebiasError as error:
        return [*said, str(error)]
    shapes = "; ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
    lengths = "; ".join(f"{name} {', '.join(str(length(group[name])) for group in groups if name in group)}"
                        for name, part in parts.items() if length(part))
    others = ", ".join(sorted(name for name, value in fixed.items() if value is not None))
    return [*said, f"Parts of the prompt: {shapes}; lengths of its groups' texts: {lengths}"
            + (f"; parts that are not mixed: {others}" if others else "")]
