"""Profiles and states have the form that is published, and what checks them agrees with the package jsonschema."""
import copy
import json
import random
from pathlib import Path

import jsonschema
import pytest
from test_profile import calibrated, made

from sd_debias.core.attribute import GENDER, SKIN_TONE_3
from sd_debias.core.errors import DebiasError
from sd_debias.core.files import read_json
from sd_debias.core.schema import CALIBRATION, PROFILE, SCHEMAS, check

DOCS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
ODD = [None, True, -1, 0, 3, 0.5, 1e30, 2**70, "", "x", "\u533b", "x" * 300, [], [1], [[]], {}, {"a": 1}]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_the_one_that_is_checked(name):
    schema = read_json(DOCS / f"{name}.schema.json")
    assert schema == json.loads(json.dumps(SCHEMAS[name])), "python -m sd_debias.core.schema docs/schemas"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    c = calibrated(attributes=(GENDER, SKIN_TONE_3), bias=(2.0, 1.0))
    c.save(tmp_path_factory.mktemp("state") / "state.json")
    path = next(tmp_path_factory.getbasetemp().glob("state*/state.json"))
    return [(made(c).to_dict(), PROFILE), (read_json(path), CALIBRATION)]


def places(value, at=()):
    yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*at, key))


@pytest.mark.parametrize("seed", range(160))
def test_what_jsonschema_refuses_is_refused_and_nothing_else(documents, seed):
    chance = random.Random(seed)
    document, schema = documents[seed % 2]
    document = copy.deepcopy(document)
    validator = jsonschema.Draft202012Validator(schema)
    for _ in range(chance.randint(1, 2)):
        *steps, last = chance.choice([place for place in places(document) if place])
        holder = document
        for step in steps:
            holder = holder[step]
        if isinstance(holder, dict) and chance.random() < 0.2:
            del holder[last]
        else:
            holder[last] = chance.choice(ODD)
    try:
        check(document, schema, "This")
        refused = None
    except DebiasError as error:
        refused = str(error)
    assert (refused is None) == validator.is_valid(document), refused


def test_fields_that_nobody_knows_may_hold_anything_that_is_json_and_not_too_deep():
    deep = []
    for _ in range(40):
        deep = [deep]
    for value, sentence in ((deep, "nested more than"), ("\ud800", "Unicode"), (float("nan"), "finite"),
                            (10**400, "finite"), (object(), "plain values")):
        with pytest.raises(DebiasError, match=sentence):
            check({"note": value}, {"type": "object"}, "This")
    check({"note": [1, {"a": None}, "x", 2.5, True]}, {"type": "object"}, "This")
