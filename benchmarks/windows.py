"""Which steps decide: how often an image comes out as the group it is pushed to, by the steps in which it is pushed.

    python benchmarks/windows.py

A run goes on where rows/windows.json.gz ends.
"""
from __future__ import annotations

import math
from dataclasses import replace

import harness
import numpy as np

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from demo_training import captions
from sd_debias.demo_model import model
from sd_debias.core.method.methods import IN_CONTEXT, TOWARD, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.core.method import step as stepping
from sd_debias.core.method.draw import Steering

EVERY = stepping.EVERY
ATTRIBUTES = {"gender": GENDER, "tone": SKIN_TONE_5}
OCCUPATIONS = ("doctor", "teacher", "farmer")
N, STEPS = 200, model.STEPS
# The text evaluated toward or away, in the steps from start to end.
TOWARDS = [(toward, start, end) for start, end in ((0, 3), (0, STEPS)) for toward in (False, True)] + [
    (True, start, end) for start, end in ((1, 4), (2, 4), (2, 5), (3, 6))]
# Without classifier-free guidance: last step pushed, and steps to an evaluation, between which gamma is repeated.
ALONE = [(0, 1), *((end, every) for end in (3, STEPS) for every in (1, 2))]


def measure(job: dict) -> tuple[dict, str]:
    """Images that are each pushed to a drawn group inside one window only."""
    if "toward" in job:
        guidance = replace(TOWARD if job["toward"] else SafeLatentGuidance(), start=job.get("start", 0) / STEPS,
                           end=job["end"] / STEPS)
        return pushed(job, guidance)
    end, every = job["alone"]
    harness.forget()
    harness.bench.setting["cfg"], stepping.EVERY = 1.0, every
    try:
        return pushed(job, SafeLatentGuidance(end=end / STEPS))
    finally:
        harness.bench.setting["cfg"], stepping.EVERY = model.CFG, EVERY
        harness.forget()


def pushed(job: dict, guidance: SafeLatentGuidance) -> tuple[dict, str]:
    """Images that are each pushed to a drawn group, and what they show."""
    attribute, prompt = ATTRIBUTES[job["attribute"]], captions.prompt(job["occupation"])
    method = Method("embedding", IN_CONTEXT, guidance=guidance)
    steering = Steering((0.0,) * len(attribute.groups), (0.0, *attribute.target))
    seeds = harness.fresh(prompt, N, 20_000_000)
    guided = guidance.end > guidance.start
    images = harness.bench.generate(prompt, seeds, *(([attribute], [steering], method) if guided else ()))[0]
    drawn = np.array(steering.draws(seeds)) - 1
    shown = harness.bench.classifier(attribute)(images).argmax(1)
    found = harness.measured(images, prompt, [attribute], seeds)
    obeyed = float((drawn == shown).mean())
    return dict(obeyed=obeyed, **found), f"obeyed {obeyed:.2f}"


def tables(results: list[dict]) -> str:
    """Markdown: a row an attribute and window."""
    text = [f"""# Which steps decide

Made by `python benchmarks/windows.py` on {harness.machine()}: direction `embedding` on the demo model, {STEPS} steps, every image pushed to a drawn group
at strength 1, but only in the steps named; mean over {', '.join(OCCUPATIONS)}, N = {N} images each. "As drawn" is the share of images that
show that group. "Evaluations" is the whole run's cost against the unguided one's."""]
    text.append(f"""
Without classifier-free guidance (CFG 1) the added row doubles a step. "Every second" evaluates it in every second of the steps and
repeats its gamma in between. The package evaluates one in {EVERY}.

| attribute | steps pushed | evaluated | as drawn | occupation right | distance to the unguided image | evaluations |
|---|---|---|---|---|---|---|""")
    for attribute in ATTRIBUTES:
        for end, every in ALONE:
            rows = [r for r in results if r["attribute"] == attribute and r.get("alone") == [end, every]]
            if rows:
                text.append(f"| {attribute} | {f'1 to {end}' if end else 'none'} | {('every', 'every second')[every - 1]} | "
                            f"{np.mean([r['obeyed'] for r in rows]):.2f} | {np.mean([r['fidelity'] for r in rows]):.3f} | "
                            f"{np.mean([r['distance'] for r in rows]):.3f} | {1 + -(-end // every) / STEPS:.2f} |")
    text.append(f"""
With the text evaluated on the other side (*away*, as SLD has it, and above) or where the weights lead (*toward*, anchored at the prompt, as
calibrations by this direction do). The package's window, from {100 * TOWARD.start:.0f} % to {100 * TOWARD.end:.0f} % of the
schedule, is steps {step_of(TOWARD.start)} to {step_of(TOWARD.end) - 1} of these {STEPS}.

| attribute | steps pushed | text | as drawn | KL | occupation right | distance to the unguided image | evaluations |
|---|---|---|---|---|---|---|---|""")
    for attribute in ATTRIBUTES:
        for toward, start, end in TOWARDS:
            rows = [r for r in results if (r["attribute"], r.get("toward"), r.get("start", 0), r.get("end")) == (attribute, toward, start, end)]
            if rows:
                kl = np.mean([r["attributes"][ATTRIBUTES[attribute].name]["kl"] for r in rows])
                text.append(f"| {attribute} | {start + 1} to {end} | {'toward' if toward else 'away'} | {np.mean([r['obeyed'] for r in rows]):.2f} | {kl:.3f} "
                            f"| {np.mean([r['fidelity'] for r in rows]):.3f} | {np.mean([r['distance'] for r in rows]):.3f} "
                            f"| {1 + (end - start) / STEPS / 2:.2f} |")
    return "\n".join(text) + "\n"


def step_of(share: float) -> int:
    """The first step, counted from 1, at or behind a share of the schedule."""
    return math.ceil(share * STEPS) + 1


if __name__ == "__main__":
    harness.run("windows", [dict(attribute=attribute, alone=list(alone), occupation=subject) for subject in OCCUPATIONS
                            for attribute in ATTRIBUTES for alone in ALONE]
                + [dict(attribute=attribute, toward=toward, end=end, occupation=subject, **({"start": start} if start else {}))
                   for subject in OCCUPATIONS for attribute in ATTRIBUTES for toward, start, end in TOWARDS], measure, tables, harness.parser(__doc__).parse_args())
