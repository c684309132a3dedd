"""A node's lasting panel, which web/debias.js shows: what the node said last, shares as bars, the report's link.

The page announces itself; only such pages are sent panels. Others get the host's own text, which newer frontends clear
when the run ends.
"""
from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence
from urllib.parse import quote

from ..core.attribute import GENDER
from ..core.calibration.plan import CUSTOM, HOW_SURE, estimate, planned
from ..core.errors import DebiasError
from ..core.calibration.labelled import Labelled
from ..core.study.outcome import LABELS as LABELS_FILE
from ..core.files import inside, safe_name, write_atomic
from ..core.method.methods import METHODS
from ..core.report.look import look_page, policy
from ..core.report.page import POLICY

EVENT, KEPT = "sd-debias.panel", "debias_panel"
PAGES, REPORT, LABELS, ESTIMATE = (f"/sd-debias/{name}" for name in ("pages", "report", "labels", "estimate"))
SHOWN = "debias panel"  # of a node's properties in a page's workflow: what its panel shows
MOST_PAGES = 100
MOST_BYTES = 1000  # of a page's announcement
_pages: dict[str, None] = {}  # client ids, in the order of their announcement


def send(server, node_id: str, text: str, warning: bool, shown: Mapping) -> bool:
    """Show a panel in the page whose prompt runs; False where that page has none.

    shown  `shares`, a list of `core.calibration.standing.Standing` as plain values; `done` and `total` images of what
           runs; `report`, the address of a page
    """
    if getattr(server, "client_id", None) not in _pages:
        return False
    server.send_sync(EVENT, dict(node=str(node_id), text=text, warning=warning, **shown), server.client_id)
    return True


def again(server, client: object, node: str, shown: Mapping) -> None:
    """Show in a page what one of its nodes said last: taken from the host's cache, it does not run again."""
    if server is not None and client in _pages:
        server.send_sync(EVENT, dict(node=node, **shown), client)


def kept(text: str, warning: bool = False, images=None, **shown) -> dict:
    """A node's output for its page, with the panel: where the node is not run again, the host sends it all the same.

    images  the host's own output for images, None where there are none
    """
    return {**(images.as_dict() if images else {}), KEPT: [dict(text=text, warning=warning, **shown)]}


def address(report: Path) -> str:
    """Of a report in a folder of output/debias."""
    return f"{REPORT}/{quote(report.parent.name, safe='')}/{quote(report.name, safe='')}"


def labels_page(node: str | None, title: str, labelled: Sequence[Labelled]) -> str:
    """Write a node's page of images and labels into ComfyUI's temporary folder; its address."""
    name = f"{safe_name(str(node or 'node').replace(':', '-'))}.html"
    write_atomic(labels_folder() / name, look_page(title, labelled, "paste it into the node's input 'corrections'"))
    return f"{LABELS}/{quote(name, safe='')}"


def labels_folder() -> Path:
    import folder_paths
    return Path(folder_paths.get_temp_directory()) / "debias"


def about(sure: str, prompts: int) -> str:
    """How many images a calibration to 50:50 takes. Raises DebiasError."""
    return estimate(planned(sure, METHODS["default"]), [GENDER], prompts)


def without_panels(queued: dict) -> dict:
    """A queued prompt whose workflow has no panels: the host writes it into images, which are no place for what nodes
    said of other runs."""
    def clean(graph: dict) -> None:
        for node in graph.get("nodes") or ():
            (node.get("properties") or {}).pop(SHOWN, None)
        for subgraph in (graph.get("definitions") or {}).get("subgraphs") or ():
            clean(subgraph)

    try:
        clean(queued["extra_data"]["extra_pnginfo"]["workflow"])
    except (KeyError, TypeError, AttributeError):  # one that no page queued, or that is none
        pass
    return queued


def register(server) -> None:
    """Called once, when the pack is loaded: what pages ask for."""
    from aiohttp import web

    from .report import folder

    @server.routes.post(PAGES)
    async def announce(request):
        length = MOST_BYTES if request.content_length is None else request.content_length
        if length >= MOST_BYTES:
            raise web.HTTPRequestEntityTooLarge(MOST_BYTES, length)
        try:
            data = await request.json()
        except ValueError:
            data = None
        client = data.get("client") if isinstance(data, dict) else None
        if isinstance(client, str) and 0 < len(client) < 100:
            _pages.pop(client, None)
            _pages[client] = None
            while len(_pages) > MOST_PAGES:
                _pages.pop(next(iter(_pages)))
        return web.json_response({})

    @server.routes.get(REPORT + "/{folder}/{file}")
    async def report(request):
        return served(request, folder(), "folder", "file")

    def served(request, root: Path, *parts: str):
        try:
            path = inside(root, root.joinpath(*(safe_name(request.match_info[part]) for part in parts)))
        except DebiasError:
            raise web.HTTPNotFound() from None
        if path.suffix != ".html" or not path.is_file():
            raise web.HTTPNotFound()
        rules = policy() if path.name == LABELS_FILE or path.parent == labels_folder() else POLICY
        return web.FileResponse(path, headers={"Content-Security-Policy": rules, "X-Content-Type-Options": "nosniff"})

    @server.routes.get(LABELS + "/{file}")
    async def labels(request):
        return served(request, labels_folder(), "file")

    @server.routes.get(ESTIMATE)
    async def estimated(request):
        sure, prompts = request.query.get("sure", ""), request.query.get("prompts", "1")
        number = int(prompts) if prompts.isdecimal() and len(prompts) < 5 else 0
        usual = sure in HOW_SURE.values and sure != CUSTOM and number
        return web.json_response(dict(text=about(sure, number) if usual else ""))
