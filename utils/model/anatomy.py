"""All that differs between families of models: their sizes, where the blocks are, what these put out, what
their caches keep, and where texts and positions end.

Whatever else touches a model goes by these functions, and by nothing that only one family has.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from traitscope.utils.errors import UserError

if TYPE_CHECKING:
    from traitscope.utils.model.loading import LM

Component = Literal["residual", "attn_out", "mlp_out"]
COMPONENTS = get_args(Component)


def text_config(model: Any) -> Any:
    """Return the configuration of what reads and writes text; of a multimodal model, that of its text
    model.
    """
    return model.config.get_text_config()


def depth_of(model: Any) -> int:
    """Return the number of decoder blocks."""
    return text_config(model).num_hidden_layers


def width_of(model: Any) -> int:
    """Return the width of the residual stream, d_model."""
    return text_config(model).hidden_size


def vocabulary_of(model: Any) -> int:
    """Return how many logits a position has."""
    return text_config(model).vocab_size


def widest_of(model: Any) -> int:
    """Return the width of the widest activations in a block: the MLP's, or the queries, keys and values
    together.
    """
    return max(text_config(model).intermediate_size, 4 * width_of(model))


def layers(model: Any) -> nn.ModuleList:
    """Return the decoder blocks: layer `l` of every file, flag and hook is `layers(model)[l]`."""
    count = depth_of(model)
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(model).__name__} has no list of {count} decoder blocks; this architecture is not supported"
    )


def hidden_of(output: Any) -> Tensor:
    """Return the hidden state [batch, pos, d_model] of a module's output, which is a tuple in some
    versions and modules.
    """
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a module's output with another hidden state in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def component_of(block: nn.Module, component: str) -> nn.Module:
    """Return the module whose output a block writes to its residual stream (or the block itself for
    `residual`).

    Gemma 2 and 3 normalise what attention and MLP return before adding it, so there the norm's output is the
    contribution.
    """
    if component not in COMPONENTS:
        raise ValueError(f"unknown component {component!r}; choose {', '.join(COMPONENTS)}")
    if component == "residual":
        return block

    is_post_normed = hasattr(block, "pre_feedforward_layernorm")
    names = (
        {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
        if is_post_normed
        else {"attn_out": "self_attn", "mlp_out": "mlp"}
    )
    return block.get_submodule(names[component])


def keeps_tokens(lm: "LM") -> bool:
    """Tell whether every layer keeps keys and values by token; the running state of other kinds cannot be
    cut or picked from.
    """
    kinds = getattr(text_config(lm.model), "layer_types", None) or ()
    return set(kinds) <= {"full_attention", "sliding_attention"}


def shortest_window(lm: "LM") -> float:
    """Return the shortest attention window: a cache that already dropped tokens cannot be shared."""
    return getattr(text_config(lm.model), "sliding_window", None) or float("inf")


def has_own_keys(cached: Any) -> bool:
    """Tell whether a layer of a filled cache holds keys and values: some models' upper layers read those
    of lower ones.
    """
    return cached.keys is not None


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
    """Return how many positions a model knows; None for one without a limit."""
    return getattr(text_config(model), "max_position_embeddings", None)


def end_tokens(lm: "LM") -> list[int]:
    """Return the tokens that end a text."""
    ends = lm.model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends] if ends is not None else []
