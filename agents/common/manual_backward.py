"""Fused forward and backward passes of small networks without autograd, one jitted call into preallocated buffers each.

For a small network on a CPU, autograd, allocation and the dispatch of small operations cost as much as its products.
Here each pass is one jitted call into preallocated buffers (dense_compiled.py), and gradients are written into the flat
vector that the optimiser reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents.common import dense_compiled as kernels
from rlgym.envs.spaces import Array

ACTIVATIONS = {"relu": kernels.RELU, "tanh": kernels.TANH}


class Memory:
    """A vector for activations, or for derivatives.

    Networks that take their turns share it: what stays in the processor's cache need not be fetched (six megabytes of
    activations in turn slow the products of 256 x 256 x 256 by a quarter).
    """

    def __init__(self) -> None:
        self.held: Array = np.empty(0, np.float32)

    def take(self, *shape: int) -> Array:
        numbers = math.prod(shape)
        if len(self.held) < numbers:
            self.held = torch.empty(numbers).numpy()  # torch aligns it
        return self.held[:numbers].reshape(shape)


class Network:
    """Layers one behind the other, out of one module whose parameters are views of one vector.

    layers   the weight and bias of each; weights `[units, inputs]` where they are `linear`, else `[inputs, units]`
    hidden   how many of them have the `activation` behind them
    first    the input that `input_slope` begins with

    `outputs` holds what the layers gave until the next forward pass of one that has the same memory;
    `slopes` derivatives until the next backward pass.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        activation: str,
        hidden: int,
        outputs: Memory,
        slopes: Memory,
        linear: bool = True,
        first: int = 0,
        gradients: Tensor | None = None,
    ) -> None:
        self.outputs, self.slopes, self.linear, self.first = outputs, slopes, linear, first
        self.parameters = whole(layers[0][0])
        if gradients is not None:
            self.gradients = whole(gradients)
        self.weights, self.biases = (np.array([each[i].storage_offset() for each in layers]) for i in (0, 1))
        units = [bias.numel() for _, bias in layers]
        self.widths = np.array([layers[0][0].numel() // units[0], *units])
        self.activations = np.array(
            [ACTIVATIONS[activation] if i < hidden else kernels.NONE for i in range(len(layers))]
        )
        self.units, self.kept, self.widest = units[-1], sum(units), int(self.widths.max())

    def forward(self, x: Array) -> Array:
        """`[batch, inputs]` to `[batch, outputs]`"""
        rows, units = len(x), self.units
        self.x, self.given = x, self.outputs.take(rows * self.kept)
        kernels.forward(
            x, self.parameters, self.widths, self.weights, self.biases, self.activations, self.linear, self.given
        )
        outputs: Array = self.given[rows * (self.kept - units) :].reshape(rows, units)
        return outputs

    def backward(self, slope: Array, further: bool = False) -> Array:
        """Set all gradients from the loss's derivative with the latest outputs, which it overwrites. Returns that with
        the inputs where it goes `further`."""
        slopes = self.slopes.take(2, len(slope) * self.widest)
        kernels.backward(
            self.x,
            self.parameters,
            self.gradients,
            self.widths,
            self.weights,
            self.biases,
            self.activations,
            self.linear,
            self.given,
            slope,
            slopes,
            further,
        )
        return slopes[0, : self.x.size].reshape(self.x.shape) if further else slope

    def input_slope(self, slope: Array, rows: Array) -> Array:
        """From the derivative with the latest outputs of the batch's `rows`, `slope [rows, outputs]`, which it
        overwrites, to that with the inputs from the `first` on, `[rows, inputs]`, and no gradients."""
        assert not self.linear
        slopes, wanted = self.slopes.take(2, len(rows) * self.widest), self.x.shape[1] - self.first
        kernels.input_slope(
            rows,
            len(self.x),
            self.parameters,
            self.widths,
            self.weights,
            self.activations,
            self.first,
            self.given,
            slope,
            slopes,
        )
        return slopes[0, : len(rows) * wanted].reshape(len(rows), wanted)


def whole(view: Tensor) -> Array:
    """All numbers of the vector that `view` is cut from."""
    vector: Array = torch.empty(0).set_(view.untyped_storage()).numpy()
    return vector


def linear_layers(layers: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each that is an nn.Linear."""
    return [(layer.weight.detach(), layer.bias.detach()) for layer in layers if isinstance(layer, nn.Linear)]
