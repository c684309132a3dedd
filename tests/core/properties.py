"""What the property tests share: a small budget, the same examples at every run, and documents to begin with."""
from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sd_debias.core.attribute import Attribute, Group


def examples(number: int):
    """So many examples, the same ones everywhere and at every run."""
    return settings(max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=[
        HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


WORD = st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=8)
PHRASE = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
NAMES = st.lists(PHRASE, min_size=2, max_size=6, unique_by=lambda name: name.casefold())


@st.composite
def attributes(draw) -> Attribute:
    """Groups of any names and texts, with any target that is not all zero."""
    names = draw(NAMES)
    target = draw(st.lists(st.floats(0, 1e6), min_size=len(names), max_size=len(names)).filter(lambda t: sum(t) > 1e-6))
    texts = draw(st.lists(st.lists(PHRASE, max_size=3), min_size=len(names), max_size=len(names)))
    return Attribute(draw(PHRASE), tuple(Group(name, tuple(own)) for name, own in zip(names, texts, strict=True)),
                     tuple(target))


def counts(groups: int, most: int = 300):
    """Counts of groups, not all zero."""
    return st.lists(st.integers(0, most), min_size=groups, max_size=groups).filter(any)


@st.composite
def shares(draw, groups: int) -> list[float]:
    """Shares of groups, each at least .02, that sum to 1."""
    parts = draw(st.lists(st.floats(0.02, 1), min_size=groups, max_size=groups))
    return [part / sum(parts) for part in parts]
