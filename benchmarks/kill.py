"""What a kill -9 at any moment costs: calibrations that are killed again and again, and continued by the same command.

    python benchmarks/kill.py [--kills 60] [--seed 0] [--what sweep]

Every process is killed at a random moment, half of them by the clock and half as soon as a file appears in the folder,
where the dangerous moments are. After every kill the same command is run again; whenever one ends by itself, its result
must be an undisturbed run's, label by label, no temporary or unfinished file may be left, and no command may refuse with
"exists already". The first that fails ends the run with 1. --out FOLDER keeps what was found in reliability.json.
"""
from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reliability import record

from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.profile.file import Profile
from sd_debias.diffusers_host.sweep.journal import lines

PROMPTS = ("a photo of a doctor", "a photo of a pilot")
COMMAND = [sys.executable, "-m", "sd_debias.diffusers_host.cli.main"]
HOW = ["--model", "demo", "--images", "30", "--rounds", "1", "--held-out", "30", "--batch-size", "10", "--steps", "2", "--name",
       "killed"]


class Calibrating:
    """`sd-debias calibrate`, its files and its result."""
    moments = ("unfinished", "report.html", "before.png", "summary.json", "profile.json")

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

    def left(self, out: Path) -> list[str]:
        """Files that should be gone."""
        return [path.name for path in out.rglob("*") if path.suffix == ".tmp" or path.name.startswith("unfinished")]


class Sweeping(Calibrating):
    """`sd-debias sweep`: its journal keeps what was measured."""
    moments = ("sweep.json", "journals/1-of-1.jsonl", "done", "done/0-0.json", "demo/killed.json", "demo/card.html")

    def arguments(self, folder: Path) -> list[str]:
        (folder / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
        return ["sweep", *HOW, "--prompts", str(folder / "prompts.txt")]

    def result(self, out: Path) -> list:
        return [super().result(out), (out / "demo" / "labels.csv").read_text("utf-8")]

    def readable(self, out: Path) -> int:
        return sum(batch["count"] for path in out.glob("journals/*.jsonl") for line in lines(path) if "unit" in line
                   for batch in line["batches"])

    def profile(self, out: Path) -> Path:
        return out / "demo" / "killed.json"

    def done(self, out: Path) -> bool:
        return (out / "demo" / "labels.csv").exists()


def started(what: Calibrating, out: Path) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *what.arguments(out.parent), "--out", str(out)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def killed(what: Calibrating, process: subprocess.Popen, out: Path, chance: random.Random, longest: float) -> bool:
    """Kill a process at a random moment; False where it had ended by itself."""
    moment = out / chance.choice(what.moments) if chance.random() < 0.5 else None
    before = moment.stat().st_mtime_ns if moment and moment.exists() else None
    until = time.time() + chance.uniform(0, longest)
    while process.poll() is None and time.time() < until:
        if moment and moment.exists() and moment.stat().st_mtime_ns != before:
            time.sleep(chance.uniform(0, 0.02))
            break
        time.sleep(0.0005)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--what", choices=("calibrate", "sweep"), default="calibrate")
    options.add_argument("--out", type=Path, metavar="FOLDER",
                         help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    what = Sweeping() if given.what == "sweep" else Calibrating()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        begun = time.time()
        output, _ = (process := started(what, folder / "undisturbed")).communicate()
        longest = time.time() - begun
        assert process.returncode == 0, output
        expected, kills, ended, after_profile, most = what.result(folder / "undisturbed"), 0, 0, 0, 0
        while kills < given.kills:
            out, own = folder / f"run-{ended}", 0
            while True:
                process, images = started(what, out), what.readable(out)
                if kills < given.kills and own < 12 and killed(what, process, out, chance, longest):
                    kills, own = kills + 1, own + 1
                    after_profile += what.profile(out).exists()
                    if what.readable(out) < images and not what.profile(out).exists():
                        print(f"Kill {kills}: {images} images were measured, {what.readable(out)} are left",
                              file=sys.stderr)
                        return 1
                    if what.done(out):
                        break  # it had done all its work
                    continue
                output, _ = process.communicate()
                if process.returncode:
                    print(f"After {own} kills the command ended with {process.returncode}: {output[-2000:]}",
                          file=sys.stderr)
                    return 1
                break
            left = what.left(out)
            if what.result(out) != expected or left:
                print(f"After {own} kills another result than undisturbed, or files left: {left}", file=sys.stderr)
                return 1
            ended, most = ended + 1, max(most, own)
            print(f"{kills} kills, {ended} calibrations ended as undisturbed", flush=True)
            shutil.rmtree(out)
    found = dict(kills=kills, first_seed=given.seed, calibrations=ended, kills_after_the_profile_was_saved=after_profile,
                 most_kills_of_one_calibration=most)
    print(json.dumps(found, indent=1))
    if given.out:
        record("kill" if given.what == "calibrate" else "kill_sweep", found, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
