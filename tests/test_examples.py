"""The examples run as they stand."""
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_a_whole_host_in_one_page_calibrates_and_applies():
    done = subprocess.run([sys.executable, str(EXAMPLES / "toy_host.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Target 50 / 50. Was 87 / 13. Now 50 / 50: on target." in done.stdout
    assert 42 <= int(re.search(r"further pictures: (\d+)%", done.stdout)[1]) <= 58  # 5 points beside chance
