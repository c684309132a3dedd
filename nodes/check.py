"""Debias Check Judge: is the judge right about this model's images?"""
from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..core.study.checking import COUNT, PROMPT, check_judges, words_of
from ..core.calibration.labelled import given_back
from . import messages
from .panel import kept, labels_page
from .types import JUDGES, Attributes, JudgeType, planned, sampling
from .workbench import Workbench, behind, setting_of


class DebiasCheckJudge(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasCheckJudge", display_name="Debias Check Judge", category=JUDGES,
            is_output_node=True,
            description="Generates images of prompts that state the group, and counts how often the judge is "
                        "right. Wire its output into Debias Audit or Debias Calibrate, and they correct their shares "
                        "for the judge's errors.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs and patches, but without Debias Apply."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                Attributes.Input("attributes", tooltip="What the judge is checked on: from Debias Attribute."),
                JudgeType.Input("judge", tooltip="The judge to check."),
                io.String.Input("prompts", multiline=True, default=PROMPT, tooltip=(
                    "Prompts, one per line. Each group's text is added to each of them.")),
                io.Int.Input("count", default=COUNT, min=5, max=10000, tooltip="Images of each group."),
                *sampling(),
                io.Int.Input("seed", default=0, min=0, max=2**53, control_after_generate=False, tooltip=(
                    "Seed of the first image; the others follow.")),
                planned("batch_size"), planned("confidence"),
                io.String.Input("corrections", default="", optional=True, tooltip=(
                    "Labels that you corrected; they count as the truth. Clicking a label in the panel fills this in; "
                    "you can also paste a saved file of corrections."))],
            outputs=[JudgeType.Output(display_name="judge", tooltip="The judge with its check."),
                     io.String.Output(display_name="text", tooltip="The result.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, vae, attributes, judge, prompts, count, width, height, steps, cfg, sampler_name,
                scheduler, seed, batch_size, confidence, corrections=""):
        node, by_hand = cls.hidden.unique_id, given_back(corrections)
        setting = setting_of(cls.hidden.prompt, node, clip, sampler_name, scheduler, steps, cfg, width, height)
        bench = Workbench(model, clip, vae, judge, setting, behind(cls.hidden.prompt, node), node)
        texts = [text for line in prompts.splitlines() if (text := " ".join(line.split()))] or [PROMPT]
        checks, outcome = check_judges(bench, texts, attributes, count, batch_size, seed, confidence, by_hand)
        if outcome.stopped is not None:
            messages.say(node, f"{outcome.why}. A check is made in one go: queue it again.", warning=True)
            raise outcome.taken()
        warned, text = any(check.warnings for check in checks), "\n".join([*words_of(checks), *outcome.notes])
        shown = dict(labels=labels_page(node, "Check of the judge", outcome.labelled))
        messages.say(node, text, warned, **shown)
        return io.NodeOutput(replace(judge, checks=(*judge.checks, *checks)), text,
                             ui=kept(text, warned, **shown))
