"""Forward and backward passes of actors and critics from closed derivatives: by autograd, or by hand.

Small networks on a CPU are faster by hand (by_hand.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents.common.dense_compiled import squared_error
from rlgym.agents.common.manual_backward import Memory, Network, linear_layers
from rlgym.agents.common.policy_numpy import NumpyEncoder
from rlgym.agents.off_policy.critics import IN_PLACE, Actor, Critics
from rlgym.envs.spaces import Array

Obs = dict[str, Tensor]


class ActorPasses(Protocol):
    def forward(self, obs: Obs) -> Tensor:
        """The actor's outputs `[batch, outputs]`, without gradients; valid until the next call."""
        ...

    def backward(self, slope: Tensor) -> None:
        """Set the actor's gradients from the loss's derivative with the latest outputs, `slope [batch, outputs]`."""
        ...


class CriticPasses(Protocol):
    def learn(self, obs: Obs, action: Tensor, target: Tensor, weight: float) -> Tensor:
        """Set the critics' gradients of `weight` times the sum over critics of the mean squared error of
        Q(obs, `action [batch, *action]`) from one `target [batch]` for all. Returns that loss, 0-d."""
        ...

    def of_action(self, obs: Obs, action: Tensor, share: float, first: bool = False) -> tuple[Tensor, Tensor]:
        """Of `action [batch, *action]` the least q `[batch]`, or the `first` critic's, and the derivative of `share`
        times its sum with the action, `[batch, dimensions]`."""
        ...


class AutogradActor:
    """For any actor; `gradients [numbers]` is what its parameters' gradients are views of."""

    def __init__(self, actor: Actor, gradients: Tensor, compiled: bool) -> None:
        self.gradients = gradients
        self.apply: Callable[..., Tensor] = torch.compile(actor.policy, dynamic=False) if compiled else actor.policy

    def forward(self, obs: Obs) -> Tensor:
        with torch.enable_grad():
            self.outputs = self.apply(obs)
        return self.outputs.detach()

    def backward(self, slope: Tensor) -> None:
        self.gradients.zero_()
        self.outputs.backward(slope)


class AutogradCritics:
    """For any critics; `fixed` are the same ones without gradients of their own."""

    def __init__(self, critics: Critics, fixed: Critics, gradients: Tensor, compiled: bool) -> None:
        self.gradients = gradients
        self.apply: Callable[..., Tensor] = torch.compile(critics, dynamic=False) if compiled else critics
        self.apply_fixed: Callable[..., Tensor] = torch.compile(fixed, dynamic=False) if compiled else fixed

    def learn(self, obs: Obs, action: Tensor, target: Tensor, weight: float) -> Tensor:
        self.gradients.zero_()
        with torch.enable_grad():
            loss = (self.apply(obs, action) - target).square().sum() * (weight / len(target))
        loss.backward()
        return loss.detach()

    def of_action(self, obs: Obs, action: Tensor, share: float, first: bool = False) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            value, _ = self.apply_fixed(obs, action, 1 if first else None).min(0)
        (slope,) = torch.autograd.grad(value, action, torch.full_like(value, share))
        return value.detach(), slope.flatten(1)


class ActorByHand:
    """For actors without images. `slopes`: for all that take turns with it."""

    def __init__(self, actor: Actor, slopes: Memory) -> None:
        self.encoder = NumpyEncoder(actor.encoder)
        layers = linear_layers(list(actor.actor))
        activation = "tanh" if any(isinstance(layer, nn.Tanh) for layer in actor.actor) else "relu"
        gradients = next(actor.parameters()).grad
        self.network = Network(layers, activation, len(layers) - 1, Memory(), slopes, gradients=gradients)

    def forward(self, obs: Obs) -> Tensor:
        return torch.from_numpy(self.network.forward(features(self.encoder, obs)))

    def backward(self, slope: Tensor) -> None:
        self.network.backward(slope.numpy())


class CriticsByHand:
    """For critics without images. Each network takes its whole turn before the next one.

    `of_action` keeps what it saw in memory of its own; the others use `turns`, as do all that take turns with them.
    """

    def __init__(self, critics: Critics, turns: Memory, slopes: Memory) -> None:
        self.encoder = NumpyEncoder(critics.encoder)
        self.observed = critics.encoder.features
        activation = "tanh" if critics.activation is IN_PLACE["tanh"] else "relu"

        def network(i: int, outputs: Memory) -> Network:
            layers = [(w.detach()[i], b.detach()[i]) for w, b in zip(critics.weights, critics.biases, strict=True)]
            gradients = critics.weights[0].grad
            return Network(layers, activation, len(layers) - 1, outputs, slopes, False, self.observed, gradients)

        self.networks = [network(i, turns) for i in range(critics.critics)]
        self.looking = [network(i, Memory()) for i in range(critics.critics)]

    def inputs(self, obs: Obs, action: Tensor) -> Array:
        """`[batch, inputs]`"""
        return np.concatenate([features(self.encoder, obs), action.numpy().reshape(len(action), -1)], 1)

    def least(self, obs: Obs, action: Tensor) -> Tensor:
        """The least q `[batch]` of `action [batch, *action]`."""
        x = self.inputs(obs, action)
        found = self.networks[0].forward(x)[:, 0].copy()
        for network in self.networks[1:]:
            np.minimum(found, network.forward(x)[:, 0], out=found)
        return torch.from_numpy(found)

    def learn(self, obs: Obs, action: Tensor, target: Tensor, weight: float) -> Tensor:
        x, goal, loss = self.inputs(obs, action), target.numpy(), np.zeros((), np.float32)
        share = np.float32(weight / len(goal))
        for network in self.networks:
            q = network.forward(x)
            loss += squared_error(q[:, 0], goal, share)
            network.backward(q)
        return torch.from_numpy(loss)

    def of_action(self, obs: Obs, action: Tensor, share: float, first: bool = False) -> tuple[Tensor, Tensor]:
        x = self.inputs(obs, action)
        networks = self.looking[:1] if first else self.looking
        q = np.stack([network.forward(x)[:, 0] for network in networks])
        least = q.argmin(0)
        # Each transition back through its own critic alone: half of the products of two critics.
        slope = np.empty((len(x), x.shape[1] - self.observed), np.float32)
        for i, network in enumerate(networks):
            rows = np.flatnonzero(least == i)
            slope[rows] = network.input_slope(np.full((len(rows), 1), share, np.float32), rows)
        return torch.from_numpy(q.min(0)), torch.from_numpy(slope)


def features(encoder: NumpyEncoder, obs: Obs) -> Array:
    """`[batch, features]`"""
    return np.ascontiguousarray(encoder.features({name: x.numpy() for name, x in obs.items()}))
