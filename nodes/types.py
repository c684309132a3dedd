"""The types that sd-debias adds to ComfyUI's graphs."""
from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "debias"

Attributes = io.Custom("DEBIAS_ATTRIBUTES")  # tuple[core.attribute.Attribute, ...], calibrated and measured together
Profiles = io.Custom("DEBIAS_PROFILE")  # core.profile.Profile
Classifiers = io.Custom("DEBIAS_CLASSIFIER")  # .classifier.Judge
