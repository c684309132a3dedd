"""Profiles of synthetic calibrations: what is saved is what is read, and what is not a profile is refused."""
import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from sd_debias.core.attribute import GENDER, SKIN_TONE_3, parse
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.demo_model.model import FOLDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import SHIPPED, Profile
from sd_debias.core.profile.lookup import check_encoder, differences, entry_for, with_others
from sd_debias.core.profile.words import described, metadata
from sd_debias.core.method.draw import Steering
from sd_debias.diffusers_host.workbench import model_hash

PROMPT = "a photo of a doctor"
SETTING = {"model": "sd15.safetensors", "model_hash": "ab12", "sampler": "euler", "steps": 12, "cfg": 7.0}
ACTED = {"acted": True, "steps": 12, "skipped": 0, "magnitude": 0.1}


def calibrated(prompt=PROMPT, attributes=(GENDER,), bias=(2.0,), method=METHODS["default"], fidelity=0.3, **plan):
    """A calibration whose first groups have these log-odds more than the others; an image is its weights and seed."""
    calibration = Calibration(prompt, attributes, method, Plan(**{**dict(images=100, rounds=3, held_out=100), **plan}))

    def classify(images):
        found, start = [], 0
        for k, attribute in enumerate(attributes):
            n = len(attribute.groups)
            odds = np.array([np.eye(n)[0] * bias[k] - 3 * weights[start:start + n] for weights, _ in images])
            luck = np.array([np.random.default_rng((seed, k)).gumbel(size=n) for _, seed in images])
            found.append(np.eye(n)[(odds + luck).argmax(1)])
            start += n
        return found

    for _ in calibration.run(lambda weights, seeds: list(zip(weights.numpy(), seeds)), classify,
                             lambda images: np.full(len(images), fidelity)):
        pass
    return calibration


def made(*calibrations, name="doctor-gender", **options):
    return profile_of(name, calibrations or [calibrated()], SETTING, "synthetic", **options)


@pytest.fixture(scope="module")
def profile():
    return made(evaluations=[2400])


@pytest.fixture
def saved(profile, tmp_path):
    return profile.save(tmp_path)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))
    return path


def test_a_profile_holds_what_was_calibrated_and_measured():
    c = calibrated(attributes=(GENDER, SKIN_TONE_3), bias=(2.0, 1.0))
    profile = made(c, evaluations=[123])
    entry, = profile.entries
    assert entry.steerings == c.steerings and profile.attributes == c.attributes and profile.method == c.method
    verified = c.held_out.distribution(0, GENDER.target).to_dict()
    assert entry.after[0] == {**verified, "drawn_floor95": c.floor(0, c.held_out)}
    assert c.floor(0, c.held_out) < verified["kl_floor95"]
    assert [r["kind"] for r in entry.rounds] == [r.kind for r in c.rounds]
    assert entry.fidelity == {"before": pytest.approx(0.3), "after": pytest.approx(0.3)}
    assert entry.cost["images"] == sum(r.done for r in c.rounds) and entry.cost["evaluations"] == 123


def test_saving_and_loading_keeps_every_bit(profile, saved):
    again = Profile.load(saved)
    assert saved.name == "doctor-gender.json" and again.entries == profile.entries
    assert again.hash == profile.hash == json.loads(saved.read_text())["hash"] and not again.edited
    assert again.to_dict() == profile.to_dict()
    assert re.search(r'"target": \[0\.5, 0\.5\]', saved.read_text()), "on one line"


@pytest.mark.parametrize("name, prompt", [
    ("odd", "a [ cat : dog ]\n[\n 1,\n 2 ] \"quoted\" 医生"),  # text that looks like a list
    ("\U0001f469\u200d\u2695\ufe0f", ""), ("\u067e\u200c\u0647", ""), ("\u533b" * 70, "")])
def test_names_and_prompts_in_any_script_come_back(profile, tmp_path, name, prompt):
    odd = replace(profile, name=name, entries=(replace(profile.entries[0], prompt=prompt),))
    again = Profile.load(odd.save(tmp_path))
    assert again.name == name and again.entries[0].prompt == prompt


def test_a_file_is_never_overwritten_unasked(profile, saved, tmp_path):
    for place in (tmp_path, saved):
        with pytest.raises(DebiasError, match="doctor-gender.json"):
            profile.save(place)
    assert profile.save(saved, overwrite=True) == saved
    assert [p.name for p in tmp_path.iterdir()] == ["doctor-gender.json"]


def test_a_profile_that_was_not_verified_says_so():
    entry, = made(calibrated(held_out=0)).entries
    assert entry.after is None and "not verified" in entry.warnings[0]


def test_what_makes_no_profile_is_refused():
    few = dict(rounds=0, held_out=0)
    one, nurse = calibrated(), calibrated("a photo of a nurse", **few)
    shift = calibrated("a nurse", method=METHODS["shift"], **few)
    unmeasured = Calibration(PROMPT, [GENDER], METHODS["default"], Plan())
    for fact, call in (
            (r"\.\./x", lambda: made(one, name="../x")), ("complete", lambda: made(unmeasured)),
            ("method", lambda: made(one, shift)),
            ("prompt", lambda: made(one, calibrated(PROMPT.upper() + " ", **few))),
            ("evaluations of 2", lambda: made(one, nurse, evaluations=[1])),
            (r"setting\.size.*\[512, 512\]",
             lambda: profile_of("a", [nurse], {"size": [512, 512]}, "")),
            ):
        with pytest.raises(DebiasError, match=fact):
            call()


def test_an_unknown_prompt_has_every_image_sent_to_a_drawn_group():
    gender = GENDER.with_target((70, 30))
    profile = made(*(calibrated(prompt, (gender,), (bias,))
                     for prompt, bias in ((PROMPT, 2.0), ("a nurse", -2.0))))
    entry, exact = entry_for(with_others(profile, "draw"), "a photo of a lawyer")
    assert not exact and entry.before is None
    assert entry.warnings == ("this prompt was not calibrated; every image is steered to a group "
                              "drawn from the target",)
    assert entry.steerings[0].probabilities == pytest.approx((0, 0.7, 0.3))
    assert entry.steerings[0].push == np.mean([e.steerings[0].push for e in profile.entries])
    fair = made(calibrated("a photo of a person", bias=(0.0,)))
    assert fair.entries[0].steerings == (Steering.none(2),), "no calibrated one needed it"
    drawn = Steering((0.0, 0.0), (0.0, 0.5, 0.5), fair.method.unit)
    assert entry_for(with_others(fair, "draw"), "a lawyer")[0].steerings == (drawn,)
    assert metadata(fair, fair.entries[0].prompt, {"acted": False})["Debias"] == (
        "not applied (the calibration found nothing to correct)")


def test_an_unknown_prompt_gets_the_average_shift():
    profile = made(calibrated(method=METHODS["shift"]), calibrated("a nurse", bias=(-2.0,), method=METHODS["shift"]))
    entry, _ = entry_for(with_others(profile, "draw"), "a photo of a lawyer")
    assert entry.warnings == ("this prompt was not calibrated; the average of 2 calibrated prompts is used",)
    assert entry.steerings[0].weights == pytest.approx(np.mean([e.steerings[0].weights for e in profile.entries], 0))


@pytest.mark.parametrize("calibrated_at, used_at, said", [
    (SETTING, SETTING, []),
    (SETTING, {**SETTING, "steps": 30, "sampler": "Euler", "cfg": 7},
     ["steps: calibrated at 12, used at 30"]),
    (SETTING, {**SETTING, "model": "renamed.ckpt"}, []),
    (SETTING, {**SETTING, "model_hash": "cd34"}, ["model hash: calibrated at ab12, used at cd34"]),
    (SETTING, {"steps": None, "lora": "x"}, []),  # what one side does not know cannot differ
    # a checkpoint's hash counts in every host
    *(({**SETTING, "sampler": "EulerDiscreteScheduler"},
       dict(model="sd15", model_hash=used, sampler="Euler"), said) for used, said in (
        ("ab12", []), ("cd34", ["model: calibrated at sd15.safetensors, used at sd15",
                                "model hash: calibrated at ab12, used at cd34"])))])
def test_every_difference_of_the_setting_is_one_sentence(profile, calibrated_at, used_at, said):
    assert differences(replace(profile, setting=calibrated_at), used_at) == said


def test_the_shipped_profile_is_for_the_demo_model_in_every_host():
    """A web UI said of it that model and sampler were others: they name, and read, the same ones differently."""
    shipped = Profile.load(SHIPPED / "demo-gender.json")
    web_ui = dict(model="demo", model_hash="822c514a49", sampler="DDIM", scheduler="Automatic", steps=8, cfg=2)
    assert differences(shipped, web_ui) == []
    assert differences(shipped, {**web_ui, "sampler": "Euler a"}) == [
        "sampler: calibrated at DDIMScheduler, used at Euler a"]
    assert differences(shipped, {**shipped.setting, "model_hash": "cd34"}) == [
        f"model hash: calibrated at {shipped.setting['model_hash']}, used at cd34"], "another folder of that name"


@pytest.mark.parametrize("theirs, here, differ", [
    ("SD1ClipModel", "SDXLClipModel", None), ("SDXLClipModel", "SDXLRefinerClipModel", None),
    ("SD1ClipModel", "sd1", False), ("sdxl", "SDXLClipModel", False), ("SD1ClipModel", "T5", True),
    ("", "sd3", False)])
def test_a_text_encoder_of_another_family_is_refused_or_said(profile, theirs, here, differ):
    own = replace(profile, setting={"text_encoder": theirs or None})
    if differ is None:
        with pytest.raises(DebiasError, match=f"{theirs}.*{here}"):
            check_encoder(own, here)
        return
    check_encoder(own, here)
    assert bool(differences(own, {"text_encoder": here})) == differ


def test_an_edited_profile_is_told_and_shows_its_own_hash(profile, saved):
    with pytest.warns(UserWarning, match="was edited since it was saved"):
        edited = Profile.load(edit(saved, classifier="other"))
    assert edited.edited and edited.hash != profile.hash
    assert metadata(edited, PROMPT, ACTED)["Debias hash"] == edited.hash[:12]


def test_a_profile_written_by_hand_needs_weights_only(tmp_path):
    path = tmp_path / "hand.json"
    document = {"schema": "1.0", "name": "hand", "method": {"spend": "shift"},
                "attributes": [{"name": "g", "groups": [{"name": "a"}, {"name": "b"}]}],
                "entries": [{"prompt": "p", "steerings": [{"weights": [0.5, -0.5]}]}]}
    path.write_text("\ufeff" + json.dumps(document), "utf-8")  # as some editors save
    profile = Profile.load(path)
    assert not profile.edited and entry_for(profile, "p")[0].steerings == (Steering((0.5, -0.5)),)


@pytest.mark.parametrize("content, message", [
    (b"", "cut off"), (b'{"schema": "1.0", "ent', "cut off"), (b"\xff\xfe\x00", "UTF-8"),
    (b"[" * 100_000, "cut off"),
    (b'{"schema": NaN}', "NaN"), (b"3", "not a profile"),
    (b'{"prompt": "x", "rounds": []}', "not a profile")])
def test_files_that_are_not_profiles_are_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DebiasError, match=message) as error:
        Profile.load(path)
    assert "x.json" in str(error.value) and len(str(error.value)) < 600


@pytest.fixture(scope="module")
def two():
    """The document of a profile of two attributes."""
    return made(calibrated(attributes=(GENDER, SKIN_TONE_3), bias=(2.0, 1.0))).to_dict()


SENT = "entries.0.steerings.0"


@pytest.mark.parametrize("place, value, fact", [
    ("schema", "2.0", r"2\.0.* 1\.x"), ("schema", "new", "version"),
    *((name, value, "cannot be used") for name, value in (
        ("entries", [3]), ("entries", None), ("attributes", []),
        ("attributes", "gender"), ("name", "../x"), ("name", None), ("name", "a\nb"),
        ("method", {"direction": "sideways"}), ("method", None), ("setting", {"size": [1]}),
        ("setting", 5))),
    ("attributes.1.name", "gender", "same name"),
    # weights that are not one finite number of a sensible size for each group
    *((f"{SENT}.weights", value, "cannot be used") for value in (
        ["1e999", 0.0], ["a", "b"], [0.0], None, [[1], [2]], [0, -101])),
    (f"{SENT}.strength", -1, r"entries\[0\]\.steerings\[0\]"),
    # counts that are none
    *(("entries.0.before.0.counts", value, "counts|classified|finite") for value in (
        [-3, 5], [0.5, 2], [0, 0], ["1", 2], [True, 1], [10**30, 1], [1, 2, 3])),
    ("entries.0.before", [], "counts of"), ("entries.0.rounds.0.attributes", [], "counts of"),
    # fields of a wrong type, or with HTML that would reach the report
    *((f"entries.0.{field}", value, rf"entries\[0\]\.{field}") for field, value in (
        ("fidelity", 5), ("fidelity", {"before": "high"}), ("cost", []), ("cost", {"images": "x"}),
        ("rounds", [5]), ("rounds", [{"kind": "audit"}]), ("stop", 3), ("warnings", "none"),
        ("before", [{"counts": [1, 2], "shares": 5}]))),
    *((f"entries.0.rounds.0.{field}", "<img src=x>", rf"rounds\[0\]\.{field}")
      for field in ("kind", "images", "fidelity", "seconds"))])
def test_a_profile_with_a_wrong_value_is_refused(tmp_path, two, place, value, fact):
    document = copy.deepcopy(two)
    *steps, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    holder = document
    for step in steps:
        holder = holder[step]
    holder[last] = value
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document).replace('"1e999"', "1e999"))
    with pytest.raises(DebiasError, match=fact):
        Profile.load(path)


@pytest.mark.parametrize("changes", [
    dict(entries=(), method=METHODS["shift"]),
    dict(setting={"a": [1]}), dict(setting={"a": float("nan")}), dict(name="../x")])
def test_a_profile_that_would_not_load_is_not_saved(profile, tmp_path, changes):
    with pytest.raises(DebiasError):
        replace(profile, **changes).save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DebiasError, match="same name"):
        replace(profile, attributes=(GENDER, GENDER))


def test_a_changed_profile_saves_what_it_now_says_and_keeps_unknown_fields(two, tmp_path):
    document = copy.deepcopy(two)
    document["entries"].append({**document["entries"][0], "prompt": "a nurse"})
    method, entries = document["method"], document["entries"]
    document["schema"], document["author"] = "1.7", {"name": "A"}
    entries[0]["note"] = entries[1]["note"] = method["note"] = method["guidance"]["note"] = "kept"
    document.pop("hash")
    profile = Profile.from_dict(document)
    first = profile.entries[0]
    first = replace(first, steerings=(Steering((0.5, -0.5)), *first.steerings[1:]))
    changed = replace(profile, name="other", entries=(first, profile.entries[1]))
    again = Profile.load(changed.save(tmp_path))
    assert again.name == "other" and again.entries == changed.entries
    assert again.hash == changed.hash != profile.hash
    saved = again.to_dict()
    assert saved["author"] == {"name": "A"} and saved["schema"] == "1.7"
    assert saved["method"] == method and saved["entries"][1] == entries[1]
    assert saved["entries"][0]["note"] == "kept"


@pytest.mark.slow
def test_whatever_can_be_calibrated_can_be_saved_and_loaded(tmp_path):
    attribute = parse(f"many {'long' * 40}: " + " | ".join(f"g{i}" for i in range(70)))
    own = made(calibrated(attributes=(attribute,), rounds=1))
    assert Profile.load(own.save(tmp_path)).attributes == (attribute,)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_profiles_are_verified_and_unedited(path):
    shipped = Profile.load(path)
    assert shipped.name == path.stem and not shipped.edited
    assert all(entry.after for entry in shipped.entries)
    assert shipped.setting["model"] != "demo" or shipped.setting["model_hash"] == model_hash(FOLDER)


def test_a_setting_of_a_shared_profile_writes_no_escapes_to_the_terminal(profile):
    own = replace(profile, setting={"steps": "a\nb\x1b[31m" * 400, "sampler": "\x1b[31m"})
    for text in (*differences(own, {"steps": 30}), *described(own).splitlines()):
        assert text.isprintable() and len(text) < 800


@pytest.mark.parametrize("method, weights", [
    ("default", r"gender: [\d.]+ % left alone, .*[\d.]+ % steered to woman"),
    ("shift", r"gender: man 0\.\d+, woman -0\.\d+")])
def test_metadata_names_profile_hash_and_weights(method, weights):
    profile = made(calibrated(method=METHODS[method]))
    keys = metadata(profile, PROMPT, ACTED)
    assert list(keys) == ["Debias profile", "Debias hash", "Debias weights"]
    assert keys["Debias profile"] == "doctor-gender"
    assert keys["Debias hash"] == profile.hash[:12]
    assert re.fullmatch(weights, keys["Debias weights"])
    keys = metadata(profile, "other", {**ACTED, "skipped": 2}, strength=0.5)
    assert keys["Debias strength"] == "0.5" and "not calibrated" in keys["Debias prompt"]
    assert keys["Debias skipped"].startswith("2 of 12 steps")


def test_metadata_claims_nothing_where_guidance_did_not_act(profile):
    steering = profile.entries[0].steerings[0]
    alone = next(seed for seed, option in enumerate(steering.draws(range(100))) if option == 0)
    pushed = next(seed for seed, option in enumerate(steering.draws(range(100))) if option)

    def reason(*arguments, **info):
        keys = metadata(profile, PROMPT, {"acted": False, **info}, *arguments)
        assert {"Debias profile", "Debias hash", "Debias"} <= keys.keys() and "Debias weights" not in keys
        return keys["Debias"]

    assert reason(1.0, alone) == "left alone by its draw"
    assert "changed nothing" in reason(1.0, pushed)
    assert "NaN" in reason(1.0, pushed, steps=5, skipped=5)
    assert "CFG is 1" in reason(reason="CFG is 1")


def test_a_described_profile_says_its_setting_before_its_prompts_and_the_shares_that_its_calibration_said():
    """Twenty prompts hid the setting; a verification's few images said other shares than "Now"."""
    own = made(calibrated(within=0.05))
    first, setting, *entries = described(own).splitlines()
    shares, = (" / ".join(f"{share:.0%}" for share in entry["shares"]) for entry in own.entries[0].expected)
    assert first == "doctor-gender balances gender toward man 50 %, woman 50 %"
    assert setting == ("Calibrated with model sd15.safetensors, sampler euler, steps 12, cfg 7.0; labels by synthetic; "
                       f"method: direction prompt, draw; hash {own.hash[:12]}")
    assert entries[0].startswith(f"{PROMPT}: man / woman: ") and entries[0].endswith(f"-> {shares}")
