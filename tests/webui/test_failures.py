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
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from webui_hosts import AGAIN, REAL, core, doubled, generate, on_hosts, ours, server
from webui_hosts import real as real_host
from webui_settings import (
    DIRECTIONS, audit, brightness, calibrate, debias, payload, same, save_profile)

FAILING = Path(__file__).resolve().parent / "failing" / "scripts" / "failing.py"
PAIRS = [("a1111", "forge"), ("forge", "a1111")]
HOOKS = ["process", "process_before_every_sampling", "postprocess_batch", "cfg_denoiser",
         "cfg_denoised"]
UNCLAIMED = {
    "text": {"Debias failed": "Memory ran out. Use smaller pictures, or a smaller batch size."},
    **dict.fromkeys(["skipped before", "interrupted before"], {
        "Debias": "not applied (the sampling ended before its first step)"})}


@contextmanager
def failing_double(folder, forge, monkeypatch):
    """A double with the failing extension behind ours, a second checkpoint, and a judge of brightness."""
    with doubled(folder, FAILING, forge=forge) as made:
        made.name, other = None, copy.copy(made.shared.sd_model)
        read = other.get_learned_conditioning
        other.get_learned_conditioning = lambda texts: 1.5 * read(texts)
        other.sd_model_hash = "fedcba9876"
        other.sd_checkpoint_info = types.SimpleNamespace(name_for_extra="other")
        made.models = {"double": made.shared.sd_model, "other": other}
        for known in made.models:
            made.checkpoints[known] = folder / f"{known}.safetensors"
            made.checkpoints[known].write_text(known)
        made.shared.opts.sd_model_checkpoint = "double"
        judge = made.shared.failing_judge = types.SimpleNamespace(get_image_features=brightness)
        monkeypatch.setattr(ours("classifiers"), "load", lambda *_: (
            [lambda images: judge.get_image_features(images)], None))
        yield made


@pytest.fixture(params=["a1111", "forge", *map(real_host, REAL)])
def host(request, tmp_path, monkeypatch):
    if request.param not in REAL:
        with failing_double(tmp_path, request.param == "forge", monkeypatch) as made:
            yield made
        return
    made = server(request.param)
    if "failing" not in made.call("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("this server was started without the extension 'failing'")
    made.name = request.param
    yield made


def plan(host, what=None, batch=0, **more):
    """What fails in a batch from now on; without `what`, nothing more."""
    file = host.profiles.parent / "sd-debias-failing.json"
    file.unlink(missing_ok=True)
    if what:
        file.write_text(json.dumps(dict(what=what, batch=batch, nonce=uuid.uuid4().hex, **more)))


@pytest.fixture
def fails(host):
    plan(host)
    yield lambda *what, **more: plan(host, *what, **more)
    plan(host)


@pytest.fixture
def clean(host, direction):
    """clean() after a failure: pictures and infotexts, plain and guided, are what they were."""
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


@pytest.fixture
def other(host):
    """(the checkpoint that is chosen, the name of another one); the first is chosen again at the end."""
    if host.name is None:
        yield "double", "other"
        return
    import torch
    from diffusers import UNet2DConditionModel

    from sd_debias.demo_model.model import FOLDER
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.05)
    host.post("txt2img", payload(steps=1))  # its name gets a hash as it is loaded
    chosen = host.call("/sdapi/v1/options")["sd_model_checkpoint"]
    host.checkpoint("sd-debias-test-other", unet)
    yield chosen, "sd-debias-test-other"
    choose(host, chosen)


def choose(host, name):
    if host.name is None:
        host.shared.opts.sd_model_checkpoint = name
    else:
        host.call("/sdapi/v1/options", dict(sd_model_checkpoint=name))


def called(checkpoint):
    return checkpoint.split(" ")[0].removesuffix(".safetensors")


@on_hosts("direction", DIRECTIONS, PAIRS)
def test_jobs_of_two_checkpoints_with_one_profile_do_not_mix(host, other, direction):
    save_profile(host.profiles, direction=direction, setting=dict(model="another"))
    made = {}
    for name in other * 2:
        chosen = dict(override_settings=dict(sd_model_checkpoint=name))
        found = generate(host, **chosen), generate(host, **chosen, **debias())
        setting = found[1][1][0]["Debias setting"]
        assert f"model: calibrated at another, used at {called(name)}" in setting
        for now, before in zip(found, made.setdefault(name, found), strict=True):
            assert same(now[0], before[0]) and now[1] == before[1]
    (plain, guided), (others_plain, others_guided) = made.values()
    assert not same(plain[0], others_plain[0]) and not same(guided[0], others_guided[0])


_whole: dict = {}


def calibrated(host, name):
    """The labels of audit and verification with their pictures, and the profile's entry, as they were written."""
    calibrate(host, classifier="demo", name=name)
    page = (host.profiles / "reports" / name / "labels.html").read_text("utf-8")
    entry, = json.loads((host.profiles / f"{name}.json").read_text("utf-8"))["entries"]
    rounds = [{**each, "seconds": None} for each in entry["rounds"]]
    sections = json.loads(page.split('"data">')[1].split("</script>")[0])["sections"]
    items = [(own["title"], own["items"]) for own in sections]
    return items, {**entry, "cost": None, "rounds": rounds}


def removed(host, name):
    """A real host's folder is kept from one test run to the next."""
    shutil.rmtree(host.profiles / "reports" / name, ignore_errors=True)
    unfinished = (host.profiles / "unfinished").glob(f"{name}-*.json")
    for file in [*host.profiles.glob(f"{name}*.json"), *unfinished]:
        file.unlink()
    return name


@pytest.fixture
def whole(request, host):
    """What an undisturbed calibration measures; 4 batches of the audit, at most 8 of rounds, 4 of the verification."""
    key = request.node.callspec.params["host"]
    if key not in _whole:
        _whole[key] = calibrated(host, removed(host, "undisturbed"))
    return _whole[key]


@on_hosts("what, batch", [("text", 4), ("sampling", 2), ("sampling", 5), ("decode", 1),
                          ("judge", 9), ("judge", 3)], PAIRS, each=1)
def test_a_calibration_that_memory_runs_out_in_says_what_is_kept_and_goes_on_label_by_label(
        host, fails, whole, what, batch):
    name = removed(host, f"failed {what} {batch}")
    plain = generate(host)
    fails(what, batch)
    with pytest.raises(ValueError) as caught:
        calibrated(host, name)
    said = str(caught.value)
    assert "Memory ran out" in said and f" {5 * batch} images" in said
    assert (f"{name} (unfinished).json" in said) == (batch >= 4)
    assert not (host.profiles / f"{name}.json").exists()
    assert same(generate(host)[0], plain[0])
    assert calibrated(host, name) == whole


def test_a_checkpoint_that_is_changed_in_a_calibration_is_said_and_not_mixed(
        host, fails, whole, other):
    chosen, another = other
    name = removed(host, "changed")
    plain = generate(host)
    fails("checkpoint", 2, name=another)
    with pytest.raises(ValueError, match=rf"checkpoint.*'{called(chosen)}'.*'{another}'"):
        calibrated(host, name)
    assert labels_kept(host, name) == [10]
    fails()
    choose(host, chosen)
    assert same(generate(host)[0], plain[0])
    assert calibrated(host, name) == whole


def labels_kept(host, name):
    """How many labels of the audit there are, of each attribute."""
    state, = (host.profiles / "unfinished").glob(f"{name}-*.json")
    return [len(labels) for labels in json.loads(state.read_text())["rounds"][0]["labels"]]


def test_a_skipped_batch_of_the_verification_is_left_out_and_the_others_are_as_they_were(
        host, fails, whole):
    name = removed(host, "skipped")
    fails("skipped midway", 4 * (len(whole[1]["rounds"]) - 1))
    (_, (_, items)), entry = calibrated(host, name)
    assert (entry["after"][0]["n"], entry["after"][0]["unsure"]) == (15, 5)
    assert items[5:] == whole[0][1][1][5:] and items[:5] != whole[0][1][1][:5]


@pytest.mark.parametrize("after", [0, 1])  # 0: as the judge is shown grey and noise
def test_an_audit_that_memory_runs_out_in_says_so(host, fails, after):
    fails("judge", after)
    with pytest.raises(ValueError, match="Memory ran out"):
        audit(host, classifier="demo")


# --- what only a double can show ----------------------------------------------------------------

@pytest.fixture
def double(tmp_path, monkeypatch):
    with failing_double(tmp_path, False, monkeypatch) as made:
        yield made


def test_memory_that_runs_out_is_said_beside_a_warning_of_the_judge(a_double):
    ended = core("study.outcome").Outcome(
        stopped=MemoryError(), why="Memory ran out", notes=["Warning: the judge is sure of noise"])
    with pytest.raises(core("errors").DebiasError, match="Memory ran out.+sure of noise"):
        ours("calibrating").raised(ended)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_picture_that_memory_ran_out_for_is_not_held(double, direction):
    save_profile(double.profiles, direction=direction)
    plan(double, "sampling")
    said = ""
    try:
        generate(double, **debias())
    except Exception as error:  # pytest.raises would hold its frames
        said = str(error)
    held = weakref.ref(double.denoisers.pop().p)
    gc.collect()
    assert "CUDA out of memory" in said and held() is None


@pytest.mark.parametrize("change, facts, kept", [
    (lambda host: setattr(host.shared.opts, "CLIP_stop_at_last_layers", 2), "'1'.*'2'", 10),
    (lambda host: setattr(host.shared.opts, "sd_vae", "b.pt"), r"'Automatic'.*'b\.pt'", 10),
    (lambda host: host.models.update(double=host.models["other"]), "double.*other", 15)])
def test_a_setting_or_a_model_that_is_changed_in_a_calibration_is_said(
        double, monkeypatch, change, facts, kept):
    options = double.shared.opts
    options.data_labels = {"CLIP_stop_at_last_layers": types.SimpleNamespace(infotext="Clip skip")}
    options.CLIP_stop_at_last_layers, options.sd_vae = 1, "Automatic"
    monkeypatch.setitem(sys.modules, "modules.sd_vae", types.SimpleNamespace(vae_dict={}))
    double.callbacks["cfg_denoiser"].append(
        lambda params: change(double) if len(double.denoisers) == 3 else None)
    with pytest.raises(core("errors").DebiasError, match=facts):
        calibrate(double, classifier="demo")
    assert labels_kept(double, "doctor") == [kept]
