"""Many prompts in a running ComfyUI server: plain graphs, Debias Apply, audits, calibrations and all in one, in bursts;
some are cancelled at a random moment, and cancelled calibrations are queued again later, until they end.
"""
from __future__ import annotations

import copy
import io
import json
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from soak_watch import Different, Watch, folder_of, temporary

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "nodes"))

import workflows  # noqa: E402  # of the tests: bundled workflows as the prompts that the page makes of them

# MB per 100 runs. The smallest runs make 4 images of 64 x 64 in 32 bits, 0.2 MB: kept of every run they are 20 MB.
BOUNDS = dict(memory=10.0)
EACH = 100
CHECKED = 20  # after so many runs the plain graph is compared
KINDS = dict(plain=3, apply=3, audit=2, calibration=3, mixed=1)  # how often, relatively
CHECK_SEED = 1  # no other run has it, so that nothing is taken from the cache


class Server:
    def __init__(self, url: str):
        self.url = url
        path = next(path for path in workflows.paths() if path.stem.startswith("1_"))
        self.all = workflows.on_the_demo_model(workflows.to_prompt(workflows.read(path), self.get("/object_info")))

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: dict):
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            raise Different(f"Expected {path} to be accepted, got {error.read().decode()[:500]}") from error

    def graph(self, kind: str, seed: int, name: str = "") -> dict:
        """A part of the first bundled workflow."""
        graph = copy.deepcopy(self.all)
        at = {item["class_type"]: node for node, item in graph.items()}  # the last of each type: with the profile
        first = next(node for node, item in graph.items() if item["class_type"] == "VAEDecode")
        for item in graph.values():
            if "seed" in item["inputs"]:
                item["inputs"]["seed"] = seed
        graph[at["DebiasCalibrate"]]["inputs"]["name"] = name
        if kind == "plain":
            graph[at["SaveImage"]]["inputs"]["images"] = [first, 0]
        if kind == "apply":
            graph["profile"] = dict(class_type="DebiasLoadProfile", inputs=dict(profile="demo-gender.json"))
            graph[at["DebiasApply"]]["inputs"]["profile"] = ["profile", 0]
        if kind == "audit":
            graph[at["DebiasAudit"]]["inputs"]["images"] = [first, 0]
        outputs = dict(audit="DebiasAudit", calibration="DebiasCalibrate")
        return graph if kind == "mixed" else upstream(graph, [at[outputs.get(kind, "SaveImage")]])

    def queue(self, graph: dict) -> str:
        return self.post("/prompt", dict(prompt=graph))["prompt_id"]

    def waiting(self) -> tuple[list[str], list[str]]:
        """Prompts that run, and those that wait."""
        queue = self.get("/queue")
        return [item[1] for item in queue["queue_running"]], [item[1] for item in queue["queue_pending"]]

    def cancel(self, prompt: str) -> str:
        """What became of it, as far as it can be told now."""
        running, pending = self.waiting()
        self.post("/queue", dict(delete=[prompt]))
        self.post("/interrupt", dict(prompt_id=prompt))  # where it has begun
        deleted = prompt in pending and prompt not in self.waiting()[0] and not self.get(f"/history/{prompt}")
        return "deleted" if deleted else "interrupt" if prompt in [*running, *pending] else "had ended"

    def ended(self, prompt: str) -> dict:
        until = time.monotonic() + 600
        while time.monotonic() < until:
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            time.sleep(0.05)
        raise Different(f"Expected the prompt {prompt} to end within 10 minutes, but it has not.")

    def pictures(self, kind: str) -> list[np.ndarray]:
        """Images of the graph of the checks. Raises Different where they were not made now, or do not say truly
        whether they are debiased."""
        history = self.ended(self.queue(self.graph(kind, CHECK_SEED)))
        if outcome(history) != "success":
            raise Different(f"Expected the {kind} graph to run, got {history['status']['messages'][-1]}")
        if any("16" in data["nodes"] for name, data in history["status"]["messages"] if name == "execution_cached"):
            raise Different("Expected the images to be made anew, but they are from the cache.")
        found = []
        for saved in next(out["images"] for out in history["outputs"].values() if "images" in out):
            with urllib.request.urlopen(f"{self.url}/view?{urllib.parse.urlencode(saved)}", timeout=60) as answer:
                picture = Image.open(io.BytesIO(answer.read()))
            if ("Debias hash" in picture.info.get("debias", "")) != (kind == "apply"):
                raise Different(f"An image of the {kind} graph says of its guidance: {picture.info.get('debias')}")
            found.append(np.asarray(picture))
        return found


def upstream(graph: dict, nodes: list[str]) -> dict:
    found: dict = {}
    while nodes:
        at = nodes.pop()
        if at not in found:
            found[at] = graph[at]
            nodes += [value[0] for value in graph[at]["inputs"].values() if isinstance(value, list)]
    return found


def outcome(history: dict) -> str:
    """success, interrupted or error"""
    last = history["status"]["messages"][-1][0]
    return {"execution_success": "success", "execution_interrupted": "interrupted"}.get(last, "error")


def same(before: list[np.ndarray], now: list[np.ndarray], what: str, runs: int) -> None:
    if len(before) != len(now) or not all(map(np.array_equal, before, now)):
        raise Different(f"Expected the {what} images after {runs} runs to be those of before, bit for bit, but they "
                        "differ.")


def soak(url: str, pid: int, runs: int, seed: int) -> dict:
    server, chance, count = Server(url), random.Random(seed), Counter()
    folder = folder_of(pid, "--base-directory")
    watch = Watch(pid, lambda: temporary(pid, [folder / part for part in ("output", "user", "temp", "models")]))
    before = {kind: server.pictures(kind) for kind in ("plain", "apply")}
    stopped: list[tuple[str, dict]] = []  # cancelled calibrations
    number, seconds = 0, 2.0
    while number < runs or stopped:
        burst, begun = {}, time.monotonic()
        for _ in range(chance.randint(1, 3)):
            if stopped and (number >= runs or chance.random() < 0.5):
                kind, graph = stopped.pop(0)
                count["continued"] += 1
            else:
                kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
                graph = server.graph(kind, 1000 + number, f"soak {seed} {number}")
            count[kind] += 1
            number += 1
            burst[server.queue(graph)] = kind, graph
        told = {}
        for prompt in burst:
            if number < runs and chance.random() < 0.45:
                time.sleep(chance.uniform(0, seconds))
                told[prompt] = server.cancel(prompt)
        for prompt, (kind, graph) in burst.items():
            state = "deleted" if told.get(prompt) == "deleted" else outcome(history := server.ended(prompt))
            if state == "error" or state == "interrupted" and prompt not in told:
                raise Different(f"Expected run {number}, {kind}, to end well, got {history['status']['messages'][-1]}")
            count[state] += 1
            if kind in ("calibration", "mixed") and state != "success":
                stopped.append((kind, graph))
        seconds = 0.9 * seconds + 0.1 * (time.monotonic() - begun) / len(burst)
        watch.sample(number)
        if number // CHECKED > (number - len(burst)) // CHECKED:
            same(before["plain"], server.pictures("plain"), "plain", number)
            print(f"{number} runs, {dict(count)}, {watch.seen['memory'][-1]:.1f} MB", flush=True)
    for kind, pictures in before.items():
        same(pictures, server.pictures(kind), kind, number)
    if any(server.waiting()):
        raise Different(f"Expected the queue to be empty at the end, got {server.waiting()}.")
    if left := sorted(path.name for path in (folder / "user" / "debias").glob(f"soak {seed} *")):
        raise Different(f"Expected nothing to be unfinished at the end, but {', '.join(left)[:300]} are left.")
    return dict(runs=number, kinds={kind: count[kind] for kind in KINDS}, ended={
        state: count[state] for state in ("success", "interrupted", "deleted")}, cancelled=count["interrupted"] + count["deleted"],
        continued=count["continued"], seed=seed, **watch.found(EACH, len(watch.at) // 4))
