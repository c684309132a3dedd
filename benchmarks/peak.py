"""The most memory that tensors take at once, counted on CPUs and graphics cards."""
from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only


class Peak(TorchDispatchMode):
    """`most`: the bytes of the tensors made inside that live at once, at the most, as the operators return them."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in before and key not in self.known:
                self.known.add(key)
                self.now += size
                weakref.finalize(storage, self._freed, key, size)
        self.most = max(self.most, self.now)
        return made

    def restart(self) -> None:
        self.most = self.now

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _tensors(values) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


@contextmanager
def without_contents(module: nn.Module) -> Iterator[None]:
    """Within it, the module makes its tensors without computing them, so that those of any size are soon counted, and
    answers with zeros. Its attention makes its result alone, as fused kernels do. Its weights are gone afterwards."""
    inner, attention = module.forward, nn.functional.scaled_dot_product_attention
    module.to("meta")

    def forward(*args, **kwargs):
        with _disable_current_modes():  # what it is given is counted where it is
            args, kwargs = tree_map_only(torch.Tensor, lambda given: given.to("meta"), (args, kwargs))
        nn.functional.scaled_dot_product_attention = _fused
        try:
            made = inner(*args, **kwargs)
        finally:
            nn.functional.scaled_dot_product_attention = attention
        return tree_map_only(torch.Tensor, lambda one: torch.zeros(one.shape, dtype=one.dtype), made)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_, **__) -> torch.Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


class CudaPeak:
    """The same of a graphics card's memory."""

    def __enter__(self):
        torch.cuda.synchronize()
        self.there = torch.cuda.memory_allocated()
        self.restart()
        return self

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *_) -> None:
        torch.cuda.synchronize()
        self.most = torch.cuda.max_memory_allocated() - self.there
