"""A sweep's folder: the request, and the state of every prompt."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...core.attribute import Attribute
from ...core.calibration.plan import Plan
from ...core.errors import DebiasError, quoted
from ...core.files import exclusive, inside, read_json, recover, write_atomic, writing
from ...core.judge.check import Check, of_each
from ...core.method.methods import Method
from ...core.version import VERSION
from .job import Job, Wanted, assign_teachers
from .worker import digest

FORM = "sd-debias sweep 1"
NAME, FACTS, STATES = "sweep.json", "facts.json", "prompts"


@dataclass(frozen=True)
class Request:
    """What is asked of a sweep.

    models    as --model names them
    wanted    the prompts, each with its set of attributes
    variants  the sets of attributes, each with its targets
    options   further plain values that decide images or labels
    checks    of the judges, by attribute
    """
    models: tuple[str, ...]
    wanted: tuple[Wanted, ...]
    variants: tuple[tuple[Attribute, ...], ...]
    method: Method
    plan: Plan
    options: dict = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    def to_dict(self) -> dict:
        return dict(models=list(self.models), wanted=[asdict(own) for own in self.wanted],
                    variants=[[a.to_dict() for a in variant] for variant in self.variants],
                    method=self.method.to_dict(), plan=asdict(self.plan), options=self.options,
                    checks=[own.to_dict() for own in self.checks])

    @classmethod
    def from_dict(cls, data: dict) -> Request:
        variants = tuple(tuple(map(Attribute.from_dict, variant)) for variant in data["variants"])
        return cls(tuple(data["models"]), tuple(Wanted(**own) for own in data["wanted"]), variants,
                   Method.from_dict(data["method"]), Plan(**data["plan"]), data["options"],
                   tuple(map(Check.from_dict, data["checks"])))

    @property
    def identity(self) -> str:
        return digest(self.to_dict())

    def checks_of(self, variant: int) -> list[Check | None]:
        """The classifiers' checks of a set of attributes; empty where there are none."""
        found = of_each(self.checks, self.variants[variant])
        return found if any(found) else []

    def check_judges(self, facts: dict) -> None:
        """Raises DebiasError where a check is of another judge than the one that judges here."""
        for attributes, judges, checks in zip(self.variants, facts.get("classifiers", []),
                                              map(self.checks_of, range(len(self.variants)))):
            for attribute, judge, check in zip(attributes, judges, checks):
                if check is not None and check.judge != judge:
                    raise DebiasError(f"The check of {quoted(attribute.name)} is of the judge "
                                      f"{quoted(check.judge)}, but {quoted(judge)} judges here. Check "
                                      "this one, or leave --check out.")


class SweepFolder:
    """A sweep's folder, perhaps somebody else's: no link leads out of it. Raises DebiasError for another sweep's."""

    def __init__(self, root: Path, request: Request | None = None):
        """request: None reads what is there."""
        self.root, path = root, inside(root, root / NAME)
        if request is None:
            if not recover(path):
                raise DebiasError(f"{quoted(root)} holds no sweep. Name the folder that 'sd-debias sweep "
                                  "--out' wrote to.")
            self.request = _read(path)
            return
        self.request = request
        self.jobs(0)  # what cannot be measured is said before anything is written
        with writing("The sweep", root), exclusive(path):
            there = _read(path) if recover(path) else None
            if there is not None and there.identity == request.identity:
                return
            if there is not None and any(inside(root, root / STATES).glob("*.json")):
                raise DebiasError(f"{quoted(root)} holds another sweep: {_differs(there, request)} Choose "
                                  "another --out, or give the same options to continue it.")
            inside(root, root / FACTS).unlink(missing_ok=True)
            write_atomic(path, json.dumps(dict(form=FORM, software=VERSION, identity=request.identity,
                                               request=request.to_dict()), indent=1))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises DebiasError where another process works on the sweep."""
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(inside(self.root, self.root / STATES)))
            except DebiasError as error:
                raise DebiasError(f"Another sweep is working on {quoted(self.root)}. Wait until it ends, or "
                                  f"print its progress: sd-debias sweep --status {self.root}") from error
            yield

    def state(self, model: int, job: int) -> Path:
        return inside(self.root, self.root / STATES / f"{model}-{job}.json")

    def jobs(self, model: int) -> list[Job]:
        """All prompts of a model, as an earlier run left them, teachers first. A damaged state is measured again."""
        request = self.request
        made = [Job(number, wanted, request.variants[wanted.variant], request.method, request.plan,
                    checks=request.checks_of(wanted.variant))
                for number, wanted in enumerate(request.wanted)]
        assign_teachers(made, request.method, request.plan)
        for job in made:
            path = self.state(model, job.number)
            if recover(path):
                try:
                    job.take(read_json(path))
                except (DebiasError, LookupError, TypeError, ValueError, AttributeError):
                    continue
            elif job.taught:
                job.learn()
        return made

    def keep(self, model: int, job: Job) -> None:
        with writing("The sweep's state", self.root):
            write_atomic(self.state(model, job.number), json.dumps(job.to_dict()))

    def facts(self, model: int) -> dict | None:
        """What the workers of a model agreed in; None before the first one was opened."""
        return self._facts().get(str(model))

    def learn(self, model: int, facts: dict) -> None:
        """Keep what the first worker says. Raises DebiasError where the checks are of another judge."""
        self.request.check_judges(facts)
        path = inside(self.root, self.root / FACTS)
        write_atomic(path, json.dumps({**self._facts(), str(model): facts}, default=str))

    def _facts(self) -> dict:
        path = inside(self.root, self.root / FACTS)
        found = read_json(path) if recover(path) else {}
        if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
            raise DebiasError(f"{quoted(path)} is damaged. Restore it, or choose another folder.")
        return found


def _read(path: Path) -> Request:
    data = read_json(path)
    try:
        if data["form"] != FORM:
            raise DebiasError(f"its form is {quoted(data['form'])}")
        request = Request.from_dict(data["request"])
        if request.identity != data["identity"]:
            raise DebiasError("it was changed by hand")
        return request
    except (KeyError, TypeError, ValueError, AttributeError, DebiasError) as error:
        raise DebiasError(f"{quoted(path)} is not a sweep that this version can continue ({error}). "
                          "Restore it, or choose another folder.") from error


def _differs(there: Request, here: Request) -> str:
    if there.models != here.models:
        return f"its models are {', '.join(there.models)}."
    if there.wanted != here.wanted:
        return f"its {len(there.wanted)} prompts differ from these {len(here.wanted)}."
    if there.variants != here.variants:
        names: Sequence[str] = [a.name for own in there.variants for a in own]
        return f"its attributes are {', '.join(dict.fromkeys(names))}."
    before = {**there.options, **asdict(there.plan)}
    now = {**here.options, **asdict(here.plan)}
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            return f"its {name.replace('_', ' ')} is {before.get(name)}."
    if there.checks != here.checks:
        return "its checks of the judge are different."
    return "its method is different."
