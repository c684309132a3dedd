"""An audit or a calibration on any host: which prompts, what is kept and continued, what is said, written and saved.

A host gives a `Host`, which makes pictures and labels them. Everything else is here, so that a calibration is the same
on every host: its checks, its files, its words.
"""
from __future__ import annotations

import itertools
import os
import textwrap
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, Protocol, Sequence

import numpy as np
import torch
from torch import Tensor

from ..attribute import Attribute, together
from ..errors import DebiasError, out_of_memory, placed, quoted, short
from ..files import exclusive, inside, safe_name, write_atomic, writing
from ..judge import blank
from ..judge import Classifier
from ..judge.check import Check, check_same
from ..calibration.labelled import Labelled, run_of
from ..method.draw import rows
from ..method.methods import METHODS, Method
from ..profile.file import Profile, same_prompt
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, HELD_OUT, PROOF, ROUND, Persons, Round, round_names
from ..statistics import named_shares
from .outcome import Outcome, file_names
from ..calibration.plan import Plan, duration
from ..calibration.result import holds, profile_of
from ..calibration.standing import in_percent
from .unfinished import Unfinished, key_of
from ..calibration.watched import others

Fidelity = Callable[[Sequence, str], Sequence[float]]  # f(images, prompt): how well each image shows its prompt


@dataclass(frozen=True)
class Progress:
    """The progress of the work.

    current       the round that is measured; None before the first picture of a prompt
    done, most    images of all prompts so far, and the largest number expected
    seconds       that those took which are done
    about         images still to come
    """
    calibration: Calibration
    current: Round | None
    prompts: int
    done: int
    most: int
    seconds: float = 0.0
    about: int = 0

    @property
    def total(self) -> int:
        """Estimated total number of images."""
        return self.done + self.about

    @property
    def left(self) -> str:
        """What is still to come, how long it takes at the speed so far, and the maximum left; "" if nothing is left."""
        most = self.most - self.done
        if most <= 0:
            return ""
        time = f", {duration(self.about * self.seconds / self.done)}" if self.done and self.seconds else ""
        return f"about {self.about:,} images more{time}" + (f"; at most {most:,}" if most > self.about else "")

    @property
    def name(self) -> str:
        """The round's, as in charts: audit, round 1, ..., held-out."""
        names = round_names([r.kind for r in self.calibration.rounds])
        return names[-1] if names else "audit"

    @property
    def title(self) -> str:
        kind, rounds = self.current and self.current.kind, self.calibration.plan.rounds
        if kind == ROUND and self.calibration.plan.within is not None:
            return self.name
        return f"{self.name} of at most {rounds}" if kind == ROUND else \
            {HELD_OUT: "verification on fresh seeds", PROOF: "proof that the judge can tell"}.get(kind or "", "audit")

    @property
    def shares(self) -> list[str]:
        """One line for each attribute of which a picture was classified."""
        c = self.calibration
        if c.plan.within is not None and self.current and self.current.kind == ROUND and self.current.complete:
            return [f"{a.name}, with the weights so far: {c.expected(i).line(a.names)}; sought within "
                    f"{100 * c.plan.within:g} points of {named_shares(a.names, a.target)}"
                    for i, a in enumerate(c.attributes)]
        return [f"{a.name}: {', '.join(f'{group} {share:.0%}' for group, share in zip(a.names, d.shares))}; "
                f"KL {d.kl:.4f}" for i, a in enumerate(self.calibration.attributes)
                if self.current and self.current.labels and self.current.shows(i)
                for d in [self.calibration.distribution(self.current, i)]]

    @property
    def text(self) -> str:
        """A few lines: the prompt, where there are several; the round; the shares so far; what is left."""
        return "\n".join([*self._head, *self.shares, *filter(None, [self.left])])

    @property
    def line(self) -> str:
        """The same in one line for a place that cuts long ones, of about a hundred letters."""
        head = [textwrap.shorten(part, 40, placeholder="...") for part in self._head]
        return "; ".join([*head, *filter(None, [self.left.partition(";")[0]]), *self._brief])

    @property
    def _brief(self) -> list[str]:
        """Shares in whole percents: those of the weights so far, where they are sought, else the round's."""
        c, r = self.calibration, self.current
        if r is None:
            return []
        if c.plan.within is not None and r.kind == ROUND and r.complete:
            return [f"{a.name} {in_percent(c.expected(i).shares)}" for i, a in enumerate(c.attributes)]
        return [f"{a.name} {in_percent(c.distribution(r, i).shares)}" for i, a in enumerate(c.attributes)
                if r.labels and r.shows(i)]

    @property
    def _head(self) -> list[str]:
        prompt = [self.calibration.prompt] if self.prompts > 1 else []
        return prompt if self.current is None else [
            *prompt, f"{self.title}: {self.current.done} of {len(self.current.seeds)} images"]


class Host(Protocol):
    """Base class of hosts: everything that a calibration needs from one.

    setting       what pictures are made with, as profiles keep it; final once a picture was made
    evaluations   of the model so far; None where the host does not count
    interruption  what is raised where the user stops the work
    again         what the user does to continue, in words
    note          message to show from the first picture on, beside the progress
    """
    setting: dict
    evaluations: int | None = None
    interruption: type[BaseException] | tuple[type[BaseException], ...] = KeyboardInterrupt
    again: str = "start it again with the same settings"
    anew: str = "allow overwriting"  # how to measure again what is done
    note: str = ""

    def check(self, attributes: Sequence[Attribute], method: Method) -> None:
        """Raises DebiasError where this model cannot be guided by the method; asked before the first picture."""

    def judges(self, attributes: Sequence[Attribute]) -> tuple[Sequence[Classifier], Fidelity | None]:
        """A classifier for each attribute, and the function that measures fidelity to the prompt, or None."""
        ...

    def render(self, prompt: str, seeds: Sequence[int], weights: Tensor, attributes: Sequence[Attribute],
               method: Method) -> Sequence:
        """A picture for each seed, uint8 [H, W, 3] or PIL; None for one that is not finite. weights [B, n].

        Raises DebiasError where weights are not zero and guidance did nothing; `interruption`.
        """
        ...

    def fingerprint(self) -> object:
        """Everything that determines a picture or a label, except the prompt and the runner's arguments, as plain
        values."""
        return self.setting

    def known(self, prompt: str) -> str:
        """The prompt without syntax that only the host reads, such as <lora:x:0.8>."""
        return prompt

    def place(self, path: Path) -> str:
        """A path as users know it."""
        return str(path)

    def say(self, progress: Progress) -> None:
        """Show the progress."""


@dataclass(frozen=True)
class Places:
    """Where a calibration's files are.

    profile    its file; lock: what is held meanwhile, so that two do not write it
    folder     of report, sheets, charts and figures
    states     folder of what is unfinished
    best       file for a profile of the best rounds so far, "NAME (unfinished)", where the work is interrupted
    overwrite  may an existing profile and report be replaced?
    earlier    where a report goes whose profile was deleted, numbered where that is taken; None: it is in the way
    again      measure anew what is done already
    others     (profile, folder) of results of the same name: one of this very calibration is taken as it is
    """
    profile: Path
    lock: Path
    folder: Path
    states: Path
    best: Path
    overwrite: bool = False
    earlier: Path | None = None
    again: bool = False
    others: Sequence[tuple[Path, Path]] = ()


def seen_by(classifiers: Sequence[Classifier]) -> Callable[[Sequence], Persons] | None:
    """What tells who is in pictures, of classifiers that look for faces; None where none does."""
    looking = next((classify for classify in classifiers if hasattr(classify, "faces")), None)
    if looking is None:
        return None
    people = all(hasattr(classify, "people") for classify in classifiers)
    return lambda images: Persons(
        looking.faces(images),
        [classify.people(images) for classify in classifiers] if people else None)  # type: ignore[attr-defined]


def boxes_in(images: Sequence, classifiers: Sequence[Classifier]) -> list[Sequence]:
    """The faces (x, y, width, height) that are labelled in each picture, by the first classifier that looks for them;
    none where none does, and of a picture that is None."""
    looking = next((found for classify in classifiers if (found := getattr(classify, "boxes", None))), None)
    shown = [image for image in images if image is not None]
    found = iter(looking(shown) if looking is not None and shown else [()] * len(shown))
    return [() if image is None else next(found) for image in images]


def advance(host: Host, calibration: Calibration, prompt: str | None = None, work: Unfinished | None = None
            ) -> Iterator[Round]:
    """Run one prompt's calibration, yielding as `Calibration.run`; `prompt` as the host is to read it."""
    bench, work = Measuring(host, calibration, prompt), work or Unfinished(None)

    def render(weights: Tensor, seeds: list[int]) -> Sequence:
        images = bench.render(weights, seeds, calibration.rounds[-1].kind)
        work.keep(calibration.rounds, seeds, images, lambda images: boxes_in(images, bench.classifiers))
        return images

    rounds = calibration.run(render, bench.classify, bench.fidelity, work.path, bench.watch, bench.look)
    return _with_pairs(rounds, bench, work)


def _with_pairs(rounds: Iterator[Round], bench: Measuring, work: Unfinished) -> Iterator[Round]:
    yield from rounds
    if bench.calibration.plan.rounds or bench.calibration.plan.held_out:
        _pair(bench, work)


def _pair(bench: Measuring, work: Unfinished) -> None:
    """Make the audit's first pictures again with the weights, which shows what the profile changes, and
    that it changes nothing else. They are not counted."""
    steerings, each = bench.calibration.steerings, bench.calibration.plan.batch_size
    seeds = work.without_pair(steerings)
    for start in range(0, len(seeds), each):
        part = seeds[start:start + each]
        work.keep_after(part, bench.render(rows(steerings, part), part, HELD_OUT))


class Measuring:
    """Makes and judges the pictures of one calibration or audit on a host; `prompt` as the host is to read it.

    Raises DebiasError where the host's model cannot be guided so, or its judges do not fit.
    """

    def __init__(self, host: Host, calibration: Calibration, prompt: str | None = None):
        attributes, method = calibration.attributes, calibration.method
        self.host, self.calibration = host, calibration
        self.prompt = calibration.prompt if prompt is None else prompt
        self.classifiers, fidelity = host.judges(attributes)
        if calibration.plan.rounds:
            host.check(attributes, method)
        if calibration.plan.rounds or calibration.plan.held_out:
            if any(hasattr(classify, "people") for classify in self.classifiers):
                raise DebiasError("A calibration counts one label per picture, but this classifier looks at people, "
                                  "which is every face. Let it look at the largest face, and audit people afterwards.")
        self.fidelity = None if fidelity is None else lambda images: fidelity(images, calibration.prompt)
        self.look, self._beside = seen_by(self.classifiers), watched(host, attributes)
        # To a group without words of its own nothing is steered: its pictures are those that are left alone.
        self._idle = torch.tensor([group.wordless and (method.direction == "prompt" or method.guidance.anchor ==
                                                       "prompt") for a in attributes for group in a.groups])

    def render(self, weights: Tensor, seeds: Sequence[int], kind: str) -> Sequence:
        """Pictures of a round of this kind; those that prove the judge have a group's own text, which is what the
        default method's push is."""
        method = METHODS["default"] if kind == PROOF else self.calibration.method
        return self.host.render(self.prompt, seeds, weights.masked_fill(self._idle, 0.0), self.calibration.attributes,
                                method)

    def classify(self, images: Sequence) -> list[np.ndarray]:
        return [classify(images) for classify in self.classifiers]

    def watch(self, images: Sequence) -> dict[str, np.ndarray]:
        return {name: p for name, (classify, groups) in self._beside.items()
                if np.shape(p := classify(images)) == (len(images), groups)}

    def batch(self, current: Round, seeds: Sequence[int], see: Callable[[Sequence], None] = lambda images: None
              ) -> Round:
        """Make a batch of a round's pictures and tell what they show; `see` is given them."""
        images = self.render(rows(current.steerings, seeds), seeds, current.kind)
        see(images)
        return self.calibration.measured(current, images, seeds, self.classify, self.fidelity, self.watch, self.look)


def watched(host: Host, attributes: Sequence[Attribute]) -> dict[str, tuple[Classifier, int]]:
    """Classifiers of built-in attributes that are not calibrated, by name, with the number of groups, as far as the
    host's judges know them."""
    found = {}
    for attribute in others(attributes):
        try:
            (classify,), _ = host.judges([attribute])
            found[attribute.name] = classify, len(attribute.groups)
        except DebiasError:
            continue  # a judge of the calibrated attributes alone
    return found


def audit(host: Host, prompts: Sequence[str], attributes: Sequence[Attribute], count: int, batch_size: int,
          seed: int = 0, confidence: float = 0.0, checks: Sequence[Check | None] = ()) -> Outcome:
    """Measure the shares of `count` pictures of each prompt, corrected if the classifier was checked. Changes and
    writes nothing. Raises DebiasError; any other error is the outcome's `stopped`."""
    plan = Plan(count, rounds=0, held_out=0, batch_size=batch_size, seed=seed, confidence=confidence)
    outcome, attributes = Outcome(), together(attributes)
    if any(checks):
        check_same(host.judges(attributes)[0], checks)
    measure(host, outcome, [Calibration(host.known(prompt), attributes, METHODS["default"], plan, checks=checks)
                            for prompt in prompts], list(prompts), [Unfinished(None) for _ in prompts])
    if not outcome.measured and not outcome.complete:
        outcome.notes.append(f"{outcome.why} before a picture was measured.")
    return outcome


def calibrate(host: Host, prompts: Sequence[str], attributes: Sequence[Attribute], method: Method, plan: Plan,
              name: str, places: Places, checks: Sequence[Check | None] = ()) -> Outcome:
    """Calibrate every prompt by itself, verify, and save one profile with its report.

    After an interruption or an error of the host, what was measured is kept, and the same call continues. The best
    rounds so far are saved as the profile "NAME (unfinished)"; an existing profile NAME is not changed. `checks` of
    the classifiers, one per attribute, correct the measured shares. Raises DebiasError; any other error is the
    outcome's `stopped`.
    """
    started, attributes, prompts = time.perf_counter(), together(attributes), list(prompts)
    best = f"{safe_name(name)} (unfinished)"
    safe_name(best)  # said now rather than at the interruption
    if any(checks):
        check_same(host.judges(attributes)[0], checks)
    known = [host.known(prompt) for prompt in prompts]
    if not known:
        raise DebiasError("Expected a prompt to calibrate, got none. Give one, e.g. 'a photo of a doctor'.")
    if len({same_prompt(prompt) for prompt in known}) < len(known):
        raise DebiasError("Expected different prompts, got one twice. Give each one once.")
    asked = dict(attributes=[a.to_dict() for a in attributes], method=method.to_dict(), plan=asdict(plan),
                 host=host.fingerprint(), checks=[own and own.to_dict() for own in checks])
    with ExitStack() as held:
        _hold(host, places, held)
        works = [Unfinished(places.states, name, dict(prompt=prompt, **asked)) for prompt in prompts]
        begun = [_loaded(host, work, places.again or places.overwrite) for work in works]
        places = _as_done(places, begun)
        _note_of_others(host, works, begun)
        for number, c in enumerate(begun):
            if c:
                c.learn_from([before for before in begun[:number] if before])
        saved = places.profile.exists() and not places.overwrite and any(begun)
        kept = _check_free(host, places, attributes, begun, len(prompts), all(work.done for work in works))
        calibrations = [c or Calibration(prompt, attributes, method, plan, checks=checks)
                        for prompt, c in zip(known, begun, strict=True)]
        outcome = Outcome(notes=kept)
        if saved and not all(begun):  # ended while its states were removed
            outcome.calibrations, outcome.profile = [c for c in begun if c], _profile(host, places)
        else:
            evaluations = measure(host, outcome, calibrations, prompts, works)
            if not outcome.complete:
                return _kept(host, outcome, name=best, places=places)
            outcome.profile = _profile(host, places) if saved else \
                profile_of(name, calibrations, host.setting, _names(host, attributes), evaluations)
            with writing("The report", host.place(places.folder)):
                for file, content in outcome.files(time.perf_counter() - started).items():
                    write_atomic(places.folder / file, content)
        if not saved:
            with writing("The profile", host.place(places.profile.parent)):
                outcome.profile.save(places.profile, overwrite=True)
        for work in works:
            work.finish()
        places.best.unlink(missing_ok=True)
        outcome.path, outcome.report = places.profile, places.folder / "report.html"
        complete = f"This calibration was complete already: {host.anew} to measure it again."
        outcome.notes += [*([complete] if saved else []),
                          f"Profile: {host.place(outcome.path)}", f"Report: {host.place(outcome.report)}"]
        if any(path.name.startswith(f"{name}-") for path in places.states.glob("*.json")):
            outcome.notes.append(f"Unfinished calibrations of this name with other settings are kept in "
                                 f"{host.place(places.states)}.")
        return outcome


def _note_of_others(host: Host, works: Sequence[Unfinished], begun: Sequence[Calibration | None]) -> None:
    """Say why nothing is continued, where work of the same name is there."""
    if not any(begun) and (differs := next(filter(None, (work.differs() for work in works)), "")):
        host.note = "; ".join(filter(None, [host.note, "unfinished work of this name has other settings, so this "
                                                       f"begins anew ({differs})"]))


def _hold(host: Host, places: Places, held: ExitStack) -> None:
    """Hold the lock of a calibration's files. Raises DebiasError where another one does, and for a place outside."""
    for own in (places.folder, places.states):
        with _called(host, own):
            inside(own.parent, own)
    with _called(host, places.lock), writing("The calibration's files", host.place(places.lock.parent)):
        held.enter_context(exclusive(places.lock))


def _check_free(host: Host, places: Places, attributes: Sequence[Attribute], begun: Sequence[Calibration | None],
                prompts: int, done: bool) -> list[str]:
    """Raises DebiasError where files would be replaced that are not of this very calibration. A report whose profile
    was deleted is put aside, where `places` says so; returns a note of it."""
    if places.overwrite:
        return []
    there = places.profile.exists()
    own = [c for c in begun if c]
    if there and own and all(c.finished for c in own) and holds(_profile(host, places), own):
        return []
    others = [] if own and not done else [places.folder / name for name in file_names(attributes, prompts)]
    left = [path for path in others if path.exists()]
    if left and places.earlier and not there:
        return [_put_aside(host, places.folder, places.earlier)]
    for path in (places.profile, *left):
        if path.exists():
            belongs = ", and is not of the unfinished calibration" if own else ""
            raise DebiasError(f"{quoted(host.place(path))} exists already{belongs}. Choose another name or folder, or "
                              "allow overwriting.")
    return []


def _put_aside(host: Host, folder: Path, earlier: Path) -> str:
    """Rename a folder to the first name that is free; returns what to tell the user."""
    free = next(path for number in itertools.count(1) if not os.path.lexists(
        path := earlier if number == 1 else earlier.with_name(f"{earlier.name} {number}")))
    with writing("The report of an earlier calibration", host.place(free)):
        folder.rename(free)
    return f"The report of an earlier calibration of this name, whose profile is gone, is now {host.place(free)}."


def _profile(host: Host, places: Places) -> Profile:
    with _called(host, places.profile):
        return Profile.load(places.profile)


def _loaded(host: Host, work: Unfinished, again: bool) -> Calibration | None:
    assert work.path is not None
    with _called(host, work.path):
        return work.load(again)


def _as_done(places: Places, begun: Sequence[Calibration | None]) -> Places:
    """The places of the result, if any, that this very calibration left under another name."""
    done = [c for c in begun if c is not None and c.finished]
    for profile, folder in places.others if done and len(done) == len(begun) else ():
        try:
            if holds(Profile.load(profile), done):
                return replace(places, profile=profile, folder=folder)
        except (DebiasError, OSError):
            continue
    return places


@contextmanager
def _called(host: Host, path: Path) -> Iterator[None]:
    """Mistakes are said with the file's place as users know it: over a network, nobody must learn where that lies."""
    try:
        yield
    except DebiasError as error:
        raise DebiasError(placed(str(error), path, host.place)) from error


def measure(host: Host, outcome: Outcome, calibrations: Sequence[Calibration], prompts: Sequence[str],
            works: Sequence[Unfinished]) -> list[int | None]:
    """Measure what is left of all prompts; returns the evaluations of each, None where a part was measured before.
    An interruption, or an error of the model, is the outcome's `stopped`. Raises DebiasError."""
    evaluations: list[int | None] = []
    attributes = calibrations[0].attributes
    try:
        outcome.notes += [f"Warning: {said}." for said in blank.warnings(host.judges(attributes)[0], attributes)]
        for number, (calibration, prompt, work) in enumerate(zip(calibrations, prompts, works, strict=True)):
            resumed, before = bool(calibration.rounds), host.evaluations
            calibration.learn_from(calibrations[:number])
            outcome.calibrations.append(calibration)
            outcome.sheets.append((None, None))
            try:
                rounds = advance(host, calibration, prompt, work)
                host.say(_progress(calibrations, number, None))
                for current in rounds:
                    host.say(_progress(calibrations, number, current))
            finally:
                outcome.sheets[-1] = work.sheets(calibration)
                outcome.labelled += labelled_of(host, calibration, work)
            after = host.evaluations
            evaluations.append(None if resumed or before is None or after is None else after - before)
    except host.interruption as stopped:
        # Its frames hold the model and would be held by it: without them all goes at once, not when Python next looks.
        outcome.stopped, outcome.why = stopped.with_traceback(None), "Interrupted"
    except DebiasError:
        raise
    except Exception as error:  # whatever a model, a driver or another extension raises: hosts raise it again
        outcome.stopped, outcome.why = error, why(error)
    return evaluations


def why(error: Exception) -> str:
    """What ended the work, in words."""
    if out_of_memory(error):
        return "Memory ran out"
    return f"An error ended it ({type(error).__name__}: {short(str(error))})"


def labelled_of(host: Host, c: Calibration, work: Unfinished) -> list[Labelled]:
    """The pictures of a calibration's audit and verification with their labels."""
    groups = [[a.name, *a.names] for a in c.attributes]
    return [Labelled(f"{c.prompt}, {r.kind}" if c.held_out or c.plan.rounds else c.prompt, c.attributes, r,
                     [key_of(seed) for seed in r.seeds[:r.done]],
                     run_of(c.prompt, r.kind, [s.to_dict() for s in r.steerings], groups, host.fingerprint()),
                     work.thumbs(at), c.checks)
            for at, r in enumerate(c.rounds) if r.done and r.kind in (AUDIT, HELD_OUT)]


def _progress(calibrations: Sequence[Calibration], number: int, current: Round | None) -> Progress:
    calibration, most = calibrations[number], 0
    about = sum(c.about_left for c in calibrations[number:])
    for at, c in enumerate(calibrations):
        begun = sum(len(r.seeds) for r in c.rounds)
        over = at < number or bool(c.rounds) and c.rounds[-1].kind == HELD_OUT
        most += begun if over else max(c.plan.most_images, begun + c.plan.held_out)
    rounds = [r for c in calibrations for r in c.rounds]
    return Progress(calibration, current, len(calibrations), sum(r.done for r in rounds), most,
                    sum(r.seconds for r in rounds), about)


def _kept(host: Host, outcome: Outcome, name: str, places: Places) -> Outcome:
    """What a calibration leaves that ended early: its states, and a profile of its best rounds where there are any."""
    images = sum(r.done for c in outcome.calibrations for r in c.rounds)
    smaller = ", or begin anew with a smaller batch size" if out_of_memory(outcome.stopped) else ""
    outcome.notes.append(f"{outcome.why}. What was measured is kept, {images} images: {host.again} to continue"
                         f"{smaller}.")
    audited = [c for c in outcome.calibrations if c.rounds and c.audit.complete]
    if not audited:
        outcome.notes.append("The audit is not complete, so there is no profile yet.")
        return outcome
    outcome.profile = profile_of(name, audited, host.setting, _names(host, audited[0].attributes))
    with writing("The profile", host.place(places.best.parent)):
        outcome.path = outcome.profile.save(places.best, overwrite=True)
    outcome.notes.append(f"The best rounds so far: {host.place(outcome.path)}")
    return outcome


def _names(host: Host, attributes: Sequence[Attribute]) -> str:
    """What labels the pictures, as profiles say it."""
    classifiers, _ = host.judges(attributes)
    return ", ".join(getattr(classify, "name", type(classify).__name__) for classify in classifiers)
