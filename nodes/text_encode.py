"""Debias Text Encode: a prompt's conditioning, already shifted by a profile."""
from __future__ import annotations

from comfy_api.latest import io

from ..core.errors import DebiasError, short
from ..core.profile.file import Profile
from ..core.profile.lookup import check_encoder, differences, entry_for, with_others
from ..core.prompts.syntax import ALONE, OTHERS
from ..core.profile.words import metadata
from ..core.method.draw import check_strength, of_batch, rows
from . import messages
from .conditioning import effect, encode_all, shift
from .guidance import PROFILE, nothing
from .model_name import encoder_name
from .types import APPLY, Profiles

MOST = 4096  # images in a batch


def shifted_conditioning(clip, text: str, profile: Profile, strength: float, seeds: range) -> tuple[list, dict]:
    """(conditioning, summary) for images of these seeds; without an effect it is CLIP Text Encode's own.

    The conditioning holds one embedding an image, or a single one where all are alike. Raises DebiasError where texts
    have different lengths.
    """
    plain = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    entry, _ = entry_for(profile, text)
    weights = rows(entry.steerings, seeds, strength)
    if not weights.any():
        return plain, dict(nothing(), weights=weights.tolist())
    context = profile.method.context
    encoded = encode_all(clip, text, profile.attributes, context, entry.behind(strength))
    summary = dict(effect([(encoded, weights)], profile.attributes, context), weights=weights.tolist())
    if (weights == weights[:1]).all():
        weights = weights[:1]
    entries = [{**options, "cross_attn": embedding} for embedding, options in plain]
    conditioning = []
    shifted, apart = shift(entries, [(encoded, weights)] * len(entries), profile.attributes, context)
    if apart:
        raise DebiasError("The images of this batch need texts of different lengths, but a conditioning holds only "
                          "one length. Use Debias Apply, which evaluates them separately, or a batch size of 1.")
    for moved in shifted:
        options = {key: value for key, value in moved.items() if key not in ("cross_attn", "uuid")}
        conditioning.append([moved["cross_attn"], {**options, PROFILE: profile.hash}])
    return conditioning, summary


class DebiasTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasTextEncode", display_name="Debias Text Encode", category=APPLY,
            description="CLIP Text Encode with a profile's shift. It adds no time per step, patches no model, and "
                        "works without CFG and with distilled models. Wire it to 'positive' instead of using Debias "
                        "Apply.",
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default="", tooltip=(
                    "The prompt. It is encoded unchanged; only its conditioning is shifted.")),
                Profiles.Input("profile", tooltip="From Debias Load Profile or Debias Calibrate."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip=(
                    "1: as calibrated. 0: bit-identical to CLIP Text Encode.")),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True, tooltip=(
                    "Decides to which group each image is steered. Wire the sampler's seed here too, so that a seed "
                    "always gives the same image.")),
                io.Int.Input("batch_size", default=1, min=1, max=MOST, tooltip=(
                    "Number of images in the latent batch. If the batch is larger, the conditionings repeat.")),
                io.Combo.Input("other_prompts", options=list(OTHERS), default=ALONE, optional=True, tooltip=(
                    "What to do with a prompt that was not calibrated. (A calibrated prompt is also found with "
                    "emphasis, and by its subject in longer prompts.) leave alone: nothing. draw: steer each image to "
                    "a randomly drawn group."))],
            outputs=[io.Conditioning.Output(tooltip="The shifted conditioning, one embedding per image.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, clip, text, profile, strength=1.0, seed=0, batch_size=1, other_prompts=ALONE):
        node, profile = cls.hidden.unique_id, with_others(profile, other_prompts)
        check_strength(strength)  # wired numbers are not held to the widgets' ranges
        if not 1 <= batch_size <= MOST:
            raise DebiasError(f"Expected a batch size of 1 to {MOST}, got {short(batch_size)}. Lower it.")
        warned = list(entry_for(profile, text)[0].warnings)
        if profile.method.direction != "prompt":
            warned.append(f"the weights were calibrated with the direction '{profile.method.direction}'")
        elif not profile.method.guidance.whole:
            warned.append("a shifted conditioning acts in all steps, but the weights were calibrated for only some of "
                          "them: use Debias Apply, which keeps the profile's window")
        check_encoder(profile, encoder_name(clip))
        known = dict(text_encoder=encoder_name(clip))
        conditioning, summary = shifted_conditioning(clip, text, profile, strength, of_batch(seed, batch_size))
        warned += [f"other setting: {text}" for text in differences(profile, known)]
        facts = metadata(profile, text, summary, strength, seed if batch_size == 1 else None)
        messages.record({**facts, "Debias seeds": of_batch(seed, batch_size), "Debias rows": summary["weights"]})
        said = facts.get("Debias") or f"{profile.name}: {summary['guided_images']} of {batch_size} images steered"
        messages.say(node, "\n".join([said, *(f"Warning: {note}" for note in warned)]), bool(warned))
        return io.NodeOutput(conditioning)
