"""A method: which direction, how its weights are spent, by which rule they are solved; the usual ones have names."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from .direction import ALONE, DIRECTIONS, IN_CONTEXT
from .guidance import PRESETS, SafeLatentGuidance

RULES = ("log", "additive", "multiplicative", "policy_gradient")
SPENDS = ("draw", "shift")
# At most a fifth more time. On the demo model it keeps four fifths of the push on gender, half of that on skin tones:
# benchmarks/windows.py measures which steps decide, benchmarks/peers.py what a calibration makes of it.
EARLY = SafeLatentGuidance(end=0.35)
AS_CALIBRATED = "as calibrated"  # what hosts call the direction that a profile was found with


@dataclass(frozen=True)
class Method:
    """How an attribute is balanced.

    direction  `prompt` (no extra model evaluation), `embedding` (one a step, the paper's; without classifier-free
               guidance one in two steps) or `prediction` (one a group)
    context    where a group's text stands: IN_CONTEXT, behind the prompt, or ALONE
    spend      `draw`: each image is sent toward a drawn group or left alone; `shift`: all get the same weights
    rule       how `shift` weights are solved; `draw` has one way, its measured outcome matrix
    guidance   the SLD rule's settings; without effect on the `prompt` direction, which has no SLD step
    """
    direction: str = "prompt"
    context: str = IN_CONTEXT
    spend: str = "draw"
    rule: str = "log"
    guidance: SafeLatentGuidance = field(default_factory=SafeLatentGuidance)

    def __post_init__(self):
        for name, value, known in (("direction", self.direction, DIRECTIONS), ("spend", self.spend, SPENDS),
                                   ("rule", self.rule, RULES)):
            if value not in known:
                raise ValueError(f"Expected {name} to be one of {', '.join(known)}, but '{value}' came.")
        if "{group}" not in self.context:
            raise ValueError(f"A context must contain '{{group}}', e.g. '{IN_CONTEXT}', but '{self.context}' came.")

    @property
    def unit(self) -> float:
        """Weight at which a push is felt: a group's text in the prompt's context is obeyed at 1, alone at about 4."""
        return 1.0 if "{prompt}" in self.context else 4.0

    def adjusted(self, direction: str = AS_CALIBRATED, start: float = 0.0, end: float = 1.0) -> Method:
        """With another direction, and the window narrowed to start and end, shares of the schedule. Raises ValueError.
        """
        if not 0 <= start <= end <= 1:
            raise ValueError(f"start and end are shares of the schedule with 0 <= start <= end <= 1, but {start:g} and "
                             f"{end:g} came.")
        method = self if direction == AS_CALIBRATED else replace(self, direction=direction)
        window = method.guidance
        start = max(start, window.start)
        return replace(method, guidance=replace(window, start=start, end=max(min(end, window.end), start)))

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Method:
        """Read the JSON form. Raises ValueError."""
        try:
            return cls(**{**data, "guidance": SafeLatentGuidance(**data.get("guidance", {}))})
        except TypeError as error:
            raise ValueError(f"A method has direction, context, spend, rule and guidance, but {data!r:.200} came "
                             f"({error}).") from error


METHODS = {
    "default": Method(),
    "shift": Method(spend="shift"),
    # What He et al. 2024 state: weights on the groups' own embeddings, guidance by SLD. The update rule is not public.
    "paper": Method("embedding", ALONE, "shift", "additive", PRESETS["medium"]),
}


def named(name: str = "default", **changes: str | None) -> Method:
    """A method of `METHODS` with another direction, spend or rule, where one is given. Raises ValueError.

    A direction that costs model evaluations, in place of one that does not, pushes in the early steps alone.
    """
    if name not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}, but '{name}' came.")
    method = replace(METHODS[name], **{key: value for key, value in changes.items() if value})
    if method.direction == METHODS[name].direction:
        return method
    if method.direction == "prompt":
        return replace(method, guidance=SafeLatentGuidance())
    return replace(method, guidance=EARLY) if METHODS[name].direction == "prompt" else method
