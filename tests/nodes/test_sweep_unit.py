"""Debias Sweep Unit: what a sweep on another machine asks for, measured by ComfyUI."""
import gc
import json
import sys
import types

import numpy as np
import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import AUDIT, ROUND
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.runner import audit
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS
from sd_debias.core.sweep.unit import Recipe, Unit, digest
from sd_debias.core.sweep.wire import question

PROMPT, PLAN = "a photo of a doctor", Plan(8, batch_size=4, rounds=1, held_out=4)
RECIPE = Recipe(((GENDER,),), METHODS["default"], PLAN)


class Bright:
    """A judge by brightness; it says how often it was asked for one of an attribute."""
    fidelity = None

    def __init__(self):
        self.loaded = 0

    def of(self, attribute):
        self.loaded += 1

        def classify(images):
            bright = np.array([image.mean() > 128 for image in images], np.float32)
            return np.stack([bright, 1 - bright], 1)
        classify.name = "brightness"
        return classify


def unit(seeds=(0, 8), kind=AUDIT, push=None):
    steering = Steering((0.0, 0.0)) if push is None else Steering((0.0, 0.0), push)
    return Unit(0, PROMPT, 0, 0 if kind == AUDIT else 1, kind, (steering.to_dict(),), seeds, 0, True)


def graph(node: str, text: str) -> dict:
    return {"1": {"class_type": "DebiasDemoModel", "inputs": {}},
            "2": {"class_type": "DebiasClipClassifier", "inputs": {"model": "demo"}},
            node: {"class_type": "DebiasSweepUnit", "inputs": {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2],
                                                               "classifier": ["2", 0], "unit": text}}}


@pytest.fixture
def ask(demo, comfyui):
    """ask(unit, node's id, judge) -> the answer, read where programs read it."""
    from sd_debias.nodes.sweep_unit import ANSWER, DebiasSweepUnit
    model, clip, vae = demo

    def run(unit, node="9", judge=None, text=None, **more):
        text = json.dumps(question(RECIPE, unit)) if text is None else text
        hidden = types.SimpleNamespace(unique_id=node, prompt=graph(node, text), extra_pnginfo=None)
        inputs = dict(model=model, clip=clip, vae=vae, classifier=judge or Bright(), negative="", width=64, height=64,
                      steps=2, cfg=2.0, sampler_name="euler", scheduler="simple", unit=text) | more
        with torch.inference_mode():
            found = type("Node", (DebiasSweepUnit,), {"hidden": hidden}).execute(**inputs)
        answer, = found.ui[ANSWER]
        assert found.args == (answer,) or list(found.args) == [answer]
        return json.loads(answer)
    return run


def test_labels_are_those_of_an_audit_and_do_not_depend_on_the_units(demo, ask, said):
    from sd_debias.nodes.workbench import Workbench
    setting = dict(steps=2, cfg=2.0, width=64, height=64, sampler="euler", scheduler="simple", negative_prompt="")
    with torch.inference_mode():
        outcome = audit(Workbench(*demo, Bright(), setting), [PROMPT], [GENDER], 8, 4)
    labels = outcome.calibrations[0].audit.labels[0]
    found = ask(unit())
    assert [label for batch in found["batches"] for label in batch["labels"][0]] == labels
    assert found["evaluations"] == 8 * 2 * 2 and any("8 pictures of 'a photo of a doctor'" in text for text, _ in said)
    assert ask(unit((4, 4)))["batches"][0]["labels"][0] == labels[4:]


def test_a_push_acts(ask, said):
    plain, pushed = ask(unit(kind=ROUND)), ask(unit(kind=ROUND, push=(0.0, 0.0, 1.0)))
    assert plain["facts"] == pushed["facts"] and "wrong" not in pushed and pushed["evaluations"] == plain["evaluations"]


def test_facts_are_the_same_whatever_is_asked_and_whatever_the_node_is_called(ask, said, comfyui):
    facts = ask(None)["facts"]
    assert facts["setting"]["model"] == "demo" and facts["classifiers"] == [["brightness"]]
    assert ask(None, "17")["facts"] == facts and ask(unit(), "4")["facts"] == digest(facts)
    assert ask(None, steps=3)["facts"] != facts


def test_files_tell_models_apart_by_their_contents_on_every_machine(ask, said, tmp_path, set_folder):
    import os

    from sd_debias.core.files import contents, fingerprint
    set_folder("checkpoints", tmp_path, {""})
    file = tmp_path / "demo"  # as the classifier's input says
    found, prints = [], []
    for content, time in (b"one", 1), (b"one", 2), (b"two", 3):
        file.write_bytes(content)
        os.utime(file, (time, time))
        found.append(ask(None)["facts"]["fingerprint"])
        prints.append((contents(file), fingerprint(file)))
    assert found[0] == found[1] != found[2]
    assert prints[0][0] == prints[1][0] != prints[2][0] and prints[0][1] != prints[1][1]


def test_judges_are_loaded_once_as_long_as_the_classifier_is_there(ask, said):
    judge = Bright()
    ask(None, judge=judge)
    ask(unit(), judge=judge)
    loaded = judge.loaded
    ask(unit((8, 4)), judge=judge)
    assert judge.loaded == loaded
    from sd_debias.nodes import sweep_unit
    judged = sweep_unit.judged_by(judge)
    assert judged
    del judge
    gc.collect()  # a bench refers to itself
    assert not judged


def test_a_prompt_that_cannot_be_measured_is_an_answer_and_anything_else_an_error(ask, said, monkeypatch):
    from sd_debias.nodes import sweep_unit, workbench
    monkeypatch.setattr(workbench.GuidedSampling, "patch", lambda self, model: model.clone())
    assert "guidance changed nothing" in ask(unit(kind=ROUND, push=(0.0, 0.0, 1.0)))["wrong"]
    for text in ("", "{}", json.dumps(dict(question(RECIPE), software="9.9"))):
        with pytest.raises(DebiasError):
            ask(None, text=text)
    model = types.SimpleNamespace(wrappers={"outer_sample": {sweep_unit.KEY: []}})
    with pytest.raises(DebiasError, match="Expected a model without Debias Apply"):
        ask(unit(), model=model)


def test_the_extension_lists_the_node(comfyui):
    import asyncio

    from sd_debias import nodes
    found = asyncio.run(nodes.Debias().get_node_list())
    assert nodes.DebiasSweepUnit in found and "diffusers" not in {
        name.partition(".")[0] for name in vars(sys.modules["sd_debias.nodes.sweep_unit"])}
