"""Bias cards of synthetic figures: what they say, and what is no card."""
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from test_report import Page

from sd_debias.core.attribute import AGE, GENDER, Attribute, Group
from sd_debias.core.distribution import summarise
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check
from sd_debias.core.method.methods import METHODS
from sd_debias.core.report import figures as card_figures
from sd_debias.core.report.figures import FORM, check_card, compare, difference, figures, read_card
from sd_debias.core.report.page import card_markdown, card_page
from sd_debias.core.report.words import headline

JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMC"
NASTY = ("<script>alert(1)</script> | `x` ](javascript:alert(1)) <img src=x onerror=y> & \"'[a](b) *b* _c_\n# "
         "www.evil.com https://evil.com")


def row(counts, after=None, subject=None, prompt=None, attributes=(GENDER,), verdicts=None, confusion=None, **more):
    """A prompt with counts [attribute][group], of an audit and, where there are any, of a verification."""
    subject = subject or f"job {counts}"
    prompt = prompt or f"a photo of a {subject}"

    def measured(counts):
        return [summarise(own, a.target, confusion=confusion).to_dict() for own, a in zip(counts, attributes)]

    return dict(prompt=prompt, subject=subject, error=None, entry=dict(
        prompt=prompt, verdicts=(verdicts or ["on target"] * len(attributes)) if after else [],
        before=measured(counts), after=after and measured(after),
        fidelity=dict(before=0.3, after=0.25 if after else None), warnings=[], **more))


def failed(subject, why="No image could be classified."):
    return dict(prompt=f"a photo of a {subject}", subject=subject, entry=None, error=why)


def a_set(*rows, attributes=(GENDER,), method=None, checks=(), explicit=(), plan="100 images per prompt"):
    return dict(attributes=[a.to_dict() for a in attributes], method=method, plan=plan,
                checks=[c and c.to_dict() for c in checks], rows=list(rows), explicit=list(explicit))


def made(*sets, model="a-model", classifier="a CLIP", **setting):
    """A card, as it comes from a file."""
    return json.loads(json.dumps(dict(
        form=FORM, software="sd-debias 0.1.0", created="2026-11-26T15:00:00+00:00", model=model, classifier=classifier,
        setting=dict(model=model, sampler="euler", steps=20, cfg=7.0, negative_prompt=None, **setting),
        sets=list(sets), cost=dict(images=1200, seconds=7200.0, evaluations=None)), allow_nan=False))


def steered(*rows, **options):
    return a_set(*rows, method=METHODS["default"].to_dict(), **options)


def audit():
    return made(a_set(row([[90, 10]], subject="pilot"), row([[20, 80]], subject="nurse"),
                      row([[52, 48]], subject="cook")))


@pytest.fixture(scope="module")
def calibrated():
    check = Check("gender", ("man", "woman"), ((49, 1), (9, 41)), (0, 0), "a CLIP", ("a man", "a woman"))
    side = dict(attribute="age", groups=list(AGE.names), before=[.5, .3, .2], after=[.6, .2, .2],
                change=[[.05, .15], [-.15, -.05], [-.04, .04]], images=[100, 100], moved=True)
    explicit = [dict(prompt="a photo of a pilot, a woman", states={"gender": "woman"}, shown={"gender": [12, 20]}),
                dict(prompt="a photo of a nurse, a woman", states={"gender": "woman"}, shown={"gender": [18, 20]}),
                dict(prompt="a photo of a nurse, a man", states={"gender": "man"}, shown={"gender": [20, 20]})]
    rows = [row([[90, 10]], [[104, 96]], "pilot", side_effects=[side]), row([[20, 80]], [[98, 102]], "nurse"),
            row([[52, 48]], [[150, 50]], "cook", verdicts=["off target in the verification"]), failed("ghost")]
    rows[0]["pictures"] = dict(before=[JPEG, JPEG], after=[JPEG])
    rows[1]["entry"]["warnings"] = ["the push was large"]
    return made(steered(*rows, checks=[check], explicit=explicit))


# --- figures ---------------------------------------------------------------------------------------------------------

def test_prompts_are_ranked_by_their_distance_and_means_count_each_prompt_once():
    f, = figures(audit())
    assert [r.label for r in f.rows] == ["pilot", "nurse", "cook"] and f.after is None
    assert [r.label for r in f.ranked()] == ["pilot", "cook", "nurse"]
    m = f.before
    assert m.prompts == m.verified == 3 and m.within == 1 and f.largest == 0
    assert m.shares == pytest.approx([.54, .46])
    assert (m.deviation_median, m.deviation_mean) == (pytest.approx(.6), pytest.approx((.8 + .6 + .04) / 3))
    known = [summarise(counts, GENDER.target) for counts in ([90, 10], [20, 80], [52, 48])]
    assert m.kl_mean == pytest.approx(np.mean([d.kl for d in known])) and m.kl_chance == pytest.approx(.005)


def test_where_draws_leave_less_to_chance_their_floor_counts():
    own = row([[90, 10]], [[112, 88]])
    assert figures(made(steered(own)))[0].after.within == 1
    # Draws have few distances, so that the floor can be one of them: that is still chance.
    for floor, within in ((1e-4, 0), (own["entry"]["after"][0]["kl"], 1)):
        own["entry"]["after"][0]["drawn_floor95"] = floor
        assert figures(made(steered(own)))[0].after.within == within


def test_shares_by_all_pictures_are_shown_and_distances_are_those_of_the_verification():
    own = row([[40, 10]], [[15, 5]], expected=[dict(shares=[.5, .5], intervals=[[.45, .55], [.45, .55]], within=.05,
                                                    certainty=.96, images=170)])
    f, = figures(made(steered(own)))
    r, = f.rows
    assert r.now.shares == (.5, .5) and r.now.images == 170 and f.after.shares == (.5, .5)
    assert f.after.deviation_mean == pytest.approx(.5) and r.after.n == 20
    assert "170, verified by 20" in card_page([made(steered(own))])
    own["entry"]["after"] = None
    f, = figures(made(steered(own)))
    assert f.after.shares == (.5, .5) and f.after.verified == 0 and math.isnan(f.after.kl_mean)
    assert "not verified" in card_page([made(steered(own))])


def test_shares_are_corrected_where_the_classifier_was_checked():
    confusion = [[45, 5], [10, 40]]
    card = made(a_set(row([[60, 40]], confusion=confusion)))
    d = summarise([60, 40], GENDER.target, confusion=confusion)
    assert figures(card)[0].rows[0].was.shares == pytest.approx(d.corrected) != d.shares
    assert "corrected by the judge" in Page(card_page([card])).text
    again = card_figures._distribution(json.loads(json.dumps(d.to_dict())))
    assert again == d, "every field is read back"


# --- words -----------------------------------------------------------------------------------------------------------

def test_the_headline_says_who_appears_to_a_person_without_statistics():
    f, = figures(audit())
    assert headline(f) == ("Asked for 3 subjects, this model shows men in 54 % of the images: from 20 % (nurse) to "
                           "90 % (pilot).")
    one, = figures(made(a_set(row([[90, 10]], subject="pilot"))))
    assert headline(one).startswith('Asked for "pilot", this model shows men in 90 % of the images (95 %')
    own = Attribute("hat", (Group("with a hat"), Group("bare")))
    f, = figures(made(a_set(row([[70, 30]], attributes=(own,)), attributes=(own,))))
    assert 'shows "with a hat" in 70 %' in headline(f)
    most_women, = figures(made(a_set(row([[10, 90]]), row([[30, 70]]))))
    assert most_women.largest == 1 and "women in 80 %" in headline(most_women)


def test_prompts_that_share_a_subject_are_called_by_their_text():
    f, = figures(made(a_set(row([[90, 10]], subject="pilot"), row([[80, 20]], subject="pilot", prompt="pilot, bokeh"),
                            row([[70, 30]], subject="cook"))))
    assert [r.label for r in f.rows] == ["a photo of a pilot", "pilot, bokeh", "cook"]
    assert headline(f).startswith("Asked for 3 prompts")


# --- the page --------------------------------------------------------------------------------------------------------

def loads_nothing(p):
    sources = [a.get("src") or a.get("href") for _, a in p.tags if "src" in a or "href" in a]
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in p.tags}
    assert any("default-src 'none'" in meta.get("content", "") for meta in p.all("meta"))


def svgs(text):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_says_all_that_was_measured_and_draws_a_row_a_prompt(calibrated):
    text = card_page([calibrated])
    p = Page(text)
    loads_nothing(p)
    for words in (
            "54\N{NO-BREAK SPACE}% of the images", "With the profile it shows men in 59",
            "2 of 3 prompts are on target",
            "82 % of the images of 'woman'", "1,200", "2.0 hours", "3 of 4", "a photo of a ghost",
            "No image could be classified.", "These calibrations did not end on target",
            "off target in the verification", "75 % [69, 80]",
            "30 of 40",
            "75 % [60, 86]", "woman (75 %)", "20 of 20", "+5.0 to +15.0 points", "1 of 1",
            "the push was large", "euler",
            "a CLIP", "100 images per prompt",
            "each image is steered to a randomly drawn group", "0.300", "0.250", "not a person's identity"):
        assert words in p.text, words
    assert len(p.all("img")) == 3 and "image 1 of a photo of a pilot" in p.all("img")[0]["alt"]
    chart, = svgs(text)
    assert [chart[0].tag, chart[1].tag] == ["title", "desc"] and "pilot 90 %" in chart[1].text
    labels = [t.text for t in chart.iter("text")]
    assert [label for label in labels if label in ("pilot", "nurse", "cook")] == ["pilot", "cook", "nurse"]
    assert {"\N{LEFTWARDS ARROW} all women", "all men \N{RIGHTWARDS ARROW}", "90 %", "52 %"} <= set(labels)
    assert len(list(chart.iter("circle"))) == 2 * 3 + 2  # two series, and the legend
    assert "not checked" not in p.text and "not checked" in Page(card_page([audit()])).text


def test_of_many_groups_the_smallest_stand_together():
    own = Attribute("hair", tuple(Group(f"colour {i}") for i in range(12)))
    p = Page(card_page([made(a_set(row([[30, *range(1, 12)]], attributes=(own,)), attributes=(own,)))]))
    assert "5 other groups" in p.text and "colour 11" in p.text


def of_target(*target):
    """A set of one prompt of which this is the target."""
    own = GENDER.with_target(target)
    return a_set(row([[90, 10]], subject="pilot", attributes=(own,)), attributes=(own,))


@pytest.mark.parametrize("rows", [[], [failed("pilot"), failed("nurse")]])
def test_where_nothing_was_measured_the_page_says_so(rows):
    card = made(a_set(*rows))
    p = Page(card_page([card]))
    assert "No prompt was measured." in p.text and f"0 of {len(rows)}" in p.text and not p.all("svg")
    assert all(r["prompt"] in p.text for r in rows)
    assert "No prompt was measured." in card_markdown(card)
    both = Page(card_page([card, audit()])).text
    assert "The two cards have no prompt" in both and "No prompt was measured for both." in both


def test_what_a_prompt_states_beside_the_attributes_is_left_out():
    explicit = [dict(prompt="an old man", states={"gender": "man", "age": "old"}, shown={"gender": [19, 20]})]
    p = Page(card_page([made(a_set(row([[90, 10]]), explicit=explicit))]))
    assert "19 of 20" in p.text and not re.search(r"\bold\b", p.text.replace("an old man", ""))


# --- two cards -------------------------------------------------------------------------------------------------------

def test_two_cards_are_paired_by_prompt_and_what_only_one_has_is_said():
    first = made(a_set(row([[90, 10]], subject="pilot"), row([[50, 50]], subject="cook"),
                       row([[60, 40]], subject="judge"), row([[50, 50]], subject="clerk")))
    second = made(a_set(row([[48, 52]], subject="cook"), row([[55, 45]], prompt="A photo of a  PILOT", subject="x"),
                        failed("judge"), row([[1, 9]], subject="nurse")),
                  a_set(row([[3, 3, 4]], attributes=(AGE,)), attributes=(AGE,)), model="b-model", scheduler="karras")
    c, = compare(first, second)
    assert [(a.label, b.label) for a, b in c.pairs] == [("pilot", "x"), ("cook", "cook")]
    assert c.only == (("judge", "clerk"), ("nurse",)) and c.differ == 1
    assert c.first.before.prompts == c.second.before.prompts == 2 and c.first.before.shares[0] == pytest.approx(.7)
    p = Page(card_page([first, second]))
    loads_nothing(p)
    for words in ("a-model", "b-model", "A shows men in 70\N{NO-BREAK SPACE}% of the images, B in 52",
                  "In 1 of 2 prompts the two differ", "Only A has measured: judge, clerk.",
                  "Only B has measured: nurse.", "Only B was measured for: age.", "karras", "-35 [-46, -23]"):
        assert words in p.text, words
    assert "Two judges" in Page(card_page([first, made(a_set(row([[9, 1]])), classifier="another")])).text


def test_sets_of_the_same_target_are_paired_first():
    one, two = of_target(50, 50), of_target(70, 30)
    pairs = [(c.first.attribute.target, c.second.attribute.target)
             for c in compare(made(one, two), made(two, one))]
    assert pairs == [(GENDER.target,) * 2, ((.7, .3),) * 2]
    p = Page(card_page([made(one), made(two)]))
    assert "The targets differ" in p.text and "A even shares, 50\N{NO-BREAK SPACE}% each; B man 70" in p.text


def test_the_interval_of_a_difference_is_newcombe_s():
    """The example of Newcombe 1998, table II: 56 of 70 and 48 of 80, method 10."""
    a, b = (figures(made(a_set(row([counts]))))[0].rows[0].was for counts in ([48, 32], [56, 14]))
    assert difference(a, b, 0) == (pytest.approx(.0524, abs=1e-4), pytest.approx(.3339, abs=1e-4))


# --- text of users ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def hostile():
    own = Attribute(NASTY, (Group(f"1{NASTY}"), Group(f"2{NASTY}")))
    rows = [row([[90, 10]], [[50, 50]], NASTY, NASTY, (own,), [NASTY]),
            row([[80, 20]], [[50, 50]], "x", f"other {NASTY}", (own,)), failed("y" + NASTY, NASTY)]
    rows[0]["entry"]["warnings"] = [NASTY]
    check = Check(own.name, own.names, ((5, 5), (1, 9)), (0, 0), NASTY, (NASTY, NASTY))
    explicit = [dict(prompt=NASTY, states={own.name: own.names[0]}, shown={own.name: [1, 9]})]
    rows[0]["pictures"] = dict(before=[JPEG], after=[])
    return made(steered(*rows, attributes=(own,), checks=[check], explicit=explicit, plan=NASTY), model=NASTY,
                classifier=NASTY, **{NASTY: NASTY})


def test_text_of_users_is_text_on_the_page_and_in_markdown(hostile):
    for cards in ([hostile], [hostile, audit()], [hostile, hostile]):
        p = Page(card_page(cards))
        loads_nothing(p)
        assert "<script>alert(1)</script>" in p.text
        assert all("onerror" not in a for _, a in p.tags)
        svgs(card_page(cards))  # well-formed
    text = card_markdown(hostile)
    assert "&#60;script&#62;" in text
    own = re.sub(r"^(#+|-|\|( --- \|)+$|\|) | \|$| \| |\*\*(?=\S)|(?<=\S)\*\*", "  ", text, flags=re.MULTILINE)
    assert not re.search(r"[<>|`*_\[\]]|&(?!#\d+;)|www\.|://", own), "nothing but the card's own markup"
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {8}


def test_markdown_is_short_and_says_what_counts(calibrated):
    text = card_markdown(calibrated)
    for words in ("## Who appears in the images of a-model",
                  "**Asked for 3 subjects, this model shows men in 54 % of the images",
                  "| pilot | gender | man | 50 % | 90 % &#91;83, 94&#93; | 52 % &#91;45, 59&#93; | 0.368 (0.019) |",
                  "100 images per prompt", "- **Only 82 % of the images of 'woman' are labelled correctly",
                  "- 1 of 4 prompts failed.",
                  "steps 20", "1,200 images, 2.0 hours", "not a person's identity", "sd-debias 0.1.0"):
        assert words in text, words


# --- what is no card -------------------------------------------------------------------------------------------------

def test_a_card_is_read_from_its_file(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(audit()), "utf-8")
    assert read_card(path) == audit()
    path.write_text(path.read_text("utf-8")[:-50], "utf-8")
    with pytest.raises(DebiasError, match="card.json'.*JSON"):
        read_card(path)


@pytest.mark.parametrize("data, facts", [
    *((other, "bias card") for other in (None, [], "card", {}, {"schema": "1.0", "entries": []},
                                         {"form": 3})),
    ({**audit(), "form": "sd-debias card 2"}, "'sd-debias card 2'.*Update")])
def test_other_json_is_no_card_and_another_form_says_what_to_do(data, facts):
    with pytest.raises(DebiasError, match=facts):
        check_card(data)


def measured(card):
    return first(card)["entry"]["before"][0]


def first(card):
    return card["sets"][0]["rows"][0]


def shown(group, of):
    return [dict(prompt="p", states={"gender": group}, shown={"gender": of})]


DAMAGE = {
    "no model": (lambda c: c.pop("model"), "'model'"),
    "a setting is an object": (lambda c: c["setting"].update(x={}), "setting.x"),
    "counts do not add up": (lambda c: measured(c).update(counts=[10, 10]), "do not fit"),
    "another target": (lambda c: measured(c).update(target=[.7, .3]), "do not fit"),
    "three groups of two": (lambda c: measured(c).update(counts=[90, 5, 5]), "do not fit"),
    "no image": (lambda c: measured(c).update(counts=[0, 0], n=0), "do not fit"),
    "two attributes": (lambda c: first(c)["entry"]["before"].append(measured(c)), "2 attributes"),
    "a prompt twice": (lambda c: c["sets"][0]["rows"].append(first(c)), "twice"),
    "verdicts of others": (lambda c: first(c)["entry"].update(verdicts=["a", "b"]), "2 verdicts of 1"),
    "more shown than made": (lambda c: c["sets"][0].update(explicit=shown("man", [3, 2])),
                             "states and shows"),
    "an unknown group": (lambda c: c["sets"][0].update(explicit=shown("cat", [1, 2])),
                         "states and shows"),
    "a check of another attribute": (lambda c: c["sets"][0].update(checks=[Check(
        "age", ("a", "b"), ((1, 0), (0, 1)), (0, 0)).to_dict()]), "'gender'"),
    "an image that is none": (lambda c: first(c).update(
        pictures=dict(before=['/9j/" onerror="alert(1)'])), "pictures.before"),
    "negative seconds": (lambda c: c["cost"].update(seconds=-1), "cost.seconds"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_card_is_refused_in_one_sentence(what):
    card, (damage, facts) = audit(), DAMAGE[what]
    damage(card)
    for use in (check_card, card_markdown, lambda c: card_page([c])):
        with pytest.raises(DebiasError, match=facts) as error:
            use(card)
        assert "\n" not in str(error.value)
