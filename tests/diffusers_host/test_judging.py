"""Audits, checks and corrections by the command line on the embedded demo model, with few images."""
import csv
import json
import re
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from diffusers import FirstBlockCacheConfig
from tiny_pipelines import flux, sd

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.labelled import FORM
from sd_debias.core.judge.check import Check
from sd_debias.core.profile.file import Profile
from sd_debias.core.distribution import summarise
from sd_debias.core.statistics import corrected_shares
from sd_debias.demo_model.model import FOLDER
from sd_debias.diffusers_host.cli import parts
from sd_debias.diffusers_host.cli.main import main
from sd_debias.diffusers_host.workbench import Workbench, model_name, pipeline_facts

pytestmark = pytest.mark.usefixtures("one_demo_model")
PROMPT = "a photo of a nurse"
AUDIT = ["audit", "--prompt", PROMPT, "--count", "6", "--batch-size", "6", "--steps", "4"]
CHECK = ["check", "--count", "4", "--batch-size", "4", "--steps", "4"]
JUDGE = "CLIP classifier"  # the demo's
COUNTS = ((9, 1), (2, 8))


def page_of(out):
    """The sections of the page of images and labels."""
    text = (out / "labels.html").read_text("utf-8")
    return json.loads(re.search('id="data">(.*?)</script>', text, re.S)[1])["sections"]


def words_of(page):
    return " ".join(re.sub("<[^>]*>", " ", page.read_text("utf-8")).split())


def table_of(out):
    return list(csv.DictReader((out / "labels.csv").open(encoding="utf-8", newline="")))


def figures(out):
    document = json.loads((out / "audit.json").read_text())
    return document.get("audits", [document])[0]["attributes"]["gender"]


def counts_of(rows):
    labels = [row["gender"] for row in rows]
    return [labels.count(name) for name in GENDER.names]


def corrections(folder, runs):
    file = folder / "corrections.json"
    file.write_text(json.dumps({"form": FORM, "runs": runs}))
    return str(file)


def flipped(section, at):
    """As the page saves it: this image's label turned to the other group."""
    item, (attribute,) = section["items"][at], section["attributes"]
    other = attribute["groups"][1 - item["labels"][0][0]]
    return {section["run"]: {attribute["name"]: {item["key"]: other}}}


def a_check(folder, counts=COUNTS, name="check.json"):
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
    """The audit's images, three of them in a sub-folder, and one file that is none."""
    root = tmp_path_factory.mktemp("pictures") / "drawn"
    for seed, out in ((0, root), (3, root / "more")):
        assert main(["generate", *AUDIT[1:3], "--count", "3", "--batch-size", "3", "--steps", "4",
                     "--seed", str(seed), "--out", str(out)]) == 0
    (root / "broken.png").write_bytes(b"no picture")
    return root


# --- audits of the model -------------------------------------------------------------------------

def test_an_audit_leaves_its_pictures_and_labels_as_a_page_and_a_table(audited):
    assert {path.name for path in audited.iterdir()} == {"audit.json", "audit-1.png", "labels.html", "labels.csv"}
    rows, (section,) = table_of(audited), page_of(audited)
    keys = [f"seed {i}" for i in range(6)]
    assert [row["image"] for row in rows] == [item["key"] for item in section["items"]] == keys
    labels = [GENDER.names[item["labels"][0][0]] for item in section["items"]]
    assert [row["gender"] for row in rows] == labels and {row["title"] for row in rows} == {PROMPT}
    assert counts_of(rows) == figures(audited)["counts"]
    assert section["title"] == PROMPT and section["hidden"] == 0


@pytest.mark.slow
def test_labels_corrected_by_hand_change_the_figures_of_the_same_audit_and_of_no_other(
        audited, folder, tmp_path, capsys):
    (section,), out = page_of(audited), tmp_path / "out"
    file = corrections(tmp_path, flipped(section, 2))
    assert main([*AUDIT, "--corrections", file, "--out", str(out)]) == 0
    said, after, (corrected,) = capsys.readouterr().out, figures(out), page_of(out)
    assert "1 label corrected by hand" in said
    assert sorted(np.subtract(after["counts"], figures(audited)["counts"])) == [-1, 1]
    told = summarise(after["counts"], GENDER.target)
    assert np.allclose(after["intervals"], told.intervals) and f"man {told.shares[0]:.1%} [" in said
    label = corrected["items"][2]["labels"][0][0]
    assert corrected["run"] == section["run"] and label == 1 - section["items"][2]["labels"][0][0]
    for other in ([*AUDIT, "--cfg", "1.5"], of_images(folder)):
        assert main([*other, "--corrections", file]) == 2
        assert "corrections are of another run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [AUDIT, CHECK], ids=["audit", "check"])
def test_what_is_no_file_of_corrections_is_said_first(tmp_path, monkeypatch, refused, command):
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", None)  # no model is loaded
    refused([*command, "--corrections", tmp_path / "c.json"], "No such file")
    (tmp_path / "c.json").write_text("{}")
    refused([*command, "--corrections", tmp_path / "c.json"], "a file of corrections")


# --- checks --------------------------------------------------------------------------------------

def test_check_makes_pictures_of_each_group_and_writes_what_the_judge_said(checked):
    assert {path.name for path in checked.iterdir()} == {"check.json", "labels.html", "labels.csv"}
    own = Check.from_dict(json.loads((checked / "check.json").read_text())["checks"][0])
    assert own.attribute == "gender" and own.by == "prompts" and own.obeyed is None
    assert np.sum(own.counts) + sum(own.left_out) == 8
    assert all("doctor" in prompt for prompt in own.prompts) and own.prompts[0].endswith("a man")
    rows = table_of(checked)
    for prompt, counts in zip(own.prompts, own.counts):  # what the table says of its images
        of_prompt = [row for row in rows if row["title"] == prompt]
        assert counts_of(of_prompt) == list(counts) and len(of_prompt) == 4


def turned(images):
    return np.array([[.9, .1]] * len(images), np.float32)


def judged_by(judge, monkeypatch):
    monkeypatch.setattr(Workbench, "judges", lambda self, asked: ([judge] * len(asked), None))


def test_a_check_with_corrections_tells_the_judges_errors_from_the_models(checked, tmp_path, capsys):
    file = corrections(tmp_path, flipped(page_of(checked)[0], 0))
    assert main([*CHECK, "--corrections", file, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    first, own = (Check.from_dict(json.loads((out / "check.json").read_text())["checks"][0])
                  for out in (checked, tmp_path / "out"))
    assert "1 label corrected by hand" in said and own.by == "hand"
    assert own.obeyed is not None and own.obeyed[0] == (3, 4) and own.obeyed[1][1] == 4
    assert "the model shows 'man' in 75 % of the images whose prompt states it" in said


def test_an_audit_by_a_checked_judge_prints_corrected_shares(audited, checked, tmp_path, capsys):
    counts = ((9, 1), (3, 7))
    assert main([*AUDIT, "--check", a_check(tmp_path, counts), "--out", str(tmp_path / "out")]) == 0
    said, found = capsys.readouterr().out, figures(tmp_path / "out")
    measured = figures(audited)["counts"]
    best, edges = corrected_shares(measured, counts)
    assert found["counts"] == measured and np.allclose(found["corrected"], best)
    assert np.allclose(found["corrected_intervals"], edges)
    assert f": man {best[0]:.1%} [{edges[0][0]:.1%}, {edges[0][1]:.1%}]" in said
    assert "only 70 % of the images of 'woman'" in said
    assert main([*AUDIT, "--check", str(checked / "check.json")]) == 0  # what the command wrote
    assert "corrected by the judge's check" in capsys.readouterr().out


@pytest.mark.parametrize("own, facts", [
    (1, ["got 1"]), (dict(counts=[[5, -1], [0, 5]]), ["'counts[0][1]'", "-1"]),
    (dict(groups=["a", "b"]), ["'gender' (a, b)", "'gender' (man, woman)"]),
    (dict(attribute="age", groups=["a", "b"]), ["'age'", "--attribute"])])
def test_a_check_that_does_not_fit_is_one_sentence(tmp_path, monkeypatch, refused, own, facts):
    monkeypatch.setattr(Workbench, "render", lambda *_: pytest.fail("an image is made first"))
    file = a_check(tmp_path)
    (check,) = json.loads(Path(file).read_text())["checks"]
    Path(file).write_text(json.dumps({"checks": [check | own if own != 1 else own]}))
    refused([*AUDIT, "--check", file], *facts)


def test_two_checks_of_one_attribute_are_not_dropped_silently(tmp_path, refused):
    one, two = a_check(tmp_path), a_check(tmp_path, name="two.json")
    refused([*AUDIT, "--check", one, "--check", two], "check")


# --- audits of folders ---------------------------------------------------------------------------

def of_images(folder, *options):
    return ["audit", "--folder", str(folder), "--judge", "demo", "--batch-size", "4",
            *map(str, options)]


def test_a_folder_is_audited_without_a_model_as_the_models_pictures_are(
        audited, folder, tmp_path, monkeypatch, capsys):
    """From inside it, where it has a name on its page all the same."""
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", None)
    monkeypatch.chdir(folder)
    assert main(of_images(".", "--out", tmp_path)) == 0
    said = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"audit.json", "labels.html", "labels.csv"}
    found, rows = figures(tmp_path), table_of(tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text())["images"] == 7
    assert (found["n"], found["unsure"], found["groups"]) == (6, 1, ["man", "woman"])
    assert [row["image"].rpartition(" ")[0] for row in rows] == [
        "0.png", "1.png", "2.png", "broken.png", "more/3.png", "more/4.png", "more/5.png"]
    assert counts_of(rows) == found["counts"]
    assert "could not be read: broken.png" in said and "not finite" not in said
    told = summarise(found["counts"], GENDER.target, 1)
    assert told.line("gender", GENDER.names) in said and np.allclose(found["intervals"], told.intervals)
    text = (tmp_path / "labels.html").read_text("utf-8")
    assert re.search("<h1>([^<]*)</h1>", text)[1].strip()


def test_a_pass_is_audited_from_two_folders(folder, tmp_path, capsys):
    """With itself nobody changes; with the images in another order some do, and are shown side by side."""
    assert main(["audit", "--before", str(folder), "--after", str(folder), "--judge", "demo", "--out",
                 str(tmp_path / "same")]) == 0
    assert "gender: 0 of 6 pairs changed" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "same").iterdir()} == {"audit.json", "labels.html", "labels.csv"}
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    names = sorted(path.name for path in (other / "more").iterdir())
    for name, source in zip(names, reversed(names), strict=True):
        shutil.copy(folder / "more" / source, other / "more" / name)
    assert main(["audit", "--before", str(folder), "--after", str(other), "--judge", "demo", "--out",
                 str(tmp_path / "pass")]) == 0
    found = json.loads((tmp_path / "pass" / "audit.json").read_text())["attributes"]["gender"]
    labels = [row["gender"] for row in table_of(tmp_path / "pass")]
    assert found["changed"] == sum(a != b for a, b in zip(labels[:7], labels[7:], strict=True))
    assert (tmp_path / "pass" / "changed.png").exists() == bool(found["changed"])


def test_a_folder_needs_a_classifier_and_pictures(folder, tmp_path, refused):
    refused(["audit", "--folder", folder], "CLIP", "--judge")
    refused(of_images(tmp_path), "holds no images")
    refused(of_images(tmp_path / "nowhere"), "There is no folder")


def test_people_without_a_detector_are_one_sentence(folder, monkeypatch, refused):
    for module in ("cv2", "dlib"):
        monkeypatch.setitem(sys.modules, module, None)
    for command, look in ((AUDIT, "people"), (of_images(folder), "largest-face")):
        refused([*command, "--look", look], "face detector", "pip install dlib-bin")


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, facts", [
    (["check", "--overwrite"], ["--overwrite", "--out"]),
    ([*AUDIT, "--detector", "dlib"], ["--detector", "--look largest-face"]),
    (["audit"], ["--prompt", "--folder"]),
    (["audit", "--before", "."], ["--before", "--after"]),
    (["audit", "--before", ".", "--after", ".", "--prompt", "x"], ["--prompt and --before"]),
    (["audit", "--before", ".", "--after", ".", "--steps", "5"], ["--steps", "--before"]),
    (["audit", "--before", ".", "--after", ".", "--check", "x.json"], ["--check", "--before"]),
    *((["audit", "--folder", ".", *given], [" and ".join(given[::2]), "--folder"]) for given in (
        ["--prompt", "x"], ["--count", "5", "--seed", "0"], ["--width", "64", "--height", "64"],
        ["--steps", "5"], ["--model", "folder"])),
    ([*AUDIT, "--corrections", ""], ["--corrections", "empty"]),
    ([*AUDIT, "--look", "faces"], ["'faces'"]),
])
def test_options_that_do_nothing_are_refused(arguments, facts, refused):
    refused(arguments, *facts)


# --- calibrations --------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_calibration_keeps_the_check_that_corrected_its_shares_and_leaves_pictures_and_labels(
        checked, audited, tmp_path):
    out = tmp_path / "out"
    assert main(["calibrate", "--prompt", PROMPT, "--count", "8", "--rounds", "1", "--held-out",
                 "8", "--batch-size", "8", "--steps", "4", "--check", a_check(tmp_path),
                 "--out", str(out)]) == 0
    profile, sections = Profile.load(out / "profile.json"), page_of(out)
    own, = profile.checks
    assert (own.counts, own.attribute, own.judge) == (COUNTS, "gender", JUDGE)
    assert json.loads((out / "profile.json").read_text())["checks"] == [own.to_dict()]
    best, _ = corrected_shares(profile.entries[0].before[0]["counts"], COUNTS)
    for fact in ("CLIP classifier labelled images", "Labelled man", "90 %", "80 %", f"{100 * max(best):.0f} % ["):
        assert fact in words_of(out / "report.html")
    assert [section["title"] for section in sections] == [f"{PROMPT}, audit", f"{PROMPT}, held-out"]
    assert all(len(section["items"]) == 8 for section in sections)
    assert sections[0]["run"] != sections[1]["run"]
    for command, place in (("audit", audited), ("check", checked)):  # which take corrections
        assert f"(sd-debias {command} --corrections FILE)" in words_of(place / "labels.html")
    assert "(sd-debias calibrate --corrections" not in words_of(out / "labels.html")


def test_judges_and_models_of_a_hub_are_told_apart():
    """60 images labelled by one judge were continued with another: hub ids, `photo` and `ita` all were None."""
    told = {parts._told(text) for text in (
        "openai/clip-vit-base-patch32", "google/siglip", "gender=photo", "skin_tone=ita")}
    assert len(told) == 4
    assert model_name("a/sdxl") != model_name("b/sdxl")
    assert model_name(str(FOLDER)) == FOLDER.name, "no place of this machine"


@pytest.mark.slow
def test_a_lora_a_cache_or_a_compiled_denoiser_is_another_setting():
    """Rounds measured without them were continued with them."""
    pipe, other = flux(), sd()
    plain, before = pipeline_facts(pipe), pipeline_facts(other)
    cached, loaded = deepcopy(pipe), deepcopy(pipe)
    cached.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    layer = loaded.transformer.proj_out
    layer.lora_A, layer.scaling = {}, {"style": 0.8}  # as peft's layers have them
    facts = [pipeline_facts(each) for each in (cached, loaded)]
    json.dumps(facts)
    assert plain not in facts and pipeline_facts(pipe) == plain
    other.unet.compile()
    assert pipeline_facts(other) != before == pipeline_facts(sd())
