"""What fails in the middle, on doubles of the hosts and on the real ones: memory that runs out, other extensions'
hooks, skipping, a checkpoint that is changed meanwhile. Nothing is claimed, nothing measured is lost, the next run is
clean."""
from __future__ import annotations

import copy
import gc
import json
import shutil
import sys
import types
import uuid
import weakref
from itertools import product
from pathlib import Path

import pytest
from webui_hosts import AGAIN, REAL, core, doubled, generate, on_hosts, ours, server, steered
from webui_hosts import real as real_host
from webui_settings import (
    DIRECTIONS, audit, brightness, calibrate, debias, same, save_profile)

FAILING = Path(__file__).resolve().parent / "failing" / "scripts" / "failing.py"
PAIRS = [("a1111", "forge"), ("forge", "a1111")]
in_process = pytest.mark.parametrize("host", ["a1111"], indirect=True)
HOOKS = ["process", "process_before_every_sampling", "postprocess_batch", "cfg_denoiser",
         "cfg_denoised"]
UNCLAIMED = {
    "text": {"Debias failed": "Memory ran out. Use smaller images, or a smaller batch size."},
    **dict.fromkeys(["skipped before", "interrupted before"], {
        "Debias": "not applied (the sampling ended before its first step)"})}


@pytest.fixture(params=["a1111", "forge", *map(real_host, REAL)])
def host(request, tmp_path, monkeypatch):
    """A host with the failing extension behind ours. A double has a second checkpoint, and a judge of brightness."""
    if request.param in REAL:
        made = server(request.param)
        if "failing" not in made.call("/sdapi/v1/scripts")["txt2img"]:
            pytest.skip("this server was started without the extension 'failing'")
        made.name = request.param
        yield made
        return
    with doubled(tmp_path, FAILING, forge=request.param == "forge") as made:
        made.name, other = None, copy.copy(made.shared.sd_model)
        read = other.get_learned_conditioning
        other.get_learned_conditioning = lambda texts: 1.5 * read(texts)
        other.sd_model_hash = "fedcba9876"
        other.sd_checkpoint_info = types.SimpleNamespace(name_for_extra="other")
        made.models = {"double": made.shared.sd_model, "other": other}
        for known in made.models:
            made.checkpoints[known] = tmp_path / f"{known}.safetensors"
            made.checkpoints[known].write_text(known)
        made.shared.opts.sd_model_checkpoint = "double"
        judge = made.shared.failing_judge = types.SimpleNamespace(get_image_features=brightness)
        monkeypatch.setattr(ours("classifiers"), "load", lambda *_: (
            [lambda images: judge.get_image_features(images)], None))
        yield made


@pytest.fixture
def fails(host):
    """fails(what, batch): what fails in a batch from now on; fails(): nothing more."""
    file = host.profiles.parent / "sd-debias-failing.json"

    def plan(what=None, batch=0):
        file.unlink(missing_ok=True)
        if what:
            file.write_text(json.dumps(dict(what=what, batch=batch, nonce=uuid.uuid4().hex)))
    plan()
    yield plan
    plan()


@pytest.fixture
def clean(host, direction):
    """clean() after a failure: images and infotexts, plain and guided, are what they were."""
    save_profile(host.profiles, direction=direction)
    before = generate(host), generate(host, **debias())
    assert not same(before[0][0], before[1][0])

    def clean():
        for (pictures, said), more in zip(before, ({}, debias())):
            again, also = generate(host, **more)
            assert same(again, pictures) and also == said
    clean.plain = before[0][0]
    return clean


@on_hosts("direction, what", [*product(DIRECTIONS, ["sampling"]), ("prompt", "decode")], PAIRS)
def test_a_generation_that_memory_runs_out_in_is_an_error_and_the_next_is_clean(
        host, fails, clean, what):
    fails(what)
    with pytest.raises(Exception, match="CUDA out of memory"):
        generate(host, **debias())
    clean()


@on_hosts("what, direction", product(UNCLAIMED, DIRECTIONS), PAIRS)
def test_a_picture_without_memory_for_texts_or_ended_before_its_first_step_claims_nothing(
        host, fails, clean, what):
    fails(what)
    pictures, (said,) = generate(host, **debias())
    assert UNCLAIMED[what].items() <= said.items() and "Debias weights" not in said
    if what == "text":
        assert same(pictures, clean.plain) and said == UNCLAIMED[what]
    clean()


@on_hosts("what, direction", product(HOOKS, ["embedding", "prompt"]), PAIRS, each=1)
def test_another_extensions_hook_that_raises_changes_nothing_of_ours(host, fails, clean, what):
    fails(what)
    clean()
    if host.name is None:  # a real host has one order
        host.load(FAILING, AGAIN)
        fails(what)
        clean()


@on_hosts("what, direction", product(["skipped", "interrupted"], DIRECTIONS), PAIRS, each=1)
def test_a_picture_of_several_that_is_ended_midway_leaves_the_others_and_the_next_run_as_they_are(
        host, fails, clean, what):
    whole, said = generate(host, n_iter=3, **debias())
    fails(f"{what} midway")
    pictures, also = generate(host, n_iter=3, **debias())
    assert not same(pictures[:1], whole[:1])
    if what == "skipped":
        assert same(pictures[1:], whole[1:]) and also[1:] == said[1:]
    clean()


@in_process
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_jobs_of_two_checkpoints_with_one_profile_do_not_mix(host, direction):
    made = {}
    for name in ("double", "other") * 2:
        page = dict(override_settings=dict(sd_model_checkpoint=name))
        plain, guided, (said,) = steered(host, page, direction=direction, setting=dict(model="another"))
        assert f"model: calibrated at another, used at {name}" in said["Debias setting"]
        before = made.setdefault(name, (plain, guided, said))
        assert same(plain, before[0]) and same(guided, before[1]) and said == before[2]
    (plain, guided, _), (others_plain, others_guided, _) = made.values()
    assert not same(plain, others_plain) and not same(guided, others_guided)


NAME, _whole = "failures", {}


def calibrated(host):
    """The labels of audit and verification with their images, and the profile's entry, as they were written."""
    calibrate(host, judge="demo", name=NAME)
    page = (host.profiles / "reports" / NAME / "labels.html").read_text("utf-8")
    entry, = json.loads((host.profiles / f"{NAME}.json").read_text("utf-8"))["entries"]
    rounds = [{**each, "seconds": None} for each in entry["rounds"]]
    sections = json.loads(page.split('"data">')[1].split("</script>")[0])["sections"]
    items = [(own["title"], own["items"]) for own in sections]
    return items, {**entry, "cost": None, "rounds": rounds}


def labels_kept(host):
    """How many labels of the audit there are, of each attribute."""
    state, = (host.profiles / "unfinished").glob(f"{NAME}-*.json")
    return [len(labels) for labels in json.loads(state.read_text())["rounds"][0]["labels"]]


@pytest.fixture
def whole(request, host):
    """What an undisturbed calibration measures; 4 batches of the audit, at most 8 of rounds, 4 of the verification."""
    def removed():  # a real host's folder is kept from one test run to the next
        shutil.rmtree(host.profiles / "reports" / NAME, ignore_errors=True)
        for file in host.profiles.rglob(f"{NAME}*.json"):
            file.unlink()

    removed()
    key = request.node.callspec.params["host"]
    if key not in _whole:
        _whole[key] = calibrated(host)
        removed()
    return _whole[key]


@pytest.mark.slow
@on_hosts("what, batch", [("text", 4), ("sampling", 2), ("sampling", 5), ("decode", 1),
                          ("judge", 9), ("judge", 3)], PAIRS, each=1)
def test_a_calibration_that_memory_runs_out_in_says_what_is_kept_and_goes_on_label_by_label(
        host, fails, whole, what, batch):
    plain, _ = generate(host)
    fails(what, batch)
    with pytest.raises(ValueError) as caught:
        calibrated(host)
    said = str(caught.value)
    assert "Memory ran out" in said and f" {5 * batch} images" in said
    assert (f"{NAME} (unfinished).json" in said) == (batch >= 4)
    assert not (host.profiles / f"{NAME}.json").exists()
    assert same(generate(host)[0], plain)
    assert calibrated(host) == whole


def test_a_skipped_batch_of_the_verification_is_left_out_and_the_others_are_as_they_were(
        host, fails, whole):
    fails("skipped midway", 4 * (len(whole[1]["rounds"]) - 1))
    (_, (_, items)), entry = calibrated(host)
    assert (entry["after"][0]["n"], entry["after"][0]["unsure"]) == (15, 5)
    assert items[5:] == whole[0][1][1][5:] and items[:5] != whole[0][1][1][:5]


@pytest.mark.parametrize("after", [0, 1])  # 0: as the judge is shown grey and noise
def test_an_audit_that_memory_runs_out_in_says_so(host, fails, after):
    fails("judge", after)
    with pytest.raises(ValueError, match="Memory ran out"):
        audit(host, judge="demo")


def test_memory_that_runs_out_is_said_beside_a_warning_of_the_judge(a_double):
    ended = core("study.outcome").Outcome(
        stopped=MemoryError(), why="Memory ran out", notes=["Warning: the judge is sure of noise"])
    with pytest.raises(core("errors").DebiasError, match="Memory ran out.+sure of noise"):
        ours("calibrating").raised(ended)


@in_process
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_picture_that_memory_ran_out_for_is_not_held(host, fails, direction):
    save_profile(host.profiles, direction=direction)
    fails("sampling")
    said = ""
    try:
        generate(host, **debias())
    except Exception as error:  # pytest.raises would hold its frames
        said = str(error)
    held = weakref.ref(host.denoisers.pop().p)
    gc.collect()
    assert "CUDA out of memory" in said and held() is None


@in_process
@pytest.mark.parametrize("change, facts, kept", [
    (lambda host: setattr(host.shared.opts, "CLIP_stop_at_last_layers", 2), "'1'.*'2'", 10),
    (lambda host: setattr(host.shared.opts, "sd_vae", "b.pt"), r"'Automatic'.*'b\.pt'", 10),
    (lambda host: setattr(host.shared.opts, "sd_model_checkpoint", "other"),
     "'double'.*'other'", 10),
    (lambda host: host.models.update(double=host.models["other"]), "double.*other", 15)])
def test_a_setting_or_a_model_that_is_changed_in_a_calibration_is_said(
        host, monkeypatch, change, facts, kept):
    options = host.shared.opts
    options.data_labels = {"CLIP_stop_at_last_layers": types.SimpleNamespace(infotext="Clip skip")}
    options.CLIP_stop_at_last_layers, options.sd_vae = 1, "Automatic"
    monkeypatch.setitem(sys.modules, "modules.sd_vae", types.SimpleNamespace(vae_dict={}))
    host.callbacks["cfg_denoiser"].append(
        lambda params: change(host) if len(host.denoisers) == 3 else None)
    with pytest.raises(core("errors").DebiasError, match=facts):
        calibrated(host)
    assert labels_kept(host) == [kept]
