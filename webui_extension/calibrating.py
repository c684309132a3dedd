"""Audits and calibrations with what the page says: the host generates, core classifies and solves."""
from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
from PIL import Image

from ..core.attribute import Attribute
from ..core.calibration.loop import Calibration, round_names
from ..core.calibration.plan import Plan
from ..core.report.chart import chart_kl, chart_shares, contact_sheet
from ..core.errors import DebiasError, quoted
from ..core.files import exclusive, fingerprint, safe_name, writing
from ..core.method.methods import METHODS, Method
from ..core.profile.file import SUFFIX, Profile
from ..core.method.draw import check_steered, rows
from . import classifiers, profiles
from .guide import Guide, plain
from .run import STATE, option, setting_of
from .script import CALIBRATION

SHEET = 16  # pictures of a before/after sheet
# What decides pictures, and is in no profile's setting: of every page, of a hires pass, of img2img.
PAGE = ("negative_prompt", "styles", "tiling", "restore_faces", "refiner_checkpoint", "refiner_switch_at")
HIRES = ("hr_scale", "hr_resize_x", "hr_resize_y", "hr_upscaler", "hr_second_pass_steps", "hr_checkpoint_name",
         "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_cfg", "denoising_strength",
         "firstpass_image")
IMG2IMG = ("init_images", "denoising_strength", "resize_mode", "image_mask", "mask_blur_x", "mask_blur_y", "mask_round",
           "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert",
           "image_cfg_scale", "initial_noise_multiplier")


class Interrupted(Exception):
    """The user pressed Interrupt."""


@dataclass
class Result:
    """What a script shows: pictures, sheets and charts first; text; the profile and its file, where one was made."""
    text: str
    images: list[Image.Image]
    summary: list[dict]
    profile: Profile | None = None
    path: Path | None = None
    seeds: list[int] = field(default_factory=list)
    complete: bool = True  # False where it was interrupted


class Bench:
    """The page's settings as a generator of pictures, with the classifiers that judge them."""

    def __init__(self, p, attributes: Sequence[Attribute], method: Method, classifier: str | None, hires: bool = False,
                 say: Callable[[str], None] = lambda text: None, cancelled: Callable[[], bool] = lambda: False):
        self.p, self.attributes, self.method, self.say, self.cancelled = p, tuple(attributes), method, say, cancelled
        self.hires = hires and bool(getattr(p, "enable_hr", False))
        self.judge = [classifier or classifiers.default(), classifiers.fingerprints(classifier)]
        self.classifiers: list = []  # loaded by `advance`, once all else is known to be in order
        self.fidelity = None
        self.setting = setting_of(p)
        self.kept: dict[tuple[str, str], list[Image.Image]] = {}  # first pictures by prompt and kind of round
        self.skipped = False

    def generate(self, prompt: str, seeds: Sequence[int], weights=None) -> list[Image.Image]:
        """One picture a seed; weights [B, n], or None for none. Raises Interrupted; DebiasError for guidance that
        failed or did nothing."""
        from modules import processing, shared
        self._check_interrupted()
        one = copy.copy(self.p)
        one.prompt, one.seed, one.batch_size, one.n_iter = prompt, [int(seed) for seed in seeds], len(seeds), 1
        one.subseed_strength = 0.0
        one.extra_generation_params = dict(self.p.extra_generation_params)
        one.do_not_save_samples = one.do_not_save_grid = True
        if hasattr(one, "enable_hr"):
            one.enable_hr = self.hires
        table = {} if weights is None else dict(zip(one.seed, weights, strict=True))
        setattr(one, CALIBRATION, Guide(self.attributes, self.method, table, self.hires))
        done = processing.process_images(one)
        self.setting = setting_of(one)  # the host loads a model that the page overrides only as it generates
        self._check_interrupted()
        self.skipped = shared.state.skipped
        run = getattr(one, STATE, None)
        if run is None:
            raise DebiasError("The accordion 'Debias' did not run, so nothing can be calibrated. Is the script "
                              "switched off, or are always-on scripts disabled?")
        errors = [current.error for passes in run.passes.values() for current, _ in passes.values() if current.error]
        if errors or run.error:
            raise DebiasError(run.error or errors[0])
        if weights is not None and not self.skipped:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # skipped steps are said in infotexts
                acted = any(current.info(image)["acted"] for passes in run.passes.values()
                            for current, image in passes.values())
            check_steered(weights, acted)
        pictures = done.images[done.index_of_first_image:]
        return pictures[::max(len(pictures) // len(seeds), 1)][:len(seeds)]  # inpainting adds masks behind each

    def _check_interrupted(self) -> None:
        from modules import shared
        if shared.state.interrupted or getattr(shared.state, "stopping_generation", False) or self.cancelled():
            raise Interrupted

    def advance(self, calibration: Calibration, prompt: str, save_to: Path | None = None) -> bool:
        """Run a calibration as far as it goes; False where it was interrupted."""
        if not self.classifiers:
            by_name = bool(getattr(self.p, "is_api", False))
            self.classifiers, self.fidelity = classifiers.load(self.judge[0], self.attributes, by_name)

        def generate(weights, seeds):
            images = self.generate(prompt, seeds, weights)
            kind = calibration.rounds[-1].kind
            kept = self.kept.setdefault((calibration.prompt, kind), [])
            kept += images[:max(SHEET - len(kept), 0)]
            return images

        def classify(images):
            if self.skipped:  # an unfinished picture says nothing
                return [np.zeros((len(images), len(a.groups)), np.float32) for a in self.attributes]
            return [classifier(images) for classifier in self.classifiers]

        def faithful(images):
            return [] if self.skipped else self.fidelity(images, calibration.prompt)

        try:
            for current in calibration.run(generate, classify, self.fidelity and faithful, save_to):
                self.say(_progress(calibration, current))
        except Interrupted:
            return False
        return True


def audit(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: str | None, count: int,
          confidence: float = 0.0, hires: bool = False, say=lambda text: None, cancelled=lambda: False) -> Result:
    """Shares of the pictures that the page makes; nothing is changed. Raises DebiasError."""
    _start(p)
    plan = Plan(count, rounds=0, held_out=0, batch_size=p.batch_size, seed=p.seed, confidence=confidence)
    bench = Bench(p, attributes, METHODS["default"], classifier, hires, say, cancelled)
    _jobs(plan, len(prompts), 0)
    lines, images, summary, complete = [], [], [], True
    for prompt in prompts:
        calibration = Calibration(_known(p, prompt), attributes, METHODS["default"], plan)
        complete = bench.advance(calibration, prompt)
        if not calibration.rounds or not calibration.audit.done:
            break
        lines += _lines(calibration)
        if calibration.audit.broken:
            lines.append(f"Warning: {calibration.audit.broken}; they show nobody and are counted as unsure.")
        if not complete:
            lines.append(f"Interrupted after {calibration.audit.done} of {count} images.")
        summary.append(_summary(calibration))
        images += [contact_sheet(kept) for kept in bench.kept.values()]
        bench.kept.clear()
        images += [chart_shares(a.names, calibration.audit.distribution(i, a.target), None, calibration.prompt)
                   for i, a in enumerate(attributes)]
        if not complete:
            break
    return Result("\n".join(lines) or "Interrupted before a picture was measured.", images, summary, complete=complete)


def calibrate(p, prompts: Sequence[str], attributes: Sequence[Attribute], classifier: str | None, method: Method,
              name: str, plan: dict, overwrite: bool = False, hires: bool = False, say=lambda text: None,
              cancelled=lambda: False) -> Result:
    """Calibrate every prompt by itself, verify, and save one profile. Raises DebiasError.

    plan: images, rounds, held_out, tolerance, confidence of a `Plan`. Interrupted, the best round so far is kept as
    "<name> (unfinished)", and a profile of that name stays as it was; the same settings with the same seed continue.
    """
    _start(p)
    prompts = list(prompts)
    if len({_known(p, prompt).casefold() for prompt in prompts}) < len(prompts):
        raise DebiasError("A prompt came twice. Give each one once.")
    plan = Plan(**plan, batch_size=p.batch_size, seed=p.seed)
    target = profiles.save_folder() / (safe_name(name) + SUFFIX)
    safe_name(unfinished(name))  # said now rather than at Interrupt
    with ExitStack() as held:
        with writing("Profiles", profiles.place(target.parent)):
            held.enter_context(exclusive(target))
        bench = Bench(p, attributes, method, classifier, hires, say, cancelled)
        states = [_state_file(bench, prompt, plan) for prompt in prompts]
        if target.exists() and not overwrite:
            return _ended_before(target, states)
        return _calibrate(bench, prompts, states, name, plan)


def _ended_before(target: Path, states: Sequence[Path]) -> Result:
    """What is left of a calibration that was ended after its profile was saved: its states are removed. Raises
    DebiasError where the profile is another one."""
    begun = [_loaded(state) for state in states if state.exists()]
    profile = profiles.load(target.stem) if begun else None
    if not begun or not all(c.finished for c in begun) or not profile.holds(begun):
        raise DebiasError(f"There is a profile {quoted(target.stem)} already. Choose another name, or tick "
                          "'Overwrite'.")
    for state in states:
        state.unlink(missing_ok=True)
    lines = [*(line for c in begun for line in _lines(c)), f"Profile '{profile.name}': {profiles.place(target)}",
             "This calibration was complete already; nothing was measured again."]
    return Result("\n".join(lines), [], [_summary(c) for c in begun], profile, target)


def _loaded(state: Path) -> Calibration:
    with profiles.called(state, profiles.place(state)):
        return Calibration.load(state)


def _calibrate(bench: Bench, prompts: list[str], states: Sequence[Path], name: str, plan: Plan) -> Result:
    complete, calibrations = True, []
    _jobs(plan, len(prompts), 2 * SHEET)
    for prompt, state in zip(prompts, states, strict=True):
        calibration = _loaded(state) if state.exists() else \
            Calibration(_known(bench.p, prompt), bench.attributes, bench.method, plan)
        complete = bench.advance(calibration, prompt, state)
        if calibration.rounds and calibration.audit.complete:
            calibrations.append(calibration)
        if not complete:
            break
    if not calibrations:
        return Result("Interrupted before the audit was complete, so there is no profile. The same settings and seed "
                      "continue.", [contact_sheet(kept) for kept in bench.kept.values()], [], complete=False)
    before, after, seeds = {}, {}, {}
    for calibration, prompt in zip(calibrations, prompts):  # an interrupted one may have fewer
        shown = list((calibration.held_out or calibration.audit).seeds[:SHEET])
        try:
            seeds[calibration.prompt] = shown
            before[calibration.prompt] = _batches(bench, prompt, shown)
            after[calibration.prompt] = _batches(bench, prompt, shown, rows(calibration.steerings, shown))
        except Interrupted:
            before.pop(calibration.prompt, None)
            complete = False
            break
    images = [contact_sheet([*before[each], *after[each]], columns=min(SHEET, 8)) for each in after]
    for calibration in calibrations:
        for i, a in enumerate(bench.attributes):
            first, last = calibration.audit.distribution(i, a.target), calibration.held_out
            images.append(chart_shares(a.names, first, last and last.distribution(i, a.target), calibration.prompt))
            rounds = [(title, r.distribution(i, a.target)) for title, r in
                      zip(round_names([r.kind for r in calibration.rounds]), calibration.rounds, strict=True)
                      if r.complete]
            images.append(chart_kl(rounds, calibration.prompt))
    lines = [line for calibration in calibrations for line in _lines(calibration)]
    profile = Profile.from_calibrations(name if complete else unfinished(name), calibrations, bench.setting,
                                        classifiers.names(bench.classifiers))
    folder = profiles.save_folder()
    last = "Interrupted: the best round so far is kept; the same settings and seed continue."
    if complete:
        from ..core.report.page import write_report
        with writing("The report", profiles.place(folder / "reports" / name)):
            page = write_report(folder / "reports" / name, profile, before, after, seeds)
        last = f"Report: {profiles.place(page)}"
    path = profiles.store(profile, overwrite=True)
    for left in (*states, folder / (unfinished(name) + SUFFIX)) if complete else ():
        left.unlink(missing_ok=True)
    lines += [f"Profile '{profile.name}': {profiles.place(path)}", last]
    pictures = [image for each in after.values() for image in each]
    return Result("\n".join(lines), [*images, *pictures], [_summary(c) for c in calibrations], profile, path,
                  [seed for each in after for seed in seeds[each]], complete)


# --- parts ---

def prompts_of(p, listed: str | None) -> list[str]:
    """Prompts of a text box, one a line, else the page's own."""
    lines = [line.strip() for line in (listed or "").splitlines() if line.strip()]
    return lines or [p.prompt if isinstance(p.prompt, str) else p.prompt[0]]


def _start(p) -> None:
    from modules import processing
    processing.fix_seed(p)


def unfinished(name: str) -> str:
    """What an interrupted calibration's profile is called, so that it never takes a verified one's place."""
    return f"{name} (unfinished)"


def _styled(p, prompt: str) -> str:
    """A prompt with the page's styles."""
    from modules import shared
    styles = getattr(p, "styles", None)
    return shared.prompt_styles.apply_styles_to_prompt(prompt, styles) if styles else prompt


def _known(p, prompt: str) -> str:
    """A prompt as the accordion will meet it: with the page's styles, without extra networks."""
    return plain(_styled(p, prompt))


def _batches(bench: Bench, prompt: str, seeds: list[int], weights=None) -> list[Image.Image]:
    size, images = bench.p.batch_size, []
    for at in range(0, len(seeds), size):
        images += bench.generate(prompt, seeds[at:at + size], None if weights is None else weights[at:at + size])
    return images


def _state_file(bench: Bench, prompt: str, plan: Plan) -> Path:
    """Where an unfinished calibration is kept: a name of its own for all of the page that decides pictures and labels.

    The prompt counts with its extra networks: pictures of <lora:x:0.2> say nothing of <lora:x:0.8>.
    """
    facts = [_styled(bench.p, prompt), [a.to_dict() for a in bench.attributes], bench.method.to_dict(), asdict(plan),
             bench.judge, _chosen(bench.p), *_page(bench)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return profiles.save_folder() / "unfinished" / f"{digest[:16]}.json"


def _chosen(p) -> dict:
    """The setting with the checkpoint that is chosen: the one in memory may be another until the host generates."""
    from modules import shared
    setting = setting_of(p)
    checkpoint = p.override_settings.get("sd_model_checkpoint") or getattr(shared.opts, "sd_model_checkpoint", None)
    return {**setting, "model": checkpoint, "model_hash": None, "text_encoder": None} if checkpoint else setting


def _page(bench: Bench) -> list:
    """What else of the page decides pictures, as plain values: its own fields, the host's settings that infotexts name,
    the files of checkpoint and VAE, and other extensions' arguments, such as ControlNet's."""
    p = bench.p
    names = (*PAGE, *(HIRES if bench.hires else ()), *(IMG2IMG if getattr(p, "init_images", None) else ()))
    return [sorted(map(str, p.override_settings.items())), [(name, _value(getattr(p, name, None))) for name in names],
            _options(p), _files(p), _other_scripts(p)]


def _options(p) -> list:
    """The host's settings that decide pictures: those that its infotexts name."""
    from modules import shared
    labels = getattr(shared.opts, "data_labels", {})
    return sorted((name, str(option(p, name))) for name, known in labels.items() if getattr(known, "infotext", None))


def _files(p) -> list:
    """What tells the checkpoint and VAE from others put in their place."""
    from modules import sd_models
    checkpoint, vae = option(p, "sd_model_checkpoint"), option(p, "sd_vae")
    match = getattr(sd_models, "get_closet_checkpoint_match", lambda name: None)(checkpoint) if checkpoint else None
    known = getattr(sys.modules.get("modules.sd_vae"), "vae_dict", {})
    return [fingerprint(getattr(match, "filename", None)), fingerprint(known.get(vae))]


def _other_scripts(p) -> list:
    """Arguments of the always-on scripts of other extensions; what the host's own ones set is on the page."""
    from modules import scripts
    runner, given, own = getattr(p, "scripts", None), getattr(p, "script_args", None) or (), getattr(
        scripts, "ScriptBuiltinUI", ())
    return [[script.title(), _value(list(given[script.args_from or 0:script.args_to or 0]))]
            for script in getattr(runner, "alwayson_scripts", ())
            if script.title() != "Debias" and not isinstance(script, own or ())]


def _value(value, depth: int = 6):
    """A field of the page as plain values; of a picture, its size and a digest of its pixels."""
    if isinstance(value, Image.Image):
        return [value.size, hashlib.sha256(value.convert("RGBA").tobytes()).hexdigest()]
    if isinstance(value, np.ndarray):
        return [value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, (list, tuple)) and depth:
        return [_value(one, depth - 1) for one in value]
    if isinstance(value, dict) and depth:
        return sorted((str(key), _value(one, depth - 1)) for key, one in value.items())
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    # Of any other object, such as ControlNet's unit, what it holds: its text would name a place in memory.
    return [type(value).__name__, _value(getattr(value, "__dict__", {}), depth - 1) if depth else None]


def _jobs(plan: Plan, prompts: int, more: int) -> None:
    from modules import shared
    shared.state.job_count = prompts * sum(math.ceil(images / plan.batch_size) for images in (
        *(plan.images,) * (plan.rounds + 1), plan.held_out, more))


def _progress(calibration: Calibration, current) -> str:
    name = round_names([r.kind for r in calibration.rounds])[-1]
    shares = []
    for i, a in enumerate(calibration.attributes):
        try:
            found = current.distribution(i, a.target).shares
        except DebiasError:
            continue  # every picture so far was left out as unsure
        shares.append(" / ".join(f"{group} {share:.0%}" for group, share in zip(a.names, found)))
    return f"{name}, {current.done} of {len(current.seeds)} images: {'; '.join(shares)}"


def _lines(calibration: Calibration) -> list[str]:
    """Shares with 95 % intervals."""
    lines = [calibration.prompt]
    verified = calibration.held_out
    for i, attribute in enumerate(calibration.attributes):
        for name, one in (("before" if verified else "audit", calibration.audit), ("after, held-out seeds", verified)):
            if one is not None:
                lines.append(one.distribution(i, attribute.target).line(f"{attribute.name}, {name}", attribute.names))
    if calibration.plan.rounds:
        lines.append(calibration.stop or "stopped before its end")
        lines += [f"Warning: {warning}" for warning in calibration.warnings]
    return lines


def _summary(calibration: Calibration) -> dict:
    """The same as plain values, for the API."""
    held_out = calibration.held_out

    def measured(one):
        return None if one is None else {a.name: {**one.distribution(i, a.target).to_dict(), "groups": list(a.names)}
                                         for i, a in enumerate(calibration.attributes)}
    return dict(prompt=calibration.prompt, before=measured(calibration.audit), after=measured(held_out),
                stop=calibration.stop, warnings=calibration.warnings if calibration.plan.rounds else [])
