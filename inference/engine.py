"""Live chat: a model that answers token by token, every token with its trait scores, under steering that may change from reply to reply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.projection import check_cards, project, scores_of
from utils.errors import UserError
from utils.generation import GumbelNoise
from utils.hooks import Push, steer
from utils.model import LM, encode
from utils.vectors import Card


@dataclass(frozen=True)
class Step:
    """One token of a reply, as it is written."""

    id: int
    text: str  # may be empty while a character is not complete
    scores: dict[str, float]  # trait → centred projection of this token, as the steered model has it


@dataclass(frozen=True)
class Talk:
    """How a reply is drawn.

    Args:
        max_new_tokens: Length limit of a reply, in tokens.
        temperature: 0 is greedy.
        seed: With a temperature, fixes the replies.
    """

    max_new_tokens: int = 200
    temperature: float = 0.0
    seed: int = 0


class ChatEngine:
    """A model with the vectors that are watched and steered with: one per trait."""

    def __init__(self, lm: LM, cards: Sequence[Card]) -> None:
        check_cards(lm, cards)
        self.lm, self.cards = lm, {card.trait: card for card in cards}

    def pushes(self, doses: dict[str, float]) -> tuple[Push, ...]:
        """Return what steers by doses: fractions of the mean residual norm at each vector's layer.

        Raises:
            UserError: a trait has no vector here, or its layer's norm is not known.
        """
        unknown = [trait for trait in doses if trait not in self.cards]
        if unknown:
            raise UserError(f"no vector of {unknown[0]} here; known: {', '.join(self.cards) or 'none'}")
        chosen = [(self.cards[trait], dose) for trait, dose in doses.items() if dose]
        unmeasured = [card.trait for card, _ in chosen if card.mean_norm is None]
        if unmeasured:
            raise UserError(f"{unmeasured[0]}: the residual norm at its layer is not known (its activations' metadata is missing); it can only be watched")
        return tuple(Push(card.layer, card.vector, dose * float(card.mean_norm or 0) / float(card.vector.norm())) for card, dose in chosen)

    def reply(self, messages: list[dict[str, str]], doses: dict[str, float], talk: Talk) -> Iterator[Step]:
        """Yield the reply to a conversation, token by token; whoever stops iterating stops the model.

        A token is yielded after it was fed back, with the projection at its own position; hooks are set for one forward pass at a time,
        so that nothing stays on the model while nobody asks for the next token.

        Raises:
            UserError: a trait is unknown, or the conversation is longer than the model's context.
        """
        pushes, ids = self.pushes(doses), encode(self.lm, messages)
        limit = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None) or len(ids) + talk.max_new_tokens
        if len(ids) >= limit:
            raise UserError(f"the conversation has {len(ids)} tokens; {self.lm.identity['name']} takes {limit}")
        noise = GumbelNoise([talk.seed], talk.temperature, 0) if talk.temperature > 0 else None
        ends = self.lm.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        logits, cache, _ = self._step(ids, None, pushes)
        decoder, written = Decoder(self.lm), ids[:]
        for _ in range(min(talk.max_new_tokens, limit - len(ids))):
            token = int((noise(torch.tensor([written]), logits) if noise else logits).argmax())
            if token in ends:
                break
            written.append(token)
            logits, cache, scores = self._step([token], cache, pushes)
            yield Step(token, decoder.add(token), scores)

    @torch.inference_mode()
    def _step(self, ids: list[int], cache: object, pushes: tuple[Push, ...]) -> tuple[Tensor, object, dict[str, float]]:
        """Feed ids; return the logits after the last of them, [1, vocabulary], the cache, and the last one's scores."""
        with steer(self.lm.model, [pushes]), project(self.lm, list(self.cards.values())) as readout:
            output = self.lm.model(input_ids=torch.tensor([ids], device=self.lm.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        read = scores_of(readout, list(self.cards.values()), 0, len(ids))
        return output.logits[:, -1], output.past_key_values, {s.origin["trait"]: float(s.on("centered")[-1]) for s in read}


class Decoder:
    """Token ids to text, one at a time, without half characters."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.said = lm, ""
        self.held: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that this token completes."""
        self.held.append(token)
        text = self.lm.tokenizer.decode(self.held, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):
            return ""
        new, self.said = text[len(self.said) :], text
        if len(self.held) > 64:  # keep the context short; a few tokens are enough for the spaces between words
            self.held = self.held[-8:]
            self.said = self.lm.tokenizer.decode(self.held, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return new
