"""Reports of synthetic profiles."""
import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER, SKIN_TONE, Attribute, Group
from sd_debias.core.calibration.labelled import Labelled, left_out
from sd_debias.core.calibration.round import Round
from sd_debias.core.distribution import summarise
from sd_debias.core.judge import DISAGREED, NO_FACE, UNSURE
from sd_debias.core.method.draw import Steering
from sd_debias.core.report.page import report_page, write_report
from sd_debias.core.report.sheet import WITH, WITHOUT, Sheet
from sd_debias.core.report.summary import summary
from test_profile import PROMPT, calibrated, made

NASTY = "a <script>alert('x')</script> & \"quoted\" doctor"


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


def sheets(prompt, n, seeds=()):
    return {prompt: [Sheet(WITHOUT, pictures(n), seeds), Sheet(WITH, pictures(n), seeds)]}


def page(profile, folder, *images):
    return Page(write_report(folder, profile, *images).read_text("utf-8"))


def test_the_report_is_one_file_that_loads_nothing_and_carries_the_profile(profile, tmp_path):
    p = page(profile, tmp_path, sheets(PROMPT, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    sources = [a.get("src") or a.get("href") for _, a in p.tags if "src" in a or "href" in a]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in p.tags}
    assert any("default-src 'none'" in meta.get("content", "") for meta in p.all("meta"))
    link, = p.all("a")
    assert link["download"] == "doctor-gender.json"
    assert json.loads(base64.b64decode(link["href"].partition(",")[2])) == profile.to_dict()


def test_text_of_users_is_text_everywhere_and_in_any_script(tmp_path):
    attribute = Attribute("<i>tone</i>", (Group("<b>x</b>"), Group("'\">y")))
    profile = made(calibrated(NASTY, (attribute,)))
    profile = replace(profile, setting={"<u>key": "<u>value"}, classifier="<img src=x>", name="<h1>")
    p = page(profile, tmp_path, sheets(NASTY, 2, [1, 2]))
    assert not {"script", "b", "u", "em"} & {tag for tag, _ in p.tags} and len(p.all("h1")) == 1
    assert all("onerror" not in a and a.get("src", "data:").startswith("data:") for _, a in p.tags)
    assert NASTY in p.text and "<b>x</b>" in p.text and "<u>value" in p.text
    attribute = Attribute("性别", (Group("男"), Group("女")))
    assert "女" in page(made(calibrated("医生", (attribute,))), tmp_path).text
    assert re.search("<text[^>]*>[^<]*女[^<]*</text>", (tmp_path / "report.html").read_text("utf-8"))


def test_a_report_says_every_prompt_and_attribute_with_its_figures(profile, tmp_path):
    p = page(profile, tmp_path)
    assert len(p.all("svg")) == 2
    for words in (NASTY, PROMPT, "skin tone", "very dark", "noise floor", "not a person's identity", "model hash",
                  profile.name, profile.hash[:12]):
        assert words.lower() in p.text.lower(), words
    for entry in profile.entries:
        d = summarise(entry.before[0]["counts"], GENDER.target)
        assert any(f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" in p.text
                   for share, (low, high) in zip(d.shares, d.intervals))


def test_profiles_that_were_not_verified_or_not_measured_are_reported_as_such(profile, tmp_path):
    unverified = made(calibrated(held_out=0))
    assert "not verified" in page(unverified, tmp_path).text
    s = summary(unverified)
    assert s["shares"]["after"] is None and s["kl"]["after"] is None and s["n"] == 100
    entries = [{"prompt": "p", "steerings": profile.document["entries"][0]["steerings"]}]
    bare = type(profile).from_dict({**profile.document, "entries": entries})
    assert "not measured" in page(bare, tmp_path).text
    assert summary(bare)["shares"] == {"before": None, "after": None} and summary(bare)["n"] == 0


def test_same_seed_pairs_say_which_pictures_changed_and_others_are_no_pairs(tmp_path):
    profile, first = made(calibrated()), pictures(3)
    last = [first[0], Image.new("RGB", (64, 64)), first[2]]
    pair = {PROMPT: [Sheet(WITHOUT, first, [1, 2, 3]), Sheet(WITH, last, [1, 2, 3])]}
    p = page(profile, tmp_path, pair)
    assert [a.get("class") for a in p.all("figure") if a.get("class") == "changed"] == ["changed"]
    assert "1 of 3 images changed" in p.text and len(p.all("img")) == 6
    assert "seed 2, with the profile: changed" in [a["alt"] for a in p.all("img")]
    own = {PROMPT: [Sheet(WITHOUT, pictures(3), [1, 2, 3]), Sheet(WITH, pictures(2), [7, 8])]}
    p = page(profile, tmp_path, own)
    assert "changed" not in p.text and len(p.all("img")) == 5


def test_the_report_shows_pictures_of_each_kind_that_is_left_out():
    labels = [0, UNSURE, NO_FACE, DISAGREED, 1, *[UNSURE] * 9]
    r = Round("audit", (Steering.none(2),), tuple(range(14)), [labels],
              faces=[1, 1, 0, 1, 3, *[1] * 9])
    thumbs = {f"seed {i}": b"jpeg %d" % i for i in range(14)}
    found = left_out([Labelled("a", (GENDER,), r, list(thumbs), "run", thumbs)])
    assert found == {"judges disagree": [b"jpeg 3"], "no face": [b"jpeg 2"],
                     "several people": [b"jpeg 4"],
                     "unsure": [b"jpeg %d" % i for i in (1, 5, 6, 7, 8, 9)]}
    text = report_page(made(calibrated()), left_out=found)
    for kind in ("Judges disagree", "No face", "Several people", "Unsure"):
        assert f"<h2>{kind}</h2>" in text
    assert text.count("data:image/jpeg;base64,anBlZy") == 9


def test_the_summary_is_plain_json_of_every_prompt_and_attribute(profile):
    s = json.loads(json.dumps(summary(profile), allow_nan=False))
    entry = profile.entries[0]
    assert s["prompt"] == NASTY and s["attribute"] == "gender" and s["groups"] == ["man", "woman"]
    assert s["shares"] == {"before": entry.before[0]["shares"], "after": entry.after[0]["shares"]}
    assert s["kl"] == {"before": entry.before[0]["kl"], "after": entry.after[0]["kl"]}
    assert s["rounds"] == sum(r["kind"] == "round" for r in entry.rounds) and s["images"] == entry.cost["images"]
    assert [(o["prompt"], o["attribute"]) for o in s["others"]] == [
        (NASTY, "skin_tone"), (PROMPT, "gender"), (PROMPT, "skin_tone")]
