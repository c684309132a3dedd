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

def attribute(text):
    try:
        parse(text)
    except DebiasError as error:
        print(error)

def prompt(text):
    from sd_debias.core.profile.file import SHIPPED, Profile
    from sd_debias.core.profile.lookup import entry_for
    from sd_debias.core.prompts.syntax import bare
    entry_for(Profile.load(SHIPPED / "demo-gender.json"), text)
    bare(text)

def chart(text):
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.calibration.standing import Shares
    from sd_debias.core.report.prompt_chart import share_chart
    share_chart(GENDER, Shares((0.5, 0.5), ((0.4, 0.6), (0.4, 0.6)), 100), label=text)

for text in eval(sys.argv[3]):
    globals()[sys.argv[2]](text)
"""


@pytest.mark.slow
@pytest.mark.parametrize("use, texts", [
    ("attribute", "'gender = a' + ' ' * 20_000 + 'b', 'gender = ' + '1' * 20_000 + 'x', "
                  "'gender = a' + ' 1' * 10_000 + 'x', 'x | ' + 'a ( b ' * 5_000, "
                  "'x | ' + 'a ( b ' * 5_000 + ')', 'x | ' + '(' * 20_000, 'a | b' * 200_000"),
    ("prompt", "'(' * 5000 + 'doctor' + ')' * 5000, 'a doctor, ' * 1000, 'x' * 10_000, "
               "'[:1.2' * 2000, '\\\\(' * 5000 + '\\ud7ff', 'a photo of ' * 900, '<lora:' * 1600"),
    ("chart", "'x' * 100_000, 'word ' * 20_000, '\\u533b' * 100_000")])
def test_any_text_is_read_or_refused(use, texts):
    """Three thousand spaces in a request kept a web UI busy, and everybody else out, for as long as it ran."""
    command = [sys.executable, "-c", READ, str(ROOT), use, texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
