"""Drives that are not a local disk: renaming that is not atomic, no locks, nothing may be written."""
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sd_debias.core.files import exclusive, read_text, recover, write_atomic, writing

ROOT = Path(__file__).resolve().parents[2]
# Writes "new" to the file argv[2] on a drive that removes the old file before it renames the new one, and is killed
# between the two, at the renaming that argv[3] names by its ending.
KILLED = """
import os, signal, sys, types
from pathlib import Path
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv[1]]
sys.modules["sd_debias"] = package
from sd_debias.core.files import write_atomic
replace = os.replace

def not_atomic(source, target):
    Path(target).unlink(missing_ok=True)
    if str(source).endswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = not_atomic
write_atomic(sys.argv[2], "new")
"""


def killed(path, ending):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(ROOT), str(path), ending])
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_file_that_a_killed_writer_removed_before_renaming_comes_back_when_it_is_read(tmp_path):
    path = write_atomic(tmp_path / "a.json", "old")
    killed(path, ".new")
    assert not path.exists()
    assert read_text(path) == "new" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_file_that_a_killed_writer_had_not_touched_yet_stays_as_it_was(tmp_path):
    path = write_atomic(tmp_path / "a.json", "old")
    killed(path, ".tmp")
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    assert recover(path) and path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_half_of_a_first_file_is_never_taken_for_it(tmp_path):
    (tmp_path / ".a.json.01234567.tmp").write_text("ha")
    assert not recover(tmp_path / "a.json")


def test_a_link_that_looks_like_a_writers_file_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ".a.json.01234567.new").symlink_to(tmp_path / "secret")
    assert not recover(tmp_path / "a.json") and (tmp_path / "secret").read_text() == "secret"


def test_a_renaming_that_was_done_but_is_reported_as_failed_is_done(tmp_path, monkeypatch):
    replace = os.replace

    def repeated(source, target):
        replace(source, target)
        if str(source).endswith(".new"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))

    monkeypatch.setattr(os, "replace", repeated)
    assert write_atomic(tmp_path / "a.json", "new").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows locks by another call")
def test_on_a_drive_without_locks_work_goes_on_with_a_warning(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="'profile.json' has no file locks"), exclusive(tmp_path / "profile.json"):
        write_atomic(tmp_path / "profile.json", "one")
        write_atomic(tmp_path / "profile.json", "two")
    assert read_text(tmp_path / "profile.json") == "two"


def test_a_folder_that_may_only_be_read_is_a_sentence(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a.json", "old")
    opened = os.open

    def read_only(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ValueError, match="could not be written to here: Read-only file system"), writing("A", "here"):
        write_atomic(tmp_path / "a.json", "new")
    with pytest.raises(ValueError, match="could not be written to here: Read-only file system"), writing("A", "here"):
        with exclusive(tmp_path / "a.json"):
            pass
    assert read_text(tmp_path / "a.json") == "old"
