"""Texts under vectors, many of both in one pass: what each token of a response costs the steered model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from traitscope.utils.model.anatomy import body_of, require_room
from traitscope.utils.model.batching import halve_on_oom, plan_batches
from traitscope.utils.model.loading import LM
from traitscope.utils.model.passes import pad_right
from traitscope.utils.model.upper import Edit, Head, UpperPart
from traitscope.utils.records.own_texts import Text

TOKENS = {"cuda": 8192}  # of a pass that keeps what its gradient needs, padding included
FEW_TOKENS = 1024  # on a CPU
TOLD = 64  # tokens of a target that are told apart
HEAD_BYTES = {"cuda": 256 << 20}  # of float32 logits that there are at a time
FEW_HEAD_BYTES = 32 << 20  # on a CPU


@dataclass(frozen=True)
class Row:
    """A text under one vector."""

    text: Text
    vector: int  # index into the vectors that are trained
    force: float  # factor on the vector; below 0 its opposite acts
    removes: bool = False  # take away what the states have along the vector, in place of a push


@dataclass(frozen=True, eq=False)
class Unit:
    """Rows whose losses belong together, all under one vector or its opposite."""

    rows: tuple[Row, ...]
    item: tuple[Text, ...]  # what was drawn
    vector: int

    @property
    def n_tokens(self) -> int:
        """Response tokens of all its rows."""
        return sum(len(row.text.response_ids) for row in self.rows)


@dataclass
class Passes:
    """Passes of steered rows through the upper part of a model; what lies below is computed once a text."""

    part: UpperPart
    layers: Sequence[int]  # of every vector
    positions: str = "all"
    saves_memory: bool = False
    # text → what the lowest layer put out [pos, d_model]
    known: dict[str, Tensor] = field(default_factory=dict)
    # text → what its tokens should be predicted as; where there is none, as themselves
    targets: dict[str, "Target"] = field(default_factory=dict)

    @property
    def lm(self) -> LM:
        return self.part.lm

    def read(self, texts: Sequence[Text]) -> None:
        """Compute what lies below the vectors, for texts that are not known yet. It takes as much memory as the
        residual stream at all their tokens.
        """
        new = [text for text in {t.key: t for t in texts}.values() if text.key not in self.known]
        require_room(self.lm, max((len(text.ids) for text in new), default=0))

        def run(chosen: Sequence[Text]) -> list[Tensor]:
            states = self.part.states(pad_right([t.ids for t in chosen]).to(self.lm.device))
            return [state[: len(t.ids)].clone() for t, state in zip(chosen, states, strict=True)]

        for batch in plan_batches([len(t.ids) for t in new], max_tokens=self._tokens):
            chosen = [new[i] for i in batch]
            self.known |= zip((t.key for t in chosen), halve_on_oom(run, chosen), strict=True)

    def batches(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Return units in batches whose rows fit into a pass, longest first."""
        sizes = [len(unit.rows) * max(len(row.text.ids) for row in unit.rows) for unit in units]
        return [[units[i] for i in batch] for batch in plan_batches(sizes, max_tokens=self._tokens)]

    @property
    def _tokens(self) -> int:
        return TOKENS.get(self.lm.device.type, FEW_TOKENS)

    @property
    def _states_at_a_time(self) -> int:
        """How many states the head reads at once."""
        held = HEAD_BYTES.get(self.lm.device.type, FEW_HEAD_BYTES)
        return max(1, held // (4 * self.lm.n_tokens))

    def losses(self, vectors: Tensor, units: Sequence[Unit]) -> list[list[Tensor]]:
        """Return the cost of every response token of every row [n_tokens], steered by vectors [n, d_model]: its −log p,
        or, where there are targets, the divergence from these.
        """
        rows = [row for unit in units for row in unit.rows]
        texts = [row.text for row in rows]
        ids = pad_right([t.ids for t in texts])
        output = self.part.run(
            ids.to(self.lm.device),
            self._states(texts),
            self._edits(vectors, rows),
            saves_memory=self.saves_memory,
        )
        # the state before each response token predicts it
        spots = [(i, p) for i, t in enumerate(texts) for p in range(len(t.prompt_ids) - 1, len(t.ids) - 1)]
        row, position = torch.tensor(spots).T
        hidden = output.last_hidden_state
        chosen = hidden[row.to(hidden.device), position.to(hidden.device)]
        if self.targets:
            told = [torch.cat(parts) for parts in zip(*(self.targets[t.key] for t in texts), strict=True)]
            found = self._costs(partial(_divergence, self.part.head, output), chosen, told)
        else:
            found = self._costs(partial(_surprise, self.part.head, output), chosen, [ids[row, position + 1]])
        by_row = iter(found.split([len(t.response_ids) for t in texts]))
        return [[next(by_row) for _ in unit.rows] for unit in units]

    def _states(self, texts: Sequence[Text]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([self.known[t.key] for t in texts], batch_first=True)

    def _edits(self, vectors: Tensor, rows: Sequence[Row]) -> dict[int, Edit]:
        """Return what is added at every layer. Neither padding nor position 0, a sink, is ever pushed."""
        width = max(len(row.text.ids) for row in rows)
        forces, removals = torch.zeros(2, len(rows), width, 1)
        for i, row in enumerate(rows):
            first = 1 if self.positions == "all" else max(len(row.text.prompt_ids) - 1, 1)
            span = slice(first, len(row.text.ids))
            (removals if row.removes else forces)[i, span] = 1.0 if row.removes else row.force

        chosen = vectors[torch.tensor([row.vector for row in rows], device=vectors.device)][:, None]
        edits: dict[int, Edit] = {}
        for layer in sorted({self.layers[row.vector] for row in rows}):
            here = torch.tensor([float(self.layers[row.vector] == layer) for row in rows])[:, None, None]
            edits[layer] = partial(_add, forces * here, chosen)
            if removals.any():
                edits[layer] = partial(_add_and_remove, forces * here, removals * here, chosen)
        return edits

    def _costs(self, cost: Callable[..., Tensor], hidden: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the cost [n] of states [n, d_model] against targets, each [n, …], some at a time."""
        size = self._states_at_a_time
        chunks = list(zip(*(t.to(hidden.device).split(size) for t in (hidden, *targets)), strict=True))
        return torch.cat([_with_gradient(cost, *chunk) for chunk in chunks])

    @torch.no_grad()
    def teach(self, texts: Sequence[Text]) -> None:
        """Take as targets what the model predicts where it is told to: after the prompts with an instruction."""
        size = self._states_at_a_time
        told = [text.told_ids + text.response_ids for text in texts]
        require_room(self.lm, max(map(len, told), default=0))
        for batch in plan_batches([len(ids) for ids in told], max_tokens=self._tokens):
            ids = pad_right([told[i] for i in batch]).to(self.lm.device)
            output = body_of(self.lm.model)(input_ids=ids, use_cache=False)
            for row, i in enumerate(batch):
                span = slice(len(texts[i].told_ids) - 1, len(told[i]) - 1)
                parts = [
                    likeliest(self.part.head.read(output, hidden))
                    for hidden in output.last_hidden_state[row, span].split(size)
                ]
                self.targets[texts[i].key] = Target(*(torch.cat(c) for c in zip(*parts, strict=True)))


class Target(NamedTuple):
    """What each of n tokens should be predicted as: the likeliest, and all others together."""

    ids: Tensor  # [n, k]
    logs: Tensor  # [n, k], log p
    tail: Tensor  # [n], log p of all others


def likeliest(logits: Tensor) -> Target:
    """Return the likeliest tokens by logits [n, vocabulary]."""
    logs = torch.log_softmax(logits.float(), -1)
    top, ids = logs.topk(min(TOLD, logs.shape[-1]))
    return Target(ids, top, _rest(top))


def _rest(logs: Tensor) -> Tensor:
    """Return log(1 − Σ p) of [n, k]."""
    return torch.log1p(-logs.exp().sum(-1).clamp(max=1 - 1e-6))


def _add(forces: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
    """Add forces [rows, pos, 1] times vectors [rows, 1, d_model], in float32 until they meet the model's dtype."""
    push = forces.to(vectors.device) * vectors
    return hidden + push.to(device=hidden.device, dtype=hidden.dtype)


def _add_and_remove(forces: Tensor, removals: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
    """Add as above; where removals [rows, pos, 1] are 1, take away h's part along the vector if it points that way,
    relu(h·v) / ‖v‖² · v (the null intervention of RePS, Wu et al. 2025, arXiv 2505.20809).
    """
    seen = hidden.to(device=vectors.device, dtype=torch.float32)
    along = torch.relu((seen * vectors).sum(-1, keepdim=True))
    part = (
        along / (vectors * vectors).sum(-1, keepdim=True).clamp(min=1e-12) * vectors
    )  # of a zero vector: nothing
    push = forces.to(vectors.device) * vectors - removals.to(vectors.device) * part
    return hidden + push.to(device=hidden.device, dtype=hidden.dtype)


def _with_gradient(cost: Callable[..., Tensor], hidden: Tensor, *targets: Tensor) -> Tensor:
    """Return the cost [n] of states [n, d_model], with its gradient taken at once: a state's cost depends on no other
    state, so that the logits need not be kept until the way back.
    """
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return cost(hidden, *targets)
    own = hidden.detach().requires_grad_()
    found = cost(own, *targets)
    gradient = torch.autograd.grad(found.sum(), own)[0]
    changed = (hidden - own.detach()).float() * gradient.float()  # of value zero
    return found.detach() + changed.sum(-1)


def _surprise(head: Head, output: object, hidden: Tensor, labels: Tensor) -> Tensor:
    logits = head.read(output, hidden)
    return torch.nn.functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="none")


def _divergence(
    head: Head, output: object, hidden: Tensor, ids: Tensor, logs: Tensor, tail: Tensor
) -> Tensor:
    """Return KL(target ‖ predicted) [n], in nats, all tokens but the target's likeliest taken as one."""
    logits = head.read(output, hidden)
    ids, logs, tail = (t.to(logits.device) for t in (ids, logs, tail))
    ours = torch.log_softmax(logits.float(), -1).gather(-1, ids)
    return (logs.exp() * (logs - ours)).sum(-1) + tail.exp() * (tail - _rest(ours))
