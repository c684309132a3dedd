"""The second world's captions, shares, labels and page; the world itself is built on a benchmark machine."""
import random

import numpy as np
import pytest
from faces_world import build, faces, measure, world

COUNT = 6000


@pytest.fixture(scope="module")
def labels():
    """Of faces that show every group, glasses and beards left open of some."""
    chance = np.random.default_rng(0)
    found = {a.name: chance.integers(len(a.groups), size=COUNT) for a in world.ATTRIBUTES}
    for name in world.PROBED:
        found[name][chance.random(COUNT) < .2] = -1
    return found


@pytest.fixture(scope="module")
def captions(labels):
    return build.Captions(labels)


def test_a_subject_s_faces_show_the_bias_table(labels, captions):
    for number, subject in enumerate(world.SUBJECTS):
        men, young, tones, glasses = world.BIAS[subject]
        odds = captions.tables[number]
        assert odds.sum() == pytest.approx(1)
        for name, shares in (("gender", (men,)), ("age", (young,)), ("skin_tone_3", tones), ("glasses", (glasses,))):
            shown = [odds[labels[name] == group].sum() for group in range(len(shares))]
            assert np.allclose(shown, shares, atol=1e-6)


def test_a_caption_says_what_its_face_shows_and_no_more(labels, captions):
    chance, said, open_ = random.Random(1), 0, []
    for _ in range(3000):
        text, face, groups = captions.pair(chance)
        assert all(labels[name][face] == group for name, group in groups.items() if name != "subject")
        if text and not any(word in text for word in ("person", "man", "woman")):
            assert world.SUBJECTS[groups["subject"]] in text
        for word, name, group in (("a man", "gender", 0), ("woman", "gender", 1), ("female", "gender", 1),
                                  ("young", "age", 0), ("dark skin", "skin_tone_3", 2), ("bearded", "beard", 0)):
            if word in text:
                assert labels[name][face] == group
                said += 1
        if text == "a photo of a pilot":
            open_.append(labels["gender"][face])
    assert said > 300 and np.mean(open_) < .3 and len(open_) > 20


def test_tones_are_read_off_images():
    tones = [np.full((1, 64, 64, 3), colour, np.uint8) for colour in ((240, 205, 180), (170, 120, 90), (70, 45, 35))]
    angles = np.concatenate([faces.typology(tone) for tone in tones])
    assert (np.diff(angles) < 0).all()


def test_a_probe_finds_what_hands_labelled():
    """Glasses along one direction of z, as an eye would label them."""
    chance = np.random.default_rng(3)
    x = chance.normal(size=(400, 20)).astype(np.float32)
    import torch
    weight = faces.logistic(torch.from_numpy(x), torch.from_numpy((x[:, 3] > 1).astype(np.float32)), .01).numpy()
    assert np.abs(weight[:-1]).argmax() == 3 and weight[3] > 0


def test_a_certain_calibration_that_misses_is_counted_once():
    """Of two attributes, one of which is off by 6 points."""
    said = measure.claims([dict(way=measure.CLAIM, off=off) for off in ([1.0, 6.0], [4.9])] + [dict(way="calibrate")])
    assert said.startswith("2 calibrations") and "farther off in 1 of them" in said and "by up to 6.0 points" in said
