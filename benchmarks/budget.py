"""How few pictures a calibration needs: plans of different sizes, and the solvers, on prompts that show a gender at 80 % or
more.

    python benchmarks/budget.py

Every calibration is tested afterwards on 400 further seeds. A run goes on where rows/budget.json.gz ends.
"""
from __future__ import annotations

import harness
import numpy as np
from harness import FIRST_SEED, HELD_OUT

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from demo_training import artwork, bias, captions
from sd_debias.core.method.methods import Method

SKEWED = [subject for subject in artwork.OCCUPATIONS if max(bias.shares(subject)[0]) >= 0.8]
SOLVERS = {
    "default (draw)": Method(),
    "shift, log": Method(spend="shift"),
}
# Images of the audit and of each round, rounds, images of the verification.
PLANS = {
    "60 + 60, verified on 120": (60, 3, 120),
    "80 + 80, verified on 120": (80, 3, 120),
    "100 + 100, verified on 200": (100, 3, 200),
    "240 + 240, verified on 400": (240, 4, 400),
}
SHARED = "100 + 100, verified on 200"


def jobs() -> list[dict]:
    """The default method on every plan of few rounds; the solvers on one plan."""
    chosen = [("default (draw)", plan) for plan in PLANS] + [
        (method, SHARED) for method in SOLVERS if method.startswith("shift")]
    return [dict(method=method, plan=plan, occupation=subject) for subject in SKEWED for method, plan in chosen]


def measure(job: dict) -> tuple[dict, str]:
    """One calibration, and its weights on fresh seeds."""
    images, rounds, held_out = PLANS[job["plan"]]
    prompt, method = captions.prompt(job["occupation"]), SOLVERS[job["method"]]
    calibration = Calibration(prompt, [GENDER], method, Plan(images, rounds, held_out, None, 60, FIRST_SEED))
    for _ in harness.bench.run(calibration):
        pass
    test = harness.tested(prompt, [GENDER], method, calibration.steerings)
    found = dict(images=sum(r.done for r in calibration.rounds), warned=bool(calibration.warnings),
                 before=calibration.audit.distribution(0, GENDER.target).to_dict(), test=test)
    return found, f"{found['images']} pictures, KL {test['attributes']['gender']['kl']:.4f}"


def tables(results: list[dict]) -> str:
    """Markdown: a row a method and plan."""
    text = [f"""# How few pictures a calibration of gender needs

Made by `python benchmarks/budget.py` on {harness.machine()}: {len({r["occupation"] for r in results})} of the {len(SKEWED)} occupations of the demo model whose prompts show one gender
at 80 % or more. "Pictures" counts all that a calibration makes: audit, rounds and verification, repeated ones too. The weights
are then tested on N = {HELD_OUT} further seeds. {harness.FLOOR}

| method | images a round, verification | occupations | pictures: mean, most | test: mean KL | largest KL | below the 95 % floor | deviation seen, and said |
|---|---|---|---|---|---|---|---|"""]
    for method, plan in dict.fromkeys((r["method"], r["plan"]) for r in results):
        rows = [r for r in results if (r["method"], r["plan"]) == (method, plan)]
        kl = np.array([r["test"]["attributes"]["gender"]["kl"] for r in rows])
        images = [r["images"] for r in rows]
        text.append(f"| {method} | {plan} | {len(rows)} | {np.mean(images):.0f}, {max(images)} | {kl.mean():.4f} | {kl.max():.4f} | "
                    f"{sum(harness.below_floor(r['test'], 'gender') for r in rows)} | {sum(r['warned'] for r in rows)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    harness.run("budget", jobs(), measure, tables, harness.parser(__doc__).parse_args())
