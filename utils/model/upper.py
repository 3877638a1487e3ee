"""The part of a model above one block, run by the model's own code on what that block put out.

A vector that is added behind a block changes nothing at or below it. So the blocks up to there are run once, and
rest afterwards: the model goes through its forward pass as always, makes its masks and positions itself, and is
handed the known states where it would compute them. No block is called by hand, whatever its family.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import body_of, hidden_of, layers, vocabulary_of, with_hidden
from traitscope.utils.model.hooks import record
from traitscope.utils.model.loading import LM

Edit = Callable[[Tensor], Tensor]  # hidden [batch, pos, d_model] → the same, changed
TRIED = 24  # tokens of the text on which passing over blocks is tried
NEAR = 1e-4  # how far the two ways may differ, as a share of the states' length


@dataclass(frozen=True)
class UpperPart:
    """A model from behind one block on."""

    lm: LM
    layer: int  # the highest block that rests
    # what a block's output is made of its hidden state; None where the lower blocks cannot be passed over, and the
    # whole model runs, to the same result
    wrap: Callable[[Tensor], Any] | None
    head: "Head"

    @classmethod
    def of(cls, lm: LM, layer: int) -> "UpperPart":
        """Return the part above a layer; a short text decides whether the blocks below can rest.

        They cannot where something above reads more of them than the stream, such as keys that several blocks
        share.

        Raises:
            UserError: the model's head cannot be run by itself.
        """
        unresting = cls.whole(lm, layer)
        ids = _some_ids(lm)
        outputs: list[Any] = []
        with torch.no_grad():
            with _hooked(layers(lm.model)[layer], lambda _module, _inputs, output: outputs.append(output)):
                whole = body_of(lm.model)(input_ids=ids, use_cache=False).last_hidden_state
            part = replace(unresting, wrap=_form_of(outputs[0]))
            try:
                upper = part.run(ids, part.states(ids), {}).last_hidden_state
            except Exception:  # of a model's own code, each in its own way
                return unresting
        is_same = bool((upper.float() - whole.float()).norm() <= NEAR * whole.float().norm())
        return part if is_same else unresting

    @classmethod
    def whole(cls, lm: LM, layer: int) -> "UpperPart":
        """Return the same, with nothing passed over."""
        return cls(lm, layer, None, Head.of(lm))

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """Return what the layer puts out for ids [batch, pos]: [batch, pos, d_model], in the model's dtype."""
        found: list[Tensor] = []

        def keep(layer: int, hidden: Tensor) -> None:
            if layer == self.layer:  # and let those below go
                found.append(hidden)

        with record(self.lm.model, keep, until=self.layer):
            body_of(self.lm.model)(input_ids=ids, use_cache=False)
        return found[0]

    def run(
        self, ids: Tensor, states: Tensor, edits: Mapping[int, Edit], *, saves_memory: bool = False
    ) -> Any:
        """Run the model above the layer, and return what its base model puts out.

        Args:
            ids: [batch, pos], padded on the right: exact for the real tokens of a causal model, without a mask.
            states: What the layer puts out for them, [batch, pos, d_model].
            edits: {layer: what is done to its output}, of this layer and those above.
            saves_memory: Keep the states between blocks only, and compute the blocks again on the way back.
        """
        model = self.lm.model
        resting = layers(model)[: self.layer + 1] if self.wrap else ()
        known = self.wrap(states) if self.wrap else None
        recomputed = layers(model)[self.layer + 1 :] if saves_memory else ()

        with ExitStack() as stack:
            for block in resting:
                stack.enter_context(_instead(block, lambda *_, **__: known))
            for block in recomputed:
                stack.enter_context(_instead(block, partial(_recompute, block.forward)))
            for layer, edit in edits.items():
                stack.enter_context(_hooked(layers(model)[layer], _editor(edit)))
            return body_of(model)(input_ids=ids, use_cache=False)


@dataclass(frozen=True)
class Head:
    """All that a model does behind its last block: its head, and what follows it."""

    lm: LM
    core: nn.Module  # what the model calls for the states behind its last block

    @classmethod
    def of(cls, lm: LM) -> "Head":
        """Return a model's head; a short text decides which module stands before it.

        Raises:
            UserError: it cannot be run by itself.
        """
        ids = _some_ids(lm)[:1]
        with torch.no_grad():
            output = body_of(lm.model)(input_ids=ids, use_cache=False)
            logits = lm.model(input_ids=ids).logits[0].float()
            for core in (body_of(lm.model), lm.model.get_decoder()):
                head = cls(lm, core)
                try:
                    found = head.read(output, output.last_hidden_state[0]).float()
                except Exception:  # of a model's own code, each in its own way
                    continue
                if found.shape == logits.shape and (found - logits).norm() <= NEAR * logits.norm():
                    return head
        raise UserError(
            f"no vector can be trained through {type(lm.model).__name__}: its head cannot be run without its blocks"
        )

    def read(self, output: Any, hidden: Tensor) -> Tensor:
        """Return the logits [n, vocabulary] of final states [n, d_model].

        Args:
            output: What the base model put out in a forward pass: a model looks for more in it than the states.
        """
        known = type(output)(**{**output, "last_hidden_state": hidden[None]})
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=self.lm.device)
        with _instead(self.core, lambda *_, **__: known):
            return self.lm.model(input_ids=ids).logits[0]


@contextmanager
def _hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _instead(module: nn.Module, forward: Callable) -> Iterator[None]:
    """While active, a module's forward pass is another one."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:  # of accelerate, or of a routed linear layer
            module.forward = own


def _form_of(output: Any) -> Callable[[Tensor], Any]:
    """Return what puts a hidden state into the form of a block's output, with nothing else that it held."""
    if not isinstance(output, (tuple, list)):
        return lambda hidden: hidden
    kind, others = type(output), (None,) * (len(output) - 1)
    return lambda hidden: kind((hidden, *others))


def _editor(edit: Edit) -> Callable:
    return lambda _module, _inputs, output: with_hidden(output, edit(hidden_of(output)))


def _recompute(forward: Callable, *inputs: Any, **named: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, **named)


def _some_ids(lm: LM) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary_of(lm.model), (2, TRIED), generator=drawn).to(lm.device)
