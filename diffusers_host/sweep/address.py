"""The address of a server, and its login."""
from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ...core.errors import DebiasError, quoted


@dataclass(frozen=True)
class Address:
    """A server's address. Its password is never shown, and not part of its name.

    path  what comes before the paths of its API, where it is not at the root
    """
    scheme: str
    host: str
    port: int
    path: str = ""
    login: str | None = field(default=None, repr=False, compare=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"

    @property
    def headers(self) -> dict[str, str]:
        """What logs in, by HTTP's basic authentication."""
        if self.login is None:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"}


def address(text: str) -> Address:
    """"http://127.0.0.1:8188", "http://user:password@host:7860", "host:8188". Raises DebiasError."""
    shown = text.rpartition("@")[2]  # no part of a password
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or dict(http=80, https=443)[parts.scheme]
        if not parts.hostname or parts.query or parts.fragment or "@" in parts.path or not shown.isprintable():
            raise ValueError
        login = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        if login is not None:
            login.encode()
    except (ValueError, KeyError):
        raise DebiasError("Expected a server's address, such as http://127.0.0.1:8188 or "
                          f"http://user:password@host:7860, got {quoted(shown)}.") from None
    return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), login)
