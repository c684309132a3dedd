"""Script "Debias: calibrate (IDA)": finds the weights for the page's settings, verifies them, and saves a profile."""
from __future__ import annotations

import gradio as gr
from modules import scripts

from ..core.calibration.plan import CUSTOM, HOW_SURE, NUMBERS, estimate, unused
from ..core.calibration.plan import planned as planned_as
from ..core.calibration.speed import known
from ..core.errors import DebiasError
from ..core.looks import AUTO, PICTURE
from ..core.method.methods import CHOICES, chosen
from ..core.report.markdown import literal
from ..core.statistics import named_shares
from . import calibrating, classifiers, profiles
from .audit_script import (
    a_way_to_get_one, checked, choice, chosen_attributes, late, looking, named_classifier, own_groups, planned, say)
from .result import processed


class DebiasCalibrate(scripts.Script):
    def title(self):
        return "Debias: calibrate (IDA)"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        with gr.Row():
            name = gr.Textbox(label="Profile name", value="", placeholder="doctor-gender",
                              elem_id=self.elem_id("name"))
            attributes = chosen_attributes(self)
            target = gr.Textbox(label="Target shares (empty: even)", value="", placeholder="woman 65, man 35",
                                elem_id=self.elem_id("target"))
        with gr.Row():
            sure = gr.Dropdown(list(HOW_SURE.values), value="normal", label="How sure: within 10, 5 or 3 points",
                               elem_id=self.elem_id("sure"))
            classifier = named_classifier(self)
        a_way_to_get_one(self, classifier)
        about = gr.Markdown(_about("normal", ["gender"], "", "", ""), elem_id=self.elem_id("about"))
        with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
            prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                                 elem_id=self.elem_id("prompts"))
            own = own_groups(self)
            look, detector = looking(self, people=False)
            check, renew = checked(self)
            gr.Markdown(f"These numbers are used if {HOW_SURE.label} is {CUSTOM}.")
            with gr.Row():
                images, rounds, held_out = (planned(self, name) for name in ("images", "rounds", "held_out"))
            with gr.Row():
                tolerance, within, confidence = (planned(self, name) for name in ("tolerance", "within", "confidence"))
            with gr.Row():
                method, direction, spend, rule = (choice(self, name) for name in CHOICES)
            with gr.Row():
                hires = gr.Checkbox(label="With hires fix, if it is on above", value=False,
                                    elem_id=self.elem_id("hires"))
                overwrite = gr.Checkbox(label="Overwrite a profile of this name", value=False,
                                        elem_id=self.elem_id("overwrite"))
        told = [sure, attributes, own, target, prompts, images, rounds, held_out, tolerance, within, method]
        for component in told:
            component.change(_about, inputs=told, outputs=[about], show_progress=False)
        for component in (own, target, prompts):  # the page drops changes that come while one is answered
            component.blur(_about, inputs=told, outputs=[about], show_progress=False)
        renew.click(_about, inputs=told, outputs=[about], show_progress=False)  # once the speed is known
        # The last six came later: requests of earlier versions end before them.
        return [attributes, own, classifier, images, rounds, held_out, tolerance, confidence, method, direction, spend,
                rule, prompts, name, overwrite, hires, within, sure, target, look, detector, check]

    def run(self, p, attributes, own, classifier, images, rounds, held_out, tolerance, confidence, method, direction,
            spend, rule, prompts, name, overwrite, hires, within=0.0, sure=CUSTOM, target="", look=PICTURE,
            detector=AUTO, check=""):
        if not (isinstance(within, (int, float)) and isinstance(sure, str) and isinstance(target, str)):
            within, sure, target = 0.0, CUSTOM, ""  # a shorter list of arguments lets another script's follow
        look, detector, check, _ = late(look, detector, check)
        numbers = _numbers(images, rounds, held_out, tolerance, within)
        result = calibrating.calibrate(
            p, calibrating.prompts_of(p, prompts), classifiers.attributes_of(attributes, own, target),
            classifiers.Named(classifier, look, detector),
            chosen(method, direction=direction, spend=spend, rule=rule), str(name).strip(), str(sure),
            {**numbers, "confidence": float(confidence)}, bool(overwrite), bool(hires), say,
            note=unused(str(sure), numbers), check=check)
        if note := unused(str(sure), numbers):
            result.text += f"\n{note}"
        return processed(p, result)


def _numbers(images, rounds, held_out, tolerance, within) -> dict:
    """Those of the plan "custom", which a browser may send as text or not at all."""
    return {name: float(number or 0) for name, number in zip(NUMBERS, (images, rounds, held_out, tolerance, within))}


def _about(sure, attributes, own, target, prompts, images=100, rounds=4, held_out=200, tolerance=0, within=0,
           method="default") -> str:
    """The target by name, how many pictures the form asks for, and how long that takes; what is wrong with it."""
    try:
        plan = planned_as(sure, chosen(method), **_numbers(images, rounds, held_out, tolerance, within))
        listed = [line for line in str(prompts or "").splitlines() if line.strip()]
        asked = classifiers.attributes_of(attributes, own, target)
        aims = "; ".join(f"{a.name}: {named_shares(a.names, a.target)}" for a in asked)
        return literal(f"Target: {aims}. {estimate(plan, asked, len(listed) or 1, known(profiles.speed_file()))}")
    except DebiasError as error:
        return literal(str(error))
    except (TypeError, ValueError):  # a number that is being written
        return ""
