"""What is written about a run: records in images, reports, panels, messages; how the pack loads."""
import copy
import sys
import types
from pathlib import Path

import pytest
import torch
from nodes_given import full_disk, ours, profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering

# --- records in the metadata of saved images ----------------------------------------------------


def node(kind, **inputs):
    return dict(class_type=kind, inputs=inputs)


@pytest.fixture
def records(comfyui, monkeypatch):
    """The module of messages without records, and ran(prompt_id, node, *profiles)."""
    import comfy_execution.utils

    for name in ("_records", "_earlier", "_said"):
        monkeypatch.setattr(ours.messages, name, type(getattr(ours.messages, name))())
    saves = {"SaveImage": types.SimpleNamespace(OUTPUT_NODE=True)}
    monkeypatch.setitem(sys.modules, "nodes", types.SimpleNamespace(NODE_CLASS_MAPPINGS=saves))

    def ran(prompt_id, at, *profiles):
        context = types.SimpleNamespace(prompt_id=prompt_id, node_id=at)
        monkeypatch.setattr(comfy_execution.utils, "get_executing_context", lambda: context)
        for name in profiles or "x":
            ours.messages.record({"Debias profile": name})
    return ours.messages, ran


def posted(messages, prompt_id, saved="2", client_id=None, kind="DebiasApply", seed=0, **inputs):
    """(what is posted, its record): a sampler, node 2, hangs on a node of ours, node 1, and the
    images of node `saved` are saved."""
    prompt = {"1": node(kind, **inputs), "2": node("KSampler", model=["1", 0], seed=seed),
              "3": node("KSampler"), "4": node("SaveImage", images=[saved, 0])}
    data = messages.open_record(dict(prompt=prompt, prompt_id=prompt_id, client_id=client_id,
                                     extra_data=dict(extra_pnginfo=dict(workflow={}))))
    return data, data["extra_data"]["extra_pnginfo"]["debias"]


def test_a_pass_from_the_cache_is_known_though_the_host_rewrites_numbers(records):
    """A page posts a CFG of 8, the host makes 8.0 of it: a second pass whose first came from the cache drew its groups
    anew, and the images' record left the first one out."""
    messages, ran = records
    held, _ = posted(messages, "first", cfg=8, text=None)
    held["prompt"]["1"]["inputs"].update(cfg=8.0, text="None")  # as it is checked
    ran("first", "2")
    _, record = posted(messages, "second", cfg=8, text=None)
    assert names(record) == ["x"] and posted(messages, "third", cfg=8.5, text=None)[1] == []


def names(record, key="Debias profile"):
    return [entry[key] for entry in record]


def test_a_prompt_with_our_nodes_gets_a_record_in_its_images(records):
    messages, ran = records
    data, record = posted(messages, "p")
    queued = copy.deepcopy(data)  # a host may run a copy of what was posted
    ran("p", "2")
    written = queued["extra_data"]["extra_pnginfo"]
    assert written["debias"] == record == [{"Debias profile": "x", "Debias node": "2"}]
    plain = dict(prompt={"1": node("KSampler")})
    assert messages.open_record(dict(plain)) == plain


def test_a_node_taken_from_the_cache_is_recorded_where_an_image_hangs_on_it(records):
    messages, ran = records
    _, first = posted(messages, "first")
    _, waiting = posted(messages, "waiting")
    _, apart = posted(messages, "apart", saved="3")
    ran("first", "2")
    known = [{"Debias profile": "x", "Debias node": "2"}]
    assert first == waiting == posted(messages, "later")[1] == known
    assert apart == posted(messages, "later apart", saved="3")[1] == []


def test_the_first_of_many_waiting_prompts_has_its_record_which_goes_with_it(records):
    messages, ran = records
    queued = [posted(messages, f"p{i}", strength=i) for i in range(300)]
    ran("p0", "2")
    assert names(queued[0][1]) == ["x"] and len(messages._records) == 300
    del queued
    assert not messages._records


def test_what_a_cached_node_did_is_known_as_long_as_prompts_use_it(records):
    messages, ran = records
    for i in range(300):
        _, record = posted(messages, f"p{i}", kind="DebiasTextEncode", seed=i)
        for at in ("2",) if i else ("1", "2"):
            ran(f"p{i}", at)
    assert set(names(record, "Debias node")) == {"1", "2"}


def test_a_node_that_runs_again_replaces_what_it_did(records):
    messages, ran = records
    _, first = posted(messages, "first")
    ran("first", "2")
    _, later = posted(messages, "later")
    ran("later", "2", "y", "z")
    assert names(later) == ["y", "z"] and names(first) == ["x"]


@pytest.mark.parametrize("loader, name", [
    (node("CheckpointLoaderSimple", ckpt_name="sd\\v1-5.safetensors"), "v1-5.safetensors"),
    (node("DebiasDemoModel"), "demo"),
    (node("UnetLoaderGGUF", unet_name="flux/flux1-dev-Q8_0.gguf"), "flux1-dev-Q8_0.gguf")])
def test_the_models_name_is_found_upstream(comfyui, loader, name):
    prompt = {"1": loader, "2": node("LoraLoader", model=["1", 0], lora_name="x"),
              "3": node("DebiasApply", model=["2", 0])}
    assert ours.model_name.model_name(prompt, "3") == name and ours.model_name.model_name(None, None) is None


# --- reports ------------------------------------------------------------------------------------

@pytest.fixture
def report(call):
    """report(profile, ...) -> (the page's path, IMAGE)"""
    def report(made=None, **images):
        path, sheet = call("DebiasReport", profile=made or profile(), **images)
        return Path(path), sheet
    return report


def test_a_report_shows_before_and_after(report):
    # A calibration's audit and verification may differ in number.
    path, sheet = report(before=torch.rand(2, 8, 8, 3), after=torch.rand(3, 8, 8, 3))
    assert path.parent.name == "doctor-gender" and sheet.shape[2] > sheet.shape[1]
    assert path.read_text("utf-8").count("data:image/jpeg") == 5


def test_a_full_disk_is_said_by_the_report_too(report, monkeypatch):
    monkeypatch.setattr("sd_debias.nodes.report.write_atomic", full_disk)
    with pytest.raises(DebiasError, match="No space left on device"):
        report()


def test_reports_of_one_profile_stand_in_one_folder_beside_its_calibration(report):
    own = profile(Steering((0.25, -0.25)))
    folder = ours.report.new_folder(own.name)
    own.save(folder / "profile.json")
    (folder / "report.html").write_text("a calibration's")
    assert report(own)[0] == folder / "report_2.html" and report(own)[0] == folder / "report_3.html"
    assert (folder / "report.html").read_text() == "a calibration's"
    other, _ = report(profile(Steering((0.5, -0.5))))
    assert other.name == "report.html" and other.parent != folder


# --- panels and messages ------------------------------------------------------------------------

@pytest.fixture
def sent(comfyui, monkeypatch):
    """What the page "page" is sent."""
    sent = []

    def send(*message):
        sent.append(message)

    server = types.SimpleNamespace(client_id="page", send_sync=send, send_progress_text=send)
    monkeypatch.setattr(ours.messages, "_server", lambda: server)
    monkeypatch.setattr(ours.panel, "_pages", {})
    return sent


def test_only_a_page_that_has_the_extension_is_sent_panels(sent):
    """Others get the host's own text, as before, without markup."""
    ours.messages.say("3", "<img src=x onerror=alert(1)> & more")
    ours.panel._pages["page"] = None
    ours.messages.say("7", "hello", True, report="/x")
    (text, at), panelled = sent
    assert at == "3" and "<" not in text and "img src=x" in text
    state = dict(node="7", text="hello", warning=True, report="/x")
    assert panelled == ("sd-debias.panel", state, "page")


def test_a_node_taken_from_the_cache_says_again_what_it_said(records, sent):
    """Debias Apply and Debias Attribute are no outputs: after a reload their nodes were empty."""
    messages, ran = records
    held = posted(messages, "first")
    ran("first", "2")
    ours.panel._pages["page"] = None
    messages.say("1", "2 images steered")
    messages.say("1", "4 of 9", done=4, total=9)
    sent.clear()
    posted(messages, "again", client_id="page")
    posted(messages, "otherwise", client_id="page", strength=0.5)
    state = dict(node="1", text="2 images steered", warning=False)
    assert held and sent == [("sd-debias.panel", state, "page")]


def test_a_pass_that_was_taken_out_is_not_said_again(records, sent):
    """The second sampler was deleted, the first came from the cache, and the node still spoke of both."""
    messages, ran = records
    held = posted(messages, "first", seed=3)
    ran("first", "2")
    prompt, node = messages._records["first"].prompt, ours.passes.Passes()
    for at in ("2", "3"):
        node.add(messages.running()[0], at, [f"by {at}"], [], "", at == "3")
    ours.panel._pages["page"] = None
    messages.say("1", ours.passes.text_of(node.said), True, passes=node.said)
    sent.clear()
    posted(messages, "same", client_id="page", seed=3)
    posted(messages, "without", client_id="page", seed=4)  # only node 3 is as it was
    said = [(message[1]["text"], message[1]["warning"]) for message in sent]
    assert held and prompt and said == [("KSampler: by 2\nKSampler: by 3", True), ("by 3", True)]


@pytest.mark.parametrize("path, said", [
    ("ComfyUI/models/debias_profiles/p.json", "models/debias_profiles/p.json"),
    ("elsewhere/debias/p/report.html", "output/debias/p/report.html"),
    ("home/profiles/p.json", "p.json")])
def test_a_place_outside_of_comfyui_is_said_from_its_folder_on_or_by_its_name(
        comfyui, tmp_path, monkeypatch, path, said):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "ComfyUI" / "models"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "elsewhere"))
    assert ours.messages.place(tmp_path / path) == said


# --- hosts of other kinds -----------------------------------------------------------------------

@pytest.mark.parametrize("instance", [types.SimpleNamespace(), None])
def test_the_pack_loads_where_the_server_takes_no_prompt_handlers(comfyui, monkeypatch, instance):
    server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", server)
    assert ours.messages.register() is None


def test_images_keep_a_workflow_without_what_panels_said_of_other_runs(comfyui):
    def node(**more):
        return dict(type="DebiasBalance", properties={"cnr_id": "sd-debias", **more})

    workflow = dict(nodes=[node(**{"debias panel": {"text": "6 of 8"}}), dict(type="Note")],
                    definitions=dict(subgraphs=[dict(nodes=[node(**{"debias panel": {}})])]))
    queued = ours.panel.without_panels(dict(prompt={}, extra_data=dict(extra_pnginfo=dict(workflow=workflow))))
    assert queued["extra_data"]["extra_pnginfo"]["workflow"] == dict(
        nodes=[node(), dict(type="Note")], definitions=dict(subgraphs=[dict(nodes=[node()])]))
    page = Path(ours.panel.__file__).parents[1] / "web" / "debias.js"
    assert f'const PANEL = "{ours.panel.SHOWN}";' in page.read_text("utf-8")
    for other in ({}, dict(extra_data=None), dict(extra_data=dict(extra_pnginfo=dict(workflow=[1])))):
        assert ours.panel.without_panels(other) is other


def test_what_cancel_raises_is_found_wherever_a_fork_keeps_it(comfyui, monkeypatch):
    class Theirs(Exception):
        pass

    theirs = types.SimpleNamespace(InterruptProcessingException=Theirs)
    places = "comfy.model_management", "comfy.interruption"
    for found in ((theirs, types.SimpleNamespace()), (types.SimpleNamespace(), theirs)):
        for place, module in zip(places, found):
            monkeypatch.setitem(sys.modules, place, module)
        assert ours.workbench.interruption() is Theirs
    monkeypatch.setitem(sys.modules, "comfy.interruption", None)
    assert issubclass(ours.workbench.interruption(), Exception)
