"""What Debias Apply costs in ComfyUI: how many times as long a run of the sampler takes as the same run without it.

    COMFYUI_PATH=... python benchmarks/comfyui_overhead.py

Runs take turns, so that what slows the machine slows all of them; a ratio is of one turn, and the median of the turns is
printed with their quartiles. Every image of a batch is guided, but in
the row 'half left alone', where every second one is left alone. Stable Diffusion 1.5
has random weights, which cost the same; its texts are random too.
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import types
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
WINDOW, HALF = "embedding, default window", "embedding, half left alone"
BOUNDS = {"prompt": 1.03, WINDOW: 1.2, "embedding": 1.55, HALF: 1.6}  # small images pay for a further call


def start_comfyui() -> None:
    """Makes ComfyUI's modules importable, and sd-debias under its package name."""
    if not os.environ.get("COMFYUI_PATH"):
        sys.exit("Expected COMFYUI_PATH to name a ComfyUI checkout, but it is not set.")
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    arguments, sys.argv = sys.argv, ["main.py", *([] if torch.cuda.is_available() else ["--cpu"])]
    import comfy.options
    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  # reads sys.argv
    sys.argv = arguments
    package = types.ModuleType("sd_debias")
    package.__path__ = [str(ROOT)]
    sys.modules["sd_debias"] = package


def stable_diffusion_15():
    """(MODEL, width of its texts): the full architecture with random weights."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    settings = dict(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], context_dim=768, use_spatial_transformer=True,
        use_linear_in_transformer=False, adm_in_channels=None, use_temporal_attention=False, legacy=False)
    config = comfy.supported_models.SD15(settings)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device=management.unet_offload_device())
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02, generator=generator)
    return comfy.model_patcher.ModelPatcher(network, load_device=management.get_torch_device(),
                                            offload_device=management.unet_offload_device()), 768


def demo():
    from sd_debias.nodes.demo_model import TEXT_WIDTH, load
    return load()[0], TEXT_WIDTH


def ways(model, width: int, images: int) -> dict:
    """The model as it is, and guided."""
    from sd_debias.core.attribute import GENDER
    from sd_debias.core.method.methods import METHODS, TOWARD, Method
    from sd_debias.core.method.conditioning import Encoded
    from sd_debias.nodes.guidance import GuidedSampling

    prompt, empty, *groups = torch.randn(4, 1, 77, width, generator=torch.Generator().manual_seed(1))
    encoded = Encoded(dict(cond=prompt), dict(cond=torch.stack(groups)), dict(cond=empty))
    methods = {
        "prompt": Method("prompt"),
        WINDOW: Method("embedding", guidance=TOWARD.window),
        "embedding": Method("embedding"),
        **({HALF: Method("embedding")} if images > 1 else {}),
        "paper": METHODS["paper"],
    }

    def weights(name):
        rows = torch.tensor([[0.0, -1.0]]).repeat(images, 1)
        return rows * (torch.arange(images) % 2)[:, None] if name == HALF else rows

    return {"plain": model} | {
        name: GuidedSampling(encoded, (GENDER,), method, lambda *_, name=name: weights(name)).patch(model)
        for name, method in methods.items()}


def measure(name: str, model, width: int, size: int, steps: int, turns: int, images: int) -> bool:
    """Prints a model's ratios; were all within their bounds?"""
    import comfy.sample
    import comfy.utils
    comfy.utils.PROGRESS_BAR_ENABLED = False
    latent = torch.zeros(images, 4, size // 8, size // 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    positive, negative = ([[torch.randn(1, 77, width), {}]] for _ in range(2))
    models, seconds = ways(model, width, images), {}
    calls = count_calls(model)
    for turn in range(turns + 1):  # the first warms up
        for way, guided in models.items():
            calls.clear()
            started = time.perf_counter()
            with torch.inference_mode():
                found = comfy.sample.sample(guided, noise, steps, 7.0, "euler", "normal", positive, negative, latent,
                                            disable_pbar=True, seed=0)
            float(found.sum())  # waits for the device
            if turn:
                seconds.setdefault(way, []).append(time.perf_counter() - started)
            else:
                print(f"{name}: {way}: {len(calls)} model calls of {sum(calls)} images in {steps} steps")
    fine = True
    print(f"{name}, {size} x {size}, {steps} steps, {turns} turns; plain {statistics.median(seconds['plain']):.2f} s")
    for way, bound in {**BOUNDS, "paper": None}.items():
        if way not in seconds:
            continue
        ratios = [guided / plain for guided, plain in zip(seconds[way], seconds["plain"])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        fine &= bound is None or middle <= bound
        print(f"  {way:<26} {middle:.3f} [{low:.3f}, {high:.3f}]" + (f"  bound {bound}" if bound else ""))
    return fine


def count_calls(model) -> list[int]:
    """A list that every call of the model adds its batch to."""
    calls = []
    model.model.diffusion_model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=("demo", "sd15"), default=["demo", "sd15"])
    parser.add_argument("--size", type=int, default=128, help="width and height for Stable Diffusion 1.5")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=4, help="of a batch")
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    start_comfyui()
    fine = True
    if "demo" in given.models:
        fine &= measure("demo", *demo(), 64, given.steps, given.turns * 4, given.images)
    if "sd15" in given.models:
        fine &= measure("Stable Diffusion 1.5", *stable_diffusion_15(), given.size, given.steps, given.turns,
                        given.images)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
