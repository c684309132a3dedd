"""The card of a profile: its prompts, and what was measured of them."""
from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from ..calibration.labelled import thumbnail
from ..judge.check import counts_of
from ..profile.file import Entry, Profile
from ..distribution import summarise
from .figures import FORM
from .sheet import WITHOUT, Sheet

PICTURES = 8  # of a prompt, before and after


def card_of(profile: Profile, sheets: Mapping[str, Sequence[Sheet]], others: Sequence[Entry] = ()) -> dict:
    """The card of a profile's prompts, and of others that were measured with it."""
    def measured(found: Sequence[Mapping] | None) -> list[dict] | None:
        """From the counts: the rest may be of before a user edited the profile."""
        return None if found is None else [{
            **summarise(m["counts"], a.target, m.get("unsure", 0), confusion=counts_of(profile.checks, i)).to_dict(),
            **{key: m[key] for key in ("drawn_floor95",) if key in m}}
            for i, (m, a) in enumerate(zip(found, profile.attributes, strict=True))]

    entries = [{**entry.to_dict(), "before": measured(entry.before), "after": measured(entry.after)}
               for entry in (*profile.entries, *others)]
    rows = [dict(prompt=entry["prompt"], subject=entry.get("subject") or None,
                 entry=entry if entry.get("before") else None,
                 error=None if entry.get("before") else "not measured",
                 pictures=_pictures(sheets.get(entry["prompt"], ()))) for entry in entries]
    costs = [entry.get("cost") or {} for entry in entries]
    counted = [cost.get("evaluations") for cost in costs]
    return dict(
        form=FORM, software=profile.software, created=profile.created,
        model=str(profile.setting.get("model") or ""), setting=dict(profile.setting),
        classifier=profile.classifier,
        sets=[dict(attributes=[a.to_dict() for a in profile.attributes], plan="", rows=rows,
                   method=profile.method.to_dict(), explicit=None,
                   checks=[own and own.to_dict() for own in profile.checks] or None)],
        cost=dict(images=sum(cost.get("images") or 0 for cost in costs),
                  seconds=sum(cost.get("seconds") or 0 for cost in costs),
                  evaluations=None if None in counted else sum(counted)))


def _pictures(sheets: Sequence[Sheet]) -> dict | None:
    """A card's images of one prompt: where both sheets have the same seeds, which of them changed."""
    named = {"before" if sheet.what == WITHOUT else "after": sheet for sheet in sheets}
    if not named:
        return None
    found: dict = {when: [base64.b64encode(thumbnail(picture)).decode() for picture in sheet.pictures[:PICTURES]]
                   for when, sheet in named.items()}
    first, last = named.get("before"), named.get("after")
    if first and last and first.seeds and list(first.seeds) == list(last.seeds):
        found["seeds"] = list(first.seeds[:PICTURES])
        found["changed"] = [a.tobytes() != b.tobytes() for a, b in
                            zip(first.pictures[:PICTURES], last.pictures)]
    return found
