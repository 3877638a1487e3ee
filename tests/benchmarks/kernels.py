"""Which matrix kernels a model runs on, so that a ratio compares ways of working and not BLAS libraries."""

from torch import nn

from traitscope.utils.model.cpu import prefers_onednn, speed_up_linear_layers

SHIPPED, OURS = "as shipped", "our kernels"


def kernel_choices() -> tuple[str, ...]:
    """Return the choices that differ on this machine: one where traitscope leaves torch's own kernels
    alone.
    """
    return (OURS, SHIPPED) if prefers_onednn() else (SHIPPED,)


def use_kernels(model: nn.Module, kernels: str) -> None:
    """Let a model's linear layers run as torch ships them, or as traitscope routes them."""
    for module in model.modules():
        if type(module) is nn.Linear:
            vars(module).pop("forward", None)
    if kernels == OURS:
        speed_up_linear_layers(model)
