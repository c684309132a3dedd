"""The scripts "Debias: audit" and "Debias: calibrate (IDA)", the XYZ axes, the settings and the API's jobs."""
from __future__ import annotations

import gc
import html
import json
import sys
import types
import weakref

import pytest
from PIL import Image
from webui_real import arrays
from webui_settings import PROMPT, calibrate, debias, keys, payload, same, save_profile

def audit(host, count=10, *later):
    return host.post("txt2img", payload(batch_size=5, script_name="Debias: audit", script_args=[
        ["gender"], "", "", count, 0.0, "", False, *later]))


def test_audit_measures_and_changes_nothing(bench):
    result = audit(bench)
    assert result.info.startswith(f"{PROMPT}\n  gender (man / woman): Target 50 / 50. Shows ")
    assert "\nDetails:\n  gender, audit (N = 10): man " in result.info and "\n  first seed " in result.info
    page, = (path for path in bench.profiles.rglob("*") if path.is_file())  # of pictures and labels, no profile
    assert len(result.images) == 2 and page.name == "labels.html"


@pytest.mark.parametrize("how", ["well", "interrupted", "failed"])
def test_the_judges_model_goes_when_an_audit_ends(bench, monkeypatch, how):
    """It may have a GB; without a collection of garbage, those of several audits were there together."""
    module, made = sys.modules["sd_debias.webui_extension.classifiers"], []

    class Model:
        def __call__(self, images):
            if how == "failed":
                raise RuntimeError("the judge fell over")
            bench.shared.state.interrupted |= how == "interrupted"
            return [[1.0, 0.0]] * len(images)

    def load(text, attributes, by_name=False, models=None):
        model = Model()
        made.append(weakref.ref(model))
        return [model] * len(attributes), lambda images, prompt: [float(model is not None)] * len(images)

    monkeypatch.setattr(module, "load", load)
    gc.disable()
    try:
        if how == "failed":
            with pytest.raises(RuntimeError, match="fell over"):
                audit(bench)
        else:
            assert ("Interrupted" in audit(bench).info) == (how == "interrupted")
        assert made and not any(one() for one in made)
    finally:
        gc.enable()


def test_a_check_is_saved_and_corrects_the_audit_that_names_it(bench):
    checked = bench.post("txt2img", payload(batch_size=5, script_name="Debias: check classifier", script_args=[
        ["gender"], "", "", 10, 0.0, "", "picture", "auto", "", "mine"]))
    assert "man: " in checked.info and "of 10 pictures labelled correctly" in checked.info
    file = bench.profiles / "checks" / "mine.json"
    saved = json.loads(file.read_text())["checks"][0]
    assert [sum(row) for row in saved["counts"]] == [10, 10] and saved["groups"] == ["man", "woman"]
    file.write_text(json.dumps(dict(checks=[dict(saved, counts=[[45, 5], [10, 40]])])))
    found = audit(bench, 20, "picture", "auto", "mine", "")
    assert "corrected by the classifier's check: man " in found.info
    plain = audit(bench, 20)
    assert "corrected by" not in plain.info


def test_labels_corrected_by_hand_are_counted(bench):
    audit(bench, 10)
    page, = bench.profiles.rglob("labels.html")
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    section, = data["sections"]
    everyone = dict(form=data["form"], runs={section["run"]: {"gender": {
        item["key"]: "woman" for item in section["items"]}}})
    found = audit(bench, 10, "picture", "auto", "none", json.dumps(everyone))
    assert "woman 100.0%" in found.info and "10 labels corrected by hand" in found.info
    with pytest.raises(Exception, match="another run"):
        audit(bench, 10, "picture", "auto", "none", json.dumps(dict(everyone, runs={"0" * 16: {
            "gender": {"seed 1": "woman"}}})))


def test_calibration_saves_a_profile_that_the_accordion_applies(bench):
    result = calibrate(bench)
    profile = json.loads((bench.profiles / "doctor.json").read_text())
    assert "on fresh seeds (N = 20)" in result.info and "debias_profiles/doctor.json" in result.info
    assert profile["setting"]["sampler"] == "Euler" and profile["setting"]["model"] == "double"
    assert (bench.profiles / "reports" / "doctor" / "report.html").exists()
    assert not list((bench.profiles / "unfinished").glob("*.json"))
    assert len(result.images) == len(result.infotexts) == 3 + 16
    # A picture carries its own parameters; sheets and charts the result's text.
    assert all("Steps: " in text and "Seed: " in text for text in result.infotexts[3:])
    assert len(set(result.infotexts[3:])) == 16 and set(result.infotexts[:3]) == {result.info}
    assert "gender (man / woman): Target 50 / 50. Was " in result.info and "Open the report: /sd-debias/report/doctor" \
        in result.info
    text = bench.post("txt2img", payload(**debias(name="doctor"))).infotexts[0]
    assert "Debias failed" not in keys(text) and "Debias setting" not in keys(text)


def test_a_calibration_ends_as_soon_as_it_is_sure_enough(bench):
    info = calibrate(bench, images=20, rounds=20, held_out=0, within=20.0).info
    assert "sure enough: within 20 points of the target, 95% certain" in info
    with pytest.raises(ValueError, match="at most 50 points"):
        calibrate(bench, within=60.0, overwrite=True)


def test_how_sure_decides_the_numbers_and_unused_ones_are_said(bench):
    info = calibrate(bench, within=0.0, sure="quick").info
    assert "yours are not used: images, rounds, held_out" in info and "(N = 30)" in info and "(N = 20)" in info
    plain = dict(images=100, rounds=4, held_out=200, within=0.0, sure="quick", overwrite=True)
    assert "not used" not in calibrate(bench, **plain).info
    with pytest.raises(ValueError, match="Expected how sure to be one of quick, normal, sure, custom"):
        calibrate(bench, within=0.0, sure="very", overwrite=True)


def test_the_form_says_how_many_images_and_how_long_before_the_click(bench):
    script = sys.modules["sd_debias.webui_extension.calibrate_script"]
    said = script._about("normal", ["gender"], "", "", "")
    assert said == "Target: gender: man 50 %, woman 50 %. " \
                   "About 190 images, at most 820; the time is shown after the first images."
    calibrate(bench)
    assert "at the speed of the last calibration or audit here" in script._about("normal", ["gender"], "", "", "a\nb")
    assert " About 25 images; about " in script._about("custom", ["gender"], "", "", "", 10, 1, 5)
    assert "got images 0, rounds 0, held out 5" in script._about("custom", ["gender"], "", "", "", None, "", 5)
    assert script._about("custom", ["gender"], "", "", "", "1o") == ""


def test_the_form_says_the_target_by_name_and_what_is_wrong_with_it(bench):
    script = sys.modules["sd_debias.webui_extension.calibrate_script"]
    two = ["gender", "skin_tone_3"]
    assert script._about("normal", ["gender"], "", "woman 65, man 35", "").startswith(
        "Target: gender: man 35 %, woman 65 %. About ")
    assert html.unescape(script._about("normal", two, "", "gender: woman 65\nskin_tone_3: dark 40", "")).startswith(
        "Target: gender: man 35 %, woman 65 %; skin_tone_3: light 30 %, medium 30 %, dark 40 %. About ")
    assert "Nothing to measure: choose an attribute" in script._about("normal", [], "", "", "")
    assert "Expected each target to begin with its attribute" in script._about("normal", two, "", "1:2", "")
    assert "The groups are man, woman" in script._about("normal", ["gender"], "", "child 3", "")


def test_an_own_line_takes_the_place_of_the_attribute_of_its_name(bench):
    script = sys.modules["sd_debias.webui_extension.calibrate_script"]
    assert script._about("normal", ["gender"], "gender = 70:30", "", "").startswith(
        "Target: gender: man 70 %, woman 30 %. ")


def test_calibration_ignores_the_accordion(bench):
    save_profile(bench.profiles)
    plain = audit(bench).info
    guided = bench.post("txt2img", payload(batch_size=5, script_name="Debias: audit", script_args=[
        ["gender"], "", "", 10, 0.0, "", False], **debias()))
    assert guided.info == plain


def test_several_prompts_make_one_profile(bench):
    calibrate(bench, prompts="a nurse\n a photo of a <lora:x:1> judge \n")
    entries = json.loads((bench.profiles / "doctor.json").read_text())["entries"]
    assert [entry["prompt"] for entry in entries] == ["a nurse", "a photo of a judge"]


@pytest.mark.parametrize("changes, expected", [
    (dict(attributes=[]), "Nothing to measure"), (dict(own="young |"), "got an empty one"),
    (dict(own="young"), "No attribute is called 'young'"), (dict(images=0), "at least 1 image"),
    (dict(name=""), "1 to 120 printable characters"), (dict(name="a/b"), "without slashes"),
    (dict(name="a" * 110), r"got 'a+ \(unfinished\)'"),
    (dict(tolerance=-1.0), "tolerance above 0"),
    (dict(method="magic"), "Expected method to be one of"), (dict(prompts="a nurse\nA  nurse"), "got one twice")])
def test_bad_input_is_refused_before_anything_is_made(bench, changes, expected):
    with pytest.raises(ValueError, match=expected):
        calibrate(bench, **changes)
    assert not bench.denoisers


def test_an_audit_of_no_images_is_refused(bench):
    with pytest.raises(ValueError, match="at least 1 image"):
        audit(bench, count=0)


def test_an_existing_profile_is_not_overwritten_unasked(bench):
    save_profile(bench.profiles, name="doctor")
    with pytest.raises(ValueError, match="doctor.json' exists already"):
        calibrate(bench)
    calibrate(bench, overwrite=True)


def test_a_models_folder_that_cannot_be_written_is_said_before_the_work(bench):
    bench.profiles.parent.mkdir(exist_ok=True)
    bench.profiles.write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="The calibration's files could not be written to"):
        calibrate(bench)
    assert not bench.denoisers


def interrupting(host, after):
    """Presses Interrupt in the batch after so many."""
    def press(params):
        host.shared.state.interrupted |= len(host.denoisers) > after

    host.callbacks["cfg_denoiser"].append(press)
    return lambda: host.callbacks["cfg_denoiser"].remove(press)


def unfinished(host):
    return json.loads((host.profiles / "doctor (unfinished).json").read_text())


def test_interrupt_keeps_the_best_round_and_the_same_settings_continue(bench):
    """The batches: 4 of the audit, 4 of a round, 4 of the verification, and no others."""
    plain = arrays(bench.post("txt2img", payload()))
    release = interrupting(bench, len(bench.denoisers) + 6)  # in the round
    result = calibrate(bench)
    assert "not verified" in result.info and "with the same settings and seed to continue" in result.info
    assert unfinished(bench)["entries"][0]["after"] is None and not (bench.profiles / "doctor.json").exists()
    release()
    before = len(bench.denoisers)
    result = calibrate(bench)
    assert "on fresh seeds (N = 20)" in result.info
    assert len(bench.denoisers) - before == 12 - 6
    assert [path.name for path in bench.profiles.glob("*.json")] == ["doctor.json"]
    assert same(plain, arrays(bench.post("txt2img", payload())))


def test_an_interrupted_calibration_leaves_a_verified_profile_and_its_report(bench):
    calibrate(bench)
    kept = [bench.profiles / "doctor.json", bench.profiles / "reports" / "doctor" / "report.html"]
    before = [path.read_bytes() for path in kept]
    interrupting(bench, len(bench.denoisers) + 6)
    assert "doctor (unfinished).json" in calibrate(bench, overwrite=True).info
    assert [path.read_bytes() for path in kept] == before


def test_interrupt_in_the_verification_keeps_the_setting_that_was_generated_with(bench):
    interrupting(bench, 10)
    assert "with the same settings and seed to continue" in calibrate(bench).info
    assert unfinished(bench)["entries"][0]["after"] is None and unfinished(bench)["setting"]["model"] == "double"


GRAY, MASK = Image.new("RGB", (64, 64), "gray"), Image.new("L", (64, 64), 255)


@pytest.mark.parametrize("page, changes", [
    ({}, dict(classifier="another")), (dict(enable_hr=True), dict(hires=True)),
    (dict(prompt=f"{PROMPT} <lora:x:0.8>"), {}), ({}, dict(prompts=f"{PROMPT} <lora:x:0.8>")),
    (dict(init_images=[Image.new("RGB", (64, 64), "black")]), {}), (dict(denoising_strength=0.5), {}),
    (dict(mask=None), {}), (dict(override_settings=dict(sd_model_checkpoint="another")), {})])
def test_rounds_of_another_setting_are_not_continued(bench, page, changes):
    first = dict(prompt=f"{PROMPT} <lora:x:0.2>", init_images=[GRAY], mask=MASK, denoising_strength=0.75)
    interrupting(bench, 2)
    calibrate(bench, first)
    assert len(list((bench.profiles / "unfinished").glob("*.json"))) == 1
    bench.denoisers.clear()
    calibrate(bench, first | page, **changes)
    assert len(list((bench.profiles / "unfinished").glob("*.json"))) == 2


def test_the_chosen_checkpoint_counts_and_not_the_one_in_memory(bench):
    """Hosts load what is chosen, or overridden, only as they generate."""
    interrupting(bench, 2)
    for chosen, in_memory, states in (("one", "", 1), ("one", "abc", 1), ("other", "abc", 2)):
        bench.shared.opts.sd_model_checkpoint, bench.shared.sd_model.sd_model_hash = chosen, in_memory
        bench.denoisers.clear()
        calibrate(bench)
        assert len(list((bench.profiles / "unfinished").glob("*.json"))) == states


def test_interrupt_in_the_audit_saves_nothing(bench):
    interrupting(bench, 2)
    assert "there is no profile" in calibrate(bench).info and not list(bench.profiles.glob("*.json"))
    assert not (bench.profiles / "doctor.json").exists()


def test_a_skipped_batch_is_left_out(bench):
    def skip(params):
        bench.shared.state.skipped = len(bench.denoisers) == 2

    bench.callbacks["cfg_denoiser"].append(skip)
    info = audit(bench).info
    assert "(N = 5)" in info and "5 images left out as unsure" in info


def test_a_failing_hook_stops_the_calibration(bench, monkeypatch):
    passes = sys.modules["sd_debias.webui_extension.sampling"].Pass
    monkeypatch.setattr(passes, "shifted", lambda *args: 1 / 0)
    with pytest.raises(ValueError, match="division by zero"):
        calibrate(bench, spend="shift")


def test_live_text_says_how_far_it_is(bench):
    audit(bench)
    assert bench.shared.state.textinfo.startswith("audit: 10 of 10 images; gender: man ")
    assert bench.shared.state.job_count == 2


def test_without_a_classifier_it_says_what_is_needed(a_double):
    with pytest.raises(ValueError, match="Put a CLIP model"):
        audit(a_double)


def test_settings_and_a_further_folder_of_profiles(a_double, tmp_path):
    assert set(a_double.shared.opts.labels) == {"sd_debias_folder", "sd_debias_classifier", "sd_debias_download"}
    save_profile(tmp_path / "elsewhere", name="other")
    profiles = sys.modules["sd_debias.webui_extension.profiles"]
    assert "other" not in profiles.names()
    a_double.shared.opts.sd_debias_folder = str(tmp_path / "elsewhere")
    assert "other" in profiles.names()


def test_a_pasted_hash_finds_a_renamed_profile(a_double):
    save_profile(a_double.profiles)
    text = a_double.post("txt2img", payload(**debias())).infotexts[0]
    first = a_double.post("txt2img", payload(infotext=text))
    (a_double.profiles / "test.json").rename(a_double.profiles / "renamed.json")
    assert same(arrays(first), arrays(a_double.post("txt2img", payload(infotext=text))))


def test_xyz_axes_set_arguments_on_copies(a_double):
    class Option:
        def __init__(self, label, kind, apply, choices=None):
            self.label, self.apply, self.choices = label, apply, choices

    grid = types.SimpleNamespace(AxisOption=Option, axis_options=[])
    sys.modules["modules.scripts"].scripts_data = [types.SimpleNamespace(path="/x/xyz_grid.py", module=grid)]
    xyz = sys.modules["sd_debias.webui_extension.xyz"]
    xyz.register()
    xyz.register()
    assert [option.label for option in grid.axis_options] == [
        f"[Debias] {name}" for name in ("Profile", "Strength", "Direction", "Start", "End")]
    axis = {option.label.split()[1]: option.apply for option in grid.axis_options}
    p = types.SimpleNamespace()
    axis["Profile"](p, "test", [])
    other = types.SimpleNamespace(**vars(p))
    axis["Strength"](other, 0.5, [])
    assert p.sd_debias_overrides == dict(profile="test", enabled=True)
    arguments = sys.modules["sd_debias.webui_extension.arguments"].Arguments
    assert arguments.read([False], other.sd_debias_overrides).strength == 0.5
    axis["Profile"](other, "None", [])
    assert not arguments.read([True, "test"], other.sd_debias_overrides).enabled


def test_calibration_moves_the_shares(bench):
    """The audit's pictures are farther from half and half than chance explains; those that verify it are not."""
    result = calibrate(bench, images=40, held_out=40)
    entry = json.loads((bench.profiles / "doctor.json").read_text())["entries"][0]
    before, after = entry["before"][0], entry["after"][0]
    assert before["kl"] > before["kl_floor95"] and after["kl"] <= after["kl_floor95"], result.info
