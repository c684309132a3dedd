"""What the page says before the click, the plot's axes, the settings page and what is printed."""
from __future__ import annotations

import html
import io
import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from webui_hosts import SHIM, ours
from webui_settings import save_profile, script


@pytest.mark.parametrize("form, said", [
    ({}, "Target: gender: man 50 %, woman 50 %. About 210 images, at most 820; the time is shown "),
    (dict(target="woman 65, man 35"), "gender: man 35 %, woman 65 %. About "),
    (dict(attributes=["gender", "skin_tone_3"], target="gender: woman 65\nskin_tone_3: dark 40"),
     "gender: man 35 %, woman 65 %; skin_tone_3: light 30 %, medium 30 %, dark 40 %. About "),
    (dict(attributes=[]), "'young | old = 1:1'"),
    (dict(sure="custom", images="1o"), "images to be a finite number"),
    (dict(attributes=["gender", "skin_tone_3"], target="1:2"), "'gender: woman 65', got '1:2'"),
    (dict(target="child 3"), "man, woman"),
    (dict(sure="custom", images=0, rounds=None, held_out="5"), "got images 0, rounds 4, held out 5"),
    (dict(work="audit"), "without the accordion's profile")])
def test_the_form_says_the_target_by_name_how_many_images_and_what_is_wrong(a_double, form, said):
    script = ours("measure_script")
    values = {**script.DEFAULTS, "work": "calibrate", **form}
    assert said in html.unescape(script._about(*values.values()))


def test_the_form_shows_what_the_chosen_work_needs(a_double):
    """Four scripts stood in the list, with the same fields again."""
    script = ours("measure_script")
    controls = dict(zip(script.DEFAULTS, a_double.runner.named(script.DebiasMeasure().title()).ui(False)))
    for work, shown in (("calibrate", {"name", "attributes", "target", "sure", "judge"}), ("doctor", set()),
                        ("audit", {"attributes", "judge", "count"})):
        controls["work"].init_field(work)
        assert {name for name in script.SHOWN if controls[name].visible} == shown
        _, *updates = script._shown(work)
        assert {name for name, update in zip(script.SHOWN, updates) if update["visible"]} == shown


def test_a_request_has_the_defaults_of_its_work(a_double):
    """A check made as many images per group as an audit, and own groups were measured beside gender."""
    asked = ours("measure_script").asked
    assert asked([dict(work="check the judge")]).count == 50 and asked([dict(work="audit")]).count == 100
    assert asked([dict(own="young | old = 1:1")]).attributes == [] and asked([{}]).attributes == ["gender"]
    found = ours("classifiers").attributes_of([], "hair:\n- curly hair: 2\n- straight hair: 1\n# a note")
    assert found[0].names == ("curly hair", "straight hair"), "lists of the accordion are read here too"


@pytest.mark.parametrize("fields, facts", [
    (dict(work="audit", atributes=["gender"]), ["atributes", "attributes"]),
    (dict(work="measure"), ["'measure'", "audit, calibrate"]), (dict(count="many"), ["count", "many"]),
    (dict(hires="yes"), ["hires", "true or false"]), (["audit", "x"], ["one object", '"attributes"'])])
def test_a_request_with_a_field_that_the_script_does_not_know_is_refused(bench, fields, facts):
    """An unknown one was passed over; by place, a shorter list took the next script's values."""
    with pytest.raises(ValueError) as caught:
        script(bench, fields)
    assert all(fact in str(caught.value) for fact in facts), caught.value


def test_the_accordion_says_what_a_profile_balances_and_toward_which_target(a_double):
    """Its first line was "by direction 'prompt', draw"."""
    save_profile(a_double.profiles)
    first, *_ = ours("script")._about("test").splitlines()
    assert first.rstrip() == "test balances gender toward man 50 %, woman 50 %"


def test_a_default_that_the_user_saved_for_the_page_shows_what_belongs_to_it(a_double):
    """The host puts it in the dropdown's place: the text box of what is balanced stayed beside "None"."""
    _, profile, *_, attributes = a_double.runner.named("Debias").ui(False)
    for name in ("None", ours("arguments").BALANCE):
        profile.init_field(name)
        assert attributes.visible == (name != "None")


def test_settings_are_closed_to_the_api_and_name_a_further_folder_of_profiles(a_double, tmp_path):
    """Over the API nobody may choose folders of this machine, nor let it download."""
    options, names = a_double.shared.opts, ours("profiles").names
    assert set(options.labels) == {"sd_debias_folder", "sd_debias_classifier", "sd_debias_download"}
    assert all(restricted for _, restricted in options.labels.values())
    save_profile(tmp_path / "elsewhere", name="other")
    assert "other" not in names()
    options.sd_debias_folder = str(tmp_path / "elsewhere")
    assert "other" in names()


def test_xyz_axes_set_arguments_on_copies(a_double):
    grid = types.SimpleNamespace(axis_options=[], AxisOption=lambda label, kind, apply, choices=None: (
        types.SimpleNamespace(label=label, apply=apply)))
    plot = types.SimpleNamespace(path="/x/xyz_grid.py", module=grid)
    sys.modules["modules.scripts"].scripts_data = [plot]
    for _ in range(2):
        ours("xyz").register()
    axis = {option.label: option.apply for option in grid.axis_options}
    profile, strength, *_ = axis.values()
    assert len(grid.axis_options) == 5 and list(axis) == [
        f"[Debias] {name}" for name in ("Profile", "Strength", "Direction", "Start", "End")]
    read, p = ours("arguments").Arguments.read, types.SimpleNamespace()
    profile(p, "test", [])
    other = types.SimpleNamespace(**vars(p))
    strength(other, 0.5, [])
    assert p.sd_debias_overrides == dict(profile="test", enabled=True)
    assert read([False], other.sd_debias_overrides).strength == 0.5
    profile(other, "None", [])
    assert not read([True, "test"], other.sd_debias_overrides).enabled


def test_sd_next_whose_hooks_are_never_called_is_told_so(a_double, monkeypatch, capsys):
    known = types.SimpleNamespace(__spec__=ModuleSpec("modules.sd_offload", None))
    monkeypatch.setitem(sys.modules, "modules.sd_offload", known)
    a_double.load(SHIM)
    assert "SD.Next" in capsys.readouterr().out
    assert a_double.runner.scripts == [] and a_double.callbacks == {}


def test_a_console_of_few_letters_does_not_end_a_picture(a_double, monkeypatch):
    """As a Windows host's whose output a launcher collects."""
    said = io.TextIOWrapper(io.BytesIO(), "cp1252", newline="")
    monkeypatch.setattr(sys, "stdout", said)
    ours("console").tell("reading 'a \u533b\u751f'")
    said.flush()
    assert said.buffer.getvalue() == b"sd-debias: reading 'a \\u533b\\u751f'\n"
