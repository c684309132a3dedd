"""Beside other extensions, where the real A1111 has them: no error, each still acts, and so does Debias."""
from __future__ import annotations

import pytest
from PIL import Image
from webui_hosts import generate
from webui_real import encoded
from webui_settings import DIRECTIONS, PROMPT, apart, debias, save_profile

pytestmark = [pytest.mark.webui, pytest.mark.slow]
ROUNDING = 2  # of 255

REGIONS = [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "0.2", False, False, False]
REGIONS_END = [[], "0", "0", "0.4", None, "0", "0", False]
# title: (title in the list of scripts, arguments, what else of the payload)
NEIGHBOURS = {
    "Dynamic Thresholding": ("Dynamic Thresholding (CFG Scale Fix)", [
        True, 2.0, 95.0, "Constant", 0.0, "Constant", 0.0, 4.0, True, "MEAN", "AD", 1.0], dict(cfg_scale=7.0)),
    "Semantic Guidance": ("Semantic Guidance", [True, "a red room", "", 1, 5.0, 0.05, 0.3, 0.6], {}),
    **{f"Regional Prompter, {kind}": ("Regional Prompter", [*REGIONS, kind, *REGIONS_END],
                                      dict(prompt=f"{PROMPT} BREAK a photo of a judge"))
       for kind in ("Attention", "Latent")},
    # This kind needs no model of its own; it marks texts, reads the rows of every evaluation, and wants the depth of
    # the original UNet.
    "ControlNet, reference": ("ControlNet", [dict(
        enabled=True, module="reference_only", model="None", image=encoded(Image.linear_gradient("L").convert("RGB")),
        weight=1.0, processor_res=64, threshold_a=0.5)], dict(checkpoint="deep")),
    # A face model in models/adetailer; any will do, one with random weights too, as the least sure box is taken.
    "ADetailer": ("ADetailer", [True, False, dict(
        ad_model="face_random.pt", ad_confidence=0.0, ad_mask_k=1, ad_denoising_strength=0.8,
        ad_inpaint_only_masked=False)], dict(override_settings=dict(ad_script_names="sd_debias"))),
}


@pytest.fixture(params=NEIGHBOURS)
def neighbour(request, a1111):
    """Payload that switches a neighbour on: (of alwayson_scripts, the rest)."""
    title, arguments, more = NEIGHBOURS[request.param]
    if title.lower() not in a1111.call("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip(f"{title} is not installed")
    if more.get("checkpoint") == "deep":
        more = a1111.checkpoint("sd-debias-deep", deep_unet())
    return {title: dict(args=arguments)}, more


def deep_unet():
    """A UNet of random weights with the original's number of blocks, whose images follow the text."""
    import torch
    from diffusers import UNet2DConditionModel
    from sd_debias.demo_model.model import FOLDER
    config = {**UNet2DConditionModel.load_config(FOLDER / "unet"), "layers_per_block": 2,
              "block_out_channels": [32, 32, 64, 64],
              "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
              "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3]}
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config)
    with torch.no_grad():
        for name, weights in unet.named_parameters():
            if ".attn2." in name:
                weights.mul_(6)
    return unet


def made(host, scripts, more, ours=False, **changes):
    """Images beside these other scripts, with a profile or without, and what they say."""
    ours = debias()["alwayson_scripts"] if ours else {}
    return generate(host, **{**more, **changes}, alwayson_scripts={**scripts, **ours})


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_act_and_a_batch_is_its_singles(a1111, neighbour, direction):
    scripts, more = neighbour
    save_profile(a1111.profiles, direction=direction)
    (plain, _), (ours, _), (theirs, _), (both, said) = (
        made(a1111, *each) for each in (({}, more), ({}, more, True), neighbour, (*neighbour, True)))
    assert "Debias weights" in said[0] and "Debias failed" not in said[0]
    assert apart(plain, theirs) > 2 and apart(theirs, both) > 2 and apart(ours, both) > 2
    assert apart(plain, made(a1111, {}, more)[0]) == 0  # nothing is left behind
    pairs = []
    for debiased in (False, True):
        batch, _ = made(a1111, *neighbour, debiased, batch_size=2)
        pairs.append((batch, [made(a1111, *neighbour, debiased, seed=5 + i)[0][0] for i in range(2)]))
    if apart(*pairs[0]) > ROUNDING:
        pytest.skip("the neighbour's own batch differs from its singles")
    assert apart(*pairs[1]) <= ROUNDING


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_adetailers_inner_pass_is_guided_where_its_list_names_us(a1111, direction):
    if "adetailer" not in a1111.call("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("ADetailer is not installed")
    title, arguments, _ = NEIGHBOURS["ADetailer"]
    save_profile(a1111.profiles, direction=direction)
    pictures = [made(a1111, {title: dict(args=arguments)}, dict(override_settings=dict(ad_script_names=names)), True)[0]
                for names in ("sd_debias", "another")]
    assert apart(*pictures) > 2
