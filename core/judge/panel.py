"""A panel: two judges or more, of which an image counts only where they agree."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DebiasError
from . import DISAGREED, UNSURE, Classifier, Pictures, labels, name_of, pictures


class Panel:
    """Several judges of one attribute: the common label if all that are sure agree, `DISAGREED` if they differ.

    An image of which all abstain is unsure. Raises DebiasError for fewer than two judges.
    """

    def __init__(self, judges: Sequence[Classifier]):
        if len(judges) < 2:
            raise DebiasError(f"Expected two judges or more for a panel, got {len(judges)}.")
        self.judges = tuple(judges)
        self.name = f"panel of {' and '.join(map(name_of, judges))}"
        # Judges of a panel that look for faces look for the same ones.
        looking = next((judge for judge in judges if hasattr(judge, "faces")), None)
        if looking is not None:
            self.faces = looking.faces
            self.boxes = getattr(looking, "boxes", None)
        if all(hasattr(judge, "people") for judge in judges):
            self.people = self._people

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities float32 [N, n]: the mean over the judges that are sure, where they agree."""
        arrays = pictures(images)
        return self._agreed([np.asarray(judge(arrays), np.float32) for judge in self.judges])

    def _people(self, images: Pictures) -> list[np.ndarray]:
        every = [judge.people(images) for judge in self.judges]  # type: ignore[attr-defined]
        return [self._agreed(own) for own in zip(*every, strict=True)]

    def _agreed(self, given: Sequence[np.ndarray]) -> np.ndarray:
        probabilities, votes = np.stack(given), np.stack([labels(p) for p in given])
        sure = votes >= 0
        mean = (probabilities * sure[..., None]).sum(0) / np.maximum(sure.sum(0), 1)[:, None]
        differ = np.array([len(set(own[own >= 0])) > 1 for own in votes.T], bool)
        none = ~sure.any(0)
        mean[differ] = DISAGREED
        # Where nobody is sure, the reason is theirs, if they share it: no face.
        mean[none] = np.where(votes.max(0) == UNSURE, 0, votes.max(0))[none, None]
        return mean.astype(np.float32)
