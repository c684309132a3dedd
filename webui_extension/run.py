"""What one click of Generate does: its passes, and what the infotext says of every image.

The state hangs on the processing object, never on a global, and is made anew for every call of process_images.
"""
from __future__ import annotations

import inspect
import warnings

from ..core.profile.lookup import FAMILIES
from .guide import plain
from .sampling import Pass, of_frames

STATE, CURRENT = "sd_debias_run", "sd_debias_pass"
# Every key that an infotext may get. They are answered when an image's infotext is written, after its sampling.
KEYS = ("Debias", "Debias failed", "Debias profile", "Debias hash", "Debias weights", "Debias strength",
        "Debias attributes", "Debias direction", "Debias start", "Debias end", "Debias hires", "Debias others",
        "Debias prompt", "Debias sent to", "Debias skipped", "Debias without negative", "Debias setting",
        "Debias calibration")


class Run:
    """guide is None, or no longer used, where `error` says why nothing can be guided. seed: of the image that is
    drawn anew, which decides its groups; None: the pass's own."""

    def __init__(self, p, guide=None, error: str | None = None, seed: int | None = None):
        self.guide, self.error, self.seed = guide, error, seed
        self.passes: dict[int, dict[bool, tuple[Pass, int]]] = {}  # by place of the image, then hires or not
        self.said: set[str] = set()
        self.sampled = 0  # images whose every pass is over
        self._told: dict[int, dict[str, str]] = {}  # their metadata: a GPU waits for it, and hosts ask for every key
        setattr(p, STATE, self)
        setattr(p, CURRENT, None)
        for key in KEYS:
            p.extra_generation_params[key] = self._answer(key)
        if error:
            self.fail(p, error)

    def fail(self, p, error: str) -> None:
        """Nothing is guided from now on."""
        self.error = error
        p.comment(f"Debias failed: {error}")

    @staticmethod
    def clear(p) -> None:
        """No guidance on this processing object, nor on what it was copied from."""
        setattr(p, STATE, None)
        setattr(p, CURRENT, None)
        for key in KEYS:
            p.extra_generation_params.pop(key, None)

    def begin(self, p, conditioning) -> Pass | None:
        """The pass that starts now, prepared; None where it is not to be guided."""
        setattr(p, CURRENT, None)
        hires = bool(getattr(p, "is_hr_pass", False))
        if self.guide is None or self.error or (hires and not self.guide.hires):
            return None
        count = 1 if of_frames() else len(p.seeds)
        prompts = list(p.hr_prompts if hires else p.prompts)[:count]
        known = [plain(prompt) for prompt in prompts]
        size = (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)
        second = hires or bool(getattr(p, "init_images", None))  # it covers the end of the schedule alone
        first = 1 - min(getattr(p, "denoising_strength", None) or 0.0, 0.999) if second else 0.0
        seeds = told_apart(p, p.seeds, "subseeds") if self.seed is None else [self.seed] * count
        current = Pass(p, self.guide, known, seeds[:count], size, first)
        first = p.iteration * p.batch_size
        for image in range(len(p.seeds)):
            # Forge announces a hires pass twice; the later state is the one that samples.
            self.passes.setdefault(first + image, {})[hires] = (current, min(image, count - 1))
        try:
            for prompt in set(known):
                for text in self.guide.warnings(prompt):
                    self.say(p, text)
            from modules import shared
            current.prepare(conditioning, schedules(p, prompts, hires), shared.sd_model)
            setattr(p, CURRENT, current)
        except Exception as error:
            current.fail(error)
            return None
        return current if current.active else None

    def end(self, p) -> None:
        """The passes of a batch are over."""
        self.sampled = (p.iteration + 1) * p.batch_size

    def say(self, p, text: str) -> None:
        """A warning below the images, once."""
        if text not in self.said:
            self.said.add(text)
            p.comment(f"Debias: {text}")

    def metadata(self, p, place: int) -> dict[str, str]:
        """What is written about the image at a place of all images: what was done to it, or why nothing was."""
        if place >= self.sampled:
            return self._metadata(p, place)
        if place not in self._told:
            self._told[place] = self._metadata(p, place)
        return self._told[place]

    def _metadata(self, p, place: int) -> dict[str, str]:
        passes = list(self.passes.get(place, {}).values())
        if self.error and not passes:
            return {"Debias failed": self.error}
        failed = next((current.error for current, _ in passes if current.error), None)
        if failed:
            return {"Debias failed": failed}
        if not passes:
            return self._unguided(p, place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # skipped steps are written down below
            infos = [current.info(image) for current, image in passes]
        acted = any(info["acted"] for info in infos)
        reason = next((info["reason"] for info in infos if info.get("reason")), None)
        info = dict(acted=acted, reason=None if acted else reason,
                    **{name: sum(info.get(name, 0) for info in infos) for name in ("steps", "skipped")})
        current, image = passes[0]
        keys = self.guide.metadata(current.prompts[image], current.seeds[image], info)
        if acted:
            left = sum(one.without_uncond for one, _ in passes)
            if left:
                keys["Debias without negative"] = f"{left} steps left alone: the host skipped the negative prompt"
            differences = self.guide.differences(setting_of(p))
            if differences:
                keys["Debias setting"] = "; ".join(differences)
        return keys

    def of_grid(self, p) -> dict[str, str]:
        """What is written about the grid of all images: how many were steered, and what is the same for these."""
        found = [self.metadata(p, place) for place in range(max(min(self.sampled, len(p.all_seeds)), 1))]
        if failed := next((keys for keys in found if "Debias failed" in keys), None):
            return failed
        steered = [keys for keys in found if "Debias" not in keys] or found
        same = {key: value for key, value in steered[0].items() if all(keys.get(key) == value for keys in steered)}
        return same if len(steered) == len(found) else {
            "Debias": f"{len(steered)} of {len(found)} images steered", **same}

    def _unguided(self, p, place: int) -> dict[str, str]:
        """Of an image without a pass; nothing before its sampling, when hosts note down a first infotext."""
        if self.guide is None or place >= self.sampled:
            return {}
        info = dict(acted=False, reason="no pass of this image was to be guided")
        seeds = told_apart(p, p.all_seeds, "all_subseeds")
        return self.guide.metadata(plain(p.all_prompts[place]), seeds[place], info)

    def _answer(self, key: str):
        def answer(p, index, all_seeds, use_main_prompt=False, **_):
            run = getattr(p, STATE, None)
            if run is None:
                return None
            if use_main_prompt:
                return run.of_grid(p).get(key)
            # An image's own infotext counts within its batch, all others over the whole job.
            place = index + (p.iteration * p.batch_size if all_seeds is p.seeds else 0)
            return run.metadata(p, place).get(key)
        return answer


def told_apart(p, seeds, variations: str) -> list[int]:
    """The seeds by which images differ, and so their draws: with a variation strength (Extra), all have one main seed
    and variation seeds of their own."""
    own = getattr(p, variations, None)
    return list(own if own and getattr(p, "subseed_strength", 0) else seeds)


def setting_of(p) -> dict:
    """What a generation is made with, by the names of a profile's setting."""
    from modules import shared
    model = shared.sd_model
    checkpoint = getattr(model, "sd_checkpoint_info", None)
    # Forge's families of today: the guidance that the model is told, or its schedule's shift.
    told = getattr(model, "use_distilled_cfg_scale", False) or getattr(model, "use_shift", False)
    distilled = getattr(p, "distilled_cfg_scale", None) if told else None
    return dict(model=getattr(p, "sd_model_name", None) or getattr(checkpoint, "name_for_extra", None),
                model_hash=getattr(p, "sd_model_hash", None) or getattr(model, "sd_model_hash", None),
                text_encoder=family(model), sampler=p.sampler_name, scheduler=getattr(p, "scheduler", None),
                steps=p.steps, cfg=p.cfg_scale, width=p.width, height=p.height,
                negative_prompt=plain(p.negative_prompt if isinstance(p.negative_prompt, str) else ""),
                clip_skip=option(p, "CLIP_stop_at_last_layers"), vae=option(p, "sd_vae"),
                emphasis=option(p, "emphasis"), noise_source=option(p, "randn_source"), distilled_cfg=distilled)


def option(p, name: str):
    """One of the host's settings, as this generation overrides it; None where the host has none of that name."""
    from modules import shared
    return (getattr(p, "override_settings", None) or {}).get(name, getattr(shared.opts, name, None))


def family(model) -> str | None:
    """The model's family, which settles its text encoders."""
    return next((name for name in FAMILIES if getattr(model, f"is_{name}", False)), None)


def schedules(p, prompts: list[str], hires: bool) -> list[list[list[tuple[int, str]]]]:
    """For every prompt and each of its AND parts, [(last step, text)] as the host schedules prompt editing."""
    from modules import prompt_parser, sd_samplers, shared
    places, texts, _ = prompt_parser.get_multicond_prompt_list(prompt_parser.SdConditioning(prompts))
    steps, hires_steps = getattr(p, "firstpass_steps", None) or p.steps, None
    if hires:
        config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
        hires_steps = p.hr_second_pass_steps or p.steps
        hires_steps = config.total_steps(hires_steps) if config else hires_steps
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules
    given = texts, steps, hires_steps, getattr(shared.opts, "use_old_scheduling", False)
    scheduled = schedule(*given[:len(inspect.signature(schedule).parameters)])  # Forge Neo has one timeline only
    return [[[(int(end), text) for end, text in scheduled[at]] for at, _ in parts] for parts in places]
