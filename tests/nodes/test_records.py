"""What is written about a run: records in images, reports, panels, messages; how the pack loads."""
import copy
import sys
import types
from pathlib import Path

import pytest
import torch
from nodes_given import full_disk, profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering

# --- records in the metadata of saved images ----------------------------------------------------

@pytest.fixture
def records(comfyui, monkeypatch):
    """The module of messages without records, and ran(prompt_id, node, *profiles)."""
    import comfy_execution.utils

    from sd_debias.nodes import messages
    monkeypatch.setattr(messages, "_records", type(messages._records)())
    monkeypatch.setattr(messages, "_earlier", {})
    monkeypatch.setattr(messages, "_said", {})
    saves = {"SaveImage": types.SimpleNamespace(OUTPUT_NODE=True)}
    monkeypatch.setitem(sys.modules, "nodes", types.SimpleNamespace(NODE_CLASS_MAPPINGS=saves))

    def ran(prompt_id, node, *profiles):
        context = type("Context", (), {"prompt_id": prompt_id, "node_id": node})
        monkeypatch.setattr(comfy_execution.utils, "get_executing_context", lambda: context)
        for name in profiles or "x":
            messages.record({"Debias profile": name})
    return messages, ran


def posted(messages, prompt_id, saved="2", client_id=None, **inputs):
    """(what is posted, its record): a sampler, node 2, hangs on Debias Apply, node 1, and the
    images of node `saved` are saved."""
    prompt = {"1": {"class_type": "DebiasApply", "inputs": inputs},
              "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}},
              "3": {"class_type": "KSampler", "inputs": {}},
              "4": {"class_type": "SaveImage", "inputs": {"images": [saved, 0]}}}
    data = messages.open_record({"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id,
                                 "extra_data": {"extra_pnginfo": {"workflow": {}}}})
    return data, data["extra_data"]["extra_pnginfo"]["debias"]


def names(record):
    return [entry["Debias profile"] for entry in record]


def test_a_prompt_with_our_nodes_gets_a_record_in_its_images(records):
    messages, ran = records
    data, record = posted(messages, "p")
    queued = copy.deepcopy(data)  # a host may run a copy of what was posted
    ran("p", "2")
    written = queued["extra_data"]["extra_pnginfo"]
    assert written["debias"] == record == [{"Debias profile": "x", "Debias node": "2"}]
    assert "workflow" in data["extra_data"]["extra_pnginfo"]
    plain = {"prompt": {"1": {"class_type": "KSampler"}}}
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
    assert posted(messages, "other", strength=0.5)[1] == []


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
        prompt = {"1": {"class_type": "DebiasTextEncode", "inputs": {}},
                  "2": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "seed": i}},
                  "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}}
        data = messages.open_record({"prompt": prompt, "prompt_id": f"p{i}"})
        for node in ("2",) if i else ("1", "2"):
            ran(f"p{i}", node)
    record = data["extra_data"]["extra_pnginfo"]["debias"]
    assert {entry["Debias node"] for entry in record} == {"1", "2"}


def test_a_node_that_runs_again_replaces_what_it_did(records):
    messages, ran = records
    _, first = posted(messages, "first")
    ran("first", "2")
    _, later = posted(messages, "later")
    ran("later", "2", "y", "z")
    assert names(later) == ["y", "z"] and names(first) == ["x"]


def test_the_models_name_is_found_upstream(comfyui):
    from sd_debias.nodes.model_name import model_name
    prompt = {"1": {"class_type": "CheckpointLoaderSimple",
                    "inputs": {"ckpt_name": "sd\\v1-5.safetensors"}},
              "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "x"}},
              "3": {"class_type": "DebiasApply", "inputs": {"model": ["2", 0]}},
              "4": {"class_type": "DebiasApply", "inputs": {"model": ["5", 0]}},
              "5": {"class_type": "DebiasDemoModel", "inputs": {}},
              "6": {"class_type": "DebiasApply", "inputs": {"model": ["7", 0]}},
              "7": {"class_type": "UnetLoaderGGUF",
                    "inputs": {"unet_name": "flux/flux1-dev-Q8_0.gguf"}}}
    assert model_name(prompt, "3") == "v1-5.safetensors" and model_name(prompt, "4") == "demo"
    assert model_name(prompt, "6") == "flux1-dev-Q8_0.gguf"
    assert model_name(None, None) is None


# --- reports ------------------------------------------------------------------------------------

@pytest.fixture
def report(call, said):
    """report(profile, ...) -> (the page's path, IMAGE)"""
    from sd_debias.nodes.report import DebiasReport

    def report(made=None, **images):
        path, sheet = call(DebiasReport, profile=made or profile(), **images)
        return Path(path), sheet
    return report


def test_a_report_shows_before_and_after(report):
    # A calibration's audit and verification may differ in number.
    path, sheet = report(before=torch.rand(2, 8, 8, 3), after=torch.rand(3, 8, 8, 3))
    assert path.parent.name == "doctor-gender" and sheet.shape[2] > sheet.shape[1]
    assert path.read_text("utf-8").count("data:image/jpeg") == 5


def test_a_full_disk_is_said_by_the_report_too(report, monkeypatch):
    from sd_debias.nodes import report as module
    monkeypatch.setattr(module, "write_atomic", full_disk)
    with pytest.raises(DebiasError, match="No space left on device"):
        report()


def test_reports_of_one_profile_stand_in_one_folder_beside_its_calibration(report):
    from sd_debias.nodes.report import new_folder
    own = profile(Steering((0.25, -0.25)))
    folder = new_folder(own.name)
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
    from sd_debias.nodes import messages, panel
    sent = []

    def send(*message):
        sent.append(message)

    server = types.SimpleNamespace(client_id="page", send_sync=send, send_progress_text=send)
    monkeypatch.setattr(messages, "_server", lambda: server)
    monkeypatch.setattr(panel, "_pages", {})
    return sent


def test_only_a_page_that_has_the_extension_is_sent_panels(sent):
    """Others get the host's own text, as before."""
    from sd_debias.nodes import messages, panel
    messages.say("7", "hello", True, report="/x")
    panel._pages["page"] = None
    messages.say("7", "hello", True, report="/x")
    state = dict(node="7", text="hello", warning=True, report="/x")
    assert sent == [("hello", "7"), ("sd-debias.panel", state, "page")]


def test_a_node_taken_from_the_cache_says_again_what_it_said(records, sent):
    """Debias Apply and Debias Attribute are no outputs: after a reload their nodes were empty."""
    from sd_debias.nodes import panel
    messages, ran = records
    held = posted(messages, "first")
    ran("first", "2")
    panel._pages["page"] = None
    messages.say("1", "2 pictures steered")
    messages.say("1", "and 2 more", adds=True)
    messages.say("1", "4 of 9", done=4, total=9)
    sent.clear()
    posted(messages, "again", client_id="page")
    posted(messages, "otherwise", client_id="page", strength=0.5)
    assert held and sent == [("sd-debias.panel", dict(
        node="1", text="2 pictures steered\nand 2 more", warning=False), "page")]


def test_texts_for_pages_that_show_no_panel_hold_no_markup(sent):
    from sd_debias.nodes import messages
    messages.say("3", "<img src=x onerror=alert(1)> & more")
    (text, _), = sent
    assert "<" not in text and "img src=x" in text


def test_a_place_outside_of_comfyui_is_said_from_its_folder_on_or_by_its_name(
        comfyui, tmp_path, monkeypatch):
    import folder_paths

    from sd_debias.nodes import messages
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "ComfyUI" / "models"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "elsewhere"))
    for path, said in (("ComfyUI/models/debias_profiles/p.json", "models/debias_profiles/p.json"),
                       ("elsewhere/debias/p/report.html", "output/debias/p/report.html"),
                       ("home/profiles/p.json", "p.json")):
        assert messages.place(tmp_path / path) == said


# --- hosts of other kinds -----------------------------------------------------------------------

def test_the_pack_loads_where_the_server_takes_no_prompt_handlers(comfyui, monkeypatch):
    from sd_debias.nodes import messages
    for server in (types.SimpleNamespace(instance=types.SimpleNamespace()),
                   types.SimpleNamespace(instance=None)):
        monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(PromptServer=server))
        messages.register()


def test_what_cancel_raises_is_found_wherever_a_fork_keeps_it(comfyui, monkeypatch):
    from sd_debias.nodes import workbench

    class Theirs(Exception):
        pass

    places = ["comfy.model_management", "comfy.interruption"]
    for holder, bare in (places, places[::-1]):
        monkeypatch.setitem(sys.modules, holder,
                            types.SimpleNamespace(InterruptProcessingException=Theirs))
        monkeypatch.setitem(sys.modules, bare, types.SimpleNamespace())
        assert workbench.interruption() is Theirs
    monkeypatch.setitem(sys.modules, "comfy.interruption", None)
    monkeypatch.setitem(sys.modules, "comfy.model_management", types.SimpleNamespace())
    assert issubclass(workbench.interruption(), Exception)
    source = Path(workbench.__file__).read_text()
    assert "import InterruptProcessingException" not in source, "which checkers look for"
