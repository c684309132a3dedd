"""A measurement as the host's own result: gallery and text."""
from __future__ import annotations

import os
from contextlib import suppress

from ..core.study.unfinished import PARAMETERS
from .calibrating import Result


def processed(p, result: Result):
    """Sheets and charts first, with the result's text; then the pictures, each with its own parameters."""
    from modules import shared
    from modules.processing import Processed
    # Hosts write pictures that they have not saved, such as sheets, into this folder. Forge Neo makes it in its batch
    # file alone: elsewhere nothing would be shown.
    if folder := getattr(shared.opts, "temp_dir", ""):
        with suppress(OSError):  # the host says so, where it needs it
            os.makedirs(folder, exist_ok=True)
    text, pictures = f"{result.text}\n  first seed {p.seed}", len(result.seeds)
    sheets = len(result.images) - pictures
    texts = [text] * sheets + [picture.info.get(PARAMETERS) or f"{text}\nSeed: {seed}" for picture, seed in
                               zip(result.images[sheets:], result.seeds, strict=True)]
    return Processed(p, result.images, seed=p.seed, info=text, infotexts=texts, index_of_first_image=0)
