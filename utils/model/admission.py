"""What is tried on a model when it is loaded: a few short passes show whether its blocks can be read and
steered, and how it may be fed.

No list of families says that. A model whose blocks cannot be read or steered is refused here, before anything
is computed with it; one that does not keep rows apart under padding is fed rows of equal length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.anatomy import (
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
from traitscope.utils.model.batching import pad_left

Rows = Literal["padded", "equal", "single"]

TRIED = 12  # tokens of the text that is tried
WRITTEN = 4  # tokens that are written after it
# relative difference of logits that rounding explains; what is really wrong differs by more than half
NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}


@dataclass(frozen=True)
class Habits:
    """How a loaded model may be fed."""

    keeps_tokens: bool = True  # its cache holds keys and values by token: beginnings can be shared
    # which rows write together what each writes alone: padded on the left, of equal length, or none
    rows: Rows = "padded"
    takes_steps: bool = True  # its cache, handed back, goes on where it stood
    shortest: int = 1  # tokens of a prompt; of fewer, what was written before changes what is written next


@torch.inference_mode()
def admit(model: Any, name: str) -> Habits:
    """Try a model, and return how it may be fed.

    Raises:
        UserError: it does not run, does not write from left to right, or its blocks cannot be read or steered.
    """
    ids = _some_ids(model)
    try:
        streams, output = _read_blocks(model, ids)
        _require_streams(model, streams, name)
        _require_order(model, ids, streams, name)
        _require_effect(model, ids, output.logits, name)
        _require_one_reading(model, ids, output.logits, name)
        cache = getattr(output, "past_key_values", None)
        state = kept_state(output)
        return Habits(
            cache is not None and keeps_tokens(model, cache) and _takes_beginning(model, ids),
            _rows(model, state),
            cache is not None and _takes_steps(model, ids),
            1 if state is not None or _forgets(model, ids) else 2,
        )
    except UserError:
        raise
    except Exception as error:  # whatever a foreign model raises, it cannot be used
        raise UserError(
            f"{name} ({type(model).__name__}) does not run with this transformers: {first_line(error)}"
        ) from None


def _some_ids(model: Any, text: int = 0) -> Tensor:
    """Return a short text [1, tokens] without the tokens that mean something to a model's code."""
    special = {getattr(model.config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "image")}
    vocabulary = vocabulary_of(model)
    ids = [
        i for k in range(2 * TRIED) if (i := (7 * k + 3 * text + vocabulary // 3) % vocabulary) not in special
    ]
    most = min(TRIED, (position_limit(model) or TRIED) // 3)
    return torch.tensor([ids[: max(most, 2)]], device=model.get_input_embeddings().weight.device)


def _read_blocks(model: Any, ids: Tensor) -> tuple[list[list[Any]], Any]:
    """Return what every block put out, in the order of its calls, and the model's output."""
    calls: list[list[Any]] = [[] for _ in layers(model)]
    with _hooked(layers(model), lambda layer, output: calls[layer].append(hidden_of(output))):
        output = model(input_ids=ids, use_cache=True)
    return calls, output


def _require_streams(model: Any, calls: list[list[Any]], name: str) -> None:
    """Raise UserError unless every block ran once and put out one residual stream."""
    for layer, found in enumerate(calls):
        if len(found) != 1:
            raise UserError(
                f"{name} ({type(model).__name__}) is not supported: block {layer} runs {len(found)} times in a pass"
            )
        shape = tuple(found[0].shape) if isinstance(found[0], Tensor) else ()
        if len(shape) != 3 or shape[-1] != width_of(model):
            raise UserError(
                f"{name} ({type(model).__name__}) is not supported: block {layer} puts out {shape or 'no tensor'}, not "
                f"one residual stream [batch, tokens, {width_of(model)}]"
            )
        if not found[0].isfinite().all():
            raise UserError(
                f"{name}: block {layer} puts out values that are not finite in {str(model.dtype).partition('.')[2]}; the "
                "checkpoint is damaged, or needs --dtype float32 or bfloat16"
            )


def _require_order(model: Any, ids: Tensor, calls: list[list[Any]], name: str) -> None:
    """Raise UserError unless a token's activations depend on nothing that comes after it."""
    half = ids.shape[1] // 2
    shorter, _ = _read_blocks(model, ids[:, :half])
    if not all(
        _is_near(model, long[0][:, :half], short[0]) for long, short in zip(calls, shorter, strict=True)
    ):
        raise UserError(
            f"{name} ({type(model).__name__}) is not supported: its tokens look at those that come after them"
        )


def _require_effect(model: Any, ids: Tensor, logits: Tensor, name: str) -> None:
    """Raise UserError unless what is done to a block's output reaches the logits."""
    blocks = layers(model)
    for layer in {0, len(blocks) // 2, len(blocks) - 1}:

        def shift(_layer: int, output: Any) -> Any:
            hidden = hidden_of(output)
            return with_hidden(output, hidden + 2 * hidden.roll(1, dims=-1))

        with _hooked([blocks[layer]], shift):
            changed = model(input_ids=ids, use_cache=False).logits
        if torch.equal(changed, logits):
            raise UserError(
                f"{name} ({type(model).__name__}) is not supported: steering block {layer} changes nothing"
            )


def _require_one_reading(model: Any, ids: Tensor, logits: Tensor, name: str) -> None:
    """Raise UserError unless the model reads a text in generation as it does in a plain pass."""
    _, first = _write(model, ids.tolist())[0]
    if not _is_near(model, logits[0, -1], first[0]):
        raise UserError(
            f"{name} ({type(model).__name__}) is not supported: in generation it reads a text otherwise than in a plain "
            "pass"
        )


def _takes_beginning(model: Any, ids: Tensor) -> bool:
    """Tell whether rows whose beginning was computed before write what each of them writes alone."""
    whole = ids[0].tolist()
    n = len(whole) // 2
    rows = [whole, whole[:n] + whole[n:][::-1]]
    alone = [_write(model, [row])[0] for row in rows]
    try:
        begun = model.base_model(input_ids=ids[:, :n].expand(2, -1), use_cache=True).past_key_values
        together = _write(model, rows, past_key_values=begun)
    except Exception:  # then every row is fed whole
        return False
    return all(map(partial(_agree, model), alone, together))


def _rows(model: Any, state: Any) -> Rows:
    """Return which rows may be fed together: those that write, with the model's own generation, what each of
    them writes alone.

    A model that keeps its state to itself cannot be seen to keep it right under padding, and gets none.
    """
    kinds: tuple[Rows, ...] = ("padded", "equal") if state is not None else ("equal",)
    return next((kind for kind in kinds if _stay_apart(model, kind)), "single")


def _stay_apart(model: Any, kind: Rows) -> bool:
    """Tell whether rows write together what they write alone, for one text, or else for two others: where
    experts tie, rounding may choose another one, and that is not the rows' doing.
    """
    return _write_alike(model, kind, 0) or (_write_alike(model, kind, 1) and _write_alike(model, kind, 2))


def _write_alike(model: Any, kind: Rows, text: int) -> bool:
    long = _some_ids(model, text)[0].tolist()
    rows = [long, long[::-1]] if kind == "equal" else [long, long[len(long) // 2 :], long[-2:]]
    alone = [_write(model, [row])[0] for row in rows]
    try:
        together = _write(model, rows)
    except Exception:  # some refuse a mask, each in its own way
        return False
    return all(map(partial(_agree, model), alone, together))


def _write(model: Any, rows: Sequence[list[int]], **given: Any) -> list[tuple[list[int], Tensor]]:
    """Return each row's next tokens and their logits [new, vocabulary], as the model generates them."""
    ids, mask = pad_left(rows, model.generation_config.pad_token_id or 0)
    device = model.get_input_embeddings().weight.device
    output = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        do_sample=False,
        max_new_tokens=WRITTEN,
        min_new_tokens=WRITTEN,
        output_logits=True,
        return_dict_in_generate=True,
        **given,
    )
    written, logits = output.sequences[:, ids.shape[1] :], torch.stack(output.logits, dim=1)
    return list(zip(written.tolist(), logits, strict=True))


def _agree(model: Any, alone: tuple[list[int], Tensor], other: tuple[list[int], Tensor]) -> bool:
    """Tell whether a row's logits are the same, as far as the same tokens were written."""
    for step in range(WRITTEN):
        if not _is_near(model, alone[1][step], other[1][step]):
            return False
        if alone[0][step] != other[0][step]:  # a tie, within rounding
            return True
    return True


def _forgets(model: Any, ids: Tensor) -> bool:
    """Tell whether a text of one token goes on in the same way whatever was written before."""
    long = ids[0].tolist()
    first = _write(model, [long[:1]])[0]
    _write(model, [long])
    return _agree(model, first, _write(model, [long[:1]])[0])


def _takes_steps(model: Any, ids: Tensor) -> bool:
    """Tell whether a token fed after a cache is read as in one pass."""
    whole, _ = read_logits(model, 1, input_ids=ids, use_cache=False)
    _, output = read_logits(model, 1, input_ids=ids[:, :-1], use_cache=True)
    try:
        step, _ = read_logits(
            model, 1, input_ids=ids[:, -1:], past_key_values=output.past_key_values, use_cache=True
        )
    except Exception:  # then it is fed whole
        return False
    return _is_near(model, whole, step)


def _is_near(model: Any, a: Tensor, b: Tensor) -> bool:
    difference = a.float() - b.float().to(a.device)
    return bool(difference.norm() <= NEAR.get(model.dtype, 0.1) * a.float().norm())


@contextmanager
def _hooked(modules: Any, act: Any) -> Iterator[None]:
    """While active, hand each module's number and output to `act`; what that returns replaces the output."""

    def hook(number: int) -> Any:
        return lambda _module, _inputs, output: act(number, output)

    handles: list = []
    try:
        for number, module in enumerate(modules):
            assert isinstance(module, nn.Module)
            handles.append(module.register_forward_hook(hook(number)))
        yield
    finally:
        for handle in handles:
            handle.remove()
