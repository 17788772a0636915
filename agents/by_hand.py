"""Small networks whose passes are called directly, each one call into memory that is there.

A small network on a CPU pays autograd, fresh memory and the calls of small operations as much as its products. By hand
a pass is one call of machine code (dense_kernels.py), activations lie in memory that is kept, and gradients are written
into the flat vector that the optimiser reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents import dense_kernels as kernels
from rlgym.envs.spaces import Array

ACTIVATIONS = {"relu": kernels.RELU, "tanh": kernels.TANH}


class Memory:
    """Two vectors for activations, or for derivatives.

    Networks that take their turns share it: what stays in the processor's cache need not be fetched (six megabytes of
    activations in turn slow the products of 256 x 256 x 256 by a quarter).
    """

    def __init__(self) -> None:
        self.held = np.empty((2, 0), np.float32)

    def take(self, numbers: int) -> Array:
        """`[2, numbers]`, or longer."""
        if self.held.shape[1] < numbers:
            self.held = torch.empty(2, numbers).numpy()  # torch aligns it
        return self.held


class Network:
    """Layers one behind the other, out of one module whose parameters are views of one vector (rlgym/flat.py).

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
        self.kept, self.widest = sum(units), int(self.widths.max())

    def forward(self, x: Array) -> Array:
        """`[batch, inputs]` to `[batch, outputs]`"""
        self.x, self.given = x, self.outputs.take(len(x) * self.kept)[0]
        return kernels.forward(
            x, self.parameters, self.widths, self.weights, self.biases, self.activations, self.linear, self.given
        )

    def backward(self, slope: Array, further: bool = False) -> Array:
        """Set all gradients from the loss's derivative with the latest outputs, which it overwrites. Returns that with
        the inputs where it goes `further`."""
        return kernels.backward(
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
            self.slopes.take(len(slope) * self.widest),
            further,
        )

    def input_slope(self, slope: Array, rows: Array) -> Array:
        """From the derivative with the latest outputs of the batch's `rows`, `slope [rows, outputs]`, which it
        overwrites, to that with the inputs from the `first` on, `[rows, inputs]`, and no gradients."""
        assert not self.linear
        return kernels.input_slope(
            rows,
            len(self.x),
            self.parameters,
            self.widths,
            self.weights,
            self.activations,
            self.first,
            self.given,
            slope,
            self.slopes.take(len(self.x) * self.widest),
        )


def whole(view: Tensor) -> Array:
    """All numbers of the vector that `view` is cut from."""
    vector: Array = torch.empty(0).set_(view.untyped_storage()).numpy()
    return vector


def linear_layers(layers: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each that is an nn.Linear."""
    return [(layer.weight.detach(), layer.bias.detach()) for layer in layers if isinstance(layer, nn.Linear)]
