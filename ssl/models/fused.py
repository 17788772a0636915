"""RMSNorm and the gated MLP's activation in fewer passes over memory, for eager CPUs.

Where torch has no kernel of its own it makes a dozen small calls of each, which cost more than the arithmetic. GPUs and
compiled code have theirs: there these are the plain functions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    `weight` is `[width]`, or `[heads, width]` for an `x` of `[..., heads, width]`.
    """
    if _plain(x) or torch.is_autocast_enabled("cpu"):
        return (
            F.rms_norm(x, weight.shape, weight, eps)
            if weight.ndim == 1
            else F.rms_norm(x, x.shape[-1:], None, eps) * weight
        )
    out: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def swiglu(x: Tensor) -> Tensor:
    """`[..., 2 inner]`, gate and value side by side -> silu(gate) * value (Shazeer 2020, arXiv:2002.05202)."""
    if _plain(x):
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value
    out: Tensor = _SwiGLU.apply(x)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        out: Tensor = unit * weight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, scale, weight = ctx.saved_tensors
        product = grad * unit
        to_weight = product.flatten(0, -weight.ndim - 1).sum(0)
        along = (product.mul_(weight)).mean(-1, keepdim=True)
        to_x = (grad * weight).addcmul_(unit, along, value=-1).mul_(scale)
        return to_x, to_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(x, opened)
        return opened * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        gate, value = x.chunk(2, -1)
        out = torch.empty_like(x)
        to_gate, to_value = out.chunk(2, -1)
        torch.mul(grad, opened, out=to_value)
        torch.ops.aten.silu_backward.grad_input(grad * value, gate, grad_input=to_gate)
        return out
