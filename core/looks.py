"""What a judge looks at in an image, as hosts offer it; it loads no library."""
from __future__ import annotations

from .method.methods import Choice

PICTURE, LARGEST, PEOPLE = "image", "largest face", "people"
LOOKS = (PICTURE, LARGEST, PEOPLE)
DETECTORS = ("yunet", "dlib", "opencv")  # as `judge.faces.detector` tries them
AUTO = "auto"

LOOK = Choice(LOOKS, "Look at", (
    "What the judge looks at: the whole image; the largest face; or people, which is every face, with intervals "
    "for persons instead of images (only in audits). Faces need a detector."))
DETECTOR = Choice((AUTO, *DETECTORS), "Face detector", (
    "What finds faces. auto: the first of yunet, dlib and opencv that is installed. To install one, run 'pip install "
    "dlib-bin' with the host's Python."))
