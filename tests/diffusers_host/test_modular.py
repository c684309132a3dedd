"""Modular pipelines: `DebiasGuidance` in front of every guider of diffusers. What a push means, family by family, is
compared in tests/contracts."""
import pytest
import tiny_modular
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig

import sd_debias as debias
from sd_debias.core.attribute import GENDER
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import Method
from sd_debias.core.profile.balance import balanced
from sd_debias.diffusers_host.generate import generate
from sd_debias.diffusers_host.guider import DebiasGuidance
from sd_debias.diffusers_host.workbench import Workbench

PROMPT, SEEDS = "a doctor", [1, 2, 3]
PUSH = torch.tensor([[0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]])
BLOCKS = "mid_block.attentions.0.transformer_blocks"
SKIPPED = LayerSkipConfig(indices=[0], fqn=BLOCKS)
PERTURBED = LayerSkipConfig(indices=[0], fqn=BLOCKS, skip_attention=False, skip_attention_scores=True, skip_ff=False)
SMOOTHED = SmoothedEnergyGuidanceConfig(indices=[0], fqn=BLOCKS)
GUIDERS = {
    "ClassifierFreeGuidance": {}, "ClassifierFreeZeroStarGuidance": {}, "AdaptiveProjectedGuidance": {},
    "AdaptiveProjectedMixGuidance": {}, "TangentialClassifierFreeGuidance": {}, "MagnitudeAwareGuidance": {},
    "AutoGuidance": dict(auto_guidance_config=SKIPPED), "SkipLayerGuidance": dict(skip_layer_config=SKIPPED),
    "PerturbedAttentionGuidance": dict(perturbed_guidance_config=PERTURBED),
    "SmoothedEnergyGuidance": dict(seg_guidance_config=SMOOTHED)}


@pytest.fixture(scope="module")
def pipe():
    return tiny_modular.pipeline("sdxl")


def made(pipe, prompt=PROMPT, seeds=SEEDS, name="sdxl", **steered):
    return torch.from_numpy(generate(pipe, prompt, seeds, **steered, **tiny_modular.call(name))[0].astype(int))


@pytest.mark.parametrize("name", GUIDERS)
def test_it_stands_in_front_of_every_guider(pipe, name):
    """A full push is the group's own text as that guider draws it; an image that is left alone stays."""
    family = "flux2-klein" if name == "MagnitudeAwareGuidance" else "sdxl"  # it takes latents of tokens alone
    pipe = pipe if family == "sdxl" else tiny_modular.pipeline(family)
    how = dict(name=family, **(dict(negative_prompt="blurry") if family == "sdxl" else {}))
    pipe.guider = getattr(guiders, name)(guidance_scale=4.0, **GUIDERS[name])
    plain = made(pipe, **how)
    own = made(pipe, "a doctor, a woman", SEEDS[:1], **how)
    assert not torch.equal(own[0], plain[0])
    found = made(pipe, attributes=[GENDER], weights=PUSH, **how)
    assert torch.equal(found[1], plain[1]) and (found[0] - own[0]).abs().max() <= 1
    inside = made(pipe, attributes=[GENDER], weights=PUSH, method=Method("embedding"), **how)
    assert torch.equal(inside[1], plain[1]) and not torch.equal(inside[0], plain[0])


def called(pipe, prompt=PROMPT, **call):
    given = dict(num_images_per_prompt=4, generator=torch.Generator().manual_seed(0), output="images",
                 output_type="pt", **tiny_modular.call("sdxl"))
    return pipe(prompt=prompt, **{**given, **call})


def test_a_pipeline_s_call_stays_its_own(pipe):
    """A balanced call, several prompts at once, a state that it goes on from, and the pipeline as it was before."""
    plain, guider = called(pipe), pipe.guider
    with debias.applied(pipe, balanced("gender")):
        assert isinstance(pipe.guider, DebiasGuidance) and pipe.guider.guidance_scale == guider.guidance_scale
        found = called(pipe)
        both = called(pipe, [PROMPT, "a nurse"])
        chairs = called(pipe, "a chair")
        state = called(pipe, output=None)
    assert pipe.guider is guider and torch.equal(called(pipe), plain)
    moved = [not torch.equal(a, b) for a, b in zip(found, plain)]
    assert any(moved) and torch.equal(state.images, found) and len(both) == 8
    assert torch.equal(chairs, called(pipe, "a chair"))


def test_after_an_exception_the_pipeline_is_as_it_was(pipe, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("out of memory")

    guider = pipe.guider
    monkeypatch.setattr(pipe.scheduler, "step", full)
    with pytest.raises(RuntimeError, match="out of memory"), debias.applied(pipe, balanced("gender")):
        called(pipe)
    assert pipe.guider is guider and "forward" not in pipe.unet.__dict__


def test_a_guider_is_saved_and_loaded(pipe, tmp_path):
    """With its profile, its strength and the guider behind it."""
    guider = guiders.AdaptiveProjectedGuidance(guidance_scale=3.0)
    DebiasGuidance(balanced("gender = 60:40"), 0.5, guider).save_pretrained(tmp_path)
    loaded = DebiasGuidance.from_pretrained(tmp_path)
    assert loaded.strength == 0.5 and loaded.profile.entries == balanced("gender = 60:40").entries
    assert isinstance(loaded.guider, guiders.AdaptiveProjectedGuidance) and loaded.guidance_scale == 3.0
    before = called(debias.enable(pipe, balanced("gender = 60:40"), 0.5))
    assert torch.equal(called(debias.enable(pipe, loaded)), before)
    debias.disable(pipe)


@pytest.mark.parametrize("wrong", [dict(profile="nobody"), dict(guider=5), dict(guider={"_class_name": "Nobody"}),
                                   dict(strength=float("nan"))])
def test_a_guider_of_wrong_parts_is_refused(wrong):
    with pytest.raises(debias.DebiasError):
        DebiasGuidance(**{"profile": balanced("gender"), **wrong})


def test_a_guider_that_knows_no_prompt_says_what_to_call(pipe):
    guider = pipe.guider
    pipe.guider = DebiasGuidance(balanced("gender"), guider=guider)
    try:
        with pytest.raises(debias.DebiasError, match=r"debias\.enable\(pipe, guider\)"):
            called(pipe)
    finally:
        pipe.guider = guider


def test_a_pipeline_without_a_guider_takes_the_direction_prompt():
    pipe = tiny_modular.pipeline("flux2-klein", distilled=True)
    plain = made(pipe, name="flux2-klein")
    found = made(pipe, name="flux2-klein", attributes=[GENDER], weights=PUSH)
    own = made(pipe, "a doctor, a woman", SEEDS[:1], "flux2-klein")
    assert torch.equal(found[1], plain[1]) and torch.equal(found[0], own[0]) and not torch.equal(own[0], plain[0])
    with pytest.raises(debias.DebiasError, match="has no guider"):
        made(pipe, name="flux2-klein", attributes=[GENDER], weights=PUSH, method=Method("embedding"))


def test_a_judge_audits_a_modular_pipeline(pipe):
    """In batches, with the guider's own scale put back."""
    bench = Workbench(pipe, None, steps=2, cfg=3.0, width=16, height=16, batch_size=2)
    scale = pipe.guider.guidance_scale
    images, info = bench.generate(PROMPT, SEEDS, [GENDER], [Steering((0.0, 0.0), (0.0, 0.5, 0.5), 1.0)])
    assert images.shape == (3, 16, 16, 3) and info["guided_images"] == 3 and pipe.guider.guidance_scale == scale
    shares = debias.audit(pipe, PROMPT, "gender", count=4, judge=lambda pictures: torch.tensor(
        [[0.9, 0.1]] * len(pictures)), progress=False, width=16, height=16, num_inference_steps=2).shares
    assert shares["gender"]["man"] == 1.0
