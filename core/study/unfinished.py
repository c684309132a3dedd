"""What is kept of a prompt's calibration: what was measured, and the images for its sheets. Work that is not done
continues from it; work that is done is not measured again."""
from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import short
from ..files import inside, recover, write_atomic, writing
from ..report.sheet import WITH, WITHOUT, Sheet
from ..calibration.labelled import MOST_THUMBS, thumbnail
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, HELD_OUT, Round
from ..method.draw import Steering, rows

FACTS = "facts.json"  # beside the images: what decides them
FINISHED = "finished"  # folder of work that is done, beside that of work that is not
SHOWN = 8  # images of a sheet
BEFORE, AFTER = "before", "after"
PARAMETERS = "parameters"  # of an image: what it was made with, as the web UIs write it


class Unfinished:
    """A state, `NAME-KEY.json`, and beside it the folder `NAME-KEY` of images.

    The key is of all that decides images and labels (`facts`, plain values): another calibration has another one, so
    that none is continued as something else. Without a folder, images are kept in memory alone.
    """

    def __init__(self, folder: Path | None, name: str = "", facts: object = None):
        self._name, self._facts = name, facts
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.path = folder and inside(folder, folder / f"{name}-{key}.json")
        self._done = folder and inside(folder.parent, folder.parent / FINISHED / f"{name}-{key}.json")
        self._pictures: dict[str, dict[int, Image.Image]] = {BEFORE: {}, AFTER: {}}  # by seed
        self._thumbs: dict[int, dict[int, bytes]] = {}

    def load(self, again: bool = False) -> Calibration | None:
        """The calibration as it was left, or as it ended unless it is to be measured again; None where there is none.
        Raises DebiasError where its file is damaged."""
        if self.path is None or self._done is None:
            return None
        if not recover(self.path):
            if again or not recover(self._done):
                return None
            self.path = self._done
        for file in self._folder.glob("*.png"):
            at = re.fullmatch(rf"({BEFORE}|{AFTER}) (-?\d+)\.png", file.name)
            if at:
                try:
                    with Image.open(file, formats=["PNG"]) as picture:
                        self._pictures[at[1]][int(at[2])] = picture.convert("RGB")  # with its text
                except (OSError, ValueError, SyntaxError):
                    continue  # a damaged image is missing from the sheet; its label is not lost
        for file in self._folder.glob("*.jpg"):
            at = re.fullmatch(r"(\d+) (-?\d+)\.jpg", file.name)
            if at:
                self._thumbs.setdefault(int(at[1]), {})[int(at[2])] = file.read_bytes()
        return Calibration.load(self.path)

    def differs(self) -> str:
        """What is otherwise than in unfinished work of this name, e.g. "steps: 20 then, 25 now"; "" where there is none
        or this is it."""
        if self.path is None or self.path.exists():
            return ""
        for file in sorted(self.path.parent.glob(f"{self._name}-*/{FACTS}")):
            try:
                facts = json.loads(file.read_text("utf-8")), _plain(self._facts)
                before, now = (dict(_named(own)) for own in facts)
            except (OSError, ValueError):
                continue
            changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            said = [f"{name}: {short(before.get(name))} then, {short(now.get(name))} now" for name in changed[:3]]
            return "; ".join([*said, *(["and others"] if len(changed) > 3 else [])])
        return ""

    @property
    def done(self) -> bool:
        """Was what was loaded finished work?"""
        return self.path is not None and self.path == self._done

    def keep(self, rounds: Sequence[Round], seeds: Sequence[int], images: Sequence,
             boxes: Callable[[Sequence], Sequence[Sequence]] = lambda images: [()] * len(images)) -> None:
        """Keep the audit's first images that are finite, and of audit and verification a thumbnail of
        each, to be looked at beside its label, with the faces that `boxes` finds in them."""
        current = rounds[-1]
        if current.kind in (AUDIT, HELD_OUT):
            self._keep_thumbs(len(rounds) - 1, seeds, images, boxes)
        if self.path is not None and not (self._folder / FACTS).exists():
            with writing("The calibration's settings", self.path.parent.name):
                write_atomic(self._folder / FACTS, json.dumps(_plain(self._facts)))
        if current.kind == AUDIT:
            first = set(current.seeds[:SHOWN])
            shown = [seed in first for seed in seeds]
            self.keep_pictures(BEFORE, *([own for own, show in zip(each, shown) if show] for each in (seeds, images)))

    def keep_pictures(self, when: str, seeds: Sequence[int], images: Sequence) -> None:
        """Keep images of the audit's seeds: `BEFORE`, as the model is, or `AFTER`, with the weights."""
        for seed, image in zip(seeds, images):
            if image is None:
                continue
            own = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
            self._pictures[when][seed] = own
            if self.path is not None:
                with writing("The calibration's images", self.path.parent.name):
                    write_atomic(self._folder / f"{when} {seed}.png", png(own))

    def _keep_thumbs(self, at: int, seeds: Sequence[int], images: Sequence,
                     boxes: Callable[[Sequence], Sequence[Sequence]]) -> None:
        own = self._thumbs.setdefault(at, {})
        if len(own) >= MOST_THUMBS:
            return
        for seed, image, faces in zip(seeds, images, boxes(images)):
            if image is not None and len(own) < MOST_THUMBS:
                own[seed] = thumbnail(image if isinstance(image, Image.Image) else np.asarray(image), faces)
                if self.path is not None:
                    with writing("The calibration's images", self.path.parent.name):
                        write_atomic(self._folder / f"{at} {seed}.jpg", own[seed])

    def thumbs(self, at: int) -> dict[str, bytes]:
        """Thumbnails of a round, by what `Labelled` calls its images."""
        return {key_of(seed): thumb for seed, thumb in self._thumbs.get(at, {}).items()}

    def lost(self, calibration: Calibration) -> list[int]:
        """Seeds of the audit's first images, if not one of them is there."""
        return [] if self._pictures[BEFORE] else list(calibration.audit.seeds[:SHOWN])

    def without_pair(self, steerings: Sequence[Steering]) -> list[int]:
        """Seeds of the images that these weights steer and of which none is kept with them."""
        seeds = sorted(self._pictures[BEFORE])
        steered = rows(steerings, seeds).any(1).tolist() if seeds else []
        return [seed for seed, acts in zip(seeds, steered) if acts and seed not in self._pictures[AFTER]]

    def sheets(self, calibration: Calibration) -> tuple[Sheet | None, Sheet | None]:
        """(before, after): the audit's images, and the same seeds with final weights; None without images."""
        before, after = self._pictures[BEFORE], self._pictures[AFTER]
        if not before:
            return None, None
        seeds = sorted(before)
        first = Sheet(WITHOUT, [before[seed] for seed in seeds], seeds)
        if not steers(calibration) or not calibration.finished or self.without_pair(calibration.steerings):
            return first, None
        return first, Sheet(WITH, [after.get(seed, before[seed]) for seed in seeds], seeds)

    def finish(self) -> None:
        """Keep done work for the same request. The state is moved last: where it is, the work is not done."""
        if self.path is None or self._done is None or self.done:
            return
        self._done.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._done.with_suffix(""), ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(self._done.with_suffix(""))
        self.path.replace(self._done)
        try:
            self.path.parent.rmdir()
        except OSError:
            pass  # others' work is in it

    @property
    def _folder(self) -> Path:
        assert self.path is not None
        return inside(self.path.parent, self.path.with_suffix(""))


def steers(calibration: Calibration) -> bool:
    """Are there images with weights, or will there be? Not of an audit."""
    plan, rounds = calibration.plan, calibration.rounds
    return bool(plan.rounds or plan.held_out or rounds and rounds[-1].kind == HELD_OUT)


def _plain(facts: object) -> object:
    return json.loads(json.dumps(facts, sort_keys=True, default=str))


def _named(facts: object, name: str = "") -> Iterator[tuple[str, object]]:
    """The single values of facts by the last name on their way: of {"steps": 20}, and of ["steps", 20]."""
    if isinstance(facts, dict):
        for key, value in facts.items():
            yield from _named(value, str(key))
    elif isinstance(facts, list) and len(facts) == 2 and isinstance(facts[0], str) and not isinstance(facts[1], str):
        yield from _named(facts[1], facts[0])
    elif isinstance(facts, list):
        for place, value in enumerate(facts):
            yield from _named(value, f"{name} {place + 1}".strip())
    else:
        yield name, facts


def key_of(seed: int) -> str:
    """What an image of a seed is called."""
    return f"seed {seed}"


def png(picture: Image.Image) -> bytes:
    """An image as a PNG file's content, with its parameters, where a host says how it was made."""
    stream, text = io.BytesIO(), PngInfo()
    if isinstance(said := picture.info.get(PARAMETERS), str):
        text.add_text(PARAMETERS, said)
    picture.save(stream, "PNG", pnginfo=text)
    return stream.getvalue()
