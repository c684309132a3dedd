"""Images before and after a pass."""
import numpy as np
import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER, SKIN_TONE_3
from sd_debias.core.errors import DebiasError
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.judge.skin_tone import SkinTone, skin_colour, typology_angle
from sd_debias.core.study.passes import Passage, paired
from sd_debias.core.study.tone_change import tone_change


def bright(images):
    """Bright images are men, dark ones women; grey ones nobody's."""
    level = np.array([np.mean(image) / 255 for image in images])
    return np.where(np.abs(level - .5)[:, None] < .1, 0.0, np.stack([level, 1 - level], 1))


@pytest.fixture
def folder(tmp_path):
    """folder(name, {file: brightness}) -> Labelled"""
    def folder(name, files, look=bright):
        (tmp_path / name).mkdir()
        for file, level in files.items():
            picture = np.full((64, 64, 3), level, np.uint8)
            picture[:8] = 255 - level if level != 128 else 100  # an image of one colour shows nobody
            Image.fromarray(picture).save(tmp_path / name / file, quality=95)
        return FolderAudit(tmp_path / name, (GENDER,), [look]).run()
    return folder


def test_a_detailer_that_makes_women_of_men_is_found(folder):
    """Pairs are found by name, whatever the format, and what has no partner or no label is left out and said."""
    before = folder("before", {**{f"{i}.png": 250 for i in range(9)}, "9.png": 5, "10.png": 128, "alone.png": 5})
    after = folder("after", {**{f"{i}.jpg": 5 for i in range(8)}, "8.jpg": 250, "9.jpg": 5, "10.jpg": 5})
    pairs = paired(before, after)
    passage, = pairs.passages
    assert passage.counts.tolist() == [[1, 8], [0, 1]] and passage.left_out == 1 and passage.changed == 8
    assert passage.chance(0) == passage.chance(1) == pytest.approx(2 / 2 ** 8)
    text = "\n".join([*passage.lines, *pairs.notes])
    assert "8 of 10 pairs changed" in text and "8 man to woman" in text and "woman to man" not in text
    assert "man 90 % before, 10 % after: more than chance explains" in text and "alone" in text
    sheet = np.asarray(pairs.sheet().convert("L"))  # before on the left, after on the right
    left, right = np.array_split(sheet[60:], 2, axis=1)
    assert (left < 40).mean() < .2 < .4 < (right < 40).mean()


def test_a_pass_that_changes_nobody_is_not_said_to(folder):
    shown = {f"{i}.png": 250 if i % 2 else 5 for i in range(6)}
    pairs = paired(folder("a", shown), folder("b", shown))
    assert "0 of 6 pairs changed" in pairs.passages[0].lines[0] and pairs.sheet() is None
    assert pairs.passages[0].chance(0) == 1 and not pairs.notes


def test_chance_holds_where_labels_change_without_favour():
    """Of passes that favour nobody, at most 5 of 100 are said to, two groups or three."""
    chance = np.random.default_rng(1)
    for attribute in (GENDER, SKIN_TONE_3):
        n = len(attribute.groups)
        moved = [chance.multinomial(60, np.full(n * n, 1 / n ** 2)).reshape(n, n) for _ in range(400)]
        found = [min(Passage(attribute, counts, 0).chance(k) for k in range(n)) < .05 for counts in moved]
        assert np.mean(found) < .05


def test_pictures_that_are_no_pairs_are_refused(folder):
    with pytest.raises(DebiasError, match="'two'.*same file name"):
        paired(folder("one", {"a.png": 5}), folder("two", {"b.png": 5}))
    with pytest.raises(DebiasError, match="several images named 'a'"):
        paired(folder("three", {"a.png": 5}), folder("four", {"a.png": 5, "a.jpg": 5}))


def face(skin, wall, light=1.0):
    """Skin in the middle, a grey wall around it; light multiplies all."""
    picture = np.full((96, 96, 3), wall, float)
    picture[24:72, 24:72] = skin
    return np.clip(picture * light, 0, 255).astype(np.uint8)


LIGHT_SKIN, DARK_SKIN = (224, 180, 152), (120, 84, 66)


def test_a_change_of_light_is_no_change_of_skin():
    """An edit that brightens the whole photograph had lightened the skin by 20 degrees of ITA."""
    plain = face(DARK_SKIN, 120)
    brighter = face(DARK_SKIN, 120, 1.25)
    angles = [typology_angle(skin_colour(one)) for one in (plain, brighter)]
    assert angles[1] - angles[0] > 10 and abs(tone_change(plain, brighter)) < 4
    assert tone_change(plain, face(LIGHT_SKIN, 120)) > 40 and tone_change(face(LIGHT_SKIN, 120), plain) < -40
    assert tone_change(plain, face((90, 90, 90), 120)) is None


def test_skin_that_a_pass_lightens_is_said_where_tones_are_measured(tmp_path):
    def shown(name, skin, light):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(face(skin, 120, light)).save(tmp_path / name / f"{i}.png")
        return FolderAudit(tmp_path / name, (SKIN_TONE_3,), [SkinTone(SKIN_TONE_3, faces="off")]).run()

    pairs = paired(shown("dark", DARK_SKIN, 1.0), shown("light", LIGHT_SKIN, 0.8))
    said, = (line for line in pairs.lines if "light corrected" in line)
    assert "of 8 pairs 8 are lighter, 0 darker" in said and "more than chance explains" in said
    assert not paired(*[FolderAudit(tmp_path / name, (GENDER,), [bright]).run() for name in ("dark", "light")]).tones
