"""Reading and writing the residual stream: `record` and `steer`, two `with` objects over the decoder
blocks.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from traitscope.utils.files.journal import key_of
from traitscope.utils.model.anatomy import hidden_of, layers, with_hidden
from traitscope.utils.model.parts import Part, parts_of

Positions = Literal["all", "response"]
POSITIONS = get_args(Positions)


class _Enough(Exception):
    """Ends a forward pass of which nothing further is needed."""


@contextmanager
def record(
    model: nn.Module,
    readout: Callable[[int, Tensor], None],
    component: str = "residual",
    until: int | None = None,
) -> Iterator[None]:
    """While active, call `readout(layer, hidden [batch, pos, d_model])` for every block of every forward
    pass.

    Args:
        until: The last layer that is needed: the first forward pass ends after it, and with it the `with`
            block.
    """

    def read(layer: int, part: Part) -> Callable:
        return lambda _module, _inputs, output: readout(layer, part.read(output))

    handles: list = []
    parts = parts_of(model, component)
    try:
        for layer, part in enumerate(parts):
            handles.append(part.module.register_forward_hook(read(layer, part)))
        if until is not None:
            handles.append(layers(model)[until].register_forward_hook(_stop))
        yield
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _stop(_module: nn.Module, _inputs: Any, _output: Any) -> None:
    raise _Enough


@dataclass(frozen=True)
class Push:
    """One intervention on one row: what is done to the residual stream at the output of one layer."""

    layer: int
    vector: Tensor  # [d_model]
    # add: times the vector as saved; ablate: the share removed; cap: the highest projection left; clamp: the
    # only one
    coefficient: float = 1.0
    operation: str = "add"
    gate: Tensor | None = (
        None  # [d_model]; where given, only positions whose projection on it is above `threshold` are changed
    )
    threshold: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether it leaves a projection that is known: what is not added, at every position."""
        return self.operation != "add" and self.gate is None

    @cached_property
    def key(self) -> str:
        """A digest of everything that the push does."""
        gate = None if self.gate is None else (_digest(self.gate), self.threshold)
        return key_of(self.layer, self.coefficient, self.operation, _digest(self.vector), gate)


def _digest(vector: Tensor) -> str:
    return hashlib.sha256(vector.detach().float().cpu().numpy().tobytes()).hexdigest()


def _add(hidden: Tensor, vector: Tensor, coefficient: Tensor) -> Tensor:
    return hidden + (coefficient * vector).to(hidden.dtype)


def _ablate(hidden: Tensor, unit: Tensor, coefficient: Tensor) -> Tensor:
    projection = (hidden.float() * unit).sum(-1, keepdim=True)
    return (hidden.float() - coefficient * projection * unit).to(hidden.dtype)


def _cap(hidden: Tensor, unit: Tensor, coefficient: Tensor) -> Tensor:
    excess = ((hidden.float() * unit).sum(-1, keepdim=True) - coefficient).clamp(min=0)
    return (hidden.float() - excess * unit).to(hidden.dtype)


def _clamp(hidden: Tensor, unit: Tensor, coefficient: Tensor) -> Tensor:
    # a row without a clamp has a zero vector, and its projection is not to become 0
    is_asked = unit.norm(dim=-1, keepdim=True) > 0
    change = coefficient - (hidden.float() * unit).sum(-1, keepdim=True)
    return (hidden.float() + is_asked * change * unit).to(hidden.dtype)


# applied in this order; a row without one has a zero vector
OPERATIONS = {"add": _add, "ablate": _ablate, "cap": _cap, "clamp": _clamp}


@dataclass
class SteerCheck:
    """What steering really did; `verify` raises when that is not what the plan says."""

    expected: dict[int, Tensor]  # layer → ‖Σ c·v‖ per row [batch], for rows that only add
    forwards: int = 0
    fires: dict[int, int] = field(default_factory=dict)
    # layer → change of the projection per row, first forward pass
    measured: dict[int, Tensor] = field(default_factory=dict)
    # layer → what the model's dtype can hide of it, per row
    rounding: dict[int, Tensor] = field(default_factory=dict)
    # rows where another operation did not do what it says, first forward pass
    broken: list[str] = field(default_factory=list)

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Do not count the passes of a block that raises: one that broke off has not fired every hook."""
        before = self.forwards, dict(self.fires)
        try:
            yield
        except RuntimeError:
            self.forwards, self.fires = before
            raise

    def verify(self) -> None:
        """Raise RuntimeError unless every hook fired in every pass and every projection moved by
        coefficient × ‖v‖.
        """
        for layer, wanted in self.expected.items():
            if self.fires.get(layer, 0) != self.forwards:
                raise RuntimeError(
                    f"steering at layer {layer} acted in {self.fires.get(layer, 0)} of {self.forwards} "
                    "forward passes"
                )
            if self.forwards:
                moved = self.measured[layer]
                wrong = (moved - wanted).abs() > 0.02 * wanted.abs() + self.rounding[layer]
                if wrong.any():
                    row = int(wrong.nonzero()[0])
                    raise RuntimeError(
                        f"steering at layer {layer}, row {row}: the projection moved by {moved[row]:.4g} "
                        f"instead of {wanted[row]:.4g}"
                    )
        if self.broken:
            raise RuntimeError(self.broken[0])


@contextmanager
def steer(model: nn.Module, plan: Sequence[Sequence[Push]], positions: str = "all") -> Iterator[SteerCheck]:
    """While active, steer every forward pass: `plan[i]` holds the pushes of row i of the batch.

    Args:
        plan: One sequence of pushes per row; it is split wherever the batch is split. An empty sequence
            leaves a row untouched.
        positions: "all", or "response": from the last prompt token on (in generation, the last position of
            every pass).

    Yields:
        A SteerCheck, verified when the block ends without an error.
    """
    if positions not in POSITIONS:
        raise ValueError(f"unknown positions {positions!r}; choose {', '.join(POSITIONS)}")

    blocks = layers(model)
    edits = {layer: _compile(plan, layer) for layer in sorted({push.layer for row in plan for push in row})}
    check = SteerCheck({layer: _expected(plan, layer) for layer in edits})
    handles: list = []

    try:
        handles.append(blocks[0].register_forward_pre_hook(lambda *_: _count_pass(check)))
        for layer, slots in edits.items():
            if not 0 <= layer < len(blocks):
                raise ValueError(f"no layer {layer}; the model has layers 0 to {len(blocks) - 1}")
            before: list[Tensor] = []
            handles.append(blocks[layer].register_forward_hook(_editor(slots, positions, before)))
            lone = {
                i: here[0]
                for i, row in enumerate(plan)
                if len(here := [p for p in row if p.layer == layer]) == 1 and here[0].is_exact
            }
            # sees what the next block will get
            handles.append(blocks[layer].register_forward_hook(_watcher(check, layer, slots, before, lone)))
        yield check
        check.verify()
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Slot:
    """Every row's k-th push of one kind at one layer."""

    operation: str
    vectors: Tensor  # [batch, 1, d_model]; zero for a row without one
    coefficients: Tensor  # [batch, 1, 1]
    gates: Tensor | None  # unit [batch, 1, d_model]; None when no row has one
    thresholds: Tensor  # [batch, 1, 1]; below any projection for a row without a gate

    def to(self, device: torch.device) -> "Slot":
        tensors = (self.vectors, self.coefficients, self.gates, self.thresholds)
        return Slot(self.operation, *(t.to(device) if t is not None else None for t in tensors))  # type: ignore[arg-type]

    def apply(self, hidden: Tensor) -> Tensor:
        changed = OPERATIONS[self.operation](hidden, self.vectors, self.coefficients)
        if self.gates is None:
            return changed
        is_open = (hidden.float() * self.gates).sum(-1, keepdim=True) > self.thresholds
        return torch.where(is_open, changed, hidden)


def _compile(plan: Sequence[Sequence[Push]], layer: int) -> list[Slot]:
    """Turn the rows' pushes at one layer into batched slots: slot k of an operation holds every row's
    k-th push of that kind.
    """
    slots: list[Slot] = []
    for operation in OPERATIONS:
        rows = [[push for push in row if push.layer == layer and push.operation == operation] for row in plan]
        for k in range(max(len(row) for row in rows)):
            chosen = [row[k] if k < len(row) else None for row in rows]
            slots.append(_stack(operation, chosen))

    unknown = {push.operation for row in plan for push in row} - OPERATIONS.keys()
    if unknown:
        raise ValueError(f"unknown operation {', '.join(sorted(unknown))}; choose {', '.join(OPERATIONS)}")

    return slots


def _stack(operation: str, pushes: list[Push | None]) -> Slot:
    d_model = next(p.vector.shape[0] for p in pushes if p)
    vectors = torch.stack([p.vector.detach().float().cpu() if p else torch.zeros(d_model) for p in pushes])
    if operation != "add":
        vectors = nn.functional.normalize(vectors, dim=-1)
    coefficients = torch.tensor([p.coefficient if p else 0.0 for p in pushes])
    thresholds = torch.tensor([p.threshold if p and p.gate is not None else -1.0 for p in pushes])
    gates = torch.stack(
        [p.gate.detach().float().cpu() if p and p.gate is not None else torch.zeros(d_model) for p in pushes]
    )
    has_gates = any(p and p.gate is not None for p in pushes)
    unit = nn.functional.normalize(gates, dim=-1)[:, None] if has_gates else None

    return Slot(operation, vectors[:, None], coefficients[:, None, None], unit, thresholds[:, None, None])


def _expected(plan: Sequence[Sequence[Push]], layer: int) -> Tensor:
    """Return ‖Σ c·v‖ per row; NaN (never wrong) where a row does more than add, everywhere, at this layer."""
    norms = []
    for row in plan:
        here = [p for p in row if p.layer == layer]
        total = sum((p.coefficient * p.vector.float().cpu() for p in here), torch.zeros(1))
        norms.append(
            float(total.norm())
            if all(p.operation == "add" and p.gate is None for p in here)
            else float("nan")
        )

    return torch.tensor(norms)


def _count_pass(check: SteerCheck) -> None:
    check.forwards += 1


def _editor(slots: list[Slot], positions: str, before: list[Tensor]) -> Callable:
    on_device: list[Slot] = []  # moved once, to wherever the layer turns out to be

    def edit(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        if not before:  # only the first pass is measured
            before.append(hidden[:, -1].float())
            on_device.extend(slot.to(hidden.device) for slot in slots)
        steered = hidden if positions == "all" else hidden[:, -1:]
        for slot in on_device:
            steered = slot.apply(steered)
        if positions == "response":
            steered = torch.cat([hidden[:, :-1], steered], dim=1)

        return with_hidden(output, steered)

    return edit


def _is_right(push: Push, was: float, found: float, rounding: float) -> bool:
    """Tell whether ablation, a cap or a clamp by itself at a layer left the projection that it should."""
    wanted = {
        "ablate": (1 - push.coefficient) * was,
        "cap": min(was, push.coefficient),
        "clamp": push.coefficient,
    }[push.operation]
    return abs(found - wanted) <= rounding + 0.01 * abs(was - wanted) + 1e-4


def _watcher(
    check: SteerCheck, layer: int, slots: list[Slot], before: list[Tensor], lone: dict[int, Push]
) -> Callable:
    additions = [(slot.vectors * slot.coefficients)[:, 0] for slot in slots if slot.operation == "add"]

    def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        check.fires[layer] = check.fires.get(layer, 0) + 1
        if layer not in check.measured:
            steered = hidden_of(output)[:, -1]
            moved = steered.float() - before[0]
            total = torch.stack(additions).sum(0) if additions else torch.zeros(moved.shape)
            check.rounding[layer] = 4 * torch.finfo(steered.dtype).eps * before[0].norm(dim=-1).cpu()
            check.measured[layer] = (
                (moved * nn.functional.normalize(total.to(moved.device), dim=-1)).sum(-1).cpu()
            )
            for row, push in lone.items():
                unit = nn.functional.normalize(push.vector.float(), dim=-1).to(moved.device)
                found, was = float(steered[row].float() @ unit), float(before[0][row] @ unit)
                if not _is_right(push, was, found, float(check.rounding[layer][row])):
                    check.broken.append(
                        f"steering at layer {layer}, row {row}: {push.operation} left a projection of "
                        f"{found:.4g}, which was {was:.4g}"
                    )

    return watch
