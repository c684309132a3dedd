"""Profiles as files: Debias Save Profile and Debias Load Profile."""
import json
from pathlib import Path

import pytest
from nodes_given import full_disk, profile

from sd_debias.core.errors import DebiasError
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS


@pytest.fixture
def save(call, said, profiles):
    def save(made=None, **inputs):
        return Path(call(profiles.DebiasSaveProfile, profile=made or profile(), **inputs)[0])
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
    save(profile(Steering((0.5, -0.5))), name="mine", overwrite=True)
    assert profiles.DebiasLoadProfile.fingerprint_inputs("mine.json") != before


def test_an_existing_profile_is_not_overwritten_unasked(save):
    save()
    with pytest.raises(DebiasError, match="exists"):
        save()


@pytest.mark.parametrize("name", ["../mine", "a/b", "a\\b", ".mine", "con"])
def test_names_never_leave_the_folder(save, name):
    with pytest.raises(DebiasError, match="1 to 120"):
        save(name=name)


def test_a_full_disk_is_said(save, monkeypatch):
    from sd_debias.core.profile import file
    monkeypatch.setattr(file, "write_atomic", full_disk)
    with pytest.raises(DebiasError, match="No space left on device"):
        save()


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
        profiles.renamed(profile(), name).save(folder)
    monkeypatch.setattr(profiles, "SHIPPED", folder)
    return folder


def test_shipped_profiles_are_offered_after_the_users_own(profiles, save, load, shipped):
    save(name="zebra")
    assert profiles.names() == ["zebra.json", "both.json", "ours.json"]
    assert load("ours.json")[0].name == "ours"
    assert profiles.DebiasLoadProfile.fingerprint_inputs("ours.json")


def test_saving_leaves_a_shipped_profile_alone_and_the_users_own_wins(
        profiles, save, load, shipped):
    content = (shipped / "both.json").read_bytes()
    own = profile(Steering((0.5, -0.5)), method=METHODS["shift"])
    for overwrite in (False, True):
        path = save(own, name="both", overwrite=overwrite)
        assert path.parent == profiles.save_folder() != shipped
    assert (shipped / "both.json").read_bytes() == content
    assert profiles.names() == ["both.json", "ours.json"]
    assert load("both.json")[0].entries == own.entries


def test_no_name_leads_out_of_the_shipped_folder(load, shipped):
    (shipped.parent / "outside.json").write_text(json.dumps(profile().to_dict()))
    with pytest.raises(DebiasError, match="outside.json"):
        load("../outside.json")
