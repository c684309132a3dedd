"""The most memory that tensors take at once, counted on CPUs and graphics cards."""
from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


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
