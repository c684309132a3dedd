"""The public API of sd-debias, which knows no host: attributes, methods, calibrations, judges, profiles and reports.

Names are imported when they are asked for: `import sd_debias.core` loads neither torch nor anything else.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "attribute": ("Attribute", "Group", "parse", "joint", "together", "BUILT_IN", "GENDER", "SKIN_TONE", "SKIN_TONE_3",
                  "SKIN_TONE_5", "AGE"),
    "errors": ("DebiasError",),
    "method.methods": ("Method", "METHODS", "named", "DIRECTIONS"),
    "method.safe_latent": ("SafeLatentGuidance",),
    "method.draw": ("Steering", "rows"),
    "calibration.plan": ("Plan",),
    "calibration.loop": ("Calibration",), "calibration.round": ("Round",),
    "distribution": ("Distribution", "summarise"),
    "statistics": ("kl_divergence", "noise_floor", "wilson", "g_test"),
    "judge.clip": ("ClipModel",),
    "judge.questions": ("AskingModel",),
    "judge.faces": ("Faces", "OfFaces", "detector"),
    "judge.panel": ("Panel",),
    "judge.named": ("Judges",),
    "judge.check": ("Check",),
    "study.checking": ("check_judges",),
    "study.folder": ("FolderAudit",),
    "study.given": ("labelled_pictures",),
    "calibration.labelled": ("Labelled", "read_corrections"),
    "report.look": ("look_page",),
    "judge.image_classifier": ("ImageClassifier",),
    "judge.skin_tone": ("SkinTone",),
    "calibration.result": ("entry_of", "profile_of"),
    "profile.file": ("Profile", "Entry"),
    "profile.lookup": ("entry_for", "differences", "check_encoder"),
    "profile.words": ("described", "metadata"),
    "report.page": ("write_report",),
    "report.summary": ("summary",),
    "report.sheet": ("Sheet",),
    "study.host": ("Host",),
    "study.places": ("Places",),
    "study.progress": ("Progress",),
    "study.runner": ("audit", "calibrate"),
    "version": ("VERSION",),
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
