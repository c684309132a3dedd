"""Atomic writes, file names of users, and locks."""
import errno
import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from sd_debias.core import files
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import below, contents, exclusive, fingerprint, read_text, safe_name, write_atomic

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_written_and_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert write_atomic(path, "one\r\nä") == path
    assert path.read_bytes() == "one\r\nä".encode()
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="there, a young file may be a living writer's")
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


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_the_old_file_survives_a_write_that_fails(tmp_path, monkeypatch, step, error):
    path = write_atomic(tmp_path / "a.json", "old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def refusing(monkeypatch, name, times):
    """As Windows does where somebody else has the file open, the first times."""
    real, left = getattr(os, name), [times]

    def call(*given, **more):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "used by another process", str(given[0]))
        return real(*given, **more)

    monkeypatch.setattr(os, name, call)
    monkeypatch.setattr(files, "WINDOWS", True)


@pytest.mark.parametrize("name", ["replace", "open"])
def test_on_windows_a_file_that_somebody_has_open_for_a_moment_is_waited_for(tmp_path, monkeypatch, name):
    path = write_atomic(tmp_path / "a.json", "old")
    refusing(monkeypatch, name, 3)
    if name == "replace":
        write_atomic(path, "new")
    assert read_text(path) == ("new" if name == "replace" else "old") and os.listdir(tmp_path) == ["a.json"]


def test_on_windows_a_file_that_somebody_keeps_open_is_refused_and_stays_as_it_was(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a.json", "old")
    refusing(monkeypatch, "replace", 10**9)
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with pytest.raises(PermissionError):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_is_no_file_where_the_system_does_not_open_folders_either(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("Windows: [Errno 13] Permission denied"))
    with pytest.raises(DebiasError, match="is a folder, pipe or device"):
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
    assert below(tmp_path / "root", "not there") == (tmp_path / "root" / "not there").resolve()


@pytest.mark.parametrize("name", ["doctor-gender", "doctor, gender (2)", "医生", "a.b", "a" * 120])
def test_plain_names_are_kept(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "..\\x", "/x", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "a*",
                                  "a?", "a|b", "<a>", '"a"', ".hidden", " a", "a ", "a.", "a" * 121,
                                  "con", "NUL.json", "nul .x", "com1", "lpt\u00b2", "CONOUT$"])
def test_names_that_leave_the_folder_or_cannot_be_files_are_refused(name):
    with pytest.raises(ValueError, match="Expected a name of 1 to 120"):
        safe_name(name)


def test_a_second_handle_is_refused_while_the_lock_is_held_and_admitted_afterwards(tmp_path):
    path = tmp_path / "profile.json"
    with exclusive(path):
        with pytest.raises(ValueError, match="Another calibration is writing"), exclusive(path):
            pass
        with exclusive(tmp_path / "other.json"):
            pass
    with exclusive(path):
        pass
    assert not path.exists()


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / "a"):
        raise RuntimeError
    with exclusive(tmp_path / "a"):
        pass


def test_another_process_holds_the_lock_until_it_ends_however_it_ends(tmp_path):
    program = ("import sys, types\n"
               "package = types.ModuleType('sd_debias')\n"
               "package.__path__ = [sys.argv[1]]\n"
               "sys.modules['sd_debias'] = package\n"
               "from sd_debias.core import files\n"
               "with files.exclusive(sys.argv[2]):\n"
               "    print('held', flush=True)\n"
               "    sys.stdin.read()\n")
    arguments = [sys.executable, "-c", program, str(ROOT), str(tmp_path / "a")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another calibration"), exclusive(tmp_path / "a"):
            pass
        other.kill()
    with exclusive(tmp_path / "a"):
        pass


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
    file, again = one / "config.json", copy / "unet" / "model.safetensors"
    assert contents(file) == contents(again) != contents(other / "config.json")
    assert contents(None) is contents("") is contents(tmp_path / "nothing") is None
    file.write_bytes(b"changed")
    assert contents(one) != contents(copy)
