"""ComfyUI's nodes; loaded by ComfyUI alone."""
from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import messages, profiles
from .apply import DebiasApply
from .attribute import DebiasAttribute
from .audit import DebiasAudit
from .balance import DebiasBalance
from .calibrate import DebiasCalibrate
from .check import DebiasCheckJudge
from .demo_model import DebiasDemoModel
from .doctor import DebiasDoctor
from .judge import DebiasJudge
from .profiles import DebiasLoadProfile
from .report import DebiasReport
from .text_encode import DebiasTextEncode


class Debias(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DebiasBalance, DebiasApply, DebiasTextEncode, DebiasLoadProfile, DebiasAttribute, DebiasAudit,
                DebiasCalibrate, DebiasReport, DebiasJudge, DebiasCheckJudge, DebiasDemoModel, DebiasDoctor]


async def comfy_entrypoint() -> Debias:
    profiles.register()
    messages.register()
    return Debias()
