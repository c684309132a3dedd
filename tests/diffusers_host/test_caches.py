"""Caches of diffusers, which take from earlier steps what changes little: a push must act as it does without one."""
from functools import cache

import pytest
import tiny_modular
import tiny_pipelines
import tiny_several
import torch
from diffusers import (
    FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, TaylorSeerCacheConfig,
)

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.diffusers_host.generate import generate

STEPS, PUSH = 12, torch.tensor([[0.0, -1.0], [-1.0, 0.0]])
CACHES = {
    "first block": FirstBlockCacheConfig(threshold=0.15), "sea": SeaCacheConfig(threshold=1.0),
    "mag": MagCacheConfig(threshold=0.3, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS),
    "taylor": TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32)}
METHODS = {"prompt": Method(), "embedding": Method("embedding"),
           "window": Method(guidance=SafeLatentGuidance(start=0.25, end=0.75))}


@cache
def made(name):
    """Wan's pipeline tells caches the step, which the last of these wants to know."""
    return tiny_several.wan() if name == "sea" else tiny_pipelines.flux()


def pictures(pipe, method=None):
    steered = dict(attributes=[GENDER], weights=PUSH, method=method) if method else {}
    call = dict(tiny_pipelines.CALLS.get(type(pipe).__name__, {}), height=16, width=16, max_sequence_length=32)
    made, _ = generate(pipe, "a doctor", [1, 3], **steered, **dict(call, num_inference_steps=STEPS))
    return torch.from_numpy(made.astype(float))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CACHES)
def test_a_push_keeps_its_effect(name, method):
    """Of what it changes without the cache, 80 to 125 %; and the next call owes nothing to this one."""
    pipe = made(name)
    plain, pushed = pictures(pipe), pictures(pipe, METHODS[method])
    pipe.transformer.enable_cache(CACHES[name])
    try:
        cached, found, again = pictures(pipe), pictures(pipe, METHODS[method]), pictures(pipe, METHODS[method])
    finally:
        pipe.transformer.disable_cache()
    assert not torch.equal(cached, plain) and torch.equal(found, again)
    effect = pushed - plain
    assert effect.abs().mean() > 2
    assert 0.8 < (effect * (found - cached)).sum() / effect.square().sum() < 1.25


def test_a_modular_pipeline_with_a_cache_is_refused_by_name():
    """Its blocks do not tell a cache which text it is asked for."""
    pipe = tiny_modular.pipeline("wan")
    pipe.transformer.enable_cache(CACHES["mag"])
    with pytest.raises(DebiasError, match="mag_cache_.*disable_cache"):
        generate(pipe, "a doctor", [1, 3], attributes=[GENDER], weights=PUSH, **tiny_modular.call("wan"))
