"""How many rows of a batch fit into memory, from a calibration pass."""

from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch

from traitscope.utils.model.anatomy import vocabulary_of, widest_of
from traitscope.utils.model.loading import LM

SHARE = 0.6  # of free memory that a batch may take
MOST = {"cuda": 1024, "cpu": 128}  # rows; more do not make it faster
PROBE_TOKENS = 32


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


@torch.inference_mode()
def _measure(lm: LM) -> float:
    ids = torch.full((2, PROBE_TOKENS), lm.tokenizer.pad_token_id, device=lm.device)
    if lm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(lm.device)
        before = torch.cuda.memory_allocated(lm.device)
    output = lm.model(input_ids=ids, use_cache=True, logits_to_keep=1)
    cache = sum(t.numel() * t.element_size() for t in _cached(output.past_key_values)) / ids.numel()
    if lm.device.type == "cuda":
        # 2: the cache is copied when it grows, and while a CUDA graph is on trial
        return (torch.cuda.max_memory_allocated(lm.device) - before) / ids.numel() + 2 * cache

    # of one block, the widest of what lives at once
    activations = 4 * widest_of(lm.model) * lm.model.dtype.itemsize
    return 2 * cache + activations  # 2: the cache is copied when it grows


def _cached(cache: Any) -> list[torch.Tensor]:
    return [t for layer in cache for t in layer if isinstance(t, torch.Tensor)]
