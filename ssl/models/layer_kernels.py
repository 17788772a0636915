"""A transformer's layer, forward and back, in one call of compiled code each, for CPUs; its pieces are in `kernels`.

torch pays for every small operation with a call and a pass over memory, and in each its threads wait for one another.
Here a thread takes its share of the batch through the whole layer. Attention and the feed-forward part are alike: a
norm, a product in, attention or an activation, and a product back, added to what came: x + f(norm(x)), or where the
norm is behind, norm(x + f(x)). Sums over the batch are made share by share, so that the same number of threads gives
the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from rlgym.common.jit import compiled, parallel, within
from rlgym.envs.spaces import Array
from rlgym.ssl.models.kernels import (
    GELU,
    SWIGLU,
    ZERO,
    add,
    attend,
    attend_backward,
    fill,
    gated,
    gated_backward,
    gelu,
    gelu_backward,
    linear,
    norm,
    norm_backward,
    product_backward,
    turn,
    turn_backward,
)

# ---- what a layer is given: flat tuples, for numba's shared loops take no tuples within tuples


class Weights(NamedTuple):
    """Of one of the two parts, or their gradients: the norm's `[width]` (no numbers: there is no norm), the products'
    `[units, width]` and `[width, inner]`, with their biases."""

    norm: Array
    norm_bias: Array
    into: Array
    into_bias: Array
    back: Array
    back_bias: Array


class Kind(NamedTuple):
    """`centred`: LayerNorm, else RMSNorm; `before`: where the norm is; `activation`: GELU, SWIGLU or GEGLU."""

    centred: bool
    before: bool
    eps: np.float32
    heads: int
    activation: int


class Sight(NamedTuple):
    """A query sees the keys from `sees[.., 0]` to before `sees[.., 1]`, `[batch or 1, time, 2]`. Where there are tables
    `cos` and signed `sin` `[time, size]`, queries and keys are turned by their positions (RoPE); where there are `norms
    [2, size]`, normalised with them before (RMSNorm)."""

    sees: Array
    cos: Array
    sin: Array
    norms: Array


class Attention(NamedTuple):
    """What attention keeps for the way back, `[batch, ...]`: behind a norm before, the norm's mean and scale, queries,
    keys and values, the same turned, with the scales of their norm, weights, the mixed values, before a norm behind."""

    unit: Array
    fit: Array
    qkv: Array
    turned: Array
    scales: Array
    weights: Array
    mixed: Array
    summed: Array
    out: Array


class FeedForward(NamedTuple):
    """What the feed-forward part keeps, `[batch, time, ...]`: `inner` behind the activation, `slope` its derivative."""

    unit: Array
    fit: Array
    inner: Array
    slope: Array
    summed: Array


# ---- the layer


@parallel
def layer(
    x: Array,
    kind: Kind,
    to_attend: Weights,
    sight: Sight,
    attention: Attention,
    to_feed: Weights,
    feed_forward: FeedForward,
    out: Array,
    parts: int,
) -> None:
    """`x [batch, time, width]` to `out` alike, in `parts` shares."""
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        a, f = attention_of(attention, begin, end), feed_forward_of(feed_forward, begin, end)
        attention_forward(x[begin:end], kind, to_attend, sight, begin, a)
        feed_forward_forward(rows(a.out), kind, to_feed, f, rows(out[begin:end]))


@parallel
def layer_backward(
    grad: Array,
    x: Array,
    kind: Kind,
    to_attend: Weights,
    sight: Sight,
    attention: Attention,
    to_feed: Weights,
    feed_forward: FeedForward,
    to_x: Array,
    shares: Array,
    sums: Array,
    parts: int,
) -> None:
    """From `grad [batch, time, width]` to `to_x` alike, and to `sums [numbers]`: the gradients of `to_attend`,
    `sight.norms` and `to_feed`, one after the other. `shares [parts, numbers]` is room for them."""
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        a, f = attention_of(attention, begin, end), feed_forward_of(feed_forward, begin, end)
        for_attention = size_of(to_attend) + sight.norms.size
        middle = np.empty(a.out.shape, np.float32)
        own = shares[part, for_attention:]
        feed_forward_backward(rows(grad[begin:end]), rows(a.out), kind, to_feed, f, rows(middle), own)
        own = shares[part, :for_attention]
        attention_backward(middle, x[begin:end], kind, to_attend, sight, begin, a, to_x[begin:end], own)
    for part in prange(parts):
        begin, end = part * len(sums) // parts, (part + 1) * len(sums) // parts
        fill(sums[begin:end], ZERO)
        for share in range(parts):
            for i in range(begin, end):
                sums[i] += shares[share, i]


@compiled
def rows(x: Array) -> Array:
    """`[batch, time, width]` -> `[rows, width]`"""
    return x.reshape(-1, x.shape[2])


@compiled
def attention_of(a: Attention, begin: int, end: int) -> Attention:
    """A share of the batch."""
    return Attention(
        a.unit[begin:end],
        a.fit[begin:end],
        a.qkv[begin:end],
        a.turned[begin:end],
        a.scales[begin:end],
        a.weights[begin:end],
        a.mixed[begin:end],
        a.summed[begin:end],
        a.out[begin:end],
    )


@compiled
def feed_forward_of(f: FeedForward, begin: int, end: int) -> FeedForward:
    """A share of the batch."""
    return FeedForward(
        f.unit[begin:end],
        f.fit[begin:end],
        f.inner[begin:end],
        f.slope[begin:end],
        f.summed[begin:end],
    )


# ---- its two parts


@within
def attention_forward(x: Array, kind: Kind, w: Weights, sight: Sight, first: int, a: Attention) -> None:
    """Of rows of the batch from `first` on."""
    batch, time, all_heads, _ = a.qkv.shape
    start(rows(x), kind, w, rows(a.unit), rows(a.fit), a.qkv.reshape(-1, len(w.into)))
    source = a.qkv
    if len(sight.cos):
        for row in range(batch):
            for t in range(time):
                cos, sin = sight.cos[t], sight.sin[t]
                turn(a.qkv[row, t], kind.heads, sight.norms, kind.eps, cos, sin, a.turned[row, t], a.scales[row, t])
        source = a.turned
    for row in range(batch):
        sees = sight.sees[(first + row) % len(sight.sees)]
        for group in range((all_heads - kind.heads) // 2):
            attend(source[row], kind.heads, group, sees, a.weights[row], a.mixed[row])
    finish(rows(x), kind, w, a.mixed.reshape(-1, w.back.shape[1]), rows(a.fit), rows(a.summed), rows(a.out))


@within
def attention_backward(
    grad: Array, x: Array, kind: Kind, w: Weights, sight: Sight, first: int, a: Attention, to_x: Array, to: Array
) -> None:
    batch, time, all_heads, _ = a.qkv.shape
    to_weights = weights_in(to, w)
    to_norms = to[len(to) - sight.norms.size :].reshape(sight.norms.shape)
    to_mixed, to_qkv = np.empty(a.mixed.shape, np.float32), np.empty(a.qkv.shape, np.float32)
    inner, to_inner = a.mixed.reshape(-1, w.back.shape[1]), to_mixed.reshape(-1, w.back.shape[1])
    slope = finish_backward(rows(grad), kind, w, inner, rows(a.fit), rows(a.summed), to_inner, to_weights)
    source = a.turned if len(sight.cos) else a.qkv
    for row in range(batch):
        sees = sight.sees[(first + row) % len(sight.sees)]
        for group in range((all_heads - kind.heads) // 2):
            attend_backward(to_mixed[row], source[row], kind.heads, group, sees, a.weights[row], to_qkv[row])
    if len(sight.cos):
        fill(to_norms.reshape(-1), ZERO)
        for row in range(batch):
            for t in range(time):
                cos, sin = sight.cos[t], sight.sin[t]
                at, scales = a.qkv[row, t], a.scales[row, t]
                turn_backward(to_qkv[row, t], at, kind.heads, sight.norms, cos, sin, scales, to_norms)
    to_units = to_qkv.reshape(-1, len(w.into))
    start_backward(to_units, slope, rows(x), kind, w, rows(a.unit), rows(a.fit), rows(to_x), to_weights)


@within
def feed_forward_forward(x: Array, kind: Kind, w: Weights, f: FeedForward, out: Array) -> None:
    """`x [rows, width]`"""
    start(x, kind, w, rows(f.unit), rows(f.fit), rows(f.slope))
    if kind.activation == GELU:
        gelu(f.slope.reshape(-1), f.inner.reshape(-1))
    else:
        gated(rows(f.slope), kind.activation == SWIGLU, rows(f.inner))
    finish(x, kind, w, rows(f.inner), rows(f.fit), rows(f.summed), out)


@within
def feed_forward_backward(
    grad: Array, x: Array, kind: Kind, w: Weights, f: FeedForward, to_x: Array, to: Array
) -> None:
    to_weights = weights_in(to, w)
    to_inner = np.empty((len(x), w.back.shape[1]), np.float32)
    slope = finish_backward(grad, kind, w, rows(f.inner), rows(f.fit), rows(f.summed), to_inner, to_weights)
    if kind.activation == GELU:
        gelu_backward(to_inner.reshape(-1), f.slope.reshape(-1))
        to_units = to_inner
    else:
        to_units = np.empty((len(x), len(w.into)), np.float32)
        gated_backward(to_inner, rows(f.slope), to_units)
    start_backward(to_units, slope, x, kind, w, rows(f.unit), rows(f.fit), to_x, to_weights)


# ---- what both parts begin and end with, `[rows, ...]`


@within
def start(x: Array, kind: Kind, w: Weights, unit: Array, fit: Array, units: Array) -> None:
    """The norm where it is before, and the product in."""
    if kind.before and len(w.norm):
        norm(x, w.norm, w.norm_bias, kind.centred, kind.eps, unit, fit)
        x = unit
    linear(x, w.into, w.into_bias, units)


@within
def start_backward(
    grad: Array, slope: Array, x: Array, kind: Kind, w: Weights, unit: Array, fit: Array, to_x: Array, to: Weights
) -> None:
    """From the units' gradients, and from `slope`, those of the sum of what came and what was made of it."""
    normed = kind.before and len(w.norm) > 0
    source, to_source = (unit, np.empty(x.shape, np.float32)) if normed else (x, to_x)
    product_backward(grad, source, w.into, to_source, to.into, to.into_bias)
    if normed:
        norm_backward(to_source, x, w.norm, kind.centred, fit, to_x, to.norm, to.norm_bias)
    add(slope, to_x)


@within
def finish(x: Array, kind: Kind, w: Weights, inner: Array, fit: Array, summed: Array, out: Array) -> None:
    """The product back, what came, and the norm where it is behind."""
    total = out if kind.before else summed
    linear(inner, w.back, w.back_bias, total)
    add(x, total)
    if not kind.before:
        norm(total, w.norm, w.norm_bias, kind.centred, kind.eps, out, fit)


@within
def finish_backward(
    grad: Array, kind: Kind, w: Weights, inner: Array, fit: Array, summed: Array, to_inner: Array, to: Weights
) -> Array:
    """The gradients of the sum of what came and what was made of it."""
    if not kind.before:
        slope = np.empty(grad.shape, np.float32)
        norm_backward(grad, summed, w.norm, kind.centred, fit, slope, to.norm, to.norm_bias)
        grad = slope
    product_backward(grad, inner, w.back, to_inner, to.back, to.back_bias)
    return grad


@compiled
def size_of(w: Weights) -> int:
    return w.norm.size + w.norm_bias.size + w.into.size + w.into_bias.size + w.back.size + w.back_bias.size


@compiled
def weights_in(x: Array, w: Weights) -> Weights:
    """Where in `x [numbers]` the gradients of these weights lie."""
    a = len(w.norm)
    b = a + len(w.norm_bias)
    c = b + w.into.size
    d = c + len(w.into_bias)
    e = d + w.back.size
    return Weights(
        x[:a], x[a:b], x[b:c].reshape(w.into.shape), x[c:d], x[d:e].reshape(w.back.shape), x[e : e + len(w.back_bias)]
    )
