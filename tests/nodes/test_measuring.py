"""What counts images: attributes, folders, judges, Debias Audit, and the doctor."""
import json
import shutil
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nodes_given import PICTURES, PROMPT, Brightness, comfy, judge, ours
from PIL import Image

from sd_debias.core.attribute import AGE, GENDER, parse
from sd_debias.core.errors import DebiasError
from sd_debias.demo_model.model import FOLDER as DEMO_FILES

# --- attribute ----------------------------------------------------------------------------------


def test_attributes_are_built_in_or_own_and_chain_under_names_of_their_own(call):
    first, = call("DebiasAttribute", attribute="gender", target="70:30")
    both, = call("DebiasAttribute", attribute=ours.attribute.OWN, groups="young: a child | a youth\n\nold",
                 name="age", also=first)
    assert [a.name for a in both] == ["gender", "age"] and both[0].target == (0.7, 0.3)
    assert both[1].groups[0].texts == ("a child", "a youth") and both[1].groups[1].texts == ("old",)
    with pytest.raises(DebiasError, match="gender"):
        call("DebiasAttribute", attribute="gender", also=first)


@pytest.mark.parametrize("inputs, fact", [
    (dict(groups="young:\nold"), "'young'"), (dict(groups="young"), "two groups"),
    (dict(groups="a\nb", target="1:2:3"), "2 shares.*got 3"),
    (dict(groups="a\nb", target="half"), "'half'")])
def test_attributes_that_do_not_fit_are_refused(call, inputs, fact):
    with pytest.raises(DebiasError, match=fact):
        call("DebiasAttribute", attribute=ours.attribute.OWN, **inputs)


# --- audit --------------------------------------------------------------------------------------

@pytest.fixture
def audit(call):
    """audit(images, ...) -> (chart, text)"""
    def audit(*images, attributes=(GENDER,), **more):
        given = dict(images=list(images)) if images else {}
        return call("DebiasAudit", judge=[judge()], attributes=[attributes], **given, **more)
    return audit


TWO = torch.rand(2, 8, 8, 3)


@pytest.mark.parametrize("images, more, fact", [
    (torch.zeros(2, 8, 8, 4), {}, r"got \[2, 8, 8, 4\]"),
    (torch.zeros(0, 8, 8, 3), {}, "at least one"),
    (torch.full((1, 8, 8, 3), float("nan")), {}, "not finite"),
    (TWO, dict(attributes=(GENDER, replace(AGE, name="Gender"))), "same name"),
    *((TWO, dict(corrections=[text]), "corrections") for text in (
        "5", '"/etc/passwd"', "[" * 100_000, "null"))])
def test_what_cannot_be_audited_is_refused_and_names_no_file(audit, images, more, fact):
    with pytest.raises(DebiasError, match=fact) as caught:
        audit(images, **more)
    assert "passwd" not in str(caught.value)


def test_images_that_are_not_finite_are_unsure_in_an_audit_and_said(audit, said):
    images = torch.rand(4, 8, 8, 3)
    images[0, 0, 0, 0] = float("nan")
    images[3] = 0
    _, text = audit(images)
    assert "1 images left out as unsure" in text and said[-1][1]
    assert "of 4 images, 1 are not finite (NaN or infinite) and 1 are of one colour" in text


def test_an_audit_of_a_pass_says_whose_group_it_changed(audit):
    """The second of two bright images comes out dark."""
    before, after = torch.rand(2, 8, 8, 3) / 9 + .8, torch.rand(2, 8, 8, 3) / 9
    after[0] = before[0]
    _, text = audit(after, before=[before])
    assert "1 of 2 pairs changed their group (50 %): 1 man to woman" in text and "man 50.0%" in text
    with pytest.raises(DebiasError, match="got 1 and 2"):
        audit(after, before=[before[:1]])


def test_an_audit_s_output_brings_its_bars(comfyui, said):
    hidden = types.SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    node = type("DebiasAudit", (ours.audit.DebiasAudit,), dict(hidden=hidden))
    made = node.execute([judge()], [(GENDER,)], title=["a title"], images=[torch.rand(4, 8, 8, 3)])
    shown, = made.ui["debias_panel"]
    share, = shown["shares"]
    assert share["prompt"] == "a title" and share["now"]["images"] == 4
    assert share["was"] is None  # nobody knows whether these images were guided


# --- folders of images ------------------------------------------------------------------------

@pytest.fixture
def pictures(comfyui):
    """A folder of ComfyUI's input."""
    import folder_paths
    folder = Path(folder_paths.get_input_directory()) / "pictures"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_of_any_sizes_is_counted_together(audit, said, pictures):
    for file, mode, size, colour, dot in (
            ("wide.jpg", "RGB", (60, 30), "white", (0, 0, 0)), ("large.png", "RGB", (2000, 1000), "white", (0, 0, 0)),
            ("transparent.png", "RGBA", (30, 60), (0, 0, 0, 0), (0, 0, 0, 255)),
            ("grey.PNG", "L", (30, 60), "black", 255)):
        picture = Image.new(mode, size, colour)
        picture.paste(dot, (0, 0, 2, 2))  # of one colour it would count as nobody
        picture.save(pictures / file)
    before = ours.audit.DebiasAudit.fingerprint_inputs(folder=["pictures"])
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no image")
    assert ours.audit.DebiasAudit.fingerprint_inputs(folder=["pictures"]) != before
    # Bright ones are men here; transparent is white.
    assert "(N = 4): man 75.0%" in audit(folder=["pictures"])[1]
    text, warning = said[-1]
    assert "broken.png" in text and warning
    with pytest.raises(DebiasError, match="images or a folder"):
        audit()


@pytest.mark.parametrize("folder, fact", [
    *((name, "no folder") for name in ("gone", "..", "../output", "a\0b", "\ud800", "a" * 300)),
    ("pictures", "holds no images")])
def test_a_folder_that_cannot_be_loaded_is_refused(said, pictures, folder, fact):
    with pytest.raises(DebiasError, match=fact):
        ours.audit.DebiasAudit.fingerprint_inputs(folder=[folder])


# --- judges -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, inputs, fact", [
    *((name, {}, "no model folder") for name in ("../vit", "a\0b", "\ud800", "a" * 300, "\n")),
    ("choose a judge", {}, "models/clip_vision"), ("vit", {}, r"vit.* no text tower"),
    ("choose a judge", dict(lines="a line"), "age=FOLDER"),
    ("choose a judge", dict(labels="0-2"), "'0-2'")])
def test_a_judge_that_is_none_is_refused_and_none_is_chosen_unasked(
        set_folder, tmp_path, name, inputs, fact):
    set_folder(ours.judge.FOLDER, tmp_path, {""})
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(DebiasError, match=fact):
        ours.judge.judge_of(name, **inputs)


@pytest.mark.comfyui
def test_clip_is_evicted_as_any_model_and_comes_back(comfyui):
    classify, images = ours.judge.judge_of(ours.judge.DEMO).of(GENDER), np.zeros((1, 64, 64, 3), np.uint8)
    before = classify(images)
    assert any(isinstance(patcher.model, ours.judge.Managed) for patcher in comfy.model_management.loaded_models())
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.loaded_models() and np.array_equal(classify(images), before)


def test_a_judge_of_one_attribute_leaves_the_rest_to_the_general_one(comfyui, monkeypatch):
    alone = ours.judge.judge_of(ours.judge.CHOOSE, lines="skin_tone_3=ita")
    with pytest.raises(DebiasError, match="'gender'"):
        alone.of(GENDER)
    model = types.SimpleNamespace(classifier=lambda attribute: Brightness(), similarity=None)
    monkeypatch.setattr(ours.judge, "opened", lambda source: model)
    both = ours.judge.judge_of("clip", lines="skin_tone_3=ita")
    assert both.of(GENDER).name == Brightness.name
    panel = ours.judge.judge_of("clip", lines="gender=one\ngender=two").of(GENDER)
    assert type(panel).__name__ == "Panel" and len(panel.judges) == 2


@pytest.mark.parametrize("tones", ["skin_tone_3", "skin_tone_5"])
def test_beside_the_demo_s_judge_colour_tells_three_tones_and_five(comfyui, tones):
    classify = ours.judge.judge_of(ours.judge.DEMO, lines=f"{tones}=ita").of(parse(tones))
    assert classify(np.full((2, 64, 64, 3), 200, np.uint8)).shape == (2, int(tones[-1]))


def test_the_demo_s_judge_refuses_pictures_of_other_models(comfyui):
    """It was sure of "woman" on grey images of any model."""
    from sd_debias.demo_model.model import clip
    classify = clip().classifier(GENDER)
    assert classify(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 2)
    with pytest.raises(DebiasError, match="64 x 64"):
        classify(np.zeros((1, 512, 512, 3), np.uint8))


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
    for place in ("clip_vision/vit.safetensors", "clip_vision/old.bin",
                  "text_encoders/clip_l.safetensors", "text_encoders/t5xxl.safetensors"):
        (clip_files / place).write_bytes(b"")
    assert ours.clip_vision.pairs() == ["vit.safetensors with vit.safetensors",
                       "vit.safetensors with clip_l.safetensors"]


@pytest.mark.comfyui
def test_a_vision_file_judges_as_the_whole_model_does_in_transformers(clip_files):
    """ViT-L/14 of random weights: ComfyUI knows CLIP by its sizes. Half of it is refused."""
    from safetensors.torch import save_file
    from torch.nn.functional import normalize
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12,
                num_hidden_layers=12, projection_dim=768, eos_token_id=49407)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
                  num_hidden_layers=24, patch_size=14, projection_dim=768)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).eval()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    half = {name: value for name, value in weights.items() if not name.startswith("text_")}
    save_file(weights, clip_files / "clip_vision" / "whole.safetensors")
    save_file(half, clip_files / "clip_vision" / "vision.safetensors")
    pictures = np.random.default_rng(0).integers(0, 255, (2, 240, 224, 3), np.uint8)

    def pooled(found):
        # transformers 5 returns more than the features
        return normalize(getattr(found, "pooler_output", found), dim=-1)

    judge = ours.judge.judge_of("whole.safetensors with whole.safetensors")
    p = judge.of(GENDER)(list(pictures))
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_FILES / "tokenizer")  # CLIP's own
    with torch.inference_mode():
        groups = []
        for group in GENDER.groups:
            tokens = tokenizer(list(group.classifier_texts), padding="max_length", max_length=77,
                               return_tensors="pt")
            groups.append(normalize(pooled(model.get_text_features(**tokens)).mean(0), dim=0))
        pixels = CLIPImageProcessor()(list(map(Image.fromarray, pictures)), return_tensors="pt")
        features = pooled(model.get_image_features(**pixels))
        expected = (model.logit_scale.exp() * features @ torch.stack(groups).T).softmax(-1)
    assert np.allclose(p, expected, atol=1e-3)
    assert len(judge.fidelity(list(pictures), "a photo")) == 2
    with pytest.raises(DebiasError, match="text tower"):
        ours.judge.judge_of("vision.safetensors with vision.safetensors")


# --- the demo model and the doctor --------------------------------------------------------------

@pytest.mark.comfyui
def test_the_demo_model_is_that_of_diffusers(demo, sample):
    from sd_debias.diffusers_host.workbench import load_pipeline
    pipe = load_pipeline(str(DEMO_FILES))
    model, _, vae = demo
    generator = torch.Generator().manual_seed(0)
    x, latent = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    with torch.inference_mode():
        text = sample.encode(PROMPT)[0][0]
        ids = pipe.tokenizer([PROMPT], padding="max_length", max_length=77, return_tensors="pt")
        assert (text - pipe.text_encoder(ids.input_ids)[0]).abs().max() < 1e-4
        times, text = torch.tensor([800, 300]), text.expand(2, -1, -1)
        predicted = model.model.diffusion_model(x, times, context=text)
        assert (predicted - pipe.unet(x, times, text).sample).abs().max() < 1e-4
        decoded = (pipe.vae.decode(latent).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        assert (vae.decode(latent) - decoded).abs().max() < 1e-4


@pytest.mark.parametrize("direction", ["prompt", pytest.param("embedding", marks=pytest.mark.slow)])
def test_the_doctor_finds_the_demo_model_well(call, said, direction):
    text, = call("DebiasDoctor", prompt=PROMPT, direction=direction, judge=judge(),
                 **PICTURES | dict(steps=4))
    assert text.startswith("Guidance works on this model.") and "NO  " not in text
    assert "SD1ClipModel" in text and "the judge sees" in text and said[-1] == (text, False)
