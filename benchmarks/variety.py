"""Variety within groups: does a method make all women alike? docs/variety.md.

    python benchmarks/variety.py

A run goes on where rows/variety.json.gz of that folder ends.
"""
from __future__ import annotations

import harness
import numpy as np
from peers import CANDIDATES, KEPT, every_picture, plain, selection, suffix
from peers_common import OCCUPATIONS
from peers_equisteer import equisteer
from peers_texts import embedding_arithmetic

from demo_training import captions
from sd_debias.core.attribute import GENDER
from sd_debias.core.profile.file import Profile, located

N, BLOCK = 200, 10_000_000


def calibrated(prompt, attribute):
    """The profile of this model that comes with the package."""
    profile = Profile.load(located("demo-gender"))
    return lambda seeds, asked=prompt: harness.bench.apply(profile, asked, seeds)[0], 0


METHODS = {"plain model": plain, "random suffix or wildcard": suffix, "Embedding Arithmetic": embedding_arithmetic,
           "EquiSteer": equisteer, "selection, 8 of 32": selection, "Balance": every_picture,
           "calibrated profile": calibrated}
COST = {"selection, 8 of 32": CANDIDATES // KEPT}


def measure(job: dict) -> tuple[dict, str]:
    prompt = captions.prompt(job["occupation"])
    generate, _ = METHODS[job["method"]](prompt, GENDER)
    seeds = harness.fresh(prompt, N, BLOCK)
    images = generate(list(seeds))
    labels = harness.bench.classifier(GENDER)(images).argmax(1)
    features = harness.bench.clip.embed_images(images).numpy()
    found = harness.measured(images, prompt, [GENDER], seeds, compared=False)
    variety = {name: spread(features[labels == g]) for g, name in enumerate(GENDER.names)}
    return dict(variety=variety, **found), f"KL {found['attributes']['gender']['kl']:.4f}, {variety}"


def spread(features: np.ndarray) -> float | None:
    """Mean 1 - cosine of all pairs; None for fewer than ten images."""
    if len(features) < 10:
        return None
    alike = features @ features.T
    return float(1 - (alike.sum() - np.trace(alike)) / (len(features) * (len(features) - 1)))


def tables(results: list[dict]) -> str:
    results, subjects = harness.whole(results, len(METHODS))
    text = [f"""# Variety within groups

Made by `python benchmarks/variety.py` on {harness.machine()}, on the demo model: {len(subjects)} occupations ({', '.join(subjects)}), N = {N} images each of seeds
that no decision used; means over the occupations, and the least and the most of them. "Variety" is the mean of 1 - cosine between CLIP's features of all pairs of images that show one
group, of women and of men; a suffix that made all women alike would lower it. Selection takes {KEPT} of {CANDIDATES} candidates by their pairwise distance, after group inference
(Parmar et al. 2025); it aims at variety, not at shares.

| method | KL of gender | variety among women | variety among men | evaluations, of the plain model's |
|---|---|---|---|---|"""]
    for name in METHODS:
        rows = [r for r in results if r["method"] == name]
        if rows:
            kl = [r["attributes"]["gender"]["kl"] for r in rows]
            text.append(f"| {name} | {ranged(kl, 4)} | {ranged([r['variety']['woman'] for r in rows])} | "
                        f"{ranged([r['variety']['man'] for r in rows])} | {COST.get(name, 1)} |")
    return "\n".join(text) + "\n"


def ranged(values: list, digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "too few images"
    return f"{np.mean(known):.{digits}f} [{min(known):.{digits}f}, {max(known):.{digits}f}]"


def main() -> None:
    options = harness.parser(__doc__).parse_args()
    jobs = [dict(occupation=occupation, method=method) for occupation in OCCUPATIONS for method in METHODS]
    harness.run("variety", jobs, measure, tables, options)


if __name__ == "__main__":
    main()
