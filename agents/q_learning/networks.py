"""Q-networks: mean, distributional (c51) or quantile; plain or dueling; optionally noisy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.agents.common.distributions import MASKED
from rlgym.agents.common.networks import ACTIVATIONS, Encoder
from rlgym.agents.common.policy import Policy
from rlgym.agents.common.policy_numpy import NumpyEncoder
from rlgym.envs.spaces import Array

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Observations
    from rlgym.envs.spaces import Leaf

ZERO = np.float32(0)
Noise = list[tuple[Tensor, Tensor]]
"""Factorised noise of each layer, in order: on inputs `[inputs]` and outputs `[outputs]`."""


class NoisyLinear(nn.Linear):
    """A linear layer with learned deviations of noise on its weights (Fortunato et al. 2018, arXiv:1706.10295,
    section 3): factorised, equations 10 and 11, initialised as section 3.2 says."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__(inputs, outputs)
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.weight_std = nn.Parameter(torch.full((outputs, inputs), std * bound))
        self.bias_std = nn.Parameter(torch.full((outputs,), std * bound))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = self.weight.device
        noise = torch.randn(self.in_features + self.out_features, generator=generator, device=device)
        noise = noise.sign() * noise.abs().sqrt()
        return noise[: self.in_features], noise[self.in_features :]

    def noisy(self, x: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        inputs, outputs = noise
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(outputs, inputs))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_std, outputs))


class QNetwork(nn.Module):
    """`forward(obs)` gives `[batch, actions, atoms]`: for each action its value (one atom), the logits of its return's
    distribution over `support`, or its return's quantiles.

    With `dueling` (Wang et al. 2016, arXiv:1511.06581, equation 9) the state's value and the actions' advantages have a
    last hidden layer each; the layers before it are shared.
    """

    actor: nn.Sequential | None = None
    log_std: nn.Parameter | None = None
    support: Tensor

    def __init__(
        self,
        leaves: tuple[Leaf, ...],
        actions: int,
        net_arch: list[int],
        activation: str = "relu",
        dueling: bool = False,
        noisy_std: float | None = None,
        support: Tensor | None = None,
        quantiles: int | None = None,
        layer_norm: bool = False,
        normalize: bool = False,
    ) -> None:
        """`noisy_std`: None without noise. `support [atoms]`: of a distribution. `quantiles`: their number."""
        super().__init__()
        self.encoder = Encoder(leaves, normalize)
        self.actions, self.dueling, self.is_noisy = actions, dueling, noisy_std is not None
        self.distributional = "c51" if support is not None else "qr" if quantiles is not None else "none"
        self.atoms = len(support) if support is not None else quantiles or 1
        self.register_buffer("support", torch.empty(0) if support is None else support, persistent=False)

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs) if noisy_std is None else NoisyLinear(inputs, outputs, noisy_std)

        widths = list(net_arch)
        last = widths[-1] if widths else self.encoder.features
        if dueling and widths:
            widths[-1] = 2 * last
        self.hidden = nn.ModuleList([linear(*sizes) for sizes in pairwise([self.encoder.features, *widths])])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in widths] if layer_norm else [])
        self.activation = ACTIVATIONS[activation]()
        self.value = linear(last, self.atoms) if dueling else None
        self.advantage = linear(last, actions * self.atoms)
        """Advantages; without dueling the values themselves."""

    @property
    def layers(self) -> list[nn.Module]:
        """Layers after the encoder, in the order in which their noise is drawn."""
        return [layer for layer in (*self.hidden, self.value, self.advantage) if layer is not None]

    def draw(self, generator: torch.Generator) -> Noise:
        """Draw noise for `forward`; empty for a network without noisy layers."""
        return [layer.draw(generator) for layer in self.layers if isinstance(layer, NoisyLinear)]

    def forward(self, obs: dict[str, Tensor], noise: Noise | None = None) -> Tensor:
        """Without `noise`, noisy layers use their mean weights, as in evaluation and play."""
        given = iter(noise or ())

        def apply(layer: Any, x: Tensor) -> Tensor:
            out: Tensor = layer.noisy(x, next(given)) if noise else layer(x)
            return out

        x = self.encoder(obs)
        for i, layer in enumerate(self.hidden):
            x = apply(layer, x)
            x = self.activation(self.norms[i](x) if self.norms else x)
        if self.value is None:
            return apply(self.advantage, x).view(x.shape[0], self.actions, self.atoms)
        of_value, of_advantage = x.chunk(2, -1) if self.hidden else (x, x)
        value = apply(self.value, of_value).view(x.shape[0], 1, self.atoms)
        advantage = apply(self.advantage, of_advantage).view(x.shape[0], self.actions, self.atoms)
        return value + (advantage - advantage.mean(1, keepdim=True))

    def expected(self, outputs: Tensor) -> Tensor:
        """Values `[..., actions]` of `forward`'s outputs `[..., actions, atoms]`."""
        if self.distributional == "c51":
            return outputs.softmax(-1) @ self.support
        return outputs.mean(-1) if self.distributional == "qr" else outputs.squeeze(-1)

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        """Values `[batch, actions]`."""
        return self.expected(self(obs))


class NumpyQ(NumpyEncoder):
    """`obs -> values [batch, actions]`, equal to `network.policy` up to rounding, on the very weights torch trains."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__(network.encoder)
        self.hidden = [NumpyLinear(layer) for layer in network.hidden]
        self.norms_of = [NumpyLayerNorm(norm) for norm in network.norms]
        self.tanh = isinstance(network.activation, nn.Tanh)
        self.value = None if network.value is None else NumpyLinear(network.value)
        self.advantage = NumpyLinear(network.advantage)
        self.shape = (network.actions, network.atoms)
        self.distributional = network.distributional
        self.plain = self.value is None and self.distributional == "none"
        self.support = network.support.numpy()

    def __call__(self, obs: Mapping[str, Any], noise: np.random.Generator | None = None) -> Array:
        """`noise`: generator of each environment's own noise; None: noisy layers use their mean weights."""
        x = self.features(obs)
        for i, layer in enumerate(self.hidden):
            x = layer(x, noise)
            if self.norms_of:
                x = self.norms_of[i](x)
            x = np.tanh(x, out=x) if self.tanh else np.maximum(x, ZERO, out=x)
        if self.plain:
            return self.advantage(x, noise)
        of_value, of_advantage = x, x
        if self.value is not None and self.hidden:
            of_value, of_advantage = np.split(x, 2, -1)
        out = self.advantage(of_advantage, noise)
        if self.value is not None:
            out = out.reshape(len(out), *self.shape)
            value = self.value(of_value, noise)
            out = value[:, None] + (out - out.mean(1, keepdims=True))
        out = out.reshape(len(out), *self.shape)
        if self.distributional == "none":
            return out.squeeze(-1)
        if self.distributional == "qr":
            mean: Array = out.mean(-1)
            return mean
        out = np.exp(out - out.max(-1, keepdims=True))
        expected: Array = (out @ self.support) / out.sum(-1)
        return expected


class NumpyLinear:
    """One layer on torch's storage: `x [batch, inputs] -> [batch, outputs]`."""

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
        self.stds: tuple[Array, Array] | None = None
        if isinstance(layer, NoisyLinear):
            self.stds = layer.weight_std.detach().numpy().T, layer.bias_std.detach().numpy()

    def __call__(self, x: Array, noise: np.random.Generator | None) -> Array:
        out: Array = np.dot(x, self.weight)
        out += self.bias
        if noise is not None and self.stds is not None:
            # Factorised noise is an outer product, so noisy weights are never formed.
            weight, bias = self.stds
            inputs, outputs = _noise(x.shape, noise), _noise(out.shape, noise)
            out += ((x * inputs) @ weight + bias) * outputs
        return out


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    noise = generator.standard_normal(shape, dtype=np.float32)
    rooted: Array = np.sign(noise) * np.sqrt(np.abs(noise))
    return rooted


class NumpyLayerNorm:
    """Layer normalisation of x `[batch, width]`."""

    def __init__(self, norm: Any) -> None:
        self.weight, self.bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        self.eps = np.float32(norm.eps)

    def __call__(self, x: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scaled: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + self.eps) * self.weight + self.bias
        return scaled


class QPolicy(Policy):
    """A policy over a QNetwork; acts in NumPy on small networks, with noise when exploring."""

    network: QNetwork

    def refresh(self) -> None:
        small = self.device.type == "cpu" and not self.network.encoder.images
        self.numpy_actor = NumpyQ(self.network) if small else None

    def noisy_outputs(
        self, obs: Observations, mask: Array | None, in_numpy: np.random.Generator, in_torch: torch.Generator
    ) -> Array:
        """`outputs` under fresh noise: each environment's own in NumPy, one for all of them in torch."""
        if isinstance(self.numpy_actor, NumpyQ):
            outputs = self.numpy_actor(obs, in_numpy)
        else:
            with torch.inference_mode():
                raw = self.network(self.tensors(obs), self.network.draw(in_torch))
                outputs = self.network.expected(raw).cpu().numpy()
        return outputs if mask is None else np.where(mask, outputs, np.float32(MASKED))
