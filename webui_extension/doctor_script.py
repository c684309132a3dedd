"""Script "Debias: doctor": does guidance do on this model what it must?"""
from __future__ import annotations

import gradio as gr
from modules import scripts, shared
from modules.processing import Processed

from ..core.doctor import PROMPT, examine
from ..core.method.methods import DIRECTIONS, named
from .workbench import Workbench


class DebiasDoctor(scripts.Script):
    def title(self):
        return "Debias: doctor"

    def show(self, is_img2img):
        return not is_img2img

    def ui(self, is_img2img):
        gr.Markdown("Tries guidance on this model with a dozen pictures of two seeds and the page's settings, and says "
                    "below whether it does what it must. Put that text into a bug report.")
        prompt = gr.Textbox(label="Prompt that is tried", value=PROMPT, elem_id=self.elem_id("prompt"))
        direction = gr.Dropdown(list(DIRECTIONS), value=DIRECTIONS[0], label="Direction",
                                elem_id=self.elem_id("direction"))
        return [prompt, direction]

    def run(self, p, prompt, direction):
        shared.state.textinfo = "Debias: trying guidance with a dozen pictures"
        direction = direction if direction in DIRECTIONS else DIRECTIONS[0]
        bench = Workbench(p, None, judges=False)
        found = examine(bench, facts(p), named("default", direction=direction), prompt or PROMPT)
        print(f"sd-debias: {found.text}")
        return Processed(p, [], p.seed if isinstance(p.seed, int) else -1, found.text, infotexts=[found.text])


def facts(p) -> list[str]:
    """The host's and the model's classes, in words."""
    model = shared.sd_model
    return [f"{type(model).__name__}, {type(p.sd_model).__module__}, "
            f"{getattr(getattr(model, 'sd_checkpoint_info', None), 'name_for_extra', 'unknown checkpoint')}"]
