"""The prompts of a sweep: a suite that comes with the package, or a file."""
from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import DebiasError, quoted, short
from ...core.files import read_text
from ...core.profile.file import same_prompt

SUITES = Path(__file__).with_name("suites")
COLUMNS = ("prompt", "subject", "template", "targets", "states")
TEMPLATE = "a photo of a {subject}"
MOST_PROMPTS = 10_000  # as many entries a profile may have


@dataclass(frozen=True)
class Row:
    """One prompt of a sweep.

    subject  the words of it that a longer prompt is known by; None: derived from the prompt
    targets  its own target shares by attribute, as texts that `attribute.target_of` reads
    states   groups that the prompt itself states, by attribute: it is audited, to see whether the model obeys
    """
    prompt: str
    subject: str | None = None
    targets: tuple[tuple[str, str], ...] = ()
    states: tuple[tuple[str, str], ...] = ()


def suites() -> dict[str, dict]:
    """The suites that ship with the package: title, source, licence, number of prompts, and a note, by name."""
    return json.loads((SUITES / "sources.json").read_text("utf-8"))


def read_prompts(source: str, template: str | None = None) -> list[Row]:
    """Prompts of a suite, or of a file: one prompt a line, or a CSV with a header line of `prompt`, or of `subject`
    and `template`, and, where wanted, `targets` ("gender = 70:30") and `states` ("gender = woman"), each several with
    ";" between them. `template` is used where a row has none, and holds {subject}.

    Raises DebiasError for a file that is neither, prompts that come twice, and more than 10,000 of them.
    """
    known = suites()
    path = SUITES / f"{source}.csv" if source in known else Path(source)
    if source not in known and not path.exists():
        raise DebiasError(f"No prompt file or suite is called {quoted(source)}. Suites: "
                          f"{', '.join(known)}.")
    if source in known and template:
        raise DebiasError(f"--template does nothing with the suite {quoted(source)}, which has its own. Leave it out.")
    text = read_text(path)
    head = next(iter(_cells(text.splitlines()[0] if text.strip() else "", path.name)), [])
    columns = [name.strip().casefold() for name in head]
    if {"prompt", "subject"} & set(columns) and all(name in COLUMNS for name in columns):
        rows = _table(text, columns, template, path.name)
    else:
        rows = [_listed(line, template) for line in map(str.strip, text.splitlines())
                if line and not line.startswith("#")]
    if not rows:
        raise DebiasError(f"{quoted(source)} holds no prompt. Write one prompt per line.")
    if len(rows) > MOST_PROMPTS:
        raise DebiasError(f"Expected at most {MOST_PROMPTS:,} prompts for a sweep, got {len(rows):,}. Split the file, "
                          "and sweep each part into a folder of its own.")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        first = seen.setdefault(same_prompt(row.prompt), number)
        if first != number:
            raise DebiasError(f"Expected different prompts, got {quoted(row.prompt)} twice, as number {first} and "
                              f"number {number}. Give each one once.")
    return rows


def _listed(line: str, template: str | None) -> Row:
    return Row(_filled(template, line), line) if template else Row(line)


def _table(text: str, columns: list[str], template: str | None, name: str) -> list[Row]:
    rows = []
    for number, cells in enumerate(_cells(text, name)[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(columns):
            raise DebiasError(f"Line {number} of {quoted(name)} has {len(cells)} cells, but the header names "
                              f"{len(columns)} ({', '.join(columns)}). Put texts that contain a comma into quotes.")
        row = {column: cell.strip() for column, cell in zip(columns, cells)}
        subject, prompt = row.get("subject") or None, row.get("prompt")
        if not prompt and not subject:
            raise DebiasError(f"Line {number} of {quoted(name)} has neither a prompt nor a subject. Add one.")
        prompt = prompt or _filled(row.get("template") or template or TEMPLATE, subject or "")
        rows.append(Row(prompt, subject, _pairs(row.get("targets", ""), "targets", number),
                        _pairs(row.get("states", ""), "states", number)))
    return rows


def _cells(text: str, name: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline=None)))
    except csv.Error as error:
        raise DebiasError(f"{quoted(name)} is not a table of comma-separated values ({error}). Save it again as CSV "
                          "in UTF-8, or as a text with one prompt per line.") from error


def _filled(template: str, subject: str) -> str:
    if "{subject}" not in template:
        raise DebiasError(f"Expected a template with {{subject}}, e.g. {quoted(TEMPLATE)}, got {quoted(template)}.")
    return template.replace("{subject}", subject)


def _pairs(text: str, column: str, line: int) -> tuple[tuple[str, str], ...]:
    found = []
    for part in filter(str.strip, text.split(";")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise DebiasError(f"Expected {column} as 'gender = ...', several with ';' between them, but line {line} "
                              f"says {short(text)}.")
        found.append((name, value))
    return tuple(found)
