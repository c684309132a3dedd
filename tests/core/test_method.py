"""Methods: what of them a host lets its user change."""

import pytest

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import ALONE, AS_CALIBRATED, METHODS, TOWARD, Method, named
from sd_debias.core.method.safe_latent import SafeLatentGuidance


def test_an_adjusted_method_keeps_all_but_direction_and_window():
    adjusted = METHODS["default"].adjusted("embedding", 0.3, 0.4)
    assert adjusted.direction == "embedding" and adjusted.rule == "log"
    assert (adjusted.guidance.start, adjusted.guidance.end) == (0.3, 0.4)
    window = Method("embedding", guidance=SafeLatentGuidance(start=0.3, end=0.5))
    for given, kept in (((0.0, 1.0), (0.3, 0.5)), ((0.4, 1.0), (0.4, 0.5)),
                        ((0.6, 0.9), (0.6, 0.6))):  # only ever narrowed
        narrowed = window.adjusted(AS_CALIBRATED, *given).guidance
        assert (narrowed.start, narrowed.end) == kept


def test_a_direction_that_costs_evaluations_pushes_in_the_middle_unless_the_method_says_when():
    assert named("default", direction=None) == METHODS["default"]
    assert named("default", direction="embedding").guidance == TOWARD
    assert named("paper", direction="prompt", rule="log") == Method(context=ALONE, spend="shift")


@pytest.mark.parametrize("method", [*METHODS.values(), named("default", direction="embedding")])
def test_a_method_comes_back_from_its_file(method):
    assert Method.from_dict(method.to_dict()) == method


@pytest.mark.parametrize("fact, call", [
    *(("0 <= start <= end <= 1", lambda window=window: Method().adjusted(AS_CALIBRATED, *window))
      for window in ((0.6, 0.4), (float("nan"), 1))),
    ("prompt, .*'sideways'", lambda: named("default", direction="sideways")),
    ("default, shift, paper.*'magic'", lambda: named("magic")),
    ("rule .*log", lambda: named("shift", rule="magic")),
    ("rule", lambda: Method(spend="draw", rule="policy_gradient"))])
def test_what_does_not_fit_is_named(fact, call):
    with pytest.raises(DebiasError, match=fact):
        call()
