"""The examples run as they stand."""
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_a_whole_host_in_one_page_calibrates_and_applies():
    done = subprocess.run([sys.executable, str(EXAMPLES / "toy_host.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Target 50 / 50\. Was 87 / 13\. Now (49|50|51) / \d\d: on target\.", done.stdout)
    assert 42 <= int(re.search(r"further images: (\d+)%", done.stdout)[1]) <= 58  # 5 points beside chance


@pytest.mark.slow
@pytest.mark.parametrize("name, expected", [
    ("own_judge", r"dark hair \d+%, light hair \d+%"),
    ("own_solver", re.escape("own:halving: weights of man and woman by round: "
                             "[(0.0, 0.0), (0.5, -0.5), (0.25, -0.25)]")),
    ("own_attribute", "8 of 8 images have a weather; the same seed has the same one: True")])
def test_an_example_of_an_own_part_says_what_it_found(name, expected):
    assert re.fullmatch(expected, runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]())


@pytest.mark.slow
def test_the_notebook_runs_from_an_audit_to_a_report():
    cells = json.loads((EXAMPLES / "audit_to_report.ipynb").read_text("utf-8"))["cells"]
    known: dict = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), known)
    assert known["found"].shares["gender"]["man"] > 0.6 and len(known["images"]) == 8
    assert "on target" in str(known["profile"]) and "image/jpeg" in known["profile"]._repr_html_()
