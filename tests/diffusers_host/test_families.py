"""Families of pipelines: what a push and a shift must be, whatever form their texts have."""
import functools
import inspect
import itertools
import json
import shutil

import numpy as np
import pytest
import tiny_llm
import tiny_masked
import tiny_pipelines
import tiny_several
import torch
from tiny_pipelines import CALLS, PIPELINES

from sd_debias.core.attribute import GENDER
from sd_debias.core.doctor import examine
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.diffusers_host.doctor import facts
from sd_debias.diffusers_host.encode import encoding_of
from sd_debias.diffusers_host.families import FAMILIES, guidance
from sd_debias.diffusers_host.generate import generate, guided
from sd_debias.diffusers_host.workbench import Workbench, load_pipeline

assert tiny_llm and tiny_masked and tiny_several  # they name their families
PROMPT, MAN, WOMAN = "a doctor", "a doctor, a man", "a doctor, a woman"
ALONE = (0.0, 0.0)
INSIDE = sorted(name for name, family in FAMILIES.items() if family.inside)
IMAGES = 3


@functools.cache
def pipeline(name):
    """Made once. A test that changes one makes its own."""
    return PIPELINES[name]()


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (i % 2))
                        for i, name in enumerate(sorted(PIPELINES))])
def tiny(request):
    """(name, pipeline, arguments of its call)."""
    pipe = pipeline(request.param)
    guider = getattr(pipe, "guider", None)
    yield request.param, pipe, CALLS[request.param]
    if guider is not None:
        pipe.guider = guider


@pytest.fixture
def noted(record_property):
    """noted(name, direction, contract, value): for the table of families."""
    def note(name, direction, contract, value):
        record_property(f"diffusers|{name.removesuffix('Pipeline')}|{direction}|{contract}", value)
    return note


def plain(pipe, call, text, seed):
    return generate(pipe, text, [seed], **call)[0][0].astype(int)


def apart(one, other):
    return np.abs(one.astype(int) - other).max()


def takes_negative_prompts(pipe):
    return "negative_prompt" in inspect.signature(type(pipe).__call__).parameters


def guided_call(pipe, call, negative):
    scales = ("guidance_scale", "true_cfg_scale")
    own = {name: value for name, value in call.items() if name not in scales}
    return {**own, **guidance(pipe, 4.0, negative)}


def test_a_push_is_the_group_s_own_text_a_shift_lies_between_others_are_the_prompt_s(tiny, noted):
    """With the same negative prompt, where there can be one."""
    name, pipe, call = tiny
    if takes_negative_prompts(pipe):
        call = guided_call(pipe, call, "a cat with a hat")
    weights = torch.tensor([ALONE, (-1.0, 0.0), (0.0, -1.0), (0.0, -0.5)])
    (alone, to_man, to_woman, shifted), info = generate(
        pipe, PROMPT, [1, 2, 3, 3], attributes=[GENDER], weights=weights, **call)
    prompt, man, woman, unsteered = (plain(pipe, call, text, seed) for text, seed in (
        (PROMPT, 1), (MAN, 2), (WOMAN, 3), (PROMPT, 3)))
    effect, off = apart(woman, unsteered), max(apart(to_man, man), apart(to_woman, woman))
    assert effect > 1 and off <= 1 and apart(alone, prompt) <= 1
    assert apart(shifted, unsteered) > 0 and apart(shifted, woman) > 0
    assert info["acted"] and info["guided_images"] == 3
    noted(name, "prompt", "left alone", f"{apart(alone, prompt) / effect:.1e}")
    noted(name, "prompt", "full push", f"{off / effect:.1e}")


def test_what_a_family_cannot_do_is_said_before_the_first_picture(tiny, noted):
    name, pipe, _ = tiny
    bench = Workbench(pipe, None)
    bench.check([GENDER], METHODS["default"])
    bench.check([GENDER], METHODS["shift"])
    if not takes_negative_prompts(pipe):
        with pytest.raises(DebiasError, match=f"{name}.*'a cat'"):
            guidance(pipe, 4.0, "a cat")
    if name in INSIDE:
        bench.check([GENDER], Method("embedding"))
        return
    with pytest.raises(DebiasError, match=f"{name}|scheduler") as caught:
        bench.check([GENDER], Method("embedding"))
    noted(name, "embedding", "refused", str(caught.value))


PLAIN = {"height", "width", "num_inference_steps", "guidance_scale", "true_cfg_scale",
         "negative_prompt"}


@pytest.mark.parametrize("tiny", [name for name, call in CALLS.items() if call.keys() <= PLAIN],
                         indirect=True)
def test_the_doctor_examines_a_family_with_nothing_but_steps_guidance_and_a_size(tiny):
    name, pipe, call = tiny
    bench = Workbench(pipe, None, steps=2, cfg=3.0, width=call["width"], height=call["height"])
    said = facts(pipe, PROMPT, [GENDER], METHODS["default"])
    found = examine(bench, said, prompt=PROMPT)
    wrong = [finding.text for finding in found.findings if finding.ok is False]
    weak = [text for text in wrong if text.startswith("steering changes")]  # of some families
    assert name in said[0] and wrong == weak, found.text


def latents(pipe, call, **given):
    """Of the first seeds, as they leave the sampler."""
    given = {**call, **given}
    negative = given.pop("negative_prompt", None)
    if negative is not None:  # a list for each call: one pipeline changes it
        given["negative_prompt"] = [negative if isinstance(negative, str) else negative[0]] * IMAGES
    generators = [torch.Generator().manual_seed(seed) for seed in range(1, IMAGES + 1)]
    output = pipe(**given, generator=generators, output_type="latent")
    return next(getattr(output, name) for name in ("images", "image", "frames") if hasattr(output, name)).float()


def predictions(pipe, call, **given):
    """The latents, and the answers of the denoiser in the first step, by call."""
    found = []

    def note(module, args, output):
        found.append(torch.stack(output[0]) if isinstance(output[0], list) else output[0].clone())
        if FAMILIES[type(pipe).__name__].texted:
            found[-1] = found[-1][:, -16:]  # behind those for the text
    handle = pipe.transformer.register_forward_hook(note)
    try:
        made = latents(pipe, call, **given)
    finally:
        handle.remove()
    return made, found[:len(found) // call["num_inference_steps"]]


def largest(one, other):
    return (one - other).abs().max()


def pairwise():
    """Each family with guidance and without; one of the two always, the other slow."""
    for i, name in enumerate(INSIDE):
        for j, cfg in enumerate((4.0, None)):
            yield pytest.param(name, cfg, marks=[] if i % 2 == j else [pytest.mark.slow], id=f"{name}-{cfg}")


@pytest.mark.parametrize("tiny, cfg", pairwise(), indirect=["tiny"])
def test_inside_sampling_a_step_is_what_its_texts_predict_alone(tiny, cfg, noted):
    """eps_c - (eps_g - eps_base), each from a run of the pipeline with that text; one left alone stays bit by bit."""
    (name, pipe, call), family = tiny, FAMILIES[tiny[0]]
    off = 0.0 if name in ("Krea2Pipeline", "ZImagePipeline") else 1.0
    negative = "a cat" if cfg and takes_negative_prompts(pipe) else None
    call = {**call, **guidance(pipe, cfg or off, negative)}

    def of(text):
        return predictions(pipe, call, prompt=[text] * IMAGES)
    made, plain = of(PROMPT)
    both = len(plain[0]) > IMAGES
    cond, uncond = slice(-IMAGES, None), slice(0, IMAGES)
    if family.ahead:
        cond, uncond = uncond, slice(IMAGES, None)
    eps_c = plain[0][cond]
    base = plain[0][uncond] if both else eps_c
    eps_g = torch.stack([of(WOMAN)[1][0][cond][0], of(MAN)[1][0][cond][1]])
    expected = eps_c[:2] - (eps_g - base[:2])

    method = Method("embedding", guidance=SafeLatentGuidance(scale=1e9))  # mu is 1
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0], ALONE])
    with guided(pipe, PROMPT, [GENDER], weights, method, **encoding_of(call)) as guide:
        pushed, found = predictions(pipe, call, **guide.call)
    off = 0.0
    for image in (0, 1):
        effect = largest(expected[image], eps_c[image])
        off = max(off, float(largest(found[0][cond][image], expected[image]) / effect))
        assert effect > 1e-4 and off < 1e-3
    noted(name, "embedding", "by hand", f"{off:.1e}")
    assert torch.equal(found[0][cond][2], eps_c[2]) and all(map(torch.equal, found[1:], plain[1:]))
    rows = 2 if both else 1  # of two steps, one of which may repeat the other's
    assert guide.summary()["extra_evaluations"] == 2 * rows
    left, moved = largest(pushed[2], made[2]), largest(pushed[:2], made[:2])
    assert left == 0 and moved > 1e-4
    noted(name, "embedding", "left alone", f"{left / moved:.1e}")


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
        return latents(pipe, call, prompt=[text] * IMAGES), calls
    finally:
        del pipe.transformer.forward


@pytest.mark.parametrize("tiny, window", zip(INSIDE, itertools.cycle([(0.0, 0.5), (0.5, 1.0)])),
                         indirect=["tiny"])
def test_in_a_window_the_denoiser_reads_the_group_s_text_and_the_prompt_outside_of_it(tiny, window):
    _, pipe, call = tiny
    texts = (WOMAN, PROMPT) if window[0] == 0 else (PROMPT, WOMAN)
    (first, calls), (_, later) = denoised(pipe, call, texts[0]), denoised(pipe, call, texts[1])
    expected, _ = denoised(pipe, call, texts[0], len(calls) // 2, later)
    method = Method("prompt", guidance=SafeLatentGuidance(start=window[0], end=window[1]))
    weights = torch.tensor([(0.0, -1.0)] * IMAGES)
    with guided(pipe, PROMPT, [GENDER], weights, method, **encoding_of(call)) as guide:
        found = latents(pipe, call, **guide.call)
    effect = largest(expected, first)
    assert effect > 1e-4 and largest(found, expected) < 1e-3 * effect
    assert guide.summary()["steps"] == 1


def test_a_prompt_is_not_rewritten_between_the_text_that_is_mixed_and_the_one_that_is_evaluated():
    """LongCat's language model rewrites prompts unless it is told not to, here to one that says whom to show."""
    pipe, call = PIPELINES["LongCatImagePipeline"](), dict(height=16, width=16, num_inference_steps=2)
    pipe.rewire_prompt = lambda prompt, device: ["a man in a hat"] * len(prompt)
    rewritten = latents(pipe, call, prompt=[PROMPT] * IMAGES)
    with guided(pipe, PROMPT, [GENDER], torch.tensor([ALONE] * IMAGES)) as guide:
        found = latents(pipe, call, **guide.call)
    kept = latents(pipe, call, prompt=[PROMPT] * IMAGES, enable_prompt_rewrite=False)
    assert torch.equal(found, kept) and not torch.equal(found, rewritten)
    with pytest.raises(DebiasError, match="enable_prompt_rewrite=False, got True"):
        generate(pipe, PROMPT, [1], enable_prompt_rewrite=True, **call)


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("tiny", ["LongCatImagePipeline"], indirect=True)
def test_a_call_that_takes_texts_alone_evaluates_the_shifted_ones_of_pushed_images(tiny, cfg):
    _, pipe, call = tiny
    call = {**call, "guidance_scale": cfg}
    plain, own = (latents(pipe, call, prompt=[text] * IMAGES, negative_prompt="a cat")
                  for text in (PROMPT, WOMAN))
    weights = torch.tensor([ALONE, (0.0, -1.0), ALONE])
    with guided(pipe, PROMPT, [GENDER], weights, negative_prompt="a cat") as guide:
        found = [latents(pipe, call, **guide.call) for _ in range(2)]
    assert torch.equal(*found) and torch.equal(found[0][0], plain[0])
    assert torch.allclose(found[0][1], own[1], atol=1e-5) and not torch.allclose(plain[1], own[1], atol=1e-3)
    assert guide.summary()["guided_images"] == 1 and guide.summary()["acted"]


def test_a_window_holds_where_text_encoder_and_transformer_have_types_of_their_own():
    """Kandinsky's pipeline casts its text in every step."""
    pipe, call = PIPELINES["Kandinsky5T2IPipeline"](), {**CALLS["Kandinsky5T2IPipeline"], "num_inference_steps": 4}
    pipe.text_encoder.to(torch.bfloat16)
    method = Method("prompt", guidance=SafeLatentGuidance(end=0.5))
    _, info = generate(pipe, PROMPT, [1], attributes=[GENDER], weights=[0.0, -1.0], method=method,
                       **call)
    assert info["steps"] == 2


def test_a_pipeline_that_nobody_knows_gets_each_picture_s_own_text():
    """Its encode_prompt takes arguments that are not known here."""
    class Renamed(type(tiny_pipelines.sd())):
        def encode_prompt(self, captions=None, *args, **kwargs):
            raise TypeError("captions are missing") if captions is None else None

        def __call__(self, prompt, **call):
            return tiny_pipelines.sd()(prompt, **call)

    known, unknown = tiny_pipelines.sd(), object.__new__(Renamed)
    unknown.__dict__.update(known.__dict__)
    call = dict(height=16, width=16, num_inference_steps=2, attributes=[GENDER])
    weights = torch.tensor([ALONE, (-1.0, 0.0), (0.0, -1.0)])
    pictures, info = generate(unknown, PROMPT, [1, 2, 3], weights=weights, **call)
    expected, _ = generate(known, PROMPT, [1, 2, 3], weights=weights, **call)
    assert apart(pictures, expected) <= 1 and info["acted"]
    with pytest.raises(DebiasError, match="one group alone.* 1 or more"):
        generate(unknown, PROMPT, [1], weights=[0.0, -0.5], **call)
    bench = Workbench(unknown, None)
    bench.check([GENDER], METHODS["default"])
    for method in (METHODS["shift"], Method("embedding")):
        with pytest.raises(DebiasError, match="Renamed.*'default'.*Diffusion 1 to 3.*SanaSprint"):
            bench.check([GENDER], method)


def test_a_folder_of_sd_3_without_its_t5_loads_and_says_so(tmp_path):
    pipe = tiny_pipelines.sd3()
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(dict(
        index, text_encoder_3=["transformers", "T5EncoderModel"],
        tokenizer_3=["transformers", "T5TokenizerFast"])))
    with pytest.warns(UserWarning, match="text_encoder_3.*tokenizer_3"):
        loaded = load_pipeline(str(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    call = dict(height=16, width=16, num_inference_steps=2)
    assert apart(plain(loaded, call, PROMPT, 1), plain(pipe, call, PROMPT, 1)) <= 1


def test_a_folder_of_a_pipeline_that_is_no_automatic_one_loads_and_says_what_it_lacks(tmp_path):
    pipeline("HiDreamImagePipeline").save_pretrained(tmp_path)
    assert type(load_pipeline(str(tmp_path))).__name__ == "HiDreamImagePipeline"
    for part in ("text_encoder_4", "tokenizer_4"):
        shutil.rmtree(tmp_path / part)
    with pytest.raises(DebiasError, match="text_encoder_4.*tokenizer_4.*HiDreamImagePipeline"):
        load_pipeline(str(tmp_path))


def test_two_transformers_that_share_the_steps_are_not_guided_in_one_alone():
    pipe = PIPELINES["WanPipeline"]()
    bench = Workbench(pipe, None)
    bench.check([GENDER], Method("embedding"))
    pipe.transformer_2 = pipe.transformer
    with pytest.raises(DebiasError, match="WanPipeline.* two .*'prompt'.*'embedding'"):
        bench.check([GENDER], Method("embedding"))
    bench.check([GENDER], METHODS["default"])


@pytest.mark.parametrize("tiny", ["HunyuanImagePipeline"], indirect=True)
def test_a_workbench_leaves_the_pipeline_s_guider_as_it_was(tiny):
    _, pipe, call = tiny
    before = pipe.guider
    Workbench(pipe, None, steps=2, cfg=1.5, width=call["width"], height=call["height"]).generate(PROMPT, [1])
    assert pipe.guider is before and before.guidance_scale != 1.5
