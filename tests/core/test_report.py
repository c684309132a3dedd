"""Reports, charts and contact sheets of synthetic profiles."""
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageFont
from test_profile import PROMPT, calibrated, made

from sd_debias.core import report
from sd_debias.core.attribute import GENDER, SKIN_TONE, Attribute, Group
from sd_debias.core.distribution import summarise
from sd_debias.core.report import DARK, LIGHT, chart_kl, chart_shares, contact_sheet, summary, write_report

NASTY = "a <script>alert('x')</script> & \"quoted\" doctor"
BEFORE, AFTER = summarise([80, 20], GENDER.target), summarise([52, 48], GENDER.target)


class Page(HTMLParser):
    """Collects tags and text; fails on tags that are not closed in order."""
    VOID = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open and self.open[-1] == "style" else data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def profile():
    both = GENDER, SKIN_TONE
    return made(calibrated(NASTY, both, (2.0, 1.0)), calibrated(PROMPT, both, (-2.0, 1.0)), evaluations=[2400, None])


def pictures(n, size=(64, 64)):
    return [Image.new("RGB", size, (8 * i % 256, 100, 200)) for i in range(n)]


def page(profile, folder, *images):
    return Page(write_report(folder, profile, *images).read_text("utf-8"))


def texts(scene):
    """Boxes (left, top, right, bottom) of a scene's texts, as wide as the layout takes them to be."""
    for kind, *s in scene.shapes:
        if kind == "text":
            x, y, text, size, _, anchor = s
            width = report._length(text, size)
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


def test_the_report_is_one_file_that_loads_nothing(profile, tmp_path):
    p = page(profile, tmp_path, {PROMPT: pictures(3)}, {PROMPT: pictures(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    sources = [a.get("src") or a.get("href") for _, a in p.tags if "src" in a or "href" in a]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in p.tags}
    assert any("default-src 'none'" in meta.get("content", "") for meta in p.all("meta"))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "@import" not in text and "url(" not in text


def test_text_of_users_is_text_everywhere(tmp_path):
    attribute = Attribute("<i>tone</i>", (Group("<b>x</b>"), Group("'\">y")))
    profile = made(calibrated(NASTY, (attribute,)))
    profile = replace(profile, setting={"<u>key": "<u>value"}, classifier="<img src=x>", name="<h1>")
    p = page(profile, tmp_path, {NASTY: pictures(2)}, {NASTY: pictures(2)}, {NASTY: ["<em>1", "2"]})
    assert not {"script", "b", "u", "em"} & {tag for tag, _ in p.tags} and len(p.all("h1")) == 1
    assert all("onerror" not in a and a.get("src", "data:").startswith("data:") for _, a in p.tags)
    assert NASTY in p.text and "<b>x</b>" in p.text and "<u>value" in p.text


def test_every_prompt_and_attribute_has_its_charts_figures_and_costs(profile, tmp_path):
    p = page(profile, tmp_path)
    assert len(p.all("svg")) == 2 * 2 * 2
    for words in (NASTY, PROMPT, "skin tone", "very dark", "2,400", "not counted", "noise floor", "Held-out",
                  "Fidelity", "a measurement of a picture, not anybody's identity", "How to apply", "model hash"):
        assert words.lower() in p.text.lower(), words


def test_the_report_gives_before_and_after_with_intervals(profile, tmp_path):
    p = page(profile, tmp_path)
    for measured in (profile.entries[0].before, profile.entries[0].after):
        d = summarise(measured[0]["counts"], GENDER.target)
        assert f"{d.counts[0]} of {d.n}" in p.text and f"{100 * d.intervals[0][0]:.1f} to" in p.text


@pytest.mark.parametrize("counts, verdict", [
    ([50, 50], "cannot be told from chance"), ([65, 35], "Nearer to the target"), ([90, 10], "not nearer")])
def test_the_verdict_follows_the_figures(counts, verdict):
    assert verdict in report._verdict(BEFORE, summarise(counts, GENDER.target))


def test_a_profile_without_verification_is_reported_as_such(tmp_path):
    profile = made(calibrated(held_out=0))
    text = page(profile, tmp_path).text
    assert "was not verified" in text and "told from chance at 100" not in text
    s = summary(profile)
    assert s["shares"]["after"] is None and s["kl"]["after"] is None and s["n"] == 100


def test_a_profile_written_by_hand_has_a_report_too(profile, tmp_path):
    entries = [{"prompt": "p", "steerings": profile.document["entries"][0]["steerings"]}]
    bare = type(profile).from_dict({**profile.document, "entries": entries})
    assert "was not measured" in page(bare, tmp_path).text
    assert summary(bare)["shares"] == {"before": None, "after": None} and summary(bare)["n"] == 0


def test_the_report_carries_the_profile(profile, tmp_path):
    import base64
    link, = page(profile, tmp_path).all("a")
    assert link["download"] == "doctor-gender.json"
    assert json.loads(base64.b64decode(link["href"].partition(",")[2])) == profile.to_dict()


def test_pictures_of_the_same_seeds_stand_at_the_same_place(profile, tmp_path):
    p = page(profile, tmp_path, {PROMPT: pictures(30)}, {PROMPT: pictures(30)}, {PROMPT: range(30)})
    one, other = p.all("img")
    assert one["width"] == other["width"] and one["height"] == other["height"]
    assert f"first {report.MOST_PAIRS} of 30" in p.text and "same seed" in p.text


def test_pictures_that_do_not_pair_are_refused(profile, tmp_path):
    with pytest.raises(ValueError, match="belong together"):
        write_report(tmp_path, profile, {PROMPT: pictures(3)}, {PROMPT: pictures(2)})
    assert not list(tmp_path.iterdir())


def test_the_summary_is_plain_json_of_every_prompt_and_attribute(profile):
    s = json.loads(json.dumps(summary(profile), allow_nan=False))
    entry = profile.entries[0]
    assert s["prompt"] == NASTY and s["attribute"] == "gender" and s["groups"] == ["man", "woman"]
    assert s["shares"] == {"before": entry.before[0]["shares"], "after": entry.after[0]["shares"]}
    assert s["kl"] == {"before": entry.before[0]["kl"], "after": entry.after[0]["kl"]}
    assert s["kl_floor95"] == entry.after[0]["kl_floor95"] and s["n"] == 100
    assert s["rounds"] == len(entry.rounds) - 2 and s["images"] == entry.cost["images"]
    assert [(o["prompt"], o["attribute"]) for o in s["others"]] == [(NASTY, "skin_tone"), (PROMPT, "gender"),
                                                                    (PROMPT, "skin_tone")]


def test_bars_are_as_long_as_their_shares():
    for d in (BEFORE, AFTER):
        boxes = [s for kind, *s in report._shares(GENDER.names, d, None).shapes if kind == "box" and s[2] > 16]
        assert boxes[1][2] / boxes[0][2] == pytest.approx(d.shares[1] / d.shares[0])
    image = chart_shares(GENDER.names, BEFORE, AFTER)
    assert pixels(image, LIGHT["before"]) > 10_000 and image.mode == "RGB" and image.width == 1344
    assert pixels(chart_shares(GENDER.names, BEFORE), LIGHT["after"]) == 0
    assert pixels(chart_shares(GENDER.names, BEFORE, AFTER, dark=True), DARK["after"]) > 10_000


@pytest.mark.parametrize("groups", [2, 5, 12])
@pytest.mark.parametrize("width", [report.WIDE, report.NARROW])
def test_labels_of_shares_neither_overlap_nor_leave_the_chart(groups, width):
    names = [f"group number {k} with a name that is much longer than there is room for" for k in range(groups)]
    d = summarise([90] + [1] * (groups - 1), [1 / groups] * groups)
    assert_readable(report._shares(names, d, d, "a title that is far too long for the width of one line " * 3, width))


@pytest.mark.parametrize("rounds", [1, 2, 6, 60])
@pytest.mark.parametrize("width", [report.WIDE, report.NARROW])
def test_labels_of_rounds_neither_overlap_nor_leave_the_chart(rounds, width):
    men = [99 - 49 * k // rounds for k in range(rounds)]
    history = [(f"round {k}", summarise([m, 100 - m], GENDER.target)) for k, m in enumerate(men)]
    scene = report._kl(history, "KL", width)
    assert_readable(scene)
    assert f"round {rounds - 1}" in [text for text, _ in texts(scene)], "the result is always named"


@pytest.mark.parametrize("counts", [[50, 50], [100, 0], [500_001, 499_999]])
def test_kl_of_any_size_stays_inside_the_chart(counts):
    scene = report._kl([("audit", summarise(counts, GENDER.target))] * 2)
    assert_readable(scene)
    for kind, *s in scene.shapes:
        if kind == "dot":
            assert 0 <= s[1] <= scene.height - 50


def test_an_infinite_kl_is_drawn_at_the_top_and_named():
    forbidden = summarise([50, 50, 3], [0.5, 0.5, 0.0])
    scene = report._kl([("audit", forbidden), ("held-out", summarise([50, 50, 0], [0.5, 0.5, 0.0]))])
    assert "infinite" in [text for text, _ in texts(scene)]
    high, low = (s[1] for kind, *s in scene.shapes if kind == "dot" and s[2] == 5 and s[1] > 30)
    assert high < low
    chart_kl([("audit", forbidden)])


def test_a_chart_without_rounds_is_refused():
    with pytest.raises(ValueError, match="needs a round"):
        chart_kl([])


@pytest.fixture
def no_fonts(monkeypatch):
    """Pillow as it is before 10.1, on a system without fonts."""
    def missing(*args):
        raise OSError("cannot open resource")

    load = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)
    monkeypatch.setattr(ImageFont, "load_default", lambda: load())  # a size is a TypeError
    monkeypatch.setattr(ImageFont, "truetype", missing)
    report._font.cache_clear()
    yield
    report._font.cache_clear()


def test_charts_are_drawn_where_there_is_only_a_font_of_one_size(no_fonts):
    scene = report._shares(["man", "医生 Ärztin"], BEFORE, AFTER, "title")
    assert_readable(scene)
    assert pixels(scene.image(LIGHT), LIGHT["text"]) > 500


def test_a_page_names_groups_in_any_script(tmp_path):
    attribute = Attribute("性别", (Group("男"), Group("女")))
    assert "女" in page(made(calibrated("医生", (attribute,))), tmp_path).text
    assert re.search("<text[^>]*>女</text>", (tmp_path / "report.html").read_text("utf-8"))


def test_a_contact_sheet_has_a_cell_for_every_picture_in_order():
    sheet = contact_sheet(pictures(10), columns=4, size=32)
    assert sheet.size == (4 * 36 - 4, 3 * 36 - 4)
    for i in range(10):
        assert sheet.getpixel((i % 4 * 36 + 16, i // 4 * 36 + 16)) == (8 * i, 100, 200)
    assert sheet.getpixel((2 * 36 + 16, 2 * 36 + 16)) == (255, 255, 255)


def test_a_contact_sheet_keeps_proportions_and_fits_other_shapes():
    upright, lying = Image.new("RGB", (100, 200), "red"), Image.new("RGBA", (400, 100), "blue")
    sheet = contact_sheet([upright, lying], size=50)
    assert sheet.size == (104, 100)
    assert sheet.getpixel((25, 2)) == (255, 0, 0) and sheet.getpixel((79, 2)) == (255, 255, 255)
    assert sheet.getpixel((79, 50)) == (0, 0, 255)


def test_captions_are_drawn_below_and_never_wider_than_their_cell():
    captioned = contact_sheet(pictures(2), size=64, captions=["seed 1", "W" * 99])
    assert captioned.height == contact_sheet(pictures(2), size=64).height + 16
    strip = np.asarray(captioned)[64:]
    assert (strip[:, :64] < 200).any() and (strip[:, 64:68] == 255).all()


def test_bad_contact_sheets_are_refused():
    with pytest.raises(ValueError, match="needs pictures"):
        contact_sheet([])
    with pytest.raises(ValueError, match="and a column"):
        contact_sheet(pictures(2), columns=0)
    with pytest.raises(ValueError, match="a caption a picture"):
        contact_sheet(pictures(2), captions=["one"])
