"""A short text does not keep a host busy for hours."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = """
import sys, types
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv[1]]
sys.modules["sd_debias"] = package
from sd_debias.core.attribute import parse
from sd_debias.core.errors import DebiasError
try:
    parse(eval(sys.argv[2]))
except DebiasError as error:
    print(error)
"""


@pytest.mark.parametrize("text", [
    "'gender = a' + ' ' * 20_000 + 'b'", "'gender = ' + '1' * 20_000 + 'x'", "'gender = a' + ' 1' * 10_000 + 'x'",
    "'x | ' + 'a ( b ' * 5_000", "'x | ' + 'a ( b ' * 5_000 + ')'", "'x | ' + '(' * 20_000", "'a | b' * 200_000"])
def test_an_attribute_of_any_text_is_read_or_refused(text):
    """Three thousand spaces in a request kept a web UI busy, and everybody else out, for as long as it ran."""
    done = subprocess.run([sys.executable, "-c", READ, str(ROOT), text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
