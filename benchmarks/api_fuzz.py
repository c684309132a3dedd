"""What the web UIs' routes answer to requests that schemathesis makes of their own schema, on a host that runs.

    python benchmarks/api_fuzz.py http://127.0.0.1:7860 [--examples 30] [--seconds 300] [--seed 1]

The host is A1111 or Forge, started with --api. Every answer must be none of status 500 or above, have a status that the
schema knows, and be of its form; each kind that does not is printed by schemathesis, and the run ends with 1. The job
that a request began is interrupted at the end. schemathesis is a tool of developers, in an environment of its own:
--schemathesis names its command (pip install schemathesis). --out FOLDER keeps what was found in reliability.json.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path

from reliability import record

ROUTES = "/sd-debias/v1/"
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url", metavar="URL")
    options.add_argument("--examples", type=int, default=30, help="random requests of a route")
    options.add_argument("--seconds", type=int, default=300, help="of the whole run, at most")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--host", default="A1111", help="what the page calls the host")
    options.add_argument("--schemathesis", default="schemathesis", metavar="COMMAND")
    options.add_argument("--out", type=Path, metavar="FOLDER",
                         help="keep the figures in FOLDER/reliability.json; the published ones are in docs")
    given = options.parse_args()
    with urllib.request.urlopen(f"{given.url}/openapi.json") as answer:
        schema = json.load(answer)
    routes = sum(len(methods) for path, methods in schema["paths"].items() if path.startswith(ROUTES))
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "events.ndjson"
        command = [given.schemathesis, "run", f"{given.url}/openapi.json", "--include-path-regex", f"^{ROUTES}", "--phases",
                   "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--max-examples", str(given.examples),
                   "--max-time", str(given.seconds), "--seed", str(given.seed), "--continue-on-failure",
                   "--report", "ndjson", "--report-ndjson-path", str(log)]
        done = subprocess.run(command, cwd=place)  # it keeps files where it runs
        statuses = statuses_of(log)
    urllib.request.urlopen(urllib.request.Request(f"{given.url}/sdapi/v1/interrupt", method="POST")).close()
    version = subprocess.run([given.schemathesis, "--version"], capture_output=True, text=True).stdout.split()[-1]
    found = dict(host=given.host, routes=routes, requests=sum(statuses.values()), seed=given.seed, examples=given.examples, seconds=given.seconds,
                 statuses={str(status): number for status, number in sorted(statuses.items(), key=str)}, schemathesis=version)
    print(json.dumps(found, indent=1))
    if done.returncode:
        return 1
    if given.out:
        record("api", found, given.out)
    return 0


def statuses_of(log: Path) -> Counter:
    """How many answers had each status, by schemathesis's own log; None: no answer came."""
    events = (json.loads(line) for line in log.read_text("utf-8").splitlines())
    return Counter((exchange.get("response") or {}).get("status_code") for event in events
                   for exchange in event.get("ScenarioFinished", {}).get("recorder", {}).get("interactions", {}).values())


if __name__ == "__main__":
    sys.exit(main())
