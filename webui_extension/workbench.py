"""Makes the images of a calibration with what the page says: the host of calibrations in a web UI."""
from __future__ import annotations

import copy
import math
import warnings
import weakref
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.attribute import Attribute
from ..core.calibration.plan import seeds_of
from ..core.study.host import Host
from ..core.study.progress import Progress
from ..core.study.unfinished import PARAMETERS
from ..core.errors import DebiasError, out_of_memory, quoted
from ..core.judge import name_of
from ..core.method.draw import check_steered
from ..core.method.methods import Method
from . import classifiers, profiles
from .guide import RoundGuidance, plain
from .page_facts import host_facts, page_facts
from .run import STATE, setting_of
from .sampling import of_frames
from .script import CALIBRATION


class Interrupted(Exception):
    """The user pressed Interrupt."""


class Workbench(Host):
    """The page's settings, as a processing object, and the judges that are named."""
    interruption = Interrupted
    again = "start it again with the same settings"
    anew = "choose to overwrite the profile"

    def __init__(self, p, classifier: classifiers.Named | str | None, hires: bool = False, judges: bool = True,
                 prompts: Sequence[str] = ()):
        from modules import processing
        if p.seed in (-1, None, ""):
            # A random seed could not be continued: nobody would know it.
            p.seed = seeds_of(p.prompt if isinstance(p.prompt, str) else p.prompt[0])
        processing.fix_seed(p)
        self.p, self.prompts = p, list(prompts)
        self.hires = hires and bool(getattr(p, "enable_hr", False))
        self.named = classifiers.Named.of(classifier)
        text = self.named.text
        self.by_name = bool(getattr(p, "is_api", False))
        self.judge = [text or classifiers.default(), classifiers.fingerprints(text, self.by_name),
                      self.named.look, self.named.detector] if judges else None
        self.judged: dict[tuple, tuple] = {}  # loaded once all else is known to be in order
        self.models: dict = {}
        self.setting = setting_of(p)
        self.skipped, self.chosen = False, host_facts(p)  # what was chosen
        self.model: list = []  # what generated

    def judges(self, attributes: Sequence[Attribute]):
        key = tuple(attributes)
        if key not in self.judged:
            found, fidelity = classifiers.load(self.named, key, self.by_name, self.models)
            # Held by this bench, they do not hold it: with it, their models go at once, and not when Python next looks
            # for what holds itself.
            bench = weakref.proxy(self)
            self.judged[key] = [_unless_skipped(bench, classify, a) for classify, a in zip(found, key)], \
                fidelity and (lambda images, prompt: [] if bench.skipped else fidelity(images, prompt))
        return self.judged[key]

    def fingerprint(self) -> object:
        return [self.judge, *page_facts(self.p, self.hires, self.prompts)]

    def known(self, prompt: str) -> str:
        """As the accordion will meet it: with the page's styles, without extra networks."""
        from modules import shared
        styles = getattr(self.p, "styles", None)
        return plain(shared.prompt_styles.apply_styles_to_prompt(prompt, styles) if styles else prompt)

    def place(self, path: Path) -> str:
        return profiles.place(path)

    def say(self, progress: Progress) -> None:
        from modules import shared
        if progress.current is None and progress.calibration.rounds == []:
            shared.state.job_count = math.ceil(progress.about / self.p.batch_size)
        shared.state.textinfo = "; ".join(filter(None, [self.note, progress.line]))  # above the progress bar

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> list[Image.Image]:
        """Raises Interrupted; DebiasError for guidance that failed or did nothing, and for a model that was changed."""
        from modules import processing, shared
        self._check_interrupted()
        if of_frames() and len(seeds) > 1:
            raise DebiasError(f"This model makes one video per batch, so {len(seeds)} images at once cannot be "
                              "counted. Set the batch size to 1.")
        one = copy.copy(self.p)
        one.prompt, one.seed, one.batch_size, one.n_iter = prompt, [int(seed) for seed in seeds], len(seeds), 1
        one.subseed_strength = 0.0
        one.extra_generation_params = dict(self.p.extra_generation_params)
        one.override_settings = dict(self.p.override_settings)  # hosts take out what they do not know
        one.do_not_save_samples = one.do_not_save_grid = True
        if hasattr(one, "enable_hr"):
            one.enable_hr = self.hires
        table = dict(zip(one.seed, weights, strict=True))
        setattr(one, CALIBRATION, RoundGuidance(tuple(attributes), method, table, self.hires))
        done = processing.process_images(one)
        self.setting = setting_of(one)  # the host loads a model that the page overrides only as it generates
        self._check_interrupted()
        self._check_model()
        self.skipped = shared.state.skipped
        run = getattr(one, STATE, None)
        if run is None:
            raise DebiasError("The accordion 'Debias' did not run, so nothing can be calibrated. Is the script "
                              "switched off, or are always-on scripts disabled?")
        failed = [current for passes in run.passes.values() for current, _ in passes.values() if current.error]
        if failed and out_of_memory(failed[0].cause):
            raise failed[0].cause
        if failed or run.error:
            raise DebiasError(run.error or failed[0].error)
        if not self.skipped:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # skipped steps are said in infotexts
                acted = any(current.info(image)["acted"] for passes in run.passes.values()
                            for current, image in passes.values())
            check_steered(weights, acted)
        pictures, texts = (found[done.index_of_first_image:] for found in (done.images, done.infotexts))
        for picture, text in zip(pictures, texts):
            picture.info.setdefault(PARAMETERS, text)
        return pictures[::max(len(pictures) // len(seeds), 1)][:len(seeds)]  # inpainting adds masks behind each

    def _check_model(self) -> None:
        """Raises DebiasError where the last images were made with another model or settings than those before."""
        def changed(name: str, before: object, now: object) -> DebiasError:
            return DebiasError(f"{name} changed from {quoted(str(before))} to {quoted(str(now))} while images were "
                               f"measured. The last ones are not counted, the others are kept: set it back, and "
                               f"{self.again}, to continue.")

        now = host_facts(self.p)
        for name, before in self.chosen.items():
            if now.get(name) != before:
                raise changed(name, before, now.get(name))
        model = [self.setting[name] for name in ("model", "model_hash", "text_encoder")]
        self.model = self.model or model
        if model != self.model:
            raise changed("The model", self.model[:2], model[:2])

    def _check_interrupted(self) -> None:
        from modules import shared
        if shared.state.interrupted or getattr(shared.state, "stopping_generation", False):
            raise Interrupted


def _unless_skipped(bench, classify: Callable, attribute: Attribute) -> Callable:
    """An unfinished image says nothing."""
    def judged(images: Sequence) -> np.ndarray:
        return np.zeros((len(images), len(attribute.groups)), np.float32) if bench.skipped else classify(images)
    vars(judged).update(name=name_of(classify), **{
        own: getattr(classify, own) for own in ("faces", "people", "boxes") if hasattr(classify, own)})
    return judged
