"""Two cards on one page: what differs, attribute by attribute."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..method.methods import Method
from .chart import kl_words, percent
from .figures import Comparison, compare, difference, figures
from .prompt_chart import charts
from .words import brief, kl_or_nothing, number, people_of, sentence, share_words, spaced, target_words, unbroken


def facts(card: Mapping) -> list[tuple[str, str]]:
    """How it was measured: judge, plans and methods of the sets, the model's settings."""
    plans, methods = [], []
    for own in card["sets"]:
        of = f"{', '.join(spaced(a['name']) for a in own['attributes'])}: " if len(card["sets"]) > 1 else ""
        if own.get("plan"):
            plans.append(of + own["plan"])
        if own.get("method"):
            method = Method.from_dict(own["method"])
            methods.append(f"{of}direction {method.direction}, " + (
                "each image is steered to a randomly drawn group, or left alone" if method.spend == "draw" else
                "all images are steered in the same way"))
    found = [("classifier", card["classifier"]), ("plan", "; ".join(plans)), ("method", "; ".join(methods)),
             *((spaced(key), value) for key, value in card["setting"].items())]
    return [(key, str(value)) for key, value in found if value not in (None, "")]


def versus(a: Mapping, b: Mapping) -> dict:
    """What the page says of two cards together."""
    of_a, of_b = ({(f.attribute.name, f.attribute.names) for f in figures(card)} for card in (a, b))
    own = [dict(facts(card)) for card in (a, b)]
    unlike = [[key, own[0].get(key, ""), own[1].get(key, "")] for key in dict.fromkeys([*own[0], *own[1]])
              if own[0].get(key) != own[1].get(key)]
    return dict(parts=[compared(c) for c in compare(a, b)], unlike=unlike,
                classifiers=a["classifier"] != b["classifier"],
                alone=[(letter, ", ".join(spaced(name) for name, _ in sorted(own - other))) for letter, own, other in
                       (("A", of_a, of_b), ("B", of_b, of_a)) if own - other])


def compared(c: Comparison) -> dict:
    """One attribute of both cards."""
    f, name = c.first, spaced(c.first.attribute.name)
    only = [(letter, ", ".join(labels)) for letter, labels in zip("AB", c.only) if labels]
    if c.first.before is None or c.second.before is None:
        return dict(name=name, charts=None, only=only)
    k, n = f.largest, len(f.rows)
    same = np.allclose(f.attribute.target, c.second.attribute.target, atol=1e-6)
    ranked = sorted(c.pairs, key=lambda pair: -pair[0].was.shares[k])
    people = people_of(f.attribute, k)
    what = f"the same {n} prompts" if n > 1 else f'"{brief(f.rows[0].label)}"'
    heads = ["Figure", *(f"{letter}, {words}" for letter, own in zip("AB", (c.first, c.second))
                   for words, m in (("as it is", own.before), ("with its profile", own.after)) if m)]
    means = [m for own in (c.first, c.second) for m in (own.before, own.after) if m]
    rows = [[f"{sentence(people)}, mean", *(percent(m.shares[k]) for m in means)],
            ["Prompts within chance of the target", *(f"{m.within} of {m.verified}" for m in means)],
            ["Deviation ratio, median", *(number(m.deviation_median) for m in means)],
            ["Deviation ratio, mean", *(number(m.deviation_mean) for m in means)],
            ["KL divergence, mean", *(kl_or_nothing(m.kl_mean) for m in means)],
            ["... of a model on target, by chance", *(kl_or_nothing(m.kl_chance) for m in means)]]
    table = []
    for one, other in ranked:
        low, high = difference(one.was, other.was, k)
        table.append([one.prompt, share_words(one.was, k), share_words(other.was, k),
                      f"{100 * (other.was.shares[k] - one.was.shares[k]):+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]",
                      "no" if low <= 0 <= high else "yes", kl_words(one.before.kl), kl_words(other.before.kl)])
    return dict(
        name=name, only=only, same=same,
        targets=[unbroken(target_words(own.attribute)) for own in (c.first, c.second)],
        headline=unbroken(
            f"Asked for {what}, A shows {people} in "
            f"{percent(c.first.before.shares[k])} of the images, B in {percent(c.second.before.shares[k])}."),
        second=f"In {c.differ} of {n} prompts the two differ by more than chance explains; for two equal models, that "
               f"would be about {0.05 * n:.0f}." if n > 1 else
               f"Chance {'does not explain' if c.differ else 'explains'} the difference.",
        charts=charts(f.attribute, f.order, [(one.label, (one.was, other.was)) for one, other in ranked],
                       [("loud", "A, as it is"), ("after", "B, as it is")],
                       f"{name}, A beside B, by prompt", f.attribute.target if same else None, beside=True),
        means=(heads, rows), table=table,
        heads=["Prompt", f"A, {people}", f"B, {people}", "Difference in points", "More than chance?", "KL of A",
               "KL of B"])
