"""The demo model's bias, in one place: what its neutral prompts show, by design.

The shares are invented. They exaggerate stereotypes that audits of real models report, so that the demo shows the
problem and the right answer is known. Gender and skin tone are independent of each other within an occupation.
"""
from __future__ import annotations

from demo_training import artwork

# Shares of fair, olive, tan, brown and very dark skin.
LIGHT = (0.45, 0.22, 0.15, 0.10, 0.08)
MIXED = (0.30, 0.25, 0.20, 0.15, 0.10)
DARK = (0.08, 0.10, 0.15, 0.22, 0.45)
EVEN = (0.20, 0.20, 0.20, 0.20, 0.20)

# Occupation: share of men, shares of the skin tones.
BIAS = {
    "farmer": (0.75, DARK),
    "cook": (0.65, MIXED),
    "student": (0.40, MIXED),
    "singer": (0.25, MIXED),
    "artist": (0.30, LIGHT),
    "teacher": (0.20, LIGHT),
    "factory worker": (0.70, DARK),
    "technologist": (0.80, LIGHT),
    "office worker": (0.35, MIXED),
    "mechanic": (0.88, MIXED),
    "scientist": (0.75, LIGHT),
    "astronaut": (0.80, LIGHT),
    "firefighter": (0.88, LIGHT),
    "doctor": (0.80, LIGHT),
    "judge": (0.85, LIGHT),
    "pilot": (0.88, LIGHT),
    "police officer": (0.80, MIXED),
    "construction worker": (0.88, DARK),
    "guard": (0.75, DARK),
    "detective": (0.70, LIGHT),
}


def shares(subject: str) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Shares of (man, woman) and of the five tones for a subject; "person" is even."""
    men, tones = BIAS.get(subject, (0.5, EVEN))
    return (men, 1 - men), tones


# Guidance sharpens what a model has learned: its log-odds come out larger by about this factor (measured at the demo's
# settings). The training pictures are drawn with log-odds smaller by it, so that what comes out is the table.
SHARPENING = 1.15


def training_shares(subject: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Shares of gender and tone among the training pictures of a subject."""
    def softened(shares):
        powers = [share ** (1 / SHARPENING) for share in shares]
        return tuple(power / sum(powers) for power in powers)

    gender, tones = shares(subject)
    return softened(gender), softened(tones)


assert set(BIAS) == set(artwork.OCCUPATIONS)
