"""What ComfyUI's users saw go wrong in trials of the first edition, one test each."""
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sd_debias.core.attribute import AGE, GENDER
from sd_debias.core.errors import DebiasError

GRAPH = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sub/x.safetensors"}},
         "2": {"class_type": "DebiasClipClassifier", "inputs": {"model": "clip"}},
         "9": {"class_type": "DebiasCalibrate", "inputs": {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2],
                                                           "classifier": ["2", 0]}}}


class Bright:
    """A judge by brightness."""
    name = "brightness"
    fidelity = None

    def of(self, attribute):
        def classify(images):
            bright = np.array([image.mean() > 128 for image in images], np.float32)
            return np.stack([bright, 1 - bright], 1)
        classify.name = self.name
        return classify


def inputs(demo, **more):
    model, clip, vae = demo
    return dict(model=model, clip=clip, vae=vae, attributes=(GENDER.with_target((1, 3)),), classifier=Bright(),
                prompts="a photo of a doctor", negative="", width=64, height=64, steps=1, cfg=2.0,
                sampler_name="euler", scheduler="simple", seed=3, images=4, rounds=1, held_out=4, batch_size=4,
                tolerance=1e-6, method="default", direction="as the method says", rule="as the method says",
                confidence=0.0, name="trial") | more


@pytest.fixture
def no_states():
    from sd_debias.nodes import workbench
    yield
    for state in workbench.states().glob("trial*"):
        shutil.rmtree(state) if state.is_dir() else state.unlink()


@pytest.mark.parametrize("replaced", ["checkpoints/sub/x.safetensors", "classifiers/clip/model.safetensors"])
def test_rounds_are_not_continued_with_a_file_replaced_under_the_same_name(set_folder, tmp_path, replaced):
    from sd_debias.nodes import workbench
    for kind in ("checkpoints", "classifiers"):
        set_folder(kind, tmp_path / kind, {""})
    for file in ("checkpoints/sub/x.safetensors", "classifiers/clip/model.safetensors", "classifiers/clip/config.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"first")
    before = workbench.behind(GRAPH, "9")
    assert workbench.behind(GRAPH, "9") == before
    (tmp_path / replaced).write_bytes(b"another")
    assert workbench.behind(GRAPH, "9") != before


def test_a_name_that_leaves_the_model_folders_is_not_looked_up(set_folder, tmp_path):
    from sd_debias.nodes import workbench
    set_folder("checkpoints", tmp_path / "own", {""})
    (tmp_path / "own").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    for text in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), ".", "a\nb", "\u4e00" * 120):
        graph = {"1": {"class_type": "X", "inputs": {"name": text}}}
        assert workbench.files_of(graph, "1") == []


def test_images_that_are_not_finite_are_unsure_in_an_audit_and_said(call, said):
    from sd_debias.nodes.audit import DebiasAudit
    images = torch.rand(4, 8, 8, 3)
    images[0, 0, 0, 0] = float("nan")
    images[3] = 0
    _, text = call(DebiasAudit, images=[images], classifier=[Bright()], attributes=[(GENDER,)])
    assert "1 images left out as unsure" in text and said[-1][1]
    assert "of 4 images, 1 are not finite (NaN or infinite) and 1 are of one colour throughout" in text


def test_a_vae_that_overflows_stops_a_calibration_with_a_sentence(demo, call, said, monkeypatch, no_states):
    from sd_debias.nodes.calibrate import DebiasCalibrate
    model, clip, vae = demo
    broken = types.SimpleNamespace(decode=lambda samples: vae.decode(samples) * float("nan"))
    with pytest.raises(DebiasError, match="of 4 images, 4 are not finite"):
        call(DebiasCalibrate, **inputs(demo, vae=broken))


def test_a_host_that_never_calls_the_wrapper_stops_in_the_first_round(demo, call, said, monkeypatch, no_states):
    from sd_debias.nodes import calibrate, workbench
    monkeypatch.setattr(workbench.GuidedSampling, "patch", lambda self, model: model.clone())
    with pytest.raises(DebiasError, match="guidance changed nothing in them"):
        call(calibrate.DebiasCalibrate, **inputs(demo))


def test_an_error_of_the_host_is_not_blamed_on_the_folder_of_profiles(demo, call, said, monkeypatch, no_states):
    from sd_debias.nodes import calibrate, workbench

    def broken(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(workbench.comfy.sample, "sample", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        call(calibrate.DebiasCalibrate, **inputs(demo))
    assert not isinstance(caught.value, ValueError)


def test_two_attributes_of_one_name_are_not_counted_as_one(call, said):
    from dataclasses import replace

    from sd_debias.nodes.audit import DebiasAudit
    twins = (GENDER, replace(AGE, name="Gender"))
    with pytest.raises(DebiasError, match="the same name"):
        call(DebiasAudit, images=[torch.rand(2, 8, 8, 3)], classifier=[Bright()], attributes=[twins])


def test_the_pack_loads_where_the_server_takes_no_prompt_handlers(comfyui, monkeypatch):
    from sd_debias.nodes import messages
    for server in (types.SimpleNamespace(instance=types.SimpleNamespace()), types.SimpleNamespace(instance=None)):
        monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(PromptServer=server))
        messages.register()


def test_what_cancel_raises_is_found_wherever_a_fork_keeps_it(comfyui, monkeypatch):
    from sd_debias.nodes import workbench

    class Theirs(Exception):
        pass

    places = ["comfy.model_management", "comfy.interruption"]
    for holder, bare in (places, places[::-1]):
        monkeypatch.setitem(sys.modules, holder, types.SimpleNamespace(InterruptProcessingException=Theirs))
        monkeypatch.setitem(sys.modules, bare, types.SimpleNamespace())
        assert workbench.interruption() is Theirs
    monkeypatch.setitem(sys.modules, "comfy.interruption", None)
    monkeypatch.setitem(sys.modules, "comfy.model_management", types.SimpleNamespace())
    assert issubclass(workbench.interruption(), Exception)
    source = Path(workbench.__file__).read_text()
    assert "import InterruptProcessingException" not in source, "a checker of removed symbols finds nothing"
