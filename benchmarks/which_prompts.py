"""Which prompts are steered, and which are left alone: errors on labelled prompts, docs/which_prompts.md.

    python benchmarks/which_prompts.py

which_prompts.json holds prompts with what careful people would expect. Each set but "own" was written by
somebody who knew nothing of the rules, used once, and seen from then on: "missed" marks what was wrong then.
"""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import harness
from sd_debias.core.attribute import BUILT_IN
from sd_debias.core.statistics import wilson
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import Method
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.file import Entry, Profile
from sd_debias.core.profile.lookup import entry_for

HERE = Path(__file__).resolve().parent
OWN = "own"
ATTRIBUTES = {"gender": "gender", "age": "age", "skin tone": "skin_tone_3"}


def rows() -> list[dict]:
    return json.loads((HERE / "which_prompts.json").read_text("utf-8"))


def answer(row: dict) -> str:
    """What the product does with a prompt: "steer" or "leave alone"."""
    attribute = BUILT_IN[ATTRIBUTES[row["attribute"]]]
    profile = balanced(attribute)
    if row["calibrated"]:
        n = len(attribute.groups)
        drawn = Steering((0.0,) * n, (0.2, *[0.8 / n] * n))
        profile = Profile("calibrated", Method(), (attribute,), (Entry(f"a photo of a {row['calibrated']}", (drawn,)),),
                          {}, "", "", "")
    entry, _ = entry_for(profile, row["prompt"], row["negative"])
    return "steer" if entry.steerings[0].probabilities else "leave alone"


def main() -> None:
    kept = rows()
    wrong = [row for row in kept if answer(row) != row["expected"]]
    lines = []
    for name in dict.fromkeys(row["set"] for row in kept):
        own = [row for row in kept if row["set"] == name]
        missed = sum("missed" in row for row in own)
        low, high = wilson(missed, len(own))
        at_first = "the rules were made on it" if name == OWN else (
            f"{missed} ({100 * low:.1f} to {100 * high:.1f} %)")
        lines.append(f"| {name} | {len(own)} | {at_first} |")
    count, missed = Counter(row["kind"] for row in kept), Counter(row["kind"] for row in kept if "missed" in row)
    worst = max((kind for kind in count if count[kind] >= 100), key=lambda kind: missed[kind] / count[kind])
    (HERE.parent / "docs" / "which_prompts.md").write_text(f"""# Which prompts are steered

{harness.answer("which_prompts")}

Made by `python benchmarks/which_prompts.py`. Somebody who knew nothing of the rules wrote each set but the rules' own.
After its first use they were mended; so only the third column (95 % intervals) says what to expect of your prompts.

| set | prompts | wrong at first use |
|---|---|---|
{chr(10).join(lines)}

Wrong now: {len(wrong)} of {len(kept):,}. Of all kinds of prompts, "{worst}" errs most: {missed[worst]} of {count[worst]} at first use. The rules
are for English (core/prompts/people.py); in other languages, gender's words alone are known. The words for persons and
things come from WordNet 3.1 (benchmarks/lexicon.py).
""", "utf-8")
    for row in wrong:
        print(f"{row['prompt']!r} ({row['attribute']}): expected to {row['expected']}")


if __name__ == "__main__":
    main()
