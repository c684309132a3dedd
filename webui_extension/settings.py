"""The settings page "Debias"."""
from __future__ import annotations

SECTION = ("sd_debias", "Debias")


def register() -> None:
    from modules import shared
    options = {
        "sd_debias_folder": shared.OptionInfo("", "Further folder of profiles, beside models/debias_profiles",
                                              section=SECTION),
        "sd_debias_classifier": shared.OptionInfo("", "Default classifier: folder of a CLIP model", section=SECTION),
        "sd_debias_download": shared.OptionInfo(False, "Let classifiers be downloaded from the hub by their id",
                                                section=SECTION),
    }
    for name, option in options.items():
        shared.opts.add_option(name, option)
