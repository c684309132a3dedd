"""Does "within 5 points, 95 % certain" hold? Simulated calibrations of worlds whose shares are known.

    python benchmarks/coverage.py            # hours on two cores, resumable: 1,000 calibrations of each cell, in four turns

A world has the shares that a model shows by itself, and for each group how often an image that is steered to it shows it
(its obedience); those that do not obey show what the model shows by itself. Labels are drawn from it, seeds differ from
calibration to calibration, and the calibrations are the product's own. "Covered": the true shares of the answer lie
within the margin. Kept in rows/coverage.json.gz as cells come; coverage.md is their table.
"""
from __future__ import annotations

import argparse
import os
from itertools import product
from multiprocessing import Pool

import harness
import numpy as np

from sd_debias.core.attribute import Attribute, Group
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import SURE, planned
from sd_debias.core.calibration.round import Round
from sd_debias.core.method.methods import METHODS
from sd_debias.core.statistics import wilson

METHOD, SHARES, TARGETS = METHODS["default"], (0.6, 0.7, 0.8, 0.9, 0.95), (0.2, 0.35, 0.5, 0.65)
OBEDIENCE = ((0.85, 0.85), (0.9, 0.9), (0.95, 0.95), (0.99, 0.99), (0.85, 0.99), (0.99, 0.85))
EVEN = {n: (1 / n,) * n for n in (3, 4, 5)}
SEVERAL = {3: (0.6, 0.3, 0.1), 4: (0.5, 0.3, 0.15, 0.05), 5: (0.45, 0.25, 0.15, 0.1, 0.05)}
USUAL = [([0.8, 0.2], [0.5, 0.5], [0.99, 0.99])]  # of which the guides tell what a plan takes
EACH, TURN = 1000, 250  # calibrations of a cell, and at once: the cell that has fewest comes next


def cells() -> list[dict]:
    """Worlds by attribute: `shows` the shares by itself, `target`, `obeys`."""
    two = [dict(plan="normal", worlds=[dict(shows=[p, round(1 - p, 2)], target=[t, round(1 - t, 2)], obeys=list(r))])
           for p, t, r in product(SHARES, TARGETS, OBEDIENCE)]
    more = [dict(plan="normal", worlds=[dict(shows=list(SEVERAL[n]), target=list(EVEN[n]), obeys=[r] * n)])
            for n, r in product(SEVERAL, (0.85, 0.95))]
    both = [dict(plan="normal", worlds=[dict(shows=[0.8, 0.2], target=[0.5, 0.5], obeys=[r, r]), more[0]["worlds"][0] | dict(
        obeys=[r] * 3)]) for r in (0.85, 0.95)]
    quick = [dict(cell, plan="quick") for cell in two if cell["worlds"][0]["target"][0] == 0.5]
    short = [dict(cell, plan="short") for cell in more + both + two]
    return more + both + two + quick + short


def key_of(row: dict) -> str:
    return str((row["plan"], row["worlds"]))


def matrix(world: dict) -> np.ndarray:
    """M [n + 1, n]: what images show that are left alone, and that are steered to each group."""
    shows, obeys = np.array(world["shows"]), np.array(world["obeys"])[:, None]
    return np.vstack([shows, obeys * np.eye(len(shows)) + (1 - obeys) * shows])


def calibrated(cell: dict, seed: int) -> tuple[bool, bool, int, float]:
    """(is it sure by its own account, is it covered, its images, the share of images that it steers) of one
    calibration."""
    chance = np.random.default_rng(seed)
    attributes = [Attribute(f"attribute {i}", tuple(Group(f"group {g}", (f"{{prompt}}, group {g}",))
                                                    for g in range(len(world["target"]))), tuple(world["target"]))
                  for i, world in enumerate(cell["worlds"])]
    plan = planned(cell["plan"], METHOD, batch_size=1000, seed=int(chance.integers(2 ** 40)))
    calibration, truths = Calibration("an image", attributes, METHOD, plan), list(map(matrix, cell["worlds"]))
    while (current := calibration.next_round()) is not None:
        batch = Round(current.kind, current.steerings, current.seeds)
        for i, (truth, steering) in enumerate(zip(truths, current.steerings)):
            drawn = np.array(steering.draws(current.seeds, i) if steering.probabilities else [0] * len(current.seeds))
            shown = (chance.random(len(drawn))[:, None] >= truth.cumsum(1)[drawn]).sum(1)
            batch.labels.append(np.minimum(shown, truth.shape[1] - 1).tolist())
        calibration.add(batch)
    sure = all(calibration.certainty(i) >= calibration.needed(i) for i in range(len(attributes)))
    off, steered = [], []
    for truth, steering, attribute in zip(truths, calibration.steerings, attributes):
        q = np.array(steering.probabilities or (1.0,) + (0.0,) * truth.shape[1])
        off.append(np.abs(q @ truth - attribute.target).max())
        steered.append(1 - q[0])
    covered = max(off) <= SURE[cell["plan"]].within + 1e-9
    return bool(sure), bool(covered), sum(r.done for r in calibration.rounds), float(np.mean(steered))


def measure(cell: dict, number: int, pool, before: dict) -> dict:
    """A cell's row with one turn more than it had."""
    done = before.get("calibrations", 0)
    found = pool.starmap(calibrated, [(cell, number * 1_000_000 + done + i) for i in range(TURN)], chunksize=10)
    surely = [row for row in found if row[0]]
    new = dict(calibrations=TURN, sure=len(surely), covered=sum(row[1] for row in surely),
               images=sum(row[2] for row in found), steered=sum(row[3] for row in found))
    return cell | {key: before.get(key, 0) + more for key, more in new.items()}


def tables(results: list[dict]) -> str:
    order = [key_of(cell) for cell in cells()]
    rows = sorted(results, key=lambda r: order.index(key_of(r)))
    claims, held = sum(r["sure"] for r in rows), sum(r["covered"] for r in rows)
    low, high = wilson(held, claims)
    worst = min(rows, key=lambda r: r["covered"] / max(r["sure"], 1))
    usual = {r["plan"]: r for r in rows if [(w["shows"], w["target"], w["obeys"]) for w in r["worlds"]] == USUAL}
    plans = "; ".join(f"*{plan}* {r['images'] / r['calibrations']:.0f}, {r['steered'] / r['calibrations']:.0%}"
                      for plan, r in usual.items())
    text = [f"""# Does the certainty hold?

Of {claims:,} calibrations that called themselves 95 % certain, {held / max(claims, 1):.1%} [{low:.1%}, {high:.1%}] were within their margin.
The worst of {len(rows)} cells: {held_in(worst)}, of {said(worst)}.

Made by `python benchmarks/coverage.py` on {harness.machine()}: simulated calibrations of worlds whose shares are known, by the product's own code, with the default
method. A row is the model's own shares and the target in %; a column is how often an image that is steered to a group shows it. A cell is the share within the margin
in %, of the calibrations that say they are sure, of {min(r["calibrations"] for r in rows)} at least. Counts and images are in rows/coverage.json.gz.
Images, and the share that the answer steers, from 80:20 to 50:50, obeying 99 %: {plans}.
"""]
    for plan in dict.fromkeys(r["plan"] for r in rows):
        own = [r for r in rows if r["plan"] == plan]
        columns = sorted(set(map(obeys, own)), key=lambda column: (len(column), column))
        text += [f"## {plan}\n", f"| from, to | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        at = {(f"{words(r, 'shows')} → {words(r, 'target')}", obeys(r)): r for r in own}
        for line in dict.fromkeys(line for line, _ in at):
            text.append(f"| {line} | {' | '.join(cell(at.get((line, column))) for column in columns)} |")
        text.append("")
    return "\n".join(text)


def words(r: dict, key: str) -> str:
    return " & ".join(":".join(f"{100 * share:.0f}" for share in world[key]) for world in r["worlds"])


def obeys(r: dict) -> str:
    """Of all groups alike one number, else one for each."""
    found = [f"{100 * share:.0f}" for world in r["worlds"] for share in world["obeys"]]
    return ", ".join(found if len(set(found)) > 1 else found[:1])


def cell(r: dict | None) -> str:
    return "" if r is None else f"{100 * r['covered'] / max(r['sure'], 1):.1f}"


def held_in(r: dict) -> str:
    low, high = wilson(r["covered"], max(r["sure"], 1))
    return f"{r['covered'] / max(r['sure'], 1):.1%} [{low:.1%}, {high:.1%}]"


def said(r: dict) -> str:
    return " and ".join(f"{':'.join(f'{100 * s:.0f}' for s in w['shows'])} to {':'.join(f'{100 * s:.0f}' for s in w['target'])}, "
                        f"obeying {', '.join(f'{100 * s:.0f}' for s in w['obeys'])} %" for w in r["worlds"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--plan", choices=SURE, help="the cells of this plan alone")
    harness.out(options)
    given = options.parse_args()
    rows = {key_of(row): row for row in harness.kept("coverage", given.out)}
    stamp = dict(model_hash="none", code=harness.code())
    with Pool(given.jobs) as pool:
        for turn, (number, cell) in product(range(EACH // TURN), enumerate(cells())):
            if given.plan not in (None, cell["plan"]):
                continue
            before = rows.get(key_of(cell), {})
            if before.get("calibrations", 0) <= turn * TURN:
                rows[key_of(cell)] = row = dict(measure(cell, number, pool, before), **stamp)
                harness.keep("coverage", list(rows.values()), tables, given.out)
                print(row["calibrations"], held_in(row), said(row), flush=True)


if __name__ == "__main__":
    main()
