"""Entry for AUTOMATIC1111, Forge and reForge, which load this file alone, again at every "Reload UI".

The checkout becomes the package `sd_debias` without a place on sys.path, where names such as `core` would meet other
extensions'. ADetailer's setting "Script names to apply to ADetailer" knows this extension as `sd_debias`.
"""
import importlib.util
import sys
import types
from pathlib import Path

PACKAGE = "sd_debias"

for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
    del sys.modules[name]
package = types.ModuleType(PACKAGE)
package.__path__ = [str(Path(__file__).resolve().parent.parent)]
sys.modules[PACKAGE] = package


def is_sd_next() -> bool:
    """Its hooks of a sampling step are there, but it never calls them."""
    try:
        return importlib.util.find_spec("modules.sd_offload") is not None
    except (ImportError, ValueError):
        return False


if is_sd_next():
    print("sd-debias: SD.Next never calls the hooks that guidance needs, so this extension does nothing here. Use it "
          "in ComfyUI, AUTOMATIC1111, Forge or Forge Neo, or sd-debias on the command line.")
else:
    from sd_debias.webui_extension import callbacks
    from sd_debias.webui_extension.measure_script import DebiasMeasure  # noqa: F401
    from sd_debias.webui_extension.script import Debias  # noqa: F401
    callbacks.register()
