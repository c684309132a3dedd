"""Debias Apply: a profile's guidance on a model."""
from __future__ import annotations

from comfy_api.latest import io

from ..core.errors import DebiasError
from ..core.method.methods import AS_CALIBRATED, DIRECTIONS
from ..core.profile.file import Entry, Profile
from ..core.profile.lookup import check_encoder, differences, entry_for, with_others
from ..core.profile.prompts import ALONE, OTHERS
from ..core.profile.words import metadata
from ..core.method.draw import rows
from . import messages
from .conditioning import encode_all
from .guidance import GuidedSampling
from .model_name import encoder_name, model_name
from .types import CATEGORY, Profiles


def entry_of(profile: Profile, text: str) -> tuple[Entry, str, list[str]]:
    """(entry, prompt, warnings) for a prompt, or for the profile's own where none is given.

    Raises DebiasError where a profile of several prompts gets none.
    """
    if not text.strip():
        if len(profile.entries) > 1:
            raise DebiasError(f"The profile '{profile.name}' was calibrated for {len(profile.entries)} prompts. Put "
                              "the prompt into 'text', as it stands in the positive conditioning.")
        return profile.entries[0], profile.entries[0].prompt, []
    entry, _ = entry_for(profile, text)
    return entry, text, list(entry.warnings)


def summary_text(profile: Profile, prompt: str, summary: dict, facts: dict, strength: float) -> str:
    """One pass in a sentence."""
    if not summary["acted"]:
        return metadata(profile, prompt, summary, strength, facts["seed"])["Debias"]
    total = len(summary["weights"])
    steps = f"{summary['steps']} steps, " if summary["steps"] else ""
    return (f"{profile.name}: {summary['guided_images']} of {total} images guided by direction "
            f"'{summary['direction']}', {steps}mean shift {summary['magnitude']:.3g}, "
            f"{summary['extra_evaluations']} extra evaluations")


class DebiasApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasApply", display_name="Debias Apply", category=CATEGORY,
            description="Guides every image that is sampled with this model by a calibrated profile. Works with any "
                        "sampler, CFG rule, ControlNet or LoRA; put it after LoRA loaders. Image i of a batch counts "
                        "as seed + i.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Clip.Input("clip", tooltip="The same checkpoint's text encoder: it encodes the groups' texts."),
                Profiles.Input("profile", tooltip="From Debias Load Profile or Debias Calibrate."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip=(
                    "1: as calibrated. 0: nothing is changed, bit by bit. Above 1 prompts may be shown less well.")),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Share of the schedule at which guidance begins; the profile's own window stays a limit.")),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Share of the schedule at which guidance ends. 0.4 costs less; on the demo model it keeps most of "
                    "the effect on gender, but only three fifths of that on five skin tones.")),
                io.Combo.Input("direction", options=[AS_CALIBRATED, *DIRECTIONS], default=AS_CALIBRATED, tooltip=(
                    "How the weights steer. prompt: the positive conditioning is shifted, at no cost. embedding: one "
                    "further evaluation a step. prediction: one a group. Weights hold for the direction they were "
                    "found with.")),
                io.String.Input("text", multiline=True, default="", optional=True,
                                placeholder="the prompt, if the profile has several", tooltip=(
                    "The prompt of the positive conditioning: a conditioning itself holds no text. Empty: the "
                    "profile's own, where it has one.")),
                io.Combo.Input("other_prompts", options=list(OTHERS), default=ALONE, optional=True, tooltip=(
                    "What a prompt gets that the profile is not for. It is for the calibrated prompts, however they "
                    "are emphasised, and for prompts in which their subject stands."))],
            outputs=[io.Model.Output(tooltip="The guided model, for any sampler.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, profile, strength=1.0, start=0.0, end=1.0, direction=AS_CALIBRATED, text="",
                other_prompts=ALONE):
        node, profile = cls.hidden.unique_id, with_others(profile, other_prompts)
        method = profile.method.adjusted(direction, start, end)
        entry, prompt, warned = entry_of(profile, text or "")
        if method.direction != profile.method.direction:
            warned.append(f"the weights were found with the direction '{profile.method.direction}'")
        if strength == 0:
            messages.say(node, "Not applied (the strength is 0)")
            messages.record(metadata(profile, prompt, dict(acted=False), strength))
            return io.NodeOutput(model)
        check_encoder(profile, encoder_name(clip))
        known = dict(model=model_name(cls.hidden.prompt, node), text_encoder=encoder_name(clip))
        encoded = encode_all(clip, prompt, profile.attributes, method.context, entry.behind(strength))

        def weights(seed, images):
            return rows(entry.steerings, range(seed, seed + images), strength)

        def done(summary, facts):
            others = differences(profile, {**known, **facts})
            notes = [*warned, *summary["warnings"], *(f"other setting: {text}" for text in others)]
            idle = not summary["acted"] and any(map(any, summary["weights"]))
            messages.say(node, "\n".join([summary_text(profile, prompt, summary, facts, strength),
                                          *(f"Warning: {note}" for note in notes)]), warning=idle or bool(notes))
            messages.record({**metadata(profile, prompt, summary, strength), "Debias seeds": [
                facts["seed"], facts["seed"] + len(summary["weights"]) - 1], "Debias rows": summary["weights"]})

        guide = GuidedSampling(encoded, profile.attributes, method, weights, done, profile.hash)
        return io.NodeOutput(guide.patch(model))
