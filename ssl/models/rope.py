"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(
    positions: int, head_dim: int, theta: float, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines, each `[positions, head_dim]`, for `rotate`."""
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim / 2) of `x` [batch, time, heads, head_dim] by its position's angle.

    The sign is part of the table, so that swapping the halves is one call.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
