"""Charts and contact sheets of known counts."""
import itertools

import numpy as np
import pytest
from PIL import ImageFont
from test_report import pictures

from sd_debias.core.attribute import GENDER
from sd_debias.core.distribution import summarise
from sd_debias.core.report import chart
from sd_debias.core.report.chart import DARK, LIGHT, chart_shares, contact_sheet
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


def test_bars_are_as_long_as_their_shares():
    for d in (BEFORE, AFTER, summarise([100, 0], GENDER.target)):  # nobody is no bar at all
        scene = chart.shares_scene(GENDER.names, d, None)
        _, men, women = (s[2] for kind, *s in scene.shapes if kind == "box")
        assert women / men == pytest.approx(d.shares[1] / d.shares[0])
    image = chart_shares(GENDER.names, BEFORE, AFTER)
    assert pixels(image, LIGHT["before"]) > 10_000 and image.mode == "RGB" and image.width == 1344
    assert pixels(chart_shares(GENDER.names, BEFORE), LIGHT["after"]) == 0
    assert pixels(chart_shares(GENDER.names, BEFORE, AFTER, dark=True), DARK["after"]) > 10_000


@pytest.mark.parametrize("width, groups", [(chart.WIDE, 2), (chart.WIDE, 12), (500, 12), (500, 5)])
def test_labels_neither_overlap_nor_leave_the_chart(width, groups):
    names = [f"group number {k} with a name that is much longer than there is room for" for k in range(groups)]
    d = summarise([90] + [1] * (groups - 1), [1 / groups] * groups)
    title = "a title that is too long for the width of one line " * 3
    assert_readable(chart.shares_scene(names, d, d, title, width))


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
    scene = chart.shares_scene(["man", "医生 Ärztin"], BEFORE, AFTER, "title")
    assert_readable(scene)
    assert pixels(scene.image(LIGHT), LIGHT["text"]) > 500


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
