"""The sentences that users read, as the code holds them: one list, tests/messages.txt.

    python tests/test_messages.py     # writes the list anew; read what changed

Other tests assert an error's class and the facts in it, and leave the wording to this list.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "diffusers_host", "nodes", "webui_extension", "demo_model")
LIST = Path(__file__).with_name("messages.txt")
SAID = ("DebiasError", "warn")


def test_messages_are_those_of_the_list():
    assert found() == LIST.read_text("utf-8").splitlines(), "python tests/test_messages.py"


def found() -> list[str]:
    """'file: sentence', in the order of the code; what a sentence is filled with stands in {}."""
    return [f"{file.relative_to(ROOT).as_posix()}: {text}" for room in ROOMS
            for file in sorted((ROOT / room).rglob("*.py"))
            for text in messages(ast.parse(file.read_text("utf-8")))]


def messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            text = template(node.args[0])
            if name in SAID and text.strip("{} "):
                yield text


def template(node: ast.expr) -> str:
    """A text as it stands in the code."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.IfExp):
        return f"{template(node.body)} / {template(node.orelse)}"
    return "{}"


if __name__ == "__main__":
    LIST.write_text("\n".join(found()) + "\n", "utf-8")
