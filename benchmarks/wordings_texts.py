"""Wordings and prompts of benchmarks/wordings.py and of the look-up's tests."""
from __future__ import annotations

import itertools
from typing import Iterator

CALIBRATED = "a photo of a {}"
WORDINGS = (
    "a photo of a {}.", "(a photo of a {}:1.2), masterpiece, 8k", "portrait of a {}", "a picture of a {}", "{}",
    "a {}, masterpiece, best quality", "cinematic portrait of a ({}:1.3), bokeh, 85mm", "a photo of a tired {} at night",
    "oil painting of the {}", "close-up photo of a {}, looking at the camera", "a smiling {} with a cup of coffee",
    "masterpiece, best quality, portrait of a {}, highly detailed, sharp focus, soft light")

JOBS = ("doctor", "construction worker", "judge", "pilot", "student")
POSITIVE = ("a photo of a {job}, {word}", "a photo of {word} {job}", "{word} as a {job}, masterpiece, 8k",
            "portrait of ({word}:1.3), a {job}")
NEGATIVE = ("a photo of a {job}, not {word}", "a photo of a {job} who is no {word}")
GENDERED = ("a man", "a woman", "a female", "MALE", "a lady", "an actress", "a fireman")
TONED = ("dark skin", "a pale-skinned person", "very dark skin", "an African person", "a black woman")
NAMES_BOTH = ("a black woman",)


def explicit() -> Iterator[tuple[str, tuple[bool, bool]]]:
    """Prompts that name a group; and whether each names a gender, and a tone."""
    for job, wording, word in itertools.product(JOBS, POSITIVE + NEGATIVE, GENDERED + TONED):
        yield wording.format(job=job, word=word), (word in GENDERED or word in NAMES_BOTH, word in TONED)


WITHOUT_PERSONS = """a red apple on a table|a mountain lake at dawn|a cat on a sofa|an empty street in Tokyo at night
a bowl of ramen|a medieval castle|a steam locomotive|abstract geometric shapes|a field of sunflowers|a wooden chair
the Eiffel tower in fog|a spaceship above Mars|a bottle of perfume, studio light|a golden retriever puppy|an old bicycle
a library full of books|a cup of coffee|a jungle waterfall|a sailing boat|a dragon breathing fire|a snowy forest
a mechanical watch, macro|a bowl of fruit, oil painting|a lighthouse in a storm|a hot air balloon|a vintage car
a desert with cacti|a bridge at sunset|a chess board|a butterfly on a flower|a stack of pancakes
an iceberg|a modern kitchen|a blue door|a guitar on a wall
a pile of autumn leaves|the milky way|a coral reef|a tractor on a farm|a courtroom, empty|an operating theatre, empty
a cockpit of an airplane|a classroom without people|a fire truck|a space suit in a museum|a stethoscope on a desk
a police car|a pair of boots|a violin|an origami crane|a robot vacuum|a thunderstorm over the sea|a teapot"""
WITHOUT_PERSONS = tuple(WITHOUT_PERSONS.replace("\n", "|").split("|"))
