"""What the graph tells of a sampler: the text behind its positive conditioning, which itself holds none, and the passes
that made the images it begins with.

A graph is ComfyUI's prompt, {node: {class_type, inputs}}, as it runs: dynamic prompts are resolved in it already.
"""
from __future__ import annotations

import json
import re
from typing import Any, Container, Iterable, Iterator, Mapping, TypeGuard

# Inputs by which a sampler, or what stands before one, gets its positive conditioning; the first that is there counts.
POSITIVE = ("positive", "guider", "conditioning", "cond1", "base_positive", "basic_pipe", "pipe")
# An encoder's texts, and the values of nodes that only hold or join texts.
TEXTS = ("populated_text", "text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "prompt", "positive_prompt",
         "string", "value", "string_a", "string_b", "text_a", "text_b", "user_prompt")
NEGATIVE = ("negative", "guider", "basic_pipe", "pipe")
BRANCHES = ("on_true", "on_false")  # of a switch
PICTURES = "latent|image|samples|pixels|" + "|".join(BRANCHES)  # names of inputs that hold them
# What a node that is no encoder and has no input with a conditioning's name may have beside it.
OTHERS = {"model", "clip", "vae", "image", "images", "mask", "latent", "latent_image", "samples", "pixels", "negative",
          "control_net", "clip_vision", "clip_vision_output", "style_model"}


def texts_behind(graph: Mapping, sampler: str, side: str = "positive") -> list[str]:
    """The texts that make a sampler's positive or negative conditioning, each once, in the graph's order;
    none where the graph does not tell, one that is empty where it says nothing."""
    names = POSITIVE if side == "positive" else NEGATIVE
    found = list(dict.fromkeys(text for link in _positive(graph, sampler, set(), names)
                               for encoder in _encoders(graph, link, set()) for text in _texts(graph, encoder)))
    return [text for text in found if text.strip()] or found[:1]


def looks_at_image(graph: Mapping, sampler: str) -> bool:
    """Is an image encoded with a sampler's positive text, as for an edit by Qwen-Image-Edit?"""
    return any(key.startswith("image") for link in _positive(graph, sampler, set())
               for encoder in _encoders(graph, link, set()) for key, _ in _links(graph, encoder))


def samplers_of(graph: Mapping, node: str) -> list[str]:
    """The nodes with a positive conditioning to which this one's model leads."""
    def led(at: str, seen: set[str]) -> bool:
        if at == node or at in seen:
            return at == node
        seen.add(at)
        return any(led(source, seen) for key, (source, _) in _links(graph, at) if key in ("model", "guider", *BRANCHES))

    return [at for at in graph if at != node and led(at, set()) and next(_positive(graph, at, set()), None)]


def pass_before(graph: Mapping, sampler: str, known: Container[str]) -> tuple[str, int, int | None] | None:
    """(the nearest of the `known` nodes that made the images which a sampler begins with, the first of its images
    that is taken, and how many where a node picks some); None where there is no such node."""
    waiting, seen = [(sampler, 0, None)], {sampler}
    while waiting:
        node, first, count = waiting.pop(0)
        if node != sampler and node in known:
            return node, first, count
        inputs = inputs_of(graph, node)
        if isinstance(inputs.get("batch_index"), int) and isinstance(inputs.get("length"), int):
            first, count = first + inputs["batch_index"], count or inputs["length"]  # LatentFromBatch, ImageFromBatch
        for key, (source, _) in _links(graph, node):
            if source not in seen and re.search(PICTURES, key):
                seen.add(source)
                waiting.append((source, first, count))
    return None


def inputs_of(graph: Mapping, node: str) -> Mapping:
    """A node's inputs; none where the graph holds no such node, or something else in its place."""
    at = graph.get(node)
    found = at.get("inputs") if isinstance(at, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def upstream(prompt: dict, nodes: Iterable[str]) -> dict[str, dict]:
    """These nodes of a prompt, and all that leads to them."""
    found, waiting = {}, list(nodes)
    while waiting:
        at = waiting.pop()
        if at not in found and isinstance(prompt.get(at), dict):
            found[at] = prompt[at]
            waiting += [str(value[0]) for value in inputs_of(prompt, at).values() if isinstance(value, list)
                        and len(value) == 2]
    return found


def making(prompt: dict, node: str) -> tuple[str, str]:
    """A node of a prompt, and all that makes it what it is."""
    found = {key: [at.get("class_type"), {name: _plain(value) for name, value in inputs_of(prompt, key).items()}]
             for key, at in upstream(prompt, [node]).items()}
    return node, json.dumps(found, sort_keys=True, default=str)


def _plain(value: object) -> object:
    """A value as it is before and after the host checks a prompt: a page posts 8, and what runs has 8.0."""
    if isinstance(value, (list, dict)):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _chosen(graph: Mapping, inputs: Mapping) -> Mapping:
    """Of a switch the branch alone that it passes on; none where the graph does not tell how it stands."""
    if "switch" not in inputs or not set(BRANCHES) & set(inputs):
        return inputs
    stands, seen = inputs["switch"], set()
    while is_link(stands) and stands[0] not in seen:
        seen.add(stands[0])
        values = list(inputs_of(graph, stands[0]).values())
        stands = values[0] if len(values) == 1 else None
    name = BRANCHES[0] if stands else BRANCHES[1]
    return {name: inputs[name]} if isinstance(stands, bool) and name in inputs else {}


def _links(graph: Mapping, node: str) -> Iterator[tuple[str, tuple[str, int]]]:
    for key, value in _chosen(graph, inputs_of(graph, node)).items():
        if is_link(value):
            yield key, (str(value[0]), value[1])


def is_link(value: object) -> TypeGuard[list[Any]]:
    """Is an input's value another node's output?"""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _positive(graph: Mapping, node: str, seen: set[str], names: tuple[str, ...] = POSITIVE
              ) -> Iterator[tuple[str, int]]:
    """Links to the conditioning that a sampler takes for its positive one, or by the names of its negative one."""
    links = dict(_links(graph, node))
    name = next((name for name in names if name in links), None)
    if name is None or node in seen:
        return
    if name in ("guider", "basic_pipe", "pipe"):
        yield from _positive(graph, links[name][0], seen | {node}, names)
    else:
        yield links[name]


def _encoders(graph: Mapping, link: tuple[str, int], seen: set) -> Iterator[str]:
    """The nodes that encode the texts which a conditioning is made of."""
    if link in seen:
        return
    seen.add(link)
    node, output = link
    links, inputs = dict(_links(graph, node)), inputs_of(graph, node)
    if "clip" in links and any(name in inputs for name in TEXTS):
        yield node
        return
    if "positive" in links and "negative" in links:  # as ControlNet's: its outputs are in the order of its inputs
        links = {"": links["negative" if output == 1 else "positive"]}
    named = [at for key, at in links.items() if key.startswith(("cond", "positive"))]
    for at in named or [at for key, at in links.items() if key not in OTHERS]:
        yield from _encoders(graph, at, seen)


def _texts(graph: Mapping, encoder: str) -> Iterator[str]:
    """The texts that a node encodes."""
    inputs = inputs_of(graph, encoder)
    names = [name for name in TEXTS if name in inputs]
    for name in names[:1] if "populated_text" in names else names:
        yield from _text(graph, inputs[name], set())


def _text(graph: Mapping, value: object, seen: set) -> Iterator[str]:
    """A text, or that of the node it comes from, where that only holds texts, or joins them; what a node makes of its
    texts while it runs, by replacing, choosing or asking a model, nobody knows."""
    if isinstance(value, str):
        yield value
    elif is_link(value) and value[0] not in seen:
        inputs = {key: at for key, at in _chosen(graph, inputs_of(graph, value[0])).items()
                  if not key.startswith("preview")}  # what a preview last showed
        if len(inputs) == 1 and set(BRANCHES) & set(inputs):
            yield from _text(graph, next(iter(inputs.values())), seen | {value[0]})
            return
        if "populated_text" in inputs:  # a wildcard node's, filled in before it was queued
            inputs = {"populated_text": inputs["populated_text"]}
        names = [name for name in TEXTS if name in inputs]
        others = [at for key, at in inputs.items() if key not in (*names, "delimiter")]
        reroute = not names and len(others) == 1 and is_link(others[0])
        if "seed" in inputs or not reroute and any(is_link(at) or isinstance(at, str) for at in others):
            return
        found = [list(_text(graph, inputs[name], seen | {value[0]})) for name in names] or \
            [list(_text(graph, at, seen | {value[0]})) for at in others]
        if found and all(found):
            delimiter = inputs.get("delimiter", ", ")
            yield (delimiter if isinstance(delimiter, str) else ", ").join(filter(None, (part for part, in found)))
