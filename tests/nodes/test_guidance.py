"""Guidance inside ComfyUI's sampling: one set of tests over the real host and its double.

That images are what core computes, are left alone and keep to windows: tests/contracts.
"""

import pytest
import torch
from nodes_given import DRAWING, PROMPT, comfy, ours, profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import DIRECTIONS, METHODS, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance

PUSH = [[0.0, -1.0]] * 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_pass_tells_what_it_did_the_mean_magnitude_of_guided_pictures_alone(
        sample, guided, direction):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    told = []
    for batch in (1, 2):
        model, done = guided(Method(direction), [[0.0, -1.0], [0.0, 0.0]][:batch])
        sample(model, noise=noise[:batch], batch=batch, cfg=3.0, steps=5)
        told += done
    (one, _), (two, facts) = told
    assert (two["acted"], two["guided_images"], one["guided_images"]) == (True, 1, 1)
    assert two["magnitude"] == pytest.approx(one["magnitude"], rel=1e-3) and one["magnitude"] > 0
    assert dict(steps=5, cfg=3.0, sampler="euler", width=64).items() <= facts.items()


def test_weights_are_asked_for_by_seed_and_batch_and_the_next_run_is_the_same(demo, sample, guided):
    asked = []

    def weights(seed, images):
        asked.append((seed, images))
        return torch.tensor([[0.0, -1.0 if seed == 7 else 0.0]] * images)

    model, done = guided(Method("embedding"), weights)
    runs = [dict(seed=7, batch=3, steps=2), dict(seed=9, batch=1, steps=2)]
    first, other, again = (sample(model, **runs[i]) for i in (0, 1, 0))
    assert not torch.equal(first, sample(demo[0], **runs[0])) and torch.equal(first, again)
    assert torch.equal(other, sample(demo[0], **runs[1]))
    assert asked == [(7, 3), (9, 1), (7, 3)]
    assert [did["acted"] for did, _ in done] == [True, False, True]


LATER = [499, 374, 249, 124]  # of the schedule: its second half, as of a second pass


@pytest.mark.parametrize("window, sampler, times, steps", [
    (dict(start=0.99), "euler", None, 0), (dict(end=0.5), "euler", None, 2),
    # Evaluations at sigma 0, at 1 twice; the second of step 1, at sigma 2, lies outside.
    (dict(end=0.5), "heun", None, 3),
    (dict(end=0.7), "euler", LATER, 2), (dict(end=0.4), "euler", LATER, 0)])
def test_a_window_limits_the_extra_evaluations(
        demo, sample, guided, window, sampler, times, steps):
    model, done = guided(Method("embedding", guidance=SafeLatentGuidance(**window)), PUSH)
    whole = demo[0].get_model_object("model_sampling").sigmas
    sample(model, sampler=sampler, sigmas=times and torch.cat([whole[times], torch.zeros(1)]))
    did, _ = done[0]
    assert (did["steps"], did["extra_evaluations"], did["acted"]) == (steps, 2 * steps, steps > 0)
    assert steps or "window" in did["reason"]


def guider(sample, kind):
    """One without a negative; or one with a model of its own for it, as Ideogram 4's."""
    class Basic(comfy.samplers.CFGGuider):
        def set_conds(self, positive):
            self.inner_set_conds({"positive": positive})

    class DualModel(comfy.samplers.CFGGuider):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode(""))
            self.set_cfg(2.0)

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            network = getattr(self, "inner_model", None) or self.model_patcher.model
            positive, negative = (
                comfy.samplers.calc_cond_batch(network, [self.conds[name]], x, timestep, model_options)[0]
                for name in ("positive", "negative"))
            return negative + self.cfg * (positive - negative)
    return dict(Basic=Basic, DualModel=DualModel)[kind]


def test_without_a_negative_the_prompt_s_own_prediction_is_the_baseline(sample, guided):
    model, done = guided(Method("embedding"), PUSH)
    found = sample(model, guider=guider(sample, "Basic"))
    did, _ = done[0]
    assert did["acted"] and did["extra_evaluations"] == 2 * 2  # in every second of four steps
    assert did["steps"] == 4
    assert torch.allclose(found, sample(model, cfg=1.0), atol=1e-4)


@pytest.mark.parametrize("method", [
    Method("prompt"), Method("embedding"), METHODS["paper"]], ids=["prompt", "embedding", "paper"])
def test_where_the_negative_has_a_model_of_its_own_texts_act_and_other_directions_say_they_cannot(
        demo, sample, guided, method):
    model, done = guided(method, PUSH)
    dual = guider(sample, "DualModel")
    found = sample(model, guider=dual)
    did, _ = done[0]
    if method.direction == "prompt":
        assert did["acted"] and torch.allclose(found, sample(model), atol=1e-4)
    else:
        assert torch.equal(found, sample(demo[0], guider=dual))
        assert not did["acted"] and "never evaluated the positive" in did["reason"]


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_two_profiles_that_are_anchored_at_the_prompt_add_up(demo, sample, guided, cfg):
    """The outer one took the inner one's push for the prompt's own prediction, and back."""
    method = Method("embedding", guidance=SafeLatentGuidance(1e6, anchor="prompt", toward=True, linear=True))
    half, whole = ([[0.0, -weight], [0.0, 0.0]] for weight in (0.5, 1.0))
    once, _ = guided(method, whole)
    twice, _ = guided(method, half, base=guided(method, half)[0])
    found, expected, plain = (sample(model, cfg=cfg) for model in (twice, once, demo[0]))
    assert (expected - plain)[0].abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("direction, text, fact", [
    ("prompt", torch.zeros(1, 77, 32), "width 32,.* width 56"), ("prompt", None, "no text embedding"),
    ("embedding", None, "no text embedding"), ("prompt", "empty batch", "batch is empty")])
def test_a_conditioning_of_another_encoder_or_without_text_and_an_empty_batch_are_refused(
        sample, guided, direction, text, fact):
    model, _ = guided(Method(direction), PUSH[:1])
    with pytest.raises(DebiasError, match=fact):
        if text == "empty batch":
            sample(model, batch=0)
        sample(model, positive=[[text, {}]], batch=1)


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


# --- texts of different lengths: nothing is lengthened with other tokens -------------------------

# Tokens of "a photo of a doctor very very ...": 75 are a chunk, which groups' words then open.
FITS, OPENS = 60, 74


def prompt(tokens):
    return PROMPT + " very" * (tokens - 5)


def test_text_encode_refuses_a_batch_of_texts_of_different_lengths(call):
    text = prompt(OPENS)
    asked = dict(text=text, profile=profile(DRAWING, prompts=(text,)))
    draws = list(map(bool, DRAWING.draws(range(50))))
    first = next(seed for seed in range(49) if draws[seed:seed + 2] == [False, True])
    with pytest.raises(DebiasError, match="different lengths"):
        call("DebiasTextEncode", **asked, seed=first, batch_size=2)
    alone, = call("DebiasTextEncode", **asked, seed=first + 1)
    assert alone[0][0].shape[1] == 154


def test_some_images_of_a_batch_keep_their_own_reference_pictures(comfyui):
    """A list of them stayed whole, so that image 2 was evaluated with the reference of image 0."""
    class Listed:
        def __init__(self, cond):
            self.cond = cond

        def _copy_with(self, cond):
            return Listed(cond)

    listed = Listed([torch.arange(3.0).view(3, 1), torch.zeros(1, 1)])
    entry = dict(cross_attn=torch.arange(3.0).view(3, 1, 1), mask=torch.ones(1, 2),
                 model_conds=dict(ref_latents=listed))
    cut, = ours.conditioning.of_rows([entry], [2])
    first, second = cut["model_conds"]["ref_latents"].cond
    assert cut["cross_attn"].flatten().tolist() == first.flatten().tolist() == [2.0]
    assert len(second) == len(cut["mask"]) == 1
