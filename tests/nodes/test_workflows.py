"""Bundled workflows, help pages and locales; with COMFYUI_PATH also on a real server."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(line.split('"')[1] for path in (ROOT / "nodes").glob("*.py") for line in path.read_text().splitlines()
               if "node_id=" in line and '"' in line)


def bundled():
    import importlib.util
    spec = importlib.util.spec_from_file_location("workflows", Path(__file__).with_name("workflows.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


workflows = bundled()


def test_every_node_appears_in_a_workflow():
    used = {node["type"] for path in workflows.paths() for node in workflows.read(path)["nodes"]}
    assert set(NODES) <= used and len(NODES) == 12


@pytest.mark.parametrize("path", workflows.paths(), ids=lambda path: path.stem)
def test_links_of_a_workflow_fit(path):
    workflow = workflows.read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, slot, form in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"] and nodes[source]["outputs"][output]["type"] == form
        assert nodes[target]["inputs"][slot]["link"] == link


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page_and_both_languages(node):
    assert (ROOT / "web" / "docs" / f"{node}.md").read_text("utf-8").startswith("# Debias")
    english, other = (json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))[node]
                      for language in ("en", "zh"))
    assert english.keys() == other.keys()
    assert english.get("inputs", {}).keys() == other.get("inputs", {}).keys()
    assert english["outputs"].keys() == other["outputs"].keys()


# --- on a real server ------------------------------------------------------------------------------------------------

class Server:
    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        for part in ("custom_nodes", "input/pictures", "output", "models/classifiers", "models/loras"):
            (folder / part).mkdir(parents=True)
        (folder / "custom_nodes" / "sd-debias").symlink_to(ROOT)
        self.log = open(folder / "log.txt", "w")
        main = Path(os.environ["COMFYUI_PATH"]) / "main.py"
        self.process = subprocess.Popen(
            [sys.executable, str(main), "--cpu", "--port", str(port), "--base-directory", str(folder),
             "--disable-auto-launch"], stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(300):
            try:
                self.object_info = self.get("/object_info")
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, (folder / "log.txt").read_text()[-3000:]
                time.sleep(1)
        raise TimeoutError((folder / "log.txt").read_text()[-3000:])

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: dict):
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, prompt: dict, wait: float = 600) -> dict:
        answer = self.post("/prompt", dict(prompt=prompt))
        assert "prompt_id" in answer, answer
        return self.finished(answer["prompt_id"], wait)

    def finished(self, prompt_id: str, wait: float = 600) -> dict:
        until = time.monotonic() + wait
        while time.monotonic() < until:
            history = self.get("/history/" + prompt_id)
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.2)
        raise TimeoutError(self.logged()[-3000:])

    def logged(self) -> str:
        self.log.flush()
        return (self.folder / "log.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait(30)


def prompt_of(server, number: int) -> dict:
    path = next(path for path in workflows.paths() if path.stem.startswith(str(number)))
    return workflows.on_the_demo_model(workflows.to_prompt(workflows.read(path), server.object_info))


def of_type(prompt: dict, name: str) -> dict:
    return next(item["inputs"] for item in prompt.values() if item["class_type"] == name)


def said_ok(server, history: dict) -> None:
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]


@pytest.mark.comfyui
def test_the_server_knows_every_node_with_tooltips_everywhere(server):
    english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    for name in NODES:
        info = server.object_info[name]
        inputs = {key: spec for kind in ("required", "optional") for key, spec in info["input"].get(kind, {}).items()}
        assert all(spec[1].get("tooltip") for spec in inputs.values()), name
        assert all(info["output_tooltips"]) and info["category"] == "debias" and info["description"]
        assert english[name]["description"] == info["description"]
        assert {key: text["tooltip"] for key, text in english[name].get("inputs", {}).items()} == {
            key: spec[1]["tooltip"] for key, spec in inputs.items()}


@pytest.mark.comfyui
def test_bundled_workflows_run(server):
    """In one go: the first leaves the profile that later ones load."""
    said_ok(server, server.run(prompt_of(server, 1)))
    for number in (2, 3):
        said_ok(server, server.run(prompt_of(server, number)))

    hires = prompt_of(server, 4)
    loader = next(key for key, item in hires.items() if item["class_type"] == "LoraLoader")
    model = hires.pop(loader)["inputs"]["model"][0]
    for item in hires.values():
        for name, value in item["inputs"].items():
            if isinstance(value, list) and value[0] == loader:
                item["inputs"][name] = [model, value[1]]
    said_ok(server, server.run(hires))

    picture = next((server.folder / "output" / "debias").glob("after_*.png"))
    for i in range(4):
        shutil.copy(picture, server.folder / "input" / "pictures" / f"{i}.png")
    audit = prompt_of(server, 5)
    of_type(audit, "LoadImageSetFromFolderNode")["folder"] = "pictures"
    trained = next(key for key, item in audit.items() if item["class_type"] == "DebiasImageClassifier")
    of_type(audit, "DebiasAudit")["classifier"] = audit.pop(trained)["inputs"]["others"]
    said_ok(server, server.run(audit))


@pytest.mark.comfyui
def test_saved_images_say_what_was_applied_also_from_the_cache(server):
    from PIL import Image
    prompt = prompt_of(server, 2)
    sampler, seen = of_type(prompt, "KSampler"), []
    for seed in (11, 12):
        sampler["seed"] = seed
        said_ok(server, server.run(prompt))
        newest = max((server.folder / "output" / "debias").glob("apply_*.png"))
        seen.append(json.loads(Image.open(newest).info["debias"])[0]["Debias seeds"][0])
    assert seen == [11, 12]


@pytest.mark.comfyui
def test_cancel_stops_at_once_and_the_next_run_continues(server):
    prompt = prompt_of(server, 1)
    inputs = of_type(prompt, "DebiasCalibrate")
    inputs.update(images=400, steps=20, held_out=20, rounds=0, name="cancelled")
    before = server.logged().count("audit: ")
    answer = server.post("/prompt", dict(prompt=prompt))
    while server.logged().count("audit: ") < before + 2:
        time.sleep(0.1)
    server.post("/interrupt", {})
    started = time.monotonic()
    history = server.finished(answer["prompt_id"])
    assert history["status"]["messages"][-1][0] == "execution_interrupted" and time.monotonic() - started < 10
    kept = int(server.logged().rpartition("Cancelled. ")[2].split()[0])
    assert kept >= 8
    server.post("/prompt", dict(prompt=prompt))
    while f"audit: {kept + 4} of 400" not in server.logged():
        time.sleep(0.1)
    server.post("/interrupt", {})


@pytest.mark.comfyui
@pytest.mark.parametrize("node, inputs, sentence", [
    ("DebiasAttribute", dict(attribute="own groups", groups="young:\nold"), "has an empty text"),
    ("DebiasCalibrate", dict(name="../x"), "A name must be"),
    ("DebiasCalibrate", dict(prompts=""), "needs a prompt")])
def test_bad_input_is_one_sentence_on_the_node(server, node, inputs, sentence):
    prompt = prompt_of(server, 1)
    of_type(prompt, node).update(inputs)
    kind, message = server.run(prompt)["status"]["messages"][-1]
    assert kind == "execution_error" and sentence in message["exception_message"] and message["node_type"] == node
