"""What a first GPU must show, by one command, in one table: docs/gpu.md.

    python benchmarks/gpu.py --out docs     # on this machine's card
    python benchmarks/gpu.py --standin      # on a stand-in for a card: tries the command

Contracts: `tests/contracts`, on the card. Overhead: a guided run's time as a ratio to an unguided
one of the same round, median of the rounds. Memory: the most that sampling allocates, as a ratio to
an unguided run. Calibrate: images per second, judged, of one calibration. A stand-in computes on
the CPU, so it has contracts, waits and copies, and its times mean nothing: they are left out.
"""
from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import harness
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.files import write_atomic
from sd_debias.core.method.draw import Steering, rows
from sd_debias.core.method.methods import METHODS, named
from sd_debias.demo_model import model
from sd_debias.diffusers_host.generate import guided
from sd_debias.diffusers_host.workbench import Workbench, demo, load_pipeline

sys.path.insert(0, str(harness.ROOT / "tests"))
from standin_gpu import CUDA, Card  # noqa: E402

PROMPT, IMAGES, ROUNDS = "a photo of a doctor", 4, 5
DTYPES = ("float32", "float16", "bfloat16")
WAYS = {"unguided": None, "prompt": METHODS["default"], "embedding": named(direction="embedding")}
PUSH = Steering((0.0, 0.0), (0.0, 0.0, 1.0))
PLAN = Plan(100, rounds=1, held_out=100, batch_size=50)


def contracts(standin: bool) -> str:
    """The closing line of the contracts' run."""
    chosen = ["-k", "test_on_a_gpu"] if standin else ["-m", "cuda"]
    done = subprocess.run([sys.executable, "-m", "pytest", "tests/contracts", "-q", *chosen],
                          cwd=harness.ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    return lines[-1].strip("= ")


def pipeline(dtype: str, card: Card | None):
    """The demo model on the card."""
    if card is None:
        return load_pipeline(str(model.FOLDER), "cuda", getattr(torch, dtype))
    pipe = load_pipeline(str(model.FOLDER), "cpu", getattr(torch, dtype))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            card.put(part)
    return pipe


def sampled(pipe, method, card: Card | None) -> None:
    """Four images' latents, every one pushed."""
    weights = rows([PUSH], range(IMAGES)) if method else torch.zeros(IMAGES, 2)
    noise = torch.randn(IMAGES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    place = dict(device=CUDA, dtype=pipe.unet.dtype)
    with guided(pipe, PROMPT, [GENDER], weights, method or METHODS["default"]) as guide:
        pipe(**guide.call, latents=noise.to(**place), output_type="latent",
             num_inference_steps=model.STEPS, guidance_scale=model.CFG)
    if card is None:
        torch.cuda.synchronize()


def overhead(pipe) -> dict[str, tuple[float, float]]:
    """(time, memory) of each way of guidance, as ratios to the unguided run."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, int] = {}
    for _ in range(ROUNDS + 1):  # the first warms up
        for way, method in WAYS.items():
            torch.cuda.reset_peak_memory_stats()
            before, started = torch.cuda.memory_allocated(), time.perf_counter()
            sampled(pipe, method, None)
            seconds[way].append(time.perf_counter() - started)
            memory[way] = torch.cuda.max_memory_allocated() - before
    return {way: (statistics.median(own / plain for own, plain in
                                    zip(seconds[way][1:], seconds["unguided"][1:])),
                  memory[way] / memory["unguided"]) for way in WAYS if way != "unguided"}


def throughput(pipe) -> float:
    """Images per second of a calibration, judging them included."""
    own = demo()
    bench = Workbench(pipe, own.clip, steps=model.STEPS, cfg=model.CFG, batch_size=50)
    started = time.perf_counter()
    made = bench.calibrate(PROMPT, [GENDER], plan=PLAN)
    return sum(r.done for r in made.rounds) / (time.perf_counter() - started)


def waiting(pipe, card: Card, method) -> str:
    """Waits and copies that come again in the steps of one run on the stand-in, by what asks for them."""
    step, done = pipe.scheduler.step, [0]

    def stepped(*args, **kwargs):
        done[0] += 1
        card.begin(None if done[0] == model.STEPS else done[0])
        return step(*args, **kwargs)

    pipe.scheduler.step = stepped
    card.waits.clear()
    card.begin(0)
    with card:
        sampled(pipe, method, card)
    pipe.scheduler.step = step
    return ", ".join(card.again()) or "none"


def measured(dtype: str, compiled: bool, standin: bool) -> list[str]:
    """The table's rows of a precision."""
    card = Card(harness.ROOT) if standin else None
    name = f"{dtype}{', compiled' if compiled else ''}"
    with torch.no_grad() if standin else nullcontext():
        pipe = pipeline(dtype, card)
        pipe.set_progress_bar_config(disable=True)
        if card is not None:
            return [f"| {name} | {way} | - | - | - | {waiting(pipe, card, method)} |"
                    for way, method in WAYS.items() if method]
        if compiled:
            pipe.unet.compile()
        found, speed = overhead(pipe), throughput(pipe)
        return [f"| {name} | {way} | {ratio:.2f} | {memory:.3f} | {speed:.0f} | - |"
                for way, (ratio, memory) in found.items()]


def page(standin: bool) -> str:
    where = "a stand-in for a GPU" if standin else torch.cuda.get_device_name()
    lines = [f"""# On a GPU

{harness.answer("gpu")}

Made by `python benchmarks/gpu.py{' --standin' if standin else ''}` on {where}, of the demo model: {model.STEPS} steps,
{IMAGES} images, every one pushed; medians of {ROUNDS} rounds.{
    ' A stand-in computes on the CPU: it shows that no step waits for a card, and nothing of its times.' if standin else ''}

Contracts: {contracts(standin)}.

| precision | direction | time | memory | calibrate, images/s | waits and copies in every step |
|---|---|---|---|---|---|"""]
    forms = [(dtype, False) for dtype in DTYPES] + ([] if standin else [("float32", True)])
    for dtype, compiled in forms:
        lines += measured(dtype, compiled, standin)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--standin", action="store_true", help="without a card")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "results", metavar="FOLDER",
                        help="folder of the page (default: results)")
    options = parser.parse_args()
    if not options.standin and not torch.cuda.is_available():
        parser.error("This machine has no CUDA GPU. Add --standin to try the command without one.")
    text = page(options.standin)
    options.out.mkdir(parents=True, exist_ok=True)
    print(text, write_atomic(options.out / "gpu.md", text))


if __name__ == "__main__":
    main()
