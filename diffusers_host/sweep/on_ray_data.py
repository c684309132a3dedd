"""An audit of very many pictures that are there already, on a Ray cluster, by Ray Data."""
from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.audits.folder import FolderAudit, Labeller, Piece
from ...core.audits.labelled import MOST_THUMBS
from ...core.errors import DebiasError, quoted, short
from ...core.version import VERSION
from .on_ray import ray_module

TOGETHER = 16  # batches of files that travel as one row


@dataclass
class _Labels:
    """What runs on the cluster: one of it a worker, which opens its judges once."""
    opener: Callable[[], Labeller]
    batch_size: int
    version: str

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise DebiasError(f"sd-debias {VERSION} is installed on a node, but the driver has {self.version}")
        self.labeller = self.opener()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        rows = [pickle.dumps(self._pieces(int(first), pickle.loads(files)))
                for first, files in zip(batch["first"], batch["files"])]
        return {"first": list(batch["first"]), "pieces": rows}

    def _pieces(self, first: int, files: list[Path]) -> list[Piece]:
        return [self.labeller.piece(files[at:at + self.batch_size], first + at, max(MOST_THUMBS - first - at, 0))
                for at in range(0, len(files), self.batch_size)]


def labelled_on_ray(audit: FolderAudit, opener: Callable[[], Labeller], gpus: float | None = None) -> Iterator[Piece]:
    """The files that an audit has left, labelled by all workers of the cluster, in order.

    gpus: of each worker; None: 1 where the cluster has GPUs. Blocks of files stream: the driver holds what came out of
    order, never pictures. Raises DebiasError where a node does not see the folder, or cannot open the judges.
    """
    ray, data = ray_module(), import_module("ray.data")
    there = ray.cluster_resources()
    gpus = (1.0 if there.get("GPU") else 0.0) if gpus is None else gpus
    workers = max(int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1)), 1)
    step = audit.batch_size * TOGETHER
    files = [file.resolve() for file in audit.files]
    rows = [dict(first=first, files=pickle.dumps(files[first:first + step]))
            for first in range(audit.done, len(audit.files), step)]
    data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    made = data.from_items(rows, override_num_blocks=max(min(len(rows), 1000), 1)).map_batches(
        _Labels, fn_constructor_args=(opener, audit.batch_size, VERSION), batch_size=1, num_gpus=gpus or None,
        num_cpus=None if gpus else 1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=max(min(workers, len(rows)), 1)))
    waiting, due = {}, audit.done
    try:
        for row in made.iter_rows():
            waiting[int(row["first"])] = row["pieces"]
            while due in waiting:
                pieces: list[Piece] = pickle.loads(waiting.pop(due))
                for piece in pieces:
                    _check_seen(piece, files[due:])
                    due += len(piece.keys)
                    yield piece
    except ray.exceptions.RayError as error:
        why = str(getattr(error, "cause", None) or error).strip().splitlines()
        raise DebiasError(f"The pictures could not be labelled on the cluster: {short(why[-1] if why else error)}. "
                          "Does every node have this package, the judges and the folder, at the same paths?") from error


def _check_seen(piece: Piece, files: list[Path]) -> None:
    gone = [file for key, file in zip(piece.keys, files) if key.endswith(" gone") and file.exists()]
    if gone:
        raise DebiasError(f"A node of the cluster cannot find {quoted(gone[0].name)}, which exists. Put the folder "
                          "where all nodes find it at the same path.")
