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


def chosen(prompt: dict, node: str) -> str:
    return "on_true" if text(prompt, prompt[node]["inputs"]["switch"]) else "on_false"


def text(prompt: dict, value):
    """The text, or the switch's position, that a node gives; None where it is made while the graph runs."""
    if not isinstance(value, list):
        return value
    kind, inputs = prompt[value[0]]["class_type"], prompt[value[0]]["inputs"]
    if kind.startswith("Primitive"):
        return text(prompt, inputs["value"])
    if kind == "PreviewAny":
        return text(prompt, inputs["source"])
    if kind == "ComfySwitchNode":
        return text(prompt, inputs[chosen(prompt, value[0])])
    if kind == "StringConcatenate":
        parts = [text(prompt, inputs[name]) for name in ("string_a", "string_b")]
        return None if None in parts else inputs["delimiter"].join(parts)
    return None


def encoders(prompt: dict, link: list) -> Iterator[tuple[str, int]]:
    """The encoders, with their outputs, that a conditioning is made of."""
    node, output = link
    links, outputs = of_type(prompt, node, "CONDITIONING"), prompt[node]["_meta"]["outputs"]
    if prompt[node]["class_type"] == "ComfySwitchNode":
        links = {"": links[chosen(prompt, node)]}
    elif outputs[output] in links:  # as ControlNet's, with outputs named as its inputs
        links = {"": links[outputs[output]]}
    if of_type(prompt, node, "CLIP"):
        yield node, output
    elif prompt[node]["class_type"] != "ConditioningZeroOut":
        for at in links.values():
            yield from encoders(prompt, at)


def encoded(prompt: dict, link: list) -> list[str] | None:
    """The texts of a conditioning, each once; None where one is made while the graph runs."""
    found = []
    for node, output in encoders(prompt, link):
        inputs, name = prompt[node]["inputs"], prompt[node]["_meta"]["outputs"][output]
        names = ["negative_prompt"] if name == "negative" else ("text", "prompt", "clip_l", "t5xxl")
        found += [text(prompt, inputs[name]) for name in names if name in inputs]
    found = list(dict.fromkeys(found))
    return None if None in found else [one for one in found if one.strip()] or found[:1]


def positive(prompt: dict, sampler: str) -> list:
    links = of_type(prompt, sampler, "CONDITIONING")
    return next(links[name] for name in ("positive", "conditioning", "cond1") if name in links)


def check_what_is_found(prompt: dict) -> None:
    """With a profile on every model that is sampled with."""
    graph, applied = {node: dict(item, inputs=dict(item["inputs"])) for node, item in prompt.items()}, {}
    for sampler in samplers(prompt):
        model = prompt[sampler]["inputs"]["model"]
        if not any(of_type(prompt, node, "CLIP") for node, _ in encoders(prompt, positive(prompt, sampler))):
            pytest.skip(f"{prompt[sampler]['class_type']}'s conditioning comes from no text encoder")
        apply = f"apply {model[0]} {model[1]}"
        graph[apply] = dict(class_type="DebiasApply", inputs=dict(model=model))
        graph[sampler]["inputs"]["model"] = [apply, 0]
        applied.setdefault(apply, []).append(sampler)
    assert applied, "no sampler"
    for apply, fed in applied.items():
        runs = {at for sampler in fed for at in samplers(prompt)[sampler]}
        assert runs <= set(ours.graph.samplers_of(graph, apply)) <= runs | set(fed)
    for sampler, runs in samplers(prompt).items():
        link = positive(prompt, sampler)
        negative = of_type(prompt, sampler, "CONDITIONING").get("negative")
        behind, against = encoded(prompt, link), negative and encoded(prompt, negative)
        titles = [prompt[node]["_meta"]["title"].lower() for node, _ in encoders(prompt, link)]
        assert not any("negative" in title and "positive" not in title for title in titles)
        for at in runs:
            found = ours.graph.texts_behind(graph, at)
            assert found == (behind or []), f"{prompt[at]['class_type']} {at}"
            assert not set(filter(str.strip, found)) & set(against or [])


@each_template
def test_the_prompt_of_a_template_is_found_whichever_way_its_switches_are(comfyui, name):
    """Such as those by which a language model refines the prompt."""
    prompt = Graph(json.loads(TEMPLATES[name].read_text("utf-8"))).prompt()
    check_what_is_found(prompt)
    turned = {node: not text(prompt, item["inputs"]["switch"]) for node, item in prompt.items()
              if item["class_type"] == "ComfySwitchNode"}
    for node, switch in turned.items():
        prompt[node]["inputs"]["switch"] = switch
    if turned:
        check_what_is_found(prompt)
