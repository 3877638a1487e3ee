"""What training lowers: the cost of the trait's own texts, or of one answer against another."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from traitscope.extraction.training.options import Opposite
from traitscope.extraction.training.texts import Texts
from traitscope.utils.errors import UserError
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.records.own_texts import Text

Item = tuple[Text, ...]  # what a step draws: a text, or the two answers of a pair


def opposed(row: Row, opposite: Opposite) -> Row:
    """Return the row under the vector's opposite: pushed the other way, or with what points its way removed."""
    return replace(row, removes=True) if opposite == "null" else replace(row, force=-row.force)


class Objective(Protocol):
    """What is drawn, how it is steered, and what it costs."""

    train: Sequence[Item]
    val: Sequence[Item]

    def begin(self, passes: Passes) -> None:
        """Read what every step needs of the unsteered model."""

    def unit(self, item: Item, vector: int, force: float) -> Unit:
        """Return the rows of an item under one vector."""

    def weight(self, item: Item) -> int:
        """Return how much an item counts in the mean."""

    def loss(self, item: Item, costs: Sequence[Tensor]) -> Tensor:
        """Return an item's loss times its weight, from its rows' −log p, each [n_tokens]."""


@dataclass
class LikelyText:
    """The mean −log p of the trait's own response tokens under the vector, and, where the other side's texts are
    given, of theirs under its opposite.
    """

    texts: Texts
    opposite: Opposite = "negative"
    train: Sequence[Item] = field(init=False)
    val: Sequence[Item] = field(init=False)

    def __post_init__(self) -> None:
        self.train, self.val = [(t,) for t in self.texts.train], [(t,) for t in self.texts.val]

    def begin(self, passes: Passes) -> None:
        passes.read([*self.texts.train, *self.texts.val])

    def unit(self, item: Item, vector: int, force: float) -> Unit:
        row = Row(item[0], vector, force)
        return Unit((row if item[0].side == "pos" else opposed(row, self.opposite),), item, vector)

    def weight(self, item: Item) -> int:
        return len(item[0].response_ids)

    def loss(self, item: Item, costs: Sequence[Tensor]) -> Tensor:
        return costs[0].sum()


@dataclass
class ToldModel(LikelyText):
    """The mean divergence of the steered model's predictions from those of the model that is told to show the trait,
    KL(told ‖ steered), at the tokens of what the told model wrote.
    """

    def begin(self, passes: Passes) -> None:
        super().begin(passes)
        passes.teach([*self.texts.train, *self.texts.val])


BETA = (1.0, 50.0)  # least and most that the wanted answer counts


@dataclass
class PreferredAnswer:
    """One answer against another to the same prompt, with the vector and with its opposite (RePS, Wu et al. 2025,
    arXiv 2505.20809).

    With S± the mean log p of an answer's tokens under ±v: −log σ(β⁺·S₊(y⁺) − S₊(y⁻)) − log σ(β⁻·S₋(y⁻) − S₋(y⁺)).
    With the opposite "null" the minus branch does not push: it takes away what points along v, for a concept that is
    there or not and has no contrary. β⁺ is how much less likely the unsteered model finds the whole of y⁺ than that of y⁻, in nats, from 1 to 50; β⁻
    is the same with the two exchanged.
    """

    texts: Texts
    opposite: Opposite = "negative"
    train: Sequence[Item] = field(init=False)
    val: Sequence[Item] = field(init=False)
    _totals: dict[str, float] = field(default_factory=dict)  # text → Σ log p in the unsteered model

    def __post_init__(self) -> None:
        self.train, self.val = pair_up(self.texts.train), pair_up(self.texts.val)

    def begin(self, passes: Passes) -> None:
        texts = list({t.key: t for item in (*self.train, *self.val) for t in item}.values())
        passes.read(texts)
        plain = torch.zeros(1, passes.lm.d_model, device=passes.lm.device)
        with torch.no_grad():
            for batch in passes.batches([Unit((Row(text, 0, 0.0),), (text,), 0) for text in texts]):
                for unit, costs in zip(batch, passes.losses(plain, batch), strict=True):
                    self._totals[unit.item[0].key] = -float(costs[0].sum())

    def unit(self, item: Item, vector: int, force: float) -> Unit:
        up = [Row(text, vector, force) for text in item]
        return Unit((*up, *(opposed(row, self.opposite) for row in up)), item, vector)

    def weight(self, item: Item) -> int:
        return 1

    def loss(self, item: Item, costs: Sequence[Tensor]) -> Tensor:
        up_pos, up_neg, down_pos, down_neg = (-cost.mean() for cost in costs)
        gap = self._totals[item[1].key] - self._totals[item[0].key]
        beta_up, beta_down = (min(max(value, BETA[0]), BETA[1]) for value in (gap, -gap))
        return -logsigmoid(beta_up * up_pos - up_neg) - logsigmoid(beta_down * down_neg - down_pos)


def pair_up(texts: Sequence[Text]) -> list[Item]:
    """Return (pos, neg) of all answers to the same prompt, in the order in which both sides come. An answer that both
    sides give says nothing of either.

    Raises:
        UserError: no prompt has two different answers of both sides.
    """
    by_prompt: dict[tuple[int, ...], dict[str, list[Text]]] = {}
    for text in texts:
        by_prompt.setdefault(tuple(text.prompt_ids), {"pos": [], "neg": []})[text.side].append(text)
    pairs: list[Item] = [
        pair for sides in by_prompt.values() for pair in zip(sides["pos"], sides["neg"], strict=False)
    ]
    pairs = [(pos, neg) for pos, neg in pairs if pos.response_ids != neg.response_ids]
    if not pairs:
        raise UserError(
            "pref compares two answers to one prompt, and no prompt here has different answers of both sides that "
            "passed; "
            "train nll, or move --pos-threshold and --neg-threshold"
        )
    return pairs
