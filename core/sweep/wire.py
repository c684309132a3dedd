"""A unit as it travels to a server, and the answer: plain values of JSON, the same for every host."""
from __future__ import annotations

import json
from dataclasses import asdict, fields

from ..attribute import Attribute
from ..errors import DebiasError, short
from ..calibration.plan import Plan
from ..method.methods import Method
from ..schema import MOST_IMAGES, QUESTION, check
from ..version import VERSION
from .unit import Recipe, Unit, Worker


def question(recipe: Recipe, unit: Unit | None = None) -> dict:
    """What a server is asked: to measure a unit, or, without one, for its facts."""
    return dict(software=VERSION, variants=[[a.to_dict() for a in own] for own in recipe.variants],
                method=recipe.method.to_dict(), plan=asdict(recipe.plan), show=recipe.show,
                unit=None if unit is None else json.loads(json.dumps(asdict(unit))))


def read(asked: object) -> tuple[Recipe, Unit | None]:
    """What `question` gave, as a text or its content. Raises DebiasError for anything else, and for other versions.

    Pictures are never kept: a server writes no file for whoever asks.
    """
    if isinstance(asked, str):
        try:
            asked = json.loads(asked)
        except (ValueError, RecursionError) as error:
            raise DebiasError("Expected a unit of a sweep in JSON, as 'sd-debias sweep --via' sends it, got another "
                              "text.") from error
    version = asked.get("software") if isinstance(asked, dict) else None
    if version is not None and version != VERSION:
        raise DebiasError(f"sd-debias {VERSION} is installed here, but the sweep is of {short(version)}. Install the "
                          "same version on both machines.")
    check(asked, QUESTION, "This unit of a sweep", "Send what 'sd-debias sweep --via' sends.")
    assert isinstance(asked, dict)
    plan = {f.name: asked["plan"][f.name] for f in fields(Plan) if f.name in asked["plan"]}
    recipe = Recipe(tuple(tuple(map(Attribute.from_dict, own)) for own in asked["variants"]),
                    Method.from_dict(asked["method"]), Plan(**plan), int(asked.get("show", 0)))
    if asked["unit"] is None:
        return recipe, None
    own = asked["unit"]
    whole = {name: int(own[name]) for name in ("job", "variant", "round", "begin")}  # JSON's 5.0 is 5
    unit = Unit(**{f.name: own[f.name] for f in fields(Unit)} | whole | dict(
        steerings=tuple(own["steerings"]), seeds=tuple(map(int, own["seeds"]))))
    if unit.variant >= len(recipe.variants) or len(unit.steerings) != len(recipe.variants[unit.variant]) or any(
            len(s["weights"]) != len(a.groups) for s, a in zip(unit.steerings, recipe.variants[unit.variant])):
        raise DebiasError("Expected weights for each group of the unit's attributes, got other ones.")
    if not 1 <= unit.seeds[1] <= MOST_IMAGES:
        raise DebiasError(f"Expected 1 to {MOST_IMAGES:,} pictures in a unit of a sweep, got {short(unit.seeds[1])}.")
    return recipe, unit


def answered(worker: Worker, unit: Unit | None) -> dict:
    """The answer: {"facts": all of them}, or what `Worker.measure` gives, or {"wrong": why the prompt cannot be
    measured so}."""
    found: dict = dict(facts=worker.facts)
    if unit is not None:
        try:
            found = worker.measure(unit)
        except DebiasError as error:
            found = dict(wrong=str(error))
    return json.loads(json.dumps(found, default=str))
