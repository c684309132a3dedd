"""Judges: which group of an attribute an image shows.

A judge of an attribute with n groups is a callable, `classify(images) -> probabilities`: images as `pictures`
takes them, probabilities float32 [N, n]. A row sums to 1, or is all zeros where the image is left out (no skin found,
none of the mapped labels), or holds `NO_FACE` or `DISAGREED` throughout where that is why. One that looks at faces has
`faces(images)`, how many each image shows, int64 [N], and, where every person counts, `people(images)`, a list of
probabilities [F, n], a row a face. A label is a measurement of an image, not a person's identity.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..errors import DebiasError

UNSURE, NO_FACE, DISAGREED = -1, -2, -3
LEFT_OUT = {UNSURE: "unsure", NO_FACE: "no face", DISAGREED: "judges disagree"}  # labels of images that do not count

Classifier = Callable[[Sequence], np.ndarray]
Pictures = np.ndarray | Sequence[np.ndarray | Image.Image]  # as `pictures` takes them


def pictures(images: Pictures) -> list[np.ndarray]:
    """Images as a list of uint8 RGB arrays [H, W, 3].

    Takes one array [N, H, W, 3], or a list of arrays and PIL images whose sizes may differ. Raises DebiasError for
    anything else: floats are not scaled and channels not moved, because a guess would be a silent one.
    """
    if isinstance(images, Image.Image) or isinstance(images, np.ndarray) and images.ndim != 4:
        came = "one PIL image" if isinstance(images, Image.Image) else f"an array {list(images.shape)}"
        raise DebiasError(f"Expected a batch of images [N, H, W, 3] or a list, got {came}. Wrap one image: [image].")
    arrays = [np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image) for image in images]
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise DebiasError(f"Expected uint8 RGB images [H, W, 3] in 0..255, got {array.dtype} {list(array.shape)}.")
    return arrays


def labels(probabilities: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Most probable group of each image, int64 [N].

    -1 (`UNSURE`) where its probability is below `threshold` in [0, 1], where the row is all zeros, or where two groups
    tie: the first one listed must not win by its place. `NO_FACE` and `DISAGREED` where the row says so. Raises
    DebiasError for anything but finite numbers [N, n].
    """
    p = np.asarray(probabilities)
    if p.ndim != 2 or p.shape[1] == 0 or not np.isfinite(p).all():
        raise DebiasError(f"Expected finite probabilities [N, n], got {p.dtype} "
                          f"{list(p.shape)}{'' if p.ndim != 2 or not p.size else ', some not finite'}.")
    if not 0 <= threshold <= 1:
        raise DebiasError(f"Expected a threshold from 0 to 1, got {threshold}.")
    top = p.max(axis=1, keepdims=True)
    sure = (top[:, 0] > 0) & (top[:, 0] >= threshold) & ((p == top).sum(axis=1) == 1)
    why = np.where(np.isin(top[:, 0], (NO_FACE, DISAGREED)), top[:, 0], UNSURE).astype(np.int64)
    return np.where(sure, p.argmax(axis=1), why)


def name_of(judge: object) -> str:
    """What a judge is called where it is said who labelled the images."""
    return getattr(judge, "name", type(judge).__name__)


def digest(arrays: Sequence[np.ndarray]) -> bytes:
    """What tells a batch of images from others, by their content: judges of several attributes see the same one."""
    found = hashlib.blake2b()
    for array in arrays:
        found.update(repr(array.shape).encode())
        found.update(array.tobytes())
    return found.digest()


def one_colour(image: np.ndarray | Image.Image) -> bool:
    """Are all pixels of an image (uint8 array [H, W, 3] or PIL image) equal? No working model makes such an image:
    overflowing VAEs and safety checkers do, and a judge would name a group for it all the same."""
    if isinstance(image, Image.Image):
        return all(low == high for low, high in _bands(image.getextrema()))
    return isinstance(image, np.ndarray) and image.ndim == 3 and image.size > 0 and bool((image == image[0, 0]).all())


def _bands(extrema: tuple) -> Sequence[tuple]:
    return extrema if isinstance(extrema[0], tuple) else (extrema,)
