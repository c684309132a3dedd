"""ComfyUI's own text-to-image templates: their prompt is found behind every sampler.

Their JSON comes from PyPI, comfyui-workflow-templates-json or an earlier comfyui-workflow-templates.
"""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Iterator

import pytest
from nodes_given import ours

PACKAGES = dict(json="comfyui_workflow_templates_json", earlier="comfyui_workflow_templates")
NEVER, BYPASS = 2, 4  # modes of nodes that are left out
NOT_SENT = ("Note", "MarkdownNote", "PrimitiveNode", "Reroute")  # the frontend's own nodes
# What makes a text while a graph runs: it is not guessed.
MADE = ("TextGenerate", "StringReplace", "RegexReplace", "JsonExtractString", "Flux3LayoutPrompt",
        "MOSSImageLayoutPrompt")
FORMS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
# Widgets of the nodes that make texts or conditionings, in order.
WIDGETS = dict(
    CLIPTextEncode=["text"], CLIPTextEncodeFlux=["clip_l", "t5xxl", "guidance"],
    TextEncodeQwenImage21=["prompt", "negative_prompt", "resolution"],
    TextEncodeMageFlowEdit=["prompt", "negative_prompt", "width", "height", "batch_size"],
    PrimitiveString=["value"], PrimitiveStringMultiline=["value"], PrimitiveBoolean=["value"],
    StringConcatenate=["string_a", "string_b", "delimiter"], StringReplace=["string", "find", "replace"],
    RegexReplace=["string", "regex_pattern", "replace"], JsonExtractString=["json_string", "key"],
    TextGenerate=["prompt", "max_length", "sampling_mode"], Flux3LayoutPrompt=["prompt"],
    MOSSImageLayoutPrompt=["prompt", "width", "height", "character_boxes"], CustomCombo=["choice"],
    ComfySwitchNode=["switch"], PreviewAny=[], FluxGuidance=["guidance"],
    unCLIPConditioning=["strength", "noise_augmentation"],
    ConditioningSetArea=["width", "height", "x", "y", "strength"],
    ControlNetApplyAdvanced=["strength", "start_percent", "end_percent"])


def templates() -> Iterator[tuple[str, Path]]:
    """Every local template that makes an image of a text, as the package's own index has it."""
    for short, package in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        folder = Path(spec.submodule_search_locations[0], "templates") if spec else Path()
        if spec and (folder / "index.json").exists():
            for group in json.loads((folder / "index.json").read_text("utf-8")):
                for entry in group["templates"]:
                    tags, name = entry.get("tags") or [], entry["name"]
                    if "Text to Image" in tags and "API" not in tags and not name.startswith("api_"):
                        yield f"{short}/{name}", folder / f"{name}.json"


TEMPLATES = dict(templates())
each_template = pytest.mark.parametrize("name", TEMPLATES or [pytest.param("none", marks=pytest.mark.skip(
    reason=f"neither {' nor '.join(PACKAGES.values())} is installed, or it holds no templates"))])


class Graph:
    """A workflow, or the inside of a node that is a subgraph; `inside` are those in this one."""

    def __init__(self, graph, subgraphs=None, prefix="", outer=None, own=None):
        self.graph, self.prefix, self.outer, self.own = graph, prefix, outer, own
        if subgraphs is None:
            subgraphs = {inner["id"]: inner for inner in graph.get("definitions", {}).get("subgraphs", [])}
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        self.links = dict((link["id"], (link["origin_id"], link["origin_slot"])) if isinstance(link, dict)
                          else (link[0], (link[1], link[2])) for link in graph["links"])
        self.inside = {id: Graph(subgraphs[node["type"]], subgraphs, f"{prefix}{id}:", self, node)
                       for id, node in self.nodes.items() if node["type"] in subgraphs}

    def source(self, link):
        """Where a link comes from: [node, output], a value in a dict, or None."""
        id, slot = self.links.get(link, (None, None))
        if id == self.graph.get("inputNode", {}).get("id", -10):
            return self.outer.fed(self.own, self.graph, self.graph["inputs"][slot])
        node = self.nodes.get(id)
        if node is None or node.get("mode") == NEVER:
            return None
        if node.get("mode") == BYPASS:
            form = node["outputs"][slot]["type"]
            fit = [at for at in [*node["inputs"][slot:slot + 1], *node["inputs"]] if at["type"] == form]
            return self.source(fit[0]["link"]) if fit else None
        if node["type"] == "Reroute":
            return self.source(node["inputs"][0]["link"])
        if node["type"] == "PrimitiveNode":
            return dict(value=node["widgets_values"][0])
        if id in self.inside:
            return next(iter(map(self.inside[id].source, self.inside[id].graph["outputs"][slot]["linkIds"])), None)
        return [f"{self.prefix}{id}", slot]

    def fed(self, node, inside, slot):
        """What a subgraph's node gives to one of its inputs; None where the value inside stands."""
        link = next((at.get("link") for at in node["inputs"] if at["name"] == slot["name"]), None)
        if link is not None:
            return self.source(link)
        names = [at["name"] for at in inside["inputs"] if at["type"] in FORMS]
        values = node.get("widgets_values") or []
        assert not values or len(values) == len(names), f"{node['id']} has {len(values)} values for {names}"
        return dict(value=values[names.index(slot["name"])]) if values and slot["name"] in names else None

    def prompt(self) -> dict:
        """Besides what the frontend sends: each node's title, its inputs' types and its outputs' names, in _meta."""
        made = {}
        for id, node in self.nodes.items():
            if node["type"] in NOT_SENT or node.get("mode") in (NEVER, BYPASS):
                continue
            if id in self.inside:
                made |= self.inside[id].prompt()
                continue
            inputs, slots = self.values(node), node.get("inputs") or []
            for slot in slots:
                found = self.source(slot.get("link"))
                if found is not None:
                    inputs[slot["name"]] = found["value"] if isinstance(found, dict) else found
            made[f"{self.prefix}{id}"] = dict(class_type=node["type"], inputs=inputs, _meta=dict(
                title=node.get("title") or "", types={slot["name"]: slot["type"] for slot in slots},
                outputs=[slot["name"] for slot in node.get("outputs") or []]))
        return made

    def values(self, node) -> dict:
        given, names = node.get("widgets_values") or [], WIDGETS.get(node["type"])
        if isinstance(given, dict):
            return dict(given)
        if names is None:
            made = {slot["type"] for slot in node.get("outputs") or []}
            if given and made & {"STRING", "CONDITIONING"}:
                pytest.skip(f"what {node['type']}'s widgets are called is not known")
            return {}
        return dict(zip(names, [*given, *[None] * len(names)]))


def of_type(prompt: dict, node: str, form: str) -> dict:
    """The inputs of a node that are wired and of a type."""
    item = prompt[node]
    return {name: item["inputs"][name] for name, is_ in item["_meta"]["types"].items()
            if is_ == form and isinstance(item["inputs"].get(name), list)}


def samplers(prompt: dict) -> dict[str, list[str]]:
    """Nodes that take a model and a conditioning for sampling, with those that sample: themselves, or by a guider."""
    found = {node: [at for at in prompt if any(link[0] == node for link in of_type(prompt, at, "GUIDER").values())]
             for node in prompt if "model" in of_type(prompt, node, "MODEL") and of_type(prompt, node, "CONDITIONING")}
    return {node: by or [node] for node, by in found.items()}


def check_what_is_found(prompt: dict) -> None:
    """With a profile on every model that is sampled with. Titles tell which texts are negative."""
    graph, applied = {node: dict(item, inputs=dict(item["inputs"])) for node, item in prompt.items()}, {}
    for sampler in samplers(prompt):
        model = prompt[sampler]["inputs"]["model"]
        apply = f"apply {model[0]} {model[1]}"
        graph[apply] = dict(class_type="DebiasApply", inputs=dict(model=model))
        graph[sampler]["inputs"]["model"] = [apply, 0]
        applied.setdefault(apply, []).append(sampler)
    assert applied, "no sampler"
    for apply, fed in applied.items():
        runs = {at for sampler in fed for at in samplers(prompt)[sampler]}
        assert runs <= set(ours.graph.samplers_of(graph, apply)) <= runs | set(fed)
        for at in runs:
            found = ours.graph.texts_behind(graph, at)
            assert not set(found) & titled(prompt, "negative")
            own = titled(prompt, "positive")
            assert len(own) != 1 or not found or set(found) == own, at
            unknown = any(item["class_type"] in MADE for item in prompt.values())
            assert found or unknown or not any(of_type(prompt, node, "CLIP") for node in prompt)


def titled(prompt: dict, title: str) -> set[str]:
    """Texts of the encoders of this title; those that a further node gives are not known here."""
    other = {"negative": "positive"}.get(title, "\0")
    known = {node: item["_meta"]["title"].lower() for node, item in prompt.items()}
    found = [prompt[node]["inputs"].get("text") for node, own in known.items()
             if of_type(prompt, node, "CLIP") and title in own and other not in own]
    if not all(isinstance(text, str) for text in found):
        return set()
    return {text for text in found if text.strip()}


@each_template
def test_the_prompt_of_a_template_is_found_whichever_way_its_switches_are(comfyui, name):
    """Such as those by which a language model refines the prompt."""
    prompt = Graph(json.loads(TEMPLATES[name].read_text("utf-8"))).prompt()
    check_what_is_found(prompt)
    turned = [item["inputs"] for item in prompt.values()
              if isinstance(item["inputs"].get("switch"), bool)]
    for inputs in turned:
        inputs["switch"] = not inputs["switch"]
    if turned:
        check_what_is_found(prompt)
