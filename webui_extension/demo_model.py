"""The demo model's UNet for AUTOMATIC1111's webui, named by the YAML that `sd-debias export` writes."""
from __future__ import annotations

from typing import Sequence

from ..demo_model.model import Ratio


def unet(widths: Sequence[int], **settings):
    """The original code's UNet with the widths of its levels."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    return UNetModel(model_channels=widths[0], channel_mult=[Ratio(width, widths[0]) for width in widths], **settings)
