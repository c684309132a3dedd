"""Pictures of a folder, of whatever sizes, for Debias Audit."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths
import torch
from PIL import Image

from ..core.study.folder import ENDINGS, Opened, leads_out, opened
from ..core.errors import DebiasError, quoted
from ..core.files import below
from . import messages
from .images import to_tensor


MOST, SIZE = 10_000, 512  # pictures; pixels of the longer side, of which judges see 224 to 384


def files(folder: str, most: int) -> list[Path]:
    """The folder's pictures by name, the first `most`. Raises DebiasError for a folder outside of `input`, or for none.
    """
    root = Path(folder_paths.get_input_directory()).resolve()
    path = below(root, folder.strip())
    if path is None or not os.path.isdir(path):
        raise DebiasError(f"There is no folder {quoted(folder)} in {messages.place(root)}. Make it, put pictures "
                          "there, and queue again.")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())[:most]
    if not found:
        raise DebiasError(f"The folder {messages.place(path)} holds no pictures ({', '.join(ENDINGS)}). Put "
                          f"some there, or choose another folder.")
    return found


def load(folder: str, node: str | None, most: int = MOST, size: int = SIZE) -> list[torch.Tensor]:
    """The folder's pictures, one batch [N, H, W, 3] per size; larger ones are scaled down to `size`.
    Raises DebiasError."""
    batches: dict[tuple[int, int], list[torch.Tensor]] = {}
    broken = []
    for file in files(folder, most):
        out = leads_out(Path(folder_paths.get_input_directory()), file)
        found = Opened(None, "it is a link that leads out of the folder") if out else opened(file, size)
        if found.image is None:
            broken.append(f"Warning: {file.name} could not be read: {found.note}")
            continue
        picture = Image.fromarray(found.image)
        batches.setdefault(picture.size, []).append(to_tensor(picture))
    if not batches:
        raise DebiasError(f"None of the {len(broken)} pictures could be read. {broken[0]}. Save them again.")
    if broken:
        messages.say(node, "\n".join(broken), warning=True)
    return [torch.cat(batch) for batch in batches.values()]


def changed(folder: str) -> str:
    """Another text once a picture of the folder is another one."""
    known = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files(folder, MOST)]
    return hashlib.sha256(repr(known).encode()).hexdigest()
