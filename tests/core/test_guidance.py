"""The SLD rule on predictions, as pure tensors."""
import math
from dataclasses import replace

import pytest
import torch

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.guidance import GuidanceRun
from sd_debias.core.method.methods import Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sld_presets import PRESETS
from sd_debias.core.method.step import Steps

DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def predictions(*shape, device="cpu", seed=0):
    """eps_cond, eps_uncond, eps_unsafe."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (2, 4, 8, 8), generator=generator).to(device) for _ in range(3)]


def full(value, cond=0.0, uncond=0.0):
    return [torch.full((1, 1, 1, 1), float(x)) for x in (cond, uncond, value)]


def test_without_threshold_and_momentum_gamma_is_the_whole_difference_once_mu_saturates(device):
    cond, uncond, unsafe = predictions(device=device)
    gamma = GuidanceRun(SafeLatentGuidance(scale=1e9)).step(cond, uncond, unsafe, 0.0)
    assert torch.equal(gamma, unsafe - uncond)


def test_below_saturation_scale_weighs_by_the_difference_of_prompt_and_unsafe():
    gamma = GuidanceRun(SafeLatentGuidance(scale=2.0)).step(*full(0.1, cond=0.3, uncond=0.05), 0.0)
    assert gamma.item() == pytest.approx(2.0 * 0.2 * (0.1 - 0.05))


def test_threshold_is_signed():
    for cond, guided in ((0.0, True), (0.12, False), (-5.0, True)):  # cond - unsafe < 0.01
        gamma = GuidanceRun(SafeLatentGuidance(threshold=0.01)).step(*full(0.1, cond=cond), 0.0)
        assert bool(gamma) == guided, cond


def test_momentum_follows_the_authors_recursion(device):
    settings = SafeLatentGuidance(1000, None, momentum_scale=0.5, momentum_beta=0.7)
    run, nu = GuidanceRun(settings), 0.0
    for step in range(5):
        cond, uncond, unsafe = predictions(device=device, seed=step)
        expected = ((cond - unsafe).abs() * 1000).clamp(max=1) * (unsafe - uncond) + 0.5 * nu
        nu = 0.7 * nu + 0.3 * expected
        assert torch.allclose(run.step(cond, uncond, unsafe, step / 5), expected, atol=1e-6)


def test_momentum_builds_up_during_the_warm_up_though_nothing_is_applied():
    run = GuidanceRun(SafeLatentGuidance(1000, None, 0.5, 0.5, start=0.5))
    assert not run.step(*full(1.0, cond=3.0), 0.0).any()
    assert run.step(*full(1.0, cond=3.0), 0.5).item() == pytest.approx(1.0 + 0.5 * 0.5)


def test_a_sigma_evaluated_twice_advances_the_momentum_once_and_a_new_pass_forgets_it():
    run = GuidanceRun(SafeLatentGuidance(1000, None, 0.5, 0.5))
    first = run.step(*full(1.0, cond=3.0), 0.0)
    before = run.momentum.clone()
    run.step(*full(1.0, cond=3.0), 0.0)
    assert torch.equal(run.momentum, before)
    run.step(*full(1.0, cond=3.0), 0.1)
    assert not torch.equal(run.momentum, before)
    assert torch.equal(run.step(*full(1.0, cond=3.0), 0.0), first)


@pytest.mark.parametrize("progress, active", [
    (0.0, False), (0.29, False), (0.3, True), (0.59, True), (0.6, False), (1.0, False)])
def test_the_window_holds_its_start_and_not_its_end(progress, active):
    settings = SafeLatentGuidance(start=0.3, end=0.6)
    run = GuidanceRun(settings)
    assert settings.active(progress) == settings.needs_unsafe(progress) == active
    assert run.step(*predictions(), progress).any() == active and run.steps == active


def test_the_warm_up_needs_unsafe_only_where_momentum_builds_up():
    window = SafeLatentGuidance(start=0.3, end=0.6)
    momentum = replace(window, momentum_scale=0.3, momentum_beta=0.4)
    assert not window.needs_unsafe(0.1)
    assert momentum.needs_unsafe(0.1) and not momentum.needs_unsafe(0.7)
    assert not replace(momentum, scale=0.0).needs_unsafe(0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_computed_in_float32(dtype, device):
    halves = [p.to(dtype) for p in predictions(device=device)]
    gamma = GuidanceRun(PRESETS["max"]).step(*halves, 0.0)
    assert gamma.dtype == torch.float32
    assert torch.equal(gamma, GuidanceRun(PRESETS["max"]).step(*(p.float() for p in halves), 0.0))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 3, 8, 8), (2, 64, 16)],
                         ids=["image", "video", "packed tokens"])
def test_an_image_of_any_shape_is_guided_alike_in_any_batch(shape):
    batch, single = GuidanceRun(PRESETS["max"]), GuidanceRun(PRESETS["max"])
    for step in range(3):
        together = predictions(*shape, seed=step)
        gamma = batch.step(*together, step / 3)
        assert gamma.shape == shape
        assert torch.equal(gamma[1:], single.step(*(p[1:] for p in together), step / 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_image_whose_prediction_is_not_finite_goes_without_guidance_and_leaves_the_others_theirs(bad, device):
    cond, uncond, unsafe = predictions(device=device)
    run, clean = GuidanceRun(PRESETS["max"]), GuidanceRun(PRESETS["max"])
    broken = unsafe.clone()
    broken[0, 0, 0, 0] = bad
    gamma, whole = run.step(cond, uncond, broken, 0.0), clean.step(cond, uncond, unsafe, 0.0)
    assert not gamma[0].any()
    assert torch.equal(gamma[1], whole[1])
    assert torch.isfinite(run.step(cond, uncond, unsafe, 0.1)).all(), "the momentum must not remember it"
    with pytest.warns(UserWarning, match="left out 1 of 2 steps"):
        assert run.summary()["skipped"] == 1


def test_the_summary_does_not_claim_what_did_not_happen():
    untouched = dict(steps=0, skipped=0, magnitude=0.0, acted=False)
    run = GuidanceRun(SafeLatentGuidance(end=0.5))
    run.step(*predictions(), 0.7)
    assert run.summary() == untouched
    same = predictions()[0]
    run.step(same, same, same, 0.1)
    assert run.summary() == {**untouched, "steps": 1}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("has_uncond", [True, False])
def test_toward_evaluates_where_the_weights_lead_and_takes_its_difference_the_other_way(device, linear, has_uncond):
    weights = torch.tensor([[0.5, -2.0], [0.0, 0.0], [-0.25, 0.125]], device=device)
    method = Method("embedding", guidance=SafeLatentGuidance(linear=linear, length=0.5 if linear else 1.0,
                                                             anchor="prompt", toward=True))
    steps = Steps(method, weights, has_uncond)
    length = torch.tensor([4.0, 1.0, 0.5] if linear else [1.0] * 3, device=device)[:, None]  # text's of .5, or its own
    assert steps.prompt_is_baseline
    # The text is the prompt, shifted by these: toward the second group in the first row.
    assert steps.text.moved and steps.text.images == (0, 2)
    assert torch.allclose(steps.text.weights, weights / length)
    cond, _, text = predictions(3, 4, 8, 8, device=device)
    expected = length[:, :, None, None] * (cond - text)
    expected[1] = 0
    assert torch.allclose(steps.gamma(0, 0.0, cond, cond, text), expected, atol=1e-6)


@pytest.mark.parametrize("setting, fact", [
    *((setting, ".") for setting in (
        dict(scale=-1), dict(start=0.6, end=0.5), dict(start=-0.1), dict(end=1.1),
        dict(momentum_beta=1.5), dict(scale=math.nan), dict(threshold=math.inf))),
    (dict(toward=True), "needs the anchor 'prompt', got 'empty'"),
    (dict(length=0.5), "which is off"), (dict(linear=True, length=0.0), "from 0.01 to 10, got 0")])
def test_settings_that_make_no_sense_are_refused_and_not_ignored(setting, fact):
    with pytest.raises(DebiasError, match=fact):
        SafeLatentGuidance(**setting)


def test_predictions_of_different_shapes_are_refused():
    cond, uncond, unsafe = predictions()
    with pytest.raises(ValueError, match="one shape"):
        GuidanceRun(SafeLatentGuidance()).step(cond, uncond, unsafe[:1], 0.0)
