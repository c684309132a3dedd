"""Audits of folders: whatever pictures lie in them, an interruption, corrections by hand, the table and the page."""
import base64
import csv
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_debias.core.attribute import GENDER, Attribute, Group
from sd_debias.core.study import folder as audited
from sd_debias.core.study.folder import FolderAudit, files, key_of, opened
from sd_debias.core.study.given import labelled_pictures
from sd_debias.core.calibration.labelled import (
    FORM, Labelled, as_csv, corrected, read_corrections, run_of, thumbnail)
from sd_debias.core.calibration.round import AUDIT, Round
from sd_debias.core.statistics import summarise, summarise_people
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import NO_FACE, UNSURE
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.looks import PEOPLE
from sd_debias.core.method.draw import Steering
from sd_debias.core.report.look import look_page, policy

ROOT = Path(__file__).resolve().parents[2]
MAN, WOMAN = 0, 1
LINE = "\u2028"


# --- pictures of every kind ------------------------------------------------------------------------------------------

def corners(size=(40, 24)):
    """A picture whose four corners are told apart: red, green, blue, white."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.uint8)
    top, left = np.arange(height)[:, None] < height / 2, np.arange(width)[None] < width / 2
    rgb[top & left], rgb[top & ~left], rgb[~top & left], rgb[~top & ~left] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))
    return Image.fromarray(rgb)


def stored(image, file, **options):
    """What an audit sees of this picture when it comes from a file."""
    image.save(file, **options)
    return opened(file).image.astype(int)


def near(pixel, colour, by):
    return np.abs(pixel.astype(int) - colour).max() <= by


# What a camera stored to make the upright picture, by the EXIF tag that says so.
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


def test_a_large_photo_is_upright_too_where_it_is_decoded_smaller(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = corners((1600, 2400)).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "large.jpg", exif=exif, quality=95)
    seen = opened(tmp_path / "large.jpg", longer=300).image
    assert seen.shape == (300, 200, 3)
    assert near(seen[20, 20], (255, 0, 0), 6) and near(seen[280, 20], (0, 0, 255), 6)


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_what_is_transparent_is_white_and_half_of_it_is_half(tmp_path, ending):
    rgba = np.zeros((8, 12, 4), np.uint8)
    rgba[:, :4], rgba[:, 4:8], rgba[:, 8:] = (200, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)
    exactly = dict(lossless=True, exact=True) if ending == "webp" else {}
    seen = stored(Image.fromarray(rgba), tmp_path / f"a.{ending}", **exactly)
    assert seen[4, 1].tolist() == [200, 0, 0] and seen[4, 5].tolist() == [255] * 3
    assert near(seen[4, 10], 127, 1)


def test_transparency_of_grey_pictures_palettes_and_single_colours_is_white_too(tmp_path):
    la = np.zeros((4, 8, 2), np.uint8)
    la[:, 4:, 1] = 255
    assert stored(Image.fromarray(la, "LA"),
                  tmp_path / "la.png")[2].tolist() == [[255] * 3] * 4 + [[0] * 3] * 4
    picture = Image.fromarray(np.repeat(np.array([[0, 1, 2]], np.uint8), 4, 0).repeat(4, 1), "P")
    picture.putpalette([9, 9, 9, 0, 0, 250, 0, 0, 0])
    for clear, last in ((0, 0), (bytes([0, 255, 128]), 127)):
        seen = stored(picture, tmp_path / "p.png", transparency=clear)
        assert seen[1, 1].tolist() == [255] * 3 and seen[1, 5].tolist() == [0, 0, 250]
        assert near(seen[1, 10], last, 1)
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, 4:] = 90, 80, 70
    seen = stored(Image.fromarray(rgb), tmp_path / "key.png", transparency=(0, 0, 0))
    assert seen[1].tolist() == [[255] * 3] * 4 + [[90, 80, 70]] * 4


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
    assert opened(tmp_path / "dark.png").image.max() <= 1, "a dark picture stays dark"


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


def test_pictures_of_print_shops_of_one_bit_and_of_one_pixel_have_their_colours(tmp_path):
    seen = stored(corners((64, 64)).convert("CMYK"), tmp_path / "cmyk.jpg", quality=95)
    assert near(seen[8, 8], (255, 0, 0), 12) and near(seen[56, 56], 255, 12)
    bits = np.zeros((4, 8), bool)
    bits[:, 4:] = True
    assert stored(Image.fromarray(bits), tmp_path / "bit.png")[1, :,
                                                               0].tolist() == [0] * 4 + [255] * 4
    assert stored(Image.new("RGB", (1, 1), (1, 2, 3)),
                  tmp_path / "dot.png").tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts_and_that_is_noted(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    file = tmp_path / f"anim.{ending}"
    frames[0].save(file, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    seen = opened(file)
    assert seen.note == "the first of 3 frames" and near(seen.image[4, 4], (250, 0, 0), 2)


@pytest.mark.parametrize("ending, longer", [("jpg", 1024), ("jpg", 64), ("png", 1024), ("webp", 1024), ("gif", 1024)])
def test_a_file_that_was_cut_off_is_unreadable_and_says_why(tmp_path, ending, longer):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    Image.fromarray(noise).save(whole)
    cut.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    assert opened(whole, longer).image is not None
    seen = opened(cut, longer)
    assert seen.image is None and seen.note.startswith("it cannot be read (") and "\n" not in seen.note


@pytest.mark.parametrize("content",
                         [b"", b"this is no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff",
                                     b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_an_empty_file_and_a_text_named_png_are_unreadable_and_say_why(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    seen = opened(tmp_path / "x.png")
    assert seen.image is None and seen.note.startswith("it cannot be read (")


HUGE = [(15_000, 15_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (200_000_001, 1)]


@pytest.fixture
def huge(tmp_path):
    """PNGs of some bytes that say they are this large."""
    for i, size in enumerate(HUGE):
        data = bytearray(png16(np.zeros((1, 1))))
        data[16:24] = struct.pack(">II", *size)
        data[24:29] = bytes([8, 2, 0, 0, 0])
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        (tmp_path / f"{i}.png").write_bytes(data)
    return [tmp_path / f"{i}.png" for i in range(len(HUGE))]


def test_a_small_file_that_says_it_is_huge_is_left_out_before_it_is_decoded(huge, monkeypatch):
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded.append)
    found = [opened(file) for file in huge]
    assert not decoded and all(seen.image is None and seen.note for seen in found)
    assert all("pixels" in seen.note for seen in found[:2])


MEMORY = """
import resource, sys, types
package = types.ModuleType("sd_debias"); package.__path__ = [sys.argv[1]]; sys.modules["sd_debias"] = package
from sd_debias.core.study.folder import opened
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert all(opened(file).image is None for file in sys.argv[2:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_a_small_file_that_says_it_is_huge_eats_no_memory(huge):
    said = subprocess.run([sys.executable, "-c", MEMORY, str(ROOT), *map(str, huge)],
                          capture_output=True, text=True,
                          check=True)
    assert int(said.stdout) < 50_000  # kB; 15,000 x 15,000 pixels would fill 675,000


@pytest.mark.parametrize("size", [(3000, 2), (1, 5000), (2000, 1000), (1024, 1024)])
def test_the_longer_side_is_1024_pixels_at_most_and_the_shorter_one_never_0(tmp_path, size):
    height, width, _ = stored(Image.new("RGB", size), tmp_path / "long.png").shape
    assert max(width, height) == 1024 and min(width, height) == max(1, round(min(size) * 1024 / max(size)))


# --- folders ---------------------------------------------------------------------------------------------------------

def picture(folder, name, group, seed=0):
    """A picture that the numpy judge sees as a group: red for men, blue for women, and green for nobody."""
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
    """Twelve pictures: 7 of men, 4 of women, 1 of nobody."""
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
    assert at_once == [5, 10, 12], "pictures are streamed and never all in memory"
    d = done.distribution(0)
    assert (d.counts, d.unsure) == ((7, 4), 1) and d.intervals == summarise([7, 4], GENDER.target).intervals
    assert done.round.labels[0] == [MAN] * 7 + [WOMAN] * 4 + [UNSURE] and done.title == "pictures"


def test_a_picture_is_known_by_its_path_in_the_folder_and_its_content(tmp_path):
    one, same = picture(tmp_path, "a/b/x.png", MAN), picture(tmp_path, "c/x.png", MAN)
    key = key_of(tmp_path, one)
    digits = hashlib.blake2b(one.read_bytes(), digest_size=4).hexdigest()
    assert key == f"a/b/x.png {digits}" and key_of(tmp_path, same) == f"c/x.png {digits}"
    picture(tmp_path, "a/b/x.png", WOMAN)
    assert key_of(tmp_path, one) != key


def test_sub_folders_count_and_hidden_files_and_other_files_do_not(tmp_path):
    for name in ("z.png", "a/b/c.PNG", "a/d.JPeG", ".hidden.png", ".cache/e.png", "a/._mac.jpg"):
        picture(tmp_path, name, MAN)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    names = ["a/b/c.PNG", "a/d.JPeG", "z.png"]
    assert [file.relative_to(tmp_path).as_posix() for file in files(tmp_path)] == names
    assert [key.rpartition(" ")[0] for key in work(tmp_path).run().keys] == names


def test_no_folder_and_no_pictures_are_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path, "file.png", MAN)
    for place, said in (("nowhere", "nowhere"), ("empty", r"empty.*\.png"),
                        ("file.png", "file.png")):
        with pytest.raises(DebiasError, match=said):
            work(tmp_path / place)


def test_unreadable_files_are_named_with_the_reason_and_do_not_count(pictures):
    (pictures / "03.png").write_bytes(b"")
    (pictures / "sub dir").mkdir()
    (pictures / "sub dir" / "a text.jpg").write_text("no picture")
    frames = [Image.fromarray(np.asarray(Image.open(pictures / "00.png")) // n) for n in (1, 2)]
    frames[0].save(pictures / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    Image.new("RGB", (1, 1), "red").save(pictures / "w dot.png")
    Image.new("RGB", (50, 50), "red").save(pictures / "x plain.png")
    done = (audit := work(pictures)).run()
    assert [line.partition(":")[0] for line in audit.unreadable] == ["03.png", "sub dir/a text.jpg"]
    assert all("cannot be read (" in line for line in audit.unreadable)
    d = done.distribution(0)
    assert d.counts == (7, 4), "6 men and the moving one"
    assert d.unsure == 5, "nobody, the unreadable ones, and pictures of one pixel and of one colour"
    notes = {row["picture"].rpartition(" ")[0]: row["note"] for row in done.table()}
    assert notes["moving.webp"] == "the first of 2 frames" and "cannot be read" in notes["03.png"]
    assert len(done.keys) == len(set(done.keys)) == 16 and set(done.thumbs) == {
        key for key in done.keys if "cannot be read" not in done.notes.get(key, "")}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named_and_the_others_count(pictures):
    (pictures / "02.png").chmod(0)
    audit = work(pictures)
    assert audit.run().distribution(0).n == 10 and "02.png" in audit.unreadable[0]


def test_a_file_that_goes_away_and_a_link_to_nowhere_are_named_and_the_others_count(pictures):
    (pictures / "link.png").symlink_to(pictures / "gone.png")
    audit = work(pictures)
    (pictures / "08.png").unlink()
    assert audit.run().distribution(0).counts == (7, 3)
    assert [line[:6] for line in audit.unreadable] == ["08.png", "link.p"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_with_the_name_of_a_picture_does_not_hang_the_audit(pictures):
    import signal

    class Hangs(BaseException):
        pass

    def hangs(*_):
        raise Hangs

    os.mkfifo(pictures / "pipe.png")
    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        assert work(pictures).run().distribution(0).counts == (7, 4)
    except Hangs:
        pytest.fail("it hangs")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_where_every_file_is_unreadable_the_user_learns_why(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DebiasError, match=r"\b1\b.*a\.png: it cannot be read"):
        work(tmp_path).run()


# --- interruptions ---------------------------------------------------------------------------------------------------

def outcome(labelled):
    r = labelled.round
    return list(labelled.keys), r.labels, r.faces, r.people, dict(labelled.notes), dict(labelled.thumbs)


def interrupted(root, judge, state, **options):
    with pytest.raises(KeyboardInterrupt):
        work(root, judge, state=state, **options).run()
    return state


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_an_interrupted_audit_goes_on_where_it_ended_and_ends_as_an_undisturbed_one(pictures, tmp_path, stop_at):
    (pictures / "01.png").write_bytes(b"broken")
    state = interrupted(pictures, Colours(stop_at), tmp_path / "out" / "unfinished.json",
                        judged_by="colours")
    assert state.exists() == (stop_at > 0)
    judge, said = Colours(), []
    again = work(pictures, judge, state=state, judged_by="colours")
    done = again.run(lambda now, _: said.append(now))
    assert said[0] == 5 * stop_at and len(judge.batches) == 3 - stop_at
    undisturbed = work(pictures)
    assert outcome(done) == outcome(undisturbed.run()) and again.unreadable == undisturbed.unreadable
    assert state.exists()
    again.forget()
    assert not state.exists()


def test_an_interruption_between_batches_keeps_them_whatever_their_size(pictures, tmp_path):
    def stop(done, total):
        if done == 10:
            raise KeyboardInterrupt
    state, undisturbed = tmp_path / "unfinished.json", outcome(work(pictures).run())
    with pytest.raises(KeyboardInterrupt):
        work(pictures, state=state).run(stop)
    for stop_at, size, batches in ((None, 5, [2]), (1, 3, [3, 3, 1])):
        if stop_at:
            state.unlink()
            interrupted(pictures, Colours(stop_at), state)
        judge = Colours()
        assert outcome(work(pictures, judge, state=state, batch_size=size).run()) == undisturbed
        assert judge.batches == batches


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


@pytest.mark.parametrize("text", ["{}", "[]", '{"facts": 1}'])
def test_a_state_of_something_else_is_not_taken_over(pictures, tmp_path, text):
    state = tmp_path / "unfinished.json"
    state.write_text(text)
    assert work(pictures, state=state).run().distribution(0).counts == (7, 4)


class Crowd(Colours):
    """A judge of every person: a picture shows as many as its height is above 10 pixels."""

    def faces(self, images):
        return np.array([len(image) - 10 for image in images])

    def people(self, images):
        return [np.repeat(Colours()([image]), len(image) - 10, 0) for image in images]

    def __call__(self, images):
        found = super().__call__(images)
        found[[len(image) == 10 for image in images]] = NO_FACE
        return found


@pytest.fixture
def crowd(tmp_path):
    root = tmp_path / "crowds"
    root.mkdir()
    for i, (people, group) in enumerate([(2, MAN), (0, MAN), (3, WOMAN), (1, MAN), (2, WOMAN), (1, WOMAN), (4, MAN)]):
        rgb = np.random.default_rng(i).integers(0, 60, (10 + people, 9, 3), np.uint8)
        rgb[..., 2 * group] += 150
        Image.fromarray(rgb).save(root / f"{i}.png")
    return root


def test_every_person_counts_and_pictures_of_nobody_are_told_but_not_unreadable_ones(crowd):
    done = work(crowd, Crowd(), batch_size=3).run()
    people = [[2, 0], [0, 0], [0, 3], [1, 0], [0, 2], [0, 1], [4, 0]]
    d = done.distribution(0)
    assert d == summarise_people(people, GENDER.target) and (d.n, d.pictures) == (13, 6)
    rows = [(r["picture"][0], r["person"], r["faces"], r["gender"]) for r in done.table()]
    assert rows[:4] == [("0", 1, 2, "man"), ("0", 2, 2, "man"), ("1", None, 0, "no face"), ("2", 1, 3, "woman")]
    assert len(rows) == 14 and "1 show no face, 4 show several people" in done.round.left_out
    (crowd / "9.png").write_text("no picture")
    done = work(crowd, Crowd(), batch_size=3).run()
    assert "1 show no face" in done.round.left_out and done.table()[-1]["gender"] != "no face"


@pytest.mark.parametrize("stop_at", [1, 2])
def test_an_interrupted_audit_of_people_ends_as_an_undisturbed_one(crowd, tmp_path, stop_at):
    state = interrupted(crowd, Crowd(stop_at), tmp_path / "unfinished.json", batch_size=2)
    done = work(crowd, Crowd(), state=state, batch_size=2).run()
    assert outcome(done) == outcome(work(crowd, Crowd(), batch_size=2).run())


def test_a_folder_in_which_everybody_is_of_one_group_has_shares_too(monkeypatch):
    monkeypatch.setattr("sd_debias.core.statistics.dirichlet_interval", lambda *_: (0.0, 1.0))  # slow
    rng = np.random.default_rng(0)
    for people in [np.array([3, 2, 1, 4]), *(rng.integers(1, 5, n) for n in rng.integers(1, 30, 150))]:
        d = summarise_people(np.stack([people, 0 * people], 1), GENDER.target)
        assert d.shares == (1.0, 0.0) and np.allclose((d.intervals[0][1], d.intervals[1][0]), (1, 0), atol=1e-12)
        assert d.n == people.sum() and d.effective <= d.n


# --- corrections -----------------------------------------------------------------------------------------------------

def labelled(labels=(0, 0, 0, 1), people=None, run="r", names=GENDER, keys=None, title="doctors",
             **more):
    """Pictures of seeds 1, 2, ..., with their labels; `people`: labels of each picture's persons."""
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
    more = f"; {elsewhere} more belong to pictures that are not here" if elsewhere else ""
    return f"{how_many} label{'s' if how_many > 1 else ''} corrected by hand{more}"


def test_corrected_labels_change_the_shares_and_must_be_groups_that_are_there():
    own = labelled((0, 0, NO_FACE, 1, UNSURE))
    assert correct(own, r={"gender": {"seed 1": "woman", "seed 2": None,
                                      "seed 3": "man"}}) == by_hand(3)
    d = own.distribution(0)
    assert (d.counts, d.unsure) == ((1, 2), 2)
    assert d.intervals == summarise([1, 2], GENDER.target, 2).intervals
    assert [row["gender"] for row in own.table()] == ["woman", "unsure", "man", "woman", "unsure"]
    with pytest.raises(DebiasError, match="'seed 2'.*'robot'.*'gender'.*man, woman"):
        correct(labelled(), r={"gender": {"seed 2": "robot"}})


@pytest.mark.parametrize("runs", [{"other": {"gender": {"seed 1": "man"}}}, {"r": {"age": {"seed 1": "young"}}},
                                  {"r": {"gender": {"seed 99": "man"}}}, {"r": {}}, {}])
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
    assert own.round.people == [[[0, 1, 1], [], [UNSURE]]] and own.round.labels == [[0, NO_FACE, UNSURE]]
    assert own.distribution(0) == summarise_people([[1, 2], [0, 0], [0, 0]], GENDER.target, 1)


def test_a_file_name_with_a_number_sign_is_a_picture_where_pictures_count():
    own = labelled(keys=["a#2.png 00ff", "b 1", "c 1", "d 1"])
    correct(own, r={"gender": {"a#2.png 00ff": "woman"}})
    assert own.distribution(0).counts == (2, 2)
    many = labelled(people=[[0, 0], [1]], keys=["a#2.png 00ff", "b 1"])
    correct(many, r={"gender": {"a#2.png 00ff#2": "woman"}})
    assert many.round.people == [[[0, 1], [1]]]


@pytest.mark.parametrize("text", [
    "[]", "{}", json.dumps({"form": FORM}), '{"form": "sd-debias profile", "runs": {}}',
    '{"form": ', *(
        json.dumps({"form": FORM, "runs": runs}) for runs in (
            [], {"r": []}, {"r": {"gender": ["man"]}}, {"r": {"gender": {"seed 1": 0}}},
            {"r": {"gender": "man"}}))])
def test_a_file_that_holds_no_corrections_is_a_sentence(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DebiasError, match=r"corrections|c\.json.*JSON"):
        read_corrections(tmp_path / "c.json")


def test_corrections_of_a_folder_fit_where_files_were_added_and_not_where_a_file_changed(pictures):
    first = work(pictures).run()
    saved = {first.run: {"gender": {first.keys[0]: "woman", first.keys[1]: "woman"}}}
    picture(pictures, "000.png", WOMAN, 5)
    picture(pictures, "01.png", MAN, 99)
    again = work(pictures).run()
    assert correct(again, **saved) == by_hand(1, 1) and again.distribution(0).counts == (6, 6)


def test_a_check_corrects_the_shares_of_a_folder(pictures):
    own = Check.of(GENDER, [0] * 10 + [1] * 10, [0] * 10 + [1] * 8 + [0] * 2)
    d = work(pictures, checks=[own]).run().distribution(0)
    assert d.counts == (7, 4) and d.corrected[WOMAN] > d.shares[WOMAN]
    # m = p C, and C by the counts with one picture a row as a prior, half of it right.
    c = np.array([[10.5, .5], [2.5, 8.5]]) / 11
    assert np.allclose(np.array(d.corrected) @ c, d.shares)
    other = Check.of(Attribute("age", (Group("young"), Group("old"))), [0, 1], [0, 1])
    with pytest.raises(DebiasError, match="'age'"):
        work(pictures, checks=[other])


# --- tables ----------------------------------------------------------------------------------------------------------

def assert_no_formula(rows):
    assert not [cell for row in rows for cell in row if cell and cell[0] in "=+-@\t\r"]


def test_names_and_notes_that_a_spreadsheet_would_run_are_text(tmp_path):
    formulas = ["=HYPERLINK(1).png", "+1.png", "-1.png", "@SUM(1).png"]
    for name in [*formulas, "plain.png"]:
        picture(tmp_path / "in", name, MAN)
    done = work(tmp_path / "in").run()
    done.title = "=1+1"
    rows = list(csv.DictReader(io.StringIO(as_csv([done]))))
    names = {row["picture"].rpartition(" ")[0] for row in rows}
    assert names == {*(f"'{name}" for name in formulas), "plain.png"}
    assert {row["title"] for row in rows} == {"'=1+1"}
    assert_no_formula(row.values() for row in rows)
    evil = Attribute("=cmd()", (Group("@x"), Group("-y")))
    cells = list(csv.reader(io.StringIO(as_csv([labelled((0, 1), names=evil,
                                                         notes={"seed 1": "+note"})]))))
    assert {"'@x", "'-y", "'+note"} <= set(sum(cells, []))
    assert_no_formula(cells)


def test_the_table_has_a_row_for_each_picture_with_its_reason():
    own = labelled((0, UNSURE, NO_FACE, 1), notes={"seed 2": 'a "quoted", note\nof two lines'})
    rows = list(csv.DictReader(io.StringIO(as_csv([own, labelled((1,), title="nurses")]))))
    assert [row["gender"] for row in rows] == ["man", "unsure", "no face", "woman", "woman"]
    assert rows[1]["note"] == 'a "quoted", note\nof two lines' and rows[4]["title"] == "nurses"
    alike = labelled((0, 1), names=Attribute("picture", (Group("day"), Group("night"))))
    assert {"seed 1", "day"} <= set(list(csv.reader(io.StringIO(as_csv([alike]))))[1])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_name_that_is_no_unicode_is_in_the_table_and_on_the_page(tmp_path):
    picture(tmp_path, "plain.png", WOMAN)
    os.rename(picture(tmp_path, "x.png", MAN), os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    done = work(tmp_path, state=tmp_path / "unfinished.json").run()
    assert done.distribution(0).counts == (1, 1)
    look_page("t", [done]).encode("utf-8")
    as_csv([done]).encode("utf-8")


# --- the page of pictures and labels ---------------------------------------------------------------------------------

HOSTILE = f"</script><script>alert(1)</script>\"'&{LINE}\u2029<!--<img src=x onerror=alert(2)>"


def parts(page):
    """(the page without its data, the data's text)."""
    before, start, rest = page.partition('<script type="application/json" id="data">')
    text, end, after = rest.partition("</script>")
    assert start and end
    return before + after, text


def sections(*found):
    return json.loads(parts(look_page("t", found))[1])["sections"]


def test_hostile_names_stay_text_in_the_title_the_keys_and_the_groups():
    evil = Attribute(HOSTILE, (Group(HOSTILE + "1"), Group("</SCRIPT\n>")))
    own = labelled((0, 1), names=evil, keys=[HOSTILE, f"{HOSTILE} 2"], title=HOSTILE, run=HOSTILE)
    page = look_page(HOSTILE, [own], back=HOSTILE)
    rest, text = parts(page)
    assert "<" not in text and LINE not in text and "\u2029" not in text
    section, = json.loads(text)["sections"]
    assert section["title"] == section["run"] == section["items"][0]["key"] == HOSTILE
    assert section["attributes"][0]["name"] == HOSTILE and section["attributes"][0]["groups"] == list(evil.names)
    assert len(re.findall("<script", page, re.I)) == len(re.findall("</script", page, re.I)) == 2
    assert "<img" not in rest and "<!--" not in rest and "&lt;/script&gt;&lt;script&gt;" in rest


def test_the_page_allows_its_one_script_by_its_hash_and_nothing_else():
    page = look_page("t", [labelled()])
    rest, _ = parts(page)
    script = re.search("<script>(.*)</script>", rest, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    said = re.search('Content-Security-Policy" content="([^"]*)"', page)[1]
    assert f"script-src 'sha256-{digest}'" in said and "default-src 'none'" in said and "connect-src" not in said
    assert "unsafe-inline" not in said.partition("script-src")[2] and "unsafe-eval" not in said
    assert f"script-src 'sha256-{digest}'" in policy() and "sandbox allow-scripts allow-downloads" in policy()
    assert "allow-same-origin" not in policy()
    assert not re.search(r"(src|href)=\"?https?:", page) and "\non" not in rest and " onclick=" not in rest


def test_the_page_shows_each_picture_with_its_labels_and_counts_what_it_does_not_show(monkeypatch):
    own = labelled(people=[[0, 1], [], [1]])
    section, = sections(own)
    assert [item["labels"] for item in section["items"]] == [[[0, 1]], [[]], [[1]]]
    assert [item["faces"] for item in section["items"]] == [2, 0, 1] and section["people"] is True
    assert base64.b64decode(section["items"][0]["src"].partition(",")[2]) == own.thumbs["seed 1"]
    assert section["hidden"] == 0 and section["rest"] == [[]]
    labels = [0] * 5 + [1] * 3 + [UNSURE] * 2
    monkeypatch.setattr("sd_debias.core.report.look.MOST_SHOWN", 4)
    section, = sections(labelled(labels))
    assert len(section["items"]) == 4 and section["hidden"] == 6
    assert np.sum(section["rest"][0], 0).tolist() == [1, 3]
    assert [len(two["items"]) for two in sections(labelled(labels),
                                                  labelled(labels, run="s"))] == [2, 2]


def test_a_thumbnail_keeps_its_shape_and_runs_are_told_apart_by_every_fact():
    small = Image.open(io.BytesIO(thumbnail(np.zeros((100, 800, 3), np.uint8))))
    assert small.size == (192, 24) and small.format == "JPEG"
    original = Image.new("RGB", (400, 200))
    assert Image.open(io.BytesIO(thumbnail(original))).size == (192, 96) and original.size == (400, 200)
    assert run_of("a", 1) == run_of("a", 1) and len({run_of("a", 1), run_of("a", 2), run_of("b", 1), run_of()}) == 4


def of_men(cuts):
    return np.tile([1.0, 0.0], (len(cuts), 1))


def test_a_thumbnail_shows_which_face_is_which():
    image = np.full((192, 192, 3), 255, np.uint8)
    image[0, 0] = 0
    places = [(10, 20, 60, 80), (120, 20, 50, 60)]
    shown = labelled_pictures([image], "two", (GENDER,),
                              [OfFaces(of_men, Faces(lambda rgb: places), PEOPLE)])
    seen = np.asarray(Image.open(io.BytesIO(next(iter(shown.thumbs.values()))))).astype(int)
    yellow = (seen[..., 0] > 180) & (seen[..., 1] > 150) & (seen[..., 2] < 130)
    for x, y, w, h in places:  # the lower edges, where no number stands
        assert yellow[y + h, x + w // 3:x + w - 3].mean() > 0.8
    assert not yellow[110:, 100:].any() and len(shown.labels(0, 0)) == 2


def test_faces_are_numbered_alike_in_an_interrupted_audit_and_in_an_undisturbed_one(tmp_path):
    root, seen = tmp_path / "crowds", []
    root.mkdir()
    for i in range(5):
        image = np.full((192, 192, 3), 240, np.uint8)
        image[0, 0] = i
        Image.fromarray(image).save(root / f"{i}.png")

    def places(rgb):
        seen.append(int(rgb[0, 0, 0]))
        return [(10 + 5 * rgb[0, 0, 0], 20, 60, 80), (120, 20, 50, 60)][:1 + rgb[0, 0, 0] % 2]

    def judge(stop_at=None):
        def men(cuts):
            if stop_at is not None and stop_at in seen:
                raise KeyboardInterrupt
            return of_men(cuts)
        return OfFaces(men, Faces(places), PEOPLE)

    undisturbed = work(root, judge(), batch_size=2).run()
    seen.clear()
    state = interrupted(root, judge(stop_at=2), tmp_path / "unfinished.json", batch_size=2)
    assert state.exists() and 4 not in seen  # it ended half-way
    resumed = work(root, judge(), state=state, batch_size=2).run()
    assert resumed.thumbs == undisturbed.thumbs and len(set(resumed.thumbs.values())) == 5
    assert resumed.table() == undisturbed.table() and len(resumed.table()) == 7


def test_given_pictures_count_where_only_their_smaller_faces_are_sure():
    images = [np.full((60, 60, 3), shade, np.uint8) for shade in (90, 91, 92)]
    judge = OfFaces(lambda cuts: np.array([[0.0, 0.0] if len(c) == 40 else [1.0, 0.0] for c in cuts]),
                    Faces(lambda rgb: [(0, 0, 40, 40), (40, 40, 20, 20)]), PEOPLE, margin=0.0)
    found = labelled_pictures(images, "crowd", (GENDER,), [judge]).distribution(0)
    assert found.counts == (3, 0) and found.unsure == 3
