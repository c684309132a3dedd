"""What calibration achieves on the embedded demo model, whose bias is known: the figures of the README.

    python benchmarks/effect.py                     # everything: hours on two cores, resumable
    python benchmarks/effect.py --only gender       # one case
    python benchmarks/effect.py --occupations doctor judge --only gender

Every case calibrates each occupation by itself on at most 1,200 pictures (an audit and four rounds of 240) and verifies
the weights on 400 pictures of seeds that no round has used. Results are added to docs/effect.json as they come, and a run
goes on where that file ends; docs/effect.md is its tables.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.core.calibrate import Calibration, Plan
from sd_debias.core.demo import artwork, captions
from sd_debias.core.files import write_atomic
from sd_debias.core.method import METHODS, Method
from sd_debias.core.workbench import demo

DOCS = Path(__file__).resolve().parent.parent / "docs"
BUDGET, HELD_OUT, FIRST_SEED = 1200, 400, 1_000

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


def jobs(occupations) -> list[tuple[str, str, str]]:
    """(case, method, occupation), the most telling first."""
    solvers = [("solvers", name, subject) for name in SOLVERS for subject in SOLVED if subject in occupations
               and (subject == SOLVED[0] or not name.endswith("10x"))]
    return [(case, "default", subject) for case in CASES for subject in occupations] + solvers + [
        (case, "paper", subject) for subject in occupations for case in CASES]


def plan(case: str, method: str) -> Plan:
    if method.startswith("policy gradient"):
        budget = BUDGET * (10 if method.endswith("10x") else 1)
        return Plan(images=50, rounds=budget // 50 - 1, held_out=HELD_OUT, seed=FIRST_SEED, batch_size=50)
    return Plan(images=BUDGET // 5, rounds=4, held_out=HELD_OUT, seed=FIRST_SEED, batch_size=60)


def measure(job: tuple[str, str, str]) -> dict:
    """One calibration and its verification."""
    global bench
    case, method, subject = job
    attributes = CASES["gender" if case == "solvers" else case]
    calibration = Calibration(captions.prompt(subject), attributes,
                              (SOLVERS if case == "solvers" else METHODS)[method], plan(case, method))
    started = time.perf_counter()
    for _ in bench.run(calibration):
        pass
    return dict(
        case=case, method=method, occupation=subject, stop=calibration.stop,
        rounds=sum(r.kind == "round" for r in calibration.rounds),
        images=sum(r.done for r in calibration.rounds[:-1]),  # all but the verification that the figures are of
        verifications=sum(r.kind == "held-out" for r in calibration.rounds),
        seconds=round(time.perf_counter() - started, 1),
        fidelity=dict(before=calibration.audit.mean_fidelity, after=calibration.held_out.mean_fidelity),
        attributes={a.name: dict(target=list(a.target), before=calibration.audit.distribution(i, a.target).to_dict(),
                                 after=calibration.held_out.distribution(i, a.target).to_dict())
                    for i, a in enumerate(attributes)})


def start_worker(threads: int) -> None:
    global bench
    torch.set_num_threads(threads)
    bench = demo()
    generate, audits = bench.generate, {}

    def once(prompt, seeds, *arguments, weights=None, **options):
        """The audits of all cases are the same pictures: made once."""
        if weights is None or weights.any():
            return generate(prompt, seeds, *arguments, weights=weights, **options)
        key = prompt, tuple(seeds)
        if key not in audits:
            audits[key] = generate(prompt, seeds)
        return audits[key]

    bench.generate = once


def tables(results: list[dict]) -> str:
    """Markdown: a row a case and method, then one a calibration."""
    text = [f"""# What calibration achieves on the demo model

Made by `python benchmarks/effect.py` on {platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores. At most
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--occupations", nargs="+", choices=artwork.OCCUPATIONS, default=artwork.OCCUPATIONS, metavar="NAME")
    parser.add_argument("--only", choices=(*CASES, "solvers"), help="one case")
    parser.add_argument("--method", help="one method")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="calibrations at once")
    parser.add_argument("--fresh", action="store_true", help="begin anew, without what docs/effect.json holds")
    options = parser.parse_args()
    store = DOCS / "effect.json"
    results = json.loads(store.read_text("utf-8")) if store.exists() and not options.fresh else []
    known = {(r["case"], r["method"], r["occupation"]) for r in results}
    due = [job for job in jobs(options.occupations) if job not in known and options.only in (None, job[0])
           and options.method in (None, job[1])]
    with multiprocessing.get_context("spawn").Pool(options.jobs, start_worker,
                                                   (max(1, os.cpu_count() // options.jobs),)) as pool:
        for result in pool.imap_unordered(measure, due):
            results.append(result)
            write_atomic(store, json.dumps(results, indent=1))
            write_atomic(DOCS / "effect.md", tables(results))
            kl = {name: round(m["after"]["kl"], 4) for name, m in result["attributes"].items()}
            print(f"{len(results)}: {result['case']}, {result['method']}, {result['occupation']}: held-out KL {kl}, "
                  f"{result['images']} pictures, fidelity {result['fidelity']['before']:.3f} -> "
                  f"{result['fidelity']['after']:.3f}, {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
