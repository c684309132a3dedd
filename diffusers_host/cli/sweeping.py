"""The commands for many prompts: sd-debias sweep | card."""
from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.attribute import Attribute, parse, together
from ...core.calibration.plan import FIELDS, Plan, duration
from ...core.errors import DebiasError, quoted, short
from ...core.files import contents, inside, safe_name, write_atomic
from ...core.method.methods import named
from ..bar import Bar
from .parts import Stopped, attributes_of, bench_of, check_of_each, checks_of, keep, plan_of, say

if TYPE_CHECKING:
    from ..sweep.driver import Here
    from ..sweep.folder import Request, SweepFolder
    from ..sweep.job import Job
    from ..sweep.on_ray import OnRay
    from ..sweep.worker import Recipe, Worker

# What decides images or labels, beside what a sweep's folder keeps anyway.
DECIDING = ("config", "dtype", "steps", "cfg", "width", "height", "negative_prompt", "judge", "labels", "look",
            "detector")
SAID_EVERY = 5.0  # seconds: counting what is left of many prompts takes time


def sweep(options) -> dict:
    """Audit or calibrate every prompt of a list on every model; write a profile, all labels and a bias card per model.

    After an interruption, and on a cluster (--ray), the same command continues.
    """
    from ..sweep.folder import SweepFolder
    if options.status:
        return _status(options)
    keep(options)
    request = _request(options)
    folder = SweepFolder(Path(options.out), request)
    _check_free(options, folder)
    found = [_results(options, folder, model, *_run_model(options, folder, model))
             for model in range(len(request.models))]
    return dict(ok=any(own["finished"] for own in found), out=options.out, models=found)


def card(options) -> dict:
    """Write a page of one bias card, or of two side by side: checkpoint A and B, or before and after."""
    from ...core.report.page import card_markdown, card_page
    from ...core.report.figures import read_card
    if len(options.card) > 2:
        raise DebiasError(f"Expected one card, or two to compare, got {len(options.card)}. Give one or two.")
    files = [Path(place) / "card.json" if Path(place).is_dir() else Path(place) for place in options.card]
    keep(options, "card.html", "card.md")
    cards = [read_card(file) for file in files]
    page = write_atomic(Path(options.out) / "card.html", card_page(cards))
    write_atomic(Path(options.out) / "card.md", "\n\n".join(map(card_markdown, cards)))
    say(options, f"Bias card: {page.resolve()}")
    return dict(card=str(page))


COMMANDS = {function.__name__: function for function in (sweep, card)}


# --- what is asked for -----------------------------------------------------------------------------------------------

def _request(options) -> Request:
    from ..sweep.folder import Request
    from ..sweep.job import Wanted
    from ..sweep.prompts import read_prompts
    rows = read_prompts(options.prompts, options.template)
    variants: dict[tuple[Attribute, ...], int] = {}
    wanted = []
    for attributes in _sets(options):
        known = {a.name: a for a in attributes}
        for row in rows:
            for name, _ in row.targets:
                if name not in known:
                    raise DebiasError(f"The prompt {quoted(row.prompt)} has a target of {quoted(name)}, which is not "
                                      f"measured. Add it with --attribute, or leave its target out.")
            states = {name: group for name, group in row.states if name in known}
            for name, group in states.items():
                if group not in known[name].names:
                    raise DebiasError(f"The column states of the prompt {quoted(row.prompt)} names the group "
                                      f"{quoted(group)}, but {quoted(name)} has the groups "
                                      f"{short(', '.join(known[name].names))}.")
            targets = dict(row.targets)
            own = tuple(a.with_target(targets[a.name]) if a.name in targets else a for a in attributes)
            wanted.append(Wanted(row.prompt, variants.setdefault(own, len(variants)), row.subject, states))
    models = tuple(options.model or ["demo"])
    if len(set(models)) < len(models):
        raise DebiasError(f"Expected different models, got one twice: {short(models)}. Give each one once.")
    method, plan = _plan(options, models)
    checks = tuple(checks_of(options))
    check_of_each([a for own in variants for a in own], checks)
    deciding = {name: value for name in DECIDING if (value := getattr(options, name, None)) is not None}
    return Request(models, tuple(wanted), tuple(variants), method, plan, deciding, checks)


def _sets(options) -> list[tuple[Attribute, ...]]:
    """The sets of attributes: each is measured, and calibrated, by itself."""
    if not options.set:
        return [attributes_of(options)]
    found = [together([parse(part.strip()) for part in text.split(" + ")]) for text in options.set]
    if len(set(found)) < len(found):
        raise DebiasError("Expected different sets of attributes, got one twice. Give each one once.")
    groups: dict[str, tuple[str, ...]] = {}
    for attribute in (a for own in found for a in own):
        if groups.setdefault(attribute.name, attribute.names) != attribute.names:
            raise DebiasError(f"Two attributes named {quoted(attribute.name)} have different groups. Rename one of "
                              "them.")
    return found


def _plan(options, models: Sequence[str]):
    batch_size = options.batch_size or (50 if set(models) == {"demo"} else int(FIELDS["batch_size"].default))
    seed, method = options.seed or 0, named(options.method, direction=options.direction, spend=options.spend,
                                            rule=options.rule)
    if options.audit:
        images = options.images or int(FIELDS["images"].default)
        return method, Plan(images, rounds=0, held_out=0, batch_size=min(batch_size, images), seed=seed,
                            confidence=options.confidence)
    return method, plan_of(options, method, batch_size)


# --- one model -------------------------------------------------------------------------------------

def _run_model(options, folder: SweepFolder, model: int) -> tuple[list[Job], dict]:
    """(all prompts as they are now, what the workers agreed in)"""
    from ..sweep.driver import Driver
    with folder.held():
        jobs, facts = folder.jobs(model), folder.facts(model)
        if all(job.finished for job in jobs) and facts is not None:
            return jobs, facts
        line = _Line(options, folder.request.models[model], jobs)

        def keep(job: Job, images: int) -> None:
            if job.error is None:
                folder.keep(model, job)
                line.images += images
            else:
                line.warn(f"{job.wanted.prompt}: {job.error}")

        pool = None
        try:
            pool = _pool(options, folder.request, model)
            with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what Ray prints is no event
                driver = Driver(jobs, pool, keep=keep, learn=partial(folder.learn, model), say=line.say,
                                facts=facts, warn=line.warn)
                driver.run()
        except KeyboardInterrupt as stopped:
            raise Stopped(f"{line.images:,} images were made.\nWhat was measured is kept: run the same command again "
                          "to continue.") from stopped
        finally:
            if pool is not None:
                pool.close()
            line.close()
    return jobs, driver.facts or {}


def _pool(options, request: Request, model: int) -> Here | OnRay:
    from ..sweep.driver import Here
    from ..sweep.worker import Recipe
    pictures = options.pictures and str(Path(options.pictures).resolve() / request.identity / str(model + 1))
    recipe = Recipe(request.variants, request.method, request.plan, options.show, pictures)
    plain = {**vars(options), "command": None, "model": request.models[model],
             "batch_size": request.plan.batch_size}
    if options.ray is None:
        return Here(partial(opened, plain, recipe))
    from ..sweep.on_ray import OnRay, connect
    connect(None if options.ray == "local" else options.ray)
    return OnRay(f"sd-debias {Path(request.models[model]).name}", partial(opened, _absolute(plain), recipe),
                 options.workers or 0, 1.0 if options.worker_cpus is None else options.worker_cpus,
                 options.worker_gpus)


def _absolute(options: dict) -> dict:
    """Options whose paths hold on other machines, where the working folder is another one."""
    def of(text: str) -> str:
        name, equals, value = text.rpartition("=")
        # A folder here may well be called demo, as the embedded model is, which is meant.
        return f"{name}{equals}{Path(value).resolve()}" if value != "demo" and Path(value).exists() else text

    lists = {name: [of(text) for text in options[name] or ()] or None for name in ("judge", "labels")}
    return {**options, **lists, **{name: of(value) for name in ("model", "config") if (value := options[name])}}


def opened(options: dict, recipe: Recipe) -> Worker:
    """A worker as the command line's options name it; called where it is to work."""
    import diffusers
    import torch
    import transformers

    from ..sweep.worker import Worker
    attributes = {a.name: a for variant in recipe.variants for a in variant}
    bench = bench_of(Namespace(**{**options, "command": opened}), tuple(attributes.values()))
    # What decides an image or a label, by content: the same files on another machine have other times.
    judges = [*(options.get("judge") or ()), *(options.get("labels") or ())]
    places = [options["model"], *(text.rpartition("=")[2] for text in judges)]
    bench.judged_by = json.dumps([  # part of the fingerprint
        [place if place == "demo" else contents(place) or place for place in places], options.get("look"),
        options.get("detector"), bench.pipe.device.type, str(bench.pipe.dtype), torch.__version__,
        diffusers.__version__, transformers.__version__])
    return Worker(bench, recipe)


def _place(options, folder: SweepFolder, model: int) -> tuple[Path, str]:
    """(folder of a model's results, its profile's name), each unlike that of other models and the sweep's own files."""
    from ..sweep.folder import FACTS, NAME, STATES
    name = safe_name(options.name or folder.root.resolve().name)
    models = [re.sub(r"[^\w.-]+", "-", Path(own).name).strip(".-")[:60] or "model" for own in folder.request.models]
    same = [own.casefold() for own in [*models, NAME, FACTS, STATES]].count(models[model].casefold())
    place = models[model] if same == 1 else f"{model + 1}-{models[model]}"
    return inside(folder.root, folder.root / place), name if len(models) == 1 else f"{name}-{place}"


def _check_free(options, folder: SweepFolder) -> None:
    """Raises DebiasError, before anything is measured, where results would replace what the user made."""
    from ..sweep.result import check_free, profile_names
    for model in range(len(folder.request.models)):
        place, name = _place(options, folder, model)
        profile_names(name, folder.request)
        if not options.overwrite:
            check_free(place, name, folder.request)


def _results(options, folder: SweepFolder, model: int, jobs: Sequence[Job], facts: dict) -> dict:
    from ..sweep.result import write_results
    place, name = _place(options, folder, model)
    found = write_results(place, name, folder.request, jobs, facts)
    lines = [f"{found['model']}: {found['finished']} of {found['prompts']} prompts, "
             f"{found['images']:,} images{_on_target(jobs)}", *(f"  Profile: {path}" for path in found["profiles"]),
             f"  Bias card: {found['card']}", f"  Labels: {found['labels']}",
             *(f"  Not measured: {prompt}: {error}" for prompt, error in found["failed"].items())]
    say(options, "\n".join(lines))
    return found


def _on_target(jobs: Sequence[Job]) -> str:
    """Of a sweep that calibrates, how many prompts ended on target; "" of an audit."""
    from ...core.calibration.loop import ON_TARGET
    ended = [[job.calibration.verdict(i) for i in range(len(job.calibration.attributes))] for job in jobs
             if job.calibration.plan.rounds and job.calibration.finished]
    return f", {sum(set(own) == {ON_TARGET} for own in ended)} on target" if ended else ""


# --- progress --------------------------------------------------------------------------------------------------------

class _Line:
    """The bar of one model; with --json an event a line."""

    def __init__(self, options, model: str, jobs: Sequence[Job]):
        self.json, self.model, self.jobs, self.bar = options.json, model, jobs, Bar(options.json)
        self.images, self.began, self.told, self.out = 0, time.monotonic(), 0.0, sys.stdout

    def facts(self) -> dict:
        left = sum(job.calibration.about_left for job in self.jobs if not job.finished)
        rate = self.images / (time.monotonic() - self.began) if self.images else 0.0
        return dict(event="progress", model=self.model, prompts=len(self.jobs),
                    finished=sum(job.finished for job in self.jobs), images=self.images, left=left,
                    rate=round(rate, 3), seconds_left=round(left / rate) if rate else None)

    def say(self) -> None:
        if self.told and time.monotonic() - self.told < SAID_EVERY:
            return
        self.told, found = time.monotonic(), self.facts()
        if self.json:
            print(json.dumps(found), flush=True, file=self.out)
        self.bar.update(self.images, self.images + found["left"],
                        f"{self.model}: {found['finished']} of {found['prompts']} prompts")

    def warn(self, text: str) -> None:
        if self.json:
            print(json.dumps(dict(event="warning", model=self.model, text=text)), flush=True, file=self.out)
        self.bar.line(f"Warning: {text}", sys.stderr)

    def close(self) -> None:
        self.told = 0.0
        self.say()
        self.bar.__exit__()


def _status(options) -> dict:
    """Print the progress of a sweep from its folder, also of one that runs in another shell."""
    from ..sweep.folder import SweepFolder
    folder = SweepFolder(Path(options.status))
    found = []
    for model, name in enumerate(folder.request.models):
        jobs = folder.jobs(model)
        times = [path.stat().st_mtime for job in jobs if (path := folder.state(model, job.number)).exists()]
        found.append(dict(model=name, prompts=len(jobs), begun=len(times),
                          finished=sum(job.finished for job in jobs),
                          images=sum(r.done for job in jobs for r in job.calibration.rounds),
                          seconds_ago=max(round(time.time() - max(times)), 0) if times else None))
    say(options, "\n".join(map(_standing, found)))
    return dict(out=options.status, models=found)


def _standing(found: dict) -> str:
    ago = "nothing measured yet" if found["seconds_ago"] is None else \
        f"last images {duration(found['seconds_ago'])} ago"
    return (f"{found['model']}: {found['finished']} of {found['prompts']} prompts, {found['images']:,} "
            f"images; {ago}")
