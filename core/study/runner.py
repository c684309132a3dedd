"""An audit or a calibration on any host: which prompts, what is kept and continued, what is said, written and saved.

A host gives a `Host`, which makes images and labels them. Everything else is here, so that a calibration is the same
on every host: its checks, its files, its words.
"""
from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Sequence


from ..attribute import Attribute, together
from ..errors import DebiasError, out_of_memory, short
from ..files import safe_name, write_atomic, writing
from ..judge import blank, name_of
from ..judge.check import Check, check_same
from ..calibration.labelled import Labelled, run_of
from ..method.methods import METHODS, Method
from ..profile.file import same_prompt
from ..calibration.loop import Calibration
from ..calibration.round import AUDIT, HELD_OUT
from .host import Host, advance
from .outcome import Outcome
from .places import Places, as_done, check_free, hold, loaded, profile_at
from .progress import progress_of
from ..calibration.plan import Plan
from ..calibration.result import profile_of
from .unfinished import Unfinished, key_of



def audit(host: Host, prompts: Sequence[str], attributes: Sequence[Attribute], count: int, batch_size: int,
          seed: int = 0, confidence: float = 0.0, checks: Sequence[Check | None] = ()) -> Outcome:
    """Measure the shares of `count` images of each prompt, corrected if the judge was checked. Changes and
    writes nothing. Raises DebiasError; any other error is the outcome's `stopped`."""
    plan = Plan(count, rounds=0, held_out=0, batch_size=batch_size, seed=seed, confidence=confidence)
    outcome, attributes = Outcome(), together(attributes)
    if any(checks):
        check_same(host.judges(attributes)[0], checks)
    measure(host, outcome, [Calibration(host.known(prompt), attributes, METHODS["default"], plan, checks=checks)
                            for prompt in prompts], list(prompts), [Unfinished(None) for _ in prompts])
    if not outcome.measured and not outcome.complete:
        outcome.notes.append(f"{outcome.why} before an image was measured.")
    return outcome


def calibrate(host: Host, prompts: Sequence[str], attributes: Sequence[Attribute], method: Method, plan: Plan,
              name: str, places: Places, checks: Sequence[Check | None] = ()) -> Outcome:
    """Calibrate every prompt by itself, verify, and save one profile with its report.

    After an interruption or an error of the host, what was measured is kept, and the same call continues. The best
    rounds so far are saved as the profile "NAME (unfinished)"; an existing profile NAME is not changed. `checks` of
    the judges, one per attribute, correct the measured shares. Raises DebiasError; any other error is the
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
        hold(host, places, held)
        works = [Unfinished(places.states, name, dict(prompt=prompt, **asked)) for prompt in prompts]
        begun = [loaded(host, work, places.again or places.overwrite) for work in works]
        places = as_done(places, begun)
        _note_of_others(host, works, begun)
        for number, c in enumerate(begun):
            if c:
                c.learn_from([before for before in begun[:number] if before])
        saved = places.profile.exists() and not places.overwrite and any(begun)
        kept = check_free(host, places, attributes, begun, len(prompts), all(work.done for work in works))
        calibrations = [c or Calibration(prompt, attributes, method, plan, checks=checks)
                        for prompt, c in zip(known, begun, strict=True)]
        outcome = Outcome(notes=kept)
        if saved and not all(begun):  # ended while its states were removed
            outcome.calibrations, outcome.profile = [c for c in begun if c], profile_at(host, places)
        else:
            evaluations = measure(host, outcome, calibrations, prompts, works)
            if not outcome.complete:
                return _kept(host, outcome, name=best, places=places)
            outcome.profile = profile_at(host, places) if saved else \
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
                                                       f"starts again ({differs})"]))


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
                host.say(progress_of(calibrations, number, None))
                for current in rounds:
                    host.say(progress_of(calibrations, number, current))
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
    """The images of a calibration's audit and verification with their labels."""
    groups = [[a.name, *a.names] for a in c.attributes]
    return [Labelled(f"{c.prompt}, {r.kind}" if c.held_out or c.plan.rounds else c.prompt, c.attributes, r,
                     [key_of(seed) for seed in r.seeds[:r.done]],
                     run_of(c.prompt, r.kind, [s.to_dict() for s in r.steerings], groups, host.fingerprint()),
                     work.thumbs(at), c.checks)
            for at, r in enumerate(c.rounds) if r.done and r.kind in (AUDIT, HELD_OUT)]


def _kept(host: Host, outcome: Outcome, name: str, places: Places) -> Outcome:
    """What a calibration leaves that ended early: its states, and a profile of its best rounds where there are any."""
    images = sum(r.done for c in outcome.calibrations for r in c.rounds)
    smaller = ", or start again with a smaller batch size" if out_of_memory(outcome.stopped) else ""
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
    """What labels the images, as profiles say it."""
    classifiers, _ = host.judges(attributes)
    return ", ".join(map(name_of, classifiers))
