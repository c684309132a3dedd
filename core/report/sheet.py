"""Images of one round side by side."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from PIL import Image

from ..errors import DebiasError, short
from .chart import LIGHT, contact_sheet, wrapped, written

WITHOUT, WITH = "without guidance", "with the profile"


@dataclass(frozen=True)
class Sheet:
    """Images that were made in the same way.

    what      how: `WITHOUT`, `WITH`, or a round's name
    images  PIL images
    seeds     of each image; empty if unknown. Raises DebiasError for another number
    """
    what: str
    pictures: Sequence[Image.Image]
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        if len(self.seeds) not in (0, len(self.pictures)):
            raise DebiasError(f"Expected a seed for each image {short(self.what)}, got {len(self.seeds)} seeds and "
                              f"{len(self.pictures)} images.")

    def image(self, columns: int = 8) -> Image.Image:
        """A contact sheet with the seeds below. Raises DebiasError for no images."""
        return contact_sheet(self.pictures, columns, [f"seed {seed}" for seed in self.seeds] or None)


def side_by_side(rows: Sequence[Sequence[tuple[str, Sequence[Image.Image]]]], columns: int = 4) -> Image.Image:
    """Contact sheets in rows, each with its title above. RGB, on white. Raises DebiasError for no images."""
    made = [_titled([(title, contact_sheet(pictures, columns)) for title, pictures in row if pictures]) for row in rows]
    made = [row for row in made if row]
    if not made:
        raise DebiasError("There are no images to set side by side.")
    gap = 32
    size = (max(sum(one.width + gap for one in row) - gap for row in made),
            sum(max(one.height for one in row) + gap for row in made) - gap)
    page, top = Image.new("RGB", size, "white"), 0
    for row in made:
        left = 0
        for one in row:
            page.paste(one, (left, top))
            left += one.width + gap
        top += max(one.height for one in row) + gap
    return page


def _titled(row: Sequence[tuple[str, Image.Image]]) -> list[Image.Image]:
    """The sheets of a row, each below its title, in as many lines as it needs: all sheets begin at one height."""
    line, space, points = 22, 8, 18
    titles = [wrapped(title, sheet.width - 4, points) for title, sheet in row]
    most, made = max(map(len, titles), default=0), []
    top = most * line + space if most else 0
    for lines, (_, sheet) in zip(titles, row, strict=True):
        page = Image.new("RGB", (sheet.width, sheet.height + top), "white")
        page.paste(sheet, (0, top))
        for number, text in enumerate(lines, most - len(lines)):
            written(page, 2, (number + 0.5) * line + space / 2, text, points, LIGHT["text"], sheet.width - 4)
        made.append(page)
    return made
