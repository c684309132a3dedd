"""The settings page "Debias"."""
from __future__ import annotations

import inspect

SECTION = ("sd_debias", "Debias")


def register() -> None:
    from modules import shared
    # Over the API nobody may choose folders of this machine, nor let it download.
    restricted = {"restrict_api": True} if "restrict_api" in inspect.signature(shared.OptionInfo).parameters else {}
    options = {
        "sd_debias_folder": shared.OptionInfo("", "Further folder of profiles, beside models/debias_profiles",
                                              section=SECTION, **restricted),
        "sd_debias_classifier": shared.OptionInfo("", "Default judge: folder of a CLIP model, or its name in "
                                                  "models/classifiers", section=SECTION, **restricted),
        "sd_debias_download": shared.OptionInfo(False, "Let judges be downloaded from the hub by their id",
                                                section=SECTION, **restricted),
    }
    for name, option in options.items():
        shared.opts.add_option(name, option)
