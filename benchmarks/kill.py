"""What a kill -9 at any moment costs: calibrations that are killed again and again, and continued by the same command.

    python benchmarks/kill.py [--kills 60] [--seed 0]

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

PROMPTS = ("a photo of a doctor", "a photo of a pilot")
COMMAND = [sys.executable, "-m", "sd_debias.diffusers_host.cli.main", "calibrate", "--model", "demo", "--images", "30", "--rounds", "1",
           "--held-out", "30", "--batch-size", "10", "--steps", "2", "--name", "killed"]
MOMENTS = ("unfinished", "report.html", "before.png", "summary.json", "profile.json")


def started(out: Path) -> subprocess.Popen:
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    return subprocess.Popen([*COMMAND, *prompts, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def result(out: Path) -> list:
    """What an ended calibration found: every count, weight and label."""
    return [(e.prompt, e.steerings, [(r["kind"], r["images"], [m["counts"] for m in r["attributes"]]) for r in e.rounds])
            for e in Profile.load(out / "profile.json").entries]


def readable(out: Path) -> int:
    """Images that the folder's states hold; raises where one is damaged."""
    return sum(r.done for path in out.glob("unfinished/*.json") for r in Calibration.load(path).rounds)


def killed(process: subprocess.Popen, out: Path, chance: random.Random, longest: float) -> bool:
    """Kill a process at a random moment; False where it had ended by itself."""
    moment = out / chance.choice(MOMENTS) if chance.random() < 0.5 else None
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
    options.add_argument("--out", type=Path, metavar="FOLDER",
                         help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        begun = time.time()
        output, _ = (process := started(folder / "undisturbed")).communicate()
        longest = time.time() - begun
        assert process.returncode == 0, output
        expected, kills, ended, after_profile, most = result(folder / "undisturbed"), 0, 0, 0, 0
        while kills < given.kills:
            out, own = folder / f"run-{ended}", 0
            while True:
                process, images = started(out), readable(out)
                if kills < given.kills and own < 12 and killed(process, out, chance, longest):
                    kills, own = kills + 1, own + 1
                    after_profile += (out / "profile.json").exists()
                    if readable(out) < images and not (out / "profile.json").exists():
                        print(f"Kill {kills}: {images} images were measured, {readable(out)} are left", file=sys.stderr)
                        return 1
                    if (out / "profile.json").exists() and not list(out.glob("unfinished/*.json")):
                        break  # it had done all its work
                    continue
                output, _ = process.communicate()
                if process.returncode:
                    print(f"After {own} kills the command ended with {process.returncode}: {output[-2000:]}",
                          file=sys.stderr)
                    return 1
                break
            left = [path.name for path in out.iterdir() if path.suffix == ".tmp" or path.name.startswith("unfinished")]
            if result(out) != expected or left:
                print(f"After {own} kills another result than undisturbed, or files left: {left}", file=sys.stderr)
                return 1
            ended, most = ended + 1, max(most, own)
            print(f"{kills} kills, {ended} calibrations ended as undisturbed", flush=True)
            shutil.rmtree(out)
    found = dict(kills=kills, first_seed=given.seed, calibrations=ended, kills_after_the_profile_was_saved=after_profile,
                 most_kills_of_one_calibration=most)
    print(json.dumps(found, indent=1))
    if given.out:
        record("kill", found, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
