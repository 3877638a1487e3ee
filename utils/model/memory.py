"""How many rows of a batch fit into memory, from a calibration pass."""

from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch

from traitscope.utils.model.anatomy import kept_state, read_logits, vocabulary_of, widest_of
from traitscope.utils.model.batching import is_out_of_memory
from traitscope.utils.model.loading import LM

SHARE = 0.6  # of free memory that a batch may take
MOST = {"cuda": 1024, "cpu": 128}  # rows; more do not make it faster
PROBE_TOKENS = 32
DEFAULT_ROWS = (
    4  # tensors of a block's width that a token is taken to need in every block, where nothing is measured
)


def rows_that_fit(lm: LM, width: int) -> int:
    """Return how many rows of `width` tokens a batch may have: a power of two, so that a little more free
    memory plans the same batches.
    """
    most = MOST.get(lm.device.type, 128)
    fitting = int(SHARE * free_bytes(lm.device) / max(bytes_per_row(lm, width), 1))
    return min(most, 1 << max(fitting, 1).bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


_measured: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # model → bytes per token


def bytes_per_row(lm: LM, width: int) -> int:
    """Return what one row of `width` tokens takes in generation: its cache, measured by a short pass, and
    its share of a pass's peak.
    """
    if lm.model not in _measured:
        _measured[lm.model] = _measure(lm)
    logits = 3 * 4 * vocabulary_of(lm.model)  # in float32, and what is made of them
    return int(width * _measured[lm.model] + logits)


def _measure(lm: LM) -> float:
    """Return the bytes that a token takes: measured, or a cautious guess where a model cannot be measured. An
    estimate fails no run.
    """
    try:
        return _run_and_measure(lm)
    except Exception as error:  # of a model's own code
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return float(2 * DEFAULT_ROWS * lm.n_layers * lm.d_model * lm.model.dtype.itemsize)


@torch.inference_mode()
def _run_and_measure(lm: LM) -> float:
    ids = torch.full((2, PROBE_TOKENS), lm.tokenizer.pad_token_id or 0, device=lm.device)
    if lm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(lm.device)
        before = torch.cuda.memory_allocated(lm.device)
    _, output = read_logits(lm.model, 1, input_ids=ids, use_cache=True)
    cache = sum(t.numel() * t.element_size() for t in _tensors(kept_state(output))) / ids.numel()
    if lm.device.type == "cuda":
        # 2: the cache is copied when it grows, and while a CUDA graph is on trial
        return (torch.cuda.max_memory_allocated(lm.device) - before) / ids.numel() + 2 * cache

    # of one block, the widest of what lives at once
    activations = 4 * widest_of(lm.model) * lm.model.dtype.itemsize
    return 2 * cache + activations  # 2: the cache is copied when it grows


def _tensors(kept: Any) -> list[torch.Tensor]:
    """Return the tensors in a cache of whatever kind."""
    if isinstance(kept, torch.Tensor):
        return [kept]
    parts = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, (list, tuple)) else ()
    inside = vars(kept).values() if hasattr(kept, "__dict__") else ()
    return [tensor for part in (*parts, *inside) for tensor in _tensors(part)]
