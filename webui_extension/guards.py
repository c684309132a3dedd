"""Who may ask our routes: the host's users, no pages of other sites, and nobody with more than a request needs.

The host guards its own routes alone; ours stand beside them.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from secrets import compare_digest
from urllib.parse import urlsplit

LARGEST = 16 << 20  # bytes of a request; corrections of a large page have some 100 kB

Known = Mapping[str, str] | Callable[[str, str], bool]


def known_users(page: Known | None) -> Known | None:
    """Users with their passwords, or what tells whether a password is right; None where nobody needs one.

    page  the page's users, as Gradio has them; where --api-auth names others, those count. Without a page, users of
          --gradio-auth count all the same: whoever set a password wants one.
    """
    from modules import shared
    given = getattr(shared.cmd_opts, "api_auth", None)
    if given:
        return dict(pair.split(":", 1) for pair in given.split(","))
    if page is not None:
        return page
    try:
        from modules.initialize_util import get_gradio_auth_creds
    except ImportError:  # other hosts
        return None
    return dict(get_gradio_auth_creds()) or None


def right(known: Known, user: str, password: str) -> bool:
    """Is this a user's password?"""
    if callable(known):
        return bool(known(user, password))
    own = known.get(user)
    return own is not None and compare_digest(password.encode(), own.encode())


def logged_in(tokens: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
    """Does a browser's cookie say that its user has logged in on the page? By Gradio."""
    return any(tokens.get(value) for name, value in cookies.items() if name.startswith("access-token"))


def foreign(origin: str | None, host: str | None) -> bool:
    """Is a request made by a page of another site? Browsers say whose page it is, programs say nothing. Sites that the
    host's --cors-allow-origins names are none."""
    from modules import shared
    if origin is None:
        return False
    named = list(filter(None, (getattr(shared.cmd_opts, "cors_allow_origins", None) or "").split(",")))
    pattern = getattr(shared.cmd_opts, "cors_allow_origins_regex", None)
    if origin in named or "*" in named or pattern and re.fullmatch(pattern, origin):
        return False
    return _plain(urlsplit(origin).netloc) != _plain(host or "")


def _plain(place: str) -> str:
    return re.sub(r":(80|443)$", "", place.lower())


def at_most(receive: Callable, largest: int, refuse: Callable[[], Exception]) -> Callable:
    """An ASGI server's `receive` that raises what `refuse` gives once a body is larger."""
    read = 0

    async def limited() -> dict:
        nonlocal read
        message = await receive()
        read += len(message.get("body") or b"")
        if read > largest:
            raise refuse()
        return message

    return limited
