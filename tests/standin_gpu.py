"""A stand-in for a GPU, for machines without one.

Tensors compute on the CPU and say that they are on `cuda`. As on a card, a tensor of the card and
one of the CPU do not mix, and what makes the host wait for the card is counted with its place.

    card = Card(watched=folder)           # waits and copies are counted for code below this folder
    with card:
        card.put(module)                  # a module's parameters and buffers are on the card
        x = torch.randn(2, 3).to("cuda")  # x.device is cuda:0
    card.waits                            # Counter of (what, file, line, step)

A double calls `card.begin(step)` as a sampler's step begins, and with None behind the last one.
`card.kernel(f)` stands for a host's own code: its tensors must all be on the card; how it computes
is its own matter.
"""
from __future__ import annotations

import collections
import sys
from pathlib import Path
from typing import Any, Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
MAKERS = {"arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "ones", "rand", "randint",
          "randn", "randperm", "tensor", "zeros"}
LIKE = {"empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like",
        "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"}
# What reads a tensor's values, so that the host waits until the card has computed them.
READS = {"__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal",
         "is_nonzero", "item", "masked_select", "nonzero", "tolist", "unique"}
INDEXES = {"__getitem__", "__setitem__"}


class Card(TorchFunctionMode):
    """The stand-in; active inside `with`."""

    def __init__(self, watched: Path):
        super().__init__()
        self.watched = str(watched)
        self.waits: collections.Counter = collections.Counter()
        self.step: int | None = None

    def begin(self, step: int | None) -> None:
        """A sampler's step begins, counted from 0; None: sampling has ended."""
        self.step = step

    def again(self) -> list[str]:
        """Waits and copies that come in more than one step: what is moved once a run is not among
        them."""
        steps = collections.defaultdict(set)
        for what, file, line, step in self.waits:
            if step is not None:
                steps[f"{what} ({file}:{line})"].add(step)
        return sorted(place for place, seen in steps.items() if len(seen) > 1)

    def put(self, module: torch.nn.Module) -> torch.nn.Module:
        """A module on the card; its numbers stay where they are."""
        for part in module.modules():
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None:
                    tensor._on_card = True
        return module

    def kernel(self, function: Callable) -> Callable:
        """A host's own code on the card."""
        def launched(*args, **kwargs):
            _check_together(function.__name__, [t for t in tree_leaves((args, kwargs)) if _is(t)])
            with torch._C.DisableTorchFunction():
                return _marked(function(*args, **kwargs))
        return launched

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", str(function))
        if name == "__get__":
            return _read_attribute(function, args)
        if name in ("to", "cuda", "cpu", "type_as"):
            return self._moved(name, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if _is(leaf)]
        device = kwargs.get("device")
        if name in MAKERS | LIKE and device is not None:
            if torch.device(device).type != "cuda":
                return function(*args, **kwargs)
            if name in ("tensor", "as_tensor", "asarray"):
                self._count("copy to the card")
            return _marked(function(*args, **{**kwargs, "device": "cpu"}))
        if not any(map(_on_card, tensors)):
            return function(*args, **kwargs)
        self._check(name, args, tensors)
        result = function(*args, **kwargs)
        if name == "__iter__":
            return iter(_marked(list(result)))
        return result if name in READS else _marked(result)

    def _check(self, name: str, args: tuple, tensors: list) -> None:
        """Raises what a card raises, and counts what waits for it."""
        if name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu().")
        if name in READS:
            self._count(f"wait: {name}")
        if name in INDEXES:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            rows = [leaf for leaf in tree_leaves(args[1]) if _is(leaf)]
            if any(isinstance(index, list) for index in indices):
                self._count("copy to the card")
            if any(row.dtype in (torch.bool, torch.uint8) for row in rows):
                self._count(f"wait: {name} by a mask")
            elif not all(map(_on_card, rows)):
                self._count("copy to the card")  # a card takes indices from the host, and copies
            tensors = [args[0], *args[2:]]
        if name != "copy_":
            _check_together(name, [tensor for tensor in tensors if _is(tensor)])

    def _moved(self, name: str, args: tuple, kwargs: dict) -> torch.Tensor:
        """A tensor's `to` and its like: on which side of the border it ends."""
        tensor, rest = args[0], list(args[1:])
        there = _on_card(tensor)
        goes = {"cuda": True, "cpu": False}.get(name, there)
        kept: list[Any] = []
        for given in rest if name == "to" or name == "type_as" else []:
            if _is(given):
                goes = _on_card(given)
                kept.append(given.dtype)
            elif isinstance(given, (str, torch.device)):
                goes = torch.device(given).type == "cuda"
            else:
                kept.append(given)
        if kwargs.get("device") is not None:
            goes = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "memory_format")}
        result = torch.Tensor.to(tensor, *kept, **kwargs) if kept or kwargs else tensor
        if goes != there:
            self._count("copy to the card" if goes else "wait: copy from the card")
            if result is tensor:
                result = tensor.detach().clone()
        result._on_card = goes
        return result

    def _count(self, what: str) -> None:
        """Count it where watched code asked for it; what libraries and hosts ask for is theirs."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if file != __file__ and "/torch/" not in file:
                break
            frame = frame.f_back
        own = frame is not None and file.startswith(self.watched)
        if own and "/tests/" not in file and "/site-packages/" not in file:
            place = str(Path(file).relative_to(self.watched))
            self.waits[what, place, frame.f_lineno, self.step] += 1


def _is(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _on_card(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "_on_card", False)


def _marked(result: Any) -> Any:
    def mark(tensor: torch.Tensor) -> torch.Tensor:
        tensor._on_card = True
        return tensor
    return tree_map_only(torch.Tensor, mark, result)


def _check_together(name: str, tensors: list[torch.Tensor]) -> None:
    """Raises RuntimeError where tensors of both sides meet; a number of the CPU may join any."""
    if any(map(_on_card, tensors)) and not all(_on_card(t) or t.ndim == 0 for t in tensors):
        found = ", ".join(f"{'cuda' if _on_card(t) else 'cpu'} {list(t.shape)}" for t in tensors)
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two "
                           f"devices, cuda:0 and cpu! ({name}: {found})")


def _read_attribute(function, args: tuple) -> Any:
    """A tensor's attribute: where it is, or a tensor beside it, such as `.T`."""
    tensor, name = args[0], getattr(function.__self__, "__name__", "")
    if not _on_card(tensor):
        return function(*args)
    told = {"device": CUDA, "is_cuda": True, "is_cpu": False}
    return told[name] if name in told else _marked(function(*args))
