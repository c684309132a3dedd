"""The commands that fuzz and kill, at a small budget; docs/reliability.md has their figures at a larger one."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the commands measure memory, fork and kill as Linux does")
@pytest.mark.parametrize("command", [
    ["fuzz.py", "--documents", "2000", "--seed", "7000000"], ["kill.py", "--kills", "3", "--seed", "7"]])
def test_under_fire_nothing_is_lost_and_nothing_else_is_raised(command):
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / command[0]), *command[1:]],
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
