"""Units of a sweep on another machine, measured by a web UI."""
from __future__ import annotations

import importlib
import os
import sys

import pytest
from webui_settings import PROMPT

SETTING = dict(prompt="", negative_prompt="blurry", seed=0, steps=6, cfg_scale=3.0, width=64, height=64)


@pytest.fixture
def ask(bench):
    """ask(unit of seeds or None, ...) -> the answer, as the job of POST /measure gives it."""
    measuring = importlib.import_module("sd_debias.webui_extension.measuring")
    wire, unit_of, _ = parts()

    def run(seeds=None, kind="audit", push=None, recipe=None, **changes):
        unit = seeds and unit_of(seeds, kind, push)
        p = sys.modules["modules.processing"].StableDiffusionProcessingTxt2Img(
            sd_model=bench.shared.sd_model, **SETTING | changes)
        p.scripts, p.script_args, p.is_api = bench.runner, (0, *(c.value for c in bench.runner.inputs[1:])), True
        bench.shared.state.begin()
        result = measuring.measure(p, None, recipe or wire.question(parts()[2], unit))
        return result.summary[0] if result.complete else None
    return run


def parts():
    """(wire, a unit's maker, the recipe) of the package as the host has loaded it."""
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.calibration.plan import Plan
    from sd_debias.core.method.draw import Steering
    from sd_debias.core.method.methods import METHODS
    from sd_debias.core.sweep import wire
    from sd_debias.core.sweep.unit import Recipe, Unit

    def unit_of(seeds, kind, push):
        steering = Steering((0.0, 0.0)) if push is None else Steering((0.0, 0.0), push)
        return Unit(0, PROMPT, 0, 0, kind, (steering.to_dict(),), seeds, 0, True)
    return wire, unit_of, Recipe(((GENDER,),), METHODS["default"], Plan(20, batch_size=5))


def labels(found):
    return [label for batch in found["batches"] for label in batch["labels"][0]]


def test_labels_are_those_of_an_audit_and_do_not_depend_on_the_units(bench, ask):
    workbench = sys.modules["sd_debias.webui_extension.workbench"]
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.calibration.runner import audit
    p = sys.modules["modules.processing"].StableDiffusionProcessingTxt2Img(sd_model=bench.shared.sd_model, **SETTING)
    p.scripts, p.script_args = bench.runner, (0, *(c.value for c in bench.runner.inputs[1:]))
    expected = audit(workbench.Workbench(p, None), [PROMPT], [GENDER], 20, 5).calibrations[0].audit.labels[0]
    found = ask((0, 20))
    assert labels(found) == expected and labels(ask((5, 10))) == expected[5:15]
    assert labels(ask((0, 20), "round", (0.0, 0.0, 1.0))) != expected


def test_facts_are_final_and_the_same_for_every_unit(bench, ask):
    from sd_debias.core.sweep.unit import digest
    bench.shared.sd_model.sd_checkpoint_info.name_for_extra = "in memory"
    before = bench.process_images

    def generate(p):  # the host loads a checkpoint only as it generates
        bench.shared.sd_model.sd_checkpoint_info.name_for_extra = "mine"
        return before(p)

    sys.modules["modules.processing"].process_images = generate
    facts = ask()["facts"]
    assert facts["model"] == "mine" and facts["setting"]["sampler"] == "Euler"
    assert ask((0, 5))["facts"] == ask((5, 10))["facts"] == digest(facts)
    assert ask((0, 5), steps=7)["facts"] != digest(facts)


def test_files_tell_checkpoints_apart_by_their_contents(bench, ask, tmp_path):
    file = tmp_path / "a.safetensors"
    bench.checkpoints["a"] = file
    found = []
    for content, time in (b"one", 1), (b"one", 2), (b"two", 3):
        file.write_bytes(content)
        os.utime(file, (time, time))
        found.append(ask(override_settings=dict(sd_model_checkpoint="a"))["facts"]["fingerprint"])
    assert found[0] == found[1] != found[2]


def test_a_checkpoint_is_named_exactly_and_the_demo_models_is_asked_for_by_its_own(bench, tmp_path):
    measuring = importlib.import_module("sd_debias.webui_extension.measuring")
    bench.checkpoints |= {"demo": tmp_path / "demo.safetensors", "xl": tmp_path / "xl.safetensors"}
    assert measuring.checkpoint("demo") == "demo" and measuring.checkpoint("") is None
    models = sys.modules["modules.sd_models"]
    exact = models.get_closet_checkpoint_match
    models.get_closet_checkpoint_match = lambda name: exact("xl")  # as hosts do with what they do not know
    with pytest.raises(ValueError, match="no checkpoint of the demo model. Make one: sd-debias export --for a1111"):
        measuring.checkpoint("demo")
    with pytest.raises(ValueError, match="no checkpoint 'x'"):
        measuring.checkpoint("x")


def test_an_interrupted_or_skipped_unit_is_no_answer(bench, ask):
    for name in ("skipped", "interrupted"):
        stop = lambda params, name=name: setattr(bench.shared.state, name, True)  # noqa: E731
        bench.callbacks["cfg_denoiser"].append(stop)
        assert ask((0, 10)) is None
        bench.callbacks["cfg_denoiser"].remove(stop)
    assert len(labels(ask((0, 10)))) == 10


def test_a_prompt_that_cannot_be_measured_is_an_answer_and_a_bad_unit_is_refused(bench, ask, monkeypatch):
    passes = sys.modules["sd_debias.webui_extension.sampling"].Pass
    with pytest.raises(ValueError, match="unit of a sweep"):
        ask(recipe=dict(software=None))
    monkeypatch.setattr(passes, "shifted", lambda *args: 1 / 0)
    assert "division by zero" in ask((0, 5), "round", (0.0, 0.0, 1.0))["wrong"]


def test_judges_models_are_kept_for_the_next_unit(bench, ask, monkeypatch):
    classifiers, seen = sys.modules["sd_debias.webui_extension.classifiers"], []
    load = classifiers.load

    def loading(named, attributes, by_name=False, models=None):
        seen.append(models)
        return load(named, attributes, by_name, models)

    monkeypatch.setattr(classifiers, "load", loading)
    ask((0, 5))
    ask((5, 5))
    assert len({id(models) for models in seen}) == 1 and len(seen) > 1
