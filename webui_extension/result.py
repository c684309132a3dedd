"""A measurement as the host's own result: gallery and text."""
from __future__ import annotations

from .calibrating import Result


def processed(p, result: Result):
    """Sheets and charts first, then the pictures."""
    from modules.processing import Processed
    pictures = len(result.seeds)
    sheets = len(result.images) - pictures
    texts = [result.text] * sheets + [f"{result.text}\nSeed: {seed}" for seed in result.seeds]
    return Processed(p, result.images, seed=p.seed, info=result.text, infotexts=texts, index_of_first_image=0)
