"""The embedded demo model: where its weights are and how they load."""
from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
