"""The page of images and labels in a real browser, without a display and without a network."""
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from test_page import a_set, made, row, steered

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.study.folder import FolderAudit
from sd_debias.core.calibration.labelled import Labelled, corrected, read_corrections, thumbnail
from sd_debias.core.calibration.round import AUDIT, Round
from sd_debias.core.judge import DISAGREED, NO_FACE, UNSURE
from sd_debias.core.method.draw import Steering
from sd_debias.core.report.look import look_page
from sd_debias.core.report.page import card_page

pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("AXE_PATH")  # of axe-core's axe.min.js
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs chromium and chromedriver")

AGE = Attribute("age_group", (Group("young"), Group("middle-aged"), Group("old")), (.5, .3, .2))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=1280,1000", "--lang=en", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page of these images as a file; at the end, nothing went wrong and nothing was asked for."""
    shown = []

    def open_page(*found, title="Audit", name="labels.html"):
        page = tmp_path / name
        page.write_text(look_page(title, found), "utf-8")
        browser.get(page.as_uri())
        shown.append(page.as_uri())
        return browser

    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield open_page
    assert not [entry["message"] for entry in browser.get_log("browser")]
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:image/jpeg;base64,")} == set(shown) | (
        {url for url in urls if url.startswith("data:application/json")})
    browser.execute_async_script("localStorage.clear(); setTimeout(arguments[0], 60)")  # other pages see it a bit later


def picture(i):
    rng = np.random.default_rng(i)
    return thumbnail(np.clip(rng.integers(40, 200, 3) + rng.normal(0, 20, (90, 70, 3)), 0, 255).astype(np.uint8))


def pictures(labels, attributes=(GENDER,), people=None, title="a photo of a doctor", run="run", faces=None, first=1,
             thumbs=True):
    """Labels by attribute; where `people`, labels of each image's persons by attribute."""
    n = len((people or labels)[0])
    r = Round(AUDIT, tuple(Steering.none(len(a.groups)) for a in attributes), tuple(range(n)),
              [[own[0] if own else NO_FACE for own in column] for column in people] if people else
              [list(column) for column in labels],
              people=[[list(own) for own in column] for column in people] if people else [],
              faces=list(faces) if faces else [len(own) for own in people[0]] if people else [])
    keys = [f"seed {i + first}" for i in range(n)]
    return Labelled(title, tuple(attributes), r, keys, run, {key: picture(i) for i, key in enumerate(keys)}
                    if thumbs is True else {key: picture(0) for key in keys[:thumbs]})


def rows(browser, section=0, attribute=0):
    """What a table says: (group, target, count, share, interval)."""
    table = browser.find_elements(By.CSS_SELECTOR, f'table[data-section="{section}"]')[attribute]
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")][:5]
            for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")]


def expected(labelled, i=0):
    """The same, as Python has it."""
    d, a = labelled.distribution(i), labelled.attributes[i]
    return [[name, f"{100 * target:.1f} %", f"{count} of {d.n}", f"{100 * share:.1f} %",
             f"{100 * low:.1f} to {100 * high:.1f} %"] for name, target, count, share, (low, high) in
            zip(a.names, a.target, d.counts, d.shares, d.intervals, strict=True)]


def chips(browser):
    return [chip.text for chip in browser.find_elements(By.CSS_SELECTOR, "button.label")]


def chip(browser, s=0, a=0, i=0, p=0):
    return browser.find_element(By.CSS_SELECTOR, f'button[data-at="{s} {a} {i} {p}"]')


def cards(browser):
    return [card.get_attribute("id") for card in browser.find_elements(By.CLASS_NAME, "card")]


def tool(browser, name):
    return next(button for button in browser.find_elements(By.CSS_SELECTOR, "#tools button, #tools a")
                if button.text == name)


def saved(browser):
    """What the save link holds."""
    links = browser.find_elements(By.CSS_SELECTOR, "#tools a")
    if not links:  # nothing is corrected
        return browser.execute_script("return corrections()")
    href = links[0].get_attribute("href")
    kind, _, text = href.partition(",")
    assert kind == "data:application/json;charset=utf-8"
    return json.loads(unquote(text))


def focused(browser):
    return browser.switch_to.active_element.get_attribute("data-at")


# --- figures ---------------------------------------------------------------------------------------------------------

def crowds(seed):
    rng = np.random.default_rng(seed)
    return [[[int(rng.random() < p) - (rng.random() < .1) for _ in range(m)]
             for m, p in zip(rng.integers(0, 6, 14), rng.random(14), strict=True)]]


LABELS = [[0] * 6 + [1] * 3, [0] * 7, [1], [0, UNSURE, 1, NO_FACE, DISAGREED, 1],
          [0] * 31 + [1] * 2]
CROWDS = [*map(crowds, range(4)), [[[0, 0], [1, 1, 1], [], [0, 1]]], [[[0, 1], [1, 0], [0, 1]]],
          [[[0, 1, 1]]], [[[0], [0], [0, 0], [0]]], [[[1, 1, 1, 1]]]]


def test_the_page_shows_the_shares_and_intervals_of_the_report_of_pictures_and_of_persons(show):
    found = [pictures([labels], run=f"{at}") for at, labels in enumerate(LABELS)]
    found += [pictures(None, people=people, run=f"crowd {at}") for at, people in enumerate(CROWDS)]
    browser = show(*found)
    heads = browser.find_elements(By.TAG_NAME, "thead")
    for at, own in enumerate(found):
        assert rows(browser, at) == expected(own), at
        assert ("Persons" in heads[at].text) == (at >= len(LABELS))


def test_where_nobody_is_classified_the_page_shows_the_pictures_without_shares(show):
    browser = show(pictures([[UNSURE, NO_FACE]]))
    assert rows(browser) == [["man", "50.0 %", "0 of 0", "", ""], ["woman", "50.0 %", "0 of 0", "", ""]]
    chip(browser).click()
    assert rows(browser)[0][2:4] == ["1 of 1", "100.0 %"]


def test_pictures_that_are_not_shown_count_and_the_page_says_how_many(show):
    own = pictures([[0] * 6 + [1] * 4], thumbs=3)
    people = pictures(None, people=[[[0, 1], [1], [0, 0, 0], [], [1, 1]]], thumbs=2, run="people")
    browser = show(own, people)
    assert rows(browser) == expected(own) and rows(browser, 1) == expected(people)
    assert [card[:6] for card in cards(browser)] == ["card-0"] * 3 + ["card-1"] * 2
    assert "Not shown: 7, because" in browser.find_element(By.TAG_NAME, "main").text
    chip(browser).click()
    corrected([own], read_corrections(saved(browser)))
    assert rows(browser) == expected(own)


def labelled_folder(folder, *names):
    """The audit of a folder of these images and of a file that is none."""
    folder.mkdir()
    (folder / "z.png").write_text("no image")
    for i, name in enumerate(names):
        noise = np.random.default_rng([i, *name.encode()]).integers(0, 255, (9, 9, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)
    return FolderAudit(folder, (GENDER,), [lambda images: np.array([[.9, .1]] * len(images))]).run()


def test_unreadable_files_are_not_said_to_be_counted(show, tmp_path):
    browser = show(labelled_folder(tmp_path / "in", "a.png"))
    assert "are counted but not shown" not in browser.find_element(By.TAG_NAME, "main").text


# --- corrections -----------------------------------------------------------------------------------------------------

def test_a_click_goes_to_the_next_group_then_leaves_out_and_begins_again_and_shares_follow(show):
    labels = [0, 0, 1]
    browser = show(pictures([labels]))
    seen = []
    for _ in range(3):
        chip(browser).click()
        seen.append((chip(browser).text, rows(browser)[1][2]))
    assert seen == [("woman", "2 of 3"), ("left out by hand", "1 of 2"), ("man", "1 of 3")]
    assert not saved(browser)["runs"] and chips(browser) == ["man", "man", "woman"]


def test_numbers_choose_a_group_and_arrows_go_from_label_to_label(show):
    browser = show(pictures([[0, 0, 1], [0, 0, 0]], (GENDER, AGE)))
    chip(browser).send_keys("2")
    assert chip(browser).text == "gender: woman" and focused(browser) == "0 0 0 0"
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert focused(browser) == "0 1 0 0"
    browser.switch_to.active_element.send_keys("3")
    assert chip(browser, a=1).text == "age group: old"
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys("0")
    assert chip(browser, i=1).text == "gender: left out by hand" and focused(browser) == "0 0 1 0"
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    browser.switch_to.active_element.send_keys("1")
    assert chip(browser, a=1).text == "age group: young" and focused(browser) == "0 1 0 0"
    browser.switch_to.active_element.send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    assert focused(browser) in ("0 0 0 0", "0 1 0 0")
    assert saved(browser)["runs"]["run"] == {"gender": {"seed 1": "woman", "seed 2": None}}


def test_the_saved_file_gives_the_same_shares_in_python(show):
    one = pictures([[0, 0, 1, 0, 1, UNSURE], [2, 1, 1, 0, 0, 0]], (GENDER, AGE))
    two = pictures([[1, 1, 0, 1], [0, 0, 0, 2]], (GENDER, AGE), run="two")
    people = pictures(None, people=[[[0, 0, 1], [1], [], [0, 0, 0, 0], [UNSURE, 1]]], run="people")
    browser = show(one, two, people)
    assert chips(browser)[-10:-6] == ["1: man", "2: man", "3: woman", "woman"]
    for at, key in [((0, 0, 0), "2"), ((0, 0, 5), "1"), ((0, 1, 1), "3"), ((0, 1, 3), "0"), ((1, 0, 2), "2"),
                    ((1, 1, 0), "2"), ((2, 0, 0, 1), "2"), ((2, 0, 1, 0), "1"), ((2, 0, 3, 3), "0"),
                    ((2, 0, 4, 0), "2")]:
        chip(browser, *at).send_keys(key)
    document = saved(browser)
    assert document["runs"] == {
        "run": {"gender": {"seed 1": "woman", "seed 6": "man"}, "age_group": {"seed 2": "old", "seed 4": None}},
        "two": {"gender": {"seed 3": "woman"}, "age_group": {"seed 1": "middle-aged"}},
        "people": {"gender": {"seed 1#2": "woman", "seed 2#1": "man", "seed 4#4": None,
                              "seed 5#1": "woman"}}}
    assert corrected([one, two, people],
                     read_corrections(document)) == "10 labels corrected by hand"
    for s, own in enumerate((one, two, people)):
        for i, _ in enumerate(own.attributes):
            assert rows(browser, s, i) == expected(own, i)


def test_the_save_button_saves_a_file(show, tmp_path):
    browser = show(pictures([[0, 0, 1]]))
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    chip(browser).click()
    browser.find_element(By.ID, "save").click()
    file = tmp_path / "corrections.json"
    for _ in range(100):
        if file.exists():
            break
        browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert read_corrections(file) == {"run": {"gender": {"seed 1": "woman"}}}
    assert [name for name in os.listdir(tmp_path) if name.startswith("corrections")] == ["corrections.json"]


def test_a_reload_keeps_the_corrections_and_undo_all_forgets_them(show):
    own = pictures([[0, 0, 1]])
    browser = show(own)
    chip(browser).click()
    before = rows(browser)
    browser.refresh()
    assert rows(browser) == before and chip(browser).text == "woman" and saved(browser)["runs"]
    tool(browser, "Undo all").click()
    browser.refresh()
    assert rows(browser) == expected(own) and not saved(browser)["runs"]


@pytest.mark.parametrize("kind", ["run", "seeds", "folder"])
def test_corrections_of_one_page_are_not_shown_on_that_of_other_pictures(show, browser, tmp_path,
                                                                         kind):
    """As of `audit --seed 0`, corrected; then `audit --seed 100` of the same prompt and model."""
    if kind == "folder":
        one, other = (labelled_folder(tmp_path / name, f"{name} 0.png", f"{name} 1.png")
                      for name in ("cats", "dogs"))
    else:
        one = pictures([[0, 0, 1]])
        other = pictures([[0, 0, 1]], **(dict(run="another") if kind == "run" else dict(first=101)))
    before = chips(show(other, name="other.html"))
    chip(show(one)).click()
    for _ in range(3):  # other processes of the browser see what one page stores a bit later
        assert chips(show(other, name="other.html")) == before and "woman" not in before[:2]
        browser.execute_async_script("setTimeout(arguments[0], 100)")


# --- filters ---------------------------------------------------------------------------------------------------------

def test_filters_show_the_pictures_of_a_label(show):
    browser = show(pictures([[0, 1, 0, UNSURE, DISAGREED]]))
    names = [button.text for button in browser.find_elements(By.CSS_SELECTOR, "#tools > button")]
    assert names == ["all", "man", "woman", "unsure", "judges disagree", "Save corrections", "Undo all"]
    for name, shown in (("woman", [1]), ("man", [0, 2]), ("unsure", [3]), ("judges disagree", [4]), ("all", range(5))):
        tool(browser, name).click()
        assert cards(browser) == [f"card-0-{i}" for i in shown]
        pressed = browser.find_elements(By.CSS_SELECTOR, "#tools [aria-pressed=true]")
        assert [button.text for button in pressed] == [name]
    assert rows(browser)[0][2] == "2 of 3"


def test_a_picture_stays_in_a_filter_while_it_is_corrected_and_undo_all_shows_all_again(show):
    browser = show(pictures([[0, 1, 0]]))
    tool(browser, "woman").click()
    chip(browser, i=1).click()
    chip(browser, i=1).click()
    assert cards(browser) == ["card-0-1"] and chip(browser, i=1).text == "man"
    tool(browser, "all").click()
    chip(browser).click()
    tool(browser, "corrected").click()
    tool(browser, "Undo all").click()
    assert len(cards(browser)) == 3


def test_the_save_button_is_one_thing_and_saves_nothing_while_there_is_nothing(show):
    browser = show(pictures([[0, 1, 0]]))
    assert browser.execute_script("""
        const all = [...document.querySelectorAll("#tools a, #tools button")];
        return all.filter((element) => element.tabIndex >= 0 && !element.disabled).map((element) => element.textContent)
        """) == ["all", "man", "woman"]


# --- text of users ---------------------------------------------------------------------------------------------------

HOSTILE = "</script><script>document.title='broken'</script>\"'& \u2028<img src=x onerror=\"document.title='broken'\">"


def test_text_of_users_is_text_and_runs_nothing(show):
    evil = Attribute(f"a\"]'\\ {HOSTILE}", (Group(f"1{HOSTILE}"), Group(f"2{HOSTILE}")))
    own = pictures([[0, 1, 1]], (evil,), title=HOSTILE, run=HOSTILE)
    browser = show(own, title=HOSTILE)
    said = re.sub(r"\s+", " ", browser.find_element(By.TAG_NAME, "h1").text)
    assert said == re.sub(r"\s+", " ", HOSTILE) and browser.title != "broken"
    assert [len(browser.find_elements(By.TAG_NAME, tag)) for tag in ("script", "img")] == [2, 3]
    chip(browser).click()
    document = saved(browser)
    assert document["runs"] == {HOSTILE: {evil.name: {"seed 1": f"2{HOSTILE}"}}}
    corrected([own], read_corrections(document))
    assert [row[2] for row in rows(browser)] == ["0 of 3", "3 of 3"]


def test_every_picture_is_shown(show):
    browser = show(pictures([[0, 1, 0]]))
    assert browser.execute_async_script("""
        const all = [...document.images]; all.forEach((image) => image.loading = "eager");
        Promise.all(all.map((image) => image.decode())).then(
            () => arguments[0](all.map((image) => image.naturalWidth)), (why) => arguments[0](String(why)));
        """) == [70] * 3


def test_a_host_that_shows_the_page_in_a_sandbox_gets_each_correction(browser, tmp_path):
    """Without storage, as in the frame of a host."""
    page = look_page("t", [pictures([[0, 0, 1]])])
    (tmp_path / "host.html").write_text("<script>addEventListener('message', (e) => window.got = e.data)</script>"
                                        "<iframe sandbox='allow-scripts allow-downloads' width=900 height=700>"
                                        "</iframe>")
    browser.get((tmp_path / "host.html").as_uri())
    browser.execute_script("document.querySelector('iframe').srcdoc = arguments[0]", page)
    browser.switch_to.frame(0)
    browser.implicitly_wait(3)
    chip(browser, i=1).click()
    browser.implicitly_wait(0)
    browser.switch_to.default_content()
    assert browser.execute_script("return window.got.corrections.runs") == {"run": {"gender": {"seed 2": "woman"}}}


@pytest.mark.skipif(not AXE, reason="needs AXE_PATH")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_wrong(browser, tmp_path, colours, width):
    """Of the page of labels, a card, and two cards side by side, with all that is folded away opened."""
    card = made(steered(row([[80, 20]], [[11, 9]]), row([[60, 40]], [[10, 10]])),
                a_set(row([[50, 30, 20]], attributes=(AGE,)), attributes=(AGE,)))
    browser.set_window_size(width, 1000)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": colours}]})
    for page in (look_page("Audit", [pictures(LABELS[3:4])]), card_page([card]), card_page([card, card])):
        file = tmp_path / "page.html"
        file.write_text(page, "utf-8")
        browser.get(file.as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        browser.execute_script(Path(AXE).read_text("utf-8"))
        found = browser.execute_async_script("axe.run(document).then(arguments[0])")
        assert found["passes"] and not [
            (wrong["id"], [node["html"] for node in wrong["nodes"]]) for wrong in found["violations"]]
