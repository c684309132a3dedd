"""Guidance of real diffusers pipelines, with random tiny networks. All hosts: tests/contracts."""
import inspect
import math
from contextlib import contextmanager
from functools import cache

import diffusers
import numpy as np
import pytest
import tiny_llm
import tiny_pipelines
import torch
from diffusers.hooks import (
    FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache,
)
from PIL import Image
from sld_presets import PRESETS

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.guidance import GuidanceRun
from sd_debias.core.method.methods import ALONE, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.diffusers_host.encode import encode, encode_all
from sd_debias.diffusers_host.generate import generate, guided
from sd_debias.diffusers_host.call import rows_of
from sd_debias.diffusers_host.hook import GuidedDenoiser, eps_units

PROMPT = "a doctor"
AWAY = [1.0, -1.0]  # weights: from men, toward women
NONE = [0.0, 0.0]
FAMILIES = {
    "sd": tiny_pipelines.sd,
    "sd2_v": lambda: tiny_pipelines.sd(prediction_type="v_prediction"),
    "sdxl": tiny_pipelines.sdxl,
    "sd3": tiny_pipelines.sd3,
    "flux": tiny_pipelines.flux,
}
made = cache(lambda family: FAMILIES[family]())  # for tests that change nothing of it


def picture(seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def images_of(pipe, weights=None, seeds=(1, 2), direction="prompt", rule=None, **more):
    """A small, short call."""
    attributes = [] if weights is None else [GENDER]
    method = Method(direction, guidance=rule or SafeLatentGuidance())
    call = dict(num_inference_steps=3, attributes=attributes, weights=weights, method=method)
    if "image" not in more:
        call.update(height=16, width=16)
    if "Flux" in type(pipe).__name__:
        call["max_sequence_length"] = 32
    return generate(pipe, PROMPT, seeds, **call | more)


def seeded(seeds=(1,)):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents_of(pipe, weights, method, seeds=(1,), **more):
    with guided(pipe, PROMPT, [GENDER], torch.tensor(weights), method) as guide:
        return pipe(**guide.call, generator=seeded(seeds), output_type="latent", **more).images


def denoiser(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


@contextmanager
def counted(module):
    """Rows of each evaluation, as the network sees them."""
    evaluations, inner = [], module.forward

    def forward(*args, **kwargs):
        sample = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        evaluations.append(len(sample))
        return inner(*args, **kwargs)

    module.forward = forward
    yield evaluations
    del module.forward


@pytest.fixture
def seen(monkeypatch):
    """The progress and the result of every GuidanceRun.step."""
    steps, step = [], GuidanceRun.step

    def spy(run, *args):
        steps.append((args[3], step(run, *args)))
        return steps[-1][-1]

    monkeypatch.setattr(GuidanceRun, "step", spy)
    return steps


def close(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


# --- every family --------------------------------------------------------------------------------


WINDOW = dict(rule=SafeLatentGuidance(start=0.2, end=0.8), num_inference_steps=10)


@pytest.mark.parametrize("family, direction, more, expected", [
    ("flux", "prompt", {}, [2] * 3),
    ("sd", "embedding", {}, [4, 1] * 3),
    # Without guidance a further row doubles a step, and every second step repeats the last gamma.
    ("flux", "embedding", {}, [2, 1, 2, 2, 1]),
    ("sd", "embedding", WINDOW, [4] * 2 + [4, 1] * 6 + [4] * 2),
    ("sd", "embedding", dict(WINDOW, guidance_scale=1.0), [2] * 2 + [2, 1, 2] * 3 + [2] * 2),
    # Negative prompts of Flux, and SD 3's pass without some layers, have calls of their own.
    ("flux", "embedding", dict(negative_prompt="ugly", true_cfg_scale=3.0),
     [2, 1, 2, 2, 2, 2, 1, 2]),
    ("sd3", "embedding", dict(skip_guidance_layers=[1], skip_layer_guidance_start=-1.0,
                              skip_layer_guidance_stop=1.0), [4, 1, 2] * 3)])
def test_what_is_evaluated_is_the_pipeline_s_own_and_the_rows_that_guidance_needs(
        family, direction, more, expected):
    pipe = made(family)
    own = {name: value for name, value in more.items() if name != "rule"}
    with counted(denoiser(pipe)) as plain:
        images_of(pipe, **own)
    with counted(denoiser(pipe)) as evaluations:
        _, info = images_of(pipe, [NONE, AWAY], direction=direction, **more)
    assert evaluations == expected
    assert info["extra_evaluations"] == sum(evaluations) - sum(plain)
    assert "rule" not in more or info["steps"] == 6


@pytest.mark.parametrize("family, cfg", [("sd", 5.0), ("sdxl", 1.0), ("flux", 5.0)])
def test_however_many_groups_no_call_has_more_rows_than_the_pipeline_s(family, cfg):
    """And an image is the one that it is alone, where its further rows come in other calls."""
    pipe, flux = made(family), family == "flux"
    spread = [[0.0] * 5, [0.3, -0.2, 0.1, 0.2, -0.4], [-0.1, 0.4, -0.3, 0.1, -0.1]]
    names = "red", "black", "grey", "fair", "none"
    five = Attribute("hair", tuple(Group(name, (name,)) for name in names))
    method = Method("embedding", context=ALONE)
    more = dict(max_sequence_length=32) if flux else {}

    def latents(weights, seeds):
        encoded = encode_all(pipe, PROMPT, [five], ALONE, **more)
        with guided(pipe, PROMPT, [five], torch.tensor(weights), method, encoded=encoded) as guide:
            call = dict(height=16, width=16, num_inference_steps=3, guidance_scale=cfg, **more)
            found = pipe(**guide.call, **call, generator=seeded(seeds), output_type="latent").images
        return found, guide.summary()

    own = 6 if cfg > 1 and not flux else 3
    with counted(denoiser(pipe)) as evaluations:
        found, info = latents(spread, (1, 2, 3))
    assert max(evaluations) == own
    assert sum(evaluations) - 3 * own == info["extra_evaluations"] == (6 if cfg > 1 and not flux else 4)
    for image, seed in ((1, 2), (2, 3)):
        alone, _ = latents([spread[image]], (seed,))
        other, _ = latents([spread[3 - image]], (seed,))  # the other one's weights
        off = (found[image] - alone[0]).abs().max()
        assert off < 2e-3 and (found[image] - other[0]).abs().max() > 10 * off


def test_a_text_that_a_callback_changes_is_changed_for_pictures_that_are_left_alone_too():
    pipe, method = tiny_pipelines.sdxl(), Method("embedding")
    call = dict(seeds=(1, 2), height=16, width=16, num_inference_steps=4)

    def doubled(pipe, step, time, given):
        return dict(add_text_embeds=given["add_text_embeds"] * 2)
    unchanged = latents_of(pipe, [NONE, NONE], method, **call)
    call["callback_on_step_end_tensor_inputs"] = ["add_text_embeds"]
    plain, found = (latents_of(pipe, [first, NONE], method, **call, callback_on_step_end=doubled)
                    for first in (NONE, AWAY))
    assert torch.equal(found[1], plain[1]) and not torch.equal(found[0], plain[0])
    assert not torch.allclose(plain[1], unchanged[1], atol=1e-2)


@pytest.mark.parametrize("name, direction, more", [
    ("img2img", "prompt", dict(strength=0.7, num_inference_steps=5)),
    ("controlnet", "embedding", {}), ("inpaint", "embedding", {})])
def test_pipelines_with_further_inputs_are_guided_too(name, direction, more):
    pipe = getattr(tiny_pipelines, name)()

    def inputs(n):
        # This pipeline draws a single image's latents from the first image's generator, so each gets an image.
        own = dict(image=[picture()] * n, mask_image=[picture(1)] * n)
        return own if name == "inpaint" else dict(image=picture(), **more)
    plain, _ = images_of(pipe, **inputs(2))
    images, info = images_of(pipe, [NONE, AWAY], direction=direction, **inputs(2))
    single, _ = images_of(pipe, AWAY, seeds=(2,), direction=direction, **inputs(1))
    assert np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])
    assert close(images[1:], single)


# --- what is computed ----------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_sampler_without_timesteps_before_its_first_run_is_guided_as_after_it(kind):
    """PNDM, which the folders of Stable Diffusion 1.5 name."""
    pipe, pndm = tiny_pipelines.sd(), diffusers.PNDMScheduler
    pipe.scheduler = tiny_pipelines.scheduler(pndm, prediction_type=kind, skip_prk_steps=True)
    assert pipe.scheduler.timesteps is None
    images, info = images_of(pipe, AWAY, direction="embedding")
    assert info["acted"] and np.array_equal(images, images_of(pipe, AWAY, direction="embedding")[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("preset", PRESETS)
def test_one_group_of_weight_1_gives_the_latents_of_diffusers_safe_latent_diffusion(preset):
    """mu's slope of up to 5000 makes rounding grow in an untrained network: SLD's own latents then depend on the batch
    size. A weaker prediction and a milder noise schedule keep that far below 1e-4, and SLD's effect far above."""
    safe = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    settings, pipe, prompts = PRESETS[preset], tiny_pipelines.sd(), ["a doctor"] * 2
    pipe.unet.conv_out.weight.mul_(0.1)
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, beta_end=0.002)
    theirs = safe.StableDiffusionPipelineSafe(**pipe.components, requires_safety_checker=False)
    theirs.safety_concept = "an old man"

    def latents(pipe, **call):  # SLD's pipeline has no output_type for them
        last = []
        pipe(generator=seeded((1, 2)), num_inference_steps=10, callback_steps=1,
             callback=lambda step, t, latents: last.append(latents), **call)
        assert len(last) == 10
        return last[-1]
    expected = latents(
        theirs, prompt=prompts, sld_guidance_scale=settings.scale, sld_threshold=settings.threshold,
        sld_warmup_steps=math.ceil(settings.start * 10), sld_mom_beta=settings.momentum_beta,
        sld_momentum_scale=settings.momentum_scale)
    # An attribute has two groups at least; one of weight 0 takes no part.
    concept = Attribute("concept", (Group("it", ("an old man",)), Group("other")))
    method = Method("embedding", ALONE, guidance=settings)
    with guided(pipe, "a doctor", [concept], torch.tensor([[1.0, 0.0]] * 2), method) as guide:
        ours = latents(pipe, **guide.call)
    assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("sampler, more", [
    (diffusers.DDIMScheduler, {}), (diffusers.DPMSolverMultistepScheduler, {}),
    (diffusers.DDPMScheduler, dict(clip_sample=False))])
def test_units_turn_what_a_network_predicts_into_noise(sampler, more):
    """Two of one x, as noise, velocity or image: units times their difference is the noise's."""
    x, one, two = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)).double()
    for kind in ("epsilon", "v_prediction", "sample"):
        scheduler = tiny_pipelines.scheduler(sampler, prediction_type=kind, **more)
        scheduler.set_timesteps(4)
        alpha = scheduler.alphas_cumprod.double()[scheduler.timesteps, None] ** 0.5
        sigma = (1 - alpha ** 2) ** 0.5

        def asked(eps, kind=kind, alpha=alpha, sigma=sigma):
            return dict(epsilon=eps, v_prediction=(eps - sigma * x) / alpha,
                        sample=(x - sigma * eps) / alpha)[kind]
        units = torch.tensor(eps_units(scheduler)).double()[:, None]
        assert torch.allclose(units * (asked(one) - asked(two)), one - two, atol=1e-5)


def test_units_stay_finite_where_the_last_alpha_is_zero_and_flows_are_taken_as_they_are():
    scheduler = tiny_pipelines.scheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True,
                                         timestep_spacing="trailing")
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    for each in (scheduler, flow):
        each.set_timesteps(4)
    assert scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0
    assert all(math.isfinite(1 / k) and k for k in eps_units(scheduler))
    assert eps_units(flow) == [1.0] * 4


@pytest.mark.parametrize("kind, more", [
    (diffusers.EulerDiscreteScheduler, dict(use_karras_sigmas=True)),
    (diffusers.EulerAncestralDiscreteScheduler, {}),
    (diffusers.HeunDiscreteScheduler, {}), (diffusers.PNDMScheduler, dict(skip_prk_steps=True)),
    (diffusers.UniPCMultistepScheduler, {})], ids=lambda value: getattr(value, "__name__", ""))
def test_progress_follows_the_schedule_of_any_sampler(kind, more, seen):
    """One of second order has a sigma twice: momentum advances once for it."""
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(kind, **more)
    rule = SafeLatentGuidance(1000, None, 0.3, 0.4)
    _, info = images_of(pipe, [AWAY, AWAY], num_inference_steps=4, direction="embedding", rule=rule)
    progress = [place for place, _ in seen]
    assert progress[0] == 0 and progress == sorted(progress) and progress[-1] < 1
    assert len(progress) == len(pipe.scheduler.timesteps) == info["steps"]


def hook_of(forward, weights, method):
    """The hook of Stable Diffusion, with this in place of its U-Net, in a run of four steps."""
    pipe = tiny_pipelines.sd()
    pipe._guidance_scale = 1.0
    pipe.scheduler.set_timesteps(4)
    encoded = encode_all(pipe, PROMPT, [GENDER], method.context)
    names = list(inspect.signature(forward).parameters)
    return GuidedDenoiser(pipe, forward, names, [GENDER], torch.tensor(weights), encoded, method)


def test_added_rows_get_the_residuals_of_a_t2i_adapter_which_a_u_net_takes_out_of_their_list():
    taken = []

    def forward(sample, timestep, encoder_hidden_states, down_intrablock_additional_residuals):
        taken.append([down_intrablock_additional_residuals.pop(0) for _ in (1, 2)])
        return (sample,)
    hook = hook_of(forward, [AWAY], Method("embedding", ALONE))
    hook(torch.zeros(1, 4, 2, 2), hook.pipe.scheduler.timesteps[0],
         down_intrablock_additional_residuals=[torch.ones(1, 2), torch.zeros(1, 2)],
         encoder_hidden_states=hook.encoded.prompt["prompt_embeds"])
    own, added = taken
    assert all(torch.equal(a, b) for a, b in zip(own, added, strict=True))


def test_without_cfg_only_the_weights_change_of_the_text_makes_gamma():
    """The pipeline may evaluate another text than the prompt's own, as SDXL does with a second prompt."""
    taken = []

    def forward(sample, timestep, encoder_hidden_states):
        taken.append(encoder_hidden_states)
        return (sample,)
    hook, again = (hook_of(forward, [[0.0, -1.0]], Method("embedding")) for _ in range(2))
    prompt, groups = hook.encoded.prompt["prompt_embeds"], hook.encoded.groups["prompt_embeds"]
    other, call = prompt + 5, (torch.zeros(1, 4, 2, 2), hook.pipe.scheduler.timesteps[0])
    hook(*call, encoder_hidden_states=other)
    assert torch.equal(taken[0], other)
    assert torch.allclose(taken[1], other + prompt - groups[1], atol=1e-5)
    with pytest.raises(DebiasError, match="max_sequence_length"):
        again(*call, encoder_hidden_states=other[:, :-1])


def test_without_cfg_a_sampler_of_second_order_is_evaluated_in_every_second_sigma_too(seen):
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(diffusers.HeunDiscreteScheduler)
    _, info = images_of(pipe, AWAY, (1,), "embedding", guidance_scale=1.0, num_inference_steps=6)
    assert len(pipe.scheduler.timesteps) == 11 and info["steps"] == 11
    assert info["extra_evaluations"] == len(seen) == 5  # sigmas 1, 3 and 5, of which the first is evaluated once


def test_without_cfg_gamma_is_not_halved_by_a_threshold(seen):
    rule = SafeLatentGuidance(threshold=0.01)
    images_of(tiny_pipelines.sd(), AWAY, (1,), "embedding", rule, guidance_scale=1.0)
    _, gamma = seen[0]
    assert 0.2 < (gamma < 0).float().mean() < 0.8


def test_img2img_counts_its_window_on_the_whole_schedule(seen):
    more = dict(image=picture(), strength=0.4, num_inference_steps=10)
    images_of(tiny_pipelines.img2img(), AWAY, (1,), "embedding", **more)
    assert [place for place, _ in seen] == [0.6, 0.7, 0.8, 0.9]


def test_every_call_of_the_pipeline_is_a_run_of_its_own():
    pipe = tiny_pipelines.sd()
    method = Method("embedding", guidance=SafeLatentGuidance(1000, None, 0.5, 0.7))
    call = dict(num_inference_steps=3, output_type="latent")
    with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), method) as guide:
        first, second = (pipe(**guide.call, **call, generator=seeded()).images for _ in range(2))
    assert torch.equal(first, second)
    assert guide.summary()["steps"] == 3 and guide.summary()["guided_images"] == 2


def qwen():
    return tiny_llm.PIPELINES["QwenImagePipeline"]()


@pytest.mark.parametrize("make", [tiny_pipelines.flux, qwen])
@pytest.mark.parametrize("switch", [
    lambda denoiser, config: denoiser.enable_cache(config), apply_first_block_cache])
def test_a_cache_of_first_blocks_keeps_the_texts_apart_however_it_is_on(make, switch):
    pipe = make()
    switch(pipe.transformer, FirstBlockCacheConfig(threshold=10.0))
    more = tiny_llm.CALLS["QwenImagePipeline"] if make is qwen else {}
    plain, _ = images_of(pipe, **more)
    images, info = images_of(pipe, [NONE, AWAY], direction="embedding", **more)
    assert info["acted"] and np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])


@pytest.mark.parametrize("name, config", [
    ("pyramid_attention_broadcast", PyramidAttentionBroadcastConfig),
    ("faster_cache_block, faster_cache_denoiser", FasterCacheConfig)])
def test_a_cache_that_takes_one_text_for_another_is_refused_before_the_first_picture(name, config):
    pipe = tiny_pipelines.flux()
    pipe.transformer.enable_cache(config(spatial_attention_block_skip_range=2,
                                         current_timestep_callback=lambda: pipe.current_timestep))
    with counted(pipe.transformer) as evaluations:
        with pytest.raises(DebiasError, match=rf"got {name}\. Call"):
            images_of(pipe, AWAY, direction="embedding")
    assert not evaluations


def test_a_group_s_texts_are_averaged_and_attributes_lie_side_by_side():
    pipe = tiny_pipelines.sd()
    age = Attribute("age", (Group("young", ("a boy", "a girl")), Group("old", ("{prompt} aged",))))
    groups = encode_all(pipe, PROMPT, [GENDER, age], ALONE).groups["prompt_embeds"]
    boy, girl, aged = encode(pipe, ["a boy", "a girl", "a doctor aged"])["prompt_embeds"]
    assert groups.shape == (4, 1, 16, 32)
    assert torch.allclose(groups[2, 0], (boy + girl) / 2, atol=1e-5)
    assert torch.allclose(groups[3, 0], aged, atol=1e-5)


# --- precision, devices, compilation -------------------------------------------------------------

@pytest.mark.filterwarnings("ignore:.*quant")  # torch's own, which it will replace by another library
@pytest.mark.parametrize("family, direction", [
    ("sd", "embedding"), ("sdxl", "embedding"), ("sd3", "prompt"), ("flux", "embedding")])
def test_models_of_fp8_weights_and_quantised_text_encoders_are_guided_as_others(direction, family):
    pipe, fp8 = FAMILIES[family](), torch.float8_e4m3fn
    denoiser(pipe).enable_layerwise_casting(storage_dtype=fp8, compute_dtype=torch.float32)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        whole = getattr(pipe, name, None)
        if whole is not None:
            quantise = torch.ao.quantization.quantize_dynamic
            setattr(pipe, name, quantise(whole, {torch.nn.Linear}, torch.qint8))
    assert any(weights.dtype == fp8 for weights in denoiser(pipe).parameters())
    plain, _ = images_of(pipe)
    images, info = images_of(pipe, [NONE, AWAY], direction=direction)
    assert info["acted"] and not info["skipped"] and not info["broken"]
    assert np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])


def test_flux_finds_its_place_in_the_schedule_though_bfloat16_rounds_its_timesteps(seen):
    pipe = tiny_pipelines.flux().to(torch.bfloat16)
    images_of(pipe, AWAY, seeds=(1,), direction="embedding", num_inference_steps=40)
    assert [place for place, _ in seen] == [step / 40 for step in range(0, 40, 2)]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("stance", [pytest.param("default", marks=pytest.mark.slow), "force_eager"])
def test_compiled_denoisers_are_guided_alike(in_place, stance):
    """Forced to be eager, a module is wrapped as a compiled one, but nothing is traced: quick."""
    pipe, more = tiny_pipelines.sd(), dict(direction="embedding", num_inference_steps=2)
    plain, _ = images_of(pipe, **more)
    eager, _ = images_of(pipe, AWAY, **more)
    if in_place:
        pipe.unet.compile(backend="eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    entry, outside = "_compiled_call_impl" if in_place else "forward", []

    def note(pipe, step, time, given):
        outside.append(isinstance(vars(pipe.unet)[entry], GuidedDenoiser))
        return given

    with torch.compiler.set_stance(stance):
        compiled, info = images_of(pipe, AWAY, callback_on_step_end=note, **more)
        afterwards, _ = images_of(pipe, **more)
    torch.compiler.reset()
    assert info["acted"] and close(compiled, eager) and not close(compiled, plain)
    assert all(outside), "what is compiled must not trace the hook"
    assert close(afterwards, plain), "guidance must be gone afterwards"


# --- nothing stays behind ------------------------------------------------------------------------

def raising(error):
    def stop(*_, **__):
        raise error
    return stop


@pytest.mark.parametrize("direction, place", [
    ("prompt", "callback"), ("embedding", "callback"), ("embedding", "decode"),
    ("embedding", "text_encoder")])
def test_the_hook_goes_when_the_context_ends_and_after_an_exception(direction, place, monkeypatch):
    """Memory may run out anywhere."""
    pipe, error = tiny_pipelines.sd(), torch.cuda.OutOfMemoryError("CUDA out of memory.")
    plain, steered = images_of(pipe)[0], images_of(pipe, AWAY, direction=direction)[0]
    more = dict(callback_on_step_end=raising(error)) if place == "callback" else {}
    with monkeypatch.context() as patch, pytest.raises(torch.cuda.OutOfMemoryError):
        if place == "decode":
            patch.setattr(pipe.vae, "decode", raising(error))
        elif place == "text_encoder":
            patch.setattr(pipe.text_encoder, "forward", raising(error))
        images_of(pipe, AWAY, direction=direction, **more)
    assert "forward" not in vars(pipe.unet)
    assert np.array_equal(images_of(pipe)[0], plain)
    assert np.array_equal(images_of(pipe, AWAY, direction=direction)[0], steered)
    assert "forward" not in vars(pipe.unet)


def test_a_forward_that_offloading_put_in_place_is_given_back_and_one_that_it_replaced_is_left():
    pipe = tiny_pipelines.sd()
    with counted(pipe.unet) as evaluations:
        theirs = vars(pipe.unet)["forward"]
        images_of(pipe, AWAY, direction="embedding")
        assert vars(pipe.unet)["forward"] is theirs
    assert evaluations == [4, 2] * 3
    with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")) as guide:
        pipe(**guide.call, num_inference_steps=1)
        theirs = pipe.unet.forward = type(pipe.unet).forward.__get__(pipe.unet)
    assert vars(pipe.unet)["forward"] is theirs


def test_guiding_twice_at_once_is_refused_and_the_first_goes_on():
    pipe = tiny_pipelines.sd()
    with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")) as guide:
        with pytest.raises(DebiasError, match="guided"):
            with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")):
                pass
        pipe(**guide.call, num_inference_steps=1)
    assert guide.summary()["acted"]


# --- honesty -------------------------------------------------------------------------------------

def test_a_step_whose_unsafe_prediction_is_nan_is_left_out_and_said():
    pipe = tiny_pipelines.sd()
    plain, _ = images_of(pipe, seeds=(1,))
    inner = pipe.unet.forward

    def forward(*args, **kwargs):
        output = inner(*args, **kwargs)[0]
        return output * (math.nan if len(output) == 1 else 1),

    pipe.unet.forward = forward
    with pytest.warns(UserWarning) as caught:
        images, info = images_of(pipe, AWAY, seeds=(1,), direction="embedding", rule=PRESETS["max"])
    messages = " ".join(str(warning.message) for warning in caught)
    assert "3 of 3 steps" in messages and "3 of which were skipped" in messages
    assert np.array_equal(images, plain)
    assert info["skipped"] == 3 and not info["acted"]


def test_a_window_without_a_step_and_a_context_without_a_call_warn():
    pipe, rule = tiny_pipelines.sd(), SafeLatentGuidance(start=0.95)
    with pytest.warns(UserWarning, match=" 0 steps"):
        _, info = images_of(pipe, AWAY, direction="embedding", rule=rule)
    assert not info["acted"] and info["extra_evaluations"] == 0
    with pytest.warns(UserWarning, match=" 0 calls"):
        with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")):
            pass


def test_blacked_out_and_broken_images_are_counted_and_warn():
    pipe = tiny_pipelines.sd()
    pipe.run_safety_checker = lambda image, device, dtype: (image * math.nan, [True] * len(image))
    with pytest.warns(UserWarning) as caught:
        _, info = images_of(pipe)
    assert sum("2 of 2" in str(warning.message) for warning in caught) == 2
    assert info["blocked"] == 2 and info["broken"] == [0, 1]


# --- refusals ------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, message", [
    (dict(seeds=[]), "seed"),
    (dict(batch_size=0), "batch size"),
    (dict(weights=None), "steering for each"),
    (dict(weights=[[0.0, 1.0]] * 3), "each of 2 seeds"),
    (dict(weights=[math.nan, 0.0]), "finite"),
    (dict(steerings=[Steering.none(2)]), "not both"),
])
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    arguments = dict(seeds=[1, 2], attributes=[GENDER], weights=[0.0, 1.0]) | wrong
    with pytest.raises(DebiasError, match=message):
        generate(made("sd"), PROMPT, **arguments)


def test_another_number_of_images_than_rows_of_weights_is_refused():
    pipe = tiny_pipelines.sd()
    with pytest.raises(DebiasError, match="4 rows .* 2 rows"):
        with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY, AWAY]), Method("embedding")):
            pipe(PROMPT, num_inference_steps=1)
    assert "forward" not in vars(pipe.unet)


def test_pipelines_and_schedulers_that_are_not_known_are_refused():
    for kind in (diffusers.DDIMPipeline, diffusers.PixArtAlphaPipeline):
        with pytest.raises(DebiasError, match=kind.__name__):
            encode(object.__new__(kind), [PROMPT])
    with pytest.raises(DebiasError, match="EDMEulerScheduler"):
        eps_units(diffusers.EDMEulerScheduler())


def test_a_denoiser_s_other_arguments_are_those_of_the_rows_but_for_what_is_no_batch():
    rows = torch.arange(2.0)[:, None]
    found = rows_of(dict(timestep=torch.tensor(7), residuals=(rows, [rows]), img_ids=rows, added=dict(ids=rows),
                          scale=0.5, none=None, one=rows[:1], kv_cache="of another text"), 2, torch.tensor([1, 1, 0]))
    expected = torch.tensor([[1.0], [1.0], [0.0]])
    for value in (found["residuals"][0], found["residuals"][1][0], found["added"]["ids"]):
        assert torch.equal(value, expected)
    assert found["timestep"] == 7 and found["scale"] == 0.5 and found["none"] is None and found["kv_cache"] is None
    assert torch.equal(found["img_ids"], rows) and torch.equal(found["one"], rows[:1])
