"""What a kill -9 at any moment costs: calibrations that are killed again and again, and continued by the same command.

    python benchmarks/kill.py [--kills 60] [--seed 0] [--what calibrate|sweep|results|saving]

Every process is killed at a random moment, half of them by the clock and half as soon as a file appears in the folder,
where the dangerous moments are. After every kill the same command is run again; whenever one ends by itself, its result
must be an undisturbed run's, label by label, no temporary or unfinished file may be left, and no command may refuse with
"exists already". Processes are forked from one that has loaded the libraries, since no file is touched while they load.

"results" is a sweep that has measured everything and has only its results to write, anew for each command.
"saving" saves profiles and states as fast as it can, over the former ones: after a kill, both must load, and be the last
that was confirmed or the one after it. The first that fails ends the run with 1. --out FOLDER keeps what was found in
reliability.json.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads would not survive a fork

from reliability import record  # noqa: E402

from sd_debias.core.calibration.loop import Calibration  # noqa: E402
from sd_debias.core.profile.file import Profile  # noqa: E402
from sd_debias.diffusers_host.cli.main import main as command  # noqa: E402
from sd_debias.diffusers_host.workbench import Workbench  # noqa: E402, F401  loads the libraries

FORK = multiprocessing.get_context("fork")
LEFT = {".tmp": "a file that was being written", ".new": "a whole file that was to take its place"}
PROMPTS = ("a photo of a doctor", "a photo of a pilot")
HOW = ["--model", "demo", "--count", "30", "--rounds", "1", "--held-out", "30", "--batch-size", "10", "--steps", "2", "--name",
       "killed"]


class Calibrating:
    """`sd-debias calibrate`, its files and its result."""
    moments = ("unfinished", "report.html", "before.png", "summary.json", "profile.json")
    by_the_clock, at_most = 0.5, 0.02  # share of kills; seconds between a moment's file and the kill

    def begin(self, undisturbed: Path, out: Path) -> None:
        """What is there before the first command."""

    def arguments(self, folder: Path) -> list[str]:
        return ["calibrate", *HOW, *(part for prompt in PROMPTS for part in ("--prompt", prompt))]

    def result(self, out: Path) -> list:
        """What an ended calibration found: every count, weight and label."""
        return [(e.prompt, e.steerings, [(r["kind"], r["images"], [m["counts"] for m in r["attributes"]])
                                         for r in e.rounds]) for e in Profile.load(self.profile(out)).entries]

    def readable(self, out: Path) -> int:
        """Images that the folder's states hold; raises where one is damaged."""
        return sum(r.done for path in out.glob("unfinished/*.json") for r in Calibration.load(path).rounds)

    def profile(self, out: Path) -> Path:
        return out / "profile.json"

    def done(self, out: Path) -> bool:
        return self.profile(out).exists() and not list(out.glob("unfinished/*.json"))

    def phase(self, out: Path) -> str:
        """What the killed process was at."""
        if self.profile(out).exists():
            return "after the profile was saved"
        if (out / "report.html").exists():
            return "saving"
        kinds = [r.kind for path in out.glob("unfinished/*.json") for r in Calibration.load(path).rounds[-1:]]
        return kinds[-1].replace("_", "-") if kinds else "before the first batch"

    def left(self, out: Path) -> list[str]:
        """Files that should be gone."""
        return [path.name for path in out.rglob("*")
                if path.suffix in LEFT or path.name.startswith("unfinished")]


class Sweeping(Calibrating):
    """`sd-debias sweep`: its states keep what was measured."""
    moments = ("sweep.json", "facts.json", "prompts", "prompts/0-0.json", "demo/killed.json", "demo/card.html")

    def arguments(self, folder: Path) -> list[str]:
        (folder / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
        return ["sweep", *HOW, "--prompts", str(folder / "prompts.txt")]

    def result(self, out: Path) -> list:
        return [super().result(out), (out / "demo" / "labels.csv").read_text("utf-8")]

    def readable(self, out: Path) -> int:
        return sum(r.done for own in self.states(out) for r in own.rounds)

    def states(self, out: Path) -> list[Calibration]:
        return [Calibration.from_dict(json.loads(path.read_text("utf-8"))["state"])
                for path in out.glob("prompts/*.json")]

    def profile(self, out: Path) -> Path:
        return out / "demo" / "killed.json"

    def done(self, out: Path) -> bool:
        return (out / "demo" / "labels.csv").exists()

    def phase(self, out: Path) -> str:
        if self.profile(out).exists():
            return "after the profile was saved"
        states = self.states(out)
        if (out / "demo").exists() or len([own for own in states if own.finished]) == len(PROMPTS):
            return "saving"
        return states[-1].rounds[-1].kind if states else "before the first batch"


class Writing(Sweeping):
    """A sweep that has measured everything: its results alone are missing."""
    moments = tuple(f"demo/{name}" for name in ("written.json", "killed.json", "card.json", "card.html", "card.md",
                                                "labels.csv"))
    by_the_clock, at_most = 0.1, 0.004

    def begin(self, undisturbed: Path, out: Path) -> None:
        shutil.copytree(undisturbed, out, ignore=shutil.ignore_patterns("demo"))

    def done(self, out: Path) -> bool:
        return False  # the next command says so itself

    def phase(self, out: Path) -> str:
        there = [name for name in self.moments if (out / name).exists()]
        return f"{len(there)} of {len(self.moments)} files were there"


def run(arguments: list[str], log: Path) -> None:
    with open(log, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(command(arguments))


def started(what: Calibrating, out: Path) -> multiprocessing.Process:
    process = FORK.Process(target=run, args=([*what.arguments(out.parent), "--out", str(out)], out.with_suffix(".log")))
    process.start()
    return process


def killed(what: Calibrating, process: multiprocessing.Process, out: Path, chance: random.Random, longest: float) -> bool:
    """Kill a process at a random moment; False where it had ended by itself."""
    moment = out / chance.choice(what.moments) if chance.random() >= what.by_the_clock else None
    before = moment.stat().st_mtime_ns if moment and moment.exists() else None
    until = time.time() + chance.uniform(0, longest)
    while process.is_alive() and time.time() < until:
        if moment and moment.exists() and moment.stat().st_mtime_ns != before:
            time.sleep(chance.uniform(0, what.at_most))
            break
        time.sleep(0.0005)
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return process.exitcode == -9


def saving(profile: Profile, calibration: Calibration, out: Path, confirmed) -> None:
    """Save a profile and a state over the former ones, on and on, numbered."""
    for number in range(confirmed.value + 1, 1 << 30):
        replace(profile, name=f"number {number}").save(out / "profile.json", overwrite=True)
        calibration.rounds[0].seconds = float(number)
        calibration.save(out / "state.json")
        confirmed.value = number


def saves(given: argparse.Namespace, chance: random.Random, folder: Path) -> dict | str:
    """What kills of `saving` leave, or what went wrong."""
    process = FORK.Process(target=run, args=([*Calibrating().arguments(folder), "--out", str(folder / "made")],
                                             folder / "log"))
    process.start()
    while not (states := list(folder.glob("made/unfinished/*.json"))):
        time.sleep(0.01)
    state = Calibration.load(states[0])
    process.join()
    profile, out, confirmed = Profile.load(folder / "made" / "profile.json"), folder / "out", FORK.Value("q", 0)
    phases = Counter()
    for kill in range(given.kills):
        process = FORK.Process(target=saving, args=(profile, state, out, confirmed))
        process.start()
        time.sleep(chance.uniform(0, 0.3))
        if not process.is_alive():
            return f"Before kill {kill + 1} the writer ended by itself, with {process.exitcode}."
        process.kill()
        process.join()
        last, left = confirmed.value, [path for path in out.glob(".*") if path.suffix in LEFT]
        phases[LEFT[left[0].suffix] if left else "nothing"] += 1
        if not last and not (out / "state.json").exists():
            continue  # killed before its first
        found = (int(Profile.load(out / "profile.json").name.split()[1]),
                 int(Calibration.load(out / "state.json").rounds[0].seconds))
        if not last <= found[1] <= found[0] <= last + 1:
            return f"Kill {kill + 1}: number {last} was confirmed, but {found} is there."
        confirmed.value = found[1]
        if (kill + 1) % 50 == 0:
            print(f"{kill + 1} kills, {found[0]} saved", flush=True)
    return dict(kills=given.kills, first_seed=given.seed, saved=confirmed.value, phases=dict(phases))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--what", choices=("calibrate", "sweep", "results", "saving"), default="calibrate")
    options.add_argument("--out", type=Path, metavar="FOLDER",
                         help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    what = dict(sweep=Sweeping, results=Writing).get(given.what, Calibrating)()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.what == "saving":
            found = saves(given, chance, folder)
            if isinstance(found, str):
                print(found, file=sys.stderr)
                return 1
            print(json.dumps(found, indent=1))
            if given.out:
                record("kill_saving", found, given.out)
            return 0
        begun = time.time()
        process = started(what, folder / "undisturbed")
        process.join()
        longest = time.time() - begun
        assert process.exitcode == 0, (folder / "undisturbed.log").read_text("utf-8")
        expected, kills, ended, most = what.result(folder / "undisturbed"), 0, 0, 0
        phases: Counter = Counter()
        while kills < given.kills:
            out, own = folder / f"run-{ended}", 0
            what.begin(folder / "undisturbed", out)
            while True:
                process, images = started(what, out), what.readable(out)
                if kills < given.kills and own < 12 and killed(what, process, out, chance, longest):
                    kills, own = kills + 1, own + 1
                    phases[what.phase(out)] += 1
                    if what.readable(out) < images and not what.profile(out).exists():
                        print(f"Kill {kills}: {images} images were measured, {what.readable(out)} are left",
                              file=sys.stderr)
                        return 1
                    if what.done(out):
                        break  # it had done all its work
                    continue
                process.join()
                if process.exitcode:
                    print(f"After {own} kills the command ended with {process.exitcode}: "
                          f"{out.with_suffix('.log').read_text('utf-8')[-2000:]}", file=sys.stderr)
                    return 1
                break
            left = what.left(out)
            if what.result(out) != expected or left:
                print(f"After {own} kills another result than undisturbed, or files left: {left}", file=sys.stderr)
                return 1
            ended, most = ended + 1, max(most, own)
            print(f"{kills} kills, {ended} ended as undisturbed", flush=True)
            shutil.rmtree(out)
    found = dict(kills=kills, first_seed=given.seed, ended=ended, phases=dict(phases), most_kills_of_one=most)
    print(json.dumps(found, indent=1))
    if given.out:
        record("kill" if given.what == "calibrate" else f"kill_{given.what}", found, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
