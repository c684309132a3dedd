"""Loads the checkout under the package name `sd_debias`, as every host does under a name of its own."""
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: waiting threads sleep, not spin

ROOT = Path(__file__).resolve().parent.parent

package = types.ModuleType("sd_debias")
package.__path__ = [str(ROOT)]
sys.modules["sd_debias"] = package
