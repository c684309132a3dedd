"""How long the tests take, and which take longest: docs/suite.md.

    python benchmarks/suite.py --out docs

Runs the README's test command as it is and with --all, on this machine as it finds it.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import harness

from sd_debias.core.files import write_atomic

SLOWEST = 20


def run(*options: str) -> tuple[float, str, list[tuple[float, str]]]:
    """Seconds of wall time, pytest's closing line, and the slowest tests with their seconds."""
    command = [sys.executable, str(harness.ROOT / "install.py"), "test", *options,
               f"--durations={2 * SLOWEST}", "--durations-min=0"]
    started = time.perf_counter()
    said = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - started
    slowest = [(float(took), test) for took, test in
               re.findall(r"^([\d.]+)s call +(.+)$", said, re.MULTILINE)]
    return seconds, said.strip().splitlines()[-1].strip("= "), slowest[:SLOWEST]


def page(quick: tuple, every: tuple) -> str:
    rows = "\n".join(f"| {took:.1f} | `{test}` |" for took, test in every[2])
    return f"""# How long the tests take

Made by `python benchmarks/suite.py` on {harness.machine()}.

| command | seconds | |
|---|---|---|
| `python install.py test` | {quick[0]:.0f} | {quick[1]} |
| `python install.py test --all` | {every[0]:.0f} | {every[1]} |

The {SLOWEST} slowest tests of all:

| seconds | test |
|---|---|
{rows}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=harness.ROOT / "results", metavar="FOLDER")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(write_atomic(options.out / "suite.md", page(run(), run("--all"))))
