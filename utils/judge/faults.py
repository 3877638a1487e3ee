"""What can go wrong when a service is asked, in four kinds, whichever client reported it."""

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from traitscope.utils.errors import first_line
from traitscope.utils.judge.providers import BadReplyError, redact
from traitscope.utils.judge.transport import RedirectError, UnreadableAnswerError

Kind = Literal["transient", "unsupported", "rejected", "refused", "fatal"]
LONGEST_WAIT = 600.0  # seconds that a service may make us wait between two tries
NEVER_SENT = {"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionRefusedError", "gaierror"}


class Fault(Exception):
    """A question that got no answer, and what that means for the others."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        retry_after: float = 0.0,
        *,
        is_billed: bool = False,
        is_limit: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after
        self.is_billed = is_billed  # perhaps answered, though the answer was lost
        self.is_limit = is_limit  # we asked too fast: no fault of the question's


def read_fault(error: Exception) -> Fault:
    """Return what an error means that came while a client was asked.

    transient: ask again. unsupported: this model is not asked this way. rejected: this question, and only it,
    was turned down. refused: it was turned down for what it says. fatal: no question will be answered.

    What no client is known to raise, a defect of ours perhaps, is transient and says its type: one question
    goes without its answer, and the others get theirs.
    """
    try:
        return _read_own(error) or _read_status(error) or _read_lost(error)
    except Exception as unread:  # what its server sent can be too deeply nested to be put in words
        name = f"{type(error).__name__} that cannot be read ({type(unread).__name__})"
        return Fault("transient", name, is_billed=True)


def _read_own(error: Exception) -> Fault | None:
    """Return what our own http client refused: a client of a service may have put its own error around it."""
    for cause in _causes(error):
        if isinstance(cause, RedirectError):
            advice = f"set {cause.setting} to the final address, if you trust it"
            target = _one_line(cause.target)[:120]
            return Fault(
                "fatal", f"HTTP {cause.status}: redirected to {target}, which is not followed; {advice}"
            )
        if isinstance(cause, UnreadableAnswerError):
            return Fault("transient", _one_line(str(cause)), is_billed=True)
    return None


def _read_status(error: Exception) -> Fault | None:
    status = _status(error)
    if status is None:
        return None

    message = _in_words(error, f"HTTP {status}")
    wait = min(_retry_after(error), LONGEST_WAIT)
    return Fault(
        _kind_of(status, message.lower()),
        message,
        wait,
        is_billed=status < 400,
        is_limit=status in (429, 529),
    )


def _read_lost(error: Exception) -> Fault:
    name = "incomplete answer" if isinstance(error, BadReplyError) else type(error).__name__
    return Fault("transient", _in_words(error, name), is_billed=not _was_never_sent(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _was_never_sent(error: BaseException) -> bool:
    return any(type(cause).__name__ in NEVER_SENT for cause in _causes(error))


def _kind_of(status: int, message: str) -> Kind:
    if status in (400, 403, 422) and re.search(
        r"logprob|temperature|max_tokens|max_completion_tokens", message
    ):
        return "unsupported"  # the gpt-5 family answers 403 to a request for logprobs
    if status in (401, 402, 403, 404) or re.search(
        r"insufficient_quota|credit balance|api.key not valid|invalid.api.key|api_key_invalid", message
    ):
        return "fatal"
    if status in (408, 409, 425, 429) or status >= 500 or status < 400:
        return "transient"
    if re.search(r"content.?(filter|policy|management)|safety", message):
        return "refused"

    return "rejected"


def _status(error: Exception) -> int | None:
    found = getattr(error, "status_code", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else None


def _in_words(error: Exception, name: str) -> str:
    body: Any = getattr(error, "body", None) or getattr(error, "details", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    said = [
        str(inner[k])
        for k in ("code", "status", "type", "message")
        if isinstance(inner, dict) and inner.get(k)
    ] or [first_line(error)]

    # in this order: half a key is a key
    words = " ".join(dict.fromkeys(said))
    return _one_line(f"{name}: {words}" if words != name else name)[:300]


def _one_line(text: str) -> str:
    """Blank keys, and whatever a terminal would not show as it is."""
    return redact("".join(c if c.isprintable() else " " for c in text))


def _retry_after(error: Exception) -> float:
    """Return seconds that the service asks to wait: retry-after-ms, Retry-After (seconds or a date), or
    Google's RetryInfo.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    if milliseconds := _number(headers.get("retry-after-ms")):
        return milliseconds / 1000
    if (stated := headers.get("retry-after")) is not None:
        return _number(stated) or _until(stated)

    delays = re.findall(r"'retryDelay': '([\d.]+)s'", str(getattr(error, "details", "")))
    return _number(delays[0]) if delays else 0.0


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0
