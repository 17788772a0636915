"""Forward and backward passes of actors and critics from closed derivatives: by autograd, or by hand.

Small networks on a CPU are faster by hand (by_hand.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from rlgym.agents.by_hand import Batched, Hidden, Layer
from rlgym.agents.critics import IN_PLACE, Actor, Critics

Obs = dict[str, Tensor]


class ActorPasses(Protocol):
    def forward(self, obs: Obs) -> Tensor:
        """The actor's outputs `[batch, outputs]`, without gradients; valid until the next call."""
        ...

    def backward(self, slope: Tensor) -> None:
        """Set the actor's gradients from the loss's derivative with the latest outputs, `slope [batch, outputs]`."""
        ...


class CriticPasses(Protocol):
    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        """q `[critics, batch]` of `action [batch, *action]`, without gradients; valid until the next call."""
        ...

    def backward(self, slope: Tensor) -> None:
        """Set the critics' gradients from the loss's derivative with the latest q, `slope [critics, batch]`."""
        ...

    def look(self, obs: Obs, action: Tensor, first: int | None = None) -> Tensor:
        """`forward` for a loss of the action's: only the `first` critics', or all."""
        ...

    def action_slope(self, slope: Tensor) -> Tensor:
        """That loss's derivative with the action, `[batch, dimensions]`, from that with the q of the latest `look`."""
        ...

    def least_slope(self, least: Tensor, share: float) -> Tensor:
        """`action_slope` where each transition's derivative is `share` with the q of the critic `least [batch]` and 0
        with the others'."""
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

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        with torch.enable_grad():
            self.q = self.apply(obs, action)
        return self.q.detach()

    def backward(self, slope: Tensor) -> None:
        self.gradients.zero_()
        self.q.backward(slope)

    def look(self, obs: Obs, action: Tensor, first: int | None = None) -> Tensor:
        with torch.enable_grad():
            self.action = action.detach().requires_grad_()
            self.q = self.apply_fixed(obs, self.action, first)
        return self.q.detach()

    def action_slope(self, slope: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(self.q, self.action, slope)
        return found.flatten(1)

    def least_slope(self, least: Tensor, share: float) -> Tensor:
        return self.action_slope(torch.zeros_like(self.q).scatter_(0, least[None], share))


class ActorByHand:
    """For actors without images."""

    def __init__(self, actor: Actor) -> None:
        assert not actor.encoder.images
        self.encoder = actor.encoder
        *layers, last = [Layer(layer) for layer in actor.actor if isinstance(layer, nn.Linear)]
        self.hidden = Hidden(layers, any(isinstance(layer, nn.Tanh) for layer in actor.actor))
        self.last = last

    def forward(self, obs: Obs) -> Tensor:
        return self.last.forward(self.hidden.forward(self.encoder(obs)))

    def backward(self, slope: Tensor) -> None:
        self.last.learn(slope)
        if self.hidden.layers:
            self.hidden.backward(self.last.down(slope))


class CriticsByHand:
    """For critics without images; those without gradients of their own go `forward` alone."""

    def __init__(self, critics: Critics) -> None:
        assert not critics.encoder.images
        self.encoder, self.critics = critics.encoder, critics.critics
        both = enumerate(zip(critics.weights, critics.biases, strict=True))
        of_action = slice(critics.encoder.features, None)
        *self.layers, last = [Batched(w, b, of_action if i == 0 else slice(None)) for i, (w, b) in both]
        self.hidden = Hidden(self.layers, critics.activation is IN_PLACE["tanh"])
        self.last = last

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        return self.look(obs, action)

    def look(self, obs: Obs, action: Tensor, first: int | None = None) -> Tensor:
        x = torch.cat([self.encoder(obs), action.flatten(1)], -1).expand(first or self.critics, -1, -1)
        return self.last.forward(self.hidden.forward(x))

    def backward(self, slope: Tensor) -> None:
        self.last.learn(slope)
        if self.hidden.layers:
            self.hidden.backward(self.last.down(slope))

    def action_slope(self, slope: Tensor) -> Tensor:
        return self.hidden.backward(self.last.down(slope), learn=False, further=True).sum(0)

    def least_slope(self, least: Tensor, share: float) -> Tensor:
        # Each transition back through its own critic alone: half of the products of two critics.
        batch, order = len(least), least.argsort()
        counts = least.bincount(minlength=self.critics).tolist()
        places = torch.add(order, least.index_select(0, order), alpha=batch)
        slope = self.last.down_apart(torch.full((batch, 1), share), counts)
        for layer in reversed(self.layers):
            self.hidden.through(slope, layer.outputs.flatten(0, 1).index_select(0, places))
            slope = layer.down_apart(slope, counts)
        return torch.empty_like(slope).index_copy_(0, order, slope)
