"""Families of pipelines: what a push and a shift must be, whatever form their texts have."""
import functools
import inspect
import json
import shutil

import numpy as np
import pytest
import tiny_llm
import tiny_masked
import tiny_pipelines
import tiny_several
import torch
from diffusers import FirstBlockCacheConfig

from sd_debias.core.attribute import GENDER
from sd_debias.core.doctor import examine
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.diffusers_host.doctor import facts
from sd_debias.diffusers_host.encode import encoding_of
from sd_debias.diffusers_host.families import FAMILIES, guidance
from sd_debias.diffusers_host.generate import generate, guided
from sd_debias.diffusers_host.workbench import Workbench, load_pipeline

MODULES = (tiny_masked, tiny_llm, tiny_several)
PIPELINES = {name: make for module in MODULES for name, make in module.PIPELINES.items()}
CALLS = {name: call for module in MODULES for name, call in module.CALLS.items()}
PROMPT, SEEDS = "a doctor", [1, 2, 3, 4]
ALONE, MAN, WOMAN = (0.0, 0.0), (-1.0, 0.0), (0.0, -1.0)
WEIGHTS = torch.tensor([ALONE, MAN, WOMAN, ALONE])


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def tiny(request):
    """(name, pipeline, arguments of its call)."""
    return request.param, PIPELINES[request.param](), CALLS[request.param]


@pytest.fixture
def noted(record_property):
    """noted(name, direction, contract, value): for the table of families."""
    def note(name, direction, contract, value):
        record_property(f"diffusers|{name.removesuffix('Pipeline')}|{direction}|{contract}", value)
    return note


def plain(pipe, call, text, seed):
    return generate(pipe, text, [seed], **call)[0][0].astype(int)


def test_a_push_is_the_group_s_own_text_and_pictures_left_alone_are_the_prompt_s(tiny, noted):
    name, pipe, call = tiny
    pictures, info = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    texts = [PROMPT, f"{PROMPT}, a man", f"{PROMPT}, a woman", PROMPT]
    expected = np.stack([plain(pipe, call, text, seed) for text, seed in zip(texts, SEEDS)])
    away = np.abs(expected[1:3] - np.stack([plain(pipe, call, PROMPT, seed) for seed in SEEDS[1:3]])).max()
    assert away > 1 and np.abs(pictures - expected).max() <= 1
    noted(name, "prompt", "left alone", f"{np.abs(pictures - expected)[[0, 3]].max() / away:.1e}")
    noted(name, "prompt", "full push", f"{np.abs(pictures - expected)[1:3].max() / away:.1e}")
    assert info["acted"] and info["guided_images"] == 2


def test_a_shift_lies_between(tiny):
    _, pipe, call = tiny
    half = torch.tensor([[0.0, -0.5], [0.0, 0.0]])
    (moved, same), _ = generate(pipe, PROMPT, SEEDS[:2], attributes=[GENDER], weights=half, **call)
    assert np.abs(same - plain(pipe, call, PROMPT, SEEDS[1])).max() <= 1
    to_prompt, to_group = (np.abs(moved - plain(pipe, call, text, SEEDS[0])).max()
                           for text in (PROMPT, f"{PROMPT}, a woman"))
    assert to_prompt > 0 and to_group > 0


def test_what_a_family_cannot_do_is_said_before_the_first_picture(tiny, noted):
    name, pipe, _ = tiny
    bench = Workbench(pipe, None)
    bench.check([GENDER], METHODS["default"])
    if name in FAMILIES and FAMILIES[name].inside:
        bench.check([GENDER], Method("embedding"))
    else:
        with pytest.raises(DebiasError, match=f"{name}|scheduler") as caught:
            bench.check([GENDER], Method("embedding"))
        for direction in ("embedding", "prediction"):
            noted(name, direction, "refused", str(caught.value))
    bench.check([GENDER], METHODS["shift"])


def test_a_negative_prompt_counts_for_pushed_pictures_too(tiny):
    name, pipe, call = tiny
    if "negative_prompt" not in inspect.signature(type(pipe).__call__).parameters:
        with pytest.raises(DebiasError, match=f"{name} takes no negative prompt"):
            guidance(pipe, 4.0, "a cat")
        return
    call = {**{key: value for key, value in call.items() if key not in ("guidance_scale", "true_cfg_scale")},
            **guidance(pipe, 4.0, "a cat with a hat")}
    pictures, _ = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    expected = plain(pipe, call, f"{PROMPT}, a man", SEEDS[1])
    assert np.abs(pictures[1] - expected).max() <= 1
    if "SanaSprint" not in name and "Bria" not in name:
        other = plain(pipe, {**call, **guidance(pipe, 4.0, "")}, f"{PROMPT}, a man", SEEDS[1])
        assert np.abs(expected - other).max() > 0


@pytest.fixture
def usual(tiny, monkeypatch):
    """What a tiny pipeline's call needs beside steps, guidance and size becomes its default, as real sizes have it."""
    family, pipe, call = tiny
    kind, own = type(pipe), type(pipe).__call__
    texts = ("max_sequence_length", "clean_caption", "complex_human_instruction") if family in FAMILIES else ()
    more = {name: call[name] for name in ("use_resolution_binning", *texts) if name in call}
    known = inspect.signature(own)

    @functools.wraps(own)
    def called(self, *args, **kwargs):
        return own(self, *args, **{**more, **kwargs})
    called.__signature__ = known.replace(parameters=[
        each.replace(default=more.get(name, each.default)) for name, each in known.parameters.items()])
    monkeypatch.setattr(kind, "__call__", called)


def test_a_workbench_makes_pictures_of_every_family(tiny, usual):
    """With nothing but steps, a scale of guidance and a size."""
    _, pipe, call = tiny
    bench = Workbench(pipe, None, steps=2, cfg=3.0, batch_size=4, width=call["width"], height=call["height"])
    pictures, info = bench.generate(PROMPT, SEEDS, [GENDER], weights=WEIGHTS)
    assert info["acted"] and len(pictures) == 4 and np.abs(pictures[0].astype(int) - pictures[1]).max() > 0


INSIDE = sorted(name for name, family in FAMILIES.items() if family.inside)


def latents(pipe, call, **given):
    """Of the first seeds, as they leave the sampler."""
    given = {**call, **given}
    if isinstance(given.get("negative_prompt"), str):  # a list for each call: one pipeline changes it
        given["negative_prompt"] = [given["negative_prompt"]] * 2
    elif given.get("negative_prompt", "") is None:
        del given["negative_prompt"]
    output = pipe(**given, generator=[torch.Generator().manual_seed(seed) for seed in SEEDS[:2]], output_type="latent")
    return next(getattr(output, name) for name in ("images", "image", "frames") if hasattr(output, name)).float()


def predictions(pipe, call, **given):
    """The answers of the denoiser to the first seeds in the first step, by call."""
    found = []

    def note(module, args, output):
        found.append(torch.stack(output[0]) if isinstance(output[0], list) else output[0].clone())
        if FAMILIES[type(pipe).__name__].texted:
            found[-1] = found[-1][:, -16:]  # behind those for the text
    handle = pipe.transformer.register_forward_hook(note)
    try:
        latents(pipe, call, **given)
    finally:
        handle.remove()
    return found[:len(found) // call["num_inference_steps"]]


@pytest.mark.parametrize("cfg", [4.0, None])
@pytest.mark.parametrize("direction", ["embedding", "prediction"])
@pytest.mark.parametrize("name", INSIDE)
def test_inside_sampling_a_step_is_what_its_texts_predict_alone(name, direction, cfg, noted):
    """eps_c - (eps_g - eps_base), each from a run of the pipeline with that text; one left alone stays bit by bit."""
    pipe, family, group = PIPELINES[name](), FAMILIES[name], f"{PROMPT}, a woman"
    off = 0.0 if name in ("Krea2Pipeline", "ZImagePipeline") else 1.0
    negative = "a cat" if cfg and "negative_prompt" in inspect.signature(type(pipe).__call__).parameters else None
    call = {**CALLS[name], **guidance(pipe, cfg or off, negative)}

    def of(text):
        return predictions(pipe, call, prompt=[text] * 2)
    plain = of(PROMPT)
    both = len(plain[0]) > 2
    cond, uncond = (slice(0, 2), slice(2, 4)) if family.ahead else (slice(-2, None), slice(0, 2))
    eps_c, eps_g = plain[0][cond], of(group)[0][cond]
    base = plain[0][uncond] if both else eps_c if direction == "embedding" else of("")[0][cond]
    expected = eps_c - (eps_g - base)

    method = Method(direction, guidance=SafeLatentGuidance(scale=1e9))  # mu is 1
    with guided(pipe, PROMPT, [GENDER], torch.tensor([[0.0, 1.0], ALONE]), method, **encoding_of(call)) as guide:
        found = predictions(pipe, call, **guide.call)
    effect = (expected - eps_c)[0].abs().max()
    off = (found[0][cond] - expected)[0].abs().max()
    assert effect > 1e-4 and off < 1e-3 * effect
    noted(name, direction, "by hand", f"{off / effect:.1e}")
    assert torch.equal(found[0][cond][1], eps_c[1]) and all(map(torch.equal, found[1:], plain[1:]))
    rows = 2 if both else 1 if direction == "embedding" else 4  # of two steps, one of which may repeat the other's
    assert guide.summary()["extra_evaluations"] == rows


def denoised(pipe, call, text, at=-1, then=()):
    """Latents of the first seeds, and every call of the denoiser; from the call `at` on, those of `then` with the
    latents of this run stand for its own."""
    calls, own = [], pipe.transformer.forward
    names = list(inspect.signature(own).parameters)

    def forward(*args, **kwargs):
        given = {**dict(zip(names, args)), **kwargs}
        if 0 <= at <= len(calls):
            given = {**then[len(calls)], names[0]: given[names[0]]}
        calls.append(given)
        return own(**given)
    pipe.transformer.forward = forward
    try:
        return latents(pipe, call, prompt=[text] * 2), calls
    finally:
        del pipe.transformer.forward


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.5, 1.0)])
@pytest.mark.parametrize("name", INSIDE)
def test_in_a_window_the_denoiser_reads_the_group_s_text_and_the_prompt_outside_of_it(name, window):
    pipe, call = PIPELINES[name](), {**CALLS[name], "num_inference_steps": 2}
    texts = (f"{PROMPT}, a woman", PROMPT) if window[0] == 0 else (PROMPT, f"{PROMPT}, a woman")
    (first, calls), (_, later) = denoised(pipe, call, texts[0]), denoised(pipe, call, texts[1])
    expected, _ = denoised(pipe, call, texts[0], len(calls) // 2, later)
    method = Method("prompt", guidance=SafeLatentGuidance(start=window[0], end=window[1]))
    with guided(pipe, PROMPT, [GENDER], torch.tensor([WOMAN, WOMAN]), method, **encoding_of(call)) as guide:
        found = latents(pipe, call, **guide.call)
    effect = (expected - first).abs().max()
    assert effect > 1e-4 and (found - expected).abs().max() < 1e-3 * effect and guide.summary()["steps"] == 1


def test_a_prompt_is_not_rewritten_between_the_text_that_is_mixed_and_the_one_that_is_evaluated():
    """LongCat's language model rewrites prompts unless it is told not to, here to one that says whom to show."""
    pipe, call = PIPELINES["LongCatImagePipeline"](), dict(height=16, width=16, num_inference_steps=2)
    pipe.rewire_prompt = lambda prompt, device: ["a man in a hat"] * len(prompt)
    rewritten = latents(pipe, call, prompt=[PROMPT] * 2)
    with guided(pipe, PROMPT, [GENDER], torch.tensor([ALONE, ALONE])) as guide:
        found = latents(pipe, call, **guide.call)
    assert torch.equal(found, latents(pipe, call, prompt=[PROMPT] * 2, enable_prompt_rewrite=False))
    assert not torch.equal(found, rewritten)
    with pytest.raises(DebiasError, match="enable_prompt_rewrite=False, got True. Leave it out"):
        generate(pipe, PROMPT, SEEDS, enable_prompt_rewrite=True, **call)


@pytest.mark.parametrize("cfg", [4.0, 1.0])
def test_a_call_that_takes_texts_alone_evaluates_the_shifted_ones_of_pushed_images(cfg):
    pipe, call = PIPELINES["LongCatImagePipeline"](), {**CALLS["LongCatImagePipeline"], "guidance_scale": cfg}
    plain, own = (latents(pipe, call, prompt=[text] * 2, negative_prompt=["a cat"] * 2)
                  for text in (PROMPT, f"{PROMPT}, a woman"))
    with guided(pipe, PROMPT, [GENDER], torch.tensor([ALONE, WOMAN]), negative_prompt="a cat") as guide:
        found = [latents(pipe, call, **guide.call) for _ in range(2)]
    assert torch.equal(*found) and torch.equal(found[0][0], plain[0])
    assert torch.allclose(found[0][1], own[1], atol=1e-5) and not torch.allclose(plain[1], own[1], atol=1e-3)
    assert guide.summary()["guided_images"] == 1 and guide.summary()["acted"]


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
def test_caches_of_diffusers_do_not_take_one_text_for_another(direction):
    pipe, call = PIPELINES["QwenImagePipeline"](), CALLS["QwenImagePipeline"]
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    alone = latents(pipe, call, prompt=[PROMPT] * 2)
    with guided(pipe, PROMPT, [GENDER], torch.tensor([WOMAN, ALONE]), Method(direction)) as guide:
        found = latents(pipe, call, **guide.call)
    assert torch.equal(found[1], alone[1]) and not torch.equal(found[0], alone[0])


def test_a_window_holds_where_text_encoder_and_transformer_have_types_of_their_own():
    """Kandinsky's pipeline casts its text in every step."""
    pipe, call = PIPELINES["Kandinsky5T2IPipeline"](), {**CALLS["Kandinsky5T2IPipeline"], "num_inference_steps": 4}
    pipe.text_encoder.to(torch.bfloat16)
    method = Method("prompt", guidance=SafeLatentGuidance(end=0.5))
    _, info = generate(pipe, PROMPT, SEEDS[:1], attributes=[GENDER], weights=torch.tensor([WOMAN]), method=method,
                       **call)
    assert info["steps"] == 2


NOT_PLAIN = ("Flux2Pipeline", "Flux2KleinPipeline", "HunyuanImagePipeline", "Krea2Pipeline", "PixArtAlphaPipeline",
             "QwenImagePipeline", "ZImagePipeline")  # their guidance is another, or counts from another number


@pytest.mark.parametrize("name", [name for name in INSIDE if name not in NOT_PLAIN])
def test_away_from_a_group_inside_sampling_is_its_text_as_a_negative_prompt(name):
    """Without guidance of its own: eps_c - (eps_g - eps_c) is classifier-free guidance of scale 2 against the group."""
    pipe, call, prompt = PIPELINES[name](), {**CALLS[name], "num_inference_steps": 1}, PROMPT
    negative = f"{prompt}, a woman"
    call.update(dict(enable_cfg_renorm=False) if name == "LongCatImagePipeline" else {})
    if name == "Lumina2Pipeline":  # the prompt alone gets the system's words
        negative, call["cfg_normalization"] = f"{pipe.system_prompt} <Prompt Start> {negative}", False
    call.update(dict(complex_human_instruction=None) if name == "SanaPipeline" else {})  # it is the prompt's alone
    method = Method("embedding", guidance=SafeLatentGuidance(scale=1e9))  # mu is 1
    with guided(pipe, prompt, [GENDER], torch.tensor([[0.0, 1.0], ALONE]), method, **encoding_of(call)) as guide:
        found = latents(pipe, {**call, **guidance(pipe, 1.0, None)}, **guide.call)
    alone = latents(pipe, call, **guidance(pipe, 1.0, None), prompt=[prompt] * 2)
    away = latents(pipe, call, **{**guidance(pipe, 2.0, None), "negative_prompt": negative}, prompt=[prompt] * 2)
    effect = (away - alone)[0].abs().max()
    assert effect > 1e-5 and (found - away)[0].abs().max() < 0.01 * effect
    assert torch.allclose(found[1], alone[1], atol=1e-5) and guide.summary()["extra_evaluations"] == 1


@pytest.mark.parametrize("direction", ["embedding", "prediction"])
@pytest.mark.parametrize("name", INSIDE)
def test_inside_sampling_with_guidance_pushed_pictures_move_and_others_stay(name, direction, noted):
    pipe, call = PIPELINES[name](), CALLS[name]
    method = Method(direction, guidance=SafeLatentGuidance(scale=1e9))
    pictures, info = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], method=method, weights=2 * WEIGHTS, **call)
    expected = np.stack([plain(pipe, call, PROMPT, seed) for seed in SEEDS])
    moved = np.abs(pictures - expected).reshape(4, -1).max(1)
    assert moved[0] <= 1 and moved[3] <= 1 and min(moved[1:3]) > 1 and info["acted"]
    assert np.abs(pictures[1].astype(int) - pictures[2]).max() > 1
    noted(name, direction, "left alone", f"{max(moved[0], moved[3]) / min(moved[1:3]):.1e}")
    one_by_one, _ = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], method=method, weights=2 * WEIGHTS, **call,
                             batch_size=1)
    assert np.abs(pictures.astype(int) - one_by_one).max() <= 1


def test_a_draw_sends_pictures_to_their_groups_in_any_batch(tiny):
    _, pipe, call = tiny
    steering = Steering(ALONE, (0.4, 0.3, 0.3))
    together, _ = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], steerings=[steering], batch_size=4, **call)
    one_by_one, _ = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], steerings=[steering], batch_size=1, **call)
    assert np.abs(together.astype(int) - one_by_one).max() <= 1


def test_a_pipeline_that_nobody_knows_gets_each_picture_s_own_text():
    """Its encode_prompt takes arguments that are not known here."""
    class Renamed(type(tiny_pipelines.sd())):
        def encode_prompt(self, captions=None, *args, **kwargs):
            raise TypeError("captions are missing") if captions is None else None

        def __call__(self, prompt, **call):
            return tiny_pipelines.sd()(prompt, **call)

    known, unknown = tiny_pipelines.sd(), object.__new__(Renamed)
    unknown.__dict__.update(known.__dict__)
    call = dict(height=16, width=16, num_inference_steps=2)
    pictures, info = generate(unknown, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    with pytest.raises(DebiasError, match="toward one group alone"):
        generate(unknown, PROMPT, SEEDS[:1], attributes=[GENDER], weights=torch.tensor([[0.0, -0.5]]), **call)
    bench = Workbench(unknown, None)
    bench.check([GENDER], METHODS["default"])
    for method in (METHODS["shift"], Method("embedding")):
        with pytest.raises(DebiasError, match="How Renamed encodes texts is not known here.* Stable Diffusion 1 to 3"):
            bench.check([GENDER], method)
    expected, _ = generate(known, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    assert np.abs(pictures.astype(int) - expected).max() <= 1 and info["acted"]


def test_the_doctor_examines_every_family(tiny, usual):
    name, pipe, call = tiny
    bench = Workbench(pipe, None, steps=2, cfg=3.0, width=call["width"], height=call["height"])
    said = facts(pipe, PROMPT, [GENDER], METHODS["default"])
    found = examine(bench, said, prompt=PROMPT)
    wrong = [finding.text for finding in found.findings if finding.ok is False]
    assert name in said[0] and all(text.startswith("steering changes") for text in wrong), found.text  # weak, of some


def saved(pipe, folder, **parts):
    """A pipeline's folder, whose index names further parts."""
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **parts}))
    return str(folder)


def test_a_folder_of_sd_3_without_its_t5_loads_and_says_so(tmp_path):
    pipe = tiny_pipelines.sd3()
    folder = saved(pipe, tmp_path / "sd3", text_encoder_3=["transformers", "T5EncoderModel"],
                   tokenizer_3=["transformers", "T5TokenizerFast"])
    with pytest.warns(UserWarning, match="lacks text_encoder_3 and tokenizer_3; the pipeline works without"):
        loaded = load_pipeline(folder)
    loaded.set_progress_bar_config(disable=True)
    call = dict(height=16, width=16, num_inference_steps=2)
    assert np.abs(plain(loaded, call, PROMPT, 1) - plain(pipe, call, PROMPT, 1)).max() <= 1


def test_a_folder_without_an_encoder_that_is_needed_says_what_to_pass(tmp_path):
    pipe = PIPELINES["HiDreamImagePipeline"]()
    pipe.save_pretrained(tmp_path / "hidream")
    for part in ("text_encoder_4", "tokenizer_4"):
        shutil.rmtree(tmp_path / "hidream" / part)
    with pytest.raises(DebiasError, match="lacks text_encoder_4 and tokenizer_4, which a HiDreamImagePipeline needs"):
        load_pipeline(str(tmp_path / "hidream"))


def test_a_pipeline_that_is_not_among_the_automatic_ones_loads_by_its_own_name(tmp_path):
    pipe = PIPELINES["BriaPipeline"]()
    pipe.save_pretrained(tmp_path / "bria")
    assert type(load_pipeline(str(tmp_path / "bria"))).__name__ == "BriaPipeline"


def test_two_transformers_that_share_the_steps_are_not_guided_in_one_alone():
    pipe = PIPELINES["WanPipeline"]()
    bench = Workbench(pipe, None)
    bench.check([GENDER], Method("embedding"))
    pipe.transformer_2 = pipe.transformer
    with pytest.raises(DebiasError, match="WanPipeline with two transformers takes only the direction 'prompt' in all"):
        bench.check([GENDER], Method("embedding"))
    bench.check([GENDER], METHODS["default"])


def test_a_workbench_leaves_the_pipeline_s_guider_as_it_was():
    pipe, call = PIPELINES["HunyuanImagePipeline"](), CALLS["HunyuanImagePipeline"]
    before = pipe.guider
    Workbench(pipe, None, steps=2, cfg=1.5, width=call["width"], height=call["height"]).generate(PROMPT, [1])
    assert pipe.guider is before and before.guidance_scale != 1.5
