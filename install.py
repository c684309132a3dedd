"""Install sd-debias, and try it out. Uses only the standard library.

    python install.py         for hosts (A1111 and Forge run it at every start, ComfyUI-Manager once): installs small
                              packages that the host's Python lacks; does nothing if none is missing
    python install.py demo    makes .venv in this folder, runs the demo in it and prints where the report is;
                              passes further arguments to `sd-debias demo`
    python install.py test    makes .venv in this folder and runs the tests that protect every change, on two cores;
                              with --all, every test that needs no other program; passes further arguments to pytest
"""
import collections
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "made-by-install.py.txt"  # what .venv was made from; also tells our .venv from anybody else's
TESTED = ROOT / "tested-versions.txt"
EXTRAS = ("demo", "test")  # of pyproject.toml, each with all that the one before has

# By import name, what core needs and every host ships. A host's own versions of the first stay as they are.
HOST_OWNS = ("torch", "numpy", "transformers")
SMALL = {"safetensors": "safetensors", "PIL": "Pillow", "jinja2": "Jinja2",
         "markupsafe": "MarkupSafe", "packaging": "packaging", "scipy": "scipy"}


def main(arguments):
    """Exit status of one of the three commands."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a pipe on Windows has few letters, and a folder's name has any
            stream.reconfigure(errors="backslashreplace")
    command = arguments[0] if arguments else None
    if sys.version_info < (3, 10):
        complain(f"sd-debias needs Python 3.10 or newer, but this is {sys.version.split()[0]}. Use a newer one.")
        return 1 if command else 0  # a host starts whatever is missing here
    if command is None:
        return serve_host()
    if command in ("-h", "--help"):
        print(__doc__)
        return 0
    if command not in EXTRAS:
        complain(f"Expected 'demo', 'test' or nothing, got '{command}'. Run 'python install.py --help' to read what "
                 "they do.")
        return 2
    try:
        prepare(command)
        return demo(arguments[1:]) if command == "demo" else test(arguments[1:])
    except (OSError, subprocess.SubprocessError) as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def complain(sentence):
    print(sentence, file=sys.stderr)


# What a host runs


def serve_host():
    """Install small packages that the host's Python lacks, without their dependencies. Returns 0, even after errors."""
    try:
        absent = [name for name in HOST_OWNS if importlib.util.find_spec(name) is None]
        wanted = [package for name, package in SMALL.items() if importlib.util.find_spec(name) is None]
        if absent:
            complain(f"sd-debias: this Python lacks {', '.join(absent)}. Install them with the host's own installer.")
        if wanted:
            # Wheels alone, few retries: a start without network or compiler must not wait.
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
                       "--no-input", "--disable-pip-version-check", "--retries=1", "--timeout=15", *wanted]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=300, text=True, errors="replace")
            if done.returncode:
                raise OSError(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "pip failed")
            print(f"sd-debias: installed {', '.join(wanted)}.")
    except Exception as error:
        complain("sd-debias: could not check or install packages, and continues without them "
                 f"({' '.join(str(error).split())}).")
    return 0


# The demo and the tests, in an environment of their own


def demo(arguments):
    """Run the demo, which prints where its report is: in demo_output, unless the arguments name another `--out`."""
    named = any(argument.split("=")[0] == "--out" for argument in arguments)
    out = [] if named else ["--out", str(ROOT / "demo_output"), "--overwrite"]  # that folder is this script's own
    return subprocess.call([str(program("sd-debias")), "demo", *out, *arguments], env=environment())


def test(arguments):
    """Run the quick tests, with `--all` the slow ones too, in two processes; further arguments are pytest's."""
    chosen = [] if "--all" in arguments else ["-m", "not slow"]
    # A file's tests stay together, and share the models that it has made. A thread more for each process would only
    # make them wait for each other.
    command = [str(program("python")), "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *chosen,
               *(argument for argument in arguments if argument != "--all")]
    return subprocess.call(command, cwd=str(ROOT), env={"OMP_NUM_THREADS": "1", **environment()})


def prepare(extra):
    """Install what `extra` needs into .venv, at tested versions; does nothing if that is done."""
    made = STAMP.read_text(encoding="utf-8").splitlines() if STAMP.is_file() else []
    usable = made[:1] == [origin()] and program("python").is_file()
    if usable and made[1:] and made[1] in [fingerprint(name) for name in EXTRAS[EXTRAS.index(extra):]]:
        return
    if VENV.exists() and not STAMP.is_file():
        raise OSError(f"{VENV} was not made by install.py, so it is not changed. Move it away, then run this again.")
    if not usable:
        print(f"Making {VENV}", flush=True)
        if VENV.exists():
            shutil.rmtree(VENV)
        VENV.mkdir()
        STAMP.write_text(origin() + "\n", encoding="utf-8")
        done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], env=environment())
        if done.returncode:
            raise OSError("Python could not make a virtual environment. On Debian and Ubuntu, first install "
                          "python3-venv.")
    more = ", pytest, Ray" if extra == "test" else ""
    print(f"Installing torch, diffusers, transformers{more} and a few others; this takes a few minutes, only the first "
          "time", flush=True)
    pip_install("--constraint", str(TESTED), "--editable", ".[test]" if extra == "test" else ".")
    STAMP.write_text(f"{origin()}\n{fingerprint(extra)}\n", encoding="utf-8")


def origin():
    """The Python that makes .venv and its place on disk: if either changes, .venv must be made again."""
    return "Python {}.{} in {}".format(*sys.version_info[:2], ROOT)


def fingerprint(extra):
    """A digest of everything that determines what is installed."""
    facts = b"\0".join([extra.encode(), TESTED.read_bytes(), (ROOT / "pyproject.toml").read_bytes()])
    return hashlib.sha256(facts).hexdigest()


def program(name):
    """Path of a program in .venv."""
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def environment():
    """The caller's variables without those that lead Python or pip out of .venv; keeps models offline."""
    outside = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in outside}
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are busy, torch's waiting threads would take their time
    # On the CPU, glibc would give every layer's buffers back to the system: a quarter of the demo's time.
    memory = dict(MALLOC_MMAP_THRESHOLD_="4000000000", MALLOC_TRIM_THRESHOLD_="8000000000")
    return {**memory, **kept, "PYTHONNOUSERSITE": "1", "PIP_USER": "0", "HF_HUB_OFFLINE": "1"}


def pip_install(*arguments):
    """Run pip in .venv; prints a line per large download, and pip's last output if it fails."""
    command = [str(program("python")), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    last = collections.deque(maxlen=20)
    with subprocess.Popen(command, cwd=str(ROOT), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout:
            last.append(line)
            step = line.strip()
            if step.startswith("Installing collected"):
                print("  Unpacking; nothing more is printed for a minute or two", flush=True)
            elif step.startswith("Downloading") and step.endswith("MB)"):
                print(f"  {step}", flush=True)
    if process.returncode:
        raise OSError(f"{''.join(last)}pip could not install what sd-debias needs; its last output is above.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
