"""The script "Debias: audit and calibrate"."""
from __future__ import annotations

import gc
import json
import weakref

import pytest
from webui_hosts import ours, refused
from webui_settings import PROMPT, SCRIPT, audit, calibrate, debias, keys, payload, save_profile, script

FEW = dict(images=5, rounds=1, held_out=5)


def test_an_audit_measures_the_page_without_the_accordion_and_changes_nothing(bench):
    result = audit(bench)
    assert result.info.startswith(f"{PROMPT}\n  gender (man / woman): Target 50 / 50. Shows ")
    assert "\n  first seed " in result.info and len(result.images) == 2
    state = bench.shared.state
    assert state.textinfo.startswith("audit: 10 of 10 images; gender ")
    assert state.job_count == 2
    page, = (path for path in bench.profiles.rglob("*") if path.is_file())
    assert page.name == "labels.html", "of images and labels, no profile"
    save_profile(bench.profiles)
    assert audit(bench, page=debias()).info == result.info


@pytest.mark.parametrize("how", ["well", "interrupted", "failed"])
def test_the_judges_model_goes_when_an_audit_ends(bench, monkeypatch, how):
    """It may have a GB; without a collection of garbage, those of several audits were there together."""
    made = []

    class Model:
        def __call__(self, images):
            if how == "failed":
                raise RuntimeError("the judge fell over")
            bench.shared.state.interrupted |= how == "interrupted"
            return [[1.0, 0.0]] * len(images)

    def load(*_):
        model = Model()
        made.append(weakref.ref(model))
        return [model], lambda images, prompt: [float(model is not None)] * len(images)

    monkeypatch.setattr(ours("classifiers"), "load", load)
    gc.disable()
    try:
        said = audit(bench).info
    except RuntimeError as error:
        said = str(error)
    finally:
        held = [one() for one in made]
        gc.enable()
    assert ("Interrupted" in said, "fell over" in said) == (how == "interrupted", how == "failed")
    assert made and not any(held)


def test_a_check_is_saved_and_corrects_the_audit_that_names_it(bench):
    checked = script(bench, dict(work="check the judge", count=10, name="mine"))
    assert "man: " in checked.info and "of 10 images labelled correctly" in checked.info
    file = bench.profiles / "checks" / "mine.json"
    saved = json.loads(file.read_text())["checks"][0]
    assert [sum(row) for row in saved["counts"]] == [10, 10] and saved["groups"] == ["man", "woman"]
    file.write_text(json.dumps(dict(checks=[dict(saved, counts=[[45, 5], [10, 40]])])))
    corrected = "corrected by the judge's check (it labelled man "
    assert corrected in audit(bench, 20, check="mine").info
    assert corrected not in audit(bench, 20).info


def test_labels_corrected_by_hand_are_counted(bench):
    audit(bench)
    page, = bench.profiles.rglob("labels.html")
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    section, = data["sections"]
    labels = {item["key"]: "woman" for item in section["items"]}
    runs = {section["run"]: {"gender": labels}}
    info = audit(bench, corrections=json.dumps(dict(form=data["form"], runs=runs))).info
    assert "woman 100.0%" in info and "10 labels corrected by hand" in info


def test_without_a_classifier_it_says_what_is_needed(a_double):
    for measure in (audit, calibrate):
        with refused("models/classifiers.*'demo'"):
            measure(a_double)


def test_calibration_saves_a_profile_that_the_accordion_applies(bench, tmp_path):
    """The audit's images are farther from half and half than chance explains, those that verify it
    are not. Forge Neo's batch file alone makes the folder for sheets: started otherwise, a finished
    calibration showed nothing."""
    bench.shared.opts.temp_dir = str(tmp_path / "tmp")
    result = calibrate(bench, images=40, held_out=40)
    profile = json.loads((bench.profiles / "doctor.json").read_text())
    before, after = (profile["entries"][0][name][0] for name in ("before", "after"))
    assert before["kl"] > before["kl_floor95"] and after["kl"] <= after["kl_floor95"], result.info
    assert profile["setting"]["sampler"] == "Euler" and profile["setting"]["model"] == "double"
    for part in ("on fresh seeds (N = 40)", "debias_profiles/doctor.json", "Target 50 / 50. Was ",
                 "Open the report: /sd-debias/report/doctor"):
        assert part in result.info
    assert (bench.profiles / "reports" / "doctor" / "report.html").exists()
    assert (tmp_path / "tmp").is_dir()
    assert not list((bench.profiles / "unfinished").glob("*.json"))
    # An image carries its own parameters; sheets and charts the result's text.
    assert len(result.images) == len(result.infotexts) == 2 + 8
    assert len(set(result.infotexts[2:])) == 8 and set(result.infotexts[:2]) == {result.info}
    said = keys(bench.post("txt2img", payload(**debias(name="doctor"))).infotexts[0])
    assert said and "Debias failed" not in said and "Debias setting" not in said


@pytest.mark.parametrize("changes, parts", [
    (dict(within=0.0, sure="quick"), ["not used: images, rounds, held_out", "(N = 30)", "(N = 20)"]),
    (dict(rounds=20, held_out=0, within=20.0), ["sure enough: within 20 points of the target"])])
def test_how_sure_decides_the_numbers_and_unused_ones_are_said(bench, changes, parts):
    info = calibrate(bench, **changes).info
    assert all(part in info for part in parts), info


@pytest.mark.slow
def test_several_prompts_make_one_profile(bench):
    calibrate(bench, prompts="a nurse\n a photo of a <lora:x:1> judge \n", **FEW)
    entries = json.loads((bench.profiles / "doctor.json").read_text())["entries"]
    assert [entry["prompt"] for entry in entries] == ["a nurse", "a photo of a judge"]


@pytest.mark.parametrize("changes, facts", [
    (dict(own="young |"), "empty"), (dict(images=0), "1 image"), (dict(name=""), "1 to 120"),
    (dict(name="a/b"), "slashes.*'a/b'"), (dict(name="a" * 110), r"'a+ \(unfinished\)'"),
    (dict(name="None"), "'None'"), (dict(tolerance=-1.0), "tolerance.*0"),
    (dict(method="magic"), "method.*'magic'"), (dict(prompts="a nurse\nA  nurse"), "twice"),
    (dict(within=60.0), "50 points"), (dict(within=0.0, sure="very"), "quick.*custom.*'very'"),
    (dict(work="audit", count=0), "1 image"), (dict(work="check the judge", name="none"), "'none'")])
def test_bad_input_is_refused_before_anything_is_made(bench, changes, facts):
    with refused(facts):
        calibrate(bench, **changes)
    assert not bench.denoisers and not bench.profiles.exists()


@pytest.mark.slow
def test_a_name_whose_profile_was_deleted_can_be_calibrated_again_and_its_report_is_kept(bench):
    calibrate(bench, **FEW)
    report = bench.profiles / "reports" / "doctor" / "report.html"
    for kept in ("doctor (earlier)", "doctor (earlier) 2"):
        (bench.profiles / "doctor.json").unlink()
        report.write_text(kept)
        done = calibrate(bench, **FEW)
        assert f"debias_profiles/reports/{kept}." in done.info
        assert (bench.profiles / "reports" / kept / "report.html").read_text() == kept
        assert (bench.profiles / "doctor.json").exists() and report.read_text() != kept
    before = (bench.profiles / "doctor.json").read_bytes()
    assert "complete already" in calibrate(bench, **FEW).info
    with refused("doctor.json'"):
        calibrate(bench, **FEW | dict(images=6))
    assert (bench.profiles / "doctor.json").read_bytes() == before
    calibrate(bench, overwrite=True, **FEW)


def test_a_failing_hook_stops_the_calibration(bench, monkeypatch):
    monkeypatch.setattr(ours("sampling").Pass, "shifted", lambda *args: 1 / 0)
    with refused("division by zero"):
        calibrate(bench, spend="shift")


def test_a_host_that_never_calls_the_hook_stops_in_the_first_round(bench, monkeypatch):
    monkeypatch.delattr(type(bench.runner.named("Debias")), "process_before_every_sampling")
    with refused("changed nothing"):
        calibrate(bench)
    assert len(bench.denoisers) == 4 + 1  # the audit's batches, and the round's first
    assert not (bench.profiles / "doctor.json").exists()


def test_an_audit_in_img2img_says_whose_group_the_pass_changed(bench):
    """Of one bright image, the second group's, ten dark ones were made."""
    from PIL import Image
    page = dict(init_images=[Image.new("RGB", (64, 64), (200, 200, 200))], denoising_strength=1.0)
    info = bench.post("img2img", payload(batch_size=5, script_name=SCRIPT, script_args=[
        dict(work="audit", count=10)], **page)).info
    assert "gender: 10 of 10 pairs changed their group (100 %): 10 woman to man." in info and "McNemar" in info
    assert "pairs changed" not in audit(bench).info
