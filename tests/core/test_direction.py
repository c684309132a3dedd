"""Directions: mixing group conditionings, as pure tensors."""
import pytest
import torch

from sd_debias.core.attribute import GENDER
from sd_debias.core.method.direction import group_texts, mix, shift_prompt
from sd_debias.core.method.methods import ALONE, IN_CONTEXT

DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def conditionings(*shape, n=2, batch=1, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(batch, *shape, generator=generator).to(device, dtype)
    groups = torch.randn(n, 1, *shape, generator=generator).to(device, dtype)
    return anchor, groups


@pytest.mark.parametrize("text, prompt, context, subject, expected", [
    ("a woman", "a doctor", IN_CONTEXT, "", "a doctor, a woman"),
    ("a woman", "a doctor", ALONE, "", "a woman"),
    *(("{prompt} who is a woman", "a doctor", context, "", "a doctor who is a woman")
      for context in (IN_CONTEXT, ALONE)),
    ("a {red|blue} woman", "a {group}", IN_CONTEXT, "", "a {group}, a {red|blue} woman"),
    # a group's words stand behind the subject of a longer prompt
    *(("a woman", prompt, IN_CONTEXT, "doctor", expected) for prompt, expected in (
        ("portrait of a (doctor:1.2), bokeh, 85mm", "portrait of a (doctor:1.2), a woman, bokeh, 85mm"),
        ("(a photo of a Doctor:1.2), masterpiece", "(a photo of a Doctor:1.2), a woman, masterpiece"),
        ("a doctorate, 8k", "a doctorate, 8k, a woman"), ("a nurse", "a nurse, a woman"),
        )),
    ("a woman", "a doctor, 8k", ALONE, "doctor", "a woman"),
    ("{prompt} (f)", "a doctor, 8k", ALONE, "doctor", "a doctor, 8k (f)")])
def test_a_group_s_text_stands_in_the_prompt_or_alone(text, prompt, context, subject, expected):
    assert group_texts([text], prompt, context, subject) == [expected]


@pytest.mark.parametrize("shape", [(16, 8), (8,), (4, 8, 8), (4, 3, 8, 8)], ids=["tokens", "pooled", "image", "video"])
def test_mix_is_the_anchored_sum(shape, device):
    e, g = conditionings(*shape, n=3, batch=2, device=device)
    a = torch.tensor([[0.3, -0.2, 1.1], [0.0, 2.0, -0.5]])
    expected = torch.stack([e[b] + sum(a[b, i].item() * (g[i, 0] - e[b]) for i in range(3)) for b in range(2)])
    assert mix(e, g, a).device.type == device
    assert torch.allclose(mix(e, g, a), expected, atol=1e-5)


def test_mix_of_zero_weights_is_the_anchor_and_of_one_group_that_group_bit_for_bit(device):
    e, g = conditionings(16, 8, batch=3, device=device)
    u = mix(e, g, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert torch.equal(u[0], e[0])
    assert torch.equal(u[1:], g[:, 0])


def test_shift_prompt_alone_pushes_away_from_a_group_and_toward_the_others():
    c, g = conditionings(16, 8)
    away = shift_prompt(c, g, torch.tensor([[0.5, -0.5]]), g.mean(0))
    assert torch.allclose(away, c - (0.5 * g[0] - 0.5 * g[1]), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_mixed_in_float32_and_returned_in_its_own_type(dtype, device):
    e, g = conditionings(16, 8, device=device, dtype=dtype)
    a = torch.tensor([[100.0, -100.0]])  # in half precision the sum would lose all digits
    u = mix(e, g, a)
    exact = mix(e.double().float(), g.float(), a)
    assert u.dtype == dtype
    assert torch.equal(u, exact.to(dtype))


@pytest.mark.parametrize("weights, width, fact", [
    (torch.zeros(1, 3), 8, "n = 2 groups"), (torch.zeros(2), 8, "n = 2 groups"),
    (torch.zeros(1, 2), 9, "another text encoder"),
    *((torch.tensor([[bad, 0.0]]), 8, "finite") for bad in (float("nan"), float("inf")))])
def test_what_does_not_fit_is_refused(weights, width, fact):
    e, g = conditionings(16, 8)[0], conditionings(16, width)[1]
    for call in (lambda: mix(e, g, weights), lambda: shift_prompt(e, g, weights, e)):
        with pytest.raises(ValueError, match=fact):
            call()


def test_a_shift_of_texts_that_differ_in_length_is_said_to_grow_little_and_a_whole_push_is_not():
    import warnings

    from sd_debias.core.method.conditioning import Encoded, shifted_rows
    prompt = {"tokens": torch.zeros(1, 3, 4)}
    encoded = Encoded(prompt, {"tokens": (torch.ones(1, 4, 4), 2 * torch.ones(1, 5, 4))})
    with pytest.warns(UserWarning, match="differ in length.* Draws are exact"):
        shifted_rows(encoded, [GENDER], torch.tensor([[0.0, -0.5]]), IN_CONTEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row, = shifted_rows(encoded, [GENDER], torch.tensor([[0.0, -1.0]]), IN_CONTEXT)
    assert torch.equal(row["tokens"], 2 * torch.ones(1, 5, 4))
