"""Forward and backward passes of a QNetwork from a loss's closed derivative: by autograd, or by hand.

A small network on a CPU pays autograd as much for its bookkeeping as for its gradients: by hand, the matrix products
are called directly, and write into the flat vector that the optimiser reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlgym.agents.q_networks import Noise, QNetwork

ROWS_BY_HAND = 512
"""Of a forward pass over many rows: its activations stay in the cache."""


class Passes(Protocol):
    def split(self, obs: dict[str, Tensor], rows: int) -> Sequence[Any]:
        """What `forward` takes, of each `rows` observations in turn."""
        ...

    def forward(self, x: Any, noise: Noise | None) -> Tensor:
        """The network's outputs `[batch, actions, atoms]`, without gradients; valid until the next call."""
        ...

    def backward(self, slope: Tensor) -> None:
        """Set the gradients of all parameters from the loss's derivative with the outputs of the latest `forward`,
        `slope [batch, actions, atoms]`."""
        ...


class Autograd:
    """For any QNetwork; `compiled` or not. `gradients [numbers]` is what its parameters' gradients are views of."""

    def __init__(self, network: QNetwork, gradients: Tensor, compiled: bool) -> None:
        self.gradients = gradients
        self.apply: Callable[..., Tensor] = torch.compile(network, dynamic=False) if compiled else network

    def split(self, obs: dict[str, Tensor], rows: int) -> Sequence[dict[str, Tensor]]:
        parts = zip(*(x.split(rows) for x in obs.values()), strict=True)
        return [dict(zip(obs, part, strict=True)) for part in parts]

    def forward(self, x: dict[str, Tensor], noise: Noise | None) -> Tensor:
        with torch.enable_grad():
            self.outputs = self.apply(x, noise)
        return self.outputs.detach()

    def backward(self, slope: Tensor) -> None:
        self.gradients.zero_()
        self.outputs.backward(slope)


class ByHand:
    """For networks without images, noise and layer normalisation, whose parameters have gradients to write into."""

    def __init__(self, network: QNetwork) -> None:
        assert not network.encoder.images and not network.is_noisy and not network.norms
        self.encoder = network.encoder
        self.actions, self.atoms = network.actions, network.atoms
        self.hidden = [Layer(layer) for layer in network.hidden]
        self.value = None if network.value is None else Layer(network.value)
        self.advantage = Layer(network.advantage)
        self.tanh = isinstance(network.activation, nn.Tanh)

    def split(self, obs: dict[str, Tensor], rows: int) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self.encoder(obs).split(rows)  # it learns nothing, so once for all
        return parts

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        for layer in self.hidden:
            x = layer.forward(x)
            x = x.tanh_() if self.tanh else x.clamp_min_(0)
        rows = x.shape[0]
        if self.value is None:
            return self.advantage.forward(x).view(rows, self.actions, self.atoms)
        of_value, of_advantage = x.chunk(2, 1) if self.hidden else (x, x)
        value = self.value.forward(of_value).view(rows, 1, self.atoms)
        advantage = self.advantage.forward(of_advantage).view(rows, self.actions, self.atoms)
        return value + (advantage - advantage.mean(1, keepdim=True))

    def judge(self, obs: dict[str, Tensor]) -> Tensor:
        """`forward` over many rows, `[rows, actions, atoms]`: a few at a time."""
        return torch.cat([self.forward(part, None).clone() for part in self.split(obs, ROWS_BY_HAND)])

    def backward(self, slope: Tensor) -> None:
        further = bool(self.hidden)
        if self.value is None:
            down = self.advantage.backward(slope.flatten(1), further)
        else:
            of_value = self.value.backward(slope.sum(1), further)
            of_advantage = self.advantage.backward((slope - slope.mean(1, keepdim=True)).flatten(1), further)
            down = torch.cat([of_value, of_advantage], 1)
        for i in range(len(self.hidden) - 1, -1, -1):
            layer = self.hidden[i]
            if self.tanh:
                down *= 1 - layer.outputs.square()
            else:
                torch.ops.aten.threshold_backward.grad_input(down, layer.outputs, 0, grad_input=down)
            down = layer.backward(down, i > 0)


class Layer:
    """x [batch, inputs] -> x weight^T + bias, and back."""

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()
        self.transposed = self.weight.t()
        self.weight_grad, self.bias_grad = layer.weight.grad, layer.bias.grad
        # A few inputs to many outputs: the product and a copy cost a third of the product in the other order.
        self.narrow = 4 * self.weight.shape[1] <= self.weight.shape[0]
        self.outputs = self.down = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.outputs.shape[0] != x.shape[0]:
            self.outputs = x.new_empty(x.shape[0], self.weight.shape[0])
            self.down = x.new_empty(x.shape)
        self.inputs = x
        return torch.addmm(self.bias, x, self.transposed, out=self.outputs)

    def backward(self, slope: Tensor, further: bool) -> Tensor:
        """From the derivative with the outputs `[batch, outputs]` to the parameters' gradients, and, where it goes
        `further`, to the derivative with the inputs `[batch, inputs]`."""
        if self.narrow:
            self.weight_grad.copy_(torch.mm(self.inputs.t(), slope).t())
        else:
            torch.mm(slope.t(), self.inputs, out=self.weight_grad)
        torch.sum(slope, 0, out=self.bias_grad)
        return torch.mm(slope, self.weight, out=self.down) if further else self.down
