"""The page of images and labels: what a judge said of each image, to be looked at and corrected by hand."""
from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..calibration.labelled import FORM, Labelled
from .chart import DARK, LIGHT

MOST_SHOWN = 1500  # images of a page: some 10 MB


@lru_cache(maxsize=1)
def _script() -> str:
    return Path(__file__).with_name("look.js").read_text("utf-8")


@lru_cache(maxsize=1)
def _digest() -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def policy() -> str:
    """Where a host serves the page: it runs this one script in a sandbox of its own, and asks for nothing."""
    return (f"sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src '{_digest()}'")


def look_page(title: str, found: Sequence[Labelled], back: str = "sd-debias audit --corrections FILE") -> str:
    """Images with their labels as one HTML page. `back`: how a user passes corrections to this host."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_name("look.html").read_text("utf-8"))
    shares = max(MOST_SHOWN // max(len(found), 1), 1)
    data = json.dumps(dict(form=FORM, sections=[_section(labelled, shares) for labelled in found]), allow_nan=False)
    return template.render(
        title=title, back=back, light=LIGHT, dark=DARK, digest=_digest(), script=Markup(_script()),
        variables=lambda palette: Markup("".join(f"--{name}:{color};" for name, color in palette.items())),
        data=Markup(data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")))


def _section(labelled: Labelled, most: int) -> dict:
    shown = [at for at, key in enumerate(labelled.keys) if key in labelled.thumbs][:most]
    hidden = sorted(set(range(len(labelled.keys))) - set(shown))
    attributes = labelled.attributes
    return dict(
        title=labelled.title, run=labelled.run, people=bool(labelled.round.people),
        attributes=[dict(name=a.name, groups=list(a.names), target=list(a.target)) for a in attributes],
        items=[dict(key=labelled.keys[at], src="data:image/jpeg;base64," + base64.b64encode(
            labelled.thumbs[labelled.keys[at]]).decode(),
            faces=labelled.round.faces[at] if labelled.round.faces else None,
            labels=[labelled.labels(i, at) for i in range(len(attributes))]) for at in shown],
        hidden=len(hidden), rest=[[_counts(labelled.labels(i, at), len(a.groups)) for at in hidden]
                                  for i, a in enumerate(attributes)])


def _counts(labels: Sequence[int], groups: int) -> list[int]:
    return [sum(label == group for label in labels) for group in range(groups)]
