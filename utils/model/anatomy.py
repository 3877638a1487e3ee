"""All that differs between families of models: their sizes, where the blocks are, what these put out, what
their caches keep, and where texts and positions end.

Whatever else touches a model goes by these functions, and by nothing that only one family has. What a model
must be tried for is seen once, when it is loaded (admission.py); what its blocks add to the stream, when it is
first asked for (parts.py).
"""

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from traitscope.utils.errors import UserError

if TYPE_CHECKING:
    from traitscope.utils.model.loading import LM

# what families call the number of positions that they know
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "n_ctx",
    "max_target_positions",
    "model_max_length",
)


def text_config(model: Any) -> Any:
    """Return the configuration of what reads and writes text; of a multimodal model, that of its text
    model.
    """
    return model.config.get_text_config()


def depth_of(model: Any) -> int:
    """Return the number of decoder blocks."""
    return len(layers(model))


def width_of(model: Any) -> int:
    """Return the width of the residual stream, d_model."""
    return text_config(model).hidden_size


def vocabulary_of(model: Any) -> int:
    """Return how many tokens have an embedding."""
    return model.get_input_embeddings().weight.shape[0]


def widest_of(model: Any) -> int:
    """Return the width of the widest activations in a block: the MLP's, or the queries, keys and values
    together.
    """
    sizes = [size for p in layers(model)[0].parameters() if p.dim() > 1 for size in p.shape[-2:]]
    return max([4 * width_of(model), *sizes])


def layers(model: Any) -> nn.ModuleList:
    """Return the decoder blocks: layer `l` of every file, flag and hook is `layers(model)[l]`."""
    config = text_config(model)
    # LongCat counts two to a block, and says so by another name
    counts = [getattr(config, name, None) for name in ("num_hidden_layers", "num_layers")]
    for count in filter(None, counts):
        for whole in (model.get_decoder(), model.base_model):
            for module in whole.modules():
                if isinstance(module, nn.ModuleList) and len(module) == count:
                    return module
    raise UserError(
        f"{type(model).__name__} has no list of {counts[0]} decoder blocks; this architecture is not supported"
    )


def body_of(model: Any) -> Any:
    """Return the module that runs the blocks and the norm behind them, and puts out their last hidden state."""
    named = [body for body in (model.base_model, model.get_decoder()) if body is not model]
    if named:
        return named[0]

    first = layers(model)[0]  # Llama 4 names itself
    return next(part for part in model.children() if any(module is first for module in part.modules()))


def hidden_of(output: Any) -> Tensor:
    """Return the hidden state [batch, pos, d_model] of a module's output, which is a tuple or a list in some
    versions and modules.
    """
    return output[0] if isinstance(output, (tuple, list)) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a module's output with another hidden state in it."""
    return type(output)((hidden, *output[1:])) if isinstance(output, (tuple, list)) else hidden


def accepts(model: Any, argument: str) -> bool:
    """Tell whether a model's forward pass takes an argument by this name."""
    return argument in inspect.signature(model.forward).parameters


def place(model: Any, mask: Tensor, known: int = 0) -> dict[str, Tensor]:
    """Return what tells a model where left-padded rows begin: the mask [batch, width], and the positions of
    the columns after the first `known`, where the model takes positions.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
    return {"attention_mask": mask} | ({"position_ids": positions} if accepts(model, "position_ids") else {})


def read_logits(model: Any, kept: Any, **arguments: Any) -> tuple[Tensor, Any]:
    """Run a forward pass; return the logits of the kept positions alone, [batch, kept, vocabulary], and the
    whole output.

    Args:
        kept: How many of the last positions, or the indices of some [kept]. The vocabulary projection is
            computed for these only, where the model can do so.
    """
    if accepts(model, "logits_to_keep"):
        output = model(**arguments, logits_to_keep=kept)
        return output.logits, output

    output = model(**arguments)
    chosen = slice(-kept, None) if isinstance(kept, int) else kept
    return output.logits[:, chosen], output


def kept_state(output: Any) -> Any:
    """Return what a forward pass keeps for the next one: keys and values, or a running state; None for a model
    that keeps nothing.
    """
    names = ("past_key_values", "cache_params", "state")
    return next((kept for name in names if (kept := getattr(output, name, None)) is not None), None)


def keeps_tokens(model: Any, cache: Any) -> bool:
    """Tell whether every layer of a filled cache keeps keys and values by token, and the model can be told which
    token stands where; the running state of other kinds cannot be cut or picked from.
    """
    kinds = getattr(text_config(model), "layer_types", None) or ()
    return (
        type(cache) is DynamicCache
        and accepts(model, "position_ids")
        and set(kinds) <= {"full_attention", "sliding_attention"}
        and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in cache.layers
        )
    )


def shortest_window(lm: "LM") -> float:
    """Return the shortest attention window: a cache that already dropped tokens cannot be shared."""
    return getattr(text_config(lm.model), "sliding_window", None) or float("inf")


def has_own_keys(cached: Any) -> bool:
    """Tell whether a layer of a filled cache holds keys and values: some models' upper layers read those
    of lower ones.
    """
    return getattr(cached, "keys", None) is not None


def takes_fixed_cache(model: Any) -> bool:
    """Tell whether decoding may keep keys and values in tensors that never move: attention and every layer
    of the cache are of an ordinary kind, and a step is made of tensors alone.
    """
    is_plain = text_config(model)._attn_implementation in ("sdpa", "eager")
    return (
        is_plain
        and getattr(model, "_can_compile_fullgraph", False)
        and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
            for layer in DynamicCache(config=model.config).layers
        )
    )


def position_limit(model: Any) -> int | None:
    """Return how many positions a model knows; None for one without a limit.

    Positions that are stretched all alike reach further. Where the stretch depends on the longest text of a batch
    (dynamic, longrope), the limit is where it begins: beyond, a text would depend on its neighbours.
    """
    config = text_config(model)
    limits = [getattr(config, name, None) for name in _LIMITS]
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    rope = getattr(config, "rope_parameters", None) or {}
    kind, original = rope.get("rope_type"), rope.get("original_max_position_embeddings")
    if kind in ("dynamic", "longrope"):
        return original or getattr(config, "original_max_position_embeddings", None) or limit
    if kind in ("yarn", "linear") and limit:
        return max(limit, int(rope.get("factor", 1) * (original or limit)))
    return limit


def chooses_by_score(model: Any) -> bool:
    """Tell whether a model's attention looks only at so many tokens as score highest: where scores tie, padding
    and neighbours decide.
    """
    return bool(getattr(text_config(model), "index_topk", None))


def require_room(lm: "LM", n_tokens: int, n_new: int = 0) -> None:
    """Raise UserError where a text, and what is to be written after it, is longer than the model's context: some
    models fail there, and others go on with positions that they never learned.
    """
    limit = position_limit(lm.model)
    if limit and n_tokens + n_new > limit:
        more = f" and --max-new-tokens is {n_new}" if n_new else ""
        advice = f", or lower --max-new-tokens to {limit - n_tokens}" if n_new and n_tokens < limit else ""
        raise UserError(
            f"the longest text has {n_tokens} tokens{more}, but {lm.identity['name']} takes {limit} in all; shorten the "
            f"text{advice}"
        )


def end_tokens(lm: "LM") -> list[int]:
    """Return the tokens that end a text, as they were gathered when the model was loaded."""
    return as_ids(lm.model.generation_config.eos_token_id)


def as_ids(ends: Any) -> list[int]:
    """Return end tokens as a list: a configuration has one, several or none."""
    return list(ends) if isinstance(ends, (list, tuple)) else [ends] if ends is not None else []
