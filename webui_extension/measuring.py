"""Units of a sweep on another machine, measured with this host's model and judges."""
from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch import Tensor

from ..core.attribute import Attribute
from ..core.errors import DebiasError, quoted
from ..core.files import contents
from ..core.method.methods import Method
from ..core.sweep.unit import Worker, facts
from ..core.sweep.wire import answered, read
from .calibrating import Result
from .classifiers import Named
from .workbench import Interrupted, Workbench

DEMO = "demo"
_last: list = [None, {}]  # what names the judges of the last unit, and their models


class Measured(Workbench):
    """A unit with a skipped picture is not measured: somebody else does it."""

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> list:
        pictures = super().render(prompt, seeds, weights, attributes, method)
        if self.skipped:
            raise Interrupted
        return pictures


def checkpoint(name: str) -> str | None:
    """A checkpoint as the host's settings name it, the same on every server; None for the one that is chosen there.
    Raises DebiasError."""
    from modules import sd_models
    if not name:
        return None
    found = sd_models.get_closet_checkpoint_match(name)
    own = getattr(found, "name_for_extra", None)
    if own is None or name not in (own, *getattr(found, "ids", ())):  # the host would take what is like it
        raise DebiasError("This server has no checkpoint of the demo model. Make one: sd-debias export --for a1111 "
                          "--out models/Stable-diffusion." if name == DEMO else
                          f"This server has no checkpoint {quoted(name)}. Name one as its list does.")
    return own


def measure(p, classifier: Named | str | None, asked: object, say: Callable[[str], None] = lambda text: None,
            cancelled: Callable[[], bool] = lambda: False) -> Result:
    """What `core.sweep.wire.answered` gives for a unit or, without one, of this host, as the only entry of the
    result's summary. Raises DebiasError."""
    recipe, unit = read(asked)
    bench = Measured(p, classifier, False, say, cancelled, tell=contents)
    if _last[0] != bench.judge:
        _last[:] = bench.judge, {}
    bench.models = _last[1]
    worker = Worker(bench, recipe)
    say("A sweep asks for facts about this model" if unit is None else
        f"A sweep asks for {unit.seeds[1]} pictures of {quoted(unit.prompt)} ({unit.kind})")
    try:
        if unit is None:  # one picture: the host loads its checkpoint, and knows its setting, only as it generates
            attributes = recipe.variants[0]
            nothing = torch.zeros(1, sum(len(a.groups) for a in attributes))
            bench.render("a photo of a person", [0], nothing, attributes, recipe.method)
            worker.facts = facts(bench, recipe)
        return Result("Measured.", [], [answered(worker, unit)])
    except Interrupted:
        return Result("Interrupted.", [], [], complete=False)
