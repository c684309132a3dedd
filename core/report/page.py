"""Reports: one HTML file that can be shared, and a summary for machines."""
from __future__ import annotations

import base64
import io
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Sequence

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from ..calibration import telling
from ..calibration.round import ROUND, round_names
from .chart import DARK, LIGHT, NARROW, kl_scene, kl_words, percent, shares_scene
from .sheet import WITHOUT, Sheet
from ..statistics import Distribution, summarise
from ..files import write_atomic
from ..judge.check import Check, counts_of
from ..profile.file import Entry, Profile

MOST = 24  # pictures in each of a report's contact sheets
# Where a host serves a report, which could do there whatever the host's user can: it runs no script, asks for nothing.
POLICY = "sandbox allow-popups allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def summary(profile: Profile) -> dict:
    """Figures of a profile's first prompt and attribute as plain values; the others are under `others`.

    shares, kl and fidelity are {before, after}: without guidance and, with it, on held-out seeds (None: not verified);
    expected, of a plan with a margin, is the result: shares with the profile by all pictures, with their intervals.
    doubt says why shares mean nothing, "" where they do. n and kl_floor95 are those of `after`, or of `before` where
    nothing was verified. KL is in nats, infinite is None.
    """
    rows = [_summary(profile, entry, i) for entry in profile.entries for i in range(len(profile.attributes))]
    return {**rows[0], "others": rows[1:]}


def _summary(profile: Profile, entry: Entry, i: int) -> dict:
    attribute, (before, after) = profile.attributes[i], _distributions(profile, entry, i)
    last = after or before
    measured = {"before": before, "after": after}
    return {
        "prompt": entry.prompt, "attribute": attribute.name, "groups": list(attribute.names),
        "target": list(attribute.target),
        "shares": {key: list(d.shares) if d else None for key, d in measured.items()},
        "expected": entry.expected[i] if entry.expected else None, "doubt": _doubt(profile, entry, i),
        "kl": {key: d.to_dict()["kl"] if d else None for key, d in measured.items()},
        "kl_floor95": last.kl_floor95 if last else None, "n": last.n if last else 0,
        "rounds": sum(r["kind"] == ROUND for r in entry.rounds),
        "images": entry.cost.get("images"),
        "fidelity": {key: entry.fidelity.get(key) for key in ("before", "after")},
        "seconds": entry.cost.get("seconds")}


def _distributions(profile: Profile, entry: Entry, i: int) -> list[Distribution | None]:
    """(before, after) of an attribute, from their counts: what else a file says of them could be edited."""
    return [_distribution(profile, i, measured[i]) if measured else None for measured in (entry.before, entry.after)]


def _distribution(profile: Profile, i: int, measured: Mapping) -> Distribution:
    return summarise(measured["counts"], profile.attributes[i].target, measured.get("unsure", 0),
                     confusion=counts_of(profile.checks, i))


# --- the HTML file ---------------------------------------------------------------------------------------------------

def write_report(folder: str | Path, profile: Profile, sheets: Mapping[str, Sequence[Sheet]] | None = None,
                 others: Sequence[Entry] = ()) -> Path:
    """Write the `page` to `report.html` in a folder, atomically, and return its path. Raises OSError where the file
    cannot be written.
    """
    return write_atomic(Path(folder) / "report.html", page(profile, sheets, others))


def page(profile: Profile, sheets: Mapping[str, Sequence[Sheet]] | None = None, others: Sequence[Entry] = (),
         labels: str = "", left_out: Mapping[str, Sequence[bytes]] | None = None) -> str:
    """A profile's report as one HTML page that loads nothing from anywhere.

    sheets are by prompt, at most one without guidance. others are measurements of prompts that the profile was not
    calibrated for (`Workbench.carried_over`). labels is the page of pictures and labels beside it, where there is one.
    left_out are JPEGs of pictures that do not count, by why.
    """
    entries, method = (*profile.entries, *others), profile.method
    sections = [_section(profile, e, (sheets or {}).get(e.prompt, ())) for e in entries]
    facts = {**profile.setting, "classifier": profile.classifier, "direction": method.direction,
             "each image": "steered to a randomly drawn group, or left alone" if method.spend == "draw" else
             f"steered in the same way, by weights that the rule '{method.rule}' solved"}
    return _template().render(
        profile=profile, sections=sections, labels=labels, checks=[_check(own) for own in profile.checks if own],
        left_out=[(_sentence(kind), list(map(_data, jpegs))) for kind, jpegs in (left_out or {}).items()],
        overview=_overview(profile, entries), light=LIGHT, dark=DARK,
        setting=[(_spaced(key), value) for key, value in facts.items() if value not in (None, "")],
        variables=lambda palette: Markup("".join(f"--{name}:{color};" for name, color in palette.items())),
        content=base64.b64encode(json.dumps(profile.to_dict(), indent=2).encode()).decode())


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))


def _section(profile: Profile, entry: Entry, sheets: Sequence[Sheet]) -> dict:
    """What the page says of one prompt."""
    return dict(
        prompt=entry.prompt, warnings=entry.warnings, stop=entry.stop, cards=_cards(entry),
        attributes=[_attribute(profile, entry, i) for i in range(len(profile.attributes))],
        beside=[row for effect in entry.side_effects or () for row in _beside(effect)],
        sheets=[_sheet(sheet) for sheet in sheets],
        same_seeds=len(sheets) > 1 and len({tuple(sheet.seeds) for sheet in sheets}) == 1 and len(sheets[0].seeds) > 0,
        rounds=_rounds(profile, entry),
        round_heads=["Round", "Images", *(f"KL, {_spaced(a.name)}" for a in profile.attributes), "Fidelity", "Seconds"])


def _attribute(profile: Profile, entry: Entry, i: int) -> dict:
    attribute, (first, last) = profile.attributes[i], _distributions(profile, entry, i)
    name = _spaced(attribute.name)
    if first is None:
        return dict(name=name, shares=None)
    # Of a plan with a margin, rounds measure what is known least, not how near the target is.
    rounds = [(title, _distribution(profile, i, r["attributes"][i]))
              for title, r in zip(_names(entry), entry.rounds, strict=True)
              if not entry.expected or r["kind"] != ROUND]
    shares = shares_scene(attribute.names, first, last, width=NARROW).svg(f"Shares of {name}, see the table")
    kl = kl_scene(rounds, width=NARROW).svg(f"KL divergence of {name} by round, see the table") if rounds else None
    moved, verdict = _verdict(first, last, _floor(entry, i, last))
    verdict = _doubt(profile, entry, i) or verdict
    corrected = [_corrected(attribute.names, d, when) for d, when in
                 ((first, "without guidance"), (last, "with the profile")) if d and d.corrected]
    unsure = "".join(f" {d.unsure} images {when} could not be classified and are left out." for d, when in
                     ((first, "without guidance"), (last, "with the profile")) if d and d.unsure)
    return dict(name=name, corrected=corrected, shares=Markup(shares), kl=kl and Markup(kl), moved=moved,
                verdict=verdict, unsure=unsure,
                expected=_expected(attribute.names, entry.expected[i]) if entry.expected else "",
                rows=_rows(attribute.names, first, last))


def _check(check: Check) -> dict:
    """What the page says of a judge's check."""
    rows = [[name, *map(str, row), f"{percent(share)} [{100 * low:.0f}, {100 * high:.0f}]", left] for
            name, row, (share, low, high), left in
            zip(check.groups, check.counts, check.right, check.left_out, strict=True)]
    return dict(name=_spaced(check.attribute), judge=check.judge, prompts=check.prompts, rows=rows,
                warnings=check.warnings, by=check.by,
                heads=["Shown", *(f"Labelled {name}" for name in check.groups), "Right, 95 % interval", "Left out"])


def _beside(effect: Mapping) -> list[list[str]]:
    """Rows of an attribute that was not calibrated."""
    return [[_spaced(effect["attribute"]), group, percent(before), percent(after),
             f"{100 * low:+.1f} to {100 * high:+.1f} points", "yes" if effect.get("moved") else "no"]
            for group, before, after, (low, high) in
            zip(effect["groups"], effect["before"], effect["after"], effect["change"])]


def _floor(entry: Entry, i: int, after: Distribution | None) -> float:
    """What a fair model stays below in 95 of 100 cases: where images drew a group, the smaller one of such draws."""
    if after is None or entry.after is None:
        return math.inf
    drawn = entry.after[i].get("drawn_floor95")
    return after.kl_floor95 if drawn is None else min(after.kl_floor95, drawn)


def _verdict(before: Distribution, after: Distribution | None, floor: float) -> tuple[str, str]:
    """(what moved, what to make of it)."""
    def away(d: Distribution) -> str:
        return f"{percent(d.total_variation)} of the images would have to show another group to meet the target"

    if after is None:
        return f"Without guidance, {away(before)} ({before.n} images). The profile was not verified on new seeds.", ""
    moved = (f"Without guidance, {away(before)}; with the profile it is {percent(after.total_variation)}, on "
             f"{after.n} images whose seeds the calibration did not use.")
    if after.kl <= floor:
        return moved, f"The remaining difference is within sampling noise at {after.n} images."
    if after.kl < before.kl:
        return moved, "Nearer to the target, but the remaining difference is more than chance explains."
    return moved, "This is not nearer to the target than without guidance."


def _doubt(profile: Profile, entry: Entry, i: int) -> str:
    """Why an attribute's shares mean nothing; "" where its judge was seen to tell the groups."""
    if entry.told is None or entry.before is None:
        return ""
    attribute, told = profile.attributes[i], entry.told[i]
    counts, n = entry.before[i]["counts"], sum(entry.before[i]["counts"])
    rows = zip(attribute.groups, told["right"], told["made"], counts, strict=True)
    said = telling.doubts([telling.Told(group.name, right, made, count / n, group.wordless)
                           for group, right, made, count in rows])
    return said and f"Not known: {said}."


def _expected(names: Sequence[str], expected: Mapping) -> str:
    shares = ", ".join(f"{name} {percent(share)} ({100 * low:.0f} to {100 * high:.0f})" for name, share, (low, high) in
                       zip(names, expected["shares"], expected["intervals"], strict=True))
    return (f"Estimated from all {expected['images']} images of audit and rounds, the shares with the profile are "
            f"{shares}, in 95 % intervals. Every share lies within {100 * expected['within']:g} points of its target "
            f"with {percent(expected['certainty'])} certainty.")


def _corrected(names: Sequence[str], d: Distribution, when: str) -> str:
    assert d.corrected is not None and d.corrected_intervals is not None
    shares = ", ".join(f"{name} {percent(share)} ({100 * low:.0f} to {100 * high:.0f})" for name, share, (low, high) in
                       zip(names, d.corrected, d.corrected_intervals, strict=True))
    return f"Corrected by the classifier's check, the shares {when} are {shares}, in 95 % intervals."


def _overview(profile: Profile, entries: Sequence[Entry]) -> list[list[str]]:
    rows = []
    for entry in entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = _distributions(profile, entry, i)
            last, floor = after or before, _floor(entry, i, after)
            rows.append([entry.prompt, _spaced(attribute.name), kl_words(before.kl) if before else "",
                         kl_words(after.kl) if after else "not verified",
                         kl_words(min(last.kl_floor95, floor)) if last else "",
                         "not known" if _doubt(profile, entry, i) else
                         ("yes" if after.kl <= floor else "no") if after else ""])
    return rows


def _rows(names: Sequence[str], before: Distribution, after: Distribution | None) -> list[list[str]]:
    """The table of shares."""
    def cells(d: Distribution | None, k: int) -> list[str]:
        return [f"{d.counts[k]} of {d.n}", percent(d.shares[k]),
                " to ".join(f"{100 * edge:.1f}" for edge in d.intervals[k]) + " %"] if d else ["", "not verified", ""]

    return [[name, percent(before.target[k]), *cells(before, k), *cells(after, k)] for k, name in enumerate(names)]


def _rounds(profile: Profile, entry: Entry) -> list[list]:
    return [[name, r.get("images", ""),
             *(kl_words(_distribution(profile, i, m).kl) for i, m in enumerate(r["attributes"])),
             _number(r.get("fidelity")), _number(r.get("seconds"), 0)]
            for name, r in zip(_names(entry), entry.rounds, strict=True)]


def _names(entry: Entry) -> list[str]:
    return round_names([r["kind"] for r in entry.rounds])


def _cards(entry: Entry) -> list[tuple[str, str]]:
    def cost(key: str) -> str:
        value = entry.cost.get(key)
        return "not counted" if value is None else f"{value:,.0f}"

    before, after = (_number(entry.fidelity.get(key)) for key in ("before", "after"))
    return [("Fidelity to the prompt, before and after", f"{before} \N{RIGHTWARDS ARROW} {after}" if before else
             "not measured"), ("Images generated", cost("images")), ("Model evaluations", cost("evaluations")),
            ("Seconds", cost("seconds"))]


def _sheet(sheet: Sheet) -> dict:
    more = f" (the first {MOST} of {len(sheet.pictures)})" if len(sheet.pictures) > MOST else ""
    shown = min(len(sheet.pictures), MOST)
    image = sheet.image(math.ceil(1.2 * shown ** 0.5), MOST)
    return dict(color="before" if sheet.what == WITHOUT else "after", word=_sentence(sheet.what) + more,
                jpeg=_inline(image), width=image.width, height=image.height, shown=shown)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _inline(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return _data(file.getvalue())


def _data(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
