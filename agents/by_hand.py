"""Linear layers whose passes are called directly, each writing into buffers of its own.

A small network on a CPU pays autograd as much for its bookkeeping and fresh memory as for its gradients. By hand the
matrix products write where they are wanted: activations into a layer's buffer, gradients into the flat vector that the
optimiser reads. What a pass returns is valid until the layer's next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Affine(Protocol):
    """x weight + bias."""

    outputs: Tensor

    def forward(self, x: Tensor) -> Tensor: ...

    def learn(self, slope: Tensor) -> None:
        """Set the parameters' gradients from the loss's derivative with the latest outputs, of their shape."""
        ...

    def down(self, slope: Tensor) -> Tensor:
        """From that to its derivative with the inputs."""
        ...


class Layer:
    """An nn.Linear whose gradients are there to be written into: `[batch, inputs]` to `[batch, outputs]`."""

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()
        self.transposed = self.weight.t()
        self.weight_grad, self.bias_grad = layer.weight.grad, layer.bias.grad
        # A few inputs to many outputs: the product and a copy cost a third of the product in the other order.
        self.narrow = 4 * self.weight.shape[1] <= self.weight.shape[0]
        self.outputs = self.slope_in = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.outputs.shape[0] != x.shape[0]:
            self.outputs = x.new_empty(x.shape[0], self.weight.shape[0])
            self.slope_in = x.new_empty(x.shape)
        self.inputs = x
        return torch.addmm(self.bias, x, self.transposed, out=self.outputs)

    def learn(self, slope: Tensor) -> None:
        if self.narrow:
            self.weight_grad.copy_(torch.mm(self.inputs.t(), slope).t())
        else:
            torch.mm(slope.t(), self.inputs, out=self.weight_grad)
        torch.sum(slope, 0, out=self.bias_grad)

    def down(self, slope: Tensor) -> Tensor:
        return torch.mm(slope, self.weight, out=self.slope_in)


class Batched:
    """Layers of one shape as one: `[networks, batch, inputs]` to `[networks, batch, outputs]`, or where there is one
    output to `[networks, batch]`; `weight [networks, inputs, outputs]`, `bias [networks, 1, outputs]`.

    `wanted`: the inputs that `down` goes to.
    """

    def __init__(self, weight: Any, bias: Any, wanted: slice = slice(None)) -> None:
        self.weight, self.bias = weight.detach(), bias.detach()
        self.weight_grad, self.bias_grad = weight.grad, bias.grad
        self.transposed = self.weight[:, wanted].transpose(1, 2)
        self.each_transposed = self.transposed.unbind()
        self.single = self.weight.shape[2] == 1
        if self.single:  # a batched product to a single column takes five times as long as one for each network
            self.bias = self.bias.squeeze(2)
            self.columns = self.weight.squeeze(2).unbind()
            if weight.grad is not None:
                self.column_grads, self.bias_grad = weight.grad.squeeze(2).unbind(), bias.grad.squeeze(2)
        self.outputs = self.every_output = self.every_slope = torch.empty(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """All networks, or the first ones that `x` has."""
        networks, batch, _ = x.shape
        self.inputs = x
        if self.every_output.shape[1] != batch:
            self.every_output = x.new_empty(len(self.weight), batch, *self.weight.shape[2 + self.single :])
        self.outputs, bias = self.every_output, self.bias
        if networks < len(self.weight):
            self.outputs, bias = self.outputs[:networks], bias[:networks]
        if self.single:
            for inputs, column, out in zip(x, self.columns, self.outputs, strict=False):
                torch.mv(inputs, column, out=out)
            return self.outputs.add_(bias)
        return torch.baddbmm(bias, x, self.weight[:networks], out=self.outputs)

    def learn(self, slope: Tensor) -> None:
        if self.single:
            for inputs, each, grad in zip(self.inputs, slope, self.column_grads, strict=True):
                torch.mv(inputs.t(), each, out=grad)
        else:
            torch.bmm(self.inputs.transpose(1, 2), slope, out=self.weight_grad)
        torch.sum(slope, 1, keepdim=True, out=self.bias_grad)

    def down(self, slope: Tensor) -> Tensor:
        networks, batch = slope.shape[:2]
        out = self._slopes(slope, batch)[:networks]
        if self.single:
            return torch.mul(slope[..., None], self.transposed[:networks], out=out)
        return torch.bmm(slope, self.transposed[:networks], out=out)

    def down_apart(self, slope: Tensor, counts: Sequence[int]) -> Tensor:
        """`down` where each transition has one network: `[batch, outputs]` to `[batch, inputs]`, the first `counts[0]`
        of the first network, those behind them of the second."""
        out = self._slopes(slope, len(slope))[0]
        for each, weight, into in zip(slope.split(counts), self.each_transposed, out.split(counts), strict=True):
            torch.mm(each, weight, out=into)
        return out

    def _slopes(self, like: Tensor, batch: int) -> Tensor:
        """Where `down` writes, `[networks, batch, inputs]`."""
        if self.every_slope.shape[1] != batch:
            self.every_slope = like.new_empty(len(self.weight), batch, self.transposed.shape[2])
        return self.every_slope


class Hidden:
    """Layers with an activation behind each: ReLU or `tanh`."""

    def __init__(self, layers: Sequence[Affine], tanh: bool) -> None:
        self.layers, self.tanh = layers, tanh

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer.forward(x)
            x = x.tanh_() if self.tanh else x.clamp_min_(0)
        return x

    def backward(self, slope: Tensor, learn: bool = True, further: bool = False) -> Tensor:
        """From the derivative with the latest outputs, which it overwrites, to gradients where they `learn`, and to the
        derivative with the inputs where it goes `further`."""
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            self.through(slope, layer.outputs)
            if learn:
                layer.learn(slope)
            if i or further:
                slope = layer.down(slope)
        return slope

    def through(self, slope: Tensor, outputs: Tensor) -> None:
        """From the derivative with an activation's `outputs`, in place, to that with its inputs."""
        if self.tanh:
            slope *= 1 - outputs.square()
        else:
            torch.ops.aten.threshold_backward.grad_input(slope, outputs, 0, grad_input=slope)
