"""A profile on a pipeline's own call: `balance(pipe, "gender")`, `applied(pipe, profile)`."""
import numpy as np
import pytest
import tiny_pipelines
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.profile.balance import balanced
from sd_debias.core.profile.lookup import entry_for
from sd_debias.diffusers_host.applied import applied, balance, disable

SMALL = dict(height=16, width=16, num_inference_steps=2, output_type="np")


@pytest.fixture(params=["sd", "sdxl", "flux"])
def pipe(request):
    return getattr(tiny_pipelines, request.param)()


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


def small(pipe, **more):
    return SMALL | (dict(max_sequence_length=32) if "Flux" in type(pipe).__name__ else {}) | more


def test_a_pipeline_s_own_call_is_balanced_and_each_picture_is_its_group_s_text(pipe):
    plain_class = type(pipe)
    texts = {0: "a doctor", 1: "a doctor, a man", 2: "a doctor, a woman"}
    drawn = entry_for(balanced("gender"), "a doctor")[0].steerings[0].draws([4, 5])
    expected = [pipe(texts[group], **small(pipe, generator=seeded(4 + i))).images[0] for i, group in enumerate(drawn)]
    assert balance(pipe, "gender") is pipe and isinstance(pipe, plain_class)
    made = pipe("a doctor", num_images_per_prompt=2, **small(pipe, generator=[seeded(4), seeded(5)])).images
    assert sorted(drawn) == [1, 2] and np.abs(made - np.stack(expected)).max() < 1e-3
    assert type(disable(pipe)) is plain_class


def test_what_is_left_alone_is_bit_identical_and_lists_of_prompts_keep_their_order(pipe):
    asked = small(pipe, generator=seeded(3))
    plain = pipe(["a red car", "a woman"], **asked).images
    with applied(pipe, balanced(GENDER)):
        assert (pipe(["a red car", "a woman"], **small(pipe, generator=seeded(3))).images == plain).all()
        several = [seeded(i) for i in range(4)]
        both = pipe(["a red car", "a doctor"], num_images_per_prompt=2, **small(pipe, generator=several)).images
    alone = pipe("a red car", num_images_per_prompt=2, **small(pipe, generator=[seeded(0), seeded(1)])).images
    assert both.shape[0] == 4 and np.abs(both[:2] - alone).max() < 1e-5


def test_after_an_exception_the_pipeline_is_as_it_was(pipe):
    before = type(pipe)
    with pytest.raises(ZeroDivisionError), applied(pipe, balanced("gender")):
        pipe("a doctor", callback_on_step_end=lambda *_: 1 / 0, **small(pipe))
    assert type(pipe) is before
    with applied(pipe, balanced("gender")), pytest.raises(DebiasError, match="disable"):
        pipe(prompt_embeds=torch.zeros(1, 4, 8), **small(pipe))


def test_two_pipelines_in_two_threads_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor
    pipes = [tiny_pipelines.sd(), tiny_pipelines.sd()]
    balance(pipes[0], "gender")
    balance(pipes[1], "age")

    def made(pipe):
        return pipe("a doctor", num_images_per_prompt=2, **small(pipe, generator=[seeded(4), seeded(5)])).images

    one_by_one = [made(pipe) for pipe in pipes]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(made, pipes))
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, together))
    assert not np.array_equal(*one_by_one)
