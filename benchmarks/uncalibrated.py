"""Prompts that were not calibrated: the weights for an occupation guessed from profiles of the nineteen others.

    python benchmarks/uncalibrated.py

It needs the calibrations of `effect.py` (rows/effect.json.gz), and goes on where rows/uncalibrated.json.gz ends.
"""
from __future__ import annotations

import functools

import harness
import numpy as np
import torch
from harness import kept

from sd_debias.diffusers_host.encode import encode
from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from demo_training import artwork, captions
from sd_debias.core.method.methods import METHODS
from sd_debias.core.calibration.first_steps import PER_GROUP, kernel_ridge, predicted_steering
from sd_debias.core.calibration.solver.draw import Draw, least_push
from sd_debias.core.method.draw import Steering
from sd_debias.diffusers_host.first_steps import distance, first_shares

ATTRIBUTES = {"gender": GENDER, "tone": SKIN_TONE_5}
GUESSES = ("nothing", "average profile", "nearest prompt", "ridge", "kernel", "first steps", "average of few",
           "first steps, few", "every picture")
FEW = {"average of few": "average profile", "first steps, few": "first steps"}
IMAGES = 32  # begun, none finished, to read a prompt's shares off the first steps


def calibrated(attribute: str) -> dict[str, dict]:
    """By occupation, the default method's calibration."""
    results = kept("effect")
    return {r["occupation"]: r for r in results if (r["case"], r["method"]) == (attribute, "default")}


@functools.cache
def features() -> dict[str, np.ndarray]:
    """A prompt's text embedding where it ends, standardised over the occupations."""
    ends = {}
    for subject in artwork.OCCUPATIONS:
        prompt = captions.prompt(subject)
        embedded = encode(harness.bench.pipe, [prompt])["prompt_embeds"][0]
        ends[subject] = embedded[len(harness.bench.pipe.tokenizer(prompt).input_ids) - 1].numpy()
    table = np.stack(list(ends.values()))
    return {subject: (end - table.mean(0)) / table.std(0) for subject, end in ends.items()}


@functools.cache
def seen_early(attribute: str) -> dict[str, np.ndarray]:
    """By occupation, its groups' shares in the first steps."""
    bench = harness.bench
    return {subject: first_shares(bench.pipe, captions.prompt(subject), [ATTRIBUTES[attribute]], range(IMAGES),
                                  batch_size=bench.batch_size, num_inference_steps=bench.setting["steps"],
                                  guidance_scale=bench.setting["cfg"])[0]
            for subject in artwork.OCCUPATIONS}


def predicted_odds(x: np.ndarray, known: np.ndarray, y: np.ndarray, kernel: str) -> np.ndarray:
    """Kernel ridge regression of centred log-odds y [n, K] on features known [n, D], at x [D]."""
    def gram(a, b):
        if kernel == "linear":
            return a @ b.T
        distance = np.square(a[:, None] - b[None]).sum(-1)
        return np.exp(-distance / np.median(np.square(known[:, None] - known[None]).sum(-1)))

    return kernel_ridge(gram(known, known), gram(x[None], known)[0], y)


def guess(how: str, subject: str, attribute: str) -> Steering:
    """The weights for `subject` without its own calibration."""
    target = np.asarray(ATTRIBUTES[attribute].target)
    others = {name: r for name, r in calibrated(attribute).items() if name != subject}
    none = Steering.none(len(target))
    steerings = {name: Steering(*map(tuple, (s["weights"], s["probabilities"])), s["strength"])
                 for name, r in others.items() for s in r["steerings"]}
    alone = (1.0,) + (0.0,) * len(target)
    if how == "nothing":
        return none
    if how in FEW:
        chosen = np.random.default_rng(artwork.OCCUPATIONS.index(subject)).permutation(list(others))
        others, how = {name: others[name] for name in chosen[:PER_GROUP * len(target)]}, FEW[how]
        steerings = {name: steerings[name] for name in others}
    if how == "every picture":
        return Steering(none.weights, (0.0, *target), 1.0)
    if how == "average profile":
        return Steering(none.weights, tuple(np.mean([s.probabilities or alone for s in steerings.values()], 0)), 1.0)
    if how == "first steps":
        shares = seen_early(attribute)
        return predicted_steering(shares[subject], np.array([shares[name] for name in others]), list(steerings.values()))
    x = features()
    if how == "nearest prompt":
        def cosine(name):
            return x[name] @ x[subject] / np.linalg.norm(x[name]) / np.linalg.norm(x[subject])
        return steerings[max(others, key=cosine)]
    odds = np.log([[max(p, 1e-3) for p in next(iter(r["attributes"].values()))["before"]["shares"]]
                   for r in others.values()])
    odds -= odds.mean(1, keepdims=True)
    guessed = predicted_odds(x[subject], np.stack([x[name] for name in others]), odds,
                             "linear" if how == "ridge" else "rbf")
    shares = np.exp(guessed) / np.exp(guessed).sum()
    obedience = Draw.OBEDIENCE * np.eye(len(target)) + (1 - Draw.OBEDIENCE) * shares
    return Steering(none.weights, tuple(least_push(np.vstack([shares, obedience]), target)), 1.0)


def measure(job: dict) -> tuple[dict, str]:
    """One guess on fresh seeds."""
    with torch.inference_mode():
        steering = guess(job["guess"], job["occupation"], job["attribute"])
    attribute = ATTRIBUTES[job["attribute"]]
    test = harness.tested(captions.prompt(job["occupation"]), [attribute], METHODS["default"], [steering])
    others = [captions.prompt(subject) for subject in artwork.OCCUPATIONS if subject != job["occupation"]]
    away = distance(harness.bench.pipe, others, captions.prompt(job["occupation"]))
    return dict(test=test, distance=away.distance), f"KL {test['attributes'][attribute.name]['kl']:.4f}"


def mean_kl(results: list[dict], attribute: str, how: str) -> float:
    """Held-out KL of a guess, averaged over the occupations measured so far."""
    kl = [r["test"]["attributes"][ATTRIBUTES[attribute].name]["kl"] for r in results
          if (r["attribute"], r["guess"]) == (attribute, how)]
    return float(np.mean(kl)) if kl else float("nan")


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = (np.argsort(np.argsort(values)) for values in (x, y))
    return float(np.corrcoef(*ranks)[0, 1])


def distance_tells(results: list[dict]) -> list[str]:
    """Markdown: how a guess's KL goes with the distance from the calibrated prompts."""
    away = {r["occupation"]: r["distance"] for r in results if "distance" in r}
    text = []
    for attribute in ATTRIBUTES:
        for how in ("average profile", "nearest prompt", "first steps"):
            kl = {r["occupation"]: r["test"]["attributes"][ATTRIBUTES[attribute].name]["kl"] for r in results
                  if (r["attribute"], r["guess"]) == (attribute, how) and r["occupation"] in away}
            if len(kl) > 2:
                text.append(f"| {attribute} | {how} | {rank_correlation([away[s] for s in kl], list(kl.values())):+.2f} | {len(kl)} |")
    return text


def worth(results: list[dict]) -> float:
    """Finished pictures whose counts, of pictures that nothing pushes, would tell gender as well as the first steps do.

    What the answer is off by, less what the test's own pictures are, against what n counted pictures would leave it off
    by: q_0^2 p (1 - p) / n.
    """
    rows = {how: {r["occupation"]: r["test"]["attributes"]["gender"]["shares"][0] for r in results
                  if (r["attribute"], r["guess"]) == ("gender", how)} for how in ("nothing", "first steps")}
    subjects = rows["nothing"].keys() & rows["first steps"].keys()
    p = np.array([min(rows["nothing"][s], 1 - rows["nothing"][s]) for s in subjects])
    off = np.array([rows["first steps"][s] - 0.5 for s in subjects])
    left = 0.5 / (1 - p)  # q_0, where every push is obeyed
    tested = left * p * (1 - p) / harness.HELD_OUT  # of the pictures that nothing pushed
    return float((left ** 2 * p * (1 - p)).mean() / (off ** 2 - tested).mean()) if subjects else float("nan")


def tables(results: list[dict]) -> str:
    """Markdown: a row an attribute and guess."""
    text = [f"""# Prompts that were not calibrated

Made by `python benchmarks/uncalibrated.py` on {harness.machine()}: the weights of each of the demo model's twenty occupations are guessed
from the calibrations of the nineteen others, and tested on N = {harness.HELD_OUT} seeds that no calibration has used. {harness.FLOOR}

- *average profile*: the mean of their draw probabilities
- *nearest prompt*: those of the occupation whose text embedding is nearest (cosine)
- *ridge*, *kernel*: the unguided shares predicted from the text embedding (linear or Gaussian kernel ridge regression of log-odds,
  penalty by leave-one-out), and the least push that corrects them
- *first steps*: the prompt's prediction in the first steps, where pictures are still noise, is solved as a mixture of the predictions
  for its groups (`core/calibration/first_steps.py`); draw probabilities by ridge regression on these shares. {IMAGES} pictures are begun and none is
  finished: as many model evaluations as 24 pictures for two groups and 42 for five, for this prompt and each calibrated one
- *few*: from {PER_GROUP} calibrated prompts a group, drawn at random, the minimum for a prediction
- *every picture*: no shares are needed if each picture is steered to a group drawn from the target

| attribute | guess | mean KL | largest KL | ratio to the average profile | below the 95 % floor | pictures that show another group | fidelity |
|---|---|---|---|---|---|---|---|"""]
    for attribute, how in dict.fromkeys((r["attribute"], r["guess"]) for r in sorted(
            results, key=lambda r: (r["attribute"], GUESSES.index(r["guess"])))):
        rows = [r["test"] for r in results if (r["attribute"], r["guess"]) == (attribute, how)]
        name = ATTRIBUTES[attribute].name
        mean = mean_kl(results, attribute, how)
        text.append(f"| {attribute} | {how} | {mean:.4f} | {max(r['attributes'][name]['kl'] for r in rows):.4f} | "
                    f"{mean / mean_kl(results, attribute, 'average profile'):.2f} | {sum(harness.below_floor(r, name) for r in rows)} of {len(rows)} | "
                    f"{100 * np.mean([r['regrouped'] for r in rows]):.0f} % | {np.mean([r['fidelity'] for r in rows]):.3f} |")
    text += [f"""
As a prior of a calibration of gender, the first steps are worth about {worth(results):.0f} finished pictures, and cost about as much as 24.
""", """
The distance of an occupation's text from its nearest calibrated one does not predict how well weights carry over. Spearman's rank correlation of that
distance with the KL of a guess, over the occupations:

| attribute | guess | correlation | occupations |
|---|---|---|---|""", *distance_tells(results)]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("uncalibrated", [dict(attribute=attribute, guess=how, occupation=subject)
                                 for subject in artwork.OCCUPATIONS for attribute in ATTRIBUTES for how in GUESSES],
                measure, tables, harness.parser(__doc__).parse_args())
