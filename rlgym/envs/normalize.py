"""Scales rewards by running statistics. (Observations are normalised inside the network.)"""

from __future__ import annotations

import numpy as np

from rlgym.envs.spaces import Array
from rlgym.learner import Section

CLIP = 10.0
EPSILON = 1e-8


class RunningMoments:
    """Running mean and variance over batches (Chan, Golub and LeVeque 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape)
        self.var = np.ones(shape)
        self.count = 0

    def update(self, batch: Array) -> None:
        """Update from batch [rows, *shape]."""
        if len(batch) == 0:
            return
        batch = np.asarray(batch, float)
        mean, var, count = batch.mean(axis=0), batch.var(axis=0), len(batch)
        total = self.count + count
        delta = mean - self.mean
        squares = self.var * self.count + var * count + delta * delta * (self.count * count / total)
        self.mean += delta * (count / total)
        self.var = squares / total
        self.count = total


class RewardScaler:
    """Divides rewards by the running deviation of the discounted return, and clips to +-10; the mean is kept. An
    environment's return restarts when its episode ends, terminated or truncated.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.moments = RunningMoments(())
        self.returns = np.zeros(num_envs)

    def __call__(self, reward: Array, ended: Array, valid: Array | None = None) -> Array:
        """Update the statistics and return scaled rewards [envs] float32; reward, ended, valid: [envs]."""
        self.returns = self.returns * self.gamma + reward
        if valid is None:
            self.moments.update(self.returns)
        else:
            self.returns[~valid] = 0.0
            self.moments.update(self.returns[valid])
        self.returns[ended] = 0.0
        scaled = reward / np.sqrt(self.moments.var + EPSILON)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def state_dict(self) -> Section:
        import torch

        return {
            "mean": torch.tensor(float(self.moments.mean), dtype=torch.float64),
            "var": torch.tensor(float(self.moments.var), dtype=torch.float64),
            "count": torch.tensor(self.moments.count),
            "returns": torch.from_numpy(self.returns.copy()),
        }

    def load_state_dict(self, section: Section) -> None:
        self.moments.mean = np.array(section["mean"].item())
        self.moments.var = np.array(section["var"].item())
        self.moments.count = int(section["count"])
        self.returns = section["returns"].cpu().numpy().copy()
