"""The paper's form on the embedded demo model: one unsafe direction inside sampling, one shift for all images, IDA.

    python benchmarks/paper.py                                    # every case: hours on two cores, resumable
    python benchmarks/paper.py --only gender --occupations doctor judge

Each occupation is calibrated by itself (`--method paper`), in rounds of 100 images: gender until its shares lie within 2
points of their target with 95 % certainty, or 16 rounds are used; tones, alone or with gender, within 3.5, or 12 rounds. Then its weights are tested on 400 images of seeds that no decision has used. The policy gradient has five rounds of as many images, for
every fourth one. Every occupation has seeds of its own, in calibrations and tests: images of one seed resemble each other across occupations.
Results are kept in rows/paper.json.gz as they come; paper.md is their tables, and paper.png (by matplotlib) KL against the rounds.
"""
from __future__ import annotations

from dataclasses import replace

import harness
import numpy as np
from demo_training import artwork, captions
from effect import CASES
from harness import HELD_OUT

from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.round import ROUND
from sd_debias.core.calibration.plan import Plan, enough
from sd_debias.core.calibration.solver import Measurement
from sd_debias.core.calibration.solver.policy_gradient import PolicyGradient
from sd_debias.core.statistics import kl_divergence, noise_floor, shares
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS, Method

METHOD = METHODS["paper"]
SIDES = [replace(METHOD, guidance=replace(METHOD.guidance, toward=toward)) for toward in (False, True)]
PUSHES = ("doctor",)  # the occupations of the table of pushes
PLAN = Plan(images=100, rounds=16, held_out=0, batch_size=50, within=0.02)
TONES = replace(PLAN, rounds=12, within=0.035)
PLANS = {"gender": PLAN, "gender 70:30": PLAN, "tone": TONES, "both": TONES}
CASE_ORDER = ("gender", "gender 70:30", "tone", "both")
IDA, GRADIENT, PUSH, PLAIN = "IDA", "policy gradient", "push", "none"
EVERYWHERE = "IDA, all occupations"
ITERATIONS = 5      # of the figure
GENERATION = 4      # weights that the policy gradient tries in an iteration, on a quarter of its images each
SEEDS = 1_000_000  # from here on; the next occupation's begin as many further
TRIED, SHOWN, PUSHED = 100_000, 200_000, 300_000  # among them: what a policy learns from, what the figure shows, pushes
LENGTHS = (0.5, 1.0, 2.0)      # of these pushes


def jobs(options) -> list[dict]:
    """Case by case, so that one that is complete can be read while the next is measured."""
    every = [(case, IDA) for case in CASE_ORDER] + [(case, GRADIENT) for case in ("gender", "tone")]
    return [dict(case=PLAIN, solver=PLAIN, occupation=subject) for subject in artwork.OCCUPATIONS] + [
        dict(case=case, solver=solver, occupation=subject, method=METHOD.to_dict()) for case, solver in every
        for subject in artwork.OCCUPATIONS[::1 if solver == IDA else 4] if options.only in (None, case)] + [
        dict(case="tone", solver=PUSH, occupation=subject, method=side.to_dict()) for subject in PUSHES for side in SIDES
        if options.only in (None, "tone")]


def first_seed(occupation: str) -> int:
    """Of an occupation's own seeds, which calibrations use."""
    return SEEDS * (1 + artwork.OCCUPATIONS.index(occupation))


def test_seeds(occupation: str, case: str = PLAIN) -> list[int]:
    """An occupation's own: of all 40-bit numbers, without order. No choice of the method's or of the case's
    plan was made on their images."""
    chance = np.random.default_rng([artwork.OCCUPATIONS.index(occupation), SEEDS + (case == "gender")])
    return chance.choice(2 ** 40, 1000, replace=False)[:HELD_OUT].tolist()


def plain(job: dict) -> tuple[dict, str]:
    """Fidelity of an occupation's test images without weights."""
    prompt = captions.prompt(job["occupation"])
    pictures = harness.bench.generate(prompt, test_seeds(job["occupation"]))[0]
    fidelity = float(np.mean(harness.bench.fidelity(pictures, prompt)))
    return dict(fidelity=fidelity), f"fidelity {fidelity:.4f}"


def learned(job: dict) -> tuple[dict, str]:
    """KL of the policy's mean before and after each of five iterations of the policy gradient."""
    (attribute,), prompt = CASES[job["case"]], captions.prompt(job["occupation"])
    n, classify, begin = len(attribute.groups), harness.bench.classifier(attribute), first_seed(job["occupation"])

    def counts(steering: Steering, first: int, images: int) -> np.ndarray:
        pictures = harness.bench.generate(prompt, range(first, first + images), [attribute], [steering], METHOD)[0]
        return np.bincount(classify(pictures).argmax(1), minlength=n)

    solver = PolicyGradient(attribute.target, METHOD.unit, generation=GENERATION)
    history, kl, each = [Measurement(Steering.none(n), np.zeros((n + 1, n)))], [], PLAN.images // GENERATION
    for iteration in range(ITERATIONS + 1):
        shown = counts(solver.answer(history), begin + SHOWN + PLAN.images * iteration, PLAN.images)
        kl.append(float(kl_divergence(shares(shown), attribute.target)))
        for trial in range(GENERATION if iteration < ITERATIONS else 0):
            steering = solver.propose(history)
            tried = counts(steering, begin + TRIED + PLAN.images * iteration + each * trial, each)
            history.append(Measurement(steering, np.vstack([tried, np.zeros((n, n))])))
    return dict(kl_by_round={attribute.name: kl}, weights=[list(solver.answer(history).weights)]), \
        "KL " + ", ".join(f"{k:.3f}" for k in kl)


def pushed(job: dict) -> tuple[dict, str]:
    """Shares [n, lengths, n]: of images that all are pushed to one group, the groups that they show."""
    (attribute,), prompt, method = CASES[job["case"]], captions.prompt(job["occupation"]), Method.from_dict(job["method"])
    n, classify, found = len(attribute.groups), harness.bench.classifier(attribute), []
    begin = first_seed(job["occupation"]) + PUSHED
    for group in range(n):
        for length in LENGTHS:
            weights = np.full(n, length / (n - 1))
            weights[group] = -length
            pictures = harness.bench.generate(prompt, range(begin, begin + PLAN.images), [attribute],
                                              [Steering(tuple(weights.tolist()))], method)[0]
            found.append(shares(np.bincount(classify(pictures).argmax(1), minlength=n)).tolist())
    each = np.array(found).reshape(n, len(LENGTHS), n)
    return dict(shares=each.tolist()), "shown at length 1: " + ", ".join(f"{each[g, 1, g]:.2f}" for g in range(n))


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its test."""
    if job["solver"] == GRADIENT:
        return learned(job)
    if job["solver"] == PUSH:
        return pushed(job)
    if job["solver"] == PLAIN:
        return plain(job)
    attributes, prompt = CASES[job["case"]], captions.prompt(job["occupation"])
    plan = replace(PLANS[job["case"]], seed=first_seed(job["occupation"]))
    calibration = Calibration(prompt, attributes, METHOD, plan)
    for _ in harness.bench.run(calibration):
        pass

    test, audit = tested(job, calibration.steerings), calibration.audit
    found = dict(
        rounds=sum(r.kind == ROUND for r in calibration.rounds), images=sum(r.done for r in calibration.rounds),
        stop=calibration.ending, certainty=[calibration.certainty(i) for i in range(len(attributes))],
        kl_by_round={a.name: [r.distribution(i, a.target).kl for r in calibration.rounds]
                     for i, a in enumerate(attributes)},
        reached=next((at for at, r in enumerate(calibration.rounds) if all(
            (d := r.distribution(i, a.target)).kl <= d.kl_floor95 for i, a in enumerate(attributes))), None),
        weights=[list(s.weights) for s in calibration.steerings],
        before={a.name: audit.distribution(i, a.target).to_dict() for i, a in enumerate(attributes)},
        test=test)
    kl = ", ".join(f"{a.name} {audit.distribution(i, a.target).kl:.3f} -> {test['attributes'][a.name]['kl']:.4f}"
                   for i, a in enumerate(attributes))
    return found, f"KL {kl}, {found['rounds']} rounds, fidelity {test['fidelity']:.3f}"


def tested(job: dict, steerings: list[Steering]) -> dict:
    """What weights show on the test's seeds."""
    attributes, prompt = CASES[job["case"]], captions.prompt(job["occupation"])
    seeds = test_seeds(job["occupation"], job["case"])
    pictures = harness.bench.generate(prompt, seeds, attributes, steerings, METHOD)[0]
    return harness.measured(pictures, prompt, attributes, seeds, compared=False)


def tables(results: list[dict]) -> str:
    """Markdown: a row a case and attribute, one a round, then one a calibration."""
    text = [f"""# The paper's form on the demo model

Made by `python benchmarks/paper.py` on {harness.machine()}, with the [method `paper`](method.md#methods): {PLAN.images} images in the audit and each round, until every share lies within
{100 * PLAN.within:g} points of its target with 95 % certainty, at most {PLAN.rounds} rounds; of tones within {100 * TONES.within:g} points, at most {TONES.rounds} rounds. "Near" is the first round whose shares chance
explains (0: the audit). The test is N = {HELD_OUT} images of an occupation's own seeds, which no decision has used; "below the floor": KL below the 95 % point of independent images of a
perfectly fair model. Fidelity is the share of images that show the prompt's occupation, of {HELD_OUT} without weights and of the test's.
The paper's own SLD settings and update rule are not known to us: these are ours.

{harness.on_faces("calibrate --method paper")}

On the demo model:

| case | occupations | attribute | mean KL before | mean KL in the test | largest | below the floor | KL <= 0.02 | within 4 points | near, median round | images, mean | certain | fidelity in the test, without -> with | largest fall |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""]
    calibrated, unguided = measured_cases(results), {r["occupation"]: r["fidelity"] for r in results if r["solver"] == PLAIN}
    for case, rows in calibrated.items():
        for name in rows[0]["before"]:
            measured = [r["test"]["attributes"][name] for r in rows]
            kl = np.array([m["kl"] for m in measured])
            near = sum(np.abs(np.subtract(m["shares"], m["target"])).max() <= 0.04 + 1e-9 for m in measured)
            before, after = (np.array(values) for values in ([r.get("fidelity_plain", unguided.get(r["occupation"], np.nan)) for r in rows],
                                                             [r["test"]["fidelity"] for r in rows]))
            text.append(
                f"| {case} | {len(rows)} | {name} | {np.mean([r['before'][name]['kl'] for r in rows]):.3f} | {kl.mean():.4f} "
                f"| {kl.max():.4f} | {sum(m['kl'] <= m['kl_floor95'] for m in measured)} of {len(rows)} "
                f"| {(kl <= 0.02).sum()} of {len(rows)} | {near} of {len(rows)} "
                f"| {np.median([PLANS[r['case']].rounds + 1 if r['reached'] is None else r['reached'] for r in rows]):g} "
                f"| {np.mean([r['images'] for r in rows]):.0f} | {sum(map(certain, rows))} of {len(rows)} "
                f"| {before.mean():.4f} -> {after.mean():.4f} | {(before - after).max():.4f} |")
    text.append(f"""
## KL against iterations

![KL of both solvers against their iterations](paper.png)

Both solvers have {PLAN.images} images an iteration, on every fourth occupation. The policy gradient tries {GENERATION} weights an iteration; shown is its mean's KL, on {PLAN.images} further
images that it does not learn from. "Fair" is a perfectly fair model's KL on {PLAN.images} images, on average.

| attribute | solver | occupations | {" | ".join(map(str, range(ITERATIONS + 1)))} | fair |
|---|---|---|{"---|" * (ITERATIONS + 2)}""")
    for attribute, solver, curves in lines(results):
        text.append(f"| {attribute} | {solver} | {len(curves)} | {' | '.join(f'{kl:.3f}' for kl in curves.mean(0))} "
                    f"| {fair(attribute):.3f} |")
    (attribute,) = CASES["tone"]
    text.append(f"""
## What pushes to one group show

Share of {PLAN.images} images of {" and ".join(PUSHES)} that show the group that all are pushed to: evaluated away, as SLD has it, and `toward`, as the method has it.

| group | {" | ".join(f"length {length:g}, {side}" for length in LENGTHS for side in ("away", "toward"))} |
|---|{"---|---|" * len(LENGTHS)}""")
    mean = {method.guidance.toward: np.mean([r["shares"] for r in results if r["solver"] == PUSH
                                             and r["method"] == method.to_dict()] or [np.full((5, 3, 5), np.nan)], 0)
            for method in SIDES}
    text += [f"| {name} | {' | '.join(f'{mean[side][g, i, g]:.2f}' for i in range(len(LENGTHS)) for side in (False, True))} |"
             for g, name in enumerate(attribute.names)]
    text.append("\nEvery occupation's shares, weights and KL by round: `zcat docs/rows/paper.json.gz`.")
    return "\n".join(text) + "\n"


def measured_cases(results: list[dict]) -> dict[str, list[dict]]:
    """The calibrations of each case."""
    found = {case: [r for r in results if r["solver"] == IDA and r["case"] == case] for case in CASE_ORDER}
    return {case: rows for case, rows in found.items() if rows}


def certain(result: dict) -> bool:
    """Was every attribute known as surely as ends a calibration?"""
    return all(found >= enough(len(a.groups), len(CASES[result["case"]])) for found, a in zip(result["certainty"], CASES[result["case"]], strict=True))


def lines(results: list[dict]) -> list[tuple[str, str, np.ndarray]]:
    """Attribute, solver and KL [occupations, iterations] of each line of the figure: both solvers on the same occupations,
    and IDA on all. A calibration that was certain before the last iteration ends on its last KL."""
    found = []
    for case in ("gender", "tone"):
        rows = [r for r in results if r["case"] == case and r["solver"] in (IDA, GRADIENT)]
        both = {r["occupation"] for r in rows if r["solver"] == GRADIENT}
        for said, solver, which in ((IDA, IDA, both), (GRADIENT, GRADIENT, both), (EVERYWHERE, IDA, artwork.OCCUPATIONS)):
            curves = [kl for r in rows if r["solver"] == solver and r["occupation"] in which for kl in r["kl_by_round"].values()]
            if curves:
                found.append((CASES[case][0].name, said,
                              np.array([(kl + [kl[-1]] * ITERATIONS)[:ITERATIONS + 1] for kl in curves])))
    return found


def fair(attribute: str) -> float:
    """Mean KL of a perfectly fair model's images of one iteration."""
    sizes = {a.name: len(a.groups) for attributes in CASES.values() for a in attributes}
    return noise_floor(sizes[attribute], PLAN.images)[0]


def plot(results: list[dict], path) -> None:
    """KL against iterations of both solvers: the mean over the same occupations, and the band that holds half of them."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    found = lines(results)
    names = list(dict.fromkeys(name for name, _, _ in found))
    figure, axes = pyplot.subplots(1, max(len(names), 1), figsize=(9, 3.4), sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names):
        for (_, solver, curves), colour in zip([f for f in found if f[0] == name and f[1] != EVERYWHERE], ("#0072b2", "#d55e00")):
            low, high = np.quantile(curves, (0.25, 0.75), axis=0)
            axis.plot(curves.mean(0), "o-", color=colour, label=solver)
            axis.fill_between(range(ITERATIONS + 1), low, high, color=colour, alpha=0.2, linewidth=0)
        axis.axhline(fair(name), color="#59636e", linestyle=":", label="a perfectly fair model, on average")
        axis.set(title=name, xlabel=f"iteration of {PLAN.images} images")
        axis.grid(color="#dfe3e8")
    axes[0][0].set_ylabel("KL to the target, nats")
    axes[0][0].set_ylim(bottom=0)  # once all curves are there: the axes share it
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", choices=CASES, help="one case")
    options = parser.parse_args()
    results = harness.run("paper", jobs(options), measure, tables, options)
    plot(results, options.out / "paper.png")


if __name__ == "__main__":
    main()
