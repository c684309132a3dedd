"""Calibrations, whatever labels come: interrupted or not they end the same, and their profiles come back whole."""
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import attributes, examples

from sd_debias.core.attribute import Attribute, Group
from sd_debias.core.calibration.loop import Calibration
from sd_debias.core.calibration.plan import Plan
from sd_debias.core.calibration.result import profile_of
from sd_debias.core.method.methods import METHODS
from sd_debias.core.profile.file import Profile

PLAN = Plan(12, 2, 8, batch_size=5)
LABELS = st.tuples(st.integers(0, 2**32), st.sampled_from([1, 2]), st.sampled_from(["default", "shift", "paper"]))

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-10**9, 10**9), TEXTS,
                   st.floats(allow_nan=False, allow_infinity=False, width=32))


def measured(path, labels, stops=frozenset(), plan=PLAN) -> Calibration:
    """A calibration whose pictures have these labels; after the batches of `stops` it is loaded from its file."""
    seed, several, method = labels
    own = [Attribute(name, tuple(map(Group, groups))) for name, groups in (
        ("gender", ("man", "woman")), ("age", ("young", "middle aged", "old")))][:several]
    calibration = Calibration("a doctor", own, METHODS[method], plan)

    def probabilities(seeds) -> list[np.ndarray]:
        found = [[np.random.default_rng([seed, number, i]).dirichlet(np.ones(len(a.groups)) / 2) for number in seeds]
                 for i, a in enumerate(own)]
        return [np.array(of_one) for of_one in found]

    batches = 0
    while not calibration.finished:
        for _ in calibration.run(lambda weights, seeds: list(seeds), probabilities,
                                 lambda seeds: np.array([number % 7 / 7 for number in seeds])):
            batches += 1
            if batches in stops:
                calibration.save(path)
                calibration = Calibration.load(path)
                break
    return calibration


def said(calibration: Calibration) -> list:
    """All that was measured and decided."""
    return [[(r.kind, r.steerings, r.seeds, r.labels, r.fidelity) for r in calibration.rounds], calibration.stop,
            calibration.warnings, calibration.steerings]


@examples(8)
@given(LABELS, st.sets(st.integers(1, 9), min_size=1))
def test_whenever_it_is_stopped_a_calibration_ends_as_the_undisturbed_one(tmp_path, labels, stops):
    whole = measured(tmp_path / "a.json", labels)
    assert said(measured(tmp_path / "b.json", labels, stops)) == said(whole)
    held_out = [r for r in whole.rounds if r.kind == "held-out"]
    others = {number for r in whole.rounds if r.kind != "held-out" for number in r.seeds}
    assert held_out and not any(others & set(r.seeds) for r in held_out)
    whole.save(tmp_path / "c.json")
    assert said(Calibration.load(tmp_path / "c.json")) == said(whole)


@examples(12)
@given(LABELS, st.dictionaries(st.sampled_from(["model", "sampler", "steps", "cfg"]), VALUES))
def test_any_profile_comes_back_from_its_json_with_its_hash_and_another_setting_has_another(tmp_path, labels, setting):
    made = profile_of("x", [measured(tmp_path / "a.json", labels)], setting, "a judge", [5])
    again = Profile.from_dict(json.loads(json.dumps(made.to_dict())))
    assert (again.entries, again.setting, again.attributes, again.hash) == (made.entries, made.setting, made.attributes,
                                                                            made.hash)
    assert not again.edited and again.to_dict() == made.to_dict()
    assert Profile.load(made.save(tmp_path, overwrite=True)).hash == made.hash
    other = Profile.from_dict({**made.to_dict(), "setting": {**setting, "seed of another": 1}})
    assert other.hash != made.hash and other.edited


@examples(30)
@given(attributes(), st.floats(-50, 50), TEXTS)
def test_a_profile_of_any_groups_and_prompt_comes_back(attribute, weight, prompt):
    n = len(attribute.groups)
    document = dict(schema="1.0", name="x", method={}, attributes=[attribute.to_dict()], entries=[
        dict(prompt=prompt, steerings=[dict(weights=[weight] * n)])])
    found = Profile.from_dict(document)
    assert Profile.from_dict(found.to_dict()).entries == found.entries and found.attributes == (attribute,)
    assert Profile.from_dict(dict(reversed(document.items()))).hash == found.hash, "the order of fields is no content"
