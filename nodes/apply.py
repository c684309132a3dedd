"""Debias Apply: a profile's guidance on a model."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.calibration.plan import beyond_balance
from ..core.errors import DebiasError, quoted
from ..core.method.conditioning import Encoded
from ..core.method.methods import AS_CALIBRATED, DIRECTIONS, Method
from ..core.profile.file import Entry, Profile
from ..core.profile.lookup import check_encoder, differences, entry_for, with_others
from ..core.prompts.syntax import ALONE, OTHERS, bare
from ..core.profile.words import drawn, metadata
from ..core.method.draw import check_strength, of_batch, rows
from . import messages
from .conditioning import EMBEDDING, Texts, encode, encode_all, in_region
from .graph import inputs_of, looks_at_image, pass_before, samplers_of, texts_behind
from .guidance import GuidedSampling
from .model_name import encoder_name, model_name
from .passes import Passes, text_of
from .types import APPLY, Profiles


APART = 1_000_003  # between the seeds by which the persons of one image are drawn
FOLLOWS = "The groups are those of the pass before, whose images are drawn again"


def looked_up(profile: Profile, text: str, found: bool = False, negative: str = "", first: str = ""
              ) -> tuple[Entry, list[str]]:
    """A prompt's entry and what to say of it; one that was found may be empty. Raises DebiasError where no text is
    known and the profile has not one entry alone."""
    if text.strip() or found:
        entry, _ = entry_for(profile, text, negative, first)
        return entry, list(entry.warnings)
    if not profile.entries:
        raise DebiasError("The graph does not show which text the positive conditioning was made from. Wire the "
                          "prompt's text to 'text'.")
    if len(profile.entries) > 1:
        raise DebiasError(f"The profile '{profile.name}' was calibrated for {len(profile.entries)} prompts, and the "
                          "graph does not show which text the positive conditioning was made from. Write the prompt "
                          "into 'text', or wire it there.")
    return profile.entries[0], ["no text was found behind the positive conditioning, so the profile's only prompt, "
                                f"{quoted(profile.entries[0].prompt)}, is used"]


@dataclass
class Application:
    """A profile on one model: what its passes are steered by. Every pass looks up the text of its own sampler.

    model  as it came, without this guidance
    text   what the user says that the prompt is, "" where the graph is to tell
    graph  the prompt that the node `node` ran in, for hosts that do not say which one runs
    known  what is known of the setting beside a pass's own facts
    """
    model: object
    clip: object
    profile: Profile
    method: Method
    strength: float
    text: str
    graph: dict
    node: str | None
    known: dict

    def __post_init__(self):
        self.passes = Passes()
        self.people: list[tuple[str, Entry, list[int]]] = []  # the regions of the pass, where they are drawn apart
        self.first = ""  # the prompt of the pass whose images are drawn again
        self.several = False  # did that pass draw several persons, each with a group of its own?
        self._encoded: dict[str, Encoded] = {}
        if messages.running()[0] is None or self._behind() or self.text.strip() or len(self.profile.entries) == 1:
            self._look_up()  # what is amiss is said now, rather than by the sampler
            if any(any(s.weights) or s.probabilities for s in self.entry.steerings):
                self.encoded()

    def _behind(self, side: str = "positive") -> list[str]:
        """The texts behind the conditioning of the sampler that runs."""
        running, sampler = messages.running()
        graph = self.graph if running is None else running.prompt
        if found := texts_behind(graph, sampler, side):
            return found
        return list(dict.fromkeys(text for at in samplers_of(graph, self.node or "")
                                  for text in texts_behind(graph, at, side)))

    def _look_up(self) -> None:
        """Sets prompt, entry and what is to be said of them."""
        behind, said = self._behind(), []
        if not self.text.strip():
            self.prompt = ", ".join(behind)
            if len(behind) > 1:
                said.append(f"the positive conditioning combines {len(behind)} texts, "
                            f"{', '.join(map(quoted, behind))}, which count as one prompt")
        else:
            self.prompt = self.text
            if behind and all(bare(text) != bare(self.text) for text in behind):
                said.append(f"'text' is {quoted(self.text)}, but the positive conditioning is made from "
                            f"{', '.join(map(quoted, behind))}; 'text' is used")
        self.negative = ", ".join(self._behind("negative"))
        self.entry, warnings = looked_up(self.profile, self.prompt, bool(behind), self.negative, self.first)
        self.prompt, self.said = self.prompt if self.prompt.strip() or behind else self.entry.prompt, [*said, *warnings]

    def weights(self, seed: int, images: int) -> Tensor:
        self.seeds, self.first, beside = self._begun(seed, images)
        self._look_up()
        self.said += beside
        found = rows(self.entry.steerings, self.seeds, self.strength)
        if self.several and found.any():
            self.said.append("the pass before drew several persons, each with a group of its own, and which of them "
                             "this pass draws is not known: it is left alone")
            return torch.zeros_like(found)
        running, sampler = messages.running()
        if found.any() and looks_at_image(self.graph if running is None else running.prompt, sampler):
            self.said.append("the text encoder looks at this edit's image, which Debias does not have: it is left "
                             "alone. In Python, balance(pipe) steers such edits")
            return torch.zeros_like(found)
        return found

    def regions(self, positive: Sequence[dict], seed: int, images: int) -> Texts:
        """Where the positive conditioning has regions, each with a text of its own: each entry's text with its weights.
        Every region has a draw of its own, so that two persons need not be of one group. Empty elsewhere, and where it
        is not known which text is whose."""
        self.people = []
        if self.method.direction != "prompt" or self.text.strip() or not any(map(in_region, positive)):
            return ()
        known = [(text, encode(self.clip, text)[0][EMBEDDING]) for text in self._behind()]
        named = [next((text for text, own in known if same_text(own, entry.get("cross_attn"))), None)
                 for entry in positive]
        if len(positive) < 2 or None in named:
            return ()
        self.seeds, self.first, self.said = self._begun(seed, images)
        self.prompt, self.negative, found = ", ".join(filter(None, named)), ", ".join(self._behind("negative")), []
        encoded: dict[str, Encoded] = {}
        for number, text in enumerate(filter(None, named)):
            entry, warnings = looked_up(self.profile, text, True, self.negative)
            seeds = [own + number * APART for own in self.seeds]
            weights = rows(entry.steerings, seeds, self.strength)
            self.said += [f"{quoted(text)}: {warning}" for warning in warnings]
            encoded[text] = encoded.get(text) or self._encoded.get(text) or encode_all(
                self.clip, text, self.profile.attributes, self.method.context, entry.behind(self.strength))
            found.append((encoded[text], weights))
            if weights.any():
                self.people.append((text, entry, seeds))
        self._encoded = encoded  # for the next pass
        if self.people:
            self.entry = self.people[0][1]
        return found

    def _begun(self, seed: int, images: int) -> tuple[list[int], str, list[str]]:
        """(the seeds that decide the images' groups, the prompt that did, what to say of it): those of the pass that
        made the images which this one draws anew, so that whom they show is decided once."""
        own, (run, node) = of_batch(seed, images), messages.running()
        with_it = {} if run is None else {at: did for at, entries in run.did.items() if at != node and (
            did := [e for e in entries if e.get("Debias hash") == self.profile.hash[:12] and "Debias seeds" in e])}
        before = pass_before(run.prompt, node, with_it) if run and with_it else None
        self.several = False
        if run is None or before is None:
            return own, "", []
        at, start, count = before
        self.several = len(with_it[at][0].get("Debias persons", ())) > 1
        made = list(dict.fromkeys(own for entry in with_it[at] for own in entry["Debias seeds"]))[start:][:count]
        # A detailer draws a batch image by image, each with the next seed.
        inputs = inputs_of(run.prompt, node)
        begins = next((inputs[key] for key in ("seed", "noise_seed") if isinstance(inputs.get(key), int)), seed)
        place, done = seed - begins, len(run.did[node]) if node in run.ran else 0
        first = with_it[at][0].get("Debias text", "")
        if len(made) == 1:
            return made * images, first, []
        if len(made) == images:
            return made, first, []
        if "tile_width" in inputs and images % len(made) == 0:  # some tiles of the first image, then of the next
            return [one for one in made for _ in range(images // len(made))], first, []
        if images == 1 and 0 <= place == done < len(made):
            return [made[place]], first, []
        return own, "", [f"which of the {len(made)} images of the pass before these {images} are is not known, so "
                         "this pass's own seed decides their groups"]

    def encoded(self) -> Encoded:
        """The prompt with the groups' words behind its subject; kept for the next pass."""
        if self.prompt not in self._encoded:
            self._encoded = {self.prompt: encode_all(self.clip, self.prompt, self.profile.attributes,
                                                     self.method.context, self.entry.behind(self.strength))}
        return self._encoded[self.prompt]

    def done(self, summary: dict, facts: dict) -> None:
        """Says what a pass did, and adds it to the images' metadata."""
        images, notes = len(summary["weights"]), [*self.said, *summary["warnings"]]
        if self.method.direction != self.profile.method.direction:
            notes.append(f"the weights were calibrated with the direction '{self.profile.method.direction}'")
        cache = {"Debias cache": facts["cache"]} if "cache" in facts else {}
        if cache and self.method.direction != "prompt":
            notes.append(f"{facts['cache']} repeats steps, so the direction '{self.method.direction}' does more or "
                         "less than was calibrated. Switch the cache off, or use the direction 'prompt'")
        notes += [f"other setting: {text}" for text in differences(self.profile, {**self.known, **facts})]
        idle = not summary["acted"] and any(map(any, summary["weights"]))
        own = self.seeds[0] if images == 1 and not self.people else None
        told = metadata(self.profile, self.prompt, summary, self.strength, own, self.negative, self.first)
        lines = [summary_text(self.profile, self.entry, told, summary, self.seeds, self.people),
                 *([FOLLOWS] if self.first else [])]
        if summary["acted"] and not self.profile.entries:
            lines.append(beyond_balance(self.profile.attributes))
        self.passes.add(*messages.running(), lines, notes, details(summary), idle or bool(notes))
        passes = self.passes.said
        messages.say(self.node, text_of(passes), any(one.warning for one in passes), passes=passes)
        if self.people:
            told["Debias persons"] = [text for text, _, _ in self.people]
        messages.record({**told, **cache, "Debias text": self.first or self.prompt,
                         "Debias seeds": self.seeds, "Debias rows": summary["weights"]})


def summary_text(profile: Profile, entry: Entry, told: dict, summary: dict, seeds: list[int],
                 people: Sequence[tuple[str, Entry, list[int]]] = ()) -> str:
    """One pass in a sentence."""
    total = len(summary["weights"])
    if not summary["acted"]:
        return f"{profile.name}: {told['Debias']}"
    steered = summary["guided_images"]
    if people:
        said = "; ".join(f"{quoted(text)}: {drawn(profile, own, at) or 'steered'}" for text, own, at in people)
    elif total == 1:
        sent = told.get("Debias sent to")
        said = f"this image: steered to {sent}" if sent else "this image is steered"
    else:
        said = f"{steered} of {total} images steered"
        each = drawn(profile, entry, seeds)
        said += f" ({each})" if each else ""
        said += f"; {total - steered} left alone by their draw" if total > steered and each else ""
    return f"{profile.name}: {said}"


def same_text(own: Tensor, entry: Tensor | None) -> bool:
    return entry is not None and own.shape == entry.shape and bool(torch.equal(own.to(entry), entry))


def details(summary: dict) -> str:
    """How a pass was steered; "" where it was not."""
    steps = f"{summary['steps']} steps, " if summary["steps"] else ""
    return (f"Direction '{summary['direction']}', {steps}mean shift {summary['magnitude']:.3g}, "
            f"{summary['extra_evaluations']} extra evaluations") if summary["acted"] else ""


class DebiasApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasApply", display_name="Debias Apply", category=APPLY,
            description="Steers every image that is sampled with this model, as a calibrated profile says. Works with "
                        "any sampler, CFG rule, ControlNet or LoRA; put it after LoRA loaders.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It encodes the groups' texts."),
                Profiles.Input("profile", tooltip="From Debias Load Profile or Debias Calibrate."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip=(
                    "1: as calibrated. 0: images stay bit-identical. Above 1, images may follow the prompt less "
                    "well.")),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Share of the schedule at which guidance begins. It cannot begin before the profile's own "
                    "window.")),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Share of the schedule at which guidance ends. It cannot end after the profile's own window. 0.4 "
                    "costs less: on the demo model it keeps most of the effect on gender, but only three fifths of "
                    "the effect on five skin tones.")),
                io.Combo.Input("direction", options=[AS_CALIBRATED, *DIRECTIONS], default=AS_CALIBRATED, tooltip=(
                    "How the weights steer. prompt: shifts the positive conditioning, at no cost. embedding: one "
                    "extra evaluation per step. Weights are valid for the direction that they were calibrated "
                    "with.")),
                io.String.Input("text", multiline=True, default="", optional=True,
                                placeholder="empty: the text behind the positive conditioning", tooltip=(
                    "The prompt. Empty: the node finds the text of the sampler's positive conditioning in the graph. "
                    "If it cannot, it says so: write the prompt here, or wire its text here too.")),
                io.Combo.Input("other_prompts", options=list(OTHERS), default=ALONE, optional=True, tooltip=(
                    "What to do with a prompt that was not calibrated. (A calibrated prompt is also found with "
                    "emphasis, and by its subject in longer prompts.) leave alone: nothing. draw: steer each image to "
                    "a randomly drawn group."))],
            outputs=[io.Model.Output(tooltip="The guided model, for any sampler.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, profile, strength=1.0, start=0.0, end=1.0, direction=AS_CALIBRATED, text="",
                other_prompts=ALONE):
        node, profile = cls.hidden.unique_id, with_others(profile, other_prompts)
        check_strength(strength)  # a wired one is not held to the widget's range
        method = profile.method.adjusted(direction, start, end)
        if strength == 0:
            messages.say(node, "Not applied (the strength is 0)")
            messages.record(metadata(profile, text or profile.entries[0].prompt, dict(acted=False), strength))
            return io.NodeOutput(model)
        return io.NodeOutput(applied(cls.hidden, model, clip, profile, method, strength, text or ""))


def applied(hidden, model, clip, profile: Profile, method: Method, strength: float = 1.0, text: str = ""):
    """A model that is guided by a profile. Raises DebiasError."""
    graph, node = hidden.prompt or {}, hidden.unique_id
    check_encoder(profile, encoder_name(clip))
    known = dict(model=model_name(graph, node), text_encoder=encoder_name(clip))
    on = Application(model, clip, profile, method, strength, text, graph, node, known)
    return GuidedSampling(on.encoded, profile.attributes, method, on.weights, on.done, profile.hash,
                          on.regions).patch(model)
