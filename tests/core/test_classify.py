"""Judges, checked on random tiny models, reference colours and the demo's artwork."""
import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE, SKIN_TONE_5, Attribute, Group
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import UNSURE, labels, pictures
from sd_debias.core.judge.clip import ClipModel
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.core.judge.skin_tone import SkinTone, skin_mask, cielab
from demo_training import artwork

ENSEMBLE = Attribute("age", (Group("young", classifier_texts=("a child", "a young person")), Group("old")))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)


def save_tokenizer(folder):
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="CLIPTokenizer", unk_token="<|endoftext|>", bos_token="<|startoftext|>",
        eos_token="<|endoftext|>", pad_token="<|endoftext|>")))


def save_processor(folder, kind="CLIPImageProcessor", size=32):
    square = dict(height=size, width=size)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(
        image_processor_type=kind, size=square if kind == "ViTImageProcessor" else dict(shortest_edge=size),
        crop_size=square, do_resize=True, do_center_crop=True, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)))


TEXT = dict(vocab_size=54, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=24, bos_token_id=52, eos_token_id=53, pad_token_id=53)

VISION = dict(image_size=32, patch_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
              num_attention_heads=2)


def build(kind, folder):
    torch.manual_seed(0)
    if kind == "clip":
        model = transformers.CLIPModel(transformers.CLIPConfig(
            text_config={**TEXT, "projection_dim": 8}, vision_config={**VISION, "projection_dim": 8}, projection_dim=8))
    elif kind == "siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))
    elif kind == "vision":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=4, id2label=dict(
            enumerate(("0-20", "21-40", "over 40", "cat"))), problem_type="single_label_classification"))
    with torch.no_grad():
        for weight in model.parameters():  # the usual initialisation answers all images alike
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata=dict(format="pt"))
    save_tokenizer(folder)
    save_processor(folder, "ViTImageProcessor" if kind == "vit" else "CLIPImageProcessor")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    kinds = ("clip", "siglip", "vision", "vit") if hasattr(transformers, "SiglipModel") else ("clip", "vision", "vit")
    return {kind: build(kind, tmp_path_factory.mktemp(kind)) for kind in kinds}


@pytest.fixture(scope="module")
def clip(folders):
    return ClipModel(folders["clip"])

# ---- what all judges share


def test_pictures_of_any_form_are_the_same_pictures_in_rgb(images):
    mixed = pictures([Image.fromarray(images[0]), images[1]])
    assert np.array_equal(pictures(images[:2]), mixed)
    others = [Image.new("RGBA", (4, 2)), Image.new("L", (4, 2))]
    assert [array.shape for array in pictures(others)] == [(2, 4, 3)] * 2


@pytest.mark.parametrize("wrong", [
    np.zeros((1, 4, 4, 3)), [np.zeros((3, 4, 4), np.uint8)], torch.zeros(2, 3, 4, 4),
    np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4))])
def test_images_that_would_have_to_be_guessed_at_are_refused(wrong):
    with pytest.raises(DebiasError):
        pictures(wrong)


def test_unsure_empty_and_tied_rows_have_no_label_and_are_counted():
    found = labels(np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 0.0], [0.5, 0.5]]), threshold=0.7)
    assert found.tolist() == [0, -1, -1, -1] and (found == UNSURE).sum() == 3
    assert labels(np.array([[0.4, 0.6]])).tolist() == [1]
    assert labels(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize("p, threshold", [
    (np.zeros(3), 0.5), (np.zeros((3, 0)), 0.5), (np.full((1, 2), np.nan), 0.5),
    (np.ones((1, 2)), 70)])
def test_labels_refuse_what_is_no_probability(p, threshold):
    with pytest.raises(DebiasError):
        labels(p, threshold)

# ---- CLIP


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_zero_shot_equals_the_models_own_logits(kind, folders, images):
    if kind not in folders:
        pytest.skip("this version of transformers has no SigLIP")
    folder = folders[kind]
    tokenize, process, compare = (auto.from_pretrained(folder) for auto in (
        transformers.AutoTokenizer, transformers.AutoImageProcessor, transformers.AutoModel))
    tokens = tokenize(["man", "woman"], padding="max_length", max_length=24, return_tensors="pt")
    pixels = process([Image.fromarray(image) for image in images], return_tensors="pt")
    mask = {} if kind == "siglip" else dict(attention_mask=tokens["attention_mask"])
    expected = compare(input_ids=tokens["input_ids"], **mask, **pixels).logits_per_image
    bare = Attribute("gender", tuple(Group(name, classifier_texts=(name,)) for name in ("man", "woman")))
    p = ClipModel(folder).classifier(bare)(images)
    assert p.dtype == np.float32 and np.ptp(p[:, 0]) > 1e-3
    np.testing.assert_allclose(p, expected.softmax(-1).detach().numpy(), atol=2e-5)


def test_a_group_is_the_mean_of_its_captions_and_answers_are_cosines(clip, images):
    group = clip.classifier(ENSEMBLE).groups[0]
    captions = clip.embed_texts(["a child", "a young person"])
    torch.testing.assert_close(group, captions.mean(0) / captions.mean(0).norm())
    torch.testing.assert_close(captions.norm(dim=1), torch.ones(2))
    cosines = clip.embed_images(images) @ clip.classifier(GENDER).groups.T
    np.testing.assert_allclose(clip.classifier(GENDER)(images), (cosines * clip.scale).softmax(-1), atol=1e-5)
    similarity = clip.similarity(images, "a doctor")
    expected = torch.nn.functional.cosine_similarity(clip.embed_images(images), clip.embed_texts(["a doctor"]))
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


def test_one_model_serves_several_attributes_and_embeds_the_same_pictures_once(
        clip, images, monkeypatch):
    calls, embed = [], clip.model.get_image_features
    monkeypatch.setattr(clip.model, "get_image_features",
                        lambda **inputs: calls.append(1) or embed(**inputs))
    batch = images[::-1].copy()
    clip.classifier(GENDER)(batch), clip.classifier(AGE)(batch)
    clip.similarity(batch, "a doctor")
    assert len(calls) == 1
    batch[0] = 255 - batch[0]
    clip.similarity(batch, "a doctor")
    assert len(calls) == 2


def test_batches_and_sizes_do_not_change_the_answer(folders, clip, images):
    sizes = [images[0], Image.fromarray(images[1]), images[2, :20], images[3]]
    alone = np.concatenate([clip.classifier(GENDER)([image]) for image in sizes])
    np.testing.assert_allclose(ClipModel(folders["clip"], batch_size=3).classifier(GENDER)(sizes), alone, atol=1e-5)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 64, 64, 3), np.uint8)])
def test_an_empty_batch_gives_an_empty_answer(empty, folders, clip):
    assert clip.classifier(AGE)(empty).shape == (0, 3)
    assert clip.similarity(empty, "a doctor").shape == (0,)
    assert SkinTone(SKIN_TONE, faces="off")(empty).shape == (0, 6)
    assert ImageClassifier(folders["vit"], GENDER, {"cat": "man", "0-20": "woman"})(empty).shape == (0, 2)


def test_without_torchvision_the_folder_s_own_image_processor_serves(clip, images, folders, monkeypatch):
    """A fresh environment got transformers 5.17, whose AutoImageProcessor wants torchvision."""
    def lacking(*args, **kwargs):
        raise ImportError("AutoImageProcessor requires the Torchvision library")

    expected = clip.similarity(images, "a doctor")
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lacking)
    assert np.allclose(ClipModel(folders["clip"]).similarity(images, "a doctor"), expected)


def test_features_of_older_transformers_are_plain_tensors(clip, images, monkeypatch):
    expected = clip.embed_texts(["a man"])
    monkeypatch.setattr(clip.model, "get_text_features", lambda **_: expected * 3)
    torch.testing.assert_close(clip.embed_texts(["a man"]), expected)


def test_audits_of_a_web_ui_do_not_each_keep_their_tokenizer(folders, monkeypatch):
    """transformers before 4.42, which AUTOMATIC1111 has, gives the backend of CLIP's a way to decode that holds it."""
    usual, backends = transformers.AutoTokenizer.from_pretrained, []

    def earlier(*args, **options):
        tokenizer = usual(*args, **options)
        tokenizer.backend_tokenizer.decode = lambda ids: tokenizer.backend_tokenizer.decode(ids)
        backends.append(tokenizer.backend_tokenizer)  # into which the garbage collector could not look
        return tokenizer

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", earlier)
    model = ClipModel(folders["clip"])
    assert np.isfinite(model.embed_texts(["a man"]).numpy()).all()
    kept = weakref.ref(model.tokenizer)
    del model
    gc.collect()
    assert backends and kept() is None


def test_texts_longer_than_the_model_reads_are_cut_and_those_of_groups_must_differ_before(clip):
    torch.testing.assert_close(clip.embed_texts(["a " * 50]), clip.embed_texts(["a " * 80]))
    ends = (("young", "b"), ("old", "c"))
    alike = Attribute("age",
                      tuple(Group(name, classifier_texts=("a" * 99 + end,)) for name, end in ends))
    with pytest.raises(DebiasError, match="'age'"):
        clip.classifier(alike)


def test_embeddings_that_overflow_are_refused(clip, images, monkeypatch):
    nan = torch.full((1, 8), float("nan"))
    monkeypatch.setattr(clip.model, "get_text_features", lambda **_: nan)
    with pytest.raises(DebiasError, match="float32"):
        clip.similarity(images, "a doctor")


# ---- loading


@pytest.fixture
def copy(folders, tmp_path):
    def copied(kind):
        return Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    return copied


def test_pickled_weights_are_never_loaded_and_damaged_ones_are_refused(copy):
    folder = copy("clip")
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(DebiasError, match="AutoModel"):
        ClipModel(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(DebiasError, match="pytorch_model.bin"):
        ClipModel(folder)


@pytest.mark.parametrize("kind, said", [("vit", "vit.*text tower"), ("vision", "clip_vision_model")])
def test_a_model_without_a_text_tower_is_refused(folders, kind, said):
    with pytest.raises(DebiasError, match=said):
        ClipModel(folders[kind])


def test_missing_weights_are_refused_instead_of_random(copy):
    folder = copy("vit")
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))
    with pytest.raises(DebiasError, match="1 .*'classifier.weight'"):
        ImageClassifier(folder, YOUNG_OLD, AGES)


# ---- image classifiers

AGES = {"0-20": "young", "21-40": "young", "over 40": "old"}
YOUNG_OLD = Attribute("age", (Group("old"), Group("young")))


def test_mapped_labels_are_summed_and_the_others_dropped(folders, images):
    classify = ImageClassifier(folders["vit"], YOUNG_OLD, AGES, min_mass=0)
    whole = classify.model(**{k: v for k, v in classify.processor([Image.fromarray(i) for i in images],
                                                                  return_tensors="pt").items()}).logits.softmax(-1)
    expected = torch.stack([whole[:, 2], whole[:, 0] + whole[:, 1]], 1) / whole[:, :3].sum(1, keepdim=True)
    p = classify(images)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, expected.detach(), atol=1e-5)


def test_pictures_of_something_else_are_left_out(folders, images):
    mass = 1 - ImageClassifier(folders["vit"], GENDER, {"cat": "man", "0-20": "woman", "21-40": "woman",
                                                        "over 40": "woman"})(images)[:, 0]
    least = float(np.sort(mass)[1:3].mean())  # between two of them: batches of another size round otherwise
    p = ImageClassifier(folders["vit"], YOUNG_OLD, AGES, min_mass=least, batch_size=2)(images)
    assert ((p.sum(1) == 0) == (mass < least)).all() and (labels(p) == UNSURE).sum() == 2


@pytest.mark.parametrize("groups, options, facts", [
    ({"0-20": "young", "elderly": "old"}, {}, "'elderly'.*0-20, 21-40, over 40, cat"),
    ({"0-20": "young", "over 40": "elderly"}, {}, "'elderly'.*old, young"),
    ({"0-20": "young"}, {}, "'old'"),
    ({"a": 3}, {}, "map of labels"), (AGES, dict(min_mass=50), "min_mass")])
def test_a_map_that_does_not_fit_names_what_is_known(folders, groups, options, facts):
    with pytest.raises(DebiasError, match=facts):
        ImageClassifier(folders["vit"], YOUNG_OLD, groups, **options)


def test_labels_that_do_not_exclude_each_other_are_refused(copy):
    file = (folder := copy("vit")) / "config.json"
    changed = {**json.loads(file.read_text()), "problem_type": "multi_label_classification"}
    file.write_text(json.dumps(changed))
    with pytest.raises(DebiasError, match="yes or no"):
        ImageClassifier(folder, YOUNG_OLD, AGES)

# ---- skin tone


# sRGB colours, one for each class, with their ITA from scikit-image's rgb2lab.
CLASSES = [((249, 221, 189), 64.1), ((224, 187, 149), 49.3), ((205, 160, 120), 35.0), ((186, 141, 104), 24.6),
           ((165, 108, 67), 1.5), ((112, 83, 74), -50.1)]


def person(rgb, ground=(255, 255, 255), size=64):
    picture = np.full((size, size, 3), ground, np.uint8)
    picture[size // 4:3 * size // 4, size // 3:2 * size // 3] = rgb
    return picture


@pytest.mark.parametrize("index", range(6))
def test_each_class_of_skin_is_found_whatever_the_number_of_groups(index):
    rgb, angle = CLASSES[index]
    images = [person(rgb), person(rgb, ground=(30, 90, 200)), person(rgb).repeat(3, 0).repeat(3, 1)]
    np.testing.assert_allclose(SkinTone(SKIN_TONE, faces="off").angles(images), angle, atol=0.1)
    for attribute, cutoffs, group in (
            (SKIN_TONE, None, index), (SKIN_TONE_5, None, max(index - 1, 0)),
            (GENDER, (20,), index // 4)):
        p = SkinTone(attribute, cutoffs=cutoffs, faces="off")(images)
        assert p.dtype == np.float32
        assert p.tolist() == [[float(i == group) for i in range(p.shape[1])]] * 3


def test_pictures_without_skin_are_zeros_and_counted():
    few = person((30, 90, 200))
    few[0, :5] = (186, 141, 104)
    p = SkinTone(SKIN_TONE_5, faces="off")([few, person((186, 141, 104)), np.full((1, 1, 3), 255, np.uint8)])
    assert p.sum(1).tolist() == [0, 1, 0] and (labels(p) == UNSURE).sum() == 2


def test_the_largest_face_is_measured_and_the_picture_where_there_is_none():
    picture = person((165, 108, 67))
    picture[:12, :12] = (249, 221, 189)
    for boxes, found in (([(0, 0, 12, 12)], 64.1), ([(0, 0, 12, 12), (20, 16, 22, 32)], 1.5), ([], 1.5)):
        auto = SkinTone(SKIN_TONE, detector=lambda _, boxes=boxes: boxes).angles([picture])[0]
        assert auto == pytest.approx(found, abs=0.1)


def test_no_detector_is_needed(monkeypatch):
    SkinTone(SKIN_TONE, faces="off", detector=lambda _: pytest.fail("asked"))([person((165, 108, 67))])
    for module in ("cv2", "dlib"):
        monkeypatch.setitem(sys.modules, module, None)
    assert SkinTone(SKIN_TONE).name == "ITA of images"


@pytest.mark.parametrize("attribute, options", [
    *((SKIN_TONE, options) for options in (
        dict(cutoffs=(10, 20, 30, 40, 50)), dict(cutoffs=(40, 10)), dict(faces="yes"),
        dict(cutoffs=(50, 40, 30, 20, float("nan"))))),
    (GENDER, dict(faces="off"))])
def test_skin_tone_settings_that_make_no_sense_are_refused(attribute, options):
    with pytest.raises(DebiasError):
        SkinTone(attribute, **options)


def test_the_artworks_tones_are_told_apart_by_the_cutoffs_of_its_palettes():
    truth = np.array([SKIN_TONE_5.names.index(label.tone) for label in artwork.LABELS])[::3]
    art = artwork.load()[::3]
    found = labels(SkinTone(SKIN_TONE_5, cutoffs=(58, 46.7, 19, -14), faces="off")(art))
    assert (found == truth).mean() > 0.98 and (found == UNSURE).sum() == 0 and len(set(truth)) == 5
    # Drawings are not photographs: at the cut-offs meant for those half have another tone's name.
    assert (labels(SkinTone(SKIN_TONE_5, faces="off")(art)) == truth).mean() < 0.6


def test_the_mask_holds_for_very_dark_skin_and_not_for_greys_or_vivid_colours():
    skin = np.array([[70, 45, 35], [55, 35, 28], [249, 221, 189]], np.uint8)
    other = np.array([[128, 128, 128], [255, 255, 255], [10, 10, 10], [220, 30, 20], [255, 229, 30], [30, 90, 200],
                      [40, 130, 60]], np.uint8)
    assert skin_mask(cielab(skin)).all() and not skin_mask(cielab(other)).any()


def test_brown_hair_and_the_size_of_a_picture_do_not_change_its_angle():
    classify = SkinTone(SKIN_TONE, faces="off")
    picture = person((186, 141, 104), size=64)
    picture[4:16, 12:52] = picture[16:60, 12:20] = picture[16:60, 44:52] = (84, 57, 48)
    assert classify.angles([picture]) == pytest.approx(24.6, abs=0.1)
    large = (small := person((165, 108, 67))).repeat(12, 0).repeat(12, 1)
    assert classify.angles([large]) == pytest.approx(classify.angles([small]))
