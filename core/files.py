"""Files that are never half written, never written by two at once, and never outside their folder."""
from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that, whatever happens, either the old content or the new one is there. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; what a user asked for is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def safe_name(name: str) -> str:
    """A user's text as a file name: returned as it is where it names a file of its own folder, else refused.

    Raises ValueError for path separators, leading dots, reserved characters or names, and names empty or too long.
    """
    allowed = re.fullmatch(r"[^\\/:*?\"<>|\x00-\x1f.][^\\/:*?\"<>|\x00-\x1f]{0,119}", name)
    device = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE)
    if not allowed or device or name != name.strip(" ."):
        raise ValueError(f"A name must be 1 to 120 characters without slashes, a leading dot or any of :*?\"<>|, but "
                         f"'{name}' came. Choose another, e.g. 'doctor-gender'.")
    return name


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold a file's lock, `.NAME.lock` beside it, which the system releases when the process ends, however it ends.

    Raises ValueError where another process holds it. The lock's file stays: removing it would let two hold one each.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"Another calibration is writing '{path}'. Wait until it ends, or choose another "
                             f"name.") from error
        yield


def _lock(file) -> None:
    if os.name == "nt":
        import msvcrt
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
