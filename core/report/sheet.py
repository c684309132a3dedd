"""Pictures of one round side by side."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from PIL import Image

from ..errors import DebiasError, short
from .chart import contact_sheet

WITHOUT, WITH = "without guidance", "with the profile"


@dataclass(frozen=True)
class Sheet:
    """Pictures that were made alike.

    what      how: `WITHOUT`, `WITH`, or a round's name
    pictures  PIL images
    seeds     of each picture; empty where nobody knows them. Raises DebiasError for another number
    """
    what: str
    pictures: Sequence[Image.Image]
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        if len(self.seeds) not in (0, len(self.pictures)):
            raise DebiasError(f"Expected a seed for each picture {short(self.what)}, but {len(self.seeds)} seeds and "
                              f"{len(self.pictures)} pictures came.")

    def image(self, columns: int = 8, most: int | None = None) -> Image.Image:
        """A contact sheet of the first pictures, with their seeds below. Raises DebiasError for none."""
        captions = [f"seed {seed}" for seed in self.seeds[:most]] or None
        return contact_sheet(list(self.pictures[:most]), columns, captions)
