"""The published pages are what their rows say: a renamed word had made four of them impossible to write again."""
import importlib

import harness
import pytest

# sure.md has simulations beside its rows.
PAGES = {"faces_world": "faces_world.measure", **{name: name for name in (
    "balance", "coverage", "effect", "paper", "peers", "robustness", "settings", "variety", "windows", "wordings")}}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_rows_say(name, tmp_path):
    made = importlib.import_module(PAGES[name])
    harness.keep(name, harness.kept(name), made.tables, tmp_path)

    def lines(folder):
        text = (folder / f"{name}.md").read_text("utf-8")
        return [line for line in text.splitlines() if not line.startswith("Made by")]

    assert lines(tmp_path) == lines(harness.DOCS)
    assert {path.name.split(".")[0] for path in (harness.DOCS / "rows").glob("*.gz")} == {*PAGES, "sure"}
