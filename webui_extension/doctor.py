"""Does guidance do on this model what it must?"""
from __future__ import annotations

from ..core.doctor import PROMPT, examine
from ..core.method.methods import DIRECTIONS, named
from .console import tell
from .sampling import of_frames
from .workbench import Interrupted, Workbench


def processed(p, form):
    """What the doctor found, as the host's own result without images; the first direction for one not known."""
    from modules import shared
    from modules.processing import Processed
    shared.state.textinfo = "Debias: testing guidance with a dozen images"
    direction = form.direction if form.direction in DIRECTIONS else DIRECTIONS[0]
    bench = Bench(p, None, judges=False)
    try:
        text = examine(bench, facts(p), named("default", direction=direction), next(iter(form.prompts), PROMPT)).text
    except Interrupted:
        text = "Interrupted before there was a result."
    tell(text)
    return Processed(p, [], p.seed if isinstance(p.seed, int) else -1, text, infotexts=[text])


class Bench(Workbench):
    """One image at a time where a batch is a video. An image that was skipped is unfinished, so that ends it."""

    def render(self, prompt, seeds, weights, attributes, method):
        each = 1 if of_frames() else len(seeds)
        made = []
        for at in range(0, len(seeds), each):
            made += super().render(prompt, seeds[at:at + each], weights[at:at + each], attributes, method)[:each]
            if self.skipped:
                raise Interrupted
        return made


def facts(p) -> list[str]:
    """The host's and the model's classes, in words."""
    from modules import shared
    model = shared.sd_model
    return [f"{type(model).__name__}, {type(p.sd_model).__module__}, "
            f"{getattr(getattr(model, 'sd_checkpoint_info', None), 'name_for_extra', 'unknown checkpoint')}"]
