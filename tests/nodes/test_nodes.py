"""The nodes by what they take and give, over the real host and its double."""
import copy
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.loop import Calibration, Round
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.method.methods import METHODS, Method
from sd_debias.core.profile.file import Profile
from sd_debias.core.method.draw import Steering

PROMPT = "a photo of a doctor"
ALL_TO_WOMEN = Steering((0.0, 0.0), (0.0, 0.0, 1.0))


def profile(steering=ALL_TO_WOMEN, prompts=(PROMPT,), method=METHODS["default"], **setting):
    """A profile as a calibration leaves it, verified on two images."""
    made = []
    for prompt in prompts:
        rounds = [Round(kind, (s,), (1, 2), [[0, 1]])
                  for kind, s in (("audit", Steering.none(2)), ("held-out", steering))]
        made.append(Calibration(prompt, [GENDER], method, Plan(2, held_out=2), rounds))
    return profile_of("doctor-gender", made, {"steps": 4, "cfg": 2.0, **setting}, "a test")


# --- attribute -------------------------------------------------------------------------------------------------------

def test_attributes_are_built_in_or_own_and_chain(call, said):
    from sd_debias.nodes.attribute import OWN, DebiasAttribute
    first, = call(DebiasAttribute, attribute="gender", target="70:30")
    both, = call(DebiasAttribute, attribute=OWN, groups="young: a child | a youth\n\nold", name="age", also=first)
    assert [a.name for a in both] == ["gender", "age"] and both[0].target == (0.7, 0.3)
    assert both[1].groups[0].texts == ("a child", "a youth") and both[1].groups[1].texts == ("old",)


@pytest.mark.parametrize("inputs, sentence", [
    (dict(groups="young:\nold"), "'young' has an empty text"),
    (dict(groups="young"), "two groups or more"),
    (dict(groups="a\nb", target="1:2:3"), "needs 2 target shares, one per group, got 3"),
    (dict(groups="a\nb", target="half"), "Expected a target as one number per group")])
def test_attributes_that_do_not_fit_are_refused(call, said, inputs, sentence):
    from sd_debias.nodes.attribute import OWN, DebiasAttribute
    with pytest.raises(ValueError, match=sentence):
        call(DebiasAttribute, attribute=OWN, **inputs)


def test_chained_attributes_need_names_of_their_own(call, said):
    from sd_debias.nodes.attribute import DebiasAttribute
    first, = call(DebiasAttribute, attribute="gender")
    with pytest.raises(ValueError, match="the same name"):
        call(DebiasAttribute, attribute="gender", also=first)


# --- profiles as files -----------------------------------------------------------------------------------------------

@pytest.fixture
def profiles(set_folder, tmp_path):
    """The module, with an empty folder."""
    from sd_debias.nodes import profiles as module
    set_folder(module.FOLDER, tmp_path, {".json"})
    return module


def test_a_saved_profile_is_loaded_and_described(call, said, profiles):
    path, = call(profiles.DebiasSaveProfile, profile=profile(), name="mine")
    loaded, text = call(profiles.DebiasLoadProfile, profile="mine.json")
    assert Path(path).name == "mine.json" and loaded.name == "mine" and loaded.entries == profile().entries
    assert "50% / 50% -> 50% / 50%" in text and "steps 4" in text


def test_a_changed_file_changes_the_fingerprint(call, said, profiles):
    call(profiles.DebiasSaveProfile, profile=profile(), name="mine")
    before = profiles.DebiasLoadProfile.fingerprint_inputs("mine.json")
    call(profiles.DebiasSaveProfile, profile=profile(Steering((0.5, -0.5))), name="mine", overwrite=True)
    assert profiles.DebiasLoadProfile.fingerprint_inputs("mine.json") != before


def test_an_existing_profile_is_not_overwritten_unasked(call, said, profiles):
    call(profiles.DebiasSaveProfile, profile=profile())
    with pytest.raises(ValueError, match="exists already"):
        call(profiles.DebiasSaveProfile, profile=profile())


@pytest.mark.parametrize("name", ["../mine", "a/b", "a\\b", ".mine", "con"])
def test_names_never_leave_the_folder(call, said, profiles, name):
    with pytest.raises(ValueError, match="Expected a name of 1 to 120"):
        call(profiles.DebiasSaveProfile, profile=profile(), name=name)


def test_a_full_disk_is_said(call, said, profiles, monkeypatch):
    from sd_debias.core.profile import file as core

    def full(path, content):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(core, "write_atomic", full)
    with pytest.raises(ValueError, match="could not be written.*No space left on device. Free some space"):
        call(profiles.DebiasSaveProfile, profile=profile())


def test_a_missing_or_damaged_profile_is_said(call, said, profiles, tmp_path):
    with pytest.raises(ValueError, match="There is no profile 'gone.json'"):
        call(profiles.DebiasLoadProfile, profile="gone.json")
    (tmp_path / "cut.json").write_text(json.dumps(profile().to_dict())[:100])
    with pytest.raises(ValueError, match="not readable JSON"):
        call(profiles.DebiasLoadProfile, profile="cut.json")


@pytest.fixture
def shipped(profiles, tmp_path_factory, monkeypatch):
    """A folder in place of the one that comes with the package; it holds ours.json and both.json."""
    folder = tmp_path_factory.mktemp("package") / "profiles"
    for name in ("ours", "both"):
        profiles.renamed(profile(), name).save(folder)
    monkeypatch.setattr(profiles, "SHIPPED", folder)
    return folder


def test_shipped_profiles_are_offered_after_the_users_own(call, said, profiles, shipped):
    call(profiles.DebiasSaveProfile, profile=profile(), name="zebra")
    assert profiles.names() == ["zebra.json", "both.json", "ours.json"]
    assert call(profiles.DebiasLoadProfile, profile="ours.json")[0].name == "ours"
    assert profiles.DebiasLoadProfile.fingerprint_inputs("ours.json")


def test_saving_leaves_a_shipped_profile_alone_and_the_users_own_wins(call, said, profiles, shipped):
    content = (shipped / "both.json").read_bytes()
    own = profile(Steering((0.5, -0.5)), method=METHODS["shift"])
    for overwrite in (False, True):
        path, = call(profiles.DebiasSaveProfile, profile=own, name="both", overwrite=overwrite)
        assert Path(path).parent == profiles.save_folder() != shipped
    assert (shipped / "both.json").read_bytes() == content
    assert profiles.names() == ["both.json", "ours.json"]
    assert call(profiles.DebiasLoadProfile, profile="both.json")[0].entries == own.entries


def test_no_name_leads_out_of_the_shipped_folder(call, said, profiles, shipped):
    (shipped.parent / "outside.json").write_text(json.dumps(profile().to_dict()))
    with pytest.raises(ValueError, match="There is no profile"):
        call(profiles.DebiasLoadProfile, profile="../outside.json")


# --- applying --------------------------------------------------------------------------------------------------------

def test_strength_0_hands_the_very_model_on(demo, call, said):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    assert call(DebiasApply, model=model, clip=clip, profile=profile(), strength=0.0)[0] is model


def test_image_i_of_a_batch_counts_as_seed_plus_i(demo, call, said, sample):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    drawing = Steering((0.0, 0.0), (0.5, 0.0, 0.5))
    changed = []
    for seed in (4, 5):
        patched, = call(DebiasApply, model=model, clip=clip, profile=profile(drawing))
        difference = sample(patched, seed=seed, batch=1) - sample(model, seed=seed, batch=1)
        changed.append(bool(difference.abs().max() > 1e-3))
    together = (sample(patched, seed=4) - sample(model, seed=4)).abs().amax((1, 2, 3)) > 1e-3
    assert together.tolist() == changed == [bool(option) for option in drawing.draws([4, 5])]


def test_a_run_says_what_it_did_and_in_which_setting(demo, call, said, sample):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    patched, = call(DebiasApply, model=model, clip=clip, profile=profile(), direction="embedding")
    sample(patched, cfg=3.0)
    text, warning = said[-1]
    assert warning and "2 of 2 pictures steered" in text and "cfg: calibrated at 2.0, used at 3.0" in text
    assert "steps: calibrated" not in text and "calibrated with the direction 'prompt'" in text


def test_a_profile_of_several_prompts_needs_the_text(demo, call, said):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    several = profile(prompts=(PROMPT, "a photo of a nurse"))
    with pytest.raises(ValueError, match="calibrated for 2 prompts"):
        call(DebiasApply, model=model, clip=clip, profile=several)
    call(DebiasApply, model=model, clip=clip, profile=several, text=PROMPT)


@pytest.mark.parametrize("inputs, sentence", [
    (dict(start=0.5, end=0.2), "0 <= start <= end"),
    (dict(clip=None), "holds no text encoder")])
def test_what_cannot_be_applied_is_refused(demo, call, said, inputs, sentence):
    from sd_debias.nodes.apply import DebiasApply
    model, clip, _ = demo
    with pytest.raises(ValueError, match=sentence):
        call(DebiasApply, **{**dict(model=model, clip=clip, profile=profile()), **inputs})


def test_a_window_narrows_that_of_the_profile():
    paper = profile(Steering((0.5, -0.5)), method=METHODS["paper"])
    window = paper.method.adjusted(start=0.1, end=0.5).guidance
    assert (window.start, window.end) == (0.25, 0.5)  # the method's own start stays


@pytest.mark.parametrize("node", ["apply", "text encode"])
def test_a_profile_of_another_family_of_text_encoders_is_refused(demo, call, said, sample, node):
    plain = sample(demo[0])
    with pytest.raises(ValueError, match="text encoder SDXLClipModel, but this model has SD1ClipModel"):
        use(node, demo, call, profile(text_encoder="SDXLClipModel"))
    assert torch.equal(sample(demo[0]), plain)


@pytest.mark.parametrize("node", ["apply", "text encode"])
@pytest.mark.parametrize("name, differs", [("sd1", False), ("SD1ClipModel", False), ("OtherClipModel", True)])
def test_the_name_of_a_text_encoder_is_compared_by_family(demo, call, said, sample, node, name, differs):
    patched = use(node, demo, call, profile(text_encoder=name))
    if node == "apply":
        sample(patched)  # it says what differs after the run
    assert (f"text encoder: calibrated at {name}" in said[-1][0]) == differs


def use(node, demo, call, applied):
    """Debias Apply or Debias Text Encode with a profile."""
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.text_encode import DebiasTextEncode
    if node == "apply":
        return call(DebiasApply, model=demo[0], clip=demo[1], profile=applied)[0]
    return call(DebiasTextEncode, clip=demo[1], text=PROMPT, profile=applied)[0]


# --- text encode -----------------------------------------------------------------------------------------------------

def test_text_encode_at_strength_0_is_clips_own(demo, call, said):
    from sd_debias.nodes.text_encode import DebiasTextEncode
    clip = demo[1]
    found, = call(DebiasTextEncode, clip=clip, text=PROMPT, profile=profile(), strength=0.0)
    with torch.inference_mode():
        plain = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    assert torch.equal(found[0][0], plain[0][0]) and found[0][1].keys() == plain[0][1].keys()


def test_text_encode_and_apply_make_the_same_images(demo, call, said, sample):
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.text_encode import DebiasTextEncode
    model, clip, _ = demo
    drawing = profile(Steering((0.0, 0.0), (0.5, 0.0, 0.5)))
    patched, = call(DebiasApply, model=model, clip=clip, profile=drawing)
    positive, = call(DebiasTextEncode, clip=clip, text=PROMPT, profile=drawing, seed=4, batch_size=3)
    assert positive[0][0].shape[0] == 3
    encoded = sample(model, positive=positive, seed=4, batch=3)
    assert torch.allclose(encoded, sample(patched, seed=4, batch=3), atol=1e-5)
    assert (encoded - sample(model, seed=4, batch=3)).abs().max() > 1e-3


def test_both_with_one_profile_is_noticed(demo, call, said, sample):
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.text_encode import DebiasTextEncode
    model, clip, _ = demo
    one = profile()  # made twice, it would differ in the second of its creation
    patched, = call(DebiasApply, model=model, clip=clip, profile=one)
    positive, = call(DebiasTextEncode, clip=clip, text=PROMPT, profile=one)
    assert torch.equal(sample(patched, positive=positive), sample(model, positive=positive))
    assert "has applied this profile" in said[-1][0] and said[-1][1]


def test_a_shift_alike_for_all_images_is_one_conditioning(demo, call, said):
    from sd_debias.nodes.text_encode import DebiasTextEncode
    positive, = call(DebiasTextEncode, clip=demo[1], text=PROMPT, profile=profile(Steering((0.5, -0.5))), batch_size=8)
    assert positive[0][0].shape[0] == 1


def test_a_longer_prompt_is_shifted_over_its_own_tokens(demo, call, said):
    """A conditioning of two chunks and groups of one: what is not moved stays as it was."""
    from sd_debias.nodes.conditioning import encode_all, shift
    with torch.inference_mode():
        encoded = encode_all(demo[1], PROMPT, (GENDER,), Method().context)
        entry = dict(cross_attn=torch.randn(1, 154, 56))
        (moved,), apart = shift([entry], encoded, (GENDER,), torch.tensor([[0.0, -1.0], [0.0, 0.0]]), Method().context)
    assert moved["cross_attn"].shape == (2, 154, 56) and not apart
    assert torch.equal(moved["cross_attn"][1], entry["cross_attn"][0])
    assert torch.equal(moved["cross_attn"][0, 77:], entry["cross_attn"][0, 77:])
    assert not torch.equal(moved["cross_attn"][0, :77], entry["cross_attn"][0, :77])


def test_groups_that_read_the_same_are_refused(demo):
    from sd_debias.core.attribute import Attribute, Group
    from sd_debias.nodes.conditioning import encode_all
    same = Attribute("age", (Group("young", ("a person",)), Group("old", ("a person",))))
    with pytest.raises(ValueError, match="read the same"):
        encode_all(demo[1], PROMPT, (same,), Method().context)


# --- the demo model --------------------------------------------------------------------------------------------------

@pytest.mark.comfyui
def test_the_demo_model_is_that_of_diffusers(demo, sample):
    from sd_debias.demo_model.model import FOLDER
    from sd_debias.diffusers_host.workbench import load_pipeline
    pipe = load_pipeline(str(FOLDER))
    model, clip, vae = demo
    generator = torch.Generator().manual_seed(0)
    x, latent = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        text = sample.encode(PROMPT)[0][0]
        ids = pipe.tokenizer([PROMPT], padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert (text - pipe.text_encoder(ids)[0]).abs().max() < 1e-4
        times, text = torch.tensor([800, 300]), text.expand(2, -1, -1)
        predicted = model.model.diffusion_model(x, times, context=text)
        assert (predicted - pipe.unet(x, times, text).sample).abs().max() < 1e-4
        decoded = (pipe.vae.decode(latent).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        assert (vae.decode(latent) - decoded).abs().max() < 1e-4


# --- measuring -------------------------------------------------------------------------------------------------------

class Brightness:
    """A judge by the mean of a picture: half of random ones are the first group."""
    name = "brightness"

    def __call__(self, images):
        mean = np.asarray(images, float).mean((1, 2, 3))
        return np.stack([mean > 100, mean <= 100], 1).astype(np.float32)


def judge():
    from sd_debias.nodes.classifier import Judge
    return Judge(lambda attribute: Brightness())


def test_audit_counts_images(call, said):
    from sd_debias.nodes.audit import DebiasAudit
    images = torch.cat([torch.ones(3, 8, 8, 3), torch.zeros(1, 8, 8, 3)])
    chart, text = call(DebiasAudit, images=[images], classifier=[judge()], attributes=[(GENDER,)])
    assert "man 75.0%" in text and "woman 25.0%" in text
    assert chart.ndim == 4 and chart.shape[-1] == 3


@pytest.mark.parametrize("images, sentence", [
    (torch.zeros(2, 8, 8, 4), r"got \[2, 8, 8, 4\]"), (torch.zeros(8, 8, 3), r"got \[8, 8, 3\]"),
    (torch.zeros(0, 8, 8, 3), "at least one"), (torch.full((1, 8, 8, 3), float("nan")), "not finite")])
def test_images_of_another_shape_are_refused(call, said, images, sentence):
    from sd_debias.nodes.audit import DebiasAudit
    with pytest.raises(ValueError, match=sentence):
        call(DebiasAudit, images=[images], classifier=[judge()], attributes=[(GENDER,)])


@pytest.fixture
def pictures(comfyui):
    """A folder of ComfyUI's input."""
    import folder_paths
    folder = Path(folder_paths.get_input_directory()) / "pictures"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_of_any_sizes_is_counted_together(call, said, pictures):
    from sd_debias.nodes.audit import DebiasAudit
    from sd_debias.nodes.folder import DebiasLoadFolder
    Image.new("RGB", (60, 30), "white").save(pictures / "wide.jpg")
    Image.new("RGB", (2000, 1000), "white").save(pictures / "large.png")
    Image.new("RGBA", (30, 60), (0, 0, 0, 0)).save(pictures / "transparent.png")
    Image.new("L", (30, 60), "black").save(pictures / "grey.PNG")
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture")
    batches, = call(DebiasLoadFolder, folder="pictures", size=100)
    assert sorted(tuple(batch.shape) for batch in batches) == [(1, 30, 60, 3), (1, 50, 100, 3), (2, 60, 30, 3)]
    assert "4 pictures" in said[-1][0] and "broken.png could not be read" in said[-1][0] and said[-1][1]
    _, text = call(DebiasAudit, images=batches, classifier=[Each()], attributes=[(GENDER,)])
    assert "(N = 4): man 75.0%" in text  # bright ones; transparent is white


class Each:
    """A judge of pictures of different sizes, by brightness."""
    name = "brightness"

    def of(self, attribute):
        return lambda images: np.stack([Brightness()(image[None])[0] for image in images])


def test_a_changed_folder_changes_the_fingerprint(pictures):
    from sd_debias.nodes.folder import DebiasLoadFolder
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    before = DebiasLoadFolder.fingerprint_inputs("pictures")
    Image.new("RGB", (8, 8)).save(pictures / "b.png")
    assert DebiasLoadFolder.fingerprint_inputs("pictures") != before


@pytest.mark.parametrize("folder, sentence", [
    ("gone", "There is no folder 'gone'"), ("..", "There is no folder"), ("../output", "There is no folder"),
    ("pictures", "holds no pictures")])
def test_a_folder_that_cannot_be_loaded_is_refused(call, said, pictures, folder, sentence):
    from sd_debias.nodes.folder import DebiasLoadFolder
    with pytest.raises(ValueError, match=sentence):
        call(DebiasLoadFolder, folder=folder)


def test_a_classifier_without_a_text_tower_is_refused(call, set_folder, tmp_path):
    from sd_debias.nodes.classifier import FOLDER, DebiasClipClassifier
    set_folder(FOLDER, tmp_path, {""})
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="has no text tower"):
        call(DebiasClipClassifier, model="vit")
    with pytest.raises(ValueError, match="There is no model folder"):
        call(DebiasClipClassifier, model="../vit")


@pytest.mark.comfyui
def test_clip_is_evicted_as_any_model_and_comes_back(call):
    import comfy.model_management as management
    from sd_debias.nodes.classifier import DEMO, DebiasClipClassifier, Managed
    judged, = call(DebiasClipClassifier, model=DEMO)
    classify, images = judged.of(GENDER), np.zeros((1, 64, 64, 3), np.uint8)
    before = classify(images)
    assert any(isinstance(patcher.model, Managed) for patcher in management.loaded_models())
    management.unload_all_models()
    assert not management.loaded_models() and np.array_equal(classify(images), before)


def test_a_judge_of_one_attribute_leaves_the_rest_to_others(call):
    from sd_debias.core.attribute import SKIN_TONE_3
    from sd_debias.nodes.classifier import DebiasSkinToneClassifier
    alone, = call(DebiasSkinToneClassifier, faces="off")
    with pytest.raises(ValueError, match="cannot judge 'gender'"):
        alone.of(GENDER)
    both, = call(DebiasSkinToneClassifier, faces="off", others=judge())
    assert both.of(GENDER).name == "brightness" and "tone" in type(both.of(SKIN_TONE_3)).__name__.lower()


def test_labels_are_mapped_one_a_line():
    from sd_debias.nodes.classifier import mapping
    assert mapping("0-2 = young\n\na = b = old") == {"0-2": "young", "a = b": "old"}
    with pytest.raises(ValueError, match="got '0-2'"):
        mapping("0-2")


# --- calibrating -----------------------------------------------------------------------------------------------------

@pytest.fixture
def studio(demo):
    from sd_debias.nodes.workbench import Workbench
    return Workbench(*demo, judge(), dict(negative_prompt="", width=64, height=64, sampler="euler", scheduler="simple",
                                          steps=2, cfg=2.0))


def calibration(demo, **more):
    """Inputs of the node for a small calibration."""
    model, clip, vae = demo
    return dict(model=model, clip=clip, vae=vae, attributes=(GENDER.with_target((1, 3)),), classifier=judge(),
                prompts=PROMPT, negative="", width=64, height=64, steps=2, cfg=2.0, sampler_name="euler",
                scheduler="simple", seed=3, images=6, rounds=2, held_out=4, batch_size=4, tolerance=1e-6,
                method="default", direction="as the method says", rule="as the method says", confidence=0.0,
                name="test") | more


def test_a_calibrations_picture_is_that_of_ksampler_alone(demo, studio, sample):
    import comfy.sample
    model, _, vae = demo
    with torch.inference_mode():
        pictures = studio.generate(PROMPT, (GENDER,), Method(), torch.zeros(3, 2), [5, 6, 7])
        latent = torch.zeros(1, 4, 8, 8)
        positive, negative = sample.encode(PROMPT), sample.encode("")
        alone = vae.decode(comfy.sample.sample(
            model, comfy.sample.prepare_noise(latent, 6), 2, 2.0, "euler", "simple", positive, negative, latent,
            denoise=1.0, disable_pbar=True, seed=6))
    assert torch.allclose(pictures[1], alone[0], atol=1e-4)


def test_a_calibration_gives_profile_pictures_and_report(demo, call, said):
    from sd_debias.nodes.calibrate import DebiasCalibrate
    profile, charts, before, after, report = call(DebiasCalibrate, **calibration(demo))
    assert profile.setting["scheduler"] == "simple" and profile.setting["steps"] == 2
    assert [r["images"] for r in profile.entries[0].rounds][0] == 6 and profile.entries[0].after
    assert before.shape == (6, 64, 64, 3) and after.shape == (4, 64, 64, 3)  # of the audit and the verification
    assert charts.shape[-1] == 3
    assert Path(report).exists() and (Path(report).parent / "profile.json").exists()


@pytest.mark.parametrize("after", [0, 1, 3, 6], ids=["at once", "audit", "round", "verification"])
def test_a_cancelled_calibration_leaves_no_trace_and_continues_where_it_stopped(demo, call, said, sample, monkeypatch,
                                                                                after):
    from sd_debias.nodes import calibrate, workbench
    inputs, made = calibration(demo, name=f"cancelled {after}"), []
    generate = workbench.Workbench.generate

    def counted(self, *args, **kwargs):
        if len(made) == after and not cancelled:
            cancelled.append(True)
            raise workbench.interruption()
        made.append(list(args[4]))
        return generate(self, *args, **kwargs)

    cancelled = [True]
    monkeypatch.setattr(workbench.Workbench, "generate", counted)
    plain = sample(demo[0])
    whole = call(calibrate.DebiasCalibrate, **inputs | dict(name="whole"))[0]
    uninterrupted, cancelled = list(made), []
    made.clear()
    assert len(uninterrupted) == 2 + 2 + 2 + 1  # batches of the audit, two rounds, the verification: no others
    with pytest.raises(workbench.interruption()):
        call(calibrate.DebiasCalibrate, **inputs)
    assert "queue again to continue" in said[-1][0] and torch.equal(sample(demo[0]), plain)
    resumed = call(calibrate.DebiasCalibrate, **inputs)[0]
    assert made == uninterrupted  # nothing twice, nothing left out
    assert resumed.entries[0].steerings == whole.entries[0].steerings
    # Evaluations before a restart are not known.
    assert whole.entries[0].cost["evaluations"] and (resumed.entries[0].cost["evaluations"] is None) == (after > 0)
    assert not list(workbench.states().glob(f"{inputs['name']}-*.json"))


def graph(strength=0.5, judge="one", seed=0, title="Calibrate"):
    """A prompt in which a calibration, node 9, hangs on a LoRA and a classifier."""
    return {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
            "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "clip": ["1", 1], "strength": strength}},
            "3": {"class_type": "DebiasClipClassifier", "inputs": {"model": judge}},
            "9": {"class_type": "DebiasCalibrate", "_meta": {"title": title}, "inputs": {
                "model": ["2", 0], "clip": ["2", 1], "vae": ["1", 2], "classifier": ["3", 0]}},
            "10": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "seed": seed}}}


@pytest.mark.parametrize("change, anew", [
    (dict(strength=0.9), True), (dict(judge="other"), True), (dict(seed=1, title="Mine"), False)],
    ids=["lora", "classifier", "nothing that it measures with"])
def test_a_calibration_continues_only_with_what_its_first_rounds_were_measured_with(demo, call, said, monkeypatch,
                                                                                    change, anew):
    from sd_debias.nodes import calibrate, workbench
    generate, asked = workbench.Workbench.generate, []

    def once(self, *args, **kwargs):
        asked.append(list(args[4]))
        if len(asked) > 1:
            raise workbench.interruption()
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(workbench.Workbench, "generate", once)
    for queued in (graph(), graph(**change)):
        with pytest.raises(workbench.interruption()):
            call(calibrate.DebiasCalibrate, queued, "9", **calibration(demo, name="swapped"))
    first, second = [3, 4, 5, 6], [7, 8]
    assert asked == [first, second, first if anew else second]
    for state in workbench.states().glob("swapped-*"):
        shutil.rmtree(state) if state.is_dir() else state.unlink()


def test_a_calibration_ends_as_soon_as_it_is_sure_enough(demo, call, said):
    from sd_debias.nodes.calibrate import DebiasCalibrate
    inputs = calibration(demo, name="sure", attributes=(GENDER,), tolerance=0.0, images=24, rounds=2, held_out=0)
    assert len(call(DebiasCalibrate, **inputs)[0].entries[0].rounds) == 3
    inputs["within"] = 50.0  # which any audit is
    assert len(call(DebiasCalibrate, **inputs)[0].entries[0].rounds) == 1
    with pytest.raises(ValueError, match="Give one"):
        call(DebiasCalibrate, **{**inputs, "tolerance": 0.1})


def test_a_later_calibration_of_the_same_name_replaces_nothing(demo, call, said):
    from sd_debias.nodes.calibrate import DebiasCalibrate
    first = Path(call(DebiasCalibrate, **calibration(demo, name="twice", seed=3, rounds=0))[-1]).parent
    content = [path.read_bytes() for path in sorted(first.iterdir())]
    second = Path(call(DebiasCalibrate, **calibration(demo, name="twice", seed=4, rounds=0))[-1]).parent
    assert (first.name, second.name) == ("twice", "twice_2") and (second / "profile.json").exists()
    assert [path.read_bytes() for path in sorted(first.iterdir())] == content


def test_cancelled_after_its_audit_it_leaves_a_profile(demo, call, said, monkeypatch, profiles, tmp_path):
    from sd_debias.nodes import calibrate, workbench
    generate, made = workbench.Workbench.generate, []

    def once(self, *args, **kwargs):
        if len(made) == 2:
            raise workbench.interruption()
        made.append(True)
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(workbench.Workbench, "generate", once)
    with pytest.raises(workbench.interruption()):
        call(calibrate.DebiasCalibrate, **calibration(demo, name="kept"))
    assert Profile.load(tmp_path / "kept (unfinished).json").entries[0].after is None
    for state in workbench.states().glob("kept-*"):
        shutil.rmtree(state) if state.is_dir() else state.unlink()


@pytest.mark.parametrize("inputs, sentence", [
    (dict(name="a/b"), "Expected a name of 1 to 120"), (dict(prompts=" \n"), "a prompt to calibrate, got none"),
    (dict(prompts="a\nA"), "got one twice"), (dict(method="default", direction="other"), "direction")])
def test_what_cannot_be_calibrated_is_refused(demo, call, said, inputs, sentence):
    from sd_debias.nodes.calibrate import DebiasCalibrate
    with pytest.raises(ValueError, match=sentence):
        call(DebiasCalibrate, **calibration(demo, **inputs))


def test_a_guided_model_is_not_calibrated(demo, call, said):
    from sd_debias.nodes.apply import DebiasApply
    from sd_debias.nodes.calibrate import DebiasCalibrate
    guided, = call(DebiasApply, model=demo[0], clip=demo[1], profile=profile())
    with pytest.raises(ValueError, match="Expected a model without Debias Apply"):
        call(DebiasCalibrate, **calibration(demo, model=guided))


def test_a_full_disk_stops_a_calibration_with_a_sentence(demo, call, said, monkeypatch):
    from sd_debias.core.calibration import loop as core
    from sd_debias.nodes.calibrate import DebiasCalibrate

    def full(path, content):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(core, "write_atomic", full)
    with pytest.raises(ValueError, match="No space left on device. Free some space"):
        call(DebiasCalibrate, **calibration(demo, name="full"))


def test_after_each_refusal_a_plain_run_is_what_it_was(demo, call, said, sample, monkeypatch):
    from sd_debias.nodes import calibrate, guidance, workbench
    plain = sample(demo[0])

    def cancel(self, *args, **kwargs):
        raise workbench.interruption()
    monkeypatch.setattr(guidance.Pass, "__call__", cancel)
    with pytest.raises(workbench.interruption()):
        call(calibrate.DebiasCalibrate, **calibration(demo, name="cancelled", method="paper"))
    assert torch.equal(sample(demo[0]), plain)


# --- reports and records ---------------------------------------------------------------------------------------------

def test_a_report_shows_before_and_after(call, said):
    from sd_debias.nodes.report import DebiasReport
    path, sheet = call(DebiasReport, profile=profile(), before=torch.rand(2, 8, 8, 3), after=torch.rand(2, 8, 8, 3))
    assert Path(path).parent.name == "doctor-gender" and "data:image/jpeg" in Path(path).read_text("utf-8")
    assert sheet.shape[2] > sheet.shape[1]
    # A calibration's audit and verification may differ in number.
    path, _ = call(DebiasReport, profile=profile(), before=torch.rand(2, 8, 8, 3), after=torch.rand(3, 8, 8, 3))
    assert Path(path).read_text("utf-8").count("data:image/jpeg") == 2


def test_a_full_disk_is_said_by_the_report_too(call, said, monkeypatch):
    from sd_debias.nodes import report

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(report, "write_atomic", full)
    with pytest.raises(ValueError, match="report could not be written.*No space left on device. Free some space"):
        call(report.DebiasReport, profile=profile())


def test_reports_of_one_profile_stand_in_one_folder_beside_its_calibration(call, said):
    from sd_debias.nodes.report import DebiasReport, new_folder
    own = profile(Steering((0.25, -0.25)))
    folder = new_folder(own.name)
    own.save(folder / "profile.json")
    (folder / "report.html").write_text("a calibration's")
    paths = [Path(call(DebiasReport, profile=own)[0]) for _ in range(2)]
    assert paths == [folder / "report_2.html", folder / "report_3.html"]
    assert (folder / "report.html").read_text() == "a calibration's"
    other, _ = call(DebiasReport, profile=profile(Steering((0.5, -0.5))))
    assert Path(other).name == "report.html" and Path(other).parent != folder


@pytest.fixture
def records(comfyui, monkeypatch):
    """The module of messages with no records, and running(prompt_id, node): that node of that prompt runs."""
    import comfy_execution.utils
    from sd_debias.nodes import messages
    monkeypatch.setattr(messages, "_records", type(messages._records)())
    monkeypatch.setattr(messages, "_earlier", {})
    outputs = types.SimpleNamespace(NODE_CLASS_MAPPINGS={"SaveImage": types.SimpleNamespace(OUTPUT_NODE=True)})
    monkeypatch.setitem(sys.modules, "nodes", outputs)

    def running(prompt_id, node):
        context = type("Context", (), {"prompt_id": prompt_id, "node_id": node})
        monkeypatch.setattr(comfy_execution.utils, "get_executing_context", lambda: context)
    return messages, running


def posted(messages, prompt_id, saved="2", **inputs):
    """(what is posted, its record) for a prompt in which a sampler, node 2, hangs on Debias Apply, node 1, and the
    images of node `saved` are saved.
    """
    prompt = {"1": {"class_type": "DebiasApply", "inputs": inputs},
              "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}},
              "3": {"class_type": "KSampler", "inputs": {}},
              "4": {"class_type": "SaveImage", "inputs": {"images": [saved, 0]}}}
    data = messages.open_record({"prompt": prompt, "prompt_id": prompt_id,
                                 "extra_data": {"extra_pnginfo": {"workflow": {}}}})
    return data, data["extra_data"]["extra_pnginfo"]["debias"]


def test_a_prompt_with_our_nodes_gets_a_record_in_its_images(records):
    messages, running = records
    data, record = posted(messages, "p")
    queued = copy.deepcopy(data)  # a host may run a copy of what was posted
    running("p", "2")
    messages.record({"Debias profile": "x"})
    assert queued["extra_data"]["extra_pnginfo"]["debias"] == record == [{"Debias profile": "x", "Debias node": "2"}]
    assert "workflow" in data["extra_data"]["extra_pnginfo"]
    plain = {"prompt": {"1": {"class_type": "KSampler"}}}
    assert messages.open_record(dict(plain)) == plain


def test_a_node_taken_from_the_cache_is_recorded_too(records):
    messages, running = records
    waiting = posted(messages, "first")[1], posted(messages, "waiting")[1]
    running("first", "2")
    messages.record({"Debias profile": "x"})
    known = [{"Debias profile": "x", "Debias node": "2"}]
    assert waiting == (known, known) and posted(messages, "later")[1] == known
    assert posted(messages, "other", strength=0.5)[1] == []


def test_a_cached_node_that_no_image_hangs_on_is_not_recorded(records):
    messages, running = records
    waiting = posted(messages, "first")[1], posted(messages, "waiting", saved="3")[1]
    running("first", "2")
    messages.record({"Debias profile": "x"})
    assert waiting[1] == posted(messages, "later", saved="3")[1] == []
    assert len(waiting[0]) == 1


def test_the_first_of_many_waiting_prompts_has_its_record(records):
    messages, running = records
    queued = [posted(messages, f"p{i}", strength=i) for i in range(300)]
    running("p0", "2")
    messages.record({"Debias profile": "x"})
    assert [entry["Debias profile"] for entry in queued[0][1]] == ["x"]


def test_a_record_goes_with_its_prompt(records):
    messages, _ = records
    queued = posted(messages, "p")
    assert list(messages._records) == ["p"]
    del queued
    assert not messages._records


def test_what_a_cached_node_did_is_known_as_long_as_prompts_use_it(records):
    messages, running = records
    for i in range(300):
        prompt = {"1": {"class_type": "DebiasTextEncode", "inputs": {}},
                  "2": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "seed": i}},
                  "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}}
        data = messages.open_record({"prompt": prompt, "prompt_id": f"p{i}"})
        for node in ("2",) if i else ("1", "2"):
            running(f"p{i}", node)
            messages.record({"Debias profile": "x"})
    assert {entry["Debias node"] for entry in data["extra_data"]["extra_pnginfo"]["debias"]} == {"1", "2"}


def test_a_node_that_runs_again_replaces_what_it_did(records):
    messages, running = records
    first = posted(messages, "first")[1]
    running("first", "2")
    messages.record({"Debias profile": "x"})
    later = posted(messages, "later")[1]
    running("later", "2")
    for name in ("y", "z"):
        messages.record({"Debias profile": name})
    assert [entry["Debias profile"] for entry in later] == ["y", "z"]
    assert [entry["Debias profile"] for entry in first] == ["x"]


def test_the_models_name_is_found_upstream():
    from sd_debias.nodes.model_name import model_name
    prompt = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\v1-5.safetensors"}},
              "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "x"}},
              "3": {"class_type": "DebiasApply", "inputs": {"model": ["2", 0]}},
              "4": {"class_type": "DebiasApply", "inputs": {"model": ["5", 0]}},
              "5": {"class_type": "DebiasDemoModel", "inputs": {}},
              "6": {"class_type": "DebiasApply", "inputs": {"model": ["7", 0]}},
              "7": {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": "flux/flux1-dev-Q8_0.gguf"}}}
    assert model_name(prompt, "3") == "v1-5.safetensors" and model_name(prompt, "4") == "demo"
    assert model_name(prompt, "6") == "flux1-dev-Q8_0.gguf"
    assert model_name(None, None) is None


# --- CLIP of ComfyUI's own files -------------------------------------------------------------------------------------

@pytest.fixture
def clip_files(set_folder, tmp_path, monkeypatch):
    """Folders of models/clip_vision and models/text_encoders."""
    import folder_paths
    for kind in ("clip_vision", "text_encoders"):
        (tmp_path / kind).mkdir()
        set_folder(kind, tmp_path / kind, {".safetensors"})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {}, raising=False)
    return tmp_path


def test_vision_files_are_offered_with_themselves_and_with_clip_s_text_encoders(clip_files):
    from sd_debias.nodes.clip_vision import pairs
    for place in ("clip_vision/vit.safetensors", "clip_vision/old.bin", "text_encoders/clip_l.safetensors",
                  "text_encoders/t5xxl.safetensors"):
        (clip_files / place).write_bytes(b"")
    assert pairs() == ["vit.safetensors with vit.safetensors", "vit.safetensors with clip_l.safetensors"]


@pytest.mark.comfyui
def test_a_vision_file_judges_as_the_whole_model_does_in_transformers(clip_files, call, said):
    """ViT-L/14 of random weights: ComfyUI knows CLIP by its sizes. A vision tower without its text tower is refused."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from sd_debias.demo_model.model import FOLDER
    from sd_debias.nodes.classifier import DebiasClipClassifier
    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12,
                projection_dim=768, eos_token_id=49407)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14,
                  projection_dim=768)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).eval()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, clip_files / "clip_vision" / "whole.safetensors")
    save_file({name: value for name, value in weights.items() if not name.startswith("text_")},
              clip_files / "clip_vision" / "vision.safetensors")
    pictures = [np.random.default_rng(seed).integers(0, 255, (240, 224, 3), np.uint8) for seed in range(2)]
    judge, = call(DebiasClipClassifier, model="whole.safetensors with whole.safetensors")
    p = judge.of(GENDER)(pictures)
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")  # CLIP's own
    with torch.inference_mode():
        groups = []
        for group in GENDER.groups:
            tokens = tokenizer(list(group.classifier_texts), padding="max_length", max_length=77, return_tensors="pt")
            one = torch.nn.functional.normalize(model.get_text_features(**tokens), dim=-1).mean(0)
            groups.append(torch.nn.functional.normalize(one, dim=0))
        pixels = CLIPImageProcessor()([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
        features = torch.nn.functional.normalize(model.get_image_features(**pixels), dim=-1)
        expected = (model.logit_scale.exp() * features @ torch.stack(groups).T).softmax(-1)
    assert np.allclose(p, expected, atol=1e-3) and len(judge.fidelity(pictures, "a photo")) == 2
    with pytest.raises(ValueError, match="Expected a text tower .* Put the whole CLIP model .* press R"):
        call(DebiasClipClassifier, model="vision.safetensors with vision.safetensors")


# --- the panel -------------------------------------------------------------------------------------------------------

def test_only_a_page_that_has_the_extension_is_sent_panels(comfyui, monkeypatch):
    """Others get the host's own text, as before."""
    from sd_debias.nodes import messages, panel
    sent = []
    server = types.SimpleNamespace(client_id="page", send_sync=lambda *message: sent.append(message),
                                   send_progress_text=lambda *message: sent.append(message))
    monkeypatch.setattr(messages, "_server", lambda: server)
    monkeypatch.setattr(panel, "_pages", {})
    messages.say("7", "hello", True, report="/x")
    panel._pages["page"] = None
    messages.say("7", "hello", True, report="/x")
    state = dict(node="7", text="hello", warning=True, report="/x")
    assert sent == [("hello", "7"), ("sd-debias.panel", state, "page")]


def test_an_audit_s_output_brings_its_bars(demo, call, said):
    from sd_debias.nodes.audit import DebiasAudit
    from sd_debias.nodes.classifier import DebiasClipClassifier
    judge, = call(DebiasClipClassifier, model="demo (comes with sd-debias)")
    hidden = types.SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    node = type("DebiasAudit", (DebiasAudit,), dict(hidden=hidden))
    made = node.execute([torch.rand(4, 64, 64, 3)], [judge], [(GENDER,)], title=["a title"])
    shown, = made.ui["debias_panel"]
    share, = shown["shares"]
    assert share["prompt"] == "a title" and share["now"]["images"] == 4
    assert share["was"] is None  # nobody knows whether these pictures were guided
    assert sum(share["now"]["shares"]) == pytest.approx(1) and len(made.ui["images"]) == 1


# --- doctor ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", ["prompt", "embedding", "prediction"])
def test_the_doctor_finds_the_demo_model_well(call, said, demo, direction):
    from sd_debias.nodes.doctor import DebiasDoctor
    model, clip, vae = demo
    text, = call(DebiasDoctor, model=model, clip=clip, vae=vae, prompt=PROMPT, direction=direction, width=64, height=64,
                 steps=4, cfg=2.0, sampler_name="euler", scheduler="simple", classifier=judge())
    assert text.startswith("Guidance works on this model.") and "NO  " not in text
    assert "SD1ClipModel" in text and "the classifier sees" in text and said[-1] == (text, False)
