"""Conversations that somebody brings, as texts to be trained on."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.model.anatomy import position_limit
from traitscope.utils.model.encode import encode, encode_text, text_of
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import ActivationsAbout
from traitscope.utils.records.chats import Chat, Chats, name_of
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.own_texts import Text, without_system
from traitscope.utils.records.questions import may_be_asked, read_pool
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.texts import join_shared, normalised

# why a line is left out, or was changed, as the closing line counts it
REPEATED, ASKED, UNSCORED, BETWEEN, OPPOSITE, UNTOLD, CUT = (
    "lines repeated",
    "asked where the trait is measured",
    "without a score",
    "scored between the sides",
    "of the other side",
    "without a system message",
    "responses cut to the model's context",
)


@dataclass(frozen=True)
class Wanted:
    """Which texts of a file are taken."""

    thresholds: Thresholds  # of the sides, where responses are scored
    sides: Collection[str] = SIDES
    only_told: bool = False  # those with a system message only


@dataclass(frozen=True)
class Given:
    """Texts of a file, and what is to be said of it."""

    texts: list[Text]
    source: dict[str, Any] = field(default_factory=dict)  # file, sha256, and how many lines met which fate


def given_texts(paths: TraitPaths, lm: LM, about: ActivationsAbout, chats: Chats, wanted: Wanted) -> Given:
    """Return the texts of a file of conversations, each after what stands before its response, the system message
    taken away: the vector must bring what it asks for.

    What an evaluation of the trait may ask, or stage 4 held out, is left out, so that a vector never learns from
    what it is measured on.

    Raises:
        UserError: the model cannot be given a line, or no line is left that shows the trait.
    """
    file = chats.file
    fates = Counter({REPEATED: len(chats.repeated)})
    if chats.repeated:
        line, first = chats.repeated[0]
        more = f", and {len(chats.repeated) - 1} more lines repeat others" if len(chats.repeated) > 1 else ""
        print(f"note: {file.name}, line {line} repeats line {first}{more}; they are left out", flush=True)

    kept = _choose(chats, wanted, _measured_on(paths, about), fates)
    _require_some(chats, kept, wanted, fates)
    groups = join_shared((i, normalised(chat.asked[0])) for i, (chat, _) in enumerate(kept))
    texts = [_encode(lm, file.name, chat, side, groups[i], fates) for i, (chat, side) in enumerate(kept)]

    counts = {name: n for name, n in fates.items() if n}
    lines = len(chats.rows) + len(chats.repeated)
    return Given(texts, {"file": name_of(file), "sha256": digest(file), "lines": lines, "counts": counts})


def _measured_on(paths: TraitPaths, about: ActivationsAbout) -> set[str]:
    """Return what a vector of the trait is measured on, normalised: the questions of stage 5, and the prompts of the
    responses that stage 4 held out.
    """
    held_out = {row.key for row in about.rows if row.split == "val"}
    prompts = {normalised(text_of(r.prompt)) for r in read_responses(paths) if r.key in held_out}
    return prompts | may_be_asked(read_trait(paths), read_pool(paths.root))


def _choose(
    chats: Chats, wanted: Wanted, measured_on: Collection[str], fates: Counter
) -> list[tuple[Chat, str]]:
    """Return the conversations to train on, each with its side; count what becomes of the others."""
    kept = []
    for chat in chats.rows:
        side = _side_of(chat, chats, wanted.thresholds)
        if any(normalised(asked) in measured_on for asked in chat.asked):
            fates[ASKED] += 1
        elif chats.has_scores and chat.score is None:
            fates[UNSCORED] += 1
        elif side not in wanted.sides:
            fates[OPPOSITE if side else BETWEEN] += 1
        elif wanted.only_told and not chat.is_told:
            fates[UNTOLD] += 1
        else:
            kept.append((chat, side))
    return kept


def _side_of(chat: Chat, chats: Chats, thresholds: Thresholds) -> str:
    if not chats.has_scores:
        return "pos"
    return next((s for s in SIDES if chat.score is not None and thresholds.is_on(s, chat.score)), "")


def _require_some(chats: Chats, kept: Iterable[tuple[Chat, str]], wanted: Wanted, fates: Counter) -> None:
    """Refuse a file of which nothing positive is left, with the reason that most of it met."""
    if any(side == "pos" for _, side in kept):
        return
    name, thresholds = chats.file.name, wanted.thresholds
    scored = [(chat.score, chat.line) for chat in chats.rows if chat.score is not None]
    if scored and not any(thresholds.is_on("pos", score) for score, _ in scored):
        best, line = max(scored, key=lambda pair: pair[0])
        raise UserError(
            f"{name}: no response has a score of {thresholds.pos_threshold:g} or above; the highest is {best:g}, in "
            f"line {line}; move --pos-threshold"
        )
    if fates[UNTOLD]:
        raise UserError(
            f"{name}: no positive conversation has a system message; distill and delta compare the model with "
            "itself as the system message tells it to be"
        )
    met = ", ".join(f"{n} {fate}" for fate, n in fates.items() if n)
    raise UserError(f"{name}: no text is left to train on: {met}")


def _encode(lm: LM, name: str, chat: Chat, side: str, group: int, fates: Counter) -> Text:
    """Return a conversation in tokens, its response cut where the model's context ends."""
    prompt = [*chat.prompt]
    try:
        told = encode(lm, prompt) if chat.is_told else []
        plain = encode(lm, without_system(prompt))
    except UserError as error:
        raise UserError(f"{name}, line {chat.line}: {error}") from None
    response = encode_text(lm, chat.response)

    room = (position_limit(lm.model) or len(response) + 10**9) - max(len(plain), len(told))
    if room < 1:
        raise UserError(
            f"{name}, line {chat.line}: what stands before the response has {max(len(plain), len(told))} tokens, and "
            f"{lm.identity['name']} takes {position_limit(lm.model)} in all; shorten it, or delete the line"
        )
    fates[CUT] += len(response) > room
    return Text(f"line:{chat.line}", side, group, plain, response[:room], told)
