"""A method: which direction, how its weights are spent, by which rule they are solved; the usual ones have names."""
from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..errors import DebiasError, quoted
from .safe_latent import SafeLatentGuidance

DIRECTIONS = ("prompt", "embedding")
IN_CONTEXT = "{prompt}, {group}"
ALONE = "{group}"
RULES = ("log", "policy_gradient")
OWN = "own:"  # begins the names of solvers that users register (core/calibration/solver)
OWN_RULE = r"own:[A-Za-z0-9_.-]{1,60}"
SPENDS = ("draw", "shift")
# After a warm-up, as SLD has one, and at most a fifth more time: benchmarks/windows.py measures which steps decide, and
# that a text evaluated toward is obeyed there where one on the other side is not (docs/windows.md).
TOWARD = SafeLatentGuidance(start=0.25, end=0.55, anchor="prompt", toward=True)
AS_CALIBRATED = "as calibrated"  # what hosts call the direction that a profile was found with


@dataclass(frozen=True)
class Method:
    """The settings of how an attribute is balanced.

    direction  `prompt` (no extra model evaluation) or `embedding` (the paper's, one per step; without classifier-free
               guidance one in every second step)
    context    where a group's text stands: IN_CONTEXT, behind the prompt, or ALONE
    spend      `draw`: each image is steered to a drawn group or left alone; `shift`: all get the same weights
    rule       how the weights of `shift` are solved; `draw` has only one way and stores "log" here. Both accept
               "own:NAME", a registered solver
    guidance   the SLD rule's settings; `prompt` has no SLD step and takes the window alone, outside of which the
               prompt's own text is evaluated. Raises DebiasError for others there (scale 0, which is off, aside)
    """
    direction: str = "prompt"
    context: str = IN_CONTEXT
    spend: str = "draw"
    rule: str = "log"
    guidance: SafeLatentGuidance = field(default_factory=SafeLatentGuidance)

    def __post_init__(self) -> None:
        own = (self.rule,) if re.fullmatch(OWN_RULE, str(self.rule)) else ()
        for name, value, known in (("direction", self.direction, DIRECTIONS), ("spend", self.spend, SPENDS),
                                   ("rule", self.rule, RULES + own)):
            if value not in known:
                raise DebiasError(f"Expected {name} to be one of {', '.join(known)}, got {quoted(value)}.")
        if "{group}" not in self.context:
            raise DebiasError(f"Expected a context with '{{group}}', e.g. '{IN_CONTEXT}', got {quoted(self.context)}.")
        if self.spend == "draw" and self.rule != "log" and not own:
            raise _no_rule(self.rule)
        if self.direction == "prompt" and self.guidance.scale and self.guidance != self.guidance.window:
            raise DebiasError("Expected only start and end among the guidance settings of the direction 'prompt', "
                              f"which has no SLD step, got {self.guidance}. Leave the others out, or use 'embedding'.")

    @property
    def unit(self) -> float:
        """Weight at which a push takes full effect: 1 for a group's text in the prompt's context, and for one that is
        evaluated toward where it leads; about 4 for a text alone that is evaluated on the other side."""
        return 1.0 if "{prompt}" in self.context or self.guidance.toward else 4.0

    def adjusted(self, direction: str = AS_CALIBRATED, start: float = 0.0, end: float = 1.0) -> Method:
        """The method with another direction, and with its window narrowed to start and end (shares of the schedule).
        A change to `prompt` drops the window of `embedding`. Raises DebiasError.
        """
        if not 0 <= start <= end <= 1:
            raise DebiasError("Expected start and end as shares of the schedule with 0 <= start <= end <= 1, got "
                              f"{start:g} and {end:g}.")
        direction = self.direction if direction == AS_CALIBRATED else direction
        dropped = direction == "prompt" != self.direction
        method = replace(self, direction=direction, guidance=SafeLatentGuidance() if dropped else self.guidance)
        window = method.guidance
        start = max(start, window.start)
        return replace(method, guidance=replace(window, start=start, end=max(min(end, window.end), start)))

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Method:
        """Read the JSON form; fields that this version does not know are left out. Raises DebiasError."""
        from ..schema import METHOD, check  # which lists the names above
        check(data, METHOD, "This method")
        given = {f.name: data[f.name] for f in fields(cls) if f.name in data and f.name != "guidance"}
        known = data.get("guidance") or {}
        guidance = SafeLatentGuidance(**{f.name: known[f.name] for f in fields(SafeLatentGuidance) if f.name in known})
        return cls(**given, guidance=guidance)


METHODS = {
    "default": Method(),
    "shift": Method(spend="shift"),
    # What He et al. 2024 state: weights on the groups' own embeddings, one unsafe direction inside sampling, IDA. Its
    # SLD settings and update rule are not known to us; these are ours, chosen by measurement (docs/paper.md).
    "paper": Method("embedding", ALONE, "shift", "log", replace(TOWARD, linear=True, length=0.5)),
}


@dataclass(frozen=True)
class Choice:
    """One of a method's choices, as a host asks for it: what can be chosen, a few words beside the field, and what a
    person needs to choose."""
    values: tuple[str, ...]
    label: str
    help: str


AS_METHOD = "as the method says"  # what hosts offer beside the values of all but the method itself
CHOICES = {
    "method": Choice(tuple(METHODS), "Method", (
        "default: each image is steered to a randomly drawn group, or left alone; no extra evaluations. shift: all "
        "images get the same shift. paper: the method of He et al. 2024, with an SLD direction.")),
    "direction": Choice(DIRECTIONS, "Direction", (
        "How the weights steer. prompt: no extra evaluations. embedding: one extra evaluation per step, only from "
        f"{100 * TOWARD.start:.0f} % to {100 * TOWARD.end:.0f} % of the steps, unless the method sets another "
        "window.")),
    "spend": Choice(SPENDS, "Spending", (
        "draw: each image is steered to a randomly drawn group, or left alone. shift: all images get the same "
        "weights.")),
    "rule": Choice(RULES, "Rule", (
        "How the methods 'shift' and 'paper' correct their weights from round to round. The method 'default' uses no "
        "rule.")),
}


def chosen(method: str = "default", **choices: str | None) -> Method:
    """A method as a form gives it: `named`, where `AS_METHOD` changes nothing. Raises DebiasError."""
    return named(method, **{name: value for name, value in choices.items() if value != AS_METHOD})


def named(name: str = "default", **changes: str | None) -> Method:
    """A method of `METHODS`, optionally with another direction, spend or rule. Raises DebiasError for a rule
    together with a draw, which uses none.

    If a direction with extra model evaluations replaces one without, it acts only in the middle steps.
    """
    if name not in METHODS:
        raise DebiasError(f"Expected method to be one of {', '.join(METHODS)}, got {quoted(name)}.")
    given: dict[str, Any] = {key: value for key, value in changes.items() if value}
    if given.get("spend", METHODS[name].spend) == "draw":
        if "rule" in given and not given["rule"].startswith(OWN):
            raise _no_rule(given["rule"])
        given.setdefault("rule", "log")
    usual = METHODS[name]
    if given.get("direction", usual.direction) != usual.direction:
        given["guidance"] = TOWARD if given["direction"] == "embedding" else SafeLatentGuidance()
    return replace(usual, **given)


def _no_rule(rule: str) -> DebiasError:
    return DebiasError(f"The rule {quoted(rule)} solves the weights of a method that shifts, but this one draws a "
                       "group for each image and has no use for a rule. Choose the method 'shift' or 'paper', or "
                       "leave the rule out.")
