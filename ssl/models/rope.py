"""Rotary positions (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Llama and its descendants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rope_tables(
    positions: int, head_dim: int, theta: float, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines, each `[positions, head_dim]`, for `rotate`."""
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)


def turn(
    qkv: Tensor,
    heads: int,
    tables: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Queries, keys and values `[batch, time, heads + 2 groups, size]`, queries and keys turned by their positions,
    normalised (RMSNorm) with `weights` `[size]` each before, where there are such; values as they are.

    `tables`: the rows of `rope_tables` for these tokens, `[time, 1, size]`, or `[batch, time, 1, size]`.
    """
    cos, sin = tables
    groups = (qkv.shape[2] - heads) // 2
    both, value = qkv.split([heads + groups, groups], dim=2)
    if weights is not None:  # one norm over all heads of queries and keys, then each one's own weight
        weight = torch.cat([weights[0].expand(heads, -1), weights[1].expand(groups, -1)])
        both = F.rms_norm(both, both.shape[-1:], None, eps) * weight
    return torch.cat([rotate(both, cos, sin).to(value.dtype), value], dim=2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of `x` [batch, time, heads, head_dim] by its position's angle.

    The sign lies in the table, so that swapping the halves is one call.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
