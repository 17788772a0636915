"""The passes of a small network compiled, each one call: products, biases, activations and their derivatives.

torch pays more for calling what lies between two products than for doing it. Everything is float32, and numbers that
are not finite stay so. A network's numbers lie in one vector, `parameters`, its gradients at the same places of
another: layer `i` has its weight from `weights[i]` on, `[inputs, units]`, or `[units, inputs]` as torch.nn.Linear has
it (`linear`), and its bias from `biases[i]` on. `widths [layers + 1]` counts the inputs and each layer's units, and
`activations [layers]` names what is behind it. `outputs` holds what one layer after the other gave.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's np.dot: here, so that `threads=` is told to it (rlgym/config/device.py)

from rlgym.common.jit import compiled
from rlgym.envs.spaces import Array

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
FEW = 16
"""Inputs of a layer whose gradient is faster without a product."""
NONE, RELU, TANH = range(3)


@compiled
def forward(
    x: Array,
    parameters: Array,
    widths: Array,
    weights: Array,
    biases: Array,
    activations: Array,
    linear: bool,
    outputs: Array,
) -> None:
    """`x [batch, inputs]` to `outputs`, at last `[batch, units]` of the last layer."""
    begin = 0
    for i in range(len(weights)):
        inputs, units = widths[i], widths[i + 1]
        out = outputs[begin : begin + len(x) * units].reshape(len(x), units)
        begin += len(x) * units
        weight = parameters[weights[i] : weights[i] + inputs * units]
        if linear:
            np.dot(x, weight.reshape(units, inputs).T, out)
        else:
            np.dot(x, weight.reshape(inputs, units), out)
        activate(out, parameters[biases[i] : biases[i] + units], activations[i])
        x = out


@compiled
def activate(out: Array, bias: Array, activation: int) -> None:
    """`bias [units]` and then the activation onto `out [batch, units]`, in place."""
    for row in range(out.shape[0]):
        if activation == RELU:
            for unit in range(out.shape[1]):
                value = out[row, unit] + bias[unit]
                out[row, unit] = ZERO if value < ZERO else value
        elif activation == TANH:
            for unit in range(out.shape[1]):
                out[row, unit] = tanh(out[row, unit] + bias[unit])
        else:
            for unit in range(out.shape[1]):
                out[row, unit] += bias[unit]


@compiled
def tanh(x: np.float32) -> np.float32:
    """By Lambert's continued fraction at a quarter of `x`, whose tangent is doubled twice: a few divisions, which the
    machine does eight at a time. To float32's precision, and 1 from 9 on."""
    quarter = (np.float32(9) if x > np.float32(9) else np.float32(-9) if x < np.float32(-9) else x) * np.float32(0.25)
    square = quarter * quarter
    above = np.float32(135135) + square * (np.float32(17325) + square * (np.float32(378) + square))
    below = np.float32(135135) + square * (np.float32(62370) + square * (np.float32(3150) + square * np.float32(28)))
    found = quarter * above / below
    found = TWO * found / (ONE + found * found)
    return TWO * found / (ONE + found * found)


@compiled
def backward(
    x: Array,
    parameters: Array,
    gradients: Array,
    widths: Array,
    weights: Array,
    biases: Array,
    activations: Array,
    linear: bool,
    outputs: Array,
    slope: Array,
    slopes: Array,
    further: bool,
) -> None:
    """Set the gradients from a forward pass and the loss's derivative with its outputs, `slope [batch, units]`, which
    it overwrites. Where it goes `further`, the derivative with `x` lies in `slopes[0]`; `slopes [2, numbers]`."""
    rows = len(x)
    end = rows * widths[1:].sum()
    for i in range(len(weights) - 1, -1, -1):
        inputs, units = widths[i], widths[i + 1]
        out = outputs[end - rows * units : end].reshape(rows, units)
        end -= rows * units
        below = x if i == 0 else outputs[end - rows * inputs : end].reshape(rows, inputs)
        before_activation(out, slope, activations[i], gradients[biases[i] : biases[i] + units])
        gradient = gradients[weights[i] : weights[i] + inputs * units]
        if inputs <= FEW and 4 * inputs <= units:
            few_gradient(below, slope, gradient, linear)
        elif linear:
            np.dot(slope.T, below, gradient.reshape(units, inputs))
        else:
            np.dot(below.T, slope, gradient.reshape(inputs, units))
        if i or further:
            weight = parameters[weights[i] : weights[i] + inputs * units]
            down = slopes[i % 2, : rows * inputs].reshape(rows, inputs)
            if linear:
                np.dot(slope, weight.reshape(units, inputs), down)
            else:
                np.dot(slope, weight.reshape(inputs, units).T, down)
            slope = down


@compiled
def before_activation(out: Array, slope: Array, activation: int, sums: Array) -> None:
    """From the derivative with an activation's outputs, in place, to that with what it took, both `[batch, units]`.
    `sums [units]` gets its sum over the batch: the bias's gradient."""
    sums[:] = ZERO
    for row in range(slope.shape[0]):
        if activation == RELU:
            for unit in range(slope.shape[1]):
                found = slope[row, unit] if out[row, unit] > ZERO else ZERO
                slope[row, unit] = found
                sums[unit] += found
        elif activation == TANH:
            for unit in range(slope.shape[1]):
                value = out[row, unit]
                found = slope[row, unit] * (ONE - value * value)
                slope[row, unit] = found
                sums[unit] += found
        else:
            for unit in range(slope.shape[1]):
                sums[unit] += slope[row, unit]


@compiled
def few_gradient(x: Array, slope: Array, gradient: Array, linear: bool) -> None:
    """Of a weight with few inputs, `x [batch, inputs]`, from `slope [batch, units]`."""
    total = np.zeros((x.shape[1], slope.shape[1]), np.float32)
    for row in range(slope.shape[0]):
        for k in range(total.shape[0]):
            factor = x[row, k]
            for unit in range(total.shape[1]):
                total[k, unit] += factor * slope[row, unit]
    if linear:
        gradient[:] = total.T.copy().ravel()
    else:
        gradient[:] = total.ravel()


@compiled
def input_slope(
    rows: Array,
    batch: int,
    parameters: Array,
    widths: Array,
    weights: Array,
    activations: Array,
    first: int,
    outputs: Array,
    slope: Array,
    slopes: Array,
) -> None:
    """From the derivative with the outputs of the `rows` of a forward pass over a `batch`, `slope [rows, units]`, which
    it overwrites, to that with the inputs from the `first` on, in `slopes[0]`, and no gradients. For weights
    `[inputs, units]`."""
    count = len(rows)
    end = batch * widths[1:].sum()
    for i in range(len(weights) - 1, -1, -1):
        inputs, units = widths[i], widths[i + 1]
        out = outputs[end - batch * units : end].reshape(batch, units)
        end -= batch * units
        before_activation_of(rows, out, slope, activations[i])
        skipped = 0 if i else first
        weight = parameters[weights[i] + skipped * units : weights[i] + inputs * units]
        down = slopes[i % 2, : count * (inputs - skipped)].reshape(count, inputs - skipped)
        np.dot(slope, weight.reshape(inputs - skipped, units).T, down)
        slope = down


@compiled
def before_activation_of(rows: Array, out: Array, slope: Array, activation: int) -> None:
    """`before_activation` without the sum, of `rows` of the batch alone: `slope [rows, units]`."""
    for i in range(slope.shape[0]):
        row = rows[i]
        if activation == RELU:
            for unit in range(slope.shape[1]):
                slope[i, unit] = slope[i, unit] if out[row, unit] > ZERO else ZERO
        elif activation == TANH:
            for unit in range(slope.shape[1]):
                value = out[row, unit]
                slope[i, unit] *= ONE - value * value


@compiled
def squared_error(q: Array, target: Array, weight: np.float32) -> np.float32:
    """`weight` times the sum of (q - target)^2, both `[batch]`; `q` becomes its derivative with q."""
    total = ZERO
    for row in range(q.shape[0]):
        error = q[row] - target[row]
        total += error * error
        q[row] = TWO * weight * error
    return weight * total
