"""Reports: one HTML file that can be shared, and a summary for machines."""
from __future__ import annotations

import base64
import io
import json
import math
from html import escape
from pathlib import Path
from typing import Mapping, Sequence

from PIL import Image

from .calibrate import ROUND, round_names
from .chart import DARK, LIGHT, NARROW, contact_sheet, kl_scene, kl_words, percent, shares_scene
from .distribution import Distribution, summarise
from .files import write_atomic
from .profile import Entry, Profile

MOST_PAIRS = 24  # pictures in each of a report's contact sheets


def summary(profile: Profile) -> dict:
    """Plain figures of a profile's first prompt and attribute; those of the other ones follow under `others`.

    shares, kl and fidelity are {before, after}: without guidance and, with it, on held-out seeds (None: not verified);
    n and kl_floor95 are those of `after`, or of `before` where nothing was verified. KL is in nats, infinite is None.
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
        "kl": {key: d.to_dict()["kl"] if d else None for key, d in measured.items()},
        "kl_floor95": last.kl_floor95 if last else None, "n": last.n if last else 0,
        "rounds": sum(r["kind"] == ROUND for r in entry.rounds),
        "images": entry.cost.get("images"),
        "fidelity": {key: entry.fidelity.get(key) for key in ("before", "after")},
        "seconds": entry.cost.get("seconds")}


def _distributions(profile: Profile, entry: Entry, i: int) -> list[Distribution | None]:
    """(before, after) of an attribute, from their counts: what else a file says of them could be edited."""
    return [_distribution(measured[i], profile.attributes[i].target) if measured else None
            for measured in (entry.before, entry.after)]


def _distribution(measured: Mapping, target: Sequence[float]) -> Distribution:
    return summarise(measured["counts"], target, measured.get("unsure", 0))



# The HTML file


def write_report(folder: str | Path, profile: Profile, images_before: Mapping[str, Sequence[Image.Image]] | None = None,
                 images_after: Mapping[str, Sequence[Image.Image]] | None = None,
                 seeds: Mapping[str, Sequence[int]] | None = None, others: Sequence[Entry] = ()) -> Path:
    """Write `report.html` to a folder, atomically, and return its path: one file that loads nothing from anywhere.

    images_before, images_after and seeds are by prompt; picture i of both has the same seed. others are measurements of
    prompts that the profile was not calibrated for (`Workbench.carried_over`). Raises ValueError where pictures differ
    in number, OSError where the file cannot be written.
    """
    entries = (*profile.entries, *others)
    sections = [_section(profile, entry, *((given or {}).get(entry.prompt, ())
                                           for given in (images_before, images_after, seeds)))
                for entry in entries]
    style = _STYLE % (_variables(LIGHT), _variables(DARK))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(profile.name)}: whom the model shows</title><style>{style}</style></head><body>
<header><p class="kicker">sd-debias report</p><h1>{escape(profile.name)}</h1>
<p class="lead">Whom does the model show when the prompt does not say, and whom with the calibrated guidance of this
profile? Every figure below was counted on generated images.</p></header>
{_overview(profile, entries) if len(entries) * len(profile.attributes) > 1 else ""}
{"".join(sections)}
{_how_to_read()}{_setting(profile)}{_apply(profile)}
<footer>{escape(profile.software)}, {escape(profile.created)}, profile hash {profile.hash[:12]}{
    ". The profile was edited by hand since it was saved" if profile.edited else ""}.</footer></body></html>
"""
    return write_atomic(Path(folder) / "report.html", page)


def _section(profile: Profile, entry: Entry, before: Sequence[Image.Image], after: Sequence[Image.Image],
             seeds: Sequence[int]) -> str:
    parts = [f'<section><h2><span class="kicker">Prompt</span> {escape(entry.prompt)}</h2>']
    if entry.warnings:
        parts.append('<div class="warning" role="note"><strong>Please note</strong><ul>'
                     + "".join(f"<li>{escape(str(w))}</li>" for w in entry.warnings) + "</ul></div>")
    for i, attribute in enumerate(profile.attributes):
        first, last = _distributions(profile, entry, i)
        parts.append(f"<h3>{escape(_spaced(attribute.name))}</h3>")
        if first is None:
            parts.append("<p>This prompt was not measured.</p>")
            continue
        rounds = [(name, _distribution(r["attributes"][i], attribute.target))
                  for name, r in zip(_names(entry), entry.rounds)]
        shares = shares_scene(attribute.names, first, last, width=NARROW)
        parts.append(f"<p>{_verdict(first, last)}</p><div class='pair'><figure><figcaption>Share of each group"
                     f"</figcaption>{shares.svg(f'Shares of {attribute.name}, see the table')}</figure>")
        if rounds:
            kl = kl_scene(rounds, width=NARROW).svg(f"KL divergence of {attribute.name} by round, see the table")
            parts.append(f"<figure><figcaption>Distance from the target by round (KL divergence)</figcaption>{kl}"
                         "<p class='small'>0 means that the shares equal the target; below the dotted line it cannot "
                         "be told from chance at this number of images.</p></figure>")
        parts.append("</div>" + _table_of_shares(attribute.names, first, last))
    parts.append(_cards(entry) + _sheets(entry, before, after, seeds) + _table_of_rounds(profile, entry) + "</section>")
    return "".join(parts)


def _verdict(before: Distribution, after: Distribution | None) -> str:
    def away(d):
        return f"{percent(d.total_variation)} of the images would have to show another group to meet the target"

    if after is None:
        return f"Without guidance, {away(before)} ({before.n} images). The profile was not verified on new seeds."
    moved = (f"Without guidance, {away(before)}; with the profile it is {percent(after.total_variation)}, on "
             f"{after.n} images whose seeds the calibration did not use. ")
    if after.kl <= after.kl_floor95:
        return moved + f"<strong>What is left cannot be told from chance at {after.n} images.</strong>"
    if after.kl < before.kl:
        return moved + "<strong>Nearer to the target, but what is left is more than chance explains.</strong>"
    return moved + "<strong>This is not nearer to the target than without guidance.</strong>"


def _overview(profile: Profile, entries: Sequence[Entry]) -> str:
    rows = []
    for entry in entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = _distributions(profile, entry, i)
            last = after or before
            rows.append([escape(entry.prompt), escape(_spaced(attribute.name)), kl_words(before.kl) if before else "",
                         kl_words(after.kl) if after else "not verified", kl_words(last.kl_floor95) if last else "",
                         ("yes" if after.kl <= after.kl_floor95 else "no") if after else ""])
    heads = ["Prompt", "Attribute", "KL before", "KL after", "Noise floor", "Within chance of the target?"]
    return f"<section><h2>At a glance</h2>{_table(heads, rows, 2)}</section>"


def _table_of_shares(names: Sequence[str], before: Distribution, after: Distribution | None) -> str:
    def cells(d, k):
        return [f"{d.counts[k]} of {d.n}", percent(d.shares[k]),
                " to ".join(f"{100 * edge:.1f}" for edge in d.intervals[k]) + " %"] if d else ["", "not verified", ""]

    rows = [[escape(name), percent(before.target[k]), *cells(before, k), *cells(after, k)]
            for k, name in enumerate(names)]
    unsure = "".join(f" {d.unsure} images {when} could not be classified and are left out." for d, when in
                     ((before, "without guidance"), (after, "with the profile")) if d and d.unsure)
    heads = ["Group", "Target", "Before", "Share", "95 % interval", "After", "Share", "95 % interval"]
    return (f"<details><summary>Figures</summary>{_table(heads, rows, 1)}"
            f"<p class='small'>Intervals are Wilson's.{unsure}</p></details>")


def _table_of_rounds(profile: Profile, entry: Entry) -> str:
    if not entry.rounds:
        return ""
    heads = ["Round", "Images", *(f"KL, {escape(_spaced(a.name))}" for a in profile.attributes), "Fidelity", "Seconds"]
    rows = [[name, str(r.get("images", "")),
             *(kl_words(_distribution(m, a.target).kl) for m, a in zip(r["attributes"], profile.attributes)),
             _number(r.get("fidelity")), _number(r.get("seconds"), 0)] for name, r in zip(_names(entry), entry.rounds)]
    return (f"<details><summary>Rounds</summary>{_table(heads, rows, 1)}"
            f"<p class='small'>Ended because: {escape(entry.stop)}.</p></details>")


def _names(entry: Entry) -> list[str]:
    return round_names([r["kind"] for r in entry.rounds])


def _cards(entry: Entry) -> str:
    def cost(key):
        value = entry.cost.get(key)
        return "not counted" if value is None else f"{value:,.0f}"

    before, after = (_number(entry.fidelity.get(key)) for key in ("before", "after"))
    cards = [("Fidelity to the prompt, before and after", f"{before} → {after}" if before else "not measured"),
             ("Images generated", cost("images")), ("Model evaluations", cost("evaluations")),
             ("Seconds", cost("seconds"))]
    return f"<dl class='cards'>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in cards)}</dl>"


def _sheets(entry: Entry, before: Sequence[Image.Image], after: Sequence[Image.Image], seeds: Sequence[int]) -> str:
    given = [pictures for pictures in (before, after, seeds) if len(pictures)]
    if len({len(pictures) for pictures in given}) > 1:
        raise ValueError(f"Pictures before and after, and their seeds, belong together, but for '{entry.prompt}' "
                         f"{len(before)}, {len(after)} and {len(seeds)} came.")
    figures = []
    for pictures, color, word in ((before, "before", "Without guidance"), (after, "after", "With the profile")):
        if not len(pictures):
            continue
        shown = list(pictures[:MOST_PAIRS])
        captions = [f"seed {seed}" for seed in seeds[:MOST_PAIRS]] or None
        sheet = contact_sheet(shown, columns=math.ceil(1.2 * len(shown) ** 0.5), captions=captions)
        more = f" (the first {MOST_PAIRS} of {len(pictures)})" if len(pictures) > MOST_PAIRS else ""
        figures.append(f"<figure class='{color}'><figcaption><i></i>{word}{more}</figcaption>"
                       f"<img src='{_inline(sheet)}' width='{sheet.width}' height='{sheet.height}' "
                       f"alt='{len(shown)} generated images'></figure>")
    if not figures:
        return ""
    same = "<p class='small'>Pictures at the same place have the same seed.</p>" if len(figures) > 1 else ""
    return f"<h3>Pictures</h3><div class='pair'>{''.join(figures)}</div>{same}"


def _how_to_read() -> str:
    return """<section><h2>How to read this</h2><dl>
<dt>Target</dt><dd>The share that the author of this profile wished for each group. It is a choice, not a fact.</dd>
<dt>95 % interval</dt><dd>Other images of the same model would give somewhat other shares; this range covers the model's
own share in 95 of 100 such counts.</dd>
<dt>KL divergence</dt><dd>One number for how far all shares together are from the target: 0 means that they equal it;
for two groups at a target of 50 %, 0.02 is 60 to 40 and 0.69 is one group alone.</dd>
<dt>Noise floor</dt><dd>Even a model that meets its target exactly shows some KL on a limited number of images. In 95 of
100 such counts it stays below this floor; more images lower it.</dd>
<dt>Held-out</dt><dd>Images of seeds that no round of the calibration used. Only they say what new images will be
like.</dd>
<dt>Fidelity</dt><dd>How well images show their prompt, in the measure of the classifier; higher is better. If it falls,
guidance is too strong.</dd></dl>
<h3>Limits</h3><ul>
<li>A classifier's label is a measurement of a picture, not anybody's identity. A few groups are a simplification made
for counting.</li>
<li>Classifiers err, and not equally for all groups. Look at the pictures, or verify with a second classifier.</li>
<li>The weights are valid for the setting below. Another model, sampler, number of steps, CFG or size needs another
calibration.</li>
<li>Nothing is said about prompts that were not measured, or about what these images show beyond the attributes
above.</li>
</ul></section>"""


def _setting(profile: Profile) -> str:
    method = profile.method
    facts = {**profile.setting, "classifier": profile.classifier, "direction": method.direction,
             "weights are spent by": method.spend}
    if method.spend == "shift":
        facts["weights are solved by the rule"] = method.rule
    rows = [[escape(_spaced(key)), escape(str(value))] for key, value in facts.items() if value not in (None, "")]
    return "<section><h2>Setting</h2>" + _table(["", ""], rows, 2) + "</section>"


def _apply(profile: Profile) -> str:
    name = escape(profile.name + ".json")
    content = base64.b64encode(json.dumps(profile.to_dict(), indent=2).encode()).decode()
    return f"""<section><h2>How to apply this profile</h2>
<p><a class="button" download="{name}" href="data:application/json;base64,{content}">Save {name}</a></p><ul>
<li><strong>ComfyUI</strong>: put the file into the profile folder and load it with the pack's profile node, between the
model and the sampler.</li>
<li><strong>A1111, Forge</strong>: put it into the profile folder, press refresh and choose it in the Debias panel.</li>
<li><strong>Command line</strong>:
<code>sd-debias generate --model MODEL --profile {name} --prompt "..." --out FOLDER</code></li></ul>
<p>Images say in their metadata that it was applied, or why it was not.</p></section>"""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """Cells are HTML; the first `words` columns hold words, the others figures."""
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}{' class=n' if k >= words else ''}>{cell}</{tag}>"
                                for k, cell in enumerate(cells)) + "</tr>"

    head = f"<thead>{line(heads, 'th')}</thead>" if any(heads) else ""
    return f"<div class='scroll'><table>{head}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table></div>"


def _spaced(name: str) -> str:
    return str(name).replace("_", " ")


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _inline(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _variables(palette: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{color};" for name, color in palette.items())


_STYLE = """
:root{%s color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{%s}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 3rem;max-width:76rem;background:var(--back);color:var(--text);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:2rem;line-height:1.2;margin:.1em 0 .4em;overflow-wrap:anywhere}
h2{font-size:1.35rem;line-height:1.3;margin:0 0 .6rem;overflow-wrap:anywhere}
h3{font-size:1.1rem;margin:1.6rem 0 .4rem}
section{border-top:1px solid var(--grid);padding-top:1.6rem;margin-top:2.2rem}
p,dl,ul{max-width:48rem}
.lead{font-size:1.1rem;color:var(--muted)}
.kicker{display:block;font-size:.8rem;font-weight:600;letter-spacing:.04em;color:var(--muted);margin:0}
.small,footer{font-size:.85rem;color:var(--muted)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%%),1fr));gap:1.5rem 2.5rem;
 align-items:start;margin:1rem 0}
figure{margin:0;min-width:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.6rem}
figcaption i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.5em}
.before i{background:var(--before)}.after i{background:var(--after)}
svg{display:block;width:100%%;max-width:36rem;height:auto;font-family:inherit}
svg path{fill:none}
img{display:block;max-width:100%%;height:auto;border-radius:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem 1.1rem .35rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
th{font-weight:600;color:var(--muted)}
.n{text-align:right;white-space:nowrap}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--muted);font-size:.9rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.4rem 0;max-width:none}
.cards div{background:var(--band);border-radius:8px;padding:.8rem 1rem}
.cards dt{font-size:.85rem;font-weight:400;color:var(--muted);margin:0}
.cards dd{font-size:1.25rem;font-weight:600;margin:0}
dt{font-weight:600;margin-top:.7rem}dd{margin:0}
.warning{border-left:4px solid var(--before);background:var(--band);border-radius:0 8px 8px 0;padding:.7rem 1rem;
 max-width:48rem}
.warning ul{margin:.3rem 0 0;padding-left:1.2rem}
.button{display:inline-block;background:var(--after);color:var(--back);padding:.5rem 1rem;border-radius:8px;
 text-decoration:none;font-weight:600}
code{background:var(--band);padding:.1em .35em;border-radius:4px;font-size:.9em}
@media print{details>*{display:block}}
"""
