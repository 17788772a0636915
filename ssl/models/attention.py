"""Attention for all models: masks, the kernel, and the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.ssl.models import fused


@dataclass
class Pattern:
    """Attention mask and positions, built once per forward pass and shared by all layers."""

    causal: bool
    """Causal attention; used if there is no mask."""
    mask: Tensor | None = None
    """Bool `[batch, 1, time, keys]`, True where a query attends to a key."""
    positions: Tensor | None = None
    """Positions `[batch, time]` in the document or in the cache's row; None: 0, 1, 2, ..."""
    ends: Tensor | None = None
    """Without a cache, the mask as ranges: first and last (exclusive) key of each query, int64 `[batch or 1, time, 2]`.
    None: only `causal` applies."""
    kernels: bool = False
    """Whether layers run the compiled CPU kernels (`machine_layer`), which read `sees`."""

    def sees(self, time: int) -> Tensor:
        """Return `ends`, computed if only `causal` applies."""
        if self.ends is None:
            at = torch.arange(time)
            last = at if self.causal else torch.full_like(at, time - 1)
            self.ends = torch.stack([torch.zeros_like(at), last + 1], -1)[None]
        return self.ends


class Cache:
    """Keys and values of previous tokens, with a separate length for each row. Rows may start with right-padded prompts
    of different lengths: `set_lengths` sets their real lengths, and padding is ignored and overwritten.
    """

    def __init__(self, layers: int, batch: int, heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        """An empty cache, `[layers, batch, heads, capacity, head_dim]`; device and dtype of `like`, or autocast's
        dtype."""
        device = like.device
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else like.dtype
        self.keys = torch.zeros(layers, batch, heads, capacity, head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.longest = 0
        """Length of the longest row, known without synchronising."""

    def set_lengths(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths, device=self.keys.device)
        self.longest = max(lengths)

    def put(self, rows: Tensor, other: Cache) -> None:
        """Replace `rows` [n] by those of another cache of the same capacity; the caller sets the lengths."""
        self.keys[:, rows] = other.keys
        self.values[:, rows] = other.values

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows` [n]; the caller sets the lengths."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def extend(self, layer: int, key: Tensor, value: Tensor, shape: Pattern) -> tuple[Tensor, Tensor]:
        """Append `[batch, heads, time, head_dim]` to a layer; returns the keys and values to attend to."""
        time = key.shape[2]
        if shape.positions is None:  # the start: no earlier tokens
            self.keys[layer, :, :, :time] = key
            self.values[layer, :, :, :time] = value
            return key, value
        index = shape.positions[:, None, :, None].expand_as(key)
        keys, values = (kept[layer, :, :, : self.longest + time] for kept in (self.keys, self.values))
        keys.scatter_(2, index, key.to(keys.dtype))
        values.scatter_(2, index, value.to(values.dtype))
        return keys.to(key.dtype), values.to(value.dtype)

    def advance(self, time: int) -> None:
        """Advance all rows by `time` tokens, after all layers have appended them."""
        self.lengths = self.lengths + time
        self.longest += time


def pattern(tokens: Tensor, documents: Tensor | None, cache: Cache | None, causal: bool) -> Pattern:
    """The attention for `tokens` [batch, time]: plain, within equal ids of `documents` [batch, time], or after a
    cache's tokens."""
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
    """The same within a window: tokens attend at most `reach` tokens away."""
    if reach >= time - 1:
        return shape
    at = torch.arange(time, device=device)
    near = ((at[:, None] - at).abs() <= reach)[None, None]
    first, behind = shape.sees(time).to(device).unbind(-1)
    ends = torch.stack([first.maximum(at - reach), behind.minimum(at + reach + 1)], -1)
    mask = near if shape.mask is None else shape.mask & near
    return Pattern(shape.causal, mask, shape.positions, ends, shape.kernels)


def attend(query: Tensor, key: Tensor, value: Tensor, shape: Pattern, dropout: float = 0.0) -> Tensor:
    """Attention of `[batch, heads, time, head_dim]` each, key and value possibly with fewer heads -> `[batch, time,
    heads x head_dim]`. Without a mask, torch's kernel skips masked blocks of causal attention.
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
