"""What the demo model is told about a picture: the wordings of the built-in attributes, alone and in a prompt's
context, and natural ones. A caption may leave out the occupation, the gender or the tone; what it leaves out is open.
"""
from __future__ import annotations

import random

from sd_debias.demo_model.subjects import article
from sd_debias.demo_model.subjects import prompt as prompt  # the neutral caption

# Words for a tone, the built-in attributes' own first; "medium" and "dark" each cover two of the artwork's tones.
TONE_WORDS = {
    "fair": ("fair", "fair", "pale", "light"),
    "olive": ("olive", "olive", "medium"),
    "tan": ("tan", "tan", "medium"),
    "brown": ("brown", "brown", "dark"),
    "very dark": ("very dark", "very dark", "dark"),
}
SEX_WORDS = {"man": "male", "woman": "female"}
FRAMES = ("a photo of {}", "a photo of {}", "{}", "a picture of {}", "a portrait of {}")


def caption(rng: random.Random, subject: str | None = None, gender: str | None = None, tone: str | None = None) -> str:
    """One of the wordings that say just this."""
    skin = f"{rng.choice(TONE_WORDS[tone])} skin" if tone else ""
    who = gender or "person"
    if subject is None:
        if gender and tone and rng.random() < 0.3:
            return f"a {gender}, a person with {skin}"
        return rng.choice(FRAMES).format(f"a {who}" + (f" with {skin}" if tone else ""))
    in_context = rng.random() < 0.55
    noun = article(subject) if in_context or not gender else f"a {SEX_WORDS[gender]} {subject}"
    scene = rng.choice(FRAMES).format(noun)
    if not in_context:
        return scene + (f" with {skin}" if tone else "")
    if gender and tone:
        return scene + rng.choice((f", a {gender} with {skin}", f", a {gender}, a person with {skin}"))
    if tone:
        return f"{scene}, a person with {skin}"
    return f"{scene}, a {gender}" if gender else scene
