"""How long an image took last, for the estimate that hosts show before the click."""
from __future__ import annotations

import json
from pathlib import Path

from ..errors import DebiasError
from ..files import read_json, write_atomic


def remember(path: Path, seconds: float) -> None:
    """Keep the seconds of an image, where a calibration has made the folder: an audit leaves nothing behind. One that
    cannot be written to costs the estimate alone."""
    if not path.parent.is_dir():
        return
    try:
        write_atomic(path, json.dumps({"seconds_an_image": seconds}))
    except OSError:
        pass


def known(path: Path) -> float | None:
    """The seconds of an image; None where nothing was measured here yet."""
    try:
        seconds = read_json(path)["seconds_an_image"]
        return float(seconds) if 0 < float(seconds) < 1e6 else None
    except (OSError, DebiasError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
