"""Audits, checks and corrections by the command line on the embedded demo model, with few pictures."""
import base64
import csv
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.labelled import FORM
from sd_debias.core.distribution import summarise
from sd_debias.core.statistics import corrected_shares
from sd_debias.core.judge.check import Check
from sd_debias.core.profile.file import Profile
from sd_debias.demo_model.model import FOLDER
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.workbench import Workbench

pytestmark = pytest.mark.usefixtures("one_demo_model")
PROMPT = "a photo of a nurse"
AUDIT = ["audit", "--prompt", PROMPT, "--count", "6", "--batch-size", "6", "--steps", "4"]
CHECK = ["check", "--count", "4", "--batch-size", "4", "--steps", "4"]


def page_of(out):
    """What the page of pictures and labels holds."""
    text = (out / "labels.html").read_text("utf-8")
    return json.loads(re.search('id="data">(.*?)</script>', text, re.S)[1])


def table_of(out):
    return list(csv.DictReader((out / "labels.csv").open(encoding="utf-8", newline="")))


def figures(out):
    return json.loads((out / "audit.json").read_text())["audits"][0]["attributes"]["gender"]


def corrections(folder, runs):
    file = folder / "corrections.json"
    file.write_text(json.dumps({"form": FORM, "runs": runs}))
    return str(file)


def flipped(section, at):
    """As the page saves it: this picture's label turned to the other group."""
    item, (attribute,) = section["items"][at], section["attributes"]
    return {section["run"]: {attribute["name"]: {item["key"]: attribute["groups"][1 - item["labels"][0][0]]}}}


JUDGE = "CLIP classifier"  # the demo's


def a_check(folder, counts=((9, 1), (2, 8)), name="check.json"):
    own = Check("gender", GENDER.names, counts, (0, 0), JUDGE, ("a man", "a woman"))
    (folder / name).write_text(json.dumps({"checks": [own.to_dict()]}))
    return str(folder / name)


@pytest.fixture(scope="module")
def audited(one_demo_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "out"
    assert main([*AUDIT, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def checked(one_demo_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("check") / "out"
    assert main([*CHECK, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def folder(one_demo_model, tmp_path_factory):
    """Pictures of the demo model, one in a sub-folder, and one file that is none."""
    root = tmp_path_factory.mktemp("pictures") / "drawn"
    for prompt, seed, out in ((PROMPT, 0, root), ("a photo of a judge", 10, root / "more")):
        assert main(["generate", "--prompt", prompt, "--count", "3", "--batch-size", "3", "--steps", "4", "--seed",
                     str(seed), "--out", str(out)]) == 0
    (root / "broken.png").write_bytes(b"no picture")
    return root


# --- audits of the model -------------------------------------------------------------------------

def test_an_audit_leaves_its_pictures_and_labels_as_a_page_and_a_table(audited):
    assert {path.name for path in audited.iterdir()} == {"audit.json", "audit-1.png", "labels.html", "labels.csv"}
    rows, (section,) = table_of(audited), page_of(audited)["sections"]
    assert [row["picture"] for row in rows] == [item["key"] for item in section["items"]] == [
        f"seed {i}" for i in range(6)]
    labels = [GENDER.names[item["labels"][0][0]] for item in section["items"]]
    assert [row["gender"] for row in rows] == labels and {row["title"] for row in rows} == {PROMPT}
    assert [labels.count(name) for name in GENDER.names] == figures(audited)["counts"]
    assert section["title"] == PROMPT and section["hidden"] == 0
    small = Image.open(io.BytesIO(base64.b64decode(section["items"][0]["src"].partition(",")[2])))
    assert max(small.size) <= 160 and np.asarray(small.convert("RGB")).std() > 10  # not empty


def test_labels_corrected_by_hand_change_the_figures_of_the_same_audit(audited, tmp_path, capsys):
    section, = page_of(audited)["sections"]
    before = figures(audited)
    file = corrections(tmp_path, flipped(section, 2))
    assert main([*AUDIT, "--corrections", file, "--out", str(tmp_path / "out")]) == 0
    said, after = capsys.readouterr().out, figures(tmp_path / "out")
    assert "1 label corrected by hand" in said
    assert sorted(np.subtract(after["counts"], before["counts"])) == [-1, 1]
    told = summarise(after["counts"], GENDER.target)
    assert np.allclose(after["intervals"], told.intervals) and f"man {told.shares[0]:.1%} [" in said
    corrected, = page_of(tmp_path / "out")["sections"]
    assert corrected["run"] == section["run"]
    assert corrected["items"][2]["labels"][0][0] == 1 - section["items"][2]["labels"][0][0]
    assert table_of(tmp_path / "out")[2]["gender"] == GENDER.names[corrected["items"][2]["labels"][0][0]]


def test_corrections_of_another_run_are_refused(audited, folder, tmp_path, refused, capsys):
    file = corrections(tmp_path, flipped(page_of(audited)["sections"][0], 0))
    for other in ([*AUDIT, "--cfg", "1.5"], of_images(folder)):
        assert main([*other, "--corrections", file]) == 2
        assert "corrections are of another run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [AUDIT, CHECK], ids=["audit", "check"])
def test_what_is_no_file_of_corrections_is_said_first(tmp_path, monkeypatch, refused, command):
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", None)  # no model is loaded
    refused([*command, "--corrections", tmp_path / "c.json"], "No such file")
    (tmp_path / "c.json").write_text("{}")
    refused([*command, "--corrections", tmp_path / "c.json"], "a file of corrections")


def test_pictures_and_labels_are_not_replaced_unasked(audited, tmp_path, refused):
    own = shutil.copytree(audited, tmp_path / "own")
    (own / "audit.json").unlink()
    before = {path: path.read_bytes() for path in own.iterdir()}
    refused([*AUDIT, "--out", own], "labels.html' exists already")
    assert {path: path.read_bytes() for path in own.iterdir()} == before


# --- checks --------------------------------------------------------------------------------------

def test_check_makes_pictures_of_each_group_and_writes_what_the_judge_said(checked):
    assert {path.name for path in checked.iterdir()} == {"check.json", "labels.html", "labels.csv"}
    document = json.loads((checked / "check.json").read_text())
    own = Check.from_dict(document["checks"][0])
    assert own.attribute == "gender" and own.by == "prompts" and own.obeyed is None
    assert np.sum(own.counts) + sum(own.left_out) == 8
    assert all("doctor" in prompt for prompt in own.prompts) and own.prompts[0].endswith("a man")
    rows = table_of(checked)
    for i, prompt in enumerate(own.prompts):  # a row of the matrix is what the table says of its pictures
        labels = [row["gender"] for row in rows if row["title"] == prompt]
        assert [labels.count(name) for name in GENDER.names] == list(own.counts[i]) and len(labels) == 4
    assert len({row["picture"] for row in rows}) == 8  # each group has seeds of its own
    assert [section["title"] for section in page_of(checked)["sections"]] == list(own.prompts)


def turned(images):
    return np.array([[.9, .1]] * len(images), np.float32)


def judged_by(judge, monkeypatch):
    monkeypatch.setattr(Workbench, "judges", lambda self, asked: ([judge] * len(asked), None))


def test_a_judge_that_sees_one_group_only_is_warned_of(monkeypatch, capsys):
    judged_by(turned, monkeypatch)
    assert main(CHECK) == main([*CHECK, "--json"]) == 0
    words, _, document = capsys.readouterr().out.partition("{")
    assert "man: 100 % [51, 100] of 4 pictures labelled correctly" in words
    assert "woman: 0 % [0, 49] of 4 pictures labelled correctly, 100 % as man" in words
    assert "Warning: only 0 % of the pictures of 'woman'" in words
    assert "does not tell the groups of 'gender' apart" in words
    found = json.loads("{" + document)
    assert found["checks"][0]["groups"] == ["man", "woman"] and len(found["warnings"]) == 2


def test_a_check_with_corrections_tells_the_judges_errors_from_the_models(checked, tmp_path, capsys):
    sections = page_of(checked)["sections"]
    file = corrections(tmp_path, {**flipped(sections[0], 0)})
    assert main([*CHECK, "--corrections", file, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    first = Check.from_dict(json.loads((checked / "check.json").read_text())["checks"][0])
    own = Check.from_dict(json.loads((tmp_path / "out" / "check.json").read_text())["checks"][0])
    assert "1 label corrected by hand" in said and own.by == "hand"
    assert own.counts == ((3, 0), (1, 4)) if first.counts == ((4, 0), (0, 4)) else own.counts != first.counts
    assert own.obeyed is not None and own.obeyed[0] == (3, 4) and own.obeyed[1][1] == 4
    assert "the model shows 'man' in 75 % of the pictures whose prompt states it" in said


def test_an_audit_by_a_checked_judge_prints_corrected_shares(audited, checked, tmp_path, capsys):
    counts = ((9, 1), (3, 7))
    assert main([*AUDIT, "--check", a_check(tmp_path, counts), "--out", str(tmp_path / "out")]) == 0
    said, found = capsys.readouterr().out, figures(tmp_path / "out")
    measured = figures(audited)["counts"]
    best, edges = corrected_shares(measured, counts)
    assert found["counts"] == measured and np.allclose(found["corrected"], best)
    assert np.allclose(found["corrected_intervals"], edges)
    assert f"check: man {best[0]:.1%} [{edges[0][0]:.1%}, {edges[0][1]:.1%}]" in said
    assert "only 70 % of the pictures of 'woman'" in said
    assert main([*AUDIT, "--check", str(checked / "check.json")]) == 0  # what the command wrote
    assert "corrected by the classifier's check" in capsys.readouterr().out


def checks_of(**changes):
    return {"checks": [dict(attribute="gender", groups=["man", "woman"], counts=[[5, 0], [0, 5]],
                            left_out=[0, 0]) | changes]}


@pytest.mark.parametrize("document, facts", [
    ({}, ["check.json' is not a check"]), ({"checks": "x"}, ["check.json' is not a check"]),
    ({"checks": [1]}, ["got 1"]), (checks_of(counts=[[5, -1], [0, 5]]), ["'counts[0][1]'", "-1"]),
    (checks_of(groups=["a", "b"]), ["'gender' (a, b)", "'gender' (man, woman)"]),
    (checks_of(attribute="age", groups=["a", "b"]), ["'age'", "--attribute"])])
def test_a_check_that_does_not_fit_is_one_sentence(tmp_path, monkeypatch, refused, document, facts):
    monkeypatch.setattr(Workbench, "render", lambda *_: pytest.fail("a picture is made first"))
    (tmp_path / "check.json").write_text(json.dumps(document))
    refused([*AUDIT, "--check", tmp_path / "check.json"], *facts)


def test_two_checks_of_one_attribute_are_not_dropped_silently(tmp_path, refused):
    one, two = a_check(tmp_path), a_check(tmp_path, ((7, 3), (3, 7)), name="two.json")
    refused([*AUDIT, "--check", one, "--check", two], "check")


# --- audits of folders ---------------------------------------------------------------------------

def of_images(folder, *options):
    return ["audit", "--folder", str(folder), "--classifier", "demo", "--batch-size", "4",
            *map(str, options)]


def of_folder(folder, *options):
    return main(of_images(folder, *options))


def test_the_pictures_of_a_folder_are_audited_without_a_model(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", None)
    assert of_folder(folder, "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"audit.json", "labels.html", "labels.csv"}
    document, rows = json.loads((tmp_path / "audit.json").read_text()), table_of(tmp_path)
    found = document["attributes"]["gender"]
    assert (document["pictures"], found["n"], found["unsure"]) == (7, 6, 1)
    assert [row["picture"].rpartition(" ")[0] for row in rows] == [
        "0.png", "1.png", "2.png", "broken.png", "more/10.png", "more/11.png", "more/12.png"]
    labels = [row["gender"] for row in rows]
    assert [labels.count(name) for name in GENDER.names] == found["counts"]
    assert found["groups"] == ["man", "woman"]
    assert "could not be read: broken.png" in said and "not finite" not in said
    told = summarise(found["counts"], GENDER.target, 1)
    assert told.line("gender", GENDER.names) in said and np.allclose(found["intervals"], told.intervals)


def test_a_folders_judge_sees_what_the_models_judge_sees(audited, tmp_path):
    """The same pictures have the same labels, made or read."""
    assert main(["generate", "--prompt", PROMPT, "--count", "6", "--batch-size", "6", "--steps", "4", "--out",
                 str(tmp_path / "in")]) == 0
    assert of_folder(tmp_path / "in", "--out", tmp_path / "out") == 0
    labels = {row["picture"].partition(".")[0]: row["gender"] for row in table_of(tmp_path / "out")}
    assert labels == {row["picture"].removeprefix("seed "): row["gender"] for row in table_of(audited)}


def test_shares_of_a_folder_are_corrected_by_a_check_and_by_hand(folder, tmp_path, capsys):
    assert of_folder(folder, "--check", a_check(tmp_path), "--json", "--out", tmp_path / "one") == 0
    document = json.loads(capsys.readouterr().out)
    found = document["attributes"]["gender"]
    assert found["n"] == 6 and document["unreadable"][0].startswith("broken.png")
    assert np.allclose(found["corrected"], corrected_shares(found["counts"], ((9, 1), (2, 8)))[0])
    section, = page_of(tmp_path / "one")["sections"]
    file = corrections(tmp_path, flipped(section, 4))
    assert of_folder(folder, "--out", tmp_path / "two", "--corrections", file) == 0
    assert "1 label corrected by hand" in capsys.readouterr().out
    after = json.loads((tmp_path / "two" / "audit.json").read_text())["attributes"]["gender"]
    assert sorted(np.subtract(after["counts"], found["counts"])) == [-1, 1]
    assert page_of(tmp_path / "two")["sections"][0]["run"] == section["run"]


def test_a_folder_needs_a_classifier_and_pictures(folder, tmp_path, refused):
    refused(["audit", "--folder", folder], "CLIP", "--classifier")
    refused(of_images(tmp_path), "holds no pictures")
    refused(of_images(tmp_path / "nowhere"), "There is no folder")


def test_the_folder_where_one_stands_has_a_name_on_its_page(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert of_folder(".", "--out", tmp_path) == 0
    text = (tmp_path / "labels.html").read_text("utf-8")
    assert re.search("<h1>([^<]*)</h1>", text)[1].strip() and re.search("<title>[^:<]", text)


# --- options -------------------------------------------------------------------------------------

def test_people_without_a_detector_are_one_sentence(folder, monkeypatch, refused):
    for module in ("cv2", "dlib"):
        monkeypatch.setitem(sys.modules, module, None)
    for command, look in ((AUDIT, "people"), (of_images(folder), "largest-face")):
        refused([*command, "--look", look], "face detector", "pip install dlib-bin")


@pytest.mark.parametrize("arguments, facts", [
    (["check", "--overwrite"], ["--overwrite", "--out"]),
    ([*AUDIT, "--detector", "dlib"], ["--detector", "--look largest-face"]),
    (["check", "--detector", "dlib", "--look", "picture"], ["--detector", "--look largest-face"]),
    (["audit"], ["--prompt", "--folder"]),
    *((["audit", "--folder", ".", *given], [" and ".join(given[::2]), "--folder"]) for given in (
        ["--prompt", "x"], ["--count", "5", "--seed", "0"], ["--width", "64", "--height", "64"],
        ["--steps", "5"], ["--model", "folder"])),
    ([*AUDIT, "--corrections", ""], ["--corrections", "empty"]),
    ([*AUDIT, "--look", "faces"], ["'faces'"]),
])
def test_options_that_do_nothing_are_refused(arguments, facts, refused):
    refused(arguments, *facts)


class Crowd:
    """A judge of every face."""

    def faces(self, images):
        return np.full(len(images), 2)

    def people(self, images):
        return [np.array([[.9, .1], [.1, .9]], np.float32)] * len(images)

    def __call__(self, images):
        return turned(images)


def test_people_can_be_audited_and_not_calibrated(tmp_path, monkeypatch, capsys, refused):
    judged_by(Crowd(), monkeypatch)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*AUDIT, "--out", str(one)]) == 0
    said, (section,) = capsys.readouterr().out, page_of(one)["sections"]
    assert "N = 12 persons in 6 images" in said and section["people"] is True
    assert [item["labels"] for item in section["items"]] == [[[0, 1]]] * 6
    assert [(row["person"], row["faces"]) for row in table_of(one)] == [("1", "2"), ("2", "2")] * 6
    own = {"gender": {"seed 3#1": "woman", "seed 4#2": None}}
    file = corrections(tmp_path, {section["run"]: own})
    assert main([*AUDIT, "--corrections", file, "--out", str(two)]) == 0
    assert "2 labels corrected by hand" in capsys.readouterr().out
    assert figures(one)["counts"] == [6, 6] and figures(two)["counts"] == [5, 6]
    refused(["calibrate", "--prompt", PROMPT, "--steps", "4", "--out", tmp_path / "calibration"],
            "one label per picture", "largest face")


# --- calibrations --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def calibrated(one_demo_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated")
    assert main(["calibrate", "--prompt", PROMPT, "--count", "8", "--rounds", "1", "--held-out",
                 "8", "--batch-size", "8", "--steps", "4", "--check", a_check(out), "--name",
                 "nurse", "--out", str(out / "out")]) == 0
    return out / "out"


def test_a_profile_and_its_report_keep_the_check_that_their_shares_were_corrected_by(calibrated):
    profile = Profile.load(calibrated / "profile.json")
    own, = profile.checks
    assert (own.counts, own.attribute, own.judge) == (((9, 1), (2, 8)), "gender", JUDGE)
    assert json.loads((calibrated / "profile.json").read_text())["checks"] == [own.to_dict()]
    said = words_of(calibrated / "report.html")
    assert "CLIP classifier labelled pictures" in said and "Labelled man" in said
    assert "90 %" in said and "80 %" in said
    best, _ = corrected_shares(profile.entries[0].before[0]["counts"], ((9, 1), (2, 8)))
    assert f"{100 * max(best):.0f} % [" in said


def words_of(page):
    return " ".join(re.sub("<[^>]*>", " ", page.read_text("utf-8")).split())


def test_a_calibration_leaves_its_pictures_and_labels_too(calibrated, checked, audited):
    sections = page_of(calibrated)["sections"]
    assert [section["title"] for section in sections] == [f"{PROMPT}, audit", f"{PROMPT}, held-out"]
    assert all(len(section["items"]) == 8 for section in sections)
    assert sections[0]["run"] != sections[1]["run"]
    for command, out in (("audit", audited), ("check", checked)):  # which take corrections
        assert f"(sd-debias {command} --corrections FILE)" in words_of(out / "labels.html")
    assert "(sd-debias calibrate --corrections" not in words_of(calibrated / "labels.html")


def test_judges_and_models_of_a_hub_are_told_apart(monkeypatch):
    """60 pictures labelled by one judge were continued with another: hub ids, `photo` and `ita` all were None."""
    from sd_debias.diffusers_host.cli import parts
    told = {parts._told(text) for text in (
        "openai/clip-vit-base-patch32", "google/siglip", "gender=photo", "skin_tone=ita")}
    assert len(told) == 4
    assert parts._model_name("a/sdxl") != parts._model_name("b/sdxl")
    assert parts._model_name(str(FOLDER)) == FOLDER.name, "no place of this machine"


def test_a_lora_a_cache_or_a_compiled_denoiser_is_another_setting():
    """Rounds measured without them were continued with them."""
    from copy import deepcopy

    from diffusers import FirstBlockCacheConfig
    from tiny_pipelines import flux, sd

    from sd_debias.diffusers_host.workbench import pipeline_facts
    pipe = flux()
    plain = pipeline_facts(pipe)
    cached = deepcopy(pipe)
    cached.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    loaded = deepcopy(pipe)
    layer = loaded.transformer.proj_out
    layer.lora_A, layer.scaling = {}, {"style": 0.8}  # as peft's layers have them
    compiled = deepcopy(sd())
    before = pipeline_facts(compiled)
    compiled.unet.compile()
    facts = [pipeline_facts(each) for each in (cached, loaded)]
    assert plain not in facts and pipeline_facts(compiled) != before
    assert pipeline_facts(pipe) == plain and pipeline_facts(sd()) == before
    json.dumps(facts)
