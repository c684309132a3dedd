"""What a user should know of a calibration, in sentences."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .plan import CERTAINTY
from .round import AUDIT, HELD_OUT, round_names

if TYPE_CHECKING:
    from .loop import Calibration


def warned(c: Calibration) -> list[str]:
    """The calibration's warnings."""
    found, last = [f"{name}: {r.broken}" for name, r in zip(round_names([r.kind for r in c.rounds]), c.rounds)
                   if r.broken], c.held_out
    found += [said for i, s in enumerate(c.steerings) if not s.probabilities and (said := c.useless(i))]
    found += [f"{name}: {r.left_out}" for name, r in zip(round_names([r.kind for r in c.rounds]), c.rounds)
              if r.kind in (AUDIT, HELD_OUT) and r.left_out]
    found += [warning for own in c.checks if own is not None for warning in own.warnings]
    found += [f"{a.name}: {said}" for i, a in enumerate(c.attributes) if (said := c.doubts(i))]
    if last is None:
        return [*found, "not verified: no images on held-out seeds"]
    looks = sum(r.kind == HELD_OUT for r in c.rounds)
    if looks > 1:
        found.append(f"the verification was repeated, {looks} times, until it passed or no round was left, so its "
                     "figures look better than those of an independent test")
    before, after = c.audit.mean_fidelity, last.mean_fidelity
    if before is not None and after is not None:
        chance = 2 * np.std(last.fidelity) / len(last.seeds) ** 0.5
        if after < before - max(0.02 * abs(before), chance):
            found.append(f"fidelity to the prompt fell from {before:.3f} to {after:.3f}: lower the strength")
    for i, attribute in enumerate(c.attributes):
        if c.plan.within is not None and c.plan.rounds and c.certainty(i) < CERTAINTY:
            found.append(f"{attribute.name} is within {100 * c.plan.within:g} points of its target with "
                         f"{c.certainty(i):.0%} certainty only")
        d = c.distribution(last, i)
        if d.unsure > 0.1 * (d.n + d.unsure):
            found.append(f"{d.unsure} of {d.n + d.unsure} images could not be classified by {attribute.name}")
        if not c.reached(i, last):
            found.append(f"{attribute.name} does not meet its target: KL {d.kl:.4f}, noise floor "
                         f"{c.floor(i, last):.4f}")
    return found
