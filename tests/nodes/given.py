"""What several files here are given: a profile, a judge, a small calibration, and what fails."""
import importlib
from contextlib import contextmanager

import numpy as np
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.calibration.round import Round
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS


class Later:
    """A package whose modules can be imported once the host has started."""
    def __init__(self, package):
        self.package = package

    def __getattr__(self, name):
        return importlib.import_module(f"{self.package}.{name}")


ours, comfy = Later("sd_debias.nodes"), Later("comfy")

PROMPT = "a photo of a doctor"
ALL_TO_WOMEN = Steering((0.0, 0.0), (0.0, 0.0, 1.0))
DRAWING = Steering((0.0, 0.0), (0.5, 0.0, 0.5))  # half of the images to women


def profile(steering=ALL_TO_WOMEN, prompts=(PROMPT,), method=METHODS["default"], attribute=GENDER,
            name="doctor-gender", **setting):
    """A profile as a calibration leaves it, verified on two images."""
    rounds = (("audit", Steering.none(len(attribute.groups))), ("held-out", steering))
    made = [Calibration(prompt, [attribute], method, Plan(2, held_out=2),
                        [Round(kind, (own,), (1, 2), [[0, 1]]) for kind, own in rounds])
            for prompt in prompts]
    return profile_of(name, made, {"steps": 4, "cfg": 2.0, **setting}, "a test")


class Brightness:
    """A judge by the mean of an image: half of random ones are the first group."""
    name = "brightness"

    def __call__(self, images):
        bright = np.array([np.mean(image) > 100 for image in images])
        return np.stack([bright, ~bright], 1).astype(np.float32)


def judge():
    return ours.judge.Judge(lambda attribute: Brightness())


PICTURES = dict(width=64, height=64, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple")


def calibration(**more):
    """Inputs of the node for a small calibration."""
    return PICTURES | dict(
        attributes=(GENDER.with_target((1, 3)),), judge=judge(), prompts=PROMPT, negative="",
        seed=3, images=6, rounds=2, held_out=4, batch_size=4, tolerance=1e-6, method="default",
        confidence=0.0, direction="as the method says", rule="as the method says",
        name="test") | more


# --- what fails ---------------------------------------------------------------------------------

def memory_ran_out():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cancelled():
    return ours.workbench.interruption()()


def others_error():
    return KeyError("of another pack")


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def network(model):
    """The denoiser, of the host or of its double."""
    return getattr(model.model, "diffusion_model", None) or model.model.network


@contextmanager
def failing(place, name, fail, when):
    """Calls of place.name raise `fail()` once: the first of which when() is true."""
    own, held, failed = getattr(place, name), vars(place).get(name), []

    def call(*args, **kwargs):
        if not failed and when():
            failed.append(True)
            raise fail()
        return own(*args, **kwargs)

    setattr(place, name, call)
    try:
        yield
    finally:
        delattr(place, name) if held is None else setattr(place, name, held)


def nth(number):
    """A condition that is true when it is asked for the n-th time."""
    count = iter(range(10 ** 6))
    return lambda: next(count) == number - 1
