"""One rollout of parallel environments, preallocated on the training device and written in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.common.storage import numpy_dtype, storage_dtype

if TYPE_CHECKING:
    from rlgym.agents.common.distributions import Distribution
    from rlgym.agents.common.policy import Policy, Sampler
    from rlgym.envs.batch import BatchEnv, Episode
    from rlgym.envs.normalize import RewardScaler
    from rlgym.envs.spaces import Array, Obs

Batch = dict[str, Any]
"""Minibatch or whole rollout, flattened: obs (leaf -> [batch, *leaf]), action, old_log_prob (or None), old_value,
advantage, target, each [batch, ...], and mask [batch, n] or None. A recurrent agent's minibatch has its rows in packed
order, and `sequence`: what `RecurrentActorCritic.forward` takes in addition to obs."""

ROWS_AT_ONCE = 8_192  # rows of one forward pass without gradients: bounds memory, also for images


class Rollout:
    """The data of one update. `time` is `n_steps`; every episode end is marked.

    obs          leaf -> [time + 1, envs, *leaf]; row `time` is where the next rollout begins
    action       [time, envs, *action], as drawn (a Gaussian's unclipped)
    reward, terminated, done   [time, envs] float32; done = terminated or truncated
    mask         [time + 1, envs, n] bool, legal actions; None when the environment gives no mask
    valid        [time, envs] bool; False for the phantom rows of next-step autoreset; None when there are none
    cuts         (t, envs [k], final observations of those truncated there, leaf -> [k, *leaf])
    """

    def __init__(self, time: int, env: BatchEnv, distribution: Distribution, device: torch.device) -> None:
        envs = env.num_envs
        self.time, self.device = time, device

        def storage(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.obs = {
            leaf.name: storage(time + 1, envs, *leaf.shape, dtype=storage_dtype(leaf.dtype)) for leaf in env.leaves
        }
        self.action = storage(time, envs, *distribution.action_shape, dtype=distribution.action_dtype)
        self.reward, self.terminated, self.done = (storage(time, envs) for _ in range(3))
        self.valid = storage(time, envs, dtype=torch.bool) if env.phantoms else None
        self.mask: Tensor | None = None
        self.cuts: list[tuple[int, Array, Obs]] = []
        # What environments return arrives in host memory. On a CPU these are views of the tensors above; elsewhere the
        # observations cross once, when they are acted on, and the rest in one go at the end of the rollout.
        self.host: dict[str, Array] = {}
        for name in ("action", "reward", "terminated", "done", "valid"):
            self._mirror(name)
        self.rows_of = {name: t.numpy() if device.type == "cpu" else t for name, t in self.obs.items()}

    def _mirror(self, name: str) -> None:
        tensor: Tensor | None = getattr(self, name)
        if tensor is not None:
            self.host[name] = (
                tensor.numpy() if self.device.type == "cpu" else np.zeros(tensor.shape, numpy_dtype(tensor))
            )

    def _put(self, row: int, obs: Obs) -> None:
        for name, rows in self.rows_of.items():
            if isinstance(rows, Tensor):
                rows[row].copy_(torch.from_numpy(np.ascontiguousarray(obs[name])))
            else:
                rows[row] = obs[name]

    def start(self, obs: Obs, mask: Array | None) -> None:
        """Set row 0 to the current observations."""
        self._put(0, obs)
        if mask is not None:
            if self.mask is None:
                self.mask = torch.zeros((self.time + 1, *mask.shape), dtype=torch.bool, device=self.device)
                self._mirror("mask")
            self.host["mask"][0] = mask

    def collect(self, env: BatchEnv, policy: Policy, sampler: Sampler, scaler: RewardScaler | None) -> list[Episode]:
        """Fill the rollout by acting; returns the episodes that ended. Row 0 must have been started.

        Afterwards row `time` holds the current observations; `carry_over` makes it the next row 0.
        """
        host, episodes = self.host, []
        self.cuts = []
        masks = host.get("mask")
        for t in range(self.time):
            obs = {name: rows[t] for name, rows in self.rows_of.items()}
            action = policy.choose(obs, None if masks is None else masks[t], sampler)
            host["action"][t] = action
            step = env.step(policy.to_env(action))
            done = step.terminated | step.truncated
            host["reward"][t] = step.reward if scaler is None else scaler(step.reward, done, step.valid)
            host["terminated"][t] = step.terminated
            host["done"][t] = done
            if step.final_obs is not None:
                # Terminated states have value 0; only truncated ones need their final observation.
                cut = np.flatnonzero(step.truncated & ~step.terminated)
                if cut.size:
                    self.cuts.append((t, cut, {name: value[cut] for name, value in step.final_obs.items()}))
            self._put(t + 1, step.obs)
            if masks is not None:
                masks[t + 1] = step.action_mask
            if self.valid is not None:
                host["valid"][t] = True if step.valid is None else step.valid
            if step.episodes:
                episodes += step.episodes
                policy.ended([episode.env for episode in step.episodes])
            if step.valid is not None:
                policy.ended(np.flatnonzero(~step.valid).tolist())  # a phantom row repeats the end of the last episode
        if self.device.type != "cpu":
            for name, array in host.items():
                getattr(self, name).copy_(torch.from_numpy(array))
        return episodes

    def carry_over(self) -> None:
        """Make the last row the first of the next rollout."""
        for rows in self.rows_of.values():
            rows[0] = rows[-1]
        if self.mask is not None:
            self.host["mask"][0] = self.host["mask"][-1]

    def flat_obs(self) -> dict[str, Tensor]:
        """leaf -> [time * envs, *leaf], the observations acted on."""
        return {name: tensor[:-1].flatten(0, 1) for name, tensor in self.obs.items()}

    def flat_mask(self) -> Tensor | None:
        return None if self.mask is None else self.mask[:-1].flatten(0, 1)

    @property
    def rows(self) -> int:
        """Number of real transitions."""
        if self.valid is None:
            return self.reward.numel()
        return int(self.host["valid"].sum())


def take(batch: Batch, which: Tensor | slice) -> Batch:
    """The rows `which` of every tensor in the batch."""
    return {
        name: None if x is None else {leaf: y[which] for leaf, y in x.items()} if isinstance(x, dict) else x[which]
        for name, x in batch.items()
    }
