"""Where the published pages stand, and how each begins."""
from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def answer(name: str) -> str:
    """What docs/benchmarks.md says of a page, which begins with it."""
    rows = [line.split("|") for line in (DOCS / "benchmarks.md").read_text("utf-8").splitlines()
            if line.startswith("|") and f"({name}.md)" in line]
    return f"**{rows[0][1].strip()}** {rows[0][2].strip()}"
