"""Balance without a calibration: shares, needless changes and kept occupations, docs/balance.md.

    python benchmarks/balance.py

Every image of all 20 occupations is drawn a group by its seed, as Debias Balance does; the demo's judge
labels them. A run goes on where rows/balance.json.gz ends.
"""
from __future__ import annotations

import harness
import numpy as np
from demo_training import artwork, captions

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for

WAYS = {"nothing": (), "gender 50:50": ("gender",), "gender 70:30": ("gender = 70:30",),
        "five tones": ("skin_tone_5",), "gender and five tones": ("gender", "skin_tone_5")}
N, BLOCK = 200, 80_000_000
AIMED = {"gender 70:30": (GENDER.with_target((70, 30)), SKIN_TONE_5)}


def measure(job: dict) -> tuple[dict, str]:
    bench, prompt = harness.bench, captions.prompt(job["occupation"])
    seeds = harness.fresh(prompt, N, BLOCK)
    steerings, attributes = (), ()
    if asked := WAYS[job["way"]]:
        profile = balanced(*asked)
        entry, _ = entry_for(profile, prompt)
        steerings, attributes = entry.steerings, profile.attributes
    images = bench.generate(prompt, seeds, attributes, steerings)[0]
    found = harness.measured(images, prompt, AIMED.get(job["way"], (GENDER, SKIN_TONE_5)), seeds)
    gender, tone = (found["attributes"][name]["kl"] for name in ("gender", "skin_tone_5"))
    return found, f"{job['occupation']}, {job['way']}: KL gender {gender:.4f}, tone {tone:.4f}"


def resampled(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, by the bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    return tuple(np.quantile(drawn, (0.025, 0.975)))


def tables(results: list[dict]) -> str:
    results, subjects = harness.whole(results, len(WAYS))
    lines = []
    for way in WAYS:
        if not (own := [r for r in results if r["way"] == way]):
            continue
        cells = []
        for name in ("gender", "skin_tone_5"):
            kls = [r["attributes"][name]["kl"] for r in own]
            fair = sum(harness.below_floor(r, name) for r in own)
            off = max(abs(share - aim) for r in own for share, aim in zip(r["attributes"][name]["shares"],
                                                                          r["attributes"][name]["target"]))
            low, high = resampled(kls)
            cells.append(f"{sum(kls) / len(own):.4f} [{low:.4f}, {high:.4f}] | {100 * off:.1f} | {fair} of {len(own)}")
        other = 100 * sum(r["regrouped"] for r in own) / len(own)
        lines.append(f"| {way} | {' | '.join(cells)} | {other:.0f} % | "
                     f"{100 * sum(r['fidelity'] for r in own) / len(own):.0f} % |")
    return f"""# Balance without a calibration

Made by `python benchmarks/balance.py` on {harness.machine()}: {len(subjects)} occupations of the demo model, {N} images each of an occupation's own
seeds, which no decision used, judged by the demo's own judge. KL is the mean over occupations, with the 95 % interval of that mean, by 2,000 resamples of the
occupations; "off" is the largest distance of a share from its target, in points; "fair" counts occupations below the 95 % floor of a fair model.

{harness.on_faces("balance")}

On the demo model:

| balanced | KL of gender | off | fair | KL of tones | off | fair | images of another gender or tone than without | show their occupation |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""


def main() -> None:
    options = harness.parser(__doc__).parse_args()
    jobs = [dict(occupation=subject, way=way) for subject in artwork.OCCUPATIONS for way in WAYS]
    harness.run("balance", jobs, measure, tables, options)


if __name__ == "__main__":
    main()
