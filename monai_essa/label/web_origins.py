# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which web pages may talk to the server: its own and those that its start named, no other in the same browser."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OriginGuard", "checked_origins"]

_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def checked_origins(origins: Collection[str]) -> tuple[str, ...]:
    """Return origins in the form in which browsers send them.

    Raises:
        ValueError: if one is none, such as ``*`` or an address with a path.

    Example:
        >>> checked_origins(["https://Label.example.org/"])
        ('https://label.example.org',)
    """
    cleaned = [origin.strip().rstrip("/").lower() for origin in origins]
    for origin in cleaned:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"origin {origin!r}: expected one such as https://label.example.org, without a path")
    return tuple(cleaned)


class OriginGuard:
    """Refuses, with status 403, what a browser sends on behalf of another web page.

    A page of another origin can send simple requests without asking first, and with a name of its own that leads to
    this computer it can ask as if it were the server's page. So the ``Origin`` has to be the server's own or a known
    one, a request without it must not be marked as cross-site, and the ``Host`` has to be an address, a name of the
    local network or one that is known. Clients that are no browsers send neither ``Origin`` nor such a mark.

    Args:
        app: what answers the other requests.
        origins: of the pages that may, as :func:`checked_origins` returns them.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        self.app = app
        self.origins = origins
        names = [urlsplit(origin).hostname or "" for origin in origins]
        self.names = {*names, socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        told = "start the server with --origin to allow it"
        if not self._is_local(host):
            return f"host {host!r} is not known: {told} (--origin http://{host})"
        if origin and origin not in self.origins and not _is_same(origin, host):
            return f"origin {origin!r} is another web page: {told} (--origin {origin})"
        if not origin and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            opened = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
            return None if opened else f"the request comes from another web page: {told}"
        return None

    def _is_local(self, host: str) -> bool:
        """Say whether the name in an address can be trusted to mean this server: no public name is, unless known."""
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".") if _is_authority(host) else None
        if name is None:
            return False
        return "." not in name.removesuffix(".localhost") or name in self.names or _is_address(name)


def _is_authority(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").port is not False and "/" not in host and "@" not in host
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    """Compare with the address of the request; behind a proxy that speaks TLS the schemes differ."""
    return origin.partition("://")[2] == host
