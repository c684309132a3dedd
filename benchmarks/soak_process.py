"""Many pictures in one process: audits, calibrations, applied profiles, reports, of several attributes and methods in
turn, some of them interrupted, refused, or by the command line.
"""
from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
from soak_watch import Different, Watch

from sd_debias.core.attribute import parse
from sd_debias.core.calibration import runner
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS, named
from sd_debias.core.profile.file import Profile, located
from sd_debias.demo_model.subjects import OCCUPATIONS, prompt
from sd_debias.diffusers_host.cli.main import main as command_line
from sd_debias.diffusers_host.workbench import demo

# By what grows, of 1,000 pictures. Memory in MB: a latent of the demo model has 1 kB, the smallest thing that could be
# kept of every picture, and 1,000 of them 1 MB. Objects: whatever is kept of each batch of 40 pictures, with its arrays,
# is some ten objects a batch or more, and what is kept of each calibration some hundreds.
BOUNDS = dict(memory=1.0, objects=200.0)
ATTRIBUTES = [[parse(text) for text in texts] for texts in (
    ("gender",), ("skin_tone_3",), ("gender", "skin_tone_3"), ("gender = woman 65, man 35",))]
WAYS = [METHODS["default"], METHODS["shift"], METHODS["paper"], named("default", direction="embedding"),
        named("default", direction="prediction")]
PICTURES = 40  # of an audit, a round and so on
EACH = 1000


class Soak:
    """One process's work; `done` counts its pictures, `kinds` what was done."""

    def __init__(self, folder: Path):
        self.folder, self.bench, self.done = folder, demo(steps=2, batch_size=PICTURES), 0
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
        attributes, method = ATTRIBUTES[number % len(ATTRIBUTES)], WAYS[number % len(WAYS)]
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
        if number % 4 == 0:
            self.command("generate", "--model", "demo", "--profile", str(outcome.path), "--prompt", prompts[0],
                         "--count", str(PICTURES), "--batch-size", str(PICTURES), "--steps", "2", "--overwrite")
            self.done += PICTURES
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


def soak(pictures: int) -> dict:
    """Figures. Raises Different where the last pictures differ from the first.

    What is free is given back before memory is read, so that it is what the process holds; `memory with what is free`
    is what the allocator had kept.
    """
    with tempfile.TemporaryDirectory() as place:
        work, temporary = Path(place) / "work", Path(place) / "temporary"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)  # of this process: what it leaves there is counted
        watch = Watch(os.getpid(), lambda: len([*temporary.iterdir(), *work.rglob("*.tmp")]))
        soaking, number = Soak(work), 0
        before = soaking.pictures()
        while soaking.done < pictures:
            soaking.turn(number)
            kept = psutil.Process().memory_info().rss / 1e6
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            watch.sample(soaking.done, objects=len(gc.get_objects()), **{"memory with what is free": kept})
            number += 1
            print(f"{soaking.done:,} pictures, {watch.seen['memory'][-1]:.1f} MB, {watch.seen['objects'][-1]:,} objects",
                  flush=True)
        if not all(map(np.array_equal, before, soaking.pictures())):
            raise Different("Expected the last pictures to be the first ones bit for bit, but they differ.")
        tempfile.tempdir = None
    return dict(pictures=soaking.done, **soaking.kinds, **watch.found(EACH))
