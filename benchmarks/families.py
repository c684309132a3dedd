"""Which families of models, on which host and in which direction, keep the contracts: the page docs/families.md.

    python benchmarks/families.py --out docs                                   # diffusers
    COMFYUI_PATH=/path/to/ComfyUI python benchmarks/families.py --out docs     # and a real ComfyUI, in its own Python

It runs the suite's tests of families and writes down what they measured: rows of a host that was not run are kept.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pages import answer

ROOT = Path(__file__).resolve().parent.parent
TESTS = {"diffusers": "tests/diffusers_host/test_families.py", "ComfyUI": "tests/nodes/test_families.py"}
DIRECTIONS = ("prompt", "embedding")


def measured(host: str) -> list[dict]:
    """Rows of one host: {host, family, direction, contract: value}. Raises SystemExit where a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS[host],
                                f"--junitxml={report}"], cwd=ROOT)
        if code:
            raise SystemExit(f"The tests of {host} fail, so nothing is written.")
        found: dict[tuple, dict] = {}
        for told in ElementTree.parse(report).iter("property"):
            of, family, direction, contract = told.get("name", "").split("|")
            row = found.setdefault((of, family, direction), {})
            row[contract] = max(row.get(contract, ""), told.get("value", ""), key=_size)
    return [dict(host=of, family=family, direction=direction, **row) for (of, family, direction), row in found.items()]


def _size(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("inf") if value else -1.0


def page(rows: list[dict], versions: dict) -> str:
    text = [f"""# Families of models

{answer("families")}

Made by `python benchmarks/families.py` from the suite's tests: tiny models with random weights, with the host's real networks, text encoders and samplers. Numbers are the
largest deviation as a share of what a push does; one level of 255 is the least that diffusers' images can differ by. *Left alone*: in a batch with pushed images, an image without weights is the one
without the package. *Full push*: an image that is pushed with weight -1 is that of its group's own text ("a doctor, a woman"). `embedding` has no such text: in diffusers a
step is compared with the one computed by hand{_by_hand(rows)}. This says nothing about how strong a real checkpoint's bias is or how well it can be steered: none has
been measured yet. `sd-debias doctor --model MODEL`, the node *Debias Doctor* and the script *Debias: audit and calibrate* (choose doctor) test your own.

If texts differ in length, any weight adds all words of a group, so a shift barely grows with its weight: use draws, the default.
"""]
    for host in dict.fromkeys(row["host"].split()[0] for row in rows):
        own = [row for row in rows if row["host"].split()[0] == host]
        ran = "; ".join(f"{name}: {versions[name]}" for name in dict.fromkeys(row["host"] for row in own))
        text.append(f"## {host}\n\n{ran}. Of several versions, the larger deviation counts.\n\n| family | `prompt`: left alone | `prompt`: full push | `embedding`: left alone |\n"
                    f"|---|---|---|---|")
        for family in sorted({row["family"] for row in own}, key=str.casefold):
            by = {direction: [row for row in own if (row["family"], row["direction"]) == (family, direction)] for direction in DIRECTIONS}
            cells = [_cell(by["prompt"], "left alone"), _cell(by["prompt"], "full push"),
                     *(_cell(by[direction], "left alone") for direction in DIRECTIONS[1:])]
            text.append(f"| {family} | {' | '.join(cells)} |")
        refusals = sorted({row["refused"] for row in own if "refused" in row})
        text.append("\nWhat is refused is said before the first image:\n\n" + "\n".join(
            f"- {sentence}" for sentence in refusals) + "\n" if refusals else "")
    return "\n".join(text)


def _by_hand(rows: list[dict]) -> str:
    found = [row["by hand"] for row in rows if "by hand" in row]
    return f" (deviation at most {max(found, key=_size)})" if found else ""


def _cell(rows: list[dict], contract: str) -> str:
    """What all versions of a host show."""
    if any("refused" in row for row in rows):
        return "refused"
    found = max((row[contract] for row in rows if contract in row), key=float, default="-")
    return found if found == "-" or float(found) else "identical"


def labelled(host: str) -> tuple[str, str]:
    """What the page calls a host, of which several versions may be there; and what it ran with."""
    import torch
    import transformers
    ran = f"transformers {transformers.__version__}, torch {torch.__version__}"
    if host == "diffusers":
        import diffusers
        return host, f"diffusers {diffusers.__version__}, {ran}"
    places = [Path(os.environ["COMFYUI_PATH"], name) for name in ("comfyui_version.py", "comfy/__init__.py")]
    version = re.search(r'__version__ = "([^"]+)"', "".join(place.read_text() for place in places if place.exists()))
    return f"ComfyUI {version[1] if version else 'of unknown version'}", ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of families.json and families.md")
    parser.add_argument("--host", choices=tuple(TESTS), help="one host; default: ComfyUI where COMFYUI_PATH names one, "
                        "else diffusers")
    options = parser.parse_args()
    host = options.host or ("ComfyUI" if os.environ.get("COMFYUI_PATH") else "diffusers")
    store = options.out / "families.json"
    kept = json.loads(store.read_text("utf-8")) if store.exists() else dict(versions={}, rows=[])
    label, ran = labelled(host)
    rows = [row for row in kept["rows"] if row["host"] != label] + [{**row, "host": label} for row in measured(host)]
    versions = {**kept["versions"], label: ran}
    options.out.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps(dict(versions=versions, rows=rows), indent=0), "utf-8")
    (options.out / "families.md").write_text(page(rows, versions), "utf-8")


if __name__ == "__main__":
    main()
