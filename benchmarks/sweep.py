"""What a sweep costs beside its pictures: engines against each other, and the driver of a simulated cluster.

    python benchmarks/sweep.py engines  [--out docs]   the demo model: this process, Ray, two workers, two parts
    python benchmarks/sweep.py cluster  [--out docs]   64 workers that sleep, 100,000 units of audits
    python benchmarks/sweep.py rounds   [--out docs]   the same with calibrations, whose rounds the driver solves

Engines take turns, so that a busy machine is busy for all. A sleeping worker says that a unit took ten seconds, and
sleeps for a part of that: the driver's work comes so many times as densely as on a cluster of the same size.
"""
from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from reliability import kept
from sweep_page import page

DOCS = Path(__file__).parents[1] / "docs"
PROMPTS, COUNT, BATCH = 16, 50, 50  # of the engines' comparison


# --- engines ---------------------------------------------------------------------------------------------------------

def jobs_of(prompts: int, plan):
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.method.methods import METHODS
    from sd_debias.diffusers_host.sweep.job import Job, Wanted, assign_teachers
    made = [Job(i, Wanted(f"a photo of number {i}", 0), (GENDER,), METHODS["default"], plan) for i in range(prompts)]
    assign_teachers(made, METHODS["default"], plan)
    return made


def occupations(plan):
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.method.methods import METHODS
    from sd_debias.diffusers_host.sweep.job import Job, Wanted
    from sd_debias.diffusers_host.sweep.prompts import read_prompts
    rows = read_prompts("demo-20")[:PROMPTS]
    return [Job(i, Wanted(row.prompt, 0), (GENDER,), METHODS["default"], plan) for i, row in enumerate(rows)]


def demo_worker(plan):
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.method.methods import METHODS
    from sd_debias.core.study.unit import Recipe, Worker
    from sd_debias.diffusers_host.workbench import demo
    return Worker(demo(batch_size=plan.batch_size), Recipe(((GENDER,),), METHODS["default"], plan))


def together(jobs, engine, workers: int, record, opened: list):
    """A driver that gives nothing away before all workers are open; `opened` is told when each was."""
    from sd_debias.diffusers_host.sweep.driver import Driver

    class Together(Driver):
        def _greet(self, answer):
            super()._greet(answer)
            opened.append((time.perf_counter(), time.process_time()))

        def _give(self):
            if len(opened) >= workers:
                super()._give()

        def run(self):
            while len(opened) < workers:
                for answer in engine.answers(5.0):
                    self._take(answer)
            super().run()

    return Together(jobs, engine, record=record)


def timed(jobs, engine, workers: int) -> tuple[float, float]:
    """(pictures a second from the moment that all workers are open, seconds until then)."""
    started, opened, images = time.perf_counter(), [], [0]

    def record(unit, found, worker):
        images[0] += unit.seeds[1]

    together(jobs, engine, workers, record, opened).run()
    engine.close()
    return images[0] / (time.perf_counter() - opened[-1][0]), opened[-1][0] - started


def engines(options) -> dict:
    from sd_debias.core.calibration.plan import Plan
    from sd_debias.diffusers_host.sweep.engine import Here
    from sd_debias.diffusers_host.sweep.on_ray import OnRay, connect
    plan = Plan(COUNT, rounds=0, held_out=0, batch_size=BATCH)
    opener = partial(demo_worker, plan)
    connect(None, num_cpus=2, include_dashboard=False)
    rates: dict[str, list[float]] = {"this process": [], "Ray, one worker": [], "Ray, two workers": []}
    opening: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, own in rates.items():
            workers = 2 if "two" in name else 1
            engine = Here(opener) if name == "this process" else OnRay("demo", opener, workers)
            rate, seconds = timed(occupations(plan), engine, workers)
            own.append(rate)
            opening[name] = seconds
            print(f"{name}: {rate:.2f} pictures/s, open after {seconds:.0f} s", flush=True)
    base = np.array(rates["this process"])
    return dict(prompts=PROMPTS, images=PROMPTS * COUNT, repeats=options.repeats, rates=rates, opening=opening,
                ratios={name: [round(float(r), 3) for r in np.array(own) / base] for name, own in rates.items()})


# --- a simulated cluster ---------------------------------------------------------------------------------------------

def sleeper(sleep: float):
    """An actor that loads no model and no library of one: labels come from the seeds."""
    class Sleeper:
        def __init__(self, name, open_worker, version):
            self.name = name

        def facts(self):
            return dict(model="asleep", software="")

        def measure(self, unit):
            import hashlib
            import time
            time.sleep(sleep)
            (first, count), batches = unit["seeds"], []
            pushed = unit["steerings"][0]["probabilities"]
            for start in range(first, first + count, 10):
                seeds = range(start, min(start + 10, first + count))
                digits = [hashlib.sha256(f"{unit['prompt']} {seed}".encode()).digest()[0] for seed in seeds]
                labels = [int(digit < (128 if pushed else 60)) for digit in digits]
                batches.append(dict(first=start, count=len(seeds), labels=[labels]))
            return dict(found=dict(batches=batches, seconds=10.0 * len(batches), evaluations=None,
                                   facts=_FACTS), error="", wrong=False)

    from sd_debias.core.study.unit import digest
    _FACTS = digest(dict(model="asleep", software=""))
    return Sleeper


def cluster(options, rounds: bool = False) -> dict:
    """The real driver, journal and calibrations over Ray, whose workers sleep."""
    from sd_debias.core.calibration.plan import Plan, planned
    from sd_debias.core.method.methods import METHODS
    from sd_debias.diffusers_host.sweep.folder import unit_line
    from sd_debias.diffusers_host.sweep.journal import Journal
    from sd_debias.diffusers_host.sweep.on_ray import OnRay, connect
    if rounds:
        plan = planned("normal", METHODS["default"], batch_size=10)
        prompts = max(options.units // 15, options.workers)
    else:
        plan = Plan(1000, rounds=0, held_out=0, batch_size=10)
        prompts = options.units // 100
    connect(None, num_cpus=options.workers, include_dashboard=False)
    engine = OnRay("asleep", None, options.workers, cpus=1, actor=sleeper(options.sleep))
    jobs, units, memory, opened = jobs_of(prompts, plan), [0], [], []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")

        def record(unit, found, worker):
            units[0] += 1
            journal.add(unit_line(0, unit, found, worker))
            if units[0] % max(options.units // 20, 1) == 0:
                memory.append(round(_resident() / 2**20))
                print(f"{units[0]:,} units, {memory[-1]} MB", flush=True)

        together(jobs, engine, options.workers, record, opened).run()
        wall, cpu = (after - before for after, before in zip((time.perf_counter(), time.process_time()), opened[-1]))
        journal.close()
        size = (Path(folder) / "journal.jsonl").stat().st_size
    engine.close()
    ideal = units[0] * options.sleep / options.workers
    return dict(workers=options.workers, asked=options.units, units=units[0], prompts=prompts, sleep=options.sleep,
                wall_seconds=round(wall, 1), efficiency=round(ideal / wall, 3),
                driver_ms_a_unit=round(1000 * cpu / units[0], 2), memory_mb=memory,
                journal_bytes_a_unit=round(size / units[0]),
                rounds=sum(len(job.calibration.rounds) for job in jobs))


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("engines", "cluster", "rounds"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds that stand for ten")
    options = parser.parse_args()
    found = engines(options) if options.case == "engines" else cluster(options, options.case == "rounds")
    print(found)
    if options.out:
        kept("sweep_speed", page, options.case, found, options.out)


if __name__ == "__main__":
    main()
