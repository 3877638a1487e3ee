"""Ways to steer: one vector at one layer or several at many, added, removed, capped or clamped, always or
behind a gate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from traitscope.utils.errors import UserError
from traitscope.utils.model.hooks import Push
from traitscope.utils.records.vectors import coefficient_of
from traitscope.utils.stage.flags import flag

Operation = Literal["add", "ablate", "cap", "clamp"]
MultiLayer = Literal["no", "weighted", "orthogonal", "incremental"]


@dataclass(frozen=True)
class Intervention:
    """What is done to the residual stream."""

    operation: Operation = flag(
        "add",
        (
            "add (dose × the vector), ablate (remove the projection), cap (let it not exceed --cap-at) or clamp "
            "(set it to --cap-at)."
        ),
    )
    cap_at: str = flag(
        "roc",
        (
            "Where cap and clamp hold the projection: roc (what best separates the sides) or a percentile of "
            "the captured projections (25)."
        ),
    )
    multi_layer: MultiLayer = flag(
        "no",
        (
            "no, or steer all --layers at once, the dose shared out: weighted by how well each layer separates held-out responses, "
            "orthogonal (what is new against the layer before) or incremental (the difference to the layer "
            "before)."
        ),
    )
    gate_quantile: float = flag(
        0.5,
        (
            "With --gate-trait: the share of the dev questions' unsteered responses whose mean projection stays "
            "below the gate."
        ),
    )

    heading = "Steering"
    is_setting = True  # a key of config.json

    def check(self) -> None:
        """Raise UserError for a value that means nothing."""
        is_percentile = self.cap_at.replace(".", "", 1).isdigit() and float(self.cap_at) <= 100
        if self.cap_at != "roc" and not is_percentile:
            raise UserError(f"--cap-at {self.cap_at!r}: write roc, or a percentile from 0 to 100")
        if not 0 <= self.gate_quantile <= 1:
            raise UserError("--gate-quantile is a share from 0 to 1")


@dataclass(frozen=True)
class Site:
    """What is done at one layer."""

    layer: int
    vector: Tensor  # [d_model]
    norm: float  # mean ‖h‖ of the layer in the steered model: the unit of a dose
    share: float = 1.0  # of the dose
    level: float = 0.0  # cap, clamp: where the projection is held
    gate: Tensor | None = None  # [d_model]
    threshold: float = 0.0


@dataclass(frozen=True)
class Treatment:
    """A way to steer, whose force is a dose."""

    method: str
    sites: tuple[Site, ...]
    operation: str = "add"
    sign: int = 1  # the wanted change of the trait score: −1 for less of it

    @property
    def name(self) -> str:
        layers = (
            f"layer {self.sites[0].layer}"
            if len(self.sites) == 1
            else f"layers {'+'.join(str(s.layer) for s in self.sites)}"
        )
        return f"{self.method} {layers}" + (f" {self.operation}" if self.operation != "add" else "")

    @property
    def layers(self) -> list[int]:
        return [site.layer for site in self.sites]

    @property
    def has_opposite(self) -> bool:
        """Whether it can be reversed: only adding can."""
        return self.operation == "add"

    def pushes(self, dose: float) -> tuple[Push, ...]:
        """Return the pushes at a signed dose: a fraction of the layer's mean residual norm (of the
        projection, for what is not added).
        """
        return tuple(
            Push(s.layer, s.vector, self._coefficient(s, dose), self.operation, s.gate, s.threshold)
            for s in self.sites
        )

    def _coefficient(self, site: Site, dose: float) -> float:
        if self.operation == "add":
            return coefficient_of(self.sign * dose * site.share, site.norm, float(site.vector.norm()))
        return dose if self.operation == "ablate" else site.level


@dataclass(frozen=True)
class Surroundings:
    """What a treatment's sites take from the model and the data."""

    norms: Sequence[float]  # mean ‖h‖ per layer
    activations: Callable[[int], Tensor]  # layer → captured [n, d_model]
    is_pos: np.ndarray  # [n], the side of each
    sign: int = 1
    gates: Mapping[tuple[str, int], tuple[Tensor, float]] | None = (
        None  # (method, layer) → gate vector and threshold
    )


def build(
    intervention: Intervention,
    around: Surroundings,
    method: str,
    vectors: Mapping[int, Tensor],
    shares: Mapping[int, float] | None = None,
    gate_of: str = "",
) -> Treatment:
    """Return the treatment of one or several layers with these vectors ({layer: [d_model]}).

    Args:
        gate_of: The method whose gate is used, where it is not this one: a null's, of the vector in whose
            place it stands.

    Ablation and caps can only take the trait away, so that their wanted change is −1 whatever the trait's
    direction; a clamp raises or lowers it, as its level lies above or below the captured mean.
    """
    sites = []
    for layer, vector in vectors.items():
        level = (
            hold_at(intervention.cap_at, around.activations(layer), vector, around.is_pos)
            if intervention.operation in ("cap", "clamp")
            else 0.0
        )
        gate, threshold = around.gates[gate_of or method, layer] if around.gates else (None, 0.0)
        share = (shares or dict.fromkeys(vectors, 1 / len(vectors)))[layer]
        sites.append(Site(layer, vector, around.norms[layer], share, level, gate, threshold))

    wanted = {
        "add": around.sign,
        "clamp": 1 if all(s.level > _mean_projection(around, s) for s in sites) else -1,
    }.get(intervention.operation, -1)
    return Treatment(method, tuple(sites), intervention.operation, wanted)


def _mean_projection(around: Surroundings, site: Site) -> float:
    vector = site.vector.float()
    return float((around.activations(site.layer).float() @ (vector / vector.norm())).mean())


def hold_at(rule: str, activations: Tensor, vector: Tensor, is_pos: np.ndarray) -> float:
    """Return the projection on v̂ at which cap and clamp hold: a percentile of all captured ones, or
    Youden's threshold between the sides.
    """
    projections = (activations.float() @ (vector.float() / vector.float().norm())).numpy()
    if rule != "roc":
        return float(np.percentile(projections, float(rule)))
    return youden_threshold(projections[is_pos], projections[~is_pos])


def youden_threshold(pos: np.ndarray, neg: np.ndarray) -> float:
    """Return the midpoint that maximises |true − false positive rate| (Youden 1950, Cancer 3:32)."""
    values = np.unique(np.concatenate([pos, neg]))
    midpoints = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    gaps = [abs((pos > m).mean() - (neg > m).mean()) for m in midpoints]
    return float(midpoints[int(np.argmax(gaps))])


def compose(how: str, vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the vectors of several layers as they are steered together.

    orthogonal: each less its projection on the one before; incremental: each less the one before; else as
    they are.
    """
    composed: dict[int, Tensor] = {}
    previous: Tensor | None = None

    for layer, vector in sorted(vectors.items()):
        new = vector
        if previous is not None and how == "orthogonal":
            new = vector - (vector @ previous) / (previous @ previous) * previous
        if previous is not None and how == "incremental":
            new = vector - previous
        composed[layer] = new
        previous = vector

    if any(float(v.norm()) < 1e-6 * float(vectors[layer].norm()) for layer, v in composed.items()):
        raise UserError(f"--multi-layer {how}: a layer adds nothing to the one before; leave out layers")
    return composed
