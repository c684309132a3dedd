"""Guidance beside ComfyUI's own patches, samplers and guiders: on the real host only."""
from functools import partial

import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.method import Method

pytestmark = pytest.mark.comfyui
PROMPT = "a photo of a doctor"
WEIGHTS = torch.tensor([[0.0, -1.0], [0.4, -0.4]])


@pytest.fixture
def guided(demo):
    """guided(model, direction) -> (the patched model, the list of what its passes did)."""
    from sd_debias.nodes.conditioning import encode_all
    from sd_debias.nodes.guidance import Guide

    def make(model, direction="embedding", weights=WEIGHTS):
        done = []
        with torch.inference_mode():
            encoded = encode_all(demo[1], PROMPT, (GENDER,), Method().context)
        guide = Guide(encoded, (GENDER,), Method(direction), lambda *_: weights, lambda did, _: done.append(did))
        return guide.patch(model), done
    return make


def node(module, name, *args):
    """A model patched by one of ComfyUI's own nodes."""
    def patch(model):
        import importlib
        found = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        call = found.execute if hasattr(found, "execute") else found().patch
        result = call(model, *args)
        return result[0] if isinstance(result, tuple) else result.args[0]
    return patch


PATCHES = {
    "PAG": node("nodes_pag", "PerturbedAttentionGuidance", 3.0),
    "SAG": node("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    "APG": node("nodes_apg", "APG", 1.0, 5.0, 0.0),
    "RescaleCFG": node("nodes_model_advanced", "RescaleCFG", 0.7),
    "FreeU": node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "CFGZeroStar": node("nodes_cfg", "CFGZeroStar"),
    "TCFG": node("nodes_tcfg", "TCFG"),
    "v-prediction": node("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", False),
    "v-prediction, zero SNR": node("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", True),
    "flow": node("nodes_model_advanced", "ModelSamplingSD3", 3.0),
}


def together(model, guided, run, direction):
    """Guided differs from plain, says that it acted, and without weights is plain bit by bit."""
    plain = run(model)
    patched, done = guided(model, direction)
    found = run(patched)
    assert torch.isfinite(found).all() and (found - plain).abs().max() > 1e-4
    assert done[-1]["acted"] and done[-1]["guided_images"] == 2
    assert torch.equal(run(guided(model, direction, torch.zeros(2, 2))[0]), plain)


@pytest.mark.parametrize("direction", ["prompt", "embedding", "prediction"])
@pytest.mark.parametrize("patch", PATCHES)
def test_with_patches_of_the_model(demo, sample, guided, patch, direction):
    together(PATCHES[patch](demo[0]), guided, sample, direction)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde",
                                     "uni_pc", "euler_cfg_pp", "res_multistep", "ddpm", "lcm", "dpm_adaptive"])
def test_with_samplers(demo, sample, guided, sampler):
    together(demo[0], guided, partial(sample, sampler=sampler), "embedding")


@pytest.mark.parametrize("name", ["DualCFG", "PerpNeg", "Basic"])
def test_with_guiders(demo, sample, guided, name):
    from comfy_extras import nodes_custom_sampler, nodes_perpneg
    empty = sample.encode("")

    class DualCFG(nodes_custom_sampler.Guider_DualCFG):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a person"), empty)
            self.set_cfg(2.0, 1.5)

    class PerpNeg(nodes_perpneg.Guider_PerpNeg):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a judge"), empty)
            self.set_cfg(2.0, 1.0)

    made = dict(DualCFG=DualCFG, PerpNeg=PerpNeg, Basic=nodes_custom_sampler.Guider_Basic)[name]
    together(demo[0], guided, partial(sample, guider=made), "embedding")


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_with_regions_and_timestep_ranges(demo, sample, guided, direction):
    left, right = (sample.encode(text)[0] for text in (PROMPT, "a photo of a judge"))
    positive = [[left[0], {**left[1], "area": (8, 4, 0, 0), "strength": 1.0}],
                [right[0], {**right[1], "area": (8, 8, 0, 0), "strength": 0.7, "start_percent": 0.2}]]
    together(demo[0], guided, partial(sample, positive=positive), direction)


def test_with_a_lora(demo, sample, guided):
    import comfy.sd
    generator = torch.Generator().manual_seed(0)
    key = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_q.weight"
    shape = demo[0].model.state_dict()[key].shape
    lora = {f"{key.removesuffix('.weight')}.lora_up.weight": torch.randn(shape[0], 2, generator=generator),
            f"{key.removesuffix('.weight')}.lora_down.weight": torch.randn(2, shape[1], generator=generator)}
    model, _ = comfy.sd.load_lora_for_models(demo[0], None, lora, 1.0, 0.0)
    assert not torch.equal(sample(model), sample(demo[0]))
    together(model, guided, sample, "embedding")


def test_a_second_pass_starts_afresh_and_in_the_middle_of_the_schedule(demo, sample, guided):
    from dataclasses import replace

    from sd_debias.core.guidance import SafeLatentGuidance
    model, done = guided(demo[0])
    sigmas = torch.cat([demo[0].get_model_object("model_sampling").sigmas[[499, 374, 249, 124]], torch.zeros(1)])
    sample(model)
    sample(model, sigmas=sigmas)
    assert [summary["steps"] for summary in done] == [4, 4]
    guide = model.wrappers["outer_sample"]["sd-debias"][0]
    early = replace(guide, method=Method("embedding", guidance=SafeLatentGuidance(end=0.4)))
    sample(early.patch(demo[0]), sigmas=sigmas)
    assert done[-1]["steps"] == 0  # its window lies before this pass


def test_samplers_are_called_as_in_ksamplers_list(comfyui):
    import comfy.samplers

    from sd_debias.nodes.guidance import sampler_name
    assert [sampler_name(comfy.samplers.sampler_object(name)) for name in comfy.samplers.SAMPLER_NAMES] == list(
        comfy.samplers.SAMPLER_NAMES)
