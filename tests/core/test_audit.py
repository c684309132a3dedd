"""Audits of folders: whatever images lie in them, an interruption, corrections by hand, the table and the page."""
import csv
import io
import json
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.study import folder as audited
from sd_debias.core.study.folder import FolderAudit, files, opened
from sd_debias.core.calibration.labelled import (
    FORM, Labelled, as_csv, corrected, given_back, read_corrections, run_of, thumbnail)
from sd_debias.core.calibration.round import AUDIT, Round
from sd_debias.core.distribution import summarise, summarise_people
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import NO_FACE, UNSURE
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.looks import PEOPLE
from sd_debias.core.method.draw import Steering
from sd_debias.core.report.look import look_page
import signal

MAN, WOMAN = 0, 1


# --- images of every kind ----------------------------------------------------------------------

def corners(size=(40, 24)):
    """An image whose four corners are told apart: red, green, blue, white."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.uint8)
    top, left = np.arange(height)[:, None] < height / 2, np.arange(width)[None] < width / 2
    rgb[top & left], rgb[top & ~left], rgb[~top & left], rgb[~top & ~left] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))
    return Image.fromarray(rgb)


def stored(image, file, **options):
    """What an audit sees of this image when it comes from a file."""
    image.save(file, **options)
    return opened(file).image.astype(int)


def near(pixel, colour, by):
    return np.abs(pixel.astype(int) - colour).max() <= by


# What a camera stored to make the upright image, by the EXIF tag that says so.
STORED = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
          7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation, ending",
                         [*((turned, "jpg") for turned in STORED), (6, "png"), (5, "webp")])
def test_a_photo_is_judged_upright_however_the_camera_was_held(tmp_path, orientation, ending):
    upright, how = corners(), STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"photo.{ending}"
    quality = {"jpg": dict(quality=95, subsampling=0), "webp": dict(lossless=True)}.get(ending, {})
    (upright if how is None else upright.transpose(how)).save(file, exif=exif, **quality)
    seen = opened(file)
    assert seen.note == "" and seen.image.dtype == np.uint8 and seen.image.shape == (24, 40, 3)
    for y, x in ((3, 3), (3, 36), (20, 3), (20, 36)):
        assert near(seen.image[y, x], np.asarray(upright)[y, x], 6)


def wide(*colours, mode=None):
    """Four rows, of four pixels of each colour."""
    return Image.fromarray(np.array([colours] * 4, np.uint8).repeat(4, 1), mode)


def palette():
    picture = wide(0, 1, 2, mode="P")
    picture.putpalette([9, 9, 9, 0, 0, 250, 0, 0, 0])
    return picture


@pytest.mark.parametrize("picture, ending, options, colours, by", [
    *((wide(*pixels), ending, options, colours, by)
      for ending, options in (("png", {}), ("tif", {}), ("webp", dict(lossless=True, exact=True)))
      for pixels, colours, by in (
          (((200, 0, 0, 255), (0, 0, 0, 0)), [(200, 0, 0), 255], 0), ([(0, 0, 0, 128)], [127], 1))),
    (wide((0, 0), (0, 255), mode="LA"), "png", {}, [255, 0], 0),
    (palette(), "png", dict(transparency=0), [255, (0, 0, 250), 0], 0),
    (palette(), "png", dict(transparency=bytes([0, 255, 128])), [255, (0, 0, 250), 127], 1),
    (wide((0, 0, 0), (90, 80, 70)), "png", dict(transparency=(0, 0, 0)), [255, (90, 80, 70)], 0),
    (corners((64, 32)).convert("CMYK"), "jpg", dict(quality=95), [(255, 0, 0), (0, 255, 0)], 12),
    (wide(0, 255).convert("1"), "png", {}, [0, 255], 0),
    (Image.new("RGB", (1, 1), (1, 2, 3)), "png", {}, [(1, 2, 3)], 0)])
def test_transparent_is_white_and_pictures_of_any_kind_have_their_colours(
        tmp_path, picture, ending, options, colours, by):
    seen = stored(picture, tmp_path / f"a.{ending}", **options)
    width = seen.shape[1] / len(colours)
    for i, colour in enumerate(colours):
        assert near(seen[len(seen) // 8, int((i + 0.5) * width)], colour, by)


def png16(values):
    """A PNG of 16 bits a channel, grey [H, W] or RGB [H, W, 3]; Pillow writes only the first."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bits_are_scaled_to_eight_and_not_cut_off(tmp_path, colour):
    grey = np.repeat(np.linspace(0, 65535, 16)[None], 6, 0)
    (tmp_path / "16.png").write_bytes(png16(np.stack([grey, grey[:, ::-1], grey], 2) if colour else grey))
    seen = opened(tmp_path / "16.png").image
    assert near(seen[2, :, 0], np.linspace(0, 255, 16), 1)
    assert near(seen[2, :, 1], np.linspace(0, 255, 16)[::-1 if colour else 1], 1)
    (tmp_path / "dark.png").write_bytes(png16(np.full((4, 4), 200) + np.arange(4)))
    assert opened(tmp_path / "dark.png").image.max() <= 1, "a dark image stays dark"


@pytest.mark.filterwarnings("ignore:invalid value")
def test_scientific_tiffs_are_seen_too_and_a_pixel_that_is_no_number_makes_none_black(tmp_path):
    for kind, most in ((np.int32, 65535), (np.float32, 1)):
        values = np.linspace(0, most, 12).reshape(3, 4).astype(kind)
        seen = stored(Image.fromarray(values), tmp_path / "x.tif")
        assert near(seen[:, :, 0].ravel(), np.linspace(0, 255, 12), 1)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    seen = opened(tmp_path / "x.tif").image
    assert seen is None or seen.max() > 250


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts_and_that_is_noted(tmp_path, ending):
    first, *others = (Image.new("RGB", (8, 8), c) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250)))
    options = dict(lossless=True) if ending == "webp" else {}
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=others, **options)
    seen = opened(tmp_path / f"a.{ending}")
    assert seen.note == "the first of 3 frames" and near(seen.image[4, 4], (250, 0, 0), 2)


def cut(ending):
    """Half of an image's file."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)).save(whole, ending)
    return whole.getvalue()[:len(whole.getvalue()) // 2]


@pytest.mark.parametrize("content, longer", [
    (cut("jpeg"), 64), *((cut(ending), 1024) for ending in ("jpeg", "png", "webp", "gif")),
    *((content, 1024) for content in (
        b"", b"this is no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>"))], ids=range(10))
def test_a_file_that_was_cut_off_or_is_no_picture_is_unreadable_and_says_why(
        tmp_path, content, longer):
    (tmp_path / "x.png").write_bytes(content)
    seen = opened(tmp_path / "x.png", longer)
    assert seen.image is None
    assert seen.note.startswith("it cannot be read (") and "\n" not in seen.note


@pytest.mark.parametrize("side, other", [
    (15_000, 15_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (200_000_001, 1)])
def test_a_small_file_that_says_it_is_huge_is_left_out_before_it_is_decoded(
        tmp_path, monkeypatch, side, other):
    data = bytearray(png16(np.zeros((1, 1))))
    data[16:29] = struct.pack(">IIBBBBB", side, other, 8, 2, 0, 0, 0)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "huge.png").write_bytes(data)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it is decoded"))
    seen = opened(tmp_path / "huge.png")
    assert seen.image is None and seen.note and ("pixels" in seen.note or side > 60_000)


@pytest.mark.parametrize("size", [(3000, 2), (1, 5000), (2000, 1000), (1024, 1024)])
def test_the_longer_side_is_1024_pixels_at_most_and_the_shorter_one_never_0(tmp_path, size):
    height, width, _ = stored(Image.new("RGB", size), tmp_path / "long.png").shape
    assert max(width, height) == 1024 and min(width, height) == max(1, round(min(size) * 1024 / max(size)))


# --- folders -------------------------------------------------------------------------------------


def picture(folder, name, group, seed=0):
    """An image that the numpy judge sees as a group: red for men, blue for women, and green for nobody."""
    rgb = np.random.default_rng(seed).integers(0, 60, (12, 10, 3), np.uint8)
    rgb[..., {MAN: 0, WOMAN: 2, UNSURE: 1}[group]] += 150
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(file, "PNG")
    return file


class Colours:
    """A judge of numpy that counts what it saw."""

    def __init__(self, stop_at=None):
        self.batches, self.stop_at = [], stop_at

    def __call__(self, images):
        if self.stop_at is not None and len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        means = np.stack([np.asarray(image, float).mean((0, 1)) for image in images])
        found = np.where(means[:, [0]] > means[:, [2]], [[.9, .1]], [[.1, .9]])
        return np.where(means[:, [1]] > means[:, [0, 2]].max(1, keepdims=True), 0.0, found).astype(np.float32)


@pytest.fixture
def pictures(tmp_path):
    """Twelve images: 7 of men, 4 of women, 1 of nobody."""
    root = tmp_path / "pictures"
    for i, group in enumerate([MAN] * 7 + [WOMAN] * 4 + [UNSURE]):
        picture(root, f"{i:02}.png", group, i)
    return root


def work(root, judge=None, **options):
    options.setdefault("batch_size", 5)
    return FolderAudit(root, (GENDER,), [judge or Colours()], **options)


def test_a_folder_is_labelled_in_batches_and_its_shares_are_the_counts(pictures, monkeypatch):
    judge, said, read, at_once, real = Colours(), [], [], [], audited.opened
    monkeypatch.setattr(audited, "opened", lambda file: (read.append(file), real(file))[1])
    done = work(pictures, lambda images: (at_once.append(len(read)), judge(images))[1]).run(
        lambda *now: said.append(now))
    assert judge.batches == [5, 5, 2] and said == [(0, 12), (5, 12), (10, 12), (12, 12)]
    assert at_once == [5, 10, 12], "images are streamed and never all in memory"
    d = done.distribution(0)
    assert (d.counts, d.unsure) == ((7, 4), 1) and d.intervals == summarise([7, 4], GENDER.target).intervals
    assert done.round.labels[0] == [MAN] * 7 + [WOMAN] * 4 + [UNSURE] and done.title == "pictures"


def test_unreadable_files_are_named_with_the_reason_and_do_not_count(pictures):
    (pictures / "03.png").write_bytes(b"")
    (pictures / "sub dir").mkdir()
    for hidden in (".hidden.png", ".cache/e.png"):
        picture(pictures, hidden, MAN)
    (pictures / "sub dir" / "a text.jpg").write_text("no image")
    (pictures / "link.png").symlink_to(pictures / "gone.png")
    frames = [Image.fromarray(np.asarray(Image.open(pictures / "00.png")) // n) for n in (1, 2)]
    moving = dict(save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(pictures / "moving.webp", **moving)
    Image.new("RGB", (1, 1), "red").save(pictures / "w dot.png")
    Image.new("RGB", (50, 50), "red").save(pictures / "x plain.png")
    audit = work(pictures)
    (pictures / "08.png").unlink()
    done = audit.run()
    unreadable = {line.partition(":")[0]: line for line in audit.unreadable}
    assert list(unreadable) == ["03.png", "08.png", "sub dir/a text.jpg", "link.png"]
    assert all("cannot be read (" in unreadable[name] for name in ("03.png", "sub dir/a text.jpg"))
    d = done.distribution(0)
    assert d.counts == (7, 3), "6 men and the moving one"
    assert d.unsure == 6, "nobody, the unreadable ones, and images of one pixel and of one colour"
    notes = {row["image"].rpartition(" ")[0]: row["note"] for row in done.table()}
    assert notes["moving.webp"] == "the first of 2 frames" and "cannot be read" in notes["03.png"]
    lost = {key for key in done.keys if key.rpartition(" ")[0] in unreadable}
    assert len(done.keys) == len(set(done.keys)) == 16 and set(done.thumbs) == {*done.keys} - lost


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_with_the_name_of_a_picture_does_not_hang_the_audit(pictures):
    os.mkfifo(pictures / "pipe.png")
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(20)
    try:
        assert work(pictures).run().distribution(0).counts == (7, 4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_where_every_file_is_unreadable_the_user_learns_why(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DebiasError, match=r"\b1\b.*a\.png: it cannot be read"):
        work(tmp_path).run()


# --- interruptions -------------------------------------------------------------------------------


def outcome(labelled):
    r = labelled.round
    return list(labelled.keys), r.labels, r.faces, r.people, dict(labelled.notes), dict(labelled.thumbs)


def interrupted(root, judge, state, **options):
    with pytest.raises(KeyboardInterrupt):
        work(root, judge, state=state, **options).run()
    return state


@pytest.mark.parametrize("stop_at, size, batches", [
    (0, 5, [4, 5, 2]), (1, 3, [3, 3, 1]), (2, 5, [2])])
def test_an_interrupted_audit_goes_on_where_it_ended_and_ends_as_an_undisturbed_one(
        pictures, tmp_path, stop_at, size, batches):
    (pictures / "01.png").write_bytes(b"broken")
    state = interrupted(pictures, Colours(stop_at), tmp_path / "out" / "unfinished.json",
                        judged_by="colours")
    assert state.exists() == (stop_at > 0)
    judge, said = Colours(), []
    again = work(pictures, judge, state=state, judged_by="colours", batch_size=size)
    done = again.run(lambda now, _: said.append(now))
    assert said[0] == 5 * stop_at and judge.batches == batches
    undisturbed = work(pictures)
    assert outcome(done) == outcome(undisturbed.run())
    assert again.unreadable == undisturbed.unreadable
    assert state.exists()
    again.forget()
    assert not state.exists()


CHANGES = dict(changed=lambda root: picture(root, "03.png", WOMAN),
               added=lambda root: picture(root, "99.png", WOMAN),
               removed=lambda root: (root / "03.png").unlink(),
               touched=lambda root: os.utime(root / "03.png", (1, 1)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changed_is_labelled_anew(pictures, tmp_path, change):
    state, judge = interrupted(pictures, Colours(2), tmp_path / "unfinished.json"), Colours()
    CHANGES[change](pictures)
    done = work(pictures, judge, state=state).run()
    assert sum(judge.batches) == len(files(pictures)) and outcome(done) == outcome(work(pictures).run())


@pytest.mark.parametrize("options, batches", [
    (dict(judged_by="others"), [5, 5, 2]), (dict(confidence=.5), [5, 5, 2]),
    (dict(attributes=(Attribute("gender", (Group("woman"), Group("man"))),)), [5, 5, 2]),
    (dict(attributes=(GENDER.with_target("70:30"),)), [2])])
def test_what_other_judges_said_is_not_taken_over(pictures, tmp_path, options, batches):
    state = interrupted(pictures, Colours(2), tmp_path / "unfinished.json", judged_by="colours")
    judge, own = Colours(), {"attributes": (GENDER,), "judged_by": "colours", **options}
    done = FolderAudit(pictures, own.pop("attributes"), [judge], state=state, batch_size=5, **own).run()
    assert judge.batches == batches and done.distribution(0).counts == (7, 4)


# --- corrections ---------------------------------------------------------------------------------

def labelled(labels=(0, 0, 0, 1), people=None, run="r", names=GENDER, keys=None, title="doctors",
             **more):
    """Images of seeds 1, 2, ..., with their labels; `people`: labels of each image's persons."""
    n = len(people or labels)
    first = [own[0] if own else NO_FACE for own in people] if people else list(labels)
    r = Round(AUDIT, (Steering.none(len(names.groups)),), tuple(range(n)), [first],
              people=[[list(own) for own in people]] if people else [],
              faces=[len(own) for own in people] if people else [])
    keys = keys or [f"seed {i + 1}" for i in range(n)]
    small = thumbnail(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    return Labelled(title, (names,), r, keys, run, dict.fromkeys(keys, small), **more)


def correct(*own, **runs):
    return corrected(own, read_corrections({"form": FORM, "runs": runs}))


def by_hand(how_many, elsewhere=0):
    more = f"; {elsewhere} more belong to images that are not here" if elsewhere else ""
    return f"{how_many} label{'s' if how_many > 1 else ''} corrected by hand{more}"


def test_corrected_labels_change_the_shares_and_must_be_groups_that_are_there():
    own = labelled((0, 0, NO_FACE, 1, UNSURE))
    assert correct(own, r={"gender": {"seed 1": "woman", "seed 2": None,
                                      "seed 3": "man"}}) == by_hand(3)
    d = own.distribution(0)
    assert (d.counts, d.unsure) == ((1, 2), 2)
    with pytest.raises(DebiasError, match="'seed 2'.*'robot'.*'gender'.*man, woman"):
        correct(labelled(), r={"gender": {"seed 2": "robot"}})


@pytest.mark.parametrize("runs", [
    {"other": {"gender": {"seed 1": "man"}}}, {"r": {"gender": {"seed 99": "man"}}}, {}])
def test_corrections_of_another_run_or_of_nothing_are_refused_and_change_nothing(runs):
    own = labelled()
    with pytest.raises(DebiasError, match="another run|no label"):
        correct(own, **runs)
    assert own.round.labels == [[0, 0, 0, 1]]


def test_corrections_go_to_the_run_that_they_are_of_and_say_how_many_did_nothing():
    one, two = labelled(run="a"), labelled(run="b")
    said = correct(one, two,
                   b={"gender": {"seed 1": "woman", "seed 7": "man"}, "age": {"seed 1": "old"}},
                   s={"gender": {"seed 1": "man"}})
    assert said == by_hand(1, 3)
    assert one.distribution(0).counts == (3, 1) and two.distribution(0).counts == (2, 2)


def test_a_person_of_a_picture_is_corrected_by_its_number():
    own = labelled(people=[[0, 0, 1], [], [1]])
    said = correct(own, r={"gender": {
        "seed 1#2": "woman", "seed 3#1": None, "seed 1#9": "man", "seed 2#1": "man",
        "seed 1": "man",
        "seed 1#0": "man", "seed 1#x": "man", "seed 1#" + "9" * 5000: "man"}})
    assert said == by_hand(2, 6)
    assert own.round.people == [[[0, 1, 1], [], [UNSURE]]]
    assert own.distribution(0) == summarise_people([[1, 2], [0, 0], [0, 0]], GENDER.target, 1)


def test_a_file_name_with_a_number_sign_is_a_picture_where_pictures_count():
    own = labelled(keys=["a#2.png 00ff", "b 1", "c 1", "d 1"])
    correct(own, r={"gender": {"a#2.png 00ff": "woman"}})
    assert own.distribution(0).counts == (2, 2)
    many = labelled(people=[[0, 0], [1]], keys=["a#2.png 00ff", "b 1"])
    correct(many, r={"gender": {"a#2.png 00ff#2": "woman"}})
    assert many.round.people == [[[0, 1], [1]]]


@pytest.mark.parametrize("text", [
    "5", "[1]", '"/etc/passwd"', "null", "[" * 100_000, "{", "\ud800", '{"a": 1}', '["x"]',
    json.dumps({"form": FORM}), '{"form": "sd-debias profile", "runs": {}}',
    *(json.dumps({"form": FORM, "runs": runs}) for runs in (
        [], {"r": []}, {"r": {"gender": ["man"]}}, {"r": {"gender": {"seed 1": 0}}}))])
def test_what_is_no_corrections_is_refused_in_a_sentence(text):
    with pytest.raises(DebiasError, match="corrections"):
        given_back(text)


def test_corrections_of_a_folder_fit_where_files_were_added_and_not_where_a_file_changed(pictures):
    first = work(pictures).run()
    saved = {first.run: {"gender": {first.keys[0]: "woman", first.keys[1]: "woman"}}}
    picture(pictures, "000.png", WOMAN, 5)
    picture(pictures, "01.png", MAN, 99)
    again = work(pictures).run()
    assert correct(again, **saved) == by_hand(1, 1) and again.distribution(0).counts == (6, 6)


# --- tables and thumbnails -----------------------------------------------------------------------

def test_the_table_has_a_row_for_each_picture_with_its_reason():
    own = labelled((0, UNSURE, NO_FACE, 1), notes={"seed 2": 'a "quoted", note\nof two lines'})
    rows = list(csv.DictReader(io.StringIO(as_csv([own, labelled((1,), title="nurses")]))))
    assert [row["gender"] for row in rows] == ["man", "unsure", "no face", "woman", "woman"]
    assert rows[1]["note"] == 'a "quoted", note\nof two lines' and rows[4]["title"] == "nurses"
    alike = labelled((0, 1), names=Attribute("image", (Group("day"), Group("night"))))
    assert {"seed 1", "day"} <= set(list(csv.reader(io.StringIO(as_csv([alike]))))[1])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_name_that_is_no_unicode_is_in_the_table_and_on_the_page(tmp_path):
    picture(tmp_path, "plain.png", WOMAN)
    os.rename(picture(tmp_path, "x.png", MAN), os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    done = work(tmp_path, state=tmp_path / "unfinished.json").run()
    assert done.distribution(0).counts == (1, 1)
    look_page("t", [done]).encode("utf-8")
    as_csv([done]).encode("utf-8")


def test_a_thumbnail_keeps_its_shape_and_runs_are_told_apart_by_every_fact():
    small = Image.open(io.BytesIO(thumbnail(np.zeros((100, 800, 3), np.uint8))))
    assert small.size == (192, 24) and small.format == "JPEG"
    assert run_of("a", 1) == run_of("a", 1) and len({run_of("a", 1), run_of("a", 2), run_of("b", 1), run_of()}) == 4


def of_men(cuts):
    return np.tile([1.0, 0.0], (len(cuts), 1))


def test_every_person_counts_and_faces_are_numbered_alike_in_an_interrupted_audit(tmp_path):
    root, seen, several = tmp_path / "crowds", [], (1, 2, 0, 2, 1)
    root.mkdir()
    for i in range(5):
        image = np.full((192, 192, 3), 240, np.uint8)
        image[0, 0] = i
        Image.fromarray(image).save(root / f"{i}.png")
    (root / "5.png").write_text("no image")

    def places(rgb):
        number = int(rgb[0, 0, 0])
        seen.append(number)
        return [(10 + 5 * number, 20, 60, 80), (120, 20, 50, 60)][:several[number]]

    def judge(stop_at=None):
        def men(cuts):
            if stop_at is not None and stop_at in seen:
                raise KeyboardInterrupt
            return of_men(cuts)
        return OfFaces(men, Faces(places), PEOPLE)

    undisturbed = work(root, judge(), batch_size=2).run()
    d = undisturbed.distribution(0)
    assert d == summarise_people([[n, 0] for n in several], GENDER.target, d.unsure)
    rows = [(r["image"][0], r["person"], r["faces"], r["gender"]) for r in undisturbed.table()]
    assert rows[:4] == [
        ("0", 1, 1, "man"), ("1", 1, 2, "man"), ("1", 2, 2, "man"), ("2", None, 0, "no face")]
    assert "1 show no face, 2 show several people" in undisturbed.round.left_out
    seen.clear()
    state = interrupted(root, judge(stop_at=2), tmp_path / "unfinished.json", batch_size=2)
    assert state.exists() and 4 not in seen  # it ended half-way
    resumed = work(root, judge(), state=state, batch_size=2).run()
    assert resumed.thumbs == undisturbed.thumbs and len(set(resumed.thumbs.values())) == 5
    assert outcome(resumed) == outcome(undisturbed) and resumed.table() == undisturbed.table()
