"""Long runs: does a process, or a host, hold after many images what it held after few, and make the same images?

    python benchmarks/soak.py process [--pictures 20000]
    python benchmarks/soak.py comfyui --url http://127.0.0.1:8188 --pid PID [--runs 200]
    python benchmarks/soak.py a1111 --url http://127.0.0.1:7860 --pid PID [--runs 200]

`process` generates in this process. The others queue work in a server that runs on this machine, as its page would, and
cancel about a third of it at random moments. Of a server, the system sees what is free in its heap as well, as much as
was ever used at once, and caches of programs, one for each size of a batch, that torch fills for hours on a CPU. These
variables, set where the server is started, give back what is free and keep those caches small:

    MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=100000 MALLOC_TRIM_THRESHOLD_=100000
    LRU_CACHE_CAPACITY=32 ONEDNN_PRIMITIVE_CACHE_CAPACITY=32

Ends with 1 and a sentence where memory grows by more than a bound, which the soak's module explains, where a handle
leaks, or where an image differs from the same one before. --out FOLDER keeps the figures in reliability.json.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil
from reliability import record
from soak_watch import Different, check

VARIABLES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LRU_CACHE_CAPACITY",
             "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def settings(pid: int) -> list[str]:
    """Which of those variables a server was started with."""
    given = psutil.Process(pid).environ()
    return [f"{name}={value}" for name, value in sorted(given.items()) if name in VARIABLES]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = options.add_subparsers(dest="kind", required=True)
    process = kinds.add_parser("process")
    process.add_argument("--pictures", type=int, default=20_000)
    for name in ("comfyui", "a1111"):
        host = kinds.add_parser(name)
        host.add_argument("--url", required=True)
        host.add_argument("--pid", type=int, required=True, help="of the server's process")
        host.add_argument("--runs", type=int, default=200)
        host.add_argument("--seed", type=int, default=0, help="of what is queued and when it is cancelled")
    for kind in kinds.choices.values():
        kind.add_argument("--out", type=Path, metavar="FOLDER",
                          help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    soak, started = import_module(f"soak_{given.kind}"), time.perf_counter()
    try:
        if given.kind == "process":
            found = soak.soak(given.pictures)
        else:
            found = dict(settings=settings(given.pid)) | soak.soak(given.url.rstrip("/"), given.pid, given.runs, given.seed)
        found |= dict(minutes=round((time.perf_counter() - started) / 60, 1), bounds=soak.BOUNDS)
        print(json.dumps(found, indent=1))
        check(found, soak.BOUNDS, "images" if given.kind == "process" else "runs")
    except Different as wrong:
        print(wrong, file=sys.stderr)
        return 1
    if given.out:
        record(f"soak_{given.kind}", found, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
