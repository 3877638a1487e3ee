"""A loaded model, tried against the plainest way to do the same: one row at a time, without padding, without a
cache handed on, by hooks set by hand.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from traitscope.utils.errors import UserError
from traitscope.utils.judge.local import digit_tokens, number_paths, number_probabilities
from traitscope.utils.model.anatomy import end_tokens, hidden_of, layers, position_limit, with_hidden
from traitscope.utils.model.capture import Reading, pool_activations, record_stream
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, cut_at_end, generate
from traitscope.utils.model.hooks import Push, record
from traitscope.utils.model.loading import LM

SHARED = "Here is a beginning, somewhat long, that several of the texts have in common, word for word:"
TEXTS = (
    "The cat sat on the mat.",
    "Why is the sky blue, and what makes it red on some evenings and grey on others?",
    f"{SHARED} one of them asks for bread.",
    f"{SHARED} another asks for water, and for some salt.",
)
NEW_TOKENS = 12
# differences that rounding explains, as shares of what is compared
NEAR = {torch.float32: 1e-4}
NEAR_IN_16_BITS = 0.05


@dataclass(frozen=True)
class Finding:
    """How one ability fared."""

    what: str
    said: str
    is_right: bool  # exact, or refused with the reason
    is_refused: bool = False


def check_model(lm: LM) -> list[Finding]:
    """Try texts, streams, parts, steering, a local judge's reading, and chat, and return what was found."""
    abilities: dict[str, Callable[[LM], Finding]] = {
        "texts": _check_texts,
        "streams": _check_streams,
        "parts": _check_parts,
        "steering": _check_steering,
        "numbers": _check_numbers,
    }
    return [check(lm) for check in abilities.values()]


def describe_feeding(lm: LM) -> str:
    """Return in words how the model is fed."""
    together = {
        "padded": "rows of all lengths share a batch",
        "equal": "rows of equal length share a batch",
        "single": "one row at a time",
    }
    return together[lm.habits.rows] + (
        ", common beginnings are computed once" if lm.habits.keeps_tokens else ""
    )


def _prompts(lm: LM, *, as_chat: bool) -> list[list[int]]:
    """Return the texts as token ids, those for which there is room: some models know few positions."""
    prompts = [encode(lm, [{"role": "user", "content": text}] if as_chat else text) for text in TEXTS]
    limit = position_limit(lm.model) or 10**9
    fitting = [ids for ids in prompts if len(ids) + NEW_TOKENS <= limit]
    return fitting or [prompts[0][: max(limit - NEW_TOKENS, 2)]]


def _rows(lm: LM, pushes: tuple[Push, ...] = ()) -> list[Row]:
    return [Row(ids, pushes=pushes) for as_chat in (False, True) for ids in _prompts(lm, as_chat=as_chat)]


@torch.inference_mode()
def _write_plainly(lm: LM, row: Row) -> list[int]:
    """Return what the model's own generation writes after one row, unpadded."""
    ids = torch.tensor([row.prompt_ids], device=lm.device)
    output = lm.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS
    )
    return cut_at_end(output[0, ids.shape[1] :].tolist(), set(end_tokens(lm))).ids


def _write_ours(lm: LM, rows: Sequence[Row]) -> list[list[int]]:
    return [c.thought + c.ids for c in generate(lm, rows, Sampling(NEW_TOKENS))]


def _check_texts(lm: LM) -> Finding:
    rows = _rows(lm)
    same = [ours == _write_plainly(lm, row) for ours, row in zip(_write_ours(lm, rows), rows, strict=True)]
    return Finding("texts", f"{sum(same)} of {len(same)} in one batch as alone", all(same))


def _check_streams(lm: LM) -> Finding:
    """Compare pooled activations with hooks set by hand."""
    texts = _prompts(lm, as_chat=False)
    readings = [Reading(ids, list(range(len(ids) // 2, len(ids)))) for ids in texts]
    ours = pool_activations(lm, readings).activations
    plain = torch.stack([_read_plainly(lm, reading) for reading in readings])
    return _finding("streams", lm, ours, plain, "plain hooks")


@torch.inference_mode()
def _read_plainly(lm: LM, reading: Reading) -> Tensor:
    """Return the mean output of every block over the positions, [n_layers, d_model]."""
    found: list[Tensor] = []
    with _hooked(
        lm, lambda output: found.append(hidden_of(output)[0, reading.positions].float().mean(0).cpu())
    ):
        lm.model(input_ids=torch.tensor([reading.ids], device=lm.device))
    return torch.stack(found)


@contextmanager
def _hooked(lm: LM, read: Callable) -> Iterator[None]:
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: read(output))
        for block in layers(lm.model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def _check_parts(lm: LM) -> Finding:
    """Compare attn_out + mlp_out with the block's change, from the second block on."""
    ids = _prompts(lm, as_chat=False)[-1]
    total = torch.zeros(lm.n_layers, len(ids), lm.d_model)

    def add(layer: int, hidden: Tensor) -> None:
        total[layer] += hidden[0].float().cpu()

    try:
        for component in ("attn_out", "mlp_out"):
            with record(lm.model, add, component):
                lm.model.base_model(input_ids=torch.tensor([ids], device=lm.device))
    except UserError:
        return Finding("parts", "refused: they do not sum to the block's change", True, is_refused=True)

    return _finding("parts", lm, total[:, 1:], _change_plainly(lm, ids)[:, 1:], "the block's change")


@torch.inference_mode()
def _change_plainly(lm: LM, ids: list[int]) -> Tensor:
    """Return what every block adds to the residual stream, [n_layers, n_tokens, d_model]."""
    given: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(
            lambda _module, inputs, named: given.append(
                (inputs[0] if inputs else named["hidden_states"])[0].clone()
            ),
            with_kwargs=True,
        )
        for block in layers(lm.model)
    ]
    try:
        returned = record_stream(lm, ids)
    finally:
        for handle in handles:
            handle.remove()
    return returned - torch.stack(given).float().cpu()


def _check_steering(lm: LM) -> Finding:
    """Compare steered texts of one batch, beside unsteered ones, with hooks set by hand, one row at a time."""
    layer = lm.n_layers // 2
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    stream = record_stream(lm, _prompts(lm, as_chat=False)[-1])[layer, 1:]
    vector *= 0.4 * stream.norm(dim=-1).mean() / vector.norm()
    rows = _rows(lm, (Push(layer, vector),))
    ours = _write_ours(lm, [*rows, *_rows(lm)])[: len(rows)]

    def push(_module: object, _inputs: object, output: object) -> object:
        hidden = hidden_of(output)
        return with_hidden(output, hidden + vector.to(hidden.device, hidden.dtype))

    handle = layers(lm.model)[layer].register_forward_hook(push)
    try:
        same = [text == _write_plainly(lm, row) for text, row in zip(ours, rows, strict=True)]
    finally:
        handle.remove()
    return Finding("steering", f"{sum(same)} of {len(same)} in a mixed batch as alone", all(same))


def _check_numbers(lm: LM) -> Finding:
    """Compare a local judge's probabilities of some numbers with the same by brute force."""
    prompts = _prompts(lm, as_chat=True)
    known = number_paths(lm)
    numbers = {path: n for path, n in known.items() if n in (0, 7, 72, 100)}
    if not numbers:
        return Finding("numbers", "refused: its tokenizer writes no numbers", True, is_refused=True)

    ours = number_probabilities(lm, prompts, numbers)
    plain = [_numbers_plainly(lm, prompt, numbers) for prompt in prompts]
    pairs = [
        (row[n], other[n])
        for row, other in zip(ours, plain, strict=True)
        for n in sorted(set(numbers.values()))
    ]
    a, b = torch.tensor(pairs).T
    # what is too unlikely to matter is not looked at further, so the difference is one of probabilities
    worst = float((a - b).abs().max())
    return Finding("numbers", f"within {max(worst, 1e-9):.0e} of brute force", worst <= 1e-3)


@torch.inference_mode()
def _numbers_plainly(lm: LM, prompt: list[int], numbers: dict[tuple[int, ...], int]) -> dict[int, float]:
    def after(path: tuple[int, ...]) -> Tensor:
        ids = torch.tensor([[*prompt, *path]], device=lm.device)
        return lm.model(input_ids=ids).logits[0, -1].float().softmax(-1)

    digits = digit_tokens(lm)
    found = dict.fromkeys(numbers.values(), 0.0)
    for path, number in numbers.items():
        steps = [float(after(path[:i])[token]) for i, token in enumerate(path)]
        goes_on = any(len(other) > len(path) and other[: len(path)] == path for other in numbers)
        stays = 1 - float(after(path)[digits].sum()) if goes_on else 1.0
        found[number] += float(torch.tensor(steps).prod()) * stays
    return found


def _finding(what: str, lm: LM, ours: Tensor, plain: Tensor, against: str) -> Finding:
    worst = float((ours - plain).norm() / plain.norm())
    is_right = worst <= NEAR.get(lm.model.dtype, NEAR_IN_16_BITS)
    return Finding(what, f"within {max(worst, 1e-9):.0e} of {against}", is_right)
