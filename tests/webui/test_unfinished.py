"""Calibrations that are interrupted, and what they are continued with: the same page alone."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from webui_double import Processing
from webui_hosts import core, generate, ours
from webui_settings import PROMPT, calibrate, payload, same

LORA = f"{PROMPT} <lora:x:0.8>"


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


def test_interrupt_keeps_the_best_round_and_the_same_settings_continue(bench, interrupt):
    """The batches: 4 of the audit, 8 of two rounds, 4 of the verification, and no others."""
    plain, _ = generate(bench)
    before = len(bench.denoisers)
    for batches in (6, 8):  # in the first round, and in the verification
        interrupt(batches)
        result = calibrate(bench)
        assert "not verified" in result.info and "same settings" in result.info
        best = json.loads((bench.profiles / "doctor (unfinished).json").read_text())
        assert best["entries"][0]["after"] is None and best["setting"]["model"] == "double"
        assert not (bench.profiles / "doctor.json").exists()
    interrupt(None)
    assert "on fresh seeds (N = 20)" in calibrate(bench).info
    assert len(bench.denoisers) - before == 16 + 2 + 1, "the two that were interrupted, again, and the pairs"
    assert [path.name for path in bench.profiles.glob("*.json")] == ["doctor.json"]
    assert same(plain, generate(bench)[0])
    kept = [bench.profiles / "doctor.json", bench.profiles / "reports" / "doctor" / "report.html"]
    before = [path.read_bytes() for path in kept]
    interrupt(6)
    assert "doctor (unfinished).json" in calibrate(bench, overwrite=True).info
    assert [path.read_bytes() for path in kept] == before, "the verified profile and its report"


def test_with_a_random_seed_on_the_page_the_same_request_continues(bench, interrupt):
    """Seed -1, Interrupt, Generate started from image 0: nobody knew the seed."""
    interrupt(2)  # in the audit
    assert "no profile" in calibrate(bench, page=dict(seed=-1)).info
    assert len(states(bench)) == 1 and not list(bench.profiles.glob("*.json"))
    interrupt(None)
    assert "on fresh seeds" in calibrate(bench, page=dict(seed=-1)).info and not states(bench)


@pytest.mark.parametrize("page, changes, differs", [
    (dict(steps=7), {}, "(steps: 6 then, 7 now"), (dict(prompt="a photo of a nurse"), {}, "(prompt: "),
    (dict(prompt=LORA), {}, "(prompt: "), ({}, dict(prompts=LORA), "(prompt: ")])
def test_work_that_cannot_be_continued_says_which_setting_differs(
        bench, interrupt, monkeypatch, page, changes, differs):
    first, said = dict(prompt=f"{PROMPT} <lora:x:0.2>"), []
    interrupt(2)
    calibrate(bench, first)
    monkeypatch.setattr(ours("workbench").Workbench, "say", lambda self, progress: said.append(self.note))
    interrupt(2)
    calibrate(bench, first | page, **changes)
    assert any(f"starts again {differs}" in text for text in said), said[:2]
    assert len(states(bench)) == 2


@pytest.fixture
def key(a_double, monkeypatch):
    """key(unit of ControlNet, **page): names the state of a calibration with this page."""
    monkeypatch.setitem(sys.modules, "modules.sd_vae", SimpleNamespace(vae_dict={}))
    a_double.shared.opts.data_labels = {"eta_ddim": SimpleNamespace(infotext="Eta DDIM"),
                                        "show_progress": SimpleNamespace(infotext=None)}
    neighbour = SimpleNamespace(title=lambda: "ControlNet", args_from=0, args_to=1)

    def of(unit=None, classifier="", hires=False, **page):
        p = Processing(a_double, a_double.shared.sd_model, **payload(**page))
        p.scripts, p.script_args = SimpleNamespace(alwayson_scripts=[neighbour]), (unit,)
        fingerprint = ours("workbench").Workbench(p, classifier, hires).fingerprint()
        return core("study.unfinished").Unfinished(Path(), "name", fingerprint).path.name
    of.host, of.options = a_double, a_double.shared.opts
    return of


def test_rounds_are_not_continued_with_another_page(key):
    gray, black, white = (Image.new("RGB", (64, 64), colour) for colour in ("gray", "black", "white"))
    page = dict(init_images=[gray], mask=white, denoising_strength=0.75, enable_hr=True)
    before = key(**page)
    assert key(**page | dict(init_images=[gray.copy()])) == before
    changes = [dict(classifier="another"), dict(hires=True), dict(init_images=[black]),
               dict(denoising_strength=0.5), dict(mask=None), dict(prompt=LORA),
               dict(override_settings=dict(sd_model_checkpoint="another")),
               dict(override_settings=dict(sd_vae="other"))]
    assert len({before, *(key(**page | change) for change in changes)}) == 1 + len(changes)


def test_rounds_are_not_continued_with_other_settings_of_the_host(key):
    """The chosen checkpoint counts, and not the one in memory: hosts load what is chosen only as they generate."""
    options, model = key.options, key.host.shared.sd_model
    options.eta_ddim, options.show_progress, options.sd_model_checkpoint = 0.0, 1, "one"
    for place, name, value, counts in (
            (options, "eta_ddim", 1.0, True), (options, "show_progress", 2, False),
            (options, "sd_model_checkpoint", "other", True), (model, "sd_model_hash", "abc", False)):
        before = key()
        setattr(place, name, value)
        assert (key() != before) == counts, name


def test_clip_skip_vae_emphasis_and_noise_source_are_in_the_setting(key):
    for option, name in (("CLIP_stop_at_last_layers", "clip_skip"), ("sd_vae", "vae"),
                         ("emphasis", "emphasis"), ("randn_source", "noise_source")):
        setattr(key.options, option, 1)
        p = Processing(key.host, key.host.shared.sd_model)
        assert ours("run").setting_of(p)[name] == 1
        p.override_settings = {option: 2}
        assert ours("run").setting_of(p)[name] == 2


def test_rounds_are_not_continued_with_other_arguments_of_controlnet(key):
    """Its units are objects that hold an image, whose text names their place in memory."""
    class Unit:
        def __init__(self, weight, image):
            self.weight, self.image = weight, image

    picture = np.arange(12, dtype=np.uint8)
    before = key(Unit(1.0, picture))
    assert key(Unit(1.0, picture.copy())) == before
    assert len({before, key(Unit(0.5, picture)), key(Unit(1.0, picture + 1)), key()}) == 4


def test_rounds_are_not_continued_with_a_lora_or_checkpoint_replaced_under_its_name(
        key, tmp_path, monkeypatch):
    """A LoRA's name in the prompt was all that counted."""
    lora, checkpoint = tmp_path / "x.safetensors", tmp_path / "model.safetensors"
    networks = SimpleNamespace(available_networks={"x": SimpleNamespace(filename=str(lora))})
    monkeypatch.setitem(sys.modules, "networks", networks)
    key.host.checkpoints["model"] = checkpoint
    key.options.sd_model_checkpoint = "model"
    found = []
    for file, content in ((checkpoint, b"one"), (lora, b"one"), (lora, b"another"), (checkpoint, b"another")):
        file.write_bytes(content)
        found.append(key(prompt=LORA))
        assert key(prompt=LORA) == found[-1]
    assert len(set(found)) == 4
