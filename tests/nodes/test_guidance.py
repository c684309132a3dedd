"""Guidance inside ComfyUI's sampling: one set of tests over the real host and its double."""
from dataclasses import replace

import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.demo_model.model import FOLDER as DEMO
from sd_debias.core.method.methods import ALONE, DIRECTIONS, METHODS, Method, named
from sd_debias.diffusers_host.generate import guided as guided_pipeline
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.diffusers_host.workbench import load_pipeline

PROMPT = "a photo of a doctor"
WEIGHTS = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.3, -0.4]])


@pytest.fixture
def guided(demo):
    """guided(method, weights) -> (the patched demo model, the list of what its passes did)."""
    from sd_debias.nodes.conditioning import encode_all
    from sd_debias.nodes.guidance import GuidedSampling
    model, clip, _ = demo

    def make(method, weights=WEIGHTS, base=model, change=lambda encoded: encoded, **more):
        done = []
        with torch.inference_mode():
            encoded = change(encode_all(clip, PROMPT, (GENDER,), method.context))
        guide = GuidedSampling(encoded, (GENDER,), method, weights if callable(weights) else lambda *_: weights,
                      lambda summary, facts: done.append((summary, facts)), **more)
        return guide.patch(base), done
    return make


@pytest.fixture(scope="module")
def pipe():
    pipe = load_pipeline(str(DEMO))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("method", [
    Method("prompt"), Method("prompt", ALONE), Method("prompt", guidance=SafeLatentGuidance(start=0.2, end=0.6)),
    Method("embedding"), Method("prediction"), METHODS["paper"], named(direction="prediction"),
    Method("embedding", guidance=SafeLatentGuidance(1000, 0.01, 0.3, 0.4, 0.1, 0.5))], ids=str)
@pytest.mark.parametrize("cfg, negative", [(2.0, "blurry"), (1.0, "blurry")])
def test_latents_are_those_of_the_diffusers_pipeline(pipe, sample, guided, method, cfg, negative):
    """Same noise, same schedule."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with guided_pipeline(pipe, PROMPT, [GENDER], WEIGHTS, method, negative_prompt=negative) as guide:
        expected = pipe(**guide.call, num_inference_steps=10, guidance_scale=cfg, latents=noise.clone(),
                        output_type="latent").images

    model, done = guided(method)
    at_the_end = ((1 - pipe.scheduler.final_alpha_cumprod) / pipe.scheduler.final_alpha_cumprod) ** 0.5
    sigmas = model.get_model_object("model_sampling").sigmas[pipe.scheduler.timesteps]
    sigmas = torch.cat([sigmas, at_the_end.reshape(1)])
    found = sample(model, negative=negative, cfg=cfg, noise=noise, sigmas=sigmas, batch=3)
    found = found * 0.18215 / (1 + sigmas[-1] ** 2) ** 0.5
    assert (found - expected).abs().max() < 1e-3
    theirs, (ours, facts) = guide.summary(), done[0]
    assert (ours["acted"], ours["steps"], ours["guided_images"]) == (True, theirs["steps"], 2)
    assert ours["magnitude"] == pytest.approx(theirs["magnitude"], rel=1e-3)
    assert (facts["steps"], facts["cfg"], facts["sampler"], facts["width"]) == (10, cfg, "euler", 64)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_weights_change_no_bit(demo, sample, guided, direction):
    model, done = guided(Method(direction), torch.zeros(2, 2))
    assert torch.equal(sample(model), sample(demo[0]))
    assert not done[0][0]["acted"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_images_of_a_batch_are_guided_by_their_own_row(demo, sample, guided, direction):
    plain = sample(demo[0], batch=3)
    found = sample(guided(Method(direction))[0], batch=3)
    changed = (found - plain).abs().amax((1, 2, 3))
    assert changed[1] < 1e-4 and changed[0] > 1e-3 and changed[2] > 1e-3


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_leaks_into_the_next_run(demo, sample, guided, direction):
    before = sample(demo[0])
    model, _ = guided(Method(direction), torch.tensor([[0.0, -1.0]] * 2))
    first = sample(model)
    assert not torch.equal(first, before)
    assert torch.equal(sample(demo[0]), before)
    assert torch.equal(sample(model), first)


def test_weights_are_asked_for_by_seed_and_batch(sample, guided):
    asked = []

    def weights(seed, images):
        asked.append((seed, images))
        return torch.zeros(images, 2)

    model, _ = guided(Method("prompt"), weights)
    sample(model, seed=7, batch=3)
    sample(model, seed=9, batch=1)
    assert asked == [(7, 3), (9, 1)]


@pytest.mark.parametrize("direction", ("embedding", "prediction"))
def test_what_is_not_finite_is_left_out_and_said(demo, sample, guided, direction):
    def broken(encoded):
        return replace(encoded, groups={name: g * float("nan") for name, g in encoded.groups.items()})

    model, done = guided(Method(direction), torch.tensor([[0.0, -1.0]] * 2), change=broken)
    assert torch.allclose(sample(model), sample(demo[0]), atol=1e-5)
    summary, _ = done[0]
    assert not summary["acted"] and summary["skipped"] == 4
    assert "NaN" in summary["warnings"][0]


def test_guidance_outside_every_step_says_so(sample, guided):
    model, done = guided(Method("embedding", guidance=SafeLatentGuidance(start=0.99)), torch.tensor([[0.0, -1.0]] * 2))
    sample(model)
    assert not done[0][0]["acted"] and "window" in done[0][0]["reason"]


def test_a_window_limits_the_extra_evaluations(sample, guided):
    model, done = guided(Method("embedding", guidance=SafeLatentGuidance(end=0.5)), torch.tensor([[0.0, -1.0]] * 2))
    sample(model, steps=4)
    assert (done[0][0]["steps"], done[0][0]["extra_evaluations"]) == (2, 2 * 2)


def test_a_second_order_sampler_takes_progress_from_sigma(sample, guided):
    model, done = guided(Method("embedding", guidance=SafeLatentGuidance(end=0.5)), torch.tensor([[0.0, -1.0]] * 2))
    sample(model, steps=4, sampler="heun")
    # Evaluations at sigma 0, at 1 twice, and the second of step 1 at sigma 2, which lies outside.
    assert done[0][0]["steps"] == 3


def test_another_cfg_rule_works_on_the_guided_prediction(demo, sample, guided):
    def conditional(args):
        return args["cond"]

    weights = torch.tensor([[0.0, -1.0]] * 2)
    base = demo[0].clone()
    base.set_model_sampler_cfg_function(conditional)
    plain, model = sample(base), guided(Method("embedding"), weights, base=base)[0]
    assert (sample(model) - plain).abs().max() > 1e-3


def test_without_a_negative_the_prompt_s_own_prediction_is_the_baseline(demo, sample, guided):
    try:
        from comfy_extras.nodes_custom_sampler import Guider_Basic as BasicGuider
    except ImportError:
        import comfy.samplers

        class BasicGuider(comfy.samplers.CFGGuider):
            def set_conds(self, positive):
                self.inner_set_conds({"positive": positive})
    model, done = guided(Method("embedding"), torch.tensor([[0.0, -1.0]] * 2))
    found = sample(model, guider=BasicGuider)
    assert done[0][0]["acted"] and done[0][0]["extra_evaluations"] == 2 * 2  # in every second of four steps
    assert done[0][0]["steps"] == 4
    assert torch.allclose(found, sample(model, cfg=1.0), atol=1e-4)


@pytest.fixture
def dual_model(sample):
    """A guider that evaluates its negative by a model of its own, as DualModelGuider does for Ideogram 4."""
    from comfy.samplers import CFGGuider, calc_cond_batch

    class DualModel(CFGGuider):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode(""))
            self.set_cfg(2.0)

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            network = getattr(self, "inner_model", None) or self.model_patcher.model
            positive, negative = (calc_cond_batch(network, [self.conds[name]], x, timestep, model_options)[0]
                                  for name in ("positive", "negative"))
            return negative + self.cfg * (positive - negative)
    return DualModel


def test_the_prompt_s_own_text_acts_where_the_negative_has_a_model_of_its_own(sample, guided, dual_model):
    model, done = guided(Method("prompt"), torch.tensor([[0.0, -1.0], [0.0, 0.0]]))
    assert torch.allclose(sample(model, guider=dual_model), sample(model), atol=1e-4)
    assert done[0][0]["acted"]


@pytest.mark.parametrize("method", [Method("embedding"), Method("prediction"), METHODS["paper"]],
                         ids=["embedding", "prediction", "paper"])
def test_directions_inside_sampling_say_that_they_cannot_act_where_the_negative_has_a_model_of_its_own(
        demo, sample, guided, dual_model, method):
    model, done = guided(method, torch.tensor([[0.0, -1.0]] * 2))
    assert torch.equal(sample(model, guider=dual_model), sample(demo[0], guider=dual_model))
    assert not done[0][0]["acted"] and "never evaluated the positive conditioning together" in done[0][0]["reason"]


def test_two_profiles_stack(demo, sample, guided):
    weights = torch.tensor([[0.0, -0.5]] * 2)
    one, first = guided(Method("embedding"), weights)
    two, second = guided(Method("embedding"), weights, base=one)
    found = sample(two)
    assert first[0][0]["acted"] and second[0][0]["acted"]
    assert (found - sample(one)).abs().max() > 1e-4


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_two_profiles_that_are_anchored_at_the_prompt_add_up(demo, sample, guided, cfg):
    """The outer one took the inner one's push for the prompt's own prediction, and back."""
    method = Method("prediction", guidance=SafeLatentGuidance(1e6, anchor="prompt"))
    half, whole = (torch.tensor([[0.0, -weight], [0.0, 0.0]]) for weight in (0.5, 1.0))
    once, _ = guided(method, whole)
    twice, _ = guided(method, half, base=guided(method, half)[0])
    found, expected, plain = (sample(model, cfg=cfg) for model in (twice, once, demo[0]))
    assert (expected - plain)[0].abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-3


def test_a_conditioning_of_another_encoder_is_refused(sample, guided):
    model, _ = guided(Method("prompt"), torch.tensor([[0.0, -1.0]]))
    with pytest.raises(ValueError, match="width 32, but the CLIP .* width 56"):
        sample(model, positive=[[torch.zeros(1, 77, 32), {}]], batch=1)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_conditioning_without_text_is_refused(sample, guided, direction):
    model, _ = guided(Method(direction), torch.tensor([[0.0, -1.0]]))
    with pytest.raises(ValueError, match="holds no text embedding"):
        sample(model, positive=[[None, {}]], batch=1)


def test_a_conditioning_shifted_already_is_left_alone(demo, sample, guided):
    from sd_debias.nodes.guidance import PROFILE
    model, done = guided(Method("prompt"), torch.tensor([[0.0, -1.0]] * 2), profile="abc")
    positive = [[embedding, {**options, PROFILE: "abc"}] for embedding, options in sample.encode(PROMPT)]
    assert torch.equal(sample(model, positive=positive), sample(demo[0], positive=positive))
    assert "already" in done[0][0]["reason"]


def test_a_batch_of_one_is_guided_and_an_empty_one_refused(sample, guided):
    model, done = guided(Method("prompt"), torch.tensor([[0.0, -1.0]]))
    assert sample(model, batch=1).shape == (1, 4, 8, 8) and done[0][0]["acted"]
    with pytest.raises(ValueError, match="latent batch is empty"):
        sample(model, batch=0)


@pytest.mark.parametrize("sigmas, sigma, share", [
    ([10.0, 5.0, 2.0, 1.0, 0.0], 10.0, 0.0), ([10.0, 5.0, 2.0, 1.0, 0.0], 2.0, 0.5),
    ([10.0, 5.0, 2.0, 1.0, 0.0], 3.0, 0.25),  # between two steps
    ([5.0, 2.0, 1.0, 0.0], 5.0, 0.5),  # half the schedule, as a second pass at denoise 0.5
    ([10.0, 5.0], 10.0, 0.0)])
def test_progress_is_the_share_of_the_schedule(comfyui, sigmas, sigma, share):
    from sd_debias.nodes.guidance import Progress

    class Sampling:
        sigma_max = torch.tensor(10.0)

        @staticmethod
        def timestep(sigma):
            return sigma * 100

    assert Progress(torch.tensor(sigmas), Sampling)(torch.tensor([sigma])) == pytest.approx(share)
