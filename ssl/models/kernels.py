"""Products, norms, activations and attention with their derivatives, compiled: of one thread, on its rows.

`layer_kernels` makes layers of them. Arrays are float32 and contiguous, and numbers that are not finite stay so. An
array of no numbers stands for a weight that there is none of.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's np.dot: here, so that its threads can be limited

from rlgym.common.jit import compiled, within
from rlgym.envs.spaces import Array

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


@within
def linear(x: Array, weight: Array, bias: Array, out: Array) -> None:
    np.dot(x, weight.T, out)
    if len(bias):
        for row in range(len(out)):
            for unit in range(len(bias)):
                out[row, unit] += bias[unit]


@within
def product_backward(grad: Array, x: Array, weight: Array, to_x: Array, to_weight: Array, to_bias: Array) -> None:
    if len(to_bias):
        column_sums(grad, to_bias)
    np.dot(grad.T, x, to_weight)
    np.dot(grad, weight, to_x)


@within
def column_sums(x: Array, out: Array) -> None:
    fill(out, ZERO)
    for row in range(len(x)):
        for column in range(len(out)):
            out[column] += x[row, column]


@compiled
def fill(x: Array, value: np.float32) -> None:
    """A vector; an assignment to a slice would take a second to compile."""
    for i in range(len(x)):
        x[i] = value


# ---- norms


@within
def norm(x: Array, weight: Array, bias: Array, centred: bool, eps: np.float32, out: Array, fit: Array) -> None:
    rows, width = x.shape
    sums, share = np.zeros(rows, np.float32), ONE / np.float32(width)
    if centred:
        row_sums(x, sums)
    for row in range(rows):
        mean = sums[row] * share
        fit[row, 0] = mean
        for i in range(width):
            out[row, i] = (x[row, i] - mean) * (x[row, i] - mean)
    row_sums(out, sums)
    for row in range(rows):
        mean, scale = fit[row, 0], ONE / np.sqrt(sums[row] * share + eps)
        fit[row, 1] = scale
        if len(bias):
            for i in range(width):
                out[row, i] = (x[row, i] - mean) * scale * weight[i] + bias[i]
        else:
            for i in range(width):
                out[row, i] = (x[row, i] - mean) * scale * weight[i]


@within
def norm_backward(
    grad: Array, x: Array, weight: Array, centred: bool, fit: Array, to_x: Array, to_weight: Array, to_bias: Array
) -> None:
    rows, width = x.shape
    levels, alongs, share = np.zeros(rows, np.float32), np.empty(rows, np.float32), ONE / np.float32(width)
    if centred:
        np.dot(grad, weight, levels)
    for row in range(rows):
        mean = fit[row, 0]
        for i in range(width):
            to_x[row, i] = grad[row, i] * weight[i] * (x[row, i] - mean)
    row_sums(to_x, alongs)
    fill(to_weight, ZERO)
    fill(to_bias, ZERO)
    for row in range(rows):
        mean, scale = fit[row, 0], fit[row, 1]
        along, level = alongs[row] * scale * scale * share, levels[row] * share
        for i in range(width):
            to_x[row, i] = (grad[row, i] * weight[i] - level - (x[row, i] - mean) * along) * scale
        for i in range(width):
            to_weight[i] += grad[row, i] * (x[row, i] - mean) * scale
        for i in range(len(to_bias)):
            to_bias[i] += grad[row, i]


@within
def row_sums(x: Array, out: Array) -> None:
    """A product with ones: many numbers at once, in an order that is not the compiler's."""
    np.dot(x, np.ones(x.shape[1], np.float32), out)


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
def gelu_backward(grad: Array, slope: Array) -> None:
    """`grad [numbers]` in place."""
    for i in range(len(grad)):
        grad[i] *= slope[i]


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


@within
def turn(
    x: Array, heads: int, weights: Array, eps: np.float32, cos: Array, sin: Array, out: Array, scales: Array
) -> None:
    size, half = x.shape[1], x.shape[1] // 2
    if len(weights):
        for head in range(len(scales)):
            for i in range(size):
                out[head, i] = x[head, i] * x[head, i]
        row_sums(out[: len(scales)], scales)
        for head in range(len(scales)):
            scale = ONE / np.sqrt(scales[head] / np.float32(size) + eps)
            scales[head] = scale
            weight = weights[0 if head < heads else 1]
            for i in range(half):
                a, b = x[head, i] * scale * weight[i], x[head, i + half] * scale * weight[i + half]
                out[head, i] = a * cos[i] + b * sin[i]
                out[head, i + half] = b * cos[i + half] + a * sin[i + half]
    else:
        for head in range(len(scales)):
            for i in range(half):
                a, b = x[head, i], x[head, i + half]
                out[head, i] = a * cos[i] + b * sin[i]
                out[head, i + half] = b * cos[i + half] + a * sin[i + half]
    for head in range(len(scales), len(x)):
        for i in range(size):
            out[head, i] = x[head, i]


@within
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
        along, alongs = np.empty((len(scales), size), np.float32), np.empty(len(scales), np.float32)
        for head in range(len(scales)):
            weight = weights[0 if head < heads else 1]
            for i in range(size):
                along[head, i] = grad[head, i] * weight[i] * x[head, i]
        row_sums(along, alongs)
        for head in range(len(scales)):
            scale, kind = scales[head], 0 if head < heads else 1
            level = alongs[head] * scale * scale / np.float32(size)
            for i in range(size):
                to_weights[kind, i] += grad[head, i] * x[head, i] * scale
            for i in range(size):
                grad[head, i] = (grad[head, i] * weights[kind, i] - x[head, i] * level) * scale


@within
def attend(qkv: Array, heads: int, group: int, sees: Array, weights: Array, out: Array) -> None:
    time, all_heads, size = qkv.shape
    groups = (all_heads - heads) // 2
    own = np.empty((3, time, size), np.float32)
    key, value, query = own[0], own[1], own[2]
    result, sums = np.empty((QUERIES, size), np.float32), np.empty(QUERIES, np.float32)
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
                exp_all(w[t, first:last])
            row_sums(w, sums[: end - begin])
            for t in range(end - begin):
                share = ONE / sums[t]
                for i in range(count):
                    w[t, i] *= share
            mixed = result[: end - begin]
            np.dot(w, value[low:high], mixed)
            for t in range(end - begin):
                for i in range(size):
                    out[begin + t, head, i] = mixed[t, i]


@compiled
def exp_all(x: Array) -> None:
    """Of what each is below the greatest."""
    top = x[0]
    for i in range(len(x)):
        top = max(top, x[i])
    for i in range(len(x)):
        x[i] = exp(x[i] - top)


@within
def attend_backward(
    grad: Array, qkv: Array, heads: int, group: int, sees: Array, weights: Array, to_qkv: Array
) -> None:
    time, all_heads, size = qkv.shape
    groups = (all_heads - heads) // 2
    own = np.zeros((7, time, size), np.float32)
    key, value, query, slope, to_key, to_value, result = own[0], own[1], own[2], own[3], own[4], own[5], own[6]
    scores, sums = np.empty(min(QUERIES, time) * time, np.float32), np.empty(QUERIES, np.float32)
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
                for i in range(count):
                    s[t, i] *= w[t, i]
            row_sums(s, sums[: end - begin])
            for t in range(end - begin):
                for i in range(count):
                    s[t, i] -= sums[t] * w[t, i]
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
