"""Loads the checkout under the package name `sd_debias`, as every host does under a name of its own."""
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

package = types.ModuleType("sd_debias")
package.__path__ = [str(ROOT)]
sys.modules["sd_debias"] = package
