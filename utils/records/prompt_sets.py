"""Prompt sets: new prompts to watch a trait on, from a file or from the command line."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import InferencePaths, check_name
from traitscope.utils.files.reading import digest, is_there, read_json
from traitscope.utils.model.encode import Prompt

OWN = ("id", "text", "messages", "turns")  # every other field of a prompt is kept as its metadata
ROLES = ("system", "user", "assistant")
ADHOC = "adhoc"  # the set of prompts given on the command line


@dataclass(frozen=True)
class PromptItem:
    """One prompt of a set."""

    id: str
    prompt: Prompt
    turns: tuple[
        str, ...
    ] = ()  # what the user says after the first answer, one message after each further answer
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSet:
    """A named list of prompts."""

    about: dict[str, Any]  # name, description, sha256
    items: list[PromptItem]


def read_prompt_set(paths: InferencePaths, *, completion: bool = False) -> PromptSet:
    """Read datasets/inference/{prompt_set}.json: {"description", "prompts": [{"id", "text" | "messages" |
    "turns", …}]}.

    Args:
        completion: Texts are continued as they stand; otherwise they are questions for the chat template.

    Raises:
        UserError: the file is missing or malformed; the line names the prompt.
    """
    if not is_there(paths.dataset):
        known = ", ".join(sorted(p.stem for p in paths.dataset.parent.glob("*.json"))) or "none"
        raise UserError(
            f"unknown prompt set {paths.prompt_set}: {paths.dataset} does not exist; known: {known}"
        )

    content = read_json(paths.dataset)
    prompts = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f'{paths.dataset} must hold {{"prompts": [{{"id": …, "text": …}}, …]}}')

    items = [
        _parse(prompt, f"{paths.dataset}, prompt {i + 1}", completion) for i, prompt in enumerate(prompts)
    ]
    twice = [name for name, n in Counter(item.id for item in items).items() if n > 1]
    if twice:
        raise UserError(f"{paths.dataset}: the id {twice[0]!r} occurs twice")

    return PromptSet(
        {
            "name": paths.prompt_set,
            "description": content.get("description", ""),
            "sha256": digest(paths.dataset),
        },
        items,
    )


def adhoc_set(texts: tuple[str, ...], *, completion: bool = False) -> PromptSet:
    """Return the set of prompts that were given on the command line."""
    items = [
        _parse({"id": key_of(text)[:8], "text": text}, "--prompt", completion)
        for text in dict.fromkeys(texts)
    ]
    return PromptSet(
        {"name": ADHOC, "description": "prompts given on the command line", "sha256": None}, items
    )


def with_system(items: list[PromptItem], system: str) -> list[PromptItem]:
    """Return the prompts with a system message in front; texts to be continued have no place for one."""
    if not system:
        return items
    if any(isinstance(item.prompt, str) for item in items):
        raise UserError("--system-prompt needs chat prompts; leave out --completion")
    return [replace(item, prompt=[{"role": "system", "content": system}, *item.prompt]) for item in items]  # type: ignore[list-item]


def _parse(raw: Any, where: str, completion: bool) -> PromptItem:
    if not isinstance(raw, dict) or sum(name in raw for name in OWN[1:]) != 1:
        raise UserError(f'{where}: expected an object with one of "text", "messages" and "turns"')

    name = str(raw.get("id", ""))
    check_name("prompt", name, range(1, 2))
    turns = _texts(raw["turns"], where) if "turns" in raw else []
    prompt: Prompt
    if "messages" in raw:
        prompt = _messages(raw["messages"], where)
    else:
        text = turns[0] if turns else _texts([raw["text"]], where)[0]
        prompt = text if completion and not turns else [{"role": "user", "content": text}]

    return PromptItem(name, prompt, tuple(turns[1:]), {k: v for k, v in raw.items() if k not in OWN})


def _texts(values: Any, where: str) -> list[str]:
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(v, str) and v.strip() for v in values)
    ):
        raise UserError(f"{where}: expected texts that are not empty")
    return values


def messages_in(values: Any, where: str) -> list[dict[str, str]]:
    """Return what should be chat messages as such.

    Raises:
        UserError: they are none.
    """
    if not isinstance(values, list) or not all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in values
    ):
        raise UserError(f'{where}: messages are objects with "role" ({", ".join(ROLES)}) and "content"')
    return [{"role": m["role"], "content": m["content"]} for m in values]


def _messages(values: Any, where: str) -> list[dict[str, str]]:
    messages = messages_in(values, where)
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{where}: the last message must be the user's")
    return messages
