"""Methods: what of them a host lets its user change."""
from dataclasses import replace

import pytest

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import ALONE, AS_CALIBRATED, METHODS, MIDDLE, TOWARD, Method, named
from sd_debias.core.method.safe_latent import SafeLatentGuidance


def test_an_adjusted_method_keeps_all_but_direction_and_window():
    adjusted = METHODS["paper"].adjusted("prediction", 0.3, 0.4)
    assert adjusted.direction == "prediction" and (adjusted.guidance.start, adjusted.guidance.end) == (0.3, 0.4)
    assert adjusted.rule == "log" and METHODS["paper"].adjusted(AS_CALIBRATED) == METHODS["paper"]


@pytest.mark.parametrize("given, kept", [((0.0, 1.0), (0.3, 0.5)), ((0.4, 1.0), (0.4, 0.5)), ((0.6, 0.9), (0.6, 0.6))])
def test_a_window_is_only_ever_narrowed(given, kept):
    method = Method("embedding", guidance=SafeLatentGuidance(start=0.3, end=0.5)).adjusted(AS_CALIBRATED, *given)
    assert (method.guidance.start, method.guidance.end) == kept


@pytest.mark.parametrize("direction, start, end, said", [
    (AS_CALIBRATED, 0.6, 0.4, "0 <= start <= end <= 1"), (AS_CALIBRATED, float("nan"), 1, "0 <= start <= end <= 1"),
    ("sideways", 0, 1, "sideways")])
def test_what_does_not_fit_is_said(direction, start, end, said):
    with pytest.raises(DebiasError, match=said):
        Method().adjusted(direction, start, end)


def test_a_direction_that_costs_evaluations_pushes_in_the_middle_unless_the_method_says_when():
    assert named("default", direction=None) == METHODS["default"]
    assert named("default", direction="embedding").guidance == TOWARD and TOWARD.window == MIDDLE
    assert named("default", direction="prediction").guidance == replace(MIDDLE, anchor="prompt")
    assert named("paper", direction="prediction").guidance == MIDDLE  # linear in its weights without being told
    assert named("paper", direction="prompt", rule="log") == Method(context=ALONE, spend="shift")


def test_predictions_around_the_prompt_are_of_groups_in_its_context_and_embedding_leads_where_they_do():
    method = named("default", direction="prediction")
    assert method.adjusted("embedding") == named("default", direction="embedding")
    assert Method.from_dict(method.to_dict()) == method
    with pytest.raises(DebiasError, match="context"):
        replace(method, context=ALONE)
    with pytest.raises(DebiasError, match="'toward'"):
        replace(method, guidance=TOWARD)


def test_an_unknown_or_useless_part_of_a_method_is_named():
    for fact, call in (("prompt, .*'sideways'", lambda: named("default", direction="sideways")),
                       ("default, shift, paper.*'magic'", lambda: named("magic")),
                       ("rule .*log", lambda: named("shift", rule="magic")),
                       ("rule", lambda: Method(spend="draw", rule="policy_gradient"))):
        with pytest.raises(DebiasError, match=fact):
            call()
    assert named("paper", spend="draw").rule == "log"
    assert named("shift", rule="policy_gradient").spend == "shift"
