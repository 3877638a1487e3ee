"""The arms of one layer: every vector and its opposite, random directions and noise, on the same texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from traitscope.analysis.comparing.costs import Costs
from traitscope.analysis.comparing.texts import HeldOutTexts
from traitscope.utils.measures.directions import apart_from, draw_directions
from traitscope.utils.measures.intervals import interval_of
from traitscope.utils.records.own_texts import Text

NOISE = (0.25, 0.5, 1.0)  # of ‖push‖
SAID = {
    "pos": "held-out positive responses that passed, after prompts that do not ask for the trait",
    "neg": "held-out negative responses that passed, after prompts that do not ask for their side",
}


@dataclass(frozen=True)
class Pushes:
    """What is added at one layer."""

    layer: int
    vectors: dict[str, Tensor]  # method → [d_model], all of one length
    randoms: Tensor  # unit directions [draws, d_model], orthogonal to the vectors

    @property
    def length(self) -> float:
        """‖push‖, of every vector and every random direction."""
        return float(next(iter(self.vectors.values())).norm())

    def noise(self, method: str, share: float, count: int) -> Tensor:
        """Return a vector with noise added, a share as long: [count, d_model]. The draws take turns."""
        turns = torch.arange(count) % len(self.randoms)
        return self.vectors[method] + share * self.length * self.randoms[turns]

    def random(self) -> Tensor:
        """Return random directions as long as the vectors: [draws, d_model]."""
        return self.length * self.randoms


def draw_randoms(activations: Tensor, vectors: Sequence[Tensor], count: int, seed: int) -> Tensor:
    """Draw unit directions [count, d_model] from the covariance of activations [n, d_model], each orthogonal to all
    vectors: as stage 5 draws them, whose place is beside one vector.
    """
    drawn = draw_directions(activations, count, seed)
    basis: list[Tensor] = []
    for vector in vectors:
        rest = vector.double()
        for known in basis:
            rest = rest - (rest @ known) * known
        if rest.norm() > 1e-6 * vector.norm():  # else it is a sum of those before
            basis.append(rest / rest.norm())
            drawn = apart_from(drawn, basis[-1])
    return torch.nn.functional.normalize(drawn, dim=-1)


def measure_arms(costs: Costs, texts: HeldOutTexts, pushes: Pushes) -> list[dict]:
    """Return what every arm costs: rows of the table `costs`. A side without texts has none."""
    return [
        row for side in ("pos", "neg") if getattr(texts, side) for row in _measure(costs, texts, pushes, side)
    ]


def _measure(costs: Costs, texts: HeldOutTexts, pushes: Pushes, side: str) -> list[dict]:
    own: list[Text] = getattr(texts, side)
    zero = torch.zeros(1, pushes.randoms.shape[1])
    table = Table(pushes.layer, side, own, costs.surprise(own, zero)[0])
    table.add(None, "unsteered", table.unsteered[None])
    if side == "pos":
        for arm, asked in (("prompted", texts.prompted), ("told", texts.told)):
            table.add(None, arm, _asked(costs, asked, zero))
        table.add(None, "random", costs.surprise(own, pushes.random()))

    for method, vector in pushes.vectors.items():
        table.add(method, "plus", costs.surprise(own, vector[None]))
        table.add(method, "minus", costs.surprise(own, -vector[None]))
        for share in NOISE if side == "pos" else ():
            noise = pushes.noise(method, share, len(own))
            table.add(method, f"noise {share:g}", costs.surprise_each(own, noise)[None])
    return table.rows


def _asked(costs: Costs, texts: Sequence[Text | None], zero: Tensor) -> np.ndarray:
    """Return the unsteered costs [1, n] of texts, NaN where there is none."""
    found = np.full((1, len(texts)), np.nan)
    known = [i for i, text in enumerate(texts) if text is not None]
    found[0, known] = costs.surprise([text for text in texts if text is not None], zero)[0]
    return found


class Table:
    """Rows of one side's texts, each against the unsteered model."""

    def __init__(self, layer: int, side: str, texts: Sequence[Text], unsteered: np.ndarray) -> None:
        self.about = {"layer": layer, "side": side, "tokens_of": SAID[side]}
        self.lengths = np.array([len(text.response_ids) for text in texts], dtype=float)
        self.groups = np.array([text.group for text in texts])
        self.unsteered = unsteered
        self.rows: list[dict] = []

    def add(self, method: str | None, arm: str, found: np.ndarray) -> None:
        """Add an arm's row.

        Args:
            found: Mean −log p of every text, one row a draw [draws, n]; NaN for a text that the arm does not have.
        """
        row = self.about | {"method": method, "arm": arm}
        known = ~np.isnan(found[0])
        row |= {"n_texts": int(known.sum()), "n_tokens": int(self.lengths[known].sum())}
        if known.any():
            row |= self._measured(found[:, known], known)
        if len(found) > 1:
            by_draw = np.average(found, axis=1, weights=self.lengths)
            row |= {
                "draws": len(found),
                "loss_lowest": float(by_draw.min()),
                "loss_highest": float(by_draw.max()),
            }
        self.rows.append(row)

    def _measured(self, found: np.ndarray, known: np.ndarray) -> dict:
        lengths, groups = self.lengths[known], self.groups[known]
        by_text = found.mean(0)
        loss = float(np.average(by_text, weights=lengths))
        change = by_text - self.unsteered[known]
        interval = interval_of(per_token(change, lengths), groups) or {}
        return {
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "change": float(np.average(change, weights=lengths)),
            "change_low": interval.get("low"),
            "change_high": interval.get("high"),
        }


def per_token(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return values [n] whose plain mean is the mean over tokens of texts with so many, and whose spread is that
    ratio's, linearised: R + n_i / n̄ · (x_i − R).
    """
    ratio = np.average(values, weights=lengths)
    return ratio + lengths / lengths.mean() * (values - ratio)
