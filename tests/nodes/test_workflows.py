"""Bundled workflows and help pages; with COMFYUI_PATH also on a real server."""
import asyncio
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

import nodes_workflows as workflows
import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(line.split('"')[1] for path in (ROOT / "nodes").glob("*.py") for line in path.read_text().splitlines()
               if "node_id=" in line and '"' in line)


def test_every_node_appears_in_a_workflow_and_has_a_help_page():
    used = {node["type"] for path in workflows.paths() for node in workflows.read(path)["nodes"]}
    pages = {path.stem for path in (ROOT / "web" / "docs").iterdir()}
    assert set(NODES) == used & set(NODES) == pages and len(NODES) == 12


@pytest.mark.parametrize("path", workflows.paths(), ids=lambda path: path.stem)
def test_links_of_a_workflow_fit(path):
    workflow = workflows.read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, slot, form in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"] and nodes[source]["outputs"][output]["type"] == form
        assert nodes[target]["inputs"][slot]["link"] == link


@pytest.mark.parametrize("path", workflows.paths(), ids=lambda path: path.stem)
def test_no_node_of_a_workflow_lies_on_another(path):
    """A judge lay on a prompt."""
    boxes = [(*node["pos"], *node["size"]) for node in workflows.read(path)["nodes"]]
    title = 30
    for i, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[i + 1:]:
            assert not (x < left + wide and left < x + width and y - title < top + high and top - title < y + height)


@pytest.mark.parametrize("path", sorted(workflows.BLUEPRINTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_blueprint_is_one_node_of_nodes_that_exist(path):
    """ComfyUI names it as its file."""
    blueprint = workflows.read(path)
    (node,), (inside,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == inside["id"] and path.stem == inside["name"] == node["title"]
    assert {one["type"] for one in inside["nodes"] if one["type"].startswith("Debias")} <= set(NODES)
    assert [slot["name"] for slot in node["inputs"]] == [slot["name"] for slot in inside["inputs"]]
    links = {link["id"] for link in inside["links"]}
    assert all(set(slot["linkIds"]) <= links and slot["linkIds"] for slot in [*inside["inputs"], *inside["outputs"]])


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
        checkout = Path(os.environ["COMFYUI_PATH"])
        installable = (checkout / "comfy" / "cmd" / "main.py").exists()  # the fork is started as a module
        self.process = subprocess.Popen(
            [sys.executable, *(["-m", "comfy.cmd.main"] if installable else [str(checkout / "main.py")]), "--cpu",
             "--port", str(port), "--base-directory", str(folder), "--disable-auto-launch"],
            env={**os.environ, "PYTHONPATH": str(checkout)}, stdout=self.log, stderr=subprocess.STDOUT)
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

    def queued(self, prompt: dict) -> str:
        answer = self.post("/prompt", dict(prompt=prompt))
        assert "prompt_id" in answer, answer
        return answer["prompt_id"]

    def run(self, prompt: dict) -> dict:
        return self.finished(self.queued(prompt))

    def finished(self, prompt_id: str, wait: float = 600) -> dict:
        until = time.monotonic() + wait
        while time.monotonic() < until:
            history = self.get("/history/" + prompt_id)
            if prompt_id in history:
                status = history[prompt_id]["status"]
                status["messages"] = list(map(as_pair, status["messages"]))
                return history[prompt_id]
            time.sleep(0.2)
        raise TimeoutError(self.logged()[-3000:])

    def ok(self, prompt: dict) -> dict:
        """The outputs of a prompt that succeeds."""
        history = self.run(prompt)
        assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
        return history["outputs"]

    def cancelled(self, prompt: dict, said: str) -> int:
        """Cancels a calibration once it says this; how many images it keeps."""
        start = len(self.logged())
        queued, until = self.queued(prompt), time.monotonic() + 300
        while said not in self.logged()[start:]:
            assert time.monotonic() < until, self.logged()[-3000:]
            time.sleep(0.02)
        self.post("/interrupt", {})
        started = time.monotonic()
        assert self.finished(queued)["status"]["messages"][-1][0] == "execution_interrupted"
        assert time.monotonic() - started < 10
        return int(self.logged()[start:].rpartition("measured is kept, ")[2].split()[0])

    def logged(self) -> str:
        self.log.flush()
        return (self.folder / "log.txt").read_text("utf-8")


def as_pair(message) -> list:
    """[kind, data] of a message of the history; the installable fork gives a text, "kind: message"."""
    if not isinstance(message, str):
        return message
    kind, _, text = message.partition(": ")
    return [kind, dict(exception_message=text)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait(30)


OTHER_PACKS = {"input": {"optional": {f"widget {i}": ["STRING"] for i in range(27)}}}


def prompt_of(server, number: int, **others) -> dict:
    """A bundled workflow's prompt; others: what the server does not know of nodes of other packs."""
    path = next(path for path in workflows.paths() if path.stem.startswith(str(number)))
    return workflows.on_the_demo_model(workflows.to_prompt(workflows.read(path), {**others, **server.object_info}))


def key_of(prompt: dict, name: str) -> str:
    return next(key for key, item in prompt.items() if item["class_type"] == name)


def of_type(prompt: dict, name: str) -> dict:
    return prompt[key_of(prompt, name)]["inputs"]


def plain(server):
    """Pixels of a graph without nodes of ours but the demo model, whose object other prompts share."""
    import numpy as np
    from PIL import Image
    prompt = {str(i): dict(class_type=name, inputs=inputs) for i, (name, inputs) in enumerate([
        ("DebiasDemoModel", {}), ("CLIPTextEncode", dict(clip=["0", 1], text="a photo of a doctor")),
        ("CLIPTextEncode", dict(clip=["0", 1], text="")), ("EmptyLatentImage", dict(width=64, height=64, batch_size=2)),
        ("KSampler", dict(model=["0", 0], seed=1, steps=4, cfg=2.0, sampler_name="euler", scheduler="simple",
                          positive=["1", 0], negative=["2", 0], latent_image=["3", 0], denoise=1.0)),
        ("VAEDecode", dict(samples=["4", 0], vae=["0", 2])),
        ("SaveImage", dict(images=["5", 0], filename_prefix="plain"))])}
    history = server.run(prompt)
    cached = [data.get("nodes", []) for kind, data in history["status"]["messages"] if kind == "execution_cached"]
    assert "4" not in sum(cached, []), "the sampler did not run"
    return np.stack([np.asarray(Image.open(server.folder / "output" / image["filename"]))
                     for image in history["outputs"]["6"]["images"]])


@pytest.fixture(scope="module")
def untouched(server):
    return plain(server)


def calibrating(server, **inputs) -> dict:
    """A small calibration toward a target that the demo model is far from, so that it needs rounds."""
    prompt = prompt_of(server, 1)
    of_type(prompt, "DebiasAttribute")["target"] = "5:95"
    of_type(prompt, "DebiasCalibrate").update(dict(images=24, held_out=24, rounds=2, batch_size=4, steps=8,
                                                   sure="custom") | inputs)
    return prompt


@pytest.mark.comfyui
def test_the_server_knows_every_node_with_tooltips_everywhere(server):
    for name in NODES:
        info = server.object_info[name]
        inputs = {key: spec for kind in ("required", "optional") for key, spec in info["input"].get(kind, {}).items()}
        assert all(spec[1].get("tooltip") for spec in inputs.values()), name
        assert all(info["output_tooltips"]) and info["category"].startswith("debias/") and info["description"]


@pytest.mark.comfyui
def test_bundled_workflows_run(server):
    """In one go: the second leaves the profile that later ones load."""
    from PIL import Image
    for number in (0, 1, 2, 3, 6):
        server.ok(prompt_of(server, number))

    detailed = prompt_of(server, 4, FaceDetailer=OTHER_PACKS, UltralyticsDetectorProvider=OTHER_PACKS)
    faces, decoded = key_of(detailed, "FaceDetailer"), key_of(detailed, "VAEDecode")
    del detailed[faces], detailed[key_of(detailed, "UltralyticsDetectorProvider")]
    of_type(detailed, "SaveImage")["images"] = [decoded, 0]
    server.ok(detailed)
    hires, = (server.folder / "output" / "debias").glob("detailed_*1_.png")
    first, second = json.loads(Image.open(hires).info["debias"])
    assert first["Debias rows"] == second["Debias rows"] and first["Debias seeds"] == second["Debias seeds"]

    picture = next((server.folder / "output" / "debias").glob("after_*.png"))
    for i in range(4):
        shutil.copy(picture, server.folder / "input" / "pictures" / f"{i}.png")
    audit = prompt_of(server, 5)
    of_type(audit, "DebiasAudit")["folder"] = "pictures"
    of_type(audit, "DebiasJudge").update(judge="demo (for the demo model alone)", further="skin_tone_3=ita", labels="")
    for item in audit.values():  # the demo's images show no ages
        if item["inputs"].get("attribute") == "age":
            item["inputs"].update(attribute="own groups", groups="cook: a cook\njudge: a judge", name="job")
    server.ok(audit)


@pytest.mark.comfyui
def test_blueprints_run(server):
    balanced, calibrated = (workflows.to_prompt(workflows.unfolded(path), server.object_info)
                            for path in sorted(workflows.BLUEPRINTS.glob("*.json"), reverse=True))
    balanced = workflows.on_the_demo_model(balanced)
    node = key_of(balanced, "VAEDecode")
    balanced["save"] = dict(class_type="SaveImage", inputs=dict(images=[node, 0], filename_prefix="blueprint"))
    assert len(server.ok(balanced)["save"]["images"]) == 4
    calibrated = workflows.on_the_demo_model(calibrated)
    of_type(calibrated, "DebiasCalibrate")["name"] = "of a blueprint"
    node = key_of(calibrated, "DebiasCalibrate")
    calibrated["save"] = dict(class_type="SaveImage", inputs=dict(images=[node, 3], filename_prefix="after"))
    assert server.ok(calibrated)["save"]["images"]


@pytest.mark.comfyui
def test_a_checked_classifier_corrects_the_audit_and_the_page_of_labels_is_served(server):
    prompt = prompt_of(server, 8)
    of_type(prompt, "DebiasCheckJudge")["count"] = 6
    of_type(prompt, "EmptyLatentImage")["batch_size"] = 60
    node = key_of(prompt, "DebiasAudit")
    shown = server.ok(prompt)[node]["debias_panel"][0]
    assert "corrected by the judge's check (it labelled man " in shown["text"] and "N = 60" in shown["text"]
    with urllib.request.urlopen(server.url + shown["labels"], timeout=60) as answer:
        page, rules = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "sandbox allow-scripts allow-downloads" in rules and "script-src 'sha256-" in rules
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    section, = data["sections"]
    assert len(section["items"]) == 60
    runs = {section["run"]: {"gender": {item["key"]: "woman" for item in section["items"]}}}
    prompt[node]["inputs"]["corrections"] = json.dumps(dict(form=data["form"], runs=runs))
    text = server.ok(prompt)[node]["debias_panel"][0]["text"]
    assert "woman 100.0%" in text and "60 labels corrected by hand" in text


@pytest.mark.comfyui
def test_saved_images_say_what_was_applied_also_from_the_cache(server):
    from PIL import Image
    prompt = prompt_of(server, 2)
    sampler, encoder = (key_of(prompt, name) for name in ("KSampler", "DebiasTextEncode"))
    seen = []
    for seed in (11, 12):
        prompt[sampler]["inputs"]["seed"] = seed
        server.ok(prompt)
        newest = max((server.folder / "output" / "debias").glob("apply_*.png"))
        seen.append({entry["Debias node"]: entry for entry in json.loads(Image.open(newest).info["debias"])})
    assert [record[sampler]["Debias seeds"][0] for record in seen] == [11, 12]
    assert seen[1][encoder]["Debias seeds"][0] == 0  # only the first of the runs encoded
    assert {"Debias profile", "Debias hash", "Debias weights"} <= seen[1][sampler].keys() & seen[1][encoder].keys()


@pytest.mark.comfyui
@pytest.mark.parametrize("phase, least", [("audit: 8 of", 8), ("round 1", 24), ("verification", 24)])
def test_cancel_stops_at_once_leaves_no_trace_and_the_next_run_continues(server, untouched, phase, least):
    prompt = calibrating(server, name=f"cancelled in {phase[:5]}", steps=12)
    kept = server.cancelled(prompt, f"sd-debias: {phase}")
    assert kept >= least and (plain(server) == untouched).all()
    start = len(server.logged())
    server.ok(prompt)
    said = server.logged()[start:]
    assert "audit: 4 of 24" not in said and (least > 8 or f"audit: {kept + 4} of 24" in said)
    assert (plain(server) == untouched).all()


def watched(server, client: str) -> tuple[dict, list, list]:
    """(the prompt, events, binary messages) of a page while a calibration named as it runs."""
    aiohttp = pytest.importorskip("aiohttp")
    prompt, events, binaries = calibrating(server, name=client), [], []

    async def watch():
        url = f"{server.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            await socket.send_json(dict(type="feature_flags", data=dict(supports_preview_metadata=True)))
            await session.post(f"{server.url}/api/sd-debias/pages", json=dict(client=client))
            await asyncio.to_thread(server.post, "/prompt", dict(prompt=prompt, client_id=client))
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    binaries.append((int.from_bytes(message.data[:4], "big"), message.data[4:]))
                    continue
                event = json.loads(message.data)
                events.append((event["type"], event["data"]))
                if event["type"] in ("execution_success", "execution_error"):
                    return event["type"]

    assert asyncio.run(asyncio.wait_for(watch(), 300)) == "execution_success"
    return prompt, events, binaries


@pytest.mark.comfyui
def test_a_page_with_the_extension_gets_panels_and_the_report_opens(server):
    prompt, events, binaries = watched(server, "page")
    panels = {}
    for kind, data in events:
        if kind == "sd-debias.panel":
            panels.setdefault(prompt[data["node"]]["class_type"], []).append(data)
    during = [panel for panel in panels["DebiasCalibrate"] if panel.get("total")]
    share, = during[-1]["shares"]
    assert 3 not in dict(binaries) and during[-1]["done"] <= during[-1]["total"]
    assert share["groups"] == ["man", "woman"] and len(share["now"]["intervals"]) == 2
    assert share["was"]["images"] == 24 and share["now"]["shares"][0] < share["was"]["shares"][0]
    assert share["text"].startswith("Target 5 / 95. Was ")
    assert "images steered" in panels["DebiasApply"][-1]["text"] and panels["DebiasAudit"][-1]["shares"][0]["now"]
    report = panels["DebiasCalibrate"][-1]["report"]
    with urllib.request.urlopen(f"{server.url}/api{report}", timeout=60) as answer:
        assert "sandbox" in answer.headers["Content-Security-Policy"] and "doctor" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("/api/sd-debias/report/..%2f..%2fx/report.html")
    # Taken from the cache, outputs bring their panels again.
    shown, = server.ok(prompt)[key_of(prompt, "DebiasCalibrate")]["debias_panel"]
    assert shown["report"] == report == "/sd-debias/report/page/report.html"
