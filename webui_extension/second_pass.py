"""Passes over finished images: whom an image was steered to goes along.

ADetailer makes a processing object of its own for every face, with another seed and perhaps another prompt, and runs
those always-on scripts for it that its setting lists. SD upscale and Loopback take one object through many passes.
"""
from __future__ import annotations

import weakref
from pathlib import Path

UNLISTED = ("ADetailer draws faces without Debias. Add sd_debias to 'Script names to apply to ADetailer', in the "
            "settings of ADetailer.")


class Outer:
    """The processing object whose images are drawn again; kept no longer than the host keeps it."""

    def __init__(self):
        self._p = lambda: None

    def begins(self, p) -> bool:
        """Is this a first pass? Then it is kept."""
        if getattr(p, "_ad_inner", False):
            return False
        self._p = weakref.ref(p)
        return True

    def picture(self, state: str) -> tuple[str, int] | None:
        """(prompt, seed) of the image that is now drawn anew; None where Debias has no first pass of it."""
        p = self._p()
        run = getattr(p, state, None)
        place = getattr(p, "batch_index", None)
        passes = run.passes.get(p.iteration * p.batch_size + place) if run and place is not None else None
        if not passes:
            return None
        current, image = passes[min(passes)]
        return current.prompts[image], current.seeds[image]


def unlisted(p, options) -> bool:
    """Is ADetailer switched on, and does it leave out our script?"""
    if not getattr(options, "ad_only_selected_scripts", True):
        return False
    names = [name.strip() for name in str(getattr(options, "ad_script_names", "")).split(",")]
    return "sd_debias" not in names and any(
        _on(p.script_args[script.args_from:script.args_to]) for script in getattr(p.scripts, "alwayson_scripts", ())
        if Path(getattr(script, "filename", "") or "").stem.strip("!").lower() == "adetailer")


def _on(arguments) -> bool:
    models = [one for one in arguments if isinstance(one, dict)]
    return (not arguments or arguments[0] is not False) and any(
        one.get("ad_model", "None") != "None" and one.get("ad_tab_enable", True) for one in models)


# Scripts of img2img whose passes, each with another seed, make one image: of its tiles, or from the one before.
ONE_PICTURE = ("SD upscale", "Loopback")
BEGUN = "sd_debias_begun"  # on p: (the image that such a script began with, the seed)


def seed_of_whole(p, seed: int) -> int | None:
    """The seed of the first pass, where a script makes one image of several; None elsewhere. It starts again with the
    image that it first began with."""
    chosen = p.script_args[0] if len(p.script_args or ()) else 0
    scripts = list(getattr(p.scripts, "selectable_scripts", ()))
    if not (isinstance(chosen, int) and 0 < chosen <= len(scripts) and scripts[chosen - 1].title() in ONE_PICTURE
            and getattr(p, "init_images", None)):
        return None
    image = p.init_images[0]
    begun = getattr(p, BEGUN, None)
    if begun is None or begun[0] is image:
        begun = image, seed
        setattr(p, BEGUN, begun)
    return begun[1]
