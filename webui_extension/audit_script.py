"""Script "Debias: audit": what the page's settings do, measured."""
from __future__ import annotations

import gradio as gr
from modules import scripts, shared, ui_common

from ..core.attribute import BUILT_IN
from ..core.calibration.plan import FIELDS
from ..core.method.methods import AS_METHOD, CHOICES
from ..core.errors import DebiasError
from ..core.looks import AUTO, DETECTOR, LOOK, PEOPLE, PICTURE
from ..core.report.markdown import literal
from . import calibrating, checks, classifiers
from .host_clip import HUB, HUB_SIZE, download
from .result import processed


class DebiasAudit(scripts.Script):
    def title(self):
        return "Debias: audit"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        with gr.Row():
            attributes, classifier = chosen_attributes(self), named_classifier(self)
        a_way_to_get_one(self, classifier)
        own = own_groups(self)
        count = planned(self, "images", elem_id=self.elem_id("count"), label="Images a prompt")
        confidence = planned(self, "confidence")
        prompts = gr.Textbox(label="Prompts, one per line (empty: the prompt above)", lines=2, value="",
                             elem_id=self.elem_id("prompts"))
        hires = gr.Checkbox(label="With hires fix, if it is on above", value=False, elem_id=self.elem_id("hires"))
        look, detector = looking(self)
        (check, _), corrections = checked(self), corrections_field(self)
        # The last four came later: requests of earlier versions end before them.
        return [attributes, own, classifier, count, confidence, prompts, hires, look, detector, check, corrections]

    def run(self, p, attributes, own, classifier, count, confidence, prompts, hires, look=PICTURE, detector=AUTO,
            check="", corrections=""):
        look, detector, check, corrections = late(look, detector, check, corrections)
        chosen = classifiers.attributes_of(attributes, own)
        result = calibrating.audit(p, calibrating.prompts_of(p, prompts), chosen,
                                   classifiers.Named(classifier, look, detector), int(count), float(confidence),
                                   bool(hires), say, check=check, corrections=corrections)
        return processed(p, result)


def chosen_attributes(script):
    return gr.Dropdown(list(BUILT_IN), value=["gender"], multiselect=True, label="Attributes",
                       elem_id=script.elem_id("attributes"))


def late(look, detector, check, corrections="") -> tuple:
    """The fields that came later; a shorter list of arguments lets another script's follow."""
    known = look in LOOK.values and detector in DETECTOR.values and isinstance(check, str)
    return (look, detector, check, corrections) if known and isinstance(corrections, str) else (PICTURE, AUTO, "", "")


def looking(script, *, people: bool = True):
    """What the classifier looks at, and what finds faces."""
    with gr.Row():
        look = gr.Dropdown([value for value in LOOK.values if people or value != PEOPLE], value=PICTURE,
                           label=f"{LOOK.label} (faces need a detector)", elem_id=script.elem_id("look"))
        detector = gr.Dropdown(list(DETECTOR.values), value=AUTO, label=DETECTOR.label,
                               elem_id=script.elem_id("detector"))
    return look, detector


def checked(script):
    """The check of the classifier that shares are corrected by, and the button that renews the list of them;
    javascript/debias.js presses it after every result."""
    with gr.Row():
        check = gr.Dropdown(checks.names(), value=checks.NONE, allow_custom_value=True, elem_id=script.elem_id("check"),
                            label="Check of the classifier (shares are corrected by it)")
        renew = ui_common.create_refresh_button(check, lambda: None, lambda: {"choices": checks.names()},
                                                script.elem_id("refresh_checks"))
    return check, renew


def corrections_field(script):
    return gr.Textbox(label="Corrections (paste the file that the page of pictures and labels saved)", lines=1,
                      value="", elem_id=script.elem_id("corrections"))


def own_groups(script):
    return gr.Textbox(label="Own groups, one attribute per line", lines=2, value="", elem_id=script.elem_id("own"),
                      placeholder="young | middle-aged | old = 1:1:1\ngender = 70:30")


def named_classifier(script):
    return gr.Dropdown(classifiers.choices(), value=classifiers.default(), allow_custom_value=True,
                       label="Classifier (a model; add ;skin_tone=ita for tones by colour)",
                       elem_id=script.elem_id("classifier"))


def a_way_to_get_one(script, field) -> None:
    """Below the row with the classifier's field: hosts leave no room between a column and what stands beside it."""
    ask = gr.Button("Get a classifier", size="sm", elem_id=script.elem_id("get_classifier"))
    with gr.Column(visible=False) as question:
        gr.Markdown(f"Download {HUB} ({HUB_SIZE}) from Hugging Face into models/{classifiers.FOLDER}?")
        with gr.Row():
            yes = gr.Button("Download", size="sm", elem_id=script.elem_id("download"))
            no = gr.Button("Cancel", size="sm", elem_id=script.elem_id("no_download"))
    told = gr.Markdown("", elem_id=script.elem_id("downloaded"))
    ask.click(lambda: gr.update(visible=True), inputs=[], outputs=[question])
    no.click(lambda: gr.update(visible=False), inputs=[], outputs=[question])
    yes.click(_download, inputs=[], outputs=[field, question, told])


def _download():
    try:
        name = download(classifiers.folder())
    except DebiasError as error:
        return gr.update(), gr.update(visible=False), literal(str(error))
    return gr.update(choices=classifiers.choices(), value=name), gr.update(visible=False), literal(f"{name} is there.")


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
