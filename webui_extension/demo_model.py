"""The demo model in the host's folder of checkpoints, and its UNet, which the YAML beside it names."""
from __future__ import annotations

from pathlib import Path
from typing import Sequence

from ..core.errors import DebiasError
from ..core.files import writing
from ..demo_model.export import export
from ..demo_model.model import Ratio

NAME = "sd-debias-demo"
USE = "Choose it as checkpoint, with 64x64 pixels, sampler DDIM, 8 steps and CFG 2. As the judge, choose 'demo'."


def write() -> str:
    """Write the demo model where the host finds checkpoints, and renew the list of them; what to tell the user."""
    from modules import paths, sd_models
    folder = Path(getattr(sd_models, "model_path", None) or Path(paths.models_path, "Stable-diffusion"))
    try:
        with writing("The demo model", "models/Stable-diffusion"):
            export(folder, NAME, overwrite=True)  # its own name, also after the host was moved
    except DebiasError as error:
        return str(error)
    sd_models.list_models()
    return f"{NAME} is in models/Stable-diffusion. {USE}"


def unet(widths: Sequence[int], **settings):
    """The original code's UNet with the widths of its levels."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    return UNetModel(model_channels=widths[0], channel_mult=[Ratio(width, widths[0]) for width in widths], **settings)
