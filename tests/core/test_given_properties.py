"""What users give beside attributes and profiles, whatever it is: labels' maps, corrections, checks, workflows."""
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import PHRASE, counts, examples

from sd_debias.core.attribute import GENDER
from sd_debias.core.audits.labelled import FORM, Labelled, corrected, given_back
from sd_debias.core.calibration.loop import Round
from sd_debias.core.errors import DebiasError
from sd_debias.core.judge.check import Check
from sd_debias.core.judge.image_classifier import _check_map
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.method.draw import Steering
from sd_debias.core.method.methods import METHODS
from sd_debias.core.sweep.unit import Recipe, Unit
from sd_debias.core.sweep.wire import question, read
from sd_debias.diffusers_host.sweep.workflow import CALIBRATE, SWEEP, read_workflow

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=5), inner, max_size=3), max_leaves=8)
KEYS = ["seed 1", "seed 2", "seed 3"]


@examples(60)
@given(st.dictionaries(PHRASE, st.sampled_from(["man", "woman", "Man", "child"]), max_size=5))
def test_a_map_of_labels_knows_every_group_and_no_other(groups):
    fits = set(groups.values()) == {"man", "woman"}
    if fits:
        _check_map(groups, GENDER)
        return
    with pytest.raises(DebiasError, match="no group|No label|Expected a map of labels"):
        _check_map(groups, GENDER)


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


@examples(150)
@given(JSON)
def test_no_other_json_is_taken_for_corrections(document):
    if document in (None, "", {}, []) or document == 0:
        return
    with pytest.raises(DebiasError, match="Expected a file of corrections"):
        given_back(json.dumps(document) if not isinstance(document, str) else json.dumps([document]))


@pytest.mark.parametrize("text", ["5", "[1]", '"/etc/passwd"', "null", "[" * 100_000, "{", "\ud800"])
def test_corrections_that_are_a_number_a_path_or_nested_without_end_are_refused_in_a_sentence(text):
    with pytest.raises(DebiasError, match="Expected the corrections as JSON|Expected a file of corrections"):
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


def test_a_unit_whose_whole_numbers_are_written_with_a_point_is_measured_as_it_is_meant():
    recipe = Recipe(((GENDER,),), METHODS["default"], Plan(20))
    asked = Unit(0, "a doctor", 0, 0, "audit", (Steering.none(2).to_dict(),), (5, 10), 0, False)
    sent = question(recipe, asked)
    pointed = {key: float(value) if type(value) is int else value for key, value in sent["unit"].items()}
    _, found = read({**sent, "show": 0.0, "unit": {**pointed, "seeds": [5.0, 10.0]}})
    assert found == asked and {type(n) for n in (found.job, found.variant, *found.seeds, found.begin)} == {int}


LINKED = dict(class_type=CALIBRATE, inputs=dict(model=["1", 0], clip=["1", 1], steps=8, batch_size=4))


@examples(60)
@given(st.dictionaries(st.sampled_from("1234567"), st.fixed_dictionaries(dict(
    class_type=st.sampled_from(["Loader", "LoRA"]), inputs=st.dictionaries(st.sampled_from("abc"), st.tuples(
        st.sampled_from("1234567"), st.just(0)).map(list) | st.text(max_size=3), max_size=3)))))
def test_a_sweep_queues_all_that_leads_to_its_node_and_nothing_else(tmp_path, others):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({**others, "8": LINKED}))
    found = read_workflow(path)
    assert found.graph[found.node]["class_type"] == SWEEP and "batch_size" not in found.graph["8"]["inputs"]
    led, waiting = {"8"}, ["1"]
    while waiting:
        at = waiting.pop()
        if at in others and at not in led:
            led.add(at)
            waiting += [value[0] for value in others[at]["inputs"].values() if isinstance(value, list)]
    assert set(found.graph) == led and found.asking("x")["8"]["inputs"]["unit"] == "x"


@pytest.mark.parametrize("batch_size, counts_as", [(4, 4), (True, None), (0, None), (["5", 0], None)])
def test_a_batch_size_that_is_no_number_is_left_to_the_command(tmp_path, batch_size, counts_as):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({"8": dict(class_type=CALIBRATE, inputs=dict(batch_size=batch_size))}))
    found = read_workflow(path).batch_size
    assert found == counts_as and type(found) is type(counts_as)
