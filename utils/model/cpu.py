"""Faster float32 on CPUs: matrix products by oneDNN where MKL, torch's default, does not use the CPU's
wide vectors.
"""

import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@cache
def prefers_onednn() -> bool:
    """Tell whether linear layers should go through oneDNN: on every x86 CPU that is not Intel's, unless
    TRAITSCOPE_ONEDNN=0.

    MKL takes its AVX-512 paths on Intel CPUs only; on an AMD EPYC the same float32 product is 2.2–2.5 times
    faster in oneDNN. The rule looks at the maker and not at a clock, so that two runs on one machine always
    compute the same bits.
    """
    if os.environ.get("TRAITSCOPE_ONEDNN", "1") == "0" or not torch.backends.mkldnn.is_available():
        return False

    cpu = Path("/proc/cpuinfo")
    vendor = cpu.read_text(errors="replace") if cpu.exists() else ""
    return (
        "vendor_id" in vendor
        and "GenuineIntel" not in vendor
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def speed_up_linear_layers(model: nn.Module) -> int:
    """Route a frozen model's float32 CPU linear layers through oneDNN where that is faster; return how
    many were routed.
    """
    if not prefers_onednn():
        return 0

    layers = [
        m
        for m in model.modules()
        if type(m) is nn.Linear and m.weight.device.type == "cpu" and m.weight.dtype == torch.float32
    ]
    for layer in layers:
        layer.forward = partial(_linear, layer)  # type: ignore[method-assign]
    return len(layers)


def keep_head_fast(model: Any) -> None:
    """On a CPU, hand the vocabulary projection whole tensors: of a slice, the last position of every row,
    torch copies the matrix once a row.
    """
    head = model.get_output_embeddings()
    if head is not None and head.weight.device.type == "cpu":
        head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(), *inputs[1:]))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _multiply(x, layer.weight, layer.bias)
    if layer.weight.requires_grad:  # the product below has a gradient of x alone
        return nn.functional.linear(x, layer.weight, layer.bias)
    return _Frozen.apply(x, layer.weight, layer.bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Frozen(torch.autograd.Function):
    """A product with frozen weights, through oneDNN both ways; it keeps nothing of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _multiply(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(gradient.contiguous(), ctx.weight.t(), None), None, None
