"""What hostile and damaged input does: documents of every kind that sd-debias reads, mutated at random.

    python benchmarks/fuzz.py [--documents 100000] [--seed 0]

Each is read as a user's would be. It must be accepted or refused with a sentence of `DebiasError`; whatever is accepted
must make sense (bounded weights, whole counts, a report that renders, a file that loads as the same again), and none may
take more than two seconds of a core, a minute, or 200 MB more memory. The first that fails is printed with its seed, and
ends the run with 1. --only KIND reads nothing else; --out FOLDER keeps what was found in reliability.json, after Ctrl-C
that of the documents so far. Requests to the web UIs' routes need FastAPI, which comes with these hosts: pip install
fastapi.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Callable

import numpy as np
from fuzz_hosts import Comfy, Reached, Webui
from PIL import Image
from reliability import record

from sd_debias.core.attribute import Attribute, parse, together
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.calibration.labelled import FORM as CORRECTIONS
from sd_debias.core.calibration.labelled import Labelled, corrected, read_corrections
from sd_debias.core.calibration.round import Round
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.demo_model.model import CLASSIFIER
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import read_json, safe_name, write_atomic
from sd_debias.core.method.methods import METHODS, named
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.lookup import differences, entry_for
from sd_debias.core.profile.words import described, metadata
from sd_debias.core.report.figures import FORM, check_card
from sd_debias.core.report.page import card_markdown, card_page, report_page
from sd_debias.core.report.summary import summary
from sd_debias.core.schema import LARGEST_WEIGHT
from sd_debias.diffusers_host.sweep.folder import Request, SweepFolder
from sd_debias.diffusers_host.sweep.job import Wanted
from sd_debias.diffusers_host.sweep.prompts import read_prompts
from sd_debias.core.method.draw import Steering, rows

SLOWEST, LONGEST, MOST_MEMORY = 2.0, 60.0, 200 << 20  # seconds of a core, seconds, bytes
ODD = [None, True, False, 0, -1, 1, 7, 0.5, -0.5, 1e30, -1e30, 1e-300, 2**63, 2**70, 10**400, math.nan, math.inf, "", " ",
       "x", "a" * 300, "\ud800", "\u202egpj", "\0", "\n", "<script>alert(1)</script>", "../../etc/passwd", "{prompt}",
       "{group}", "{", "'; DROP", [], [[]], [0], ["a"], [None] * 3, [1e30, 1], {}, {"a": 1}, {"name": "x"}, [{}] * 3]
WORDS = ["gender", "skin_tone", "age", "a", "b", "|", "=", ":", "1", "70", "30", "nan", "-1", "1e999", "0", " ", "\t",
         "\n", "\u533b\u751f", "\u202e", "{prompt}", ".json", "e" * 500, "{", "}", ",", "'", "\ud800", "\U0001f600"]


# --- the kinds of input ----------------------------------------------------------------------------------------------

def profile(document) -> None:
    """A profile, used for everything that a profile is used for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Profile.from_dict(document)
    for entry in found.entries:
        assert all(abs(w) <= LARGEST_WEIGHT for s in entry.steerings for w in (*s.weights, s.push))
        assert all(math.isclose(math.fsum(s.probabilities), 1, abs_tol=2e-3) for s in entry.steerings if s.probabilities)
        for m in (*(entry.before or ()), *(entry.after or ()), *(m for r in entry.rounds for m in r["attributes"])):
            assert m.get("n") in (None, sum(m["counts"])), "a number of images that the counts are not"
            assert all(math.isclose(share, count / sum(m["counts"]), abs_tol=1e-3)
                       for share, count in zip(m.get("shares") or (), m["counts"])), "shares that the counts are not"
            assert all(low <= high for low, high in m.get("intervals") or ()), "an interval that ends before it begins"
        assert all(math.isclose(math.fsum(e["shares"]), 1, abs_tol=2e-3) for e in entry.expected or ()), "shares"
        assert all(isinstance(n, int) or n == int(n) and n >= 0
                   for m in entry.before or () for n in m["counts"]), "whole counts"
        if found.method.spend == "draw" or not any(s.probabilities for s in entry.steerings):
            assert np.isfinite(rows(entry.steerings, range(3)).numpy()).all()
        for acted in (True, False):
            keys = metadata(found, entry.prompt, dict(acted=acted, steps=3, skipped=1), seed=5)
            assert all(isinstance(text, str) for text in keys.values())
    entry_for(found, "a prompt that nobody calibrated")
    differences(found, {**found.setting, "steps": 3})
    described(found)
    report_page(found)
    summary(found)
    again = Profile.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.entries == found.entries and again.hash == found.hash


def state(document) -> None:
    """The state of an unfinished calibration."""
    path = folder / "state.json"
    path.write_text(json.dumps(document), "utf-8", "surrogatepass")
    found = Calibration.load(path)
    assert isinstance(found.ending, str)
    assert all(math.isfinite(w) for s in found.steerings for w in s.weights)
    for r in found.rounds:
        assert len(set(r.seeds)) == len(r.seeds), "an image that is counted twice"
    held_out = [{*r.seeds} for r in found.rounds if r.kind == "held-out"]
    assert not any(own & {*r.seeds} for own in held_out for r in found.rounds if r.kind != "held-out"), "no test"
    found.warnings  # noqa: B018
    found.next_round()


def attribute(document) -> None:
    """An attribute's file."""
    found = Attribute.from_dict(document)
    assert len(found.groups) >= 2 and math.isclose(math.fsum(found.target), 1) and min(found.target) >= 0
    assert len({" ".join(name.casefold().split()) for name in found.names}) == len(found.groups), "a group twice"
    assert found.with_target(f"{found.names[0]} 100").target[0] == 1, "a group that a target cannot name"
    assert Attribute.from_dict(found.to_dict()) == found


def attribute_text(text: str) -> None:
    """Attributes as they are typed, several together."""
    found = together([parse(line) for line in text.split("&")])
    assert all(len(a.groups) >= 2 and math.isclose(math.fsum(a.target), 1) for a in found)


def labels(document) -> None:
    """The file that maps a judge's labels to groups; no model is loaded before it is checked."""
    ImageClassifier(CLASSIFIER, parse("gender"), document)


def name(text: str) -> None:
    """A name of a profile: it must be a file of its own folder, and the system must take it."""
    path = folder / f"{safe_name(text)} (unfinished).json"
    assert path.parent == folder and path.resolve().parent == folder.resolve()
    write_atomic(path, "x").unlink()


def file(document) -> None:
    """A profile's file, damaged as files are."""
    path = folder / "profile.json"
    path.write_bytes(document)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Profile.load(path)


def plan(document) -> None:
    """The numbers of a calibration."""
    found = Plan(**document)
    assert all(type(n) is int for n in (found.images, found.rounds, found.held_out, found.batch_size, found.seed))
    Calibration("a doctor", [parse("gender")], named(), found).next_round()


def card(document) -> None:
    """A bias card: its page and its Markdown."""
    found = check_card(document)
    assert card_page([found]).count("<script") == 0
    card_page([found, found])
    assert isinstance(card_markdown(found), str)


def sweep(document) -> None:
    """A sweep's folder: the request, and the states of its prompts."""
    request, states = document
    place = folder / "sweep"
    place.mkdir(parents=True, exist_ok=True)
    (place / "sweep.json").write_text(json.dumps(request), "utf-8", "surrogatepass")
    (place / "prompts").mkdir(exist_ok=True)
    for number, state in enumerate(states):
        (place / "prompts" / f"0-{number}.json").write_bytes(state)
    for job in SweepFolder(place).jobs(0):
        for r in job.calibration.rounds:
            assert all(len(own) == r.done for own in r.labels)


def prompts(document) -> None:
    """A list of prompts, as text or as a table."""
    path = folder / "prompts.csv"
    path.write_bytes(document)
    assert all(row.prompt.strip() for row in read_prompts(str(path)))


def corrections(document) -> None:
    """A file of labels corrected by hand, applied to three images."""
    path = folder / "corrections.json"
    path.write_text(json.dumps(document), "utf-8", "surrogatepass")
    gender = parse("gender")
    pictures = Labelled("x", (gender,), Round("audit", (Steering.none(2),), (1, 2, 3), [[0, 1, -1]]),
                        ["seed 1", "seed 2", "seed 3"], "a run")
    said = corrected([pictures], read_corrections(path))
    assert said and set(pictures.round.labels[0]) <= {-1, 0, 1}
    if pictures.round.shows(0):
        pictures.distribution(0)


def checks(document) -> None:
    """What a check of a judge found, as profiles, cards and the web UIs keep it."""
    found = Check.from_dict(document)
    assert all(math.isfinite(share) and 0 <= low <= share <= high <= 1 for share, low, high in found.right)
    assert all(kept <= of for kept, of in found.obeyed or ()), "a model that obeys more often than it is asked"
    assert len(set(found.groups)) == len(found.groups) and found.attribute.strip() and all(map(str.strip, found.groups))
    assert all("\n" not in line for line in (*found.lines, *found.warnings)), "a line"
    found.fits(parse("gender"))
    assert Check.from_dict(found.to_dict()) == found


def folder_state(document) -> None:
    """What an interrupted audit of a folder left."""
    audit = an_audit()
    path = audit.state
    path.write_text(json.dumps(document), "utf-8", "surrogatepass")
    found = audit.run()
    assert found.round.done == len(found.keys) == 3 and len(set(found.keys)) == 3, "every image once"
    assert all(isinstance(label, int) and -3 <= label < 2 for own in found.round.labels for label in own)
    assert not found.round.shows(0) or found.distribution(0).n <= 3
    found.table()


# --- mutation --------------------------------------------------------------------------------------------------------

def places(value, at=()):
    yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*at, key))


def mutated(document, chance: random.Random):
    """A copy with one to four places replaced, removed, repeated or moved."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 2, 4))):
        found = [place for place in places(document) if place]
        if not found:
            return document
        *steps, last = chance.choice(found)
        holder = document
        for step in steps:
            holder = holder[step]
        kind = chance.random()
        if kind < 0.15 and isinstance(holder, dict):
            del holder[last]
        elif kind < 0.25 and isinstance(holder, list):
            holder.insert(last, copy.deepcopy(holder[last]))
        elif kind < 0.4 and isinstance(holder[last], (int, float)) and abs(holder[last]) < 1e300:
            holder[last] = holder[last] * chance.choice((-1, 0, 2, 1e6, 0.5)) + chance.choice((0, 1, 1e-9))
        elif kind < 0.5 and isinstance(holder[last], str):
            holder[last] += chance.choice(WORDS)
        elif kind < 0.55:
            for _ in range(chance.choice((5, 40, 100))):
                holder[last] = [holder[last]]
        else:
            holder[last] = copy.deepcopy(chance.choice(ODD))
    return document


def damaged(text: bytes, chance: random.Random) -> bytes:
    """A file cut off, with bytes flipped, or with a piece doubled."""
    at, end = sorted(chance.randrange(len(text)) for _ in range(2))
    return chance.choice((text[:at], text[:at] + text[end:], text[:end] + text[at:], b"[" * 100_000 + text,
                          text[:at] + bytes([chance.randrange(256)]) + text[at + 1:]))


def typed(_, chance: random.Random) -> str:
    return "".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 12)))


def seeds_of() -> dict[Callable, tuple[list, Callable, float]]:
    """By what reads it: valid documents to begin with, how they are mutated, and their share of all."""
    shipped = read_json(Path(__file__).resolve().parent.parent / "profiles" / "demo-gender.json")
    small = {**shipped, "entries": shipped["entries"][:2]}
    small.pop("hash")
    chance = np.random.default_rng(0)
    made = []
    for method, attributes in ((METHODS["default"], "gender&skin_tone_3"), (METHODS["shift"], "gender")):
        calibration = Calibration("a doctor", [parse(text) for text in attributes.split("&")], method, Plan(20, 2, 20))
        for _ in calibration.run(
                lambda weights, seeds: list(seeds),
                lambda seen, c=calibration: [chance.dirichlet(np.ones(len(a.groups)), len(seen)) for a in c.attributes],
                lambda seen: np.full(len(seen), 0.5)):
            pass
        calibration.save(folder / "state.json")
        made.append((calibration, read_json(folder / "state.json")))
    profiles = [small, *(profile_of("x", [c], {"steps": 3}, "x", [5]).to_dict() for c, _ in made)]
    nodes, webui = Comfy(folder / "comfyui", small), Webui(folder / "webui", small)
    found = {
        profile: (profiles, mutated, 0.22), state: ([document for _, document in made], mutated, 0.16),
        attribute: ([parse("age").to_dict()], mutated, 0.08), attribute_text: ([None], typed, 0.08),
        labels: ([{"a": "man", "b": "woman"}], mutated, 0.04), name: ([None], typed, 0.04),
        file: ([json.dumps(small).encode()], damaged, 0.04),
        card: ([a_card(made[0][0])], mutated, 0.04), sweep: ([a_sweep()], sweep_mutated, 0.02),
        prompts: ([b"subject,template,targets,states\ndoctor,a {subject},gender = 70:30,\nwoman,,,gender=woman\n"],
                  damaged, 0.02),
        plan: ([dict(images=20, rounds=2, held_out=20, tolerance=0.1, batch_size=4, seed=5, confidence=0.5)],
               mutated, 0.04),
        corrections: ([dict(form=CORRECTIONS, runs={"a run": {"gender": {"seed 1": "woman", "seed 3": None}}})],
                      mutated, 0.03),
        checks: ([Check("gender", ("man", "woman"), ((9, 1), (2, 8)), (0, 1), "a judge", ("a man", "a woman"),
                        ((9, 10), (9, 10))).to_dict()], mutated, 0.03),
        folder_state: ([read_json(an_audit(2).state)], mutated, 0.02),
        nodes.workflow: (nodes.documents(), lambda document, chance: nodes.mutated(document, chance, mutated), 0.04),
        webui.infotext: (webui.valid, infotext_mutated, 0.03)}
    return found


def infotext_mutated(text: str, chance: random.Random) -> str:
    """An image's infotext with a value replaced, cut or doubled, or garbage."""
    kind = chance.random()
    if kind < 0.15:
        return f"{typed(None, chance)}\nSteps: 20, Debias profile: {typed(None, chance)}, Debias {typed(None, chance)}"
    if kind < 0.3:
        return damaged(text.encode("utf-8", "surrogatepass"), chance).decode("utf-8", "replace")
    if kind < 0.4:
        return text
    head, line = text.rsplit("\n", 1)
    parts = line.split(", ")
    at = chance.randrange(len(parts))
    parts[at] = f"{parts[at].split(':')[0]}: {chance.choice((*map(str, ODD), *WORDS))[:400]}"
    return f"{head}\n{', '.join(parts)}"


def an_audit(most: int = 3) -> FolderAudit:
    """An audit of a folder of three images; with `most` below, one that was interrupted after so many."""
    place = folder / "pictures"
    if not place.exists():
        place.mkdir()
        for value in (0, 30, 60):
            Image.fromarray(np.arange(value, value + 192, dtype=np.uint8).reshape(8, 8, 3)).save(place / f"{value}.png")
    judge = lambda images: np.tile([[0.2, 0.8]], (len(images), 1))  # noqa: E731
    audit = FolderAudit(place, [parse("gender")], [judge], state=folder / "audit.json", batch_size=1)
    if most < 3:
        for first in range(most):
            audit._label(first)
        audit._save()
    return audit


def a_card(calibration: Calibration) -> dict:
    entry = profile_of("x", [calibration], {}, "x", [5]).to_dict()["entries"][0]
    return dict(form=FORM, model="x", setting=dict(model="x", steps=3), classifier="x", software="x", created="x",
                cost=dict(images=5, seconds=1.0, evaluations=None),
                sets=[dict(attributes=[a.to_dict() for a in calibration.attributes], plan="x", checks=[],
                           method=calibration.method.to_dict(),
                           rows=[dict(prompt=entry["prompt"], subject="doctor", entry=entry, error=None)],
                           explicit=[dict(prompt="a woman", states={"gender": "woman"}, shown={"gender": [3, 4]})])])


def a_sweep() -> tuple[dict, list[bytes]]:
    """A sweep of two audits, measured by halves."""
    place = folder / "a sweep"
    request = Request(("demo",), (Wanted("a", 0), Wanted("b", 0)), ((parse("gender"),),), METHODS["default"],
                  Plan(20, rounds=0, held_out=0, batch_size=5))
    states = []
    for job in SweepFolder(place, request).jobs(0):
        current = job.calibration.next_round()
        current.extend(Round(current.kind, current.steerings, current.seeds[:10], [[0, 1, -1, 0, 1] * 2], [0.5] * 10))
        states.append(json.dumps(job.to_dict()).encode())
    return read_json(place / "sweep.json"), states


def sweep_mutated(document, chance: random.Random):
    """The request is damaged, or a state, or a state as a file."""
    request, states = document
    kind = chance.random()
    if kind < 0.3:
        return mutated(request, chance), states
    if kind < 0.6:
        return request, [damaged(state, chance) for state in states]
    return request, [json.dumps(mutated(json.loads(state), chance)).encode() for state in states]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--documents", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", metavar="KIND", help="documents of this kind alone, such as profile")
    options.add_argument("--out", type=Path, metavar="FOLDER",
                         help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    kinds = seeds_of()
    readers = [reader for reader in kinds if given.only in (None, reader.__name__)]
    if not readers:
        options.error(f"Expected --only to be one of {', '.join(r.__name__ for r in kinds)}, got {given.only!r}.")
    shares = [kinds[reader][2] for reader in readers]
    accepted, refused, slowest, spent = Counter(), Counter(), 0.0, Counter()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    done = memory = 0
    try:
        for number in range(given.seed, given.seed + given.documents):
            chance = random.Random(number)
            reader = chance.choices(readers, shares)[0]
            documents, mutate, _ = kinds[reader]
            document = mutate(chance.choice(documents), chance)
            started, at = time.perf_counter(), time.process_time()
            try:
                reader(document)
                accepted[reader.__name__] += 1
            except Reached:
                accepted[reader.__name__] += 1
            except DebiasError as error:
                said = str(error)
                refused[reader.__name__] += 1
                if not said or len(said) > 1500 or "\n" in said or not said.isprintable():
                    return failed(number, reader, document, f"a message of {len(said)} characters: {said[:300]!r}")
            except Exception as error:
                return failed(number, reader, document, repr(error))
            took = time.process_time() - at
            slowest, spent[reader.__name__] = max(slowest, took), spent[reader.__name__] + took
            if took > SLOWEST or time.perf_counter() - started > LONGEST:
                return failed(number, reader, document, f"{took:.1f} seconds of a core")
            # ru_maxrss is in kB on Linux.
            memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            if memory > MOST_MEMORY:
                return failed(number, reader, document, f"{memory >> 20} MB more memory than at the beginning")
            done = number + 1 - given.seed
            if done % 10_000 == 0:
                print(f"{done:,} documents, {sum(accepted.values()):,} accepted, {memory >> 20} MB more, "
                      f"{done / (time.perf_counter() - began):.0f} a second", flush=True)
    except KeyboardInterrupt:
        print(f"Interrupted after {done:,} documents.", flush=True)
    found = dict(documents=done, first_seed=given.seed, slowest_seconds=round(slowest, 2),
                 more_memory_mb=memory >> 20, accepted=dict(accepted), refused=dict(refused))
    print(json.dumps(found, indent=1), {kind: f"{1000 * seconds / (accepted[kind] + refused[kind]):.1f} ms" for
                                        kind, seconds in spent.most_common()})
    if given.out:
        record("fuzz", found, given.out)
    return 0


def failed(number: int, reader: Callable, document, why: str) -> int:
    print(f"Document {number} ({reader.__name__}): {why}\n{repr(document)[:2000]}", file=sys.stderr)
    import traceback
    traceback.print_exc()
    return 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sys.exit(main())
