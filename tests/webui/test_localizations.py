"""What A1111 and Forge show in other languages: every text of the page, and nothing that it no longer shows.

The page replaces a text where a file of `localizations` has it as a key, letter by letter. Files of one name, by
whichever extension, are one language: these have the names of the usual ones.
"""
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "localizations"
LANGUAGES = ["es_ES", "zh_CN"]
KINDS = ("Accordion", "Button", "Checkbox", "Dropdown", "Markdown", "Number", "Slider", "Textbox")
NAMES = {"Debias"}  # the same in every language, as the scripts' titles, which messages name


@pytest.fixture
def texts(a_double, monkeypatch):
    """What all scripts put on the page: labels, and texts in Markdown."""
    labels, markdown = set(), set()

    def recording(kind, component):
        class Recording(component):
            def __init__(self, *given, label=None, info=None, **options):
                super().__init__(*given, label=label, **options)
                labels.update([info] if info else [])
                text = given[0] if kind in ("Accordion", "Button", "Markdown") else label
                (markdown if kind == "Markdown" else labels).add(text)
        return Recording

    for kind in KINDS:
        monkeypatch.setattr(a_double.gradio, kind, recording(kind, getattr(a_double.gradio, kind)))
    for script in a_double.runner.scripts:
        script.ui(False)
    # The server writes the target and the estimate anew for each input.
    return labels, {text for text in markdown if text and not text.startswith("Target: ")}


@pytest.fixture
def shown(a_double, texts):
    """Every text that a page shows in these words each time."""
    labels, markdown = texts
    javascript = (FOLDER.parent / "javascript" / "debias.js").read_text("utf-8")
    links = {text.removesuffix(": ") for text in re.findall(r'(?:OPEN|LOOK) = "(.+?)"', javascript)}
    summary = set(re.findall(r'summary\.textContent = "(.+?)"', javascript))
    assert len(links) == 2 and len(summary) == 1
    settings = {label for label, *_ in a_double.shared.opts.labels.values()}
    lines = {line.strip() for text in markdown for line in text.split("  \n")}
    return (labels | lines | links | summary | settings) - NAMES


def test_the_languages_are_all_that_are_there():
    assert LANGUAGES == sorted(path.stem for path in FOLDER.iterdir())


def read(language):
    return json.loads((FOLDER / f"{language}.json").read_text("utf-8"))


def test_every_text_of_the_page_is_translated_and_no_other(shown):
    for language in LANGUAGES:
        assert read(language).keys() == shown, language


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_in_english_but_numbers_paths_and_values(language):
    for text, other in read(language).items():
        assert text != other and other.strip()
        values = re.findall(r"(?:^|[.;] )([a-z]+):", text)
        values += re.findall(r"\d+(?:\.\d+)?|\w[\w.-]*[/_=]\w[\w./=-]*\w|(?<=directions )\w+|(?<=choice )\w+",
                             text, re.ASCII)
        assert [value for value in values if value not in other] == []


def test_a_sentence_in_markdown_is_one_text_for_every_host(texts):
    """The page translates what stands between marks, and hosts write quotes and addresses in forms of their own."""
    assert [text for text in texts[1] if re.search(r"[*`'\"\[<]|\w\.(com|co|org)\b", text)] == []
