"""Loads the checkout under the package name `sd_debias`, as every host does under a name of its own."""
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: waiting threads sleep, not spin

ROOT = Path(__file__).resolve().parent.parent

package = types.ModuleType("sd_debias")
package.__path__, package.__package__ = [str(ROOT)], "sd_debias"
sys.modules["sd_debias"] = package
top = ROOT / "package" / "__init__.py"  # which pip puts at the top of the package
exec(compile(top.read_text("utf-8"), str(top), "exec"), package.__dict__)
