"""What users give beside attributes and profiles, whatever it is: labels' maps, corrections, checks, workflows."""
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import PHRASE, counts, examples

from sd_debias.core.attribute import GENDER
from sd_debias.core.calibration.labelled import FORM, Labelled, corrected, given_back
from sd_debias.core.calibration.round import Round
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.image_classifier import _check_map
from sd_debias.core.method.draw import Steering

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=5), inner, max_size=3), max_leaves=8)
KEYS = ["seed 1", "seed 2", "seed 3"]


@examples(60)
@given(st.dictionaries(PHRASE, st.sampled_from(["man", "woman", "Man", "child"]), max_size=5))
def test_a_map_of_labels_knows_every_group_and_no_other(groups):
    if set(groups.values()) == {"man", "woman"}:
        return _check_map(groups, GENDER)
    with pytest.raises(DebiasError, match="no group|No label|Expected a map of labels"):
        _check_map(groups, GENDER)


@pytest.mark.parametrize("labels", [[1, 2], {}, {"a": 3}])
def test_labels_that_are_no_mapping_are_refused_with_a_sentence(labels):
    with pytest.raises(DebiasError, match="map of labels"):
        _check_map(labels, GENDER)


def pictures() -> Labelled:
    return Labelled("x", (GENDER,), Round("audit", (Steering.none(2),), (1, 2, 3), [[0, 1, -1]]),
                    KEYS, "a run")


@examples(60)
@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["man", "woman", None]), min_size=1))
def test_corrected_labels_are_those_of_the_hand_and_the_others_stay(labels):
    found = pictures()
    said = corrected([found], given_back(json.dumps(dict(form=FORM, runs={"a run": {"gender": labels}}))) or {})
    codes = {"man": 0, "woman": 1, None: -1}
    assert found.round.labels[0] == [codes[labels.get(key, before)] for key, before in zip(
        found.keys, ("man", "woman", None), strict=True)]
    assert said.startswith(f"{len(labels)} label")


@examples(60)
@given(JSON)
def test_no_other_json_is_taken_for_corrections(document):
    if document in (None, "", {}, []) or document == 0:
        return
    with pytest.raises(DebiasError, match="corrections"):
        given_back(json.dumps(document) if not isinstance(document, str) else json.dumps([document]))


@pytest.mark.parametrize("text", ["5", "[1]", '"/etc/passwd"', "null", "[" * 100_000, "{", "\ud800"])
def test_corrections_that_are_a_number_a_path_or_nested_without_end_are_refused_in_a_sentence(text):
    with pytest.raises(DebiasError, match="corrections"):
        given_back(text)


@examples(60)
@given(counts(2), counts(2), st.integers(0, 50), st.integers(0, 50))
def test_a_check_comes_back_and_says_shares_that_are_shares(man, woman, obeyed, made):
    own = dict(attribute="gender", groups=("man", "woman"), counts=(tuple(man), tuple(woman)), left_out=(0, 1),
               obeyed=((obeyed, made), (made, made)))
    if obeyed > made:
        with pytest.raises(DebiasError, match="more pictures obey than were made"):
            Check(**own)
        return
    found = Check(**own)
    assert Check.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for (share, low, high), row in zip(found.right, found.counts, strict=True):
        assert 0 <= low <= share <= high <= 1 and share in np.array(row) / sum(row)


@pytest.mark.parametrize("changes", [dict(attribute=" "), dict(groups=["man", "man"]), dict(groups=["man", ""])])
def test_a_check_of_nothing_or_of_one_group_twice_is_refused(changes):
    document = dict(attribute="gender", groups=["man", "woman"], counts=[[1, 0], [0, 1]], left_out=[0, 0])
    with pytest.raises(DebiasError, match="each once"):
        Check.from_dict({**document, **changes})
