"""Guidance beside ComfyUI's own patches, samplers and guiders: on the real host only."""
import importlib.util
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.methods import Method, named

pytestmark = pytest.mark.comfyui
PROMPT = "a photo of a doctor"
WEIGHTS = torch.tensor([[0.0, -1.0], [0.4, -0.4]])


@pytest.fixture
def guided(demo):
    """guided(model, direction or method) -> (the patched model, the list of what its passes did)."""
    from sd_debias.nodes.conditioning import encode_all
    from sd_debias.nodes.guidance import GuidedSampling

    def make(model, direction="embedding", weights=WEIGHTS):
        done = []
        with torch.inference_mode():
            encoded = encode_all(demo[1], PROMPT, (GENDER,), Method().context)
        method = direction if isinstance(direction, Method) else Method(direction)
        guide = GuidedSampling(encoded, (GENDER,), method, lambda *_: weights,
                               lambda did, _: done.append(did))
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


def image_adapter(model):
    """Cross attention to an image's tokens as IP-Adapter has it: a pair, indexed by whether rows are conditional."""
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q, k, v, options):
        kinds, width = options["cond_or_uncond"], q.shape[-1]
        image = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0))
        rows = torch.cat([(image, 0 * image)[kind].expand(len(q) // len(kinds), -1, -1) for kind in kinds])
        heads = options["n_heads"]
        return optimized_attention(q, k, v, heads) + optimized_attention(q, rows, rows, heads)

    model = model.clone()
    model.set_model_attn2_replace(attend, "output", 3)
    return model


PATCHES = {
    "IP-Adapter": image_adapter,
    "PAG": node("nodes_pag", "PerturbedAttentionGuidance", 3.0),
    "SAG": node("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    "APG": node("nodes_apg", "APG", 1.0, 5.0, 0.0),
    "RescaleCFG": node("nodes_model_advanced", "RescaleCFG", 0.7),
    "FreeU": node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "CFGZeroStar": node("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": node("nodes_cfg", "CFGNorm", 0.8),
    "TCFG": node("nodes_tcfg", "TCFG"),
    "Mahiro": node("nodes_mahiro", "Mahiro"),
    "FreSca": node("nodes_fresca", "FreSca", 1.0, 1.3, 8),
    "ToMe": node("nodes_tomesd", "TomePatchModel", 0.3),
    "LazyCache": node("nodes_easycache", "LazyCacheNode", 0.1, 0.3, 0.9, False),
    "v-prediction": node("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", False),
    "v-prediction, zero SNR": node("nodes_model_advanced", "ModelSamplingDiscrete", "v_prediction", True),
    "flow": node("nodes_model_advanced", "ModelSamplingSD3", 3.0),
}


@pytest.mark.parametrize("direction, most", [("prompt", 1.5), ("embedding", 5.0), ("prediction", 5.0)])
def test_easycache_changes_the_effect_of_directions_inside_sampling_and_the_pass_names_it(demo, sample, guided,
                                                                                          direction, most):
    """It was only asked whether anything is guided. A cache repeats steps, and with them what they were steered by. One
    picture at a time: EasyCache adds the differences of all rows of a batch to each of them."""
    from sd_debias.nodes.guidance import KEY
    effects = []
    for patch in (lambda model: model, node("nodes_easycache", "EasyCacheNode", 0.2, 0.15, 0.95, False)):
        moved = []
        for seed in range(4):
            model = patch(demo[0])
            steered, done = guided(model, direction, WEIGHTS[:1])
            guide, = steered.get_wrappers("outer_sample", KEY)
            object.__setattr__(guide, "done", lambda did, known, done=done: done.append(known))
            plain, found = (sample(each, batch=1, steps=20, seed=seed) for each in (model, steered))
            moved.append((found - plain).abs().mean())
            assert done[0].get("cache") == ("EasyCache" if effects else None)
        effects.append(torch.stack(moved).mean())
    assert 0.5 < float(effects[1] / effects[0]) < most


def pack(folder, address):
    """The nodes of another pack, where it is installed."""
    place = Path(os.environ.get("COMFYUI_PATH", "")) / "custom_nodes" / folder
    if not (place / "__init__.py").is_file():
        pytest.skip(f"{folder} is not installed: git clone {address} {place}")
    name = folder.replace("-", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].NODE_CLASS_MAPPINGS


def dynamic_thresholding(model):
    nodes = pack("sd-dynamic-thresholding", "https://github.com/mcmonkeyprojects/sd-dynamic-thresholding")
    return nodes["DynamicThresholdingSimple"]().patch(model, 1.0, 0.9)[0]


def ip_adapter_plus(model, clip_vision, weight_type="linear"):
    """With random weights of the demo model's widths."""
    nodes = pack("ComfyUI_IPAdapter_plus", "https://github.com/cubiq/ComfyUI_IPAdapter_plus")
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.5

    widths = {1: 64, 13: 96, 15: 64, 17: 64}  # by the pack's numbers of those blocks that the demo model has
    weights = {f"{number}.{kind}.weight": random(widths.get(number, 64), 32) for number in range(1, 32, 2)
               for kind in ("to_k_ip", "to_v_ip")}
    projection = {"proj.weight": random(4 * 32, 16), "proj.bias": random(4 * 32), "norm.weight": torch.ones(32),
                  "norm.bias": torch.zeros(32)}
    image = torch.rand(1, 224, 224, 3, generator=generator)
    return nodes["IPAdapterAdvanced"]().apply_ipadapter(
        model, dict(ip_adapter=weights, image_proj=projection), image=image, clip_vision=clip_vision,
        weight_type=weight_type)[0]


@pytest.fixture(scope="module")
def clip_vision(comfyui, tmp_path_factory):
    """A CLIP vision tower in small with random weights."""
    from comfy.clip_vision import ClipVisionModel
    path = tmp_path_factory.mktemp("clip_vision") / "config.json"
    path.write_text(json.dumps(dict(
        model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_channels=3,
        num_attention_heads=2, image_size=224, patch_size=112, projection_dim=16, hidden_act="quick_gelu")))
    made, generator = ClipVisionModel(str(path)), torch.Generator().manual_seed(0)
    for parameter in made.model.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    return made


@pytest.fixture(params=["Dynamic Thresholding", "IPAdapter plus", "IPAdapter plus, style"])
def neighbour(request, clip_vision):
    """A node of another pack, as a function of a model."""
    if request.param == "Dynamic Thresholding":
        return dynamic_thresholding
    style = "style transfer precise" if request.param.endswith("style") else "linear"
    return partial(ip_adapter_plus, clip_vision=clip_vision, weight_type=style)


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


@pytest.mark.parametrize("direction", ["prompt", "embedding", "prediction"])
@pytest.mark.parametrize("kind", ["v-prediction", "flow"])
def test_other_predictions_are_guided_as_in_diffusers(demo, sample, guided, kind, direction):
    """The demo's network read as if it predicted v, or a flow's velocity."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
    from sd_debias.demo_model.model import FOLDER as DEMO
    from sd_debias.diffusers_host.generate import guided as guided_pipeline
    from sd_debias.diffusers_host.workbench import load_pipeline

    class OfFlowMatch(FlowMatchEulerDiscreteScheduler):
        init_noise_sigma = 1.0

        def scale_model_input(self, x, t):
            return x

    pipe = load_pipeline(str(DEMO))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = OfFlowMatch(shift=3.0) if kind == "flow" else DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="v_prediction")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with guided_pipeline(pipe, PROMPT, [GENDER], WEIGHTS, Method(direction)) as guide:
        expected = pipe(**guide.call, num_inference_steps=8, guidance_scale=2.0, latents=noise.clone(),
                        output_type="latent").images
    model, _ = guided(PATCHES[kind](demo[0]), direction)
    sigmas = pipe.scheduler.sigmas if kind == "flow" else torch.cat(
        [model.get_model_object("model_sampling").sigmas[pipe.scheduler.timesteps], torch.zeros(1)])
    found = sample(model, noise=noise, sigmas=sigmas) * 0.18215
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde",
                                     "uni_pc", "euler_cfg_pp", "res_multistep", "ddpm", "lcm", "dpm_adaptive"])
def test_with_samplers(demo, sample, guided, sampler):
    together(demo[0], guided, partial(sample, sampler=sampler), "embedding")


def perp_neg(sample):
    """PerpNegGuider, which evaluates three conditionings."""
    from comfy_extras import nodes_perpneg

    class PerpNeg(nodes_perpneg.Guider_PerpNeg):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a judge"), sample.encode(""))
            self.set_cfg(2.0, 1.0)
    return PerpNeg


@pytest.mark.parametrize("name", ["DualCFG", "PerpNeg", "Basic"])
def test_with_guiders(demo, sample, guided, name):
    from comfy_extras import nodes_custom_sampler

    class DualCFG(nodes_custom_sampler.Guider_DualCFG):
        def set_conds(self, positive):
            super().set_conds(positive, sample.encode("a person"), sample.encode(""))
            self.set_cfg(2.0, 1.5)

    made = dict(DualCFG=DualCFG, PerpNeg=perp_neg(sample), Basic=nodes_custom_sampler.Guider_Basic)[name]
    together(demo[0], guided, partial(sample, guider=made), "embedding")


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_with_regions_masks_and_timestep_ranges(demo, sample, guided, direction):
    import nodes
    left, middle, right = (sample.encode(text) for text in (PROMPT, "a photo of a judge", "a photo of a farmer"))
    left, = nodes.ConditioningSetArea().append(left, 32, 64, 0, 0, 1.0)
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    middle, = nodes.ConditioningSetMask().append(middle, mask, "default", 0.7)
    right, = nodes.ConditioningSetTimestepRange().set_range(right, 0.2, 0.8)
    positive, = nodes.ConditioningCombine().combine(left, nodes.ConditioningCombine().combine(middle, right)[0])
    together(demo[0], guided, partial(sample, positive=positive), direction)


@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_a_push_by_predictions_keeps_other_regions_texts_as_one_by_the_group_s_text_does(demo, sample, guided, cfg):
    import nodes
    left, right = (sample.encode(text) for text in (PROMPT, "a photo of a farmer, in a field"))
    joined, = nodes.ConditioningConcat().concat(left, right)
    left, = nodes.ConditioningSetArea().append(joined, 32, 64, 0, 0, 1.0)
    right, = nodes.ConditioningSetArea().append(right, 32, 64, 32, 0, 1.0)
    run = partial(sample, positive=nodes.ConditioningCombine().combine(left, right)[0], cfg=cfg)
    push = torch.tensor([[0.0, -1.0], [-1.0, 0.0]])
    predictions, text, plain = (run(model) for model in (
        guided(demo[0], named(direction="prediction"), push)[0], guided(demo[0], named(direction="embedding"), push)[0],
        demo[0]))
    assert (predictions - plain).abs().max() > 0.05
    assert (predictions - text).abs().max() < 1e-3


@pytest.fixture(scope="module")
def controlnet(demo):
    """A ControlNet of the demo model's size with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops
    from sd_debias.nodes.demo_model import UNET
    config = {key: value for key, value in UNET.items() if key not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(**config, num_heads=4, hint_channels=3, dtype=torch.float32,
                                         operations=comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.05, generator=generator)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
@pytest.mark.parametrize("both", [True, False], ids=["both", "positive alone"])
def test_with_a_controlnet(demo, sample, guided, controlnet, both, direction):
    import nodes
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        sample.encode(PROMPT), sample.encode(""), controlnet, hint, 0.8, 0.0, 1.0)
    run = partial(sample, positive=positive, negative=negative if both else "")
    assert not torch.allclose(run(demo[0]), sample(demo[0]), atol=1e-2)
    together(demo[0], guided, run, direction)


@pytest.mark.parametrize("direction", ["prompt", "embedding", "prediction"])
def test_with_other_packs_in_either_order(demo, sample, guided, neighbour, direction):
    model = neighbour(demo[0])
    assert (sample(model) - sample(demo[0])).abs().max() > 1e-2
    together(model, guided, sample, direction)
    assert torch.equal(sample(neighbour(guided(demo[0], direction)[0])), sample(guided(model, direction)[0]))


def nearly_nothing(model, guided, run, direction):
    """A weight near 0 changes next to nothing: guidance holds the text alone."""
    found = run(guided(model, direction, torch.full((2, 2), 1e-5))[0])
    assert (found - run(model)).abs().max() < 0.01


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
def test_guidance_holds_nothing_of_an_image_that_is_the_positives_alone(demo, sample, guided, controlnet, direction):
    import nodes
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    positive, = nodes.ControlNetApply().apply_controlnet(sample.encode(PROMPT), controlnet, hint, 0.8)
    for entry in positive:
        entry[1]["control_apply_to_uncond"] = False
    nearly_nothing(image_adapter(demo[0]), guided, partial(sample, positive=positive, negative="blurry"), direction)


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
@pytest.mark.parametrize("guider", ["CFG", "CFG 1", "PerpNeg"])
def test_guidance_holds_nothing_of_other_packs(demo, sample, guided, neighbour, guider, direction):
    run = {"CFG": sample, "CFG 1": partial(sample, cfg=1.0), "PerpNeg": partial(sample, guider=perp_neg(sample))}
    nearly_nothing(neighbour(demo[0]), guided, run[guider], direction)


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
def test_added_rows_are_unconditional_and_sag_finds_the_guiders_own(demo, sample, guided, direction):
    """SAG looks for the rows of kind 1; the queries found there are those of a run without guidance."""
    def run(patch):
        def attend(q, k, v, options):
            from comfy.ldm.modules.attention import optimized_attention
            kinds = options["cond_or_uncond"]
            seen.append((list(kinds), q.chunk(len(kinds))[kinds.index(1)]))
            return optimized_attention(q, k, v, options["n_heads"])

        seen, model = [], demo[0].clone()
        model.set_model_attn2_replace(attend, "output", 3)
        sample(patch(model))
        return seen

    (plain, queries), *_ = run(lambda model: model)
    added = 1 if direction == "embedding" else 2
    (kinds, found), *_ = run(lambda model: guided(model, direction)[0])
    assert sorted(plain) == [0, 1] and sorted(kinds) == [0, 1] + [1] * added
    assert torch.allclose(found, queries, atol=1e-4)


def test_with_a_lora(demo, sample, guided):
    import comfy.sd
    generator = torch.Generator().manual_seed(0)
    key = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_q.weight"
    shape = demo[0].model.state_dict()[key].shape
    lora = {f"{key.removesuffix('.weight')}.lora_up.weight": torch.randn(shape[0], 2, generator=generator),
            f"{key.removesuffix('.weight')}.lora_down.weight": torch.randn(2, shape[1], generator=generator)}
    plain = sample(demo[0])  # first: some newer hosts leave a LoRA's weights in the model that it was cloned from
    model, _ = comfy.sd.load_lora_for_models(demo[0], None, lora, 1.0, 0.0)
    assert not torch.equal(sample(model), plain)
    together(model, guided, sample, "embedding")


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_with_a_second_pass_at_twice_the_size(demo, sample, guided, direction):
    import nodes

    def run(model):
        positive, negative = sample.encode(PROMPT), sample.encode("")
        asked = (2.0, "euler", "simple", positive, negative)
        first, = nodes.KSampler().sample(model, 3, 4, *asked, dict(samples=torch.zeros(2, 4, 8, 8)), 1.0)
        larger, = nodes.LatentUpscale().upscale(first, "nearest-exact", 128, 128, "disabled")
        return nodes.KSampler().sample(model, 3, 4, *asked, larger, 0.5)[0]["samples"]

    together(demo[0], guided, run, direction)


@pytest.mark.parametrize("direction", ["prompt", "embedding"])
def test_with_advanced_samplers(demo, sample, guided, direction):
    """KSampler (Advanced) in two parts, then SamplerCustomAdvanced with its guider."""
    from comfy_extras import nodes_custom_sampler as custom

    import nodes

    def first(node, *inputs):
        made = getattr(node, "execute", None) or getattr(node(), node.FUNCTION)
        result = made(*inputs)
        return result[0] if isinstance(result, tuple) else result.args[0]

    def run(model):
        positive, negative = sample.encode(PROMPT), sample.encode("")
        asked, latent = (4, 2.0, "euler", "simple", positive, negative), dict(samples=torch.zeros(2, 4, 8, 8))
        half, = nodes.KSamplerAdvanced().sample(model, "enable", 3, *asked, latent, 0, 2, "enable")
        whole, = nodes.KSamplerAdvanced().sample(model, "disable", 3, *asked, half, 2, 4, "disable")
        guider = first(custom.CFGGuider, model, positive, negative, 2.0)
        sigmas = first(custom.BasicScheduler, model, "simple", 4, 0.6)
        return first(custom.SamplerCustomAdvanced, first(custom.RandomNoise, 3), guider,
                     first(custom.KSamplerSelect, "euler"), sigmas, whole)["samples"]

    together(demo[0], guided, run, direction)


def test_a_second_pass_starts_afresh_and_in_the_middle_of_the_schedule(demo, sample, guided):
    from dataclasses import replace

    from sd_debias.core.method.safe_latent import SafeLatentGuidance
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
