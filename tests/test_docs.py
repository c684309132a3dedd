"""README, docs and .github: links lead somewhere, examples run, commands exist, figures are of the version."""
import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import sd_debias.core as core
from sd_debias.core.errors import DebiasError
from sd_debias.core.version import VERSION
from sd_debias.diffusers_host.cli import options
from sd_debias.diffusers_host.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
FOREIGN = {"--write-table", "--pictures", "--out", "--models", "--compile", "--index-url",
           "--strict", "--api", "--no-deps", "--dtype", "--device"}  # of benchmarks, pip and hosts
NEEDS_A_MODEL = ("\"MODEL\"", "\"CLIP\"")  # placeholders of examples that cannot run here


def text_of(path):
    return path.read_text("utf-8")


def unfenced(path):
    return FENCE.sub("", text_of(path))


def links(page):
    """What a page links or shows, outside of its code."""
    prose = re.sub(r"`[^`\n]+`", "`code`", unfenced(page))
    return [one or other for one, other in LINK.findall(prose)]


def anchors(path):
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = []
    for title in re.findall(r"^#{1,6} +(.+?) *$", unfenced(path), re.MULTILINE):
        title = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower())
        found.append(title.strip().replace(" ", "-"))
    before = [found[:i].count(name) for i, name in enumerate(found)]
    return {f"{name}_{count}" if count else name for name, count in zip(found, before)}


def blocks(path, language):
    return [code for name, code in FENCE.findall(text_of(path)) if name == language]


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_picture_and_file_of_a_page_is_there(page):
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.is_file(), f"{page.name} links {target}, which is not there"
        if page.parent.name == "docs":
            assert place.parent.is_relative_to(ROOT / "docs"), f"{target} is no part of the site"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links {target}, but {place.name} has no such heading"
    folders = "core|nodes|webui_extension|diffusers_host|tests|benchmarks|examples"
    for named in re.findall(rf"`((?:{folders})/[\w/.]+\.\w+)(?::\d+)?`", text_of(page)):
        assert (ROOT / named).exists(), f"{page.name} names {named}, which is not there"


def test_the_site_lists_every_page_once():
    def listed(part):
        return [part] if isinstance(part, str) else [
            page for item in (part.values() if isinstance(part, dict) else part) for page in listed(item)]

    site = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    nav, beside = listed(site["nav"]), [page.lstrip("/") for page in site["not_in_nav"].split()]
    assert sorted(nav + beside) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    linked = {link.partition("#")[0] for page in nav for link in links(ROOT / "docs" / page)}
    assert not set(beside) - linked, f"no page of the navigation links {set(beside) - linked}"
    assert len(nav) <= 20


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    (tmp_path / "mkdocs.yml").write_text(text_of(ROOT / "mkdocs.yml").replace("build/site", "site"), "utf-8")
    for part in ("docs", "core", "diffusers_host", "package"):
        shutil.copytree(ROOT / part, tmp_path / part)
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in site.glob("*.html")}
    assert 'class="docstring"' in (site / "api.html").read_text("utf-8")
    for page in site.glob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", page.read_text("utf-8"))
        assert not loaded, f"{page.name} loads {loaded}"


# The front door


def answers() -> dict[str, str]:
    """Of each page of figures, the question and the answer that docs/benchmarks.md has of it."""
    rows = [line.split("|") for line in text_of(ROOT / "docs" / "benchmarks.md").splitlines() if line.startswith("|")]
    return {page: f"**{row[1].strip()}** {row[2].strip()}" for row in rows
            for page in re.findall(r"\((\w+)\.md\)", row[3] if len(row) > 3 else "")}


def test_every_page_of_rows_is_one_of_the_benchmarks():
    assert {path.name.split(".")[0] for path in (ROOT / "docs" / "rows").glob("*.gz")} <= set(answers())


@pytest.mark.parametrize("page", answers())
def test_a_page_of_figures_begins_with_what_it_shows(page):
    assert text_of(ROOT / "docs" / f"{page}.md").split("\n\n")[1] == answers()[page]


def test_the_readme_has_the_two_commands_and_is_honest_about_its_figures():
    text = " ".join(text_of(ROOT / "README.md").split())
    for sentence in ("python install.py demo", "python install.py test",
                     "pip install torch --index-url https://download.pytorch.org/whl/cpu",
                     "All figures of effect come from the demo model",
                     "The paper does not publish its update rule, so we designed our own"):
        assert sentence in text, sentence
    assert "python install.py test" in text_of(ROOT / ".ci" / "run").replace('"$python"', "python")


def test_the_figures_of_the_readme_are_those_of_the_page():
    rows = [line.split("|")[1:-1] for line in text_of(ROOT / "docs" / "effect.md").splitlines()
            if re.match(r"\| (gender|tone|both|gender 70:30) \| 20 \|", line)]
    readme = text_of(ROOT / "README.md")
    assert len(rows) == 5
    for row in rows:
        before, after, farthest, pictures = (row[i].strip() for i in (3, 4, 8, 9))
        assert f"| {before} → {after} | {farthest} points | {pictures} |" in readme, row


# Examples


EXAMPLES = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda path: path.name)
def test_every_python_example_is_python_and_imports_what_is_there(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("sd_debias"):
                module = __import__(node.module, fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), code


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in EXAMPLES if page.name != "extending.md"],
                         ids=lambda path: path.name)
def test_every_python_example_that_needs_no_model_of_yours_runs(page, tmp_path, monkeypatch):
    """In a folder with two photographs, which are noise, since images of one colour do not count. What
    docs/extending.md shows is run by tests/core/test_public.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    for name, size in (("tall", (40, 60)), ("wide", (60, 40))):
        Image.effect_noise(size, 50).save(tmp_path / "photographs" / f"{name}.png")
    for code in blocks(page, "python"):
        if not any(name in code for name in NEEDS_A_MODEL):
            exec(compile(code, page.name, "exec"), {"__name__": "example"})


# Commands


def shown(path):
    """Commands in a page's blocks, as words: the lines that begin with sd-debias, whatever stands for a prompt."""
    for _, code in FENCE.findall(text_of(path)):
        for line in code.replace("\\\n", " ").splitlines():
            if line.strip().startswith("sd-debias "):
                yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [page for page in [*PAGES, *HELP] if any(shown(page))],
                         ids=lambda path: path.stem)
def test_every_command_that_is_shown_is_understood(page):
    for words in shown(page):
        try:
            options.parsed(COMMANDS, words)
        except (SystemExit, DebiasError) as error:
            pytest.fail(f"sd-debias {' '.join(words)}: {error}")


@pytest.mark.parametrize("page", [*PAGES, *HELP], ids=lambda path: path.stem)
def test_every_command_and_option_that_is_mentioned_exists(page):
    known = {name: {option.flag or options.flag_of(key) for key, option in options.options_of(use).items()}
             for name, use in options.USES.items()}
    for code in re.findall(r"`sd-debias ([^`\n]+)`", unfenced(page)):
        command, *words = code.split()
        if command.startswith("-") or command.isupper():  # --version; COMMAND
            continue
        assert command in known, f"{page.name} names sd-debias {command}"
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= {*known[command], "--help", options.HELP_ALL}, code
    if page.stem in ("prompts", "limits", "choosing_a_judge", "sweep", "attributes", "python",
                     "troubleshooting"):
        every = {"--help", options.HELP_ALL, "--version"}.union(*known.values())
        assert set(re.findall(r"`(--[a-z-]+)", unfenced(page))) - FOREIGN <= every


# API, versions, forms


def test_the_api_page_has_every_public_name_and_nothing_else():
    text = text_of(ROOT / "docs" / "api.md")
    named = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    constants = {name for line in re.findall(r"^Constants: (.+)$", text, re.MULTILINE)
                 for name in re.findall(r"`(\w+)`", line)}
    assert {name.rpartition(".")[2] for name in named if name.startswith("core.")} | constants == set(core.__all__)
    for name in named:
        module, _, thing = name.rpartition(".")
        found = getattr(__import__(f"sd_debias.{module}", fromlist=["_"]), thing)
        assert found.__doc__, name
        if name.startswith("core."):
            assert core._WHERE[thing] == module.removeprefix("core."), name


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert citation["version"] == VERSION and citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert any("2402.14577" in str(reference) for reference in citation["references"])
    assert f"## [{VERSION}]" in text_of(ROOT / "CHANGELOG.md")
    assert "core.version.VERSION" in text_of(ROOT / "pyproject.toml")  # it stands nowhere else


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_the_forms_and_workflows_are_yaml(path):
    found = yaml.safe_load(text_of(path))
    if path.parent.name == "workflows":
        assert found["jobs"] and found[True] and found["permissions"] == {"contents": "read"}  # "on" is YAML's true
        for job in found["jobs"].values():
            assert job["runs-on"] and job["steps"] and job["timeout-minutes"]
            for step in job["steps"]:
                assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False
        for action in re.findall(r"uses: (.*)", text_of(path)):  # a tag may be moved, a commit not
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v[0-9.]+", action), action
    elif path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert found["name"] and found["description"]
        asked = {part.get("id"): part.get("validations", {}).get("required") for part in found["body"]}
        assert path.name == "idea.yml" or asked["card" if path.name == "card.yml" else "doctor"]
