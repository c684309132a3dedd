"""Audits, checks and corrections by the command line on the embedded demo model, with few pictures."""
import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER
from sd_debias.core.audits.labelled import FORM
from sd_debias.core.calibration.statistics import corrected_shares, summarise
from sd_debias.core.judge.check import Check
from sd_debias.core.profile.file import Profile
from sd_debias.diffusers_host.cli.main import main

PROMPT = "a photo of a nurse"
AUDIT = ["audit", "--prompt", PROMPT, "--count", "6", "--batch-size", "6", "--steps", "4"]


def page_of(out):
    """What the page of pictures and labels holds."""
    text = (out / "labels.html").read_text("utf-8")
    return json.loads(re.search('id="data">(.*?)</script>', text, re.S)[1])


def table_of(out):
    return list(csv.DictReader((out / "labels.csv").open(encoding="utf-8", newline="")))


def figures(out, at=0):
    return json.loads((out / "audit.json").read_text())["audits"][at]["attributes"]["gender"]


def corrections(folder, runs, name="corrections.json"):
    (folder / name).write_text(json.dumps({"form": FORM, "runs": runs}))
    return str(folder / name)


def flipped(section, at):
    """As the page saves it: this picture's label turned to the other group."""
    item, (attribute,) = section["items"][at], section["attributes"]
    return {section["run"]: {attribute["name"]: {item["key"]: attribute["groups"][1 - item["labels"][0][0]]}}}


JUDGE = "CLIP classifier"  # the demo's


def a_check(folder, counts=((9, 1), (2, 8)), attribute=GENDER, name="check.json"):
    own = Check(attribute.name, attribute.names, counts, (0,) * len(counts), JUDGE, ("a man", "a woman"))
    (folder / name).write_text(json.dumps({"checks": [own.to_dict()]}))
    return str(folder / name)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "out"
    assert main([*AUDIT, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    out = tmp_path_factory.mktemp("check") / "out"
    assert main(["check", "--count", "4", "--batch-size", "4", "--steps", "4", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the demo model, one in a sub-folder, and one file that is none."""
    root = tmp_path_factory.mktemp("pictures") / "drawn"
    for prompt, seed, out in ((PROMPT, 0, root), ("a photo of a judge", 10, root / "more")):
        assert main(["generate", "--prompt", prompt, "--count", "3", "--batch-size", "3", "--steps", "4", "--seed",
                     str(seed), "--out", str(out)]) == 0
    (root / "broken.png").write_bytes(b"no picture")
    return root


# --- audits of the model ---------------------------------------------------------------------------------------------

def test_an_audit_leaves_its_pictures_and_labels_as_a_page_and_a_table(audited):
    assert {path.name for path in audited.iterdir()} == {"audit.json", "audit-1.png", "labels.html", "labels.csv"}
    rows, (section,) = table_of(audited), page_of(audited)["sections"]
    assert [row["picture"] for row in rows] == [item["key"] for item in section["items"]] == [
        f"seed {i}" for i in range(6)]
    labels = [GENDER.names[item["labels"][0][0]] for item in section["items"]]
    assert [row["gender"] for row in rows] == labels and {row["title"] for row in rows} == {PROMPT}
    assert [labels.count(name) for name in GENDER.names] == figures(audited)["counts"]
    assert section["title"] == PROMPT and section["hidden"] == 0


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


def test_corrections_of_another_run_are_refused(audited, tmp_path, capsys):
    file = corrections(tmp_path, flipped(page_of(audited)["sections"][0], 0))
    assert main([*AUDIT, "--cfg", "1.5", "--corrections", file]) == 2
    assert "corrections are of another run" in capsys.readouterr().err


@pytest.mark.parametrize("text, sentence", [
    ("{}", "a file of corrections"), ("[", "not readable JSON"), (None, "No such file")])
def test_what_is_no_file_of_corrections_is_said_before_any_picture_is_made(tmp_path, monkeypatch, capsys, text,
                                                                           sentence):
    monkeypatch.setattr("sd_debias.diffusers_host.workbench.demo", None)  # no model is loaded
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    for command in (AUDIT, ["check"]):
        assert main([*command, "--corrections", str(tmp_path / "c.json")]) == 2
        error = capsys.readouterr().err.strip()
        assert sentence in error and len(error.splitlines()) == 1


def test_pictures_and_labels_are_not_replaced_unasked(audited, capsys):
    before = {path: path.read_bytes() for path in audited.iterdir()}
    (audited / "audit.json").unlink()
    assert main([*AUDIT, "--out", str(audited)]) == 2
    (audited / "audit.json").write_bytes(before[audited / "audit.json"])
    assert "labels.html' exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in audited.iterdir()} == before


# --- checks ----------------------------------------------------------------------------------------------------------

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


def test_check_prints_the_matrix_in_words_and_in_json(capsys):
    asked = ["check", "--count", "4", "--batch-size", "4", "--steps", "4"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert re.search(r"gender, by .+:\n  man: \d+ % \[\d+, \d+\] of 4 pictures labelled correctly", said)
    assert "  woman: " in said
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checks"][0]["groups"] == ["man", "woman"] and "warnings" in document


def turned(images):
    return np.array([[.9, .1]] * len(images), np.float32)


def test_a_judge_that_sees_one_group_only_is_warned_of(monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "judges", lambda self, attributes: ([turned] * len(attributes), None))
    assert main(["check", "--count", "4", "--batch-size", "4", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "man: 100 % [51, 100] of 4 pictures labelled correctly" in said
    assert "woman: 0 % [0, 49] of 4 pictures labelled correctly, 100 % as man" in said
    assert "Warning: only 0 % of the pictures of 'woman' are labelled correctly" in said
    assert "does not tell the groups of 'gender' apart" in said


def test_a_check_with_corrections_tells_the_judges_errors_from_the_models(checked, tmp_path, capsys):
    sections = page_of(checked)["sections"]
    file = corrections(tmp_path, {**flipped(sections[0], 0)})
    assert main(["check", "--count", "4", "--batch-size", "4", "--steps", "4", "--corrections", file, "--out",
                 str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    first = Check.from_dict(json.loads((checked / "check.json").read_text())["checks"][0])
    own = Check.from_dict(json.loads((tmp_path / "out" / "check.json").read_text())["checks"][0])
    assert "1 label corrected by hand" in said and own.by == "hand"
    assert own.counts == ((3, 0), (1, 4)) if first.counts == ((4, 0), (0, 4)) else own.counts != first.counts
    assert own.obeyed is not None and own.obeyed[0] == (3, 4) and own.obeyed[1][1] == 4
    assert "the model shows 'man' in 75 % of the pictures whose prompt states it" in said


def test_a_check_that_is_interrupted_says_to_run_it_again(monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "render", interrupted)
    assert main(["check", "--count", "4"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_audit_by_a_checked_judge_prints_corrected_shares(audited, tmp_path, capsys):
    counts = ((9, 1), (3, 7))
    assert main([*AUDIT, "--check", a_check(tmp_path, counts), "--out", str(tmp_path / "out")]) == 0
    said, found = capsys.readouterr().out, figures(tmp_path / "out")
    measured = figures(audited)["counts"]
    best, edges = corrected_shares(measured, counts)
    assert found["counts"] == measured and np.allclose(found["corrected"], best)
    assert np.allclose(found["corrected_intervals"], edges)
    assert f"corrected by the classifier's check: man {best[0]:.1%} [{edges[0][0]:.1%}, {edges[0][1]:.1%}]" in said
    assert "only 70 % of the pictures of 'woman' are labelled correctly" in said


def test_a_check_that_check_wrote_can_be_given_to_an_audit(checked, capsys):
    assert main([*AUDIT, "--check", str(checked / "check.json")]) == 0
    assert "corrected by the classifier's check" in capsys.readouterr().out


@pytest.mark.parametrize("document, sentence", [
    ({}, "is not a check of a classifier"), ([], "is not a check of a classifier"),
    ({"checks": "x"}, "is not a check of a classifier"),
    ({"checks": [{}]}, "check of a classifier"), ({"checks": [1]}, "check of a classifier"),
    ({"checks": [{"attribute": "gender", "groups": ["man", "woman"], "counts": [[5, 5], [5, 5]], "left_out": [0, 0]}]},
     "does not tell the groups of 'gender' apart"),
    ({"checks": [{"attribute": "gender", "groups": ["a", "b"], "counts": [[5, 0], [0, 5]], "left_out": [0, 0]}]},
     "check is of 'gender' (a, b)"),
    ({"checks": [{"attribute": "age", "groups": ["a", "b"], "counts": [[5, 0], [0, 5]], "left_out": [0, 0]}]},
     "of attributes that are measured, got one of 'age'"),
    ({"checks": [{"attribute": "gender", "groups": ["man", "woman"], "counts": [[5, 0], [0, 0]], "left_out": [0, 9]}]},
     "no picture that was classified"),
    ({"checks": [{"attribute": "gender", "groups": ["man", "woman"], "counts": [[5, -1], [0, 5]], "left_out": [0, 0]}]},
     "check of a classifier")])
def test_a_check_that_does_not_fit_is_one_sentence(tmp_path, monkeypatch, capsys, document, sentence):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "render", lambda *_: pytest.fail("a picture is made first"))
    (tmp_path / "check.json").write_text(json.dumps(document))
    assert main([*AUDIT, "--check", str(tmp_path / "check.json")]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_two_checks_of_one_attribute_are_not_dropped_silently(tmp_path, capsys):
    one, two = a_check(tmp_path), a_check(tmp_path, ((7, 3), (3, 7)), name="two.json")
    assert main([*AUDIT, "--check", one, "--check", two]) == 2
    assert "check" in capsys.readouterr().err


# --- audits of folders -----------------------------------------------------------------------------------------------

def of_folder(folder, *options):
    return main(["audit", "--images", str(folder), "--classifier", "demo", "--batch-size", "4", *map(str, options)])


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
    assert [labels.count(name) for name in GENDER.names] == found["counts"] and found["groups"] == ["man", "woman"]
    assert "1 pictures could not be read: broken.png" in said or "1 picture could not be read: broken.png" in said
    told = summarise(found["counts"], GENDER.target, 1)
    assert told.line("gender", GENDER.names) in said and np.allclose(found["intervals"], told.intervals)


def test_an_unreadable_file_is_not_told_as_one_of_infinite_pixels(folder, capsys):
    assert of_folder(folder) == 0
    assert "not finite" not in capsys.readouterr().out


def test_a_folders_judge_sees_what_the_models_judge_sees(audited, tmp_path):
    """The same pictures have the same labels, made or read."""
    assert main(["generate", "--prompt", PROMPT, "--count", "6", "--batch-size", "6", "--steps", "4", "--out",
                 str(tmp_path / "in")]) == 0
    assert of_folder(tmp_path / "in", "--out", tmp_path / "out") == 0
    labels = {row["picture"].partition(".")[0]: row["gender"] for row in table_of(tmp_path / "out")}
    assert labels == {row["picture"].removeprefix("seed "): row["gender"] for row in table_of(audited)}


def test_a_folders_result_as_json_is_one_document(folder, capsys):
    assert of_folder(folder, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["attributes"]["gender"]["n"] == 6 and document["unreadable"][0].startswith("broken.png")


def test_labels_of_a_folder_corrected_by_hand_change_its_figures(folder, tmp_path, capsys):
    assert of_folder(folder, "--out", tmp_path / "one") == 0
    section, = page_of(tmp_path / "one")["sections"]
    file = corrections(tmp_path, flipped(section, 4))
    assert of_folder(folder, "--out", tmp_path / "two", "--corrections", file) == 0
    assert "1 label corrected by hand" in capsys.readouterr().out
    before, after = (json.loads((tmp_path / out / "audit.json").read_text())["attributes"]["gender"]["counts"]
                     for out in ("one", "two"))
    assert sorted(np.subtract(after, before)) == [-1, 1] and page_of(tmp_path / "two")["sections"][0]["run"] == \
        section["run"]


def test_corrections_of_the_model_are_not_those_of_a_folder(audited, folder, tmp_path, capsys):
    file = corrections(tmp_path, flipped(page_of(audited)["sections"][0], 0))
    assert of_folder(folder, "--corrections", file) == 2
    assert "corrections are of another run" in capsys.readouterr().err


def test_a_checked_judge_corrects_the_shares_of_a_folder(folder, tmp_path, capsys):
    assert of_folder(folder, "--check", a_check(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)["attributes"]["gender"]
    assert np.allclose(found["corrected"], corrected_shares(found["counts"], ((9, 1), (2, 8)))[0])


def test_an_interrupted_audit_of_a_folder_goes_on_with_the_same_command(folder, tmp_path, monkeypatch, capsys):
    from sd_debias.core.audits.folder import Labeller
    piece, calls = Labeller.piece, []

    def stopped(self, files, *more):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(files))
        return piece(self, files, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "piece", stopped)
        assert of_folder(folder, "--out", tmp_path / "out") == 130
        assert "4 of 7 pictures are labelled, and kept: run the same command again" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished.json"]
        calls.clear()
        assert of_folder(folder) == 130
        assert "With --out, what is done is kept" in capsys.readouterr().err
    seen = []
    monkeypatch.setattr(Labeller, "piece",
                        lambda self, files, *more: (seen.extend(files), piece(self, files, *more))[1])
    assert of_folder(folder, "--out", tmp_path / "out") == 0
    assert [file.name for file in seen] == ["10.png", "11.png", "12.png"]
    assert not (tmp_path / "out" / "unfinished.json").exists() and len(table_of(tmp_path / "out")) == 7


def test_a_folder_needs_a_classifier_and_pictures(folder, tmp_path, capsys):
    assert main(["audit", "--images", str(folder)]) == 2
    assert "Give the folder of a CLIP model with --classifier" in capsys.readouterr().err
    assert of_folder(tmp_path) == of_folder(tmp_path / "nowhere") == 2
    said = capsys.readouterr().err
    assert "holds no pictures" in said and "There is no folder" in said


def test_the_folder_where_one_stands_has_a_name_on_its_page(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert of_folder(".", "--out", tmp_path) == 0
    text = (tmp_path / "labels.html").read_text("utf-8")
    assert re.search("<h1>([^<]*)</h1>", text)[1].strip() and re.search("<title>[^:<]", text)


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_file_name_that_is_no_unicode_is_no_traceback(folder, tmp_path, capsys):
    shutil.copy(folder / "0.png", tmp_path / "plain.png")
    try:
        shutil.copy(folder / "0.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png").decode("utf-8",
                                                                                                  "surrogateescape"))
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    assert of_folder(tmp_path, "--out", tmp_path / "out") == 0
    assert "Traceback" not in capsys.readouterr().err and (tmp_path / "out" / "labels.html").exists()


# --- options ---------------------------------------------------------------------------------------------------------

def test_people_without_a_detector_are_one_sentence(folder, monkeypatch, capsys):
    import sys
    for module in ("cv2", "dlib"):
        monkeypatch.setitem(sys.modules, module, None)
    for command in (AUDIT, ["audit", "--images", str(folder), "--classifier", "demo"]):
        for look in ("people", "largest-face"):
            assert main([*command, "--look", look]) == 2
            error = capsys.readouterr().err.strip()
            assert "No face detector is installed" in error and "pip install dlib-bin" in error
            assert "Traceback" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments, sentence", [
    ([*AUDIT, "--overwrite"], "--overwrite does nothing without --out"),
    (["check", "--overwrite"], "--overwrite does nothing without --out"),
    ([*AUDIT, "--detector", "dlib"], "--detector does nothing while judges look at pictures"),
    (["check", "--detector", "dlib", "--look", "picture"], "--detector does nothing while judges look at pictures"),
    (["audit"], "Expected a --prompt to generate pictures of, or a folder of pictures with --images, got neither"),
    (["audit", "--images", ".", "--prompt", "x"], "--prompt does nothing with --images"),
    (["audit", "--images", ".", "--count", "5", "--seed", "0"], "--count and --seed do nothing with --images"),
    (["audit", "--images", ".", "--steps", "5"], "--steps does nothing with --images"),
    (["audit", "--images", ".", "--cfg", "5"], "--cfg does nothing with --images"),
    (["audit", "--images", ".", "--width", "64", "--height", "64"], "--width and --height do nothing with --images"),
    (["audit", "--images", ".", "--negative-prompt", "x"], "--negative-prompt does nothing with --images"),
    (["audit", "--images", ".", "--dtype", "float16"], "--dtype does nothing with --images"),
    (["audit", "--images", ".", "--model", "folder"], "--model does nothing"),
    (["audit", "--images", ""], "expected a text, got an empty one"),
    ([*AUDIT, "--corrections", ""], "expected a text, got an empty one"),
    ([*AUDIT, "--look", "faces"], "invalid choice: 'faces'"),
])
def test_options_that_do_nothing_are_refused(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


class Crowd:
    """A judge of every face."""

    def faces(self, images):
        return np.full(len(images), 2)

    def people(self, images):
        return [np.array([[.9, .1], [.1, .9]], np.float32)] * len(images)

    def __call__(self, images):
        return turned(images)


def test_people_can_be_audited_and_not_calibrated(tmp_path, monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "judges", lambda self, attributes: ([Crowd()] * len(attributes), None))
    assert main([*AUDIT, "--out", str(tmp_path / "audit")]) == 0
    said, (section,) = capsys.readouterr().out, page_of(tmp_path / "audit")["sections"]
    assert "N = 12 persons in 6 images" in said and section["people"] is True
    assert [item["labels"] for item in section["items"]] == [[[0, 1]]] * 6
    assert [(row["person"], row["faces"]) for row in table_of(tmp_path / "audit")] == [("1", "2"), ("2", "2")] * 6
    assert main(["calibrate", "--prompt", PROMPT, "--steps", "4", "--out", str(tmp_path / "calibration")]) == 2
    assert "A calibration counts one label per picture" in capsys.readouterr().err


def test_one_person_of_a_crowd_is_corrected(tmp_path, monkeypatch, capsys):
    from sd_debias.diffusers_host.workbench import Workbench
    monkeypatch.setattr(Workbench, "judges", lambda self, attributes: ([Crowd()] * len(attributes), None))
    assert main([*AUDIT, "--out", str(tmp_path / "one")]) == 0
    run = page_of(tmp_path / "one")["sections"][0]["run"]
    file = corrections(tmp_path, {run: {"gender": {"seed 3#1": "woman", "seed 4#2": None}}})
    assert main([*AUDIT, "--corrections", file, "--out", str(tmp_path / "two")]) == 0
    assert "2 labels corrected by hand" in capsys.readouterr().out
    assert figures(tmp_path / "one")["counts"] == [6, 6] and figures(tmp_path / "two")["counts"] == [5, 6]


# --- calibrations ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated")
    check = a_check(tmp_path_factory.mktemp("own"))
    assert main(["calibrate", "--prompt", PROMPT, "--images", "10", "--rounds", "1", "--held-out", "10", "--batch-size",
                 "10", "--steps", "4", "--check", check, "--out", str(out / "out"), "--name", "nurse"]) == 0
    return out / "out"


def test_a_profile_keeps_the_check_that_its_shares_were_corrected_by(calibrated):
    profile = Profile.load(calibrated / "profile.json")
    own, = profile.checks
    assert own.counts == ((9, 1), (2, 8)) and own.attribute == "gender" and own.judge == JUDGE
    assert json.loads((calibrated / "profile.json").read_text())["checks"] == [own.to_dict()]


def test_the_report_tells_of_the_check_and_gives_corrected_shares(calibrated):
    from test_report import Page
    page = Page((calibrated / "report.html").read_text("utf-8"))
    assert "CLIP classifier labelled pictures" in page.text.replace("\n", " ")
    assert "90 %" in page.text and "80 %" in page.text and "Labelled man" in page.text
    profile = Profile.load(calibrated / "profile.json")
    counts = profile.entries[0].before[0]["counts"]
    best, _ = corrected_shares(counts, ((9, 1), (2, 8)))
    said = " ".join(page.text.split())
    assert "Corrected by the classifier's check, the shares without guidance are "\
        f"man {100 * best[0]:.0f} % (" in said and f"woman {100 * best[1]:.0f} % (" in said


def test_a_calibration_leaves_its_pictures_and_labels_too(calibrated):
    sections = page_of(calibrated)["sections"]
    assert [section["title"] for section in sections] == [f"{PROMPT}, audit", f"{PROMPT}, held-out"]
    assert all(len(section["items"]) == 10 for section in sections) and sections[0]["run"] != sections[1]["run"]


def test_the_page_names_a_command_that_takes_its_corrections(checked, calibrated, audited):
    for command, out in (("audit", audited), ("check", checked)):
        assert f"(sd-debias {command} --corrections FILE)" in " ".join(
            (out / "labels.html").read_text("utf-8").split())
    said = " ".join((calibrated / "labels.html").read_text("utf-8").split())
    assert "(sd-debias calibrate --corrections" not in said


def test_pictures_on_the_page_are_those_that_were_made(audited):
    import base64
    import io
    item = page_of(audited)["sections"][0]["items"][0]
    small = Image.open(io.BytesIO(base64.b64decode(item["src"].partition(",")[2])))
    assert max(small.size) <= 160 and Path(audited / "audit-1.png").exists()
    assert np.asarray(small.convert("RGB")).std() > 10
