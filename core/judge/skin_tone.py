"""Skin tone from colour alone: the individual typology angle (Chardon et al. 1991; classes of Del Bino et al. 2006).

ITA = atan2(L* - 50, b*) in degrees; 55, 41, 28, 10 and -30 cut it into six classes, by convention named Fitzpatrick
I-VI. It measures the light on the skin as well as the skin, and drawings follow their artist's palette: state own
`cutoffs` for a domain where they are known. The Monk scale is another one and not interchangeable.
"""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ..attribute import Attribute
from ..errors import DebiasError, quoted, short
from . import Pictures, pictures
from .faces import Detector, Faces
from .faces import detector as faces_detector

# By number of groups; merging neighbours (I with II ...) drops the cut-off between them.
CUTOFFS = {6: (55.0, 41.0, 28.0, 10.0, -30.0), 5: (41.0, 28.0, 10.0, -30.0), 3: (41.0, 10.0)}
FACES = ("auto", "off")
LEAST_SKIN = 0.02  # share of a face or image, weighted as in `skin_colour`; below it an image is left out

# sRGB (IEC 61966-2-1) to XYZ. White is the sum of each row, so that greys have a* = b* = 0 exactly.
SRGB_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                        [0.0193339, 0.1191920, 0.9503041]])
_coded = np.arange(256) / 255
LINEAR = np.where(_coded <= 0.04045, _coded / 12.92, ((_coded + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2 degrees) of uint8 sRGB [..., 3]: float64, L* in 0..100."""
    xyz = LINEAR[rgb] @ SRGB_TO_XYZ.T / SRGB_TO_XYZ.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def typology_angle(lab: np.ndarray) -> np.ndarray:
    """ITA in degrees of CIELAB colours [..., 3]; above 90 or below -90 where b* is negative."""
    return np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))


def skin_mask(lab: np.ndarray) -> np.ndarray:
    """Where CIELAB colours [..., 3] may be skin, by hue and chroma: red-orange to yellow-orange, not grey nor vivid.

    Hue tells skin from most other things and barely changes with its lightness, so lightness only rules out black and
    white: the rule holds for very dark skin too. Wood, sand and brown hair pass it as well. The limits are our own.
    """
    lightness, a, b = np.moveaxis(lab, -1, 0)
    hue, chroma = np.degrees(np.arctan2(b, a)), np.hypot(a, b)
    return (15 < lightness) & (lightness < 96) & (8 < chroma) & (chroma < 40) & (25 < hue) & (hue < 83)


def skin_colour(rgb: np.ndarray) -> np.ndarray | None:
    """CIELAB [3] of the most common skin colour of a uint8 RGB image or face [H, W, 3]; None where too little is.

    Pixels count by a Gaussian about the centre, a fifth of each side wide, since people and faces stand in the middle
    and hair around them. The fullest cell of a smoothed histogram tells which colours are the skin's, so that brown
    hair or wood do not count; the median of what is near it then weighs light and shade of that skin alike.
    """
    rgb = rgb[::-(-rgb.shape[0] // 192), ::-(-rgb.shape[1] // 192)]  # some 100 to 192 pixels a side are enough
    y, x = (np.linspace(-0.5, 0.5, side) if side > 1 else np.zeros(1) for side in rgb.shape[:2])
    weight = np.exp(-(y[:, None] ** 2 + x ** 2) / (2 * 0.2 ** 2))
    lab = cielab(rgb)
    mask = skin_mask(lab)
    if weight[mask].sum() < LEAST_SKIN * weight.sum():
        return None
    skin, cell = lab[mask], 4
    histogram, edges = np.histogramdd(skin, weights=weight[mask], bins=[np.arange(-cell, 104 + cell, cell),
                                      np.arange(-cell, 40 + 2 * cell, cell), np.arange(-cell, 40 + 2 * cell, cell)])
    for axis in range(3):
        histogram = np.roll(histogram, 1, axis) + 2 * histogram + np.roll(histogram, -1, axis)
    fullest = np.unravel_index(histogram.argmax(), histogram.shape)
    colour = np.array([edge[i] + cell / 2 for edge, i in zip(edges, fullest, strict=True)])
    for _ in range(3):
        near = np.linalg.norm(skin - colour, axis=1) < 25
        colour = _median(skin[near], weight[mask][near])
    return colour


def _median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median [D] of values [M, D]."""
    order = values.argsort(axis=0)
    below = weights[order].cumsum(axis=0)
    middle = (below >= below[-1] / 2).argmax(axis=0)
    return np.take_along_axis(values, np.take_along_axis(order, middle[None], axis=0), axis=0)[0]


class SkinTone:
    """Classifies skin tone by ITA.

    attribute  groups from light to dark: `SKIN_TONE`, `SKIN_TONE_5`, `SKIN_TONE_3`, or any with own `cutoffs`
    cutoffs    falling angles in degrees, one fewer than groups; None: those of Del Bino for 6, 5 or 3 groups
    faces      "auto": the largest face where a detector is installed and finds one, else the whole image;
               "off": the whole image, alike on every machine
    detector   callable, uint8 RGB [H, W, 3] -> boxes (x, y, width, height) in pixels; None: that of `faces.detector`

    `margin`, that of a face's cut where a judge of faces uses it: skin is the face's alone.

    Raises DebiasError for cut-offs that do not fit.
    """

    margin = 0.0

    def __init__(self, attribute: Attribute, *, cutoffs: Sequence[float] | None = None, faces: str = "auto",
                 detector: Detector | None = None):
        n = len(attribute.groups)
        if cutoffs is None and n not in CUTOFFS:
            raise DebiasError(f"Skin tone has cut-offs for 6, 5 or 3 groups, but {quoted(attribute.name)} has {n}. "
                              f"Give `cutoffs`.")
        self.cutoffs = np.array(CUTOFFS[n] if cutoffs is None else cutoffs, dtype=float)
        if self.cutoffs.shape != (n - 1,) or not np.isfinite(self.cutoffs).all() or (np.diff(self.cutoffs) >= 0).any():
            raise DebiasError(f"{quoted(attribute.name)} needs {n - 1} falling cut-offs in degrees, from light to "
                              f"dark, got {short(self.cutoffs.tolist())}.")
        if faces not in FACES:
            raise DebiasError(f"Expected faces to be one of {', '.join(FACES)}, got '{faces}'.")
        if faces != "off" and detector is None:
            with suppress(DebiasError):  # none is installed
                detector = faces_detector()
        self.attribute, self.detector = attribute, None if faces == "off" else detector
        self.name = "ITA of faces" if self.detector else "ITA of images"

    def angles(self, images: Pictures) -> np.ndarray:
        """ITA of each image in degrees, float64 [N]; NaN where no skin is found."""
        colours = (self._colour(rgb) for rgb in pictures(images))
        return np.array([np.nan if colour is None else typology_angle(colour) for colour in colours], dtype=float)

    def __call__(self, images: Pictures) -> np.ndarray:
        """One-hot float32 [N, n]: an angle is no probability. Zeros where `angles` is NaN."""
        angles = self.angles(images)
        group = (angles[:, None] <= self.cutoffs).sum(axis=1)
        one_hot = np.eye(len(self.attribute.groups), dtype=np.float32)[group]
        return np.where(np.isnan(angles)[:, None], np.float32(0), one_hot)

    def _colour(self, rgb: np.ndarray) -> np.ndarray | None:
        boxes = Faces(self.detector).boxes([rgb])[0] if self.detector else []
        if boxes:
            x, y, width, height = boxes[0]
            rgb = rgb[y:y + height, x:x + width]
        return skin_colour(rgb)
