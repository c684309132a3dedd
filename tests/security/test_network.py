"""No command asks another host for anything, unless it was told to: sockets to other machines are forbidden."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sd_debias.diffusers_host.cli.main import main

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

def host(given):
    address = given[-1]
    return address[0] if isinstance(address, tuple) else None

class Socket(socket.socket):
    def connect(self, address):
        return guarded(super().connect, host)(address)

    def connect_ex(self, address):
        return guarded(super().connect_ex, host)(address)

    def sendto(self, data, *given):
        return guarded(super().sendto, host)(data, *given)

socket.socket = socket.SocketType = Socket
socket.getaddrinfo = guarded(socket.getaddrinfo)
socket.gethostbyname = guarded(socket.gethostbyname)
package = types.ModuleType("sd_debias")
package.__path__ = [sys.argv[1]]
sys.modules["sd_debias"] = package
from sd_debias.diffusers_host.cli.main import main
found = []
for command in json.loads(sys.argv[2]):
    asked.clear()
    found.append((main(command), list(asked)))
print(json.dumps(found))
"""
FEW = ["--batch-size", "4", "--steps", "2"]
PROMPT = ["--prompt", "a photo of a doctor"]


def run(folder, *commands):
    """(exit code, hosts that were asked for) of each, and what they said."""
    offline = ("_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not name.endswith(offline)}
    done = subprocess.run([sys.executable, "-c", RUN, str(ROOT), json.dumps(commands)], cwd=folder,
                          env={**environment, "HF_HOME": str(folder / "hub")}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


HUB = ["audit", *PROMPT, "--count", "4", "--judge", "somebody/clip"]
HUB_MODEL = ["audit", *PROMPT, "--count", "4", "--model", "somebody/model", "--judge", "demo"]


def test_a_model_or_a_classifier_of_the_hub_is_refused_unless_it_is_allowed(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    assert main(HUB) == main(HUB_MODEL) == 2 and not asked
    said = capsys.readouterr().err
    assert "'somebody/clip'" in said and "'somebody/model'" in said and "--allow-download" in said


@pytest.mark.slow
def test_no_command_asks_another_host_unless_it_is_told_to(tmp_path):
    """That the last one asks shows that the guard of this test sees it."""
    (tmp_path / "prompts.txt").write_text("a photo of a doctor\n")
    found, said = run(
        tmp_path,
        ["audit", *PROMPT, "--count", "4", *FEW, "--out", "audit"],
        ["check", "--count", "5", *FEW, "--out", "check"],
        ["calibrate", *PROMPT, "--count", "4", "--rounds", "1", "--held-out", "4", *FEW, "--out", "calibrated"],
        ["generate", *PROMPT, "--profile", "calibrated/profile.json", *FEW, "--out", "pictures"],
        ["report", "--profile", "calibrated/profile.json", "--out", "report"],
        ["sweep", "--audit", "--prompts", "prompts.txt", "--count", "4", *FEW, "--out", "sweep"],
        ["card", "sweep/demo", "--out", "card"],
        ["audit", "--folder", "pictures", "--judge", "demo", "--out", "folder"],
        ["doctor", "--steps", "2"],
        HUB, HUB_MODEL, [*HUB_MODEL[:-1], "somebody/clip", "--allow-download"])
    codes, asked = zip(*found)
    assert codes == (0,) * 9 + (2,) * 3, said
    assert not any(asked[:-1]) and asked[-1], said
    assert (tmp_path / "card" / "card.html").exists() and (tmp_path / "report" / "report.html").exists()
