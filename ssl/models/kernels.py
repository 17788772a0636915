"""What a transformer's layers compute, in machine code for CPUs.

torch pays for every small operation with a call and a pass over memory, and in each its threads wait for one another.
Here a sub-layer (a norm, two products, and attention or an activation between them) is one call, in which each thread
takes its share of the rows all the way. Arrays are float32 and contiguous, and numbers that are not finite stay so.
`parts`: into how many shares; sums over rows are made share by share, `[parts, ...]`, so that the same number of
threads gives the same bits. An array of no numbers stands for what a layer does not have.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's np.dot: here, so that its threads can be limited
from numba import prange

from rlgym.envs.spaces import Array
from rlgym.machine_code import compiled, parallel, summing

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
GELU, SWIGLU, GEGLU = range(3)
QUERIES = 64
"""Rows of a product in attention: the keys that none of them sees are left out."""


@compiled
def exp(x: np.float32) -> np.float32:
    """To float32's precision, many at a time; 0 below -87. 2^n by the exponent's bits, the rest by a polynomial
    (Cephes' expf)."""
    x = np.float32(88) if x > np.float32(88) else x
    shifted = np.float32(x * np.float32(1.44269504) + np.float32(12582912))  # by 1.5 x 2^23 the last bit is a whole
    n = shifted - np.float32(12582912)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + ONE
    bits = np.int32((shifted.view(np.int32) << np.int32(23)) + np.int32(0x3F800000))
    return ZERO if x < np.float32(-87) else p * bits.view(np.float32)


# ---- products


@summing
def linear(x: Array, weight: Array, bias: Array, out: Array) -> None:
    np.dot(x, weight.T, out)
    if len(bias):
        for row in range(len(out)):
            for unit in range(len(bias)):
                out[row, unit] += bias[unit]


@summing
def product_backward(grad: Array, x: Array, weight: Array, to_x: Array, to_weight: Array, to_bias: Array) -> None:
    if len(to_bias):
        column_sums(grad, to_bias)
    np.dot(grad.T, x, to_weight)
    np.dot(grad, weight, to_x)


@summing
def column_sums(x: Array, out: Array) -> None:
    fill(out, ZERO)
    for row in range(len(x)):
        for column in range(len(out)):
            out[column] += x[row, column]


@compiled
def add_up(shares: Array, begin: int, end: int, out: Array) -> None:
    fill(out, ZERO)
    for part in range(len(shares)):
        share = shares[part, begin:end]
        for i in range(len(out)):
            out[i] += share[i]


@compiled
def fill(x: Array, value: np.float32) -> None:
    """A vector; an assignment to a slice would take a second to compile."""
    for i in range(len(x)):
        x[i] = value


# ---- norms


@summing
def norm(x: Array, weight: Array, bias: Array, centred: bool, eps: np.float32, out: Array, fit: Array) -> None:
    width = x.shape[1]
    for row in range(len(x)):
        mean = ZERO
        if centred:
            for i in range(width):
                mean += x[row, i]
            mean /= np.float32(width)
        square = ZERO
        for i in range(width):
            square += (x[row, i] - mean) * (x[row, i] - mean)
        scale = ONE / np.sqrt(square / np.float32(width) + eps)
        fit[row, 0], fit[row, 1] = mean, scale
        if len(bias):
            for i in range(width):
                out[row, i] = (x[row, i] - mean) * scale * weight[i] + bias[i]
        else:
            for i in range(width):
                out[row, i] = (x[row, i] - mean) * scale * weight[i]


@summing
def norm_backward(
    grad: Array, x: Array, weight: Array, centred: bool, fit: Array, to_x: Array, to_weight: Array, to_bias: Array
) -> None:
    width = x.shape[1]
    fill(to_weight, ZERO)
    fill(to_bias, ZERO)
    for row in range(len(x)):
        mean, scale = fit[row, 0], fit[row, 1]
        along, level = ZERO, ZERO
        for i in range(width):
            along += grad[row, i] * weight[i] * (x[row, i] - mean)
            level += grad[row, i] * weight[i]
        along *= scale * scale / np.float32(width)
        level = level / np.float32(width) if centred else ZERO
        for i in range(width):
            to_x[row, i] = (grad[row, i] * weight[i] - level - (x[row, i] - mean) * along) * scale
        for i in range(width):
            to_weight[i] += grad[row, i] * (x[row, i] - mean) * scale
        for i in range(len(to_bias)):
            to_bias[i] += grad[row, i]


# ---- activations


@compiled
def normal(x: np.float32, bell: np.float32) -> np.float32:
    """The normal distribution's share below `x`, from `bell` = exp(-x^2 / 2), to 1e-7 (Abramowitz & Stegun, 7.1.26)."""
    t = ONE / (ONE + np.float32(0.3275911 / 2**0.5) * abs(x))
    p = np.float32(1.061405429 / 2)
    p = p * t - np.float32(1.453152027 / 2)
    p = p * t + np.float32(1.421413741 / 2)
    p = p * t - np.float32(0.284496736 / 2)
    p = p * t + np.float32(0.254829592 / 2)
    tail = p * t * bell
    return tail if x < ZERO else ONE - tail


@compiled
def gelu(x: Array, out: Array) -> None:
    """The exact GELU of `x [numbers]`, which becomes its derivative."""
    for i in range(len(x)):
        value = x[i]
        bell = exp(-HALF * value * value)
        share = normal(value, bell)
        out[i] = value * share
        x[i] = share + value * bell * np.float32(0.3989422804014327)


@compiled
def gated(x: Array, silu: bool, out: Array) -> None:
    """With `silu` SwiGLU, else GeGLU: the activation of the first half of `x [rows, 2 inner]` by the second half, to
    `out [rows, inner]`; `x` becomes the derivative."""
    for row in range(len(x)):
        gate, other, result = x[row, : out.shape[1]], x[row, out.shape[1] :], out[row]
        if silu:
            for i in range(len(result)):
                value, factor = gate[i], other[i]
                share = ONE / (ONE + exp(-value))
                result[i] = value * share * factor
                gate[i] = share * (ONE + value * (ONE - share)) * factor
                other[i] = value * share
        else:
            for i in range(len(result)):
                value, factor = gate[i], other[i]
                bell = exp(-HALF * value * value)
                share = normal(value, bell)
                result[i] = value * share * factor
                gate[i] = (share + value * bell * np.float32(0.3989422804014327)) * factor
                other[i] = value * share


@compiled
def gated_backward(grad: Array, slope: Array, out: Array) -> None:
    """From `grad [rows, inner]` to `out [rows, 2 inner]`."""
    inner = grad.shape[1]
    for row in range(len(grad)):
        for i in range(inner):
            out[row, i] = grad[row, i] * slope[row, i]
        for i in range(inner):
            out[row, inner + i] = grad[row, i] * slope[row, inner + i]


# ---- attention: `qkv [batch, time, heads + 2 groups, size]`, queries, then keys, then values


@summing
def turn(
    x: Array, heads: int, weights: Array, eps: np.float32, cos: Array, sin: Array, out: Array, scales: Array
) -> None:
    size, half = x.shape[1], x.shape[1] // 2
    for head in range(len(scales)):
        if len(weights):
            square = ZERO
            for i in range(size):
                square += x[head, i] * x[head, i]
            scale = ONE / np.sqrt(square / np.float32(size) + eps)
            scales[head] = scale
            weight = weights[0 if head < heads else 1]
            for i in range(half):
                a, b = x[head, i] * scale * weight[i], x[head, i + half] * scale * weight[i + half]
                out[head, i] = a * cos[i] + b * sin[i]
                out[head, i + half] = b * cos[i + half] + a * sin[i + half]
        else:
            for i in range(half):
                a, b = x[head, i], x[head, i + half]
                out[head, i] = a * cos[i] + b * sin[i]
                out[head, i + half] = b * cos[i + half] + a * sin[i + half]
    for head in range(len(scales), len(x)):
        for i in range(size):
            out[head, i] = x[head, i]


@summing
def turn_backward(
    grad: Array, x: Array, heads: int, weights: Array, cos: Array, sin: Array, scales: Array, to_weights: Array
) -> None:
    """`grad [heads + 2 groups, size]` in place; adds to `to_weights [2, size]`."""
    size, half = x.shape[1], x.shape[1] // 2
    for head in range(len(scales)):
        low, high = grad[head, :half], grad[head, half:]
        for i in range(half):
            a, b = low[i], high[i]
            low[i] = a * cos[i] + b * sin[i + half]
            high[i] = b * cos[i + half] + a * sin[i]
        if len(weights):
            scale, kind = scales[head], 0 if head < heads else 1
            along = ZERO
            for i in range(size):
                along += grad[head, i] * weights[kind, i] * x[head, i]
            along *= scale * scale / np.float32(size)
            for i in range(size):
                to_weights[kind, i] += grad[head, i] * x[head, i] * scale
            for i in range(size):
                grad[head, i] = (grad[head, i] * weights[kind, i] - x[head, i] * along) * scale


@summing
def attend(qkv: Array, heads: int, group: int, sees: Array, weights: Array, out: Array) -> None:
    time, all_heads, size = qkv.shape
    groups = (all_heads - heads) // 2
    own = np.empty((3, time, size), np.float32)
    key, value, query = own[0], own[1], own[2]
    result = np.empty((QUERIES, size), np.float32)
    factor = ONE / np.sqrt(np.float32(size))
    copy(qkv, heads + group, ONE, key)
    copy(qkv, heads + groups + group, ONE, value)
    for head in range(group * heads // groups, (group + 1) * heads // groups):
        copy(qkv, head, factor, query)
        for begin in range(0, time, QUERIES):
            end = min(begin + QUERIES, time)
            low, high = span(sees, begin, end)
            count = high - low
            w = weights[head, begin * time : begin * time + (end - begin) * count].reshape(end - begin, count)
            np.dot(query[begin:end], key[low:high].T, w)
            for t in range(end - begin):
                first, last = sees[begin + t, 0] - low, sees[begin + t, 1] - low
                fill(w[t, :first], ZERO)
                fill(w[t, last:], ZERO)
                softmax(w[t, first:last])
            mixed = result[: end - begin]
            np.dot(w, value[low:high], mixed)
            for t in range(end - begin):
                for i in range(size):
                    out[begin + t, head, i] = mixed[t, i]


@summing
def softmax(x: Array) -> None:
    top = x[0]
    for i in range(len(x)):
        top = max(top, x[i])
    total = ZERO
    for i in range(len(x)):
        e = exp(x[i] - top)
        x[i] = e
        total += e
    share = ONE / total
    for i in range(len(x)):
        x[i] *= share


@summing
def attend_backward(
    grad: Array, qkv: Array, heads: int, group: int, sees: Array, weights: Array, to_qkv: Array
) -> None:
    time, all_heads, size = qkv.shape
    groups = (all_heads - heads) // 2
    own = np.zeros((7, time, size), np.float32)
    key, value, query, slope, to_key, to_value, result = own[0], own[1], own[2], own[3], own[4], own[5], own[6]
    scores = np.empty(min(QUERIES, time) * time, np.float32)
    factor = ONE / np.sqrt(np.float32(size))
    copy(qkv, heads + group, ONE, key)
    copy(qkv, heads + groups + group, ONE, value)
    for head in range(group * heads // groups, (group + 1) * heads // groups):
        copy(qkv, head, factor, query)
        copy(grad, head, ONE, slope)
        for begin in range(0, time, QUERIES):
            end = min(begin + QUERIES, time)
            low, high = span(sees, begin, end)
            count = high - low
            w = weights[head, begin * time : begin * time + (end - begin) * count].reshape(end - begin, count)
            s = scores[: (end - begin) * count].reshape(end - begin, count)
            np.dot(w.T, slope[begin:end], result[:count])
            add(result[:count], to_value[low:high])
            np.dot(slope[begin:end], value[low:high].T, s)
            for t in range(end - begin):
                total = ZERO
                for i in range(count):
                    total += s[t, i] * w[t, i]
                for i in range(count):
                    s[t, i] = (s[t, i] - total) * w[t, i]
            np.dot(s.T, query[begin:end], result[:count])
            add(result[:count], to_key[low:high])
            np.dot(s, key[low:high], result[: end - begin])
            for t in range(end - begin):
                for i in range(size):
                    to_qkv[begin + t, head, i] = result[t, i] * factor
    for t in range(time):
        for i in range(size):
            to_qkv[t, heads + group, i] = to_key[t, i]
            to_qkv[t, heads + groups + group, i] = to_value[t, i]


@compiled
def copy(x: Array, head: int, factor: np.float32, out: Array) -> None:
    for t in range(len(out)):
        for i in range(out.shape[1]):
            out[t, i] = x[t, head, i] * factor


@compiled
def add(x: Array, out: Array) -> None:
    """Two matrices."""
    for t in range(len(out)):
        for i in range(out.shape[1]):
            out[t, i] += x[t, i]


@compiled
def span(sees: Array, begin: int, end: int) -> tuple[int, int]:
    """The keys that some of these queries see."""
    low, high = sees[begin, 0], sees[begin, 1]
    for t in range(begin, end):
        low, high = min(low, sees[t, 0]), max(high, sees[t, 1])
    return low, high


# ---- sub-layers: a norm before or after, two products, and attention or an activation between them


@parallel
def feed_forward(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    eps: np.float32,
    weight_in: Array,
    bias_in: Array,
    activation: int,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    inner: Array,
    slope: Array,
    summed: Array,
    out: Array,
    parts: int,
) -> None:
    """`x [rows, width]` to `out` alike: x + f(norm(x)) where the norm is `before`, else norm(x + f(x)). f is a product
    to `slope [rows, units]`, the activation to `inner`, and a product back. `unit`, `fit` and `summed` (what the norm
    behind takes) are kept for the way back."""
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        feed_forward_rows(
            x[begin:end],
            norm_weight,
            norm_bias,
            centred,
            before,
            eps,
            weight_in,
            bias_in,
            activation,
            weight_out,
            bias_out,
            unit[begin:end],
            fit[begin:end],
            inner[begin:end],
            slope[begin:end],
            summed[begin:end],
            out[begin:end],
        )


@summing
def feed_forward_rows(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    eps: np.float32,
    weight_in: Array,
    bias_in: Array,
    activation: int,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    inner: Array,
    slope: Array,
    summed: Array,
    out: Array,
) -> None:
    if before and len(norm_weight):
        norm(x, norm_weight, norm_bias, centred, eps, unit, fit)
        linear(unit, weight_in, bias_in, slope)
    else:
        linear(x, weight_in, bias_in, slope)
    if activation == GELU:
        gelu(slope.reshape(-1), inner.reshape(-1))
    else:
        gated(slope, activation == SWIGLU, inner)
    finish(inner, weight_out, bias_out, x, norm_weight, norm_bias, centred, before, eps, fit, summed, out)


@summing
def finish(
    inner: Array,
    weight: Array,
    bias: Array,
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    eps: np.float32,
    fit: Array,
    summed: Array,
    out: Array,
) -> None:
    """The product back, what came in, and the norm where it is behind."""
    if before:
        linear(inner, weight, bias, out)
        add(x, out)
    else:
        linear(inner, weight, bias, summed)
        add(x, summed)
        norm(summed, norm_weight, norm_bias, centred, eps, out, fit)


@parallel
def feed_forward_backward(
    grad: Array,
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    weight_in: Array,
    bias_in: Array,
    activation: int,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    inner: Array,
    slope: Array,
    summed: Array,
    to_x: Array,
    shares: Array,
    sums: Array,
    parts: int,
) -> None:
    """From `grad [rows, width]` to `to_x` alike, and to `sums`: the gradients of the norm, the first product and the
    second, weight and bias each, one after the other. `shares [parts, numbers]` is room for them."""
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        feed_forward_rows_backward(
            grad[begin:end],
            x[begin:end],
            norm_weight,
            norm_bias,
            centred,
            before,
            weight_in,
            bias_in,
            activation,
            weight_out,
            bias_out,
            unit[begin:end],
            fit[begin:end],
            inner[begin:end],
            slope[begin:end],
            summed[begin:end],
            to_x[begin:end],
            shares[part],
        )
    for part in prange(parts):
        begin, end = part * len(sums) // parts, (part + 1) * len(sums) // parts
        add_up(shares, begin, end, sums[begin:end])


@summing
def feed_forward_rows_backward(
    grad: Array,
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    weight_in: Array,
    bias_in: Array,
    activation: int,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    inner: Array,
    slope: Array,
    summed: Array,
    to_x: Array,
    share: Array,
) -> None:
    rows, width = x.shape
    at = len(norm_weight) + len(norm_bias)
    to_norm_weight, to_norm_bias = share[: len(norm_weight)], share[len(norm_weight) : at]
    to_weight_in, to_bias_in = product_share(share, at, weight_in, bias_in)
    at += weight_in.size + len(bias_in)
    to_weight_out, to_bias_out = product_share(share, at, weight_out, bias_out)

    if not before:
        back = np.empty((rows, width), np.float32)
        norm_backward(grad, summed, norm_weight, centred, fit, back, to_norm_weight, to_norm_bias)
        grad = back
    to_inner = np.empty(inner.shape, np.float32)
    product_backward(grad, inner, weight_out, to_inner, to_weight_out, to_bias_out)
    if activation == GELU:
        multiply(slope.reshape(-1), to_inner.reshape(-1))
        to_units = to_inner
    else:
        to_units = np.empty(slope.shape, np.float32)
        gated_backward(to_inner, slope, to_units)
    if before and len(norm_weight):
        to_unit = np.empty((rows, width), np.float32)
        product_backward(to_units, unit, weight_in, to_unit, to_weight_in, to_bias_in)
        norm_backward(to_unit, x, norm_weight, centred, fit, to_x, to_norm_weight, to_norm_bias)
    else:
        product_backward(to_units, x, weight_in, to_x, to_weight_in, to_bias_in)
    add(grad, to_x)


@compiled
def product_share(share: Array, at: int, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Where the gradients of a product lie."""
    middle = at + weight.size
    return share[at:middle].reshape(weight.shape), share[middle : middle + len(bias)]


@compiled
def multiply(x: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] *= x[i]


@parallel
def self_attention(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    eps: np.float32,
    weight_in: Array,
    bias_in: Array,
    heads: int,
    turn_weights: Array,
    cos: Array,
    sin: Array,
    sees: Array,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    qkv: Array,
    turned: Array,
    scales: Array,
    weights: Array,
    mixed: Array,
    summed: Array,
    out: Array,
    parts: int,
) -> None:
    """The same of `x [batch, time, width]`, f being a product to `qkv [batch, time, heads + 2 groups, size]`, attention
    to `mixed [batch, time, heads, size]`, and a product back.

    Where there are tables `cos` and signed `sin` `[time, size]`, queries and keys are turned by their positions (RoPE),
    to `turned`; where there are `turn_weights [2, size]`, normalised with them before. A query sees the keys from
    `sees[.., 0]` to before `sees[.., 1]`, `[batch or 1, time, 2]`.
    """
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        self_attention_rows(
            x[begin:end],
            norm_weight,
            norm_bias,
            centred,
            before,
            eps,
            weight_in,
            bias_in,
            heads,
            turn_weights,
            cos,
            sin,
            sees if len(sees) == 1 else sees[begin:end],
            weight_out,
            bias_out,
            unit[begin:end],
            fit[begin:end],
            qkv[begin:end],
            turned[begin:end],
            scales[begin:end],
            weights[begin:end],
            mixed[begin:end],
            summed[begin:end],
            out[begin:end],
        )


@summing
def self_attention_rows(
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    eps: np.float32,
    weight_in: Array,
    bias_in: Array,
    heads: int,
    turn_weights: Array,
    cos: Array,
    sin: Array,
    sees: Array,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    qkv: Array,
    turned: Array,
    scales: Array,
    weights: Array,
    mixed: Array,
    summed: Array,
    out: Array,
) -> None:
    batch, time, width = x.shape
    rows = x.reshape(-1, width)
    fits = fit.reshape(-1, 2)
    if before and len(norm_weight):
        norm(rows, norm_weight, norm_bias, centred, eps, unit.reshape(-1, width), fits)
        linear(unit.reshape(-1, width), weight_in, bias_in, qkv.reshape(-1, len(weight_in)))
    else:
        linear(rows, weight_in, bias_in, qkv.reshape(-1, len(weight_in)))
    source = qkv
    if len(cos):
        for row in range(batch):
            for t in range(time):
                turn(qkv[row, t], heads, turn_weights, eps, cos[t], sin[t], turned[row, t], scales[row, t])
        source = turned
    for row in range(batch):
        for group in range((qkv.shape[2] - heads) // 2):
            attend(source[row], heads, group, sees[row % len(sees)], weights[row], mixed[row])
    finish(
        mixed.reshape(-1, weight_out.shape[1]),
        weight_out,
        bias_out,
        rows,
        norm_weight,
        norm_bias,
        centred,
        before,
        eps,
        fits,
        summed.reshape(-1, width),
        out.reshape(-1, width),
    )


@parallel
def self_attention_backward(
    grad: Array,
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    weight_in: Array,
    bias_in: Array,
    heads: int,
    turn_weights: Array,
    cos: Array,
    sin: Array,
    sees: Array,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    qkv: Array,
    turned: Array,
    scales: Array,
    weights: Array,
    mixed: Array,
    summed: Array,
    to_x: Array,
    shares: Array,
    sums: Array,
    parts: int,
) -> None:
    """As `feed_forward_backward`; behind the others the gradients of `turn_weights`."""
    for part in prange(parts):
        begin, end = part * len(x) // parts, (part + 1) * len(x) // parts
        self_attention_rows_backward(
            grad[begin:end],
            x[begin:end],
            norm_weight,
            norm_bias,
            centred,
            before,
            weight_in,
            bias_in,
            heads,
            turn_weights,
            cos,
            sin,
            sees if len(sees) == 1 else sees[begin:end],
            weight_out,
            bias_out,
            unit[begin:end],
            fit[begin:end],
            qkv[begin:end],
            turned[begin:end],
            scales[begin:end],
            weights[begin:end],
            mixed[begin:end],
            summed[begin:end],
            to_x[begin:end],
            shares[part],
        )
    for part in prange(parts):
        begin, end = part * len(sums) // parts, (part + 1) * len(sums) // parts
        add_up(shares, begin, end, sums[begin:end])


@summing
def self_attention_rows_backward(
    grad: Array,
    x: Array,
    norm_weight: Array,
    norm_bias: Array,
    centred: bool,
    before: bool,
    weight_in: Array,
    bias_in: Array,
    heads: int,
    turn_weights: Array,
    cos: Array,
    sin: Array,
    sees: Array,
    weight_out: Array,
    bias_out: Array,
    unit: Array,
    fit: Array,
    qkv: Array,
    turned: Array,
    scales: Array,
    weights: Array,
    mixed: Array,
    summed: Array,
    to_x: Array,
    share: Array,
) -> None:
    batch, time, width = x.shape
    at = len(norm_weight) + len(norm_bias)
    to_norm_weight, to_norm_bias = share[: len(norm_weight)], share[len(norm_weight) : at]
    to_weight_in, to_bias_in = product_share(share, at, weight_in, bias_in)
    at += weight_in.size + len(bias_in)
    to_weight_out, to_bias_out = product_share(share, at, weight_out, bias_out)
    at += weight_out.size + len(bias_out)
    to_turn_weights = share[at : at + turn_weights.size].reshape(turn_weights.shape)

    rows, slope, down = x.reshape(-1, width), grad.reshape(-1, width), to_x.reshape(-1, width)
    fits = fit.reshape(-1, 2)
    if not before:
        back = np.empty(rows.shape, np.float32)
        norm_backward(slope, summed.reshape(-1, width), norm_weight, centred, fits, back, to_norm_weight, to_norm_bias)
        slope = back
    to_mixed, to_qkv = np.empty(mixed.shape, np.float32), np.empty(qkv.shape, np.float32)
    outs = weight_out.shape[1]
    product_backward(slope, mixed.reshape(-1, outs), weight_out, to_mixed.reshape(-1, outs), to_weight_out, to_bias_out)
    source = turned if len(cos) else qkv
    for row in range(batch):
        for group in range((qkv.shape[2] - heads) // 2):
            attend_backward(to_mixed[row], source[row], heads, group, sees[row % len(sees)], weights[row], to_qkv[row])
    if len(cos):
        fill(share[at : at + turn_weights.size], ZERO)
        for row in range(batch):
            for t in range(time):
                turn_backward(
                    to_qkv[row, t], qkv[row, t], heads, turn_weights, cos[t], sin[t], scales[row, t], to_turn_weights
                )
    to_rows = to_qkv.reshape(-1, len(weight_in))
    if before and len(norm_weight):
        to_unit = np.empty(rows.shape, np.float32)
        product_backward(to_rows, unit.reshape(-1, width), weight_in, to_unit, to_weight_in, to_bias_in)
        norm_backward(to_unit, rows, norm_weight, centred, fits, down, to_norm_weight, to_norm_bias)
    else:
        product_backward(to_rows, rows, weight_in, down, to_weight_in, to_bias_in)
    add(slope, down)
