"""Guidance beside ComfyUI's own patches, samplers and guiders: on the real host only."""
import importlib
from functools import cache, partial

import pytest
import torch
from nodes_given import PROMPT, comfy, ours

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.methods import DIRECTIONS, Method

pytestmark = pytest.mark.comfyui
WEIGHTS = torch.tensor([[0.0, -1.0], [0.4, -0.4]])


def called(made, *args):
    """What a node of ComfyUI's gives first, whichever kind of node it is."""
    run = getattr(made, "execute", None) or getattr(made(), getattr(made, "FUNCTION", "patch"))
    result = run(*args)
    return result[0] if isinstance(result, tuple) else result.args[0]


def node(module, name, *args):
    """A model patched by one of ComfyUI's own nodes."""
    return lambda model: called(
        getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name), model, *args)


def randoms(std=1.0):
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator) * std


def randomized(module, std):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=std, generator=generator)


def image_adapter(model):
    """Attention to an image as IP-Adapter's: a pair, indexed by whether rows are conditional."""
    def attend(q, k, v, options):
        kinds, heads = options["cond_or_uncond"], options["n_heads"]
        image = randoms()(1, 4, q.shape[-1])
        rows = torch.cat([(image, 0 * image)[kind].expand(len(q) // len(kinds), -1, -1)
                          for kind in kinds])
        attention = comfy.ldm.modules.attention.optimized_attention
        return attention(q, k, v, heads) + attention(q, rows, rows, heads)

    model = model.clone()
    model.set_model_attn2_replace(attend, "output", 3)
    return model


def lora(model):
    name = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_q"
    shape, random = model.model.state_dict()[f"{name}.weight"].shape, randoms()
    weights = {f"{name}.lora_up.weight": random(shape[0], 2),
               f"{name}.lora_down.weight": random(2, shape[1])}
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]


PATCHES = {
    "IP-Adapter": image_adapter,
    "PAG": node("pag", "PerturbedAttentionGuidance", 3.0),
    "SAG": node("sag", "SelfAttentionGuidance", 0.5, 2.0),
    "APG": node("apg", "APG", 1.0, 5.0, 0.0),
    "RescaleCFG": node("model_advanced", "RescaleCFG", 0.7),
    "FreeU": node("freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "CFGZeroStar": node("cfg", "CFGZeroStar"),
    "CFGNorm": node("cfg", "CFGNorm", 0.8),
    "TCFG": node("tcfg", "TCFG"),
    "Mahiro": node("mahiro", "Mahiro"),
    "FreSca": node("fresca", "FreSca", 1.0, 1.3, 8),
    "ToMe": node("tomesd", "TomePatchModel", 0.3),
    "LazyCache": node("easycache", "LazyCacheNode", 0.1, 0.3, 0.9, False),
    "v-prediction": node("model_advanced", "ModelSamplingDiscrete", "v_prediction", False),
    "v-prediction, zero SNR": node("model_advanced", "ModelSamplingDiscrete", "v_prediction", True),
    "flow": node("model_advanced", "ModelSamplingSD3", 3.0),
    "LoRA": lora}


# --- ways to sample: functions of `sample` that give run(model) ---------------------------------

def guider(sample, name):
    from comfy_extras import nodes_custom_sampler as custom
    from comfy_extras import nodes_perpneg

    class DualCFG(custom.Guider_DualCFG):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a person"), sample.encode(""))
            self.set_cfg(2.0, 1.5)

    class PerpNeg(nodes_perpneg.Guider_PerpNeg):
        """Which evaluates three conditionings."""
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a judge"), sample.encode(""))
            self.set_cfg(2.0, 1.0)

    made = dict(DualCFG=DualCFG, PerpNeg=PerpNeg, Basic=custom.Guider_Basic)[name]
    return partial(sample, guider=made)


def regions_masks_and_timestep_ranges(sample):
    import nodes
    left, middle, right = map(sample.encode, (PROMPT, "a photo of a judge", "a photo of a farmer"))
    left = called(nodes.ConditioningSetArea, left, 32, 64, 0, 0, 1.0)
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    middle = called(nodes.ConditioningSetMask, middle, mask, "default", 0.7)
    right = called(nodes.ConditioningSetTimestepRange, right, 0.2, 0.8)
    return partial(sample, positive=[*left, *middle, *right])


@cache
def controlnet():
    """A ControlNet of the demo model's size with random weights."""
    config = {key: value for key, value in ours.demo_model.UNET.items()
              if key not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(
        **config, num_heads=4, hint_channels=3, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init)
    randomized(network, 0.05)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def hint():
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))


def controlled(sample, both):
    import nodes
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        sample.encode(PROMPT), sample.encode(""), controlnet(), hint(), 0.8, 0.0, 1.0)
    return partial(sample, positive=positive, negative=negative if both else "")


def second_pass_at_twice_the_size(sample):
    import nodes

    def run(model):
        asked = 2.0, "euler", "simple", sample.encode(PROMPT), sample.encode("")
        latent = dict(samples=torch.zeros(2, 4, 8, 8))
        first = called(nodes.KSampler, model, 3, 4, *asked, latent, 1.0)
        larger = called(nodes.LatentUpscale, first, "nearest-exact", 128, 128, "disabled")
        return called(nodes.KSampler, model, 3, 4, *asked, larger, 0.5)["samples"]
    return run


def advanced_samplers(sample):
    """KSampler (Advanced) in two parts, then SamplerCustomAdvanced with its guider."""
    from comfy_extras import nodes_custom_sampler as custom

    import nodes

    def run(model):
        texts, advanced = (sample.encode(PROMPT), sample.encode("")), nodes.KSamplerAdvanced
        asked, latent = (4, 2.0, "euler", "simple", *texts), dict(samples=torch.zeros(2, 4, 8, 8))
        half = called(advanced, model, "enable", 3, *asked, latent, 0, 2, "enable")
        whole = called(advanced, model, "disable", 3, *asked, half, 2, 4, "disable")
        return called(
            custom.SamplerCustomAdvanced, called(custom.RandomNoise, 3),
            called(custom.CFGGuider, model, *texts, 2.0), called(custom.KSamplerSelect, "euler"),
            called(custom.BasicScheduler, model, "simple", 4, 0.6), whole)["samples"]
    return run


SAMPLERS = ("euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde",
            "uni_pc", "euler_cfg_pp", "res_multistep", "ddpm", "lcm", "dpm_adaptive")
RUNS = {
    **{name: partial(partial, sampler=name) for name in SAMPLERS},
    **{name: partial(guider, name=name) for name in ("DualCFG", "PerpNeg", "Basic")},
    "regions": regions_masks_and_timestep_ranges, "a second pass": second_pass_at_twice_the_size,
    "a ControlNet": partial(controlled, both=True),
    "a ControlNet of the positive": partial(controlled, both=False),
    "advanced samplers": advanced_samplers}


# --- tests --------------------------------------------------------------------------------------

def together(model, guided, run, direction):
    """Guided differs from plain, says that it acted, and without weights is plain bit by bit."""
    plain = run(model)
    patched, done = guided(Method(direction), WEIGHTS, base=model)
    found = run(patched)
    assert torch.isfinite(found).all() and (found - plain).abs().max() > 1e-4
    assert done[-1][0]["acted"] and done[-1][0]["guided_images"] == 2
    assert torch.equal(run(guided(Method(direction), 0 * WEIGHTS, base=model)[0]), plain)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("patch", PATCHES)
def test_with_patches_of_the_model(demo, sample, guided, patch, direction):
    plain = sample(demo[0])  # first: some newer hosts leave a LoRA's weights in the model
    model = PATCHES[patch](demo[0])
    assert patch != "LoRA" or not torch.equal(sample(model), plain)
    together(model, guided, sample, direction)


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
@pytest.mark.parametrize("name", RUNS)
def test_with_samplers_guiders_regions_and_controlnets(demo, sample, guided, name, direction):
    run = RUNS[name](sample)
    if "ControlNet" in name:
        assert not torch.allclose(run(demo[0]), sample(demo[0]), atol=1e-2)
    together(demo[0], guided, run, direction)


@pytest.mark.parametrize("direction, most", [("prompt", 1.5), ("embedding", 5.0)])
def test_easycache_changes_the_effect_of_directions_inside_sampling_and_the_pass_names_it(
        demo, sample, guided, direction, most):
    """It was only asked whether anything is guided. A cache repeats steps, and with them what they
    were steered by. One image at a time: EasyCache adds up the differences of all of a batch."""
    effects = []
    cached = node("easycache", "EasyCacheNode", 0.2, 0.15, 0.95, False)
    for patch, name in ((lambda model: model, None), (cached, "EasyCache")):
        moved = []
        for seed in range(4):
            model = patch(demo[0])
            steered, done = guided(Method(direction), WEIGHTS[:1], base=model)
            plain, found = (sample(each, batch=1, steps=20, seed=seed)
                            for each in (model, steered))
            moved.append((found - plain).abs().mean())
            assert done[0][1].get("cache") == name
        effects.append(torch.stack(moved).mean())
    assert 0.5 < float(effects[1] / effects[0]) < most


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["v-prediction", "flow"])
def test_other_predictions_are_guided_as_in_diffusers(demo, sample, guided, kind, direction):
    """The demo's network read as if it predicted v, or a flow's velocity."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    from sd_debias.demo_model.model import FOLDER
    from sd_debias.diffusers_host.generate import guided as guided_pipeline
    from sd_debias.diffusers_host.workbench import load_pipeline

    class OfFlowMatch(FlowMatchEulerDiscreteScheduler):
        init_noise_sigma = 1.0

        def scale_model_input(self, x, t):
            return x

    pipe = load_pipeline(str(FOLDER))
    pipe.scheduler = OfFlowMatch(shift=3.0) if kind == "flow" else DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="v_prediction")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with guided_pipeline(pipe, PROMPT, [GENDER], WEIGHTS, Method(direction)) as guide:
        expected = pipe(**guide.call, num_inference_steps=8, guidance_scale=2.0,
                        latents=noise.clone(), output_type="latent").images
    model, _ = guided(Method(direction), WEIGHTS, base=PATCHES[kind](demo[0]))
    whole = model.get_model_object("model_sampling").sigmas
    sigmas = pipe.scheduler.sigmas if kind == "flow" else torch.cat(
        [whole[pipe.scheduler.timesteps], torch.zeros(1)])
    found = sample(model, noise=noise, sigmas=sigmas) * 0.18215
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max().clamp(min=1)


def nearly_nothing(model, guided, run, direction):
    """A weight near 0 changes next to nothing: guidance holds the text alone."""
    found = run(guided(Method(direction), torch.full((2, 2), 1e-5), base=model)[0])
    assert (found - run(model)).abs().max() < 0.01


def test_guidance_holds_nothing_of_an_image_that_is_the_positives_alone(
        demo, sample, guided):
    import nodes
    positive = called(nodes.ControlNetApply, sample.encode(PROMPT), controlnet(), hint(), 0.8)
    for entry in positive:
        entry[1]["control_apply_to_uncond"] = False
    run = partial(sample, positive=positive, negative="blurry")
    nearly_nothing(image_adapter(demo[0]), guided, run, "embedding")


def test_added_rows_are_unconditional_and_sag_finds_the_guiders_own(demo, sample, guided):
    """SAG looks for the rows of kind 1; the queries there are those of a run without guidance."""
    def run(patch):
        def attend(q, k, v, options):
            kinds = options["cond_or_uncond"]
            seen.append((list(kinds), q.chunk(len(kinds))[kinds.index(1)]))
            return comfy.ldm.modules.attention.optimized_attention(q, k, v, options["n_heads"])

        seen, model = [], demo[0].clone()
        model.set_model_attn2_replace(attend, "output", 3)
        sample(patch(model))
        return seen[0]

    plain, queries = run(lambda model: model)
    kinds, found = run(lambda model: guided(Method("embedding"), WEIGHTS, base=model)[0])
    assert sorted(plain) == [0, 1] and sorted(kinds) == [0, 1, 1]
    assert torch.allclose(found, queries, atol=1e-4)


def test_samplers_are_called_as_in_ksamplers_list(comfyui):
    names = list(comfy.samplers.SAMPLER_NAMES)
    assert [ours.guidance.sampler_name(comfy.samplers.sampler_object(name)) for name in names] == names
