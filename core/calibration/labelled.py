"""Labelled images: a table of what judges said, and corrections by hand."""
from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..attribute import Attribute
from .round import Round
from ..distribution import Distribution
from ..errors import DebiasError, quoted, short
from ..files import read_json
from ..judge import LEFT_OUT, UNSURE
from ..judge.check import Check, counts_of

COLUMNS = ("title", "image", "person", "faces", "note")
FORM = "sd-debias corrections 1"
# Where a formula would begin: in its cell, or behind what some spreadsheets part cells and lines at. Some take the wide
# forms for the same.
FORMULA = re.compile(r"(\A|[;\t\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
MOST_THUMBS = 1500  # images of a round or a folder of which one is kept: a page of some 10 MB
THUMB = 192  # pixels of a thumbnail's longer side


@dataclass
class Labelled:
    """Images of one prompt, or of one folder, and their labels.

    title       what they are of
    attributes  that were judged
    round       their labels, in the order of `keys`
    keys        what each image is known by: "seed 12", or its file's name
    run         identifies these images: corrections of another run do not fit
    thumbs      JPEG thumbnails by key, as far as they are kept
    checks      of the judges, one an attribute
    notes       by key, why an image could not be read
    """
    title: str
    attributes: tuple[Attribute, ...]
    round: Round
    keys: Sequence[str]
    run: str
    thumbs: Mapping[str, bytes] = field(default_factory=dict)
    checks: Sequence[Check | None] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def distribution(self, i: int) -> Distribution:
        """Shares of an attribute. Raises DebiasError where no image was classified."""
        return self.round.distribution(i, self.attributes[i].target, counts_of(self.checks, i))

    def labels(self, i: int, at: int) -> list[int]:
        """Labels of an image: one, or one a person where every person counts."""
        return list(self.round.people[i][at]) if self.round.people else [self.round.labels[i][at]]

    def correct(self, corrections: Mapping[str, Mapping[str, Mapping[str, str | None]]]) -> tuple[int, int]:
        """Take over labels set by hand; returns (how many were, how many are of images that are not here).

        Raises DebiasError for a group that is not there.
        """
        done, missing, place = 0, 0, {key: at for at, key in enumerate(self.keys)}
        for name, own in corrections.get(self.run, {}).items():
            i = next((i for i, a in enumerate(self.attributes) if a.name == name), None)
            if i is None:
                missing += len(own)
                continue
            names = self.attributes[i].names
            for key, group in own.items():
                if group is not None and group not in names:
                    raise DebiasError(f"The corrections label {quoted(key)} as {quoted(group)}, but {quoted(name)} "
                                      f"has the groups {short(', '.join(names))}.")
                label = UNSURE if group is None else names.index(group)
                picture, _, person = key.rpartition("#") if self.round.people else (key, "", "1")
                at, person_at = place.get(picture), int(person) - 1 if re.fullmatch(r"\d{1,4}", person) else -1
                if at is None or self.round.people and not 0 <= person_at < len(self.round.people[i][at]):
                    missing += 1
                    continue
                if self.round.people:
                    self.round.people[i][at][person_at] = label
                else:
                    self.round.labels[i][at] = label
                done += 1
        return done, missing

    def table(self) -> list[dict[str, Any]]:
        """A row an image, or a person where every one counts: image, person, faces, an attribute's group or why it
        is left out, and a note."""
        rows = []
        for at, key in enumerate(self.keys):
            own = [self.labels(i, at) for i in range(len(self.attributes))]
            for person in range(max(map(len, own), default=0) or 1):
                row: dict[str, Any] = {"title": self.title, "image": key}
                if self.round.people:
                    row["person"] = person + 1 if own and own[0] else None
                if self.round.faces:
                    row["faces"] = self.round.faces[at]
                for i, (attribute, labels) in enumerate(zip(self.attributes, own, strict=True)):
                    label = labels[person] if person < len(labels) else min(self.round.labels[i][at], UNSURE)
                    row[f"{attribute.name} (label)" if attribute.name in COLUMNS else attribute.name] = said(
                        attribute, label)
                row["note"] = self.notes.get(key, "")
                rows.append(row)
        return rows


def left_out(found: Sequence[Labelled], most: int = 6) -> dict[str, list[bytes]]:
    """Thumbnails of images that are left out or show several people, at most so many of each kind, by the kind."""
    kinds: dict[str, list[bytes]] = {}
    for labelled in found:
        r = labelled.round
        for at, key in enumerate(labelled.keys):
            own = {LEFT_OUT[labels[at]] for labels in r.labels if labels[at] < 0}
            own |= {"several people"} if at < len(r.faces) and r.faces[at] > 1 else set()
            for kind in own if key in labelled.thumbs else ():
                if len(kinds.setdefault(kind, [])) < most:
                    kinds[kind].append(labelled.thumbs[key])
    return dict(sorted(kinds.items()))


def said(attribute: Attribute, label: int) -> str:
    """A label in words."""
    return attribute.names[label] if label >= 0 else LEFT_OUT[label]


def run_of(*facts: object) -> str:
    """What tells images from others, 16 hexadecimal digits, by plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def thumbnail(picture: np.ndarray | Image.Image, boxes: Sequence[Sequence[int]] = ()) -> bytes:
    """A JPEG of at most 192 pixels a side; boxes (x, y, width, height) in the image's pixels are drawn, and numbered
    where there are several, so that labels of persons are told apart."""
    small = picture.convert("RGB") if isinstance(picture, Image.Image) else Image.fromarray(picture)
    small = small.copy() if small is picture else small
    width = small.width
    small.thumbnail((THUMB, THUMB))
    scale, draw = small.width / width, ImageDraw.Draw(small)
    for number, (x, y, w, h) in enumerate(boxes, 1):
        left, top = x * scale, y * scale
        draw.rectangle((left, top, left + w * scale, top + h * scale), outline="#ffd400")
        if len(boxes) > 1:
            draw.rectangle((left, top, left + 6 * len(str(number)) + 3, top + 11), fill="#ffd400")
            draw.text((left + 2, top), str(number), fill="black", font=ImageFont.load_default())
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()


def as_csv(found: Sequence[Labelled]) -> str:
    """All tables as one CSV, as `csv_of`."""
    return csv_of([row for labelled in found for row in labelled.table()])


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """A CSV of rows. What a spreadsheet would run as a formula has an apostrophe before it."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, columns))
    writer.writerows([_harmless(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _harmless(value: object) -> object:
    # Python before 3.13 puts no quotes around a lone \r, where readers begin a new line.
    return FORMULA.sub(r"\1'", re.sub(r"\r\n?", "\n", value)) if isinstance(value, str) else value


def read_corrections(source: str | Path | Mapping) -> dict[str, dict[str, dict[str, str | None]]]:
    """{run: {attribute: {image: group, or None for left out}}} of a corrections file, as the page saves it.

    Raises DebiasError for anything else.
    """
    data = source if isinstance(source, Mapping) else read_json(source)
    runs = data.get("runs") if isinstance(data, Mapping) and data.get("form") == FORM else None
    if not isinstance(runs, Mapping) or not all(
            isinstance(own, Mapping) and all(isinstance(labels, Mapping) and all(
                isinstance(key, str) and (group is None or isinstance(group, str)) for key, group in labels.items())
                for labels in own.values()) for own in runs.values()):
        raise DebiasError("Expected a file of corrections, got something else. Save one on the page of images and "
                          "labels, and give that.")
    return {run: {name: dict(labels) for name, labels in own.items()} for run, own in runs.items()}


def given_back(given: object) -> dict[str, dict[str, dict[str, str | None]]] | None:
    """Corrections as a page sends them: a file's text, or its content as plain values; None where there are none.
    Raises DebiasError."""
    if isinstance(given, str) and given.strip():
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise DebiasError("Expected the corrections as JSON, got another text. Paste the whole file that the page "
                              "of images and labels saved, or leave them empty.") from error
    elif not given or isinstance(given, str):
        return None
    return read_corrections(given if isinstance(given, Mapping) else {})  # a text in the text names no file


def corrected(found: Sequence[Labelled], corrections: Mapping) -> str:
    """Apply corrections; what they did, in words. Raises DebiasError where they are of other images altogether."""
    if not any(labels for own in corrections.values() for labels in own.values()):
        raise DebiasError("The corrections hold no label. Correct one on the page of images and labels, and save "
                          "them again.")
    done, missing = (sum(counts) for counts in zip(*(labelled.correct(corrections) for labelled in found)))
    missing += sum(len(labels) for run, own in corrections.items() for labels in own.values()
                   if run not in {labelled.run for labelled in found})
    if not done:
        raise DebiasError("The corrections are of another run: none of their images is among these. Give the file "
                          "that was saved for this model, prompt and attribute, or for this folder.")
    others = f"; {missing} more belong to images that are not here" if missing else ""
    return f"{done} label{'s' if done > 1 else ''} corrected by hand{others}"
