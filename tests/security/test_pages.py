"""Texts of users are texts: on pages, in Markdown, in tables, and in the panels of hosts. Pages load nothing."""
import csv
import functools
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from test_profile import calibrated, made

from sd_debias.core.attribute import Attribute, Group
from sd_debias.core.study.given import labelled_pictures
from sd_debias.core.calibration.labelled import csv_of
from sd_debias.core.profile.file import Profile
from sd_debias.core.profile.words import described
from sd_debias.core.report import look, page
from sd_debias.core.report.markdown import literal, literal_lines

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ("</script><img src=x onerror=\"document.title='broken'\"><svg onload=alert(1)> ![p](http://a.example/p.png) "
           "[l](javascript:alert(1)) <http://b.example> www.c.example http://d.example $$x$$ `c` *e* _u_ ~s~ # h | t "
           "\"' onclick=alert(1)")


# --- Markdown: the bias card's, and what a web UI's page shows -------------------------------------------------------

def made_of(text):
    """What is left of a Markdown text without its character references, which are never markup."""
    return re.sub(r"&#\d+;", "", text)


@pytest.mark.parametrize("text", [HOSTILE, "# h", "- a", "+ a", "= a", "1. a", "12) a", "--- ", "> q", "    code",
                                  "a\n---", "| a | b |", "ftp://e.example", "&lt;b&gt;", "\\<b>",
                                  "{% raw %}"])
def test_nothing_of_a_literal_text_is_markdown(text):
    found = made_of(literal(text))
    assert not re.search(r"[<>&`*_\[\]{}#~\\@$|!]|://|www\.|^\s*([-+=]|\d+[.)](\s|$))", found), found
    assert literal("a plain text, 50 % of 1.5 (so-so): yes - no") == "a plain text, 50 % of 1.5 (so-so): yes - no"
    assert literal_lines("a\nb") == "a  \nb"


@pytest.fixture(scope="module")
def stranger():
    """A profile whose every text is hostile."""
    document = made(calibrated(HOSTILE)).to_dict()
    document.update(classifier=HOSTILE, software=HOSTILE, created=HOSTILE,
                    setting={HOSTILE: HOSTILE})
    document["entries"][0].update(stop=HOSTILE, warnings=[HOSTILE])
    document["attributes"][0]["name"] = document["attributes"][0]["groups"][0]["name"] = HOSTILE
    return Profile.from_dict(document)


def test_markdown_is_not_made_of_what_a_strangers_profile_says(stranger):
    """In the accordion, a profile's text drew images of other sites."""
    found = made_of(literal_lines(described(stranger)))
    assert not re.search(r"[<>`*_\[\]]|://|www\.", found)


# --- tables ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "\uff1d1",
                                  "a; @1", "a;=1+1", "a\t=1+1", "a\";=1+1;\"", "a,=1+1", "x\n=1+1",
                                  "=cmd|' /C calc'!A0"])
def test_no_cell_of_a_table_begins_a_formula_whatever_parts_the_cells(text):
    written = csv_of([{"title": text, text: 3, "n": 1.5, "none": None}])
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[1][0].replace("'", "") == text.replace("'", "").replace("\r", "\n") and rows[1][1:3] == ["3", "1.5"]
    for delimiter in ",;\t":
        for row in csv.reader(io.StringIO(written, newline=""), delimiter=delimiter):
            assert not [cell for cell in row if cell.lstrip()[:1] in tuple("=+-@\uff1d") and cell[:1] != "'"], delimiter


def pictures(attribute, title=HOSTILE):
    images = list(np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8))
    return labelled_pictures(images, title, [attribute], [lambda seen: np.eye(2, dtype=np.float32)[:len(seen)]])


# --- pages load nothing ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", [file for place, ending in (
    ("core/report", "html"), ("core/report", "js"), ("web", "js"), ("javascript", "js"))
    for file in sorted((ROOT / place).glob(f"*.{ending}"))], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_page_and_no_script_names_another_host(file):
    text = file.read_text("utf-8")
    assert not re.search(r"https?:|['\"(=]//\w|@import|\burl\(|\beval\(|new Function|document\.write|innerHTML|"
                         r"outerHTML|insertAdjacentHTML|XMLHttpRequest|WebSocket|sendBeacon", text)
    imports = re.findall(r"(?m)^import .* from \"(.*)\"", text)
    assert set(imports) <= {"../../scripts/app.js", "../../scripts/api.js"}, "the host's own"
    if file.suffix == ".html":
        assert "default-src 'none'" in text and "base-uri 'none'" in text and "form-action 'none'" in text
        assert set(re.findall(r"(?:src|href)=\"([^\"{]*)", text)) <= {"", "data:image/jpeg;base64,",
                                                                   "data:application/json;base64,"}


@pytest.mark.parametrize("policy", [page.POLICY, look.policy()])
def test_a_host_that_serves_a_page_gives_it_no_rights(policy):
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "allow-same-origin" not in rules["sandbox"]
    assert "unsafe" not in rules.get("script-src", "") and "connect-src" not in rules


# --- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update",
                     f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def served(tmp_path, browser):
    """served({path: text}) opens the page "/" of a server of these files; it lists what was asked of it."""
    servers = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        asked = []

        def log_message(self, *_):
            self.asked.append(self.path)

    def start(files):
        for path, text in files.items():
            file = tmp_path / "site" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        Handler.asked.clear()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler,
                                                                                    directory=tmp_path / "site"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        return Handler.asked
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


COMFYUI = """<!DOCTYPE html><title>ComfyUI</title><body><script type="module">
import "./extensions/sd-debias/debias.js";
import { app } from "./scripts/app.js";
window.shown = (comfyClass, properties) => {
  const node = { comfyClass, properties, widgets: [], size: [200, 100], computeSize: () => [200, 100],
    setSize(size) { this.size = size; }, addWidget: (type, name) => ({ type, name }),
    addDOMWidget(name, type, element) { document.body.append(element); const made = { name, element };
      this.widgets.push(made); return made; } };
  app.extension.nodeCreated(node);
  node.onConfigure({});
  return node.widgets[0].element.innerHTML;
};
</script>"""
SCRIPTS = {"scripts/app.js": "export const app = { registerExtension(e) { this.extension = e; }, canvas: null };",
           "scripts/api.js": "export const api = { apiURL: (r) => '/api' + r, addEventListener() {}, fetchApi() {} };"}
SHARES = dict(prompt=HOSTILE, attribute=HOSTILE, groups=[HOSTILE, "b"], target=[.5, .5], text=HOSTILE,
              was=dict(shares=[.5, .5], intervals=[[.4, .6], [.4, .6]], images=HOSTILE), now=None)


@pytest.fixture
def panel(served, browser):
    """panel(state) -> the HTML of a node's panel, of a workflow that somebody saved with this state."""
    asked = served({"index.html": COMFYUI, **SCRIPTS,
                    "extensions/sd-debias/debias.js": (ROOT / "web" / "debias.js").read_text("utf-8")})

    def show(state):
        browser.execute_async_script(
            "const done = arguments[0], wait = () => window.shown ? done() : setTimeout(wait, 20); wait()")
        return browser.execute_script("return window.shown('DebiasAudit', {'debias panel': arguments[0]})", state)
    yield show
    assert browser.title == "ComfyUI" and not [path for path in asked if "example" in path or path.endswith("/x")]


def test_a_workflow_from_somebody_shows_texts_in_its_panel(panel, browser):
    html = panel(dict(text=f"{HOSTILE}\nDetails:\n{HOSTILE}", warning=HOSTILE, shares=[SHARES], done=1, total=HOSTILE))
    assert "&lt;img" in html and not re.search(r"<(img|svg|script|iframe|a)\b", html)


@pytest.mark.parametrize("address", [
    "javascript:alert(1)", "//evil.example/x.html", "https://evil.example/labels/x.html", "/view?filename=x.html",
    "/sd-debias/labels/../../view?filename=x.html", "/sd-debias/labels/x.html?a", "/sd-debias/report/../x.html",
    "/sd-debias/labels/\\evil.html", "/other/labels/x.html", "x", 3, {}, None, ["/sd-debias/labels/x.html"]])
def test_a_workflow_from_somebody_opens_and_frames_our_pages_alone(panel, address):
    assert not re.search(r"<(iframe|a)\b", panel(dict(text="a", report=address, labels=address)))


def test_our_own_pages_are_opened_and_framed_without_the_page_s_rights(panel):
    html = panel(dict(text="a", report="/sd-debias/report/a%20b/report_2.html", labels="/sd-debias/labels/3-7.html"))
    assert 'href="/api/sd-debias/report/a%20b/report_2.html"' in html and 'src="/api/sd-debias/labels/3-7.html"' in html
    assert 'sandbox="allow-scripts allow-downloads"' in html


@pytest.mark.parametrize("state", [3, "a", [], dict(text=3), dict(text=None, shares=3), dict(shares=[None, 3, {}]),
                                   dict(shares=[dict(SHARES, groups=3)]), dict(shares=[dict(SHARES, now=dict())]),
                                   dict(shares=[dict(SHARES, was=dict(shares=[1], intervals=[3]))])])
def test_a_damaged_panel_does_not_keep_its_workflow_from_opening(panel, state):
    panel(state)


WEBUI = """<!DOCTYPE html><title>web UI</title><body><div id="html_info_txt2img"><p>%s</p></div><script>
const gradioApp = () => document, onAfterUiUpdate = (f) => addEventListener("load", f), onUiLoaded = (f) => f();
</script><script src="debias.js"></script>"""


@pytest.mark.parametrize("said, address", [
    ("Open the report: /sd-debias/report/a b", "sd-debias/report/a%20b"),
    ("Look at the images and their labels: /sd-debias/report/(last audit)/labels.html",
     "sd-debias/report/(last%20audit)/labels.html"),
    ("Open the report: /sd-debias/report/&lt;img src=x&gt;", "sd-debias/report/%3Cimg%20src%3Dx%3E"),
    ("Open the report: ///evil.example/x", None), ("Open the report: javascript:alert(1)", None),
    ("Open the report: /sdapi/v1/options", None), ("Open the report: /sd-debias/report/../../x", None),
    ("a prompt, &lt;img src=x onerror=alert(1)&gt;", None)])
def test_below_the_pictures_only_addresses_of_reports_become_links(served, browser, said, address):
    served({"index.html": WEBUI % said, "debias.js": (ROOT / "javascript" / "debias.js").read_text("utf-8")})
    links = browser.execute_script("return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert links == [address] * (address is not None)
    assert not browser.execute_script("return document.querySelectorAll('img').length")


@pytest.mark.parametrize("said", [
    "Open the report: /sd-debias/report/a",
    "Look at the images and their labels: /sd-debias/report/(last check)/labels.html",
    "Look at the images and their labels: /sd-debias/report/(last audit)/labels.html"])
def test_lists_are_renewed_once_as_the_page_is_loaded_and_once_for_a_result(served, browser, said):
    """A check was said to be in lists that only a restart renewed; so was a profile after the page was loaded anew."""
    script = (ROOT / "javascript" / "debias.js").read_text("utf-8")
    names = ["debias_refresh", "debias_audit_and_calibrate_refresh_checks"]
    buttons = "".join(f'<button id="script_txt2img_{name}" onclick="pressed.push(this.id)"></button>' for name in names)
    page = WEBUI.replace("<p>", f"<script>const pressed = [];</script>{buttons}<p>", 1) % said
    served({"index.html": page, "debias.js": script})
    again = "document.querySelector('p').textContent = arguments[0]; dispatchEvent(new Event('load'));"
    browser.execute_script(again, said)  # the page shows the text anew when an image is chosen
    assert browser.execute_script("return document.links.length") == 1
    assert sorted(browser.execute_script("return pressed")) == sorted(f"script_txt2img_{name}" for name in 2 * names)


def test_a_group_called_proto_is_corrected_like_any_other(browser, tmp_path):
    own = pictures(Attribute("__proto__", (Group("__proto__"), Group("constructor"))), "a")
    (tmp_path / "labels.html").write_text(look.look_page("a", [own]), "utf-8")
    browser.get((tmp_path / "labels.html").as_uri())
    browser.execute_script("document.querySelector('button.label').click()")
    document = json.loads(browser.execute_script("return JSON.stringify(corrections())"))
    assert document["runs"] == {own.run: {"__proto__": {own.keys[0]: "constructor"}}}
    assert browser.execute_script("return Object.keys(Object.prototype).length") == 0
    browser.execute_async_script("localStorage.clear(); setTimeout(arguments[0], 60)")


def test_hostile_names_run_nothing_on_any_page(browser, tmp_path):
    """Report, labels and bias card, as files."""
    from test_page import a_set, row
    from test_page import made as a_card

    from sd_debias.core.report.page import card_page
    attribute = Attribute(HOSTILE, (Group(HOSTILE), Group(f"{HOSTILE} 2")))
    document = made(calibrated(HOSTILE, (attribute,))).to_dict()
    document["setting"] = {HOSTILE: HOSTILE}
    pages = {"report": page.report_page(Profile.from_dict(document)),
             "labels": look.look_page(HOSTILE, [pictures(attribute)]),
             "card": card_page([a_card(a_set(row([[90, 10]], None, HOSTILE, HOSTILE, (attribute,), None),
                                             attributes=(attribute,)), model=HOSTILE)])}
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html, "utf-8")
        browser.get((tmp_path / f"{name}.html").as_uri())
        assert browser.title != "broken", name
        counted = browser.execute_script(
            "return [...document.querySelectorAll('img')].filter((i) => !i.src.startsWith('data:')).length + "
            "document.querySelectorAll('[onerror],[onload],[onclick],iframe,object,link,form').length")
        assert counted == 0, name
        assert "onerror" in browser.execute_script("return document.body.textContent")
