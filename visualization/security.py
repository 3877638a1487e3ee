"""Who may talk to the server, and what a page that it serves may do."""

import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # plotly places its own labels by style attributes; no text of an experiment becomes markup
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",  # a plot becomes a PNG by way of an image of its SVG
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # files change while an experiment runs: always ask whether they did
}


MAX_BODY = 100_000  # bytes: a conversation


class Guard:
    """Refuses requests that another site makes, directly or under a name of its own that leads here (DNS
    rebinding).
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = ()) -> None:
        self.app, self.host, self.names = app, host, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if why := self.refusal(Headers(scope=scope)):
            await _refuse(why, scope, receive, send)
            return
        if too_large(Headers(scope=scope)):
            await PlainTextResponse(f"at most {MAX_BODY} bytes, and their number in Content-Length", 413)(
                scope, receive, _with_headers(send)
            )
            return

        await self.app(scope, receive, _with_headers(send))

    def refusal(self, headers: Headers) -> str:
        """Return why a request is refused, "" if it is not."""
        if len(headers.getlist("host")) != 1 or not self.knows(headers["host"]):
            return "this host name is not served; --allow-hosts adds names"

        origin = headers.get("origin")
        if origin is not None and (
            urlsplit(origin).scheme not in ("http", "https")
            or urlsplit(origin).netloc.lower() != headers["host"].lower()
        ):
            return "another site may not ask"
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "another site may not ask"

        return ""

    def knows(self, host_header: str) -> bool:
        """Tell whether a Host header names this server: this machine itself, the address it was bound to,
        or a name it was told.
        """
        name = host_name(host_header)
        if name in {"localhost", self.host.lower(), *self.names}:
            return True

        address, bound = _address(name), _address(self.host)
        if address is None:
            return False

        # a name can be pointed anywhere, an address cannot: it is safe to accept
        is_open = bound is not None and not bound.is_loopback
        return address.is_loopback or is_open


def too_large(headers: Headers) -> bool:
    """Tell whether a request's body is larger than any that is expected, or does not say how large it is."""
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdecimal() or int(length) > MAX_BODY


def host_name(host_header: str) -> str:
    """Return the name or address of a Host header, without port and brackets; "" for one that is
    malformed.
    """
    try:
        parts = urlsplit(f"//{host_header}")
        _ = parts.port  # raises where it is no number
        return (
            (parts.hostname or "").rstrip(".")
            if parts.netloc == host_header and "@" not in host_header
            else ""
        )
    except ValueError:
        return ""


def _address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    await PlainTextResponse(why, 403)(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_with
