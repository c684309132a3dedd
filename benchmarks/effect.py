"""What calibration achieves on the embedded demo model, whose bias is known: the figures of the README.

    python benchmarks/effect.py                     # everything: hours on two cores, resumable
    python benchmarks/effect.py --only gender       # one case
    python benchmarks/effect.py --occupations doctor judge --only gender

Every case calibrates each occupation by itself on at most 1,200 pictures (an audit and four rounds of 240) and verifies
the weights on 400 pictures of seeds that no round has used. Results are added to docs/effect.json as they come, and a run
goes on where that file ends; docs/effect.md is its tables.
"""
from __future__ import annotations

import time
from dataclasses import asdict

import harness
import numpy as np
from harness import FIRST_SEED, HELD_OUT

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from demo_training import artwork, captions
from sd_debias.core.method.methods import METHODS, Method

BUDGET = 1200

CASES = {
    "gender": [GENDER],
    "tone": [SKIN_TONE_5],
    "both": [GENDER, SKIN_TONE_5],
    "gender 70:30": [GENDER.with_target((70, 30))],
}
SOLVERS = {
    "log": Method(spend="shift", rule="log"),
    "additive": Method(spend="shift", rule="additive"),
    "multiplicative": Method(spend="shift", rule="multiplicative"),
    "policy gradient": Method(spend="shift", rule="policy_gradient"),
    "policy gradient, 10x": Method(spend="shift", rule="policy_gradient"),
}
SOLVED = ("doctor", "teacher", "office worker")


def jobs(options) -> list[dict]:
    """Every case, method and occupation that was asked for, the most telling first."""
    solvers = [("solvers", name, subject) for name in SOLVERS for subject in SOLVED
               if subject == SOLVED[0] or not name.endswith("10x")]
    every = [(case, "default", subject) for subject in artwork.OCCUPATIONS for case in CASES] + solvers
    return [dict(case=case, method=method, occupation=subject) for case, method, subject in every
            if options.only in (None, case) and options.method in (None, method)]


def plan(case: str, method: str) -> Plan:
    if method.startswith("policy gradient"):
        budget = BUDGET * (10 if method.endswith("10x") else 1)
        return Plan(images=50, rounds=budget // 50 - 1, held_out=HELD_OUT, seed=FIRST_SEED, batch_size=50)
    return Plan(images=BUDGET // 5, rounds=4, held_out=HELD_OUT, seed=FIRST_SEED, batch_size=60)


def measure(job: dict) -> tuple[dict, str]:
    """One calibration and its verification."""
    case, method, subject = job.values()
    attributes = CASES["gender" if case == "solvers" else case]
    calibration = Calibration(captions.prompt(subject), attributes,
                              (SOLVERS if case == "solvers" else METHODS)[method], plan(case, method))
    started = time.perf_counter()
    for _ in harness.bench.run(calibration):
        pass
    found = dict(
        stop=calibration.stop,
        rounds=sum(r.kind == "round" for r in calibration.rounds),
        images=sum(r.done for r in calibration.rounds[:-1]),  # all but the verification that the figures are of
        verifications=sum(r.kind == "held-out" for r in calibration.rounds),
        seconds=round(time.perf_counter() - started, 1),
        fidelity=dict(before=calibration.audit.mean_fidelity, after=calibration.held_out.mean_fidelity),
        steerings=[asdict(steering) for steering in calibration.steerings],
        attributes={a.name: dict(target=list(a.target), before=calibration.audit.distribution(i, a.target).to_dict(),
                                 after=calibration.held_out.distribution(i, a.target).to_dict())
                    for i, a in enumerate(attributes)})
    kl = ", ".join(f"{name} {m['before']['kl']:.3f} -> {m['after']['kl']:.4f}"
                   for name, m in found["attributes"].items())
    return found, f"KL {kl}, {found['images']} pictures, {found['seconds']:.0f} s"


def tables(results: list[dict]) -> str:
    """Markdown: a row a case and method, then one a calibration."""
    text = [f"""# What calibration achieves on the demo model

Made by `python benchmarks/effect.py` on {harness.machine()}. At most
{BUDGET:,} pictures in an audit and four rounds; "after" is always measured on N = {HELD_OUT} pictures of seeds that nothing before
has used. "Below the floor": held-out KL below the 95 % point that a perfectly fair model stays under. Where the first verification
stayed above it and a round was left, its pictures joined the others and fresh seeds verified anew ("verified again"); pictures
are all that were made before the verification that counts. Fidelity is the share of pictures that show the prompt's occupation.

| case | method | occupations | attribute | mean KL before | mean KL after | largest | farthest share from its target | below the floor | KL <= 0.02 | pictures: mean, most | verified again | fidelity before -> after | largest fall |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""]
    kinds = sorted({(r["case"], r["method"]) for r in results}, key=lambda k: [(r["case"], r["method"]) for r in results].index(k))
    for case, method in kinds:
        rows = [r for r in results if (r["case"], r["method"]) == (case, method)]
        before, after = (np.array([r["fidelity"][key] for r in rows]) for key in ("before", "after"))
        for name in rows[0]["attributes"]:
            measured = [r["attributes"][name] for r in rows]
            kl = np.array([m["after"]["kl"] for m in measured])
            farthest = max(np.abs(np.subtract(m["after"]["shares"], m["target"])).max() for m in measured)
            below = sum(m["after"]["kl"] <= m["after"]["kl_floor95"] for m in measured)
            text.append(f"| {case} | {method} | {len(rows)} | {name} | {np.mean([m['before']['kl'] for m in measured]):.3f} "
                        f"| {kl.mean():.4f} | {kl.max():.4f} | {100 * farthest:.0f} points | {below} of {len(rows)} | {(kl <= 0.02).sum()} of {len(rows)} "
                        f"| {np.mean([r['images'] for r in rows]):.0f}, {max(r['images'] for r in rows)} "
                        f"| {sum(r['verifications'] > 1 for r in rows)} | {before.mean():.3f} -> {after.mean():.3f} "
                        f"| {(before - after).max():.3f} |")
    text.append("\n| case | method | occupation | attribute | shares before | shares after [95 %] | KL before | KL after [95 %] | rounds | pictures |\n"
                "|---|---|---|---|---|---|---|---|---|---|")
    for r in results:
        for name, m in r["attributes"].items():
            after = m["after"]
            shares = ", ".join(f"{p:.2f} [{low:.2f}, {high:.2f}]" for p, (low, high) in zip(after["shares"], after["intervals"]))
            text.append(f"| {r['case']} | {r['method']} | {r['occupation']} | {name} "
                        f"| {', '.join(f'{p:.2f}' for p in m['before']['shares'])} | {shares} | {m['before']['kl']:.3f} "
                        f"| {after['kl']:.4f} [{after['kl_interval'][0]:.4f}, {after['kl_interval'][1]:.4f}] | {r['rounds']} "
                        f"| {r['images']} |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--only", choices=(*CASES, "solvers"), help="one case")
    parser.add_argument("--method", help="one method")
    options = parser.parse_args()
    harness.run("effect", jobs(options), measure, tables, options)


if __name__ == "__main__":
    main()
