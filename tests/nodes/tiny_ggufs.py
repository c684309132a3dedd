"""The tiny models as GGUF files, read by the loaders of ComfyUI-GGUF.

Files are as users have them: matrices of one type, vectors and small matrices in float32, text encoders under
llama.cpp's names. Only the host's detection is left out: it knows models by their real sizes.
"""
import importlib.util
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

# A network's architecture, its text encoder's, and the `type` of the loader of texts; SDXL's texts have no GGUF form.
FAMILIES = {"SDXL": ("sdxl", None, None), "Flux 1": ("flux", "t5", "flux"),
            "Qwen-Image": ("qwen_image", "qwen2vl", "qwen_image")}


def pack():
    """Modules of ComfyUI-GGUF, where it is installed."""
    own = Path(os.environ.get("COMFYUI_PATH", ""), "custom_nodes", "ComfyUI-GGUF")
    place, name = Path(os.environ.get("COMFYUI_GGUF_PATH") or own), "comfyui_gguf"
    if not (place / "__init__.py").is_file():
        pytest.skip("ComfyUI-GGUF is not installed: git clone https://github.com/city96/ComfyUI-GGUF, and name the "
                    "folder in COMFYUI_GGUF_PATH")
    pytest.importorskip("gguf")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return SimpleNamespace(**{part: importlib.import_module(f"{name}.{part}")
                              for part in ("nodes", "loader", "dequant")})


def write(path, architecture, weights, kind):
    """kind: a name of gguf.GGMLQuantizationType."""
    import gguf
    writer, types = gguf.GGUFWriter(str(path), architecture), gguf.GGMLQuantizationType
    for key, weight in weights.items():
        stored = types.F32 if weight.ndim == 1 or weight.numel() <= 1024 else types[kind]
        if architecture == "sdxl" and weight.ndim > 2 and weight.numel() % 256 == 0:  # blocks lie along the last axis
            writer.add_array(f"comfy.gguf.orig_shape.{key}", list(weight.shape))
            weight = weight.reshape(-1, 256)
        try:
            data = gguf.quants.quantize(weight.numpy(), stored)
        except gguf.QuantError:  # its rows hold no whole blocks
            stored = types.F16
            data = gguf.quants.quantize(weight.numpy(), stored)
        writer.add_tensor(key, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def texts_of(clip):
    """The transformers of a CLIP: that of a GGUF file, and those beside it."""
    found = [part.transformer for part in clip.cond_stage_model.children() if hasattr(part, "transformer")]
    return found[-1], found[:-1]


def saved(name, kind, folder, model, clip):
    """Writes a model's files, and gives the model the weights that they hold, in float32."""
    from safetensors.torch import save_file
    loader, dequantized = pack().loader, pack().dequant.dequantize_tensor
    network, (encoder, others), (architecture, texts, _) = model.model.diffusion_model, texts_of(clip), FAMILIES[name]

    def take(module, weights):
        module.load_state_dict({key: dequantized(weight, torch.float32).as_subclass(torch.Tensor)
                                for key, weight in weights.items()})

    write(folder / "unet.gguf", architecture, network.state_dict(), kind)
    take(network, loader.gguf_sd_loader(str(folder / "unet.gguf")))
    if texts:
        names = loader.T5_SD_MAP if texts == "t5" else loader.LLAMA_SD_MAP
        back = {ours: theirs for theirs, ours in reversed(names.items())}
        write(folder / "texts.gguf", texts, loader.sd_map_replace(encoder.state_dict(), back), kind)
        take(encoder, loader.gguf_clip_loader(str(folder / "texts.gguf")))
        for other in others:
            save_file(other.state_dict(), folder / "clip.safetensors")


def loaded(name, dits):
    """(MODEL, CLIP) of the files that `saved` wrote; dits: the module of the tiny models."""
    import comfy.model_detection
    import comfy.sd
    nodes, (model, clip), made = pack().nodes, dits.FAMILIES[name].build(), comfy.sd.CLIP
    config, kind = model.model.model_config, FAMILIES[name][2]
    config = type(config)(dict(config.unet_config))
    target = SimpleNamespace(params={}, clip=type(clip.cond_stage_model), tokenizer=lambda **_: clip.tokenizer)

    def small(_, model_options, **given):
        return made(target, model_options={**model_options, **dits.OPTIONS}, **given)
    with mock.patch.object(comfy.model_detection, "model_config_from_unet", lambda *_: config):
        model, = nodes.UnetLoaderGGUF().load_unet("unet.gguf")
    if kind:
        with mock.patch.object(comfy.sd, "CLIP", small), dits.blind():
            clip, = nodes.DualCLIPLoaderGGUF().load_clip("clip.safetensors", "texts.gguf", kind) if texts_of(clip)[1] \
                else nodes.CLIPLoaderGGUF().load_clip("texts.gguf", kind)
        dits.sharing(clip)
    return model, clip


def share(module, kind):
    """Of a module's numbers those that are stored as this type."""
    sizes = [(math.prod(weight.shape), getattr(getattr(weight, "tensor_type", None), "name", None))
             for weight in module.parameters()]
    return sum(size for size, own in sizes if own == kind) / sum(size for size, _ in sizes)
