"""The services that can judge. A provider is one function: it opens the official client and yields how to
ask it one question.
"""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from traitscope.utils.errors import UserError, first_line

TOP = 20  # candidate first tokens asked for
LARGEST_LOGPROB = 1e-3  # of a probability; what is above 0 was rounded
TEXT_TOKENS = 2048  # room for a model that thinks before it answers; it is asked for one number


@dataclass(frozen=True)
class Want:
    """How a model is asked: `logprobs` reads the candidates for its first token, `text` what it writes."""

    mode: str
    temperature: float | None = None  # None: the model's own default, for models that take no other

    @property
    def max_tokens(self) -> int:
        return 1 if self.mode == "logprobs" else TEXT_TOKENS


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    text: str
    candidates: tuple[tuple[str, float], ...] | None = None  # (token, log-probability) of the first token
    is_refused: bool = False  # the service itself says so
    is_cut: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


class BadReplyError(Exception):
    """An answer that lacks what it must hold: asked again, like a lost one."""


@contextmanager
def reading() -> Iterator[None]:
    """Read an answer of a server that may be of any shape."""
    try:
        yield
    except (AttributeError, TypeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
        raise BadReplyError(f"it is not shaped as expected ({type(error).__name__})") from None


Ask = Callable[[Sequence[dict[str, str]], Want], Awaitable[Reply]]


@dataclass(frozen=True)
class Provider:
    """A service, and what must be known of it before it is asked."""

    connect: Callable[[str, float], AbstractAsyncContextManager[Ask]]
    default_model: str
    keys: tuple[str, ...]  # environment variables that may hold the key, the one that wins first
    server: str  # environment variable of another base URL
    wants: tuple[Want, ...]  # ways to ask, the best first


@asynccontextmanager
async def openai(model: str, timeout: float) -> AsyncIterator[Ask]:
    """Ask OpenAI, or any server that speaks its protocol (OPENAI_BASE_URL)."""
    from openai import AsyncOpenAI

    from traitscope.utils.judge.transport import JudgeClient

    async with AsyncOpenAI(
        api_key=key_of_provider("openai") or "none",
        base_url=stated_server("openai"),
        timeout=timeout,
        max_retries=0,
        http_client=JudgeClient("OPENAI_BASE_URL", timeout),
    ) as client:

        async def ask(messages: Sequence[dict[str, str]], want: Want) -> Reply:
            # reasoning models take no temperature and refuse max_tokens; many servers of others know nothing
            # else
            is_plain = bool(os.environ.get("OPENAI_BASE_URL")) and want.temperature is not None
            options: dict[str, Any] = {"max_tokens" if is_plain else "max_completion_tokens": want.max_tokens}
            turns: Any = list(messages)

            if want.mode == "logprobs":
                options |= {"logprobs": True, "top_logprobs": TOP}
            if want.temperature is not None:
                options["temperature"] = want.temperature
            answer = await client.chat.completions.create(model=model, messages=turns, **options)
            with reading():
                return _read_openai(answer)

        yield ask


def _read_openai(answer: Any) -> Reply:
    choice, usage = answer.choices[0], answer.usage
    listed = choice.logprobs.content if choice.logprobs else None
    candidates = _known((c.token, c.logprob) for c in listed[0].top_logprobs) if listed else None
    refused = bool(getattr(choice.message, "refusal", None)) or choice.finish_reason == "content_filter"
    tokens = (_count(usage.prompt_tokens), _count(usage.completion_tokens)) if usage else (0, 0)
    return Reply(
        _words(choice.message.content), candidates, refused, choice.finish_reason == "length", *tokens
    )


def _known(candidates: Iterable[tuple[str | None, float | None]]) -> tuple[tuple[str, float], ...]:
    """Leave out what is no token with a log-probability."""
    pairs = (
        (t, p)
        for t, p in candidates
        if isinstance(t, str) and isinstance(p, int | float) and p <= LARGEST_LOGPROB
    )
    return tuple((token, float(logprob)) for token, logprob in pairs)


def _words(content: Any) -> str:
    """Return an answer's text; some servers send it in parts."""
    if isinstance(content, list):
        content = "".join(part.get("text", "") if isinstance(part, dict) else part.text for part in content)
    if not isinstance(content, str | None):
        raise TypeError("no text")
    return content or ""


def _count(tokens: Any) -> int:
    return max(0, int(tokens or 0))  # fewer than none would pay money back


@asynccontextmanager
async def anthropic(model: str, timeout: float) -> AsyncIterator[Ask]:
    """Ask Anthropic: text only, the service gives no log-probabilities."""
    from anthropic import AsyncAnthropic

    from traitscope.utils.judge.transport import JudgeClient

    async with AsyncAnthropic(
        api_key=key_of_provider("anthropic"),
        base_url=stated_server("anthropic"),
        timeout=timeout,
        max_retries=0,
        http_client=JudgeClient("ANTHROPIC_BASE_URL", timeout),
    ) as client:

        async def ask(messages: Sequence[dict[str, str]], want: Want) -> Reply:
            system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
            options: dict[str, Any] = {"system": system} if system else {}
            turns: Any = [m for m in messages if m["role"] != "system"]
            answer = await client.messages.create(
                model=model, messages=turns, max_tokens=want.max_tokens, **options
            )
            with reading():
                return _read_anthropic(answer)

        yield ask


def _read_anthropic(answer: Any) -> Reply:
    text = "".join(_words(block.text) for block in answer.content if block.type == "text")
    usage = answer.usage
    tokens = (_count(usage.input_tokens), _count(usage.output_tokens)) if usage else (0, 0)
    return Reply(text, None, answer.stop_reason == "refusal", answer.stop_reason == "max_tokens", *tokens)


@asynccontextmanager
async def gemini(model: str, timeout: float) -> AsyncIterator[Ask]:
    """Ask Gemini, with log-probabilities where the model gives them."""
    from google import genai
    from google.genai import types

    from traitscope.utils.judge.transport import JudgeClient

    http = JudgeClient("GOOGLE_GEMINI_BASE_URL", timeout)  # with one of ours, it does not take aiohttp
    options = types.HttpOptions(
        timeout=int(1000 * timeout), retry_options=types.HttpRetryOptions(attempts=1), httpx_async_client=http
    )
    client = genai.Client(api_key=key_of_provider("gemini"), vertexai=False, http_options=options)

    async def ask(messages: Sequence[dict[str, str]], want: Want) -> Reply:
        config = types.GenerateContentConfig(max_output_tokens=want.max_tokens, temperature=want.temperature)
        if system := "\n\n".join(m["content"] for m in messages if m["role"] == "system"):
            config.system_instruction = system
        if want.mode == "logprobs":
            config.response_logprobs, config.logprobs = True, TOP
        turns = [
            types.Content(role="user", parts=[types.Part(text=m["content"])])
            for m in messages
            if m["role"] != "system"
        ]

        with reading():  # this client reads some of the answer itself
            return _read_gemini(
                await client.aio.models.generate_content(model=model, contents=turns, config=config)
            )

    try:
        yield ask
    finally:
        await client.aio.aclose()
        await http.aclose()


def _read_gemini(answer: Any) -> Reply:
    usage = answer.usage_metadata
    tokens_in = _count(usage.prompt_token_count) if usage else 0
    tokens_out = _count(usage.candidates_token_count) + _count(usage.thoughts_token_count) if usage else 0
    if not answer.candidates:
        if answer.prompt_feedback and answer.prompt_feedback.block_reason:
            return Reply("", is_refused=True, tokens_in=tokens_in)
        raise BadReplyError("the answer holds no candidates")

    first = answer.candidates[0]
    reason = first.finish_reason.name if first.finish_reason else ""
    text = (
        "".join(part.text or "" for part in (first.content.parts or []) if not part.thought)
        if first.content
        else ""
    )
    listed = first.logprobs_result.top_candidates if first.logprobs_result else None
    candidates = _known((c.token, c.log_probability) for c in listed[0].candidates or []) if listed else None
    refused = reason in ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION")
    return Reply(text, candidates, refused, reason == "MAX_TOKENS", tokens_in, tokens_out)


_EITHER = (Want("logprobs", 0.0), Want("text", 0.0), Want("text"))
PROVIDERS = {
    "openai": Provider(openai, "gpt-4.1-mini", ("OPENAI_API_KEY",), "OPENAI_BASE_URL", _EITHER),
    "anthropic": Provider(
        anthropic, "claude-haiku-4-5", ("ANTHROPIC_API_KEY",), "ANTHROPIC_BASE_URL", (Want("text"),)
    ),
    "gemini": Provider(
        gemini, "gemini-2.5-flash", ("GOOGLE_API_KEY", "GEMINI_API_KEY"), "GOOGLE_GEMINI_BASE_URL", _EITHER
    ),
}


def key_of_provider(name: str) -> str:
    """Return the key found in the environment, "" without one."""
    return next(
        (key for variable in PROVIDERS[name].keys if (key := os.environ.get(variable, "").strip())), ""
    )


def require_key(name: str) -> None:
    """Raise UserError where a key holds what no header can carry: quotes that a word processor turned, say."""
    for variable in PROVIDERS[name].keys:
        key = os.environ.get(variable, "").strip()
        odd = [c for c in key if not "!" <= c <= "~"]
        if odd:
            raise UserError(
                f"{variable} holds {odd[0]!r}, which stands in no key; copy the key again, without quotes around it"
            )


def require_network() -> None:
    """Raise UserError where this shell's settings let no client be made: a proxy without its package, a
    certificate file that is not there. All three providers' clients read them as httpx2 does.
    """
    import httpx2

    try:
        httpx2.Client().close()
    except Exception as error:  # whatever a setting breaks
        raise UserError(
            f"no judge can be reached from this shell: {redact(first_line(error))}; see its proxy (ALL_PROXY, "
            "HTTPS_PROXY) and certificate settings (SSL_CERT_FILE)"
        ) from None


def stated_server(name: str) -> str | None:
    """Return the base URL set in the environment, as the client is to use it; None for the provider's own."""
    return os.environ.get(PROVIDERS[name].server, "").strip() or None


def server_of(name: str) -> str:
    """Return the base URL set in the environment, without what may be secret in it; "" for the provider's
    own.
    """
    stated = stated_server(name) or ""
    try:
        url = urlsplit(stated)
        is_wrong = bool(stated) and (url.scheme not in ("http", "https") or not url.hostname or url.port == 0)
    except ValueError:
        is_wrong = True

    if is_wrong:
        raise UserError(f"{PROVIDERS[name].server} is no web address; write it like http://localhost:8000/v1")
    return (
        f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path.rstrip('/')}"
        if url.hostname
        else ""
    )


def redact(text: str) -> str:
    """Blank every key of the environment out of a text that will be shown or stored."""
    for variable in (v for provider in PROVIDERS.values() for v in provider.keys):
        if len(key := os.environ.get(variable, "").strip()) > 3:
            # whatever its case: a host's name comes back in small letters
            text = re.sub(re.escape(key), "***", text, flags=re.IGNORECASE)
    return text
