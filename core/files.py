"""Files that are never half written, never written by two at once, and never outside their folder."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import time
import unicodedata
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn, TypeVar

from .errors import DebiasError, quoted

LARGEST = 256 << 20  # bytes of a file that is read as text
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # categories of characters that do not show
TEMPORARY = re.compile(r"[0-9a-f]{8}\.(tmp|new)")  # how a temporary file's name ends
JOINERS = "\u200c\u200d"  # zero width, but part of spelling
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # some network drives answer so
WINDOWS = os.name == "nt"
PATIENCE = 2.0  # seconds, on Windows, until a file that another program has open counts as refused
MODEL_FILES = (".safetensors", ".json", ".txt", ".model", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".sft")


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that, whatever happens, either the old content or the new one is there. Raises OSError.

    The new content is first written to a temporary file `.NAME.xxxxxxxx.tmp` beside it, which is called
    `.NAME.xxxxxxxx.new` once it is whole, and then takes the file's place. Some network drives remove the old file
    before they rename the new one: a writer killed in between leaves the only copy as `.new`, which `recover` finds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = _temporary(path)
    whole = temporary.with_suffix(".new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not WINDOWS:  # which cannot rename a file that is open
                _put(temporary, whole, path)
        if WINDOWS:
            _put(temporary, whole, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if path.exists():  # else it is the only copy
            whole.unlink(missing_ok=True)
        raise
    return path


def _put(temporary: Path, whole: Path, path: Path) -> None:
    _patiently(lambda: os.replace(temporary, whole))
    try:
        _patiently(lambda: os.replace(whole, path))
    except FileNotFoundError:
        # A network drive that repeats a lost request says so of a renaming that was done.
        if whole.exists() or not path.exists():
            raise


T = TypeVar("T")


def _patiently(work: Callable[[], T]) -> T:
    """What `work` gives. Windows refuses to open, or to replace, a file that somebody else has open just then: another
    process of ours, a virus scanner, a search index. There it is tried again for a moment."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _temporary(path: Path) -> tuple[int, Path]:
    """(handle, path) of a new file `.NAME.xxxxxxxx.tmp`, with the permissions of any other new file of this process.

    Its writer holds its lock as long as it lives, so that a killed writer's file is known from a living one's.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if not WINDOWS:  # where a file that is open cannot be removed
            import fcntl
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # waits where another process is about to sweep it away
            except OSError:
                pass  # a file system without locks
        if temporary.exists():
            return handle, temporary
        os.close(handle)


def recover(path: Path) -> bool:
    """Is the file there? Where it is gone, and a killed writer has left its whole content beside it, that takes its
    place; other temporary files whose writers are dead are removed."""
    prefix = f".{path.name}."
    try:
        # No glob: Python keeps every pattern, which would be one for each name that a server ever wrote.
        names = sorted(name for name in os.listdir(path.parent) if name.startswith(prefix))
    except OSError:
        return path.exists()  # no folder, or one that may be written to, but not read
    for left in (path.with_name(name) for name in names if TEMPORARY.fullmatch(name[len(prefix):])):
        try:
            if left.suffix == ".new" and not path.exists() and left.is_file() and not left.is_symlink():
                os.replace(left, path)  # its writer, should it live, finds this done
            elif WINDOWS:
                if time.time() - left.stat().st_mtime > 3600:  # a living writer's is open, or gone in a moment
                    left.unlink(missing_ok=True)
            else:
                handle = os.open(left, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    _lock(handle)
                    left.unlink(missing_ok=True)
                finally:
                    os.close(handle)
        except OSError:
            continue  # a living writer holds it, or it cannot be removed
    return path.exists()


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The text of a file in UTF-8. Raises DebiasError for what is no regular file of at most `largest` bytes, and for
    bytes that are no UTF-8; OSError where it cannot be read."""
    path = Path(path)
    if not path.exists():
        recover(path)
    no_file = f"Expected a file, but {quoted(path)} is a folder, pipe or device. Name a file."
    if path.is_dir():  # which Windows does not open
        raise DebiasError(no_file)
    # O_NONBLOCK: opening a pipe would wait for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = _patiently(lambda: os.open(path, flags))
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise DebiasError(no_file)
    with os.fdopen(handle, "rb") as file:
        if found.st_size > largest:
            raise DebiasError(f"Expected a file of at most {largest >> 20} MB, but {quoted(path)} has "
                              f"{found.st_size >> 20} MB. Is it the right one?")
        data = file.read(largest + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DebiasError(f"{quoted(path)} isn't a UTF-8 text. Save it in UTF-8, or restore it.") from error


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises DebiasError where it is no JSON, with NaN and infinity, which JSON has not, among
    that, or is nested too deeply; else as `read_text`."""
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DebiasError(f"{quoted(path)} is not readable JSON ({str(error):.200}): it may be cut off or "
                          f"damaged. Restore it.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def safe_name(name: str, most: int = 220) -> str:
    """A user's text as a file name: returned as it is where it names a file of its own folder, else refused.

    Raises DebiasError for path separators, leading dots, reserved characters or names, characters that do not show
    (control and direction marks, halves of surrogate pairs; the joiners of scripts and emoji may stand), and names that
    are empty, longer than 120 characters or longer than `most` bytes; 220 leave room for endings.
    """
    allowed = re.fullmatch(r"[^\\/:*?\"<>|.][^\\/:*?\"<>|]{0,119}", name)
    device = re.fullmatch(r"(con|prn|aux|nul|(conin|conout)\$|(com|lpt)[\d\u00b9\u00b2\u00b3]) *(\..*)?", name,
                          re.IGNORECASE)
    hidden = any(unicodedata.category(c) in HIDDEN and c not in JOINERS for c in name[:121])
    if not allowed or device or hidden or name != name.strip(" .") or len(name.encode("utf-8")) > most:
        raise DebiasError("Expected a name of 1 to 120 printable characters (220 bytes at most) without slashes, a "
                          f"leading dot or any of :*?\"<>|, got {quoted(name)}. Choose another, e.g. 'doctor-gender'.")
    return name


def inside(folder: str | Path, path: str | Path) -> Path:
    """The path, where it lies in the folder with all links followed. Raises DebiasError where a link in the folder,
    such as one of an archive that somebody sent, leads out of it. The folder itself may be a link."""
    if not Path(path).resolve().is_relative_to(Path(folder).resolve()):
        raise DebiasError(f"Expected a file or folder of {quoted(folder)}, but {quoted(path)} is a link that leads out "
                          "of it. Remove the link.")
    return Path(path)


def below(folder: str | Path, text: str) -> Path | None:
    """What a text, of whomever, names in a folder, with all links followed; None for what lies elsewhere, and for a
    text that no system takes.

    The text is looked at before the disk is: a Windows that opens `\\\\machine\\share` tells that machine who asks.
    """
    if not text.isprintable() or not Path(os.path.normpath(Path(folder) / text)).is_relative_to(
            os.path.normpath(folder)):
        return None
    path = (Path(folder) / text).resolve()
    return path if path.is_relative_to(Path(folder).resolve()) else None


@contextmanager
def writing(what: str, place: str | Path) -> Iterator[None]:
    """Around writes of our own: what the system refuses is said as a sentence, with the place as the user knows it."""
    try:
        yield
    except OSError as error:
        raise DebiasError(f"{what} could not be written to {place}: {error.strerror or error}. Free some space, or "
                          "check the folder's permissions, and try again.") from error


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold a file's lock, `.NAME.lock` beside it, which the system releases when the process ends, however it ends; it
    goes with the work.

    Raises DebiasError where another process holds it, and where something else stands in its place: a link is not
    followed, and what it points to is never touched. On a drive that has no locks it warns, and nothing is held.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    if lock.is_symlink() or lock.exists() and not lock.is_file():
        raise DebiasError(f"Expected a plain file at {quoted(lock)}, which is the lock, got a link, pipe or folder. "
                          "Remove it.")
    handle, refused = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), False
    try:
        try:
            _lock(handle)
            while os.fstat(handle).st_nlink == 0:  # its last holder has removed it since
                os.close(handle)
                handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
                _lock(handle)
        except OSError as error:
            refused = error.errno not in NO_LOCKS
            if refused:
                raise DebiasError(f"Another calibration is writing {quoted(path)}. Wait until it ends, or choose "
                                  "another name.") from error
            warnings.warn(f"The drive of {quoted(path.name)} has no file locks, so a second calibration of this name "
                          "would not be noticed. Do not start one before this one ends.")
        yield
    finally:
        if not refused and not WINDOWS:  # while it is held: what opens it in between sees that it is gone
            lock.unlink(missing_ok=True)
        _unlock(handle)
        os.close(handle)
        if not refused and WINDOWS:
            with suppress(OSError):  # somebody else has opened it
                lock.unlink()


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(handle: int) -> None:
    """Before a handle is closed: Windows may otherwise hold its lock for some time longer."""
    if sys.platform == "win32":
        import msvcrt
        try:
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        except OSError:
            pass  # it holds none: somebody else does, or the drive has none


def fingerprint(place: str | Path | None) -> str | None:
    """What tells a file, or a model's folder, from another one put in its place: a digest of names, sizes and times.

    Contents are not read, since checkpoints have gigabytes; of a folder, its files and those one level down count. None
    where there is nothing.
    """
    if not place or not os.path.exists(place):  # which is False for a text that no system takes as a path
        return None
    place = Path(place)
    known = [(file.name if file == place else file.relative_to(place).as_posix(), file.stat().st_size,
              file.stat().st_mtime_ns) for file in _model_files(place)]
    return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def contents(place: str | Path | None) -> str | None:
    """As `fingerprint`, but the same for the same model on every machine: files are read, and their times do not count.

    Gigabytes are read once; until its fingerprint changes, a model's digest is remembered.
    """
    before = fingerprint(place)
    if place is None or before is None:
        return None
    place, key = Path(place), (str(place), before)
    if key not in _read:
        digest = hashlib.sha256()
        for file in sorted(_model_files(place), key=lambda file: file.relative_to(place).as_posix()):
            own = hashlib.sha256()
            with open(file, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 22), b""):
                    own.update(block)
            line = f"{file.relative_to(place).as_posix()} {own.hexdigest()}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        _read[key] = digest.hexdigest()[:16]
    return _read[key]


_read: dict[tuple[str, str], str] = {}  # what `contents` found, by place and fingerprint


def _model_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(
        file for pattern in ("*", "*/*") for file in place.glob(pattern)
        if file.suffix.lower() in MODEL_FILES and file.is_file())
