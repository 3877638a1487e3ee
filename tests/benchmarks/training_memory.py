"""What training keeps in memory, from the arithmetic, and the work whose peak is held against it.

A pass keeps, of every block above the layer, what its way back needs. The weights are frozen, so that no linear layer
keeps its input. In floats a token of a Llama-like block, where d is the width, q and k those of queries and keys, f
that of the MLP and a the heads:

    2 (d + 1)       what its two norms read, and their factor
    2 q + 2 k + a   queries, keys, values, attention's output and its log of sums
    3 f             the gate before and after its activation, and what it lets through
"""

from typing import Any

from benchmarks.workload import BenchOptions, load_model, make_chats
from traitscope.utils.model.loading import LM
from traitscope.utils.model.steered_costs import FEW_HEAD_BYTES, FEW_TOKENS, Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text

MB = 2**20
HELD_OF_LOGITS = 3  # logits, their log-softmax, and the gradient of either


def kept_floats(config: Any) -> int:
    """Return the floats that a block keeps of a token, by the formula above."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    norms = 2 * (config.hidden_size + 1)
    attention = 2 * head * (heads + key_heads) + heads
    return norms + attention + 3 * config.intermediate_size


def needed_mb(lm: LM, layer: int, texts: list[Text], *, saves_memory: bool) -> dict[str, float]:
    """Return the parts of what training needs beside a loaded model, in MiB.

    With checkpointing a pass keeps the states between blocks only, and one block whole while it is computed again.
    """
    size = next(lm.model.parameters()).element_size()
    blocks, kept = lm.n_layers - 1 - layer, kept_floats(lm.model.config)
    of_a_token = blocks * lm.d_model + kept if saves_memory else blocks * kept
    return {
        "stream_MB": sum(len(text.ids) for text in texts) * lm.d_model * size / MB,
        "pass_MB": min(FEW_TOKENS, sum(len(text.ids) for text in texts)) * of_a_token * size / MB,
        "logits_MB": HELD_OF_LOGITS * FEW_HEAD_BYTES / MB,
    }


def as_texts(chats: list) -> list[Text]:
    """Return the benchmark's chats as texts of a trait."""
    return [
        Text(f"pos:{i}", "pos", i, chat.ids[: chat.n_prompt], chat.ids[chat.n_prompt :])
        for i, chat in enumerate(chats)
    ]


def train(n: int, *, saves_memory: bool, is_read_only: bool = False, **where: object) -> dict:
    """Take one step on n chats at half depth, in as many full passes as they take; say what should be needed.

    Args:
        is_read_only: Only load the model, and read what lies below the layer of one text.
    """
    import torch

    options = BenchOptions(**where)  # type: ignore[arg-type]
    lm, texts = load_model(options), as_texts(make_chats(n))
    layer = (lm.n_layers - 1) // 2
    passes = Passes(UpperPart.of(lm, layer), [layer], saves_memory=saves_memory)
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters()) / MB
    passes.read(texts[:1] if is_read_only else texts)
    if is_read_only:
        return {"weights_mb": weights}

    vector = torch.zeros(1, lm.d_model, device=lm.device, requires_grad=True)
    for batch in passes.batches([Unit((Row(text, 0, 1.0),), (text,), 0) for text in texts]):
        costs = passes.losses(vector, batch)
        torch.autograd.grad(torch.cat([cost for (cost,) in costs]).mean(), vector)
    return {"weights_mb": weights, "needed": needed_mb(lm, layer, texts, saves_memory=saves_memory)}
