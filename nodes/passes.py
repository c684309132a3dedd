"""What a node that guides a model says of the passes that its model samples: one text, a line for each pass, technical
figures folded."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Iterable, Sequence

from .graph import making

if TYPE_CHECKING:
    from .messages import Record


@dataclass(frozen=True)
class Said:
    """One pass. sampler: its node, and all that makes it what it is."""
    sampler: tuple[str, str]
    title: str
    lines: Sequence[str]  # the first is the pass's own
    notes: Sequence[str]
    detail: str
    warning: bool


@dataclass
class Passes:
    """The passes of the last run, with those of earlier ones whose samplers are as they were and need not run again."""
    run: Record | None = None
    ran: set[str] = field(default_factory=set)
    said: list[Said] = field(default_factory=list)

    def add(self, run: Record | None, sampler: str, lines: Sequence[str], notes: Sequence[str], detail: str,
            warning: bool) -> None:
        """A pass, in the run of a prompt; None: the host does not tell runs apart, so that each is one."""
        if run is None or run is not self.run:
            self.run, self.ran = run, set()
            self.said = [] if run is None else still_there(self.said, run.prompt)
        if sampler not in self.ran:
            self.ran.add(sampler)
            self.said = [one for one in self.said if one.sampler[0] != sampler]
        node = {} if run is None else run.prompt.get(sampler, {})
        title = (node.get("_meta") or {}).get("title") or node.get("class_type") or ""
        made = (sampler, "") if run is None else making(run.prompt, sampler)
        self.said.append(Said(made, title, lines, notes, detail, warning))


def still_there(said: Iterable[Said], prompt: dict) -> list[Said]:
    """Those whose samplers a prompt holds as they were."""
    return [one for one in said if making(prompt, one.sampler[0]) == one.sampler]


def text_of(said: Sequence[Said]) -> str:
    """Each line once. Where several nodes sampled, each is named."""
    several = len({one.sampler[0] for one in said}) > 1
    heads = [f"{one.title}: {one.lines[0]}" if several else one.lines[0] for one in said]
    beyond = [line for one in said for line in one.lines[1:]]
    notes = [f"Warning: {note}" for one in said for note in one.notes]
    details = [one.detail for one in said if one.detail]
    return "\n".join(dict.fromkeys([*heads, *beyond, *notes, *(["Details:"] if details else []), *details]))
