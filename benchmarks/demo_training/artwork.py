"""The demo's artwork: people at work from two openly licensed emoji sets, every label known.

Noto Emoji (Apache-2.0) and Twemoji (CC-BY 4.0) draw each occupation for a man and a woman in the five Fitzpatrick
skin tones that Unicode defines (I-II, III, IV, V, VI). `artwork.png` holds all of them at 64x64 on white: one row
an occupation and artist, one column a gender and tone.

To build the sheet again from the two npm packages that carry the pictures:

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python -m demo_training.artwork emoji-datasource-google-16.0.0.tgz emoji-datasource-twitter-16.0.0.tgz
"""
from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sd_debias.demo_model.subjects import ITA_CUTOFFS as ITA_CUTOFFS
from sd_debias.demo_model.subjects import OCCUPATIONS as OCCUPATIONS
from sd_debias.demo_model.subjects import PROFESSIONS, SUBJECTS, TOOLS

SIZE = 64
SHEET = Path(__file__).with_name("artwork.png")

ARTISTS = ("google", "twitter")
GENDERS = {"man": "1f468", "woman": "1f469"}
TONES = {"fair": "1f3fb", "olive": "1f3fc", "tan": "1f3fd", "brown": "1f3fe", "very dark": "1f3ff"}

SIGNS = {"man": "2642-fe0f", "woman": "2640-fe0f"}


class Label(NamedTuple):
    """What one picture of the sheet shows."""
    subject: str
    artist: str
    gender: str
    tone: str


LABELS = tuple(Label(subject, artist, gender, tone) for subject in SUBJECTS for artist in ARTISTS
               for gender in GENDERS for tone in TONES)


def load() -> np.ndarray:
    """All pictures of the sheet in the order of `LABELS`: uint8 RGB, [420, 64, 64, 3]."""
    sheet = np.asarray(Image.open(SHEET).convert("RGB"))
    rows, columns = sheet.shape[0] // SIZE, sheet.shape[1] // SIZE
    return sheet.reshape(rows, SIZE, columns, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)


def nearest(images: np.ndarray) -> np.ndarray:
    """Index into `LABELS` of the picture with the least squared difference, [N], for uint8 [N, 64, 64, 3]."""
    known = load().reshape(len(LABELS), -1).astype(np.float32)
    x = images.reshape(len(images), -1).astype(np.float32)
    return ((known ** 2).sum(1) - 2 * x @ known.T).argmin(1)


def numbers(indices: np.ndarray) -> np.ndarray:
    """(subject, gender, tone) of indices into `LABELS`, as their places in SUBJECTS, GENDERS and TONES: int [N, 3]."""
    table = np.array([(SUBJECTS.index(label.subject), list(GENDERS).index(label.gender), list(TONES).index(label.tone))
                      for label in LABELS])
    return table[indices]


def file_stem(label: Label) -> str:
    """Name of a picture in the packages: the lower-case code points of its emoji."""
    tone = TONES[label.tone]
    if label.subject in PROFESSIONS:
        return f"{PROFESSIONS[label.subject]}-{tone}-200d-{SIGNS[label.gender]}"
    tool = TOOLS[label.subject]
    return f"{GENDERS[label.gender]}-{tone}" + (f"-200d-{tool}" if tool else "")


def build(archives: dict[str, Path], out: Path = SHEET) -> None:
    """Compose the sheet from the npm archives, given by artist."""
    pictures = []
    opened = {artist: tarfile.open(path) for artist, path in archives.items()}
    for label in LABELS:
        name = f"package/img/{label.artist}/64/{file_stem(label)}.png"
        picture = Image.open(io.BytesIO(opened[label.artist].extractfile(name).read())).convert("RGBA")
        ground = Image.new("RGBA", (SIZE, SIZE), "white")
        ground.alpha_composite(picture.resize((SIZE, SIZE)))
        pictures.append(np.asarray(ground.convert("RGB")))
    columns = len(GENDERS) * len(TONES)
    cells = np.stack(pictures).reshape(-1, columns, SIZE, SIZE, 3).swapaxes(1, 2)
    Image.fromarray(cells.reshape(-1, columns * SIZE, 3)).save(out, optimize=True)


if __name__ == "__main__":
    build(dict(zip(ARTISTS, map(Path, sys.argv[1:3]))))
