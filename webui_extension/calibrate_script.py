"""Script "Debias: calibrate (IDA)": finds the weights for the page's settings, verifies them, and saves a profile."""
from __future__ import annotations

import gradio as gr
from modules import scripts

from ..core.method.methods import CHOICES, chosen
from . import calibrating, classifiers
from .audit_script import choice, planned, say, subject
from .result import processed


class DebiasCalibrate(scripts.Script):
    def title(self):
        return "Debias: calibrate (IDA)"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        attributes, own, classifier = subject(self)
        with gr.Row():
            images, rounds, held_out = (planned(self, name) for name in ("images", "rounds", "held_out"))
        with gr.Row():
            tolerance, confidence = planned(self, "tolerance"), planned(self, "confidence")
        with gr.Row():
            method, direction, spend, rule = (choice(self, name) for name in CHOICES)
        prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                             elem_id=self.elem_id("prompts"))
        with gr.Row():
            name = gr.Textbox(label="Profile name", value="", placeholder="doctor-gender",
                              elem_id=self.elem_id("name"))
            overwrite = gr.Checkbox(label="Overwrite a profile of this name", value=False,
                                    elem_id=self.elem_id("overwrite"))
            hires = gr.Checkbox(label="With hires fix, if it is on above", value=False, elem_id=self.elem_id("hires"))
        within = planned(self, "within")  # last: requests of earlier versions end before it
        return [attributes, own, classifier, images, rounds, held_out, tolerance, confidence, method, direction, spend,
                rule, prompts, name, overwrite, hires, within]

    def run(self, p, attributes, own, classifier, images, rounds, held_out, tolerance, confidence, method, direction,
            spend, rule, prompts, name, overwrite, hires, within=0.0):
        plan = dict(images=int(images), rounds=int(rounds), held_out=int(held_out), tolerance=float(tolerance) or None,
                    confidence=float(confidence), within=float(within or 0) / 100 or None)
        result = calibrating.calibrate(
            p, calibrating.prompts_of(p, prompts), classifiers.attributes_of(attributes, own), classifier,
            chosen(method, direction=direction, spend=spend, rule=rule), str(name).strip(), plan, bool(overwrite),
            bool(hires), say)
        return processed(p, result)
