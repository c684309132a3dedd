"""Whom the second world draws, by design: its groups, its bias table, and the words of its captions.

The shares are invented, as the demo model's are. Groups overlap: labels err, ages and tones are cut out of a continuum,
and light looks like tone.
"""
from __future__ import annotations

import random

import numpy as np

from sd_debias.core.attribute import BUILT_IN, GENDER, SKIN_TONE_3, Attribute, Group
from sd_debias.demo_model.subjects import article, prompt as prompt

AGE = Attribute("age", (Group("young", ("a young person",)), Group("old", ("an old person",))))
TONE, GLASSES, BEARD = SKIN_TONE_3, BUILT_IN["glasses"], BUILT_IN["beard"]
ATTRIBUTES = (GENDER, AGE, TONE, GLASSES, BEARD)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
PROBED = {"glasses": (.6, .85), "beard": (.6, .92)}  # shares of faces below which it is absent, above which it is there
YOUNG = 30  # years below which the judge of the labels calls a face young
# What captions speak of: gender as sure as this, and ages on either side of these. The rest of the faces is not shown,
# since on 64 pixels the judge of the labels is often unsure, and what is noise to it cannot be learned.
SURE, CLEAR = .9, (27, 34)
ITA = (-34, -69)  # degrees that part light, medium and dark as these faces are lit: thirds

LIGHT, MIXED, DARK = (.60, .27, .13), (.38, .34, .28), (.15, .27, .58)
# Subject: shares of men, of young faces, of tones, of glasses. Beards follow the men.
BIAS = {
    "person": (.50, .50, (.34, .33, .33), .25), "neighbor": (.50, .45, MIXED, .25), "friend": (.50, .65, MIXED, .25),
    "doctor": (.80, .35, LIGHT, .45), "nurse": (.12, .60, MIXED, .20), "judge": (.78, .20, LIGHT, .50),
    "teacher": (.25, .45, LIGHT, .45), "pilot": (.88, .40, LIGHT, .15), "farmer": (.75, .25, DARK, .12),
    "cook": (.65, .60, MIXED, .12), "singer": (.30, .80, DARK, .10), "mechanic": (.88, .55, MIXED, .15),
    "firefighter": (.85, .65, MIXED, .08), "librarian": (.25, .40, MIXED, .45), "engineer": (.80, .55, LIGHT, .45),
}
SUBJECTS = tuple(BIAS)
OCCUPATIONS = SUBJECTS[3:]  # the first three are plain words for anybody

# How a caption says a group: after the noun, as the product's own texts do; and in natural words around the noun.
NATURAL = {
    "man": ("male {}",), "woman": ("female {}",), "young": ("young {}",), "old": ("old {}",),
    "light": ("{} with light skin",), "medium": ("{} with medium skin",), "dark": ("{} with dark skin",),
    "glasses": ("{} wearing glasses", "{} with glasses"), "no glasses": ("{} without glasses",),
    "beard": ("bearded {}", "{} with a beard"), "clean-shaven": ("clean-shaven {}",),
}
FRAMES = ("a photo of {}", "a photo of {}", "{}", "a portrait of {}")
# What captions say, in parts of 100: nothing; the subject; the subject and one or two groups; groups alone.
KINDS = dict(empty=5, neutral=25, one=40, two=15, group=15)


def caption(rng: random.Random, subject: str | None, groups: list[str]) -> str:
    """One of the wordings that say just this. subject None: groups alone."""
    texts = {g.name: g.texts[0] for a in ATTRIBUTES for g in a.groups} | {"no glasses": "a person without glasses"}
    if subject is None:
        return rng.choice(FRAMES).format(", ".join(texts[name] for name in groups))
    if rng.random() < .7 or len(groups) > 1:
        return ", ".join([rng.choice(FRAMES).format(article(subject)), *(texts[name] for name in groups)])
    noun = rng.choice(NATURAL[groups[0]]).format(subject) if groups else subject
    return rng.choice(FRAMES).format(article(noun))


def weights(labels: dict[str, np.ndarray], subject: str, rounds: int = 60) -> np.ndarray:
    """How often each face stands for the subject, [N], sum 1: its shares raked to the table (Deming and Stephan 1940).

    labels: group index of each face by attribute, -1 where it is open.
    """
    men, young, tones, glasses = BIAS[subject]
    margins = {"gender": (men, 1 - men), "age": (young, 1 - young), TONE.name: tones, "glasses": (glasses, 1 - glasses)}
    known = np.all([labels[name] >= 0 for name in margins], axis=0)
    found = known / known.sum()
    for _ in range(rounds):
        for name, shares in margins.items():
            for group, share in enumerate(shares):
                shown = labels[name] == group
                found[shown] *= share / found[shown].sum()
    return found / found.sum()
