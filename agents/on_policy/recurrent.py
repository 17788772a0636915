"""Recurrent policies for partially observable tasks: an LSTM or a GRU before the heads.

Actor and critic have separate recurrent layers. A memory has `width` numbers for each environment: a GRU's
hidden state, or an LSTM's hidden state and cell side by side. At the start of an episode they are zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rlgym.agents.common.distributions import Distribution
from rlgym.agents.common.networks import Heads
from rlgym.agents.common.policy import Observations, Policy, Sampler
from rlgym.agents.common.policy_numpy import NumpyActor
from rlgym.envs.spaces import Array

# cuDNN warns at every call: the weights are views of the flat parameter vector, not a chunk of its own.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")


class Memory(nn.Module):
    """One LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014, arXiv:1406.1078) over packed sequences."""

    def __init__(self, cell: str, inputs: int, hidden_size: int) -> None:
        super().__init__()
        self.layer: nn.LSTM | nn.GRU = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](inputs, hidden_size)
        self.width = hidden_size * (2 if cell == "lstm" else 1)
        for name, parameter in self.layer.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, sizes: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states `[rows, hidden_size]` of packed rows `x [rows, inputs]`, and the memories at the sequences'
        ends `[sequences, width]`, from those at their beginnings.

        Packed (`torch.nn.utils.rnn.PackedSequence`): all first steps, all second ones, ..., the longest sequence first
        in each; `sizes [longest]`, on the CPU, counts the sequences that have not ended.
        """
        packed = PackedSequence(x, sizes)
        if isinstance(self.layer, nn.LSTM):
            hidden, cell = (part.unsqueeze(0).contiguous() for part in memory.chunk(2, -1))
            out, (hidden, cell) = self.layer(packed, (hidden, cell))
            return out.data, torch.cat([hidden[0], cell[0]], -1)
        out, end = self.layer(packed, memory.unsqueeze(0).contiguous())
        return out.data, end[0]

    def step(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step for each of `x [envs, inputs]`."""
        out: tuple[Tensor, Tensor] = self(x, torch.tensor([len(x)]), memory)
        return out


class RecurrentActorCritic(Heads):
    """Policy and value over one encoder, each with its own recurrent layer. Their joint memory is `[..., 2, width]`,
    the actor's first.
    """

    def __init__(self, *, cell: str, hidden_size: int, **heads: Any) -> None:
        super().__init__(**heads, inputs=hidden_size)
        self.memories = nn.ModuleDict(
            {name: Memory(cell, self.encoder.features, hidden_size) for name in ("actor", "critic")}
        )
        self.cell, self.width = cell, self.memory_of("actor").width

    def forward(self, obs: dict[str, Tensor], sizes: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution's outputs `[rows, outputs]` and the value `[rows]` of packed rows of observations; `memory
        [sequences, 2, width]` at the beginnings."""
        outputs, value, _ = self.run(self.encoder(obs), sizes, memory)
        return outputs, value

    def run(self, features: Tensor, sizes: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` on features; also returns the final memories `[sequences, 2, width]`."""
        acting, actor_end = self.memory_of("actor")(features, sizes, memory[:, 0])
        critic_features, critic_end = self.memory_of("critic")(features, sizes, memory[:, 1])
        value: Tensor = self.critic(critic_features).squeeze(-1)
        return self.outputs(acting), value, torch.stack([actor_end, critic_end], 1)

    def act(self, obs: dict[str, Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each environment: outputs `[envs, outputs]` and the actor's memory `[envs, width]` after it."""
        hidden, memory = self.memory_of("actor").step(self.encoder(obs), memory)
        return self.outputs(hidden), memory

    def value_after(self, obs: dict[str, Tensor], memory: Tensor) -> Tensor:
        """V `[batch]` of observations after `memory [batch, 2, width]`."""
        hidden, _ = self.memory_of("critic").step(self.encoder(obs), memory[:, 1])
        value: Tensor = self.critic(hidden).squeeze(-1)
        return value

    def memory_of(self, head: str) -> Memory:
        memory = self.memories[head]
        assert isinstance(memory, Memory)
        return memory

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        """Outputs `[batch, outputs]` of observations that each begin an episode."""
        first = next(iter(obs.values()))
        return self.act(obs, torch.zeros(len(first), self.width, device=first.device))[0]


class NumpyRecurrentActor(NumpyActor):
    """The act step in NumPy, memory included. Moves `memory [envs, width]` in place."""

    memory: Array

    def __init__(self, network: RecurrentActorCritic) -> None:
        super().__init__(network)
        layer = network.memory_of("actor").layer
        # .numpy() of a CPU tensor shares its storage: training moves these weights too.
        named = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self.weight_in, self.weight, self.bias_in, self.bias = (
            getattr(layer, name).detach().numpy().T for name in named
        )
        self.remember = self._lstm if network.cell == "lstm" else self._gru

    def features(self, obs: Mapping[str, Any]) -> Array:
        return self.remember(super().features(obs))

    def _lstm(self, x: Array) -> Array:
        hidden, cell = np.split(self.memory, 2, -1)
        gates = x @ self.weight_in + self.bias_in + (hidden @ self.weight + self.bias)
        enter, forget, new, leave = np.split(gates, 4, -1)
        cell[:] = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(new)
        hidden[:] = _sigmoid(leave) * np.tanh(cell)
        return hidden

    def _gru(self, x: Array) -> Array:
        hidden = self.memory
        reset_in, keep_in, new_in = np.split(x @ self.weight_in + self.bias_in, 3, -1)
        reset, keep, new = np.split(hidden @ self.weight + self.bias, 3, -1)
        new = np.tanh(new_in + _sigmoid(reset_in + reset) * new)
        hidden[:] = new + _sigmoid(keep_in + keep) * (hidden - new)
        return hidden


def _sigmoid(x: Array) -> Array:
    """The sigmoid by way of tanh, which does not overflow."""
    share: Array = 0.5 * np.tanh(0.5 * x) + 0.5
    return share


class RecurrentPolicy(Policy):
    """A policy that carries a memory for each environment; `start` and `ended` mark the beginnings of episodes."""

    network: RecurrentActorCritic
    numpy_actor: NumpyRecurrentActor | None

    def __init__(
        self, network: RecurrentActorCritic, distribution: Distribution, action_space: gym.Space[object]
    ) -> None:
        self.memory = torch.zeros(0, network.width)
        super().__init__(network, distribution, action_space)

    def refresh(self) -> None:
        in_numpy = self.device.type == "cpu" and not self.network.encoder.images
        self.numpy_actor = NumpyRecurrentActor(self.network) if in_numpy else None
        self.start(len(self.memory))

    def start(self, envs: int) -> None:
        """Clear the memory: the next observations `[envs, ...]` are the first of their episodes."""
        self.memory = torch.zeros(envs, self.network.width, device=self.device)
        if self.numpy_actor is not None:
            self.numpy_actor.memory = self.memory.numpy()

    def ended(self, rows: Sequence[int]) -> None:
        self.memory[list(rows)] = 0.0

    def remember(self, memory: Tensor) -> None:
        """Continue with the actor's part of `memory [envs, 2, width]`."""
        if len(memory) != len(self.memory):
            self.start(len(memory))
        self.memory.copy_(memory[:, 0])

    def compute(self, obs: Observations) -> Tensor:
        outputs, memory = self.network.act(self.tensors(obs), self.memory)
        self.memory.copy_(memory)
        return outputs

    def choose(self, obs: Observations, mask: Array | None, sampler: Sampler | None) -> Array:
        """As `Policy.act`; another number of rows than before starts new episodes."""
        envs = len(next(iter(obs.values())))
        if envs != len(self.memory):
            self.start(envs)
        return super().choose(obs, mask, sampler)
