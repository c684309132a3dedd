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
    "test_left_alone": "Left alone: without weights, a picture is bit by bit the one without the package, in a batch "
                       "with pushed ones (direction `prompt`)",
    "test_left_alone_inside_sampling": "Left alone, directions `embedding` and `prediction`, with CFG and without",
    "test_full_push": "Full push: weight -1 in the prompt's context gives the picture of the group's own text",
    "test_same_meaning": "Same meaning: the picture is what core computes, in all directions, with CFG and without",
    "test_same_meaning_anchored_at_the_prompt": "The same, anchored at the prompt, as the method `paper` does it",
    "test_same_meaning_of_predictions_anchored_at_the_prompt":
        "The same, predictions anchored at the prompt, as calibrations by `prediction` have them, with CFG and without",
    "test_same_window": "Same window: outside of it nothing is steered, also in the direction `prompt`",
    "test_strength_0": "Strength 0: bit-identical to the picture without the package, and no extra evaluations (not "
                       "counted in a real web UI)",
    "test_on_a_gpu": "A stand-in for a GPU: tensors of the card and of the CPU never meet, pictures are the CPU's bit "
                     "by bit, and no step waits for the card or copies to it; in float32, float16 or bfloat16",
    "test_on_a_real_gpu": "On this machine's GPU: pushed pictures move, and one that is left alone stays as it is",
    "test_refused": "Refusals: what cannot be mixed is refused with a message that names it"}
HEAD = """# Contracts, host by host

Measured by `tests/contracts`, the same tests on every host. Never written by hand:

    python -m pytest tests/contracts --write-table

A run replaces the whole rows of the hosts that it has. Diffusers and the doubles are always there; COMFYUI_PATH,
A1111_PATH and FORGE_PATH name real hosts, as for the other tests. ComfyUI's double and the real one need runs of their
own; `-k "A1111 and not double"` and the like run one host alone.

A number is the largest deviation of any value, as a share of the picture's largest; "identical" is none at all, bit by
bit. Pictures are latents; those of real web UIs have 256 levels, so that one level is 4e-03. The networks are random or
the demo model: small, but each host's own sampling, batching and guidance are what runs.

A cell whose cases differ names them: of CLIP, a prompt's tokens; of diffusers, families; of Forge, `t5` as Flux has it
(256 tokens, or as many as the text has), and `list` as Forge Neo's encoders of variable length give their texts. A
dash: there is no case, or the contract is newer than that host's run.
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


def markdown(kept: dict) -> str:
    lines = [HEAD]
    for test, title in TESTS.items():
        lines += [f"## {title}\n", f"| Host | {' | '.join(FORMS.values())} |", "|---" * (1 + len(FORMS)) + "|"]
        for host, row in sorted(kept.items()):
            cells = row["cells"].get(test, {})
            lines.append(f"| {host} | {' | '.join(cells.get(form) or '-' for form in FORMS)} |")
        lines.append("")
    lines += ["## Versions\n", *(f"- {host}: {row['versions']}" for host, row in sorted(kept.items())), ""]
    return "\n".join(lines)
