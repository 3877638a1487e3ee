"""What can go wrong when a service is asked, in four kinds, whichever client reported it."""

import re
import time
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, Literal

from traitscope.utils.errors import first_line
from traitscope.utils.judge.providers import BadReplyError, redact

Kind = Literal["transient", "unsupported", "rejected", "refused", "fatal"]
# whose errors without a status are a lost connection
TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "openai", "anthropic", "google")
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


def read_fault(error: Exception) -> Fault | None:
    """Return what an error of a client means; None for one that is no failure of the service (a defect of
    ours).

    transient: ask again. unsupported: this model is not asked this way. rejected: this question, and only it,
    was turned down. refused: it was turned down for what it says. fatal: no question will be answered.
    """
    status = _status(error)
    if status is None:
        is_transport = (
            isinstance(error, OSError | TimeoutError | JSONDecodeError | BadReplyError)
            or type(error).__name__ == "ValidationError"
        )
        if not is_transport and type(error).__module__.split(".")[0] not in TRANSPORT:
            return None
        words = _in_words(
            error, "incomplete answer" if isinstance(error, BadReplyError) else type(error).__name__
        )
        return Fault("transient", words, is_billed=not _was_never_sent(error))

    message = _in_words(error, f"HTTP {status}")
    wait = min(_retry_after(error), LONGEST_WAIT)
    return Fault(
        _kind_of(status, message.lower()),
        message,
        wait,
        is_billed=status < 400,
        is_limit=status in (429, 529),
    )


def _was_never_sent(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ in NEVER_SENT:
            return True
        error = error.__cause__ or error.__context__
    return False


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
    return redact(f"{name}: {' '.join(dict.fromkeys(said))}".replace("\n", " "))[:300]


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
    return float(delays[0]) if delays else 0.0


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def _until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
