"""Networks of continuous control: the actor, and several critics of one shape as one batched network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from rlgym.agents.common.networks import ACTIVATIONS, Encoder

if TYPE_CHECKING:
    from rlgym.envs.spaces import Leaf

M = TypeVar("M", bound=nn.Module)
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}


class Actor(nn.Module):
    """Observations to a distribution's outputs, through an encoder of its own where there are images.

    Layers keep torch's default initialisation, as in the published implementations of SAC and TD3.
    """

    log_std = None

    def __init__(
        self, leaves: tuple[Leaf, ...], outputs: int, net_arch: list[int], activation: str, normalize: bool = False
    ) -> None:
        super().__init__()
        self.encoder = Encoder(leaves, normalize)
        layers: list[nn.Module] = []
        for before, after in pairwise([self.encoder.features, *net_arch]):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        layers.append(nn.Linear(net_arch[-1] if net_arch else self.encoder.features, outputs))
        self.actor = nn.Sequential(*layers)

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        """`[batch, outputs]`"""
        outputs: Tensor = self.actor(self.encoder(obs))
        return outputs


class Critics(nn.Module):
    """Q(obs, action) by `critics` networks, `[critics, batch]`: one product a layer for all of them.

    weights  [critics, in, out] of each layer; biases [critics, 1, out]. Images pass one encoder of the critics' own,
    separate from the actor's (Stable-Baselines3's default).
    """

    def __init__(
        self,
        leaves: tuple[Leaf, ...],
        dimensions: int,
        net_arch: list[int],
        activation: str,
        critics: int,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.critics = critics
        self.activation = IN_PLACE[activation]
        self.encoder = Encoder(leaves, normalize)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise([self.encoder.features + dimensions, *net_arch, 1]):
            each = [nn.Linear(before, after) for _ in range(critics)]
            self.weights.append(torch.stack([layer.weight.detach().T for layer in each]))
            self.biases.append(torch.stack([layer.bias.detach()[None] for layer in each]))

    def forward(self, obs: dict[str, Tensor], action: Tensor, first: int | None = None) -> Tensor:
        """`action [batch, *action]`, each leaf of obs `[batch, *leaf.shape]`; only the `first` critics', or all."""
        layers = list(zip(self.weights, self.biases, strict=True))
        if first is not None:
            layers = [(weight[:first], bias[:first]) for weight, bias in layers]
        x = torch.cat([self.encoder(obs), action.flatten(1)], -1).expand(first or self.critics, -1, -1)
        for weight, bias in layers[:-1]:
            x = self.activation(torch.baddbmm(bias, x, weight))
        weight, bias = layers[-1]
        # Scalar outputs: a batched product with a single column takes five times as long as this.
        q: Tensor = (x * weight.transpose(1, 2)).sum(-1) + bias.squeeze(-1)
        return q


def mirror(module: M, values: dict[str, Tensor]) -> M:
    """A copy of `module` whose parameters are `values`, by name, without gradients. Values and buffers are shared, not
    copied."""
    copied = copy.deepcopy(module).requires_grad_(False)
    for name, parameter in copied.named_parameters():
        parameter.data = values[name]
    share_buffers(copied, module)
    return copied


def share_buffers(module: nn.Module, source: nn.Module) -> None:
    """Share the running statistics of `source` with `module`, which has the same structure."""
    for own, theirs in zip(module.modules(), source.modules(), strict=True):
        for name, buffer in theirs.named_buffers(recurse=False):
            setattr(own, name, buffer)
