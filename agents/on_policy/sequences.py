"""A recurrent agent's rollout as packed sequences, cut at episode starts, with the memory at the start of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.common.distributions import mask_logits
from rlgym.agents.on_policy.rollout import ROWS_AT_ONCE, Batch, take

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Policy
    from rlgym.agents.on_policy.recurrent import RecurrentActorCritic
    from rlgym.agents.on_policy.rollout import Rollout
    from rlgym.envs.spaces import Array


@dataclass(frozen=True)
class Pieces:
    """Pieces of episodes in a rollout: environment, first step and length of each, `[pieces]`."""

    env: Array
    start: Array
    length: Array

    @property
    def last(self) -> Array:
        """Last step of each piece."""
        found: Array = self.start + self.length - 1
        return found

    def of(self, envs: Sequence[int]) -> Pieces:
        """The pieces of some environments, sorted by length, longest first, as packed sequences require."""
        chosen = np.flatnonzero(np.isin(self.env, envs))
        chosen = chosen[np.argsort(-self.length[chosen], kind="stable")]
        return Pieces(self.env[chosen], self.start[chosen], self.length[chosen])

    def packed(self, envs: int) -> tuple[Array, Array]:
        """Rows (step * envs + environment) `[n]` of the flattened rollout in packed order, and `sizes [longest]`: the
        number of pieces with a first, a second, ... step."""
        step = np.arange(self.length[0])[:, None]
        going = step < self.length
        rows = (self.start + step) * envs + self.env
        return rows[going], going.sum(1)


def cut(done: Array, valid: Array | None) -> Pieces:
    """All pieces of a rollout. `done [time, envs]`; `valid [time, envs]` is False in phantom rows, which are in no
    piece; None: all are real."""
    time, envs = done.shape
    ended = done > 0 if valid is None else (done > 0) | ~valid
    begins = np.ones((envs, time), bool)
    begins[:, 1:] = ended[:-1].T
    first = np.flatnonzero(begins)  # environment by environment
    env, start = np.divmod(first, time)
    length = np.diff(first, append=envs * time)
    real = np.ones(len(first), bool) if valid is None else valid[start, env]
    return Pieces(env[real], start[real], length[real])


class Sequences:
    """`memory [envs, 2, width]`: at the start of the current rollout; after `evaluate_rollout`, of the next one."""

    def __init__(self, network: RecurrentActorCritic, rollout: Rollout, policy: Policy) -> None:
        self.network, self.rollout, self.policy = network, rollout, policy
        self.time, self.envs = rollout.reward.shape
        self.device = rollout.device
        self.memory = torch.zeros(self.envs, 2, network.width, device=self.device)
        self._began = self.memory
        self._pieces = cut(np.zeros((self.time, self.envs)), None)
        self._place = np.arange(self.time * self.envs)
        """Index of each row of the rollout among the real ones."""

    def _beginnings(self, pieces: Pieces) -> Tensor:
        """Initial memories `[pieces, 2, width]`: the carried memory at the rollout's start, zeros at an episode's
        start."""
        return self._began[self._tensor(pieces.env)] * self._tensor(pieces.start == 0)[:, None, None]

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def evaluate_rollout(
        self, obs: dict[str, Tensor], mask: Tensor | None, action: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """As `OnPolicy.evaluate_rollout`; each final observation is evaluated with the memory of its own episode."""
        rollout, network, time, envs = self.rollout, self.network, self.time, self.envs
        done, valid = rollout.host["done"], rollout.host.get("valid")
        self._began = self.memory
        self._pieces = cut(done, valid)
        self._place = np.arange(time * envs) if valid is None else valid.ravel().cumsum() - 1
        pieces = self._pieces.of(range(envs))
        order, sizes = pieces.packed(envs)
        rows = self._tensor(order)
        features = torch.cat(
            [network.encoder({name: x[part] for name, x in obs.items()}) for part in rows.split(ROWS_AT_ONCE)]
        )
        outputs, packed_value, ends = network.run(features, torch.from_numpy(sizes), self._beginnings(pieces))
        logits = mask_logits(outputs, None if mask is None else mask[rows])
        log_prob, value = (torch.zeros(time * envs, device=self.device) for _ in range(2))
        log_prob[rows], _ = self.policy.distribution.log_prob_entropy(logits, action[rows])
        value[rows] = packed_value
        value = value.view(time, envs)

        last, env = self._tensor(pieces.last), self._tensor(pieces.env)
        following = {name: x[last + 1, env] for name, x in rollout.obs.items()}
        piece = np.zeros((time, envs), np.int64)
        piece[pieces.last, pieces.env] = np.arange(len(pieces.env))
        for t, cut_off, final_obs in rollout.cuts:
            for name, x in self.policy.tensors(final_obs).items():
                following[name][self._tensor(piece[t, cut_off])] = x.to(following[name].dtype)
        next_value = torch.zeros_like(value)
        next_value[:-1] = value[1:]
        next_value[last, env] = network.value_after(following, ends)

        going = self._tensor((pieces.last == time - 1) & (done[pieces.last, pieces.env] == 0))
        self.memory = torch.zeros_like(self._began)
        self.memory[env[going]] = ends[going]
        return log_prob, value, next_value

    def of(self, batch: Batch, envs: Sequence[int]) -> Batch:
        """A minibatch of whole sequences of some environments, taken from the `batch` of all real rows."""
        pieces = self._pieces.of(envs)
        order, sizes = pieces.packed(self.envs)
        part = take(batch, self._tensor(self._place[order]))
        part["sequence"] = (torch.from_numpy(sizes), self._beginnings(pieces))
        return part
