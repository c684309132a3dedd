"""How many small changes of `core` the tests notice: docs/mutation.md.

    python benchmarks/mutation.py                       # the tests of this checkout
    python benchmarks/mutation.py --tests CHECKOUT --name before

Cosmic Ray's operators change one place of `core`; seeded, the same places for every run. A change is
killed if a test file fails that runs the changed line (tests/core and tests/contracts, without what
is marked slow; a time-out counts too). Results are kept in docs/mutation.json, one entry a name.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Sequence
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("test_fire.py", "test_soak.py", "test_photographs.py")
SECONDS = 900  # of one test file
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def places() -> list[tuple[str, str, int, int]]:
    """(file, operator, occurrence, line) of every change that can be made of core."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.plugins import get_operator, operator_names
    found = []
    # Variables need names; `|` stands in annotations, which nothing runs.
    operators = [name for name in operator_names() if "Variable" not in name and "_BitOr_" not in name]
    for file in sorted((ROOT / "core").rglob("*.py")):
        tree = get_ast(file.read_text("utf-8"))
        for name in operators:
            found += [(str(file.relative_to(ROOT)), name, i, line)
                      for i, line in enumerate(_lines(tree, get_operator(name)()))]
    return found


def _lines(tree, operator) -> list[int]:
    """Lines of the places that an operator can change."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop(0)
        found += [position[0][0] for position in operator.mutation_positions(node)]
        waiting = list(getattr(node, "children", ())) + waiting
    return found


def changed(file: str, operator: str, occurrence: int) -> str | None:
    """The file's text with that change; None where there is none."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
    return mutate_code((ROOT / file).read_text("utf-8"), get_operator(operator)(), occurrence)


def copied(tests: Path, folder: Path) -> Path:
    """This checkout's product with another one's tests."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "results", "tests"))
    shutil.copytree(tests / "tests", folder / "tests")
    shutil.copy(tests / "pyproject.toml", folder / "pyproject.toml")
    return folder


def run(folder: Path, test: str, *more: str, without: Sequence[str] = (), first: bool = True) -> list[str] | None:
    """Tests of a test file that fail, the first alone or all; None for a time-out."""
    command = [sys.executable, *more, "-m", "pytest", test, "-q", "-rfE", *["-x"] * first, "-m", "not slow",
               "-p", "no:cacheprovider", *(f"--deselect={one}" for one in without)]
    try:
        done = subprocess.run(command, cwd=folder, env=QUIET, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode in (0, 5):
        return []
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M) or [test]


def covered(folder: Path, test: str) -> tuple[dict[str, list[int]], list[str]]:
    """(lines of core that a test file runs, by file; its tests that fail without a change)."""
    here = sys.path.pop(0)  # whose coverage.py is another
    from coverage import CoverageData
    sys.path.insert(0, here)
    data = folder / f"coverage-{Path(test).stem}"
    failing = run(folder, test, "-m", "coverage", "run", f"--data-file={data}", "--include=core/*", first=False)
    if failing is None or test in failing:
        raise SystemExit(f"{test} does not run without a change.")
    read = CoverageData(str(data))
    read.read()
    return {str(Path(file).resolve().relative_to(folder.resolve())): sorted(read.lines(file) or ())
            for file in read.measured_files()}, failing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=Path, default=ROOT, help="the checkout whose tests run")
    parser.add_argument("--name", default="today", help="of the entry")
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results", metavar="FOLDER")
    options = parser.parse_args()
    every, chance = places(), random.Random(options.seed)
    chance.shuffle(every)
    # One change a line: of an operator's eleven substitutes, one.
    every = list({(one[0], one[3]): one for one in every}.values())
    chance.shuffle(every)
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(options.jobs) as pool:
        folders: SimpleQueue = SimpleQueue()
        for number in range(options.jobs):
            folders.put(copied(options.tests, Path(place) / str(number)))

        def on_a_copy(work, *given):
            folder = folders.get()
            try:
                return work(folder, *given)
            finally:
                folders.put(folder)

        tests = [str(test.relative_to(options.tests)) for room in ("core", "contracts")
                 for test in sorted((options.tests / "tests" / room).glob("test_*.py"))
                 if test.name not in LEFT_OUT]
        seen = dict(zip(tests, pool.map(lambda test: on_a_copy(covered, test), tests)))
        lines, without = ({test: both[i] for test, both in seen.items()} for i in (0, 1))
        print("Left out, for they fail without a change:", *sum(without.values(), []), sep="\n  ", flush=True)

        def killed(folder: Path, file: str, operator: str, occurrence: int, line: int):
            """By which test file; None: by none. Places that no test runs survive."""
            text, own = changed(file, operator, occurrence), (folder / file).read_text("utf-8")
            if text is None or text == own:
                return "no change"
            wanted = sorted((test for test in tests if line in lines[test].get(file, ())),
                            key=lambda test: sum(map(len, lines[test].values())))
            (folder / file).write_text(text, "utf-8")
            try:
                return next((test for test in wanted if run(folder, test, without=without[test]) != []), None)
            finally:
                (folder / file).write_text(own, "utf-8")

        made = [one for one in islice(every, 2 * options.mutants)
                if changed(*one[:3]) not in (None, (ROOT / one[0]).read_text("utf-8"))]
        made, found = made[:options.mutants], []
        for one, by in zip(made, pool.map(lambda one: on_a_copy(killed, *one), made)):
            found.append(dict(zip(("file", "operator", "occurrence", "line"), one)) | {"killed": by})
            print(f"{len(found)} of {len(made)}: {one[0]}:{one[3]} {one[1].split('/')[-1]}: "
                  f"{by or 'SURVIVES'}", flush=True)
    store = options.out / "mutation.json"
    options.out.mkdir(parents=True, exist_ok=True)
    known = json.loads(store.read_text("utf-8")) if store.exists() else {}
    known[options.name] = dict(seed=options.seed, changes=found)
    store.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    (options.out / "mutation.md").write_text(page(known, len(every)), "utf-8")


def page(known: dict[str, dict], every: int) -> str:
    from sd_debias.core.statistics import wilson
    rows = []
    for name, entry in known.items():
        n, killed = len(entry["changes"]), sum(bool(one["killed"]) for one in entry["changes"])
        low, high = wilson(killed, n)
        rows.append(f"| {name} | {entry['seed']} | {n} | {killed} ({100 * low:.0f} to {100 * high:.0f} %) |")
    table = "\n".join(rows)
    return f"""# Changes that the tests notice

`python benchmarks/mutation.py --seed SEED` samples the {every:,} lines of `core` that Cosmic Ray can change; killed are those
that tests/core or tests/contracts notice.

| tests | seed | changes | killed (95 % interval) |
|---|---|---|---|
{table}

mutation.json names them all.
"""


if __name__ == "__main__":
    main()
