"""The figures of all benchmarks on one page and in one file: docs/results.md and docs/results.json.

    python benchmarks/results.py

It measures nothing: it reads what the benchmarks have written to docs/ so far, and leaves out what is not there.
"""
from __future__ import annotations

import json

import budget
import harness
import numpy as np
import peers
import uncalibrated
from harness import DOCS, kept

from sd_debias.core.files import read_json, write_atomic

PAGES = ("effect", "paper", "settings", "sure", "peers", "budget", "shortcuts", "spending", "windows", "overhead", "uncalibrated", "wordings", "intersections",
         "robustness")
DROPPED = """
## Tried and dropped

Ways to calibrate on less, measured in "Cheaper rounds" above:

- *A verification that looks early* accepts most models whose shares are 60:40, which the whole verification refuses.
- *The classifier's probabilities* instead of its labels change the shares' error by less than a tenth of a point, where the sample itself
  makes four; correcting labels by the classifier's confusion makes the error larger.
- *Counting half-finished pictures, or pictures of half the steps*, tells gender almost always, and the tone of pictures that nothing pushes too
  rarely. With some of them finished to correct the bias, rounds of gender would take about 30 % fewer model evaluations and more pictures,
  decoding and judging not counted; rounds of tones would take more of both.
- *The first steps as a prior* are worth about as many finished pictures as they cost ("Prompts that were not calibrated").

Other ideas, each in the section of its name:

- *Every second step instead of the first ones* ("Which steps decide") moves fewer pictures to their group at the same cost.
- *Weights guessed from the prompt's embedding* ("Prompts that were not calibrated"), by nearest prompt, ridge or kernel, are worse than an average
  profile: a text does not tell who will appear. The denoiser's first predictions do.
"""


def effect(results: list[dict]) -> dict:
    """Shares of the default method's calibrations that end within chance of their target."""
    found = {}
    for case, attribute in (("gender", "gender"), ("tone", "skin_tone_5")):
        rows = [r for r in results if r["case"] == case]
        if rows:
            after = [r["attributes"][attribute]["after"] for r in rows]
            found[f"{case}_share_below_floor"] = float(np.mean([d["kl"] <= d["kl_floor95"] for d in after]))
            found[f"{case}_images"] = float(np.mean([r["images"] for r in rows]))
            found[f"{case}_mean_kl"] = float(np.mean([d["kl"] for d in after]))
    falls = [r["fidelity"]["before"] - r["fidelity"]["after"] for r in results]
    if falls:
        found["fidelity_drop"] = float(np.mean(falls))
    return found


def calibration(results: list[dict]) -> dict:
    """Pictures to a calibrated gender, of all that are made, and how many times as many other solvers use."""
    def images(method, plan):
        return {r["occupation"]: r["images"] for r in results if (r["method"], r["plan"]) == (method, plan)}

    found, own = {}, images("default (draw)", next(iter(budget.PLANS)))
    if own:
        found["images_gender_85"] = float(np.mean(list(own.values())))
    # Ratios are of the same occupations, and lower bounds where the other solver ends short of the target.
    additive, shared = images("shift, additive", budget.PATIENT), images("default (draw)", budget.SHARED)
    if additive and additive.keys() <= shared.keys():
        found["ratio_to_additive"] = sum(additive.values()) / sum(shared[subject] for subject in additive)
    return found


def main() -> None:
    figures = dict(effect=effect(kept("effect")))
    figures["calibration"] = calibration(kept("budget"))
    guesses = kept("uncalibrated")
    if guesses:
        # What an uncalibrated prompt gets, and what weights predicted for it give.
        figures["uncalibrated"] = {
            f"{name}kl_ratio_to_average_profile{of}": uncalibrated.mean_kl(guesses, attribute, how)
            / uncalibrated.mean_kl(guesses, attribute, "average profile")
            for name, how in (("", "every picture"), ("predicted_", "first steps"))
            for attribute, of in (("gender", ""), ("tone", "_tone"))}
    for row in read_json(DOCS / "overhead.json"):
        if row["model"] == "demo":
            figures["overhead"] = dict(prompt=row["ratios"]["prompt (default)"],
                                       embedding=row["ratios"]["embedding, default window"])
    side_by_side, _ = peers.whole(kept("peers"))
    if side_by_side:
        figures["peers"] = {attribute: {peer: float(peers.summary(side_by_side, attribute, peer)["kl"])
                                        for peer in peers.PEERS if peers.rows_of(side_by_side, attribute, peer)}
                            for attribute in peers.ATTRIBUTES}
    figures = {part: values for part, values in figures.items() if values}
    write_atomic(DOCS / "results.json", json.dumps(dict(machine=harness.machine(), **figures), indent=1))
    pages = [(DOCS / f"{name}.md").read_text("utf-8") for name in PAGES if (DOCS / f"{name}.md").exists()]
    listed = "\n".join(f"| {part}.{key} | {value:.4g} |" for part, values in figures.items() if part != "peers"
                       for key, value in values.items())
    # Each page keeps its own file; here the tables of single calibrations are left out.
    parts = [page.split("\n| case | method | occupation |")[0].replace("\n# ", "\n## ").replace("# ", "## ", 1)
             for page in pages]
    write_atomic(DOCS / "results.md", "# Results\n\nAll of it was made by `benchmarks/`; the same figures stand in "
                 f"`results.json`.\n\n| figure | |\n|---|---|\n{listed}\n\n" + "\n".join(parts)
                 + DROPPED * (DOCS / "shortcuts.md").exists())


if __name__ == "__main__":
    main()
