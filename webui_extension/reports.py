"""The addresses of reports, which the page links to; behind the page's own login."""
from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from ..core.study.outcome import LABELS
from ..core.errors import DebiasError, quoted
from ..core.files import inside, safe_name
from ..core.report.look import policy
from ..core.report.page import POLICY
from . import calibrating, profiles


def register(app: FastAPI) -> None:
    """Add the addresses to the page; an API alone has no page and gets none."""
    def read_report(name: str, request: Request) -> RedirectResponse:
        """A profile's report: its address ends in a file's name, so that the page beside it is found."""
        return RedirectResponse(f"{quote(name, safe='')}/report.html")

    def read_page(name: str, file: str, request: Request) -> HTMLResponse:
        """A profile's report, or the page of images and labels beside it."""
        if app.auth is not None and not logged_in(app.tokens, request.cookies):
            raise HTTPException(401, "Log in on the page first.")
        try:
            if file not in ("report.html", LABELS):
                raise DebiasError("No such page.")
            folder = profiles.save_folder() / "reports"
            content = inside(folder, folder / safe_name(name) / file).read_text("utf-8")
        except (DebiasError, OSError) as error:
            raise HTTPException(404, f"There is no report {quoted(name)}.") from error
        return HTMLResponse(content, headers={"Content-Security-Policy": policy() if file == LABELS else POLICY,
                                              "X-Content-Type-Options": "nosniff"})

    if hasattr(app, "auth"):
        for path, read in (("{name}", read_report), ("{name}/{file}", read_page)):
            app.add_api_route(calibrating.REPORT + path, read, methods=["GET"], include_in_schema=False)


def logged_in(tokens: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
    """Does a browser's cookie say that its user has logged in on the page? By Gradio."""
    return any(tokens.get(value) for name, value in cookies.items() if name.startswith("access-token"))
