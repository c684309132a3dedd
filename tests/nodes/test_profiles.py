"""Profiles as files: Debias Load Profile."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
from nodes_given import ours, profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering

OTHER = profile(Steering((0.5, -0.5)))


@pytest.fixture
def profiles(set_folder, tmp_path, monkeypatch):
    """The module, with a folder of the user's, tmp_path, and ours.json and both.json as shipped."""
    set_folder(ours.profiles.FOLDER, tmp_path / "own", {".json"})
    for name in ("ours", "both"):
        replace(profile(), name=name).save(tmp_path / "package" / "profiles")
    monkeypatch.setattr(ours.profiles, "SHIPPED", tmp_path / "package" / "profiles")
    return ours.profiles


@pytest.fixture
def load(call, profiles):
    """load(file) -> (profile, its description)"""
    return lambda file: call("DebiasLoadProfile", profile=file)


def save(profiles, made, name):
    return replace(made, name=name).save(profiles.save_folder(), overwrite=True)


def test_a_saved_profile_is_loaded_and_described_and_a_changed_one_is_read_again(profiles, load):
    path = save(profiles, profile(), "mine")
    loaded, text = load("mine.json")
    assert path.name == "mine.json" and loaded.name == "mine"
    assert loaded.entries == profile().entries
    assert "50% / 50% -> 50% / 50%" in text and "steps 4" in text
    before = profiles.DebiasLoadProfile.fingerprint_inputs("mine.json")
    save(profiles, OTHER, "mine")
    assert profiles.DebiasLoadProfile.fingerprint_inputs("mine.json") != before


def test_what_a_calibration_left_is_offered_without_saving_it(profiles, load):
    import folder_paths
    folder = Path(folder_paths.get_output_directory()) / "debias" / "left"
    profile().save(folder / "profile.json", overwrite=True)
    assert "left (in output)" in profiles.names()
    assert load("left (in output)")[0].entries == profile().entries


def test_a_missing_or_damaged_profile_is_said_without_its_folder(load, tmp_path):
    (tmp_path / "package" / "outside.json").write_text(json.dumps(profile().to_dict()))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "cut.json").write_text(json.dumps(profile().to_dict())[:100])
    for file, fact in (("gone.json", "'gone.json'"), ("cut.json", "cut.json.*JSON"),
                       ("../outside.json", "outside.json"), ("../left (in output)", "no profile")):
        with pytest.raises(DebiasError, match=fact) as caught:
            load(file)
        assert str(tmp_path) not in str(caught.value)


def test_shipped_profiles_are_offered_after_the_users_own_which_win(profiles, load):
    save(profiles, profile(), "zebra")
    save(profiles, OTHER, "both")
    names = [name for name in profiles.names() if "output" not in name]
    assert names == ["both.json", "zebra.json", "ours.json"]
    assert load("both.json")[0].entries == OTHER.entries
    assert load("ours.json")[0].name == "ours"
    assert profiles.DebiasLoadProfile.fingerprint_inputs("ours.json")
