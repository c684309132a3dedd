"""The command line: sd-debias audit | calibrate | sweep | generate | report and others."""
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager
from typing import Iterator

from ...core.errors import DebiasError, out_of_memory, quoted
from . import commands, sweeping
from .options import parsed
from .parts import Stopped

COMMANDS = {**commands.COMMANDS, **sweeping.COMMANDS}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0; 2 after a user's mistake, said in one sentence; 1 after a bug, with its traceback,
    and where the doctor finds something wrong;
    130 after Ctrl-C and 143 after SIGTERM."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: waiting threads sleep, not spin
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a pipe on Windows has few letters, and prompts have any
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    terminated: list[int] = []
    try:
        with _terminable(terminated), warnings.catch_warnings():
            warnings.simplefilter("once")
            warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
            options = parsed(COMMANDS, arguments)
            result = options.command(options)
            if options.json:
                print(json.dumps(result, indent=getattr(options, "indent", 2), allow_nan=False))
        return 0 if (result or {}).get("ok", True) else 1
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except (KeyboardInterrupt, Stopped) as stopped:
        print(f"\nStopped. {stopped}".rstrip(), file=sys.stderr)
        return 143 if terminated else 130
    except DebiasError as error:
        return _mistake(str(error), debug)
    except BrokenPipeError:
        return 0  # what reads the output has seen enough
    except OSError as error:
        place = f": {quoted(str(error.filename))}" if error.filename else ""
        return _mistake(f"{error.strerror or error}{place}.", debug)
    except Exception as error:
        if out_of_memory(error):
            return _mistake("Memory ran out. Use a smaller --batch-size, --width or --height, or --dtype float16.",
                            debug)
        traceback.print_exc()
        print("sd-debias: This is a bug. Please report it with the lines above and the command.", file=sys.stderr)
        return 1


def _mistake(sentence: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"sd-debias: {sentence}", file=sys.stderr)
    return 2


@contextmanager
def _terminable(terminated: list[int]) -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, where the state is safe; only the main thread may say so. It is added to
    `terminated`, since libraries may turn what is raised here into an interrupt of their own, as Ray does."""
    def stop(number, _):
        terminated.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
