"""Running mean and variance of observations, as part of the network: saved with it, and frozen unless updated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP = 10.0


class RunningNorm(nn.Module):
    """`(x - mean) / deviation`, clipped to +-10, with the statistics of all batches passed to `update`.

    The statistics change only between rollouts, never within one: every row of a rollout, the final observations of
    episodes included, is scaled alike, and the first minibatch's probability ratio is 1.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[batch, *shape]`."""
        return ((x.float() - self.mean) * (self.variance + 1e-8).rsqrt()).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Merge the moments of `batch [n, *shape]` (Chan et al. 1979, the pairwise update of mean and variance)."""
        batch = batch.float()
        n = len(batch)
        total = self.count + n
        weight = n / total
        delta = batch.mean(0) - self.mean
        merged = torch.lerp(self.variance, batch.var(0, correction=0), weight) + delta.square() * weight * (1 - weight)
        self.mean.add_(delta * weight)
        self.variance.copy_(merged)
        self.count.copy_(total)
