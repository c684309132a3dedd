"""Check judges on the user's own model: images of prompts that state the group, and what the judges say of them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..attribute import Attribute, together
from ..errors import DebiasError
from ..judge import UNSURE, name_of
from ..judge.check import Check
from ..calibration.labelled import Labelled, corrected
from ..judge.panel import Panel
from ..method.direction import group_texts
from ..method.methods import METHODS
from ..prompts.syntax import subject_of
from ..calibration.loop import Calibration
from .outcome import Outcome
from ..calibration.plan import Plan
from .host import Host
from .runner import measure
from .unfinished import Unfinished

PROMPT = "a photo of a person"
COUNT = 50  # images of each group: a judge that is right in 90 % is known within 8 points


def check_judges(host: Host, prompts: Sequence[str], attributes: Sequence[Attribute], count: int, batch_size: int,
                 seed: int = 0, confidence: float = 0.0, corrections: Mapping | None = None
                 ) -> tuple[list[Check], Outcome]:
    """A check of each attribute's judge, by `count` images of each group, of these prompts with the group's text.

    With corrections by hand, all images count as labelled by hand, which also tells how well the model follows its
    prompt. If the judge is a panel, images on which all its judges agree count as known too. Raises DebiasError; the
    outcome holds the images with their labels, and is not complete where it was interrupted or an error ended it.
    """
    attributes = together(attributes)
    if not prompts:
        raise DebiasError("Expected a prompt for the check, got none. Give one, e.g. 'a photo of a doctor'.")
    each = -(-count // len(prompts))
    stated = [(i, g, text) for i, a in enumerate(attributes) for g, group in enumerate(a.groups) for prompt in prompts
              for text in group_texts(group.texts[:1], host.known(prompt), METHODS["default"].context,
                                      subject_of(prompt))]
    # Every group has seeds of its own: equal ones would make images that are alike.
    calibrations = [Calibration(text, attributes, METHODS["default"], Plan(
        each, rounds=0, held_out=0, batch_size=batch_size, seed=seed + number * each, confidence=confidence))
        for number, (_, _, text) in enumerate(stated)]
    outcome = Outcome()
    measure(host, outcome, calibrations, [text for _, _, text in stated], [Unfinished(None) for _ in stated])
    if not outcome.complete:
        return [], outcome
    seen = [[np.array(labelled.round.labels[i]) for i in range(len(attributes))] for labelled in outcome.labelled]
    if corrections is not None:
        outcome.notes.append(corrected(outcome.labelled, corrections))
    judges, _ = host.judges(attributes)
    return [_check(attribute, i, stated, seen, outcome.labelled, judges[i], corrections is not None)
            for i, attribute in enumerate(attributes)], outcome


def words_of(checks: Sequence[Check]) -> list[str]:
    """What was found, in lines: of each judge how often it is right about each group, and warnings."""
    return [line for check in checks for line in (
        f"{check.attribute}, by {check.judge}:", *(f"  {line}" for line in check.lines),
        *(f"  Warning: {warning}" for warning in check.warnings))]


def _check(attribute: Attribute, i: int, stated: Sequence[tuple[int, int, str]], seen: Sequence,
           made: Sequence[Labelled], judge: object, by_hand: bool) -> Check:
    own = [at for at, (attribute_at, _, _) in enumerate(stated) if attribute_at == i]
    said = np.concatenate([np.full(made[at].round.done, stated[at][1]) for at in own])
    labels = np.concatenate([seen[at][i] for at in own])
    true = np.concatenate([np.array(made[at].round.labels[i]) for at in own]) if by_hand else said
    known = true if by_hand else labels if isinstance(judge, Panel) else np.full(len(said), UNSURE)
    obeyed = [(int((known[said == g] == g).sum()), int((known[said == g] >= 0).sum()))
              for g in range(len(attribute.groups))]
    check = Check.of(attribute, true.tolist(), labels.tolist(), judge=name_of(judge),
                     prompts=tuple(next(stated[at][2] for at in own if stated[at][1] == g)
                                   for g in range(len(attribute.groups))), by="hand" if by_hand else "prompts")
    return replace(check, obeyed=tuple(obeyed)) if any(of for _, of in obeyed) else check
