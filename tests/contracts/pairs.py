"""A covering array: few tests in which every pair of choices meets."""
from __future__ import annotations

from itertools import combinations, product


def pairs(case: tuple, row: tuple) -> set[tuple]:
    """What meets in a test: a host or a form of text with a choice, and two choices."""
    host, form, _ = case
    named = list(enumerate(row))
    return set(product((("host", host), ("form", form)), named)) | set(combinations(named, 2))


def covering(cases: list[tuple], choices: dict[str, tuple], rows: int) -> list[tuple]:
    """(case, row): so many rows of choices for each case, and further ones until every pair has met.

    Greedy: a row is the one with most pairs that have not met, the first of several in an order that turns by case.
    """
    every, met, found = list(product(*choices.values())), set(), []

    def take(case, turn):
        taken = [row for own, row in found if own == case]
        left = [row for row in every[turn % len(every):] + every[:turn % len(every)] if row not in taken]
        best = max(left, key=lambda row: len(pairs(case, row) - met))
        found.append((case, best))
        met.update(pairs(case, best))

    for number, case in enumerate(cases):
        for row in range(min(rows, len(every))):
            take(case, number * rows + row)
    for number, case in enumerate(cases):
        while any(pairs(case, row) - met for row in every):
            take(case, number)
    return sorted(found, key=lambda each: cases.index(each[0]))
