"""Debias Calibrate and Debias Check: what they make, refuse, keep when ended, and continue."""
import shutil
import types
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from nodes_given import (PICTURES, PROMPT, Brightness, calibration, cancelled, comfy, failing,
                         full_disk, judge, memory_ran_out, network, nth,
                         others_error, ours, profile)

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import Method


@pytest.fixture(autouse=True)
def no_states(comfyui):
    """No test finds the unfinished or finished calibrations of another."""
    yield
    for folder in (ours.workbench.states(), ours.workbench.states().parent / "finished"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def calibrate(call):
    """Runs the node with a small calibration's inputs, and these."""
    return lambda graph=None, own=None, **inputs: call(
        "DebiasCalibrate", graph, own, **calibration(**inputs))


# --- what it makes ------------------------------------------------------------------------------

def test_a_calibrations_picture_is_that_of_ksampler_alone(demo, sample):
    model, _, vae = demo
    setting = dict(negative_prompt="", width=64, height=64, sampler="euler", scheduler="simple",
                   steps=2, cfg=2.0)
    bench = ours.workbench.Workbench(*demo, judge(), setting)
    with torch.inference_mode():
        pictures = bench.generate(PROMPT, (GENDER,), Method(), torch.zeros(3, 2), [5, 6, 7])
        latent = torch.zeros(1, 4, 8, 8)
        alone = vae.decode(comfy.sample.sample(
            model, comfy.sample.prepare_noise(latent, 6), 2, 2.0, "euler", "simple",
            sample.encode(PROMPT), sample.encode(""), latent, disable_pbar=True, seed=6))
    assert torch.allclose(pictures[1], alone[0], atol=1e-4)


def test_a_calibration_gives_profile_pictures_and_report_and_a_later_replaces_nothing(calibrate):
    made, charts, before, after, report = calibrate(name="twice", steps=1, rounds=1)
    assert made.setting["scheduler"] == "simple" and made.setting["steps"] == 1
    assert made.entries[0].rounds[0]["images"] == 6 and made.entries[0].after
    assert charts.shape[-1] == 3 and before.shape == (6, 64, 64, 3)  # of the audit
    assert after.shape == (6, 64, 64, 3)  # of the same seeds
    first = Path(report).parent
    content = {path: path.read_bytes() for path in first.iterdir()}
    assert {"report.html", "profile.json"} <= {path.name for path in content}
    *_, report = calibrate(name="twice", seed=4, images=2, rounds=0, held_out=2, steps=1)
    second = Path(report).parent
    assert (first.name, second.name) == ("twice", "twice_2") and (second / "profile.json").exists()
    assert content == {path: path.read_bytes() for path in first.iterdir()}


@pytest.mark.slow
def test_a_calibration_ends_as_soon_as_it_is_sure_enough(calibrate):
    inputs = dict(attributes=(GENDER,), tolerance=0.0, images=8, batch_size=8, held_out=0, steps=1)

    def kinds(**more):
        made, *_ = calibrate(name="sure", **inputs, **more)
        return [r["kind"] for r in made.entries[0].rounds]

    assert kinds() == ["audit", "round", "round"]
    # Any audit is within 50%, so that only the judge is still to be proven.
    assert set(kinds(within=50.0)) == {"audit", "proof"}


# --- what it refuses ----------------------------------------------------------------------------

@pytest.mark.parametrize("inputs, fact", [
    (dict(name="a/b"), "1 to 120"), (dict(prompts=" \n"), "got none"),
    (dict(prompts="a\nA"), "twice"), (dict(within=50.0, tolerance=0.1), "got both"),
    (dict(method="default", direction="other"), "direction")])
def test_what_cannot_be_calibrated_is_refused(calibrate, inputs, fact):
    with pytest.raises(DebiasError, match=fact):
        calibrate(**inputs)


def broken(*_, **__):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("name, fault, error, fact", [
    ("core.calibration.record.write_atomic", full_disk, DebiasError, "No space left on device"),
    # A host that never calls the wrapper.
    ("nodes.workbench.GuidedSampling.patch", lambda self, model: model.clone(), DebiasError,
     "changed nothing"),
    # An error of the host is not blamed on the folder of profiles.
    ("nodes.workbench.comfy.sample.sample", broken, OSError, "Input/output error")])
def test_what_stops_a_calibration_is_said(calibrate, monkeypatch, name, fault, error, fact):
    monkeypatch.setattr(f"sd_debias.{name}", fault)
    with pytest.raises(error, match=fact) as caught:
        calibrate(name="stopped", steps=1)
    assert isinstance(caught.value, ValueError) == (error is DebiasError)


def test_a_guided_model_and_a_vae_that_overflows_are_refused(demo, call, calibrate):
    guided, = call("DebiasApply", profile=profile())
    with pytest.raises(DebiasError, match="Debias Apply"):
        calibrate(model=guided)
    vae = types.SimpleNamespace(decode=lambda samples: demo[2].decode(samples) * float("nan"))
    with pytest.raises(DebiasError, match="of 6 images, 6 are not finite"):
        calibrate(vae=vae, steps=1)


# --- ended in the middle ------------------------------------------------------------------------

class Studio:
    """Calibrations of 2 batches of the audit, 2 and 2 of rounds, 1 of the verification."""

    def __init__(self, demo, calibrate, monkeypatch):
        self.calibrate, self.before = calibrate, lambda: None
        self.batches, self.calibrations = [], []
        self.place = dict(text=(demo[1], "encode_from_tokens"),
                          sampling=(network(demo[0]), "forward"),
                          decode=(demo[2], "decode"), judge=(Brightness, "__call__"))
        generate = ours.workbench.Workbench.generate

        def counted(bench, *args, **kwargs):
            self.batches.append(list(args[4]))
            self.before()
            return generate(bench, *args, **kwargs)

        monkeypatch.setattr(ours.workbench.Workbench, "generate", counted)
        monkeypatch.setattr(ours.calibrate, "record", lambda profile, c, sheet: self.calibrations.append(c))

    def __call__(self, name, **more):
        """(labels of every round, evaluations)"""
        self.batches.clear(), self.calibrations.clear()
        made = self.calibrate(name=name, **more)[0]
        labels = [(r.kind, r.seeds, r.labels, r.steerings)
                  for c in self.calibrations for r in c.rounds]
        return labels, made.entries[0].cost["evaluations"]

    @contextmanager
    def failing(self, phase, batch, fail):
        """A phase fails in a batch; sampling does in its middle."""
        second = nth(2)

        def now():
            return len(self.batches) == batch + 1 and (phase != "sampling" or second())

        with failing(*self.place[phase], fail, now):
            yield


@pytest.fixture
def studio(demo, calibrate, monkeypatch):
    return Studio(demo, calibrate, monkeypatch)


_whole: list = []


@pytest.fixture
def whole(studio):
    """(labels, batches) of an undisturbed calibration, made once."""
    if not _whole:
        labels, evaluations = studio("undisturbed")
        assert evaluations
        _whole[:] = labels, list(studio.batches)
        assert len(_whole[1]) == 2 + 2 + 2 + 1 + 2  # the last: the audit's images with the weights
    return _whole


FIRST = {memory_ran_out: "Memory ran out", cancelled: "Interrupted",
         others_error: "KeyError: 'of another pack'"}


@pytest.mark.slow
@pytest.mark.parametrize("fail, phase, batch", [
    (memory_ran_out, "text", 0), (cancelled, "decode", 1), (others_error, "sampling", 3),
    (memory_ran_out, "judge", 6), (memory_ran_out, "sampling", 0), (cancelled, "text", 0), (cancelled, "judge", 6)])
def test_a_calibration_that_fails_anywhere_says_so_and_goes_on_label_by_label(
        demo, studio, whole, said, sample, fail, phase, batch):
    labels, batches = whole
    plain, kept = sample(demo[0]), sum(map(len, batches[:batch]))
    with pytest.raises(type(fail())) as caught, studio.failing(phase, batch, fail):
        studio("ended")
    assert not isinstance(caught.value, ValueError), "the host unloads models for its own errors"
    text, _ = said[-1]
    assert FIRST[fail] in text and f"kept, {kept} images: queue again" in text
    assert ("smaller batch size" in text) == (fail is memory_ran_out)
    assert studio.batches == batches[:batch + 1] and not studio.calibrations, "recorded"
    if fail is memory_ran_out:
        assert isinstance(caught.value, comfy.model_management.OOM_EXCEPTION)
        comfy.model_management.unload_all_models()  # what ComfyUI does then
    assert torch.equal(sample(demo[0]), plain)
    found, evaluations = studio("ended")
    assert found == labels and studio.batches == batches[batch:], "nothing twice, nothing left out"
    assert (evaluations is None) == (batch > 0), "evaluations before a restart are not known"
    assert not list(ours.workbench.states().glob("ended-*.json"))
    assert studio("ended")[0] == labels and not studio.batches, "a finished one is taken as it is"


def test_a_check_that_memory_ran_out_in_says_that_it_begins_anew(demo, studio, call, said, sample):
    plain = sample(demo[0])
    with pytest.raises(torch.cuda.OutOfMemoryError), studio.failing("judge", 1, memory_ran_out):
        call("DebiasCheckJudge", attributes=(GENDER,), judge=judge(), prompts=PROMPT,
             count=5, seed=0, batch_size=5, confidence=0.0, **PICTURES)
    text, warning = said[-1]
    assert warning and "Memory ran out" in text and "queue it again" in text and "kept" not in text
    assert torch.equal(sample(demo[0]), plain)


# --- what its first rounds were measured with ---------------------------------------------------

def graph(strength=0.5, judge="one", seed=0):
    """A prompt in which a calibration, node 9, hangs on a LoRA and a judge."""
    nodes = {"1": ("CheckpointLoaderSimple", dict(ckpt_name="sub/x.safetensors")),
             "2": ("LoraLoader", dict(model=["1", 0], clip=["1", 1], strength=strength)),
             "3": ("DebiasJudge", dict(judge=judge)),
             "9": ("DebiasCalibrate", dict(model=["2", 0], clip=["2", 1], vae=["1", 2],
                                           judge=["3", 0])),
             "10": ("KSampler", dict(model=["2", 0], seed=seed))}
    return {key: dict(class_type=kind, inputs=inputs, _meta=dict(title=f"{kind} {seed}"))
            for key, (kind, inputs) in nodes.items()}


@pytest.mark.parametrize("change, anew", [
    (dict(strength=0.9), True), (dict(judge="other"), True), (dict(seed=1), False)],
    ids=["lora", "classifier", "nothing that it measures with"])
def test_a_calibration_continues_only_with_what_its_first_rounds_were_measured_with(
        studio, calibrate, change, anew):
    def cancel():
        if len(studio.batches) > 1:
            raise cancelled()

    studio.before = cancel
    for queued in (graph(), graph(**change)):
        with pytest.raises(type(cancelled())):
            calibrate(queued, "9", steps=1)
    first, second = [3, 4, 5, 6], [7, 8]
    assert studio.batches == [first, second, first if anew else second]


FILES = "checkpoints/sub/x.safetensors", "classifiers/one/model.safetensors"


@pytest.mark.parametrize("replaced", FILES)
def test_rounds_are_not_continued_with_a_file_replaced_under_the_same_name(
        set_folder, tmp_path, replaced):
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"first")
        kind = file.split("/")[0]
        set_folder(kind, tmp_path / kind, {""})
    before = ours.workbench.behind(graph(), "9")
    assert ours.workbench.behind(graph(), "9") == before
    (tmp_path / replaced).write_bytes(b"another")
    assert ours.workbench.behind(graph(), "9") != before


@pytest.mark.parametrize("text", [
    "../secret.safetensors", "{}/secret.safetensors", ".", "a\nb", "\u4e00" * 120])
def test_a_name_that_leaves_the_model_folders_is_not_looked_up(set_folder, tmp_path, text):
    set_folder("checkpoints", tmp_path / "own", {""})
    (tmp_path / "own").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    prompt = {"1": dict(class_type="X", inputs=dict(name=text.format(tmp_path)))}
    assert ours.workbench.files_of(prompt, "1") == []
