"""Live chat: a model that answers token by token, every token with its trait scores, under steering that
may change from reply to reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from traitscope.inference.watch.projection import check_vectors, project, scores_of
from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import end_tokens, read_logits
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import GumbelNoise, room_after
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM
from traitscope.utils.records.vectors import Vector
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class Token:
    """One token of a reply, as it is written."""

    id: int
    text: str  # may be empty while a character is not complete
    scores: dict[str, float]  # trait → centred projection of this token, as the steered model has it


@dataclass(frozen=True)
class Talk:
    """How a reply is drawn."""

    max_new_tokens: int = flag(200, "Length limit of a reply, in tokens.")
    temperature: float = flag(0.0, "0 is greedy.")
    seed: int = flag(0, "With a temperature, fixes the replies.")

    heading = "Text"


class ChatEngine:
    """A model with the vectors that are watched and steered with: one per trait."""

    def __init__(self, lm: LM, vectors: Sequence[Vector]) -> None:
        check_vectors(lm, vectors)
        self.lm, self.vectors = lm, {vector.trait: vector for vector in vectors}

    def pushes(self, doses: dict[str, float]) -> tuple[Push, ...]:
        """Return what steers by doses: fractions of the mean residual norm at each vector's layer.

        Raises:
            UserError: a trait has no vector here, or its layer's norm is not known.
        """
        unknown = [trait for trait in doses if trait not in self.vectors]
        if unknown:
            raise UserError(f"no vector of {unknown[0]} here; known: {', '.join(self.vectors) or 'none'}")
        return tuple(self.vectors[trait].push(dose) for trait, dose in doses.items() if dose)

    def reply(self, messages: list[dict[str, str]], doses: dict[str, float], talk: Talk) -> Iterator[Token]:
        """Yield the reply to a conversation, token by token; whoever stops iterating stops the model.

        A token is yielded after it was fed back, with the projection at its own position; hooks are set for
        one forward pass at a time, so that nothing stays on the model while nobody asks for the next token.

        Raises:
            UserError: a trait is unknown, or the conversation is longer than the model's context.
        """
        pushes, ids = self.pushes(doses), encode(self.lm, messages)
        room = room_after(self.lm, ids, talk.max_new_tokens)
        noise = GumbelNoise([talk.seed], talk.temperature, 0) if talk.temperature > 0 else None
        ends = set(end_tokens(self.lm))
        logits, cache, _ = self._step(ids, None, pushes)
        decoder, written = Decoder(self.lm), ids[:]

        for _ in range(room):
            token = int((noise(torch.tensor([written]), logits) if noise else logits).argmax())
            if token in ends:
                break
            written.append(token)
            fed = [token] if self.lm.habits.takes_steps else written  # what keeps no cache is read anew
            logits, cache, scores = self._step(fed, cache, pushes)
            yield Token(token, decoder.add(token), scores)

    @torch.inference_mode()
    def _step(
        self, ids: list[int], cache: object, pushes: tuple[Push, ...]
    ) -> tuple[Tensor, object, dict[str, float]]:
        """Feed ids; return the logits after the last of them, [1, vocabulary], the cache, and the last
        one's scores.
        """
        known = {"past_key_values": cache} if cache is not None else {}
        with steer(self.lm.model, [pushes]), project(self.lm, list(self.vectors.values())) as readout:
            logits, output = read_logits(
                self.lm.model,
                1,
                input_ids=torch.tensor([ids], device=self.lm.device),
                **known,
                use_cache=self.lm.habits.takes_steps,
            )

        read = scores_of(readout, list(self.vectors.values()), 0, len(ids))
        return (
            logits[:, -1],
            output.past_key_values if self.lm.habits.takes_steps else None,
            {s.origin["trait"]: float(s.on("centered")[-1]) for s in read},
        )


class Decoder:
    """Token ids to text, one at a time, without half characters."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.said = lm, ""
        self.held: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that this token completes."""
        self.held.append(token)
        text = self.lm.tokenizer.decode(
            self.held, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if text.endswith("\ufffd"):
            return ""

        new, self.said = text[len(self.said) :], text
        # keep the context short; a few tokens are enough for the spaces between words
        if len(self.held) > 64:
            self.held = self.held[-8:]
            self.said = self.lm.tokenizer.decode(
                self.held, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

        return new
