"""A transformer's layer with its derivatives by hand, in the compiled code of `layer_kernels`: for CPUs, in float32.

The models' own modules say the same in torch's words; `compile=kernels` (rlgym/ssl/pretraining.py) takes this instead.
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

ACTIVATIONS = ("gelu", "swiglu", "geglu")
NO_NUMBERS = {dimensions: np.empty((0,) * dimensions, np.float32) for dimensions in (1, 2)}
"""What stands for a weight that a layer does not have."""
DIMENSIONS = (1, 1, 2, 1, 2, 1)
"""Of a part's weights: norm, product in and product back, each with its bias."""

Part = tuple[nn.Module | None, nn.Linear, nn.Linear]
"""A norm (nn.LayerNorm, or an RMSNorm with its `weight` alone and its `eps`; None: attention has none), the product in
and the product back."""


def layer(
    x: Tensor,
    attention: Part,
    feed_forward: Part,
    *,
    before: bool,
    heads: int,
    activation: str,
    sees: Tensor,
    tables: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    norms: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`x [batch, time, width]` through attention, then through feed-forward: x + f(norm(x)) where the norm is `before`,
    else norm(x + f(x)).

    Attention is between `into` queries, keys and values `[batch, time, heads + 2 groups, size]` and `back`; a query
    sees the keys from `sees[..., 0]` to before `sees[..., 1]`, int64 `[batch or 1, time, 2]`. With the `tables` of
    `rope_tables`, each `[time, size]`, queries and keys are turned by their positions, and with `norms`, each `[size]`,
    normalised (RMSNorm with the layer's eps) before. The `activation` is gelu (exact), swiglu or geglu.
    """
    weights = *weights_of(attention), None if norms is None else torch.stack(norms), *weights_of(feed_forward)
    norm: Any = feed_forward[0]
    kind = isinstance(norm, nn.LayerNorm), before, np.float32(norm.eps), heads, ACTIVATIONS.index(activation)
    out: Tensor = _Layer.apply(x, *weights, kind, sees, *tables)  # type: ignore[no-untyped-call]
    return out


def weights_of(part: Part) -> tuple[Tensor | None, ...]:
    """Weights and biases, None where there is none."""
    norm, into, back = part
    scale, shift = (None, None) if norm is None else (norm.weight, getattr(norm, "bias", None))
    return scale, shift, into.weight, into.bias, back.weight, back.bias  # type: ignore[return-value]


def news() -> list[str]:
    """A line for the person who will wait, where the first pass compiles the code before it runs it."""
    from rlgym.common.jit import is_compiled

    if is_compiled(machine_code().layer):
        return []
    return ["kernels    the first update compiles the layers, once for this machine: about a minute"]


@functools.cache
def machine_code() -> ModuleType:
    """Read when it is first needed: numba and its cache take a moment."""
    from rlgym.ssl.models import layer_kernels

    return layer_kernels


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
    """NumPy's and SciPy's libraries of products; the second is the one that compiled code calls."""
    importlib.import_module("scipy.linalg.cython_blas")
    return list(ThreadpoolController().select(internal_api="openblas").lib_controllers)


def array(x: Tensor) -> Array:
    """The numbers of a tensor, copied where they are not contiguous."""
    found: Array = x.detach().contiguous().numpy()
    return found


def numbers(given: Sequence[Tensor | None], dimensions: Sequence[int]) -> list[Array]:
    """The arrays of tensors, one of no numbers where there is none."""
    return [NO_NUMBERS[d] if x is None else array(x) for x, d in zip(given, dimensions, strict=True)]


def empty(*shape: int) -> Array:
    """Of torch's memory, which begins where wide loads like it."""
    return torch.empty(shape).numpy()


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        code, weights, (kind, sees, cos, sin) = machine_code(), given[:13], given[13:]
        kind = code.Kind(*kind)
        arrays = numbers(weights, (*DIMENSIONS, 2, *DIMENSIONS))
        to_attend, norms, to_feed = code.Weights(*arrays[:6]), arrays[6], code.Weights(*arrays[7:])
        sight = code.Sight(array(sees), *numbers([cos, sin], [2, 2]), norms)

        batch, time, width = x.shape
        size = to_attend.back.shape[1] // kind.heads
        every = len(to_attend.into) // size  # heads, and groups of keys and of values
        normed, behind, turned = batch * kind.before, batch * (not kind.before), 0 if cos is None else batch
        attention = code.Attention(
            unit=empty(normed, time, width),
            fit=empty(batch, time, 2),
            qkv=empty(batch, time, every, size),
            turned=empty(turned, time, every, size),
            scales=empty(turned, time, (every + kind.heads) // 2),
            weights=empty(batch, kind.heads, time * time),
            mixed=empty(batch, time, kind.heads, size),
            summed=empty(behind, time, width),
            out=empty(batch, time, width),
        )
        feed_forward = code.FeedForward(
            unit=empty(normed, time, width),
            fit=empty(batch, time, 2),
            inner=empty(batch, time, to_feed.back.shape[1]),
            slope=empty(batch, time, len(to_feed.into)),
            summed=empty(behind, time, width),
        )
        ctx.weights, ctx.arrays = weights, (array(x), kind, to_attend, sight, attention, to_feed, feed_forward)
        out = torch.empty(x.shape)
        code.layer(*ctx.arrays, out.numpy(), parts(batch))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shares, sizes = parts(len(grad)), [0 if x is None else x.numel() for x in ctx.weights]
        to_x, sums = torch.empty(grad.shape), torch.empty(sum(sizes))
        room = np.empty((shares, len(sums)), np.float32)
        machine_code().layer_backward(array(grad), *ctx.arrays, to_x.numpy(), room, sums.numpy(), shares)
        each = zip(ctx.weights, sums.split(sizes), strict=True)
        return to_x, *(None if x is None else found.view_as(x) for x, found in each), *(None,) * 4
