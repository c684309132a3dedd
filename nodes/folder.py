"""Debias Load Folder: pictures of a folder, of whatever sizes, to be audited."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image

from ..core.audits.folder import ENDINGS, Opened, leads_out, opened
from ..core.errors import DebiasError, quoted
from ..core.files import below
from . import messages
from .images import to_tensor
from .types import CATEGORY


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


class DebiasLoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasLoadFolder", display_name="Debias Load Folder", category=CATEGORY,
            description="Loads pictures of any size from a folder in ComfyUI's input, for Debias Audit.",
            inputs=[
                io.String.Input("folder", default="", placeholder="pictures", tooltip=(
                    "A folder in ComfyUI's input. Empty: input itself.")),
                io.Int.Input("most", default=1000, min=1, max=100000, tooltip=(
                    "Maximum number of pictures, in the order of their names.")),
                io.Int.Input("size", default=512, min=32, max=4096, tooltip=(
                    "Longer side in pixels; larger pictures are scaled down. Classifiers see 224 to 384 pixels."))],
            outputs=[io.Image.Output(display_name="images", is_output_list=True, tooltip=(
                "The pictures, one batch per size."))],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def fingerprint_inputs(cls, folder="", most=1000, size=512):
        known = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files(folder, most)]
        return hashlib.sha256(repr(known).encode()).hexdigest()

    @classmethod
    def execute(cls, folder="", most=1000, size=512):
        batches, broken = {}, []
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
        count = sum(map(len, batches.values()))
        messages.say(cls.hidden.unique_id, "\n".join([f"{count} pictures", *broken]), warning=bool(broken))
        return io.NodeOutput([torch.cat(batch) for batch in batches.values()])
