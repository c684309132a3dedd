"""Guidance of real diffusers pipelines, with random tiny networks."""
import math
import warnings
from contextlib import contextmanager
from functools import cache
from typing import Callable

import diffusers
import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers.hooks import (
    FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache,
)
from PIL import Image

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.guidance import GuidanceRun
from sd_debias.core.method.methods import ALONE, DIRECTIONS, IN_CONTEXT, Method
from sd_debias.core.method.conditioning import Encoded
from sd_debias.diffusers_host.call import rows_of
from sd_debias.diffusers_host.hook import GuidedDenoiser, eps_units
from sd_debias.diffusers_host.encode import encode, encode_all
from sd_debias.diffusers_host.generate import generate, guided
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sld_presets import PRESETS
from sd_debias.core.method.draw import Steering, rows
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROMPT = "a doctor"
AWAY = [1.0, -1.0]  # weights: from men, toward women
FAMILIES: dict[str, Callable] = {
    "sd": tiny_pipelines.sd,
    "sd2_v": lambda: tiny_pipelines.sd(prediction_type="v_prediction"),
    "sdxl": tiny_pipelines.sdxl,
    "sd3": tiny_pipelines.sd3,
    "flux": tiny_pipelines.flux,
}
made = cache(lambda family: FAMILIES[family]())  # for tests that change nothing of it
HOOKED = ("embedding", "prediction")
DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]


def settings(pipe, **more):
    """Arguments of a small, short call."""
    flux = dict(max_sequence_length=32) if "Flux" in type(pipe).__name__ else {}
    return dict(height=16, width=16, num_inference_steps=3, **flux, **more)


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def images_of(pipe, weights=None, seeds=(1, 2), direction="prompt", rule=None, prompt=PROMPT, **more):
    attributes = [] if weights is None else [GENDER]
    method = Method(direction, guidance=rule or SafeLatentGuidance())
    return generate(pipe, prompt, seeds, attributes=attributes, weights=weights, method=method, **more)


def latents_of(pipe, weights, method, seeds=(1,), attributes=(GENDER,), negative_prompt=None, **more):
    with guided(pipe, PROMPT, attributes, torch.tensor(weights), method, negative_prompt=negative_prompt) as guide:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(**guide.call, generator=generators, output_type="latent", **more).images


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
    """Arguments and results of every GuidanceRun.step."""
    steps, step = [], GuidanceRun.step

    def spy(run, *args):
        steps.append((run, args, step(run, *args)))
        return steps[-1][-1]

    monkeypatch.setattr(GuidanceRun, "step", spy)
    return steps


def close(a, b, levels=1):
    return np.abs(a.astype(int) - b.astype(int)).max() <= levels


# --- every family ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pictures_are_told_with_what_guidance_did(direction):
    pipe = made("sd")
    plain, nothing = images_of(pipe, **settings(pipe))
    images, info = images_of(pipe, [[0.0, 0.0], AWAY], direction=direction, **settings(pipe))
    assert images.dtype == np.uint8 and images.shape == (2, 16, 16, 3)
    assert np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])
    assert info["acted"] and info["guided_images"] == 1 and info["magnitude"] > 0
    assert not nothing["acted"] and nothing["guided_images"] == 0


@pytest.mark.parametrize("family, direction", [("sd", "prompt"), ("sd2_v", "embedding"),
                                               ("sdxl", "prediction"), ("sd3", "embedding"),
                                               ("flux", "prediction"), ("flux", "prompt")])
def test_an_image_is_the_same_whatever_the_batch(family, direction):
    pipe = made(family)
    rule = SafeLatentGuidance(scale=10, momentum_scale=0.3, momentum_beta=0.4)
    rule = rule if direction in HOOKED else None
    weights = torch.tensor([[0.5, 0.0], [0.0, 0.0], AWAY])
    together, single = (images_of(pipe, weights, (3, 4, 5), direction, rule, batch_size=size,
                                  **settings(pipe))[0] for size in (3, 1))
    assert close(together, single)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_scale_of_zero_touches_nothing(direction):
    """Zero weights and strength: tests/contracts."""
    pipe = made("sd")
    with counted(denoiser(pipe)) as plain_rows:
        plain, _ = images_of(pipe, **settings(pipe))
    with counted(denoiser(pipe)) as off_rows, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        images, info = images_of(pipe, AWAY, direction=direction, rule=SafeLatentGuidance(scale=0.0),
                                 **settings(pipe))
    assert np.array_equal(images, plain) and off_rows == plain_rows
    assert not info["acted"] and info["extra_evaluations"] == 0


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_prompt_costs_no_evaluation_embedding_one_row_and_prediction_one_a_group(family):
    pipe = made(family)
    rows_of = {}
    for direction, weights in (("none", None), *((direction, AWAY) for direction in DIRECTIONS)):
        with counted(denoiser(pipe)) as rows_of[direction]:
            _, info = images_of(pipe, weights, direction="prompt" if weights is None else direction, **settings(pipe))
        assert info["extra_evaluations"] == sum(rows_of[direction]) - sum(rows_of["none"])
    cfg = family != "flux"  # without it `prediction` evaluates the empty prompt as well
    own = 4 if cfg else 2
    assert rows_of["prompt"] == rows_of["none"] == [own] * 3
    # Further rows have calls of no more rows than the pipeline's. Without guidance a further row doubles a step, and
    # every second step repeats the last gamma.
    assert rows_of["embedding"] == ([own, 2] * 3 if cfg else [own, 2, own, own, 2])
    assert rows_of["prediction"] == ([own, 4] if cfg else [own, 2, 2, 2]) * 3


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_predictions_around_the_prompt_cost_what_a_text_costs_where_one_group_is_pushed(family):
    """On Flux, which has no guidance, the empty prompt was evaluated too, in every step: 1.58 times plain sampling."""
    pipe, one = made(family), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    rows_of, found = {}, {}
    for direction in ("embedding", "prediction"):
        rule = SafeLatentGuidance(anchor="prompt", toward=direction == "embedding")
        with counted(denoiser(pipe)) as rows_of[direction]:
            found[direction], info = images_of(pipe, one, direction=direction, rule=rule,
                                               **settings(pipe))
        assert info["acted"]
    assert rows_of["prediction"] == rows_of["embedding"]
    # A push to one group is that group's own prediction by both: it has the same text.
    assert close(found["prediction"], found["embedding"])
    assert not close(found["prediction"], images_of(pipe, **settings(pipe))[0])


@pytest.mark.parametrize("family, cfg", [("sd", 5.0), ("sdxl", 1.0), ("flux", 5.0)])
def test_however_many_groups_no_call_has_more_rows_than_the_pipeline_s(family, cfg):
    """And a picture is the one that it is alone, where its further rows come in other calls."""
    pipe = made(family)
    spread = [[0.0] * 5, [0.3, -0.2, 0.1, 0.2, -0.4], [-0.1, 0.4, -0.3, 0.1, -0.1]]
    five = Attribute("hair", tuple(Group(name, (name,)) for name in ("red", "black", "grey", "fair", "none")))
    method = Method("prediction", guidance=SafeLatentGuidance(), context=ALONE)

    def latents_of_rows(rows, seeds):
        encoded = encode_all(pipe, PROMPT, [five], ALONE, **({"max_sequence_length": 32} if family == "flux" else {}))
        with guided(pipe, PROMPT, [five], torch.tensor(rows), method, encoded=encoded) as guide:
            found = pipe(**guide.call, generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                         output_type="latent", guidance_scale=cfg, **settings(pipe)).images
        return found, guide.summary()

    own = 6 if cfg > 1 and family != "flux" else 3
    with counted(denoiser(pipe)) as evaluations:
        latents, info = latents_of_rows(spread, (1, 2, 3))
    assert max(evaluations) == own and sum(evaluations) - 3 * own == info["extra_evaluations"] >= 3 * 2 * 5
    for image, seed in ((1, 2), (2, 3)):
        alone, _ = latents_of_rows([spread[image]], (seed,))
        off = (latents[image] - alone[0]).abs().max()
        other, _ = latents_of_rows([spread[3 - image]], (seed,))  # the other one's weights
        assert off < 2e-3 and (latents[image] - other[0]).abs().max() > 10 * off


def test_a_text_that_a_callback_changes_is_changed_for_pictures_that_are_left_alone_too():
    pipe = tiny_pipelines.sdxl()
    call = dict(height=16, width=16, num_inference_steps=4, callback_on_step_end_tensor_inputs=["add_text_embeds"],
                callback_on_step_end=lambda pipe, step, time, given: dict(add_text_embeds=given["add_text_embeds"] * 2))
    method = Method("embedding")
    plain = latents_of(pipe, [[0.0, 0.0]] * 2, method, seeds=(1, 2), **call)
    unchanged = latents_of(pipe, [[0.0, 0.0]] * 2, method, seeds=(1, 2), height=16, width=16, num_inference_steps=4)
    found = latents_of(pipe, [AWAY, [0.0, 0.0]], method, seeds=(1, 2), **call)
    assert torch.equal(found[1], plain[1]) and not torch.equal(found[0], plain[0])
    assert not torch.allclose(plain[1], unchanged[1], atol=1e-2)


@pytest.mark.parametrize("name, direction", [("img2img", "prompt"), ("inpaint", "embedding"),
                                             ("controlnet", "prediction")])
def test_pipelines_with_further_inputs_are_guided_too(name, direction):
    pipe = getattr(tiny_pipelines, name)()
    more = {"img2img": lambda n: dict(image=picture(), strength=0.7, num_inference_steps=5),
            # This pipeline draws a single picture's latents from the first image's generator, so each gets a picture.
            "inpaint": lambda n: dict(image=[picture()] * n, mask_image=[picture(1)] * n, num_inference_steps=3),
            "controlnet": lambda n: dict(image=picture(), num_inference_steps=3)}[name]
    plain, _ = images_of(pipe, **more(2))
    images, info = images_of(pipe, [[0.0, 0.0], AWAY], direction=direction, **more(2))
    assert np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])
    single, _ = images_of(pipe, AWAY, seeds=(2,), direction=direction, **more(1))
    assert close(images[1:], single)


# --- what is computed ------------------------------------------------------------------------------------------------

def predicted(pipe, sample, t, embeddings):
    return pipe.unet(sample, t, encoder_hidden_states=embeddings).sample


@pytest.mark.parametrize("cfg, negative", [(7.5, None), (7.5, "ugly"), (1.0, None)],
                         ids=["empty prompt", "negative prompt", "no CFG"])
@pytest.mark.parametrize("direction", HOOKED)
def test_one_step_is_the_formula(direction, cfg, negative):
    pipe = tiny_pipelines.sd()
    method = Method(direction, ALONE, guidance=SafeLatentGuidance(scale=1e9))  # mu is 1: gamma is eps_u - eps_e
    a = [0.7, -0.4]
    latents = latents_of(pipe, [a], method, negative_prompt=negative, num_inference_steps=1, guidance_scale=cfg)

    c, e, man, woman = (encode(pipe, [text])["prompt_embeds"] for text in (PROMPT, negative or "", "a man", "a woman"))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pipe.scheduler.set_timesteps(1)
    t = pipe.scheduler.timesteps[0]
    eps_c, eps_e = predicted(pipe, x, t, c), predicted(pipe, x, t, e)
    if direction == "embedding" and cfg == 1:  # the prompt is the baseline, and moves as in the `prompt` direction
        mean = (man + woman) / 2
        eps_e, eps_u = eps_c, predicted(pipe, x, t, c + a[0] * (man - mean) + a[1] * (woman - mean))
    elif direction == "embedding":
        eps_u = predicted(pipe, x, t, e + a[0] * (man - e) + a[1] * (woman - e))
    else:
        eps_u = eps_e + a[0] * (predicted(pipe, x, t, man) - eps_e) + a[1] * (predicted(pipe, x, t, woman) - eps_e)
    guided_c = eps_c - (eps_u - eps_e)
    eps = guided_c if cfg == 1 else eps_e + cfg * (guided_c - eps_e)
    assert torch.allclose(latents, pipe.scheduler.step(eps, t, x).prev_sample, atol=1e-4)


@pytest.mark.parametrize("kind, sampler", [("v_prediction", diffusers.DDIMScheduler),
                                           ("sample", diffusers.DDPMScheduler),
                                           ("v_prediction", diffusers.DPMSolverMultistepScheduler)])
def test_a_network_is_guided_alike_whatever_it_predicts(kind, sampler):
    """The same network, asked for the noise, the velocity or the image."""
    method = Method("embedding", ALONE, guidance=SafeLatentGuidance(5.0, 0.01, 0.3, 0.4))
    latents = {}
    for asked in ("epsilon", kind):
        pipe = tiny_pipelines.sd()
        pipe.scheduler = tiny_pipelines.scheduler(sampler, prediction_type=asked, **(
            dict(clip_sample=False) if sampler is diffusers.DDPMScheduler else {}))
        inner = pipe.unet.forward

        def forward(sample, timestep, inner=inner, asked=asked, pipe=pipe, **kwargs):
            eps = inner(sample=sample, timestep=timestep, **{**kwargs, "return_dict": False})[0]
            alpha = pipe.scheduler.alphas_cumprod[timestep.long()] ** 0.5
            sigma = (1 - alpha ** 2) ** 0.5
            return dict(epsilon=eps, v_prediction=(eps - sigma * sample) / alpha,
                        sample=(sample - sigma * eps) / alpha)[asked],

        pipe.unet.forward = forward
        latents[asked] = latents_of(pipe, [AWAY], method, num_inference_steps=4)
        if asked == "epsilon":
            plain = latents_of(pipe, [[0.0, 0.0]], method, num_inference_steps=4)
    scale = latents["epsilon"].std()
    assert (plain - latents["epsilon"]).abs().max() > 0.1 * scale
    assert (latents[kind] - latents["epsilon"]).abs().max() < 2e-3 * scale


@pytest.mark.parametrize("direction, kind", zip(HOOKED, ["epsilon", "v_prediction"]))
def test_a_sampler_without_timesteps_before_its_first_run_is_guided_as_after_it(direction, kind):
    """PNDM, which the folders of Stable Diffusion 1.5 name."""
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(diffusers.PNDMScheduler, prediction_type=kind, skip_prk_steps=True)
    assert pipe.scheduler.timesteps is None
    images, info = images_of(pipe, AWAY, direction=direction, **settings(pipe))
    again, _ = images_of(pipe, AWAY, direction=direction, **settings(pipe))
    assert info["acted"] and np.array_equal(images, again)


def test_units_stay_finite_where_the_last_alpha_is_zero():
    scheduler = tiny_pipelines.scheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True,
                                         timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0
    assert all(math.isfinite(1 / k) and k for k in eps_units(scheduler))


def test_flow_predictions_are_taken_as_they_are():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    assert eps_units(scheduler) == [1.0] * 4


SAMPLERS = {
    "euler_karras": dict(kind=diffusers.EulerDiscreteScheduler, use_karras_sigmas=True),
    "euler_a": dict(kind=diffusers.EulerAncestralDiscreteScheduler),
    "dpmpp_2m": dict(kind=diffusers.DPMSolverMultistepScheduler), "heun": dict(kind=diffusers.HeunDiscreteScheduler),
    "pndm": dict(kind=diffusers.PNDMScheduler, skip_prk_steps=True),
    "unipc": dict(kind=diffusers.UniPCMultistepScheduler),
    "kdpm2": dict(kind=diffusers.KDPM2DiscreteScheduler),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_progress_follows_the_schedule_of_any_sampler_and_batches_do_not_matter(sampler, seen):
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(**SAMPLERS[sampler])
    more = dict(num_inference_steps=4, direction="embedding")
    together, info = images_of(pipe, [AWAY, AWAY], **more)
    progress = [args[3] for _, args, _ in seen]
    assert progress[0] == 0 and progress == sorted(progress) and progress[-1] < 1
    assert len(set(progress)) == len(set(pipe.scheduler.timesteps.tolist()))
    assert len(progress) == len(pipe.scheduler.timesteps) == info["steps"]
    single, _ = images_of(pipe, [AWAY, AWAY], batch_size=1, **more)
    plain, _ = images_of(pipe, **settings(pipe))
    assert close(together, single) and not close(together, plain)


def test_a_second_order_sampler_advances_the_momentum_once_a_sigma(seen):
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(diffusers.HeunDiscreteScheduler)
    images_of(pipe, AWAY, seeds=(1,), direction="embedding", rule=SafeLatentGuidance(1000, None, 0.3, 0.4),
              num_inference_steps=3)
    assert len(seen) == 5 and len({args[3] for _, args, _ in seen}) == 3


@pytest.mark.parametrize("family, direction", [("sd", "prediction"), ("sdxl", "embedding"),
                                               ("sd3", "prediction")])
def test_without_cfg_the_baseline_is_the_prompt_or_for_predictions_the_empty_one(family, direction):
    pipe = made(family)
    plain, _ = images_of(pipe, guidance_scale=1.0, **settings(pipe))
    with counted(denoiser(pipe)) as evaluations:
        images, info = images_of(pipe, [[0.0, 0.0], AWAY], direction=direction, guidance_scale=1.0, **settings(pipe))
    assert evaluations == dict(embedding=[2, 1, 2, 2, 1], prediction=[2, 2, 1] * 3)[direction]
    assert info["acted"] and np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])


def test_a_denoiser_s_other_arguments_are_those_of_the_rows_but_for_what_is_no_batch():
    rows = torch.arange(2.0)[:, None]
    found = rows_of(dict(timestep=torch.tensor(7), residuals=(rows, [rows]), img_ids=rows, added=dict(ids=rows),
                          scale=0.5, none=None, one=rows[:1], kv_cache="of another text"), 2, torch.tensor([1, 1, 0]))
    expected = torch.tensor([[1.0], [1.0], [0.0]])
    for value in (found["residuals"][0], found["residuals"][1][0], found["added"]["ids"]):
        assert torch.equal(value, expected)
    assert found["timestep"] == 7 and found["scale"] == 0.5 and found["none"] is None and found["kv_cache"] is None
    assert torch.equal(found["img_ids"], rows) and torch.equal(found["one"], rows[:1])


def test_added_rows_get_the_residuals_of_a_t2i_adapter_which_a_u_net_takes_out_of_their_list():
    pipe, taken = tiny_pipelines.sd(), []
    pipe._guidance_scale = 1.0
    pipe.scheduler.set_timesteps(4)

    def forward(sample, timestep, encoder_hidden_states, down_intrablock_additional_residuals):
        taken.append([down_intrablock_additional_residuals.pop(0) for _ in (1, 2)])
        return (sample,)

    hook = GuidedDenoiser(pipe, forward, ["sample", "timestep", "encoder_hidden_states"], [GENDER],
                          torch.tensor([AWAY]), encode_all(pipe, PROMPT, [GENDER], ALONE), Method("embedding"))
    residuals = [torch.ones(1, 2), torch.zeros(1, 2)]
    hook(torch.zeros(1, 4, 2, 2), pipe.scheduler.timesteps[0], down_intrablock_additional_residuals=residuals,
         encoder_hidden_states=hook.encoded.prompt["prompt_embeds"])
    own, added = taken
    assert all(torch.equal(a, b) for a, b in zip(own, added, strict=True))


def test_the_window_evaluates_nothing_outside_of_it():
    pipe = tiny_pipelines.sd()
    with counted(pipe.unet) as evaluations:
        _, info = images_of(pipe, AWAY, seeds=(1,), direction="embedding", rule=SafeLatentGuidance(start=0.2, end=0.6),
                            num_inference_steps=10)
    assert evaluations == [2] * 2 + [2, 1] * 4 + [2] * 4
    assert info["steps"] == info["extra_evaluations"] == 4


def test_a_method_takes_no_settings_that_it_does_not_use():
    with pytest.raises(DebiasError, match="start.* end.*'prompt'"):
        Method(guidance=SafeLatentGuidance(momentum_scale=0.3))


def test_img2img_counts_its_window_on_the_whole_schedule(seen):
    pipe = tiny_pipelines.img2img()
    images_of(pipe, AWAY, seeds=(1,), direction="embedding", image=picture(), strength=0.4, num_inference_steps=10)
    assert [args[3] for _, args, _ in seen] == [0.6, 0.7, 0.8, 0.9]


def test_every_call_of_the_pipeline_is_a_run_of_its_own():
    pipe = tiny_pipelines.sd()
    method = Method("embedding", guidance=SafeLatentGuidance(1000, None, 0.5, 0.7))
    with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), method) as guide:
        first, second = (pipe(**guide.call, generator=[torch.Generator().manual_seed(1)], num_inference_steps=3,
                              output_type="latent").images for _ in range(2))
    assert torch.equal(first, second)
    assert guide.summary()["steps"] == 3 and guide.summary()["guided_images"] == 2


def test_guidance_rescale_and_return_dict_stay_the_pipeline_s_own():
    pipe = tiny_pipelines.sd()
    more = dict(direction="embedding", **settings(pipe))
    plain, _ = images_of(pipe, AWAY, **more)
    rescaled, _ = images_of(pipe, AWAY, guidance_rescale=0.7, **more)
    assert not close(plain, rescaled)
    single, _ = images_of(pipe, AWAY, guidance_rescale=0.7, batch_size=1, **more)
    assert close(rescaled, single)


@pytest.mark.parametrize("return_dict", [True, False])
def test_both_forms_of_the_denoiser_s_output_are_kept(return_dict):
    pipe = tiny_pipelines.sd()
    c = encode(pipe, ["", PROMPT])["prompt_embeds"]
    pipe.scheduler.set_timesteps(1)
    with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")):
        pipe._guidance_scale = 7.5
        output = pipe.unet(torch.randn(2, 4, 8, 8), torch.tensor(999), c, return_dict=return_dict)
    assert (output.sample if return_dict else output[0]).shape == (2, 4, 8, 8)


def test_flux_s_negative_prompt_is_evaluated_apart_and_left_alone():
    pipe = tiny_pipelines.flux()
    with counted(pipe.transformer) as evaluations:
        images_of(pipe, [[0.0, 0.0], AWAY], direction="embedding", negative_prompt="ugly", true_cfg_scale=3.0,
                  **settings(pipe))
    assert evaluations == [2, 1, 2, 2, 2, 2, 1, 2]  # prompts, a further row in every second step, negative prompts


@pytest.mark.parametrize("direction, cached", zip(HOOKED, [
    lambda of: of.enable_cache(FirstBlockCacheConfig(threshold=10.0)),
    lambda of: apply_first_block_cache(of, FirstBlockCacheConfig(threshold=10.0))]))
def test_flux_s_cache_of_first_blocks_keeps_the_texts_apart_however_it_was_switched_on(cached, direction):
    pipe = tiny_pipelines.flux()
    cached(pipe.transformer)
    plain, _ = images_of(pipe, **settings(pipe))
    images, info = images_of(pipe, [[0.0, 0.0], AWAY], direction=direction, **settings(pipe))
    assert info["acted"] and np.array_equal(images[0], plain[0]) and not close(images[1], plain[1])


@pytest.mark.parametrize("direction, name, config", [
    ("embedding", "pyramid_attention_broadcast", PyramidAttentionBroadcastConfig),
    ("prediction", "faster_cache_block, faster_cache_denoiser", FasterCacheConfig)])
def test_a_cache_that_takes_one_text_for_another_is_refused_before_the_first_picture(direction, name, config):
    pipe = tiny_pipelines.flux()
    pipe.transformer.enable_cache(config(spatial_attention_block_skip_range=2,
                                         current_timestep_callback=lambda: pipe.current_timestep))
    with counted(pipe.transformer) as evaluations:
        with pytest.raises(DebiasError, match=rf"got {name}\. Call"):
            images_of(pipe, AWAY, direction=direction, **settings(pipe))
    assert not evaluations
    pipe.transformer.disable_cache()
    _, info = images_of(pipe, AWAY, direction=direction, **settings(pipe))
    assert info["acted"]


def test_sd3_s_skip_layer_guidance_is_left_alone():
    pipe = tiny_pipelines.sd3()
    with counted(pipe.transformer) as evaluations:
        images_of(pipe, AWAY, direction="embedding", skip_guidance_layers=[1], skip_layer_guidance_start=-1.0,
                  skip_layer_guidance_stop=1.0, **settings(pipe))
    assert evaluations == [4, 2, 2] * 3


def test_the_mean_of_a_group_s_texts_and_several_attributes_side_by_side():
    pipe = tiny_pipelines.sd()
    age = Attribute("age", (Group("young", ("a boy", "a girl")), Group("old", ("{prompt} aged",))))
    encoded = encode_all(pipe, PROMPT, [GENDER, age], ALONE)
    expected = encode(pipe, ["a boy", "a girl"])["prompt_embeds"].mean(0)
    assert encoded.groups["prompt_embeds"].shape == (4, 1, 16, 32)
    assert torch.allclose(encoded.groups["prompt_embeds"][2, 0], expected, atol=1e-5)
    in_context = encode(pipe, ["a doctor aged"])["prompt_embeds"]
    assert torch.allclose(encoded.groups["prompt_embeds"][3], in_context, atol=1e-5)

    with guided(pipe, PROMPT, [GENDER, age], torch.tensor([[0.5, 0.0, 0.25, 0.0]]), Method(context=ALONE)) as guide:
        c, g = encoded.prompt["prompt_embeds"], encoded.groups["prompt_embeds"]
        expected = c - 0.5 * (g[0] - g[:2].mean(0)) - 0.25 * (g[2] - g[2:].mean(0))
        assert torch.allclose(guide.call["prompt_embeds"], expected, atol=1e-5)


# --- precision, devices, compilation ---------------------------------------------------------------------------------

@pytest.mark.parametrize("family, direction, dtype", [
    ("sd", "embedding", torch.float16), ("sd2_v", "prediction", torch.bfloat16),
    ("sdxl", "prompt", torch.float16), ("sd3", "prediction", torch.float16),
    ("flux", "embedding", torch.bfloat16)])
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_models_are_guided_in_float32(family, direction, dtype, device, seen):
    pipe = FAMILIES[family]().to(device, dtype)
    plain, _ = images_of(pipe, **settings(pipe))
    images, info = images_of(pipe, AWAY, direction=direction, **settings(pipe))
    assert info["acted"] and not info["skipped"] and not info["broken"]
    assert not close(images, plain)
    assert all(gamma.dtype == torch.float32 for _, _, gamma in seen)
    assert len(seen) == {"prompt": 0, "embedding": 2 if family == "flux" else 3, "prediction": 3}[direction]


@pytest.mark.filterwarnings("ignore:.*quant")  # torch's own, which it will replace by another library
@pytest.mark.parametrize("family, direction", [
    ("sd", "prediction"), ("sdxl", "embedding"), ("sd3", "prompt"), ("flux", "prediction")])
def test_models_of_fp8_weights_and_quantised_text_encoders_are_guided_as_others(direction, family):
    pipe = FAMILIES[family]()
    denoiser(pipe).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn,
                                            compute_dtype=torch.float32)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(pipe, name, None) is not None:
            whole = getattr(pipe, name)
            setattr(pipe, name, torch.ao.quantization.quantize_dynamic(whole, {torch.nn.Linear}, torch.qint8))
    assert any(weights.dtype == torch.float8_e4m3fn for weights in denoiser(pipe).parameters())
    plain, _ = images_of(pipe, **settings(pipe))
    images, info = images_of(pipe, AWAY, direction=direction, **settings(pipe))
    assert info["acted"] and not info["skipped"] and not info["broken"]
    assert not close(images, plain)
    none, _ = images_of(pipe, [0.0, 0.0], direction=direction, **settings(pipe))
    assert all(map(np.array_equal, none, plain))


def test_flux_finds_its_place_in_the_schedule_though_bfloat16_rounds_its_timesteps(seen):
    pipe = tiny_pipelines.flux().to(torch.bfloat16)
    images_of(pipe, AWAY, seeds=(1,), direction="embedding", **{**settings(pipe), "num_inference_steps": 40})
    assert [args[3] for _, args, _ in seen] == [step / 40 for step in range(0, 40, 2)]


@pytest.mark.parametrize("times, unit", [
    ([1000.0, 750.0, 400.0, 2.0], 1.0), ([1000.0, 750.0, 400.0, 1.0], 1e-3), ([999.0, 500.0, 0.0], 1.0),
    ([1.1, 0.3, -0.2, -1.5], 1.0), ([1.0, 0.7, 0.1], 1.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_timestep_finds_its_place_whatever_its_unit_and_precision(times, unit, dtype):
    """LongCat gives its denoiser a thousandth; EDM's timesteps are logarithms of sigma."""
    denoiser = object.__new__(GuidedDenoiser)
    denoiser.times, denoiser.timesteps = times, torch.tensor(times)
    found = [denoiser._place(torch.tensor([time], dtype=dtype) * unit) for time in times]
    assert found == list(range(len(times)))


class Copies(TorchDispatchMode):
    """Notes what copies between devices and waits for it. ("meta", which refuses to be read, stands for the device.)"""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        devices = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim}
        moved = name == "_to_copy" and kwargs.get("device") not in {None, *devices} and not kwargs.get("non_blocking")
        if moved or name.startswith("index") and len(devices) > 1:
            self.noted.append(name)
        return function(*args, **kwargs)


def test_without_cfg_a_weight_of_minus_one_leads_to_the_group_s_own_prediction():
    pipe = tiny_pipelines.sd()
    pipe._guidance_scale = 1.0
    pipe.scheduler.set_timesteps(4)
    encoded = encode_all(pipe, PROMPT, [GENDER], IN_CONTEXT)

    def linear(sample, timestep, encoder_hidden_states):
        return (sample + 100 * encoder_hidden_states[:, -1, 0].view(-1, 1, 1, 1),)

    hook = GuidedDenoiser(pipe, linear, ["sample", "timestep", "encoder_hidden_states"], [GENDER],
                          torch.tensor([[0.0, -1.0], [0.0, 0.0]]), encoded, Method("embedding"))
    sample, text = torch.zeros(2, 4, 2, 2), encoded.prompt["prompt_embeds"].expand(2, -1, -1)
    led, left_alone = hook(sample, pipe.scheduler.timesteps[0], encoder_hidden_states=text)[0]
    woman, prompt = (linear(sample[:1], None, part)[0][0] for part in (encoded.groups["prompt_embeds"][1], text[:1]))
    assert torch.allclose(led, woman, atol=1e-4) and torch.equal(left_alone, prompt)
    assert not torch.allclose(woman, prompt, atol=1e-2)


def test_without_cfg_every_second_step_of_the_window_repeats_the_last_gamma(seen):
    pipe = tiny_pipelines.sd()
    with counted(pipe.unet) as evaluations:
        _, info = images_of(pipe, AWAY, seeds=(1,), direction="embedding", guidance_scale=1.0,
                            rule=SafeLatentGuidance(start=0.2, end=0.8), height=16, width=16, num_inference_steps=10)
    assert info["steps"] == 6 and info["extra_evaluations"] == 3
    assert evaluations == [1] * (10 + 3) and [round(args[3], 6) for _, args, _ in seen] == [0.2, 0.4, 0.6]
    assert info["magnitude"] == pytest.approx(np.mean([gamma.abs().mean().item() for _, _, gamma in seen]), rel=1e-4)


def test_without_cfg_a_sampler_of_second_order_is_evaluated_in_every_second_sigma_too(seen):
    pipe = tiny_pipelines.sd()
    pipe.scheduler = tiny_pipelines.scheduler(diffusers.HeunDiscreteScheduler)
    _, info = images_of(pipe, AWAY, seeds=(1,), direction="embedding", guidance_scale=1.0,
                        **{**settings(pipe), "num_inference_steps": 6})
    assert len(pipe.scheduler.timesteps) == 11 and info["steps"] == 11
    assert info["extra_evaluations"] == len(seen) == 5  # sigmas 1, 3 and 5, of which the first is evaluated once


def test_without_cfg_gamma_is_not_halved_by_a_threshold(seen):
    pipe = tiny_pipelines.sd()
    rule = SafeLatentGuidance(threshold=0.01)
    images_of(pipe, AWAY, seeds=(1,), direction="embedding", guidance_scale=1.0, rule=rule, **settings(pipe))
    gamma = seen[0][-1]
    assert 0.2 < (gamma < 0).float().mean() < 0.8


def test_without_cfg_only_the_weights_change_of_the_text_makes_gamma():
    """The pipeline may evaluate another text than the prompt's own, as SDXL does with a second prompt."""
    pipe = tiny_pipelines.sd()
    pipe._guidance_scale = 1.0
    pipe.scheduler.set_timesteps(4)
    encoded = encode_all(pipe, PROMPT, [GENDER], IN_CONTEXT)
    taken = []

    def forward(sample, timestep, encoder_hidden_states):
        taken.append(encoder_hidden_states)
        return (sample,)

    hook = GuidedDenoiser(pipe, forward, ["sample", "timestep", "encoder_hidden_states"], [GENDER],
                          torch.tensor([[0.0, -1.0]]), encoded, Method("embedding"))
    other = encoded.prompt["prompt_embeds"] + 5
    hook(torch.zeros(1, 4, 2, 2), pipe.scheduler.timesteps[0], encoder_hidden_states=other)
    away = encoded.prompt["prompt_embeds"] - encoded.groups["prompt_embeds"][1]
    assert torch.equal(taken[0], other) and torch.allclose(taken[1], other + away, atol=1e-5)
    hook = GuidedDenoiser(pipe, forward, ["sample", "timestep", "encoder_hidden_states"], [GENDER],
                          torch.tensor([[0.0, -1.0]]), encoded, Method("embedding"))
    with pytest.raises(DebiasError, match="max_sequence_length"):
        hook(torch.zeros(1, 4, 2, 2), pipe.scheduler.timesteps[0], encoder_hidden_states=other[:, :-1])


def hooked(direction, cfg, device):
    """A hook on tensors of a device, and a function that calls it for a step."""
    pipe = tiny_pipelines.sd()
    pipe._guidance_scale = cfg
    pipe.scheduler.set_timesteps(4)
    encoded = encode_all(pipe, PROMPT, [GENDER], ALONE)
    there = Encoded(*({name: part.to(device) for name, part in parts.items()}
                      for parts in (encoded.prompt, encoded.empty, encoded.groups)))
    hook = GuidedDenoiser(pipe, lambda sample, timestep, encoder_hidden_states: (2 * sample,),
                          ["sample", "timestep", "encoder_hidden_states"], [GENDER], torch.tensor([AWAY, AWAY]), there,
                          Method(direction, guidance=SafeLatentGuidance(1000, 0.01, 0.3, 0.4)))
    rows = 4 if cfg > 1 else 2
    sample, text = torch.zeros(rows, 4, 2, 2, device=device), there.prompt["prompt_embeds"].expand(rows, -1, -1)

    def call(step):
        hook(sample, pipe.scheduler.timesteps[step], encoder_hidden_states=text)
        if step == 0:
            hook.timesteps = pipe.scheduler.timesteps = pipe.scheduler.timesteps.to(device)
    return hook, call


@pytest.mark.parametrize("cfg", [7.5, 1.0])
@pytest.mark.parametrize("direction", HOOKED)
def test_no_step_after_the_first_waits_for_the_device(direction, cfg):
    hook, call = hooked(direction, cfg, "meta")

    def noted(step):
        with Copies() as copies:
            call(step)
        return copies.noted

    assert noted(0), "the indices must be moved once"
    assert [noted(step) for step in (1, 2, 3)] == [[]] * 3
    assert hook.passes[0].run.steps == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cfg", [7.5, 1.0])
@pytest.mark.parametrize("direction", HOOKED)
def test_the_profiler_sees_no_step_wait_for_a_gpu(direction, cfg):
    def waits(work, *args):
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            work(*args)
        return sum(event.name == "cudaStreamSynchronize" for event in seen.events())

    hook, call = hooked(direction, cfg, "cuda")
    call(0)
    assert waits(torch.ones(1, device="cuda").item), "the profiler must see a value being read"
    assert [waits(call, step) for step in (1, 2, 3)] == [0] * 3
    assert hook.passes[0].run.steps == 4


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("stance", [pytest.param("default", marks=pytest.mark.slow), "force_eager"])
def test_compiled_denoisers_are_guided_alike(in_place, stance):
    """Forced to be eager, a module is wrapped as a compiled one, but nothing is traced: quick."""
    pipe = tiny_pipelines.sd()
    more = dict(direction="embedding", **{**settings(pipe), "num_inference_steps": 2})
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


# --- nothing stays behind --------------------------------------------------------------------------------------------

def test_the_hook_goes_when_the_context_ends_and_after_an_exception():
    pipe = tiny_pipelines.sd()
    plain, _ = images_of(pipe, **settings(pipe))

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images_of(pipe, AWAY, direction="embedding", callback_on_step_end=stop, **settings(pipe))
    assert "forward" not in vars(pipe.unet)
    images_of(pipe, AWAY, direction="embedding", **settings(pipe))
    assert "forward" not in vars(pipe.unet)
    assert np.array_equal(images_of(pipe, **settings(pipe))[0], plain)


def test_a_forward_that_offloading_put_in_place_is_wrapped_and_given_back():
    pipe = tiny_pipelines.sd()
    with counted(pipe.unet) as evaluations:
        theirs = vars(pipe.unet)["forward"]
        images_of(pipe, AWAY, direction="embedding", **settings(pipe))
        assert vars(pipe.unet)["forward"] is theirs
    assert evaluations == [4, 2] * 3


def test_a_forward_that_offloading_replaced_meanwhile_is_left():
    pipe = tiny_pipelines.sd()
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


# --- honesty ---------------------------------------------------------------------------------------------------------

def test_a_step_whose_unsafe_prediction_is_nan_is_left_out_and_said():
    pipe = tiny_pipelines.sd()
    plain, _ = images_of(pipe, seeds=(1,), **settings(pipe))
    inner = pipe.unet.forward

    def forward(*args, **kwargs):
        output = inner(*args, **kwargs)[0]
        return output * (math.nan if len(output) == 1 else 1),

    pipe.unet.forward = forward
    with pytest.warns(UserWarning) as caught:
        images, info = images_of(pipe, AWAY, seeds=(1,), direction="embedding",
                                 rule=PRESETS["max"], **settings(pipe))
    messages = " ".join(str(warning.message) for warning in caught)
    assert "3 of 3 steps" in messages and "3 of which were skipped" in messages
    assert np.array_equal(images, plain)
    assert info["skipped"] == 3 and not info["acted"]


def test_a_window_that_no_step_falls_into_warns():
    pipe = tiny_pipelines.sd()
    with pytest.warns(UserWarning, match=" 0 steps"):
        _, info = images_of(pipe, AWAY, direction="embedding", rule=SafeLatentGuidance(start=0.95), **settings(pipe))
    assert not info["acted"] and info["extra_evaluations"] == 0


def test_a_context_in_which_the_pipeline_is_not_called_warns():
    with pytest.warns(UserWarning, match=" 0 calls"):
        with guided(tiny_pipelines.sd(), PROMPT, [GENDER], torch.tensor([AWAY]), Method("embedding")):
            pass


def test_group_texts_cut_off_by_a_long_prompt_are_refused():
    pipe = tiny_pipelines.sd()
    with pytest.raises(DebiasError, match="'gender'"):
        images_of(pipe, [0.7, -1.3], prompt="a most experienced doctor", **settings(pipe))


def test_blacked_out_and_broken_images_are_counted_and_warn():
    pipe = tiny_pipelines.sd()
    pipe.run_safety_checker = lambda image, device, dtype: (image * math.nan, [True] * len(image))
    with pytest.warns(UserWarning) as caught:
        _, info = images_of(pipe, **settings(pipe))
    assert sum("2 of 2" in str(warning.message) for warning in caught) == 2
    assert info["blocked"] == 2 and info["broken"] == [0, 1]


def test_generate_uses_the_rows_that_the_steerings_draw_for_its_seeds():
    pipe = tiny_pipelines.sd()
    steering = Steering((0.1, -0.1), (0.2, 0.4, 0.4), 1.5)
    _, info = generate(pipe, PROMPT, range(5), attributes=[GENDER], steerings=[steering], guidance_strength=0.5,
                       batch_size=2, **settings(pipe))
    assert info["weights"] == rows([steering], range(5), 0.5).tolist()
    assert info["guided_images"] == 5


# --- refusals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, message", [
    (dict(seeds=[]), "seed"),
    (dict(batch_size=0), "batch size"),
    (dict(weights=None), "steering for each"),
    (dict(weights=[0.0, 1.0, 0.0]), "n = 2 groups"),
    (dict(weights=[[0.0, 1.0]] * 3), "each of 2 seeds"),
    (dict(weights=[math.nan, 0.0]), "finite"),
    (dict(steerings=[Steering.none(2)]), "not both"),
])
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    pipe = tiny_pipelines.sd()
    arguments = {**dict(seeds=[1, 2], attributes=[GENDER], weights=[0.0, 1.0]), **wrong}
    with pytest.raises(DebiasError, match=message):
        generate(pipe, PROMPT, **arguments)


def test_another_number_of_images_than_rows_of_weights_is_refused():
    pipe = tiny_pipelines.sd()
    with pytest.raises(DebiasError, match="4 rows .* 2 rows"):
        with guided(pipe, PROMPT, [GENDER], torch.tensor([AWAY, AWAY]), Method("embedding")):
            pipe(PROMPT, num_inference_steps=1)
    assert "forward" not in vars(pipe.unet)


def test_pipelines_that_are_not_known_are_refused():
    unconditional = diffusers.DDIMPipeline(diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2), tiny_pipelines.scheduler())
    masked = object.__new__(diffusers.PixArtAlphaPipeline)
    for pipe in (unconditional, masked):
        with pytest.raises(DebiasError, match=type(pipe).__name__):
            encode(pipe, [PROMPT])


def test_schedulers_that_are_not_known_are_refused():
    with pytest.raises(DebiasError, match="EDMEulerScheduler"):
        eps_units(diffusers.EDMEulerScheduler())
