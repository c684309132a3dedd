"""The generation settings of an API request."""
from __future__ import annotations

from typing import Mapping

from ..core.errors import DebiasError, quoted


def check(settings: Mapping) -> None:
    """Raises DebiasError for a sampler, scheduler or checkpoint that the host does not have: it would take another."""
    from modules import sd_models, sd_samplers
    try:
        from modules.sd_schedulers import schedulers_map
    except ImportError:  # older hosts have none
        schedulers_map = {}
    checkpoint = settings["override_settings"].get("sd_model_checkpoint")
    for what, known in (("sampler", sd_samplers.all_samplers_map), ("scheduler", schedulers_map)):
        name = settings["sampler_name" if what == "sampler" else what]
        if name is not None and name not in known:
            raise DebiasError(f"There is no {what} {quoted(name)}. Known: {', '.join(known)}.")
    found = None if checkpoint is None else sd_models.get_closet_checkpoint_match(str(checkpoint))
    known = (getattr(found, "name_for_extra", None), *getattr(found, "ids", ()))
    if checkpoint is not None and str(checkpoint) not in known:  # what is only like one, A1111 leaves out
        raise DebiasError(f"There is no checkpoint {quoted(checkpoint)}. Name one as GET /sdapi/v1/sd-models does.")


def processing_of(settings: Mapping):
    """The host's processing object with these settings, a definite seed, and every always-on script at its defaults."""
    from modules import processing, scripts, sd_samplers, shared
    known = {**settings, "sampler_name": settings["sampler_name"] or sd_samplers.samplers[0].name,
             "scheduler": settings["scheduler"] or "Automatic"}
    p = processing.StableDiffusionProcessingTxt2Img(sd_model=shared.sd_model, **known)
    p.is_api = True  # before the scripts: those of the page would put its own values in place of these settings
    p.scripts = scripts.scripts_txt2img
    p.script_args = (0, *(getattr(component, "value", None) for component in p.scripts.inputs[1:]))
    processing.fix_seed(p)
    return p
