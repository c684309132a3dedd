"""Calibrations that are interrupted, and what they are continued with: the same page alone."""
from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webui_double import Processing
from webui_hosts import core, generate, ours
from webui_settings import PROMPT, calibrate, payload, same


@pytest.fixture
def interrupt(bench):
    """interrupt(n): presses Interrupt in the batch after n more; interrupt(None): no more."""
    def press(params):
        bench.shared.state.interrupted |= after is not None and len(bench.denoisers) > after

    def plan(batches):
        nonlocal after
        after = None if batches is None else len(bench.denoisers) + batches

    after = None
    bench.callbacks["cfg_denoiser"].append(press)
    return plan


def states(host):
    return list((host.profiles / "unfinished").glob("*.json"))


def best_round(host):
    return json.loads((host.profiles / "doctor (unfinished).json").read_text())


def test_interrupt_keeps_the_best_round_and_the_same_settings_continue(bench, interrupt):
    """The batches: 4 of the audit, 4 of a round, 4 of the verification, and no others."""
    plain, _ = generate(bench)
    interrupt(6)  # in the round
    result = calibrate(bench)
    assert "not verified" in result.info and "same settings" in result.info
    assert best_round(bench)["entries"][0]["after"] is None
    assert not (bench.profiles / "doctor.json").exists()
    interrupt(None)
    before = len(bench.denoisers)
    assert "on fresh seeds (N = 20)" in calibrate(bench).info
    assert len(bench.denoisers) - before == 12 - 6 + 1  # the audit's pictures with the weights
    assert [path.name for path in bench.profiles.glob("*.json")] == ["doctor.json"]
    assert same(plain, generate(bench)[0])
    kept = [bench.profiles / "doctor.json", bench.profiles / "reports" / "doctor" / "report.html"]
    before = [path.read_bytes() for path in kept]
    interrupt(6)
    assert "doctor (unfinished).json" in calibrate(bench, overwrite=True).info
    assert [path.read_bytes() for path in kept] == before, "the verified profile and its report"


def test_with_a_random_seed_on_the_page_the_same_request_continues(bench, interrupt):
    """Seed -1, Interrupt, Generate started from picture 0: nobody knew the seed."""
    interrupt(2)
    calibrate(bench, page=dict(seed=-1))
    interrupt(None)
    assert len(states(bench)) == 1
    assert "on fresh seeds" in calibrate(bench, page=dict(seed=-1)).info and not states(bench)


@pytest.mark.parametrize("page, differs", [
    (dict(steps=7), "(steps: 6 then, 7 now"), (dict(prompt="a photo of a nurse"), "(prompt: ")])
def test_work_that_cannot_be_continued_says_which_setting_differs(bench, interrupt, monkeypatch, page, differs):
    interrupt(2)
    calibrate(bench)
    interrupt(None)
    said = []
    monkeypatch.setattr(ours("measure_script"), "say", said.append)
    calibrate(bench, page=page)
    assert any(f"begins anew {differs}" in text for text in said), said[:2]


def test_interrupt_in_the_verification_keeps_the_setting_that_was_generated_with(bench, interrupt):
    interrupt(10)
    assert "same settings" in calibrate(bench).info
    kept = best_round(bench)
    assert kept["entries"][0]["after"] is None and kept["setting"]["model"] == "double"


def test_interrupt_in_the_audit_saves_no_profile(bench, interrupt):
    interrupt(2)
    assert "no profile" in calibrate(bench).info and not list(bench.profiles.glob("*.json"))


def test_killed_after_its_profile_was_saved_the_same_calibration_ends_well(bench, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core("study.unfinished").Unfinished, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(bench)
    profile = (bench.profiles / "doctor.json").read_bytes()
    assert len(states(bench)) == 1
    assert "complete already" in calibrate(bench).info
    assert not states(bench) and (bench.profiles / "doctor.json").read_bytes() == profile
    assert "complete already" in calibrate(bench).info, "nor is it measured a third time"


GRAY, MASK = Image.new("RGB", (64, 64), "gray"), Image.new("L", (64, 64), 255)


@pytest.mark.parametrize("page, changes", [
    ({}, dict(classifier="another")), (dict(enable_hr=True), dict(hires=True)),
    (dict(prompt=f"{PROMPT} <lora:x:0.8>"), {}), ({}, dict(prompts=f"{PROMPT} <lora:x:0.8>")),
    (dict(init_images=[Image.new("RGB", (64, 64), "black")]), {}), (dict(denoising_strength=0.5), {}),
    (dict(mask=None), {}), (dict(override_settings=dict(sd_model_checkpoint="another")), {})])
def test_rounds_of_another_setting_are_not_continued(bench, interrupt, page, changes):
    first = dict(prompt=f"{PROMPT} <lora:x:0.2>", init_images=[GRAY], mask=MASK, denoising_strength=0.75)
    for own, more, number in ((first, {}, 1), (first | page, changes, 2)):
        interrupt(2)
        calibrate(bench, own, **more)
        assert len(states(bench)) == number


def test_the_chosen_checkpoint_counts_and_not_the_one_in_memory(bench, interrupt):
    """Hosts load what is chosen, or overridden, only as they generate."""
    for chosen, in_memory, number in (("one", "", 1), ("one", "abc", 1), ("other", "abc", 2)):
        bench.shared.opts.sd_model_checkpoint, bench.shared.sd_model.sd_model_hash = chosen, in_memory
        interrupt(2)
        calibrate(bench)
        assert len(states(bench)) == number


# --- what tells one page from another -------------------------------------------------------------

class Neighbour:
    """Another extension's always-on script, such as ControlNet, with its arguments in the page's."""
    alwayson = True

    def __init__(self, at):
        self.args_from, self.args_to = at, at + 1

    def title(self):
        return "ControlNet"


class Unit:
    """ControlNet's: an object that holds a picture, whose text names its place in memory."""

    def __init__(self, weight, image):
        self.weight, self.image = weight, image


@pytest.fixture
def key(a_double, monkeypatch):
    """key(arguments of ControlNet, **page): names the state of a calibration with this page."""
    monkeypatch.setitem(sys.modules, "modules.sd_vae", types.SimpleNamespace(vae_dict={}))
    a_double.shared.opts.data_labels = {"eta_ddim": types.SimpleNamespace(infotext="Eta DDIM"),
                                        "show_progress": types.SimpleNamespace(infotext=None)}

    def of(args=(), **page):
        p = Processing(a_double, a_double.shared.sd_model, **payload(**page))
        p.scripts = types.SimpleNamespace(alwayson_scripts=[Neighbour(0)])
        p.script_args = tuple(args)
        fingerprint = ours("workbench").Workbench(p, "").fingerprint()
        return core("study.unfinished").Unfinished(Path(), "name", fingerprint).path.name
    of.host, of.options = a_double, a_double.shared.opts
    return of


def test_clip_skip_vae_emphasis_and_noise_source_are_in_the_setting(key):
    for option, name in (("CLIP_stop_at_last_layers", "clip_skip"), ("sd_vae", "vae"),
                         ("emphasis", "emphasis"), ("randn_source", "noise_source")):
        setattr(key.options, option, 1)
        p = Processing(key.host, key.host.shared.sd_model)
        assert ours("run").setting_of(p)[name] == 1
        p.override_settings = {option: 2}
        assert ours("run").setting_of(p)[name] == 2


def test_rounds_are_not_continued_with_other_settings_of_the_host(key):
    key.options.eta_ddim, key.options.show_progress = 0.0, 1
    before = key()
    key.options.show_progress = 2
    assert key() == before
    key.options.eta_ddim = 1.0
    assert key() != before != key(override_settings=dict(sd_vae="other"))


def test_rounds_are_not_continued_with_other_arguments_of_controlnet(key):
    picture = np.arange(12, dtype=np.uint8)
    before = key([Unit(1.0, picture)])
    assert key([Unit(1.0, picture.copy())]) == before
    assert len({before, key([Unit(0.5, picture)]), key([Unit(1.0, picture + 1)]), key([None])}) == 4


def test_rounds_are_not_continued_with_a_lora_replaced_under_its_name(key, tmp_path, monkeypatch):
    """Its name in the prompt was all that counted."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"one")
    known = types.SimpleNamespace(available_networks={"x": types.SimpleNamespace(filename=str(file))})
    monkeypatch.setitem(sys.modules, "networks", known)
    prompt = f"{PROMPT} <lora:x:0.8>"
    before = key(prompt=prompt)
    assert key(prompt=prompt) == before
    file.write_bytes(b"another")
    assert key(prompt=prompt) != before


def test_rounds_are_not_continued_with_a_checkpoint_replaced_under_its_name(key, tmp_path):
    file = key.host.checkpoints["model"] = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    key.options.sd_model_checkpoint = "model"
    before = key()
    assert key() == before
    file.write_bytes(b"another")
    assert key() != before
