"""How a service is reached: no redirect is followed, and no answer grows larger than an honest one can be.

The official clients of all providers are handed this http client. What it gives them is a small response in
plain bytes, so that none of them follows, decodes or holds what a hostile server sent. It is a client and not
a transport because a client with a transport of its own heeds no proxy settings.
"""

import zlib
from typing import Any

import httpx2

LARGEST = 1_000_000  # bytes of one answer, as received and as decoded; an honest one has a few thousand
ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
# what is read of an answer's headers; no charset, since JSON is UTF-8 and a server can name any codec
KEPT = ("retry-after", "retry-after-ms")
LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


class RedirectError(Exception):
    """The service named another address. A key and a question that went there would be in other hands.

    `target` is that address without user, password and query; `setting` the variable that holds ours.
    """

    def __init__(self, status: int, target: str, setting: str) -> None:
        super().__init__(f"redirected to {target}")
        self.status, self.target, self.setting = status, target, setting


class UnreadableAnswerError(Exception):
    """An answer that is too large, or encoded as nothing that was asked for."""


class JudgeClient(httpx2.AsyncClient):
    """An http client for a judge.

    Args:
        setting: The environment variable of the service's address, for the advice after a redirect.
        timeout: Seconds without a byte; the whole of an answer is timed by who asks.

    Raises:
        RedirectError: the service answers with another address.
        UnreadableAnswerError: its answer is larger than LARGEST, or cannot be decoded.
    """

    def __init__(self, setting: str, timeout: float) -> None:
        super().__init__(timeout=timeout, limits=LIMITS)
        self._setting = setting

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read its whole answer, whatever the caller says of streams and redirects."""
        request.headers["accept-encoding"] = "gzip, deflate"
        options |= {"stream": True, "follow_redirects": False}
        response = await super().send(request, **options)
        self.cookies.clear()  # no judge needs them, and a server could set without end

        try:
            self._refuse_redirect(response)
            body = await _read(response)
        finally:
            await response.aclose()  # drops the connection, if there was more to read

        kept = {name: response.headers[name] for name in KEPT if name in response.headers}
        media_type = response.headers.get("content-type", "").partition(";")[0]
        headers = kept | {"content-type": media_type}
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    def _refuse_redirect(self, response: httpx2.Response) -> None:
        if 300 <= response.status_code < 400 and "location" in response.headers:
            target = _without_secrets(response.url, response.headers["location"])
            raise RedirectError(response.status_code, target, self._setting)


def _without_secrets(asked: httpx2.URL, location: str) -> str:
    try:
        url = asked.join(location)
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"
    except (httpx2.InvalidURL, ValueError):
        return "what is no web address"


async def _read(response: httpx2.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise UnreadableAnswerError(f"answer in an encoding that was not asked for: {encoding[:40]}")

    inflater = _Inflater() if encoding not in ("", "identity") else None
    body, received = bytearray(), 0
    async for chunk in response.aiter_raw():
        received += len(chunk)  # counted too: a packed stream can go on for ever and unpack to nothing
        body += inflater.inflate(chunk, LARGEST + 1 - len(body)) if inflater else chunk
        if max(received, len(body)) > LARGEST:
            raise UnreadableAnswerError(f"answer larger than {LARGEST // 1_000_000} MB")

    if inflater and received and not inflater.is_done:
        raise UnreadableAnswerError("answer cut off inside its compression")
    return bytes(body)


class _Inflater:
    """Undoes gzip or deflate piece by piece, and makes no more bytes than there is room for."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # knows the two by their headers

    @property
    def is_done(self) -> bool:
        return self._stream.eof

    def inflate(self, chunk: bytes, room: int) -> bytes:
        if self._stream.eof:
            return b""  # zlib would hold what comes after the end
        try:
            return self._stream.decompress(chunk, room)
        except zlib.error:
            raise UnreadableAnswerError("answer damaged inside its compression") from None
