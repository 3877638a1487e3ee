"""What the machine could do at best: its ceilings, measured, and the time that a piece of work takes at
them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.kernels import OURS, kernel_choices
from traitscope.utils.model.cpu import speed_up_linear_layers
from traitscope.utils.model.loading import LM


@dataclass(frozen=True)
class Work:
    """Arithmetic and traffic that cannot be avoided."""

    operations: float  # a multiplication and an addition are two
    bytes: float  # weights read once a pass, and the cache; activations are thought to stay on the chip


@dataclass(frozen=True)
class Ceiling:
    """What one large product and one large copy reach."""

    operations_per_s: float
    bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """Return the time that the scarcer of the two allows."""
        return max(work.operations / self.operations_per_s, work.bytes / self.bytes_per_s)

    def bound(self, work: Work) -> str:
        """Name the scarcer of the two."""
        return (
            "arithmetic"
            if work.operations / self.operations_per_s >= work.bytes / self.bytes_per_s
            else "memory traffic"
        )


def measure_ceiling(lm: LM, size: int = 0) -> Ceiling:
    """Return the best of several large products (through the model's own kernels) and copies, in the
    model's dtype on its device.
    """
    is_gpu = lm.device.type == "cuda"
    side = size or (8192 if is_gpu else 2048)
    layer = torch.nn.Linear(side, side, bias=False, device=lm.device, dtype=lm.model.dtype).requires_grad_(
        False
    )
    if OURS in kernel_choices():
        speed_up_linear_layers(layer)
    x = torch.randn(side, side, device=lm.device, dtype=lm.model.dtype)
    source = torch.empty(16 * side**2, device=lm.device)  # far larger than any cache
    target = torch.empty_like(source)
    product = _best(lambda: layer(x), lm.device)
    copy = _best(lambda: target.copy_(source), lm.device)
    return Ceiling(2 * side**3 / product, 2 * source.numel() * source.element_size() / copy)


@torch.inference_mode()
def _best(work: Callable[[], Any], device: torch.device, tries: int = 8) -> float:
    work()
    found = []
    for _ in range(tries):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        found.append(time.perf_counter() - start)
    return min(found)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def block_weights(lm: LM) -> int:
    """Return the number of weights in the decoder blocks: neither the embedding nor lm_head."""
    embedding = {
        id(p)
        for p in (
            *lm.model.get_input_embeddings().parameters(),
            *lm.model.get_output_embeddings().parameters(),
        )
    }
    return sum(p.numel() for p in lm.model.parameters() if id(p) not in embedding)


def capture_work(lm: LM, batches: list[list[int]]) -> Work:
    """Return the work of one pass over batches of texts, given as the lengths in each: blocks and
    attention, no lm_head, no padding.
    """
    weights, config = block_weights(lm), _text_config(lm)
    attention = (
        4 * config.num_attention_heads * _head_dim(config) * lm.n_layers / 2
    )  # scores and values; causal: half of them
    operations = sum(2.0 * weights * length + attention * length**2 for batch in batches for length in batch)
    return Work(operations, float(len(batches) * weights * lm.model.dtype.itemsize))


def decode_work(lm: LM, prompts: list[int], new_tokens: int, rows_a_call: int) -> Work:
    """Return the work of generating: prefill of every prompt, then one pass a token over all rows of a
    call, with lm_head and the cache read.
    """
    config = _text_config(lm)
    vocabulary = config.vocab_size * lm.d_model
    weights = block_weights(lm) + vocabulary
    prefill = capture_work(lm, [prompts[i : i + rows_a_call] for i in range(0, len(prompts), rows_a_call)])
    calls = -(-len(prompts) // rows_a_call)
    cached = (
        2 * lm.n_layers * config.num_key_value_heads * _head_dim(config) * lm.model.dtype.itemsize
    )  # bytes a token
    steps = range(1, new_tokens)
    traffic = calls * len(steps) * weights * lm.model.dtype.itemsize + sum(
        cached * (length + step) for length in prompts for step in steps
    )
    attention = 4 * config.num_attention_heads * _head_dim(config) * lm.n_layers
    operations = sum(
        2.0 * weights + attention * (length + step) for length in prompts for step in steps
    ) + 2.0 * vocabulary * len(prompts)
    return Work(prefill.operations + operations, prefill.bytes + traffic)


def roofline_row(name: str, work: Work, ceiling: Ceiling, seconds: float) -> dict:
    """Return a row: what was counted, the time at the ceiling, the time found, and how far they are apart."""
    return {
        "way": name,
        "GFLOP": work.operations / 1e9,
        "GB_moved": work.bytes / 1e9,
        "ceiling_GFLOP/s": ceiling.operations_per_s / 1e9,
        "ceiling_GB/s": ceiling.bytes_per_s / 1e9,
        "at_the_ceiling_s": ceiling.seconds(work),
        "bound_by": ceiling.bound(work),
        "found_s": seconds,
        "share_of_ceiling": ceiling.seconds(work) / seconds,
    }


def _text_config(lm: LM) -> Any:
    return lm.model.config.get_text_config()


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
