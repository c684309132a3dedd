"""docs/contracts.md: what the tests found, host by host. docs/contracts.json keeps the rows of earlier runs."""
from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"
FORMS = {
    "a": "CLIP, one chunk", "b": "CLIP, the group's words open a second chunk", "c": "Two encoders, pooled vectors",
    "d": "Variable length, masks discarded", "e": "Variable length, masks honoured", "f": "A part that cannot be mixed"}
TESTS = {
    "test_left_alone": "Left alone: bit by bit the image without the package, in a batch with pushed ones (`prompt`)",
    "test_left_alone_inside_sampling": "Left alone, `embedding`",
    "test_full_push": "Full push: the image of the group's own text",
    "test_same_meaning": "Same meaning: the image is what core computes, in both directions",
    "test_same_meaning_anchored_at_the_prompt": "Same meaning, method `paper`",
    "test_same_window": "Same window: outside of it nothing is steered",
    "test_strength_0": "Strength 0: bit by bit the image without the package, no extra evaluations",
    "test_on_a_gpu": "A stand-in for a GPU: the CPU's images bit by bit, no wait and no copy per step",
    "test_on_a_real_gpu": "On this machine's GPU"}
HEAD = """# Contracts, host by host

**Do all hosts do the same?** Yes, up to rounding. What a host cannot mix, it refuses with a message.

Measured by `tests/contracts`, the same tests on every host, and never written by hand:

    python -m pytest tests/contracts --write-table

A run replaces the columns of the hosts that it has ([tests](testing.md)). A number is the largest deviation of any
value over all forms of text, with CFG and without, as a share of the image's largest; "identical" is none at all, bit
by bit. Images are latents; those of real web UIs have 256 levels, so that one level is 4e-03. The networks are random
or the demo model, with each host's own sampling, batching and guidance. A dash: the contract is newer than that host's
run, or needs what the machine has not.
"""


class Result(NamedTuple):
    """Of one test: outcome passed, failed, xfailed, skipped or refused, and what is to be said of it."""
    host: str
    test: str
    form: str
    variant: str
    outcome: str
    text: str
    deviation: float


def cell(found: list[Result], variants: dict) -> str:
    """What the tests of a contract, a host and a form of text say together."""
    said = []
    passed = [result.deviation for result in found if result.outcome == "passed"]
    if passed:
        said.append(f"holds, {max(passed):.0e}" if max(passed) else "identical")
    for outcome, words in (("failed", "**FAILS**"), ("xfailed", "does not hold"), ("refused", "refused"),
                           ("skipped", "")):
        for text in sorted({result.text for result in found if result.outcome == outcome}):
            own = [result for result in found if (result.outcome, result.text) == (outcome, text)]
            if outcome == "skipped" and passed and "refused" not in text:
                continue
            names, off = sorted({result.variant for result in own}), max(result.deviation for result in own)
            head = f"{', '.join(names)}: " if len(variants) > len(names) else ""
            said.append(head + ": ".join(filter(None, [words + (f", {off:.0e}" if off else ""), text])))
    return "; ".join(said)


def write(results: list[Result], hosts: dict) -> None:
    """hosts: by name, (versions, forms: variants, or a phrase in place of those that it cannot have)."""
    path = DOCS / "contracts.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for host, (versions, forms) in hosts.items():
        cells: dict[str, dict[str, str]] = {}
        for test in TESTS:
            for form in FORMS:
                # What is refused is refused under every contract.
                own = [result for result in results if (result.host, result.form) == (host, form)
                       and (result.test == test or result.outcome == "refused")]
                found = forms[form] if isinstance(forms[form], str) else cell(own, forms[form])
                if found:
                    cells.setdefault(test, {})[form] = found
        kept[host] = dict(versions=versions, cells=cells)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
    (DOCS / "contracts.md").write_text(markdown(kept), "utf-8")


def worst(cells: dict[str, str]) -> str:
    """What all forms of text say together: the largest deviation, or what fails."""
    parts = [part for cell in cells.values() for part in cell.split("; ")]
    fails = [part for part in parts if "FAILS" in part or "does not hold" in part]
    held = [float(part.rsplit(" ", 1)[1]) for part in parts if part.startswith("holds, ")]
    if fails:
        return "; ".join(fails)
    if held:
        return f"{max(held):.0e}"
    return "identical" if any("identical" in part for part in parts) else "-"


def markdown(kept: dict) -> str:
    hosts = sorted(kept)
    lines = [HEAD, f"| Contract | {' | '.join(hosts)} |", "|---" * (1 + len(hosts)) + "|"]
    for test, title in TESTS.items():
        lines.append(f"| {title} | {' | '.join(worst(kept[host]['cells'].get(test, {})) for host in hosts)} |")
    lines += ["\n## Forms of text that a host has not, or refuses with a message\n",
              f"| Form | {' | '.join(hosts)} |", "|---" * (1 + len(hosts)) + "|"]
    for form, title in FORMS.items():
        cells = [kept[host]["cells"].get("test_full_push", {}).get(form, "-") for host in hosts]
        said = ["; ".join(part for part in cell.split("; ") if not part.startswith(("identical", "holds"))) or "yes"
                for cell in cells]
        lines.append(f"| {title} | {' | '.join(said)} |")
    lines += ["", "## Versions\n", *(f"- {host}: {kept[host]['versions']}" for host in hosts), ""]
    return "\n".join(lines)
