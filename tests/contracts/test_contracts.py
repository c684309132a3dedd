"""The same contracts on every host and every form of text; docs/contracts.md holds what was found."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contracts_case import ALONE, PUSH, PUSHED, SEEDS, plain_reference, reference
from standin_gpu import Card

from sd_debias.core.method.methods import DIRECTIONS, IN_CONTEXT, Method
from sd_debias.core.method.safe_latent import SafeLatentGuidance
from sd_debias.core.method.draw import Steering

MIXED = replace(PUSH, weights=(0.3, 0.0), push=0.6)  # away from one group, and toward the drawn one
SMOOTH = SafeLatentGuidance(scale=20.0, momentum_scale=0.3, momentum_beta=0.4)  # where no rounding decides
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}  # of a left-alone image, on a card
ROOT = Path(__file__).resolve().parents[2]


def vary(rows=1, **choices):
    """So many combinations of these choices a case, others in each case (conftest.py)."""
    def mark(test):
        test.varied = choices, rows
        return test
    return mark


def deviation(found, expected) -> float:
    """Largest difference, as a share of the largest value."""
    assert found.shape == expected.shape and torch.isfinite(found).all()
    return float((found - expected).abs().max() / expected.abs().max())


def felt(case, found, plain) -> bool:
    return deviation(found, plain) > (case.felt or 10 * case.rounding)


def skip_where_there_is_none(case, direction, cfg):
    if cfg not in case.cfgs:
        pytest.skip("no CFG here")


def test_left_alone(case, measured):
    """Without weights, in a batch of pushed images whose texts may be longer: bit by bit the image without us."""
    (plain, _), found = case.plain(), case.pictures(case.prompt, PUSH)
    assert all(felt(case, found[i], plain[i]) for i in PUSHED)
    assert measured(deviation(found[ALONE], plain[ALONE])) <= case.alone_rounding


@vary(rows=2, cfg=(3.0, 1.0))
def test_left_alone_inside_sampling(case, measured, cfg):
    """As above; and nothing is evaluated for it: a further row is a pushed image's."""
    skip_where_there_is_none(case, "embedding", cfg)
    (plain, rows), found = case.plain(cfg), case.pictures(case.prompt, PUSH, Method("embedding"), cfg)
    assert all(felt(case, found[i], plain[i]) for i in PUSHED)
    assert measured(deviation(found[ALONE], plain[ALONE])) <= case.alone_rounding
    if rows is not None:
        assert 0 < case.evaluations - rows <= len(PUSHED) * (len(case.sigmas) - 1)


def test_full_push(case, measured):
    """Toward a group, in the prompt's context and with weight -1: the image of the group's own text."""
    (plain, _), found = case.plain(), case.pictures(case.prompt, PUSH)
    for image, group in PUSHED.items():
        own = case.pictures(IN_CONTEXT.replace("{prompt}", case.prompt).replace("{group}", group))
        assert felt(case, plain[image], own[image])
        assert measured(deviation(found[image], own[image])) <= case.rounding


@vary(rows=3, direction=DIRECTIONS, cfg=(3.0, 1.0))
def test_same_meaning(case, measured, direction, cfg):
    """Weights of any size mean what core computes from them."""
    if case.reference:
        pytest.skip(case.reference)
    skip_where_there_is_none(case, direction, cfg)
    method = Method(direction, guidance=SMOOTH if direction != "prompt" else SafeLatentGuidance())
    check_meaning(case, measured, method, cfg)


@vary(rows=2, direction=DIRECTIONS)
def test_same_window(case, measured, direction):
    """A window of the schedule: outside of it nothing is steered, in the direction `prompt` neither."""
    if case.reference:
        pytest.skip(case.reference)
    skip_where_there_is_none(case, direction, 3.0)
    # `linear`, a push that grows with its weights, is what the paper's form uses.
    guidance = replace(SMOOTH if direction != "prompt" else SafeLatentGuidance(), start=0.3,
                       linear=direction == "embedding")
    check_meaning(case, measured, Method(direction, guidance=guidance), 3.0)


@vary(toward=(False, True))
def test_same_meaning_anchored_at_the_prompt(case, measured, toward):
    """As `paper` does it: the text is the prompt, moved, and the prompt's own prediction is the baseline."""
    if case.reference:
        pytest.skip(case.reference)
    skip_where_there_is_none(case, "embedding", 3.0)
    guidance = replace(SMOOTH, scale=1000.0, linear=True, anchor="prompt", toward=toward, length=0.5 if toward else 1.0)
    check_meaning(case, measured, Method("embedding", guidance=guidance), 3.0)


def check_meaning(case, measured, method, cfg):
    plain, _ = case.plain(cfg)
    assert deviation(plain_reference(case, cfg), plain) <= case.rounding
    found = case.pictures(case.prompt, MIXED, method, cfg)
    expected = reference(case, method, MIXED.rows(SEEDS), cfg)
    assert felt(case, plain, expected)
    assert measured(deviation(found, expected)) <= case.rounding


@vary(direction=DIRECTIONS)
def test_strength_0(case, measured, direction):
    """The image without us, bit by bit, and no evaluation more; so with weights of zero."""
    plain, rows = case.plain()
    for steering, strength in ((PUSH, 0.0), (Steering.none(2), 1.0)):
        found = case.pictures(case.prompt, steering, Method(direction), strength=strength)
        assert measured(deviation(found, plain)) == 0 and case.evaluations == rows


@vary(direction=DIRECTIONS, dtype=DTYPES, cfg=(3.0, 1.0))
def test_on_a_gpu(case, measured, direction, dtype, cfg):
    """Tensors of the card and the CPU do not mix, images are the CPU's, no step waits for the card or copies to it.

    By a stand-in, which tells nothing of a card's rounding and time."""
    skip_where_there_is_none(case, direction, cfg)
    method, card = Method(direction), Card(ROOT)
    with case.on_card(None, dtype):
        expected = case.pictures(case.prompt, MIXED, method, cfg)
    with case.on_card(card, dtype):
        found = case.pictures(case.prompt, MIXED, method, cfg)
    assert torch.equal(found, expected) and measured(0.0) == 0
    assert card.again() == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@vary(direction=DIRECTIONS, dtype=DTYPES, cfg=(3.0, 1.0))
def test_on_a_real_gpu(case, measured, direction, dtype, cfg):
    """A pushed image moves, one that is left alone stays, in batches of the card's own rounding."""
    skip_where_there_is_none(case, direction, cfg)
    if not case.has_gpu:
        pytest.skip("this host chooses its device as it starts, or is a double")
    with case.on_card("cuda", dtype):
        plain = case.pictures(case.prompt, cfg=cfg).float().cpu()
        found = case.pictures(case.prompt, PUSH, Method(direction), cfg).float().cpu()
    rounding = ROUNDING[dtype]
    assert all(deviation(found[i], plain[i]) > rounding for i in PUSHED)
    assert measured(deviation(found[ALONE], plain[ALONE])) <= rounding


def test_refused(case, measured):
    """What cannot be done is said in a sentence that names it."""
    with pytest.raises(ValueError, match=case.refused.sentence) as caught:
        case.pictures(case.prompt, PUSH)
    assert len(str(caught.value).splitlines()) == 1
