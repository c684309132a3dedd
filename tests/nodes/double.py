"""A double of ComfyUI for tests where it is not: the names that the nodes import, and its order of hooks.

A guider runs OUTER_SAMPLE wrappers and, at each step, CALC_COND_BATCH wrappers about the evaluation of all
conditionings, a model_function_wrapper about that of one, and in it attention patches; then the CFG rule. It samples
with a model that it has loaded, until memory management unloads all. The model is the demo model as diffusers loads it.
"""
from __future__ import annotations

import os
import sys
import types
import uuid
import weakref
from pathlib import Path
from unittest.mock import MagicMock

import torch

OUTER_SAMPLE, CALC_COND_BATCH, APPLY_MODEL = "outer_sample", "calc_cond_batch", "apply_model"
PREDICT_NOISE = "predict_noise"


class Interrupted(Exception):
    pass


LOADED: weakref.WeakSet = weakref.WeakSet()  # models on the device; the host holds them no more than this


def load_models_gpu(models, force_full_load=False):
    LOADED.update(models)


def free_memory(size, device):
    LOADED.clear()


def unload_all_models():
    free_memory(1e30, "cpu")


class Executor:
    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](Executor(self.original, self.class_obj, self.wrappers[1:]), *args, **kwargs)


def add_wrapper_with_key(kind, key, wrapper, options, is_model_options=False):
    options = options.setdefault("transformer_options", {}) if is_model_options else options
    options.setdefault("wrappers", {}).setdefault(kind, {}).setdefault(key, []).append(wrapper)


def wrappers_of(kind, model_options):
    found = model_options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    return [wrapper for listed in found.values() for wrapper in listed]


def copied(value):
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


class Patcher:
    """A MODEL."""
    load_device = torch.device("cpu")

    def __init__(self, model, model_sampling):
        self.model, self.model_sampling = model, model_sampling
        self.model_options, self.wrappers = {"transformer_options": {}}, {}

    def clone(self):
        other = Patcher(self.model, self.model_sampling)
        other.load_device = self.load_device
        other.model_options, other.wrappers = copied(self.model_options), copied(self.wrappers)
        return other

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def set_model_sampler_cfg_function(self, function):
        self.model_options["sampler_cfg_function"] = function

    def set_model_unet_function_wrapper(self, function):
        self.model_options["model_function_wrapper"] = function

    def set_model_attn2_patch(self, patch):
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault("attn2_patch", []).append(patch)

    def get_model_object(self, name):
        return {"model_sampling": self.model_sampling,
                "latent_format": types.SimpleNamespace(latent_channels=4, latent_dimensions=2)}[name]


class ModelSampling:
    def __init__(self, alphas_cumprod):
        self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        self.sigma_max = self.sigmas[-1]

    def timestep(self, sigma):
        return (self.sigmas.log() - sigma.log()).abs().argmin()


def calc_cond_batch(model, conds, x, timestep, model_options):
    def evaluate(model, conds, x, timestep, model_options):
        outs = []
        for kind, cond in enumerate(conds):
            parts = [applied(x, timestep, {name: repeated(entry[name], len(x)) for name in getattr(
                model, "parts", ("cross_attn",)) if name in entry}, kind) for entry in cond or ()]
            outs.append(sum(parts) / len(parts) if parts else torch.zeros_like(x))
        return outs

    def applied(x, timestep, texts, kind):
        def apply(x, timestep, **texts):
            transformer = model_options.get("transformer_options", {})
            for patch in transformer.get("patches", {}).get("attn2_patch", ()):
                patch(x, texts["cross_attn"], texts["cross_attn"], transformer)
            return model(x, timestep, **texts)

        if "model_function_wrapper" not in model_options:
            return apply(x, timestep, **texts)
        return model_options["model_function_wrapper"](apply, dict(input=x, timestep=timestep, c=texts,
                                                                   cond_or_uncond=[kind]))
    run = Executor(evaluate, None, wrappers_of(CALC_COND_BATCH, model_options))
    return run(model, conds, x, timestep, model_options)


def repeated(part, images):
    return part.repeat(-(-images // len(part)), *(1,) * (part.ndim - 1))[:images]


class CFGGuider:
    def __init__(self, model_patcher):
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds, self.cfg = {}, 1.0

    def set_conds(self, positive, negative):
        self.inner_set_conds({"positive": positive, "negative": negative})

    def inner_set_conds(self, conds):
        for key, cond in conds.items():
            self.original_conds[key] = [{**options, "cross_attn": embedding, "model_conds": {}, "uuid": uuid.uuid4()}
                                        for embedding, options in cond]

    def set_cfg(self, cfg):
        self.cfg = cfg

    def predict_noise(self, x, timestep, model_options, seed=None):
        assert self.model_patcher in LOADED
        off = self.cfg == 1 and not model_options.get("disable_cfg1_optimization", False)
        conds = [self.conds.get("positive"), None if off else self.conds.get("negative")]
        outs = calc_cond_batch(self.model_patcher.model, conds, x, timestep, model_options)
        if "sampler_cfg_function" in model_options:
            return x - model_options["sampler_cfg_function"](
                dict(cond=x - outs[0], uncond=x - outs[1], cond_scale=self.cfg, cond_denoised=outs[0], sigma=timestep))
        return outs[1] + (outs[0] - outs[1]) * self.cfg

    def sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False,
               seed=None):
        self.conds = {key: [entry.copy() for entry in cond] for key, cond in self.original_conds.items()}
        original, self.model_options = self.model_options, copied(self.model_options)
        for kind, keyed in self.model_patcher.wrappers.items():
            for key, listed in keyed.items():
                for wrapper in listed:
                    add_wrapper_with_key(kind, key, wrapper, self.model_options, is_model_options=True)
        try:
            return Executor(self.outer_sample, self, wrappers_of(OUTER_SAMPLE, self.model_options))(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        finally:
            self.model_options = original
            del self.conds

    def outer_sample(self, noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed):
        device = self.model_patcher.load_device

        def prepared(entry):
            return {name: value.to(device) if isinstance(value, torch.Tensor) else value
                    for name, value in entry.items()}

        # The host's preparation makes new lists, on the device.
        self.conds = {key: [prepared(entry) for entry in cond] for key, cond in self.conds.items()}
        load_models_gpu([self.model_patcher])
        noise, first = noise.to(device), sigmas[0]
        sigmas, options = sigmas.to(device), copied(self.model_options)
        x = noise * (first if first < self.model_patcher.model_sampling.sigma_max else (1 + first ** 2) ** 0.5)

        def denoised(x, sigma):
            run = Executor(self.predict_noise, self, wrappers_of(PREDICT_NOISE, options))
            return run(x, sigma.expand(len(x)), options, seed)

        for i, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):
            d = (x - (x0 := denoised(x, sigma))) / sigma
            if callback is not None:
                callback(i, x0, x, len(sigmas) - 1)
            there = x + d * (following - sigma)
            if sampler.sampler_function.__name__ == "sample_heun" and following > 0:
                there = x + (d + (there - denoised(there, following)) / following) / 2 * (following - sigma)
            x = there
        return (x / 0.18215).cpu()


class BasicGuider(CFGGuider):
    def set_conds(self, positive):
        self.inner_set_conds({"positive": positive})


class SD1ClipModel:
    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, ids):
        return self.encoder(ids)


class Clip:
    """A CLIP: texts are their own tokens. Those of more than 75 take further chunks of 77, as ComfyUI's do."""

    def __init__(self, tokenizer, encoder):
        self.tokenizer, self.cond_stage_model = tokenizer, encoder

    def tokenize(self, text):
        return text

    @torch.no_grad()
    def encode_from_tokens(self, tokens, return_pooled=False, return_dict=False):
        ids = self.tokenizer(tokens, add_special_tokens=False).input_ids
        start, end, fill = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        chunks = [ids[i:i + 75] for i in range(0, max(len(ids), 1), 75)]
        outputs = [self.cond_stage_model(torch.tensor([[start, *chunk, end, *[fill] * (75 - len(chunk))]]))
                   for chunk in chunks]
        return dict(cond=torch.cat([output[0] for output in outputs], dim=1), pooled_output=outputs[0][1])

    def encode_from_tokens_scheduled(self, tokens):
        parts = self.encode_from_tokens(tokens)
        return [[parts.pop("cond"), parts]]


class Vae:
    def __init__(self, vae):
        self.vae = vae

    @torch.no_grad()
    def decode(self, samples):
        return (self.vae.decode(samples).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def load():
    """(MODEL, CLIP, VAE) of the demo model."""
    from sd_debias.demo_model.model import FOLDER
    from sd_debias.diffusers_host.workbench import load_pipeline
    pipe = load_pipeline(str(FOLDER))
    sampling = ModelSampling(pipe.scheduler.alphas_cumprod)

    @torch.no_grad()
    def denoise(x, sigma, cross_attn):
        scaled = x / (sigma.reshape(-1, 1, 1, 1) ** 2 + 1) ** 0.5
        times = torch.stack([sampling.timestep(s) for s in sigma])
        return x - sigma.reshape(-1, 1, 1, 1) * pipe.unet(scaled, times, cross_attn).sample

    denoise.network = pipe.unet
    return Patcher(denoise, sampling), Clip(pipe.tokenizer, SD1ClipModel(pipe.text_encoder)), Vae(pipe.vae)


def sampler_object(name):
    def function():
        """Stands for the sampler's own."""
    function.__name__, function.__module__ = f"sample_{name}", "comfy.k_diffusion.sampling"
    return types.SimpleNamespace(sampler_function=function, extra_options={})


def simple(model_sampling, steps):
    stride = len(model_sampling.sigmas) / steps
    return torch.cat([model_sampling.sigmas[[-1 - int(i * stride) for i in range(steps)]], torch.zeros(1)])


def prepare_noise(latent, seed, noise_inds=None):
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))


def sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, latent_image, callback=None,
                  disable_pbar=False, seed=None):
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider.sample(noise, latent_image, sampler, sigmas, None, callback, disable_pbar, seed)


def sample(model, noise, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=1.0,
           callback=None, disable_pbar=False, seed=None):
    sigmas = simple(model.get_model_object("model_sampling"), steps)
    return sample_custom(model, noise, cfg, sampler_object(sampler_name), sigmas, positive, negative, latent_image,
                         callback, disable_pbar, seed)


class ComfyNode:
    hidden = types.SimpleNamespace(unique_id=None, prompt=None)


class Preview:
    def __init__(self, image, cls=None):
        self.image = image

    def as_dict(self):
        return dict(images=[dict(filename=f"{i}.png", subfolder="", type="temp") for i in range(len(self.image))])


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


def install(folder) -> None:
    """Puts the double where the host's modules would be."""
    def module(name, **members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        sys.modules[name] = made
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, made)

    flag = types.SimpleNamespace(interrupt=False)

    def throw():
        if flag.interrupt:
            flag.interrupt = False
            raise Interrupted

    def interrupt(value=True):
        flag.interrupt = value

    folders: dict = {"classifiers": ([str(folder / "models" / "classifiers")], {""})}

    def full_path(name, file):
        return next((str(Path(root) / file) for root in folders[name][0] if os.path.isfile(Path(root) / file)), None)

    def files(name):
        return sorted(path.name for root in folders[name][0] for path in Path(root).glob("*"))

    cpu = torch.device("cpu")
    module("comfy")
    module("comfy.patcher_extension", add_wrapper_with_key=add_wrapper_with_key,
           WrappersMP=types.SimpleNamespace(OUTER_SAMPLE=OUTER_SAMPLE, CALC_COND_BATCH=CALC_COND_BATCH,
                                            APPLY_MODEL=APPLY_MODEL, PREDICT_NOISE=PREDICT_NOISE))
    module("comfy.samplers", CFGGuider=CFGGuider, calc_cond_batch=calc_cond_batch, sampler_object=sampler_object,
           SAMPLER_NAMES=["euler", "heun"], SCHEDULER_NAMES=["simple"])
    module("comfy.sample", prepare_noise=prepare_noise, sample=sample, sample_custom=sample_custom,
           fix_empty_latent_channels=lambda model, latent: latent)
    module("comfy.utils", ProgressBar=MagicMock())
    module("comfy.model_management", InterruptProcessingException=Interrupted, interrupt_current_processing=interrupt,
           throw_exception_if_processing_interrupted=throw, get_torch_device=lambda: cpu,
           text_encoder_offload_device=lambda: cpu, load_models_gpu=load_models_gpu, free_memory=free_memory,
           unload_all_models=unload_all_models, OOM_EXCEPTION=torch.cuda.OutOfMemoryError)
    module("comfy.model_patcher", ModelPatcher=MagicMock())
    module("comfy.sd")
    module("comfy.supported_models", SD15=object)
    module("folder_paths", folder_names_and_paths=folders, models_dir=str(folder / "models"), get_full_path=full_path,
           get_filename_list=files, get_folder_paths=lambda name: folders[name][0],
           get_input_directory=lambda: str(folder / "input"), get_output_directory=lambda: str(folder / "output"),
           get_temp_directory=lambda: str(folder / "temp"),
           get_user_directory=lambda: str(folder / "user"))
    module("comfy_execution")
    module("comfy_execution.utils", get_executing_context=lambda: None)
    io = MagicMock()
    io.ComfyNode, io.NodeOutput = ComfyNode, NodeOutput
    module("comfy_api")
    module("comfy_api.latest", io=io, ui=types.SimpleNamespace(PreviewImage=Preview), ComfyExtension=object)
