"""One group of weight 1, alone, is Safe Latent Diffusion: compared with diffusers' own pipeline of it, run here."""
import math

import pytest
import tiny_pipelines
import torch

from sd_debias.core.attribute import Attribute, Group
from sd_debias.core.method.methods import ALONE, Method
from sd_debias.diffusers_host.generate import guided
from sld_presets import PRESETS

safe = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
STEPS = 10
CONCEPT = "an old man"


def latents_of(pipe, seeds, **call):
    """Final latents [N, C, H, W]; the SLD pipeline has no output_type for them."""
    last = []
    pipe(generator=[torch.Generator().manual_seed(seed) for seed in seeds], num_inference_steps=STEPS,
         guidance_scale=7.5, callback=lambda step, t, latents: last.append(latents), callback_steps=1, **call)
    assert len(last) == STEPS
    return last[-1]


def calm_pipeline():
    """mu's slope of up to 5000 makes rounding grow in an untrained network: SLD's own latents then depend on the batch
    size. A weaker prediction and a milder noise schedule keep that far below 1e-4, and SLD's effect far above."""
    pipe = tiny_pipelines.sd()
    pipe.unet.conv_out.weight.mul_(0.1)
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, beta_end=0.002)
    return pipe


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("preset", PRESETS)
def test_one_group_of_weight_1_gives_the_latents_of_safe_latent_diffusion(preset):
    settings = PRESETS[preset]
    pipe = calm_pipeline()
    theirs = safe.StableDiffusionPipelineSafe(**pipe.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.safety_concept = CONCEPT
    expected = latents_of(
        theirs, [1, 2], prompt=["a doctor"] * 2, sld_guidance_scale=settings.scale, sld_threshold=settings.threshold,
        sld_warmup_steps=math.ceil(settings.start * STEPS), sld_momentum_scale=settings.momentum_scale,
        sld_mom_beta=settings.momentum_beta)

    # An attribute has two groups at least; one of weight 0 takes no part.
    concept = Attribute("concept", (Group("it", (CONCEPT,)), Group("other")))
    method = Method("embedding", ALONE, guidance=settings)
    with guided(pipe, "a doctor", [concept], torch.tensor([[1.0, 0.0]] * 2), method) as guide:
        ours = latents_of(pipe, [1, 2], **guide.call)

    plain = latents_of(pipe, [1, 2], prompt=["a doctor"] * 2)
    assert (plain - expected).abs().max() > 0.1, "SLD itself changed nothing, so the comparison would say nothing"
    assert torch.allclose(ours, expected, atol=1e-4), (ours - expected).abs().max()
