"""Script "Debias: audit and calibrate": what the page's settings show, and the weights that bring it to a target."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Sequence

import gradio as gr
from modules import scripts, ui_common

from ..core.attribute import BUILT_IN
from ..core.calibration.plan import CUSTOM, FIELDS, HOW_SURE, NUMBERS, estimate
from ..core.calibration.plan import planned as planned_as
from ..core.errors import DebiasError, quoted, short
from ..core.looks import AUTO, DETECTOR, LOOK, PICTURE
from ..core.method.methods import AS_METHOD, CHOICES, chosen
from ..core.report.markdown import literal
from ..core.statistics import named_shares
from ..core.study.checking import COUNT
from . import calibrating, checks, classifiers, doctor
from .arguments import typed
from .host_clip import HUB, HUB_SIZE, download

AUDIT, CALIBRATE, CHECK, DOCTOR = "audit", "calibrate", "check the judge", "doctor"
ABOUT = {
    AUDIT: "Makes images with the settings of this page, without the accordion's profile, and shows their shares.",
    CALIBRATE: "Finds the weights that bring the images to the target shares, verifies them, and saves a profile.",
    CHECK: "Makes images of the prompt with the text of each group, and counts how often the judge is right. "
           "Audits and calibrations given this check correct their shares by it.",
    DOCTOR: "Tests guidance on this model with a dozen images of two seeds, and says below whether it works. Put "
            "that text into a bug report."}
# Every field by its name in a request, in the page's order, with what stands for one that is not given.
DEFAULTS: dict[str, object] = dict(
    work=AUDIT, name="", attributes=["gender"], target="", sure="normal", judge="", count=FIELDS["images"].default,
    own="", prompts="", look=PICTURE, detector=AUTO, check=checks.NONE, corrections="",
    **{name: FIELDS[name].default for name in NUMBERS}, confidence=0.0, method="default",
    **{name: AS_METHOD for name in CHOICES if name != "method"}, hires=False, overwrite=False)
SHOWN = dict(name=(CALIBRATE, CHECK), attributes=(AUDIT, CALIBRATE, CHECK), target=(CALIBRATE,), sure=(CALIBRATE,),
             judge=(AUDIT, CALIBRATE, CHECK), count=(AUDIT, CHECK))


class DebiasMeasure(scripts.Script):
    def title(self):
        return "Debias: audit and calibrate"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        made = {}

        def made_of(kind, name, label, *choices, **more):
            made[name] = kind(*choices, label=label, value=more.pop("value", DEFAULTS[name]),
                              elem_id=self.elem_id(name), visible=AUDIT in SHOWN.get(name, (AUDIT,)), **more)
            return made[name]

        def number(name):
            field = FIELDS[name]
            if field.step < 0.01:  # a slider's steps are too coarse for a tolerance
                made_of(gr.Number, name, field.label)
            else:
                made_of(gr.Slider, name, field.label, field.low, field.usual, step=field.step)

        made_of(gr.Dropdown, "work", "What to do", list(ABOUT))  # hosts give saved defaults to dropdowns alone
        about = gr.Markdown(ABOUT[AUDIT], elem_id=self.elem_id("about"))
        with gr.Row():
            made_of(gr.Textbox, "name", "Name of the profile or check", placeholder="doctor-gender")
            made_of(gr.Dropdown, "attributes", "Attributes", list(BUILT_IN), multiselect=True)
            made_of(gr.Textbox, "target", "Target shares (empty: even)", placeholder="woman 65, man 35")
        with gr.Row():
            made_of(gr.Dropdown, "sure", "How sure: within 10, 5, 5 or 3 points", list(HOW_SURE.values))
            made_of(gr.Dropdown, "judge", "Judge (a model; add ;skin_tone=ita for tones by colour)",
                    classifiers.choices(), value=classifiers.default(), allow_custom_value=True)
        _a_way_to_get_one(self, made["judge"])
        made_of(gr.Slider, "count", "Images (audit: per prompt; check: per group)", 5, 1000, step=1)
        with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
            made_of(gr.Textbox, "own", "Own groups, one attribute per line", lines=2,
                    placeholder="young | middle-aged | old = 1:1:1\ngender = 70:30")
            made_of(gr.Textbox, "prompts", "Prompts, one per line (empty: the prompt above)", lines=2)
            with gr.Row():
                made_of(gr.Dropdown, "look", f"{LOOK.label} (faces need a detector)", list(LOOK.values))
                made_of(gr.Dropdown, "detector", DETECTOR.label, list(DETECTOR.values))
            with gr.Row():
                check = made_of(gr.Dropdown, "check", "Check of the judge (shares are corrected by it)",
                                checks.names(), allow_custom_value=True)
                # javascript/debias.js presses it after every result.
                ui_common.create_refresh_button(check, lambda: None, lambda: {"choices": checks.names()},
                                                self.elem_id("refresh_checks"))
            made_of(gr.Textbox, "corrections",
                    "Corrections (paste the file that the page of images and labels saved)", lines=1)
            gr.Markdown(f"These numbers are used if {HOW_SURE.label} is {CUSTOM}.")
            with gr.Row():
                for name in NUMBERS:
                    number(name)
            with gr.Row():
                number("confidence")
                for name, asked in CHOICES.items():
                    made_of(gr.Dropdown, name, asked.label,
                            [*([] if name == "method" else [AS_METHOD]), *asked.values])
            with gr.Row():
                made_of(gr.Checkbox, "hires", "With hires fix, if it is on above")
                made_of(gr.Checkbox, "overwrite", "Overwrite a profile of this name")
        return _connected(made, about)

    def run(self, p, *values):
        given = asked(values, bool(getattr(p, "is_api", False)))
        return DO[given.work](p, given)


def _connected(made: dict, about) -> list:
    """The form's controls by the order of `DEFAULTS`, once they answer to each other."""
    controls = [made[name] for name in DEFAULTS]
    for name in ("attributes", "target", "sure", "own", "prompts", *NUMBERS, "method"):
        made[name].change(_about, inputs=controls, outputs=[about], show_progress=False)
        if name in ("own", "target", "prompts"):  # the page drops changes that come while one is answered
            made[name].blur(_about, inputs=controls, outputs=[about], show_progress=False)
    made["work"].change(_shown, inputs=controls, outputs=[about, *(made[name] for name in SHOWN)], show_progress=False)

    def saved(work):
        """The host puts a choice that the user saved as the page's default in the field's place."""
        about.value = _about(work)
        for name, works in SHOWN.items():
            made[name].visible = work in works

    made["work"].init_field = saved
    return controls


def asked(values: Sequence, by_name: bool = False) -> SimpleNamespace:
    """The form: the page's values by place, or a request's one object of values by name. Raises DebiasError for a name
    or a kind of value that is not the form's."""
    if values and isinstance(values[0], dict):
        given = values[0]
        counts = dict(count=COUNT) if given.get("work") == CHECK else {}
        given = {**counts, **({"attributes": []} if given.get("own") else {}), **given}
    elif not by_name:
        given = dict(zip(DEFAULTS, values))
    else:
        raise DebiasError('Expected script_args to be a list with one object of fields, e.g. [{"work": "audit", '
                          f'"attributes": ["gender"]}}], got {short(list(values))}.')
    unknown = [name for name in given if name not in DEFAULTS]
    if unknown:
        raise DebiasError(f"Expected fields of the script ({', '.join(DEFAULTS)}), got {short(', '.join(unknown))}.")
    empty = {name for name, value in given.items() if value is None or value == "" and not isinstance(
        DEFAULTS[name], str)}  # which is how a browser sends a number that was deleted
    form = SimpleNamespace(**DEFAULTS | {
        name: typed(name, value, DEFAULTS[name], as_text=True) for name, value in given.items() if name not in empty})
    if form.work not in ABOUT:
        raise DebiasError(f"Expected work to be one of {', '.join(ABOUT)}, got {quoted(form.work)}.")
    form.attributes = [form.attributes] if isinstance(form.attributes, str) else form.attributes
    form.numbers = {name: getattr(form, name) for name in NUMBERS}
    form.prompts = [line.strip() for line in form.prompts.splitlines() if line.strip()]
    return form


DO = {AUDIT: calibrating.audit, CALIBRATE: calibrating.calibrate, CHECK: calibrating.check, DOCTOR: doctor.processed}


def _shown(work, *others):
    """What the form says and shows once it is chosen what to do. A check needs fewer images than an audit; a number
    that the user has chosen stays."""
    fields = {name: gr.update(visible=work in works) for name, works in SHOWN.items()}
    now, usual = dict(zip(DEFAULTS, (work, *others))).get("count"), {AUDIT: DEFAULTS["count"], CHECK: COUNT}
    if work in usual and now in usual.values():
        fields["count"] = gr.update(visible=True, value=usual[work])
    return _about(work, *others), *fields.values()


def _about(*values) -> str:
    """What the work does; of a calibration the target by name, how many images it takes, and what is wrong."""
    work = values[0]
    if work != CALIBRATE:
        return ABOUT.get(work, "")
    try:
        form = asked(values)
        plan = planned_as(form.sure, chosen(form.method), **form.numbers)
        attributes = classifiers.attributes_of(form.attributes, form.own, form.target)
        aims = "; ".join(f"{a.name}: {named_shares(a.names, a.target)}" for a in attributes)
        return literal(f"{ABOUT[work]} Target: {aims}. {estimate(plan, attributes, len(form.prompts) or 1)}")
    except DebiasError as error:
        return literal(str(error))


def _a_way_to_get_one(script, field) -> None:
    """Below the row with the judge's field: hosts leave no room between a column and what stands beside it."""
    ask = gr.Button("Get a judge", size="sm", elem_id=script.elem_id("get_classifier"))
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
