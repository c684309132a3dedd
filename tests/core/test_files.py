"""Atomic writes, file names of users, and locks, also on drives that are not a local disk."""
import errno
import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from sd_debias.core import files
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import (
    below, contents, exclusive, fingerprint, read_text, recover, safe_name, write_atomic, writing)

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes, permissions and signals of POSIX")

# Another process with the package as hosts load it; argv[1] is a file.
OTHER = """
import os, signal, sys, types
from pathlib import Path
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv.pop(1)]
sys.modules["sd_debias"] = package
from sd_debias.core import files
"""
HOLDS_A_LOCK = """
with files.exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
WRITES = """
handle, path = files._temporary(Path(sys.argv[1]))
print(path, flush=True)
sys.stdin.read()
"""
# Writes "new" on a drive that removes the old file before it renames the new one, and is killed
# between the two, at the renaming that argv[2] names by its ending.
KILLED = """
replace = os.replace

def not_atomic(source, target):
    Path(target).unlink(missing_ok=True)
    if str(source).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = not_atomic
files.write_atomic(sys.argv[1], "new")
"""


def other(program, *arguments):
    command = [sys.executable, "-c", OTHER + program, str(ROOT), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@posix
def test_what_a_killed_writer_left_goes_with_the_next_write_and_nothing_else(tmp_path):
    others = [".b.json.0123abcd.tmp", ".a.json.xyz.tmp", ".a.json.x.0123abcd.tmp", "a.json.0123abcd.tmp"]
    for name in (".a.json.0123abcd.tmp", *others):
        (tmp_path / name).touch()
    write_atomic(tmp_path / "a.json", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.json"])


def test_a_server_that_writes_many_names_keeps_none_of_them_in_memory(tmp_path):
    write_atomic(tmp_path / "first", "x")
    tracemalloc.start()
    try:
        for number in range(200):
            write_atomic(tmp_path / f"{number} of many pictures.png", "x").unlink()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000, "a pattern for each of the names had 1 kB"


@pytest.mark.parametrize("step, error", [
    ("fsync", OSError(errno.ENOSPC, "No space left on device")), ("replace", KeyboardInterrupt())])
def test_the_old_file_survives_a_write_that_fails(tmp_path, monkeypatch, step, error):
    path = write_atomic(tmp_path / "a.json", "old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name, times", [("replace", 3), ("open", 3), ("replace", 10**9)])
def test_on_windows_a_file_that_somebody_has_open_is_waited_for_and_stays_as_it_was(
        tmp_path, monkeypatch, name, times):
    path = write_atomic(tmp_path / "a.json", "old")
    real, left = getattr(os, name), [times]

    def call(*given, **more):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "used by another process", str(given[0]))
        return real(*given, **more)

    monkeypatch.setattr(os, name, call)
    monkeypatch.setattr(files, "WINDOWS", True)
    if times > 3:
        monkeypatch.setattr(files, "PATIENCE", 0.05)
        with pytest.raises(PermissionError):
            write_atomic(path, "new")
    elif name == "replace":
        write_atomic(path, "new")
    assert read_text(path) == ("new" if (name, times) == ("replace", 3) else "old")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_is_no_file_where_the_system_does_not_open_folders_either(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("Windows: [Errno 13] Permission denied"))
    with pytest.raises(DebiasError, match="folder"):
        read_text(tmp_path)


@pytest.mark.parametrize("text", ["/etc", "../b", "a/../../b", "//machine/share", "a\0b", "a\nb"])
def test_what_a_text_names_elsewhere_is_not_even_looked_for(tmp_path, monkeypatch, text):
    """Windows tells another machine who asks, where a text names one of its folders."""
    monkeypatch.setattr(Path, "resolve", lambda *_, **__: pytest.fail("the disk was asked"))
    assert below(tmp_path, text) is None


def test_what_a_text_names_in_a_folder_is_found_with_its_links_followed(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    assert below(tmp_path / "root", "a/../a") == (tmp_path / "root" / "a").resolve()
    assert below(tmp_path / "root", "") == (tmp_path / "root").resolve()


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "..\\x", "/x", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "a*",
                                  "a?", "a|b", "<a>", '"a"', ".hidden", " a", "a ", "a.", "a" * 121,
                                  "con", "NUL.json", "nul .x", "com1", "lpt\u00b2", "CONOUT$",
                                  "a\u202eb", "a\ud800", "a\u200bb", "\u533b" * 74, "a\x7f"])
def test_names_that_leave_the_folder_mislead_or_cannot_be_files_are_refused(name):
    with pytest.raises(DebiasError, match="1 to 120"):
        safe_name(name)


def test_a_second_handle_is_refused_while_the_lock_is_held_and_admitted_afterwards(tmp_path):
    path = tmp_path / "profile.json"
    with pytest.raises(RuntimeError), exclusive(path):
        with pytest.raises(DebiasError, match="profile.json"), exclusive(path):
            pass
        with exclusive(tmp_path / "other.json"):
            raise RuntimeError
    with exclusive(path):
        pass
    assert not path.exists() and not list(tmp_path.iterdir()), "locks stayed behind"


@posix
def test_a_lock_that_was_opened_before_its_holder_removed_it_is_not_shared_with_a_new_one(tmp_path, monkeypatch):
    path, opened, lock = tmp_path / "a", [], files._lock

    def late(handle):
        """The first holder ends after this one has opened the file."""
        opened.append(handle)
        if len(opened) == 1:
            (tmp_path / ".a.lock").unlink()
        lock(handle)

    monkeypatch.setattr(files, "_lock", late)
    with exclusive(path):
        assert len(opened) == 2 and (tmp_path / ".a.lock").exists()
        with pytest.raises(DebiasError), exclusive(path):
            pass
        assert (tmp_path / ".a.lock").exists(), "who is refused removes nothing"


def test_another_process_holds_the_lock_until_it_ends_however_it_ends(tmp_path):
    with other(HOLDS_A_LOCK, tmp_path / "a") as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DebiasError, match="/a'"), exclusive(tmp_path / "a"):
            pass
        holder.kill()
    with exclusive(tmp_path / "a"):
        pass


@posix
def test_a_lock_follows_no_link_empties_no_file_and_waits_for_no_pipe(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / ".a.lock").symlink_to(kept)
    os.mkfifo(tmp_path / ".b.lock")
    (tmp_path / ".c.lock").mkdir()
    for name in "abc":
        with pytest.raises(DebiasError, match=rf"\.{name}\.lock"), exclusive(tmp_path / name):
            pass
    assert kept.read_text() == "mine"
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DebiasError, match="pipe"):
        read_text(tmp_path / "pipe.json")


@posix
def test_temporary_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    target = tmp_path / "a[1].json"
    with other(WRITES, target) as writer:
        temporary = Path(writer.stdout.readline().strip())
        write_atomic(target, "new")
        assert temporary.exists()
        writer.kill()
    write_atomic(tmp_path / "another", "new")
    assert temporary.exists()
    write_atomic(target, "newer")
    assert sorted(os.listdir(tmp_path)) == ["a[1].json", "another"]


@posix
def test_writing_changes_no_other_threads_permissions(tmp_path, monkeypatch):
    """Reading the umask by os.umask(0) made files of other threads writable for everybody."""
    umask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("it is every thread's"))
            write_atomic(tmp_path / "ours", b"x")
    finally:
        os.umask(umask)
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o640


# --- drives that are not a local disk ------------------------------------------------------------

@posix
def test_a_file_that_a_killed_writer_removed_before_renaming_comes_back_when_it_is_read(tmp_path):
    path = write_atomic(tmp_path / "a.json", "old")
    with other(KILLED, path, ".tmp") as writer:
        assert writer.wait() == -signal.SIGKILL
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2, "it was not touched yet"
    assert recover(path) and path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]
    with other(KILLED, path, ".new") as writer:
        assert writer.wait() == -signal.SIGKILL
    assert not path.exists()
    assert read_text(path) == "new" and os.listdir(tmp_path) == ["a.json"]


@posix
def test_half_of_a_first_file_and_a_link_are_never_taken_for_it(tmp_path):
    (tmp_path / ".a.json.01234567.tmp").write_text("ha")
    assert not recover(tmp_path / "a.json")
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
    for use in (lambda: write_atomic(tmp_path / "a.json", "new"),
                exclusive(tmp_path / "a.json").__enter__):
        with pytest.raises(DebiasError, match="Read-only file system"), writing("A", "here"):
            use()
    assert read_text(tmp_path / "a.json") == "old"


def test_contents_tell_models_apart_on_every_machine(tmp_path):
    def model(name, content, time):
        (tmp_path / name / "unet").mkdir(parents=True)
        for file in ("config.json", "unet/model.safetensors"):
            (tmp_path / name / file).write_bytes(content)
            os.utime(tmp_path / name / file, (time, time))
        (tmp_path / name / "README.md").write_text(name)
        return tmp_path / name

    one, copy, other = model("one", b"one", 1), model("copy", b"one", 2), model("other", b"two", 1)
    assert contents(one) == contents(copy) != contents(other) and fingerprint(one) != fingerprint(copy)
    assert contents(None) is contents("") is contents(tmp_path / "nothing") is None
    (one / "config.json").write_bytes(b"changed")
    assert contents(one) != contents(copy)
    for text in ("\u4e00" * 200, "a\0b", "x" * 5000, ""):
        assert fingerprint(text) is None, "no system takes it as a path"
