"""What known texts cost a model under pushes at one layer: many texts under many pushes, few passes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from traitscope.utils.errors import UserError
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.loading import LM
from traitscope.utils.model.steered_costs import Passes, Row, Target, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text


@dataclass
class Costs:
    """The costs of texts under pushes behind one block. What lies below is computed once a text."""

    part: UpperPart
    positions: str = "all"
    known: dict[str, Tensor] = field(default_factory=dict)  # text → states at the layer
    targets: dict[str, Target] = field(default_factory=dict)  # text → what the unsteered model predicts

    @classmethod
    def at(cls, lm: LM, layer: int, positions: str = "all") -> "Costs":
        """Return the costs at a layer of a model."""
        return cls(UpperPart.of(lm, layer), positions)

    def surprise(self, texts: Sequence[Text], pushes: Tensor) -> np.ndarray:
        """Return the mean −log p of every text's response tokens under every push, in nats: [k, n].

        Args:
            pushes: [k, d_model], float32; zero is the unsteered model, bit by bit.

        Raises:
            UserError: one is not finite.
        """
        return self._all(texts, pushes, {})

    def surprise_each(self, texts: Sequence[Text], pushes: Tensor) -> np.ndarray:
        """Return the same of every text under a push of its own: [n]."""
        return self._mean(texts, pushes, list(enumerate(range(len(texts)))), {})

    def divergence(self, texts: Sequence[Text], pushes: Tensor) -> np.ndarray:
        """Return the mean KL(unsteered ‖ steered) of the predictions of every text's response tokens: [k, n], in nats.

        The unsteered model's likeliest tokens are told apart and all others taken as one, which is never more than
        the divergence of the whole distributions.
        """
        new = [replace(text, told_ids=text.prompt_ids) for text in texts if text.key not in self.targets]
        self._passes(0, self.targets).teach(new)
        return self._all(texts, pushes, self.targets)

    def _passes(self, count: int, targets: dict[str, Target]) -> Passes:
        return Passes(self.part, [self.part.layer] * count, self.positions, known=self.known, targets=targets)

    def _all(self, texts: Sequence[Text], pushes: Tensor, targets: dict[str, Target]) -> np.ndarray:
        pairs = [(i, j) for i in range(len(pushes)) for j in range(len(texts))]
        return self._mean(texts, pushes, pairs, targets).reshape(len(pushes), len(texts))

    @torch.no_grad()
    def _mean(
        self,
        texts: Sequence[Text],
        pushes: Tensor,
        pairs: Sequence[tuple[int, int]],
        targets: dict[str, Target],
    ) -> np.ndarray:
        """Return the mean cost of every pair (push, text)."""
        passes = self._passes(len(pushes), targets)
        passes.read(texts)
        vectors = pushes.to(self.part.lm.device)
        units = [Unit((Row(texts[j], i, 1.0),), (texts[j],), i) for i, j in pairs]
        place = {id(unit): k for k, unit in enumerate(units)}
        found = np.zeros(len(units))

        def run(batch: Sequence[Unit]) -> list[float]:
            return [float(costs[0].double().mean()) for costs in passes.losses(vectors, batch)]

        for batch in passes.batches(units):
            found[[place[id(unit)] for unit in batch]] = halve_on_oom(run, batch)
        if not np.isfinite(found).all():
            raise UserError(
                f"a push at layer {self.part.layer} gives a loss that is not finite; lower --dose"
            )
        return found
