"""The types that sd-debias adds to ComfyUI's graphs."""
from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..core.calibration.plan import FIELDS
from ..core.method.methods import AS_METHOD, CHOICES

APPLY, CALIBRATE, JUDGES, TOOLS = (f"debias/{part}" for part in ("apply", "calibrate", "judges", "tools"))

Attributes = io.Custom("DEBIAS_ATTRIBUTES")  # tuple[core.attribute.Attribute, ...], calibrated and measured together
Profiles = io.Custom("DEBIAS_PROFILE")  # core.profile.Profile
JudgeType = io.Custom("DEBIAS_JUDGE")  # .judge.Judge


def choice(name: str):
    """The input for one of a method's choices."""
    asked, first = CHOICES[name], [] if name == "method" else [AS_METHOD]
    values = [*first, *asked.values]
    return io.Combo.Input(name, options=values, default=values[0], tooltip=asked.help)


def planned(name: str, **other):
    """The input for a number of a calibration's plan."""
    asked = FIELDS[name]
    given = dict(default=asked.default, min=asked.low, max=asked.high, step=asked.step, tooltip=asked.help) | other
    return io.Int.Input(name, **given) if isinstance(asked.default, int) else io.Float.Input(name, **given, round=1e-4)


def sampling(later: str = "") -> list:
    """The inputs for how images are made, `later` too."""
    return [
        io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of the images in pixels."),
        io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip=(
            "Height of the images in pixels.")),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip=f"Sampling steps{later}."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=(
            f"CFG{later}. Bias grows with CFG.")),
        io.Combo.Input("sampler_name", options=list(comfy.samplers.SAMPLER_NAMES), default="euler",
                       tooltip=f"The sampler{later}."),
        io.Combo.Input("scheduler", options=list(comfy.samplers.SCHEDULER_NAMES), default="normal",
                       tooltip=f"The scheduler{later}.")]
