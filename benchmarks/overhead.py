"""What applying a profile costs, as ratios to unguided generation that are measured side by side in one run.

    python benchmarks/overhead.py                                 # the demo model on the CPU
    python benchmarks/overhead.py --models sd15 sdxl flux --device cuda --dtype bfloat16 [--compile]

The larger models have random weights: their images are noise, their cost is real. `flux`, `z-image`, `qwen-image` and `klein` are transformers of these models'
widths with fewer blocks, so that they fit any machine; the last three have tiny text encoders and autoencoders, of which 64 pixels make as many
tokens as 256 do in use. docs/overhead.json keeps one entry a model, device, precision and size.

At the size that the model is made for, whose whole runs take a CPU too long: the memory of sampling, counted on a graphics card by its allocator and on
CPUs without computing the denoiser, and with --rows the time of an added row beside that of a step.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from contextlib import nullcontext

import harness
import torch
from pages import answer
from peak import CudaPeak, Peak, without_contents

from sd_debias.core.attribute import GENDER, SKIN_TONE_5
from sd_debias.demo_model import model
from sd_debias.core.files import write_atomic
from sd_debias.core.method.methods import IN_CONTEXT, METHODS, TOWARD, Method, named
from sd_debias.diffusers_host.encode import encode_all
from sd_debias.diffusers_host.families import family_of, guidance
from sd_debias.diffusers_host.generate import generate, guided
from sd_debias.core.method.draw import Steering, rows
from sd_debias.diffusers_host.workbench import load_pipeline

PROMPT = "a photo of a doctor"
SHARE = TOWARD.end - TOWARD.start  # of the steps, in the default window
# Every image is pushed: the dearest case.
DRAWN = {a.name: Steering((0.0,) * len(a.groups), (0.0, *a.target)) for a in (GENDER, SKIN_TONE_5)}
TEXTS = "texts, once a prompt"
ONE_MORE = "unguided, one more row per image"
# Pixels of a side for which a model is made; None: the pipeline's own.
MADE_FOR = {"sd15": 512, "sdxl": 1024, "flux": 1024, "z-image": 256, "qwen-image": 256, "klein": 256, "demo": None}
WAYS = {
    "unguided": None,
    "prompt (default)": METHODS["default"],
    "embedding, default window": named(direction="embedding"),
    "embedding, all steps": Method("embedding"),
}


def random_pipeline(name: str, device: str, dtype: torch.dtype):
    """A pipeline of a known model's shape with random weights."""
    import diffusers
    from transformers import (
        CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel,
    )
    tokenizer = CLIPTokenizer.from_pretrained(model.FOLDER / "tokenizer")
    vae = diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
                                  down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    clip_l = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                        clip_sample=False, steps_offset=1)
    if name == "sd15":
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        pipe = diffusers.StableDiffusionPipeline(vae, CLIPTextModel(clip_l), tokenizer, unet, scheduler, None, None,
                                                 requires_safety_checker=False)
    elif name == "sdxl":
        unet = diffusers.UNet2DConditionModel(
            sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
        clip_g = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                                hidden_act="gelu", projection_dim=1280)
        pipe = diffusers.StableDiffusionXLPipeline(vae, CLIPTextModel(clip_l), CLIPTextModelWithProjection(clip_g),
                                                   tokenizer, tokenizer, unet, scheduler, add_watermarker=False)
    elif name == "flux":
        transformer = diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=4, joint_attention_dim=4096,
                                                       pooled_projection_dim=768, guidance_embeds=True)
        vae = diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), latent_channels=16, scaling_factor=0.3611,
                                      shift_factor=0.1159, down_block_types=("DownEncoderBlock2D",) * 4,
                                      up_block_types=("UpDecoderBlock2D",) * 4)
        t5 = T5EncoderModel(T5Config(vocab_size=tokenizer.vocab_size, d_model=4096, d_ff=1024, num_layers=1, num_heads=64))
        pipe = diffusers.FluxPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae, CLIPTextModel(clip_l),
                                      tokenizer, t5, tokenizer, transformer)
    else:
        pipe = of_today(name)
    return pipe.to(device, dtype)


def of_today(name: str):
    """A pipeline whose texts are as long as they are, with a transformer of real width."""
    import diffusers
    sys.path.insert(0, str(harness.ROOT / "tests" / "diffusers_host"))
    import tiny_llm
    width = tiny_llm.WIDTH  # of the tiny text encoder
    if name == "z-image":
        pipe = tiny_llm.PIPELINES["ZImagePipeline"]()
        transformer = diffusers.ZImageTransformer2DModel(in_channels=4, dim=3840, n_layers=3, n_refiner_layers=1, n_heads=30,
                                                         n_kv_heads=30, cap_feat_dim=width)
    elif name == "qwen-image":
        pipe = tiny_llm.PIPELINES["QwenImagePipeline"]()
        transformer = diffusers.QwenImageTransformer2DModel(in_channels=16, out_channels=4, num_layers=3, num_attention_heads=24,
                                                            attention_head_dim=128, joint_attention_dim=width)
    else:
        pipe = tiny_llm.PIPELINES["Flux2KleinPipeline"]()
        own = pipe.transformer.config
        transformer = diffusers.Flux2Transformer2DModel(
            patch_size=1, in_channels=own.in_channels, num_layers=1, num_single_layers=4, attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=own.joint_attention_dim, guidance_embeds=False)
    pipe.register_modules(transformer=transformer.eval().requires_grad_(False))
    return pipe


def sampling_memory(pipe, device: str, cfg: float, size: int | None) -> dict:
    """Most bytes beyond the weights while two steps of two images are sampled, by way; text encoder and decoder, which
    need the same in each way, are left out. ONE_MORE: of an unguided run whose calls of the denoiser have a row more for
    each of the two images. On CPUs the pipeline's denoiser has no weights afterwards."""
    sizes, attribute, calls, counter = dict(width=size, height=size) if size else {}, GENDER, [], None
    encoded = encode_all(pipe, PROMPT, [attribute], IN_CONTEXT)

    def called(_, args, named):
        if not calls:
            counter.restart()
        calls.append(len(args[0] if args else next(iter(named.values()))))

    def once(method, images: int) -> int:
        """The most bytes of one run; `calls` are then the rows of its calls of the denoiser."""
        nonlocal counter
        row = rows([DRAWN[attribute.name]], [0]) if method else torch.zeros(1, len(attribute.groups))
        calls.clear()
        with guided(pipe, PROMPT, [attribute], row.repeat(images, 1), method or METHODS["default"], encoded=encoded) as guide:
            with CudaPeak() if device == "cuda" else Peak() as counter:
                pipe(**guide.call, generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(images)],
                     output_type="latent", num_inference_steps=2, **sizes,
                     **{name: value for name, value in guidance(pipe, cfg, None).items() if value is not None})
        return counter.most

    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    handle = denoiser.register_forward_pre_hook(called, with_kwargs=True)
    try:
        with warnings.catch_warnings(), nullcontext() if device == "cuda" else without_contents(denoiser):
            warnings.filterwarnings("ignore", "Guidance had no effect")  # on a prediction of zeros
            plain, at_once = once(None, 2), max(calls)
            return {"unguided": plain, **{way: once(method, 2) for way, method in _ways(pipe).items() if method},
                    ONE_MORE: once(None, 2 * (at_once + 2) // at_once)}
    finally:
        handle.remove()


def added_rows(pipe, device: str, cfg: float, size: int | None, rounds: int) -> list[float]:
    """Times of an added row, as shares of the pipeline's own call of its U-Net in the same step, for one image."""
    clock, times, sizes = _clock(device), [], dict(width=size, height=size) if size else {}
    encoded = encode_all(pipe, PROMPT, [GENDER], IN_CONTEXT)

    def timed(*args, **named):
        started = clock()
        output = forward(*args, **named)
        times.append(clock() - started)
        return output

    forward, pipe.unet.forward = pipe.unet.forward, timed
    with guided(pipe, PROMPT, [GENDER], rows([DRAWN[GENDER.name]], [0]), Method("embedding"), encoded=encoded) as guide:
        pipe(**guide.call, output_type="latent", num_inference_steps=rounds + 1, **guidance(pipe, cfg, None), **sizes)
    del pipe.unet.forward
    return [added / own for own, added in zip(times[2::2], times[3::2], strict=True)]  # the first step warms up


def _clock(device: str):
    """Seconds; on CPUs those that the process computed, which other work of the machine does not lengthen."""
    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time if device == "cpu" else waited


def _ways(pipe) -> dict:
    family = family_of(pipe)
    return {way: method for way, method in WAYS.items()
            if method is None or family is None or family.inside or method.direction == "prompt"}


def measure(pipe, device: str, steps: int, cfg: float, size: int | None, images: int, repeats: int) -> dict:
    """Medians over `repeats` interleaved rounds, as ratios to the unguided run of the same round."""
    ways = _ways(pipe)
    seconds: dict[str, list] = {way: [] for way in (*ways, TEXTS)}
    sizes = dict(width=size, height=size) if size else {}
    attribute = GENDER
    clock = _clock(device)
    for _ in range(repeats + 1):
        started = clock()
        encoded = encode_all(pipe, PROMPT, [attribute], IN_CONTEXT)
        seconds[TEXTS].append(clock() - started)
        for way, method in ways.items():
            given = dict(attributes=[attribute], steerings=[DRAWN[attribute.name]], method=method,
                         encoded=encoded) if method else {}
            started = clock()
            generate(pipe, PROMPT, range(images), batch_size=images, num_inference_steps=steps,
                     **guidance(pipe, cfg, None), **given, **sizes)
            seconds[way].append(clock() - started)
    rounds = {way: [own / plain for own, plain in zip(took[1:], seconds["unguided"][1:])]
              for way, took in seconds.items()}
    return dict(ratios={way: statistics.median(found) for way, found in rounds.items()},
                extremes={way: [min(found), max(found)] for way, found in rounds.items()},
                seconds=statistics.median(seconds["unguided"][1:]))


def tables(found: list[dict]) -> str:
    """Markdown: a row a model, a column a way."""
    ways = [*(way for way in WAYS if way != "unguided"), TEXTS]
    text = [f"""# What applying a profile costs

{answer("overhead")}

Made by `python benchmarks/overhead.py`: a whole run's time as a ratio to unguided generation of the same round, medians of interleaved rounds, in brackets the least and the
most, every image pushed; on {", ".join(dict.fromkeys(map(_device, found)))}. Models other than the demo's have random weights. The default window is {100 * SHARE:.0f} % of the steps, from {100 * TOWARD.start:.0f} % on (of
some rows 35 %). `embedding` adds one row an image: in every step of the window, or in every second one without classifier-free guidance (flux) and where a pipeline
evaluates the negative prompt in a call of its own (qwen-image, klein). Texts are encoded once a prompt and kept: the last ratio, which a prompt's first run has on top.

| model | images, steps, rounds | {' | '.join(ways)} |
|{'---|' * (len(ways) + 2)}"""]
    for f in found:
        ratios = " | ".join(_ratio(f, way) for way in ways)
        form = " compiled" if f["compiled"] else ""
        window = "" if "window" in f else "; 35 %"
        text.append(f"| {f['model']} {f['dtype']}{form}{_size(f['size'])} | {f['images']}, {f['steps']}, {f.get('repeats', '-')}{window} | "
                    f"{ratios} |")
    timed = [f for f in found if f.get("rows")]
    if timed:
        text.append(f"""
## An added row at the models' own sizes

Small images overstate the cost of a call. At the model's own size, one image at a time: an added row's time as a share of the step's own call, which evaluates two, and what that
makes of a run's {100 * SHARE:.0f} %, were the denoiser all of it.

| model | steps timed | an added row | the default window |
|---|---|---|---|""")
    for f in timed:
        share, least, most = statistics.median(f["rows"]), min(f["rows"]), max(f["rows"])
        text.append(f"| {f['model']} {f['dtype']}{_size(MADE_FOR[f['model']])} | {len(f['rows'])} | {share:.2f} [{least:.2f}, {most:.2f}] "
                    f"| {1 + SHARE * share:.2f} [{1 + SHARE * least:.2f}, {1 + SHARE * most:.2f}] |")
    ways = [way for way in WAYS if way != "unguided"]
    text.append(f"""
## Memory

The most that the tensors of two images' sampling take beyond the weights, without text encoder and decoder: counted on CPUs without computing the denoiser, with the attention of
fused kernels. Other ways as shares of the unguided run; the last has one row more for each image. (z-image, qwen-image, klein: 256 pixels make as many tokens as 1,024 in use.)

| model | unguided | {' | '.join(ways)} | {ONE_MORE} |
|{'---|' * (len(ways) + 3)}""")
    for f in found:
        memory = f["memory"]
        if memory.get("unguided"):
            shares = " | ".join(f"{memory[way] / memory['unguided']:.3f}" for way in (*ways, ONE_MORE))
            text.append(f"| {f['model']} {f['dtype']}{_size(MADE_FOR[f['model']])} | {memory['unguided'] / 2**20:,.0f} MiB | {shares} |")
    return "\n".join(text) + "\n"


def _size(side: int | None) -> str:
    return f", {side}x{side}" if side else ""


def _device(f: dict) -> str:
    return f["device"] + (" (CPU time)" if f.get("clock") == "process" else "")


def _ratio(f: dict, way: str) -> str:
    if way not in f["ratios"]:
        return "-"
    least, most = f.get("extremes", {}).get(way, (None, None))
    return f"{f['ratios'][way]:.2f}" + ("" if least is None else f" [{least:.2f}, {most:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo"], choices=("demo", "sd15", "sdxl", "flux", "z-image", "qwen-image", "klein"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, help="of an image's side in pixels; default: the model's own")
    parser.add_argument("--steps", type=int, default=10, help="of the models with random weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the denoiser with torch.compile")
    parser.add_argument("--memory", action="store_true", help="count the memory alone, and keep the times that are there")
    parser.add_argument("--rows", action="store_true", help="time an added row of a U-Net alone, and keep what is there")
    harness.out(parser)
    options = parser.parse_args()
    if options.compile and (options.memory or options.rows):
        parser.error("memory and added rows are not measured of compiled models: leave --memory, --rows or --compile out")
    if options.memory and options.rows:
        parser.error("--memory and --rows each measure alone: run the command once with either")
    if options.rows and not {"demo", "sd15", "sdxl"}.issuperset(options.models):
        parser.error("--rows times models with a U-Net: demo, sd15, sdxl")
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "overhead.json"
    found = json.loads(store.read_text("utf-8")) if store.exists() else []
    for name in options.models:
        dtype = getattr(torch, options.dtype)
        demo = name == "demo"
        pipe = load_pipeline(str(model.FOLDER), options.device, dtype) if demo else \
            random_pipeline(name, options.device, dtype)
        pipe.set_progress_bar_config(disable=True)
        if options.compile:
            getattr(pipe, "unet", getattr(pipe, "transformer", None)).compile()
        steps, cfg = (model.STEPS, model.CFG) if demo else (options.steps, 7.0)
        where = torch.cuda.get_device_name() if options.device == "cuda" else harness.machine()
        key = dict(model=name, device=where, dtype=options.dtype, images=options.images, steps=steps,
                   size=options.size, compiled=options.compile)
        there = next((f for f in found if {k: f.get(k) for k in key} == key), None)
        if (options.memory or options.rows) and there is None:
            raise SystemExit(f"{store} has no times of {key}. Leave --memory and --rows out.")
        result = there if options.memory or options.rows else {
            **{part: there[part] for part in ("rows", "rows_code") if there and part in there}, **key, "code": harness.code(), "repeats": options.repeats, "window": [TOWARD.start, TOWARD.end], "clock": "process" if options.device == "cpu" else "wall",
            **measure(pipe, options.device, steps, cfg, options.size, options.images, options.repeats)}
        if options.rows:
            result = {**result, "rows": added_rows(pipe, options.device, cfg, MADE_FOR[name], options.repeats),
                      "rows_code": harness.code()}
        else:
            result = {**result, "memory": {} if options.compile else sampling_memory(pipe, options.device, cfg, MADE_FOR[name]),
                      "memory_code": harness.code()}
        found = [result if f is there else f for f in found] + [result] * (there is None)
        print(name, {way: round(ratio, 3) for way, ratio in result["ratios"].items()}, result["memory"], result.get("rows"), flush=True)
        write_atomic(store, json.dumps(found, indent=1))
        write_atomic(options.out / "overhead.md", tables(found))


if __name__ == "__main__":
    main()
