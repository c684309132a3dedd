"""Charts and contact sheets of known counts."""
import itertools

import numpy as np
import pytest
from PIL import ImageFont
from test_report import pictures

from sd_debias.core.attribute import AGE, GENDER, Attribute, Group
from sd_debias.core.calibration.standing import of_shares
from sd_debias.core.distribution import summarise
from sd_debias.core.report import chart, prompt_chart
from sd_debias.core.report.chart import LIGHT, contact_sheet
from sd_debias.core.report.figures import shown_groups
from sd_debias.core.report.prompt_chart import share_chart
from sd_debias.core.report.sheet import side_by_side

BEFORE, AFTER = summarise([80, 20], GENDER.target), summarise([52, 48], GENDER.target)


def texts(scene):
    """Boxes (left, top, right, bottom) of a scene's texts, as wide as the layout takes them to be."""
    for kind, *s in scene.shapes:
        if kind == "text":
            x, y, text, size, _, anchor = s
            width = chart._length(text, size)
            left = x - width * {"l": 0, "m": 0.5, "r": 1}[anchor]
            yield text, (left, y - size / 2, left + width, y + size / 2)


def assert_readable(scene):
    boxes = list(texts(scene))
    for text, (left, top, right, bottom) in boxes:
        assert left >= -0.5 and top >= 0 and right <= scene.width + 0.5 and bottom <= scene.height, f"{text} is cut off"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{one} and {other} overlap"


def pixels(image, color):
    """Number of pixels of a colour."""
    return int((np.asarray(image) == [int(color[i:i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def scene(attribute, was, now=None, label=""):
    lines = [(label, (of_shares(was), now and of_shares(now)) if now else (of_shares(was),))]
    series = prompt_chart.series_of(prompt_chart.AS_IT_IS if now else prompt_chart.MEASURED)
    return prompt_chart._scene(attribute, shown_groups(was.shares), lines, series, attribute.target, prompt_chart.FEW)


def test_dots_stand_at_their_shares_and_stacks_are_as_long():
    found = scene(GENDER, BEFORE, AFTER)
    axis = [s[0] for kind, *s in found.shapes if kind == "line" and s[5] == "grid"]
    low, high, dots = min(axis), max(axis), [s[0] for kind, *s in found.shapes if kind == "dot"]
    assert [(x - low) / (high - low) for x in dots[-2:]] == pytest.approx([0.8, 0.52])
    image = share_chart(GENDER, of_shares(BEFORE), of_shares(AFTER), "a photo of a doctor")
    assert pixels(image, LIGHT["after"]) > 50 and image.mode == "RGB" and image.width == 1184
    assert pixels(image, LIGHT["was"]) > 100 > pixels(share_chart(GENDER, of_shares(BEFORE)), LIGHT["was"])
    shares = summarise([50, 30, 20], AGE.target)
    boxes = [s[2] for kind, *s in scene(AGE, shares).shapes if kind == "box" and s[3] > 12][-3:]
    assert [width / sum(boxes) for width in boxes] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("groups", [2, 5, 12])
def test_labels_neither_overlap_nor_leave_the_chart(groups):
    long = "with a name that is much longer than there is room for"
    several = Attribute("own", tuple(Group(f"group number {k} {long}") for k in range(groups)))
    d = summarise([90] + [1] * (groups - 1), several.target)
    assert_readable(scene(several, d, d, "a prompt that is too long for the width of one line " * 3))


@pytest.fixture
def no_fonts(monkeypatch):
    """Pillow as it is before 10.1, on a system without fonts."""
    def missing(*args):
        raise OSError("cannot open resource")

    load = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)
    monkeypatch.setattr(ImageFont, "load_default", lambda: load())  # a size is a TypeError
    monkeypatch.setattr(ImageFont, "truetype", missing)
    chart._font.cache_clear()
    yield
    chart._font.cache_clear()


def test_charts_are_drawn_where_there_is_only_a_font_of_one_size(no_fonts):
    found = scene(Attribute("own", (Group("man"), Group("医生 Ärztin"))), BEFORE, AFTER, "title")
    assert_readable(found)
    assert pixels(found.image(LIGHT), LIGHT["text"]) > 100


def test_a_contact_sheet_has_a_cell_for_every_picture_in_order():
    sheet = contact_sheet(pictures(10), columns=4, size=32)
    assert sheet.size == (4 * 36 - 4, 3 * 36 - 4)
    for i in range(10):
        assert sheet.getpixel((i % 4 * 36 + 16, i // 4 * 36 + 16)) == (8 * i, 100, 200)
    assert sheet.getpixel((2 * 36 + 16, 2 * 36 + 16)) == (255, 255, 255)


def test_what_stands_above_a_check_s_pictures_is_not_cut_off_and_ends_somewhere():
    """The shares at its end were."""
    title = "a photo of a doctor, a woman: without guidance: 0 / 100"
    lines = chart.wrapped(title, 520, 18)
    assert len(lines) == 2 and " ".join(lines) == title and all(chart._length(line, 18) <= 520 for line in lines)
    assert lines[-1].endswith("0 / 100")
    short, long = (side_by_side([[(text, pictures(4))]]) for text in ("doctor", title))
    assert long.width == short.width and long.height == short.height + 22
    row = np.asarray(side_by_side([[("doctor", pictures(4)), (title, pictures(4))]]))
    assert np.array_equal(row[60:, :524], row[60:, -524:]), "images of a row stand at one height"
    assert [len(chart.wrapped(text, 200, 18)) for text in ("", "W" * 999,
                                                           "a word " * 999)] == [0, 1, 4]
