"""Entry for AUTOMATIC1111, Forge and reForge, which load this file alone, again at every "Reload UI".

The checkout becomes the package `sd_debias` without a place on sys.path, where names such as `core` would meet other
extensions'. ADetailer's setting "Script names to apply to ADetailer" knows this extension as `sd_debias`.
"""
import sys
import types
from pathlib import Path

PACKAGE = "sd_debias"

for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
    del sys.modules[name]
package = types.ModuleType(PACKAGE)
package.__path__ = [str(Path(__file__).resolve().parent.parent)]
sys.modules[PACKAGE] = package

from sd_debias.webui_extension import callbacks  # noqa: E402
from sd_debias.webui_extension.audit_script import DebiasAudit  # noqa: E402, F401
from sd_debias.webui_extension.calibrate_script import DebiasCalibrate  # noqa: E402, F401
from sd_debias.webui_extension.doctor_script import DebiasDoctor  # noqa: E402, F401
from sd_debias.webui_extension.script import Debias  # noqa: E402, F401

callbacks.register()
