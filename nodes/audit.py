"""Debias Audit: which groups do these images show?"""
from __future__ import annotations

from comfy_api.latest import io, ui

from ..core.attribute import together
from ..core.study.given import labelled_pictures, warnings_of
from ..core.study.passes import in_order
from ..core.calibration.labelled import Labelled, corrected, given_back
from ..core.calibration.standing import Standing, of_shares
from ..core.errors import DebiasError
from ..core.report.prompt_chart import share_chart
from . import messages
from .folder import changed, labelled_folder
from .judge import checks_of
from .images import pictures, to_tensor
from .panel import kept, labels_page
from .types import CALIBRATE, Attributes, JudgeType, planned


BEFORE, AFTER = "before", "after"


def audited(batches, attributes, judge, confidence: float = 0.0, title: str = "") -> Labelled:
    """Batches of images [N, H, W, 3] with their labels. Raises DebiasError where none can be classified, and for two
    attributes of one name."""
    attributes = together(attributes)
    pixels = [image for images in batches for image in pictures(images)]
    return labelled_pictures(pixels, title, attributes, [judge.of(a) for a in attributes], confidence,
                             checks_of(judge, attributes))


class DebiasAudit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DebiasAudit", display_name="Debias Audit", category=CALIBRATE, is_output_node=True,
            is_input_list=True,  # images of several sizes come as several batches
            description="Measures which groups the images show: shares with 95 % intervals, and whether their "
                        "distance from the target exceeds chance. Works on any images, generated or loaded. Click a "
                        "label to correct it.",
            inputs=[
                io.Image.Input("images", optional=True, tooltip=(
                    "The images to count. A few hundred images of one prompt give a reliable result; ten do not. "
                    "Batches of several sizes are counted together.")),
                JudgeType.Input("judge", tooltip="Decides which group each image shows."),
                Attributes.Input("attributes", tooltip="From Debias Attribute."),
                planned("confidence"),
                io.String.Input("title", default="", tooltip="A title for the chart, e.g. the prompt."),
                io.String.Input("folder", default="", optional=True, placeholder="pictures", tooltip=(
                    "Instead of images: a folder of ComfyUI's input, with images of any sizes.")),
                io.Image.Input("before", optional=True, tooltip=(
                    "The same images before a pass, such as a detailer or an upscaler, in the same order: tells whose "
                    "group the pass changed.")),
                io.String.Input("corrections", default="", optional=True, tooltip=(
                    "Labels that you corrected. Clicking a label in the panel fills this in; you can also paste a "
                    "saved file of corrections."))],
            outputs=[io.Image.Output(display_name="chart", tooltip="Chart of the shares and the target."),
                     io.String.Output(display_name="text", tooltip="The same figures as text.")],
            hidden=[io.Hidden.unique_id])

    @classmethod
    def fingerprint_inputs(cls, folder=("",), **inputs):
        return changed(folder[0]) if folder and str(folder[0]).strip() else ""

    @classmethod
    def execute(cls, judge, attributes, confidence=(0.0,), title=("",), images=(), folder=("",), before=(),
                corrections=("",)):
        (judge, *_), (attributes, *_), (confidence, *_), (title, *_) = judge, attributes, confidence, title
        place = str((folder or ("",))[0] or "").strip()
        if bool(place) == bool(len(images or ())):
            raise DebiasError("Expected images or a folder to audit, got both or neither. Wire images, or write the "
                              "name of a folder in ComfyUI's input.")
        labelled, unreadable = labelled_folder(place, attributes, judge, confidence) if place else \
            (audited(images, attributes, judge, confidence, title), [])
        both = [labelled]
        if len(before or ()):
            both.insert(0, audited(before, attributes, judge, confidence, BEFORE))
            labelled.title = labelled.title or AFTER
        page = labels_page(cls.hidden.unique_id, title or "Audit", both)  # with the labels as the judge set them
        by_hand, notes = given_back((corrections or ("",))[0] or ""), []
        if by_hand is not None:
            notes.append(corrected(both, by_hand))
        changes = in_order(*both).lines if both[1:] else []
        found, was = ([side.distribution(i) for i in range(len(attributes))] for side in (labelled, both[0]))
        charts = [share_chart(a, of_shares(b), of_shares(d) if both[1:] else None, title or a.name, (BEFORE, AFTER))
                  for a, d, b in zip(attributes, found, was)]
        warnings = warnings_of(labelled, unreadable)
        text = "\n".join([*(d.line(a.name, a.names) for a, d in zip(attributes, found)), *changes,
                          *(f"Warning: {warning}" for warning in warnings), *notes])
        shares = [Standing(title, a.name, a.names, a.target, None, of_shares(d)).to_dict()
                  for a, d in zip(attributes, found)]
        shown = dict(shares=shares, labels=page)
        messages.say(cls.hidden.unique_id, text, warning=bool(warnings), **shown)
        chart = to_tensor(*charts)
        return io.NodeOutput(chart, text, ui=kept(text, bool(warnings), ui.PreviewImage(chart, cls=cls), **shown))
