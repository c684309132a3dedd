"""Bundled workflows as the prompts that the frontend makes of them."""
from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "example_workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
BLUEPRINTS = FOLDER.parent / "subgraphs"
NOTES = ("MarkdownNote", "Note")


def paths() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def unfolded(path: Path) -> dict:
    """A blueprint's inside as a workflow. What its node takes from outside comes from the demo model."""
    (inside,) = read(path)["definitions"]["subgraphs"]
    demo = max(node["id"] for node in inside["nodes"]) + 1
    outputs = ["MODEL", "CLIP", "VAE"]
    links, sockets = [], {}
    for link in inside["links"]:
        source, output, form = link["origin_id"], link["origin_slot"], link["type"]
        if source == inside["inputNode"]["id"] and form in outputs:
            source, output = demo, outputs.index(form)
        if source in (inside["inputNode"]["id"], inside["outputNode"]["id"]) or link["target_id"] < 0:
            sockets[link["id"]] = None
        else:
            links.append([link["id"], source, output, link["target_id"], link["target_slot"], form])
    nodes = [dict(node, inputs=[slot | dict(link=sockets.get(slot["link"], slot["link"])) for slot in node["inputs"]])
             for node in inside["nodes"]]
    return dict(nodes=[*nodes, dict(id=demo, type="DebiasDemoModel", inputs=[], widgets_values=[])], links=links)


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """The prompt of a workflow: links, and widgets' values in the order of the node's inputs."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values, inputs = iter(node.get("widgets_values", [])), {}
        for kind in ("required", "optional"):
            for name, (form, *options) in object_info[node["type"]]["input"].get(kind, {}).items():
                if (isinstance(form, list) or form in WIDGETS) and not (options or [{}])[0].get("forceInput"):
                    # Of a widget that a graph of an earlier version lacks, the frontend takes the default.
                    inputs[name] = next(values, (options or [{}])[0].get("default"))
                    # Without a word of it, the frontend adds it to a seed.
                    if (options or [{}])[0].get("control_after_generate", name in ("seed", "noise_seed")):
                        next(values)
        assert next(values, None) is None, f"{node['type']} has more values than widgets"
        inputs |= {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        prompt[str(node["id"])] = dict(class_type=node["type"], inputs=inputs)
    return prompt


def on_the_demo_model(prompt: dict) -> dict:
    """The prompt with the demo model for checkpoints and LoRAs, and at its size."""
    swapped = {node: dict(item, inputs=dict(item["inputs"])) for node, item in prompt.items()}
    loaders = dict(UNETLoader=0, CLIPLoader=1, VAELoader=2)  # each gives one of the demo model's outputs
    outputs = {node: loaders[item["class_type"]] for node, item in swapped.items() if item["class_type"] in loaders}
    for item in swapped.values():
        inputs = item["inputs"]
        for name, value in inputs.items():
            if isinstance(value, list) and value[0] in outputs:
                inputs[name] = [value[0], outputs[value[0]]]
        if item["class_type"] in loaders:
            item.update(class_type="DebiasDemoModel", inputs={})
        if item["class_type"] == "EmptySD3LatentImage":  # of 16 channels
            item["class_type"] = "EmptyLatentImage"
        if item["class_type"] == "ModelSamplingAuraFlow":  # a model of another kind
            inputs["shift"] = 1.0
        if item["class_type"] == "CheckpointLoaderSimple":
            item.update(class_type="DebiasDemoModel", inputs={})
        if item["class_type"] == "DebiasJudge":
            inputs["judge"] = "demo (for the demo model alone)"
        if item["class_type"] == "LoraLoader":
            item.update(class_type="LoraLoader", inputs=inputs)
        for name, most in (("width", 64), ("height", 64), ("images", 8), ("held_out", 4), ("rounds", 1), ("steps", 2),
                           ("batch_size", 4)):
            if isinstance(inputs.get(name), int):
                inputs[name] = min(inputs[name], most)
        if "sure" in inputs:
            inputs["sure"] = "custom"
    return swapped
