"""RMSNorm, activations and attention of short blocks with fewer passes over memory, for eager mode on CPUs. Without
kernels of its own torch makes a dozen small calls for each, which cost more than the arithmetic, and its attention
kernel targets long texts. On GPUs and in compiled code these are the plain functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = {torch.float32: 128, torch.bfloat16: 512}
"""Maximum tokens for which attention by batched products is faster than torch's kernel on CPUs: up to 1.2 times, in
bf16 1.5 to 3.8."""


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
    """silu(gate) * value for `[..., 2 inner]`, gate and value concatenated (Shazeer 2020, arXiv:2002.05202)."""
    if _plain(x):
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value
    out: Tensor = _SwiGLU.apply(x)  # type: ignore[no-untyped-call]
    return out


def gelu(x: Tensor) -> Tensor:
    """The exact GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415), with an in-place backward pass."""
    if _plain(x):
        return F.gelu(x)
    out: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
    return out


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The result of `attend` for short blocks (see `short`); `causal` applies if there is no mask. Vaswani et al. 2017
    (arXiv:1706.03762), equation 1, by batched products; attention weights are kept for the backward pass. Scores and
    softmax are float32.
    """
    out: Tensor = _Attention.apply(query, key, value, mask, causal)  # type: ignore[no-untyped-call]
    return out


def short(query: Tensor, key: Tensor) -> bool:
    """Whether `attention` is faster for `[batch, heads, time, head_dim]`."""
    longest = SHORT.get(query.dtype, 0)
    on_cpu = query.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and query.shape[2] == key.shape[2] <= longest


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
    """Query heads that share a key head become rows of one product."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        batch, heads, time, head_dim = query.shape
        share = heads // key.shape[1]
        q, k, v = query.reshape(-1, share * time, head_dim), *(x.reshape(-1, time, head_dim) for x in (key, value))
        hidden = q.new_zeros((), dtype=torch.float32)
        if causal and mask is None:
            hidden = hidden.new_full((time, time), -math.inf).triu_(1).repeat(share, 1)
        with torch.autocast("cpu", enabled=False):  # rounding scores to bf16 would change weights by percents
            weights = torch.baddbmm(hidden, q.float(), k.mT.float(), alpha=head_dim**-0.5)
        if mask is not None:
            weights.view(batch, heads, time, time).masked_fill_(~mask, -math.inf)
        torch.ops.aten._softmax.out(weights, -1, False, out=weights)
        weights = weights.to(query.dtype)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v).view(query.shape).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        batch, (_, time, head_dim) = len(grad), k.shape
        by_head = grad.reshape(batch, time, -1, head_dim).transpose(1, 2).reshape(q.shape)
        to_value = torch.bmm(weights.mT, by_head)
        to_scores = torch.bmm(by_head, v.mT)
        torch.ops.aten._softmax_backward_data.out(to_scores, weights, -1, weights.dtype, grad_input=to_scores)
        to_query, to_key = torch.empty_like(q), torch.empty_like(k)
        torch.baddbmm(to_query, to_scores, k, beta=0, alpha=head_dim**-0.5, out=to_query)
        torch.baddbmm(to_key, to_scores.mT, q, beta=0, alpha=head_dim**-0.5, out=to_key)
        return *(x.view(batch, -1, time, head_dim) for x in (to_query, to_key, to_value)), None, None  # type: ignore[return-value]


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
