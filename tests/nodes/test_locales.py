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
# English names that stand for two things: images to look at and their number, a text and a prompt's text.
TWO_THINGS = {"images"}
languages = pytest.mark.parametrize("language", SAME)


def read(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


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


def kept(text):
    """What no language translates: numbers, paths, names of files and formats, and values that a tooltip explains."""
    values = re.findall(r"(?:^|[.;] )([a-z]+):", text)
    return sorted({*values, *re.findall(r"\d+(?:\.\d+)?|\w[\w.-]*[/_](?:[\w./-]*\w)?|safetensors|JSON|HTML|CFG|KL|LoRA",
                                        text, re.ASCII)})


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
