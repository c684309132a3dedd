"""No command asks another host for anything, unless it was told to: sockets to other machines are forbidden."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# As the package is loaded elsewhere, in a process whose libraries have not been told to stay offline.
RUN = """
import json, socket, sys, types
asked = []

def local(host):
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")

def guarded(real, of=lambda given: given[0]):
    def call(*given, **more):
        host = of(given)
        if not local(host):
            asked.append(str(host))
            raise OSError(f"{host} is not to be asked")
        return real(*given, **more)
    return call

class Socket(socket.socket):
    def connect(self, address):
        return guarded(super().connect, lambda given: given[0][0] if isinstance(given[0], tuple) else None)(address)

    def connect_ex(self, address):
        return guarded(super().connect_ex, lambda given: given[0][0] if isinstance(given[0], tuple) else None)(address)

    def sendto(self, data, *given):
        return guarded(super().sendto, lambda sent: sent[-1][0])(data, *given)

socket.socket = socket.SocketType = Socket
socket.getaddrinfo = guarded(socket.getaddrinfo)
socket.gethostbyname = guarded(socket.gethostbyname)
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv[1]]
sys.modules["sd_debias"] = package
from sd_debias.diffusers_host.cli.main import main
codes = [main(command) for command in json.loads(sys.argv[2])]
print(json.dumps(dict(codes=codes, asked=asked)))
"""
FEW = ["--batch-size", "4", "--steps", "2"]
PROMPT = ["--prompt", "a photo of a doctor"]


@pytest.fixture
def run(tmp_path):
    """run(commands) -> (exit codes, hosts that were asked for)."""
    def start(*commands):
        offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DIFFUSERS_OFFLINE",
                   "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
        environment = {name: value for name, value in os.environ.items() if name not in offline}
        done = subprocess.run([sys.executable, "-c", RUN, str(ROOT), json.dumps(commands)], cwd=tmp_path, text=True,
                              env={**environment, "HF_HOME": str(tmp_path / "hub")}, capture_output=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        return found["codes"], found["asked"], done.stderr
    return start


@pytest.mark.slow
def test_no_command_asks_another_host(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of a doctor\n")
    codes, asked, said = run(
        ["audit", *PROMPT, "--count", "4", *FEW, "--out", "audit"],
        ["check", "--count", "5", *FEW, "--out", "check"],
        ["calibrate", *PROMPT, "--images", "4", "--rounds", "1", "--held-out", "4", *FEW, "--out", "calibrated"],
        ["generate", *PROMPT, "--profile", "calibrated/profile.json", *FEW, "--out", "pictures"],
        ["report", "--profile", "calibrated/profile.json", "--out", "report"],
        ["sweep", "--audit", "--prompts", "prompts.txt", "--count", "4", *FEW, "--out", "sweep"],
        ["card", "sweep/demo", "--out", "card"],
        ["audit", "--images", "pictures", "--classifier", "demo", "--out", "folder"],
        ["export", "--for", "a1111", "--out", "exported"],
        ["doctor", "--steps", "2"])
    assert not asked and codes[:-1] == [0] * 9, said
    assert (tmp_path / "card" / "card.html").exists() and (tmp_path / "report" / "report.html").exists()


def test_a_model_or_a_classifier_of_the_hub_is_not_asked_for_unless_it_is_allowed(run):
    codes, asked, said = run(["audit", *PROMPT, "--count", "4", "--classifier", "somebody/clip"],
                             ["audit", *PROMPT, "--count", "4", "--model", "somebody/model", "--classifier", "demo"])
    assert codes == [2, 2] and not asked and "allow the download" in said and "--allow-download" in said


def test_what_is_allowed_asks_so_the_guard_of_these_tests_sees_it(run):
    codes, asked, _ = run(["audit", *PROMPT, "--count", "4", "--classifier", "somebody/clip", "--allow-download"],
                          ["audit", *PROMPT, "--count", "4", "--model", "somebody/model", "--classifier",
                           "somebody/clip", "--allow-download"])
    assert codes == [2, 2] and len(asked) > 1
