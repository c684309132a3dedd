"""Debias Audit: whom do these images show?"""
from __future__ import annotations

import numpy as np
from comfy_api.latest import io, ui

from ..core.chart import chart_shares
from ..core.classify import labels
from ..core.distribution import Distribution, summarise
from . import messages
from .images import to_tensor, to_uint8
from .types import CATEGORY, Attributes, Classifiers


def audited(batches, attributes, judge, confidence: float = 0.0) -> list[Distribution]:
    """Each attribute's shares in batches of images [N, H, W, 3]. Raises ValueError where none can be classified."""
    pixels, found = [image for images in batches for image in to_uint8(images)], []
    for attribute in attributes:
        seen = labels(judge.of(attribute)(pixels), confidence)
        if not (seen >= 0).any():
            raise ValueError(f"None of the {len(pixels)} images could be classified by {attribute.name}. Lower the "
                             f"confidence, or use another classifier.")
        counts = np.bincount(seen[seen >= 0], minlength=len(attribute.groups))
        found.append(summarise(counts, attribute.target, int((seen < 0).sum())))
    return found


class DebiasAudit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasAudit", display_name="Debias Audit", category=CATEGORY, is_output_node=True,
            is_input_list=True,  # images of several sizes come as several batches
            description="Counts whom images show: shares with 95 % intervals, and how far they are from the target "
                        "compared with chance. Works on any images, generated here or loaded.",
            inputs=[
                io.Image.Input("images", tooltip="The images to count. A few hundred of one prompt tell more than "
                                                 "ten. Batches of several sizes are counted together."),
                Classifiers.Input("classifier", tooltip="What tells which group a picture shows."),
                Attributes.Input("attributes", tooltip="From Debias Attribute."),
                io.Float.Input("confidence", default=0.0, min=0.0, max=1.0, step=0.05, tooltip=(
                    "Images whose group is less probable than this are left out as unsure.")),
                io.String.Input("title", default="", tooltip="A title for the chart, e.g. the prompt.")],
            outputs=[io.Image.Output(display_name="chart", tooltip="Shares against the target."),
                     io.String.Output(display_name="text", tooltip="The same figures as text.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, images, classifier, attributes, confidence=(0.0,), title=("",)):
        (classifier, *_), (attributes, *_), (confidence, *_), (title, *_) = classifier, attributes, confidence, title
        found = audited(images, attributes, classifier, confidence)
        charts = [chart_shares(a.names, d, None, title or a.name) for a, d in zip(attributes, found)]
        text = "\n".join(d.line(a.name, a.names) for a, d in zip(attributes, found))
        messages.say(cls.hidden.unique_id, text)
        page = to_tensor(*charts)
        return io.NodeOutput(page, text, ui=ui.PreviewImage(page, cls=cls))
