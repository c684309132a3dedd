"""One word for one thing (docs/glossary.md), in everything that a user reads."""
import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("core", "nodes", "webui_extension", "diffusers_host")
# Another word for what the glossary names, and words that a native speaker would not write here.
OTHERS = {
    r"(?<!moving )\bpictures?\b": "image",
    r"(?<!image )(?<!trained )(?<!zero-shot )(?<!transformers )(?<!setting )\bclassifiers?\b(?!-free)": "judge",
    r"\bsuffices?\b": "is enough", r"\banew\b": "again", r"\bhardly\b": "barely", r"\bwhich is none\b": "isn't one",
}
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|\bmodels/\w+|\{[^{}]*\}|(?<=\")\w+(?=\")|(?<=')\w+(?=')", re.DOTALL)


@cache
def pages():
    """(name, text) of each page for users and of each message and label of the product."""
    found = [*ROOT.glob("README.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md"),
             *(ROOT / "core" / "report").glob("*.html")]
    result = [(path.name, path.read_text("utf-8")) for path in found if path.name != "api.md"]
    messages = (ROOT / "tests" / "messages.txt").read_text("utf-8").splitlines()
    result.append(("messages.txt", "\n".join(line.partition(": ")[2] for line in messages)))
    for path in (path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body and isinstance(node.body[0], ast.Expr)}
        result.append((path.name, "\n".join(
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and id(node) not in docstrings
            and (" " in node.value or node.value[:1].isupper()))))  # a label may be one word
    return result


@pytest.mark.parametrize("other", OTHERS)
def test_one_word_stands_for_one_thing(other):
    found = [f"{name}: {line.strip()[:120]}" for name, text in pages() for line in CODE.sub(" ", text).splitlines()
             if re.search(other, line, re.IGNORECASE)]
    assert not found, f"write '{OTHERS[other]}':\n" + "\n".join(found)


def test_the_glossary_has_at_most_15_words():
    rows = re.findall(r"^\| (\w+) \| .+ \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) - 1 <= 15 and {"image", "judge", "steer", "group", "share", "target", "profile"} <= set(rows)
