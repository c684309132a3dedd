"""Debias Audit: whom do these images show?"""
from __future__ import annotations

import numpy as np
from comfy_api.latest import io, ui

from ..core.attribute import together
from ..core.calibration.loop import Round
from ..core.report.chart import chart_shares
from ..core.judge import labels, one_colour
from ..core.calibration.standing import Standing, of_shares
from ..core.calibration.statistics import Distribution, summarise
from ..core.errors import DebiasError, quoted
from . import messages
from .images import pictures, to_tensor
from .panel import kept
from .types import CATEGORY, Attributes, Classifiers, planned


def audited(batches, attributes, judge, confidence: float = 0.0) -> tuple[list[Distribution], str]:
    """Each attribute's shares in batches of images [N, H, W, 3], and how many of these look broken, in words.

    Images that are not finite are unsure. Those of one colour are counted, since they are the user's. Raises
    DebiasError where none can be classified, and for two attributes of one name.
    """
    pixels, found = [image for images in batches for image in pictures(images)], []
    finite = [image for image in pixels if image is not None]
    empty = Round("audit", (), (), [[0] * len(pixels)], not_finite=len(pixels) - len(finite),
                  one_colour=sum(map(one_colour, finite))).broken
    for attribute in together(attributes):
        seen = labels(judge.of(attribute)(finite), confidence) if finite else np.empty(0, int)
        if not (seen >= 0).any():
            raise DebiasError(f"None of the {len(pixels)} images could be classified by {quoted(attribute.name)}"
                              f"{f' ({empty})' if empty else ''}. Lower the confidence, or use another classifier.")
        counts = np.bincount(seen[seen >= 0], minlength=len(attribute.groups))
        found.append(summarise(counts, attribute.target, len(pixels) - int((seen >= 0).sum())))
    return found, empty


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
                planned("confidence"),
                io.String.Input("title", default="", tooltip="A title for the chart, e.g. the prompt.")],
            outputs=[io.Image.Output(display_name="chart", tooltip="Shares against the target."),
                     io.String.Output(display_name="text", tooltip="The same figures as text.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def execute(cls, images, classifier, attributes, confidence=(0.0,), title=("",)):
        (classifier, *_), (attributes, *_), (confidence, *_), (title, *_) = classifier, attributes, confidence, title
        found, empty = audited(images, attributes, classifier, confidence)
        charts = [chart_shares(a.names, d, None, title or a.name) for a, d in zip(attributes, found)]
        text = "\n".join([*(d.line(a.name, a.names) for a, d in zip(attributes, found)),
                          *([f"Warning: {empty}"] if empty else [])])
        shares = [Standing(title, a.name, a.names, a.target, None, of_shares(d)).to_dict()
                  for a, d in zip(attributes, found)]
        messages.say(cls.hidden.unique_id, text, warning=bool(empty), shares=shares)
        page = to_tensor(*charts)
        return io.NodeOutput(page, text, ui=kept(text, bool(empty), ui.PreviewImage(page, cls=cls), shares=shares))
