"""A transformer's sub-layers with their derivatives by hand, in the machine code of `kernels`: for CPUs, in float32.

The models' own modules say the same in torch's words; `compile=kernels` (rlgym/ssl/pretraining.py) takes these instead.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from threadpoolctl import LibController, ThreadpoolController
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlgym.envs.spaces import Array

NO_NUMBERS = {dimensions: np.empty((0,) * dimensions, np.float32) for dimensions in (1, 2)}
"""What stands for a weight that a layer does not have."""
DIMENSIONS = (1, 1, 2, 1, 2, 1)
"""Of a sub-layer's weights: norm, product in and product back, each with its bias."""


Norm = nn.Module | None
"""nn.LayerNorm, or an RMSNorm with its `weight` alone and its `eps`; None: there is none."""


def feed_forward(x: Tensor, norm: Norm, into: nn.Linear, back: nn.Linear, activation: str, before: bool) -> Tensor:
    """`x [batch, time, width]` -> x + f(norm(x)) where the norm is `before`, else norm(x + f(x)), f being `into`, the
    exact `activation` (gelu, swiglu, geglu) and `back`."""
    kind = ("gelu", "swiglu", "geglu").index(activation)
    out: Tensor = _FeedForward.apply(x, *weights_of(norm, into, back), *kind_of(norm), before, kind)  # type: ignore[no-untyped-call]
    return out


def self_attention(
    x: Tensor,
    norm: Norm,
    into: nn.Linear,
    back: nn.Linear,
    heads: int,
    sees: Tensor,
    before: bool,
    tables: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    turn_weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The same, f being `into` queries, keys and values `[batch, time, heads + 2 groups, size]`, attention and `back`.

    A query sees the keys from `sees[..., 0]` to before `sees[..., 1]`, int64 `[batch or 1, time, 2]`. With the `tables`
    of `rope_tables`, each `[time, size]`, queries and keys are turned by their positions, and with `turn_weights`, each
    `[size]`, normalised (RMSNorm with the norm's eps) before.
    """
    weights = *weights_of(norm, into, back), None if turn_weights is None else torch.stack(turn_weights)
    out: Tensor = _SelfAttention.apply(x, *weights, *kind_of(norm), before, heads, sees, *tables)  # type: ignore[no-untyped-call]
    return out


def weights_of(norm: Norm, into: nn.Linear, back: nn.Linear) -> tuple[Tensor | None, ...]:
    """Weights and biases, None where there is none."""
    scale, shift = (None, None) if norm is None else (norm.weight, getattr(norm, "bias", None))
    return scale, shift, into.weight, into.bias, back.weight, back.bias  # type: ignore[return-value]


def kind_of(norm: Norm) -> tuple[bool, float]:
    """Whether it takes the mean away, and what it adds to the variance."""
    return isinstance(norm, nn.LayerNorm), 0.0 if norm is None else float(norm.eps)  # type: ignore[arg-type]


def news() -> list[str]:
    """A line for the person who will wait, where the first pass compiles the code before it runs it."""
    from rlgym.machine_code import is_compiled

    if is_compiled(machine_code().self_attention):
        return []
    return ["kernels    the first update compiles the layers, once for this machine: about a minute"]


@functools.cache
def machine_code() -> ModuleType:
    """Read when it is first needed: numba and its cache take a moment."""
    from rlgym.ssl.models import kernels

    return kernels


def parts(rows: int) -> int:
    """Into how many shares `rows` are cut: one for each of torch's threads, which with OpenMP numba shares.

    A product is within a share, one thread's: OpenBLAS is told each time, for others may have told it something else.
    """
    threads = torch.get_num_threads()
    _tell(threads)
    for library in _products():
        if library.num_threads != 1:
            library.set_num_threads(1)
    return min(threads, rows)


@functools.lru_cache(maxsize=1)
def _tell(threads: int) -> None:
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(threads)  # numba's first call sets the OpenMP that both share to every core


@functools.cache
def _products() -> list[LibController]:
    """NumPy's and SciPy's libraries of products; the second is the one that machine code calls."""
    importlib.import_module("scipy.linalg.cython_blas")
    return list(ThreadpoolController().select(internal_api="openblas").lib_controllers)


def array(x: Tensor) -> Array:
    """The numbers of a tensor, copied where they are not contiguous."""
    found: Array = x.detach().contiguous().numpy()
    return found


def empty(*shape: int) -> tuple[Tensor, Array]:
    """A new tensor, and its numbers."""
    out = torch.empty(shape)
    return out, out.numpy()


def numbers(given: Sequence[Tensor | None], dimensions: Sequence[int]) -> list[Array]:
    """The arrays of tensors, one of no numbers where there is none."""
    return [NO_NUMBERS[d] if x is None else array(x) for x, d in zip(given, dimensions, strict=True)]


def cut(sums: Tensor, given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the tensors, which lie in `sums` one after the other."""
    each = sums.split([0 if x is None else x.numel() for x in given])
    return [None if x is None else found.view_as(x) for x, found in zip(given, each, strict=True)]


def room(given: Sequence[Tensor | None], shares: int) -> tuple[Array, Tensor, Array]:
    """For the gradients of these tensors: `[parts, numbers]`, and for their sums `[numbers]`."""
    size = sum(0 if x is None else x.numel() for x in given)
    sums, array_of_sums = empty(size)
    return np.empty((shares, size), np.float32), sums, array_of_sums


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        weights, (centred, eps, before, activation) = given[:6], given[6:]
        scale, shift, into, into_bias, back, back_bias = numbers(weights, DIMENSIONS)
        rows = array(x).reshape(-1, x.shape[-1])
        count, width = rows.shape
        # For the way back: behind a norm before, its factors, the inner numbers and slopes, before a norm behind.
        shapes = [(count * before, width), (count, 2), (count, back.shape[1]), (count, len(into))]
        kept = [empty(*shape)[1] for shape in [*shapes, (count - count * before, width)]]
        products = into, into_bias, activation, back, back_bias
        ctx.weights, ctx.arrays = weights, (rows, scale, shift, centred, before, *products, *kept)
        out, found = empty(*x.shape)
        norm = scale, shift, centred, before, np.float32(eps)
        machine_code().feed_forward(rows, *norm, *products, *kept, found.reshape(rows.shape), parts(len(x)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, shares = ctx.arrays[0], parts(len(grad))
        to_x, down = empty(*grad.shape)
        each, sums, found = room(ctx.weights, shares)
        machine_code().feed_forward_backward(
            array(grad).reshape(rows.shape), *ctx.arrays, down.reshape(rows.shape), each, found, shares
        )
        return to_x, *cut(sums, ctx.weights), None, None, None, None


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        weights, (centred, eps, before, heads, sees, cos, sin) = given[:7], given[7:]
        scale, shift, into, into_bias, back, back_bias, turn_weights = numbers(weights, (*DIMENSIONS, 2))
        (batch, time, width), size = x.shape, back.shape[1] // heads
        every = len(into) // size  # heads, and groups of keys and of values
        normed, behind, turned = batch * before, batch - batch * before, 0 if cos is None else batch
        shapes = [(normed, time, width), (batch, time, 2), (batch, time, every, size), (turned, time, every, size)]
        shapes += [(turned, time, (every + heads) // 2), (batch, heads, time * time), (batch, time, heads, size)]
        kept = [empty(*shape)[1] for shape in [*shapes, (behind, time, width)]]
        tables = numbers([cos, sin], [2, 2])
        products = into, into_bias, heads, turn_weights, *tables, array(sees), back, back_bias
        ctx.weights, ctx.arrays = weights, (array(x), scale, shift, centred, before, *products, *kept)
        out, found = empty(*x.shape)
        norm = scale, shift, centred, before, np.float32(eps)
        machine_code().self_attention(array(x), *norm, *products, *kept, found, parts(batch))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shares = parts(len(grad))
        to_x, down = empty(*grad.shape)
        each, sums, found = room(ctx.weights, shares)
        machine_code().self_attention_backward(array(grad), *ctx.arrays, down, each, found, shares)
        return to_x, *cut(sums, ctx.weights), *(None,) * 7
