"""Measure and balance who appears in the images of text-to-image models.

    import sd_debias as debias

    debias.balance(pipe, "gender")                  # at once: no judge, no calibration
    profile = debias.calibrate(pipe, "a photo of a doctor", "gender", judge="openai/clip-vit-large-patch14")
    with debias.applied(pipe, profile):
        images = pipe("a photo of a doctor", num_images_per_prompt=8).images

The pipeline's own call, arguments, callbacks and results stay as they are. `sd_debias.core` holds what all
hosts share. This file is the top of the installed package; in a checkout it stands in `package/`.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.version import VERSION as __version__  # noqa: F401

if TYPE_CHECKING:
    from .core.attribute import Attribute as Attribute
    from .core.errors import DebiasError as DebiasError
    from .core.profile.file import Profile as Profile
    from .diffusers_host.applied import applied as applied
    from .diffusers_host.applied import balance as balance
    from .diffusers_host.applied import disable as disable
    from .diffusers_host.applied import enable as enable
    from .diffusers_host.guider import DebiasGuidance as DebiasGuidance
    from .diffusers_host.measure import Audit as Audit
    from .diffusers_host.measure import audit as audit
    from .diffusers_host.measure import calibrate as calibrate
    from .diffusers_host.share import load as load
    from .diffusers_host.share import push_to_hub as push_to_hub

_WHERE = {
    "Attribute": "core.attribute", "DebiasError": "core.errors", "Profile": "core.profile.file",
    "applied": "diffusers_host.applied", "balance": "diffusers_host.applied", "enable": "diffusers_host.applied",
    "disable": "diffusers_host.applied", "DebiasGuidance": "diffusers_host.guider",
    "Audit": "diffusers_host.measure", "audit": "diffusers_host.measure",
    "calibrate": "diffusers_host.measure", "load": "diffusers_host.share", "push_to_hub": "diffusers_host.share"}
__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:  # torch and diffusers take seconds: they are loaded when they are needed
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "core", "diffusers_host"]
