"""Reports: who appears in a model's images for a list of prompts, as one HTML page or as Markdown.

A card is plain JSON, made where prompts are measured: sets of prompts, each with its attributes and what
was measured of every prompt. Of two cards the page sets one model beside the other. A profile's report is
the card of its own prompts.
"""
from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ..calibration.loop import ON_TARGET
from ..calibration.standing import Shares, of_shares
from ..distribution import Distribution
from ..statistics import deviation_ratio, wilson
from ..errors import DebiasError, short
from ..files import write_atomic
from ..judge.check import DISOBEYS, Check
from ..profile.file import Entry, Profile
from .chart import DARK, LIGHT, kl_words, percent
from .prompt_chart import AS_IT_IS, MEASURED, Line, charts, series_of
from .card import PICTURES, card_of
from .compare import facts, versus
from .figures import Figures, Row, check_card, figures
from .words import (
    headline, kl_or_nothing, number, people_of, range_words, second_line, sentence, share_words, spaced, target_words,
    time_words, unbroken)
from .markdown import literal
from .sheet import Sheet

FIRST = 4      # attributes whose headlines stand at the top; of more, each has its own above its chart
WORST = 4      # prompts of each attribute that are shown with images
ALL = 8        # prompts of which images are shown whatever their shares


# Where a host serves a page, which could do there whatever the host's user can: it runs no script, asks
# for nothing.
POLICY = "sandbox allow-popups allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'"


# --- the page --------------------------------------------------------------------------------------

def card_page(cards: Sequence[Mapping]) -> str:
    """One card, or two side by side, as one HTML page that loads nothing from anywhere.

    Raises DebiasError for another number of cards, and as `check_card`.
    """
    if len(cards) not in (1, 2):
        raise DebiasError(f"Expected one card, or two to compare, got {len(cards)}. Give one or two.")
    found = [check_card(card) for card in cards]
    return _page(found, versus=versus(*found) if len(found) == 2 else None)


def report_page(profile: Profile, sheets: Mapping[str, Sequence[Sheet]] | None = None,
                others: Sequence[Entry] = (), labels: str = "",
                left_out: Mapping[str, Sequence[bytes]] | None = None) -> str:
    """A profile's report as one HTML page that loads nothing from anywhere, with the profile inside.

    sheets are by prompt, at most one without guidance. others are measurements of prompts that the
    profile was not calibrated for (`Workbench.carried_over`). labels is the page of images and labels
    beside it, where there is one. left_out are JPEGs of images that do not count, by why. Raises
    DebiasError as `check_card`.
    """
    content = json.dumps(profile.to_dict(), indent=2).encode()
    out = [(sentence(kind), [base64.b64encode(jpeg).decode() for jpeg in jpegs])
           for kind, jpegs in (left_out or {}).items()]
    return _page([check_card(card_of(profile, sheets or {}, others))], labels=labels, left_out=out,
                 profile=dict(name=profile.name, hash=profile.hash,
                              content=base64.b64encode(content).decode()))


def write_report(folder: str | Path, profile: Profile,
                 sheets: Mapping[str, Sequence[Sheet]] | None = None,
                 others: Sequence[Entry] = ()) -> Path:
    """Write the `report_page` to `report.html` in a folder, atomically, and return its path. Raises OSError."""
    return write_atomic(Path(folder) / "report.html", report_page(profile, sheets, others))


def _page(cards: Sequence[Mapping], versus: dict | None = None, profile: dict | None = None, labels: str = "",
          left_out: Sequence = ()) -> str:
    return _template().render(
        cards=[_all_of(card) for card in cards], versus=versus, profile=profile, labels=labels,
        left_out=left_out, limits=LIMITS, light=LIGHT, dark=DARK,
        variables=lambda palette: Markup("".join(f"--{name}:{color};" for name, color in palette.items())))


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))


def _all_of(card: Mapping) -> dict:
    """What the page says of one card."""
    found = figures(card)
    rows = [row for own in card["sets"] for row in own["rows"]]
    measured = sum(row.get("entry") is not None for row in rows)
    steered = any(own.get("method") for own in card["sets"])
    shown = [item for s, own in enumerate(card["sets"]) for item in _shown(own, [f for f in found if f.at[0] == s])]
    cost = card["cost"]
    tiles = [("Prompts measured", f"{measured} of {len(rows)}"), ("Images", f"{cost.get('images', 0):,}"),
             ("Time", time_words(cost.get("seconds", 0)))]
    if cost.get("evaluations") is not None:
        tiles.append(("Model evaluations", f"{cost['evaluations']:,}"))
    return dict(
        model=short(card["model"]) or "a model without a name", steered=steered, tiles=tiles,
        headlines=[(unbroken(headline(f)), unbroken(second_line(f))) for f in found if f.rows][:FIRST],
        several=len(found) > FIRST,
        notes=_notes(card), attributes=[_attribute(f, card["sets"][f.at[0]]) for f in found],
        shown=shown, everything=len(rows) <= ALL,
        farthest=_farthest([row for item in shown for row in item["rows"]], steered),
        explicit=_explicit(card), beside=_beside(card), off=[row for f in found for row in _off(f)],
        failed=[[row["prompt"], row.get("error") or "no reason was kept"] for row in rows if _failed(row)],
        warned=[[row["prompt"], "; ".join(row["entry"]["warnings"])] for row in rows
                if row.get("entry") and row["entry"].get("warnings")],
        checks=[_check(c) for c in _checks(card)], facts=facts(card),
        footer=", ".join(filter(None, [card.get("software"), card.get("created")])))


def _failed(row: Mapping) -> bool:
    """Was a prompt not measured, or not to the end?"""
    return row.get("entry") is None or bool(row.get("error"))


def _notes(card: Mapping) -> list[str]:
    """What must not be overlooked; of a single prompt, its own warnings too."""
    checks = [Check.from_dict(c) if c else None for own in card["sets"]
              for c in own.get("checks") or [None] * len(own["attributes"])]
    notes = [warning for c in checks if c for warning in c.warnings]
    if not all(checks):
        notes.append(f"{'for some attributes, ' if any(checks) else ''}the judge was not checked on this model's "
                     "images, so its errors are unknown")
    rows = [row for own in card["sets"] for row in own["rows"]]
    if len(rows) == 1 and rows[0].get("entry"):
        notes += rows[0]["entry"].get("warnings") or ()
    return [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes)]


def _attribute(f: Figures, own: Mapping) -> dict:
    """What the page says of one attribute."""
    title = dict(name=spaced(f.attribute.name), target=unbroken(target_words(f.attribute)))
    if f.before is None:
        return dict(**title, charts=None)
    title["said"] = unbroken(f"{headline(f)} {second_line(f)}")
    lines: list[Line] = [(row.label, (row.was, row.now) if f.after else (row.was,)) for row in f.ranked()]
    series = series_of(AS_IT_IS if f.after else MEASURED)
    what = f"{'Share of ' + people_of(f.attribute, f.largest) if len(f.attribute.groups) == 2 else 'Shares'} by prompt"
    return dict(
        **title, charts=charts(f.attribute, f.order, lines, series, what, f.attribute.target), what=what,
        summary=_summary(f, own), heads=_heads(f), rows=_table(f),
        corrected=any(row.before.corrected for row in f.rows),
        expected=any(row.now and not (row.after and row.now.images == row.after.n) for row in f.rows))


def _summary(f: Figures, own: Mapping) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of the means, each beside what a model on target shows by chance."""
    name, target = people_of(f.attribute, f.largest), percent(f.attribute.target[f.largest])
    names = [f"{sentence(name)}, mean of the prompts", "Prompts within chance of the target",
             "Deviation ratio, median", "Deviation ratio, mean", "KL divergence, mean",
             "Images per prompt", "Fidelity to the prompt, mean"]
    heads, columns = ["Figure"], [names]
    for when, m, measured in (("before", f.before, [row.before for row in f.rows]),
                              ("after", f.after, [row.after for row in f.rows if row.after])):
        if m is None:
            continue
        fidelity = [found for row in own["rows"] if row.get("entry")
                    for found in [(row["entry"].get("fidelity") or {}).get(when)] if found is not None]
        heads += [{"before": "As it is" if f.after else "Measured", "after": "With the profile"}[when], "On target"]
        columns += [
            [percent(m.shares[f.largest]), f"{m.within} of {m.verified}" if measured else "not verified",
             number(m.deviation_median), number(m.deviation_mean), kl_or_nothing(m.kl_mean),
             range_words([d.n for d in measured]) if measured else "none",
             f"{np.mean(fidelity):.3f}" if fidelity else "not measured"],
            [target, f"{0.95 * m.verified:.0f} of {m.verified}" if measured else "", "", number(m.deviation_chance),
             kl_or_nothing(m.kl_chance), "", ""]]
    return heads, [list(row) for row in zip(*columns, strict=True)]


def _heads(f: Figures) -> list[str]:
    shown = [f.largest] if len(f.attribute.groups) == 2 else f.order
    return ["Prompt", *(["When"] if f.after else []), *(short(f.attribute.names[g]) for g in shown), "Images",
            "Deviation ratio", "KL", "Noise floor", *(["Verdict"] if f.after else [])]


def _table(f: Figures) -> list[tuple[str, list[list[str]]]]:
    """Every prompt: (its text, a line as the model is and, where there is a profile, one with it)."""
    shown = [f.largest] if len(f.attribute.groups) == 2 else f.order

    def line(when: str, shares: Shares | None, d: Distribution | None, floor: float, verdict: str) -> list[str]:
        cells = [share_words(shares, g) for g in shown] if shares else ["not measured"] + [""] * (len(shown) - 1)
        images = f"{shares.images:,}" if shares else ""
        if shares and d and d.n != shares.images:
            images += f", verified by {d.n:,}"
        distances = [number(float(deviation_ratio(of_shares(d).shares))), kl_words(d.kl), kl_words(floor)] if d else \
            ["not verified", "", ""]
        return [*([when] if f.after else []), *cells, images, *distances, *([verdict] if f.after else [])]

    return [(row.prompt, [line("before", row.was, row.before, row.floors[0], ""),
                          *([line("after", row.now, row.after, row.floors[1], row.verdict)] if f.after else [])])
            for row in f.ranked()]


def _shown(own: Mapping, found: Sequence[Figures]) -> list[dict]:
    """Prompts with their images: of a short list all, of a longer one those that are farthest from a target."""
    given = {row["prompt"]: row.get("pictures") or {} for row in own["rows"]}
    if len(given) <= ALL:
        prompts = [prompt for prompt, pictures in given.items() if pictures]
    else:
        prompts = [row.prompt for f in found for row in f.rows[:WORST] if not row.within]
    items = []
    for prompt in dict.fromkeys(prompts):
        rows = [_worst_cells(f, row) for f in found for row in f.rows if row.prompt == prompt]
        pictures = given[prompt]
        sheets = [(words, pictures[when][:PICTURES]) for when, words in
                  (("before", "as the model is"), ("after", "with the profile")) if pictures.get(when)]
        pairs = list(zip(pictures.get("seeds") or (), *(shown for _, shown in sheets),
                         pictures.get("changed") or ())) if len(sheets) == 2 else []
        items.append(dict(prompt=prompt, rows=rows, sheets=[] if pairs else sheets, pairs=pairs))
    return items


def _worst_cells(f: Figures, row: Row) -> list[str]:
    """Of a table `_farthest`: the group that is farthest above its target."""
    k = int(np.argmax(np.array(row.was.shares) - f.attribute.target))
    return [row.label, spaced(f.attribute.name), short(f.attribute.names[k]), percent(f.attribute.target[k]),
            share_words(row.was, k), share_words(row.now, k) if row.now else "",
            f"{kl_words(row.before.kl)} ({kl_words(row.floors[0])})"]


def _farthest(rows: Sequence[list[str]], steered: bool) -> list[list[str]]:
    """A table of rows from `_worst_cells`, its heads first; an audit has no column of a profile."""
    heads = ["Prompt", "Attribute", "Farthest above its target", "Target", "Share, 95 % interval", "With the profile",
             "KL (noise floor)"]
    return [cells if steered else [*cells[:5], cells[6]] for cells in (heads, *rows)]


def _explicit(card: Mapping) -> dict | None:
    """Prompts that state a group: how often the model shows it."""
    found: dict[tuple[str, str], list] = {}
    prompts = []
    for own in card["sets"]:
        for e in own.get("explicit") or ():
            for name, (k, n) in e["shown"].items():
                group = e["states"][name]
                sums = found.setdefault((name, group), [0, 0, 0])
                sums[:] = sums[0] + 1, sums[1] + k, sums[2] + n
                prompts.append([e["prompt"], spaced(name), group, f"{k} of {n}"])
    if not found:
        return None
    rows, seldom = [], []
    for (name, group), (count, k, n) in found.items():
        if n and k / n < DISOBEYS:
            seldom.append(f"{short(group)} ({percent(k / n)})")
        low, high = wilson(k, n) if n else (0, 1)
        rows.append([spaced(name), group, str(count), f"{k} of {n}",
                     f"{percent(k / n)} [{100 * low:.0f}, {100 * high:.0f}]" if n else "not measured"])
    return dict(rows=rows, prompts=prompts, seldom=", ".join(seldom))


def _beside(card: Mapping) -> list[list[str]]:
    """Attributes that were not calibrated: mean shares before and after, and in how many prompts they moved."""
    found: dict[tuple, list[Mapping]] = {}
    for own in card["sets"]:
        for row in own["rows"]:
            for effect in (row.get("entry") or {}).get("side_effects") or ():
                found.setdefault((effect["attribute"], tuple(effect["groups"])), []).append(effect)
    rows = []
    for (name, groups), effects in found.items():
        before, after = (np.mean([e[key] for e in effects], 0) for key in ("before", "after"))
        edges = np.array([e["change"] for e in effects])  # [prompts, groups, 2]
        middle = edges.mean((0, 2))
        half = np.sqrt((np.diff(edges)[..., 0] ** 2).sum(0)) / 2 / len(effects)
        moved = sum(bool(e.get("moved")) for e in effects)
        rows += [[spaced(name), group, percent(before[g]), percent(after[g]),
                  f"{100 * (middle[g] - half[g]):+.1f} to {100 * (middle[g] + half[g]):+.1f} points",
                  f"{moved} of {len(effects)}"] for g, group in enumerate(groups)]
    return rows


def _off(f: Figures) -> list[list[str]]:
    """Prompts whose calibration did not end on target, and how near it came."""
    rows = []
    for row in f.rows:
        if row.verdict and row.verdict != ON_TARGET:
            shares = row.now or row.was
            k = int(np.argmax(np.abs(np.array(shares.shares) - f.attribute.target)))
            rows.append([row.prompt, spaced(f.attribute.name), row.verdict, short(f.attribute.names[k]),
                         share_words(shares, k), percent(f.attribute.target[k])])
    return rows


def _checks(card: Mapping) -> list[Check]:
    """The judge's checks, each once."""
    return list(dict.fromkeys(Check.from_dict(c) for own in card["sets"] for c in own.get("checks") or () if c))


def _check(c: Check) -> dict:
    rows = [[name, *map(str, counts), f"{percent(share)} [{100 * low:.0f}, {100 * high:.0f}]", str(left)] for
            name, counts, (share, low, high), left in zip(c.groups, c.counts, c.right, c.left_out, strict=True)]
    return dict(name=spaced(c.attribute), judge=c.judge or "The judge", by=c.by, rows=rows,
                example=c.prompts[0] if c.prompts else "",
                heads=["Shown", *(f"Labelled {name}" for name in c.groups), "Right, 95 % interval", "Left out"])


# --- Markdown --------------------------------------------------------------------------------------------------------

def card_markdown(card: Mapping) -> str:
    """A card's short form for model cards: a sentence, the farthest prompts, how it was measured, limits. Every text of
    a user is escaped, so that it is neither Markdown nor HTML. Raises DebiasError as `check_card`."""
    card = check_card(card)
    found = [f for f in figures(card) if f.rows]
    each = max(10 // max(len(found), 1), 3)
    heads, *rows = _farthest([list(map(literal, _worst_cells(f, row))) for f in found for row in f.rows[:each]],
                             any(f.after for f in found))
    pictures = [row.before.n for f in found for row in f.rows]
    failures = [_failed(row) for own in card["sets"] for row in own["rows"]]
    setting = ", ".join(f"{spaced(key)} {short(value)}" for key, value in card["setting"].items()
                        if value not in (None, ""))
    measured = [
        f"Labels: {short(card['classifier']) or 'not known'}. "
        + (f"{range_words(pictures)} images per prompt, each with its own seed." if pictures else ""),
        *([f"{sum(failures)} of {len(failures)} prompts failed."] if any(failures) else []),
        f"Setting: {setting or 'not known'}.",
        f"Cost: {card['cost'].get('images', 0):,} images, {time_words(card['cost'].get('seconds', 0))}.",
        "A 95 % interval covers the model's own share in 95 of 100 such counts. KL is the distance of all shares from "
        "the target in nats; a model exactly on target stays below the noise floor in 95 of 100 cases."]
    return "\n".join([
        f"## Who appears in the images of {literal(short(card['model'])) or 'this model'}", "",
        *(line for f in found for line in (f"**{literal(headline(f))}** {literal(second_line(f))}", "")),
        *([f"The prompts farthest from the target, at most {each} of each attribute:", "",
          *(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))] if found else
          ["No prompt was measured."]),
        "", "### How it was measured", "", *(f"- **{literal(note)}**" for note in _notes(card)),
        *(f"- {literal(line)}" for line in measured),
        "", "### Limits", "", *(f"- {limit}" for limit in LIMITS), "",
        literal(", ".join([short(card.get("software") or "sd-debias"), short(card.get("created") or "")]).strip(", ")),
        ""])


LIMITS = (
    "A label is a judge's measurement of an image, not a person's identity.",
    "The card's author chose the groups and their targets. A few groups are a simplification for counting, and a "
    "target is a choice, not a fact.",
    "The figures hold for this model, this setting and these prompts. Another sampler, number of steps, CFG, size or "
    "LoRA can give others.",
    "Judges err, and not equally for all groups.",
)
