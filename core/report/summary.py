"""A profile's figures for machines: summary.json."""
from __future__ import annotations

from typing import Mapping

from ..calibration import telling
from ..calibration.round import ROUND
from ..judge.check import counts_of
from ..profile.file import Entry, Profile
from ..distribution import Distribution, summarise


def summary(profile: Profile) -> dict:
    """Figures of a profile's first prompt and attribute as plain values; the others are under `others`.

    shares, kl and fidelity are {before, after}: without guidance and, with it, on held-out seeds (None:
    not verified); expected, of a plan with a margin, is the result: shares with the profile by all
    images, with their intervals. doubt says why shares mean nothing, "" where they do. n and kl_floor95
    are those of `after`, or of `before` where nothing was verified. KL is in nats, infinite is None.
    """
    rows = [_summary(profile, entry, i) for entry in profile.entries
            for i in range(len(profile.attributes))]
    return {**rows[0], "others": rows[1:]}


def _summary(profile: Profile, entry: Entry, i: int) -> dict:
    attribute = profile.attributes[i]
    measured = {"before": _distribution(profile, i, entry.before),
                "after": _distribution(profile, i, entry.after)}
    last = measured["after"] or measured["before"]
    return {
        "prompt": entry.prompt, "attribute": attribute.name, "groups": list(attribute.names),
        "target": list(attribute.target),
        "shares": {key: list(d.shares) if d else None for key, d in measured.items()},
        "expected": entry.expected[i] if entry.expected else None,
        "doubt": doubt(profile, entry, i),
        "kl": {key: d.to_dict()["kl"] if d else None for key, d in measured.items()},
        "kl_floor95": last.kl_floor95 if last else None, "n": last.n if last else 0,
        "rounds": sum(r["kind"] == ROUND for r in entry.rounds),
        "images": entry.cost.get("images"),
        "fidelity": {key: entry.fidelity.get(key) for key in ("before", "after")},
        "seconds": entry.cost.get("seconds")}


def _distribution(profile: Profile, i: int, measured: tuple[Mapping, ...] | None) -> Distribution | None:
    """From the counts: what else a file says of them could be edited."""
    if not measured:
        return None
    return summarise(measured[i]["counts"], profile.attributes[i].target, measured[i].get("unsure", 0),
                     confusion=counts_of(profile.checks, i))


def doubt(profile: Profile, entry: Entry, i: int) -> str:
    """Why an attribute's shares mean nothing; "" where its judge was seen to tell the groups."""
    if entry.told is None or entry.before is None:
        return ""
    attribute, told = profile.attributes[i], entry.told[i]
    counts, n = entry.before[i]["counts"], sum(entry.before[i]["counts"])
    rows = zip(attribute.groups, told["right"], told["made"], counts, strict=True)
    said = telling.doubts([telling.Told(group.name, right, made, count / n, group.wordless)
                           for group, right, made, count in rows])
    return said and f"Not known: {said}."
