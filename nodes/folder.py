"""A folder of ComfyUI's input, for Debias Audit."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..core.attribute import together
from ..core.calibration.labelled import Labelled
from ..core.errors import DebiasError, quoted, said_as
from ..core.files import below
from ..core.study.folder import FolderAudit, files
from . import messages
from .judge import Judge, checks_of


def place_of(folder: str) -> Path:
    """Raises DebiasError for a folder outside of `input`, or for none."""
    root = Path(folder_paths.get_input_directory()).resolve()
    path = below(root, folder.strip())
    if path is None or not os.path.isdir(path):
        raise DebiasError(f"There is no folder {quoted(folder)} in {messages.place(root)}. Make it, put images "
                          "there, and queue again.")
    return path


def labelled_folder(folder: str, attributes: Sequence, judge: Judge, confidence: float) -> tuple[Labelled, list[str]]:
    """(the folder's images, of whatever sizes, with their labels; those that cannot be read). Raises DebiasError."""
    path, attributes = place_of(folder), together(attributes)
    with said_as(path, messages.place):
        work = FolderAudit(path, attributes, [judge.of(a) for a in attributes], confidence=confidence,
                           checks=checks_of(judge, attributes))
        return work.run(), work.unreadable


def changed(folder: str) -> str:
    """Another text once an image of the folder is another one."""
    with said_as(path := place_of(folder), messages.place):
        known = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files(path)]
    return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()
