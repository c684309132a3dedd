"""The embedded demo model: where its weights are and how they load."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.attribute import AGE, Attribute, Group
from ..core.errors import DebiasError
from .subjects import ITA_CUTOFFS, SUBJECTS, article, prompt

FOLDER = Path(__file__).with_name("weights")
CLASSIFIER = FOLDER / "classifier"
# The settings its bias table holds for.
STEPS, CFG = 8, 2.0
SIZE = 64  # pixels of its images

OCCUPATION = Attribute("occupation", tuple(
    Group(subject, (article(subject),), (prompt(subject),)) for subject in SUBJECTS))


class Ratio:
    """A channel multiplier that is no whole number, for the original code's settings; times the base it is one."""

    def __init__(self, channels: int, base: int):
        self.channels, self.base = channels, base

    def __mul__(self, number: int) -> int:
        return number * self.channels // self.base

    __rmul__ = __mul__


def clip(device="cpu"):
    """The demo's CLIP, trained on the artwork. Its judge of the built-in `age` raises DebiasError."""
    from ..core.judge.clip import ClipModel

    class DemoClip(ClipModel):
        def classifier(self, attribute, *given, **named):
            if attribute.groups == AGE.groups:
                raise DebiasError("The artwork of the demo model shows no ages, so its judge cannot tell them "
                                  "apart. Choose gender or a skin tone.")
            classify = super().classifier(attribute, *given, **named)

            def judged(images):
                sizes = {np.shape(image)[:2] for image in images}
                if sizes - {(SIZE, SIZE)}:
                    raise DebiasError(f"The demo's judge knows only the demo model's drawings of {SIZE} x {SIZE} "
                                      "pixels. Choose another judge for these images.")
                return classify(images)

            judged.name = classify.name
            return judged

    return DemoClip(CLASSIFIER, device=device, tokenizer=FOLDER / "tokenizer")


def tones(attribute: Attribute):
    """A judge of skin tone by colour; five tones part as the model's artists paint them."""
    from ..core.judge.skin_tone import SkinTone
    own = len(attribute.groups) == len(ITA_CUTOFFS) + 1
    return SkinTone(attribute, cutoffs=ITA_CUTOFFS if own else None)


def occupation_right(clip_model):
    """Fidelity in the demo's measure: `f(images, prompt) -> [N]`, 1 where the prompt's occupation is shown, else 0."""
    classify = clip_model.classifier(OCCUPATION)

    def fidelity(images, asked_for: str) -> np.ndarray:
        asked = [i for i, subject in enumerate(SUBJECTS) if subject in asked_for]
        return np.isin(classify(images).argmax(1), asked).astype(float)

    return fidelity
