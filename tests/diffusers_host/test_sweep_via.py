"""Sweeps over servers that run already: the same labels, whoever makes them and whatever becomes of servers."""
import json
import threading

import pytest
from painted_host import PLAN, jobs_of, labels_of, open_painter, recipe
from painted_servers import Bare, ComfyDouble, ForkDouble, Server, WebDouble, until
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.errors import DebiasError
from sd_debias.core.sweep.unit import digest
from sd_debias.core.sweep.wire import question, read
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.sweep import via
from sd_debias.diffusers_host.sweep.address import address
from sd_debias.diffusers_host.sweep.driver import Driver
from sd_debias.diffusers_host.sweep.engine import Here
from sd_debias.diffusers_host.sweep.via import Via, Wish
from sd_debias.diffusers_host.sweep.workflow import read_workflow

KINDS = pytest.mark.parametrize("double", [ComfyDouble, ForkDouble, WebDouble])
SECRET = "s3cret/p@ss"
LOGIN = "studio:s3cret%2Fp%40ss"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(via, "POLL", (0.002, 0.02))
    monkeypatch.setattr(via, "WAITS", (0.05, 0.1, 0.2))
    monkeypatch.setattr(via, "AGAIN", 0.1)


@pytest.fixture
def start():
    """Starts doubles, and ends what is left of them."""
    started = []

    def start(double, *args, **given) -> Server:
        started.append(double(*args, **given))
        return started[-1]
    yield start
    for server in started:
        server.die()


@pytest.fixture(scope="module")
def undisturbed():
    jobs = jobs_of()
    Driver(jobs, Here(open_painter), record=lambda *_: None).run()
    return labels_of(jobs)


def swept(servers, jobs=None, wish=None, **more):
    """(labels, workers that did units) of a sweep over these servers."""
    jobs, did = jobs or jobs_of(), []
    engine = Via([address(own if isinstance(own, str) else own.url) for own in servers], recipe(), wish or Wish(),
                 via.WAITS, via.AGAIN)
    try:
        Driver(jobs, engine, record=lambda unit, found, worker: did.append(worker), **more).run()
    finally:
        engine.close()
    return labels_of(jobs), did


@KINDS
def test_servers_give_the_labels_of_a_worker_here(undisturbed, start, double):
    servers = [start(double), start(double)]
    labels, did = swept(servers)
    assert labels == undisturbed and set(did) == {own.url for own in servers}
    assert not any(own.jobs for own in servers) or double is WebDouble  # their histories are as before


@KINDS
def test_a_server_that_dies_is_lost_and_the_others_do_its_work(undisturbed, start, double):
    good, bad = start(double, seconds=0.001), start(double, seconds=0.001)
    threading.Thread(target=lambda: (until(lambda: bad.measured >= 2), bad.die()), daemon=True).start()
    said = []
    labels, did = swept([good, bad], warn=said.append)
    assert labels == undisturbed and did.count(bad.url) < did.count(good.url)
    assert [text for text in said if text.startswith(f"{bad.url} was lost: the server does not answer")] == said


@KINDS
def test_a_lost_server_that_comes_back_is_used_again(undisturbed, start, double):
    good, bad, back = start(double, seconds=0.004), start(double, seconds=0.001), []

    def happens():
        until(lambda: bad.measured >= 2)
        bad.die()
        until(lambda: len(said) == 1)
        back.append(start(double, bad.port))

    said = []
    threading.Thread(target=happens, daemon=True).start()
    labels, did = swept([good, bad], warn=said.append)
    assert labels == undisturbed and len(said) == 1 and back[0].measured


@KINDS
def test_a_server_that_is_restarted_at_once_is_asked_again_for_what_it_forgot(undisturbed, start, double):
    server, back = start(double, seconds=0.001), []

    def happens():
        until(lambda: server.measured >= 2)
        server.die()
        back.append(start(double, server.port))

    threading.Thread(target=happens, daemon=True).start()
    said = []
    labels, did = swept([server], warn=said.append)
    assert labels == undisturbed and not said and back[0].measured


@KINDS
def test_when_all_servers_die_the_sweep_says_so_and_that_all_is_kept(start, double):
    server = start(double)
    threading.Thread(target=lambda: (until(lambda: server.measured >= 2), server.die()), daemon=True).start()
    with pytest.raises(DebiasError, match="was lost: the server does not answer .*run the same command again"):
        swept([server])


@KINDS
def test_a_server_of_another_version_or_model_is_put_aside(undisturbed, start, double):
    good = start(double, seconds=0.001)
    other, model = start(double, version="9.9"), start(double, name="another model")
    said = []
    labels, did = swept([good, other, model], warn=said.append, facts=open_painter().facts)
    assert labels == undisturbed and set(did) == {good.url}
    assert any(f"{other.url} could not be started: sd-debias 9.9 is installed there, but" in text for text in said)
    assert any(f"{model.url} is refused: its model is another model" in text for text in said)


@KINDS
def test_a_prompt_that_cannot_be_measured_fails_alone_and_mistakes_are_tried_elsewhere(undisturbed, start, double):
    def wrong(prompt, seeds):
        if "number 5" in prompt:
            raise DebiasError("It paints no fives.")

    def full(prompt, seeds):
        raise OSError(28, "No space left on device")

    said = []
    labels, _ = swept([start(double, trouble=wrong), start(double, trouble=full)], warn=said.append)
    assert labels[:5] == undisturbed[:5] and labels[5][1] == "It paints no fives."
    assert any("3 errors in a row" in text and "No space left" in text for text in said)


def test_another_job_of_a_web_ui_is_waited_for(undisturbed, start):
    server = start(WebDouble)
    server.jobs["somebody else's"] = None
    threading.Timer(0.3, lambda: server.jobs.pop("somebody else's")).start()
    assert swept([server])[0] == undisturbed


@KINDS
def test_a_sweep_that_is_run_again_does_not_end_without_a_result(undisturbed, start, double):
    server = start(double)
    assert swept([server])[0] == swept([server])[0] == undisturbed


@pytest.mark.parametrize("double", [ComfyDouble, ForkDouble])
def test_what_failed_on_a_comfyui_is_said_and_no_word_of_unpacking(start, double):
    def full(prompt, seeds):
        raise OSError(28, "No space left on device")

    with pytest.raises(DebiasError, match=r"errors in a row.*: (DebiasSweepUnit: )?\[Errno 28\] No space left"):
        swept([start(double, trouble=full)])


@KINDS
def test_what_nobody_waits_for_any_more_is_cancelled_there(start, double):
    server = start(double, trouble=lambda prompt, seeds: until(lambda: server.cancelled))
    engine = Via([address(server.url)], recipe(), Wish(), via.WAITS, via.AGAIN)
    while not engine.answers(5.0):
        pass
    engine.give(jobs_of(1)[0].due(1))
    until(server.waiting)
    engine.close()
    assert server.cancelled and not server.waiting()


# --- what servers are ------------------------------------------------------------------------------------------------

def test_servers_that_cannot_be_used_are_refused_in_a_sentence(start):
    comfy, web, bare, without = start(ComfyDouble), start(WebDouble), start(Bare), start(ComfyDouble)
    without.node = ""
    gone = start(Bare)
    gone.die()
    for servers, said in [([gone], "cannot be used: the server does not answer"),
                          ([bare], "neither a ComfyUI nor a web UI with sd-debias answers there"),
                          ([without], "this ComfyUI has no node Debias Sweep Unit"),
                          ([comfy, web], "servers of one kind, got different ones: .* is a ComfyUI and .* is a web UI"),
                          ([comfy, comfy.url + "/"], "different servers, got ")]:
        with pytest.raises(DebiasError, match=said):
            swept(servers)


def test_one_server_that_cannot_be_reached_does_not_keep_others(undisturbed, start):
    gone, said = start(ComfyDouble), []
    gone.die()
    assert swept([start(ComfyDouble, seconds=0.001), gone], warn=said.append)[0] == undisturbed
    assert len(said) == 1 and f"{gone.url} was lost" in said[0]


@pytest.mark.parametrize("text, url", [
    ("host:8188", "http://host:8188"), ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
    ("https://example.org/comfy/1/", "https://example.org:443/comfy/1"), ("http://[::1]:81", "http://[::1]:81"),
    (f"http://{LOGIN}@host:7860", "http://host:7860")])
def test_addresses(text, url):
    own = address(text)
    assert own.url == url and SECRET not in repr(own)
    assert (own.login == f"studio:{SECRET}") == ("@" in text)


@pytest.mark.parametrize("text", ["http://", "ftp://host", "http://host:port", "http://host?x=1", "host:99999",
                                  "http://studio:s3cret/p@ss@host:7860", "http://studio:1/s3cret@host", ":s3cret@"])
def test_bad_addresses_are_refused_without_their_password(text, capsys):
    with pytest.raises(DebiasError, match="Expected a server's address") as refused:
        address(text)
    assert "s3cret" not in str(refused.value)
    assert main(["sweep", "--prompts", "demo-20", "--out", "x", "--via", text]) == 2
    assert "s3cret" not in "".join(capsys.readouterr())


# --- workflows -------------------------------------------------------------------------------------------------------

def workflow(*calibrates) -> dict:
    inputs = dict(model=["1", 0], clip=["1", 1], vae=["1", 2], classifier=["2", 0], attributes=["3", 0], prompts="x",
                  negative="blurry", width=64, height=64, steps=4, cfg=2.0, sampler_name="euler", scheduler="simple",
                  seed=0, images=100, batch_size=7)
    return {"1": dict(class_type="CheckpointLoaderSimple", inputs=dict(ckpt_name="x.safetensors"), _meta={}),
            "2": dict(class_type="DebiasClipClassifier", inputs=dict(model="clip")),
            "3": dict(class_type="DebiasAttribute", inputs=dict(attribute="gender")),
            **{node: dict(class_type="DebiasCalibrate", inputs=inputs) for node in calibrates},
            "9": dict(class_type="SaveImage", inputs=dict(images=["4", 2]))}


def test_a_workflow_becomes_what_its_calibration_depends_on(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(workflow("4")))
    found = read_workflow(tmp_path / "a.json")
    assert set(found.graph) == {"1", "2", "4"} and found.node == "4" and found.batch_size == 7
    own = found.asking("{}")["4"]
    assert own["class_type"] == "DebiasSweepUnit" and own["inputs"]["unit"] == "{}"
    assert set(own["inputs"]) == {"model", "clip", "vae", "classifier", "negative", "width", "height", "steps", "cfg",
                                  "sampler_name", "scheduler", "unit"}
    assert "unit" not in found.graph["4"]["inputs"]


@pytest.mark.parametrize("content, said", [
    (workflow(), "holds no Debias Calibrate node, but a sweep needs exactly one"),
    (workflow("4", "5"), "holds 2 Debias Calibrate nodes, but a sweep needs exactly one"),
    (dict(nodes=[], links=[]), r"not an export in API format.*Workflow > Export \(API\)"),
    ([], "not a workflow in API format"), ({"1": {}}, "not a workflow in API format")])
def test_workflows_that_cannot_be_swept_are_refused_in_a_sentence(tmp_path, capsys, content, said):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DebiasError, match=said):
        read_workflow(tmp_path / "a.json")
    assert main(["sweep", "--prompts", "demo-20", "--out", str(tmp_path / "out"), "--via", "http://127.0.0.1:1",
                 "--workflow", str(tmp_path / "a.json")]) == 2
    assert "API" in capsys.readouterr().err or "exactly one" in said


def test_a_model_of_a_comfyui_needs_a_workflow_and_a_web_ui_takes_none(tmp_path, start):
    with pytest.raises(DebiasError, match=r"the model 'xl' comes from a workflow.*Workflow > Export \(API\)"):
        swept([start(ComfyDouble)], wish=Wish("xl"))
    with pytest.raises(DebiasError, match="where --classifier and --sampler is part of a workflow"):
        swept([start(ComfyDouble)], wish=Wish(given=dict(classifier=["x"], sampler="euler")))
    (tmp_path / "a.json").write_text(json.dumps(workflow("4")))
    with pytest.raises(DebiasError, match="--workflow is for ComfyUI"):
        swept([start(WebDouble)], wish=Wish("a", read_workflow(tmp_path / "a.json")))


def test_what_a_server_refuses_is_said(start):
    server = start(ComfyDouble)
    wrong = dict(class_type="CheckpointLoaderSimple", errors=[dict(message="Value not in list", details="ckpt_name")])
    refused = 400, dict(error=dict(message="Prompt outputs failed validation", details=""), node_errors={"1": wrong})
    server.route = lambda method, path, data: refused if path == "/prompt" else ComfyDouble.route(
        server, method, path, data)
    with pytest.raises(DebiasError, match=r"refuses the workflow: CheckpointLoaderSimple: Value not in list \(ckpt_n"):
        swept([server])


# --- the command -----------------------------------------------------------------------------------------------------

FEW = ["--images", "20", "--rounds", "2", "--held-out", "20", "--batch-size", "10"]


def command(folder, *servers, more=()):
    (folder / "prompts.txt").write_text("a photo of a doctor\na photo of a nurse\n")
    return main(["sweep", "--prompts", str(folder / "prompts.txt"), *FEW, "--out", str(folder / "out"), *more,
                 *(word for own in servers for word in ("--via", own))])


def test_a_login_is_asked_for_and_stands_in_no_file_and_no_line(tmp_path, start, capsys):
    server = start(WebDouble, login=f"studio:{SECRET}")
    assert command(tmp_path, server.url) == 2
    assert "needs a user and a password" in capsys.readouterr().err
    assert command(tmp_path, server.url.replace("//", "//studio:guessed@")) == 2
    said = capsys.readouterr()
    assert "refuses this user or password" in said.err and "guessed" not in said.err
    assert command(tmp_path, server.url.replace("//", f"//{LOGIN}@"), more=["--json", "--debug"]) == 0
    said = capsys.readouterr()
    texts = [said.out, said.err, *(path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file())]
    assert all(secret not in text for text in texts for secret in (SECRET, LOGIN, "s3cret"))
    assert any(f'"worker":"{server.url}"' in text for text in texts)


def test_a_sweep_of_the_command_line_over_servers(tmp_path, start, capsys):
    servers = [start(ComfyDouble), start(ComfyDouble)]
    (tmp_path / "mine.json").write_text(json.dumps(workflow("4")))
    assert command(tmp_path, *(own.url for own in servers), more=["--workflow", str(tmp_path / "mine.json")]) == 0
    assert json.loads((tmp_path / "out" / "mine" / "out.json").read_text())["setting"]["model"] == "painter"
    asked = json.loads((tmp_path / "out" / "sweep.json").read_text())["asked"]
    assert asked["options"] == dict(workflow=digest(read_workflow(tmp_path / "mine.json").graph))
    (tmp_path / "mine.json").write_text(json.dumps(workflow("5")))
    assert command(tmp_path, servers[0].url, more=["--workflow", str(tmp_path / "mine.json")]) == 2
    assert "holds another sweep: its workflow is" in capsys.readouterr().err


def test_a_web_ui_is_told_the_options(tmp_path, start):
    server = start(WebDouble)
    assert command(tmp_path, server.url, more=[
        "--model", "xl.safetensors", "--steps", "5", "--sampler", "DPM++ 2M", "--classifier", "clip", "--classifier",
        "age=vit", "--look", "largest-face", "--negative-prompt", "blurry"]) == 0
    assert server.request == dict(model="xl.safetensors", classifier="clip\nage=vit", look="largest face", txt2img=dict(
        seed=0, steps=5, sampler_name="DPM++ 2M", negative_prompt="blurry"))
    asked = json.loads((tmp_path / "out" / "sweep.json").read_text())["asked"]["options"]
    assert asked["sampler"] == "DPM++ 2M" and "via" not in asked


@pytest.mark.parametrize("arguments, said", [
    (["--ray", "--via", "http://x"], "--ray does nothing with --via"),
    (["--pictures", "x", "--device", "cpu", "--via", "http://x"], "--device and --pictures do nothing with --via"),
    (["--workflow", "x"], "--workflow does nothing without --via"),
    (["--sampler", "Euler"], "--sampler does nothing without --via"),
    (["--via", "http://x", "--workflow", "x", "--model", "demo", "--steps", "5"],
     "--model and --steps do nothing with --workflow"),
    (["--via", "http://x", "--workers", "2"], "--workers does nothing without --ray")])
def test_options_that_do_nothing_are_refused(tmp_path, capsys, arguments, said):
    assert main(["sweep", "--prompts", "demo-20", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert said in capsys.readouterr().err


# --- units as they travel --------------------------------------------------------------------------------------------

def test_a_unit_is_the_same_after_its_way():
    unit, own = jobs_of(1)[0].due(2), recipe(Plan(20, within=0.1, rounds=3), show=3)
    assert read(json.dumps(question(own, unit))) == (own, unit)
    assert read(question(own)) == (own, None)


@pytest.mark.parametrize("changes, said", [
    (dict(software="9.9"), "but the sweep is of 9.9"), (dict(variants=[]), "lacks a field or has a wrong one"),
    (dict(unit=dict(job=0)), "'unit.prompt' is missing"), (dict(plan=dict(images=0)), "'plan.images'"),
    (dict(variant=5), "weights for each group"), (dict(seeds=[0, 10**9]), "1 to 1,000,000 pictures"),
    (dict(seeds=[0.5, 1]), "a whole number"), (dict(steerings=[dict(weights=[0, 0, 0])]), "weights for each group")])
def test_bad_units_are_refused_in_a_sentence(changes, said):
    asked = question(recipe(), jobs_of(1)[0].due(1))
    for name, value in changes.items():
        (asked if name in asked else asked["unit"])[name] = value
    with pytest.raises(DebiasError, match=said):
        read(asked)
    for text in ("", "{", "[]", "null", "{}"):
        with pytest.raises(DebiasError):
            read(text)


def test_a_server_is_not_told_to_keep_pictures():
    assert "pictures" not in question(recipe(PLAN, pictures="/somewhere"))
