"""Forward and backward passes of a QNetwork from a loss's closed derivative: by autograd, or by hand.

Small networks on a CPU are faster by hand (by_hand.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents.common.manual_backward import Memory, Network, linear_layers
from rlgym.agents.q_learning.networks import Noise, QNetwork

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
    """For networks without noise and layer normalisation, whose encoders learn nothing and whose parameters have
    gradients to write into."""

    def __init__(self, network: QNetwork) -> None:
        assert not network.encoder.learns and not network.is_noisy and not network.norms
        self.encoder = network.encoder
        self.actions, self.atoms = network.actions, network.atoms
        activation = "tanh" if isinstance(network.activation, nn.Tanh) else "relu"
        gradients = next(network.parameters()).grad

        def part(layers: Sequence[nn.Module], hidden: int) -> Network:
            return Network(linear_layers(layers), activation, hidden, Memory(), Memory(), gradients=gradients)

        self.hidden = part(list(network.hidden), len(network.hidden)) if len(network.hidden) else None
        self.value = None if network.value is None else part([network.value], 0)
        self.advantage = part([network.advantage], 0)

    def split(self, obs: dict[str, Tensor], rows: int) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self.encoder(obs).split(rows)  # it learns nothing, so once for all
        return parts

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        features = x.contiguous().numpy()
        if self.hidden is not None:
            features = self.hidden.forward(features)
        shape = len(features), self.actions, self.atoms
        if self.value is None:
            return torch.from_numpy(self.advantage.forward(features)).view(shape)
        halves = [features] * 2 if self.hidden is None else np.split(features, 2, 1)
        of_value, of_advantage = (np.ascontiguousarray(half) for half in halves)
        value = torch.from_numpy(self.value.forward(of_value))[:, None]
        advantage = torch.from_numpy(self.advantage.forward(of_advantage)).view(shape)
        return value + (advantage - advantage.mean(1, keepdim=True))

    def values_of(self, obs: dict[str, Tensor]) -> Tensor:
        """`forward` over many rows, `[rows, actions, atoms]`: a few at a time."""
        return torch.cat([self.forward(part, None).clone() for part in self.split(obs, ROWS_BY_HAND)])

    def backward(self, slope: Tensor) -> None:
        if self.value is None:
            slopes = [(self.advantage, slope.flatten(1))]
        else:
            slopes = [(self.value, slope.sum(1)), (self.advantage, (slope - slope.mean(1, keepdim=True)).flatten(1))]
        downs = [head.backward(of_head.numpy(), self.hidden is not None) for head, of_head in slopes]
        if self.hidden is not None:
            self.hidden.backward(downs[0] if len(downs) == 1 else np.concatenate(downs, 1))
