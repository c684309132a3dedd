"""The files of a calibration: where they are, and what must not be replaced."""
from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Sequence

from ..attribute import Attribute
from ..calibration.loop import Calibration
from ..calibration.result import holds
from ..errors import DebiasError, quoted, said_as
from ..files import exclusive, inside, writing
from ..profile.file import Profile
from .host import Host
from .outcome import file_names
from .unfinished import Unfinished


@dataclass(frozen=True)
class Places:
    """Where a calibration's files are.

    profile    its file; lock: what is held meanwhile, so that two do not write it
    folder     of report, sheets, charts and figures
    states     folder of what is unfinished
    best       file for a profile of the best rounds so far, "NAME (unfinished)", where the work is interrupted
    overwrite  may an existing profile and report be replaced?
    earlier    where a report goes whose profile was deleted, numbered where that is taken; None: it is in the way
    again      measure anew what is done already
    others     (profile, folder) of results of the same name: one of this very calibration is taken as it is
    """
    profile: Path
    lock: Path
    folder: Path
    states: Path
    best: Path
    overwrite: bool = False
    earlier: Path | None = None
    again: bool = False
    others: Sequence[tuple[Path, Path]] = ()


def hold(host: Host, places: Places, held: ExitStack) -> None:
    """Hold the lock of a calibration's files. Raises DebiasError where another one does, and for a place outside."""
    for own in (places.folder, places.states):
        with said_as(own, host.place):
            inside(own.parent, own)
    with said_as(places.lock, host.place), writing("The calibration's files", host.place(places.lock.parent)):
        held.enter_context(exclusive(places.lock))


def check_free(host: Host, places: Places, attributes: Sequence[Attribute], begun: Sequence[Calibration | None],
                prompts: int, done: bool) -> list[str]:
    """Raises DebiasError where files would be replaced that are not of this very calibration. A report whose profile
    was deleted is put aside, where `places` says so; returns a note of it."""
    if places.overwrite:
        return []
    there = places.profile.exists()
    own = [c for c in begun if c]
    if there and own and all(c.finished for c in own) and holds(profile_at(host, places), own):
        return []
    others = [] if own and not done else [places.folder / name for name in file_names(attributes, prompts)]
    left = [path for path in others if path.exists()]
    if left and places.earlier and not there:
        return [put_aside(host, places.folder, places.earlier)]
    for path in (places.profile, *left):
        if path.exists():
            belongs = ", and is not of the unfinished calibration" if own else ""
            raise DebiasError(f"{quoted(host.place(path))} exists already{belongs}. Choose another name or folder, or "
                              f"{host.anew}.")
    return []


def put_aside(host: Host, folder: Path, earlier: Path) -> str:
    """Rename a folder to the first name that is free; returns what to tell the user."""
    free = next(path for number in itertools.count(1) if not os.path.lexists(
        path := earlier if number == 1 else earlier.with_name(f"{earlier.name} {number}")))
    with writing("The report of an earlier calibration", host.place(free)):
        folder.rename(free)
    return f"The report of an earlier calibration of this name, whose profile is gone, is now {host.place(free)}."


def profile_at(host: Host, places: Places) -> Profile:
    with said_as(places.profile, host.place):
        return Profile.load(places.profile)


def loaded(host: Host, work: Unfinished, again: bool) -> Calibration | None:
    assert work.path is not None
    with said_as(work.path, host.place):
        return work.load(again)


def as_done(places: Places, begun: Sequence[Calibration | None]) -> Places:
    """The places of the result, if any, that this very calibration left under another name."""
    done = [c for c in begun if c is not None and c.finished]
    for profile, folder in places.others if done and len(done) == len(begun) else ():
        try:
            if holds(Profile.load(profile), done):
                return replace(places, profile=profile, folder=folder)
        except (DebiasError, OSError):
            continue
    return places
