"""Audits and calibrations of a diffusers pipeline that a program holds already: `sd_debias.audit`, `.calibrate`."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from ..core.attribute import Attribute, parse
from ..core.calibration.plan import FIELDS, Plan, planned
from ..core.calibration.standing import of_shares
from ..core.errors import DebiasError, short
from ..core.judge.named import Judges, open_model
from ..core.method.methods import Method, named
from ..core.profile.file import Profile
from ..core.study import runner
from ..core.study.outcome import Outcome
from ..core.study.places import Places
from .bar import Bar
from .call import defaults
from .applied import disable
from .workbench import Workbench, demo, model_name

Judge: TypeAlias = str | Path | Callable | Mapping[str, Any] | Sequence[str]
Attributes: TypeAlias = Attribute | str | Sequence[Attribute | str]


@dataclass(frozen=True)
class Audit:
    """Whom a model shows for its prompts. In a notebook, its images with their labels.

    outcome  images, labels and texts of all prompts
    """
    outcome: Outcome

    @property
    def shares(self) -> dict:
        """{prompt: {attribute: {group: share}}}; of a single prompt {attribute: {group: share}}. Shares are 0 to 1."""
        return self._of(lambda shares, g: shares.shares[g])

    @property
    def intervals(self) -> dict:
        """As `shares`: the 95 % interval (low, high) of each."""
        return self._of(lambda shares, g: tuple(shares.intervals[g]))

    def _of(self, value: Callable) -> dict:
        found = {c.prompt: {a.name: {name: value(shares, g) for g, name in enumerate(a.names)}
                            for i, a in enumerate(c.attributes)
                            for shares in [of_shares(c.distribution(c.audit, i))]}
                 for c in self.outcome.measured}
        return next(iter(found.values())) if len(found) == 1 else found

    def __str__(self) -> str:
        return self.outcome.text

    def _repr_html_(self) -> str:
        return framed(self.outcome.look("Audit", "sd-debias audit --corrections FILE"))


@dataclass(frozen=True)
class Calibrated(Profile):
    """A profile as `calibrate` leaves it. In a notebook, its report.

    text    the result in words
    report  the report's page, with images
    """
    text: str = ""
    report: str = ""

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return framed(self.report)


def audit(pipe, prompts: str | Sequence[str], attributes: Attributes, judge: Judge, *, count: int = 0,
          seed: int = 0, batch_size: int = 4, progress: bool = True, allow_download: bool = False,
          **setting: Any) -> Audit:
    """Whom a pipeline shows: `count` images of each prompt (100), labelled by the judge. Changes nothing.

    attributes  "gender", "age = 1:1:2", an `Attribute`, or several
    judge       a CLIP model's folder or hub id, a line as `Judges` reads it, several of these, or callables by
                attribute (images uint8 [H, W, 3] -> probabilities [N, groups]); "demo" for the demo model
    setting     num_inference_steps, guidance_scale, width, height and negative_prompt, else the pipeline's own

    Raises DebiasError; what else the model or the judge raises is passed on.
    """
    found = listed(attributes)
    bench = bench_of(pipe, found, judge, batch_size, allow_download, setting)
    with Bar(not progress, lines=False) as bench.say:
        outcome = runner.audit(bench, _texts(prompts), found, count or int(FIELDS["images"].default), batch_size, seed)
    if not outcome.complete:
        raise outcome.taken()
    return Audit(outcome)


def calibrate(pipe, prompts: str | Sequence[str], attributes: Attributes, judge: Judge, *,
              sure: str | Plan = "normal", method: str | Method = "default", seed: int = 0, batch_size: int = 4,
              name: str = "profile", out: str | Path | None = None, progress: bool = True,
              allow_download: bool = False, **setting: Any) -> Calibrated:
    """Find the weights for a pipeline and its prompts, and verify them on fresh seeds.

    sure    "quick", "short", "normal" or "sure": within 10, 5, 5 or 3 points of the target; or a `Plan`
    out     a folder for profile, report and images; the same call continues there after an interruption

    The rest as in `audit`. Raises DebiasError; what else the model or the judge raises is passed on.
    """
    found = listed(attributes)
    method = named(method) if isinstance(method, str) else method
    plan = planned(sure, method, batch_size=batch_size, seed=seed) if isinstance(sure, str) else sure
    bench = bench_of(pipe, found, judge, batch_size, allow_download, setting)
    with tempfile.TemporaryDirectory() as nowhere, Bar(not progress, lines=False) as bench.say:
        folder = Path(out or nowhere).resolve()
        places = Places(profile=folder / "profile.json", lock=folder / "profile.json", folder=folder,
                        states=folder / "unfinished", best=folder / "profile (unfinished).json")
        outcome = runner.calibrate(bench, _texts(prompts), found, method, plan, name, places)
        if not outcome.complete:
            raise outcome.taken()
        outcome.notes = [note for note in outcome.notes if out or nowhere not in note]  # places that are gone
        assert outcome.profile is not None and outcome.report is not None
        known = {field.name: getattr(outcome.profile, field.name) for field in fields(Profile)}
        return Calibrated(**known, text=outcome.text, report=outcome.report.read_text("utf-8"))


def bench_of(pipe, attributes: Sequence[Attribute], judge: Judge, batch_size: int, allow_download: bool,
             setting: Mapping[str, Any]) -> Workbench:
    """A pipeline with its judges. Raises DebiasError for a setting that no call takes, and for what is no judge."""
    if not hasattr(pipe, "scheduler") or not callable(pipe):
        raise DebiasError(f"Expected a diffusers pipeline, got a {type(pipe).__name__}. Load one, for example with "
                          "StableDiffusionPipeline.from_pretrained.")
    disable(pipe)
    taken = defaults(pipe)
    strange = sorted(set(setting) - {"num_inference_steps", "guidance_scale", "width", "height", "negative_prompt"})
    if strange:
        raise DebiasError(f"Expected num_inference_steps, guidance_scale, width, height or negative_prompt, got "
                          f"{short(strange[0])}. Leave it out.")
    given = {**taken, **setting}
    scale = given.get("guidance_scale", getattr(getattr(pipe, "guider", None), "guidance_scale", None))
    known: dict[str, Any] = dict(steps=given.get("num_inference_steps") or 30, cfg=scale or 0.0,
                 batch_size=batch_size, **{key: setting.get(key) for key in ("width", "height", "negative_prompt")})
    classifiers, fidelity, told = _judges(pipe, attributes, judge, allow_download)
    model = model_name(str(getattr(pipe, "name_or_path", "") or type(pipe).__name__))
    return Workbench(pipe, None, model=model, classifiers=classifiers, fidelity=fidelity, judged_by=told, **known)


def _judges(pipe, attributes: Sequence[Attribute], judge: Judge, allow_download: bool
            ) -> tuple[dict[str, Callable], Callable | None, str]:
    """(classifiers by attribute, what measures fidelity, what tells the judge from others)"""
    if callable(judge):
        return {a.name: judge for a in attributes}, None, getattr(judge, "__qualname__", repr(judge))
    if isinstance(judge, Mapping):
        lacking = [a.name for a in attributes if not callable(judge.get(a.name))]
        if lacking:
            raise DebiasError(f"Expected a judge of {short(lacking[0])} that is called with images, got none.")
        return dict(judge), None, " ".join(getattr(own, "__qualname__", repr(own)) for own in judge.values())
    lines = [str(judge)] if isinstance(judge, (str, Path)) else list(map(str, judge))
    if lines == ["demo"]:
        own = demo()
        return {a.name: own.classifier(a) for a in attributes}, own.fidelity, "demo"
    device = pipe.device.type
    judges = Judges(lines, attributes, lambda source: open_model(source, device=device, allow_download=allow_download))
    return {a.name: judges.of(a) for a in attributes}, judges.fidelity, " ".join(lines)


def listed(attributes: Attributes) -> list[Attribute]:
    """Attributes as objects. Raises DebiasError."""
    found = [attributes] if isinstance(attributes, (Attribute, str)) else list(attributes)
    return [parse(a) if isinstance(a, str) else a for a in found]


def _texts(prompts: str | Sequence[str]) -> list[str]:
    found = [prompts] if isinstance(prompts, str) else list(prompts)
    if not found:
        raise DebiasError("Expected a prompt, got none. Give one, e.g. 'a photo of a doctor'.")
    return found


def framed(page: str) -> str:
    """A page inside a notebook, apart from the notebook's own style and scripts."""
    return (f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts allow-downloads" '
            'style="width:100%;height:42rem;border:0"></iframe>')
