"""How a text reaches the denoiser of a modular pipeline: recorded from a call that ends there, mixed, and handed on.

An argument of that call is known by its name; "added_cond_kwargs/text_embeds" is an item of a dictionary.
"""
from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager
from functools import wraps
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError
from ..core.method.conditioning import (
    Encoded, check_groups, length, mean, mixed_rows, shifted_rows, together, union,
)
from ..core.method.direction import group_texts
from .call import per_prompt
from .hook import in_front

Parts = dict[str, Any]  # of a denoiser's call, by the argument's name


class Texts:
    """A prompt, the empty one and the groups of all attributes, each as the denoiser's call has it.

    encoded   their mixable parts; `rest` holds what no weights can mix (masks, positions), by text
    """

    def __init__(self, record: Callable[[str], Parts], prompt: str, attributes: Sequence[Attribute], context: str,
                 subject: str = ""):
        groups = [[record(text) for text in group_texts(group.texts, prompt, context, subject)]
                  for attribute in attributes for group in attribute.groups]
        prompt_parts = record(prompt)
        every = [prompt_parts, record(""), *(text for group in groups for text in group)]
        self.names = [name for name in prompt_parts if not all(_alike(prompt_parts[name], one[name]) for one in every)]
        if not self.names:
            raise DebiasError("All texts read the same to this pipeline, so nothing can be steered. Describe the "
                              "groups differently.")
        mixed = [name for name in self.names if tensor_of(prompt_parts[name]).is_floating_point()
                 and len(tensor_of(prompt_parts[name])) == 1]
        self.masks = [name for name in self.names if name not in mixed and tensor_of(prompt_parts[name]).ndim == 2
                      and len(prompt_parts[name]) == 1]
        # The dimension in which texts differ in length comes where core looks for it.
        self.axes = {name: _axis([tensor_of(one[name]) for one in every]) for name in mixed}
        self.prompt, self.groups = prompt_parts, [max(g, key=self._size) for g in groups]
        means = {name: [mean([self._moved(name, text) for text in group]) for group in groups] for name in mixed}
        self.encoded = Encoded({name: self._moved(name, prompt_parts) for name in mixed},
                               {name: together(part) for name, part in means.items()})
        check_groups(self.encoded.groups, attributes)
        self.tokens = max(mixed, key=lambda name: length(self.encoded.prompt[name]))

    def shifted(self, attributes: Sequence[Attribute], weights: Tensor, context: str) -> list[Parts | None]:
        """The prompt, moved by weights [B, n]; None where they are zero."""
        rows = shifted_rows(self.encoded, attributes, weights, context)
        return [self._whole(row, [self.prompt], a) if a.any() else None for row, a in zip(rows, weights, strict=True)]

    def mixed(self, anchor: Parts, weights: Tensor) -> Parts:
        """Another text, moved toward the groups by weights [1, n]."""
        row, = mixed_rows([{name: self._moved(name, anchor) for name in self.axes}], self.encoded, weights)
        return self._whole(row, [anchor], weights[0])

    def _whole(self, parts, anchors: list[Parts], weights: Tensor) -> Parts:
        used = anchors + [self.groups[i] for i in weights.nonzero().flatten().tolist()]
        largest: Parts = max(used, key=self._size)
        text = dict(largest)
        for name in self.masks:
            text[name] = union([own[name] for own in used]).to(text[name])
        return self._put(text, parts)

    def _put(self, text: Parts, parts) -> Parts:
        for name, part in parts.items():
            like = tensor_of(text[name])
            made = part.to(like).movedim(-2, self.axes[name]) if self.axes[name] else part.to(like)
            text[name] = [made[0]] if isinstance(text[name], list) else made
        return text

    def _moved(self, name: str, text: Parts) -> Tensor:
        part = tensor_of(text[name])
        return part.movedim(self.axes[name], -2) if self.axes[name] else part

    def _size(self, text: Parts) -> int:
        return max(tensor_of(text[name]).numel() for name in self.names)


class _Recorded(BaseException):
    """Ends a call at its denoiser; no Exception, which the blocks would report as an error."""

    def __init__(self, call: dict):
        self.call = call


def recorder(pipe, call: Callable[..., Any], given: dict) -> Callable[[str], Parts]:
    """What the pipeline hands its denoiser for a text, of one image, in a call with the arguments `given`."""
    own = {name: value for name, value in given.items() if name not in ("prompt", "negative_prompt", "output")}
    for name in ("prompt_2", "prompt_3"):
        own.pop(name, None)
    if isinstance(own.get("latents"), Tensor):
        own["latents"] = own["latents"][:1]
    own[per_prompt(pipe)] = 1
    known: dict[str, Parts] = {}

    def stop(forward, denoiser_call: dict):
        raise _Recorded(denoiser_call)

    def record(text: str) -> Parts:
        if text not in known:
            scheduler, pipe.scheduler = pipe.scheduler, copy.copy(pipe.scheduler)
            own["generator"] = torch.Generator("cpu").manual_seed(0)
            try:
                with fronted(denoiser_of(pipe), stop), silent(pipe):
                    call(pipe, **own, prompt=text)
            except _Recorded as found:
                known[text] = flat_of(found.call)
            finally:
                pipe.scheduler = scheduler
        if text not in known:
            raise DebiasError(f"{type(pipe).__name__} calls no denoiser for a text, so its images cannot be steered. "
                              "Give the prompt as text.")
        return known[text]

    return record


def denoiser_of(pipe) -> torch.nn.Module:
    module = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if module is None:
        raise DebiasError(f"Cannot guide {type(pipe).__name__}: expected pipe.unet or pipe.transformer. Load its "
                          "components first: pipe.load_components().")
    return module


@contextmanager
def fronted(module: torch.nn.Module, answer: Callable[[Callable, dict], Any]) -> Iterator[None]:
    """answer(forward, call by names) in front of a module; blocks go on reading the arguments of its forward."""
    network = getattr(module, "_orig_mod", module)
    parameters = list(inspect.signature(type(network).forward).parameters)[1:]

    def make(forward):
        @wraps(type(network).forward)
        def called(*args, **kwargs):
            return answer(forward, dict(zip(parameters, args), **kwargs))
        called.__signature__ = inspect.signature(network.forward)
        return called

    with in_front(module, make):
        yield


@contextmanager
def silent(pipe) -> Iterator[None]:
    """Without progress bars, which blocks inside of blocks have, too."""
    found, blocks = [], [pipe._blocks]  # `pipe.blocks` is a copy
    while blocks:
        block = blocks.pop()
        blocks += getattr(block, "sub_blocks", {}).values()
        if hasattr(block, "progress_bar"):
            found.append((block, block.__dict__.get("_progress_bar_config")))
            block._progress_bar_config = dict(disable=True)
    try:
        yield
    finally:
        for block, before in found:
            if before is None:
                del block._progress_bar_config
            else:
                block._progress_bar_config = before


def flat_of(call: Mapping, head: str = "") -> Parts:
    flat: Parts = {}
    for name, value in call.items():
        flat.update(flat_of(value, f"{head}{name}/") if isinstance(value, dict) and value else {f"{head}{name}": value})
    return flat


def nested(flat: Parts) -> dict:
    call: dict = {}
    for name, value in flat.items():
        *dictionaries, last = name.split("/")
        inner = call
        for each in dictionaries:
            inner = inner.setdefault(each, {})
        inner[last] = value
    return call


def tensor_of(value) -> Tensor:
    """A part [1, ...] of one image, which some pipelines have as a list of one."""
    return value[0][None] if isinstance(value, list) else value


def by_image(one) -> bool:
    """Has an argument, seen in a call for one image, one item for each of them?"""
    return isinstance(one, list) and len(one) == 1 or isinstance(one, Tensor) and one.ndim > 0 and len(one) == 1


def rows_of(value, one, images: Sequence[int], batch: int):
    """An argument for some images of a batch; `one` is the same argument in a call for one image."""
    if not by_image(one) or len(value) != batch:
        return value
    rows = [value[i] for i in images]  # an index would be copied to the device in every step
    return rows if isinstance(value, list) else torch.stack(rows)


def row_of(value, one, image: int, batch: int):
    return rows_of(value, one, [image], batch)


def joined(parts: list, one):
    if not by_image(one):
        return parts[0]
    return [part[0] for part in parts] if isinstance(one, list) else torch.cat(parts)


def _alike(one, other) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and one == other


def same(one: dict, other: dict, but: str) -> bool:
    return all(value is other.get(name) for name, value in one.items() if name != but)


def _axis(tensors: Sequence[Tensor]) -> int:
    """The dimension in which texts differ in length; 0 where it already is where core looks, or none differs."""
    first = tensors[0].shape
    differ = {i for other in tensors for i, (a, b) in enumerate(zip(first, other.shape)) if a != b}
    if len(differ) > 1:
        raise DebiasError("This pipeline's texts differ in more than their length, so they cannot be mixed.")
    axis = differ.pop() if differ else 0
    return 0 if axis == len(first) - 2 else axis
