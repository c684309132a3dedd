"""What the accordion costs in AUTOMATIC1111: how many times as long a generation takes as in a host without sd-debias.

    A1111_PATH=... python benchmarks/a1111_overhead.py [--starts 5]

Two servers run, one with all further extensions switched off. Generations take turns, so that what slows the machine
slows all of them; a ratio is of one turn, and the median of the turns is printed with their quartiles. A whole request is
timed: texts, sampling, decoding. Every image is guided: in use, those that are left alone cost nothing. "wide" is a UNet
of Stable Diffusion's width with random weights, of one block a level; the demo model is so small that a step is the
host's own work rather than the model's. Variables as in tests/webui/real.py.
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "webui"))
WINDOW = "embedding, default window"
BOUNDS = {"disabled": 1.0, "prompt": 1.03, WINDOW: 1.2, "embedding": 1.55}
WITH, WITHOUT = ["--nowebui"], ["--nowebui", "--disable-extra-extensions"]
MODELS = {"demo": (64, 4, 40), "wide": (256, 1, 20)}  # size, images, steps


def wide():
    from diffusers import UNet2DConditionModel
    from sd_debias.demo_model.model import FOLDER
    return UNet2DConditionModel.from_config({
        **UNet2DConditionModel.load_config(FOLDER / "unet"), "block_out_channels": [320] * 4, "attention_head_dim": 8,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3]})


def processor_seconds(server) -> float:
    """What a server's process has used so far (proc(5): utime and stime)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, ours, bare, more: dict, turns: int, clock) -> bool:
    """Prints a model's ratios; were all within their bounds?"""
    from settings import debias, payload, save_profile
    from sd_debias.core.method.methods import TOWARD
    size, images, steps = MODELS[name]
    request = payload(width=size, height=size, batch_size=images, steps=steps, cfg_scale=7.0, **more)
    for direction in ("prompt", "embedding"):
        save_profile(ours.profiles, f"bench-{direction}", direction=direction)
    ways = {"without": (bare, {}), "disabled": (ours, {}), "prompt": (ours, debias(name="bench-prompt")),
            WINDOW: (ours, debias(name="bench-embedding", start=TOWARD.start, end=TOWARD.end)),
            "embedding": (ours, debias(name="bench-embedding"))}
    seconds = {way: [] for way in ways}
    for turn in range(turns + 1):  # the first warms up
        for way, (server, given) in ways.items():
            started = clock(server)
            text = server.post("txt2img", {**request, **given}).infotexts[0]
            if turn:
                seconds[way].append(clock(server) - started)
            assert ("Debias profile" in text) == bool(given), text
    fine = True
    print(f"{name}, {images} x {size} x {size}, {steps} steps, {turns} turns; without sd-debias "
          f"{statistics.median(seconds['without']):.2f} s")
    for way, bound in BOUNDS.items():
        low, middle, high = quartiles([a / b for a, b in zip(seconds[way], seconds["without"])])
        bounded = name != "demo" or "embedding" not in way
        fine &= not bounded or middle <= bound
        print(f"  {way:<26} {middle:.3f} [{low:.3f}, {high:.3f}]" + (f"  bound {bound}" if bounded else ""))
    return fine


def compare(models: list[str], turns: int, clock) -> bool:
    from real import Server
    ours, bare = Server("A1111", ROOT, WITH), Server("A1111", ROOT, WITHOUT)
    try:
        fine = True
        for name in models:
            more = ours.checkpoint("sd-debias-wide", wide()) if name == "wide" else {}
            bare.call("/sdapi/v1/refresh-checkpoints", {})
            fine &= measure(name, ours, bare, more, turns, clock)
        return fine
    finally:
        ours.stop()
        bare.stop()


def starts(count: int, processor: bool) -> None:
    """Seconds until the API answers, with and without sd-debias in turns."""
    from real import Server
    seconds = {"with": [], "without": []}
    for turn in range(count + 1):  # the first warms up
        for way, options in (("with", WITH), ("without", WITHOUT)):
            started = time.perf_counter()
            server = Server("A1111", ROOT, options)
            if turn:
                seconds[way].append(processor_seconds(server) if processor else time.perf_counter() - started)
            server.stop()
    low, middle, high = quartiles([a / b for a, b in zip(seconds["with"], seconds["without"])])
    print(f"start, {count} turns: {statistics.median(seconds['with']):.2f} s with, "
          f"{statistics.median(seconds['without']):.2f} s without; ratio {middle:.3f} [{low:.3f}, {high:.3f}]")


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--starts", type=int, default=0, help="also time so many starts of the host")
    parser.add_argument("--processor", action="store_true", help="count the servers' processor time")
    given = parser.parse_args()
    clock = processor_seconds if given.processor else lambda server: time.perf_counter()
    if not os.environ.get("A1111_PATH"):
        sys.exit("Expected A1111_PATH to name an installation of AUTOMATIC1111's webui, but it is not set.")
    fine = True
    with tempfile.TemporaryDirectory() as package:
        # The demo model's settings name a function of the package, which a host without sd-debias finds here.
        (Path(package) / "sd_debias").symlink_to(ROOT)
        os.environ["PYTHONPATH"] = package
        sys.path.insert(0, package)
        if given.models:
            fine = compare(given.models, given.turns, clock)
        if given.starts:
            starts(given.starts, given.processor)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
