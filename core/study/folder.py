"""Images of a folder, of whatever kind, opened and labelled a batch at a time."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..attribute import Attribute, together
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, Round
from ..calibration.plan import Plan
from .host import seen_by
from ..errors import DebiasError, quoted, short
from ..files import read_json, recover, write_atomic
from ..judge import Classifier
from ..judge.check import Check, check_same
from ..method.draw import Steering
from ..method.methods import METHODS
from ..schema import FOLDER, check
from .given import thumbs
from ..calibration.labelled import MOST_THUMBS, Labelled, run_of

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
# Whatever a file is called: of other formats Pillow hands some to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
LONGER = 1024  # pixels of the longer side that judges see; faces of a crowd need them, judges look at 224 to 384
HUGE = 200_000_000  # pixels; a larger image is left out: it would fill the memory
SAVED_EVERY = 20  # batches


@dataclass(frozen=True)
class Opened:
    """A file as a judge sees it, uint8 RGB [H, W, 3], or None; `note` says why, or what was left away."""
    image: np.ndarray | None
    note: str = ""


def opened(file: Path, longer: int = LONGER) -> Opened:
    """An image upright (EXIF), in sRGB's order of channels, on white where it is transparent, the first frame of an
    animation, 16 bits scaled to 8, its longer side `longer` pixels at most."""
    note = ""
    try:
        Image.init()  # it knows its formats from then on
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            width, height = picture.size
            if width * height > HUGE:
                return Opened(None, f"{width} x {height} pixels are too many")
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                note = f"the first of {frames} frames"
            picture.draft("RGB", (longer, longer))  # JPEGs are decoded smaller at once
            upright = ImageOps.exif_transpose(picture)
            upright.load()
            return Opened(_rgb(upright, longer), note)
    except Image.DecompressionBombError:
        return Opened(None, "it has too many pixels")
    except Exception as error:  # Pillow's decoders raise every kind of error for damaged files
        said = str(error).replace(str(file), file.name) or type(error).__name__  # notes are shared
        return Opened(None, f"it cannot be read ({short(said)})")


def _rgb(picture: Image.Image, longer: int) -> np.ndarray:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, np.float64))
        low, high = (0, 65535) if picture.mode.startswith("I") else (values.min(), values.max())
        if picture.mode == "I" and values.max() <= 255:
            high = 255  # 8 bits in a file for more
        grey = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(grey)
    picture.thumbnail((longer, longer))
    if "A" in picture.getbands() or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return np.asarray(picture.convert("RGB"))


def files(folder: str | Path) -> list[Path]:
    """All images of a folder and those below it, by name. Raises DebiasError for no folder and no images."""
    root = Path(folder)
    if not root.is_dir():
        raise DebiasError(f"There is no folder {quoted(folder)}.")
    found = [file for file in _named(root) if file.is_file() and not leads_out(root, file)]
    if not found:
        raise DebiasError(f"The folder {quoted(folder)} holds no images ({', '.join(ENDINGS)}).")
    return sorted(found)


def leads_out(root: Path, file: Path) -> bool:
    """Is it a link out of the folder? One that somebody sent must not have other images labelled and shown."""
    return file.is_symlink() and not file.resolve().is_relative_to(root.resolve())


def _named(root: Path) -> Iterator[Path]:
    """What has an image's name, be it a file or not."""
    for place, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place) / name for name in names
                    if name.lower().endswith(ENDINGS) and not name.startswith("."))


def place_of(root: Path, file: Path) -> str:
    """A file's path in the folder, as a text that every file can hold."""
    return file.relative_to(root).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def key_of(root: Path, file: Path) -> str:
    """What a file is known by: its path in the folder, and 8 digits of its content's hash."""
    digest = hashlib.blake2b(digest_size=4)
    with open(file, "rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return f"{place_of(root, file)} {digest.hexdigest()}"


class FolderAudit:
    """Labels the images of a folder. `run` continues an interrupted run with the same folder and judges.

    judged_by  plain values that tell the judges from others
    state      file of what was done so far; None: nothing is kept
    confidence below it an image is unsure

    Raises DebiasError as `files`.
    """

    def __init__(self, folder: str | Path, attributes: Sequence[Attribute], judges: Sequence[Classifier], *,
                 judged_by: object = None, state: Path | None = None, confidence: float = 0.0, batch_size: int = 32,
                 checks: Sequence[Check | None] = ()):
        check_same(judges, checks)
        self.root, self.attributes, self.judges = Path(folder), together(attributes), list(judges)
        plan = Plan(1, rounds=0, held_out=0, batch_size=1, confidence=confidence)
        self.calibration = Calibration("images", self.attributes, METHODS["default"], plan, checks=checks)
        self.none = tuple(Steering.none(len(a.groups)) for a in self.attributes)
        self.files, self.state, self.batch_size = files(folder), state, batch_size
        self.title, self.checks = self.root.resolve().name or "images", checks
        self.round = Round(AUDIT, self.none, tuple(range(len(self.files))), [[] for _ in self.attributes])
        self.keys: list[str] = []
        self.notes: dict[str, str] = {}
        self.lost: list[str] = []
        self.thumbs: dict[str, bytes] = {}
        groups = [[a.name, *a.names] for a in self.attributes]
        self.facts = json.loads(json.dumps([groups, judged_by, confidence, [
            [place_of(self.root, file), file.stat().st_size, file.stat().st_mtime_ns] for file in self.files]],
            default=str))
        self.run_id = run_of("folder", groups)

    @property
    def done(self) -> int:
        return len(self.keys)

    @property
    def unreadable(self) -> list[str]:
        """Files that could not be read, with the reason."""
        others = [f"{place_of(self.root, file)}: it is {'a link that leads out of the folder' * out or 'no file'}"
                  for file in _named(self.root) if (out := leads_out(self.root, file)) or not file.is_file()]
        return [*(f"{key.rpartition(' ')[0]}: {self.notes[key]}" for key in self.lost), *others]

    def run(self, say: Callable[[int, int], None] = lambda done, total: None) -> Labelled:
        """Label what is left and return everything; `say(done, total)` after each batch. An interruption keeps what is
        done. Raises DebiasError where a judge's answers do not fit."""
        self._continue()
        say(self.done, len(self.files))
        try:
            for number, first in enumerate(range(self.done, len(self.files), self.batch_size), 1):
                self._label(first)
                if number % SAVED_EVERY == 0:
                    self._save()
                say(self.done, len(self.files))
        finally:
            self._save()
        unreadable = self.unreadable
        if len(unreadable) >= len(self.files) and not self.round.shows(0):
            self.forget()
            raise DebiasError(f"None of the {len(self.files)} images could be read: {short('; '.join(unreadable))}. "
                              f"Save them again.")
        return self.labelled

    @property
    def labelled(self) -> Labelled:
        """What is labelled so far."""
        return Labelled(self.title, self.attributes, self.round, self.keys, self.run_id, self.thumbs, self.checks,
                        self.notes)

    def forget(self) -> None:
        """Delete the saved state, once the result is written."""
        if self.state is not None:
            self.state.unlink(missing_ok=True)

    def _label(self, first: int) -> None:
        """Label a batch of files from this place on. Raises DebiasError where a judge's answers do not fit."""
        keys, images, show = [], [], max(MOST_THUMBS - first, 0)
        for file in self.files[first:first + self.batch_size]:
            try:
                key, found = key_of(self.root, file), opened(file)
            except OSError as error:
                key, found = f"{place_of(self.root, file)} gone", Opened(None, error.strerror or "it cannot be read")
            keys.append(key)
            images.append(found.image)
            if found.note:
                self.notes[key] = found.note
        seeds = tuple(range(first, first + len(keys)))
        batch = self.calibration.measured(
            Round(AUDIT, self.none, seeds), images, seeds, lambda seen: [judge(seen) for judge in self.judges],
            None, None, seen_by(self.judges))
        batch.not_finite = 0  # these are files that could not be read, and are said as such
        self.round.extend(batch)
        self.lost += [key for key, image in zip(keys, images) if image is None]
        self.thumbs |= thumbs(keys[:show], images[:show], self.judges)
        self.keys += keys

    def _continue(self) -> None:
        if self.state is None or not recover(self.state):
            return
        data = read_json(self.state)
        if not isinstance(data, dict) or data.get("facts") != self.facts:
            return  # another folder, or other judges
        try:
            check(data, FOLDER, "It", "It was changed.")
            found = Round.from_dict({**data["round"], "steerings": [s.to_dict() for s in self.round.steerings],
                                     "seeds": self.round.seeds})
            calibration = self.calibration
            Calibration(calibration.prompt, self.attributes, calibration.method, calibration.plan, [found]
                        ).check_rounds()
            places = [place_of(self.root, file) for file in self.files[:found.done]]
            if [key.rpartition(" ")[0] for key in data["keys"]] != places or not (
                    {*data["lost"]} <= {*data["notes"]} <= {*data["keys"]}):
                raise DebiasError("It names other images than the folder holds.")
        except DebiasError as error:
            raise DebiasError(f"{quoted(self.state)} is not what an interrupted audit of this folder left: {error} "
                              f"Delete it to label all images again.") from error
        self.round, self.keys, self.notes, self.lost = found, data["keys"], data["notes"], data["lost"]
        for key, file in zip(self.keys[:MOST_THUMBS], self.files):
            self.thumbs |= thumbs([key], [opened(file).image], self.judges)

    def _save(self) -> None:
        if self.state is None or not self.keys:
            return
        r = self.round
        kept = dict(kind=r.kind, labels=r.labels, faces=r.faces, people=r.people, not_finite=r.not_finite,
                    one_colour=r.one_colour)
        write_atomic(self.state, json.dumps(dict(facts=self.facts, round=kept, keys=self.keys, notes=self.notes,
                                                lost=self.lost)))
