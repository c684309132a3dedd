"""The results of a sweep for one model: a profile of all its prompts, every image's labels, and the bias card."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ...core.calibration.labelled import Labelled, csv_of
from ...core.calibration.round import round_names
from ...core.calibration.plan import Plan
from ...core.calibration.result import entry_of, profile_of
from ...core.study.unfinished import key_of
from ...core.errors import DebiasError, placeless, quoted
from ...core.files import read_json, recover, safe_name, write_atomic, writing
from ...core.profile.file import SOFTWARE
from ...core.report.page import card_markdown, card_page
from ...core.report.figures import FORM
from .folder import Request
from .job import Job

CARD, PAGE, MARKDOWN, LABELS = "card.json", "card.html", "card.md", "labels.csv"
WRITTEN = "written.json"  # digests of these files, by name: what was edited since is not replaced


def write_results(folder: Path, name: str, request: Request, jobs: Sequence[Job], facts: dict) -> dict:
    """Write all files of one model into its folder; returns where they are, and which prompts failed, as plain values.

    Raises DebiasError where the folder cannot be written to.
    """
    several = len(request.variants) > 1
    card = card_of(request, jobs, facts)
    rows = [{**({"set": job.wanted.variant + 1} if several else {}), **row} for job in jobs for row in label_rows(job)]
    files: dict[str, str | bytes] = {CARD: json.dumps(card, indent=1, allow_nan=False), PAGE: card_page([card]),
                                     MARKDOWN: card_markdown(card), LABELS: csv_of(rows)}
    with writing("The sweep's results", folder):
        made = list(_profiles(name, request, jobs, facts))
        digests = {file: [_digest(content)] for file, content in
                   {**files, **{f"{profile.name}.json": profile.text for profile in made}}.items()}
        # Said before they are written: if this is killed halfway, old and new files are both known as a sweep's.
        known = _written(folder)
        announced = {file: [*known.get(file, ()), *own] for file, own in digests.items()}
        write_atomic(folder / WRITTEN, json.dumps(announced))
        profiles = [str(profile.save(folder / f"{profile.name}.json", overwrite=True)) for profile in made]
        for file, content in files.items():
            write_atomic(folder / file, content)
        write_atomic(folder / WRITTEN, json.dumps(digests, indent=1))
    failed = {job.wanted.prompt: job.error for job in jobs if job.error is not None}
    finished = sum(job.finished and job.error is None for job in jobs)
    return dict(model=card["model"], prompts=len(jobs), finished=finished, failed=failed, profiles=profiles,
                card=str(folder / PAGE), labels=str(folder / LABELS), images=card["cost"]["images"])


def check_free(folder: Path, name: str, request: Request) -> None:
    """Raises DebiasError where results would replace what is not a sweep's, or was edited since."""
    known = _written(folder)
    names = [CARD, PAGE, MARKDOWN, LABELS, *(f"{own}.json" for own in profile_names(name, request))]
    if len({own.casefold() for own in names}) < len(names):
        raise DebiasError(f"A profile named {quoted(name)} would replace the card. Choose another --name.")
    for file in names:
        if (folder / file).exists() and _digest((folder / file).read_bytes()) not in known.get(file, ()):
            raise DebiasError(f"{quoted(folder / file)} exists already, and a sweep did not write it or it was "
                              "edited. Move it, or add --overwrite to replace it.")


def _written(folder: Path) -> dict[str, list]:
    """Digests that a sweep's files may have, by name."""
    path = folder / WRITTEN
    known = read_json(path) if recover(path) else {}
    return known if isinstance(known, dict) else {}


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def profile_names(name: str, request: Request) -> list[str]:
    """A profile's name for each set of attributes. Raises DebiasError for what is no file name."""
    several = len(request.variants) > 1
    return [safe_name(f"{name}-{variant + 1}" if several else name) for variant in range(len(request.variants))]


def _profiles(name: str, request: Request, jobs: Sequence[Job], facts: dict) -> Iterator:
    """A profile for each set of attributes that was calibrated."""
    for variant in range(len(request.variants)):
        done = [job for job in jobs if job.wanted.variant == variant and job.error is None and
                job.calibration.plan.rounds and job.calibration.finished]
        if done:
            own = profile_names(name, request)[variant]
            profile = profile_of(own, [job.calibration for job in done], dict(facts["setting"]),
                                 _classifier(facts, variant), [job.evaluations for job in done])
            subjects = {job.wanted.prompt: job.wanted.subject for job in done}
            yield replace(profile, entries=tuple(
                entry if subjects[entry.prompt] is None else replace(entry, subject=subjects[entry.prompt])
                for entry in profile.entries))


def _classifier(facts: dict, variant: int) -> str:
    """What labelled the images, as profiles say it."""
    return ", ".join(facts["classifiers"][variant])


def label_rows(job: Job) -> Iterator[dict]:
    """A row an image, of every round: prompt, round, image, each attribute's label, and where a draw sent it."""
    c = job.calibration
    for name, r in zip(round_names([r.kind for r in c.rounds]), c.rounds):
        table = Labelled(c.prompt, c.attributes, r, [key_of(seed) for seed in r.seeds[:r.done]], "").table()
        sent = {key_of(seed): options for seed, options in zip(r.seeds[:r.done], zip(*(
            s.draws(r.seeds[:r.done], i) for i, s in enumerate(r.steerings))))}
        for row in table:
            row.pop("note")
            drawn = {f"{a.name}, sent to": a.names[option - 1] if option else "" for a, option in
                     zip(c.attributes, sent[row["image"]], strict=True)} if job.calibration.plan.rounds else {}
            yield {"prompt": row.pop("title"), "round": name, **row, **drawn}


def card_of(request: Request, jobs: Sequence[Job], facts: dict) -> dict:
    """The bias card of one model, as `core.report.page` reads it."""
    rounds = [r for job in jobs for r in job.calibration.rounds]
    counts = [job.evaluations for job in jobs]
    evaluations = sum(n for n in counts if n is not None) if None not in counts else None
    return dict(
        form=FORM, software=SOFTWARE, created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=facts["model"], setting=dict(facts["setting"]),
        classifier="; ".join(dict.fromkeys(_classifier(facts, i) for i in range(len(request.variants)))),
        sets=[_set(request, variant, [job for job in jobs if job.wanted.variant == variant])
              for variant in range(len(request.variants))],
        cost=dict(images=sum(r.done for r in rounds), seconds=round(sum(r.seconds for r in rounds), 1),
                  evaluations=evaluations or None))


def _set(request: Request, variant: int, jobs: Sequence[Job]) -> dict:
    calibrated = bool(request.plan.rounds)
    return dict(
        attributes=[a.to_dict() for a in request.variants[variant]],
        method=request.method.to_dict() if calibrated else None, plan=plan_words(request.plan),
        checks=[own and own.to_dict() for own in request.checks_of(variant)],
        rows=[_row(job) for job in jobs if not job.wanted.states or job.error is not None],
        explicit=[_explicit(job) for job in jobs if job.wanted.states and job.error is None and _measured(job)])


def _measured(job: Job) -> bool:
    rounds = job.calibration.rounds
    return bool(rounds) and rounds[0].complete and all(rounds[0].shows(i) for i in range(len(rounds[0].labels)))


def _row(job: Job) -> dict:
    c = job.calibration
    row = dict(prompt=c.prompt, subject=job.wanted.subject, entry=None,
               error=placeless(job.error) if job.error else None if job.finished else "not finished yet")
    if row["error"] is None or _measured(job):
        row["entry"] = entry_of(c, job.evaluations).to_dict()
    before, after = (job.thumbs.get(when, {}) for when in ("before", "after"))
    if not before:
        return row
    seeds = sorted(before, key=int)
    pictures: dict = {"before": [before[seed] for seed in seeds]}
    if job.finished and c.plan.rounds:
        pictures |= {"after": [after.get(seed, before[seed]) for seed in seeds],
                     "seeds": list(map(int, seeds)), "changed": [seed in after for seed in seeds]}
    return row | {"pictures": pictures}


def _explicit(job: Job) -> dict:
    c = job.calibration
    shown: dict[str, list[int]] = {}
    for i, a in enumerate(c.attributes):
        if a.name in job.wanted.states:
            d = c.audit.distribution(i, a.target)
            shown[a.name] = [d.counts[a.names.index(job.wanted.states[a.name])], d.n]
    return dict(prompt=c.prompt, states=dict(job.wanted.states), shown=shown)


def plan_words(plan: Plan) -> str:
    """How much was measured, in words."""
    if not plan.rounds:
        return f"{plan.images} images per prompt"
    margin = f"until every share lies within {100 * plan.within:g} points of its target with 95 % certainty" \
        if plan.within is not None else f"{plan.rounds} rounds at most"
    return (f"{plan.images} images without guidance, then rounds of {plan.step} {margin}, at most "
            f"{plan.most_images - plan.held_out}; then {plan.held_out} on fresh seeds, which decided nothing")
