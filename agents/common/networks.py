"""Networks of policies and values: encoders of observations, and the actor-critic pair over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.agents.common.distributions import Gaussian
from rlgym.agents.common.running_norm import RunningNorm
from rlgym.envs.spaces import unique
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.agents.common.distributions import Distribution
    from rlgym.envs.spaces import Leaf

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def orthogonal(layer: nn.Module, gain: float) -> nn.Module:
    """Initialise with orthogonal weights and zero biases, as in the reference PPO (Huang et al. 2022, "The 37
    Implementation Details")."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(inputs: int, widths: list[int], outputs: int, activation: str, last_gain: float) -> nn.Sequential:
    """Build linear layers `inputs -> widths... -> outputs` with `activation` between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *widths]):
        layers += [orthogonal(nn.Linear(before, after), math.sqrt(2)), ACTIVATIONS[activation]()]
    layers.append(orthogonal(nn.Linear(widths[-1] if widths else inputs, outputs), last_gain))
    return nn.Sequential(*layers)


class NatureCNN(nn.Module):
    """The three convolutions of Mnih et al. 2015 (doi:10.1038/nature14236), to 512 features.

    Takes images `[batch, *leaf.shape]` in the environment's own layout, and scales them by the bounds of their space to
    0..1; stacked frames and colours all become channels.
    """

    features = 512

    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        self.layout = leaf.layout
        self.low, high = leaf.pixels
        self.range = max(1.0, high - self.low)
        channels, height, width = self.planes(torch.zeros(1, *leaf.shape)).shape[1:]
        self.convolutions = nn.Sequential(
            orthogonal(nn.Conv2d(channels, 32, 8, 4), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(32, 64, 4, 2), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(64, 64, 3, 1), math.sqrt(2)),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = orthogonal(nn.Linear(flat, self.features), math.sqrt(2))

    def planes(self, image: Tensor) -> Tensor:
        """The image as float planes `[batch, channels, height, width]`."""
        if self.layout.endswith("c"):
            image = image.movedim(-1, -3)
        height, width = image.shape[-2:]
        return image.reshape(image.shape[0], -1, height, width).float()

    def forward(self, image: Tensor) -> Tensor:
        planes = self.planes(image)
        planes = (planes - self.low if self.low else planes) / self.range
        return F.relu(self.linear(self.convolutions(planes)))


class Tables(nn.ModuleList):
    """An embedding of size `features` for each choice that is too large for a one-hot vector."""

    features = 64

    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        sizes = [n for n, looked_up in zip(leaf.nvec, leaf.looked_up, strict=True) if looked_up]
        taken = 16 * self.features * sum(sizes)  # bytes, including gradients and Adam's moments
        free = psutil.virtual_memory().available
        if taken > free:
            raise RequestError(
                f"observation {leaf.name}: a table of its {sum(sizes):,} values takes {taken / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free; a wrapper that gives its digits as a MultiDiscrete would do"
            )
        self.extend(nn.Embedding(n, self.features) for n in sizes)


class Encoder(nn.Module):
    """Encodes observations as one feature vector `[batch, features]`, the concatenation of all leaves: vectors
    flattened (scaled by running statistics with `normalize`), choices one-hot or embedded, images through a
    NatureCNN."""

    def __init__(self, leaves: tuple[Leaf, ...], normalize: bool = False) -> None:
        super().__init__()
        self.leaves = leaves
        self.names = module_names(leaves)
        images = [leaf for leaf in leaves if leaf.kind == "image"]
        scaled = [leaf for leaf in leaves if normalize and _scaled(leaf)]
        large = [leaf for leaf in leaves if any(leaf.looked_up)]
        self.images = nn.ModuleDict({self.names[leaf.name]: NatureCNN(leaf) for leaf in images})
        self.norms = nn.ModuleDict({self.names[leaf.name]: RunningNorm(leaf.shape) for leaf in scaled})
        self.tables = nn.ModuleDict({self.names[leaf.name]: Tables(leaf) for leaf in large})
        self.features = 0
        for leaf in leaves:
            if leaf.kind == "image":
                self.features += NatureCNN.features
            elif leaf.kind == "onehot":
                widths = zip(leaf.nvec, leaf.looked_up, strict=True)
                self.features += sum(Tables.features if looked_up else n for n, looked_up in widths)
            else:
                self.features += math.prod(leaf.shape)

    @property
    def learns(self) -> bool:
        """Whether it has parameters (convolutions, embeddings)."""
        return bool(self.images) or bool(self.tables)

    def observe(self, obs: dict[str, Tensor]) -> None:
        """Update the running statistics; each leaf is `[batch, *leaf.shape]`."""
        for leaf in self.leaves:
            name = self.names[leaf.name]
            if name in self.norms:
                norm = self.norms[name]
                assert isinstance(norm, RunningNorm)
                norm.update(obs[leaf.name])

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """`[batch, features]` of observations, each leaf `[batch, *leaf.shape]`."""
        parts = []
        for leaf in self.leaves:
            value, name = obs[leaf.name], self.names[leaf.name]
            if leaf.kind == "image":
                parts.append(self.images[name](value))
            elif leaf.kind == "onehot":
                tables = iter(self.tables[name].children() if name in self.tables else ())
                for column, n, looked_up in zip(value.flatten(1).long().T, leaf.nvec, leaf.looked_up, strict=True):
                    parts.append(next(tables)(column) if looked_up else F.one_hot(column, n).float())
            else:
                scaled = self.norms[name](value) if name in self.norms else value.float()
                parts.append(scaled.flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _scaled(leaf: Leaf) -> bool:
    """Whether running statistics apply: to real numbers, not to bits (MultiBinary is int8) or images."""
    bits = leaf.dtype == np.int8 and np.all(leaf.low == 0) and np.all(leaf.high == 1)
    return leaf.kind == "vector" and not bits


def module_names(leaves: tuple[Leaf, ...]) -> dict[str, str]:
    """Names of the leaves that torch accepts for submodules: without dots, and no attribute of ModuleDict."""
    names: dict[str, str] = {}
    own = dir(nn.ModuleDict())
    for leaf in leaves:
        names[leaf.name] = unique(leaf.name.replace(".", "/"), (*own, *names.values()))
    return names


class Heads(nn.Module):
    """Policy and value, each with layers of its own, over features `[batch, inputs]` that a subclass makes."""

    def __init__(
        self,
        leaves: tuple[Leaf, ...],
        distribution: Distribution,
        net_arch: list[int],
        activation: str,
        std: str = "free",
        log_std_init: float = 0.0,
        normalize: bool = False,
        inputs: int | None = None,
    ) -> None:
        """`inputs`: width of the features; by default the encoder's."""
        super().__init__()
        self.encoder = Encoder(leaves, normalize)
        outputs = distribution.outputs
        self.log_std: nn.Parameter | None = None
        if isinstance(distribution, Gaussian) and std == "free":
            outputs = distribution.dimensions
            self.log_std = nn.Parameter(torch.full((outputs,), log_std_init))
        inputs = self.encoder.features if inputs is None else inputs
        # A small last layer: the first policy is near uniform, whatever the observation.
        self.actor = mlp(inputs, net_arch, outputs, activation, last_gain=0.01)
        self.critic = mlp(inputs, net_arch, 1, activation, last_gain=1.0)
        if isinstance(distribution, Gaussian) and std == "state":
            last = self.actor[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias[distribution.dimensions :], log_std_init)

    def outputs(self, features: Tensor) -> Tensor:
        """The distribution's outputs `[batch, outputs]` for `features [batch, inputs]`."""
        out: Tensor = self.actor(features)
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], -1)


class ActorCritic(Heads):
    """Policy and value over one encoder; they share convolutions of images and nothing else.

    `forward(obs)` gives the distribution's outputs `[batch, outputs]` and the value `[batch]`.
    """

    def forward(self, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = self.encoder(obs)
        return self.outputs(features), self.critic(features).squeeze(-1)

    def value(self, obs: dict[str, Tensor]) -> Tensor:
        value: Tensor = self.critic(self.encoder(obs)).squeeze(-1)
        return value

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        return self.outputs(self.encoder(obs))


class Network(Protocol):
    """The interface of a policy's network, an `nn.Module`."""

    @property
    def encoder(self) -> Encoder: ...

    @property
    def actor(self) -> nn.Sequential | None:
        """Plain layers from features to outputs, if that is all the network does; NumPy can then run them."""
        ...

    @property
    def log_std(self) -> nn.Parameter | None:
        """State-independent log deviations of a Gaussian, appended to the outputs."""
        ...

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        """The distribution's outputs `[batch, outputs]`."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...
