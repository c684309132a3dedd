"""What charts and contact sheets are drawn with, as images for hosts and as SVG for the report.

Images are drawn with Pillow alone, because hosts need not have matplotlib; in the report charts are SVG of
the same shapes, so that they are sharp, follow a dark page, and show any script that the browser has.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Resampling

from ..errors import DebiasError

# Before and after are Okabe and Ito's vermilion and blue (2008), their orange and sky blue on dark: safe for the
# colour-blind.
LIGHT = dict(back="#ffffff", text="#1f2328", muted="#59636e", grid="#dfe3e8", band="#eef1f4", before="#d55e00",
             after="#0072b2", was="#6e7781", pale="#d0d7de", rest="#aab2bb", loud="#b35900", g0="#0072b2",
             g1="#e69f00", g2="#009e73", g3="#cc79a7", g4="#56b4e9", g5="#b8a200", g6="#d55e00", g7="#7a5195")
DARK = {**LIGHT, **dict(
    back="#161b22", text="#e6edf3", muted="#9aa4af", grid="#30363d", band="#21272f", before="#e69f00", after="#56b4e9",
    was="#9aa4af", pale="#3d444d", rest="#6e7781", loud="#e69f00", g0="#2f8fd0", g7="#a78bd0")}
# For what Pillow's own font lacks; the first that is installed is taken.
SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Hiragino Sans GB.ttc", "DejaVuSans.ttf", "arial.ttf")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(images: Sequence[Image.Image], columns: int = 8, captions: Sequence[str] | None = None,
                  size: int = 128) -> Image.Image:
    """Images in rows on white, each fitted into a cell of `size` pixels width and the first one's proportions. RGB.

    Raises DebiasError for no images, fewer than one column, and captions of another number.
    """
    if not images or columns < 1:
        raise DebiasError(f"Expected images and one column or more for a contact sheet, got {len(images)} and "
                          f"{columns}.")
    if captions is not None and len(captions) != len(images):
        raise DebiasError(f"Expected a caption per image, got {len(captions)} for {len(images)}.")
    gap, line = 4, 0 if captions is None else 16
    height = round(size * min(max(images[0].height / images[0].width, 0.25), 4))
    columns = min(columns, len(images))
    across, down = size + gap, height + line + gap
    sheet = Image.new("RGB", (columns * across - gap, math.ceil(len(images) / columns) * down - gap), "white")
    for i, picture in enumerate(images):
        left, top = i % columns * across, i // columns * down
        scale = min(size / picture.width, height / picture.height)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.convert("RGBA").resize(fitted, Resampling.LANCZOS if scale < 1 else Resampling.BICUBIC)
        sheet.paste(picture, (left + (size - fitted[0]) // 2, top + (height - fitted[1]) // 2), picture)
        if captions is not None:
            text = _shortened(captions[i], size, 12)
            _write(sheet, left + size / 2, top + height + line / 2, text, 12, LIGHT["muted"], "m")
    return sheet


@dataclass
class Scene:
    """Shapes in CSS pixels, drawn alike as SVG and as an image. Colours are names of the palettes."""
    width: int
    height: float
    shapes: list[tuple] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        self.shapes.append(("box", x, y, max(width, 0), height, color))

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1.0, dash: float = 0.0,
             halo: float = 0.0) -> None:
        """`halo` sets it off from bars of any colour."""
        if halo:
            self.line(x1, y1, x2, y2, "back", width + 2 * halo)
        pieces = max(1, round(math.hypot(x2 - x1, y2 - y1) / (2 * dash))) if dash else 1
        for i in range(pieces):
            start, end = i / pieces, (i + 0.5) / pieces if dash else 1
            self.shapes.append(("line", x1 + (x2 - x1) * start, y1 + (y2 - y1) * start, x1 + (x2 - x1) * end,
                                y1 + (y2 - y1) * end, width, color))

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        self.shapes.append(("dot", x, y, radius, color))

    def text(self, x: float, y: float, text: str, color: str = "text", size: float = 13, anchor: str = "l") -> None:
        """`anchor` l, m or r is what of the text stands at x; y is its middle."""
        self.shapes.append(("text", x, y, text, size, color, anchor))

    def whisker(self, low: float, high: float, y: float, color: str, halo: float = 0.0) -> None:
        """An interval from low to high."""
        for edges in ((low, y, high, y), (low, y - 3, low, y + 3), (high, y - 3, high, y + 3)):
            self.line(*edges, color, 1.5, halo=halo)

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
            if kind == "box" and min(s[2], s[3]) * f >= 1:
                x, y, width, height, color = s
                draw.rectangle((x * f, y * f, (x + width) * f - 1, (y + height) * f - 1), palette[color])
            elif kind == "line":
                draw.line([v * f for v in s[:4]], palette[s[5]], max(1, round(s[4] * f)))
            elif kind == "dot":
                x, y, r, color = s
                draw.ellipse(((x - r) * f, (y - r) * f, (x + r) * f, (y + r) * f), palette[color])
        canvas = canvas.resize(size, Resampling.LANCZOS)
        for kind, *s in self.shapes:
            if kind == "text":
                x, y, text, points, color, anchor = s
                _write(canvas, x * scale, y * scale, text, points * scale, palette[color], anchor)
        return ImageOps.expand(canvas, margin * scale, palette["back"])


def _legend(scene: Scene, y: float, items: Sequence[tuple[str, str, str]]) -> float:
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


# Text in images


@lru_cache(maxsize=64)
def _font(size: float, plain: bool = True) -> Font:
    """Pillow's own font, which has ASCII letters only, else one of the system's; and where there is none, Pillow's font
    of one size, which is all that it has before 10.1 or without FreeType."""
    own: str | None = None
    for name in (own, *SYSTEM_FONTS) if plain else (*SYSTEM_FONTS, own):
        try:
            return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
        except (TypeError, OSError, ImportError):
            continue
    return ImageFont.load_default()


def _line(text: str, size: float) -> tuple[Font, str, float]:
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
    """The text, or as much of its beginning as fits. No letter that is counted is narrower than a tenth of the size."""
    most = int(10 * width / size) + 1
    whole = " ".join(text[:4 * most].split())
    if len(text) <= 4 * most and len(whole) <= most and _length(whole, size) <= width:
        return whole
    fits, above = 0, min(len(whole), most) + 1  # letters: so many fit, so many do not
    while above - fits > 1:
        middle = (fits + above) // 2
        fits, above = (middle, above) if _length(whole[:middle] + "...", size) <= width else (fits, middle)
    return whole[:fits].rstrip() + "..."


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The text in four lines of a width in pixels; the rest is left out, and so is the end of a wider word."""
    lines: list[str] = []
    words = re.split(r"(?<!/) (?!/)", " ".join(text.split())) if text.strip() else []  # "0 / 100" is one
    while words and len(lines) < 4:
        fit = next((n for n in range(1, len(words) + 1) if _length(" ".join(words[:n + 1]), size) > width), len(words))
        rest = words if len(lines) == 3 else words[:fit]
        lines.append(_shortened(" ".join(rest), width, size))
        words = words[len(rest):]
    return lines


def _write(image: Image.Image, x: float, y: float, text: str, size: float, color: str, anchor: str) -> None:
    font, text, grow = _line(text, size)
    # The middle of a line, not of its letters: labels with and without descenders stand on one level.
    _, top, _, bottom = font.getbbox("Hx")
    mask = Image.new("L", (math.ceil(font.getlength(text)) + 2, math.ceil(bottom + size / 2)), 0)
    ImageDraw.Draw(mask).text((1, 0), text, 255, font)
    if grow != 1:
        mask = mask.resize((max(1, round(mask.width * grow)), max(1, round(mask.height * grow))), Resampling.BICUBIC)
    left = x - mask.width * {"l": 0, "m": 0.5, "r": 1}[anchor]
    image.paste(Image.new("RGB", mask.size, color), (round(left), round(y - (top + bottom) / 2 * grow)), mask)


def written(image: Image.Image, x: float, y: float, text: str, size: float, color: str, width: float) -> None:
    """Write one line on an image, its left end at x and its middle at y, shortened to a width in pixels."""
    _write(image, x, y, _shortened(text, width, size), size, color, "l")


def percent(share: float) -> str:
    """A share in [0, 1] in words: "12 %", below one percent "0.4 %"."""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def kl_words(kl: float) -> str:
    """KL in nats in words, "infinite" among them."""
    return "infinite" if math.isinf(kl) else f"{kl:.4f}" if kl < 0.01 else f"{kl:.3f}"
