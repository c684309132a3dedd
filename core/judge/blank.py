"""What a judge says of images that show nobody: one of a single grey, and grey noise."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attribute import Attribute
from ..errors import quoted, short
from . import Classifier

SURE = 0.9  # a judge that is so sure of a group on all of them sees something else than persons


def sure_of_nothing(classify: Classifier, attribute: Attribute) -> str:
    """The group that a judge is sure of where nobody is shown, in a sentence; "" where it is sure of none."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1)).repeat(3, axis=3)
    grey = np.full((1, 64, 64, 3), 128)
    p = np.asarray(classify(list(np.concatenate([grey, noise]).astype(np.uint8))))
    if p.shape != (4, len(attribute.groups)) or not (p.max(1) >= SURE).all() or len(set(p.argmax(1).tolist())) > 1:
        return ""
    name = attribute.names[int(p.argmax(1)[0])]
    return (f"the judge of {quoted(short(attribute.name))} is {p.max(1).min():.0%} sure of {quoted(short(name))} on "
            "images of grey and of noise, which show nobody. Its labels count only for images that show somebody")


def warnings(classifiers: Sequence[Classifier], attributes: Sequence[Attribute]) -> list[str]:
    """`sure_of_nothing` of every attribute's judge, but for those that look for faces: they find none there."""
    return [said for classify, attribute in zip(classifiers, attributes) if not hasattr(classify, "faces")
            and (said := sure_of_nothing(classify, attribute))]
