"""The text behind a sampler's positive conditioning, as graphs of today are wired."""
import pytest
import torch
from nodes_given import PROMPT, ours, profile

from sd_debias.core.attribute import SKIN_TONE_5
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering


def node(kind, **inputs):
    return dict(class_type=kind, inputs=inputs)


def text_of(text):
    return node("CLIPTextEncode", clip=["loader", 1], text=text)


def sampler(positive, negative=("neg", 0), model="apply"):
    return node("KSampler", model=[model, 0], positive=list(positive), negative=list(negative))


def string(text):
    return node("PrimitiveString", value=text)


BASE = dict(apply=node("DebiasApply", model=["loader", 0], clip=["loader", 1]),
            pos=text_of(PROMPT), neg=text_of("blurry"))
GUIDED = dict(end=node("SamplerCustomAdvanced", guider=["guide", 0], noise=["n", 0]))
FROM_STRING = dict(pos=text_of(["string", 0]), end=sampler(("pos", 0)))
GRAPHS = {
    "a text": dict(end=sampler(("pos", 0))),
    "ControlNet's positive": dict(
        cn=node("ControlNetApplyAdvanced", positive=["pos", 0], negative=["neg", 0],
                control_net=["net", 0], image=["img", 0]), end=sampler(("cn", 0), ("cn", 1))),
    "a reroute": dict(way=node("Reroute", **{"": ["pos", 0]}), end=sampler(("way", 0))),
    "a guider": GUIDED | dict(
        guide=node("CFGGuider", model=["apply", 0], positive=["pos", 0], negative=["neg", 0])),
    "Flux": GUIDED | dict(flux=node("FluxGuidance", conditioning=["pos", 0], guidance=3.5),
                          guide=node("BasicGuider", model=["apply", 0], conditioning=["flux", 0])),
    "both texts of SDXL": dict(
        xl=node("CLIPTextEncodeSDXL", clip=["loader", 1], text_g=PROMPT, text_l=PROMPT, width=1024),
        end=sampler(("xl", 0))),
    "a string node": FROM_STRING | dict(string=node("PrimitiveStringMultiline", value=PROMPT)),
    "joined strings": FROM_STRING | dict(
        a=string("a photo of"), b=string("a doctor"),
        string=node("StringConcatenate", string_a=["a", 0], string_b=["b", 0], delimiter=" ")),
    "wildcards": dict(
        wild=node("ImpactWildcardEncode", clip=["loader", 1], wildcard_text="a photo of a __job__",
                  populated_text=PROMPT), end=sampler(("wild", 2))),
    "a switch": FROM_STRING | dict(
        on=node("PrimitiveBoolean", value=False), other=string("a cat"), one=string(PROMPT),
        string=node("ComfySwitchNode", switch=["on", 0], on_true=["other", 0],
                    on_false=["one", 0])),
    "a switch of conditionings": dict(
        cat=text_of("a cat"), end=sampler(("turn", 0)),
        turn=node("ComfySwitchNode", switch=True, on_true=["pos", 0], on_false=["cat", 0])),
    "a preview": FROM_STRING | dict(one=string(PROMPT),
                                    string=node("PreviewAny", source=["one", 0], preview="")),
    "a LoRA behind a switch": dict(
        lora=node("LoraLoaderModelOnly", model=["apply", 0]),
        turn=node("ComfySwitchNode", switch=False, on_true=["lora", 0], on_false=["apply", 0]),
        end=sampler(("pos", 0), model="turn"))}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_text_is_found_behind(comfyui, name):
    graph = {**BASE, **GRAPHS[name]}
    assert ours.graph.texts_behind(graph, "end") == [PROMPT]
    assert "end" in ours.graph.samplers_of(graph, "apply")


@pytest.mark.parametrize("graph", [
    {}, dict(end=None), dict(end=dict(inputs=dict(positive=["gone", 0]))),
    {**BASE, "a": node("Reroute", **{"": ["b", 0]}), "b": node("Reroute", **{"": ["a", 0]}),
     "end": sampler(("a", 0))},
    {**BASE, "pos": node("Unknown", seed=1), "end": sampler(("pos", 0))},
    {**BASE, "odd": node("X", pairs=[[0, 0], [1, 1]]), "end": sampler(("odd", 0))},
    # What a node makes while it runs is not guessed.
    {**BASE, "test": node("SomeTest", a=["img", 0], b=True), "end": sampler(("turn", 0)),
     "turn": node("ComfySwitchNode", switch=["test", 0], on_true=["pos", 0], on_false=["neg", 0])},
    *({**BASE, **FROM_STRING, "a": string("one"), "b": string("two"), "string": maker} for maker in (
        node("StringReplace", string=PROMPT, find="doctor", replace="nurse"),
        node("RegexReplace", string=PROMPT, regex_pattern="doctor", replace="nurse"),
        node("AskAModel", prompt="Write a prompt about a doctor", seed=3),
        node("Switch", first=["a", 0], second=["b", 0]), node("LoadText", file="prompt.txt")))])
def test_no_text_is_found_where_nothing_tells_it(comfyui, graph):
    assert ours.graph.texts_behind(graph, "end") == []
    assert ours.graph.samplers_of(graph, "gone") == []


def test_forty_switches_in_a_row_are_walked_once_each(comfyui):
    row = {str(i): node("Switch", on_true=[str(i + 1), 0], on_false=[str(i + 1), 0])
           for i in range(40)}
    graph = {**BASE, **row, "end": sampler(("pos", 0), model="0")}
    assert ours.graph.samplers_of(graph, "nowhere") == []
    assert ours.graph.samplers_of({**graph, "40": BASE["apply"]}, "40") == ["end"]


@pytest.mark.parametrize("odd", [
    None, 5, [], {}, "x", dict(class_type=[], inputs=[]), dict(inputs=dict(model=[[], 0])),
    dict(inputs=dict(model=["end"])), dict(inputs=None)])
def test_a_graph_with_something_else_in_a_nodes_place_ends_nothing(comfyui, odd):
    """What the host does not run, it does not check."""
    graph = {**BASE, "loader": odd, "end": sampler(("pos", 0))}
    assert ours.model_name.model_name(graph, "end") is None and len(ours.workbench.behind(graph, "end")) == 1
    assert ours.workbench.behind({"end": odd}, "end") == []
    posted = ours.messages.open_record(dict(prompt=graph, extra_data=odd))
    assert posted["prompt"] is graph
    assert list(posted["extra_data"]["extra_pnginfo"]) == ["debias"]


@pytest.fixture
def applied(call, said, sample):
    """applied(graph, ...) -> (latents with a profile that sends all to a woman, what was said)"""
    def applied(graph, text="", prompts=(PROMPT, "a photo of a nurse")):
        made, = call("DebiasApply", graph, "apply", text=text, profile=profile(prompts=prompts))
        return sample(made, steps=2), said[-1][0]
    return applied


def test_apply_needs_no_second_typing_of_the_prompt(applied, demo, sample):
    plain = sample(demo[0], steps=2)
    steered, text = applied({**BASE, **GRAPHS["a guider"]})
    assert "2 of 2 images steered (2 to woman)" in text and not torch.equal(steered, plain)
    for own, words in ((f"{PROMPT}, a man", "the prompt itself says 'man'"),
                       ("", "not calibrated")):
        graph = {**BASE, "pos": text_of(own), "end": sampler(("pos", 0))}
        found, text = applied(graph, prompts=(PROMPT,))
        assert torch.equal(found, plain) and words in text and "left alone" in text


def test_two_texts_that_differ_are_said(applied):
    graph = {**BASE, **GRAPHS["a text"]}
    _, text = applied(graph, text="a photo of a nurse")
    assert "'text' is 'a photo of a nurse'" in text and f"made from '{PROMPT}'" in text
    assert "'text' is" not in applied(graph, text="(A photo of a doctor:1.2)")[1]
    two = {**BASE, "other": text_of("on a beach"), "end": sampler(("both", 0)),
           "both": node("ConditioningCombine", conditioning_1=["pos", 0],
                        conditioning_2=["other", 0])}
    assert f"2 texts, '{PROMPT}', 'on a beach'" in applied(two)[1]


def test_a_graph_without_any_text_is_said_and_of_several_prompts_refused(applied):
    graph = dict(apply=BASE["apply"], end=sampler(("gone", 0)))
    assert f"only prompt, '{PROMPT}', is used" in applied(graph, prompts=(PROMPT,))[1]
    with pytest.raises(DebiasError, match="2 prompts"):
        applied(graph)


def test_each_pass_is_looked_up_by_the_text_of_its_own_sampler(call, said, sample, monkeypatch):
    two = {**BASE, **GRAPHS["a text"], "cat": text_of("a cat"), "second": sampler(("cat", 0))}
    record = ours.messages.Record(two)
    model, = call("DebiasApply", two, "apply", profile=profile())
    for own, words in (("end", "2 of 2 images steered"), ("second", "not calibrated")):
        monkeypatch.setattr(ours.messages, "running", lambda own=own: (record, own))
        sample(model, steps=1)
        assert words in said[-1][0]


def test_two_profiles_at_once_both_act_and_each_says_what_it_did(call, said, demo, sample):
    """Gender by one, skin tone by another, one after the other on the model."""
    tones = Steering((0.0,) * 5, (0.0,) * 5 + (1.0,))
    models = [demo[0]]
    for one in (profile(), profile(tones, attribute=SKIN_TONE_5, name="tones")):
        models += call("DebiasApply", {**BASE, **GRAPHS["a text"]}, "apply", model=models[-1],
                       profile=one)
    plain, gender, both = (sample(model, steps=2) for model in models)
    assert sorted(text.partition(":")[0] for text, _ in said[-2:]) == ["doctor-gender", "tones"]
    assert all("2 of 2 images steered" in text for text, _ in said[-2:])
    assert not torch.equal(plain, gender) and not torch.equal(gender, both)
