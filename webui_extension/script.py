"""The accordion "Debias": applies a profile to whatever is generated."""
from __future__ import annotations

import html
import random

import gradio as gr
from modules import scripts, shared, ui_common
from modules.ui_components import InputAccordion

from ..core.errors import DebiasError
from ..core.method.methods import AS_CALIBRATED, DIRECTIONS
from ..core.profile.lookup import check_encoder
from ..core.prompts.syntax import OTHERS
from ..core.report.markdown import literal, literal_lines
from ..core.schema import TOGETHER
from . import demo_model, host_a1111, host_forge, profiles
from .arguments import BALANCE, NONE, Arguments
from .guide import from_profile, plain
from .pasting import pasted
from .run import STATE, Run, family, told_apart
from .second_pass import UNLISTED, Outer, seed_of_whole, unlisted

OVERRIDES = "sd_debias_overrides"  # on p: arguments that the XYZ plot sets
CALIBRATION = "sd_debias_calibration"  # on p: the guide of a calibration's round, which takes the accordion's place


class Debias(scripts.Script):
    outer = Outer()

    def title(self):
        return "Debias"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        defaults = Arguments()
        with InputAccordion(defaults.enabled, label="Debias", elem_id=self.elem_id("enabled")) as enabled:
            with enabled.extra():
                header = gr.HTML(_header(defaults.profile), elem_id=self.elem_id("chosen"))
            with gr.Row():
                profile = gr.Dropdown(label="Debias profile", choices=profiles.names(), value=defaults.profile,
                                      elem_id=self.elem_id("profile"))
                ui_common.create_refresh_button(profile, lambda: None, lambda: {"choices": profiles.names()},
                                                self.elem_id("refresh"))
            attributes = gr.Textbox(
                label="Balance (one attribute per line, with shares)", value=defaults.attributes, lines=2,
                placeholder="gender = 50:50\nage", elem_id=self.elem_id("attributes"))
            about = gr.Markdown(_about(defaults.profile), elem_id=self.elem_id("about"))
            further = gr.Button("Calibrate these attributes", size="sm", elem_id=self.elem_id("calibrate"),
                                visible=defaults.profile == BALANCE)
            strength = gr.Slider(0.0, 3.0, value=defaults.strength, step=0.05, elem_id=self.elem_id("strength"),
                                 label="Debias strength (1: as calibrated, 0: none)")
            with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
                direction = gr.Dropdown([AS_CALIBRATED, *DIRECTIONS], value=defaults.direction,
                                        label="Debias direction", elem_id=self.elem_id("direction"))
                with gr.Row():
                    start = gr.Slider(0.0, 1.0, value=defaults.start, step=0.05, elem_id=self.elem_id("start"),
                                      label="Debias start (share of the steps)")
                    end = gr.Slider(0.0, 1.0, value=defaults.end, step=0.05, elem_id=self.elem_id("end"),
                                    label="Debias end (share of the steps)")
                hires = gr.Checkbox(label="Debias also in hires pass", value=defaults.hires,
                                    elem_id=self.elem_id("hires"))
                others = gr.Dropdown(list(OTHERS), value=defaults.others, elem_id=self.elem_id("others"),
                                     label="Debias prompts that the profile is not for")
                small = gr.Button("Write the small demo model into models/Stable-diffusion", size="sm",
                                  elem_id=self.elem_id("demo_model"))
                told = gr.Markdown("", elem_id=self.elem_id("demo_model_told"))
                small.click(lambda: literal(demo_model.write()), inputs=[], outputs=[told])
                gr.Markdown("draw: each image of such a prompt is steered to a randomly drawn group.  \nThe "
                            "direction embedding does nothing in steps in which a setting skips the negative "
                            "prompt. The direction prompt always works.")
        profile.change(_shown, inputs=[profile], outputs=[about, attributes, header, further],
                       show_progress=False)
        # The host's list of scripts is no field of ours: the page chooses in it.
        further.click(None, inputs=[attributes], outputs=[], _js="debiasCalibrate")

        def chosen(name):
            """The host puts a choice that the user saved as the page's default in the dropdown's place."""
            about.value, header.value = _about(name), _header(name)
            attributes.visible = further.visible = name == BALANCE

        profile.init_field = chosen
        controls = [enabled, profile, strength, direction, start, end, hires, others, attributes]
        self.infotext_fields = [(control, lambda parameters, name=name: pasted(name, parameters))
                                for control, name in zip(controls, Arguments.__dataclass_fields__)]
        return controls

    def before_process(self, p, *args):
        """Where any seed will do (-1), takes one with which a batch of eight at 50:50 is four and four."""
        if args and args[0]:
            for name in ("seed", "subseed"):
                if getattr(p, name, None) in (-1, "-1", "", None):
                    setattr(p, name, TOGETHER * random.randrange(2**32 // TOGETHER))

    def process(self, p, *args):
        first = self.outer.begins(p)
        begun = None if first else self.outer.picture(STATE)
        Run.clear(p)
        calibration = getattr(p, CALIBRATION, None)
        try:
            if calibration is not None:
                Run(p, calibration)
                return
            arguments = Arguments.read(args, getattr(p, OVERRIDES, None))
            if not arguments.enabled:
                return
            loaded = profiles.chosen(arguments)
            check_encoder(loaded, family(shared.sd_model) or "")
            negative = plain(p.negative_prompt if isinstance(p.negative_prompt, str) else "")
            prompt, seed = begun or ("", seed_of_whole(p, told_apart(p, p.all_seeds, "all_subseeds")[0]))
            run = Run(p, from_profile(loaded, arguments, negative, prompt), seed=seed)
            if first and unlisted(p, shared.opts):
                run.say(p, UNLISTED)
            if loaded.edited:
                run.say(p, f"the profile '{arguments.profile}' was edited since it was saved")
        except Exception as error:
            Run(p, error=profiles.said(error))
            if not isinstance(error, DebiasError):
                raise  # the host logs it

    def process_before_every_sampling(self, p, *args, c=None, **kwargs):
        run = getattr(p, STATE, None)
        if run is None:
            return
        state = run.begin(p, c)
        if state is not None and host_a1111.is_forge(p) and (state.may_be_longer or not state.shifts):
            host_forge.attach(state, p)

    def postprocess_batch(self, p, *args, **kwargs):
        run = getattr(p, STATE, None)
        if run is not None:
            run.end(p)


def _shown(name: str):
    """What the accordion says and shows once a profile is chosen."""
    balances = gr.update(visible=name == BALANCE)
    return _about(name), balances, _header(name), balances


def _header(name: str) -> str:
    return f"<span>{html.escape(name or NONE)}</span>"


def _about(name: str) -> str:
    if name == BALANCE:
        return ("Each image gets a group by its seed. A prompt that names a group is left alone. Calibrate to change "
                "fewer images, and to know the shares.")
    if not name or name == NONE:
        return ""
    try:
        return literal_lines(profiles.described(profiles.load(name)))
    except DebiasError as error:
        return literal(str(error))
