"""The page docs/sweep_speed.md, of what sweep.py has measured so far."""
from __future__ import annotations

from statistics import median


WAITING = """
Rounds of one prompt follow each other, and here there are no more prompts than workers, of which three quarters wait for those that teach them: so
most workers are idle. Give a cluster several times as many prompts as workers.
"""


def page(known: dict) -> str:
    parts = ["# What a sweep costs beside its pictures\n", "Figures of the commands named below, which write this page.\n"]
    if found := known.get("engines"):
        rows = "\n".join(
            f"| {name} | {median(found['rates'][name]):.2f} | {_ratio(found['ratios'][name])} | {found['opening'][name]:.0f} s |"
            for name in found["rates"])
        parts.append(f"""## Engines

`python benchmarks/sweep.py engines --repeats {found['repeats']}` ({found['machine']}): an audit of {found['prompts']} prompts, {found['images']:,} pictures of the demo
model, each worker with one thread; {"one turn of each engine, so that no range is known" if found['repeats'] == 1 else
f"engines take turns, {found['repeats']} times"}. Counted from the moment that all workers are open.

| engine | pictures a second, median | against this process, median (range) | opening |
|---|---|---|---|
{rows}
""")
    for name, what in (("cluster", "audits of 1,000 pictures"), ("rounds", "calibrations, whose rounds the driver solves")):
        if found := known.get(name):
            memory = found["memory_mb"]
            parts.append(f"""## A simulated cluster: {what}

`python benchmarks/sweep.py {name} --units {found['asked']} --workers {found['workers']} --sleep {found['sleep']}` ({found['machine']}): the real driver, journal and Ray;
workers load no model and sleep {found['sleep']} s for units that stand for ten seconds, so that the driver has {10 / found['sleep']:.0f} times as much to do as on a
cluster of this size. All {found['workers']} workers, Ray and the driver share the machine's cores.

| | |
|---|---|
| units, prompts, rounds | {found['units']:,}, {found['prompts']:,}, {found['rounds']:,} |
| efficiency (time asleep of all workers' time) | {found['efficiency']:.3f} |
| driver's own time a unit | {found['driver_ms_a_unit']:.2f} ms |
| driver's memory, from 5 % to all of the units | {memory[0]} to {memory[-1]} MB |
| journal | {found['journal_bytes_a_unit']} bytes a unit |
{'' if name == 'cluster' else WAITING}""")
    if "cluster" in known and "rounds" in known:
        audits, rounds = (known[name]["driver_ms_a_unit"] for name in ("cluster", "rounds"))
        parts.append(f"""## On paper: 1,000 GPUs

This has not been run. At ten seconds a unit, 1,000 workers bring 100 units a second. The driver, one process on one core, spends {audits:.1f} ms on a
unit of an audit and {rounds:.1f} ms on a round of a calibration, of which most is solving for the next weights: {1000 / audits:,.0f} and {1000 / rounds:,.0f} units a
second. {_breaks(audits, rounds)}
What would become too slow first: the driver's core (start one sweep per model, each with a driver of its own), then the time in which a calibration's rounds wait for each other: a prompt's rounds follow one another, so 1,000 workers
need as many prompts at once; 150 prompts on five models keep at most 750 of them busy, and fewer towards the end. The journal grows by {known['rounds']['journal_bytes_a_unit']} bytes a
round, {60e-6 * known['rounds']['journal_bytes_a_unit'] * 1000 / rounds:.1f} MB a minute. Opening is the slow part: a model of 7 GB that 1,000 workers read from one file server at 1 GB/s takes two hours; put it
on the nodes' own disks.
""")
    return "\n".join(parts)


def _ratio(ratios: list[float]) -> str:
    return f"{median(ratios):.2f}" + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else "")


def _breaks(audits: float, rounds: float) -> str:
    if max(audits, rounds) < 8:
        return "Both are more than the 100 that come, with room to spare."
    if min(audits, rounds) < 8 < max(audits, rounds):
        return "Audits fit; calibrations do not leave the driver room: split them into two sweeps or more."
    return "Neither leaves the driver room: split the sweep."
