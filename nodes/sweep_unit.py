"""Debias Sweep Unit: measures what a sweep on another machine asks for, with this server's model and judge."""
from __future__ import annotations

import json
import weakref

from comfy_api.latest import io

from ..core.errors import DebiasError, quoted
from ..core.files import contents
from ..core.sweep.unit import Worker
from ..core.sweep.wire import answered, read
from . import messages
from .guidance import KEY
from .types import CATEGORY, Classifiers, sampling
from .workbench import Workbench, behind, setting_of

ANSWER = "sd_debias_unit"  # the answer's name in the node's output, where programs read it


class DebiasSweepUnit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasSweepUnit", display_name="Debias Sweep Unit", category=CATEGORY, is_output_node=True,
            description="For programs: measures a part of a sweep. 'sd-debias sweep --via' puts this node in the "
                        "place of Debias Calibrate and queues it.",
            inputs=[
                io.Model.Input("model", tooltip=(
                    "The model to measure, with its LoRAs and patches, but without Debias Apply.")),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                Classifiers.Input("classifier", tooltip="Decides which group each picture shows."),
                io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt."),
                *sampling(),
                io.String.Input("unit", multiline=True, default="", tooltip=(
                    "The request, in JSON: prompts, seeds, weights and how they are applied."))],
            outputs=[io.String.Output(display_name="answer", tooltip="The result, in JSON: which groups the pictures "
                                                                     "show.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt])

    @classmethod
    def execute(cls, model, clip, vae, classifier, negative, width, height, steps, cfg, sampler_name, scheduler, unit):
        node, graph = cls.hidden.unique_id, cls.hidden.prompt
        if KEY in model.wrappers.get("outer_sample", {}):
            raise DebiasError("Expected a model without Debias Apply, got one that it guides already. Wire the model "
                              "from before Debias Apply.")
        recipe, asked = read(unit)
        setting = setting_of(graph, node, clip, sampler_name, scheduler, steps, cfg, width, height, negative)
        bench = Workbench(model, clip, vae, classifier, setting, behind(graph, node, contents), node)
        bench.judged = judged_by(classifier)
        messages.say(node, "A sweep asks for facts about this model." if asked is None else
                     f"A sweep asks for {asked.seeds[1]} pictures of {quoted(asked.prompt)} ({asked.kind})")
        answer = json.dumps(answered(Worker(bench, recipe), asked))
        return io.NodeOutput(answer, ui={ANSWER: [answer]})


_last: list = [lambda: None, {}]  # a reference to the classifier that a unit came with last, and its judges


def judged_by(classifier) -> dict:
    """The classifier's judges of attributes, which are loaded once as long as the host keeps the classifier."""
    if _last[0]() is not classifier:
        judged: dict = {}
        _last[:] = weakref.ref(classifier, lambda _: judged.clear()), judged
    return _last[1]
