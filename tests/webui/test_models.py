"""Other models than the demo model in the real A1111, one with a LoRA, and all of its samplers."""
from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from webui_hosts import generate
from webui_settings import DIRECTIONS, PROMPT, apart, debias, same, save_profile

pytestmark = [pytest.mark.webui, pytest.mark.slow]
directions = pytest.mark.parametrize("direction", DIRECTIONS)


def check_steered(host, direction, least=2, **page):
    """The plain images and those of a profile, which say so."""
    save_profile(host.profiles, direction=direction)
    plain, _ = generate(host, **page)
    guided, (said, *_) = generate(host, **page, **debias())
    assert apart(plain, guided) > least and "Debias weights" in said and "Debias failed" not in said
    return plain, guided, said


@directions
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize("kind", ["v-prediction", "SDXL"])
def test_another_kind_of_model(a1111, direction, sampler, kind):
    model = a1111.sdxl("sd-debias-xl") if kind == "SDXL" else a1111.checkpoint(
        "sd-debias-v", parameterization="v")
    page = dict(model, sampler_name=sampler)
    plain, guided, _ = check_steered(a1111, direction, 2 if kind == "SDXL" else 8, **page)
    assert apart(plain, generate(a1111, sampler_name=sampler)[0]) > 8  # it is another model
    pair, _ = generate(a1111, **page, **debias(), seed=4, batch_size=2)
    assert apart(pair[1:], guided) <= 1
    for off in (dict(enabled=False), dict(strength=0.0)):
        assert same(plain, generate(a1111, **page, **debias(**off))[0])


@directions
def test_nan_is_claimed_by_nobody(a1111, direction):
    from sd_debias.diffusers_host import workbench
    unet = workbench.demo().pipe.unet
    with torch.no_grad():
        unet.conv_out.bias.fill_(float("nan"))
    model = a1111.checkpoint("sd-debias-nan", unet)
    save_profile(a1111.profiles, direction=direction)
    before = generate(a1111, **debias())
    with pytest.raises(ValueError, match="NansException"):
        generate(a1111, **model, **debias())
    after = generate(a1111, **debias())
    assert same(before[0], after[0]) and before[1] == after[1]


@directions
def test_the_refiner_takes_over(a1111, direction):
    a1111.checkpoint("sd-debias-refiner", parameterization="v")
    refiner = dict(refiner_checkpoint="sd-debias-refiner", refiner_switch_at=0.5)
    plain, _, _ = check_steered(a1111, direction, **refiner)
    late, _ = generate(a1111, **refiner, **debias(start=0.6))
    assert apart(plain, late) > 0 and apart(plain, generate(a1111)[0]) > 2


@directions
def test_a_lora(a1111, direction):
    layers = {"diffusion_model_middle_block_1_transformer_blocks_0_attn2_to_v": (96, 56),
              "transformer_text_model_encoder_layers_1_mlp_fc1": (224, 56)}
    torch.manual_seed(0)
    weights = {f"{name}.{part}.weight": torch.randn(shape) / 4 for name, (rows, columns) in layers.items()
               for part, shape in (("lora_up", (rows, 4)), ("lora_down", (4, columns)))}
    folder = a1111.place / "models" / "Lora"
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "sd-debias-test.safetensors")
    a1111.call("/sdapi/v1/refresh-loras", {})
    alone, both, said = check_steered(a1111, direction, prompt=f"{PROMPT} <lora:sd-debias-test:1>")
    assert "Debias prompt" not in said  # the LoRA is no part of the calibrated prompt
    assert apart(alone, generate(a1111)[0]) > 2 and apart(both, generate(a1111, **debias())[0]) > 2


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_every_sampler(a1111, direction):
    for sampler in a1111.call("/sdapi/v1/samplers"):
        check_steered(a1111, direction, 8, sampler_name=sampler["name"])
