"""All that differs between families of models: where the blocks are, what they put out, what they keep,
where they end.

Whatever else touches a model goes by these functions, and by nothing that only one family has.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from traitscope.utils.errors import UserError

if TYPE_CHECKING:
    from traitscope.utils.model.loading import LM

Component = Literal["residual", "attn_out", "mlp_out"]
COMPONENTS = get_args(Component)


def layers(model: Any) -> nn.ModuleList:
    """Return the decoder blocks: layer `l` of every file, flag and hook is `layers(model)[l]`."""
    count = model.config.get_text_config().num_hidden_layers
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
    kinds = getattr(lm.model.config.get_text_config(), "layer_types", None) or ()
    return set(kinds) <= {"full_attention", "sliding_attention"}


def shortest_window(lm: "LM") -> float:
    """Return the shortest attention window: a cache that already dropped tokens cannot be shared."""
    config: Any = lm.model.config.get_text_config()
    return getattr(config, "sliding_window", None) or float("inf")


def position_limit(model: Any) -> int | None:
    """Return how many positions a model knows; None for one without a limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def end_tokens(lm: "LM") -> list[int]:
    """Return the tokens that end a text."""
    ends = lm.model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends] if ends is not None else []
