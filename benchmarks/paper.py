"""The paper's form on the embedded demo model: one unsafe direction inside sampling, one shift for all pictures, IDA.

    python benchmarks/paper.py                                    # every case: hours on two cores, resumable
    python benchmarks/paper.py --only gender --occupations doctor judge

Each occupation is calibrated by itself (`--method paper`), in rounds of 100 pictures, until every share lies within 3.5
points of its target with 95 % certainty, or 12 rounds are used; then its weights are tested on 400 pictures of seeds that
no decision has used. docs/paper.json keeps every result as it comes; docs/paper.md is its tables. Occupations whose results are there are left alone; --fresh begins anew.
"""
from __future__ import annotations

import harness
import numpy as np
from demo_training import artwork, captions
from effect import CASES
from harness import FIRST_SEED, HELD_OUT, TEST_SEED

from sd_debias.core.calibration.loop import ROUND, Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.method.methods import METHODS

METHOD = METHODS["paper"]
# The margin below was chosen after tests of some occupations, gender, on TEST_SEED's pictures; these nobody had seen.
FRESH = TEST_SEED + 10_000_000
PLAN = Plan(images=100, rounds=12, held_out=0, seed=FIRST_SEED, batch_size=50, within=0.035)


def jobs(options) -> list[dict]:
    """Case by case, so that one that is complete can be read while the next is measured."""
    return [dict(case=case, occupation=subject, method=METHOD.to_dict()) for case in CASES
            for subject in artwork.OCCUPATIONS if options.only in (None, case) and subject in options.occupations]


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its test."""
    attributes, prompt = CASES[job["case"]], captions.prompt(job["occupation"])
    calibration = Calibration(prompt, attributes, METHOD, PLAN)
    for _ in harness.bench.run(calibration):
        pass
    test = harness.tested(prompt, attributes, METHOD, calibration.steerings, first=FRESH)
    audit = calibration.audit
    found = dict(
        rounds=sum(r.kind == ROUND for r in calibration.rounds), images=sum(r.done for r in calibration.rounds),
        stop=calibration.stop, certainty=[calibration.certainty(i) for i in range(len(attributes))],
        kl_by_round={a.name: [r.distribution(i, a.target).kl for r in calibration.rounds]
                     for i, a in enumerate(attributes)},
        reached=next((at for at, r in enumerate(calibration.rounds) if all(
            (d := r.distribution(i, a.target)).kl <= d.kl_floor95 for i, a in enumerate(attributes))), None),
        weights=[list(s.weights) for s in calibration.steerings], fidelity_before=audit.mean_fidelity,
        before={a.name: audit.distribution(i, a.target).to_dict() for i, a in enumerate(attributes)}, test_seed=FRESH, test=test)
    kl = ", ".join(f"{a.name} {audit.distribution(i, a.target).kl:.3f} -> {test['attributes'][a.name]['kl']:.4f}"
                   for i, a in enumerate(attributes))
    return found, f"KL {kl}, {found['rounds']} rounds, fidelity {test['fidelity']:.3f}"


def tables(results: list[dict]) -> str:
    """Markdown: a row a case and attribute, then one a calibration."""
    text = [f"""# The paper's form on the demo model

Made by `python benchmarks/paper.py` on {harness.machine()}. Method: direction `{METHOD.direction}`, the groups' texts
alone, one shift for all pictures, rule `{METHOD.rule}`, in the first {METHOD.guidance.end:.0%} of the steps, a push that grows
with its weights (`linear`): one further evaluation in these steps. {PLAN.images} pictures in the audit and each round, until every
share lies within {100 * PLAN.within:g} points of its target with 95 % certainty by all of them, at most {PLAN.rounds} rounds. "Near" is
the first round whose shares chance explains (0: the audit). "Test" is N = {HELD_OUT} pictures of seeds that no decision has used (from {FRESH:,} on; tones from {TEST_SEED:,} on, where gender alone had
been looked at while the margin was chosen); "below the floor" there: KL below the 95 % point of independent pictures of a perfectly fair model, 19 of 20 of which are. Fidelity is
the share of pictures that show the prompt's occupation. The paper's own SLD settings and update rule are not known to us: these are
ours.

| case | occupations | attribute | mean KL before | mean KL in the test | largest | below the floor | KL <= 0.02 | within 4 points | near, median round | pictures, mean | certain | fidelity before -> test | largest fall |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""]
    for case in CASES:
        rows = [r for r in results if r["case"] == case]
        for name in rows[0]["before"] if rows else ():
            measured = [r["test"]["attributes"][name] for r in rows]
            kl = np.array([m["kl"] for m in measured])
            near = sum(np.abs(np.subtract(m["shares"], m["target"])).max() <= 0.04 for m in measured)
            before, after = (np.array(values) for values in ([r["fidelity_before"] for r in rows],
                                                             [r["test"]["fidelity"] for r in rows]))
            text.append(
                f"| {case} | {len(rows)} | {name} | {np.mean([r['before'][name]['kl'] for r in rows]):.3f} | {kl.mean():.4f} "
                f"| {kl.max():.4f} | {sum(m['kl'] <= m['kl_floor95'] for m in measured)} of {len(rows)} "
                f"| {(kl <= 0.02).sum()} of {len(rows)} | {near} of {len(rows)} "
                f"| {np.median([PLAN.rounds + 1 if r['reached'] is None else r['reached'] for r in rows]):g} "
                f"| {np.mean([r['images'] for r in rows]):.0f} | {sum(min(r['certainty']) >= 0.95 for r in rows)} of {len(rows)} "
                f"| {before.mean():.3f} -> {after.mean():.3f} | {(before - after).max():.3f} |")
    text.append("\n| case | occupation | attribute | shares before | shares in the test [95 %] | KL by round | KL in the test | "
                "weights |\n|---|---|---|---|---|---|---|---|")
    for r in results:
        for (name, m), weights in zip(r["test"]["attributes"].items(), r["weights"]):
            shares = ", ".join(f"{p:.2f} [{low:.2f}, {high:.2f}]" for p, (low, high) in zip(m["shares"], m["intervals"]))
            text.append(f"| {r['case']} | {r['occupation']} | {name} | {', '.join(f'{p:.2f}' for p in r['before'][name]['shares'])} "
                        f"| {shares} | {', '.join(f'{kl:.3f}' for kl in r['kl_by_round'][name])} | {m['kl']:.4f} "
                        f"| {', '.join(f'{a:.2f}' for a in weights)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--occupations", nargs="+", choices=artwork.OCCUPATIONS, default=artwork.OCCUPATIONS, metavar="NAME")
    parser.add_argument("--only", choices=CASES, help="one case")
    options = parser.parse_args()
    harness.run("paper", jobs(options), measure, tables, options)


if __name__ == "__main__":
    main()
