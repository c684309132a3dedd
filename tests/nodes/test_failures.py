"""Generations that fail in the middle: memory that runs out, Cancel, other nodes' hooks that raise.
Nothing is claimed, and the next run is as it ever was. Calibrations: test_calibrate.py."""
import pytest
import torch
from nodes_given import (cancelled, comfy, failing, memory_ran_out, network, nth, others_error,
                         ours, profile)

from sd_debias.core.method.methods import DIRECTIONS, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance

METHODS = {direction: Method(direction) for direction in DIRECTIONS} | {
    "in a window": Method("prompt", guidance=SafeLatentGuidance(start=0.2, end=0.6))}


@pytest.fixture
def claims(monkeypatch):
    """What is written into images' metadata."""
    found = []
    monkeypatch.setattr(ours.messages, "record", found.append)
    return found


@pytest.fixture(scope="module")
def kept():
    """Images that several tests compare with, by name."""
    return {}


@pytest.fixture
def apply(demo, call, sample, kept, said, claims):
    """apply(method, model) -> a model with a profile; .plain, .guided(method): latents"""
    def apply(method, base=demo[0]):
        return call("DebiasApply", model=base, profile=profile(method=METHODS[method]))[0]

    def latents(name, made):
        if name not in kept:
            kept[name] = sample(made(), steps=3)
            said.clear(), claims.clear()
        return kept[name]

    apply.plain = latents("plain", lambda: demo[0])
    apply.guided = lambda method: latents(method, lambda: apply(method))
    return apply


def hooked(model, hook, fail):
    """Puts a hook on a model, which raises when it is called for the third time."""
    now, failed = nth(3), []

    def then(value):
        if not failed and now():
            failed.append(True)
            raise fail()
        return value

    put = {
        "model_function_wrapper": lambda: model.set_model_unet_function_wrapper(
            lambda apply, given: then(apply)(given["input"], given["timestep"], **given["c"])),
        "sampler_cfg_function": lambda: model.set_model_sampler_cfg_function(
            lambda args: torch.lerp(then(args)["uncond"], args["cond"], args["cond_scale"])),
        "an attention patch": lambda: model.set_model_attn2_patch(
            lambda q, k, v, options: then((q, k, v)))}
    put[hook]()


@pytest.mark.parametrize("method, hook, fail, behind", [
    ("prompt", "the network", memory_ran_out, False),
    ("embedding", "the network", cancelled, False),
    ("in a window", "model_function_wrapper", others_error, False),
    ("embedding", "model_function_wrapper", others_error, True),
    ("embedding", "sampler_cfg_function", others_error, True),
    ("embedding", "an attention patch", others_error, False),
    ("embedding", "an attention patch", others_error, True),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("prompt", "sampler_cfg_function", others_error, False),
        ("embedding", "the network", memory_ran_out, False),
        ("in a window", "sampler_cfg_function", others_error, True)))])
def test_a_generation_that_fails_claims_nothing_and_the_next_is_clean(
        demo, apply, said, claims, sample, method, hook, fail, behind):
    model, guided = demo[0], apply.guided(method)
    assert (guided - apply.plain).abs().max() > 0.02
    theirs = model if behind else model.clone()
    patched = apply(method, theirs) if behind else None
    if hook == "the network":
        patched = apply(method, theirs)
        with pytest.raises(type(fail())), failing(network(model), "forward", fail, nth(3)):
            sample(patched, steps=3)
    else:
        hooked(patched or theirs, hook, fail)
        patched = patched or apply(method, theirs)
        with pytest.raises(type(fail())):
            sample(patched, steps=3)
    assert not said and not claims
    assert torch.equal(sample(model, steps=3), apply.plain)
    assert torch.equal(sample(apply(method), steps=3), guided)
    assert len(claims) == 1 and "2 of 2 images steered" in said[-1][0]
    # A hook that failed once is no hindrance to the same model's next run.
    assert (sample(patched, steps=3) - guided).abs().max() < 2e-3


@pytest.mark.parametrize("method", METHODS)
def test_another_nodes_wrapper_that_samples_again_after_memory_ran_out_is_not_guided_twice(
        demo, apply, said, claims, sample, method):
    model, guided = demo[0], apply.guided(method)

    def again(executor, *args, **kwargs):
        try:
            return executor(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            return executor(*args, **kwargs)

    theirs = model.clone()
    theirs.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "another pack", again)
    patched = apply(method, theirs)
    with failing(network(model), "forward", memory_ran_out, nth(3)):
        found = sample(patched, steps=3)
    assert torch.equal(found, guided) and len(said) == len(claims) == 1


def test_two_checkpoints_of_a_graph_with_one_profile_do_not_mix(demo, call, said, sample):
    applied, both = profile(model="a.safetensors"), {"a": demo, "b": ours.demo_model.load()}
    with torch.no_grad():
        for parameter in network(both["b"][0]).parameters():
            parameter.mul_(1.05)
    graph = {}
    for name in "ab":
        graph[name] = {"class_type": "CheckpointLoaderSimple",
                       "inputs": {"ckpt_name": f"{name}.safetensors"}}
        graph[f"apply {name}"] = {"class_type": "DebiasApply", "inputs": {"model": [name, 0]}}
    plain = {name: sample(model) for name, (model, *_) in both.items()}
    patched = {name: call("DebiasApply", graph, f"apply {name}", model=model, clip=clip,
                          profile=applied)[0] for name, (model, clip, _) in both.items()}
    alone = {"a": sample(patched["a"])}
    assert "calibrated at" not in said[-1][0]
    alone["b"] = sample(patched["b"])
    text, warning = said[-1]
    assert "model: calibrated at a.safetensors, used at b.safetensors" in text and warning
    assert (alone["a"] - alone["b"]).abs().max() > 1e-3
    for name in "ba":
        comfy.model_management.unload_all_models()
        assert torch.equal(sample(patched[name]), alone[name])
        assert torch.equal(sample(both[name][0]), plain[name])
