"""Cheaper rounds: what a calibration would see of pictures that are not finished, of fewer steps, or counted otherwise.

    python benchmarks/shortcuts.py

A run goes on where rows/shortcuts.json.gz ends.
"""
from __future__ import annotations

from contextlib import contextmanager
from typing import Sequence

import harness
import numpy as np
import torch
from harness import TEST_SEED

from sd_debias.diffusers_host.generate import generate
from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from demo_training import artwork, captions
from sd_debias.demo_model import model
from sd_debias.core.statistics import correct_confusion, kl_divergence, noise_floor
from sd_debias.core.method.methods import Method
from sd_debias.core.method.draw import Steering

ATTRIBUTES = {"gender": GENDER, "tone": SKIN_TONE_5}
OCCUPATIONS = ("doctor", "teacher", "farmer")
N, BLOCK, FEWER = 200, 60, (2, 3, 4, 6)
COUNTED = ("hard", "soft", "corrected", "artwork")
# Sequential verification: pictures at each look, looks, true shares of the first of two groups.
EXAMPLE = (0.8, 0.2)  # shares of two groups that a calibration begins with
LOOK, LOOKS, TRUE = 40, 5, (0.5, 0.55, 0.6, 0.7)


@contextmanager
def predicted_x0(pipe):
    """Collects the predicted clean latents of every step while it lasts."""
    step, seen = pipe.scheduler.step, []

    def recording(*args, **kwargs):
        stepped = step(*args, **{**kwargs, "return_dict": True})
        seen.append(stepped.pred_original_sample)
        return (stepped.prev_sample,)

    pipe.scheduler.step = recording
    try:
        yield seen
    finally:
        pipe.scheduler.step = step


def decoded(pipe, latents: torch.Tensor) -> np.ndarray:
    """uint8 [B, H, W, 3] of latents."""
    with torch.inference_mode():
        pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


def generated(pipe, prompt: str, seeds, steps: int, push: dict) -> list[np.ndarray]:
    """Pictures as they are predicted at each step, uint8 [N, H, W, 3] a step; the last are the finished ones."""
    batches = []
    for start in range(0, len(seeds), 50):
        with predicted_x0(pipe) as seen:
            generate(pipe, prompt, seeds[start:start + 50], batch_size=50, num_inference_steps=steps,
                              guidance_scale=model.CFG, **push)
        batches.append([decoded(pipe, latents) for latents in seen])
    return [np.concatenate(pictures) for pictures in zip(*batches)]


def share_errors(probabilities: np.ndarray, true: np.ndarray, groups: int) -> dict[str, float]:
    """Root mean square error of a block's shares, by how it is counted, against the shares of all pictures.

    The confusion that corrects is taken on the pictures outside of the block.
    """
    one_hot, label = np.eye(groups), probabilities.argmax(1)
    all_true, errors = one_hot[true].mean(0), {how: [] for how in COUNTED}
    rng = np.random.default_rng(0)
    for _ in range(200):
        order = rng.permutation(len(true))
        block, rest = order[:BLOCK], order[BLOCK:]
        confusion = np.full((groups, groups), 1e-3) + np.array(
            [[np.sum((true[rest] == i) & (label[rest] == j)) for j in range(groups)] for i in range(groups)])
        confusion += np.eye(groups)  # a group that the rest does not show is taken to be recognised
        hard = one_hot[label[block]].mean(0)
        found = dict(hard=hard, soft=probabilities[block].mean(0), artwork=one_hot[true[block]].mean(0),
                     corrected=correct_confusion(hard * BLOCK, confusion / confusion.sum(1, keepdims=True)))
        for how, shares in found.items():
            errors[how].append(np.square(shares - all_true).mean())
    return {how: float(np.sqrt(np.mean(squares))) for how, squares in errors.items()}


def measure(job: dict) -> tuple[dict, str]:
    """Labels of finished pictures against those of the same seeds half-way, or made in fewer steps."""
    attribute, prompt, pipe = ATTRIBUTES[job["attribute"]], captions.prompt(job["occupation"]), harness.bench.pipe
    push, seeds = {}, range(TEST_SEED, TEST_SEED + N)
    if job["pushed"]:
        push = dict(attributes=[attribute], method=Method(),
                    steerings=[Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target))])
    classify = harness.bench.classifier(attribute)
    *half_way, finished = generated(pipe, prompt, seeds, model.STEPS, push)
    probabilities = classify(finished)
    label = probabilities.argmax(1)
    true = artwork.numbers(artwork.nearest(finished))[:, 1 if attribute is GENDER else 2]

    def same(pictures) -> float:
        return float((classify(pictures).argmax(1) == label).mean())

    found = dict(x0=[same(pictures) for pictures in half_way],
                 steps={str(steps): same(generated(pipe, prompt, seeds, steps, push)[-1]) for steps in FEWER},
                 errors=share_errors(probabilities, true, len(attribute.groups)))
    return found, f"half-way {found['x0'][model.STEPS // 2 - 1]:.2f}, in 4 steps {found['steps']['4']:.2f}"


def double_sampling(cost: float, agreement: float, p: Sequence[float]) -> tuple[float, float]:
    """Evaluations and pictures begun, as ratios to finished pictures alone, for one variance of the shares p, where
    unfinished pictures cost `cost` and their labels agree so often; the best way to spend is taken."""
    a, b = 1 - np.square(p).sum(), 2 * (1 - agreement)  # summed over groups: a label that differs counts twice
    spent = np.sqrt(cost * a) + np.sqrt((1 - cost) * b)
    return float(spent ** 2 / a), float(spent / np.sqrt(cost * a))


def sequential(share: float, runs: int = 20_000) -> tuple[float, float, float]:
    """Of two groups at a true share: how often one verification on all pictures accepts, how often one that looks after
    every `LOOK` pictures and accepts at the first look below the noise floor, and the pictures that this one uses."""
    counts = np.cumsum(np.random.default_rng(0).binomial(LOOK, share, (runs, LOOKS)), 1)
    totals = LOOK * np.arange(1, LOOKS + 1)
    below = np.stack([_below_floor(n)[c] for n, c in zip(totals.tolist(), counts.T)], 1)
    first = np.where(below.any(1), totals[below.argmax(1)], totals[-1])
    return float(below[:, -1].mean()), float(below.any(1).mean()), float(first.mean())


def _below_floor(n: int) -> np.ndarray:
    """For each count k of n pictures, whether its KL from 50:50 is below the noise floor, [n + 1]."""
    kl = kl_divergence(np.stack([np.arange(n + 1), n - np.arange(n + 1)], 1) / n, (0.5, 0.5))
    return kl <= noise_floor(2, n)[1]


def tables(results: list[dict]) -> str:
    """Markdown: a row an attribute, pushed or not."""
    steps = range(1, model.STEPS)
    text = [f"""# Cheaper rounds

Made by `python benchmarks/shortcuts.py` on {harness.machine()}: the demo model, {model.STEPS} steps, mean over {', '.join(OCCUPATIONS)},
N = {N} pictures each. A calibration counts finished pictures; here is how often it would have counted the same group from less. "Pushed": each picture
to a drawn group, at strength 1.

## Labels of the predicted x0 after so many of the {model.STEPS} steps

| attribute | pushed | {' | '.join(map(str, steps))} |
|---|---|{'---|' * len(steps)}"""]

    def rows():
        for attribute in ATTRIBUTES:
            for pushed in (False, True):
                found = [r for r in results if (r["attribute"], r["pushed"]) == (attribute, pushed)]
                if found:
                    yield f"| {attribute} | {'yes' if pushed else 'no'} |", found

    for head, found in rows():
        text.append(head + "".join(f" {np.mean([r['x0'][i - 1] for r in found]):.2f} |" for i in steps))
    text.append(f"""
## What unfinished pictures would save

Rounds could end early, and a part of their pictures be finished to correct the bias of that (double sampling, Neyman 1938). With N
unfinished pictures of cost c, n of them finished, the variance of a share is p (1 - p) / N + d / n, d the share of labels that differ; of
all ways to spend, the best costs (√(c p (1 - p)) + √((1 - c) d))² against p (1 - p) of finished pictures alone. For pictures that nothing
pushes, at the mean agreement above and shares of {EXAMPLE[0]:.0%} to {EXAMPLE[1]:.0%} (two groups) and even ones (five): model evaluations, and pictures that are
begun, as ratios to finished pictures alone. Decoding and judging, which unfinished pictures need too, are not counted.

| attribute | ratio after so many steps: evaluations, pictures begun | {' | '.join(map(str, steps))} |
|---|---|{'---|' * len(steps)}""")
    for attribute in ATTRIBUTES:
        found = [r for r in results if (r["attribute"], r["pushed"]) == (attribute, False)]
        if found:
            saved = [double_sampling(i / model.STEPS, np.mean([r["x0"][i - 1] for r in found]),
                                     EXAMPLE if attribute == "gender" else (0.2,) * 5) for i in steps]
            text.append(f"| {attribute} | evaluations | {' | '.join(f'{cost:.2f}' for cost, _ in saved)} |\n"
                        f"| {attribute} | begun | {' | '.join(f'{begun:.2f}' for _, begun in saved)} |")
    text.append("\n## Labels of pictures of the same seeds that are made in fewer steps\n\n"
                f"| attribute | pushed | {' | '.join(map(str, FEWER))} |\n|---|---|{'---|' * len(FEWER)}")
    for head, found in rows():
        text.append(head + "".join(f" {np.mean([r['steps'][str(i)] for r in found]):.2f} |" for i in FEWER))
    text.append(f"\n## Ways to count\n\nRoot mean square error, in points, of the shares of {BLOCK} pictures against those of all {N}. "
                "\"Nearest artwork\" makes no\nmistake: its error is that of so small a sample alone. "
                "The correction knows the classifier's confusion from the other pictures.\n\n"
                "| attribute | pushed | CLIP's labels | CLIP's probabilities | labels, confusion corrected | nearest artwork |\n|---|---|---|---|---|---|")
    for head, found in rows():
        text.append(head + "".join(f" {100 * np.mean([r['errors'][how] for r in found]):.2f} |" for how in COUNTED))
    text.append(f"\n## Looking early\n\nA verification of two groups at 50:50 on {LOOK * LOOKS} pictures, against one that looks after every {LOOK} and accepts at the first look below\n"
                "the noise floor (20,000 simulated runs).\n\n| true share | accepted at the end | accepted at a look | pictures used |\n|---|---|---|---|")
    for share in TRUE:
        once, early, pictures = sequential(share)
        text.append(f"| {share:.2f} | {100 * once:.0f} % | {100 * early:.0f} % | {pictures:.0f} |")
    return "\n".join(text) + DROPPED


DROPPED = """

## Tried and dropped

- *A verification that looks early* accepts most models whose shares are 60:40, which the whole verification refuses.
- *The classifier's probabilities* instead of its labels change the shares' error by less than a tenth of a point, where the sample itself
  makes four; correcting labels by the classifier's confusion makes the error larger.
- *Counting half-finished pictures, or pictures of half the steps*, tells gender almost always, and the tone of pictures that nothing pushes too
  rarely. With some of them finished to correct the bias, rounds of gender would take about 30 % fewer model evaluations and more pictures,
  decoding and judging not counted; rounds of tones would take more of both.
- *Every second step instead of the first ones* ([which steps decide](windows.md)) moves fewer pictures to their group at the same cost.
- *Weights predicted for a prompt without a calibration*, from its embedding or from the denoiser's first steps: a group drawn for each picture costs
  nothing and is nearer to the target.
"""


if __name__ == "__main__":
    harness.run("shortcuts", [dict(attribute=attribute, pushed=pushed, occupation=subject) for subject in OCCUPATIONS
                              for attribute in ATTRIBUTES for pushed in (False, True)], measure, tables,
                harness.parser(__doc__).parse_args())
