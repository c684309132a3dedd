"""Profiles as files: Debias Load Profile."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
from nodes_given import profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS


@pytest.fixture
def save(profiles):
    def save(made=None, name="mine"):
        return replace(made or profile(), name=name).save(profiles.save_folder(), overwrite=True)
    return save


@pytest.fixture
def load(call, said, profiles):
    """load(file) -> (profile, its description)"""
    return lambda file: call(profiles.DebiasLoadProfile, profile=file)


def test_a_saved_profile_is_loaded_and_described_and_a_changed_one_is_read_again(
        profiles, save, load):
    path = save(name="mine")
    loaded, text = load("mine.json")
    assert path.name == "mine.json" and loaded.name == "mine"
    assert loaded.entries == profile().entries
    assert "50% / 50% -> 50% / 50%" in text and "steps 4" in text
    before = profiles.DebiasLoadProfile.fingerprint_inputs("mine.json")
    save(profile(Steering((0.5, -0.5))), name="mine")
    assert profiles.DebiasLoadProfile.fingerprint_inputs("mine.json") != before


def test_what_a_calibration_left_is_offered_without_saving_it(profiles, load):
    import folder_paths
    folder = Path(folder_paths.get_output_directory()) / "debias" / "left"
    profile().save(folder / "profile.json", overwrite=True)
    assert "left (in output)" in profiles.names()
    assert load("left (in output)")[0].entries == profile().entries
    with pytest.raises(DebiasError, match="no profile"):
        load("../left (in output)")


def test_a_missing_or_damaged_profile_is_said_without_its_folder(load, tmp_path):
    (tmp_path / "cut.json").write_text(json.dumps(profile().to_dict())[:100])
    for file, fact in (("gone.json", "'gone.json'"), ("cut.json", "cut.json.*JSON")):
        with pytest.raises(DebiasError, match=fact) as caught:
            load(file)
        assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def shipped(profiles, tmp_path_factory, monkeypatch):
    """A folder in place of the package's own; it holds ours.json and both.json."""
    folder = tmp_path_factory.mktemp("package") / "profiles"
    for name in ("ours", "both"):
        replace(profile(), name=name).save(folder)
    monkeypatch.setattr(profiles, "SHIPPED", folder)
    return folder


def test_shipped_profiles_are_offered_after_the_users_own(profiles, save, load, shipped):
    save(name="zebra")
    assert [name for name in profiles.names() if "output" not in name] == ["zebra.json", "both.json", "ours.json"]
    assert load("ours.json")[0].name == "ours"
    assert profiles.DebiasLoadProfile.fingerprint_inputs("ours.json")


def test_of_one_name_the_users_own_profile_wins(profiles, save, load, shipped):
    own = profile(Steering((0.5, -0.5)), method=METHODS["shift"])
    save(own, name="both")
    assert [name for name in profiles.names() if "output" not in name] == ["both.json", "ours.json"]
    assert load("both.json")[0].entries == own.entries


def test_no_name_leads_out_of_the_shipped_folder(load, shipped):
    (shipped.parent / "outside.json").write_text(json.dumps(profile().to_dict()))
    with pytest.raises(DebiasError, match="outside.json"):
        load("../outside.json")
