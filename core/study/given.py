"""Audits of given images, labelled as they are."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ..attribute import Attribute, together
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, Round
from ..calibration.plan import Plan
from .host import boxes_in, seen_by
from ..errors import DebiasError, quoted, short
from ..judge import NO_FACE, Classifier
from ..judge.check import Check, check_same
from ..method.draw import Steering
from ..method.methods import METHODS
from ..calibration.labelled import MOST_THUMBS, Labelled, run_of, thumbnail


def labelled_pictures(images: Sequence[np.ndarray | None], title: str, attributes: Sequence[Attribute],
                      judges: Sequence[Classifier], confidence: float = 0.0, checks: Sequence[Check | None] = ()
                      ) -> Labelled:
    """Labels of images, uint8 [H, W, 3], None for one that is not finite. Raises DebiasError where none is labelled."""
    check_same(judges, checks)
    attributes, seeds = together(attributes), list(range(len(images)))
    plan = Plan(len(images), rounds=0, held_out=0, batch_size=len(images), confidence=confidence)
    r = Round(AUDIT, tuple(Steering.none(len(a.groups)) for a in attributes), tuple(seeds))
    r.extend(Calibration(title, attributes, METHODS["default"], plan, checks=checks).measured(
        r, images, seeds, lambda seen: [judge(seen) for judge in judges], None, None, seen_by(judges), True))
    for i, (own, attribute) in enumerate(zip(r.labels, attributes, strict=True)):
        if all(label == NO_FACE for label in own):
            raise DebiasError(f"The detector found no face in any of the {len(images)} images. Let the judge "
                              "look at whole images, or use another detector.")
        if not r.shows(i):
            raise DebiasError(f"None of the {len(images)} images could be classified by {quoted(attribute.name)}"
                              f"{f' ({r.broken})' if r.broken else ''}. Lower the confidence, or use another "
                              f"judge.")
    keys = [f"image {i} {_digest(image)}" for i, image in enumerate(images, 1)]
    most = min(len(keys), MOST_THUMBS)
    return Labelled(title or "images", attributes, r, keys, run_of("pictures", [[a.name, *a.names] for a in
                                                                                 attributes]),
                    thumbs(keys[:most], images[:most], judges), checks)


def warnings_of(labelled: Labelled, unreadable: Sequence[str] = ()) -> list[str]:
    """What to say of labels: images that do not count, files that could not be read, and what the checks warn of."""
    unread = f"{len(unreadable)} images could not be read: {short('; '.join(unreadable))}" if unreadable else ""
    return [*filter(None, [labelled.round.left_out, labelled.round.broken, unread]),
            *(warning for check in labelled.checks if check for warning in check.warnings)]


def thumbs(keys: Sequence[str], images: Sequence[np.ndarray | None], judges: Sequence[Classifier]) -> dict[str, bytes]:
    """Thumbnails by key of those images that can be shown, with the faces that are labelled."""
    boxes = boxes_in(images, judges)
    return {key: thumbnail(image, own) for key, image, own in zip(keys, images, boxes, strict=True)
            if image is not None}


def _digest(image: np.ndarray | None) -> str:
    return "broken" if image is None else hashlib.blake2b(image.tobytes(), digest_size=4).hexdigest()
