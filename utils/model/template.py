"""A tokenizer's chat template, never believed: what every message says must stand in the rendering.

Templates drop system messages, read a content in parts where it is text, open a thought, or write the time of
day. So a rendering is checked, other forms of the same messages are tried, and what cannot be rendered whole is
refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from unittest.mock import patch

from transformers.utils import chat_template_utils

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.thoughts import close_thought, without_thoughts

Messages = Sequence[dict[str, Any]]

# what a template takes for now: prompts of today and tomorrow are the same
CLOCK = datetime(2026, 1, 1, 12, 0, 0)
_AS_LIST = "{'type': 'text'"  # of a template that writes a content in parts as it stands
_PROBES = (
    "Kestrel lanterns drift.",
    "Seven copper kettles sing.",
    "Old maps fold badly.",
)  # said nowhere else


class Facts(NamedTuple):
    """What was seen of a template when its model was loaded."""

    clock: str = ""  # the time that it is told; "" for a template that does not ask
    closes_thought: bool = False  # it opens a thought, which is closed before the model writes
    moves_system: bool = False  # it has no place for a system message, which goes into the user's turn


def render(tokenizer: Any, messages: Messages, name: str) -> str:
    """Return messages as the template writes them, up to the point where the assistant speaks.

    Args:
        name: Of the model, for the error.

    Raises:
        UserError: in no form does the rendering hold what every message says.
    """
    return close_thought(_render_whole(tokenizer, messages, name)[0])


def examine(tokenizer: Any, name: str) -> Facts:
    """Try a template on a conversation, and return what is worth knowing of it.

    Raises:
        UserError: it cannot render a question.
    """
    system, user = ({"role": r, "content": t} for r, t in zip(("system", "user"), _PROBES, strict=False))
    plain, _ = _render_whole(tokenizer, [user], name)
    with _told(datetime(2031, 7, 8, 3, 4, 5)):
        later, _ = _render_whole(tokenizer, [user], name, told=False)
    moves = _has_chat(tokenizer, [system, user]) and _render_whole(tokenizer, [system, user], name)[1]
    return Facts(
        CLOCK.isoformat(sep=" ") if later != plain else "", close_thought(plain) != plain, bool(moves)
    )


def turn_end(tokenizer: Any) -> int | None:
    """Return the special token that a template writes right after what the assistant said, whether or not the
    conversation goes on; None where it writes none.
    """
    roles = ("user", "assistant", "user")
    chat = [{"role": r, "content": t} for r, t in zip(roles, _PROBES, strict=True)]
    try:
        found = {_special_after(tokenizer, part, _PROBES[1]) for part in (chat[:2], chat)}
    except UserError:
        return None
    return found.pop() if len(found) == 1 else None


def _special_after(tokenizer: Any, messages: Messages, said: str) -> int | None:
    """Return the special token that stands right after some words in a rendering."""
    rendering, _ = _render_whole(tokenizer, messages, "", prompts=False)
    rest = rendering.rpartition(said)[2].lstrip()
    special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special and t.content}
    longest_first = sorted(special, key=len, reverse=True)
    return next((special[text] for text in longest_first if rest.startswith(text)), None)


def _has_chat(tokenizer: Any, messages: Messages) -> bool:
    try:
        _render_whole(tokenizer, messages, "")
    except UserError:
        return False
    return True


def _render_whole(
    tokenizer: Any, messages: Messages, name: str, *, prompts: bool = True, told: bool = True
) -> tuple[str, bool]:
    """Return the first rendering that holds what every message says, and whether the system message was moved
    into the user's turn for it.
    """
    reasons = []
    for moves, form in _forms(messages):
        try:
            with _told(CLOCK) if told else _nothing():
                text = _apply(tokenizer, form, prompts)
                fault = _fault_of(text, form, messages) or _lost_role(tokenizer, form, prompts)
        except Exception as error:  # a template is a program of somebody else's
            fault = f"refuses them: {first_line(error)}"
        if not fault:
            return text, moves
        reasons.append(fault)

    raise UserError(
        f"the chat template of {name} cannot render these messages: it {reasons[0]}; try --chat-template False"
    )


def _apply(tokenizer: Any, messages: Messages, prompts: bool) -> str:
    return tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=prompts, enable_thinking=False
    )


def _fault_of(text: str, form: Messages, messages: Messages) -> str:
    """Return what is wrong with a rendering of messages in some form, "" where nothing is."""
    if isinstance(form[0]["content"], list) and _AS_LIST in text:
        return "writes contents as lists"
    lost = _lost(text, messages)
    return f"leaves out what the {lost} says" if lost else ""


def _forms(messages: Messages) -> Iterator[tuple[bool, list[dict[str, Any]]]]:
    """Yield (is the system message moved, messages): as they are, their contents in parts, and both again with
    the system's text in the user's turn.
    """
    moved = _system_into_user(messages)
    for moves, form in [(False, list(messages)), *([(True, moved)] if moved else [])]:
        yield moves, form
        parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in form]
        yield moves, parts


def _system_into_user(messages: Messages) -> list[dict[str, Any]]:
    if messages[0]["role"] != "system" or len(messages) < 2:
        return []
    first, *rest = messages[1:]
    return [first | {"content": f"{messages[0]['content']}\n\n{first['content']}"}, *rest]


def _lost(text: str, messages: Messages) -> str:
    """Return the role of the first message whose words do not stand in a rendering, after those of the turns
    before it; "" where none is lost. A system message may stand anywhere: some put it beside the last question.
    """
    place, dense = 0, _dense(text)
    for message in messages:
        said = _dense(_spoken(message))
        found = dense.find(said, 0 if message["role"] == "system" else place)
        if found < 0:
            return message["role"]
        if message["role"] != "system":
            place = found + len(said)
    return ""


def _spoken(message: dict[str, Any]) -> str:
    """Return what a message says: a template may drop the assistant's earlier thoughts."""
    said = message["content"]
    return without_thoughts(said) if message["role"] == "assistant" else said


def _lost_role(tokenizer: Any, form: list[dict[str, Any]], prompts: bool) -> str:
    """Return what is wrong when the messages say something that stands nowhere else: a short text may stand in
    a template by chance.
    """
    said = [f"{_PROBES[i % 3]} {i}." for i in range(len(form))]
    probes = [
        m | {"content": text if isinstance(m["content"], str) else [{"type": "text", "text": text}]}
        for m, text in zip(form, said, strict=True)
    ]
    plain = [m | {"content": t} for m, t in zip(form, said, strict=True)]
    return _fault_of(_apply(tokenizer, probes, prompts), probes, plain)


def _dense(text: str) -> str:
    return "".join(text.split())


@contextmanager
def _told(now: datetime) -> Iterator[None]:
    """While active, `strftime_now` in templates writes this time."""

    class Told(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Told":
            return cls(*now.timetuple()[:6])

    with patch.object(chat_template_utils, "datetime", Told):
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield
