"""A sweep's folder: the request, the results, and locks of the processes that work on it."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...core.attribute import Attribute
from ...core.calibration.loop import Calibration
from ...core.calibration.plan import Plan
from ...core.errors import DebiasError, quoted
from ...core.files import exclusive, inside, read_json, recover, write_atomic, writing
from ...core.judge.check import Check
from ...core.method.methods import Method
from ...core.version import VERSION
from .job import Job, Wanted, assign_teachers
from .journal import Journal, lines
from ...core.study.unit import Unit, blank, digest

FORM = "sd-debias sweep 1"
NAME = "sweep.json"


@dataclass(frozen=True)
class Asked:
    """The request of a sweep.

    models    as --model names them
    wanted    the prompts, each with its set of attributes
    variants  the sets of attributes, each with its targets
    options   further plain values that decide pictures or labels
    checks    of the classifiers, by attribute
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
    def from_dict(cls, data: dict) -> Asked:
        return cls(tuple(data["models"]), tuple(Wanted(**own) for own in data["wanted"]),
                   tuple(tuple(Attribute.from_dict(a) for a in variant) for variant in data["variants"]),
                   Method.from_dict(data["method"]), Plan(**data["plan"]), data["options"],
                   tuple(Check.from_dict(own) for own in data["checks"]))

    @property
    def identity(self) -> str:
        return digest(self.to_dict())

    def checks_of(self, variant: int) -> list[Check | None]:
        """The classifiers' checks of a set of attributes; empty where there are none."""
        own = {check.attribute: check for check in self.checks}
        found = [own.get(a.name) for a in self.variants[variant]]
        return found if any(found) else []


class SweepFolder:
    """The folder of one sweep, which may come from somebody else: no link in it is followed out of it. Raises
    DebiasError where it is another one's."""

    def __init__(self, root: Path, asked: Asked | None = None):
        """asked: None reads what is there."""
        self.root, path = root, inside(root, root / NAME)
        if asked is None:
            if not recover(path):
                raise DebiasError(f"{quoted(root)} holds no sweep. Name the folder that 'sd-debias sweep --out' wrote "
                                  "to.")
            self.asked = _read(path)
            return
        self.asked = asked
        self.jobs(0)  # what cannot be measured is said before anything is written
        with writing("The sweep", root), exclusive(path):
            there = _read(path) if recover(path) else None
            if there is not None and there.identity != asked.identity and any("unit" in line for line in self.lines()):
                raise DebiasError(f"{quoted(root)} holds another sweep: {_differs(there, asked)} Choose another --out, "
                                  "or give the same options to continue it.")
            if there is None or there.identity != asked.identity:
                write_atomic(path, json.dumps(dict(form=FORM, software=VERSION, identity=asked.identity,
                                                   asked=asked.to_dict()), indent=1))

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The sweep's journal. Raises DebiasError where another process writes it."""
        path = inside(self.root, self.root / "journal.jsonl")
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(path))
            except DebiasError as error:
                raise DebiasError(f"Another sweep is working on {quoted(self.root)}. Wait "
                                  "until it ends, or print its progress: sd-debias sweep --status "
                                  f"{self.root}") from error
            journal = Journal(path)
            held.callback(journal.close)
            yield journal

    def lines(self) -> Iterator[dict]:
        path = inside(self.root, self.root / "journal.jsonl")
        return lines(path) if path.exists() else iter(())

    def state(self, model: int, job: int) -> Path:
        """The file of a finished prompt's calibration."""
        return inside(self.root, self.root / "done" / f"{model}-{job}.json")

    def jobs(self, model: int) -> list[Job]:
        """All prompts of a model."""
        asked = self.asked
        made = [Job(number, wanted, asked.variants[wanted.variant], asked.method, asked.plan,
                    checks=asked.checks_of(wanted.variant)) for number, wanted in enumerate(asked.wanted)]
        assign_teachers(made, asked.method, asked.plan)
        return made

    def load(self, model: int, jobs: Sequence[Job]) -> Measured:
        """Load everything that was measured into the jobs. Raises DebiasError for damaged files, and where the
        journals are of different models."""
        for job in jobs:
            path = self.state(model, job.number)
            try:
                if path.exists():
                    job.restore(Calibration.load(path))
            except DebiasError:
                continue  # damaged; the journals hold all of it too
        found, own = Measured(), {job.number: job for job in jobs}
        for line in self.lines():
            if line.get("model") != model:
                continue
            if isinstance(line.get("facts"), dict):
                if found.facts is not None and digest(found.facts) != digest(line["facts"]):
                    from .driver import difference
                    raise DebiasError("The parts of this sweep come from different workers: "
                                      f"{difference(found.facts, line['facts'])} Sweep again into another folder, "
                                      "with one model, version and judge.")
                found.facts = line["facts"]
                self.check_judges(found.facts)
                continue
            try:
                self._count(line, own, found)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                continue  # a damaged line; what it said is measured again
        return found

    @staticmethod
    def _count(line: dict, jobs: Mapping[int, Job], found: Measured) -> None:
        if "unit" in line:
            (number, round_number, weights), batches = line["unit"], line["batches"]
            if blank(batches):
                return  # not one picture was finite: perhaps the machine's fault, so the next run tries anew
            seconds = float(line["seconds"]) / len(batches)
            for batch in batches:
                jobs[number].remember(int(round_number), str(weights), batch, seconds)
            key = int(number), int(round_number), str(weights), int(batches[0]["first"])
            if key not in found.counted:  # one that was measured twice counts once
                found.counted.add(key)
                known, more = found.evaluations.get(key[0], 0), line.get("evaluations")
                found.evaluations[key[0]] = None if known is None or more is None else known + int(more)
        elif "failed" in line:
            found.failed[int(line["failed"])] = str(line["error"])

    def check_judges(self, facts: dict) -> None:
        """Raises DebiasError where a check is of another classifier than the one that judges here."""
        for variant, attributes in enumerate(self.asked.variants):
            for i, check in enumerate(self.asked.checks_of(variant)):
                own = facts.get("classifiers", [])
                judge = own[variant][i] if variant < len(own) and i < len(own[variant]) else None
                if check is not None and judge is not None and check.judge != judge:
                    raise DebiasError(f"The check of {quoted(attributes[i].name)} is of the classifier "
                                      f"{quoted(check.judge)}, but {quoted(judge)} judges here. Check this one, or "
                                      "leave --check out.")


@dataclass
class Measured:
    """What journals say of a model. facts: of the workers; evaluations: of the model, by job; failed: errors by job."""
    facts: dict | None = None
    evaluations: dict[int, int | None] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    counted: set[tuple[int, int, str, int]] = field(default_factory=set)


def unit_line(model: int, unit: Unit, found: dict, worker: str) -> dict:
    """A journal's line for a measured unit."""
    return dict(model=model, unit=[unit.job, unit.round, unit.weights], batches=found["batches"],
                seconds=round(found["seconds"], 3), evaluations=found["evaluations"], worker=worker,
                time=round(time.time()))


def _read(path: Path) -> Asked:
    data = read_json(path)
    try:
        if data["form"] != FORM:
            raise DebiasError(f"its form is {quoted(data['form'])}")
        asked = Asked.from_dict(data["asked"])
        if asked.identity != data["identity"]:
            raise DebiasError("it was changed by hand")
        return asked
    except (KeyError, TypeError, ValueError, DebiasError) as error:
        raise DebiasError(f"{quoted(path)} is not a sweep that this version can continue ({error}). Restore it, or "
                          "choose another folder.") from error


def _differs(there: Asked, here: Asked) -> str:
    if there.models != here.models:
        return f"its models are {', '.join(there.models)}."
    if there.wanted != here.wanted:
        return f"its {len(there.wanted)} prompts differ from these {len(here.wanted)}."
    if there.variants != here.variants:
        return f"its attributes are {', '.join(dict.fromkeys(a.name for own in there.variants for a in own))}."
    for name in sorted({*there.options, *here.options}):
        if there.options.get(name) != here.options.get(name):
            return f"its {name.replace('_', ' ')} is {there.options.get(name)}."
    plans, others = asdict(there.plan), asdict(here.plan)
    for name, value in plans.items():
        if value != others[name]:
            return f"its {name.replace('_', ' ')} is {value}."
    if there.checks != here.checks:
        return "its checks of the classifier are different."
    return "its method is different."
