"""Reports: one HTML file that can be shared, charts and contact sheets that hosts show, and a summary for machines.

Charts are drawn with Pillow alone, because hosts need not have matplotlib; in the HTML file they are SVG of the same
shapes, so that they are sharp, follow a dark page, and show any script that the browser has.
"""
from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .calibrate import AUDIT, HELD_OUT
from .distribution import Distribution, summarise
from .files import write_atomic
from .profile import Entry, Profile

# Before and after are Okabe and Ito's vermilion and blue (2008), their orange and sky blue on dark: safe for the
# colour-blind.
LIGHT = dict(back="#ffffff", text="#1f2328", muted="#59636e", grid="#dfe3e8", band="#eef1f4", before="#d55e00",
             after="#0072b2")
DARK = dict(back="#161b22", text="#e6edf3", muted="#9aa4af", grid="#30363d", band="#21272f", before="#e69f00",
            after="#56b4e9")
# For what Pillow's own font lacks; the first that is installed is taken.
SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Hiragino Sans GB.ttc", "DejaVuSans.ttf", "arial.ttf")
WIDE, NARROW = 640, 500  # a chart in CSS pixels: of an image, and on a page that may be a telephone's
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
        "rounds": sum(r["kind"] not in (AUDIT, HELD_OUT) for r in entry.rounds),
        "images": entry.cost.get("images"),
        "fidelity": {key: entry.fidelity.get(key) for key in ("before", "after")},
        "seconds": entry.cost.get("seconds")}


def _distributions(profile: Profile, entry: Entry, i: int) -> list[Distribution | None]:
    """(before, after) of an attribute, from their counts: what else a file says of them could be edited."""
    return [_distribution(measured[i], profile.attributes[i].target) if measured else None
            for measured in (entry.before, entry.after)]


def _distribution(measured: Mapping, target: Sequence[float]) -> Distribution:
    return summarise(measured["counts"], target, measured.get("unsure", 0))


# Charts


def chart_shares(names: Sequence[str], before: Distribution, after: Distribution | None = None, title: str = "",
                 dark: bool = False) -> Image.Image:
    """Bars of every group's share with 95 % intervals, before and after, against the target. RGB, 1344 pixels wide."""
    return _shares(names, before, after, title).image(DARK if dark else LIGHT)


def chart_kl(rounds: Sequence[tuple[str, Distribution]], title: str = "", dark: bool = False) -> Image.Image:
    """KL of every round, named, with 95 % intervals, above the noise floor of its images. RGB, 1344 pixels wide.

    The last round stands out as the result.
    """
    return _kl(rounds, title).image(DARK if dark else LIGHT)


def contact_sheet(images: Sequence[Image.Image], columns: int = 8, captions: Sequence[str] | None = None,
                  size: int = 128) -> Image.Image:
    """Pictures in rows on white, each fitted into a cell of `size` pixels width and the first one's proportions. RGB.

    Raises ValueError for no pictures, fewer than one column, and captions of another number.
    """
    if not images or columns < 1:
        raise ValueError(f"A contact sheet needs pictures and a column, but {len(images)} and {columns} came.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"Expected a caption a picture, but {len(captions)} for {len(images)} came.")
    gap, line = 4, 0 if captions is None else 16
    height = round(size * min(max(images[0].height / images[0].width, 0.25), 4))
    columns = min(columns, len(images))
    across, down = size + gap, height + line + gap
    sheet = Image.new("RGB", (columns * across - gap, math.ceil(len(images) / columns) * down - gap), "white")
    for i, picture in enumerate(images):
        left, top = i % columns * across, i // columns * down
        scale = min(size / picture.width, height / picture.height)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.convert("RGBA").resize(fitted, Image.LANCZOS if scale < 1 else Image.BICUBIC)
        sheet.paste(picture, (left + (size - fitted[0]) // 2, top + (height - fitted[1]) // 2), picture)
        if captions is not None:
            text = _shortened(captions[i], size, 12)
            _write(sheet, left + size / 2, top + height + line / 2, text, 12, LIGHT["muted"], "m")
    return sheet


@dataclass
class _Scene:
    """Shapes in CSS pixels, drawn alike as SVG and as an image. Colours are names of the palettes."""
    width: int
    height: float
    shapes: list[tuple] = field(default_factory=list)

    def box(self, x, y, width, height, color):
        self.shapes.append(("box", x, y, max(width, 0), height, color))

    def line(self, x1, y1, x2, y2, color, width=1.0, dash=0.0, halo=0.0):
        """`halo` sets it off from bars of any colour."""
        if halo:
            self.line(x1, y1, x2, y2, "back", width + 2 * halo)
        pieces = max(1, round(math.hypot(x2 - x1, y2 - y1) / (2 * dash))) if dash else 1
        for i in range(pieces):
            start, end = i / pieces, (i + 0.5) / pieces if dash else 1
            self.shapes.append(("line", x1 + (x2 - x1) * start, y1 + (y2 - y1) * start, x1 + (x2 - x1) * end,
                                y1 + (y2 - y1) * end, width, color))

    def dot(self, x, y, radius, color):
        self.shapes.append(("dot", x, y, radius, color))

    def text(self, x, y, text, color="text", size=13, anchor="l"):
        """`anchor` l, m or r is what of the text stands at x; y is its middle."""
        self.shapes.append(("text", x, y, text, size, color, anchor))

    def whisker(self, low, high, across, color, vertical=False, halo=0.0):
        """An interval from low to high; `across` is its place on the other axis."""
        for a, b, c, d in ((low, across, high, across), (low, across - 3, low, across + 3),
                           (high, across - 3, high, across + 3)):
            self.line(*((b, a, d, c) if vertical else (a, b, c, d)), color, 1.5, halo=halo)

    def svg(self, label: str) -> str:
        parts = [f'<svg viewBox="0 0 {self.width} {self.height:g}" role="img" aria-label="{escape(label)}">']
        for kind, *s in self.shapes:
            if kind == "box":
                parts.append('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5" '
                             'style="fill:var(--{})"/>'.format(*s))
            elif kind == "line":
                parts.append('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" style="stroke-width:{:g};stroke:var(--{})"/>'
                             .format(*s))
            elif kind == "dot":
                parts.append('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" style="fill:var(--{})"/>'.format(*s))
            else:
                x, y, text, size, color, anchor = s
                where = {"l": "start", "m": "middle", "r": "end"}[anchor]
                parts.append(f'<text x="{x:.1f}" y="{y + 0.36 * size:.1f}" font-size="{size}" text-anchor="{where}" '
                             f'style="fill:var(--{color})">{escape(text)}</text>')
        return "".join(parts) + "</svg>"

    def image(self, palette: Mapping[str, str], scale: int = 2, finer: int = 3, margin: int = 16) -> Image.Image:
        """RGB at `scale` times the size; shapes are drawn `finer` times larger and shrunk, text is smooth already."""
        f = scale * finer
        size = (round(self.width * scale), round(self.height * scale))
        canvas = Image.new("RGB", (size[0] * finer, size[1] * finer), palette["back"])
        draw = ImageDraw.Draw(canvas)
        for kind, *s in self.shapes:
            if kind == "box" and s[2] * f >= 1:
                x, y, width, height, color = s
                draw.rectangle((x * f, y * f, (x + width) * f - 1, (y + height) * f - 1), palette[color])
            elif kind == "line":
                draw.line([v * f for v in s[:4]], palette[s[5]], max(1, round(s[4] * f)))
            elif kind == "dot":
                x, y, r, color = s
                draw.ellipse(((x - r) * f, (y - r) * f, (x + r) * f, (y + r) * f), palette[color])
        canvas = canvas.resize(size, Image.LANCZOS)
        for kind, *s in self.shapes:
            if kind == "text":
                x, y, text, points, color, anchor = s
                _write(canvas, x * scale, y * scale, text, points * scale, palette[color], anchor)
        return ImageOps.expand(canvas, margin * scale, palette["back"])


def _shares(names: Sequence[str], before: Distribution, after: Distribution | None, title: str = "",
            width: int = WIDE) -> _Scene:
    measured = [(d, color) for d, color in ((before, "before"), (after, "after")) if d is not None]
    top = max([high for d, _ in measured for _, high in d.intervals] + list(before.target))
    step = next(s for s in (0.05, 0.1, 0.2, 0.25) if top <= 5 * s or s == 0.25)
    limit = math.ceil(top / step - 1e-9) * step
    bar, space, foot = 14, 16, 26
    row = len(measured) * (bar + 3) + space
    names = [_shortened(name, 0.3 * width, 14) for name in names]
    left, right = max(_length(name, 14) for name in names) + 14, width - 122

    scene = _Scene(width, 0)
    y = _title(scene, title)
    words = ["without guidance", "with the profile"]
    legend = [("box", color, f"{word} ({d.n} images)") for (d, color), word in zip(measured, words)]
    y = _legend(scene, y, [*legend, ("dash", "text", "target"), ("whisker", "text", "95 % interval")])
    bottom = y + len(names) * row
    scene.height = bottom + foot

    def at(share):
        return left + (right - left) * share / limit

    for i in range(round(limit / step) + 1):
        scene.line(at(i * step), y, at(i * step), bottom, "grid")
        scene.text(at(i * step), bottom + 14, f"{100 * i * step:.0f} %", "muted", 12, "m")
    for k, name in enumerate(names):
        first = y + k * row + space / 2
        scene.text(left - 12, first + (row - space - 3) / 2, name, "text", 14, "r")
        for b, (d, color) in enumerate(measured):
            start = first + b * (bar + 3)
            scene.box(left, start, at(d.shares[k]) - left, bar, color)
            scene.whisker(at(d.intervals[k][0]), at(d.intervals[k][1]), start + bar / 2, "text", halo=1)
            scene.text(width - 58, start + bar / 2, _percent(d.shares[k]), "text", 13, "r")
            low, high = (f"{100 * edge:.0f}" for edge in d.intervals[k])
            scene.text(width, start + bar / 2, f"{low}-{high}", "muted", 12, "r")
        scene.line(at(before.target[k]), first - 4, at(before.target[k]), first + row - space + 1, "text", 2, 2.5, 1)
    scene.line(left, y, left, bottom, "muted")
    return scene


def _kl(rounds: Sequence[tuple[str, Distribution]], title: str = "", width: int = WIDE) -> _Scene:
    if not rounds:
        raise ValueError("A chart of rounds needs a round, but none came.")
    kls, n = [d.kl for _, d in rounds], len(rounds)
    finite = [kl for kl in kls if math.isfinite(kl)]
    floors = [d.kl_floor95 for _, d in rounds]
    highs = [d.kl_interval[1] for _, d in rounds if math.isfinite(d.kl_interval[1])]
    step, limit = _ticks(max(1.1 * max(finite, default=0), min(max(highs, default=0), 1.4 * max(finite, default=0)),
                             1.6 * max(floors), 1e-6))
    height, foot = 170, 62

    scene = _Scene(width, 0)
    y = _title(scene, title)
    y = _legend(scene, y, [("dot", "before", "round"), ("dot", "after", "result"),
                           ("whisker", "muted", "95 % interval"), ("dash", "text", "noise floor")]) + 8
    bottom = y + height
    scene.height = bottom + foot
    ticks = [i * step for i in range(round(limit / step) + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    labels = [(name, _kl_words(d.kl), f"N = {d.n}") for name, d in rounds]
    widest = max(_length(words, 12) for lines in labels for words in lines)
    left, right = max(_length(f"{t:.{digits}f}", 12) for t in ticks) + 12, width - widest / 2
    slot = (right - left) / n

    def down(kl):
        return bottom - height * min(kl, limit) / limit

    for k, floor in enumerate(floors):
        scene.box(left + k * slot, down(floor), slot, bottom - down(floor), "band")
    for tick in ticks:
        scene.line(left, down(tick), right, down(tick), "grid")
        scene.text(left - 8, down(tick), f"{tick:.{digits}f}", "muted", 12, "r")
    for k, floor in enumerate(floors):
        scene.line(left + k * slot, down(floor), left + (k + 1) * slot, down(floor), "text", 2, 2.5)
    middles = [left + (k + 0.5) * slot for k in range(n)]
    for k in range(n - 1):
        scene.line(middles[k], down(kls[k]), middles[k + 1], down(kls[k + 1]), "muted", 1.5)
    every = math.ceil((widest + 8) / slot)
    for k, (_, d) in enumerate(rounds):
        if all(map(math.isfinite, d.kl_interval)):
            scene.whisker(down(d.kl_interval[0]), down(d.kl_interval[1]), middles[k], "muted", vertical=True)
        scene.dot(middles[k], down(kls[k]), 5, "after" if k == n - 1 and n > 1 else "before")
        if k == n - 1 or (k % every == 0 and n - 1 - k >= every):
            for line, words in enumerate(labels[k]):
                scene.text(middles[k], bottom + 14 + 17 * line, words, "muted" if line == 2 else "text", 12, "m")
    scene.line(left, bottom, right, bottom, "muted")
    return scene


def _title(scene: _Scene, title: str) -> float:
    """Draw the title, where there is one, and return what comes below it."""
    if title:
        scene.text(0, 12, _shortened(title, scene.width, 16), "text", 16)
    return 30 if title else 2


def _legend(scene: _Scene, y: float, items: Sequence[tuple[str, str, str]]) -> float:
    """Draw a legend, in as many lines as it needs, and return what comes below it."""
    x = 0.0
    for kind, color, text in items:
        width = 22 + _length(text, 12) + 16
        if x and x + width - 16 > scene.width:
            x, y = 0.0, y + 20
        if kind == "box":
            scene.box(x, y + 3, 16, 12, color)
        elif kind == "dot":
            scene.dot(x + 8, y + 9, 5, color)
        elif kind == "dash":
            scene.line(x, y + 9, x + 17, y + 9, color, 2, 2.5)
        else:
            scene.whisker(x + 1, x + 15, y + 9, color)
        scene.text(x + 22, y + 9, text, "muted", 12)
        x += width
    return y + 26


def _ticks(top: float) -> tuple[float, float]:
    """(step, limit): steps of 1, 2 or 5 times a power of ten, five at most, up to the limit above `top`."""
    power = 10.0 ** math.floor(math.log10(top / 4))
    step = next(m * power for m in (1, 2, 5, 10) if top <= 5 * m * power)
    return step, math.ceil(top / step - 1e-9) * step


# Text in images


@lru_cache(maxsize=64)
def _font(size: float, plain: bool = True):
    """Pillow's own font, which has ASCII letters only, else one of the system's; and where there is none, Pillow's font
    of one size, which is all that it has before 10.1 or without FreeType."""
    tries = [lambda name=name: ImageFont.truetype(name, size) for name in SYSTEM_FONTS]
    tries.insert(0 if plain else len(tries), lambda: ImageFont.load_default(size))
    for attempt in tries:
        try:
            return attempt()
        except (TypeError, OSError, ImportError):
            continue
    return ImageFont.load_default()


def _line(text: str, size: float) -> tuple[ImageFont.ImageFont, str, float]:
    """(font, the text in one line, factor by which to enlarge it); the font of one size has Latin-1 letters only."""
    text = " ".join(text.split())
    font = _font(size, text.isascii())
    if isinstance(font, ImageFont.FreeTypeFont):
        return font, text, 1.0
    return font, text.encode("latin-1", "replace").decode("latin-1"), size / 11


def _length(text: str, size: float) -> float:
    """Width of a text, with room for the wider font that a browser may choose."""
    font, text, grow = _line(text, size)
    return font.getlength(text) * grow * 1.15


def _shortened(text: str, width: float, size: float) -> str:
    """The text, or as much of its beginning as fits."""
    text = " ".join(text.split())
    if _length(text, size) <= width:
        return text
    while text and _length(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _write(image: Image.Image, x: float, y: float, text: str, size: float, color: str, anchor: str) -> None:
    font, text, grow = _line(text, size)
    # The middle of a line, not of its letters: labels with and without descenders stand on one level.
    _, top, _, bottom = font.getbbox("Hx")
    mask = Image.new("L", (math.ceil(font.getlength(text)) + 2, bottom + math.ceil(size / 2)), 0)
    ImageDraw.Draw(mask).text((1, 0), text, 255, font)
    if grow != 1:
        mask = mask.resize((max(1, round(mask.width * grow)), max(1, round(mask.height * grow))), Image.BICUBIC)
    left = x - mask.width * {"l": 0, "m": 0.5, "r": 1}[anchor]
    image.paste(Image.new("RGB", mask.size, color), (round(left), round(y - (top + bottom) / 2 * grow)), mask)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _kl_words(kl: float) -> str:
    return "infinite" if math.isinf(kl) else f"{kl:.4f}" if kl < 0.01 else f"{kl:.3f}"


# The HTML file


def write_report(folder: str | Path, profile: Profile, images_before: Mapping[str, Sequence[Image.Image]] | None = None,
                 images_after: Mapping[str, Sequence[Image.Image]] | None = None,
                 seeds: Mapping[str, Sequence[int]] | None = None) -> Path:
    """Write `report.html` to a folder, atomically, and return its path: one file that loads nothing from anywhere.

    images_before, images_after and seeds are by prompt; picture i of both has the same seed. Raises ValueError where
    they differ in number, OSError where the file cannot be written.
    """
    sections = [_section(profile, entry, *((given or {}).get(entry.prompt, ())
                                           for given in (images_before, images_after, seeds)))
                for entry in profile.entries]
    style = _STYLE % (_variables(LIGHT), _variables(DARK))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(profile.name)}: whom the model shows</title><style>{style}</style></head><body>
<header><p class="kicker">sd-debias report</p><h1>{escape(profile.name)}</h1>
<p class="lead">Whom does the model show when the prompt does not say, and whom with the calibrated guidance of this
profile? Every figure below was counted on generated images.</p></header>
{_overview(profile) if len(profile.entries) * len(profile.attributes) > 1 else ""}
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
        rounds = [(_round_name(k, r["kind"]), _distribution(r["attributes"][i], attribute.target))
                  for k, r in enumerate(entry.rounds)]
        shares = _shares(attribute.names, first, last, width=NARROW).svg(f"Shares of {attribute.name}, see the table")
        parts.append(f"<p>{_verdict(first, last)}</p><div class='pair'><figure><figcaption>Share of each group"
                     f"</figcaption>{shares}</figure>")
        if rounds:
            kl = _kl(rounds, width=NARROW).svg(f"KL divergence of {attribute.name} by round, see the table of rounds")
            parts.append(f"<figure><figcaption>Distance from the target by round (KL divergence)</figcaption>{kl}"
                         "<p class='small'>0 means that the shares equal the target; below the dotted line it cannot "
                         "be told from chance at this number of images.</p></figure>")
        parts.append("</div>" + _table_of_shares(attribute.names, first, last))
    parts.append(_cards(entry) + _sheets(entry, before, after, seeds) + _table_of_rounds(profile, entry) + "</section>")
    return "".join(parts)


def _verdict(before: Distribution, after: Distribution | None) -> str:
    def away(d):
        return f"{_percent(d.total_variation)} of the images would have to show another group to meet the target"

    if after is None:
        return f"Without guidance, {away(before)} ({before.n} images). The profile was not verified on new seeds."
    moved = (f"Without guidance, {away(before)}; with the profile it is {_percent(after.total_variation)}, on "
             f"{after.n} images whose seeds the calibration did not use. ")
    if after.kl <= after.kl_floor95:
        return moved + f"<strong>What is left cannot be told from chance at {after.n} images.</strong>"
    if after.kl < before.kl:
        return moved + "<strong>Nearer to the target, but what is left is more than chance explains.</strong>"
    return moved + "<strong>This is not nearer to the target than without guidance.</strong>"


def _overview(profile: Profile) -> str:
    rows = []
    for entry in profile.entries:
        for i, attribute in enumerate(profile.attributes):
            before, after = _distributions(profile, entry, i)
            last = after or before
            rows.append([escape(entry.prompt), escape(_spaced(attribute.name)), _kl_words(before.kl) if before else "",
                         _kl_words(after.kl) if after else "not verified", _kl_words(last.kl_floor95) if last else "",
                         ("yes" if after.kl <= after.kl_floor95 else "no") if after else ""])
    heads = ["Prompt", "Attribute", "KL before", "KL after", "Noise floor", "Within chance of the target?"]
    return f"<section><h2>At a glance</h2>{_table(heads, rows, 2)}</section>"


def _table_of_shares(names: Sequence[str], before: Distribution, after: Distribution | None) -> str:
    def cells(d, k):
        return [f"{d.counts[k]} of {d.n}", _percent(d.shares[k]),
                " to ".join(f"{100 * edge:.1f}" for edge in d.intervals[k]) + " %"] if d else ["", "not verified", ""]

    rows = [[escape(name), _percent(before.target[k]), *cells(before, k), *cells(after, k)]
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
    rows = [[_round_name(k, r["kind"]), str(r.get("images", "")),
             *(_kl_words(_distribution(m, a.target).kl) for m, a in zip(r["attributes"], profile.attributes)),
             _number(r.get("fidelity")), _number(r.get("seconds"), 0)] for k, r in enumerate(entry.rounds)]
    return (f"<details><summary>Rounds</summary>{_table(heads, rows, 1)}"
            f"<p class='small'>Ended because: {escape(entry.stop)}.</p></details>")


def _round_name(number: int, kind: str) -> str:
    return kind if kind in (AUDIT, HELD_OUT) else f"round {number}"


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
<li><strong>Command line</strong>: <code>sd-debias generate --profile {name} --prompt "..."</code></li></ul>
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
