"""The form of profiles and of saved calibrations, as JSON Schema, and what checks documents against it.

docs/schemas/ holds the two schemas for other programs; `python -m sd_debias.core.schema FOLDER` writes them. No package
for JSON Schema is in every host, so `check` reads the few keywords that these two use; a test compares it with the
package jsonschema. What one field says of another, such as a weight for each group, is checked where it is read.
"""
from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from .errors import DebiasError, short
from .method.methods import DIRECTIONS, OWN_RULE, RULES, SPENDS
from .method.safe_latent import ANCHORS

LARGEST_WEIGHT = 100.0  # a push of 1 is obeyed; anything near this bound makes images of no use
TOGETHER = 16  # consecutive seeds that are spread over a draw's chances together
MOST_IMAGES = 1_000_000  # of a calibration, a round or a verification
MOST_GROUPS = 1024  # of an attribute
DEEPEST = 32  # levels of a document


def _object(required: str = "", **properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(items: dict, **bounds: int) -> dict:
    return {"type": "array", "items": items, **bounds}


def _or_null(form: dict) -> dict:
    return {**form, "type": [form["type"], "null"]}


def _number(low: float, high: float) -> dict:
    return {"type": "number", "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> dict:
    return {"type": "integer", "minimum": low, "maximum": high}


TEXT = {"type": "string", "maxLength": 100_000}
NAME = {"type": "string", "maxLength": 10_000, "pattern": r"\S"}
DESCRIBED = {"type": "string", "maxLength": 10_000, "pattern": r"\S"}
COUNT = _whole(0, 10**9)
SECONDS = _number(0, 1e12)
NATS = _or_null(_number(0, 1e6))  # null where infinite
KIND = {"type": "string", "enum": ["audit", "round", "proof", "held-out"]}

TEXTS = {**DESCRIBED, "type": ["array", "string", "null"], "items": DESCRIBED, "maxItems": MOST_GROUPS}

ATTRIBUTE = _object(
    "name groups", name=NAME, target={**_list(_number(0, 1e12), maxItems=MOST_GROUPS), "type": ["array", "null"]},
    groups=_list(_object("name", name=NAME, texts=TEXTS, classifier_texts=TEXTS,
                         words=_or_null(_list(TEXT, maxItems=1000))), minItems=2, maxItems=MOST_GROUPS))
METHOD = _object(
    direction={"type": "string", "enum": list(DIRECTIONS)}, spend={"type": "string", "enum": list(SPENDS)},
    rule={"type": "string", "pattern": f"^({'|'.join((*RULES, OWN_RULE))})$"},
    context={"type": "string", "maxLength": 1000},
    guidance=_object(scale=_number(0, 1e9), threshold=_or_null(_number(-1e9, 1e9)), momentum_scale=_number(0, 100),
                     momentum_beta=_number(0, 1), start=_number(0, 1), end=_number(0, 1),
                     linear={"type": "boolean"}, anchor={"type": "string", "enum": list(ANCHORS)},
                     toward={"type": "boolean"}, length=_number(0.01, 10)))
STEERING = _object(
    "weights", weights=_list(_number(-LARGEST_WEIGHT, LARGEST_WEIGHT), minItems=2, maxItems=MOST_GROUPS),
    probabilities=_list(_number(0, 1), maxItems=MOST_GROUPS + 1), strength=_number(0, LARGEST_WEIGHT))
MEASURED = _object(
    "counts", counts=_list(COUNT, minItems=2, maxItems=MOST_GROUPS), unsure=COUNT, n=COUNT,
    shares=_list(_number(0, 1)), target=_list(_number(0, 1)), level=_number(0, 1),
    intervals=_list(_list(_number(0, 1), minItems=2, maxItems=2)), kl=NATS, kl_interval=_list(NATS),
    kl_floor_mean=NATS, kl_floor95=NATS, drawn_floor95=NATS, total_variation=_number(0, 1),
    deviation_ratio=_number(0, 1), corrected=_list(_number(0, 1)),
    corrected_intervals=_list(_list(_number(0, 1), minItems=2, maxItems=2)), pictures=COUNT, effective=_number(0, 1e9))
CHECK = _object(
    "attribute groups counts left_out", attribute=TEXT, groups=_list(TEXT, minItems=2, maxItems=MOST_GROUPS),
    counts=_list(_list(COUNT, minItems=2, maxItems=MOST_GROUPS), minItems=2, maxItems=MOST_GROUPS),
    left_out=_list(COUNT, maxItems=MOST_GROUPS), judge=TEXT, prompts=_list(TEXT, maxItems=MOST_GROUPS),
    by={"type": "string", "enum": ["prompts", "hand"]},
    obeyed=_or_null(_list(_list(COUNT, minItems=2, maxItems=2), maxItems=MOST_GROUPS)))
EXPECTED = _object(
    "shares intervals within certainty images", shares=_list(_number(0, 1), minItems=2, maxItems=MOST_GROUPS),
    intervals=_list(_list(_number(0, 1), minItems=2, maxItems=2)), within=_number(0, 1), certainty=_number(0, 1),
    images=COUNT)
SIDE_EFFECT = _object(
    "attribute groups before after change images", attribute=TEXT, groups=_list(TEXT, minItems=2, maxItems=MOST_GROUPS),
    before=_list(_number(0, 1)), after=_list(_number(0, 1)),
    change=_list(_list(_number(-2, 2), minItems=2, maxItems=2)), images=_list(COUNT, minItems=2, maxItems=2),
    moved={"type": "boolean"})
ENTRY = _object(
    "prompt steerings", prompt=TEXT, subject=_or_null(TEXT), steerings=_list(STEERING, minItems=1, maxItems=8),
    before=_or_null(_list(MEASURED)), after=_or_null(_list(MEASURED)), expected=_or_null(_list(EXPECTED)),
    side_effects=_or_null(_list(SIDE_EFFECT, maxItems=100)),
    fidelity=_or_null(_object(before=_or_null(_number(-1e6, 1e6)), after=_or_null(_number(-1e6, 1e6)))),
    rounds=_or_null(_list(_object(
        "kind attributes", kind=KIND, images=COUNT, not_finite=COUNT, one_colour=COUNT,
        fidelity=_or_null(_number(-1e6, 1e6)), seconds=SECONDS,
        attributes=_list({**MEASURED, "properties": {**MEASURED["properties"], "steering": STEERING}})),
        maxItems=10_000)),
    told=_or_null(_list(_object("right made", right=_list(COUNT), made=_list(COUNT)), maxItems=8)),
    verdicts=_or_null(_list(TEXT, maxItems=8)), stop=_or_null(TEXT), left_alone=_list(TEXT),
    warnings=_or_null(_list(TEXT, maxItems=1000)),
    cost=_or_null(_object(images=_or_null(COUNT), evaluations=_or_null(_whole(0, 10**15)), seconds=_or_null(SECONDS))))
PROFILE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Profile of sd-debias", "description": "What a calibration leaves and every host applies.",
    **_object("schema name method attributes entries", schema={"type": "string", "pattern": r"^\d{1,4}\.\d{1,4}$"},
              name={"type": "string"}, software=TEXT, created=TEXT, hash=TEXT, classifier=TEXT, method=METHOD,
              attributes=_list(ATTRIBUTE, minItems=1, maxItems=8), checks=_or_null(_list(_or_null(CHECK), maxItems=8)),
              entries=_list(ENTRY, maxItems=10_000),
              setting={"type": ["object", "null"],
                       "additionalProperties": {"type": ["string", "number", "boolean", "null"]}})}
LABEL = _whole(-3, MOST_GROUPS - 1)  # a group's place, or why an image is left out
PLAN = _object(
    images=_whole(1, MOST_IMAGES), rounds=_whole(0, MOST_IMAGES), held_out=_whole(0, MOST_IMAGES),
    tolerance=_or_null(_number(0, 1e6)), within=_or_null(_number(0, 0.5)), batch_size=_whole(1, MOST_IMAGES),
    round_images=_or_null(_whole(1, MOST_IMAGES)), more=_number(0, 1),
    seed=_whole(-2**64, 2**64),
    confidence=_number(0, 1))
ROUND = _object(
    "kind steerings seeds labels", kind=KIND, steerings=_list(STEERING, minItems=1, maxItems=8),
    seeds=_list(_whole(-2**65, 2**65), minItems=1, maxItems=MOST_IMAGES),
    labels=_list(_list(LABEL), maxItems=8), faces=_list(COUNT),
    people=_list(_list(_list(LABEL)), maxItems=8), fidelity=_list(_number(-1e6, 1e6)),
    not_finite=COUNT, one_colour=COUNT, seconds=SECONDS, watched={
        "type": "object", "additionalProperties": _list(LABEL)})
FOLDER = _object(  # an unfinished audit of a folder
    "facts round keys notes lost", round={**ROUND, "required": ["kind", "labels"]}, keys=_list(TEXT), lost=_list(TEXT),
    notes={"type": "object", "additionalProperties": TEXT})
CALIBRATION = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "State of a calibration of sd-debias", "description": "What an unfinished calibration continues from.",
    **_object("prompt attributes method plan rounds", prompt=TEXT,
              attributes=_list(ATTRIBUTE, minItems=1, maxItems=8), method=METHOD, plan=PLAN,
              checks=_or_null(_list(_or_null(CHECK), maxItems=8)),
              rounds=_list(ROUND, maxItems=10_000))}
SCHEMAS = {"profile": PROFILE, "calibration": CALIBRATION}

_WORDS = {"object": "an object", "array": "a list", "string": "a text", "number": "a finite number",
          "integer": "a whole number", "boolean": "true or false", "null": "null"}


def check(document: Any, schema: dict, what: str, advice: str = "Restore the file, or calibrate again.") -> None:
    """Raises DebiasError where a document does not have the schema's form; `what` names it, e.g. "This profile".

    Fields that the schema does not name may hold any JSON of at most 32 levels.
    """
    _plain(document, what)
    wrong = _wrong(document, schema, "")
    if wrong:
        raise DebiasError(f"{what} lacks a field or has a wrong one: {wrong}. {advice}")


def _wrong(value: Any, schema: dict, at: str) -> str | None:
    """What is wrong with a value, in words, or None."""
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"expected {' or '.join(_WORDS[k] for k in kinds)} at '{at or 'the top'}', got {short(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"expected one of {', '.join(schema['enum'])} at '{at}', got {short(value)}"
    if isinstance(value, str):
        return _wrong_text(value, schema, at)
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"'{f'{at}.' if at else ''}{missing[0]}' is missing"
        known, other = schema.get("properties", {}), schema.get("additionalProperties", {})
        found = (_wrong(part, known.get(name, other), f"{at}.{short(name)}" if at else short(name))
                 for name, part in value.items() if name in known or other)
        return next(filter(None, found), None)
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            most = f" and at most {high}" if high < math.inf else ""
            return f"expected at least {low}{most} items in '{at}', got {len(value)}"
        items = schema.get("items")
        found = (_wrong(part, items, f"{at}[{i}]") for i, part in enumerate(value) if items)
        return next(filter(None, found), None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            return f"expected a number from {low:g} to {high:g} at '{at}', got {short(value)}"
    return None


def _wrong_text(value: str, schema: dict, at: str) -> str | None:
    if len(value) > schema.get("maxLength", math.inf):
        return f"expected at most {schema['maxLength']} characters at '{at}', got {len(value)}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"expected another text at '{at}', got '{short(value)}'"
    return None


def _is(value: Any, kind: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
            "boolean": isinstance(value, bool), "null": value is None, "number": number,
            "integer": number and value == value // 1}[kind]


def _plain(document: Any, what: str) -> None:
    """Raises DebiasError for what JSON in UTF-8 cannot hold, and for more levels than any document of ours has."""
    waiting = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise DebiasError(f"{what} is nested more than {DEEPEST} levels deep. Restore the file.")
        if isinstance(value, dict):
            waiting += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list):
            waiting += ((part, depth + 1) for part in value)
        elif isinstance(value, str):
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise DebiasError(f"{what} holds a text that isn't valid Unicode ({short(value)}). Restore the file.")
        elif isinstance(value, float) and not math.isfinite(value) or \
                isinstance(value, int) and not -2**80 < value < 2**80:
            raise DebiasError(f"Expected finite numbers below 1e24, got {short(value)[:40]}: {what} cannot be read. "
                              "Calibrate again.")
        elif not isinstance(value, (int, float, type(None))):
            raise DebiasError(f"Expected the plain values of JSON, got a {type(value).__name__}: {what} cannot be "
                              "used.")


if __name__ == "__main__":
    for name, schema in SCHEMAS.items():
        Path(sys.argv[1], f"{name}.schema.json").write_text(json.dumps(schema, indent=1) + "\n", "utf-8")
