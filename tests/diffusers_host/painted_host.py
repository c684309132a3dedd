"""A host without a model, for sweeps: it paints images whose colour says which group they show, in no time."""
from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.plan import Plan, seeds_of
from sd_debias.core.study.host import Host
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS
from sd_debias.diffusers_host.sweep.job import Job, Wanted, assign_teachers
from sd_debias.diffusers_host.sweep.worker import Recipe, Worker

OBEYED = 0.9
METHOD = METHODS["default"]
PLAN = Plan(50, rounds=2, held_out=50, batch_size=10, tolerance=1e-6)


class Painter(Host):
    """Of a prompt, a share of images by its own hash shows the first group; nine of ten pushed ones obey.

    seconds  that an image takes
    trouble  f(prompt, seeds), called before every batch: what goes wrong, or is returned
    """

    def __init__(self, seconds=0.0, trouble=None, name="painter"):
        self.setting, self.evaluations = dict(model=name, steps=1), 0
        self.seconds, self.trouble = seconds, trouble

    def judges(self, attributes):
        if any(a.names != GENDER.names for a in attributes):
            raise DebiasError("It knows men and women only.")

        def classify(images):
            red = np.array([np.asarray(image)[0, 0, 0] for image in images]) > 127
            return np.stack([red, ~red], 1).astype(float)
        classify.name = "red or not"
        return [classify] * len(attributes), lambda images, prompt: [1.0] * len(images)

    def render(self, prompt, seeds, weights, attributes, method):
        found = self.trouble(prompt, list(seeds)) if self.trouble else None
        if found is not None:
            return found
        time.sleep(self.seconds * len(seeds))
        self.evaluations += len(seeds)
        return [self.paint(prompt, seed, row) for seed, row in zip(seeds, weights.tolist(), strict=True)]

    def paint(self, prompt, seed, row):
        chance, share = chance_of(f"{prompt} {seed}"), 0.1 + 0.8 * chance_of(prompt).random()
        first = chance.random() < share
        if any(row):
            first = (row[0] < row[1]) if chance.random() < OBEYED else first
        picture = chance.integers(0, 100, (8, 8, 3)).astype(np.uint8)
        picture[0, 0, 0] = 255 if first else 0
        return picture


def chance_of(text):
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def jobs_of(count=6):
    made = [Job(i, Wanted(f"a photo of number {i}", 0), (GENDER,), METHOD, PLAN)
            for i in range(count)]
    assign_teachers(made, METHOD, PLAN)
    return made


def open_painter(trouble=None, name="painter", **more) -> Worker:
    return Worker(Painter(0.0, trouble, name), Recipe(((GENDER,),), METHOD, PLAN, **more))


def labels_of(jobs):
    """Everything that decides a result, label by label."""
    return [(job.wanted.prompt, job.error, [
        (r.kind, r.seeds, [s.to_dict() for s in r.steerings], r.labels, r.fidelity, r.not_finite)
        for r in job.calibration.rounds]) for job in jobs]


# --- troubles, which can be pickled --------------------------------------------------------------

class Once:
    """What happens to the first process that comes, or the first few; files say whether it did.

    what      f(seeds): what happens
    prompt    words of the prompts at which it does
    place     seed from which on it does, in the prompt's own block
    for_good  from then on it always does in that process
    """

    def __init__(self, folder: Path, what=None, prompt="", place=0, times=1, for_good=False):
        folder.mkdir(exist_ok=True)
        self.marks = [str(folder / f"it happened {i}") for i in range(times)]
        self.what, self.prompt, self.place = what, prompt, place
        self.for_good, self.pid = for_good, None

    @property
    def happened(self) -> bool:
        return all(map(os.path.exists, self.marks))

    def first(self, prompt="", seeds=(0,)) -> bool:
        block = seeds_of(prompt) if prompt else 0  # opening has no prompt
        return self.prompt in prompt and seeds[0] - block >= self.place and any(map(_made, self.marks))

    def __call__(self, prompt, seeds):
        if self.pid != os.getpid():
            if not self.first(prompt, seeds):
                return None
            self.pid = os.getpid() if self.for_good else None
        return self.what(seeds)


def _made(mark: str) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def not_finite(seeds):
    return [None] * len(seeds)


def dies(seeds):
    """The process is killed, as by the system when memory is short."""
    os.kill(os.getpid(), 9)


def fails(seeds):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def disk_full(seeds):
    raise OSError(28, "No space left on device")


class Several:
    """Each of these troubles."""

    def __init__(self, *troubles):
        self.troubles = troubles

    def __call__(self, prompt, seeds):
        found = [trouble(prompt, seeds) for trouble in self.troubles]
        return next((own for own in found if own is not None), None)


class Together:
    """No trouble: nobody begins before so many processes are there, so that all of them take part."""

    def __init__(self, folder: Path, processes: int):
        self.folder, self.processes = folder, processes

    def __call__(self, prompt, seeds):
        (self.folder / f"process {os.getpid()}").touch()
        while len(list(self.folder.glob("process *"))) < self.processes:
            time.sleep(0.05)


class Stuck(Once):
    """The first process on one of these nodes of Ray does not come to an end with an image."""

    def __init__(self, folder: Path, *nodes: str):
        super().__init__(folder)
        self.nodes = nodes

    @property
    def node(self) -> str:
        """Where that is; "" before."""
        return Path(self.marks[0]).read_text() if self.happened else ""

    def __call__(self, prompt, seeds):
        import ray
        here = ray.get_runtime_context().get_node_id()
        if here in self.nodes and self.first():
            Path(self.marks[0]).write_text(here)
            time.sleep(3600)


def open_amid(opening, **more) -> Worker:
    """A painter; that trouble comes while it is opened."""
    opening("", [0])
    return open_painter(**more)


def open_once_another(folder: Path, **more) -> Worker:
    """The first process that opens it has another model."""
    return open_painter(name="another model" if Once(folder).first() else "painter", **more)


# --- the command, with it as its model -----------------------------------------------------------

def opened(options, recipe, seconds=0.06) -> Worker:
    """In place of what opens the command line's model; it takes its time, so that a sweep can be disturbed."""
    return Worker(Painter(seconds), recipe)


if __name__ == "__main__":
    import painted_host  # Ray's workers know it by this name
    from sd_debias.diffusers_host.cli import main, sweeping
    from sd_debias.diffusers_host.sweep import on_ray
    on_ray.SECONDS = on_ray.OnRay.seconds = 0.0  # a batch a task
    sweeping.opened = painted_host.opened
    sys.exit(main.main())
