"""What users of the web UIs saw go wrong in trials of the first edition, one test each."""
from __future__ import annotations

import inspect
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from webui_real import arrays
from webui_settings import CALIBRATE, PROMPT, calibrate, debias, keys, payload, same, save_profile

DRAW = dict(weights=[0, 0], probabilities=[0.5, 0.0, 0.5], strength=1.0)


def ours(name):
    return sys.modules[f"sd_debias.webui_extension.{name}"]


# --- pasting ---------------------------------------------------------------------------------------------------------

def test_a_pasted_picture_that_was_left_alone_keeps_the_extension_on_and_its_batch_comes_again(a_double):
    save_profile(a_double.profiles, steering=DRAW)
    batch = a_double.post("txt2img", payload(seed=20, batch_size=4, **debias(strength=0.8)))
    said = [keys(text) for text in batch.infotexts]
    alone = [i for i, each in enumerate(said) if each.get("Debias") == "left alone by its draw"]
    assert len(alone) == 2 and all(each["Debias profile"] == "test" and each["Debias hash"] for each in said)
    again = a_double.post("txt2img", payload(seed=20, batch_size=4, infotext=batch.infotexts[alone[0]]))
    assert same(arrays(batch), arrays(again)) and again.infotexts == batch.infotexts


LAWYER = dict(prompt="a photo of a lawyer", seed=20, batch_size=4)


@pytest.mark.parametrize("others", ["draw", "leave alone"])
def test_a_pasted_picture_of_a_prompt_that_was_not_calibrated_comes_again(a_double, others):
    save_profile(a_double.profiles)
    made = a_double.post("txt2img", payload(**LAWYER, **debias(others=others)))
    assert ("Debias others" in keys(made.infotexts[0])) == (others == "draw")
    again = a_double.post("txt2img", payload(**LAWYER, infotext=made.infotexts[0]))
    assert same(arrays(made), arrays(again)) and again.infotexts == made.infotexts


# --- what a calibration is continued from ----------------------------------------------------------------------------

class Neighbour:
    """Another extension's always-on script, such as ControlNet, with its arguments in the page's."""
    alwayson = True

    def __init__(self, at):
        self.args_from, self.args_to = at, at + 1

    def title(self):
        return "ControlNet"


class Unit:
    """ControlNet's: an object that holds a picture, whose text names its place in memory."""

    def __init__(self, weight, image):
        self.weight, self.image = weight, image


@pytest.fixture
def key(bench, tmp_path, monkeypatch):
    """The file of the state of a calibration with this page."""
    workbench = ours("workbench")
    monkeypatch.setitem(sys.modules, "modules.sd_vae", types.SimpleNamespace(vae_dict={}))
    bench.shared.opts.data_labels = {"eta_ddim": types.SimpleNamespace(infotext="Eta DDIM"),
                                     "show_progress": types.SimpleNamespace(infotext=None)}

    def of(args=(), **page):
        p = sys.modules["webui_double"].Processing(bench, bench.shared.sd_model, **payload(**page))
        p.scripts, p.script_args = types.SimpleNamespace(alwayson_scripts=[Neighbour(0)]), tuple(args)
        unfinished = sys.modules["sd_debias.core.calibration.unfinished"].Unfinished
        return unfinished(Path(), "name", workbench.Workbench(p, "").fingerprint()).path.name
    of.host = bench
    return of


@pytest.mark.parametrize("option", ["CLIP_stop_at_last_layers", "sd_vae", "emphasis", "randn_source"])
def test_clip_skip_vae_emphasis_and_noise_source_are_in_the_setting(key, option):
    setting_of, named = ours("run").setting_of, dict(CLIP_stop_at_last_layers="clip_skip", sd_vae="vae",
                                                     emphasis="emphasis", randn_source="noise_source")
    setattr(key.host.shared.opts, option, 1)
    p = sys.modules["webui_double"].Processing(key.host, key.host.shared.sd_model)
    assert setting_of(p)[named[option]] == 1
    p.override_settings = {option: 2}
    assert setting_of(p)[named[option]] == 2


def test_rounds_are_not_continued_with_other_settings_of_the_host(key):
    key.host.shared.opts.eta_ddim, key.host.shared.opts.show_progress = 0.0, 1
    before = key()
    key.host.shared.opts.show_progress = 2
    assert key() == before
    key.host.shared.opts.eta_ddim = 1.0
    assert key() != before != key(override_settings=dict(sd_vae="other"))


def test_rounds_are_not_continued_with_other_arguments_of_controlnet(key):
    picture = np.arange(12, dtype=np.uint8)
    before = key([Unit(1.0, picture)])
    assert key([Unit(1.0, picture.copy())]) == before
    assert len({before, key([Unit(0.5, picture)]), key([Unit(1.0, picture + 1)]), key([None])}) == 4


def test_rounds_are_not_continued_with_a_checkpoint_replaced_under_its_name(key, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    key.host.checkpoints["model"] = file
    key.host.shared.opts.sd_model_checkpoint = "model"
    before = key()
    assert key() == before
    file.write_bytes(b"another")
    assert key() != before


def test_killed_after_its_profile_was_saved_the_same_calibration_ends_well(bench, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["sd_debias.core.calibration.unfinished"].Unfinished, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(bench)
    profile = (bench.profiles / "doctor.json").read_bytes()
    assert len(list((bench.profiles / "unfinished").glob("*.json"))) == 1
    assert "complete already" in calibrate(bench).info
    assert not list((bench.profiles / "unfinished").glob("*.json"))
    assert (bench.profiles / "doctor.json").read_bytes() == profile
    with pytest.raises(ValueError, match="doctor.json' exists already"):
        calibrate(bench)


def test_a_host_that_never_calls_the_hook_stops_in_the_first_round(bench, monkeypatch):
    monkeypatch.delattr(type(bench.runner.named("Debias")), "process_before_every_sampling")
    with pytest.raises(ValueError, match="guidance changed nothing in them"):
        calibrate(bench)
    assert len(bench.denoisers) == 4 + 1  # the audit's batches, and the round's first
    assert not (bench.profiles / "doctor.json").exists()


def test_an_error_of_the_host_is_not_blamed_on_the_folder_of_profiles(bench, monkeypatch):
    def broken(p):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys.modules["modules.processing"], "process_images", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        calibrate(bench)
    assert not isinstance(caught.value, ValueError)


# --- what the API must not tell or change ----------------------------------------------------------------------------

def test_settings_of_folders_and_downloads_cannot_be_changed_over_the_api(a_double):
    assert all(restricted for _, restricted in a_double.shared.opts.labels.values())
    assert len(a_double.shared.opts.labels) == 3


def test_a_classifier_over_the_api_does_not_tell_whether_a_folder_exists(a_double, tmp_path):
    classifiers, gender = ours("classifiers"), [sys.modules["sd_debias.core.attribute"].GENDER]
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    said = []
    for path in (there, gone, "../there", "/etc", f"gender={there}"):
        with pytest.raises(ValueError) as caught:
            classifiers.load(str(path), gender, by_name=True)
        said.append(str(caught.value).replace(str(path).rpartition("=")[2], "X"))
    assert len(set(said)) == 1 and "There is no classifier 'X' in models/classifiers" in said[0]
    a_double.shared.opts.sd_debias_download = True
    for odd in ("a\0b", "x" * 300, "\ud800", "hub/gone", "../..", "."):
        with pytest.raises(ValueError, match="There is no classifier"):
            classifiers.load(odd, gender, by_name=True)
    a_double.shared.opts.sd_debias_download = False
    own = classifiers.folder() / "mine"
    own.mkdir(parents=True)
    assert classifiers.found("mine", trusted=False) == str(own.resolve())
    a_double.shared.opts.sd_debias_classifier = str(there)
    for named in (str(there), f"{there}=x", f"gender={there}"):  # the settings page may name any folder
        (tmp_path / "there=x").mkdir(exist_ok=True)
        a_double.shared.opts.sd_debias_classifier = named
        with pytest.raises(ValueError, match="could not be loaded"):
            classifiers.load("", gender, by_name=True)


def test_messages_hold_no_folder_of_this_machine(a_double, tmp_path):
    profiles = ours("profiles")
    said = profiles.said(RuntimeError(f"no {tmp_path / 'debias_profiles' / 'x.json'} and nothing in {tmp_path}"))
    assert str(tmp_path) not in said and "debias_profiles/x.json" in said
    error = sys.modules["sd_debias.core.errors"].DebiasError
    assert profiles.said(error(f"'{tmp_path}'")) == f"'{tmp_path}'", "whose change would tell where the host lies"
    with pytest.raises(ValueError) as caught:
        profiles.load("gone")
    assert str(tmp_path) not in str(caught.value)
    assert profiles.place(tmp_path / "debias_profiles" / "x.json") == "debias_profiles/x.json"


@pytest.mark.parametrize("script", ["Debias: audit", "Debias: calibrate (IDA)"])
def test_a_script_over_the_api_says_no_folder_of_this_machine(a_double, tmp_path, script):
    arguments = list({**CALIBRATE, "classifier": "mine"}.values()) if "cal" in script else [
        ["gender"], "", "mine", 10, 0.0, "", False]
    (ours("classifiers").folder() / "mine").mkdir(parents=True)
    with pytest.raises(ValueError, match="mine") as caught:
        a_double.post("txt2img", payload(script_name=script, script_args=arguments))
    assert str(tmp_path) not in str(caught.value)


# --- what the page says ----------------------------------------------------------------------------------------------

def test_the_estimate_names_a_time_once_a_calibration_has_measured_the_speed(bench, monkeypatch):
    """It said "the time is shown after the first images" until a field was changed."""
    pressed = []
    monkeypatch.setattr(sys.modules["webui_double"].Component, "click",
                        lambda self, fn, inputs=(), outputs=(), **_: pressed.append((fn, inputs)), raising=False)
    bench.runner.named("Debias: calibrate (IDA)").ui(False)
    renewed, = ((fn, inputs) for fn, inputs in pressed if fn.__name__ == "_about")
    values = [component.value for component in renewed[1]]
    assert "the time is shown after the first images" in renewed[0](*values)
    calibrate(bench)
    assert "at the speed of the last calibration or audit here" in renewed[0](*values)


def test_an_infotext_says_in_plain_words_what_was_done(a_double):
    """It said "push 1"; infotexts that do still bring their batch again."""
    save_profile(a_double.profiles, steering=DRAW)
    made = a_double.post("txt2img", payload(seed=20, batch_size=4, **debias()))
    said = next(text for text in made.infotexts if "Debias weights" in keys(text))
    assert keys(said)["Debias weights"] == "gender: 50 % left alone, 50 % steered to woman"
    earlier = said.replace("50 % left alone, 50 % steered to woman", "50 % alone, 50 % woman, push 1")
    assert earlier != said
    again = a_double.post("txt2img", payload(seed=20, batch_size=4, infotext=earlier))
    assert same(arrays(made), arrays(again)) and again.infotexts == made.infotexts
    save_profile(a_double.profiles, "strong", steering={**DRAW, "strength": 1.5})
    strong = a_double.post("txt2img", payload(seed=20, batch_size=4, **debias(name="strong"))).infotexts
    assert {keys(text).get("Debias weights") for text in strong} == {
        None, "gender: 50 % left alone, 50 % steered to woman, 1.5 times as strongly as usual"}


def test_the_accordion_says_what_a_profile_balances_and_toward_which_target(a_double):
    """Its first line was "by direction 'prompt', draw"."""
    save_profile(a_double.profiles)
    first, *_ = ours("script")._about("test").splitlines()
    assert first.rstrip() == "test balances gender toward man 50 %, woman 50 %"


def test_who_has_no_classifier_is_told_of_the_demo_model_s_own(a_double):
    with pytest.raises(ValueError, match="The demo model has a judge of its own, 'demo'"):
        calibrate(a_double)


def test_a_name_whose_profile_was_deleted_can_be_calibrated_again_and_its_report_is_kept(bench):
    calibrate(bench)
    report = bench.profiles / "reports" / "doctor" / "report.html"
    for kept in ("doctor (earlier)", "doctor (earlier) 2"):
        (bench.profiles / "doctor.json").unlink()
        report.write_text(kept)
        done = calibrate(bench)
        assert f"whose profile is gone, is now debias_profiles/reports/{kept}." in done.info
        assert (bench.profiles / "reports" / kept / "report.html").read_text() == kept
        assert (bench.profiles / "doctor.json").exists() and report.read_text() != kept
    with pytest.raises(ValueError, match="doctor.json' exists already"):
        calibrate(bench)


# --- Forge Neo -------------------------------------------------------------------------------------------------------

def test_the_sheets_of_a_result_find_the_folder_that_the_host_writes_them_to(bench, tmp_path):
    """Forge Neo's batch file alone makes it: started otherwise, a finished calibration showed nothing at all."""
    bench.shared.opts.temp_dir = str(tmp_path / "tmp")
    calibrate(bench)
    assert (tmp_path / "tmp").is_dir()


def test_prompt_schedules_of_three_arguments_are_asked_with_three(a_double, monkeypatch):
    parser = sys.modules["modules.prompt_parser"]
    schedule = parser.get_learned_conditioning_prompt_schedules
    monkeypatch.setattr(parser, "get_learned_conditioning_prompt_schedules",
                        lambda prompts, base_steps, hires_steps=None: schedule(prompts, base_steps, hires_steps))
    save_profile(a_double.profiles)
    said = keys(a_double.post("txt2img", payload(**debias())).infotexts[0])
    assert "Debias weights" in said and "Debias failed" not in said


def test_latents_with_an_axis_of_time_are_guided(a_double):
    save_profile(a_double.profiles, direction="embedding")
    guide = ours("guide").from_profile(ours("profiles").load("test"), ours("arguments").Arguments(True, "test"))
    one, other = (ours("sampling").Pass(None, guide, [PROMPT] * 2, [1, 2], (64, 64)) for _ in range(2))
    for state in (one, other):
        state.guided = {0: 0}
    flat = [torch.randn(2, 4, 8, 8) for _ in range(3)]
    gamma = one.gamma(flat[0], flat[1], [[([0], flat[2])]])
    deep = other.gamma(*(x[:, :, None] for x in flat[:2]), [[([0], flat[2][:, :, None])]])
    assert torch.equal(gamma[:, :, None], deep) and gamma[0].any() and not gamma[1].any()
    for name in ("host_a1111", "host_forge"):
        assert "view(-1, 1, 1, 1)" not in inspect.getsource(ours(name))


def test_a_profile_of_the_settings_folder_that_is_cut_off_is_said_and_not_a_crash(a_double, tmp_path):
    a_double.profiles.mkdir(parents=True)
    (a_double.profiles / "cut.json").write_text(json.dumps({"schema": "1.0"})[:9])
    assert keys(a_double.post("txt2img", payload(**debias(name="cut"))).infotexts[0])["Debias failed"].startswith(
        "'debias_profiles/cut.json' cannot be used")


# --- Forge Neo's families ---------------------------------------------------------------------------------------------

def test_flux_keeps_the_guidance_that_it_is_told_in_a_text_evaluated_apart(a_double):
    condition = dict(cross_attn=torch.zeros(2, 3, 4), pooled_output=torch.zeros(2, 5),
                     model_conds=dict(guidance=types.SimpleNamespace(cond=torch.tensor([3.5, 3.5]))))
    found = ours("host_forge")._text(condition, 1)
    assert found["guidance"].tolist() == [3.5] and len(found["crossattn"]) == len(found["vector"]) == 1
    plain = ours("host_forge")._text({**condition, "model_conds": {}}, 2)
    assert set(plain) == {"crossattn", "vector"}


def test_a_text_that_the_host_lengthens_with_its_last_token_ends_with_the_pushed_text_s(a_double):
    from sd_debias.core.method.conditioning import Encoded
    a, b, c, d = (torch.full((1, 1, 2), value) for value in (1.0, 2.0, 3.0, 4.0))
    host = torch.cat([a, b, b, b, b], dim=1)  # two tokens, filled up to five
    encoded = Encoded(dict(crossattn=torch.cat([a, b], dim=1)), {}, {})
    pushed = dict(crossattn=torch.cat([a, c, d], dim=1))
    found = ours("conditioning").moved(dict(crossattn=host), encoded, pushed)["crossattn"]
    assert found[0, :, 0].tolist() == [1, 3, 4, 4, 4]


def test_a_video_s_frames_are_one_picture(a_double, monkeypatch):
    """Forge Neo takes Wan's batch size as the number of frames, of which the first one's text and seed count."""
    save_profile(a_double.profiles, steering=DRAW)
    monkeypatch.setitem(sys.modules, "backend", types.ModuleType("backend"))
    wan = types.SimpleNamespace(dynamic_args=types.SimpleNamespace(wan=True))
    monkeypatch.setitem(sys.modules, "backend.args", wan)
    texts = a_double.post("txt2img", payload(seed=20, batch_size=4, **debias())).infotexts
    said = [keys(text) for text in texts]
    assert len({tuple(sorted(each.items())) for each in said}) == 1, "all frames say the same"


def test_a_scheduler_that_the_host_chose_itself_is_no_other_setting(a_double):
    guide = ours("guide")
    save_profile(a_double.profiles, setting=dict(scheduler="Automatic", steps=6))
    loaded = ours("profiles").load("test")
    made = guide.from_profile(loaded, ours("arguments").Arguments(enabled=True, profile="test"))
    assert made.differences(dict(scheduler="Normal", steps=6)) == []
    assert made.differences(dict(scheduler="Normal", steps=7)) == ["steps: calibrated at 6, used at 7"]


def test_a_console_of_few_letters_does_not_end_a_picture(a_double, monkeypatch):
    """As a Windows host's whose output a launcher collects."""
    said = io.TextIOWrapper(io.BytesIO(), "cp1252", newline="")
    monkeypatch.setattr(sys, "stdout", said)
    sys.modules["sd_debias.webui_extension.doctor_script"].tell("reading 'a \u533b\u751f'")
    said.flush()
    assert said.buffer.getvalue() == b"sd-debias: reading 'a \\u533b\\u751f'\n"
