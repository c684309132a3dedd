"""A calibration's result: the entry and the profile that it leaves."""
from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from typing import Mapping, Sequence

from ..errors import DebiasError, quoted
from ..profile.file import SCHEMA, SOFTWARE, Entry, Profile
from .loop import NOT_FINISHED, Calibration
from .round import HELD_OUT, PROOF, Round
from .watched import side_effects


def entry_of(calibration: Calibration, evaluations: int | None = None) -> Entry:
    """A calibration's result. Raises DebiasError where its audit is not complete."""
    return Entry.from_dict(_entry(calibration, evaluations), calibration.attributes)


def profile_of(name: str, calibrations: Sequence[Calibration], setting: Mapping, classifier: str,
               evaluations: Sequence[int | None] | None = None) -> Profile:
    """Profile of one calibration or more, of different prompts but the same attributes and method.

    judge describes what labelled the images; evaluations are those of the model, counted by the host, one
    number a calibration. Raises DebiasError for calibrations that do not fit together or whose audit is not
    complete, and for a name that is no file name.
    """
    if not calibrations:
        raise DebiasError("Expected a calibration to make a profile of, got none.")
    evaluations = (None,) * len(calibrations) if evaluations is None else evaluations
    if len(evaluations) != len(calibrations):
        raise DebiasError(f"Expected evaluations of {len(calibrations)} calibrations, got {len(evaluations)}.")
    first = calibrations[0]
    for c in calibrations:
        if (c.attributes, c.method, c.checks) != (first.attributes, first.method, first.checks):
            raise DebiasError("The prompts of a profile share attributes and method, and the check of their "
                              f"judge, but those of {quoted(c.prompt)} differ from those of "
                              f"{quoted(first.prompt)}. Save them as two profiles.")
    return Profile.from_dict({
        "schema": SCHEMA, "name": name, "software": SOFTWARE,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "method": first.method.to_dict(), "attributes": [a.to_dict() for a in first.attributes],
        "setting": dict(setting), "classifier": classifier,
        **({"checks": [own and own.to_dict() for own in first.checks]} if any(first.checks) else {}),
        "entries": [_entry(c, count) for c, count in zip(calibrations, evaluations)]})


def holds(profile: Profile, calibrations: Sequence[Calibration]) -> bool:
    """Is this what these calibrations give, so that saving them anew would change nothing but the date?"""
    own = {e.prompt: e for e in profile.entries}
    results = [entry_of(c) for c in calibrations]
    return all((e.prompt in own and replace(own[e.prompt], cost={}) == replace(e, cost={})) for e in results) and \
        all((c.attributes, c.method) == (profile.attributes, profile.method) for c in calibrations)


def _entry(calibration: Calibration, evaluations: int | None) -> dict:
    """JSON form of one calibration's result. Raises DebiasError where its audit is not complete."""
    if not calibration.rounds or not calibration.audit.complete:
        raise DebiasError(f"The audit of {quoted(calibration.prompt)} is not complete. Continue its calibration first.")
    attributes, verified = calibration.attributes, calibration.held_out
    complete = [r for r in calibration.rounds if r.complete]

    def measured(r: Round) -> list[dict]:
        return [calibration.distribution(r, i).to_dict() for i in range(len(attributes))]

    def expected(i: int) -> dict:
        found = calibration.expected(i)
        return {"shares": list(found.shares), "intervals": [list(edges) for edges in found.intervals],
                "within": calibration.plan.within, "certainty": found.certainty,
                "images": sum(r.done for r in complete if r.kind not in (HELD_OUT, PROOF))}

    return {
        "prompt": calibration.prompt,
        "steerings": [s.to_dict() for s in calibration.steerings],
        "before": measured(calibration.audit), "after": verified and [
            {**m, "drawn_floor95": calibration.floor(i, verified)} for i, m in enumerate(measured(verified))],
        **({"expected": [expected(i) for i in range(len(attributes))]} if calibration.plan.within else {}),
        **({"side_effects": found} if (found := side_effects(calibration)) else {}),
        **({"told": [{"right": [own.right for own in told], "made": [own.made for own in told]}
                     for told in map(calibration.told, range(len(attributes)))],
            "verdicts": [calibration.verdict(i) or NOT_FINISHED for i in range(len(attributes))]}
           if calibration.plan.rounds else {}),
        **({"left_alone": alone} if (alone := [why for i, s in enumerate(calibration.steerings)
                                               if not s.probabilities and (why := calibration.useless(i))]) else {}),
        "fidelity": {"before": calibration.audit.mean_fidelity, "after": verified.mean_fidelity if verified else None},
        "rounds": [{"kind": r.kind, "images": r.done, "fidelity": r.mean_fidelity, "seconds": round(r.seconds, 1),
                    **{key: getattr(r, key) for key in ("not_finite", "one_colour") if getattr(r, key)},
                    "attributes": [{**{key: m[key] for key in ("counts", "unsure", "kl", "kl_floor95")},
                                    "steering": s.to_dict()} for m, s in zip(measured(r), r.steerings)]}
                   for r in complete],
        "stop": calibration.ending or "stopped before its end",
        "warnings": calibration.warnings,
        "cost": {"images": sum(r.done for r in calibration.rounds), "evaluations": evaluations,
                 "seconds": round(math.fsum(r.seconds for r in calibration.rounds), 1)}}
