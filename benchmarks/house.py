"""How large the house is: lines by room, circles among core's rooms, longest file and function.

    python benchmarks/house.py     # prints the table that docs/developing.md holds
"""
from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("core", "nodes", "webui_extension", "diffusers_host", "demo_model", "scripts")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "web/docs/*.md")
MARK = "<!-- benchmarks/house.py -->"


def files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def room_of(path: Path) -> str:
    """core's parts are rooms of their own; files beside them belong to "core"."""
    parts = path.relative_to(ROOT).parts
    return f"core/{parts[1]}" if parts[0] == "core" and len(parts) > 2 else parts[0]


def arrows() -> dict[str, set[str]]:
    """Of each of core's rooms, the rooms that it imports from when it is loaded."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in files("core"):
        package = path.relative_to(ROOT).with_suffix("").parts[:-1]
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                target = (*package[:len(package) - node.level + 1], *(node.module or "").split("."))
                if len(target) > 2 or (ROOT / Path(*target)).is_dir():
                    room = "/".join(target[:2])
                    if room != room_of(path):
                        found[room_of(path)].add(room)
    return found


def circles(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs of rooms that reach each other."""
    def reach(room: str) -> set[str]:
        seen: set[str] = set()
        waiting = [room]
        while waiting:
            for other in found.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    rooms = [room for room in found if room != "core"]
    return sorted((a, b) for a in rooms for b in rooms if a < b and b in reach(a) and a in reach(b))


def functions(path: Path) -> list[tuple[int, str]]:
    return [((node.end_lineno or 0) - node.lineno + 1, f"{path.relative_to(ROOT)}: {node.name}")
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def table() -> str:
    lines: dict[str, int] = defaultdict(int)
    product = [*files(*PRODUCT), ROOT / "install.py", ROOT / "__init__.py"]
    written = []
    for path in product:
        own = path.read_text("utf-8").splitlines()
        lines[room_of(path) if path.parent != ROOT else "install.py"] += len(own)
        written += [line for line in own if line.strip()]
    tests = sum(len(path.read_text("utf-8").splitlines()) for path in files("tests"))
    words = sum(len(path.read_text("utf-8").split()) for page in PAGES for path in ROOT.glob(page))
    longest = max((len(path.read_text("utf-8").splitlines()), str(path.relative_to(ROOT))) for path in product)
    of_all = sorted((one for path in product for one in functions(path)), reverse=True)
    rooms = "\n".join(f"| {room} | {count:,} |" for room, count in sorted(lines.items()))
    pairs = ", ".join(f"{a} and {b}".replace("core/", "") for a, b in circles(arrows())) or "none"
    return f"""| room | lines |
|---|---|
{rooms}
| **product** | **{sum(lines.values()):,}** (goal 15,000) |
| tests | {tests:,} (goal 15,000) |
| words of README, docs and node help | {words:,} (goal 35,000) |

Mean line: {sum(map(len, written)) / len(written):.0f} letters. Longest file: {longest[1]}, {longest[0]} lines (goal 400).
Functions of more than 60 lines: {sum(length > 60 for length, _ in of_all)}; the longest is {of_all[0][1]}, {of_all[0][0]}.
Rooms of core that reach each other: {pairs} (goal: none).
"""


def main() -> None:
    page = ROOT / "docs" / "developing.md"
    text, made = page.read_text("utf-8"), table()
    page.write_text(re.sub(rf"{MARK}.*?{MARK}", lambda _: f"{MARK}\n{made}{MARK}", text, flags=re.DOTALL), "utf-8")
    print(made)


if __name__ == "__main__":
    main()
