"""The doctor finds what is wrong, and says that all is well only where it is."""
import numpy as np
import pytest

from sd_debias.core.study.host import Host
from sd_debias.core.doctor import examine
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS, Method

PROMPT = "a photo of a doctor"
VALUES = {PROMPT: 100.0, f"{PROMPT}, a man": 110.0, f"{PROMPT}, a woman": 160.0}


class Fake(Host):
    """An image is one value, its text's and its seed's; a push is the group's own text's."""
    setting = dict(model="fake", steps=4, width=None)
    push, beside, drift, broken = 1.0, 0.0, 0.0, False

    def __init__(self):
        self.calls = 0

    def render(self, prompt, seeds, weights, attributes, method):
        self.calls += 1
        texts = [f"{prompt}, {'a man' if row[0] else 'a woman'}" if row.any() else prompt for row in weights]
        values = [VALUES[text] + (self.push - 1) * (VALUES[text] - VALUES[PROMPT]) * row.any().item() + seed
                  + self.drift * self.calls + self.beside * (weights.any() and not row.any())
                  for text, row, seed in zip(texts, weights, seeds, strict=True)]
        return [None if self.broken else np.full((4, 4, 3), value, np.uint8) for value in map(float, values)]


def test_a_model_that_does_what_it_must_is_well():
    found = examine(Fake(), ["Facts of the host"])
    assert found.ok and found.text.startswith("Guidance works on this model.") and "Facts of the host" in found.text
    assert "model fake, steps 4" in found.text and "width" not in found.text


class Refusing(Fake):
    def check(self, attributes, method):
        raise DebiasError("This model takes no text.")


@pytest.mark.parametrize("host, fault, line", [
    (Fake, dict(push=0.0), "NO  steering changes the images (by 0 and 0 of 255"),
    (Fake, dict(push=0.5), "NO  steering gives the image of the group's own text"),
    (Fake, dict(beside=30.0),
     "NO  an image that is left alone stays the same beside a steered one (difference 30)"),
    (Fake, dict(drift=3.0), "NO  the same seeds give the same images (difference 3 of 255)"),
    (Fake, dict(broken=True), "NO  Images are not finite"),
    (Refusing, {}, "NO  This model takes no text.")])
def test_what_is_wrong_and_what_the_host_refuses_is_said(host, fault, line):
    host = host()
    vars(host).update(fault)
    found = examine(host)
    assert not found.ok and line in found.text and "see the lines with NO" in found.text


def test_a_classifier_s_view_is_told_and_not_judged():
    def classify(pictures):
        return np.eye(2)[[int(p.mean() > 130) for p in pictures]]
    view = "man, man without steering; man, man steered to man; woman, woman steered to woman"
    assert f"sees {view}" in examine(Fake(), classify=classify).text


def test_inside_sampling_there_is_no_text_to_compare_with():
    found = examine(Fake(), method=Method("embedding"))
    assert found.ok and "own text" not in found.text and METHODS["default"].direction == "prompt"
