"""Attention as all models here compute it: which tokens see which, the kernel, and the cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.ssl.models import fused


@dataclass
class Pattern:
    """Which tokens see which and where they stand, made once a forward pass and shared by its layers."""

    causal: bool
    """Each token sees itself and those before it; read where there is no mask."""
    mask: Tensor | None = None
    """Bool `[batch, 1, time, keys]`, True where a query sees a key."""
    positions: Tensor | None = None
    """`[batch, time]`, a token's place in its document or in its row of a cache; None: 0, 1, 2, ..."""
    ends: Tensor | None = None
    """Without a cache, the mask said otherwise: the first key that a query sees and the one behind its last, int64
    `[batch or 1, time, 2]`. None: nothing but `causal` limits it."""
    kernels: bool = False
    """Whether layers are computed by compiled code (`machine_layer`), which reads `sees`."""

    def sees(self, time: int) -> Tensor:
        """`ends`, made where there is nothing but `causal`."""
        if self.ends is None:
            at = torch.arange(time)
            last = at if self.causal else torch.full_like(at, time - 1)
            self.ends = torch.stack([torch.zeros_like(at), last + 1], -1)[None]
        return self.ends


class Cache:
    """Keys and values of the tokens seen so far, each row with a length of its own.

    Rows may begin with prompts of unequal length, padded at the right: `set_lengths` says how much of each is real, and
    what lies beyond is neither seen nor kept.
    """

    def __init__(self, layers: int, batch: int, heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        """Empty, `[layers, batch, heads, capacity, head_dim]`; device and type of `like`, under autocast its type."""
        device = like.device
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else like.dtype
        self.keys = torch.zeros(layers, batch, heads, capacity, head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.longest = 0
        """The longest row, known without asking the device."""

    def set_lengths(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths, device=self.keys.device)
        self.longest = max(lengths)

    def put(self, rows: Tensor, other: Cache) -> None:
        """Replace `rows` [n] by those of another cache of the same capacity; whoever does it sets the lengths."""
        self.keys[:, rows] = other.keys
        self.values[:, rows] = other.values

    def keep(self, rows: Tensor) -> None:
        """Leave only `rows` [n]; whoever does it sets the lengths."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def extend(self, layer: int, key: Tensor, value: Tensor, shape: Pattern) -> tuple[Tensor, Tensor]:
        """Add `[batch, heads, time, head_dim]` to a layer; what the queries of these tokens look at."""
        time = key.shape[2]
        if shape.positions is None:  # the beginning: nothing else to look at
            self.keys[layer, :, :, :time] = key
            self.values[layer, :, :, :time] = value
            return key, value
        index = shape.positions[:, None, :, None].expand_as(key)
        keys, values = (kept[layer, :, :, : self.longest + time] for kept in (self.keys, self.values))
        keys.scatter_(2, index, key.to(keys.dtype))
        values.scatter_(2, index, value.to(values.dtype))
        return keys.to(key.dtype), values.to(value.dtype)

    def advance(self, time: int) -> None:
        """`time` tokens were added to every row, in every layer."""
        self.lengths = self.lengths + time
        self.longest += time


def pattern(tokens: Tensor, documents: Tensor | None, cache: Cache | None, causal: bool) -> Pattern:
    """For `tokens` [batch, time]: plain, inside equal ids of `documents` [batch, time], or after what a cache holds."""
    time = tokens.shape[1]
    at = torch.arange(time, device=tokens.device)
    if cache is not None:
        assert documents is None and causal, "a cache goes with one document a row, from left to right"
        if cache.longest == 0:
            return Pattern(causal=True)
        positions = cache.lengths[:, None] + at
        keys = torch.arange(cache.longest + time, device=tokens.device)
        return Pattern(True, keys <= positions[:, None, :, None], positions)
    if documents is None:
        return Pattern(causal)
    same = documents[:, :, None] == documents[:, None, :]
    if causal:
        same = same & (at[:, None] >= at)
    new = documents[:, 1:] != documents[:, :-1]
    first = torch.where(F.pad(new, (1, 0), value=True), at, 0).cummax(dim=1).values
    if causal:
        last = at.expand_as(first)
    else:
        last = torch.where(F.pad(new, (0, 1), value=True), at, time - 1).flip(1).cummin(dim=1).values.flip(1)
    return Pattern(causal, same[:, None], at - first, torch.stack([first, last + 1], -1))


def window(shape: Pattern, time: int, reach: int, device: torch.device) -> Pattern:
    """The same, but no token sees another more than `reach` tokens away."""
    if reach >= time - 1:
        return shape
    at = torch.arange(time, device=device)
    near = ((at[:, None] - at).abs() <= reach)[None, None]
    first, behind = shape.sees(time).to(device).unbind(-1)
    ends = torch.stack([first.maximum(at - reach), behind.minimum(at + reach + 1)], -1)
    mask = near if shape.mask is None else shape.mask & near
    return Pattern(shape.causal, mask, shape.positions, ends, shape.kernels)


def attend(query: Tensor, key: Tensor, value: Tensor, shape: Pattern, dropout: float = 0.0) -> Tensor:
    """`[batch, heads, time, head_dim]` each, key and value perhaps of fewer heads -> `[batch, time, heads x head_dim]`.

    Without a mask, torch's kernel skips what a causal token cannot see.
    """
    if dropout == 0.0 and fused.short(query, key):
        return fused.attention(query, key, value, shape.mask, shape.causal)
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        shape.mask,
        dropout,
        is_causal=shape.causal and shape.mask is None,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed.transpose(1, 2).flatten(2)
