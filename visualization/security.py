"""Who may talk to the server, and what a page that it serves may do."""

import ipaddress
import re
import secrets
from collections.abc import Collection
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
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
CHAT = re.compile(r"/api/experiments/[^/]*/chat(/|$)")
COOKIE = "traitscope_token"


class Guard:
    """Refuses requests that another site makes, directly or under a name of its own that leads here (DNS
    rebinding); and, where there is a token, what does more than read for whoever does not show it.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = (), token: str = "") -> None:
        self.app, self.host, self.names, self.token = app, host, frozenset(names), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif why := self.refusal(Headers(scope=scope)):
            await _refuse(why, scope, receive, send)
        else:
            answer = self.answer(scope) or self.app
            await answer(scope, receive, _with_headers(send))

    def answer(self, scope: Scope) -> Response | None:
        """Return what a request is answered with before it comes to the application, if at all."""
        if scope["type"] == "websocket":
            return None

        request = HTTPConnection(scope)
        if too_large(request.headers):
            return PlainTextResponse(f"at most {MAX_BODY} bytes, and their number in Content-Length", 413)
        if self.token and scope["path"] == "/" and "token" in request.query_params:
            return self.welcome(request.query_params["token"])
        if self.token and needs_token(scope) and not self.is_shown(request):
            said = {"detail": "this needs the token; open the link that visualization/serve.py printed"}
            return JSONResponse(said, 401, {"WWW-Authenticate": "Bearer"})
        return None

    def welcome(self, token: str) -> Response:
        """Return the answer to the printed link: the token becomes a cookie, and leaves the address."""
        if not self.is_right(token.encode()):
            return PlainTextResponse("this is not the token of this dashboard", 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, quote(self.token, safe=""), httponly=True, samesite="strict")
        return answer

    def is_shown(self, request: HTTPConnection) -> bool:
        """Tell whether a request shows the token: by the page's cookie, or as Authorization: Bearer."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        shown = [unquote_to_bytes(request.cookies.get(COOKIE, "").encode("latin-1", "replace"))]
        shown += [value.strip().encode("latin-1")] if scheme.lower() == "bearer" else []
        return any(self.is_right(token) for token in shown)

    def is_right(self, token: bytes) -> bool:
        """Compare with the token, in a time that tells nothing of it."""
        return secrets.compare_digest(token, self.token.encode())

    def refusal(self, headers: Headers) -> str:
        """Return why a request is refused, "" if it is not."""
        if len(headers.getlist("host")) != 1 or not self.knows(headers["host"]):
            return "this host name is not served; --allow-hosts adds names"

        origin = headers.get("origin")
        if origin is not None and origin.lower() not in _origins(headers["host"]):
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
        return address.is_loopback or (bound is not None and not bound.is_loopback)


def needs_token(scope: Scope) -> bool:
    """Tell a request that does more than read files: a chat loads a model and costs time."""
    return scope["method"] not in ("GET", "HEAD") or CHAT.match(scope["path"]) is not None


def is_open(host: str) -> bool:
    """Tell whether a server that is bound to an address can be reached from other machines."""
    address = _address(host)
    return host.lower() != "localhost" and (address is None or not address.is_loopback)


def _origins(host_header: str) -> tuple[str, ...]:
    return tuple(f"{scheme}://{host_header.lower()}" for scheme in ("http", "https"))


def too_large(headers: Headers) -> bool:
    """Tell whether a request's body is larger than any that is expected, or does not say how large it is."""
    length = headers.get("content-length", "0")
    is_number = length.isdecimal() and len(length) < 20
    return "transfer-encoding" in headers or not is_number or int(length) > MAX_BODY


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
