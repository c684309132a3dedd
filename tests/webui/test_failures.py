"""What fails in the middle, on doubles of the hosts and on the real ones: memory that runs out, other extensions'
hooks, skipping, a checkpoint that is changed meanwhile. Nothing is claimed, nothing measured is lost, the next run is
clean."""
from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import types
import uuid
import weakref
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import webui_real as real
from webui_double import Model
from webui_hosts import AGAIN, REAL, ROOT, core, doubled, generate, on_hosts, ours
from webui_hosts import real as real_host
from webui_settings import (
    DIRECTIONS, audit, brightness, calibrate, debias, payload, same, save_profile)

FAILING = Path(__file__).resolve().parent / "failing" / "scripts" / "failing.py"
PAIRS = [("a1111", "forge"), ("forge", "a1111")]
HOOKS = ["process", "process_before_every_sampling", "postprocess_batch", "cfg_denoiser",
         "cfg_denoised"]
SMALLER = "Memory ran out. Use smaller pictures, or a smaller batch size."


class Other(Model):
    """Another checkpoint: it reads texts differently."""
    sd_model_hash = "fedcba9876"

    def get_learned_conditioning(self, texts):
        return 1.5 * super().get_learned_conditioning(texts)


@contextmanager
def failing_double(folder, forge, monkeypatch):
    """A double with the failing extension behind ours, a second checkpoint, and a judge of brightness."""
    with doubled(folder, FAILING, forge=forge) as made:
        made.name, other = None, Other()
        other.sd_checkpoint_info = types.SimpleNamespace(name_for_extra="other")
        if forge:
            other.forge_objects = made.shared.sd_model.forge_objects
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
    name = REAL[request.param]
    if not os.environ.get(f"{name}_PATH"):
        pytest.skip(f"{name}_PATH names no installation")
    server = real.running(name, ROOT)
    if "failing" not in server.call("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("this server was started without the extension 'failing'")
    server.name = name
    yield server


@pytest.fixture
def fails(host):
    """fails(what, batch): what fails in a batch from now on; fails(): nothing more."""
    file = host.profiles.parent / "sd-debias-failing.json"

    def plan(what=None, batch=0, **more):
        file.unlink(missing_ok=True)
        if what:
            file.write_text(json.dumps(dict(what=what, batch=batch, nonce=uuid.uuid4().hex, **more)))
    plan()
    yield plan
    plan()


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


# --- a generation ----------------------------------------------------------------------------------------------------

@on_hosts("direction, what", [*product(DIRECTIONS, ["sampling"]), ("prompt", "decode")], PAIRS)
def test_a_generation_that_memory_runs_out_in_is_an_error_and_the_next_is_clean(
        host, fails, clean, what):
    fails(what)
    with pytest.raises(Exception, match="CUDA out of memory"):
        generate(host, **debias())
    clean()


@on_hosts("direction", DIRECTIONS, PAIRS)
def test_without_memory_for_the_groups_texts_the_picture_is_the_plain_one_and_says_so(
        host, fails, clean):
    fails("text")
    pictures, said = generate(host, **debias())
    assert same(pictures, clean.plain) and said == [{"Debias failed": SMALLER}]
    clean()


@on_hosts("what, direction", product(HOOKS, ["embedding", "prompt"]), PAIRS, each=1)
def test_another_extensions_hook_that_raises_changes_nothing_of_ours(host, fails, clean, what):
    fails(what)
    clean()
    if host.name is None:  # a real host has one order
        host.load(FAILING, AGAIN)
        fails(what)
        clean()


@on_hosts("what, direction", product(["skip", "interrupt"], DIRECTIONS), PAIRS, each=1)
def test_a_picture_that_is_ended_before_its_first_step_claims_nothing(host, fails, clean, what):
    fails(what)
    _, (said,) = generate(host, **debias())
    assert said["Debias"] == "not applied (the sampling ended before its first step)"
    assert "Debias weights" not in said
    clean()


def test_a_skipped_picture_of_several_leaves_the_others_as_they_are(host, fails):
    save_profile(host.profiles)
    whole, said = generate(host, n_iter=3, **debias())
    fails("skip in cfg_denoiser")
    pictures, also = generate(host, n_iter=3, **debias())
    assert same(pictures[1:], whole[1:]) and also[1:] == said[1:] and not same(pictures[:1], whole[:1])


# --- another checkpoint ----------------------------------------------------------------------------------------------

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
    name, chosen = "sd-debias-test-other", host.call("/sdapi/v1/options")["sd_model_checkpoint"]
    host.checkpoint(name, unet)
    yield chosen, name
    choose(host, chosen)


def choose(host, name):
    if host.name is None:
        host.shared.opts.sd_model_checkpoint = name
    else:
        host.call("/sdapi/v1/options", dict(sd_model_checkpoint=name))


@on_hosts("direction", DIRECTIONS, PAIRS)
def test_jobs_of_two_checkpoints_with_one_profile_do_not_mix(host, other, direction):
    save_profile(host.profiles, direction=direction, setting=dict(model="another"))
    made = {}
    for _ in range(2):
        for name in other:
            settings = dict(override_settings=dict(sd_model_checkpoint=name))
            found = generate(host, **settings), generate(host, **settings, **debias())
            model = name.split(" ")[0].removesuffix(".safetensors")
            assert f"model: calibrated at another, used at {model}" in found[1][1][0]["Debias setting"]
            for now, before in zip(found, made.setdefault(name, found), strict=True):
                assert same(now[0], before[0]) and now[1] == before[1]
    (plain, guided), (others_plain, others_guided) = made.values()
    assert not same(plain[0], others_plain[0]) and not same(guided[0], others_guided[0])


# --- calibrations ----------------------------------------------------------------------------------------------------

_whole: dict = {}


def measured(host, name):
    """The labels of audit and verification with their pictures, and the profile's entry, as they were written."""
    page = (host.profiles / "reports" / name / "labels.html").read_text("utf-8")
    entry, = json.loads((host.profiles / f"{name}.json").read_text("utf-8"))["entries"]
    rounds = [{**each, "seconds": None} for each in entry["rounds"]]
    sections = json.loads(page.split('"data">')[1].split("</script>")[0])["sections"]
    return [(own["title"], own["items"]) for own in sections], {**entry, "cost": None, "rounds": rounds}


def removed(host, name):
    """A real host's folder is kept from one test run to the next."""
    shutil.rmtree(host.profiles / "reports" / name, ignore_errors=True)
    for file in [*host.profiles.glob(f"{name}*.json"), *(host.profiles / "unfinished").glob(f"{name}-*.json")]:
        file.unlink()


@pytest.fixture
def whole(request, host):
    """What an undisturbed calibration measures; 4 batches of the audit, at most 8 of rounds, 4 of the verification."""
    key = request.node.callspec.params["host"]
    if key not in _whole:
        removed(host, "undisturbed")
        calibrate(host, classifier="demo", name="undisturbed", overwrite=True)
        _whole[key] = measured(host, "undisturbed")
    return _whole[key]


@on_hosts("what, batch", [("text", 4), ("sampling", 2), ("sampling", 5), ("decode", 1),
                          ("judge", 9), ("judge", 3)], PAIRS, each=1)
def test_a_calibration_that_memory_runs_out_in_says_what_is_kept_and_goes_on_label_by_label(
        host, fails, whole, what, batch):
    name = f"failed {what} {batch}"
    removed(host, name)
    plain = generate(host)
    fails(what, batch)
    with pytest.raises(ValueError) as caught:
        calibrate(host, classifier="demo", name=name)
    said = str(caught.value)
    assert "Memory ran out" in said and f" {5 * batch} images" in said
    assert (f"{name} (unfinished).json" in said) == (batch >= 4)
    assert not (host.profiles / f"{name}.json").exists()
    assert same(generate(host)[0], plain[0])
    calibrate(host, classifier="demo", name=name)
    assert measured(host, name) == whole


def test_a_checkpoint_that_is_changed_in_a_calibration_is_said_and_not_mixed(host, fails, whole, other):
    chosen, another = other
    removed(host, "changed")
    plain = generate(host)
    fails("checkpoint", 2, name=another)
    named = chosen.split(" ")[0].removesuffix(".safetensors")
    with pytest.raises(ValueError, match=rf"checkpoint.*'{named}'.*'{another}'"):
        calibrate(host, classifier="demo", name="changed")
    assert labels_kept(host, "changed") == [10]
    fails()
    choose(host, chosen)
    assert same(generate(host)[0], plain[0])
    calibrate(host, classifier="demo", name="changed")
    assert measured(host, "changed") == whole


def labels_kept(host, name):
    """How many labels of the audit there are, of each attribute."""
    state, = (host.profiles / "unfinished").glob(f"{name}-*.json")
    return [len(labels) for labels in json.loads(state.read_text())["rounds"][0]["labels"]]


def test_a_skipped_batch_of_the_verification_is_left_out_and_the_others_are_as_they_were(host, fails, whole):
    removed(host, "skipped")
    fails("skip in cfg_denoiser", 4 * (len(whole[1]["rounds"]) - 1))
    calibrate(host, classifier="demo", name="skipped")
    (_, (_, items)), entry = measured(host, "skipped")
    assert (entry["after"][0]["n"], entry["after"][0]["unsure"]) == (15, 5)
    assert items[5:] == whole[0][1][1][5:] and items[:5] != whole[0][1][1][:5]


@pytest.mark.parametrize("after", [0, 1])  # 0: as the judge is shown grey and noise
def test_an_audit_that_memory_runs_out_in_says_so(host, fails, after):
    fails("judge", after)
    with pytest.raises(ValueError, match="Memory ran out"):
        audit(host, classifier="demo")


# --- what only a double can show -------------------------------------------------------------------------------------

@pytest.fixture
def double(tmp_path, monkeypatch):
    with failing_double(tmp_path, False, monkeypatch) as made:
        yield made


def test_memory_that_runs_out_is_said_beside_a_warning_of_the_judge(double):
    ended = core("study.outcome").Outcome(
        stopped=MemoryError(), why="Memory ran out", notes=["Warning: the judge is sure of noise"])
    with pytest.raises(core("errors").DebiasError, match="Memory ran out.+sure of noise"):
        ours("calibrating").raised(ended)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_picture_that_memory_ran_out_for_is_not_held(double, monkeypatch, direction):
    save_profile(double.profiles, direction=direction)
    script, held = type(double.runner.named("Debias")), []
    process = script.process

    def seen(self, p, *args):
        held.append(weakref.ref(p))
        process(self, p, *args)

    monkeypatch.setattr(script, "process", seen)
    (double.profiles.parent / "sd-debias-failing.json").write_text(json.dumps(dict(what="sampling", batch=0)))
    try:
        generate(double, **debias())
    except Exception as error:
        assert "CUDA out of memory" in str(error)
    double.denoisers.clear()
    gc.collect()
    assert len(held) == 1 and held[0]() is None


def in_batch(double, number, do):
    """Calls do() at each step of a batch; a function that ends that."""
    def act(params):
        if len(double.denoisers) == number:
            do()

    double.callbacks["cfg_denoiser"].append(act)
    return lambda: double.callbacks["cfg_denoiser"].remove(act)


@pytest.mark.parametrize("name, value", [("CLIP_stop_at_last_layers", 2), ("sd_vae", "another.pt")])
def test_a_setting_that_is_changed_in_a_calibration_is_said(double, monkeypatch, name, value):
    options = double.shared.opts
    options.data_labels = {"CLIP_stop_at_last_layers": types.SimpleNamespace(infotext="Clip skip")}
    options.CLIP_stop_at_last_layers, options.sd_vae = 1, "Automatic"
    monkeypatch.setitem(sys.modules, "modules.sd_vae", types.SimpleNamespace(vae_dict={}))
    before = getattr(options, name)
    release = in_batch(double, 3, lambda: setattr(options, name, value))
    with pytest.raises(core("errors").DebiasError, match=f"'{before}'.*'{value}'"):
        calibrate(double, classifier="demo")
    assert len(double.denoisers) == 3
    release()
    setattr(options, name, before)
    calibrate(double, classifier="demo")
    rounds = json.loads((double.profiles / "doctor.json").read_text())["entries"][0]["rounds"]
    pair = 1  # pictures of the audit's seeds with the weights
    assert len(double.denoisers) == 3 - 2 + 4 * len(rounds) + pair, "the batch that was not counted is made again"


def test_a_model_that_takes_the_chosen_ones_place_in_a_calibration_is_said(double):
    in_batch(double, 3, lambda: double.models.update(double=double.models["other"]))
    with pytest.raises(core("errors").DebiasError, match="double.*other"):
        calibrate(double, classifier="demo")
    assert labels_kept(double, "doctor") == [15]
