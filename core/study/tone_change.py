"""How a pass over an image changed the skin's colour, the light's own change taken away."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from ..judge.skin_tone import cielab, skin_colour, skin_mask, typology_angle

LEAST = 0.05  # share of an image that must be no skin, to tell the light from it
FELT = 2.0    # degrees; a smaller change is none


def tone_change(before: np.ndarray, after: np.ndarray) -> float | None:
    """Degrees of ITA by which skin is lighter (above 0) or darker in `after` than in `before`, uint8 RGB [H, W, 3] of
    one size.

    The median change of what is skin in neither, in CIELAB, counts as the light's, and is taken off the skin of
    `after`. None where too little is skin, or all is.
    """
    was, now = cielab(before), cielab(after)
    surroundings = ~(skin_mask(was) | skin_mask(now))
    colours = skin_colour(before), skin_colour(after)
    if colours[0] is None or colours[1] is None or surroundings.mean() < LEAST:
        return None
    light = np.median((now - was)[surroundings], axis=0)
    return float(typology_angle(colours[1] - light) - typology_angle(colours[0]))


def in_words(changes: Sequence[float]) -> str:
    """What changes in degrees say together, with the sign test (Arbuthnot 1710) of whether one way is commoner."""
    lighter, darker = (sum(sign * change > FELT for change in changes) for sign in (1, -1))
    p = float(binomtest(lighter, lighter + darker).pvalue) if lighter + darker else 1.0
    verdict = "more than chance explains" if p < 0.05 else "chance can explain it"
    return (f"Skin colour (ITA), light corrected by the surroundings: of {len(changes)} pairs {lighter} are lighter, "
            f"{darker} darker, {np.median(changes):+.1f} degrees in the median: {verdict} (sign test, p = {p:.2g}).")
