"""Other models than the demo model in the real A1111, one with a LoRA, and all of its samplers."""
from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from webui_hosts import generate
from webui_settings import DIRECTIONS, PROMPT, apart, debias, same, save_profile

pytestmark = [pytest.mark.webui, pytest.mark.slow]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_v_prediction(a1111, direction, sampler):
    model = a1111.checkpoint("sd-debias-v", parameterization="v")
    save_profile(a1111.profiles, direction=direction)
    plain, _ = generate(a1111, **model, sampler_name=sampler)
    guided, (said, *_) = generate(a1111, **model, **debias(), sampler_name=sampler)
    assert apart(plain, guided) > 8 and "Debias weights" in said
    assert same(plain, generate(a1111, **model, **debias(enabled=False), sampler_name=sampler)[0])
    assert same(plain, generate(a1111, **model, **debias(strength=0.0), sampler_name=sampler)[0])
    assert apart(plain, generate(a1111, sampler_name=sampler)[0]) > 8  # it is another model


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_sdxl(a1111, direction, sampler):
    model = a1111.sdxl("sd-debias-xl")
    save_profile(a1111.profiles, direction=direction)
    plain, _ = generate(a1111, **model, sampler_name=sampler)
    guided, (said, *_) = generate(a1111, **model, **debias(), sampler_name=sampler, batch_size=2)
    assert apart(plain, guided[:1]) > 2 and "Debias weights" in said and "Debias failed" not in said
    assert apart(guided[1:], generate(a1111, **model, **debias(), sampler_name=sampler, seed=6)[0]) <= 1
    assert same(plain, generate(a1111, **model, **debias(enabled=False), sampler_name=sampler)[0])
    assert same(plain, generate(a1111, **model, **debias(strength=0.0), sampler_name=sampler)[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_refiner_takes_over(a1111, direction):
    a1111.checkpoint("sd-debias-refiner", parameterization="v")
    refiner = dict(refiner_checkpoint="sd-debias-refiner", refiner_switch_at=0.5)
    save_profile(a1111.profiles, direction=direction)
    plain, _ = generate(a1111, **refiner)
    guided, (said, *_) = generate(a1111, **refiner, **debias())
    late, _ = generate(a1111, **refiner, **debias(start=0.6))
    assert "Debias weights" in said and "Debias failed" not in said
    assert apart(plain, guided) > 2 and apart(plain, late) > 0 and apart(plain, generate(a1111)[0]) > 2


@pytest.mark.parametrize("direction", DIRECTIONS)
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
    save_profile(a1111.profiles, direction=direction)
    prompt = f"{PROMPT} <lora:sd-debias-test:1>"
    alone, _ = generate(a1111, prompt=prompt)
    both, (said,) = generate(a1111, **debias(), prompt=prompt)
    assert apart(alone, generate(a1111)[0]) > 2 and apart(alone, both) > 2
    assert "Debias weights" in said and "Debias prompt" not in said  # the LoRA is no part of the calibrated prompt
    assert apart(both, generate(a1111, **debias())[0]) > 2


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_every_sampler(a1111, direction):
    save_profile(a1111.profiles, direction=direction)
    failed = {}
    for sampler in (each["name"] for each in a1111.call("/sdapi/v1/samplers")):
        plain, _ = generate(a1111, sampler_name=sampler)
        guided, (said, *_) = generate(a1111, **debias(), sampler_name=sampler)
        if apart(plain, guided) <= 8 or "Debias weights" not in said or "Debias failed" in said:
            failed[sampler] = said
    assert not failed
