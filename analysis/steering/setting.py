"""What an evaluation goes by: the protocol, the candidates, and the bench on which texts are made and
measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
from torch import Tensor

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.treatments import Intervention, Surroundings, Treatment, build
from traitscope.utils.errors import UserError
from traitscope.utils.model.hooks import Positions
from traitscope.utils.records.vectors import Separation
from traitscope.utils.stage.flags import flag

LEAST_PAIRS, LEAST_ONE_SIDED = 9, 19  # random directions: with fewer the smallest p is above 0.05


@dataclass(frozen=True)
class Protocol:
    """How steering is evaluated."""

    random_pairs: int = flag(
        28,
        (
            "± pairs of random directions that the vector is ranked among; its p cannot fall below 1 / (2 + 2 · pairs), where something is added."
        ),
    )
    min_effect: float = flag(5.0, "Points of odd part below which a vector does not work.")
    coherence_gate: float = flag(70.0, "Mean coherence below which a text counts as broken.")
    positions: Positions = flag("all", "all, or response (from the last prompt token on).")
    null_seed: int = flag(0, "Seed of the random directions and of the shuffled labels.")

    heading = "Verdict"
    is_setting = True  # a key of config.json

    def check(self, *, has_opposite: bool = True) -> None:
        """Refuse what means nothing, and say where no verdict can be reached.

        Args:
            has_opposite: Something is added, so that a random direction counts by the size of its odd part.

        Raises:
            UserError: a number of random pairs below 0, or a least effect that is.
        """
        if self.random_pairs < 0 or self.min_effect < 0:
            raise UserError("--random-pairs and --min-effect are 0 or more")

        least = LEAST_PAIRS if has_opposite else LEAST_ONE_SIDED
        if self.random_pairs < least:
            pairs = f"{self.random_pairs} random pairs"
            print(f"note: with {pairs} no verdict can be more than 'not proven'; {least} is the least")


@dataclass(frozen=True)
class Candidates:
    """What may be steered with, and where its nulls come from."""

    vectors: dict[tuple[str, int], Tensor]  # (method, layer) → [d_model]
    # layer → [n, d_model], whose covariance random directions are drawn from
    activations: Callable[[int], Tensor]
    is_pos: np.ndarray  # [n], the side of each
    # (method, layer) → the vector that the same method fits to shuffled labels
    shuffled: Callable[[str, int], Tensor]
    sign: int  # −1 for a trait that the researcher wants less of
    system_prompt: Callable[[int], str]  # wanted change (+1, −1) → asks the model for it in words
    gates: Mapping[tuple[str, int], Tensor] | None = (
        None  # (method, layer) → the vector that conditional steering looks at
    )
    # (method, layer) → how well the vector separates held-out responses
    separation: Mapping[tuple[str, int], Separation] = field(default_factory=dict)


class Bench(Interface):
    """Where texts are made and measured."""

    protocol: Protocol

    def open(self, questions: Sequence[str]) -> ArmResult:
        """Return the unsteered answers to the dev questions, by which everything else is calibrated."""

    def measure(self, arms: Sequence[Arm], questions: Sequence[str]) -> list[ArmResult]:
        """Return every arm's answers, scored."""

    def norms(self) -> Sequence[float]:
        """Return each layer's mean residual norm over the unsteered answers: the unit of a dose."""

    def gate(self, vector: Tensor, layer: int, quantile: float) -> float:
        """Return the threshold of a gate: that quantile of the unsteered answers' mean projections."""

    def extra(self, arms: Mapping[str, ArmResult | None]) -> dict:
        """Return figures measured beside, of the unsteered, plus and minus arms: side effects."""


@dataclass(frozen=True)
class Setting:
    """All that an evaluation goes by."""

    bench: Bench
    candidates: Candidates
    around: Surroundings
    intervention: Intervention
    unsteered: ArmResult  # dev's answers

    @property
    def gate(self) -> float:
        return self.bench.protocol.coherence_gate

    def build(
        self,
        method: str,
        vectors: Mapping[int, Tensor],
        shares: Mapping[int, float] | None = None,
        gate_of: str = "",
    ) -> Treatment:
        """Return the treatment with these vectors, {layer: [d_model]}, and shares of the dose."""
        return build(self.intervention, self.around, method, vectors, shares, gate_of)


def surroundings(bench: Bench, candidates: Candidates, intervention: Intervention) -> Surroundings:
    """Return what treatments need of the model and the data."""
    gates = {
        key: (v, bench.gate(v, key[1], intervention.gate_quantile))
        for key, v in (candidates.gates or {}).items()
    }
    return Surroundings(
        bench.norms(), candidates.activations, candidates.is_pos, candidates.sign, gates or None
    )
