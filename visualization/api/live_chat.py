"""Live chat: replies of the experiment's model, token by token, every token with its trait scores."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.records.comparisons import VectorName
from traitscope.visualization.library import Library, NotThereError

if TYPE_CHECKING:  # torch is imported when somebody wants to chat
    from traitscope.visualization.room import Room

MAX_MESSAGES, MAX_CHARACTERS, MAX_TOKENS = 64, 16_000, 400
Dose = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class Message(BaseModel):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_CHARACTERS)]


class Asked(BaseModel):
    """A conversation that ends with the user, and how the model is to go on."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    doses: Annotated[dict[str, Dose], Field(max_length=32)] = {}  # trait → share of the mean residual norm
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 200
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages.

        Raises:
            UserError: together they are too long, or the last one is not the user's.
        """
        if sum(len(m.content) for m in self.messages) > MAX_CHARACTERS:
            raise UserError(f"a conversation has at most {MAX_CHARACTERS} characters; begin a new one")
        if self.messages[-1].role != "user" or not self.messages[-1].content.strip():
            raise UserError("the last message must be the user's, and not empty")
        return [m.model_dump() for m in self.messages]


class WatchedTrait(VectorName):
    """A trait that is watched, by its best vector."""

    norm: float  # ‖v‖: the distance between the means of the trait's two sides
    can_steer: bool  # whether the residual norm at its layer is known


class ChatState(BaseModel):
    """What there is to chat with, or why there is nothing."""

    why_not: str  # "" where a chat can begin
    model: str
    traits: list[WatchedTrait]
    problems: dict[str, str]  # trait → why it cannot be watched
    max_new_tokens: int = MAX_TOKENS
    max_characters: int = MAX_CHARACTERS


class ReplyStream(StreamingResponse):
    """Lines of JSON, one a token; when the reader leaves, the model stops at once."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = _stream(next(lines), lines)  # errors up to the first token are told by the status
        super().__init__(self._lines)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def _stream(first: str, lines: Iterator[str]) -> AsyncGenerator[str]:
    try:
        yield first
        while (line := await run_in_threadpool(next, lines, "")) != "":
            yield line
    finally:
        with suppress(ValueError):  # where the server ends, a thread is still at the next token
            lines.close()  # type: ignore[attr-defined]


def router(library: Library) -> APIRouter:
    """Return the routes of live chat."""
    routes = APIRouter(prefix="/experiments/{experiment}/chat", tags=["chat"])

    @cache
    def room() -> Room:
        try:
            from traitscope.visualization.room import Room
        except ImportError as error:
            raise UserError(
                f"chatting needs torch and transformers here ({first_line(error)}); pip install -r "
                "requirements.txt"
            ) from None
        return Room(library)

    @routes.get("")
    def show_chat(experiment: str) -> ChatState:
        """Return what can be watched and steered; the model is loaded with the first message."""
        try:
            library.experiment(experiment)
            watched = room().look(experiment)
        except NotThereError:
            raise
        except UserError as error:
            return ChatState(why_not=library.relative(str(error)), model="", traits=[], problems={})
        traits = [WatchedTrait(**v.origin, can_steer=v.mean_norm is not None) for v in watched.vectors]
        return ChatState(why_not="", model=watched.model.model, traits=traits, problems=watched.problems)

    @routes.post(
        "",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/x-ndjson": {}}},
            429: {"description": "The model is busy."},
        },
    )
    def answer(experiment: str, asked: Asked) -> ReplyStream:
        """Write a reply: a line {"text", "scores": {trait: centered score}} per token, and {"end":
        finished, length or time}.
        """
        library.experiment(experiment)
        return ReplyStream(_lines(room(), experiment, asked))

    return routes


def _lines(room: Room, experiment: str, asked: Asked) -> Iterator[str]:
    from traitscope.inference.watch.engine import Talk

    talk = Talk(asked.max_new_tokens, asked.temperature, asked.seed)
    for said in room.reply(experiment, asked.conversation(), asked.doses, talk):
        content: dict[str, Any] = (
            {"end": said}
            if isinstance(said, str)
            else {"text": said.text, "scores": {t: _rounded(s) for t, s in said.scores.items()}}
        )
        yield json.dumps(content, ensure_ascii=False) + "\n"


def _rounded(score: float) -> float | None:
    """Return a score as JSON can carry it: a model that overflows scores NaN."""
    return round(score, 4) if math.isfinite(score) else None
