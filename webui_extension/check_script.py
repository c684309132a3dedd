"""Script "Debias: check classifier": is the classifier right about this model's pictures?"""
from __future__ import annotations

import gradio as gr
from modules import scripts

from ..core.study.checking import COUNT
from . import calibrating, classifiers
from .audit_script import (
    a_way_to_get_one, chosen_attributes, corrections_field, looking, named_classifier, own_groups, planned, say)
from .result import processed


class DebiasCheck(scripts.Script):
    def title(self):
        return "Debias: check classifier"

    def show(self, is_img2img):
        return not is_img2img

    def ui(self, is_img2img):
        gr.Markdown("Generates pictures of the prompt with the text of each group, and counts how often the classifier "
                    "is right. Choose this check in an audit or a calibration to correct its shares for the errors of "
                    "the classifier.")
        with gr.Row():
            name = gr.Textbox(label="Name of the check", value="", placeholder="my-model-clip",
                              elem_id=self.elem_id("name"))
            attributes, classifier = chosen_attributes(self), named_classifier(self)
        a_way_to_get_one(self, classifier)
        look, detector = looking(self)
        own = own_groups(self)
        count = gr.Slider(5, 1000, step=1, value=COUNT, label="Images of each group", elem_id=self.elem_id("count"))
        confidence = planned(self, "confidence")
        prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                             elem_id=self.elem_id("prompts"))
        corrections = corrections_field(self)
        return [attributes, own, classifier, count, confidence, prompts, look, detector, corrections, name]

    def run(self, p, attributes, own, classifier, count, confidence, prompts, look, detector, corrections, name):
        chosen = classifiers.attributes_of(attributes, own)
        result = calibrating.check(p, calibrating.prompts_of(p, prompts), chosen,
                                   classifiers.Named(classifier, look, detector), int(count), float(confidence),
                                   str(name).strip(), corrections, say)
        return processed(p, result)
