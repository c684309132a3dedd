"""Guidance inside ComfyUI's sampling: one set of tests over the real host and its double."""
from dataclasses import replace

import pytest
import torch
from nodes_given import PROMPT

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import ALONE, METHODS, Method, named
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.demo_model.model import FOLDER as DEMO
from sd_debias.diffusers_host.generate import guided as guided_pipeline
from sd_debias.diffusers_host.workbench import load_pipeline

WEIGHTS = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.3, -0.4]])
PUSH = [[0.0, -1.0]] * 2


@pytest.fixture(scope="module")
def pipe():
    pipe = load_pipeline(str(DEMO))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("method, cfg", [
    (Method("prompt", ALONE), 1.0),
    (Method("prompt", guidance=SafeLatentGuidance(start=0.2, end=0.6)), 2.0),
    (Method("embedding"), 2.0), (Method("prediction"), 1.0), (METHODS["paper"], 1.0),
    (METHODS["paper"], 2.0), (named(direction="prediction"), 2.0),
    (named(direction="prediction"), 1.0),
    (Method("embedding", guidance=SafeLatentGuidance(1000, 0.01, 0.3, 0.4, 0.1, 0.5)), 2.0)],
    ids=lambda value: getattr(value, "direction", str(value)))
def test_latents_are_those_of_the_diffusers_pipeline(pipe, sample, guided, method, cfg):
    """Same noise, same schedule."""
    steps = 8 if method.guidance.start else 5  # a window holds several; DDIM takes divisors of 1000
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    asked = dict(num_inference_steps=steps, guidance_scale=cfg, output_type="latent")
    with guided_pipeline(pipe, PROMPT, [GENDER], WEIGHTS, method, negative_prompt="blurry") as own:
        expected = pipe(**own.call, **asked, latents=noise.clone()).images

    model, done = guided(method, WEIGHTS)
    at_the_end = ((1 - pipe.scheduler.final_alpha_cumprod) / pipe.scheduler.final_alpha_cumprod) ** 0.5
    sigmas = model.get_model_object("model_sampling").sigmas[pipe.scheduler.timesteps]
    sigmas = torch.cat([sigmas, at_the_end.reshape(1)])
    found = sample(model, negative="blurry", cfg=cfg, noise=noise, sigmas=sigmas, batch=3)
    found = found * 0.18215 / (1 + sigmas[-1] ** 2) ** 0.5
    assert (found - expected).abs().max() < 1e-3
    theirs, (ours, facts) = own.summary(), done[0]
    assert (ours["acted"], ours["steps"], ours["guided_images"]) == (True, theirs["steps"], 2)
    assert ours["magnitude"] == pytest.approx(theirs["magnitude"], rel=1e-3)
    assert dict(steps=steps, cfg=cfg, sampler="euler", width=64).items() <= facts.items()


def test_weights_are_asked_for_by_seed_and_batch_and_the_next_run_is_the_same(demo, sample, guided):
    asked = []

    def weights(seed, images):
        asked.append((seed, images))
        return torch.tensor([[0.0, -1.0 if seed == 7 else 0.0]] * images)

    model, done = guided(Method("embedding"), weights)
    first, plain = (sample(each, seed=7, batch=3, steps=2) for each in (model, demo[0]))
    assert not torch.equal(first, plain)
    assert torch.equal(sample(model, seed=9, batch=1, steps=2),
                       sample(demo[0], seed=9, batch=1, steps=2))
    assert torch.equal(sample(model, seed=7, batch=3, steps=2), first)
    assert asked == [(7, 3), (9, 1), (7, 3)]
    assert [did["acted"] for did, _ in done] == [True, False, True]


@pytest.mark.parametrize("direction", ("embedding", "prediction"))
def test_what_is_not_finite_is_left_out_and_said(demo, sample, guided, direction):
    def broken(encoded):
        return replace(encoded, groups={name: g * float("nan") for name, g in encoded.groups.items()})

    model, done = guided(Method(direction), PUSH, change=broken)
    assert torch.allclose(sample(model), sample(demo[0]), atol=1e-5)
    summary, _ = done[0]
    assert not summary["acted"] and summary["skipped"] == 4
    assert "NaN" in summary["warnings"][0]


@pytest.mark.parametrize("window, sampler, steps", [
    (dict(start=0.99), "euler", 0), (dict(end=0.5), "euler", 2),
    # Evaluations at sigma 0, at 1 twice; the second of step 1, at sigma 2, lies outside.
    (dict(end=0.5), "heun", 3)])
def test_a_window_limits_the_extra_evaluations(sample, guided, window, sampler, steps):
    model, done = guided(Method("embedding", guidance=SafeLatentGuidance(**window)), PUSH)
    sample(model, sampler=sampler)
    did, _ = done[0]
    assert (did["steps"], did["extra_evaluations"], did["acted"]) == (steps, 2 * steps, steps > 0)
    assert steps or "window" in did["reason"]


def test_another_cfg_rule_works_on_the_guided_prediction(demo, sample, guided):
    base = demo[0].clone()
    base.set_model_sampler_cfg_function(lambda args: args["cond"])
    model, _ = guided(Method("embedding"), PUSH, base=base)
    assert (sample(model) - sample(base)).abs().max() > 1e-3


def test_without_a_negative_the_prompt_s_own_prediction_is_the_baseline(sample, guided):
    try:
        from comfy_extras.nodes_custom_sampler import Guider_Basic as BasicGuider
    except ImportError:
        import comfy.samplers

        class BasicGuider(comfy.samplers.CFGGuider):
            def set_conds(self, positive):
                self.inner_set_conds({"positive": positive})
    model, done = guided(Method("embedding"), PUSH)
    found = sample(model, guider=BasicGuider)
    did, _ = done[0]
    assert did["acted"] and did["extra_evaluations"] == 2 * 2  # in every second of four steps
    assert did["steps"] == 4
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
    model, done = guided(Method("prompt"), [[0.0, -1.0], [0.0, 0.0]])
    assert torch.allclose(sample(model, guider=dual_model), sample(model), atol=1e-4)
    assert done[0][0]["acted"]


@pytest.mark.parametrize("method", [Method("embedding"), Method("prediction"), METHODS["paper"]],
                         ids=["embedding", "prediction", "paper"])
def test_directions_inside_sampling_say_that_they_cannot_act_where_the_negative_has_a_model_of_its_own(
        demo, sample, guided, dual_model, method):
    model, done = guided(method, PUSH)
    found, plain = (sample(each, guider=dual_model, steps=2) for each in (model, demo[0]))
    assert torch.equal(found, plain)
    assert not done[0][0]["acted"] and "never evaluated the positive" in done[0][0]["reason"]


def test_two_profiles_stack(sample, guided):
    weights = [[0.0, -0.5]] * 2
    one, first = guided(Method("embedding"), weights)
    two, second = guided(Method("embedding"), weights, base=one)
    found = sample(two)
    assert first[0][0]["acted"] and second[0][0]["acted"]
    assert (found - sample(one)).abs().max() > 1e-4


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_two_profiles_that_are_anchored_at_the_prompt_add_up(demo, sample, guided, cfg):
    """The outer one took the inner one's push for the prompt's own prediction, and back."""
    method = Method("prediction", guidance=SafeLatentGuidance(1e6, anchor="prompt"))
    half, whole = ([[0.0, -weight], [0.0, 0.0]] for weight in (0.5, 1.0))
    once, _ = guided(method, whole)
    twice, _ = guided(method, half, base=guided(method, half)[0])
    found, expected, plain = (sample(model, cfg=cfg) for model in (twice, once, demo[0]))
    assert (expected - plain)[0].abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("direction, text, fact", [
    ("prompt", torch.zeros(1, 77, 32), "width 32,.* width 56"),
    ("prompt", None, "no text embedding"),
    ("prediction", None, "no text embedding")])
def test_a_conditioning_of_another_encoder_or_without_text_is_refused(
        sample, guided, direction, text, fact):
    model, _ = guided(Method(direction), PUSH[:1])
    with pytest.raises(DebiasError, match=fact):
        sample(model, positive=[[text, {}]], batch=1)


def test_a_conditioning_shifted_already_is_left_alone(demo, sample, guided):
    from sd_debias.nodes.guidance import PROFILE
    model, done = guided(Method("prompt"), PUSH, profile="abc")
    positive = [[embedding, {**options, PROFILE: "abc"}] for embedding, options in sample.encode(PROMPT)]
    assert torch.equal(sample(model, positive=positive), sample(demo[0], positive=positive))
    assert "already" in done[0][0]["reason"]


def test_a_batch_of_one_is_guided_and_an_empty_one_refused(sample, guided):
    model, done = guided(Method("prompt"), PUSH[:1])
    assert sample(model, batch=1).shape == (1, 4, 8, 8) and done[0][0]["acted"]
    with pytest.raises(DebiasError, match="batch is empty"):
        sample(model, batch=0)


@pytest.mark.parametrize("sigmas, sigma, share", [
    ([10.0, 5.0, 2.0, 1.0, 0.0], 10.0, 0.0), ([10.0, 5.0, 2.0, 1.0, 0.0], 2.0, 0.5),
    ([10.0, 5.0, 2.0, 1.0, 0.0], 3.0, 0.25),  # between two steps
    ([5.0, 2.0, 1.0, 0.0], 5.0, 0.5),  # half the schedule, as a second pass at denoise 0.5
    ([10.0, 5.0], 10.0, 0.0)])
def test_progress_is_the_share_of_the_schedule(comfyui, sigmas, sigma, share):
    from sd_debias.nodes.progress import Progress

    class Sampling:
        sigma_max = torch.tensor(10.0)

        @staticmethod
        def timestep(sigma):
            return sigma * 100

    assert Progress(torch.tensor(sigmas), Sampling)(torch.tensor([sigma])) == pytest.approx(share)


@pytest.mark.comfyui
def test_steps_that_are_counted_are_those_that_sigma_tells(sample, guided, monkeypatch):
    """A GPU waits for a sigma that is read, so the steps of ComfyUI's samplers are counted."""
    from sd_debias.nodes.progress import FURTHER, Progress
    seen, step = [], Progress.step

    def both(self, timestep):
        known, self.further = self.further, None
        read, self.further = step(self, timestep), known
        assert known is not None
        seen.append((step(self, timestep), read))
        return seen[-1][0]

    monkeypatch.setattr(Progress, "step", both)
    model, _ = guided(Method("embedding", guidance=SafeLatentGuidance()), PUSH)
    for name in sorted(FURTHER):
        seen.clear()
        sample(model, sampler=name, steps=6)
        assert {counted for counted, _ in seen} == set(range(6)), name
        # A sampler that adds noise steps to a lower sigma first, and its middle may lie beyond the next step.
        beyond = 1 if name in ("dpm_2_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_2s_ancestral") else 0
        assert all(0 <= read - counted <= beyond for counted, read in seen), (name, seen)
