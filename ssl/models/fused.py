"""What layers are made of, with derivatives by hand, for eager CPUs in float32: the machine code of `kernels`.

GPUs, compiled code, other dtypes and small inputs have torch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlgym.envs.spaces import Array
from rlgym.ssl.models import kernels

LONG = 512
"""Tokens up to which attention by products, its weights kept for the way back, is faster than torch's kernel."""
MANY = 16_384
"""Numbers from which on sharing them repays the call."""
FEW_ROWS = 128
"""Of a product, below which torch's is the faster."""
LARGE = 1 << 24
"""Numbers of all shares' gradients of a weight, above which they would take too much memory."""
NO_NUMBERS = {dimensions: np.empty((0,) * dimensions, np.float32) for dimensions in (1, 2, 3, 4)}
DIMENSIONS = (1, 1, 2, 1, 2, 1)
"""Of a sub-layer's weights: norm, product in and product back, each with its bias."""
Kind = tuple[bool, float]
"""Of a norm: whether it is centred (LayerNorm) or not (RMSNorm), and what is added to the variance."""
NO_NORM: Kind = (True, 0.0)


class Norm(Protocol):
    """A norm's module."""

    weight: Tensor
    bias: Tensor | None
    kind: Kind


def plain(x: Tensor) -> bool:
    """Whether torch's own functions take `x`."""
    return (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or x.numel() < MANY
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x [..., inputs]` by `weight [units, inputs]`, plus `bias [units]`."""
    rows = x.numel() // x.shape[-1]
    if plain(x) or rows < FEW_ROWS or weight.numel() * torch.get_num_threads() > LARGE:
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last dimension (Ba et al. 2016, arXiv:1607.06450)."""
    if plain(x):
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    out: Tensor = _Norm.apply(x, weight, bias, eps, True)  # type: ignore[no-untyped-call]
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    if plain(x):
        return F.rms_norm(x, weight.shape, weight, eps)
    out: Tensor = _Norm.apply(x, weight, None, eps, False)  # type: ignore[no-untyped-call]
    return out


def feed_forward(
    x: Tensor, norm: Norm | None, into: nn.Linear, back: nn.Linear, activation: str, before: bool
) -> Tensor:
    """`x [batch, time, width]` -> x + f(norm(x)) where the norm is `before`, else norm(x + f(x)), f being `into`, the
    activation (gelu, swiglu, geglu) and `back`. For what `fits`."""
    kind = ("gelu", "swiglu", "geglu").index(activation)
    out: Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]
        x, *parameters(norm, into, back), None if norm is None else norm.kind, before, kind
    )
    return out


def self_attention(
    x: Tensor,
    norm: Norm | None,
    into: nn.Linear,
    back: nn.Linear,
    heads: int,
    sees: Tensor,
    before: bool,
    tables: tuple[Tensor, Tensor] | None = None,
    turn_weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The same, f being `into` queries, keys and values `[batch, time, heads + 2 groups, size]`, attention and `back`.

    A query sees the keys from `sees[..., 0]` to before `sees[..., 1]`, int64 `[batch or 1, time, 2]`. With `tables`,
    each `[time, size]`, queries and keys are turned by their positions (`rope_tables`), and with `turn_weights`, each
    `[size]`, normalised (RMSNorm) before. For what `fits`.
    """
    cos, sin = tables or (None, None)
    stacked = None if turn_weights is None else torch.stack(turn_weights)
    out: Tensor = _SelfAttention.apply(  # type: ignore[no-untyped-call]
        x, *parameters(norm, into, back), stacked, None if norm is None else norm.kind, before, heads, sees, cos, sin
    )
    return out


def fits(x: Tensor, *products: nn.Module) -> bool:
    """Whether machine code computes sub-layers of `x [batch, time, width]` with these products."""
    return (
        x.shape[1] <= LONG
        and len(x) >= torch.get_num_threads()
        and not plain(x)
        and all(type(product) is nn.Linear or type(product).__mro__[1] is nn.Linear for product in products)
    )


def cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """The sum of -log softmax(logits)[label] over the rows `[n, vocab]` whose label `[n]` is not `ignored`, 0-d."""
    if plain(logits):
        return F.cross_entropy(logits.float(), labels, ignore_index=ignored, reduction="sum")
    out: Tensor = _CrossEntropy.apply(logits, labels, ignored)  # type: ignore[no-untyped-call]
    return out


def parts() -> int:
    """Shares of the rows: torch's threads, which numba is told of. With OpenMP they are the very same ones."""
    threads = torch.get_num_threads()
    _tell(threads)
    return threads


@functools.lru_cache(maxsize=1)
def _tell(threads: int) -> None:
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def array(x: Tensor) -> Array:
    """The numbers of a tensor, copied where they are not contiguous."""
    found: Array = x.detach().contiguous().numpy()
    return found


def total(shares: Tensor | None) -> Tensor | None:
    """The sum of `[parts, ...]`."""
    return None if shares is None else shares[0] if len(shares) == 1 else shares.sum(0)


def empty(*shape: int) -> tuple[Tensor, Array]:
    """A new tensor, and its numbers."""
    out = torch.empty(shape)
    return out, out.numpy()


def parameters(norm: Norm | None, into: nn.Linear, back: nn.Linear) -> tuple[Tensor | None, ...]:
    """Weights and biases, None where there is none."""
    scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
    return scale, shift, into.weight, into.bias, back.weight, back.bias


def numbers(given: Sequence[Tensor | None], dimensions: Sequence[int]) -> list[Array]:
    """The arrays of tensors, one of no numbers where there is none."""
    return [NO_NUMBERS[d] if x is None else array(x) for x, d in zip(given, dimensions, strict=True)]


def cut(sums: Tensor, given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the tensors, which lie in `sums` one after the other."""
    found: list[Tensor | None] = []
    at = 0
    for x in given:
        found.append(None if x is None else sums[at : at + x.numel()].view(x.shape))
        at += 0 if x is None else x.numel()
    return found


def room(given: Sequence[Tensor | None], shares: int) -> tuple[Array, Tensor, Array]:
    """For the gradients of these tensors: `[parts, numbers]`, and for their sums `[numbers]`."""
    size = sum(0 if x is None else x.numel() for x in given)
    sums, array_of_sums = empty(size)
    return np.empty((shares, size), np.float32), sums, array_of_sums


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        units, inputs = weight.shape
        out, given = empty(*x.shape[:-1], units)
        kernels.linear(
            array(x).reshape(-1, inputs), *numbers([weight, bias], [2, 1]), given.reshape(-1, units), parts()
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        units, inputs = weight.shape
        to_x, down = empty(*x.shape)
        shares, sums, found = room([weight, bias], parts())
        rows, grads = array(x).reshape(-1, inputs), array(grad).reshape(-1, units)
        given = numbers([weight, bias], [2, 1])
        kernels.linear_backward(grads, rows, *given, down.reshape(-1, inputs), shares, found, parts())
        return to_x, *cut(sums, [weight, bias])


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        width = x.shape[-1]
        (out, given), (fit, kept) = empty(*x.shape), empty(x.numel() // width, 2)
        ctx.save_for_backward(x, weight, bias, fit)
        ctx.centred = centred
        rows = array(x).reshape(-1, width)
        scale, shift = numbers([weight, bias], [1, 1])
        kernels.norm(rows, scale, shift, centred, np.float32(eps), given.reshape(-1, width), kept, parts())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, fit = ctx.saved_tensors
        width = x.shape[-1]
        to_x, down = empty(*x.shape)
        shares, sums, found = room([weight, bias], parts())
        rows, grads = array(x).reshape(-1, width), array(grad).reshape(-1, width)
        down = down.reshape(-1, width)
        kernels.norm_backward(grads, rows, array(weight), ctx.centred, array(fit), down, shares, found, parts())
        return to_x, *cut(sums, [weight, bias]), None, None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        weights, (kind, before, activation) = given[:6], given[6:]
        scale, shift, into, into_bias, back, back_bias = numbers(weights, DIMENSIONS)
        rows = array(x).reshape(-1, x.shape[-1])
        count, width = rows.shape
        centred, eps = kind or NO_NORM
        normed, behind = (count if before and kind else 0), (0 if before else count)
        shapes = (normed, width), (count, 2), (count, back.shape[1]), (count, len(into)), (behind, width)
        kept = [empty(*shape)[1] for shape in shapes]
        out, found = empty(*x.shape)
        products = (into, into_bias, activation, back, back_bias)
        ctx.before_kept = rows, scale, shift, centred, before
        ctx.products, ctx.kept, ctx.weights = products, kept, weights
        norm = (scale, shift, centred, before, np.float32(eps))
        kernels.feed_forward(rows, *norm, *products, *kept, found.reshape(count, width), parts())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_x, down = empty(*grad.shape)
        shares, sums, found = room(ctx.weights, parts())
        rows, *_ = ctx.before_kept
        grads, down = array(grad).reshape(rows.shape), down.reshape(rows.shape)
        kernels.feed_forward_backward(
            grads, *ctx.before_kept, *ctx.products, *ctx.kept, down, shares, found, len(shares)
        )
        return to_x, *cut(sums, ctx.weights), None, None, None


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        weights, (kind, before, heads, sees, cos, sin) = given[:7], given[7:]
        scale, shift, into, into_bias, back, back_bias, turn_weights = numbers(weights, (*DIMENSIONS, 2))
        (batch, time, width), size = x.shape, back.shape[1] // heads
        every = len(into) // size  # heads, and groups of keys and of values
        both = (every + heads) // 2
        centred, eps = kind or NO_NORM
        normed, behind, turned = (
            (batch if before and kind else 0),
            (0 if before else batch),
            (0 if cos is None else batch),
        )
        shapes = [(normed, time, width), (batch, time, 2), (batch, time, every, size), (turned, time, every, size)]
        shapes += [(turned, time, both), (batch, heads, time * time), (batch, time, heads, size), (behind, time, width)]
        kept = [empty(*shape)[1] for shape in shapes]
        out, found = empty(*x.shape)
        tables = numbers([cos, sin], [2, 2])
        products = (into, into_bias, heads, turn_weights, *tables, array(sees), back, back_bias)
        ctx.before_kept = array(x), scale, shift, centred, before
        ctx.products, ctx.kept, ctx.weights = products, kept, weights
        norm = (scale, shift, centred, before, np.float32(eps))
        kernels.self_attention(array(x), *norm, *products, *kept, found, parts())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_x, down = empty(*grad.shape)
        shares, sums, found = room(ctx.weights, parts())
        kernels.self_attention_backward(
            array(grad), *ctx.before_kept, *ctx.products, *ctx.kept, down, shares, found, len(shares)
        )
        return to_x, *cut(sums, ctx.weights), *(None,) * 6


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        (slope, slopes), (losses, found) = empty(*logits.shape), empty(len(logits))
        ctx.slope = slope
        kernels.cross_entropy(array(logits), array(labels), ignored, slopes, found, parts())
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slope * grad, None, None
