"""What the benchmarks share: jobs in parallel processes whose results are kept as they come, so that a run goes on where
it was stopped; and the demo model that they measure.
"""
from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import queue
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: waiting threads sleep, not spin

import numpy as np
import torch

from pages import DOCS, ROOT, answer

from sd_debias.core.attribute import Attribute
from sd_debias.demo_model import model
from sd_debias.core.distribution import summarise
from sd_debias.core.files import write_atomic
from sd_debias.core.calibration.plan import seeds_of
from sd_debias.core.version import VERSION
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.core.method.draw import Steering, rows
from sd_debias.diffusers_host.workbench import Workbench, demo, model_hash

# A test's seeds lie so far behind a prompt's first one, after those of a calibration and its verification.
TEST_SEED = 70_000_000
HELD_OUT = 400
# Of pages that compare draws with the floor of independent images.
FLOOR = """"The floor" is the 95 % point of a fair model's independent images; fair draws exceed it in fewer than 5 of 100 runs ([how often](sure.md#floors-of-draws))."""

bench: Workbench  # of this process


def machine() -> str:
    """The machine a figure was made on, in words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"


def code() -> str:
    """The version that measures, and its commit where this is a checkout."""
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
                                check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return VERSION
    return f"{VERSION} ({commit})"


def start_worker(threads: int, opened: Callable[[], Workbench] = demo) -> None:
    """Load the demo model, or what else is opened."""
    global bench
    torch.set_num_threads(threads)
    bench = opened()
    bench.generate_anew, bench.generate = bench.generate, remembered


_made: dict[tuple, tuple[np.ndarray, bool, bool]] = {}  # image, did guidance act, is it not finite


def remembered(prompt: str, seeds: Sequence[int], attributes: Sequence[Attribute] = (), steerings: Sequence[Steering] = (),
               method: Method = METHODS["default"], strength: float = 1.0, weights=None,
               encoded=None) -> tuple[np.ndarray, dict]:
    """`Workbench.generate`, but an image of a prompt that was made before is not made again: it is the same in any batch.

    Cases have many in common: all unguided ones, and those whose seeds drew the same group.
    """
    if weights is not None:
        weights = torch.as_tensor(weights, dtype=torch.float32).expand(len(seeds), -1) * strength
    else:
        weights = rows(steerings, seeds, strength) if steerings else torch.zeros(len(seeds), 0)
    case = prompt, repr((bench.setting, type(bench.pipe.scheduler), bench.pipe.scheduler.config))
    if _made and next(iter(_made))[0] != prompt:
        forget()
    how = repr((attributes, method))
    keys = [(*case, seed, how, row.numpy().tobytes()) if row.any() else (*case, seed) for seed, row in zip(seeds, weights)]
    due = [i for i, key in enumerate(keys) if key not in _made]
    if due:
        images, info = bench.generate_anew(prompt, [seeds[i] for i in due], attributes, method=method,
                                           weights=weights[due], encoded=encoded)
        broken = set(info["broken"])
        _made.update((keys[i], (image, info["acted"], at in broken)) for at, (i, image) in enumerate(zip(due, images)))
    images, acted, broken = zip(*(_made[key] for key in keys))
    return np.stack(images), dict(acted=any(acted), broken=[i for i, odd in enumerate(broken) if odd])


def forget() -> None:
    """Make all images anew from here on, as timings need it."""
    _made.clear()


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--occupations", nargs="+", metavar="NAME", help="measure these alone, of those it measures")
    options.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    options.add_argument("--fresh", action="store_true",
                         help="start again; the results that are there are kept as rows/NAME.old.json.gz")
    out(options)
    return options


def out(options: argparse.ArgumentParser) -> None:
    """Where results go: not over the published ones, unless that is asked for."""
    options.add_argument("--out", type=Path, default=ROOT / "results", metavar="FOLDER",
                         help="folder of the results, where a run goes on as well; the published ones are in docs "
                              "(default: results)")


def measured(images: np.ndarray, prompt: str, attributes: Sequence[Attribute], seeds: Sequence[int],
             compared: bool = True) -> dict:
    """What images of these seeds show, and how far they are from the unguided ones of the same seeds.

    attributes  shares with their statistics, by name
    fidelity    share of images that show the prompt's occupation; None where the model gives occupations no look

    and, where they are compared with the unguided images, which are then made:

    distance    mean 1 - cosine between CLIP's features of an image and of the unguided one, where there is a CLIP
    regrouped   share of images that show another group, of any attribute, than the unguided one
    """
    classifiers = [bench.classifier(attribute) for attribute in attributes]
    shown = [classify(images).argmax(1) for classify in classifiers]
    found = dict(
        attributes={a.name: summarise(np.bincount(labels, minlength=len(a.groups)), a.target).to_dict()
                    for a, labels in zip(attributes, shown)},
        fidelity=float(np.mean(bench.fidelity(images, prompt))) if bench.fidelity else None)
    if compared:
        plain = bench.generate(prompt, seeds)[0]
        unguided = [classify(plain).argmax(1) for classify in classifiers]
        found |= dict(regrouped=float(np.mean(np.any([a != b for a, b in zip(shown, unguided)], axis=0))))
        if bench.clip is not None:
            features, before = (bench.clip.embed_images(pictures).numpy() for pictures in (images, plain))
            found |= dict(distance=float(np.mean(1 - (features * before).sum(1))))
    return found


def fresh(prompt: str, n: int = HELD_OUT, block: int = 0) -> range:
    """n seeds of a prompt's own, since prompts that share noise err alike; no decision was made on them."""
    first = seeds_of(prompt) + TEST_SEED + block
    return range(first, first + n)


def tested(prompt: str, attributes: Sequence[Attribute], method: Method, steerings: Sequence[Steering],
           seeds: range, compared: bool = True) -> dict:
    """`measured` for images of seeds that neither a calibration nor its verification has used."""
    return measured(bench.generate(prompt, seeds, attributes, steerings, method)[0], prompt, attributes, seeds, compared)


def below_floor(found: dict, attribute: str) -> bool:
    """Is the KL of `measured` within what a perfectly fair model shows by chance?"""
    return found["attributes"][attribute]["kl"] <= found["attributes"][attribute]["kl_floor95"]


def run(name: str, jobs: Sequence[dict], measure: Callable[[dict], tuple[dict, str]], tables: Callable[[list[dict]], str],
        options: argparse.Namespace, opened: Callable[[], Workbench] = demo, folder: Path = model.FOLDER) -> list[dict]:
    """Measure every job that rows/NAME.json.gz lacks in the folder `--out`; the results, with the page NAME.md made of them.

    `measure(job)` returns what was found, which is kept beside the job's own entries, what measured it and of which
    weights, and a line to print. Results of another model, say one that was trained anew, are not kept. `opened()` is the
    model in `folder`, the demo model by default.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    store, weights = store_of(name, options.out), dict(model_hash=model_hash(folder))
    if options.fresh and store.exists():
        store.replace(store_of(f"{name}.old", options.out))
    if options.occupations:
        known = sorted(set(map(_prompt, jobs)))
        if unknown := set(options.occupations) - set(known):
            raise SystemExit(f"{', '.join(sorted(unknown))}: not among what this measures, which is {', '.join(known)}.")
        jobs = [job for job in jobs if _prompt(job) in options.occupations]
    stored = kept(name, options.out)
    results = [result for result in stored if weights.items() <= result.items()]
    if len(results) < len(stored):
        print(f"{len(stored) - len(results)} results in {store} are of another model: measured anew.", flush=True)
    due = [job for job in jobs if not any(job.items() <= result.items() for result in results)]
    print(f"{len(jobs) - len(due)} of {len(jobs)} results are in {store}; --fresh starts again. Measuring "
          f"{len(due)} in {options.jobs} processes.", flush=True)
    # Each prompt has a process of its own, which remembers its images.
    prompts = list(dict.fromkeys(map(_prompt, due)))
    if results:
        keep(name, results, tables, options.out)  # the page may have changed where no figure is due
    measuring = code()
    done, context, threads = queue.SimpleQueue(), multiprocessing.get_context("spawn"), os.cpu_count() // options.jobs
    with ExitStack() as stack:
        pools = [stack.enter_context(context.Pool(1, start_worker, (max(1, threads), opened))) for _ in range(options.jobs)]
        for job in due:
            pools[prompts.index(_prompt(job)) % len(pools)].apply_async(
                _measured, ((measure, job),), callback=done.put, error_callback=done.put)
        for at, _ in enumerate(due, 1):
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            result, line = outcome
            results.append({**result, **weights, "code": measuring})
            keep(name, results, tables, options.out)
            print(f"{len(jobs) - len(due) + at} of {len(jobs)}: {line}", flush=True)
        for pool in pools:
            pool.close()
            pool.join()
    return results


def store_of(name: str, folder: Path) -> Path:
    """The file of a benchmark's rows: ten times smaller than as text."""
    return folder / "rows" / f"{name}.json.gz"


def kept(name: str, folder: Path = DOCS) -> list[dict]:
    """The rows of a benchmark that are there so far."""
    store = store_of(name, folder)
    return json.loads(gzip.decompress(store.read_bytes())) if store.exists() else []


def keep(name: str, results: Sequence[dict], tables: Callable[[list[dict]], str], folder: Path) -> None:
    """Write rows/NAME.json.gz and the page NAME.md, which says what measured the rows."""
    content = json.dumps(results, separators=(",", ":")).encode()
    write_atomic(store_of(name, folder), gzip.compress(content, mtime=0))  # the same rows are the same file
    made = Counter((r["model_hash"][:12], r.get("code", "an unnamed version")) for r in results)
    rows = "; ".join(f"{n} by {version}, model {weights}" for (weights, version), n in made.items())
    title, rest = tables(results).split("\n", 1)
    write_atomic(folder / f"{name}.md", f"{title}\n\n{answer(name)}\n{rest}\nRows: {rows}.\n")


def on_faces(way: str) -> str:
    """A table of what a way reached on the second world, for the page of what it reaches on the demo model."""
    text = ["""On a [model of faces](faces_world.md), where groups overlap, images obey less and judges err, the same reaches less. 12 occupations, N = 400 images each:

| attribute | farthest share from its target, before: mean, points | after: mean, most | within 5 points | images: mean |
|---|---|---|---|---|"""]
    results = [r for r in kept("faces_world") if r["way"] == way]
    for case, name in dict.fromkeys((r["case"], name) for r in results for name in r["attributes"]):
        own = [r for r in results if r["case"] == case]
        before, after = ([100 * np.abs(np.subtract(m[when]["shares"], m["target"])).max() for r in own
                          for m in [r["attributes"][name]]] for when in ("before", "after"))
        what = case if len(own[0]["attributes"]) == 1 else f"{case}: {name}"
        text.append(f"| {what} | {np.mean(before):.1f} | {np.mean(after):.1f}, {max(after):.1f} | {sum(off <= 5 for off in after)} of {len(own)} "
                    f"| {np.mean([r.get('images', 0) for r in own]):.0f} |")
    return "\n".join(text)


def whole(results: Sequence[dict], each: int) -> tuple[list[dict], list[str]]:
    """The results of occupations that have all their `each`, or all results where none has, and those occupations: of a
    run that was stopped, nothing is averaged over more occupations than the rest.
    """
    count = Counter(r["occupation"] for r in results)
    subjects = [subject for subject, n in count.items() if n == each] or list(count)
    return [r for r in results if r["occupation"] in subjects], subjects


def _prompt(job: dict) -> str:
    return job.get("occupation") or job["prompt"]


def _measured(task: tuple[Callable, dict]) -> tuple[dict, str]:
    measure, job = task
    found, line = measure(job)
    return {**job, **found}, f"{', '.join(map(str, job.values()))}: {line}"
