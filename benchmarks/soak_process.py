"""Many images in one process: audits, calibrations, applied profiles, reports, of several attributes and methods in
turn, some of them interrupted, refused, or by the command line.
"""
from __future__ import annotations

import os

# Whatever varies the size of a batch, as guidance of some images of it does, has programs made for it by oneDNN and by
# torch's convolutions, 0.6 MB each on a CPU. Each keeps 1,024 of them: with fewer, these are full when the warm-up ends.
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = os.environ["LRU_CACHE_CAPACITY"] = "32"

import contextlib
import ctypes
import gc
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from soak_watch import Different, Watch

from sd_debias.core.attribute import parse
from sd_debias.core.study import runner
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS, named
from sd_debias.core.profile.file import Profile, located
from sd_debias.demo_model.subjects import OCCUPATIONS, prompt
from sd_debias.diffusers_host.cli.main import main as command_line
from sd_debias.diffusers_host.workbench import demo

# By what grows, of 1,000 images. An image of 32 x 32 has 3 kB, and 1,000 of them 3 MB: `allocated` is what malloc has
# given out, in MB. Objects and blocks (of Python's own allocator): whatever is kept of each batch of 60 images is some
# ten objects or more, and of each calibration some hundreds. `memory`, in MB, is what the system sees: holes between
# what is allocated count too, and may make up a tenth of a GB after 20,000 images.
BOUNDS = {"allocated": 0.5, "objects": 200.0, "blocks": 1000.0, "memory": 5.0}
SIZE = 32  # pixels: the demo model's own size takes four times as long, and other parts of the package no longer
ATTRIBUTES = [[parse(text) for text in texts] for texts in (
    ("gender",), ("skin_tone_3",), ("gender", "skin_tone_3"), ("gender = woman 65, man 35",), ("skin_tone_5",))]
WAYS = [METHODS["default"], METHODS["shift"], METHODS["paper"], named("default", direction="embedding")]
PICTURES = 60  # of a batch, an audit, a round and so on
EACH = 1000
WARM_UP = 2 * len(WAYS)  # turns: everything has been twice


class Soak:
    """One process's work; `done` counts its images, `kinds` what was done."""

    def __init__(self, folder: Path):
        self.folder, self.bench, self.done = folder, demo(steps=2, width=SIZE, height=SIZE, batch_size=PICTURES), 0
        self.kinds = dict(calibrations=0, interrupted=0, refused=0, audits=0, commands=0)
        generate = self.bench.generate

        def counted(text, seeds, *args, **more):
            self.done += len(seeds)
            return generate(text, seeds, *args, **more)

        self.bench.generate = counted  # type: ignore[method-assign]

    def pictures(self) -> list[np.ndarray]:
        """A plain generation, and one with the profile that comes with the package."""
        text, seeds = prompt("doctor"), range(PICTURES)
        return [self.bench.generate(text, seeds)[0], self.bench.apply(Profile.load(located("demo-gender")), text, seeds)[0]]

    def turn(self, number: int) -> None:
        """A calibration with all that surrounds it; every further turn has other prompts, seeds, attributes, method."""
        bench, first = self.bench, 1000 * number
        attributes, method = ATTRIBUTES[number % len(WAYS)], WAYS[number % len(WAYS)]
        prompts = [prompt(OCCUPATIONS[(number + i) % len(OCCUPATIONS)]) for i in range(3)]
        runner.audit(bench, prompts[:1], attributes, PICTURES, PICTURES, first).look("Audit", "nowhere")
        self.kinds["audits"] += 1
        out = self.folder / "calibration"
        places = runner.Places(out / "profile.json", out / "profile.json", out, out / "unfinished",
                               out / "profile (unfinished).json", overwrite=True)
        plan = Plan(PICTURES, 1, PICTURES, batch_size=PICTURES, seed=first)
        ask = bench, prompts[:2], attributes, method, plan, "soak"
        if number % 3 == 0:
            self.interrupted(ask, places)
        outcome = runner.calibrate(*ask, places)
        assert outcome.complete and outcome.path is not None, outcome.text
        self.kinds["calibrations"] += 1
        with contextlib.suppress(DebiasError):
            runner.calibrate(*ask, runner.Places(**{**vars(places), "overwrite": False}))
            raise AssertionError("A profile of this name is there, and was not refused")
        self.kinds["refused"] += 1
        profile = Profile.load(outcome.path)
        for text in prompts[:2]:
            bench.apply(profile, text, range(first, first + PICTURES))
        for _ in bench.carried_over(profile, prompts[2], PICTURES, first):
            pass
        self.command("report", "--profile", str(outcome.path), "--overwrite")

    def interrupted(self, ask: tuple, places: runner.Places) -> None:
        """The calibration, stopped in its second round by Ctrl-C; what follows continues it."""
        def stop(progress: runner.Progress) -> None:
            if progress.done >= 2 * PICTURES:
                raise KeyboardInterrupt

        self.bench.say = stop  # type: ignore[method-assign]
        try:
            assert not runner.calibrate(*ask, places).complete
        finally:
            del self.bench.say
        self.kinds["interrupted"] += 1

    def command(self, *arguments: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            status = command_line([*arguments, "--out", str(self.folder / "command")])
        assert status == 0, said.getvalue()
        self.kinds["commands"] += 1


class Allocated(ctypes.Structure):
    """mallinfo2(3)"""
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


def held() -> dict[str, float]:
    """What this process holds, once what nobody uses is given back."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = Allocated
    found = libc.mallinfo2()
    return dict(allocated=(found.uordblks + found.hblkhd) / 1e6, objects=len(gc.get_objects()),
                blocks=sys.getallocatedblocks())


def soak(pictures: int) -> dict:
    """Figures. Raises Different where the last images differ from the first."""
    with tempfile.TemporaryDirectory() as place:
        work, temporary = Path(place) / "work", Path(place) / "temporary"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)  # of this process: what it leaves there is counted
        watch = Watch(os.getpid(), lambda: len([*temporary.iterdir(), *work.rglob("*.tmp")]))
        soaking, number = Soak(work), 0
        # Python's table of interned strings doubles by 4 MB, once enough of them have come and gone: now, not later.
        _ = [sys.intern(f"soak {i}") for i in range(200_000)]
        before = soaking.pictures()
        while soaking.done < pictures:
            soaking.turn(number)
            watch.sample(soaking.done, **held())
            number += 1
            print(f"{soaking.done:,} images: {', '.join(f'{n} {own[-1]:,.1f}' for n, own in watch.seen.items())}", flush=True)
        if not all(map(np.array_equal, before, soaking.pictures())):
            raise Different("Expected the last images to be the first ones bit for bit, but they differ.")
        tempfile.tempdir = None
    return dict(images=soaking.done, **soaking.kinds, **watch.found(EACH, min(WARM_UP, number // 2)))
