"""Script "Debias: audit": what the page's settings do, measured."""
from __future__ import annotations

import gradio as gr
from modules import scripts, shared

from ..core.attribute import BUILT_IN
from ..core.calibration.plan import FIELDS
from ..core.method.methods import AS_METHOD, CHOICES
from . import calibrating, classifiers
from .result import processed


class DebiasAudit(scripts.Script):
    def title(self):
        return "Debias: audit"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        with gr.Row():
            attributes, classifier = chosen_attributes(self), named_classifier(self)
        own = own_groups(self)
        count = planned(self, "images", elem_id=self.elem_id("count"), label="Images a prompt")
        confidence = planned(self, "confidence")
        prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                             elem_id=self.elem_id("prompts"))
        hires = gr.Checkbox(label="With hires fix, if it is on above", value=False, elem_id=self.elem_id("hires"))
        return [attributes, own, classifier, count, confidence, prompts, hires]

    def run(self, p, attributes, own, classifier, count, confidence, prompts, hires):
        chosen = classifiers.attributes_of(attributes, own)
        result = calibrating.audit(p, calibrating.prompts_of(p, prompts), chosen, classifier, int(count),
                                   float(confidence), bool(hires), say)
        return processed(p, result)


def chosen_attributes(script):
    return gr.Dropdown(list(BUILT_IN), value=["gender"], multiselect=True, label="Attributes",
                       elem_id=script.elem_id("attributes"))


def own_groups(script):
    return gr.Textbox(label="Own groups, one attribute per line", lines=2, value="", elem_id=script.elem_id("own"),
                      placeholder="young | middle-aged | old = 1:1:1        gender = 70:30")


def named_classifier(script):
    return gr.Textbox(label="Classifier: folder of a CLIP model; skin_tone=ita for one attribute by colour",
                      lines=1, value=classifiers.default(), elem_id=script.elem_id("classifier"),
                      placeholder="empty: the one of the settings page; 'demo' for the demo model")


def planned(script, name: str, **other):
    """The field for a number of a calibration's plan."""
    asked = FIELDS[name]
    given = dict(value=asked.default, label=asked.label, elem_id=script.elem_id(name)) | other
    # A slider's steps are too coarse for a tolerance.
    return gr.Number(**given) if asked.step < 0.01 else gr.Slider(asked.low, asked.usual, step=asked.step, **given)


def choice(script, name: str):
    """The field for one of a method's choices."""
    asked, first = CHOICES[name], [] if name == "method" else [AS_METHOD]
    values = [*first, *asked.values]
    return gr.Dropdown(values, value=values[0], label=asked.label, elem_id=script.elem_id(name))


def say(text: str) -> None:
    """Live text above the progress bar."""
    shared.state.textinfo = text
