"""What attention and MLP add to the residual stream: derived from the modules of each block, and proved.

Families differ: some normalise what a module returns before they add it (Gemma, OLMo 2), some scale it
(Granite), some let the module add the stream itself (Bloom). So a module's name alone says nothing. A short text
is run, and of every block the pair of modules is taken whose outputs, each times one factor, sum to what the
block changed. A second text must confirm it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import hidden_of, layers, vocabulary_of

Component = Literal["residual", "attn_out", "mlp_out"]
COMPONENTS = get_args(Component)

DEEP = 3  # levels of modules within a block that are looked at
TRIED = 24  # tokens of a text that is run to find the parts
# in the paths of modules that mix tokens, and of those that work on each token by itself
_MIXES = re.compile(r"att|mixer|mamba|conv|temporal|recurrent|ssm|rnn", re.IGNORECASE)
_WORKS = re.compile(r"mlp|ffn|ff\b|feed_?forward|moe|fc2|dense_4h|expert|channel", re.IGNORECASE)


class Part(NamedTuple):
    """What a block adds to the residual stream by one of its modules: the module's output times a factor."""

    module: nn.Module
    factor: float = 1.0

    def read(self, output: Any) -> Tensor:
        """Return the contribution [batch, pos, d_model] from the module's output."""
        hidden = hidden_of(output)
        return hidden if self.factor == 1 else hidden * self.factor


class Pair(NamedTuple):
    """Two modules of a block, by their paths in it, and their factors."""

    attn: str
    mlp: str
    factors: tuple[float, float] = (1.0, 1.0)


@dataclass
class Trace:
    """What a block was given, what it returned, and what its modules returned on the way, [pos, d_model],
    without the first token, a sink.
    """

    eps: float  # of the model's dtype
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    after: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def is_sum_of(self, pair: Pair) -> bool:
        """Tell whether a pair's outputs sum to what the block changed, but for what the dtype rounds away."""
        if pair.attn not in self.outputs or pair.mlp not in self.outputs:
            return False

        change = self.after - self.before
        total = pair.factors[0] * self.outputs[pair.attn] + pair.factors[1] * self.outputs[pair.mlp]
        rounding = max(1e-4, 8 * self.eps) * change.norm() + 2 * self.eps * self.before.norm()
        return bool((total - change).norm() <= min(rounding, 0.3 * change.norm()))

    def find_pair(self) -> Pair | None:
        """Return the outermost two modules, one that mixes tokens and one that works on each, that sum to the
        block's change; those added as they are come before those that are scaled.
        """
        by_depth = sorted(self.outputs, key=lambda name: name.count("."))
        mixers = [name for name in by_depth if _MIXES.search(name)]
        workers = [name for name in by_depth if name not in mixers]
        plain = [Pair(attn, mlp) for attn in mixers for mlp in workers]

        for pair in (*plain, *map(self._scaled, plain)):
            if self.is_sum_of(pair):
                return pair
        return None

    def _scaled(self, pair: Pair) -> Pair:
        """Return a pair with the factors that fit best, by least squares."""
        both = torch.stack([self.outputs[pair.attn].flatten(), self.outputs[pair.mlp].flatten()], dim=1)
        change = (self.after - self.before).flatten()[:, None]
        attn, mlp = torch.linalg.lstsq(both, change).solution.flatten().tolist()
        return pair._replace(factors=(attn, mlp))


_known: WeakKeyDictionary[Any, list[Pair | None]] = WeakKeyDictionary()  # model → pairs by layer


def parts_of(model: Any, component: str) -> list[Part]:
    """Return, for every layer, the module whose output the block writes to its residual stream, times a
    factor (the block itself for `residual`).

    Raises:
        ValueError: there is no such component.
        UserError: the model's blocks do not change the stream by the sum of two such parts.
    """
    if component not in COMPONENTS:
        raise ValueError(f"unknown component {component!r}; choose {', '.join(COMPONENTS)}")
    if component == "residual":
        return [Part(block) for block in layers(model)]

    if model not in _known:
        _known[model] = _derive(model)
    if None in _known[model]:
        raise UserError(
            f"--component {component}: in {type(model).__name__}, layer {_known[model].index(None)}, attention and "
            "MLP do not sum to what the block adds to the residual stream; read --component residual there"
        )

    pairs = [pair for pair in _known[model] if pair]
    chosen = [(p.attn, p.factors[0]) if component == "attn_out" else (p.mlp, p.factors[1]) for p in pairs]
    return [Part(b.get_submodule(n), f) for b, (n, f) in zip(layers(model), chosen, strict=True)]


def _derive(model: Any) -> list[Pair | None]:
    """Find each block's pair on one text, and keep it where another text confirms it."""
    pairs: list[Pair | None] = [None] * len(layers(model))

    def find(layer: int, trace: Trace) -> None:
        pairs[layer] = trace.find_pair()

    def confirm(layer: int, trace: Trace) -> None:
        pair = pairs[layer]
        pairs[layer] = pair if pair and trace.is_sum_of(pair) else None

    for seed, look in enumerate((find, confirm)):
        _run(model, seed, look)
    return pairs


@torch.inference_mode()
def _run(model: Any, seed: int, look: Callable[[int, Trace], None]) -> None:
    """Run random ids through the model, and let every block's trace be looked at when the block is done."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary_of(model), (1, TRIED), generator=drawn)
    with _watching(model, look):
        model.base_model(input_ids=ids.to(model.get_input_embeddings().weight.device), use_cache=False)


@contextmanager
def _watching(model: Any, look: Callable[[int, Trace], None]) -> Iterator[None]:
    handles: list = []
    try:
        for layer, block in enumerate(layers(model)):
            trace = Trace(torch.finfo(model.dtype).eps)
            handles.append(block.register_forward_pre_hook(_keep_input(trace), with_kwargs=True))
            handles.append(block.register_forward_hook(_close(trace, layer, look)))
            handles += [
                module.register_forward_hook(_keep_output(trace, name))
                for name, module in block.named_modules()
                if name.count(".") < DEEP and (_MIXES.search(name) or _WORKS.search(name))
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(trace: Trace) -> Callable:
    def keep(_module: nn.Module, inputs: tuple, named: dict) -> None:
        trace.before = _rows(inputs[0] if inputs else named["hidden_states"])

    return keep


def _keep_output(trace: Trace, name: str) -> Callable:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden = hidden_of(output)
        if isinstance(hidden, Tensor) and hidden.dim() == 3 and _rows(hidden).shape == trace.before.shape:
            trace.outputs[name] = _rows(hidden)

    return keep


def _close(trace: Trace, layer: int, look: Callable[[int, Trace], None]) -> Callable:
    def close(_module: nn.Module, _inputs: Any, output: Any) -> None:
        trace.after = _rows(hidden_of(output))
        look(layer, trace)
        trace.outputs.clear()  # of one block at a time

    return close


def _rows(hidden: Tensor) -> Tensor:
    return hidden[0, 1:].double().cpu()
