"""RMSNorm, activations and the attention of short blocks in fewer passes over memory, for eager CPUs.

Where torch has no kernel of its own it makes a dozen small calls of each, which cost more than the arithmetic, and its
attention kernel is made for long texts. GPUs and compiled code have theirs: there these are the plain functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 128
"""Tokens up to which attention by products is faster than torch's kernel for CPUs: 1.05 to 1.7 times."""


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


def gelu(x: Tensor) -> Tensor:
    """The exact GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415), its gradient in the memory of the one that came."""
    if _plain(x):
        return F.gelu(x)
    out: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
    return out


def attention(qkv: Tensor, causal: bool) -> Tensor:
    """Queries, keys, values `[batch, time, 3, heads, head_dim]` of a short time -> `[batch, time, heads x head_dim]`.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1, by batched products; the matrix of weights is kept for the way
    back.
    """
    out: Tensor = _Attention.apply(qkv, causal)  # type: ignore[no-untyped-call]
    return out


def short(qkv: Tensor) -> bool:
    """Whether `attention` is the faster way."""
    return qkv.shape[1] <= SHORT and not _plain(qkv) and not torch.is_autocast_enabled("cpu")


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = torch.ops.aten.gelu_backward.grad_input(grad, x, grad_input=grad)
        return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, causal: bool) -> Tensor:
        batch, time, _, heads, head_dim = qkv.shape
        query, key, value = by_head = qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, time, head_dim)
        hidden = qkv.new_full((time, time), -math.inf).triu_(1) if causal else qkv.new_zeros(())
        weights = torch.baddbmm(hidden, query, key.mT, alpha=head_dim**-0.5)
        torch.ops.aten._softmax.out(weights, -1, False, out=weights)
        ctx.save_for_backward(by_head, weights)
        return torch.bmm(weights, value).view(batch, heads, time, head_dim).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        by_head, weights = ctx.saved_tensors
        query, key, value = by_head
        batch, (_, heads_in_all, time, head_dim) = grad.shape[0], by_head.shape
        grad = grad.view(batch, time, -1, head_dim).transpose(1, 2).reshape(query.shape)
        to_query, to_key, to_value = to_all = torch.empty_like(by_head)
        torch.bmm(weights.mT, grad, out=to_value)
        to_scores = torch.bmm(grad, value.mT)
        torch.ops.aten._softmax_backward_data.out(to_scores, weights, -1, torch.float32, grad_input=to_scores)
        torch.baddbmm(to_query, to_scores, key, beta=0, alpha=head_dim**-0.5, out=to_query)
        torch.baddbmm(to_key, to_scores.mT, query, beta=0, alpha=head_dim**-0.5, out=to_key)
        return to_all.view(3, batch, heads_in_all // batch, time, head_dim).permute(1, 3, 0, 2, 4), None


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
