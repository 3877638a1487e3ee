"""The one way text becomes token ids."""

from typing import TYPE_CHECKING, Any

from traitscope.utils.errors import UserError

if TYPE_CHECKING:
    from traitscope.utils.model.loading import LM

Prompt = str | list[dict[str, str]]  # a text to continue, or chat messages to answer
# for a model without a chat template
PLAIN_ROLES = {"system": "", "user": "Question: ", "assistant": "Answer: "}


def text_of(prompt: Prompt) -> str:
    """Return what a response answers or continues: the text itself, or the last message's."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def adds_bos(tokenizer: Any) -> bool:
    """Tell whether the tokenizer starts ordinary text with its BOS token."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id


def encode(lm: "LM", prompt: Prompt) -> list[int]:
    """Turn a prompt into token ids, with BOS exactly once where the tokenizer uses one. Nothing else
    calls a tokenizer on a prompt.

    Args:
        prompt: A text to continue, or messages; these go through the chat template (a generation prompt is
            added), or become plain "Question: … Answer:" text for a model without one.

    Raises:
        UserError: the text is empty, or the messages are none that a model can answer.
    """
    if not isinstance(prompt, str):
        _require_messages(prompt)
    text = prompt if isinstance(prompt, str) else render_chat(lm, prompt)
    ids = encode_text(lm, text)
    bos = lm.tokenizer.bos_token_id
    if adds_bos(lm.tokenizer):
        while ids[:1] == [bos]:  # the template wrote it, or the text itself
            ids = ids[1:]
        ids = [bos, *ids]

    if not ids:
        raise UserError("an empty text has no tokens to read")
    return _require_known(lm, ids)


def _require_known(lm: "LM", ids: list[int]) -> list[int]:
    """Return ids; raise UserError where the tokenizer writes one that the model has no embedding for."""
    if max(ids, default=0) >= lm.n_tokens:
        raise UserError(
            f"the tokenizer of {lm.identity['name']} writes token {max(ids)}, but the model knows "
            f"{lm.n_tokens}; it is another model's tokenizer"
        )
    return ids


def _require_messages(messages: Any) -> None:
    """Refuse what is no conversation that the assistant can answer."""
    is_conversation = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not is_conversation or not any(m["role"] != "system" for m in messages):
        raise UserError('a prompt is a text, or messages {"role": …, "content": …}, one of them the user\'s')


def encode_text(lm: "LM", text: str) -> list[int]:
    """Return token ids of a given text without any special token: for a response that somebody else wrote."""
    return _require_known(lm, lm.tokenizer(text, add_special_tokens=False).input_ids)


def render_chat(lm: "LM", messages: list[dict[str, str]]) -> str:
    """Render messages up to the point where the assistant speaks.

    Raises:
        UserError: the chat template cannot say all that they say, or a role is unknown without one.
    """
    if lm.chat_template:
        from traitscope.utils.model.template import render  # transformers: a laptop that only reads has none

        return render(lm.tokenizer, messages, lm.identity["name"])

    unknown = [m["role"] for m in messages if m["role"] not in PLAIN_ROLES]
    if unknown:
        raise UserError(f"unknown role {unknown[0]!r} in a message; choose {', '.join(PLAIN_ROLES)}")
    turns = [PLAIN_ROLES[m["role"]] + m["content"] for m in messages]
    return "\n\n".join([*turns, "Answer:"])
