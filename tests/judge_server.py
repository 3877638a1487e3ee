"""An HTTP server on loopback that speaks the protocols of OpenAI, Anthropic and Gemini well enough for
their official clients.

It scores a question by a digest of its text, so that the numbers of two runs can be compared, and it can fail
in every way that services do.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

FAULTS = ("429", "500", "529", "reset", "hang", "truncated", "malformed", "no_logprobs")
REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
URLS = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "gemini": "GOOGLE_GEMINI_BASE_URL"}


@dataclass
class JudgeServer:
    """What the server does; its counters say what it was asked."""

    latency: float = 0.0
    fault_share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    refusal_share: float = 0.0  # of questions, always the same ones
    has_logprobs: bool = True
    splits_digits: bool = False  # its tokens are single digits
    is_reasoning: bool = False  # refuses temperature, logprobs and max_tokens, as the gpt-5 family does
    key: str = "sk-good-key-0123456789"
    hang_seconds: float = 30.0
    retry_after: str = "0.05"
    models: tuple[str, ...] = ()  # known ones; all when empty
    answer: str = ""  # said to every question instead of a score
    shape: Callable[[Any], Any] | None = None  # what becomes of a good payload before it is sent
    error: Callable[[dict], tuple[int, Any, dict] | None] | None = (
        None  # request body → (status, payload, headers) in place of an answer
    )
    headers: dict = field(default_factory=dict)  # of good answers
    rate: float = (
        0.0  # requests a second that its bucket lets through, and what the bucket holds; the rest get 429
    )
    asked: Counter = field(default_factory=Counter)  # question → requests
    answered: Counter = field(default_factory=Counter)  # question → good answers
    bodies: list[dict] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # seconds
    requests: int = 0
    busiest: int = 0
    in_flight: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._dice = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._bucket, self._filled_at = self.rate, time.monotonic()

    def __enter__(self) -> "JudgeServer":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._door = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        )
        self.url = f"http://127.0.0.1:{self._door.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        self._door.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def shut_door(self, seconds: float) -> None:
        """Refuse new connections for a while; those that are open stay."""
        port = self._door.sockets[0].getsockname()[1]
        self._door.close()
        await asyncio.sleep(seconds)
        self._door = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while line := await reader.readline():
                path, headers = line.decode().split()[1], {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.in_flight += 1
                self.busiest = max(self.busiest, self.in_flight)
                try:
                    status, payload, extra, fault = await self._answer(path, headers, json.loads(body))
                finally:
                    self.in_flight -= 1
                if fault == "reset":
                    writer.transport.abort()
                    return
                if callable(payload):  # writes its body itself, and ends it with the connection
                    writer.write(head_of(status, {"connection": "close", **extra}))
                    await payload(writer)
                    break
                raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                writer.write(head_of(status, {"content-length": len(raw), **extra}))
                writer.write(raw[: len(raw) // 2] if fault == "truncated" else raw)
                await writer.drain()
                if fault == "truncated":
                    writer.close()
                    return
        writer.close()

    async def _answer(self, path: str, headers: dict, body: dict):
        self.requests += 1
        question = read_question(path, body)
        self.asked[question] += 1
        self.bodies.append(body)
        self.arrivals.append(time.monotonic())
        if error := self._refusal_of_request(path, headers, body):
            return (*error, {}, "")
        if stated := (self.error and self.error(body)) or self._overflow():
            return (*stated, "")
        fault = self._dice.choice(self.faults) if self._dice.random() < self.fault_share else ""
        await asyncio.sleep(self.hang_seconds if fault == "hang" else self.latency)
        if fault in ("429", "500", "529"):
            return (
                int(fault),
                {"error": {"type": "overloaded", "message": f"injected {fault}"}},
                {"retry-after": self.retry_after} if fault == "429" else {},
                "",
            )
        if fault == "malformed":
            return 200, b'{"choices": [{"message": ', {}, ""
        payload = self._payload(path, body, question, without_logprobs=fault == "no_logprobs")
        if fault not in ("reset", "truncated", "hang", "no_logprobs"):
            self.answered[question] += 1
        return 200, self.shape(payload) if self.shape else payload, self.headers, fault

    def _overflow(self) -> tuple[int, dict, dict] | None:
        """Take one from the token bucket; say so if it is empty."""
        if not self.rate:
            return None
        now = time.monotonic()
        self._bucket, self._filled_at = (
            min(self.rate, self._bucket + (now - self._filled_at) * self.rate),
            now,
        )
        if self._bucket < 1:
            return 429, {"error": {"message": "too fast"}}, {"retry-after": self.retry_after}
        self._bucket -= 1
        return None

    def _refusal_of_request(self, path: str, headers: dict, body: dict):
        sent = (
            headers.get("authorization", "").removeprefix("Bearer ")
            or headers.get("x-api-key")
            or headers.get("x-goog-api-key")
        )
        if sent != self.key and "generateContent" in path:
            return 400, {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        if sent != self.key:
            return 401, {
                "error": {
                    "message": f"Incorrect API key provided: {sent}",
                    "type": "invalid_request_error",
                    "code": "invalid_api_key",
                }
            }
        model = body.get("model") or path.split("/models/")[-1].split(":")[0]
        if self.models and model not in self.models:
            return 404, {
                "error": {"message": f"The model `{model}` does not exist", "code": "model_not_found"}
            }
        unsupported = (
            [name for name in ("logprobs", "temperature", "max_tokens") if name in body]
            if self.is_reasoning and path.endswith("/completions")
            else []
        )
        if unsupported:
            return 400, {
                "error": {
                    "message": f"Unsupported parameter: '{unsupported[0]}' is not supported with this model.",
                    "param": unsupported[0],
                }
            }
        if not self.has_logprobs and body.get("generationConfig", {}).get("responseLogprobs"):
            return 400, {
                "error": {
                    "code": 400,
                    "message": "Logprobs is not enabled for models/x",
                    "status": "INVALID_ARGUMENT",
                }
            }
        return None

    def _payload(self, path: str, body: dict, question: str, *, without_logprobs: bool) -> dict:
        refuses = int(digest(question + "refuse")[:4], 16) / 65536 < self.refusal_share
        text = self.answer or ("I'm sorry, I can't help with that." if refuses else str(score_of(question)))
        candidates = [] if without_logprobs else self._candidates(text)
        if "generateContent" in path:
            return gemini_payload(
                text, candidates if body.get("generationConfig", {}).get("responseLogprobs") else []
            )
        if path.endswith("/messages"):
            usage = {"input_tokens": 100, "output_tokens": 2}
            return {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "usage": usage,
            }
        wanted = body.get("logprobs") and self.has_logprobs
        return openai_payload(text, candidates if wanted else [], cut=wanted)

    def _candidates(self, text: str) -> list[tuple[str, float]]:
        """The right number with probability 0.6, its neighbours, and words that are no numbers."""
        if not text.isdigit():
            return [(text.split()[0], math.log(0.9)), ("50", math.log(0.05))]
        if self.splits_digits:
            return [(text[0], math.log(0.9)), ("The", math.log(0.05))]
        n = int(text)
        return [
            (text, math.log(0.6)),
            (str(max(n - 1, 0)), math.log(0.2)),
            (f" {min(n + 2, 100)}", math.log(0.1)),
            ("The", math.log(0.1)),
        ]


def head_of(status: int, headers: dict) -> bytes:
    """Return the head of an answer."""
    lines = [f"{name}: {value}" for name, value in {"content-type": "application/json", **headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {status} {REASONS[status]}", *lines, "", ""]).encode()


def read_question(path: str, body: dict) -> str:
    if "generateContent" in path:
        return body["contents"][-1]["parts"][0]["text"]
    return body["messages"][-1]["content"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def score_of(question: str) -> int:
    """The score that a fault-free server gives."""
    return 60 if "minutes does an hour" in question else int(digest(question)[:8], 16) % 97 + 1


def expected(question: str) -> float:
    """What the candidates of `score_of` weigh out to."""
    n = score_of(question)
    return (0.6 * n + 0.2 * max(n - 1, 0) + 0.1 * min(n + 2, 100)) / 0.9


def openai_payload(text: str, candidates: list, *, cut: bool) -> dict:
    choice: dict = {
        "index": 0,
        "finish_reason": "length" if cut else "stop",
        "message": {"role": "assistant", "content": text.split()[0] if cut else text},
    }
    if candidates:
        top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in candidates]
        choice["logprobs"] = {
            "content": [
                {"token": top[0]["token"], "logprob": top[0]["logprob"], "bytes": None, "top_logprobs": top}
            ],
            "refusal": None,
        }
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def gemini_payload(text: str, candidates: list) -> dict:
    first: dict = {
        "content": {"role": "model", "parts": [{"text": text}]},
        "finishReason": "STOP",
        "index": 0,
    }
    if candidates:
        first["logprobsResult"] = {
            "topCandidates": [
                {"candidates": [{"token": t, "logProbability": p, "tokenId": 1} for t, p in candidates]}
            ]
        }
    return {
        "candidates": [first],
        "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 1, "totalTokenCount": 101},
    }


MISSING = object()


def put(*path_and_value: Any) -> Callable[[Any], Any]:
    """Return a shape: the payload with one value set, or taken out (MISSING)."""
    *path, last, value = path_and_value

    def shape(payload: Any) -> Any:
        payload = place = json.loads(json.dumps(payload))
        for step in path:
            place = place[step]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value
        return payload

    return shape


def error(
    status: int, message: str = "no", headers: dict | None = None, **more: Any
) -> Callable[[dict], tuple[int, Any, dict]]:
    """Return an error with which every question is answered."""
    return lambda body: (status, {"error": {"message": message, **more}}, headers or {})


def first(
    n: int, fault: Callable[[dict], tuple[int, Any, dict]]
) -> Callable[[dict], tuple[int, Any, dict] | None]:
    """Return an error that is answered `n` times, and then no more."""
    left = iter(range(n))
    return lambda body: fault(body) if next(left, None) is not None else None
