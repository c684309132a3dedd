"""What a request over the API may learn of this machine: nothing of its folders."""
from __future__ import annotations

import math
import sys

import pytest
from webui_hosts import core, ours, refused
from webui_settings import calibrate


def test_a_classifier_over_the_api_does_not_tell_whether_a_folder_exists(a_double, tmp_path):
    classifiers, gender = ours("classifiers"), [core("attribute").GENDER]
    options = a_double.shared.opts
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    said = set()
    for path in (there, gone, "../there", "/etc", f"gender={there}"):
        with refused("models/classifiers") as caught:
            classifiers.load(str(path), gender, by_name=True)
        said.add(str(caught.value).replace(str(path).rpartition("=")[2], "X"))
    assert len(said) == 1 and "'X'" in said.pop()
    options.sd_debias_download = True
    for odd in ("a\0b", "x" * 300, "\ud800", "hub/gone", "../..", "."):
        with refused("models/classifiers"):
            classifiers.load(odd, gender, by_name=True)
    options.sd_debias_download = False
    (tmp_path / "there=x").mkdir()
    for named in (str(there), f"{there}=x", f"gender={there}"):  # the settings page may name any folder
        options.sd_debias_classifier = named
        with refused("could not be loaded"):
            classifiers.load("", gender, by_name=True)


def test_no_other_folder_is_looked_at_for_a_request_before_its_classifier_is_refused(
        bench, tmp_path, monkeypatch):
    """A judge's files are read for its fingerprint: of any folder of this machine, before it was refused."""
    own = tmp_path / "classifiers" / "mine"
    for folder in (tmp_path / "home", own):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    processing = sys.modules["modules.processing"].StableDiffusionProcessingTxt2Img
    for by_api in (True, False):
        p = processing(sd_model=bench.shared.sd_model)
        p.is_api, looked = by_api, []
        monkeypatch.setattr(ours("classifiers"), "fingerprint", looked.append)
        for name in (str(tmp_path / "home"), f"gender={tmp_path / 'home'}", "../home", "mine", "gender=mine"):
            ours("workbench").Workbench(p, name)
        outside = [place for place in looked if place != str(own.resolve())]
        assert looked.count(str(own.resolve())) == 2 and bool(outside) is not by_api


def test_messages_hold_no_folder_of_this_machine(a_double, tmp_path):
    profiles = ours("profiles")
    file = profiles.save_folder() / "x.json"
    said = profiles.said(RuntimeError(f"no {file} and nothing in {tmp_path}"))
    assert str(tmp_path) not in said and "debias_profiles/x.json" in said
    told = profiles.said(core("errors").DebiasError(f"'{tmp_path}'"))
    assert told == f"'{tmp_path}'", "whose change would tell where the host lies"
    with refused("'gone'.*debias_profiles") as caught:
        profiles.load("gone")
    assert str(tmp_path) not in str(caught.value)
    (ours("classifiers").folder() / "mine").mkdir(parents=True)
    with refused("mine") as caught:
        calibrate(a_double, judge="mine")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("strength", [10**400, -10**400, math.nan, math.inf, True, "1"])
def test_a_number_without_end_is_refused(a_double, strength):
    with refused("strength.*finite"):
        ours("arguments").Arguments.read([True, "x", strength])
