"""Charts of shares: a row per prompt, for reports and cards; of one prompt an image, for hosts."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from PIL import Image

from ..attribute import Attribute
from ..calibration.standing import Shares
from ..errors import short
from .chart import LIGHT, Scene, _legend, _length, _shortened, percent
from .figures import shown_groups
from .words import people_of

MOST_ROWS = 40  # of a chart; a longer list is set smaller, in charts of at most TIGHT rows that fit a printed page
TIGHT = 50

Line = tuple[str, Sequence[Shares | None]]  # a prompt's label, and what each series shows of it
Series = Sequence[tuple[str, str]]          # their colours and words
AS_IT_IS, MEASURED = ("as the model is", "with the profile"), ("measured",)
WHISKER = ("whisker", "text", "95 % interval")


@dataclass(frozen=True)
class Look:
    """Sizes of a chart in CSS pixels."""
    width: int
    font: float
    row: float     # height of a prompt's row
    second: float  # what a second series of dots adds to it
    dot: float
    bar: float


FEW, MANY = Look(560, 13, 21, 7, 4.2, 8), Look(460, 10.5, 13, 3, 3, 5)


def share_chart(attribute: Attribute, was: Shares, now: Shares | None = None, label: str = "",
                words: Sequence[str] = AS_IT_IS) -> Image.Image:
    """The report's chart of one prompt as an image, RGB; `words` name what was measured before and now."""
    return _scene(attribute, shown_groups(was.shares), [(label, (was, now) if now else (was,))],
                  series_of(words if now else MEASURED), attribute.target, FEW).image(LIGHT)


def series_of(words: Sequence[str]) -> Series:
    """Their colours: grey for what was, blue for what is."""
    return list(zip(("was", "after")[-len(words):], words))


def charts(attribute: Attribute, order: Sequence[int], lines: Sequence[Line], series: Series, what: str,
           target: Sequence[float] | None, beside: bool = False) -> list[Markup]:
    """Charts of an attribute: one or, of many prompts, an even number of small ones. `order` as `shown_groups` gives
    it; `beside`: the series are two models."""
    count = 1 if len(lines) <= MOST_ROWS else 2 * math.ceil(len(lines) / (2 * TIGHT))
    size, look = math.ceil(len(lines) / count), FEW if count == 1 else MANY
    found = []
    for at in range(0, len(lines), size):
        part = lines[at:at + size]
        scene = _scene(attribute, order, part, series, target, look, beside)
        title = what if count == 1 else f"{what}, {at + 1} to {at + len(part)} of {len(lines)}"
        first, last = (f"{label} {percent(shown[0].shares[order[0]])}" if shown[0] else label
                       for label, shown in (part[0], part[-1]))
        found.append(_svg(scene, title, "One row per prompt, sorted by the share of "
                                        f"{short(attribute.names[order[0]])}: the first is {first}, the last "
                                        f"{last}. Every figure is in the table below."))
    return found


def _svg(scene: Scene, title: str, description: str) -> Markup:
    opening, rest = scene.svg(title).split(">", 1)  # it has escaped the title, ">" too
    return Markup(f"{opening}><title>{escape(title)}</title><desc>{escape(description)}</desc>{rest}")


def _named(lines: Sequence[Line], look: Look) -> tuple[float, list[str]]:
    """(where the rows begin, their labels as far as there is room)."""
    labels = [_shortened(label, 0.3 * look.width, look.font) for label, _ in lines]
    return max(_length(label, look.font) for label in [*labels, "target"]) + 10, labels


def _scene(attribute: Attribute, order: Sequence[int], lines: Sequence[Line], series: Series,
           target: Sequence[float] | None, look: Look, beside: bool = False) -> Scene:
    return _dots(attribute, order[0], lines, series, target, look, beside) if len(attribute.groups) == 2 else \
        _stacks(attribute, order, lines, series, target, look)


def _dots(attribute: Attribute, k: int, lines: Sequence[Line], series: Series, target: Sequence[float] | None,
          look: Look, beside: bool) -> Scene:
    """Of two groups: the share of the larger one, a dot with its interval. A bar says how far the model is from the
    target or, of two models, from the other one."""
    scene, column = Scene(look.width, 0), 3.9 * look.font
    marks = [] if target is None else [("dash", "text", "target")]
    y = _legend(scene, 2, [*(("dot", color, words) for color, words in series), WHISKER, *marks])
    left, labels = _named(lines, look)
    right, row = look.width - 6 - column * len(series), look.row + look.second * (len(series) - 1)

    def at(share: float) -> float:
        return left + (right - left) * share

    low_end, high_end = (_shortened(f"all {people_of(attribute, g)}", (right - left) / 2 - 30, 12)
                         for g in (1 - k, k))
    scene.text(left, y + 6, f"\N{LEFTWARDS ARROW} {low_end}", "muted", 12)
    scene.text(right, y + 6, f"{high_end} \N{RIGHTWARDS ARROW}", "muted", 12, "r")
    y += 18
    bottom = y + len(lines) * row
    _axis(scene, at, y, bottom)
    for number, (label, (_, shown)) in enumerate(zip(labels, lines)):
        middle = y + (number + 0.5) * row
        levels = [middle + (2 * s - len(series) + 1) * row / 4.6 for s in range(len(series))]
        scene.text(left - 8, middle, label, "text", look.font, "r")
        first, last = shown[0], shown[-1]
        to = (last.shares if last else None) if beside else target
        if first and to is not None:
            start, end = sorted((at(first.shares[k]), at(to[k])))
            scene.box(start, (middle if beside else levels[0]) - look.bar / 2, end - start, look.bar, "pale")
        for s, ((color, _), own) in enumerate(zip(series, shown)):
            if own:
                low, high = own.intervals[k]
                scene.line(at(low), levels[s], at(high), levels[s], color, 1.5)
                scene.dot(at(own.shares[k]), levels[s], look.dot, color)
                scene.text(look.width - column * (len(series) - 1 - s), middle, percent(own.shares[k]), color,
                           look.font, "r")
    if target is not None:
        scene.line(at(target[k]), y, at(target[k]), bottom, "text", 1.5, 3)
    scene.height = bottom + 22
    return scene


def _stacks(attribute: Attribute, order: Sequence[int], lines: Sequence[Line], series: Series,
            target: Sequence[float] | None, look: Look) -> Scene:
    """Of more groups: bars of all shares, the largest group first, with its interval; a panel a series."""
    k, scene = order[0], Scene(look.width, 0)
    names = [_shortened(attribute.names[g], 180, 12) for g in order]
    rest = len(attribute.groups) - len(order)
    y = _legend(scene, 2, [
        *(("box", f"g{number}", name) for number, name in enumerate(names)),
        *([("box", "rest", f"{rest} other groups")] if rest else []), ("whisker", "text", f"95 % interval, {names[0]}"),
        *([] if target is None else [("dash", "text", f"target, {names[0]}")])])
    left, labels = _named(lines, look)
    wide = (look.width - left - 18 - 18 * (len(series) - 1)) / len(series)
    top = y + (20 if len(series) > 1 else 2)
    first = top + (0 if target is None else look.row + 6)
    bottom = first + len(lines) * look.row
    for number, label in enumerate(labels):
        scene.text(left - 8, first + (number + 0.5) * look.row, label, "text", look.font, "r")
    if target is not None:
        scene.text(left - 8, top + look.row / 2, "target", "muted", look.font, "r")
    for s, (_, words) in enumerate(series):
        start = left + s * (wide + 18)

        def at(share: float, start: float = start) -> float:
            return start + wide * share

        if len(series) > 1:
            scene.text(start, y + 8, _shortened(words, wide, 12), "muted", 12)
        _axis(scene, at, top, bottom, panels=len(series))
        if target is not None:
            _stack(scene, at, top, look.row, target, order)
        for number, (_, shown) in enumerate(lines):
            edge, own = first + number * look.row, shown[s]
            if own is None:
                scene.text(start + 4, edge + look.row / 2, "not measured", "muted", look.font)
            else:
                _stack(scene, at, edge, look.row, own.shares, order)
                low, high = own.intervals[k]
                scene.line(at(low), edge + look.row / 2, at(high), edge + look.row / 2, "text", 1.5, halo=1)
        if target is not None:
            scene.line(at(target[k]), top - 3, at(target[k]), bottom, "text", 1.5, 3, halo=0.7)
    scene.height = bottom + 22
    return scene


def _stack(scene: Scene, at: Callable[[float], float], edge: float, row: float, shares: Sequence[float],
           order: Sequence[int]) -> None:
    """A prompt's bar: the shares of groups in their order, the rest as one."""
    done = 0.0
    for number, g in enumerate(order):
        scene.box(at(done), edge + 2, at(done + shares[g]) - at(done), row - 4, f"g{number}")
        done += shares[g]
    if len(order) < len(shares):
        scene.box(at(done), edge + 2, at(1) - at(done), row - 4, "rest")


def _axis(scene: Scene, at: Callable[[float], float], top: float, bottom: float, panels: int = 1) -> None:
    steps = 4 if panels == 1 else 2
    for i in range(steps + 1):
        scene.line(at(i / steps), top, at(i / steps), bottom, "grid")
        # The ends keep off a neighbour's.
        anchor = "m" if panels == 1 or 0 < i < steps else "l" if i == 0 else "r"
        scene.text(at(i / steps), bottom + 12, f"{100 * i / steps:.0f} %", "muted", 11, anchor)
