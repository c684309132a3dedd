"""What hostile input does that comes through a host: kinds of fuzz.py, over the tests' doubles of ComfyUI and A1111.

Nodes and requests run until the first image is asked for, `Reached`: what was given is accepted then.
"""
from __future__ import annotations

import asyncio
import copy
import importlib.util
import json
import math
import random
import re
import sys
import types
from pathlib import Path
from typing import Any, Callable

import torch

from sd_debias.core.attribute import GENDER, SKIN_TONE_3
from sd_debias.core.errors import DebiasError
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.words import metadata

TESTS = Path(__file__).resolve().parent.parent / "tests"
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # as A1111 reads an infotext
NUMBERS = [0, 1, -1, 7, 2**31, 2**53, 2**70, -2**70, 10**400]
FLOATS = [0.0, 1.0, 0.5, -0.5, 1e30, -1e30, 1e-300, math.nan, math.inf, -math.inf]
TEXTS = ["", " ", "x", "gender", "a photo of a doctor", "young: a child\nold", "a|b=1:2", "70:30", "woman 65", "nan:1",
         "a" * 300, "\u202egpj", "\0", "<script>alert(1)</script>", "../../etc/passwd", "{prompt}", "[", "[1]",
         '"/etc/passwd"', "null", "0", '{"form": "sd-debias labels 1", "runs": {}}', "demo", "draw",
         "custom", "quick", "as calibrated", "embedding", "paper", "shift", "own groups", "log"]


class Reached(DebiasError):
    """The first image is asked for."""


def _loaded(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reached(*args: Any, **kwargs: Any) -> Any:
    raise Reached("The first image is asked for.")


# --- ComfyUI ---------------------------------------------------------------------------------------------------------

class Comfy:
    """Debias nodes in a workflow: their widgets' values, as a widget or a link of their type may give them; and the
    workflow that is posted, which is read before any node of it runs."""

    def __init__(self, folder: Path, profile: dict):
        double = _loaded("double", TESTS / "nodes" / "double.py")
        double.install(folder)
        for name in ("classifiers", "input/pictures", "output", "user", "temp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        import comfy_api.latest  # the double
        kinds = ("Int", "Float", "String", "Boolean", "Combo")
        comfy_api.latest.io = io = types.SimpleNamespace(
            ComfyNode=double.ComfyNode, NodeOutput=double.NodeOutput,
            Schema=lambda **given: types.SimpleNamespace(**given),
            Custom=lambda name: types.SimpleNamespace(Input=_other, Output=_other),
            Hidden=types.SimpleNamespace(unique_id=0, prompt=0),
            **{kind: types.SimpleNamespace(Input=_widget(kind), Output=_other) for kind in kinds},
            **{kind: types.SimpleNamespace(Input=_other, Output=_other) for kind in (
                "Model", "Clip", "Vae", "Image", "Conditioning")})
        from PIL import Image

        from sd_debias import nodes
        from sd_debias.nodes import audit, messages, profiles, workbench
        from sd_debias.nodes.judge import DEMO, judge_of
        self.nodes, self.messages, self.io = nodes, messages, io
        messages.log.disabled = True  # nodes say what they do
        profiles.register()
        workbench.Workbench.generate = _reached
        model, clip, vae = double.load()
        judge = judge_of(DEMO)
        Image.new("RGB", (64, 64), "gray").save(folder / "input" / "pictures" / "a.png")
        own = Profile.from_dict(profile)
        own.save(profiles.save_folder())
        self.given = dict(model=model, clip=clip, vae=vae, judge=judge, profile=own,
                          attributes=(GENDER,), also=(SKIN_TONE_3,), images=torch.zeros(2, 64, 64, 3))
        found = asyncio.run(nodes.Debias().get_node_list())
        self.classes = {own.__name__: own for own in found if own.__name__ != "DebiasDemoModel"}
        self.widgets = {name: [one for one in own.define_schema().inputs if one is not None]
                        for name, own in self.classes.items()}
        assert audit.DebiasAudit in self.classes.values() and sum(map(len, self.widgets.values())) > 60
        self.graph = {
            "1": dict(class_type="DebiasDemoModel", inputs={}),
            "2": dict(class_type="CLIPTextEncode", inputs=dict(clip=["1", 1], text="a photo of a doctor")),
            "3": dict(class_type="DebiasApply", inputs=dict(model=["1", 0], clip=["1", 1], profile=["5", 0])),
            "4": dict(class_type="KSampler", inputs=dict(model=["3", 0], positive=["2", 0], negative=["2", 0])),
            "5": dict(class_type="DebiasLoadProfile", inputs=dict(profile="x.json")),
            "6": dict(class_type="DebiasCalibrate", inputs=dict(
                model=["1", 0], clip=["1", 1], vae=["1", 2], judge=["7", 0], steps=8, batch_size=4)),
            "7": dict(class_type="DebiasJudge", inputs=dict(judge="demo"))}

    def documents(self) -> list:
        return [(name, self.graph) for name in self.classes]

    def mutated(self, document: tuple, chance: random.Random, graph: Callable) -> tuple:
        """One to three widgets with other values; now and then another graph about them."""
        name, graph_now = document
        own, changed = self.widgets[name], {}
        for widget in chance.sample(own, min(len(own), chance.choice((0, 1, 1, 2, 3)))):
            changed[widget.id] = _value(widget, chance)
            if widget.id == "batch_size" and 64 < changed["batch_size"] <= widget.max:
                changed["batch_size"] = 64  # 4096 conditionings take the memory of 4096 conditionings
        return name, graph(graph_now, chance) if chance.random() < 0.3 else graph_now, changed

    def workflow(self, document: tuple) -> None:
        """A node with its widgets' values, in a graph."""
        name, graph, changed = document
        cls = self.classes[name]
        posted = self.messages.open_record(dict(prompt=copy.deepcopy(graph)))
        assert "prompt" in posted
        values = {widget.id: widget.default for widget in self.widgets[name]} | changed
        wanted = cls.execute.__code__.co_varnames[1:cls.execute.__code__.co_argcount]
        inputs = {own: values[own] if own in values else self.given[own] for own in wanted if own in values
                  or own in self.given}
        if name == "DebiasAudit":  # which takes lists
            inputs = {own: [value] for own, value in inputs.items()}
        node = next((key for key, at in graph.items() if isinstance(at, dict) and at.get("class_type") == name), "4") \
            if isinstance(graph, dict) else "4"
        hidden = types.SimpleNamespace(unique_id=node, prompt=graph if isinstance(graph, dict) else {})
        made = type(name, (cls,), {"hidden": hidden})
        with torch.inference_mode():
            found = made.execute(**inputs)
        assert isinstance(found, self.io.NodeOutput)
        if name in ("DebiasApply", "DebiasTextEncode"):
            assert 0 <= values["strength"] <= 10, "a strength that no image survives"
        if name == "DebiasApply":
            assert 0 <= values["start"] <= values["end"] <= 1, "no part of the schedule"
        if name == "DebiasAttribute":
            assert all(math.isclose(math.fsum(a.target), 1) for a in found.args[0])


def _other(*args: Any, **given: Any) -> None:
    return None


def _widget(kind: str) -> Callable:
    def made(id: str, **given: Any) -> types.SimpleNamespace:
        options = given.get("options") or []
        return types.SimpleNamespace(id=id, kind=kind, options=options, **{
            "default": options[0] if options else "", "min": None, "max": None,
            **{key: given[key] for key in ("default", "min", "max") if key in given}})
    return made


def _value(widget: types.SimpleNamespace, chance: random.Random) -> Any:
    """A value of the widget's type; a link's is not held to the widget's range."""
    if widget.kind == "Int":
        return chance.choice((widget.min, widget.max, chance.choice(NUMBERS)))
    if widget.kind == "Float":
        return chance.choice((widget.min, widget.max, chance.choice(FLOATS), chance.choice(FLOATS)))
    if widget.kind == "Boolean":
        return chance.random() < 0.5
    if widget.kind == "Combo" and widget.options and chance.random() < 0.6:
        return chance.choice(widget.options)
    if chance.random() < 0.01:
        return "[" * 3000  # deeper than JSON is read
    return chance.choice(TEXTS) if chance.random() < 0.7 else "".join(chance.choice(TEXTS) for _ in range(3))


# --- A1111 -----------------------------------------------------------------------------------------------------------

class Webui:
    """Infotexts that are pasted."""

    def __init__(self, folder: Path, profile: dict):
        double = _loaded("webui_double", TESTS / "webui" / "double.py")
        self.host = host = double.Double(folder)
        known = dict(scripts_txt2img=double.Runner(host, []))
        vars(host.modules["modules.scripts"]).update(known)
        vars(host.modules["modules.sd_samplers"]).update(
            all_samplers_map={"Euler": None}, samplers=[types.SimpleNamespace(name="Euler")])
        sys.modules.update(host.modules)
        host.checkpoints["double"] = "double"
        from sd_debias.demo_model import model as demo
        from sd_debias.webui_extension import arguments, pasting, profiles, workbench
        clip = demo.clip()
        demo.clip = lambda device=None: clip
        workbench.Workbench.render = _reached
        self.pasting, self.arguments, self.profiles = pasting, arguments, profiles
        profiles.SHIPPED = folder / "shipped"  # the package's own is a large file, and read for every infotext
        self.profile = Profile.from_dict(profile)
        self.profile.save(profiles.save_folder())
        self.valid = [self._infotext(acted, prompt) for acted in (True, False) for prompt in (
            self.profile.entries[0].prompt, "a (doctor:1.2) and a nurse", "a king, 50 \u533b\u751f: \"x\"\\")]

    def _infotext(self, acted: bool, prompt: str) -> str:
        given = self.arguments.Arguments(True, self.profile.name, 0.5, "embedding", 0.1, 0.9, False, "draw")
        keys = metadata(self.profile, prompt, dict(acted=acted, steps=3, skipped=1), given.strength, 5)
        found = {"Steps": 20, "Seed": 5, **keys, **given.changed()}
        return f"{prompt}\n" + ", ".join(
            f"{key}: {json.dumps(str(value)) if any(mark in str(value) for mark in ',:') else value}"
            for key, value in found.items())

    def infotext(self, text: str) -> None:
        """An infotext that is pasted: an image's, or anything at all."""
        lines = text.splitlines()
        parameters = {}
        for key, value in PARAMETER.findall(lines[-1] if lines else ""):
            try:
                parameters[key] = json.loads(value) if value.startswith('"') else value
            except ValueError:
                parameters[key] = value
        for name, default in vars(self.arguments.Arguments()).items():
            value = self.pasting.pasted(name, parameters)
            assert value is None or type(value) is type(default), (name, value)
            assert not isinstance(value, float) or math.isfinite(value), (name, value)
        assert len(self.host.reported) <= len(parameters)
        self.host.reported.clear()  # values that are none, which the log tells
        if "Debias profile" not in parameters:
            raise DebiasError("This is of no image of sd-debias: the accordion is switched off.")
