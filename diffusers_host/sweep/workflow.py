"""A ComfyUI workflow as a sweep queues it: all that leads to its Debias Calibrate, with Debias Sweep Unit in its place.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import DebiasError, quoted
from ...core.files import read_json

CALIBRATE, SWEEP = "DebiasCalibrate", "DebiasSweepUnit"
TAKEN = ("model", "clip", "vae", "classifier", "negative", "width", "height", "steps", "cfg", "sampler_name",
         "scheduler")
EXPORT = "In ComfyUI, open the workflow, choose Workflow > Export (API), and name the file with --workflow."


@dataclass(frozen=True)
class Workflow:
    """graph: what is queued, {node: {class_type, inputs}}; node: the sweep's own; batch_size: the workflow's."""
    graph: dict
    node: str
    batch_size: int | None = None

    def asking(self, text: str) -> dict:
        """The graph with a unit to measure."""
        own = self.graph[self.node]
        return {**self.graph, self.node: {**own, "inputs": {**own["inputs"], "unit": text}}}


def read_workflow(path: str | Path) -> Workflow:
    """A workflow in API format that holds one Debias Calibrate. Raises DebiasError."""
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise DebiasError(f"{quoted(path)} is a saved workflow, not an export in API format. {EXPORT}")
    if not isinstance(data, dict) or not data or not all(
            isinstance(own, dict) and isinstance(own.get("class_type"), str) and isinstance(own.get("inputs"), dict)
            for own in data.values()):
        raise DebiasError(f"{quoted(path)} is not a workflow in API format. {EXPORT}")
    found = [node for node, own in data.items() if own["class_type"] == CALIBRATE]
    if len(found) != 1:
        raise DebiasError(f"{quoted(path)} holds {len(found) or 'no'} Debias Calibrate node{'s'[:len(found)]}, but a "
                          "sweep needs exactly one, from which it takes model, judge and settings. Add one, or remove "
                          "the others, and export it again.")
    node, = found
    inputs = data[node]["inputs"]
    graph = {node: dict(class_type=SWEEP, inputs={name: inputs[name] for name in TAKEN if name in inputs})}
    waiting = _sources(graph[node]["inputs"])
    while waiting:
        at = waiting.pop()
        if at not in graph and at in data:
            graph[at] = dict(class_type=data[at]["class_type"], inputs=data[at]["inputs"])
            waiting += _sources(data[at]["inputs"])
    batch_size = inputs.get("batch_size")
    return Workflow(graph, node, batch_size if type(batch_size) is int and batch_size > 0 else None)


def demo_workflow(setting: Mapping) -> Workflow:
    """The embedded demo model and its judge; setting: as the command line names it."""
    inputs = dict(model=["1", 0], clip=["1", 1], vae=["1", 2], classifier=["2", 0],
                  negative=setting.get("negative_prompt", ""), width=setting["width"], height=setting["height"],
                  steps=setting["steps"], cfg=setting["cfg"], sampler_name="euler", scheduler="simple")
    return Workflow({"1": dict(class_type="DebiasDemoModel", inputs={}),
                     "2": dict(class_type="DebiasClipClassifier", inputs=dict(model="demo (comes with sd-debias)")),
                     "3": dict(class_type=SWEEP, inputs=inputs)}, "3")


def _sources(inputs: Mapping) -> list[str]:
    return [str(value[0]) for value in inputs.values() if isinstance(value, list) and len(value) == 2]
