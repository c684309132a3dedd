"""Script "Debias: audit": what the page's settings do, measured."""
from __future__ import annotations

import gradio as gr
from modules import scripts, shared

from ..core.attribute import BUILT_IN
from . import calibrating, classifiers
from .result import processed


class DebiasAudit(scripts.Script):
    def title(self):
        return "Debias: audit"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        attributes, own, classifier = subject(self)
        count = gr.Slider(1, 1000, value=100, step=1, label="Images a prompt", elem_id=self.elem_id("count"))
        confidence = gr.Slider(0.0, 1.0, value=0.0, step=0.05, elem_id=self.elem_id("confidence"),
                               label="Leave out images classified less surely than")
        prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                             elem_id=self.elem_id("prompts"))
        hires = gr.Checkbox(label="With hires fix, if it is on above", value=False, elem_id=self.elem_id("hires"))
        return [attributes, own, classifier, count, confidence, prompts, hires]

    def run(self, p, attributes, own, classifier, count, confidence, prompts, hires):
        chosen = classifiers.attributes_of(attributes, own)
        result = calibrating.audit(p, calibrating.prompts_of(p, prompts), chosen, classifier, int(count),
                                   float(confidence), bool(hires), say)
        return processed(p, result)


def subject(script) -> list:
    """Components for what is measured, and by what."""
    attributes = gr.Dropdown(list(BUILT_IN), value=["gender"], multiselect=True, label="Attributes",
                             elem_id=script.elem_id("attributes"))
    own = gr.Textbox(label="Own groups, one attribute per line", lines=2, value="", elem_id=script.elem_id("own"),
                     placeholder="young | middle-aged | old = 1:1:1        gender = 70:30")
    classifier = gr.Textbox(label="Classifier: folder of a CLIP model; skin_tone=ita for one attribute by colour",
                            lines=1, value=classifiers.default(), elem_id=script.elem_id("classifier"),
                            placeholder="empty: the one of the settings page; 'demo' for the demo model")
    return [attributes, own, classifier]


def say(text: str) -> None:
    """Live text above the progress bar."""
    shared.state.textinfo = text
