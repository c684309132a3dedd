"""Families of pipelines: what a push and a shift must be, whatever form their texts have."""
import inspect

import numpy as np
import pytest
import tiny_llm
import tiny_masked
import tiny_pipelines
import tiny_several
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.doctor import examine
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.diffusers_host.doctor import facts
from sd_debias.diffusers_host.encode import of_one_length
from sd_debias.diffusers_host.families import FAMILIES, guidance
from sd_debias.diffusers_host.generate import generate
from sd_debias.diffusers_host.workbench import Workbench

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


def plain(pipe, call, text, seed):
    return generate(pipe, text, [seed], **call)[0][0].astype(int)


def test_a_push_is_the_group_s_own_text_and_pictures_left_alone_are_the_prompt_s(tiny):
    _, pipe, call = tiny
    pictures, info = generate(pipe, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    texts = [PROMPT, f"{PROMPT}, a man", f"{PROMPT}, a woman", PROMPT]
    expected = np.stack([plain(pipe, call, text, seed) for text, seed in zip(texts, SEEDS)])
    away = np.abs(expected[1:3] - np.stack([plain(pipe, call, PROMPT, seed) for seed in SEEDS[1:3]])).max()
    assert away > 1 and np.abs(pictures - expected).max() <= 1
    assert info["acted"] and info["guided_images"] == 2


def test_a_shift_lies_between_or_is_refused_before_the_first_picture(tiny):
    name, pipe, call = tiny
    half = torch.tensor([[0.0, -0.5], [0.0, 0.0]])
    if name not in FAMILIES and not of_one_length(pipe):
        with pytest.raises(DebiasError, match="toward one group alone"):
            generate(pipe, PROMPT, SEEDS[:2], attributes=[GENDER], weights=half, **call)
        return
    (moved, same), _ = generate(pipe, PROMPT, SEEDS[:2], attributes=[GENDER], weights=half, **call)
    assert np.abs(same - plain(pipe, call, PROMPT, SEEDS[1])).max() <= 1
    to_prompt, to_group = (np.abs(moved - plain(pipe, call, text, SEEDS[0])).max()
                           for text in (PROMPT, f"{PROMPT}, a woman"))
    assert to_prompt > 0 and to_group > 0


def test_what_a_family_cannot_do_is_said_before_the_first_picture(tiny):
    name, pipe, _ = tiny
    bench = Workbench(pipe, None)
    bench.check([GENDER], METHODS["default"])
    with pytest.raises(DebiasError, match=name if not of_one_length(pipe) else "scheduler"):
        bench.check([GENDER], Method("embedding"))
    if name in FAMILIES or of_one_length(pipe):
        bench.check([GENDER], METHODS["shift"])
    else:
        with pytest.raises(DebiasError, match=f"How {name} encodes texts is not known here.* Stable Diffusion 1 to 3"):
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


def test_a_workbench_makes_pictures_of_every_family(tiny):
    """With nothing but steps, a scale of guidance and a size."""
    name, pipe, call = tiny
    size = {key: call[key] for key in ("width", "height")}
    if not {"max_sequence_length", "use_resolution_binning", "enable_prompt_rewrite"} & set(call):
        bench = Workbench(pipe, None, steps=2, cfg=3.0, batch_size=4, **size)
        pictures, info = bench.generate(PROMPT, SEEDS, [GENDER], weights=WEIGHTS)
        assert info["acted"] and len(pictures) == 4 and np.abs(pictures[0].astype(int) - pictures[1]).max() > 0


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
    expected, _ = generate(known, PROMPT, SEEDS, attributes=[GENDER], weights=WEIGHTS, **call)
    assert np.abs(pictures.astype(int) - expected).max() <= 1 and info["acted"]


def test_the_doctor_examines_every_family(tiny):
    name, pipe, call = tiny
    if {"max_sequence_length", "use_resolution_binning", "enable_prompt_rewrite"} & set(call):
        pytest.skip("its tiny pipeline needs arguments that a workbench does not give")
    bench = Workbench(pipe, None, steps=2, cfg=3.0, width=call["width"], height=call["height"])
    said = facts(pipe, PROMPT, [GENDER], METHODS["default"])
    found = examine(bench, said, prompt=PROMPT)
    assert name in said[0] and "NO" not in found.text.replace("NO  a push changes", ""), found.text
