"""What fuzz.py, kill.py and soak.py found, in reliability.json and as the page reliability.md."""
from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Callable

from pages import answer
from sd_debias.core.files import read_json, write_atomic

def record(name: str, found: dict, folder: Path) -> None:
    """Keep one command's figures beside those of the other, and make the page anew."""
    kept("reliability", page, name, found, folder)


def kept(store_name: str, page: Callable[[dict], str], name: str, found: dict, folder: Path) -> None:
    """Keep figures under a name in a store, STORE.json, beside the others, and make its page, STORE.md, anew."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"{store_name}.json"
    known = read_json(store) if store.exists() else {}
    found = {**found, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"}
    known = dict(sorted({**known, name: found}.items()))
    write_atomic(store, json.dumps(known, indent=1) + "\n")
    write_atomic(folder / f"{store_name}.md", page(known))


def _phases(kill: dict) -> str:
    """How many kills came in which phase."""
    return ", ".join(f"{phase} {n}" for phase, n in sorted(kill["phases"].items(), key=lambda item: -item[1]))


def page(known: dict) -> str:
    """The page, of what has been measured so far."""
    machines = " and ".join(dict.fromkeys(found["machine"] for found in known.values()))
    parts = [f"# Under fire\n\n{answer('reliability')}\n\nThe commands named below write this page, on {machines}.\n"]
    if fuzz := known.get("fuzz"):
        kinds = sorted({*fuzz["accepted"], *fuzz["refused"]})
        said = ", ".join(kind.replace("_", " ") for kind in kinds)
        parts.append(f"""## Hostile and damaged input

`python benchmarks/fuzz.py --documents {fuzz['documents']} --seed {fuzz['first_seed']}`: {fuzz['documents']:,} mutated documents of {len(kinds)} kinds ({said}).
{sum(fuzz["accepted"].values()):,} were accepted and the others refused with a sentence: the command ends at the first other exception. What is accepted is used: its metadata, description
and report are made, and it loads as the same again. The slowest took {fuzz['slowest_seconds']} s; memory grew by {fuzz['more_memory_mb']} MB over the run.
""")
    if kill := known.get("kill"):
        parts.append(f"""## Killed at random moments

`python benchmarks/kill.py --kills {kill['kills']} --seed {kill['first_seed']}`: {kill['kills']} times kill -9 during `sd-debias calibrate`, half of them at random times and half when a file appeared: {_phases(kill)}.
All {kill['ended']} calibrations ended with an undisturbed run's counts and weights, the one killed most often after {kill['most_kills_of_one']} kills. The command ends with an error at the first measured
image that is lost, the first refusal and the first temporary file that is left.
""")
    if kill := known.get("kill_sweep"):
        parts.append(f"""`python benchmarks/kill.py --what sweep --kills {kill['kills']} --seed {kill['first_seed']}`: the same for `sd-debias sweep`: {_phases(kill)}.
All {kill['ended']} sweeps ended with an undisturbed run's weights and the label of every image.
""")
    if kill := known.get("kill_results"):
        parts.append(f"""`python benchmarks/kill.py --what results --kills {kill['kills']} --seed {kill['first_seed']}`: a sweep that had measured everything was killed while it wrote
its results. All {kill['ended']} ended as undisturbed.
""")
    if kill := known.get("kill_saving"):
        parts.append(f"""`python benchmarks/kill.py --what saving --kills {kill['kills']} --seed {kill['first_seed']}`: a process that only saves a profile and a state, over and over
({kill['saved']:,} times), was killed {kill['kills']} times. Both files loaded after each kill, and were the last that was confirmed or the one after it.
""")
    if rows := [_soaked(kind, soak) for kind in ("process", "comfyui", "a1111") if (soak := known.get(f"soak_{kind}"))]:
        parts.append(f"""## Long runs

`python benchmarks/soak.py`: what a process holds after many images, and whether it still makes the same ones. A third of a server's
runs are cancelled at random moments. Each command ended well: growth is below its bound, no handle leaks, nothing is left unfinished, and images are bit for bit those of the
beginning. Growth is after a warm-up: of the process with its 95 % interval, of a server from the least of the first third to the least of the last.

| command | work | growth | file descriptors, threads, temporary files: first and last |
|---|---|---|---|
{chr(10).join(rows)}
""")
    return "\n".join(parts)


def _soaked(kind: str, soak: dict) -> str:
    """A soak's row of the table."""
    of = "images" if kind == "process" else "runs"
    more = f"{soak['calibrations']} calibrations, {soak['interrupted']} interrupted" if kind == "process" else ", ".join(
        f"{count} {name}" for name, count in soak["kinds"].items()) + f"; {soak['cancelled']} of them cancelled"
    if settings := " ".join(soak.get("settings", [])):
        more += f"; the server had {settings}"
    units = dict(memory=" MB", allocated=" MB")
    if of == "runs":
        growth = "; ".join(f"least {name} {soak[name]['floor']:.2f}{units[name]}, bound {bound:g}; it was between "
                           f"{soak[name]['least']:.0f} and {soak[name]['most']:.0f}{units[name]}"
                           for name, bound in soak["bounds"].items())
    else:
        growth = "; ".join(f"{name} {slope:.2f} [{low:.2f}, {high:.2f}]{units.get(name, '')}, bound {bound:g}"
                           for name, bound in soak["bounds"].items() for slope, low, high in [soak[name]["slope"]])
    handles = ", ".join(f"{soak[name]['first']:g} and {soak[name]['last']:g}" for name in (
        "file descriptors", "threads", "temporary files"))
    return (f"| `{kind}` | {soak[of]:,} {of} in {soak['minutes']:g} minutes: {more} | "
            f"per {soak['each']:,} {of}: {growth} | {handles} |")
