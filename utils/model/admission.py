"""What is tried on a model when it is loaded: a few short passes show whether its blocks can be read and
steered, and how it may be fed.

No list of families says that. A model whose blocks cannot be read or steered is refused here, before anything
is computed with it; one that does not keep rows apart under padding is fed rows of equal length.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.anatomy import (
    chooses_by_score,
    hidden_of,
    keeps_tokens,
    kept_state,
    layers,
    position_limit,
    read_logits,
    vocabulary_of,
    width_of,
    with_hidden,
)
from traitscope.utils.model.batching import is_out_of_memory, pad_left

Rows = Literal["padded", "equal", "single"]
Written = tuple[list[int], Tensor]  # a row's new tokens, and their logits [new, vocabulary]

TRIED = 10  # tokens of the text that is tried
WRITTEN = 2  # tokens that are written after it: the second is the first that a cache is used for
# relative difference of logits that rounding explains; what is really wrong differs by more than half
NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclass(frozen=True)
class Habits:
    """How a loaded model may be fed."""

    keeps_tokens: bool = True  # its cache holds keys and values by token: beginnings can be shared
    # which rows write together what each writes alone: padded on the left, of equal length, or none
    rows: Rows = "padded"
    takes_steps: bool = True  # its cache, handed back, goes on where it stood
    forgets: bool = True  # what it wrote before does not change what it writes next


@torch.inference_mode()
def admit(model: Any, name: str) -> Habits:
    """Try a model, and return how it may be fed.

    Raises:
        UserError: it does not run, does not write from left to right, or its blocks cannot be read or steered.
    """
    try:
        trial = Trial(model, 0)
        fault = trial.find_fault()
        if not fault:
            return trial.find_habits()
    except Exception as error:  # whatever a foreign model raises, it cannot be used
        if isinstance(error, UserError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            raise
        raise UserError(
            f"{name} ({type(model).__name__}) does not run with this transformers: {first_line(error)}"
        ) from None

    raise UserError(f"{name} ({type(model).__name__}) cannot be used: {fault}")


class Trial:
    """A model and a short text that is run through it in several ways."""

    def __init__(self, model: Any, text: int) -> None:
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self.ids = _some_ids(model, text)
        self._alone: dict[tuple[int, ...], Written] = {}

    def find_fault(self) -> str:
        """Return why the model cannot be used, in words; "" where it can."""
        return (
            self._stream_fault()
            or self._order_fault()
            or self._effect_fault()
            or ("" if self._reads_alike() else "in generation it reads a text otherwise than in a plain pass")
            or (
                "its attention looks at what scores highest, and ties depend on the batch"
                if chooses_by_score(self.model)
                else ""
            )
        )

    def find_habits(self) -> Habits:
        """Return how the model may be fed."""
        state = kept_state(self._whole[1])
        cache = getattr(self._whole[1], "past_key_values", None)
        return Habits(
            keeps_tokens=cache is not None and keeps_tokens(self.model, cache) and self._takes_beginning(),
            rows=self._rows(state),
            takes_steps=cache is not None and self._takes_steps(),
            forgets=state is not None or self._forgets(),
        )

    @cached_property
    def _whole(self) -> tuple[list[list[Any]], Any]:
        return self._read_blocks(self.ids)

    @cached_property
    def _half(self) -> tuple[list[list[Any]], Any]:
        return self._read_blocks(self.ids[: len(self.ids) // 2])

    def _read_blocks(self, ids: list[int]) -> tuple[list[list[Any]], Any]:
        """Return what every block put out, in the order of its calls, and the model's output."""
        calls: list[list[Any]] = [[] for _ in layers(self.model)]
        with _hooked(layers(self.model), lambda layer, output: calls[layer].append(hidden_of(output))):
            output = self.model(input_ids=self._tensor([ids]), use_cache=True)
        return calls, output

    def _tensor(self, rows: Sequence[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self.device)

    def _stream_fault(self) -> str:
        """Every block runs once, and puts out one residual stream of finite values."""
        width = width_of(self.model)
        for layer, found in enumerate(self._whole[0]):
            if len(found) != 1:
                return f"block {layer} runs {len(found)} times in a pass"
            shape = tuple(found[0].shape) if isinstance(found[0], Tensor) else ()
            if len(shape) != 3 or shape[-1] != width:
                stream = f"[batch, tokens, {width}]"
                return f"block {layer} puts out {shape or 'no tensor'}, not one residual stream {stream}"
            if not found[0].isfinite().all():
                dtype = str(self.model.dtype).removeprefix("torch.")
                advice = "its checkpoint is damaged, or needs --dtype float32 or bfloat16"
                return f"block {layer} puts out values that are not finite in {dtype}; {advice}"
        return ""

    def _order_fault(self) -> str:
        """A token's activations depend on nothing that comes after it."""
        n = len(self.ids) // 2
        pairs = zip(self._whole[0], self._half[0], strict=True)
        is_causal = all(self._is_near(long[0][:, :n], short[0]) for long, short in pairs)
        return "" if is_causal else "its tokens look at those that come after them"

    def _effect_fault(self) -> str:
        """What is done to a block's output reaches the logits: each row of a batch is changed at one block."""
        blocks = layers(self.model)
        tried = sorted({0, len(blocks) // 2, len(blocks) - 1})

        def shift(row: int, output: Any) -> Any:
            hidden = hidden_of(output).clone()
            hidden[row] += 2 * hidden[row].roll(1, dims=-1)
            return with_hidden(output, hidden)

        with _hooked([blocks[layer] for layer in tried], shift):
            changed = self.model(input_ids=self._tensor([self.ids] * len(tried)), use_cache=False).logits
        still = [
            layer
            for row, layer in enumerate(tried)
            if self._is_near(self._whole[1].logits[0], changed[row], 1e-6)
        ]
        return f"steering block {still[0]} changes nothing" if still else ""

    def _reads_alike(self) -> bool:
        """The first token is written after the logits of a plain pass."""
        return self._is_near(self._whole[1].logits[0, -1], self._write_alone(self.ids)[1][0])

    def _takes_beginning(self) -> bool:
        """A text whose beginning was computed before goes on as it does alone."""
        beginning = self._tensor([self.ids[: len(self.ids) // 2]])
        try:
            begun = self.model.base_model(input_ids=beginning, use_cache=True)
            written = self._write([self.ids], past_key_values=begun.past_key_values)
        except Exception:  # then every row is fed whole
            return False
        return self._agree([self.ids], written)

    def _takes_steps(self) -> bool:
        """A token that is fed after a cache is read as in one pass."""
        n = len(self.ids) // 2
        known = {"past_key_values": self._half[1].past_key_values, "use_cache": True}
        try:
            step, _ = read_logits(self.model, 1, input_ids=self._tensor([self.ids[n : n + 1]]), **known)
        except Exception:  # then it is fed whole
            return False
        return self._is_near(self._whole[1].logits[0, n], step[0, 0])

    def _rows(self, state: Any) -> Rows:
        """Return which rows may be fed together: those that write, with the model's own generation, what each
        of them writes alone.

        A model that keeps its state to itself cannot be seen to keep it right under padding, and gets none.
        Where one text disagrees, two others decide: where experts tie, rounding may choose another one, and that
        is not the rows' doing.
        """
        kinds: tuple[Rows, ...] = ("padded", "equal") if state is not None else ("equal",)
        for kind in kinds:
            if self._stay_apart(kind) or all(Trial(self.model, i)._stay_apart(kind) for i in (1, 2)):
                return kind
        return "single"

    def _stay_apart(self, kind: Rows) -> bool:
        equal = [self.ids, self.ids[::-1]]
        rows = equal if kind == "equal" else [self.ids, self.ids[-2:]]
        try:
            return self._agree(rows, self._write(rows))
        except Exception:  # some refuse a mask, each in its own way
            return False

    def _forgets(self) -> bool:
        """A text of one token goes on in the same way whatever was written before."""
        short = [self.ids[:1]]
        first = self._write(short)[0]
        self._write([self.ids])
        return self._is_alike(first, self._write(short)[0])

    def _agree(self, rows: Sequence[list[int]], together: Sequence[Written]) -> bool:
        """Tell whether rows wrote together what each of them writes alone."""
        alone = [self._write_alone(row) for row in rows]
        return all(map(self._is_alike, alone, together))

    def _is_alike(self, one: Written, other: Written) -> bool:
        """Tell whether the logits are the same, as far as the same tokens were written."""
        for step in range(WRITTEN):
            if not self._is_near(one[1][step], other[1][step]):
                return False
            if one[0][step] != other[0][step]:  # a tie, within rounding
                return True
        return True

    def _write_alone(self, row: list[int]) -> Written:
        key = tuple(row)
        if key not in self._alone:
            self._alone[key] = self._write([row])[0]
        return self._alone[key]

    def _write(self, rows: Sequence[list[int]], **given: Any) -> list[Written]:
        """Return what the model's own generation writes after each row."""
        ids, mask = pad_left(rows, self.model.generation_config.pad_token_id or 0)
        output = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            do_sample=False,
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            output_logits=True,
            return_dict_in_generate=True,
            **given,
        )
        written = output.sequences[:, ids.shape[1] :].tolist()
        return list(zip(written, torch.stack(output.logits, dim=1), strict=True))

    def _is_near(self, a: Tensor, b: Tensor, within: float = 0.0) -> bool:
        difference = a.float() - b.float().to(a.device)
        return bool(difference.norm() <= (within or NEAR.get(self.model.dtype, 0.1)) * a.float().norm())


def _some_ids(model: Any, text: int) -> list[int]:
    """Return a short text without the tokens that mean something to a model's code."""
    special = {getattr(model.config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "image")}
    vocabulary = vocabulary_of(model)
    ids = [
        i for k in range(2 * TRIED) if (i := (7 * k + 3 * text + vocabulary // 3) % vocabulary) not in special
    ]
    most = min(TRIED, (position_limit(model) or 3 * TRIED) // 3)
    return ids[: max(most, 2)]


@contextmanager
def _hooked(modules: Sequence[nn.Module] | nn.ModuleList, act: Callable[[int, Any], Any]) -> Iterator[None]:
    """While active, hand each module's number and output to `act`; what that returns replaces the output."""

    def hook(number: int) -> Callable:
        return lambda _module, _inputs, output: act(number, output)

    handles: list = []
    try:
        for number, module in enumerate(modules):
            handles.append(module.register_forward_hook(hook(number)))
        yield
    finally:
        for handle in handles:
            handle.remove()
