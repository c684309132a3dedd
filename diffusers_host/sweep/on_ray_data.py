"""An audit of very many pictures that are there already, on a Ray cluster, by Ray Data."""
from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...core.audits.folder import FolderAudit, Labeller, Piece
from ...core.audits.labelled import MOST_THUMBS
from .on_ray import ray_module

TOGETHER = 16  # batches of files that travel as one row


@dataclass
class _Labels:
    """What runs on the cluster: one of it a worker, which opens its judges once."""
    opener: Callable[[], Labeller]

    def __post_init__(self) -> None:
        self.labeller = self.opener()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        found = [self.labeller.piece(pickle.loads(files), int(first), max(MOST_THUMBS - int(first), 0))
                 for first, files in zip(batch["first"], batch["files"])]
        return {"first": list(batch["first"]), "piece": [pickle.dumps(piece) for piece in found]}


def labelled_on_ray(audit: FolderAudit, opener: Callable[[], Labeller], gpus: float | None = None) -> Iterator[Piece]:
    """The files that an audit has left, labelled by all workers of the cluster, in order.

    gpus: of each worker; None: 1 where the cluster has GPUs. Blocks of files stream: the driver holds what came out of
    order, never pictures.
    """
    ray, data = ray_module(), import_module("ray.data")
    there = ray.cluster_resources()
    gpus = (1.0 if there.get("GPU") else 0.0) if gpus is None else gpus
    workers = max(int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1)), 1)
    step = audit.batch_size * TOGETHER
    rows = [dict(first=first, files=pickle.dumps(audit.files[first:first + step]))
            for first in range(audit.done, len(audit.files), step)]
    data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    made = data.from_items(rows, override_num_blocks=max(min(len(rows), 1000), 1)).map_batches(
        _Labels, fn_constructor_args=(opener,), batch_size=1, num_gpus=gpus or None, num_cpus=None if gpus else 1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=max(min(workers, len(rows)), 1)))
    waiting, due = {}, audit.done
    for row in made.iter_rows():
        waiting[int(row["first"])] = row["piece"]
        while due in waiting:
            piece: Piece = pickle.loads(waiting.pop(due))
            due += len(piece.keys)
            yield piece
