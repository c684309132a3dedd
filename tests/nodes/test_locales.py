"""What ComfyUI shows in other languages says what the English says."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Names that a language writes as English does.
SAME = {
    "es": {"CLIP", "VAE", "clip", "vae", "cfg", "CFG.", "prompt", "prompts", "scheduler", "detector", "Debias Panel"},
    "zh": {"CLIP", "VAE"},
}
HELP = ("es",)  # languages with help pages of their own; elsewhere ComfyUI shows the English ones
# English names that stand for two things: images to look at and their number, a text and a prompt's text.
TWO_THINGS = {"images"}
languages = pytest.mark.parametrize("language", SAME)


def read(language, file="nodeDefs"):
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text("utf-8"))


def leaves(tree, path=()):
    if isinstance(tree, str):
        yield path, tree
        return
    for key, branch in tree.items():
        yield from leaves(branch, (*path, key))


def pairs(language):
    """English beside the language: (path, English, other)."""
    other = dict(leaves(read(language)))
    return [(path, text, other[path]) for path, text in leaves(read("en"))]


def test_every_language_is_tested():
    assert {path.name for path in (ROOT / "locales").iterdir()} == {"en", *SAME}


@languages
def test_a_language_has_the_texts_of_english(language):
    assert [path for path, _ in leaves(read(language))] == [path for path, _ in leaves(read("en"))]


@languages
def test_nothing_is_left_in_english(language):
    assert {other for _, english, other in pairs(language) if english == other} == SAME[language]


def inputs():
    """The English names of inputs, which languages translate."""
    return {name for of in read("en").values() for name in of.get("inputs", {})}


def kept(text):
    """What no language translates: numbers, paths, names of files and formats, and values that a tooltip explains."""
    values = re.findall(r"(?:^|[.;] )([a-z]+):", text)
    found = {*values, *re.findall(r"\d+(?:\.\d+)?|\w[\w.-]*[/_](?:[\w./-]*\w)?|safetensors|JSON|HTML|CFG|KL|LoRA",
                                  text, re.ASCII)}
    return sorted(found - {name for name in inputs() if "_" in name})


@languages
def test_numbers_paths_and_values_are_kept(language):
    for path, english, other in pairs(language):
        if path[-1] in ("name", "display_name"):
            continue
        assert [part for part in kept(english) if part not in other] == [], path


@languages
def test_texts_call_nodes_by_their_names_in_that_language(language):
    short = {read("en")[node]["display_name"].partition(" (")[0]: re.split(r" ?[(（]", of["display_name"])[0]
             for node, of in read(language).items() if "Classifier (" not in read("en")[node]["display_name"]}
    for path, english, other in pairs(language):
        named = [name for name in short if re.search(rf"{name}\b", english)]
        assert [short[name] for name in named if short[name] not in other] == [], path


@languages
def test_one_thing_has_one_name(language):
    names = {}
    for path, english, other in pairs(language):
        if path[-1] in ("name", "display_name") and english not in TWO_THINGS:
            names.setdefault(english, set()).add(other)
    assert {english: others for english, others in names.items() if len(others) > 1} == {}


@pytest.mark.parametrize("language", ["en", *SAME])
def test_no_text_holds_what_the_frontend_reads_as_a_placeholder(language):
    assert [path for path, text in leaves(read(language)) if set(text) & set("{}@|")] == []


# --- the panel's own words ---

@languages
def test_the_panel_has_its_words_in_every_language(language):
    """web/debias.js looks them up by the English ones."""
    script = (ROOT / "web" / "debias.js").read_text("utf-8")
    words = read(language, "main")["debiasPanel"]
    assert words.keys() == set(re.findall(r'\bword\("(.+?)"', script))
    for english, other in words.items():
        assert other != english and sorted(re.findall(r"{\w+}", other)) == sorted(re.findall(r"{\w+}", english))


# --- help pages ---

def page(node, language):
    folder = ROOT / "web" / "docs"
    return (folder / f"{node}.md" if language == "en" else folder / node / f"{language}.md").read_text("utf-8")


def test_no_help_page_is_of_another_node_or_language():
    folder = ROOT / "web" / "docs"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")} == {
        place for node in read("en") for place in (f"{node}.md", *(f"{node}/{language}.md" for language in HELP))}


@pytest.mark.parametrize("language", ["en", *HELP])
@pytest.mark.parametrize("node", read("en"))
def test_a_help_page_says_what_the_node_shows(node, language):
    known, text = read(language)[node], page(node, language)
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE)
    # English pages name inputs by their ids, which English nodes show but for one.
    slots = [(name if language == "en" else of["name"], of) for name, of in known.get("inputs", {}).items()]
    slots += [(of["name"], of) for of in known["outputs"].values()]
    assert text.startswith(f"# {known['display_name']}\n") and [name for name, _ in rows] == [name for name, _ in slots]
    assert [row for row, (_, of) in zip(rows, slots) if row[1] != of.get("tooltip", row[1])] == []


@pytest.mark.parametrize("language", HELP)
@pytest.mark.parametrize("node", read("en"))
def test_a_help_page_keeps_numbers_paths_and_code(node, language):
    english, other = (page(node, of).partition("\n## ")[2].rpartition("\n## ")[2] for of in ("en", language))
    translated = inputs() | {"positive", "name_2"}
    code = {part for part in re.findall(r"`([^`\n]+)`", english) if "<" not in part}
    blocks = re.findall(r"```\n.+?```", english, re.DOTALL)
    assert [part for part in {*kept(english), *code, *blocks} - translated if part not in other] == []
